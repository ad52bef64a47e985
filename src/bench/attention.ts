import type { KvCache } from '../cache/cache.ts';
import { createCache } from '../cache/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { allocTensor, bytesOf, rows } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import { layersOf, type ModelShape } from '../model/shapes.ts';
import { median } from './timing.ts';

export interface AttentionRow {
  readonly method: string;
  /** positions in the cache */
  readonly depth: number;
  /** bytes of the whole cache: all layers, `depth` positions */
  readonly bytes: number;
  /** one token's attention in all layers, milliseconds, median */
  readonly attendMs: number;
}

export interface AttentionOptions {
  /** turns of each method at each depth; default 9 */
  readonly rounds?: number;
  /** weights that are read before each turn; default 64 MiB, more than processors cache */
  readonly weightBytes?: number;
  /** Called before each method's cache is filled, and before the turns: filling takes seconds for a large shape. */
  readonly onPhase?: (what: string, done: number, total: number) => void;
}

/** Layers that are really held and timed; the rest is alike. */
const heldLayers = 3;
/** Positions stored at once. */
const chunk = 512;

/**
 * Times one token's attention at several depths of context, for several methods in turn on random
 * keys and values. A few layers are held and the time is scaled to all layers. Before each turn
 * other memory is read, as the weights of a model are, so that a cache comes from memory.
 */
export async function attentionAtDepths(
  kernels: Kernels,
  shape: ModelShape,
  methods: readonly string[],
  depths: readonly number[],
  { rounds = 9, weightBytes = 64 << 20, onPhase }: AttentionOptions = {},
): Promise<AttentionRow[]> {
  const { nHeads, nKvHeads, headDim, nLayers } = shape;
  const random = new Random(1);
  const draw = (n: number, heads: number) => {
    const t = allocTensor(kernels, 'f32', [n, heads, headDim]);
    kernels.write(
      t,
      Float32Array.from({ length: n * heads * headDim }, () => random.normal()),
    );
    return t;
  };
  const [kv, manyQ, manyOut] = [nKvHeads, nHeads, nHeads].map((heads) => draw(chunk, heads));
  const [q, out] = [rows(manyQ, 0, 1), rows(manyOut, 0, 1)];
  const others = weightsToRead(kernels, weightBytes);

  const fill = (cache: KvCache, depth: number) => {
    while (cache.length < depth) {
      const n = Math.min(chunk, depth - cache.length);
      cache.begin(n);
      for (let l = 0; l < heldLayers; l++) {
        cache.append(l, rows(kv, 0, n), rows(kv, 0, n));
        // Some methods learn from what they are asked first.
        if (cache.length === 0) cache.attend(l, rows(manyQ, 0, n), rows(manyOut, 0, n));
      }
      cache.commit();
    }
  };
  const step = async (cache: KvCache) => {
    cache.begin(1);
    const began = performance.now();
    for (let l = 0; l < heldLayers; l++) {
      cache.append(l, rows(kv, 0, 1), rows(kv, 0, 1));
      cache.attend(l, q, out);
    }
    await kernels.read(out);
    const elapsedMs = performance.now() - began;
    cache.rollback();
    return elapsedMs;
  };

  const ascending = [...depths].sort((a, b) => a - b);
  const held: { method: string; depth: number; cache: KvCache; times: number[] }[] = [];
  for (const [i, method] of methods.entries()) {
    onPhase?.(method, i, methods.length + 1);
    const cache = await createCache(method, layersOf({ ...shape, nLayers: heldLayers }), kernels);
    for (const depth of ascending) {
      fill(cache, depth - 1);
      // Forks share what is stored, so that all depths are held at once and take turns too.
      held.push({ method, depth, cache: cache.fork(), times: [] });
    }
    cache.dispose();
  }
  onPhase?.('turns', methods.length, methods.length + 1);
  for (let round = 0; round < rounds; round++) {
    for (const { cache, times } of held) {
      await others.read();
      times.push(await step(cache));
    }
  }
  const results = held.map(({ method, depth, cache, times }) => ({
    ...{ method, depth },
    bytes: (cache.bytes().total / heldLayers) * nLayers,
    attendMs: (median(times) / heldLayers) * nLayers,
  }));
  for (const { cache } of held) cache.dispose();
  for (const { buffer } of [kv, manyQ, manyOut]) kernels.free(buffer);
  others.free();
  return results;
}

/** Memory that is no cache, read by a product with one position as weights are. */
function weightsToRead(kernels: Kernels, sizeBytes: number) {
  const columns = 2048;
  const nRows = Math.max(1, Math.floor(sizeBytes / tensorSizeBytes('q8_0', [1, columns])));
  const weight = allocTensor(kernels, 'q8_0', [nRows, columns]);
  const x = allocTensor(kernels, 'f32', [1, columns]);
  const out = allocTensor(kernels, 'f32', [1, nRows]);
  // Written once: the system backs pages that nobody wrote with one page of zeros.
  kernels.write(bytesOf(weight), new Uint8Array(weight.buffer.sizeBytes).fill(1));
  return {
    async read() {
      kernels.linear(x, [{ weight, out }]);
      await kernels.read(out);
    },
    free() {
      for (const { buffer } of [weight, x, out]) kernels.free(buffer);
    },
  };
}
