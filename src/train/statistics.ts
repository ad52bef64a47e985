import type { LayerStatistics } from '../cache/adapter.ts';
import type { LayerShape } from '../cache/cache.ts';
import { addMoments } from '../cache/moments.ts';
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

/**
 * Means of keys and values, covariance of keys and second moment of queries, by layer and KV head,
 * over a text in windows. RoPE turns slow channels little in a few hundred positions, so the windows
 * should be as long as the contexts that the model will see.
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

/** Running sums of one layer, in f64. */
class LayerSums {
  private positions = 0;
  private readonly keys: Float64Array;
  private readonly values: Float64Array;
  private readonly keyMoments: Float64Array;
  private readonly queryMoments: Float64Array;

  constructor(private readonly shape: LayerShape) {
    const { nKvHeads, headDimK, headDimV } = shape;
    this.keys = new Float64Array(nKvHeads * headDimK);
    this.values = new Float64Array(nKvHeads * headDimV);
    this.keyMoments = new Float64Array(nKvHeads * headDimK * headDimK);
    this.queryMoments = new Float64Array(nKvHeads * headDimK * headDimK);
  }

  addKeys(k: Float32Array, v: Float32Array): void {
    const { nKvHeads, headDimK } = this.shape;
    this.positions += k.length / (nKvHeads * headDimK);
    k.forEach((x, i) => (this.keys[i % this.keys.length] += x));
    v.forEach((x, i) => (this.values[i % this.values.length] += x));
    addMoments(this.keyMoments, k, headDimK, nKvHeads, nKvHeads);
  }

  addQueries(q: Float32Array): void {
    const { nHeads, nKvHeads, headDimK } = this.shape;
    addMoments(this.queryMoments, q, headDimK, nHeads, nKvHeads);
  }

  statistics(): LayerStatistics {
    const { headDimK: d, nHeads, nKvHeads } = this.shape;
    const mean = (sums: Float64Array) => Float32Array.from(sums, (sum) => sum / this.positions);
    const keyMean = mean(this.keys);
    const keys = Float32Array.from(this.keyMoments, (sum, at) => {
      const [head, i, j] = [Math.floor(at / (d * d)), Math.floor(at / d) % d, at % d];
      return sum / this.positions - keyMean[head * d + i] * keyMean[head * d + j];
    });
    const queries = Float32Array.from(
      this.queryMoments,
      (sum) => (sum * nKvHeads) / (this.positions * nHeads),
    );
    return { keyMean, valueMean: mean(this.values), keys, queries };
  }
}
