import type { LayerShape } from '../cache/cache.ts';
import { createCache } from '../cache/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';

/** The sizes of a known model. */
export interface ModelShape {
  readonly nLayers: number;
  readonly dModel: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  readonly dFeedForward: number;
  readonly vocabSize: number;
}

export const namedShapes = {
  'smollm2-135m': {
    nLayers: 30,
    dModel: 576,
    nHeads: 9,
    nKvHeads: 3,
    headDim: 64,
    dFeedForward: 1536,
    vocabSize: 49152,
  },
  'llama-3.2-1b': {
    nLayers: 16,
    dModel: 2048,
    nHeads: 32,
    nKvHeads: 8,
    headDim: 64,
    dFeedForward: 8192,
    vocabSize: 128256,
  },
} as const satisfies Record<string, ModelShape>;

export interface AttentionRow {
  readonly method: string;
  /** bytes of the whole cache: all layers, `depth` positions */
  readonly bytes: number;
  /** one token's attention in all layers, milliseconds, median */
  readonly attendMs: number;
}

/** Layers that are really held and timed in turn; the rest is alike. Several, so that caches miss. */
const heldLayers = 3;

/**
 * Times one token's attention at a depth of context, for several methods in turn on random keys
 * and values. A few layers are held, one after the other, and the time is scaled to all layers.
 */
export async function attentionAtDepth(
  kernels: Kernels,
  shape: ModelShape,
  methods: readonly string[],
  depth: number,
  rounds = 9,
): Promise<AttentionRow[]> {
  const { nHeads, nKvHeads, headDim, nLayers } = shape;
  const layer: LayerShape = {
    nHeads,
    nKvHeads,
    headDimK: headDim,
    headDimV: headDim,
    scale: 1 / Math.sqrt(headDim),
  };
  const chunk = 512;
  const random = new Random(1);
  const kv = allocTensor(kernels, 'f32', [chunk, nKvHeads, headDim]);
  const q = allocTensor(kernels, 'f32', [1, nHeads, headDim]);
  const out = allocTensor(kernels, 'f32', [1, nHeads, headDim]);
  const fill = (length: number) => Float32Array.from({ length }, () => random.normal());
  kernels.write(kv, fill(chunk * nKvHeads * headDim));
  kernels.write(q, fill(nHeads * headDim));

  const caches = [];
  for (const method of methods) {
    const layers = Array.from({ length: heldLayers }, () => layer);
    const cache = await createCache(method, layers, kernels);
    for (let done = 0; done < depth - 1; done += chunk) {
      const n = Math.min(chunk, depth - 1 - done);
      cache.begin(n);
      for (let l = 0; l < heldLayers; l++) cache.append(l, rows(kv, 0, n), rows(kv, 0, n));
      cache.commit();
    }
    caches.push({ method, cache, times: [] as number[] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const { cache, times } of caches) {
      cache.begin(1);
      const began = performance.now();
      for (let l = 0; l < heldLayers; l++) {
        cache.append(l, rows(kv, 0, 1), rows(kv, 0, 1));
        cache.attend(l, q, out);
      }
      await kernels.read(out);
      times.push(performance.now() - began);
      cache.rollback();
    }
  }
  const results = caches.map(({ method, cache, times }) => ({
    method,
    bytes: (cache.bytes().total / heldLayers) * nLayers,
    attendMs: (median(times) / heldLayers) * nLayers,
  }));
  for (const { cache } of caches) cache.dispose();
  for (const { buffer } of [kv, q, out]) kernels.free(buffer);
  return results;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
