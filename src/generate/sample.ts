import { ensure, KvError } from '../errors/errors.ts';
import { Random } from '../math/random.ts';

/** How the next token is chosen. Applied in the order in which the fields stand here. */
export interface SampleOptions {
  /** > 1 makes tokens of the last `repeatLast` less likely (Keskar et al. 2019); 1 is off */
  readonly repeatPenalty?: number;
  /** default 64 */
  readonly repeatLast?: number;
  /** keep the k most likely tokens; 0 is off */
  readonly topK?: number;
  /** keep the fewest most likely tokens whose probabilities reach p; 1 is off */
  readonly topP?: number;
  /** keep tokens at least this fraction as likely as the most likely one; 0 is off */
  readonly minP?: number;
  /** 0 (the default) takes the most likely token */
  readonly temperature?: number;
  /** the same seed gives the same text; default 0 */
  readonly seed?: number;
}

/** Chooses token ids from logits; holds the random stream of one generation. */
export class Sampler {
  private readonly options: Required<SampleOptions>;
  private readonly random: Random;

  /** @throws KvError "usage" for an option out of range */
  constructor(options: SampleOptions = {}) {
    this.options = {
      repeatPenalty: options.repeatPenalty ?? 1,
      repeatLast: options.repeatLast ?? 64,
      topK: options.topK ?? 0,
      topP: options.topP ?? 1,
      minP: options.minP ?? 0,
      temperature: options.temperature ?? 0,
      seed: options.seed ?? 0,
    };
    checkOptions(this.options);
    this.random = new Random(this.options.seed);
  }

  /**
   * @param logits f32 [vocabSize]; changed in place by the repetition penalty
   * @param history token ids so far, newest last
   * @throws KvError "not-finite" if a logit is NaN or infinite
   */
  sample(logits: Float32Array, history: readonly number[]): number {
    const { repeatPenalty, temperature } = this.options;
    if (repeatPenalty !== 1) this.penalize(logits, history);
    const best = argmax(logits);
    if (temperature === 0) return best;
    return this.draw(this.candidates(logits, logits[best]), logits);
  }

  private penalize(logits: Float32Array, history: readonly number[]): void {
    const { repeatPenalty, repeatLast } = this.options;
    const recent = new Set(repeatLast > 0 ? history.slice(-repeatLast) : []);
    for (const id of recent) {
      logits[id] = logits[id] > 0 ? logits[id] / repeatPenalty : logits[id] * repeatPenalty;
    }
  }

  /** The ids that survive top-k, top-p and min-p, most likely first. */
  private candidates(logits: Float32Array, max: number): Int32Array {
    const { topK, topP, minP, temperature } = this.options;
    // 30 nats below the best at this temperature: all such tokens together stay under 1e-8.
    const floor = max - 30 * Math.max(1, temperature);
    let ids = inOrder(logits, floor);
    if (topK > 0) ids = ids.subarray(0, topK);
    if (topP < 1) {
      const total = ids.reduce((sum, id) => sum + Math.exp(logits[id] - max), 0);
      let mass = 0;
      const enough = ids.findIndex((id) => (mass += Math.exp(logits[id] - max)) >= topP * total);
      if (enough >= 0) ids = ids.subarray(0, enough + 1);
    }
    return minP > 0 ? ids.filter((id) => logits[id] - max >= Math.log(minP)) : ids;
  }

  private draw(ids: Int32Array, logits: Float32Array): number {
    const { temperature } = this.options;
    const weights = new Float64Array(ids.length);
    ids.forEach((id, i) => (weights[i] = Math.exp((logits[id] - logits[ids[0]]) / temperature)));
    let left = this.random.uniform() * weights.reduce((sum, w) => sum + w, 0);
    const chosen = weights.findIndex((weight) => (left -= weight) < 0);
    return ids[chosen < 0 ? ids.length - 1 : chosen];
  }
}

/**
 * Ids of the logits from `floor` on, largest first, the first of equals first. Logit and id make one
 * whole number, as typed arrays sort those natively; a comparison in JavaScript takes many times as long.
 */
function inOrder(logits: Float32Array, floor: number): Int32Array {
  const bits = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
  const keys = new BigUint64Array(logits.length);
  // Of each key the lower half, which stands first (little-endian), and the upper one.
  const halves = new Uint32Array(keys.buffer);
  let count = 0;
  for (let id = 0; id < logits.length; id++) {
    if (logits[id] < floor) continue;
    halves[2 * count] = id;
    // Bits of negative numbers grow as they fall; those of the others fall once they are turned over.
    halves[2 * count + 1] = bits[id] >= 2 ** 31 ? bits[id] : ~bits[id] & 0x7fffffff;
    count++;
  }
  keys.subarray(0, count).sort();
  return Int32Array.from({ length: count }, (_, i) => halves[2 * i]);
}

/** Index of the largest logit, the first of equals. @throws KvError "not-finite" */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    if (!Number.isFinite(logits[i])) {
      throw new KvError(
        'not-finite',
        `sample: the logit of token ${i} is ${logits[i]}. The model's weights or its input are damaged.`,
      );
    }
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

function checkOptions(options: Required<SampleOptions>): void {
  const limits: Record<keyof SampleOptions, { min: number; max: number; whole?: boolean }> = {
    repeatPenalty: { min: 0.01, max: 100 },
    repeatLast: { min: 0, max: 2 ** 31, whole: true },
    topK: { min: 0, max: 2 ** 31, whole: true },
    topP: { min: 0, max: 1 },
    minP: { min: 0, max: 1 },
    temperature: { min: 0, max: 100 },
    seed: { min: 0, max: 2 ** 32 - 1, whole: true },
  };
  for (const [name, { min, max, whole }] of Object.entries(limits)) {
    const value = options[name as keyof SampleOptions];
    ensure(
      value >= min && value <= max && (!whole || Number.isInteger(value)),
      'usage',
      () =>
        `sampling: ${name} is ${value}; it must be a ${whole ? 'whole ' : ''}number from ${min} to ${max}.`,
    );
  }
}
