import { ensure, KvError } from '../errors/errors.ts';
import { maxCodeGroups } from '../kernels/check.ts';
import { fieldBytes } from '../kernels/fields.ts';
import type { Kernels, Page, ScaleRule, Tensor } from '../kernels/kernels.ts';
import {
  contentsOf,
  finetunedFor,
  leastWindow,
  statisticsOf,
  type Adapter,
  type LayerStatistics,
} from './adapter.ts';
import type { LayerShape } from './cache.ts';
import type { BalancedBasis } from './codec.ts';
import type { CacheMethod } from './method.ts';
import { allocConstants, perHead } from './constants.ts';
import { AllocatedKeys, basesOf, Rotations, type KeyCoder } from './key-coders.ts';
import { addMoments } from './moments.ts';
import { pageLength, type Field } from './pages.ts';
import {
  choiceSetting,
  expectSettings,
  numberSetting,
  parseSpec,
  specOfLayer,
  wholeSetting,
  type CacheSpec,
} from './spec.ts';
import { exactKeys, spreadBits, trust, type LayerBits } from './spread.ts';
import { TableScratch } from './table-scratch.ts';
import { evenFields, expectFields, valueBases, ValueCoder, ValueRotations } from './value-coder.ts';
import { updateConstants, updatesByLayer } from './value-updates.ts';
import { WindowLaw } from './window-law.ts';
import type { LayerCodec, Means, Sample, WindowedMethod } from './windowed-method.ts';
import { WindowedCache } from './windowed.ts';

/** Positions that a cache learns from: enough for a covariance of 128 channels, gone soon. */
const sampleLength = 256;

