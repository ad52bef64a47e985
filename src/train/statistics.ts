import type { CollectedStatistics } from '../cache/adapter.ts';
import type { LayerShape } from '../cache/cache.ts';
import { addMoments } from '../cache/moments.ts';
import { createCache } from '../cache/registry.ts';
import { ensure } from '../errors/errors.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { bytesOf } from '../kernels/tensor.ts';
import { dequantize } from '../math/blocks.ts';
import { elementCount } from '../math/dtype.ts';
import type { Model } from '../model/model.ts';
import { LayerWalk, type OnProgress } from './layer-walk.ts';
import { watch } from './watch.ts';

export interface StatisticsOptions {
  /** positions of a window; default: the model's context, at most 4096 */
  readonly window?: number;
  readonly onProgress?: OnProgress;
}

/** Queries that weights are computed for: one in so many positions. It is the slow part. */
const queryStride = 16;
/** What a cache is expected to keep exact, as `bitplane` does by default. */
const [exactNewest, exactFirst] = [64, 4];
/** Weights below this add nothing that counts to sums of their squares. */
const leastWeight = 1e-6;
/**
 * Without a window a few queries that look at one neighbour cost so much that they would decide alone, and
 * what they cost is overstated: errors there are too large for the first order. Of 0 to 1, about the best.
 */
const bareSteepness = 0.25;
/** How much errors at such positions count all the same: heads that look nowhere else need a basis too. */
const exactShare = 1e-4;

/**
 * Means of keys and values, covariance of keys, second moment of queries and cost of values, by layer
 * and KV head, over a text in windows. RoPE turns slow channels little in a few hundred positions, so
 * the windows should be as long as the contexts that the model will see.
 *
 * A query with weights p and output o = sum p_j v_j, whose scores have errors e_j, gets an output that
 * is off by sum p_j e_j (v_j - o). So its squared scores count by sum p_j^2 |v_j - o|^2 over positions
 * that will not be exact, and values by sum p_j^2, both relative to the mean |v|^2 of the layer: once for
 * a cache that keeps the newest and the first positions, once for one that keeps none (`bare`). Holds
 * the residual stream of the text, and of one layer keys and values of one window, in f32.
 * @throws KvError "usage" if the text has fewer than 64 tokens
 */
export async function collectStatistics(
  model: Model,
  ids: Int32Array,
  { window = 4096, onProgress }: StatisticsOptions = {},
): Promise<CollectedStatistics[]> {
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
  const view = (t: Tensor) => model.kernels.view(t) as Float32Array;
  const walk = new LayerWalk(model, ids, { window });
  const collected: CollectedStatistics[] = [];
  try {
    for (const [layer, shape] of model.layers.entries()) {
      const sums = new LayerSums(shape, outputMetric(model, layer));
      const watcher = {
        append: (_: number, k: Tensor, v: Tensor) => sums.addKeys(view(k), view(v)),
        attend: (_: number, q: Tensor) => sums.addQueries(view(q)),
      };
      const newCache = async () => {
        sums.startWindow();
        return watch(await createCache('f16', [shape], model.kernels), watcher);
      };
      await walk.advance(layer, newCache, onProgress);
      collected.push(sums.statistics());
    }
  } finally {
    walk.dispose();
  }
  return collected;
}

/** What independent errors of variance 1 do to the squared output of a query, on average. */
export interface Costs {
  /** of errors in its scores: sum p_j^2 |v_j - o|^2 */
  scores: number;
  /** of errors in values, per channel: sum p_j^2 */
  values: number;
}

/**
 * Costs where the newest and the first positions are exact, and where none is.
 * @param weights p of the positions that a query sees, itself the last, [positions]
 * @param values  of these positions, [positions, headDimV]; there may be more behind them
 * @param out     o, their sum of p_j v_j, [headDimV]
 */
export function errorCosts(
  weights: Float64Array,
  values: Float32Array,
  out: Float32Array,
): { windowed: Costs; bare: Costs } {
  const windowed = { scores: 0, values: 0 };
  const bare = { scores: 0, values: 0 };
  const last = weights.length - 1;
  for (let j = 0; j <= last; j++) {
    const p = weights[j];
    if (p < leastWeight) continue;
    let distance = 0;
    for (let c = 0, at = j * out.length; c < out.length; c++) {
      distance += (values[at + c] - out[c]) ** 2;
    }
    const isExact = j < exactFirst || last - j < exactNewest;
    const share = p * p * (isExact ? exactShare : 1);
    windowed.scores += share * distance;
    windowed.values += share;
    bare.scores += p * p * distance;
    bare.values += p * p;
  }
  return { windowed, bare };
}

