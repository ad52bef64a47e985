import { KvError } from '../errors/errors.ts';
import type { AffineBits, Codec, Kernels, ScaleRule, Tensor } from '../kernels/kernels.ts';
import { allocTensor, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import { statisticsOf, type LayerStatistics } from './adapter.ts';
import type { CacheMethod, LayerShape } from './cache.ts';
import { allocatedCodec, uniformCodec, type HeadCodec } from './codec.ts';
import { allocConstants, perHead } from './constants.ts';
import { addMoments } from './moments.ts';
import { pageLength } from './pages.ts';
import { choiceSetting, expectSettings, numberSetting, wholeSetting } from './spec.ts';
import {
  WindowedCache,
  type LayerCodec,
  type Means,
  type Sample,
  type WindowedMethod,
} from './windowed.ts';

/** Positions that a cache learns from: enough for a covariance of 128 channels, gone soon. */
const sampleLength = 256;

/**
 * Our cache: a few bits per key channel, scored by table look-up, and two to four bits per value.
 *
 * Keys less their mean are rotated, and channel j of the rotated key is quantized to a number of
 * bits that suits it (`codec.ts`): with `alloc=auto` by what keys and queries of the first 256
 * positions look like, which all queries there see exact; with `alloc=none` evenly, after a random
 * rotation. One f16 scale per key makes its score unbiased. Values less their mean get `v` bits,
 * clipped where that helps. The newest `window` positions and the first `sinks` stay f16.
 *
 * Settings: `k` bits per key channel on average (0.5 to 4, default 1.5), `v` bits per value (2, 3, 4,
 * default 2), `window` (default 128), `sinks` (default 4), `alloc` (auto, none), `centre` (static,
 * none), `source` of means and allocation (the adapter where it has them, else the first positions),
 * `scale` of keys (unbiased, least-squares), `seed` of the rotation.
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels, adapter) => {
  expectSettings(spec, ['k', 'v', 'window', 'sinks', 'alloc', 'centre', 'source', 'scale', 'seed']);
  const keyBits = numberSetting(spec, 'k', 1.5, { min: 0.5, max: 4 });
  const valueBits = choiceSetting<AffineBits>(spec, 'v', 2, [2, 3, 4]);
  const window = wholeSetting(spec, 'window', 128, { min: 0, max: 65536 });
  const sinks = wholeSetting(spec, 'sinks', 4, { min: 0, max: 128 });
  const seed = wholeSetting(spec, 'seed', 0, { min: 0, max: 65535 });
  const alloc = choiceSetting(spec, 'alloc', 'auto', ['auto', 'none']);
  const centre = choiceSetting(spec, 'centre', 'static', ['static', 'none']);
  const rule = choiceSetting<ScaleRule>(spec, 'scale', 'unbiased', ['unbiased', 'least-squares']);
  const known = statisticsOf(adapter, shapes);
  const source = choiceSetting(spec, 'source', known ? 'adapter' : 'first', ['adapter', 'first']);
  const learns = alloc === 'auto' || centre === 'static';
  if (learns && source === 'adapter' && !known) {
    throw new KvError(
      'usage',
      'cache "bitplane": source=adapter needs an adapter with statistics, and this model has none. Run h1bkv calibrate, or leave source out.',
    );
  }

  const nibblesOf = ({ headDimK }: LayerShape) => Math.max(1, Math.round((keyBits * headDimK) / 4));
  const scales = allocConstants(
    kernels,
    shapes.map(({ nHeads, scale }) => perHead(Array<number>(nHeads).fill(scale))),
  );
  const tables = new TableScratch(kernels, shapes, Math.max(...shapes.map(nibblesOf)));

  const method: WindowedMethod = {
    spec: `bitplane:k=${keyBits},v=${valueBits},window=${window},sinks=${sinks},alloc=${alloc},centre=${centre}${learns ? `,source=${source}` : ''},scale=${rule},seed=${seed}`,
    window,
    sinks,
    warmup: learns && source === 'first' ? Math.max(sampleLength, sinks) : 0,
    scales,
    layout: (shape) => ({
      keys: { dtype: 'u8', shape: [shape.nKvHeads, pageLength / 32, nibblesOf(shape), 16] },
      keyScales: { dtype: 'f16', shape: [shape.nKvHeads, pageLength] },
      values: {
        dtype: 'u8',
        shape: [shape.nKvHeads, pageLength, (shape.headDimV * valueBits) / 8],
      },
      valueParams: { dtype: 'f16', shape: [shape.nKvHeads, pageLength, 2] },
    }),
    createCodec: (layer) => {
      const shape = shapes[layer];
      const uniform = uniformCodec(shape.headDimK, nibblesOf(shape), seed);
      const codec = new BitplaneCodec(kernels, shape, valueBits, rule, tables, {
        nibbles: nibblesOf(shape),
        uniform: alloc === 'none' ? uniform : undefined,
        centres: centre === 'static',
      });
      if (source === 'adapter' && known) codec.know(known[layer]);
      return codec;
    },
    reserveScratch: (n) => tables.reserve(n),
    scratchBytes: () => tables.sizeBytes,
    dispose: () => {
      for (const { buffer } of scales) kernels.free(buffer);
      tables.dispose();
    },
  };
  return new WindowedCache(kernels, shapes, method);
};

interface KeyPlan {
  readonly nibbles: number;
  /** the codec of all heads, if it is not allocated */
  readonly uniform: HeadCodec | undefined;
  /** whether means are subtracted */
  readonly centres: boolean;
}

