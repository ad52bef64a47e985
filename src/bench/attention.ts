import { createCache } from '../cache/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';
import { layersOf, type ModelShape } from '../model/shapes.ts';

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
  const layers = layersOf({ ...shape, nLayers: heldLayers });
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