/**
 * Our cache: a few bits per key channel, scored by table look-up, and two to four bits per value.
 *
 * Keys less their mean are rotated, and channel j of the rotated key is quantized to a number of
 * bits that suits it (`codec.ts`): with `alloc=auto` by statistics of keys and queries; with
 * `alloc=none` evenly, after a random rotation. Statistics come from the adapter, and then layers
 * where errors cost more get more bits, out of the same sum (`spread.ts`); or from the first 256
 * positions, which all queries there see exact. Values less their mean are rotated as well, and get 4, 2
 * or no bits by channel (`value-coder.ts`). Each key and each value has one f16 scale. The newest
 * `window` positions and the first `sinks` stay f16.
 *
 * Settings: `k` bits per key channel on average (0.5 to 4, or 16 for f16, which tells what values alone
 * cost; default 2), `v` bits per value, likewise, `window` (default 64), `sinks` (default 4), `alloc` (auto, none), `centre` (static,
 * none), `source` of means and allocation (the adapter where it has them, else the first positions),
 * `scale` of keys (least-squares, or unbiased, the default with `alloc=none`), `seed` of the rotation, `skip`
 * (0 to 0.5, default 0): the share of a query's weights on coded positions, the smallest, that may be left
 * out with their values; an output then errs by at most 2 skip max|v|, |v| being the length of a value. `tuned` names what finetuning left in
 * the adapter: it brings the settings that it was made with, which are kept but for `skip`.
 * Layers may have `k` and `v` of their own, and then all keep what they are given:
 * `bitplane:k=1.5,v=2@0-1:k=3,v=4@-1:k=3`.
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels, adapter) =>
  new WindowedCache(kernels, shapes, bitplaneMethod(spec, shapes, kernels, adapter));

export interface BitplaneMethod extends WindowedMethod {
  createCodec(layer: number, isCopy: boolean): BitplaneCodec;
}

const names = ['k', 'v', 'window', 'sinks', 'alloc', 'centre', 'source', 'scale', 'seed', 'skip'];

/** @param asked settings, as `create` takes them */
export function bitplaneMethod(
  asked: CacheSpec,
  shapes: readonly LayerShape[],
  kernels: Kernels,
  adapter: Adapter | undefined,
): BitplaneMethod {
  expectSettings(asked, [...names, 'tuned'], ['k', 'v']);
  const tuned = finetunedFor(
    'bitplane',
    asked,
    shapes,
    adapter,
    (part) => parseSpec(part.spec).settings,
  );
  const spec = tuned ? finetunedSpec(asked, parseSpec(tuned.spec)) : asked;
  const window = wholeSetting(spec, 'window', 64, { min: 0, max: 65536 });
  const sinks = wholeSetting(spec, 'sinks', 4, { min: 0, max: 128 });
  const seed = wholeSetting(spec, 'seed', 0, { min: 0, max: 65535 });
  const skip = numberSetting(spec, 'skip', 0, { min: 0, max: 0.5 });
  const alloc = choiceSetting(spec, 'alloc', 'auto', ['auto', 'none']);
  const centre = choiceSetting(spec, 'centre', 'static', ['static', 'none']);
  const rule = choiceSetting<ScaleRule>(
    spec,
    'scale',
    alloc === 'auto' ? 'least-squares' : 'unbiased',
    ['unbiased', 'least-squares'],
  );
  const known = statisticsOf(adapter, shapes, window);
  const source = choiceSetting(spec, 'source', known ? 'adapter' : 'first', ['adapter', 'first']);
  const learns = alloc === 'auto' || centre === 'static';
  if (learns && source === 'adapter' && !known) {
    throw new KvError(
      'usage',
      `cache "bitplane": source=adapter needs an adapter with statistics, and ${contentsOf(adapter)}. Run h1bkv calibrate, or leave source out.`,
    );
  }

  const even = shapes.map((shape, layer): LayerBits => {
    const { keys, values } = readBits(specOfLayer(spec, layer, shapes.length));
    const nibbles = keys === 16 ? exactKeys : Math.max(1, Math.round((keys * shape.headDimK) / 4));
    return { nibbles, values: values === 16 ? 'f16' : evenFields(values, shape.headDimV) };
  });
  shapes.forEach((shape, layer) => {
    if (even[layer].values !== 'f16') expectFields(spec.name, shape);
    ensure(
      even[layer].nibbles <= maxCodeGroups,
      'usage',
      () =>
        `cache "${spec.name}": layer ${layer} has ${even[layer].nibbles} groups of 4 bits at head dimension ${shape.headDimK}; there can be ${maxCodeGroups}. Give a smaller k.`,
    );
  });
  const spreads = alloc === 'auto' && centre === 'static' && source === 'adapter';
  const bases =
    spreads && known
      ? shapes.map((shape, layer) => ({
          keys: basesOf(shape, known[layer]),
          values: valueBases(shape, known[layer]),
        }))
      : undefined;
  const isSpread = bases && known && spec.layers.length === 0;
  const bitsOf = isSpread ? spread(shapes, known, bases, even, window) : even;
  const nibblesOf = bitsOf.map(({ nibbles }) => nibbles);
  const scratch = new TableScratch(kernels, shapes, Math.max(1, ...nibblesOf));
  const rotations =
    alloc === 'none' ? new Rotations(kernels, shapes, nibblesOf, rule, seed) : undefined;
  const valueRotations = alloc === 'none' ? new ValueRotations(kernels, seed) : undefined;
  const scaleOf = (layer: number, head: number) =>
    shapes[layer].scale / (tuned?.layers[layer].temperatures[head] ?? 1);
  let constants: Tensor[];
  try {
    constants = allocConstants(kernels, [
      ...shapes.map(({ nHeads }, layer) =>
        perHead(Array.from({ length: nHeads }, (_, head) => scaleOf(layer, head))),
      ),
      ...updateConstants(tuned),
    ]);
  } catch (error) {
    rotations?.dispose();
    throw error;
  }
  const [scales, matrices] = [constants.slice(0, shapes.length), constants.slice(shapes.length)];

  const { keys, values } = readBits(spec);
  const origin = learns ? `,source=${source}` : '';
  const exceptions = spec.layers.map(
    ({ from, to, settings }) =>
      `@${from}-${to}:${[...settings].map(([key, value]) => `${key}=${value}`).join(',')}`,
  );
  const fullSpec = `bitplane:k=${keys},v=${values},window=${window},sinks=${sinks},alloc=${alloc},centre=${centre}${origin},scale=${rule}${rotations ? `,seed=${seed}` : ''}${skip > 0 ? `,skip=${skip}` : ''}${tuned ? `,tuned=${tuned.name}` : ''}${exceptions.join('')}`;

  const warmup = learns && source === 'first' ? Math.max(sampleLength, sinks) : 0;
  return {
    spec: fullSpec,
    ...(matrices.length > 0 && { valueUpdates: updatesByLayer(tuned, matrices) }),
    law: new WindowLaw(window, sinks, warmup),
    scales,
    layout: (layer) => {
      const { nKvHeads, headDimK, headDimV } = shapes[layer];
      const { nibbles, values: fields } = bitsOf[layer];
      const exact = (d: number): Field => ({ dtype: 'f16', shape: [nKvHeads, pageLength, d] });
      return {
        ...(nibbles === exactKeys
          ? { keys: exact(headDimK) }
          : {
              keys: { dtype: 'u8', shape: [nKvHeads, pageLength / 32, nibbles, 16] },
              keyScales: { dtype: 'f16', shape: [nKvHeads, pageLength] },
            }),
        ...(fields === 'f16'
          ? { values: exact(headDimV) }
          : {
              values: { dtype: 'u8', shape: [nKvHeads, pageLength, fieldBytes(fields)] },
              valueParams: { dtype: 'f16', shape: [nKvHeads, pageLength] },
            }),
      };
    },
    createCodec: (layer, isCopy) => {
      const shape = shapes[layer];
      const { values: fields } = bitsOf[layer];
      const keys =
        nibblesOf[layer] === exactKeys
          ? undefined
          : (rotations?.of(layer) ?? new AllocatedKeys(kernels, shape, nibblesOf[layer], rule));
      const values =
        fields === 'f16'
          ? undefined
          : (valueRotations?.coder(shape, fields) ?? new ValueCoder(kernels, shape, fields));
      const settings = { isCentred: centre === 'static', isRandom: alloc === 'none', skip };
      const codec = new BitplaneCodec(kernels, shape, settings, scratch, keys, values);
      if (source === 'adapter' && known && !isCopy) codec.know(known[layer], bases?.[layer]);
      return codec;
    },
    codebookBytes: () =>
      matrices.reduce(
        (sum, { buffer }) => sum + buffer.sizeBytes,
        (rotations?.sizeBytes ?? 0) + (valueRotations?.sizeBytes ?? 0),
      ),
    reserveScratch: (n) => scratch.reserve(n),
    scratchBytes: () => scratch.sizeBytes,
    dispose: () => {
      for (const { buffer } of constants) kernels.free(buffer);
      rotations?.dispose();
      valueRotations?.dispose();
      scratch.dispose();
    },
  };
}

