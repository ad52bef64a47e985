/**
 * Attention of the H1B-KV paper over one window, forward and in reverse.
 *
 * With û = q / |q| and u = R û, the sketch is sign(u), the weights are softmax(beta <s_q, s_k>), beta being
 * 1 / (b T), or by norm r / (b T) with r = |q| / sqrt(d).
 * Signs and value codes have no useful derivative, so gradients go straight through them: a sign
 * counts as tanh(2 u), whose mean slope is that of the sketch's expectation where q and k are at
 * right angles, and codes count as the values that they stand for.
 */
import { projectionStep } from '../cache/sketch.ts';
import { rootMeanSquares } from '../cache/sketched.ts';
import type { LayerShape } from '../cache/cache.ts';
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
import { projectionOf, type TunedLayer } from './tuning.ts';

const steepness = 2;

/** What the reverse pass needs to know of the forward pass. */
interface SketchTape {
  /** v as attention saw it */
  readonly rows: AttentionRows;
  /** [heads][n, bits] */
  readonly querySigns: readonly Float32Array[];
  readonly keySigns: readonly Float32Array[];
  /** R of each KV head as real numbers, [nKvHeads][bits, d] */
  readonly projections: readonly Float32Array[];
  /** of `blocks` of queries, [nHeads][blocks][to - from, to], zero where a key is not visible */
  readonly weights: readonly (readonly Float32Array[])[];
}

export interface SketchSettings {
  readonly bits: number;
  /** whether scores count by the norm of the query, as in `ChosenTemperatures` */
  readonly byNorm?: boolean;
  /** computes what gradients are taken of: tanh instead of signs, no codes, R not rounded */
  readonly surrogate: boolean;
  /** queries at a time */
  readonly blockRows?: number;
}

/** `h1b`, to be trained. */
export function sketchCache(shapes: readonly LayerShape[], settings: SketchSettings): TunedCache {
  return {
    attention: (arrays, layer) => new SketchAttention(arrays, shapes[layer], settings),
    dispose: () => {},
  };
}

class SketchAttention implements TunedAttention {
  constructor(
    private readonly arrays: ArrayKernels,
    private readonly shape: LayerShape,
    private readonly settings: SketchSettings,
  ) {}

  forward(layer: TunedLayer, rows: AttentionRows) {
    const { nHeads, nKvHeads, headDimV } = this.shape;
    const { bits, surrogate } = this.settings;
    const n = rows.v.length / nKvHeads / headDimV;
    const v = surrogate ? rows.v : this.arrays.affineRoundTrip(rows.v, [nKvHeads, headDimV]);
    const rounded = projectionOf(layer);
    const projections = this.projections(surrogate ? layer.projection : rounded);
    const querySigns = this.signs(rounded, projections, rows.q, nHeads);
    const keySigns = this.signs(rounded, projections, rows.k, nKvHeads);
    const out = new Float32Array(n * nHeads * headDimV);
    const betas = this.betas(layer, rows.q);
    const weights = querySigns.map((signs, head) => {
      const group = this.group(head);
      const values = transpose(columnsOf(v, nKvHeads, headDimV, group), headDimV);
      return this.blocks(n).map(({ from, to }) => {
        const seen = keySigns[group].subarray(0, to * bits);
        const scores = this.arrays.product(signs.subarray(from * bits, to * bits), seen, bits);
        softmaxRows(scores, betas[head].subarray(from, to), surrogate ? undefined : bits);
        const attended = this.arrays.product(scores, firstColumns(values, n, to), to);
        addColumns(out, nHeads, headDimV, head, attended, from);
        return scores;
      });
    });
    const tape = { rows: { ...rows, v }, querySigns, keySigns, projections, weights };
    const back = (dOut: Float32Array, gradient: TunedLayer) =>
      this.backward(layer, tape, dOut, gradient);
    return { out, back };
  }

