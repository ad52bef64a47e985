import { ensure, KvError } from '../errors/errors.ts';
import { finetunedFor } from './adapter.ts';
import { expectAffine } from './affine-values.ts';
import type { CacheMethod } from './method.ts';
import { allocConstants, perHead } from './constants.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { gaussianProjection, orthogonalProjection } from './sketch.ts';
import { chooseTemperatures, QueryScratch } from './sketched.ts';
import { choiceSetting, expectSettings, wholeSetting } from './spec.ts';
import { updateConstants, updatesByLayer } from './value-updates.ts';

/**
 * The cache of the H1B-KV paper (arXiv 2510.05529), literally.
 *
 * A key k becomes the signs of R k, b bits; a query likewise. With h the Hamming distance of two
 * sketches the score is a = 1 - 2 h / b, whose expectation is 1 - (2 / pi) angle(q, k), and the
 * attention weights are softmax(a / T). Values are 4-bit codes with an f16 minimum and step per
 * position and head. Every position is kept; nothing stays in full precision.
 *
 * Settings: `b` bits per key (32 to 1024, default 256), `seed` of R (default 0), and `t`: a
 * temperature for all heads, or `head`, `layer`, `global` for the adapter's fit of that kind
 * (default `head` where the adapter has a fit for this b, else `defaultTemperature`), or `norm`, which is
 * past the paper: softmax(r a / T), r = |q| / sqrt(d), T the adapter's for each head. `tuned` names what
 * finetuning left in the adapter: temperatures, and what else was trained. `r` is `gaussian`, the paper's
 * R, or `orthogonal`, to compare it with.
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels, adapter) => {
  expectSettings(spec, ['b', 'seed', 'r', 't', 'tuned']);
  const tuned = finetunedFor('h1b', spec, shapes, adapter, ({ bits, seed }) => [
    ['b', String(bits)],
    ['seed', String(seed)],
  ]);
  ensure(
    !tuned || !spec.settings.has('t'),
    'usage',
    () => `cache "h1b": tuned=${tuned?.name} has temperatures of its own. Leave out t.`,
  );
  const bits = wholeSetting(spec, 'b', tuned?.bits ?? 256, { min: 32, max: 1024, step: 32 });
  const seed = wholeSetting(spec, 'seed', tuned?.seed ?? 0, { min: 0, max: 65535 });
  const kind = choiceSetting(spec, 'r', 'gaussian', ['gaussian', 'orthogonal']);
  ensure(
    !tuned || kind === 'gaussian',
    'usage',
    () => `cache "h1b": tuned=${tuned?.name} was made with r=gaussian. Leave out r.`,
  );
  const draw = kind === 'gaussian' ? gaussianProjection : orthogonalProjection;
  for (const shape of shapes) expectAffine(spec.name, shape);
  const { label, temperatures, byNorm } = tuned
    ? {
        label: tuned.name,
        temperatures: tuned.layers.map((l) => [...l.temperatures]),
        byNorm: tuned.byNorm ?? false,
      }
    : chooseTemperatures(spec, bits, shapes, adapter);
  const projectionOf = (layer: number, nKvHeads: number, headDimK: number) => {
    const own = tuned?.layers[layer].projection;
    return own ? Int8Array.from(own) : draw(seed, layer, nKvHeads, bits, headDimK);
  };

  const constants = allocConstants(kernels, [
    ...shapes.map(({ nKvHeads, headDimK }, layer) => ({
      dtype: 'i8' as const,
      shape: [nKvHeads, bits, headDimK],
      data: () => projectionOf(layer, nKvHeads, headDimK),
    })),
    ...temperatures.map((heads) => perHead(heads.map((t) => 1 / (bits * t)))),
    ...updateConstants(tuned),
  ]);
  const projections = constants.slice(0, shapes.length);
  const scales = constants.slice(shapes.length, 2 * shapes.length);
  const matrices = constants.slice(2 * shapes.length);
  const querySketches = new QueryScratch(
    kernels,
    bits / 32,
    Math.max(...shapes.map((s) => s.nHeads)),
    byNorm,
  );

  const method: PagedMethod = {
    spec: `h1b:b=${bits},seed=${seed},${kind === 'orthogonal' ? 'r=orthogonal,' : ''}${tuned ? 'tuned' : 't'}=${label}`,
    ...(matrices.length > 0 && { valueUpdates: updatesByLayer(tuned, matrices) }),
    layout: ({ nKvHeads, headDimV }) => ({
      keys: { dtype: 'u32', shape: [nKvHeads, pageLength, bits / 32] },
      values: { dtype: 'u8', shape: [nKvHeads, pageLength, headDimV / 2] },
      valueParams: { dtype: 'f16', shape: [nKvHeads, pageLength, 2] },
    }),
    reserveScratch: (n) => querySketches.reserve(n),
    store: (layer, page, slot, k, v) => {
      if (!page.valueParams) throw new KvError('shape', 'h1b: the page has no valueParams.');
      kernels.storeSketch(k, projections[layer], page.keys, slot);
      kernels.storeAffine(v, page.values, page.valueParams, slot);
    },
    read: (layer, q) => {
      const query = querySketches.sketch(q, projections[layer]);
      return { keyForm: 'sketch', valueForm: 'affine4', ...query, scale: scales[layer] };
    },
    codebookBytes: () =>
      [...projections, ...matrices].reduce((sum, t) => sum + t.buffer.sizeBytes, 0),
    scratchBytes: () => querySketches.sizeBytes,
    dispose: () => {
      for (const { buffer } of constants) kernels.free(buffer);
      querySketches.dispose();
    },
  };
  return new PagedCache(kernels, shapes, method);
};
