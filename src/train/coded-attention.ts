/**
 * Attention of `bitplane` over one window, forward and in reverse.
 *
 * A query sees near keys and values as they are, the others as their codes say them. With k' and v' what
 * codes say, scores are <q, k'> + near <q, k - k'>, and the output is sum p v' + sum of near p (v - v'): near
 * positions give back what codes lose. Codes have no useful derivative; gradients go straight
 * through them, as if they were the keys and values that they stand for.
 */
import { bitplaneMethod, type BitplaneCodec } from '../cache/bitplane.ts';
import type { LayerShape } from '../cache/cache.ts';
import type { Means } from '../cache/windowed-method.ts';
import type { CacheSpec } from '../cache/spec.ts';
import { KvError } from '../errors/errors.ts';
import type { Codec, Tensor } from '../kernels/kernels.ts';
import { bytesOf } from '../kernels/tensor.ts';
import { dequantize } from '../math/blocks.ts';
import type { Model } from '../model/model.ts';
import { addTo, firstColumns, transpose, type ArrayKernels } from './array-kernels.ts';
import {
  addColumns,
  blocksOf,
  columnsOf,
  defaultBlockRows,
  rowProducts,
  softmaxRows,
  softmaxRowsBack,
  type AttentionRows,
  type Block,
  type TunedAttention,
  type TunedCache,
} from './tuned-attention.ts';
import type { TunedLayer } from './tuning.ts';

type KeysAndValues = Pick<AttentionRows, 'k' | 'v'>;

/** @returns keys [n, nKvHeads, d] and values [n, nKvHeads, dv] as their codes say them */
export type Coder = (rows: KeysAndValues) => KeysAndValues;

export interface NearPositions {
  /** the newest that a query sees exact, its own included */
  readonly window: number;
  /** the first of all, which every query sees exact */
  readonly sinks: number;
}

/**
 * `bitplane`, to be trained.
 * @returns also its full spec
 * @throws KvError "usage" if the spec cannot be had, or would learn from the text that it reads
 */
export function codedCache(model: Model, spec: CacheSpec): TunedCache & { readonly spec: string } {
  const { kernels, layers: shapes, adapter } = model;
  const method = bitplaneMethod(spec, shapes, kernels, adapter);
  if (method.law.warmup > 0) {
    method.dispose();
    throw new KvError(
      'usage',
      `finetune: ${method.spec} learns from the first tokens of each text, and what it learns cannot be trained for. Run h1bkv calibrate first, so that the adapter has statistics.`,
    );
  }
  const codecs: BitplaneCodec[] = [];
  const dispose = () => {
    for (const { buffer } of codecs.flatMap(({ tensors }) => tensors)) kernels.free(buffer);
    method.dispose();
  };
  try {
    shapes.forEach((_, layer) => codecs.push(method.createCodec(layer, false)));
  } catch (error) {
    dispose();
    throw error;
  }
  return {
    spec: method.spec,
    attention: (arrays, layer) => {
      const coder = coderOf(arrays, shapes[layer], codecs[layer]);
      return new CodedAttention(arrays, shapes[layer], method.law, coder);
    },
    dispose,
  };
}

export class CodedAttention implements TunedAttention {
  constructor(
    private readonly arrays: ArrayKernels,
    private readonly shape: LayerShape,
    private readonly near: NearPositions,
    private readonly coder: Coder,
    private readonly blockRows = defaultBlockRows,
  ) {}

