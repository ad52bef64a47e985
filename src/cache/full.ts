import type { CacheMethod } from './method.ts';
import { allocConstants, perHead } from './constants.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { expectSettings } from './spec.ts';

/** The uncompressed caches `f32` and `f16`: what every other method is measured against. */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, []);
  const dtype = spec.name === 'f32' ? 'f32' : 'f16';
  const scales = allocConstants(
    kernels,
    shapes.map(({ nHeads, scale }) => perHead(Array<number>(nHeads).fill(scale))),
  );
  const method: PagedMethod = {
    spec: dtype,
    layout: ({ nKvHeads, headDimK, headDimV }) => ({
      keys: { dtype, shape: [nKvHeads, pageLength, headDimK] },
      values: { dtype, shape: [nKvHeads, pageLength, headDimV] },
    }),
    reserveScratch: () => {},
    store: (_layer, page, slot, k, v) => {
      kernels.storeRows(k, page.keys, slot);
      kernels.storeRows(v, page.values, slot);
    },
    read: (layer, q) => ({ keyForm: dtype, valueForm: dtype, query: q, scale: scales[layer] }),
    codebookBytes: () => 0,
    scratchBytes: () => 0,
    dispose: () => scales.forEach(({ buffer }) => kernels.free(buffer)),
  };
  return new PagedCache(kernels, shapes, method);
};