  private backward(
    layer: TunedLayer,
    { rows, querySigns, keySigns, projections, weights }: SketchTape,
    dOut: Float32Array,
    gradient: TunedLayer,
  ): AttentionRows {
    const { arrays } = this;
    const { nHeads, nKvHeads, headDimK, headDimV } = this.shape;
    const { bits, byNorm } = this.settings;
    const n = rows.v.length / nKvHeads / headDimV;
    const d = { q: zeros(rows.q), k: zeros(rows.k), v: zeros(rows.v) };
    const dKeySigns = keySigns.map(zeros);
    const betas = this.betas(layer, rows.q);
    const gradientOf = (group: number) => this.ofGroup(gradient.projection, group);
    const turnedKeys = keySigns.map((signs) => transpose(signs, bits));
    querySigns.forEach((signs, head) => {
      const group = this.group(head);
      const dHead = columnsOf(dOut, nHeads, headDimV, head);
      const values = columnsOf(rows.v, nKvHeads, headDimV, group);
      const dSigns = zeros(signs);
      this.blocks(n).forEach(({ from, to }, block) => {
        const p = weights[head][block];
        const dBlock = dHead.subarray(from * headDimV, to * headDimV);
        const turned = transpose(dBlock, headDimV);
        const dValues = arrays.product(transpose(p, to), turned, to - from);
        addColumns(d.v, nKvHeads, headDimV, group, dValues, 0);

        const dScores = arrays.product(dBlock, values.subarray(0, to * headDimV), headDimV);
        softmaxRowsBack(p, dScores, betas[head].subarray(from, to));
        dSigns.set(
          arrays.product(dScores, firstColumns(turnedKeys[group], n, to), to),
          from * bits,
        );
        const queries = transpose(signs.subarray(from * bits, to * bits), bits);
        addTo(dKeySigns[group], arrays.product(transpose(dScores, to), queries, to - from));
      });
      // Scores are <s_q, s_k>, and logits beta times that.
      const dLogBetas = rowProducts(signs, dSigns, bits);
      for (const dLogBeta of dLogBetas) gradient.logT[head] -= dLogBeta;
      const queries = columnsOf(rows.q, nHeads, headDimK, head);
      const dQueries = this.signsBack(projections[group], queries, dSigns, gradientOf(group));
      if (byNorm) addTo(dQueries, normBack(queries, dLogBetas));
      addColumns(d.q, nHeads, headDimK, head, dQueries, 0);
    });
    dKeySigns.forEach((dSigns, group) => {
      const keys = columnsOf(rows.k, nKvHeads, headDimK, group);
      const dKeys = this.signsBack(projections[group], keys, dSigns, gradientOf(group));
      addColumns(d.k, nKvHeads, headDimK, group, dKeys, 0);
    });
    return d;
  }

  /** What raw scores are multiplied by. @param q [n, nHeads, headDimK] @returns [nHeads][n] */
  private betas(layer: TunedLayer, q: Float32Array): Float32Array[] {
    const { nHeads, headDimK } = this.shape;
    const { bits, byNorm } = this.settings;
    const norms = rootMeanSquares(q, nHeads, headDimK);
    const n = norms.length / nHeads;
    return Array.from(layer.logT, (logT, head) => {
      const own = norms.subarray(head * n, (head + 1) * n);
      return own.map((r) => ((byNorm ? r : 1) * Math.exp(-logT)) / bits);
    });
  }

  private group(head: number): number {
    return Math.floor((head * this.shape.nKvHeads) / this.shape.nHeads);
  }

