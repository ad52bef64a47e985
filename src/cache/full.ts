import { finetunedOf } from './adapter.ts';
import type { CacheMethod } from './method.ts';
import { allocConstants, perHead } from './constants.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { expectSettings } from './spec.ts';
import { updateConstants, updatesByLayer } from './value-updates.ts';

/**
 * The uncompressed caches `f32` and `f16`: what every other method is measured against.
 *
 * `tuned` names what finetuning left in the adapter. Of it these take the value projection alone: beside
 * `h1b:tuned=name` they show how much of its result is a changed model.
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels, adapter) => {
  expectSettings(spec, ['tuned']);
  const tuned = finetunedOf(spec, shapes, adapter);
  const dtype = spec.name === 'f32' ? 'f32' : 'f16';
  const constants = allocConstants(kernels, [
    ...shapes.map(({ nHeads, scale }) => perHead(Array<number>(nHeads).fill(scale))),
    ...updateConstants(tuned),
  ]);
  const scales = constants.slice(0, shapes.length);
  const matrices = constants.slice(shapes.length);
  const method: PagedMethod = {
    spec: tuned ? `${dtype}:tuned=${tuned.name}` : dtype,
    ...(matrices.length > 0 && { valueUpdates: updatesByLayer(tuned, matrices) }),
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
    codebookBytes: () => matrices.reduce((sum, t) => sum + t.buffer.sizeBytes, 0),
    scratchBytes: () => 0,
    dispose: () => constants.forEach(({ buffer }) => kernels.free(buffer)),
  };
  return new PagedCache(kernels, shapes, method);
};
