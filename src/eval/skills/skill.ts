/**
 * What the embedded model is taught and what any model can be asked: exercises drawn from seeds.
 * Training and evaluation draw from the same skills but never the same instance.
 */
import { Random } from '../../math/random.ts';

/**
 * A part of an exercise, in reading order.
 * - `text` is given.
 * - `filler` stands for prose that the user of the exercise supplies (book text), in whole
 *   paragraphs; `share` is the part of all filler that stands here. The shares of an exercise sum to 1.
 * - `answer` is what a model must write. Where there are several, all but the last are for training.
 */
export type Piece =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'filler'; readonly share: number }
  | { readonly kind: 'answer'; readonly text: string };

/** How an answer is judged; `choices` compares the probabilities of the texts given. */
export type Judge =
  | { readonly kind: 'exact'; readonly stop: string }
  | { readonly kind: 'choices'; readonly choices: readonly string[] }
  | { readonly kind: 'last-number'; readonly stop: string }
  | { readonly kind: 'last-letter'; readonly stop: string }
  | { readonly kind: 'python'; readonly stop: string; readonly tests: string };

export interface Exercise {
  readonly pieces: readonly Piece[];
  /** judges the last answer */
  readonly judge: Judge;
  /** share of exercises like this that guessing gets right, 0 to 1 */
  readonly chance: number;
}

export type Split = 'train' | 'held-out';

/** Numbers that say how hard an exercise is, such as `pairs` or `hops`. */
export type Settings = Readonly<Record<string, number>>;

export interface Skill {
  /** one line for lists and help */
  readonly summary: string;
  /** what evaluation uses where nothing else is asked: one question, full difficulty */
  readonly settings: Settings;
  /** settings for one training exercise: all difficulties, and several questions on one context */
  vary(draw: Draw): Settings;
  make(draw: Draw, settings: Settings): Exercise;
}

/** A source of random choices that keeps to one split. */
export class Draw {
  private readonly random: Random;

  constructor(
    private readonly split: Split,
    seed: number,
  ) {
    this.random = new Random(seed);
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.random.uniform();
  }

  /** Whole number from `min` to `max`, both included. */
  int(min: number, max: number): number {
    return min + Math.floor(this.random.uniform() * (max - min + 1));
  }

  pick<T>(from: readonly T[]): T {
    return from[this.int(0, from.length - 1)];
  }

  /** `count` different elements, in random order. */
  sample<T>(from: readonly T[], count: number): T[] {
    const left = [...from];
    return Array.from({ length: count }, () => left.splice(this.int(0, left.length - 1), 1)[0]);
  }

  shuffle<T>(all: readonly T[]): T[] {
    return this.sample(all, all.length);
  }

  /**
   * Draws until the instance belongs to this split. One in eight instances is held out, by a hash
   * of its text, so that a change elsewhere never moves an instance from one split to the other.
   * @param key the instance as text: what is asked and every value in it
   */
  fresh<T>(make: () => T, key: (instance: T) => string): T {
    for (;;) {
      const instance = make();
      if (splitOf(key(instance)) === this.split) return instance;
    }
  }
}

/** FNV-1a (Fowler, Noll, Vo) of the UTF-16 units, finished by a multiply and shift. */
export function splitOf(key: string): Split {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193);
  return Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 29 === 0 ? 'held-out' : 'train';
}

/** Exercise number `index` of a skill and split: the same arguments always give the same one. */
export function exercise(
  skill: Skill,
  split: Split,
  seed: number,
  index: number,
  settings?: Settings,
): Exercise {
  const draw = new Draw(split, Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  return skill.make(draw, settings ?? (split === 'train' ? skill.vary(draw) : skill.settings));
}