  forward(layer: TunedLayer, rows: AttentionRows) {
    const { arrays, near } = this;
    const { nHeads, nKvHeads, headDimK, headDimV } = this.shape;
    const n = rows.v.length / nKvHeads / headDimV;
    const coded = this.coder(rows);
    const groups = Array.from({ length: nKvHeads }, (_, group) => {
      const own = ({ k, v }: KeysAndValues) => ({
        k: columnsOf(k, nKvHeads, headDimK, group),
        v: columnsOf(v, nKvHeads, headDimV, group),
      });
      const codes = own(coded);
      const exact = own(rows);
      return {
        codes,
        lost: { k: difference(exact.k, codes.k), v: difference(exact.v, codes.v) },
        turned: transpose(codes.v, headDimV),
      };
    });
    const blocks = blocksOf(n, this.blockRows);
    const out = new Float32Array(n * nHeads * headDimV);
    const heads = Array.from({ length: nHeads }, (_, head) => {
      const { codes, lost, turned } = groups[this.group(head)];
      const q = columnsOf(rows.q, nHeads, headDimK, head);
      const beta = this.shape.scale * Math.exp(-layer.logT[head]);
      const weights = blocks.map((block) => {
        const { from, to } = block;
        const queries = q.subarray(from * headDimK, to * headDimK);
        const p = arrays.product(queries, codes.k.subarray(0, to * headDimK), headDimK);
        addNearProducts(arrays, near, block, queries, lost.k, headDimK, p);
        softmaxRows(p, new Float32Array(to - from).fill(beta));
        const attended = arrays.product(p, firstColumns(turned, n, to), to);
        addNearSums(arrays, near, block, p, lost.v, headDimV, attended);
        addColumns(out, nHeads, headDimV, head, attended, from);
        return p;
      });
      return { q, beta, weights };
    });

    const back = (dOut: Float32Array, gradient: TunedLayer): AttentionRows => {
      const d = { q: zeros(rows.q), k: zeros(rows.k), v: zeros(rows.v) };
      heads.forEach(({ q, beta, weights }, head) => {
        const group = this.group(head);
        const { codes, lost } = groups[group];
        const turnedKeys = transpose(codes.k, headDimK);
        const dHead = columnsOf(dOut, nHeads, headDimV, head);
        const dQueries = new Float32Array(q.length);
        blocks.forEach((block, i) => {
          const { from, to } = block;
          const p = weights[i];
          const dBlock = dHead.subarray(from * headDimV, to * headDimV);
          const dValues = arrays.product(transpose(p, to), transpose(dBlock, headDimV), to - from);
          addColumns(d.v, nKvHeads, headDimV, group, dValues, 0);

          const dScores = arrays.product(dBlock, codes.v.subarray(0, to * headDimV), headDimV);
          addNearProducts(arrays, near, block, dBlock, lost.v, headDimV, dScores);
          softmaxRowsBack(p, dScores, new Float32Array(to - from).fill(beta));

          const queries = transpose(q.subarray(from * headDimK, to * headDimK), headDimK);
          const dKeys = arrays.product(transpose(dScores, to), queries, to - from);
          addColumns(d.k, nKvHeads, headDimK, group, dKeys, 0);
          const dOwn = arrays.product(dScores, firstColumns(turnedKeys, n, to), to);
          addNearSums(arrays, near, block, dScores, lost.k, headDimK, dOwn);
          dQueries.set(dOwn, from * headDimK);
        });
        // Scores are linear in q.
        for (const dLogBeta of rowProducts(q, dQueries, headDimK)) gradient.logT[head] -= dLogBeta;
        addColumns(d.q, nHeads, headDimK, head, dQueries, 0);
      });
      return d;
    };
    return { out, back };
  }

  private group(head: number): number {
    return Math.floor((head * this.shape.nKvHeads) / this.shape.nHeads);
  }
}

/** Ranges of keys that some query of a block sees exact, none of them twice. */
function nearRanges({ window, sinks }: NearPositions, { from, to }: Block): Block[] {
  const first = { from: 0, to: Math.min(sinks, to) };
  const newest = { from: Math.max(first.to, from - window + 1), to };
  return [first, newest].filter((range) => range.from < range.to);
}

const isNear = ({ window, sinks }: NearPositions, query: number, key: number) =>
  key <= query && (key < sinks || query - key < window);

/** sums[i, j] += <x_i, y_j> where query i sees key j exact. @param x of the block, [m, d] @param y [n, d] @param sums [m, to] */
function addNearProducts(
  arrays: ArrayKernels,
  near: NearPositions,
  block: Block,
  x: Float32Array,
  y: Float32Array,
  d: number,
  sums: Float32Array,
): void {
  for (const { from, to } of nearRanges(near, block)) {
    const products = arrays.product(x, y.subarray(from * d, to * d), d);
    const width = to - from;
    for (let i = block.from; i < block.to; i++) {
      const [own, all] = [(i - block.from) * width - from, (i - block.from) * block.to];
      for (let j = from; j < to; j++) if (isNear(near, i, j)) sums[all + j] += products[own + j];
    }
  }
}