/** Rows of one KV head in a window, in one piece. */
class Rows {
  private held = new Float32Array();
  private used = 0;

  constructor(private readonly width: number) {}

  clear(): void {
    this.used = 0;
  }

  get count(): number {
    return this.used / this.width;
  }

  /** [count, width]; there may be room behind it */
  get numbers(): Float32Array {
    return this.held;
  }

  push(row: Float32Array): void {
    if (this.used + this.width > this.held.length) {
      const more = new Float32Array(Math.max(64 * this.width, 2 * this.held.length));
      more.set(this.held);
      this.held = more;
    }
    this.held.set(row, this.used);
    this.used += this.width;
  }
}

/**
 * Running sums over queries, by KV head: second moments weighted by what errors cost, and costs. A query
 * of cost w counts by w^steepness, and all queries of a KV head together by the sum of w.
 */
class CostSums {
  private readonly moments: Float64Array;
  private readonly weights: Float64Array;
  private readonly scores: Float64Array;
  private readonly values: Float64Array;

  constructor(
    nKvHeads: number,
    private readonly d: number,
    private readonly steepness: number,
  ) {
    this.moments = new Float64Array(nKvHeads * d * d);
    this.weights = new Float64Array(nKvHeads);
    this.scores = new Float64Array(nKvHeads);
    this.values = new Float64Array(nKvHeads);
  }

  add(kvHead: number, query: Float32Array, costs: Costs): void {
    const square = this.d * this.d;
    const moments = this.moments.subarray(kvHead * square, (kvHead + 1) * square);
    const weight = costs.scores ** this.steepness;
    const root = Math.sqrt(weight);
    const weighted = query.map((x) => x * root);
    addMoments(moments, weighted, this.d, 1, 1);
    this.weights[kvHead] += weight;
    this.scores[kvHead] += costs.scores;
    this.values[kvHead] += costs.values;
  }

  /** @param asked queries per KV head @param spread what costs of scores are relative to */
  means(asked: number, spread: number): { queries: Float32Array; values: Float32Array } {
    const square = this.d * this.d;
    const queries = Float32Array.from(this.moments, (sum, at) => {
      const head = Math.floor(at / square);
      return (sum * this.scores[head]) / ((this.weights[head] || 1) * asked * spread);
    });
    return { queries, values: Float32Array.from(this.values, (sum) => sum / asked) };
  }
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
  private readonly valueMoments: Float64Array;
  private readonly windowed: CostSums;
  private readonly bare: CostSums;
  /** of this window, by KV head */
  private readonly rows: readonly { keys: Rows; values: Rows }[];

  /** @param metric of `outputMetric` */
  constructor(
    private readonly shape: LayerShape,
    private readonly metric: Float64Array,
  ) {
    const { nKvHeads, headDimK, headDimV } = shape;
    this.keys = new Float64Array(nKvHeads * headDimK);
    this.values = new Float64Array(nKvHeads * headDimV);
    this.keyMoments = new Float64Array(nKvHeads * headDimK * headDimK);
    this.valueMoments = new Float64Array(nKvHeads * headDimV * headDimV);
    this.windowed = new CostSums(nKvHeads, headDimK, 1);
    this.bare = new CostSums(nKvHeads, headDimK, bareSteepness);
    this.rows = Array.from({ length: nKvHeads }, () => ({
      keys: new Rows(headDimK),
      values: new Rows(headDimV),
    }));
  }

  startWindow(): void {
    for (const { keys, values } of this.rows) {
      keys.clear();
      values.clear();
    }
  }

  addKeys(k: Float32Array, v: Float32Array): void {
    const { nKvHeads, headDimK, headDimV } = this.shape;
    const count = k.length / (nKvHeads * headDimK);
    this.positions += count;
    k.forEach((x, i) => (this.keys[i % this.keys.length] += x));
    v.forEach((x, i) => (this.values[i % this.values.length] += x));
    this.squares += v.reduce((sum, x) => sum + x * x, 0);
    addMoments(this.keyMoments, k, headDimK, nKvHeads, nKvHeads);
    addMoments(this.valueMoments, v, headDimV, nKvHeads, nKvHeads);
    for (let row = 0; row < count * nKvHeads; row++) {
      const { keys, values } = this.rows[row % nKvHeads];
      keys.push(k.subarray(row * headDimK, (row + 1) * headDimK));
      values.push(v.subarray(row * headDimV, (row + 1) * headDimV));
    }
  }

