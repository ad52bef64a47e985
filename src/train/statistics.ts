import type { LayerStatistics } from '../cache/adapter.ts';
import type { LayerShape } from '../cache/cache.ts';
import { addMoments } from '../cache/moments.ts';
import { attendRows } from '../cache/plain-attention.ts';
import { ensure } from '../errors/errors.ts';
import { defaultChunkSize } from '../generate/generate.ts';
import type { Tensor } from '../kernels/kernels.ts';
import type { Model } from '../model/model.ts';
import { watch } from './watch.ts';

export interface StatisticsOptions {
  /** positions of a window; default: the model's context, at most 4096 */
  readonly window?: number;
  readonly onProgress?: (doneTokens: number, totalTokens: number) => void;
}

/** Queries that weights are computed for: one in so many positions. It is the slow part. */
const queryStride = 16;
/** What a cache is expected to keep exact, as `bitplane` does by default. */
const [exactNewest, exactFirst] = [64, 4];
/** Weights below this add nothing that counts to sums of their squares. */
const leastWeight = 1e-6;
/** How much errors at such positions count all the same: heads that look nowhere else need a basis too. */
const exactShare = 1e-4;

/**
 * Means of keys and values, covariance of keys, second moment of queries and cost of values, by layer
 * and KV head, over a text in windows. RoPE turns slow channels little in a few hundred positions, so
 * the windows should be as long as the contexts that the model will see.
 *
 * A query with weights p and output o = sum p_j v_j, whose scores have errors e_j, gets an output that
 * is off by sum p_j e_j (v_j - o). So its squared scores count by sum p_j^2 |v_j - o|^2 over positions
 * that will not be exact, and values by sum p_j^2, both relative to the mean |v|^2 of the layer. Holds
 * keys and values of one window in f32.
 * @throws KvError "usage" if the text has fewer than 64 tokens
 */
export async function collectStatistics(
  model: Model,
  ids: Int32Array,
  { window = 4096, onProgress }: StatisticsOptions = {},
): Promise<LayerStatistics[]> {
  ensure(
    ids.length >= 64,
    'usage',
    () => `calibrate: the text has ${ids.length} tokens; give at least 64, better 4,000 and more.`,
  );
  ensure(
    Number.isInteger(window) && window > 0,
    'usage',
    () => `calibrate: windows of ${window}; it must be a whole number above 0.`,
  );
  const size = Math.min(window, model.contextLength);
  const sums = model.layers.map((shape) => new LayerSums(shape));
  const view = (t: Tensor) => model.kernels.view(t) as Float32Array;
  const watcher = {
    append: (layer: number, k: Tensor, v: Tensor) => sums[layer].addKeys(view(k), view(v)),
    attend: (layer: number, q: Tensor) => sums[layer].addQueries(view(q)),
  };
  for (let start = 0; start < ids.length; start += size) {
    for (const layer of sums) layer.startWindow();
    const cache = watch(await model.createCache('f16'), watcher);
    try {
      const end = Math.min(start + size, ids.length);
      while (start + cache.length < end) {
        const from = start + cache.length;
        const chunk = ids.subarray(from, Math.min(from + defaultChunkSize, end));
        await model.forward([{ ids: chunk, cache }]);
        onProgress?.(start + cache.length, ids.length);
      }
    } finally {
      cache.dispose();
    }
  }
  return sums.map((layer) => layer.statistics());
}

/**
 * What independent errors of variance 1 do to the squared output of a query, on average.
 * @param weights p of the positions that it sees, itself the last
 * @param out     their sum of p_j v_j
 * @returns of errors in its scores: sum p_j^2 |v_j - out|^2; in values, per channel: sum p_j^2
 */
export function errorCosts(
  weights: Float64Array,
  values: readonly Float32Array[],
  out: Float32Array,
): { scores: number; values: number } {
  const costs = { scores: 0, values: 0 };
  weights.forEach((p, j) => {
    if (p < leastWeight) return;
    const isExact = j < exactFirst || weights.length - 1 - j < exactNewest;
    const squared = p * p * (isExact ? exactShare : 1);
    costs.values += squared;
    costs.scores += squared * values[j].reduce((sum, x, c) => sum + (x - out[c]) ** 2, 0);
  });
  return costs;
}