/** One layer's codec, and what it does with a page. */
class BitplaneCodec implements LayerCodec {
  means: Means | undefined;
  private readonly codec: Codec;

  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    private readonly valueBits: AffineBits,
    rule: ScaleRule,
    private readonly scratch: TableScratch,
    private readonly plan: KeyPlan,
  ) {
    const { nKvHeads, headDimK } = shape;
    const { nibbles, uniform } = plan;
    const [project, queryProject, levels, rows] = allocConstants(kernels, [
      zeros('f32', [nKvHeads, 4 * nibbles, headDimK]),
      zeros('f32', [nKvHeads, 4 * nibbles, headDimK]),
      zeros('f32', [nKvHeads, nibbles, 16, 4]),
      zeros('i32', [nKvHeads]),
    ]);
    this.codec = { project, queryProject, levels, rows, rule, gain: 1 };
    if (uniform) this.write(Array<HeadCodec>(nKvHeads).fill(uniform));
  }

  get tensors(): readonly Tensor[] {
    const { project, queryProject, levels, rows } = this.codec;
    return [project, queryProject, levels, rows];
  }

  private write(heads: readonly HeadCodec[]): void {
    const joined = (part: (head: HeadCodec) => Float32Array) => {
      const parts = heads.map(part);
      const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
      parts.forEach((numbers, i) => all.set(numbers, i * numbers.length));
      return all;
    };
    this.kernels.write(
      this.codec.project,
      joined(({ project }) => project),
    );
    this.kernels.write(
      this.codec.queryProject,
      joined(({ queryProject }) => queryProject),
    );
    this.kernels.write(
      this.codec.levels,
      joined(({ levels }) => levels),
    );
    this.kernels.write(
      this.codec.rows,
      Int32Array.from(heads, ({ bits }) => bits.length),
    );
  }

  /** Takes means and allocation from statistics of the layer. */
  know(statistics: LayerStatistics): Means {
    const { nKvHeads, headDimK: d } = this.shape;
    const { keyMean, valueMean, keys, queries } = statistics;
    const { centres } = this.plan;
    this.means = centres
      ? { keys: keyMean, values: valueMean }
      : { keys: keyMean.map(() => 0), values: valueMean.map(() => 0) };
    const spread = centres ? keys : keys.map((x, at) => x + meanProduct(keyMean, at, d));
    if (!this.plan.uniform) {
      const ofHead = (all: Float32Array, head: number) =>
        Float64Array.from(all.subarray(head * d * d, (head + 1) * d * d));
      const heads = Array.from({ length: nKvHeads }, (_, head) =>
        allocatedCodec(
          { keys: ofHead(spread, head), queries: ofHead(queries, head) },
          d,
          this.plan.nibbles,
        ),
      );
      this.write(heads);
    }
    return this.means;
  }

  learn({ positions, keys, values, queryMoments }: Sample): Means {
    const { nHeads, nKvHeads, headDimK: d, headDimV } = this.shape;
    const keyMean = meanOf(keys, nKvHeads * d);
    const centred = keys.map((x, i) => x - keyMean[i % keyMean.length]);
    const moments = new Float64Array(nKvHeads * d * d);
    addMoments(moments, centred, d, nKvHeads, nKvHeads);
    const per = (count: number) => (sum: number) => sum / count;
    return this.know({
      keyMean,
      valueMean: meanOf(values, nKvHeads * headDimV),
      keys: Float32Array.from(moments, per(positions)),
      queries: Float32Array.from(queryMoments, per((positions * nHeads) / nKvHeads)),
    });
  }

  store(page: Parameters<LayerCodec['store']>[0], slot: number, k: Tensor, v: Tensor): void {
    if (!page.valueParams) throw new KvError('shape', 'bitplane: the page has no valueParams.');
    this.kernels.storeCodes(k, this.codec, page.keys, page.keyScales, slot);
    const clip = { clip: true };
    this.kernels.storeAffine(v, page.values, page.valueParams, this.valueBits, slot, clip);
  }

  read(q: Tensor): ReturnType<LayerCodec['read']> {
    const { tables, scales } = this.scratch.get(q.shape[0], this.shape.nHeads, this.plan.nibbles);
    this.kernels.queryTables(q, this.codec, tables, scales);
    return {
      keyForm: 'codes',
      valueForm: `affine${this.valueBits}`,
      query: tables,
      queryScales: scales,
    };
  }
}

