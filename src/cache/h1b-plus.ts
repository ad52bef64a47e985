import { KvError } from '../errors/errors.ts';
import { reshape, rows } from '../kernels/tensor.ts';
import { f32ToF16 } from '../math/f16.ts';
import { expectAffine } from './affine-values.ts';
import type { CacheMethod } from './method.ts';
import { CodeScratch } from './code-scratch.ts';
import { allocConstants, perHead } from './constants.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { gaussianProjection, projectionStep } from './sketch.ts';
import { expectSettings, wholeSetting } from './spec.ts';

/**
 * `h1b` with what one temperature cannot give back: a key keeps its norm, in f16, and the query stays
 * a vector instead of becoming bits. With s the signs of R k, the score is
 * |k| sqrt(pi / 2) / b <R q, s>, whose expectation over R is <q, k>: no temperature is left to tune.
 * Scored by look-up tables of the query, four signs at a time; values as in `h1b`.
 *
 * Settings: `b` bits per key (32 to 1024, default 256), `seed` of R (default 0).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, ['b', 'seed']);
  const bits = wholeSetting(spec, 'b', 256, { min: 32, max: 1024, step: 32 });
  const seed = wholeSetting(spec, 'seed', 0, { min: 0, max: 65535 });
  for (const shape of shapes) expectAffine(spec.name, shape, 4);
  const nibbles = bits / 4;
  const mostKvHeads = Math.max(...shapes.map(({ nKvHeads }) => nKvHeads));

  const constants = allocConstants(kernels, [
    ...shapes.map(({ nKvHeads, headDimK }, layer) => ({
      dtype: 'f16' as const,
      shape: [nKvHeads, bits, headDimK],
      data: () =>
        Uint16Array.from(gaussianProjection(seed, layer, nKvHeads, bits, headDimK), (r) =>
          f32ToF16(r * projectionStep),
        ),
    })),
    ...shapes.map(({ nHeads, scale }) => perHead(Array<number>(nHeads).fill(scale))),
    {
      dtype: 'f32',
      shape: [mostKvHeads, nibbles, 16, 4],
      data: () => signs(mostKvHeads * nibbles),
    },
    { dtype: 'i32', shape: [mostKvHeads], data: () => new Int32Array(mostKvHeads).fill(bits) },
  ]);
  const projections = constants.slice(0, shapes.length);
  const scales = constants.slice(shapes.length, 2 * shapes.length);
  const [levels, rowCounts] = constants.slice(2 * shapes.length);
  const scratch = new CodeScratch(kernels, shapes, nibbles);
  const codecOf = (layer: number) => {
    const { nKvHeads, headDimK } = shapes[layer];
    const projection = reshape(projections[layer], [-1, headDimK]);
    const all = Int32Array.from({ length: nKvHeads * bits }, (_, row) => row);
    const project = scratch.expand('project', projection, all, [nKvHeads, bits, headDimK]);
    return {
      project,
      queryProject: project,
      levels: rows(levels, 0, nKvHeads),
      rows: rows(rowCounts, 0, nKvHeads),
      rule: 'norm' as const,
      gain: Math.sqrt(Math.PI / 2) / bits,
    };
  };

  const method: PagedMethod = {
    spec: `h1b+:b=${bits},seed=${seed}`,
    layout: ({ nKvHeads, headDimV }) => ({
      keys: { dtype: 'u8', shape: [nKvHeads, pageLength / 32, nibbles, 16] },
      keyScales: { dtype: 'f16', shape: [nKvHeads, pageLength] },
      values: { dtype: 'u8', shape: [nKvHeads, pageLength, headDimV / 2] },
      valueParams: { dtype: 'f16', shape: [nKvHeads, pageLength, 2] },
    }),
    reserveScratch: (n) => scratch.reserve(n),
    store: (layer, page, slot, k, v) => {
      if (!page.valueParams) throw new KvError('shape', 'h1b+: the page has no valueParams.');
      kernels.storeCodes(k, codecOf(layer), page.keys, page.keyScales, slot);
      kernels.storeAffine(v, page.values, page.valueParams, 4, slot, { clip: false });
    },
    read: (layer, q) => {
      const query = scratch.tables(q.shape[0], shapes[layer].nHeads, nibbles);
      kernels.queryTables(q, codecOf(layer), query.tables, query.scales);
      return {
        keyForm: 'codes',
        valueForm: 'affine4',
        query: query.tables,
        queryScales: query.scales,
        scale: scales[layer],
      };
    },
    codebookBytes: () =>
      [...projections, levels, rowCounts].reduce((sum, t) => sum + t.buffer.sizeBytes, 0),
    scratchBytes: () => scratch.sizeBytes,
    dispose: () => {
      for (const { buffer } of constants) kernels.free(buffer);
      scratch.dispose();
    },
  };
  return new PagedCache(kernels, shapes, method);
};

/** Levels of groups of four signs: bit j of a code is set where dimension j is not negative. */
function signs(groups: number): Float32Array {
  return Float32Array.from({ length: groups * 64 }, (_, i) => (((i >> 2) >> (i & 3)) & 1 ? 1 : -1));
}
