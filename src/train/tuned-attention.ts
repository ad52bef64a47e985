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
import { quantizeAffine } from '../kernels/affine.ts';
import { f16ToF32 } from '../math/f16.ts';
import { addTo, transpose, type ArrayKernels } from './array-kernels.ts';
import { projectionOf, type TunedLayer } from './tuning.ts';

const steepness = 2;
const valueBits = 4;

/** Rows of a step: q [n, nHeads, d], k [n, nKvHeads, d] after RoPE, v [n, nKvHeads, dv]. */
export interface AttentionRows {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** What the reverse pass needs to know of the forward pass. */
export interface AttentionTape {
  /** v as attention saw it */
  readonly rows: AttentionRows;
  /** [heads][n, bits] */
  readonly querySigns: readonly Float32Array[];
  readonly keySigns: readonly Float32Array[];
  /** [nHeads][n, n], zero where a key is not visible */
  readonly weights: readonly Float32Array[];
}

export interface SketchSettings {
  readonly bits: number;
  /** whether scores count by the norm of the query, as in `ChosenTemperatures` */
  readonly byNorm?: boolean;
  /** computes what gradients are taken of: tanh instead of signs, no codes, R not rounded */
  readonly surrogate: boolean;
}

export class TunedAttention {
  constructor(
    private readonly arrays: ArrayKernels,
    private readonly shape: LayerShape,
    private readonly settings: SketchSettings,
  ) {}

  /** @returns out [n, nHeads, dv] */
  forward(layer: TunedLayer, rows: AttentionRows): { out: Float32Array; tape: AttentionTape } {
    const { nHeads, nKvHeads, headDimV } = this.shape;
    const { bits, surrogate } = this.settings;
    const n = rows.v.length / nKvHeads / headDimV;
    const v = surrogate ? rows.v : roundTrip(rows.v, headDimV);
    const querySigns = this.signs(layer, rows.q, nHeads);
    const keySigns = this.signs(layer, rows.k, nKvHeads);
    const out = new Float32Array(n * nHeads * headDimV);
    const betas = this.betas(layer, rows.q);
    const weights = querySigns.map((signs, head) => {
      const group = this.group(head);
      const scores = this.arrays.product(signs, keySigns[group], bits);
      softmaxRows(scores, n, betas[head]);
      const values = columnsOf(v, nKvHeads, headDimV, group);
      const attended = this.arrays.product(scores, transpose(values, headDimV), n);
      addColumns(out, nHeads, headDimV, head, attended);
      return scores;
    });
    return { out, tape: { rows: { ...rows, v }, querySigns, keySigns, weights } };
  }