/** Room for the tables of one step's queries, reused by every layer. */
class TableScratch {
  private held: { tables: Tensor; scales: Tensor } | undefined;
  private readonly maxHeads: number;

  constructor(
    private readonly kernels: Kernels,
    shapes: readonly LayerShape[],
    private readonly maxNibbles: number,
  ) {
    this.maxHeads = Math.max(...shapes.map(({ nHeads }) => nHeads));
  }

  get sizeBytes(): number {
    return Object.values(this.held ?? {}).reduce((sum, t) => sum + t.buffer.sizeBytes, 0);
  }

  reserve(n: number): void {
    const shape = [this.maxHeads, n, this.maxNibbles, 2, 16];
    if (this.held && this.held.tables.buffer.sizeBytes >= tensorSizeBytes('u8', shape)) return;
    this.dispose();
    const tables = allocTensor(this.kernels, 'u8', shape);
    try {
      this.held = { tables, scales: allocTensor(this.kernels, 'f32', [this.maxHeads, n]) };
    } catch (error) {
      this.kernels.free(tables.buffer);
      throw error;
    }
  }

  get(n: number, nHeads: number, nibbles: number): { tables: Tensor; scales: Tensor } {
    if (!this.held) throw new KvError('usage', 'bitplane: attend was called outside a step.');
    return {
      tables: tensor(this.held.tables.buffer, 'u8', [nHeads, n, nibbles, 2, 16]),
      scales: tensor(this.held.scales.buffer, 'f32', [nHeads, n]),
    };
  }

  dispose(): void {
    for (const { buffer } of Object.values(this.held ?? {})) this.kernels.free(buffer);
    this.held = undefined;
  }
}

function zeros(dtype: 'f32' | 'i32', shape: readonly number[]) {
  const count = shape.reduce((product, size) => product * size, 1);
  return {
    dtype,
    shape,
    data: () => (dtype === 'f32' ? new Float32Array(count) : new Int32Array(count)),
  };
}

/** Element `at` of mean mean^T, [nKvHeads, d, d]. */
function meanProduct(mean: Float32Array, at: number, d: number): number {
  const head = Math.floor(at / (d * d)) * d;
  return mean[head + (Math.floor(at / d) % d)] * mean[head + (at % d)];
}

/** Mean row of [rows, width]. */
function meanOf(numbers: Float32Array, width: number): Float32Array {
  const sums = new Float64Array(width);
  numbers.forEach((x, i) => (sums[i % width] += x));
  return Float32Array.from(sums, (sum) => (sum * width) / numbers.length);
}
