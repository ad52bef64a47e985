import { KvError } from '../errors/errors.ts';
import type { Codec } from '../kernels/kernels.ts';
import { reshape, rows } from '../kernels/tensor.ts';
import { f32ToF16 } from '../math/f16.ts';
import { expectAffine } from './affine-values.ts';
import type { CacheMethod } from './method.ts';
import { allocConstants, perHead } from './constants.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { gaussianProjection, projectionStep } from './sketch.ts';
import { expectSettings, wholeSetting } from './spec.ts';
import { TableScratch } from './table-scratch.ts';

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
  for (const shape of shapes) expectAffine(spec.name, shape);
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
      shape: [mostKvHeads, nibbles, 64],
      data: () => signs(mostKvHeads * nibbles),
    },
    {
      dtype: 'i32',
      shape: [mostKvHeads, bits],
      data: () => Int32Array.from({ length: mostKvHeads * bits }, (_, row) => row),
    },
    { dtype: 'i32', shape: [mostKvHeads], data: () => new Int32Array(mostKvHeads).fill(bits) },
  ]);
  const projections = constants.slice(0, shapes.length);
  const scales = constants.slice(shapes.length, 2 * shapes.length);
  const shared = constants.slice(2 * shapes.length);
  const codecs = shapes.map(({ nKvHeads, headDimK }, layer): Codec => {
    const project = reshape(projections[layer], [-1, headDimK]);
    const [levels, places, rowCounts] = shared.map((t) => rows(t, 0, nKvHeads));
    return {
      ...{ project, queryProject: project, places, rows: rowCounts, levels },
      rule: 'norm',
      gain: Math.sqrt(Math.PI / 2) / bits,
    };
  });
  const scratch = new TableScratch(kernels, shapes, nibbles);

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
      kernels.storeCodes(k, codecs[layer], page.keys, page.keyScales, slot);
      kernels.storeAffine(v, page.values, page.valueParams, slot);
    },
    read: (layer, q) => {
      const query = scratch.tables(q.shape[0], shapes[layer].nHeads, nibbles);
      kernels.queryTables(q, codecs[layer], query.tables, query.scales);
      return {
        keyForm: 'codes',
        valueForm: 'affine4',
        query: query.tables,
        queryScales: query.scales,
        scale: scales[layer],
      };
    },
    codebookBytes: () =>
      [...projections, ...shared].reduce((sum, t) => sum + t.buffer.sizeBytes, 0),
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