/** The settings that a part was made with; what a query may leave out is of the query alone. */
function finetunedSpec(asked: CacheSpec, own: CacheSpec): CacheSpec {
  ensure(
    asked.layers.length === 0,
    'usage',
    () =>
      `cache "${asked.name}": tuned=${asked.settings.get('tuned')} was made with bits of its own for each layer. Leave out what follows "@".`,
  );
  return { ...own, settings: new Map([...asked.settings, ...own.settings]) };
}

function readBits(spec: CacheSpec): { keys: number; values: number } {
  const range = { min: 0.5, max: 4, or: 16 };
  return {
    keys: numberSetting(spec, 'k', 2, range),
    values: numberSetting(spec, 'v', 2, range),
  };
}

/** Bases of keys and of values of a layer, both less their means, by KV head. */
interface LayerBases {
  readonly keys: readonly BalancedBasis[];
  readonly values: readonly BalancedBasis[];
}

/** Bits of each layer, as many in all as in an even spread, by what errors cost there. */
function spread(
  shapes: readonly LayerShape[],
  known: readonly LayerStatistics[],
  bases: readonly LayerBases[],
  even: readonly LayerBits[],
  window: number,
): LayerBits[] {
  const costs = shapes.map(({ scale }, layer) => ({
    keys: bases[layer].keys.map(({ variances }) => variances.map((s) => (scale * s) ** 2)),
    values: bases[layer].values.map(({ variances }, head) =>
      variances.map((s) => known[layer].valueCosts[head] * s * s),
    ),
  }));
  return spreadBits(costs, even, window < leastWindow ? trust.bare : trust.windowed);
}

