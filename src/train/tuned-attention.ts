/** What attention over one window gives to training, and what its kinds have in common. */
import type { ArrayKernels } from './array-kernels.ts';
import type { TunedLayer } from './tuning.ts';

/** Rows of a step: q [n, nHeads, d], k [n, nKvHeads, d] after RoPE, v [n, nKvHeads, dv]. */
export interface AttentionRows {
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
}

/** @param dOut gradient of the output @param gradient of the layer, added to @returns gradients of q, k and v */
export type AttentionBack = (dOut: Float32Array, gradient: TunedLayer) => AttentionRows;

/** One layer's attention. */
export interface TunedAttention {
  /** @returns out [n, nHeads, dv], and the way back, which holds on to what it needs to know */
  forward(
    layer: TunedLayer,
    rows: AttentionRows,
  ): { readonly out: Float32Array; readonly back: AttentionBack };
}

/** A cache that can be trained for. */
export interface TunedCache {
  attention(arrays: ArrayKernels, layer: number): TunedAttention;
  dispose(): void;
}

/** Queries `from` to `to`, which see keys 0 to `to` at most: products leave out most keys that come after them. */
export interface Block {
  readonly from: number;
  readonly to: number;
}

export const defaultBlockRows = 256;

export function blocksOf(n: number, rows: number): Block[] {
  return Array.from({ length: Math.ceil(n / rows) }, (_, i) => ({
    from: i * rows,
    to: Math.min(n, (i + 1) * rows),
  }));
}

/** <x, y> of each row of d. */
export function rowProducts(x: Float32Array, y: Float32Array, d: number): Float32Array {
  const out = new Float32Array(x.length / d);
  for (let row = 0; row < out.length; row++) {
    let sum = 0;
    for (let at = row * d; at < (row + 1) * d; at++) sum += x[at] * y[at];
    out[row] = sum;
  }
  return out;
}

/** Head `head` of x [n, heads, d], as [n, d]. */
export function columnsOf(x: Float32Array, heads: number, d: number, head: number): Float32Array {
  const n = x.length / heads / d;
  const out = new Float32Array(n * d);
  for (let i = 0; i < n; i++) {
    const from = (i * heads + head) * d;
    out.set(x.subarray(from, from + d), i * d);
  }
  return out;
}

/** Adds own [m, d] to head `head` of x [n, heads, d], from row `first` on. */
export function addColumns(
  x: Float32Array,
  heads: number,
  d: number,
  head: number,
  own: Float32Array,
  first: number,
): void {
  for (let row = 0; row * d < own.length; row++) {
    const to = ((first + row) * heads + head) * d;
    for (let c = 0; c < d; c++) x[to + c] += own[row * d + c];
  }
}

/**
 * Causal softmax(beta * score), row by row, in place.
 * @param scores of the last queries, [m, n] @param betas [m]
 * @param bits of sketches: scores are whole then, and exponentials come from a table of all there can be
 */
export function softmaxRows(scores: Float32Array, betas: Float32Array, bits?: number): void {
  const n = scores.length / betas.length;
  const table = new Float64Array((bits ?? 0) + 1);
  for (let i = 0; i < betas.length; i++) {
    const [beta, from] = [betas[i], i * n];
    const end = from + n - betas.length + i + 1;
    let max = -Infinity;
    for (let j = from; j < end; j++) if (scores[j] > max) max = scores[j];
    let sum = 0;
    if (bits) {
      // Two scores differ by an even number.
      const ratio = Math.exp(-2 * beta);
      table[0] = 1;
      for (let k = 1; k <= bits; k++) table[k] = table[k - 1] * ratio;
      for (let j = from; j < end; j++) sum += scores[j] = table[(max - scores[j]) >> 1];
    } else {
      for (let j = from; j < end; j++) sum += scores[j] = Math.exp(beta * (scores[j] - max));
    }
    for (let j = from; j < end; j++) scores[j] /= sum;
    scores.fill(0, end, from + n);
  }
}

/**
 * Takes gradients of the weights back to the scores, in place.
 * @param p weights, [m, n], zero where a key is not visible
 * @param dScores gradient of the weights, then of the scores @param betas [m]
 */
export function softmaxRowsBack(p: Float32Array, dScores: Float32Array, betas: Float32Array): void {
  const n = p.length / betas.length;
  rowProducts(p, dScores, n).forEach((mean, i) => {
    const beta = betas[i];
    for (let j = i * n; j < (i + 1) * n; j++) dScores[j] = p[j] * (dScores[j] - mean) * beta;
  });
}