/** Running sums of one layer, in f64. */
class LayerSums {
  private positions = 0;
  private queries = 0;
  /** of all values */
  private squares = 0;
  private readonly keys: Float64Array;
  private readonly values: Float64Array;
  private readonly keyMoments: Float64Array;
  private readonly queryMoments: Float64Array;
  /** sum of p^2, by KV head */
  private readonly valueWeights: Float64Array;
  /** of this window, by KV head and position */
  private rows: { keys: Float32Array[]; values: Float32Array[] }[] = [];

  constructor(private readonly shape: LayerShape) {
    const { nKvHeads, headDimK, headDimV } = shape;
    this.keys = new Float64Array(nKvHeads * headDimK);
    this.values = new Float64Array(nKvHeads * headDimV);
    this.keyMoments = new Float64Array(nKvHeads * headDimK * headDimK);
    this.queryMoments = new Float64Array(nKvHeads * headDimK * headDimK);
    this.valueWeights = new Float64Array(nKvHeads);
  }

  startWindow(): void {
    this.rows = Array.from({ length: this.shape.nKvHeads }, () => ({ keys: [], values: [] }));
  }

  addKeys(k: Float32Array, v: Float32Array): void {
    const { nKvHeads, headDimK, headDimV } = this.shape;
    const count = k.length / (nKvHeads * headDimK);
    this.positions += count;
    k.forEach((x, i) => (this.keys[i % this.keys.length] += x));
    v.forEach((x, i) => (this.values[i % this.values.length] += x));
    this.squares += v.reduce((sum, x) => sum + x * x, 0);
    addMoments(this.keyMoments, k, headDimK, nKvHeads, nKvHeads);
    for (let row = 0; row < count * nKvHeads; row++) {
      const { keys, values } = this.rows[row % nKvHeads];
      keys.push(k.slice(row * headDimK, (row + 1) * headDimK));
      values.push(v.slice(row * headDimV, (row + 1) * headDimV));
    }
  }

  /** @param q of the newest positions, [n, nHeads, headDimK] */
  addQueries(q: Float32Array): void {
    const { nHeads, headDimK } = this.shape;
    const n = q.length / (nHeads * headDimK);
    const start = this.rows[0].keys.length - n;
    for (let i = 0; i < n; i++) {
      if ((start + i) % queryStride !== 0) continue;
      for (let head = 0; head < nHeads; head++) {
        const at = (i * nHeads + head) * headDimK;
        this.addQuery(head, q.subarray(at, at + headDimK), start + i);
      }
      this.queries++;
    }
  }

  private addQuery(head: number, query: Float32Array, position: number): void {
    const { nHeads, nKvHeads, headDimK: d, headDimV, scale } = this.shape;
    const group = Math.floor((head * nKvHeads) / nHeads);
    const keys = this.rows[group].keys.slice(0, position + 1);
    const { values } = this.rows[group];
    const out = new Float32Array(headDimV);
    const weights = attendRows(query, keys, values.slice(0, position + 1), scale, out);
    const { scores: cost, values: valueWeight } = errorCosts(weights, values, out);
    this.valueWeights[group] += valueWeight;
    const weighted = query.map((x) => x * Math.sqrt(cost));
    addMoments(this.queryMoments.subarray(group * d * d, (group + 1) * d * d), weighted, d, 1, 1);
  }

  statistics(): LayerStatistics {
    const { headDimK: d, nHeads, nKvHeads } = this.shape;
    const mean = (sums: Float64Array) => Float32Array.from(sums, (sum) => sum / this.positions);
    const [keyMean, valueMean] = [mean(this.keys), mean(this.values)];
    const keys = Float32Array.from(this.keyMoments, (sum, at) => {
      const [head, i, j] = [Math.floor(at / (d * d)), Math.floor(at / d) % d, at % d];
      return sum / this.positions - keyMean[head * d + i] * keyMean[head * d + j];
    });
    // Mean |v|^2 of a KV head, v less its mean.
    const spread =
      (this.squares / this.positions - valueMean.reduce((sum, x) => sum + x * x, 0)) / nKvHeads;
    const asked = (this.queries * nHeads) / nKvHeads;
    const queries = Float32Array.from(this.queryMoments, (sum) => sum / (asked * (spread || 1)));
    const valueCosts = Float32Array.from(this.valueWeights, (sum) => sum / asked);
    return { keyMean, valueMean, keys, queries, valueCosts };
  }
}