  /** @param dOut gradient of `out` @param gradient of the layer, added to @returns gradients of q, k and v */
  backward(
    layer: TunedLayer,
    { rows, querySigns, keySigns, weights }: AttentionTape,
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
    weights.forEach((p, head) => {
      const group = this.group(head);
      const dHead = columnsOf(dOut, nHeads, headDimV, head);
      const values = columnsOf(rows.v, nKvHeads, headDimV, group);
      const dValues = arrays.product(transpose(p, n), transpose(dHead, headDimV), n);
      addColumns(d.v, nKvHeads, headDimV, group, dValues);

      const dScores = arrays.product(dHead, values, headDimV);
      const dLogBetas = softmaxRowsBack(p, dScores, n, betas[head]);
      for (const dLogBeta of dLogBetas) gradient.logT[head] -= dLogBeta;
      const dSigns = arrays.product(dScores, transpose(keySigns[group], bits), n);
      const queries = columnsOf(rows.q, nHeads, headDimK, head);
      const dQueries = this.signsBack(layer, group, queries, dSigns, gradient);
      if (byNorm) addTo(dQueries, normBack(queries, dLogBetas));
      addColumns(d.q, nHeads, headDimK, head, dQueries);
      const back = arrays.product(transpose(dScores, n), transpose(querySigns[head], bits), n);
      addTo(dKeySigns[group], back);
    });
    dKeySigns.forEach((dSigns, group) => {
      const keys = columnsOf(rows.k, nKvHeads, headDimK, group);
      const dKeys = this.signsBack(layer, group, keys, dSigns, gradient);
      addColumns(d.k, nKvHeads, headDimK, group, dKeys);
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

  /** @returns [heads][n, bits] */
  private signs(layer: TunedLayer, x: Float32Array, heads: number): Float32Array[] {
    const { nKvHeads, headDimK } = this.shape;
    const { bits, surrogate } = this.settings;
    if (!surrogate) {
      const shape = [nKvHeads, bits, headDimK] as const;
      return this.arrays.sketchSigns(x, heads, projectionOf(layer), shape);
    }
    return Array.from({ length: heads }, (_, head) => {
      const { unit } = normalized(columnsOf(x, heads, headDimK, head), headDimK);
      const group = Math.floor((head * nKvHeads) / heads);
      const u = this.arrays.product(unit, this.projection(layer, group), headDimK);
      return u.map((value) => Math.tanh(steepness * value));
    });
  }

  /** R of a KV head as real numbers, [bits, d]. */
  private projection(layer: TunedLayer, group: number): Float32Array {
    const size = this.settings.bits * this.shape.headDimK;
    const r = this.settings.surrogate ? layer.projection : projectionOf(layer);
    return Float32Array.from(
      r.subarray(group * size, (group + 1) * size),
      (x) => x * projectionStep,
    );
  }

  /** @param x of one head, [n, d] @param dSigns [n, bits] @returns gradient of x */
  private signsBack(
    layer: TunedLayer,
    group: number,
    x: Float32Array,
    dSigns: Float32Array,
    gradient: TunedLayer,
  ): Float32Array {
    const { arrays } = this;
    const { bits } = this.settings;
    const d = this.shape.headDimK;
    const { unit, norms } = normalized(x, d);
    const r = this.projection(layer, group);
    const u = arrays.product(unit, r, d);
    const du = dSigns.map((g, i) => g * steepness * (1 - Math.tanh(steepness * u[i]) ** 2));

    const dR = arrays.product(transpose(du, bits), transpose(unit, d), norms.length);
    const target = gradient.projection.subarray(group * bits * d, (group + 1) * bits * d);
    for (let i = 0; i < dR.length; i++) target[i] += dR[i] * projectionStep;

    const dUnit = arrays.product(du, transpose(r, d), bits);
    return dUnit.map((g, at) => {
      const row = Math.floor(at / d) * d;
      let along = 0;
      for (let c = row; c < row + d; c++) along += unit[c] * dUnit[c];
      return (g - unit[at] * along) / norms[row / d];
    });
  }
}

const zeros = (x: Float32Array) => new Float32Array(x.length);

/** Values as their codes say them. */
function roundTrip(v: Float32Array, d: number): Float32Array {
  const out = new Float32Array(v.length);
  for (let at = 0; at < v.length; at += d) {
    const { minimum, step, codes } = quantizeAffine(v.subarray(at, at + d), valueBits, false);
    const [low, unit] = [f16ToF32(minimum), f16ToF32(step)];
    for (let c = 0; c < d; c++) out[at + c] = low + unit * codes[c];
  }
  return out;
}

/** Rows scaled to length 1, and their lengths; a row of zeros stays, with length 1. */
function normalized(x: Float32Array, d: number): { unit: Float32Array; norms: Float32Array } {
  const norms = Float32Array.from({ length: x.length / d }, (_, row) => {
    let sum = 0;
    for (let c = row * d; c < (row + 1) * d; c++) sum += x[c] * x[c];
    return Math.sqrt(sum) || 1;
  });
  return { unit: x.map((value, at) => value / norms[Math.floor(at / d)]), norms };
}

/** Head `head` of x [n, heads, d], as [n, d]. */
function columnsOf(x: Float32Array, heads: number, d: number, head: number): Float32Array {
  const n = x.length / heads / d;
  const out = new Float32Array(n * d);
  for (let i = 0; i < n; i++) {
    const from = (i * heads + head) * d;
    out.set(x.subarray(from, from + d), i * d);
  }
  return out;
}

/** Adds own [n, d] to head `head` of x [n, heads, d]. */
function addColumns(x: Float32Array, heads: number, d: number, head: number, own: Float32Array) {
  for (let at = 0; at < own.length; at++) {
    x[(Math.floor(at / d) * heads + head) * d + (at % d)] += own[at];
  }
}

/** Causal softmax(beta * score), row by row, in place. @param scores [n, n] @param betas [n] */
function softmaxRows(scores: Float32Array, n: number, betas: Float32Array): void {
  for (let i = 0; i < n; i++) {
    const beta = betas[i];
    const row = scores.subarray(i * n, (i + 1) * n);
    let max = -Infinity;
    for (let j = 0; j <= i; j++) max = Math.max(max, row[j]);
    let sum = 0;
    for (let j = 0; j <= i; j++) sum += row[j] = Math.exp(beta * (row[j] - max));
    for (let j = 0; j <= i; j++) row[j] /= sum;
    row.fill(0, i + 1);
  }
}

/**
 * Takes gradients of the weights back to the scores, in place.
 * @param p weights, [n, n] @param dScores gradient of the weights, then of the scores @param betas [n]
 * @returns gradients of ln beta, [n]. As gradients of a row's logits add up to zero, ln p stands for the logit.
 */
function softmaxRowsBack(
  p: Float32Array,
  dScores: Float32Array,
  n: number,
  betas: Float32Array,
): Float32Array {
  return betas.map((beta, i) => {
    const [weights, d] = [p, dScores].map((x) => x.subarray(i * n, (i + 1) * n));
    let [mean, dLogBeta] = [0, 0];
    for (let j = 0; j <= i; j++) mean += weights[j] * d[j];
    for (let j = 0; j <= i; j++) {
      const dLogit = weights[j] * (d[j] - mean);
      if (weights[j] > 0) dLogBeta += dLogit * Math.log(weights[j]);
      d[j] = dLogit * beta;
    }
    d.fill(0, i + 1);
    return dLogBeta;
  });
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
