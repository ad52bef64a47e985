import type { Adapter, TemperatureFit } from '../cache/adapter.ts';
import { gaussianProjection } from '../cache/sketch.ts';
import { ensure } from '../errors/errors.ts';
import type { Kernels, Segment, Tensor } from '../kernels/kernels.ts';
import { allocTensor } from '../kernels/tensor.ts';
import type { Model } from '../model/model.ts';
import { watch } from './watch.ts';

/** Where temperatures are searched: log-spaced from 0.005 to 5. */
const candidates = Array.from({ length: 61 }, (_, i) => 0.005 * 10 ** (i / 20));

export interface CalibrateOptions {
  /** sketch widths to fit */
  readonly bits: readonly number[];
  /** seed of R, as in the cache spec */
  readonly seed?: number;
  /** positions run at a time; default and maximum: the model's context, at most 512 */
  readonly window?: number;
  readonly onProgress?: (doneTokens: number, totalTokens: number) => void;
}

/**
 * Fits the temperatures of `h1b` to a model: for each head the T that minimises the divergence
 * KL(softmax(exact) || softmax(a / T)) of its attention weights, averaged over the queries of a
 * text. The loss is convex in 1 / T, so the best candidate, refined by a parabola, is the minimum.
 * Needs no gradients and holds the scores of one layer at a time.
 * @param text a few hundred tokens or more, of the kind that the model will see
 * @throws KvError "usage" if the text has fewer than 64 tokens
 */
export async function calibrate(
  model: Model,
  text: string,
  textName: string,
  { bits, seed = 0, window = 512, onProgress }: CalibrateOptions,
): Promise<Adapter> {
  const ids = model.tokenizer.encode(text);
  ensure(
    ids.length >= 64,
    'usage',
    () => `calibrate: the text has ${ids.length} tokens; give at least 64, better 500 and more.`,
  );
  const size = Math.min(window, model.contextLength);
  const probe = new Probe(model, bits, seed);
  for (let start = 0; start < ids.length; start += size) {
    const cache = watch(await model.createCache('f32'), probe);
    try {
      await model.forward([{ ids: ids.subarray(start, start + size), cache }]);
    } finally {
      cache.dispose();
    }
    onProgress?.(Math.min(start + size, ids.length), ids.length);
  }
  return {
    model: model.hash,
    text: `${textName}, ${ids.length} tokens in windows of ${size}, seed ${seed}`,
    temperatures: bits.map((b, i) => probe.fit(b, i)),
  };
}

/** Loss of every candidate temperature, summed over queries: [candidates]. */
type LossCurve = Float64Array;

/** Looks on at an f32 cache: on each `attend` it compares exact and sketched scores. */
class Probe {
  private readonly kernels: Kernels;
  /** [bits][layer][head] */
  private readonly curves: LossCurve[][][];
  /** [bits], made when they are needed */
  private readonly losses: Losses[] = [];
  private keys: Tensor | undefined;

  constructor(
    private readonly model: Model,
    private readonly bits: readonly number[],
    private readonly seed: number,
  ) {
    this.kernels = model.kernels;
    this.curves = bits.map(() =>
      model.layers.map(({ nHeads }) =>
        Array.from({ length: nHeads }, () => new Float64Array(candidates.length)),
      ),
    );
  }

  append(_layer: number, k: Tensor): void {
    this.keys = k;
  }

  attend(layer: number, q: Tensor): void {
    const { keys } = this;
    ensure(keys !== undefined, 'usage', () => 'calibrate: attend came before append.');
    const exact = this.scores(layer, q, keys);
    toWeights(exact);
    this.bits.forEach((bits, i) => {
      const raw = this.scores(layer, q, keys, bits);
      const losses = (this.losses[i] ??= new Losses(bits));
      this.curves[i][layer].forEach((curve, head) => losses.add(curve, exact, raw, head));
    });
  }