  /** @param q of the newest positions, [n, nHeads, headDimK] */
  addQueries(q: Float32Array): void {
    const { nHeads, headDimK } = this.shape;
    const n = q.length / (nHeads * headDimK);
    const start = this.rows[0].keys.count - n;
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
    const { nHeads, nKvHeads, headDimV, scale } = this.shape;
    const kvHead = Math.floor((head * nKvHeads) / nHeads);
    const { keys, values } = this.rows[kvHead];
    const out = new Float32Array(headDimV);
    const weights = attendFlat(query, keys.numbers, values.numbers, position + 1, scale, out);
    const costs = errorCosts(weights, values.numbers, out);
    this.windowed.add(kvHead, query, costs.windowed);
    this.bare.add(kvHead, query, costs.bare);
  }

  statistics(): CollectedStatistics {
    const { headDimK, headDimV, nHeads, nKvHeads } = this.shape;
    const mean = (sums: Float64Array) => Float32Array.from(sums, (sum) => sum / this.positions);
    const covariance = (moments: Float64Array, means: Float32Array, d: number) =>
      Float32Array.from(moments, (sum, at) => {
        const [head, i, j] = [Math.floor(at / (d * d)), Math.floor(at / d) % d, at % d];
        return sum / this.positions - means[head * d + i] * means[head * d + j];
      });
    const [keyMean, valueMean] = [mean(this.keys), mean(this.values)];
    const values = covariance(this.valueMoments, valueMean, headDimV);
    // Mean |v|^2 of a KV head, v less its mean.
    const spread =
      (this.squares / this.positions - valueMean.reduce((sum, x) => sum + x * x, 0)) / nKvHeads;
    const asked = (this.queries * nHeads) / nKvHeads;
    const [windowed, bare] = [this.windowed, this.bare].map((sums) =>
      sums.means(asked, spread || 1),
    );
    return {
      keyMean,
      valueMean,
      keys: covariance(this.keyMoments, keyMean, headDimK),
      values,
      outputs: asShare(this.metric, values, nKvHeads),
      queries: windowed.queries,
      valueCosts: windowed.values,
      bareQueries: bare.queries,
      bareValueCosts: bare.values,
    };
  }
}

/** Sum over the query heads of each KV head of W_o^T W_o, W_o being their columns: [nKvHeads, headDimV, headDimV]. */
function outputMetric({ kernels, layers, parts }: Model, layer: number): Float64Array {
  const { nHeads, nKvHeads, headDimV } = layers[layer];
  const { wo } = parts.layers[layer];
  const bytes = kernels.view(bytesOf(wo)) as Uint8Array;
  const metric = new Float64Array(nKvHeads * headDimV * headDimV);
  addMoments(
    metric,
    dequantize(wo.dtype, bytes, elementCount(wo.shape)),
    headDimV,
    nHeads,
    nKvHeads,
  );
  return metric;
}

/** A metric as a share of what values are by it, which is the mean over heads of the trace of its product with their covariance. */
function asShare(metric: Float64Array, values: Float32Array, heads: number): Float32Array {
  const all = metric.reduce((sum, x, at) => sum + x * values[at], 0) / heads;
  return Float32Array.from(metric, (x) => x / (all || 1));
}

/**
 * Attention of one query, in f64.
 * @param keys   [count, headDimK], and values [count, headDimV], or more of them
 * @param out    f32 [headDimV], overwritten
 * @returns the weights, f64 [count]
 */
function attendFlat(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  count: number,
  scale: number,
  out: Float32Array,
): Float64Array {
  const weights = new Float64Array(count);
  let max = -Infinity;
  for (let j = 0; j < count; j++) {
    let sum = 0;
    for (let c = 0, at = j * q.length; c < q.length; c++) sum += q[c] * keys[at + c];
    weights[j] = scale * sum;
    if (weights[j] > max) max = weights[j];
  }
  let total = 0;
  for (let j = 0; j < count; j++) total += weights[j] = Math.exp(weights[j] - max);
  const sums = new Float64Array(out.length);
  for (let j = 0; j < count; j++) {
    const p = (weights[j] /= total);
    for (let c = 0, at = j * sums.length; c < sums.length; c++) sums[c] += p * values[at + c];
  }
  out.set(sums);
  return weights;
}