/** One layer of one cache: what it knows of the layer, and what it does with a page. */
export class BitplaneCodec implements LayerCodec {
  means: Means | undefined;

  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    private readonly settings: { isCentred: boolean; isRandom: boolean; skip: number },
    private readonly scratch: TableScratch,
    /** none where keys stay f16 */
    readonly keys: KeyCoder | undefined,
    /** none where values do */
    readonly values: ValueCoder | undefined,
  ) {}

  get tensors(): readonly Tensor[] {
    return [...(this.keys?.tensors ?? []), ...(this.values?.tensors ?? [])];
  }

  get basis(): ValueCoder | undefined {
    return this.values;
  }

  /** Takes means and allocation from statistics of the layer. @param bases of what is less its means */
  know(statistics: Omit<LayerStatistics, 'valueCosts'>, bases?: LayerBases): Means {
    const { keyMean, valueMean, keys, queries, values, outputs } = statistics;
    const { headDimK, headDimV } = this.shape;
    const { isCentred } = this.settings;
    const around = (moments: Float32Array, mean: Float32Array, d: number) =>
      isCentred ? moments : moments.map((x, at) => x + meanProduct(mean, at, d));
    const own = isCentred ? bases : undefined;
    this.keys?.fit({ keys: around(keys, keyMean, headDimK), queries }, own?.keys);
    if (!this.settings.isRandom)
      this.values?.fit(
        own?.values ??
          valueBases(this.shape, { values: around(values, valueMean, headDimV), outputs }),
      );
    const none = (mean: Float32Array) => (isCentred ? mean : mean.map(() => 0));
    this.means = { keys: none(keyMean), values: none(valueMean) };
    return this.means;
  }

  learn({ positions, keys, values, queryMoments }: Sample): Means {
    const { nKvHeads, headDimK, headDimV } = this.shape;
    const covariance = (x: Float32Array, mean: Float32Array, d: number) => {
      const moments = new Float64Array(nKvHeads * d * d);
      const centred = x.map((value, i) => value - mean[i % mean.length]);
      addMoments(moments, centred, d, nKvHeads, nKvHeads);
      return Float32Array.from(moments, (sum) => sum / positions);
    };
    const keyMean = meanOf(keys, nKvHeads * headDimK);
    const valueMean = meanOf(values, nKvHeads * headDimV);
    return this.know({
      ...{ keyMean, valueMean },
      keys: covariance(keys, keyMean, headDimK),
      values: covariance(values, valueMean, headDimV),
      queries: Float32Array.from(queryMoments),
      outputs: identities(nKvHeads, headDimV),
    });
  }

  store(page: Page, slot: number, k: Tensor, v: Tensor): void {
    if (this.keys) {
      this.kernels.storeCodes(k, this.keys.codec, page.keys, page.keyScales, slot);
    } else this.kernels.storeRows(k, page.keys, slot);
    if (this.values) this.values.store(v, page, slot);
    else this.kernels.storeRows(v, page.values, slot);
  }

  read(q: Tensor): ReturnType<LayerCodec['read']> {
    const { keys, values } = this;
    const { skip } = this.settings;
    const valueForm = values ? 'fields' : 'f16';
    const fields = values?.fields;
    if (!keys) return { keyForm: 'f16', query: q, valueForm, fields, skip };
    const { tables, scales } = this.scratch.tables(q.shape[0], this.shape.nHeads, keys.nibbles);
    this.kernels.queryTables(q, keys.codec, tables, scales);
    return { keyForm: 'codes', query: tables, queryScales: scales, valueForm, fields, skip };
  }
}

/** Element `at` of mean mean^T, [nKvHeads, d, d]. */
function meanProduct(mean: Float32Array, at: number, d: number): number {
  const head = Math.floor(at / (d * d)) * d;
  return mean[head + (Math.floor(at / d) % d)] * mean[head + (at % d)];
}

/** [heads, d, d] */
function identities(heads: number, d: number): Float32Array {
  return Float32Array.from({ length: heads * d * d }, (_, at) =>
    (at % (d * d)) % (d + 1) === 0 ? 1 : 0,
  );
}

/** Mean row of [rows, width]. */
function meanOf(numbers: Float32Array, width: number): Float32Array {
  const sums = new Float64Array(width);
  numbers.forEach((x, i) => (sums[i % width] += x));
  return Float32Array.from(sums, (sum) => (sum * width) / numbers.length);
}
