import type { CacheMethod } from './method.ts';
import { allocConstants, perHead } from './constants.ts';
import { create as createPca } from './loki-pca.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { gaussianProjection } from './sketch.ts';
import { chooseTemperatures, QueryScratch } from './sketched.ts';
import { choiceSetting, expectSettings, wholeSetting } from './spec.ts';

/**
 * Two methods go by the name of Loki.
 *
 * `loki` is what the H1B-KV paper (arXiv 2510.05529) compares itself with under it: keys as 1-bit
 * sketches, as in `h1b`, beside exact f16 values. Settings `b`, `seed` and `t` as in `h1b`; an
 * adapter's temperatures for h1b serve, since the scores are the same.
 *
 * `loki:pca` is the method of Loki's own paper (`loki-pca.ts`).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels, adapter) => {
  const keys = choiceSetting(spec, 'keys', 'sketch', ['sketch', 'pca']);
  if (keys === 'pca') return createPca(spec, shapes, kernels);
  expectSettings(spec, ['keys', 'b', 'seed', 't']);
  const bits = wholeSetting(spec, 'b', 256, { min: 32, max: 1024, step: 32 });
  const seed = wholeSetting(spec, 'seed', 0, { min: 0, max: 65535 });
  const { label, temperatures, byNorm } = chooseTemperatures(spec, bits, shapes, adapter);

  const constants = allocConstants(kernels, [
    ...shapes.map(({ nKvHeads, headDimK }, layer) => ({
      dtype: 'i8' as const,
      shape: [nKvHeads, bits, headDimK],
      data: () => gaussianProjection(seed, layer, nKvHeads, bits, headDimK),
    })),
    ...temperatures.map((heads) => perHead(heads.map((t) => 1 / (bits * t)))),
  ]);
  const projections = constants.slice(0, shapes.length);
  const scales = constants.slice(shapes.length);
  const mostHeads = Math.max(...shapes.map(({ nHeads }) => nHeads));
  const querySketches = new QueryScratch(kernels, bits / 32, mostHeads, byNorm);

  const method: PagedMethod = {
    spec: `loki:sketch,b=${bits},seed=${seed},t=${label}`,
    layout: ({ nKvHeads, headDimV }) => ({
      keys: { dtype: 'u32', shape: [nKvHeads, pageLength, bits / 32] },
      values: { dtype: 'f16', shape: [nKvHeads, pageLength, headDimV] },
    }),
    reserveScratch: (n) => querySketches.reserve(n),
    store: (layer, page, slot, k, v) => {
      kernels.storeSketch(k, projections[layer], page.keys, slot);
      kernels.storeRows(v, page.values, slot);
    },
    read: (layer, q) => {
      const query = querySketches.sketch(q, projections[layer]);
      return { keyForm: 'sketch', valueForm: 'f16', ...query, scale: scales[layer] };
    },
    codebookBytes: () => projections.reduce((sum, r) => sum + r.buffer.sizeBytes, 0),
    scratchBytes: () => querySketches.sizeBytes,
    dispose: () => {
      for (const { buffer } of constants) kernels.free(buffer);
      querySketches.dispose();
    },
  };
  return new PagedCache(kernels, shapes, method);
};
