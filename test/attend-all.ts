import type { Adapter } from '../src/cache/adapter.ts';
import type { KvCache, LayerShape } from '../src/cache/cache.ts';
import { createCache } from '../src/cache/registry.ts';
import type { Kernels } from '../src/kernels/kernels.ts';
import { allocTensor } from '../src/kernels/tensor.ts';
import type { Random } from '../src/math/random.ts';

/** Keys, values and queries of some positions, row by row: [positions, heads, headDim]. */
export interface Script {
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly q: Float32Array;
}

export function normalScript(random: Random, shape: LayerShape, positions: number): Script {
  const draw = (perPosition: number) =>
    Float32Array.from({ length: positions * perPosition }, () => random.normal());
  const { nHeads, nKvHeads, headDimK, headDimV } = shape;
  return { k: draw(nKvHeads * headDimK), v: draw(nKvHeads * headDimV), q: draw(nHeads * headDimK) };
}

/**
 * Runs the positions of a script through a new cache of one layer, in steps.
 * @returns the cache, and f32 [positions, nHeads, headDimV]
 */
export async function attendAll(
  spec: string,
  kernels: Kernels,
  shape: LayerShape,
  script: Script,
  step = 64,
  adapter?: Adapter,
): Promise<{ cache: KvCache; out: Float32Array }> {
  const { nHeads, nKvHeads, headDimK, headDimV } = shape;
  const cache = await createCache(spec, [shape], kernels, adapter);
  const positions = script.k.length / (nKvHeads * headDimK);
  const all = new Float32Array(positions * nHeads * headDimV);
  for (let from = 0; from < positions; from += step) {
    const n = Math.min(step, positions - from);
    const load = (rows: Float32Array, heads: number, d: number) => {
      const t = allocTensor(kernels, 'f32', [n, heads, d]);
      kernels.write(t, rows.slice(from * heads * d, (from + n) * heads * d));
      return t;
    };
    const k = load(script.k, nKvHeads, headDimK);
    const v = load(script.v, nKvHeads, headDimV);
    const q = load(script.q, nHeads, headDimK);
    const out = allocTensor(kernels, 'f32', [n, nHeads, headDimV]);
    cache.begin(n);
    cache.append(0, k, v);
    cache.attend(0, q, out);
    cache.commit();
    all.set((await kernels.read(out)) as Float32Array, from * nHeads * headDimV);
    for (const { buffer } of [k, v, q, out]) kernels.free(buffer);
  }
  return { cache, out: all };
}

/** Largest difference of two arrays of one length. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
}