  /** Logits f32 [nHeads, n, n] of this step's queries and keys: exact, or raw sketch scores. */
  private scores(layer: number, q: Tensor, k: Tensor, bits?: number): ScoreTable {
    const { kernels } = this;
    const shape = this.model.layers[layer];
    const [n, nKvHeads, headDim] = k.shape;
    const held: Tensor[] = [];
    const hold = (...args: [Tensor['dtype'], number[]]) => {
      const t = allocTensor(kernels, ...args);
      held.push(t);
      return t;
    };
    try {
      const out = hold('f32', [shape.nHeads, n, n]);
      const scale = hold('f32', [shape.nHeads]);
      const values = hold('f32', [nKvHeads, n, shape.headDimV]);
      const positions = { first: 0, length: n, pageLength: n, minDistance: 0, maxDistance: n };
      let segment: Segment;
      if (bits === undefined) {
        const keys = hold('f32', [nKvHeads, n, headDim]);
        kernels.storeRows(k, keys, 0);
        const pages = [{ keys, values }];
        segment = { keyForm: 'f32', valueForm: 'f32', query: q, pages, scale, ...positions };
      } else {
        const projection = hold('i8', [nKvHeads, bits, headDim]);
        kernels.write(projection, gaussianProjection(this.seed, layer, nKvHeads, bits, headDim));
        const keys = hold('u32', [nKvHeads, n, bits / 32]);
        const query = hold('u32', [shape.nHeads, n, bits / 32]);
        kernels.storeSketch(k, projection, keys, 0);
        kernels.storeSketch(q, projection, query, 0);
        const pages = [{ keys, values }];
        segment = { keyForm: 'sketch', valueForm: 'f32', query, pages, scale, ...positions };
      }
      const factor = bits === undefined ? shape.scale : 1;
      kernels.write(scale, new Float32Array(shape.nHeads).fill(factor));
      kernels.scores(segment, { ...shape, n, start: 0 }, out);
      return { n, logits: (kernels.view(out) as Float32Array).slice() };
    } finally {
      for (const { buffer } of held) kernels.free(buffer);
    }
  }

  fit(bits: number, index: number): TemperatureFit {
    const layers = this.curves[index];
    return {
      bits,
      global: best(sum(layers.flat())),
      layer: layers.map((heads) => best(sum(heads))),
      head: layers.map((heads) => heads.map(best)),
    };
  }
}

interface ScoreTable {
  readonly n: number;
  /** [heads, n, n]; row i is defined up to column i */
  readonly logits: Float32Array;
}

/** Logits become softmax weights, row by row. */
function toWeights({ n, logits }: ScoreTable): void {
  for (let start = 0, row = 0; start < logits.length; start += n, row++) {
    const own = logits.subarray(start, start + (row % n) + 1);
    let max = -Infinity;
    for (const x of own) if (x > max) max = x;
    let total = 0;
    for (let j = 0; j < own.length; j++) total += own[j] = Math.exp(own[j] - max);
    for (let j = 0; j < own.length; j++) own[j] /= total;
  }
}

/** Losses at one sketch width. Scores of sketches are integers: their exponentials come from a table. */
class Losses {
  /** exp(-2 k / (b T)) for the k-th step below the best score, [candidates, b + 1] */
  private readonly powers: Float64Array;
  /** how many positions of a row are k steps below its best, [b + 1]; zero between calls */
  private readonly counts: Int32Array;

  constructor(private readonly bits: number) {
    this.counts = new Int32Array(bits + 1);
    this.powers = Float64Array.from({ length: candidates.length * (bits + 1) }, (_, at) => {
      const t = candidates[Math.floor(at / (bits + 1))];
      return Math.exp((-2 * (at % (bits + 1))) / (bits * t));
    });
  }

  /**
   * Adds KL(p || softmax(raw / (b T))) of every query of a head to the curve, less the entropy of p,
   * which no T changes: logsumexp(s / T) - sum_j p_j s_j / T with s = raw / b.
   * @param weights p; row i is defined up to column i, as that of raw
   */
  add(curve: LossCurve, weights: ScoreTable, raw: ScoreTable, head: number): void {
    const { bits, counts, powers } = this;
    const { n } = weights;
    const steps = new Int32Array(n);
    for (let i = 1; i < n; i++) {
      const start = (head * n + i) * n;
      let [top, expected] = [-Infinity, 0];
      for (let j = start; j <= start + i; j++) {
        expected += weights.logits[j] * raw.logits[j];
        if (raw.logits[j] > top) top = raw.logits[j];
      }
      let distinct = 0;
      for (let j = start; j <= start + i; j++) {
        const step = (top - raw.logits[j]) / 2;
        if (counts[step]++ === 0) steps[distinct++] = step;
      }
      for (let c = 0; c < candidates.length; c++) {
        let mass = 0;
        const row = c * (bits + 1);
        for (let k = 0; k < distinct; k++) mass += counts[steps[k]] * powers[row + steps[k]];
        curve[c] += Math.log(mass) + (top - expected) / (bits * candidates[c]);
      }
      for (let k = 0; k < distinct; k++) counts[steps[k]] = 0;
    }
  }
}

function sum(curves: readonly LossCurve[]): LossCurve {
  return curves.reduce((total, curve) => total.map((x, i) => x + curve[i]));
}

/** The temperature at the bottom of a curve, an f32: the best candidate, refined in log T by a parabola. */
function best(curve: LossCurve): number {
  const at = curve.reduce((lowest, loss, i) => (loss < curve[lowest] ? i : lowest), 0);
  if (at === 0 || at === curve.length - 1) return candidates[at];
  const [left, middle, right] = curve.subarray(at - 1, at + 2);
  const shift = (left - right) / (2 * (left - 2 * middle + right));
  const step = Math.log(candidates[1] / candidates[0]);
  return Math.fround(candidates[at] * Math.exp(shift * step));
}
