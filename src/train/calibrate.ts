import type { Adapter, TemperatureFit } from '../cache/adapter.ts';
import { createCache } from '../cache/registry.ts';
import { gaussianProjection } from '../cache/sketch.ts';
import { rootMeanSquares } from '../cache/sketched.ts';
import { ensure } from '../errors/errors.ts';
import type { Kernels, Segment, Tensor } from '../kernels/kernels.ts';
import { allocTensor } from '../kernels/tensor.ts';
import type { Model } from '../model/model.ts';
import { LayerWalk, type OnProgress } from './layer-walk.ts';
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
  readonly onProgress?: OnProgress;
}

/**
 * Fits the temperatures of `h1b` to a model: for each head the T that minimises the divergence
 * KL(softmax(exact) || softmax(a / T)) of its attention weights, averaged over the queries of a
 * text, and once more with softmax(r a / T), r the root mean square of the query (`t=norm`). The loss is
 * convex in 1 / T, so the best candidate, refined by a parabola, is the minimum.
 * Needs no gradients, and holds cache and scores of one layer at a time.
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
  const walk = new LayerWalk(model, ids, { window: size, chunk: size });
  try {
    for (const [layer, shape] of model.layers.entries()) {
      const looksOn = {
        append: (_: number, k: Tensor) => probe.append(k),
        attend: (_: number, q: Tensor) => probe.attend(layer, q),
      };
      const newCache = async () => watch(await createCache('f32', [shape], model.kernels), looksOn);
      await walk.advance(layer, newCache, onProgress);
    }
  } finally {
    walk.dispose();
  }
  return {
    model: model.hash,
    text: `${textName}, ${ids.length} tokens in windows of ${size}, seed ${seed}`,
    temperatures: bits.map((b, i) => probe.fit(b, i)),
  };
}

/** Loss of every candidate temperature, summed over queries: [candidates]. */
type LossCurve = Float64Array;

/** Of one head: logits a / T, and r a / T. */
interface HeadCurves {
  readonly plain: LossCurve;
  readonly norm: LossCurve;
}

/** Looks on at an f32 cache: on each `attend` it compares exact and sketched scores. */
class Probe {
  private readonly kernels: Kernels;
  /** [bits][layer][head] */
  private readonly curves: HeadCurves[][][];
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
        Array.from({ length: nHeads }, () => ({
          plain: new Float64Array(candidates.length),
          norm: new Float64Array(candidates.length),
        })),
      ),
    );
  }

  append(k: Tensor): void {
    this.keys = k;
  }

  attend(layer: number, q: Tensor): void {
    const { keys } = this;
    ensure(keys !== undefined, 'usage', () => 'calibrate: attend came before append.');
    const exact = this.scores(layer, q, keys);
    toWeights(exact);
    const { nHeads, headDimK } = this.model.layers[layer];
    const norms = rootMeanSquares(this.kernels.view(q) as Float32Array, nHeads, headDimK);
    this.bits.forEach((bits, i) => {
      const raw = this.scores(layer, q, keys, bits);
      const losses = (this.losses[i] ??= new Losses(bits));
      this.curves[i][layer].forEach((curves, head) => {
        losses.add(curves, exact, raw, norms, head);
      });
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
    const plain = layers.map((heads) => heads.map((curves) => curves.plain));
    return {
      bits,
      global: best(sum(plain.flat())),
      layer: plain.map((heads) => best(sum(heads))),
      head: plain.map((heads) => heads.map(best)),
      norm: layers.map((heads) => heads.map(({ norm }) => best(norm))),
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

/** Losses at one sketch width. Scores of sketches are integers of which few are possible: they are counted. */
class Losses {
  /** how many positions of a row are k steps of 2 below its best, [b + 1] */
  private readonly counts: Int32Array;

  constructor(private readonly bits: number) {
    this.counts = new Int32Array(bits + 1);
  }

  /**
   * Adds KL(p || softmax(r raw / (b T))) of every query of a head to its curves, less the entropy of p,
   * which no T changes: logsumexp(r s / T) - r sum_j p_j s_j / T with s = raw / b, and r = 1 in `plain`.
   * @param weights p; row i is defined up to column i, as that of raw @param norms r, [heads, n]
   */
  add(
    curves: HeadCurves,
    weights: ScoreTable,
    raw: ScoreTable,
    norms: Float32Array,
    head: number,
  ): void {
    const { counts } = this;
    const { n } = weights;
    for (let i = 1; i < n; i++) {
      const start = (head * n + i) * n;
      let [top, expected] = [-Infinity, 0];
      for (let j = start; j <= start + i; j++) {
        expected += weights.logits[j] * raw.logits[j];
        if (raw.logits[j] > top) top = raw.logits[j];
      }
      let last = 0;
      for (let j = start; j <= start + i; j++) {
        const step = (top - raw.logits[j]) / 2;
        counts[step]++;
        if (step > last) last = step;
      }
      this.addQuery(curves.plain, 1, top - expected, last);
      this.addQuery(curves.norm, norms[head * n + i], top - expected, last);
      counts.fill(0, 0, last + 1);
    }
  }

  /** @param below how far the expected raw score is below the best @param last highest step that was counted */
  private addQuery(curve: LossCurve, r: number, below: number, last: number): void {
    const { bits, counts } = this;
    for (let c = 0; c < candidates.length; c++) {
      const beta = r / (bits * candidates[c]);
      const step = Math.exp(-2 * beta);
      // Sum of counts[k] step^k, by Horner's rule.
      let mass = 0;
      for (let k = last; k >= 0; k--) mass = mass * step + counts[k];
      curve[c] += Math.log(mass) + below * beta;
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
