import { KvError } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { allocTensor, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import { fittedTemperatures, type Adapter, type Granularity } from './adapter.ts';
import type { CacheMethod, LayerShape } from './cache.ts';
import { allocConstants, perHead } from './constants.ts';
import { PagedCache, type PagedMethod } from './paged.ts';
import { pageLength } from './pages.ts';
import { gaussianProjection } from './sketch.ts';
import { expectSettings, wholeSetting, type CacheSpec } from './spec.ts';

/** Temperature where neither the spec nor an adapter gives one: about the embedded model's best at b = 256. */
export const defaultTemperature = 0.07;

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
 * (default `head` where the adapter has a fit for this b, else `defaultTemperature`).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels, adapter) => {
  expectSettings(spec, ['b', 'seed', 't']);
  const bits = wholeSetting(spec, 'b', 256, { min: 32, max: 1024, step: 32 });
  const seed = wholeSetting(spec, 'seed', 0, { min: 0, max: 65535 });
  const { label, temperatures } = chooseTemperatures(spec, bits, shapes, adapter);

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
  const querySketches = new QueryScratch(
    kernels,
    bits / 32,
    Math.max(...shapes.map((s) => s.nHeads)),
  );

  const method: PagedMethod = {
    spec: `h1b:b=${bits},seed=${seed},t=${label}`,
    layout: ({ nKvHeads, headDimV }) => ({
      keys: { dtype: 'u32', shape: [nKvHeads, pageLength, bits / 32] },
      values: { dtype: 'u8', shape: [nKvHeads, pageLength, headDimV / 2] },
      valueParams: { dtype: 'f16', shape: [nKvHeads, pageLength, 2] },
    }),
    reserveScratch: (n) => querySketches.reserve(n),
    store: (layer, page, slot, k, v) => {
      if (!page.valueParams) throw new KvError('shape', 'h1b: the page has no valueParams.');
      kernels.storeSketch(k, projections[layer], page.keys, slot);
      kernels.storeAffine4(v, page.values, page.valueParams, slot);
    },
    read: (layer, q) => {
      const query = querySketches.get(q.shape[0], shapes[layer].nHeads);
      kernels.storeSketch(q, projections[layer], query, 0);
      return { keyForm: 'sketch', valueForm: 'affine4', query, scale: scales[layer] };
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

/** Room for the sketches of one step's queries, u32 [nHeads, n, words], reused by every layer. */
class QueryScratch {
  private readonly kernels: Kernels;
  private readonly words: number;
  private readonly maxHeads: number;
  private held: Tensor | undefined;

  constructor(kernels: Kernels, words: number, maxHeads: number) {
    this.kernels = kernels;
    this.words = words;
    this.maxHeads = maxHeads;
  }

  get sizeBytes(): number {
    return this.held?.buffer.sizeBytes ?? 0;
  }

  reserve(n: number): void {
    const shape = [this.maxHeads, n, this.words];
    if (this.sizeBytes >= tensorSizeBytes('u32', shape)) return;
    this.dispose();
    this.held = allocTensor(this.kernels, 'u32', shape);
  }

  get(n: number, nHeads: number): Tensor {
    if (!this.held) throw new KvError('usage', 'h1b: attend was called outside a step.');
    return tensor(this.held.buffer, 'u32', [nHeads, n, this.words]);
  }

  dispose(): void {
    if (this.held) this.kernels.free(this.held.buffer);
    this.held = undefined;
  }
}

/** One temperature per layer and query head, and the word for them in the spec. */
function chooseTemperatures(
  spec: CacheSpec,
  bits: number,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
): { label: string; temperatures: readonly (readonly number[])[] } {
  const uniform = (t: number) => shapes.map(({ nHeads }) => Array<number>(nHeads).fill(t));
  const wanted = spec.settings.get('t');
  if (wanted === undefined || ['head', 'layer', 'global'].includes(wanted)) {
    const granularity = (wanted ?? 'head') as Granularity;
    const fit = fittedTemperatures(adapter, bits, granularity, shapes);
    if (fit) return { label: granularity, temperatures: fit };
    if (wanted !== undefined) {
      throw new KvError(
        'usage',
        `cache "h1b": t=${wanted} needs an adapter with temperatures for b=${bits}, and this model has none. Run h1bkv calibrate, or give a number.`,
      );
    }
    return { label: String(defaultTemperature), temperatures: uniform(defaultTemperature) };
  }
  const t = Number(wanted);
  if (!(t >= 1e-3 && t <= 1e3)) {
    throw new KvError(
      'usage',
      `cache "h1b": t is ${wanted}; it must be a number from 0.001 to 1000, or head, layer or global.`,
    );
  }
  return { label: String(t), temperatures: uniform(t) };
}