  /** @param rounded R as a cache has it @returns [heads][n, bits] */
  private signs(
    rounded: Int8Array,
    projections: readonly Float32Array[],
    x: Float32Array,
    heads: number,
  ): Float32Array[] {
    const { nKvHeads, headDimK } = this.shape;
    const { bits, surrogate } = this.settings;
    if (!surrogate) {
      const shape = [nKvHeads, bits, headDimK] as const;
      return this.arrays.sketchSigns(x, heads, rounded, shape);
    }
    return Array.from({ length: heads }, (_, head) => {
      const { unit } = normalized(columnsOf(x, heads, headDimK, head), headDimK);
      const group = Math.floor((head * nKvHeads) / heads);
      const u = this.arrays.product(unit, projections[group], headDimK);
      return u.map((value) => Math.tanh(steepness * value));
    });
  }

  /** R of each KV head as real numbers, [bits, d]. @param units R in units of `projectionStep` */
  private projections(units: Int8Array | Float32Array): Float32Array[] {
    const r = new Float32Array(units);
    for (let i = 0; i < r.length; i++) r[i] *= projectionStep;
    return Array.from({ length: this.shape.nKvHeads }, (_, group) => this.ofGroup(r, group));
  }

  private blocks(n: number): Block[] {
    return blocksOf(n, this.settings.blockRows ?? defaultBlockRows);
  }

  private ofGroup(projection: Float32Array, group: number): Float32Array {
    const size = this.settings.bits * this.shape.headDimK;
    return projection.subarray(group * size, (group + 1) * size);
  }

  /**
   * @param r [bits, d] @param x of one head, [n, d] @param dSigns [n, bits]
   * @param gradient of R in units of `projectionStep`, added to @returns gradient of x
   */
  private signsBack(
    r: Float32Array,
    x: Float32Array,
    dSigns: Float32Array,
    gradient: Float32Array,
  ): Float32Array {
    const { arrays } = this;
    const { bits } = this.settings;
    const d = this.shape.headDimK;
    const { unit, norms } = normalized(x, d);
    const du = arrays.product(unit, r, d);
    for (let i = 0; i < du.length; i++) {
      // The slope of tanh is 4 e / (1 + e)^2, e being exp(-2 |its argument|).
      const e = expOfMinus(2 * steepness * Math.abs(du[i]));
      du[i] = (dSigns[i] * steepness * 4 * e) / (1 + e) ** 2;
    }
    const dR = arrays.product(transpose(du, bits), transpose(unit, d), norms.length);
    for (let i = 0; i < dR.length; i++) gradient[i] += dR[i] * projectionStep;

    const dUnit = arrays.product(du, transpose(r, d), bits);
    const along = rowProducts(unit, dUnit, d);
    for (let row = 0; row < norms.length; row++) {
      for (let at = row * d; at < (row + 1) * d; at++) {
        dUnit[at] = (dUnit[at] - unit[at] * along[row]) / norms[row];
      }
    }
    return dUnit;
  }
}

/** exp(-x) for x >= 0, up to 1e-4 of it where x < 4: much faster than `Math.exp`, which many slopes would wait for. */
function expOfMinus(x: number): number {
  let e = Math.max(0, 512 - x) / (512 + x);
  for (let i = 0; i < 8; i++) e *= e;
  return e;
}

const zeros = (x: Float32Array) => new Float32Array(x.length);

/** Rows scaled to length 1, and their lengths; a row of zeros stays, with length 1. */
function normalized(x: Float32Array, d: number): { unit: Float32Array; norms: Float32Array } {
  const norms = rowProducts(x, x, d).map((sum) => Math.sqrt(sum) || 1);
  const unit = zeros(x);
  for (let at = 0; at < x.length; at++) unit[at] = x[at] / norms[Math.floor(at / d)];
  return { unit, norms };
}

/** beta is in proportion to |q|: d ln beta / dq = q / |q|^2. @param q [n, d] @returns gradient of q */
function normBack(q: Float32Array, dLogBetas: Float32Array): Float32Array {
  const d = q.length / dLogBetas.length;
  const { unit, norms } = normalized(q, d);
  return unit.map((x, at) => {
    const row = Math.floor(at / d);
    return (dLogBetas[row] * x) / norms[row];
  });
}