/** sums[i] += sum of weights[i, j] y_j over keys j that query i sees exact. @param weights [m, to] @param y [n, d] @param sums [m, d] */
function addNearSums(
  arrays: ArrayKernels,
  near: NearPositions,
  block: Block,
  weights: Float32Array,
  y: Float32Array,
  d: number,
  sums: Float32Array,
): void {
  for (const { from, to } of nearRanges(near, block)) {
    const width = to - from;
    const some = new Float32Array((block.to - block.from) * width);
    for (let i = block.from; i < block.to; i++) {
      const [own, all] = [(i - block.from) * width - from, (i - block.from) * block.to];
      for (let j = from; j < to; j++) if (isNear(near, i, j)) some[own + j] = weights[all + j];
    }
    addTo(sums, arrays.product(some, transpose(y.subarray(from * d, to * d), d), width));
  }
}

/** What the codes of a layer make of keys and values: bit for bit what a cache stores. */
function coderOf(
  arrays: ArrayKernels,
  { nKvHeads, headDimK, headDimV }: LayerShape,
  { keys, values, means }: BitplaneCodec,
): Coder {
  const keyCoder = keys && keyCoderOf(arrays, nKvHeads, headDimK, keys.codec);
  const codeValues =
    values && ((v: Float32Array) => arrays.fieldsRoundTrip(v, [nKvHeads, headDimV], values));
  return ({ k, v }) => ({
    k: keyCoder ? aroundMean(k, means?.keys, keyCoder) : k,
    v: codeValues ? aroundMean(v, means?.values, codeValues) : v,
  });
}

function aroundMean(
  x: Float32Array,
  mean: Means['keys'] | undefined,
  code: (x: Float32Array) => Float32Array,
): Float32Array {
  if (!mean) return code(x);
  const coded = code(x.map((value, i) => value - mean[i % mean.length]));
  return coded.map((value, i) => value + mean[i % mean.length]);
}

/** Keys [n, heads, d] less their mean as their codes say them: scale F^T levels, so that <q, it> is what tables score. */
function keyCoderOf(
  arrays: ArrayKernels,
  heads: number,
  d: number,
  codec: Codec,
): (x: Float32Array) => Float32Array {
  const { kernels } = arrays;
  const numbers = (t: Tensor) =>
    dequantize(
      t.dtype,
      kernels.view(bytesOf(t)) as Uint8Array,
      t.shape.reduce((a, b) => a * b),
    );
  const groups = codec.levels.shape[1];
  const width = 4 * groups;
  const [levels, project, places] = [
    numbers(codec.levels),
    numbers(codec.queryProject),
    (kernels.view(codec.places) as Int32Array).slice(),
  ];
  const turned = Array.from({ length: heads }, (_, head) => {
    const rows = new Float32Array(width * d);
    for (let place = 0; place < width; place++) {
      const row = places[head * width + place];
      if (row >= 0) rows.set(project.subarray(row * d, (row + 1) * d), place * d);
    }
    return transpose(rows, d);
  });
  return (x) => {
    const n = x.length / heads / d;
    const { codes, scales } = arrays.keyCodes(x, [heads, d], codec);
    const out = new Float32Array(x.length);
    turned.forEach((back, head) => {
      const chosen = new Float32Array(n * width);
      for (let i = 0; i < n; i++) {
        const row = head * n + i;
        for (let at = 0; at < width; at++) {
          const g = at >> 2;
          const level = ((head * groups + g) * 16 + codes[row * groups + g]) * 4 + (at & 3);
          chosen[i * width + at] = scales[row] * levels[level];
        }
      }
      addColumns(out, heads, d, head, arrays.product(chosen, back, width), 0);
    });
    return out;
  };
}

const zeros = (x: Float32Array) => new Float32Array(x.length);

const difference = (x: Float32Array, y: Float32Array) => x.map((value, i) => value - y[i]);
