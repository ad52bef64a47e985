/** What every evaluation is to the code that runs it, and what comes out. */
import type { CacheBytes } from '../cache/cache.ts';
import type { Model } from '../model/model.ts';
import type { Interval } from './bootstrap.ts';

/** Bytes of a cache at the end of a window; scratch depends on the size of the steps. */
export type HeldBytes = Omit<CacheBytes, 'scratch'>;

/** A text to measure on, or to take prose from. */
export interface EvalText {
  readonly name: string;
  readonly text: string;
}

/** Everything that decides a result, beside the model and the texts. */
export interface EvalSettings {
  /** specs of the caches to measure; each is compared with `f16` */
  readonly methods: readonly string[];
  /** positions of a window; default: the model's context, at most 2048 */
  readonly context?: number;
  /** distance from one window to the next; default: `context`, so that none overlap */
  readonly stride?: number;
  /** positions of a window before this one are not scored; default 0 */
  readonly beyond?: number;
  /** positions of a window from this one on are also scored apart */
  readonly alsoBeyond?: number;
  /**
   * A cache that draws its codebooks from a seed is run with this many seeds, 0 and up, and their
   * figures are averaged; default: as the spec says
   */
  readonly seeds?: number;
  /** windows, exercises of each row or items of a data set's part; default: all, but 100 exercises */
  readonly limit?: number;
  readonly seed: number;
  /** settings of exercises that replace the skill's own */
  readonly set: Readonly<Record<string, number>>;
  /** prompt tokens of exercises with filler, one row each; default 1024 or what fits */
  readonly lengths?: readonly number[];
  /** 0 to 1: where in the filler the answer stands, one row each; default: anywhere */
  readonly depths?: readonly number[];
}

export type RunPython = (
  code: string,
  options: { timeoutMs: number },
) => Promise<{ ok: boolean; error?: string }>;

export interface TaskContext {
  readonly model: Model;
  readonly texts: readonly EvalText[];
  /** Paragraphs in random order, for a text too short to be read on from a random place. */
  readonly shuffled: boolean;
  readonly settings: EvalSettings;
  /** Files of the data sets that tasks read, by the name of the task. */
  readonly data?: Readonly<Record<string, readonly EvalText[]>>;
  /** Runs what a model wrote; needed by tasks whose answers are programs. */
  readonly runPython?: RunPython;
}

/** How well a cache predicts a text, over all scored positions of some windows. */
export interface Figures {
  /** scored positions */
  readonly tokens: number;
  readonly perplexity: number;
  readonly perplexityStderr?: number;
  /** perplexity / that of f16, from paired differences */
  readonly perplexityRatio: number;
  readonly perplexityRatioInterval?: Interval;
  /** mean KL(f16 || method), nats */
  readonly kl: number;
  readonly klInterval?: Interval;
  /** 99.9 % quantile */
  readonly kl999: number;
  /** share of positions where f16 puts the same token first */
  readonly top1: number;
  /** quality per byte as the H1B-KV paper defines it: 1000 / (perplexity x MB of the cache) */
  readonly qpb: number;
  /** smallest and largest of the seeds, where there are several */
  readonly seedSpread?: { readonly perplexityRatio: Interval; readonly kl: Interval };
}

/** One row of the report. Which fields there are depends on the task; see docs/cli.md. */
export interface EvalResult extends Partial<Figures> {
  readonly task: string;
  /** the caller's spec, and its full form */
  readonly method: string;
  readonly spec: string;
  /** scored positions, or tokens read and written */
  readonly tokens: number;
  readonly windows?: number;
  readonly context?: number;
  /** seeds that were averaged, if the settings ask for seeds */
  readonly seeds?: number;
  /** the figures over positions from `from` on */
  readonly beyond?: Figures & { readonly from: number };
  readonly items?: number;
  readonly accuracy?: number;
  readonly accuracyStderr?: number;
  readonly passAt1?: number;
  /** of programs: the share of problems that one of k attempts solves, by k */
  readonly passAt?: Readonly<Record<string, number>>;
  /** where answers are read in a second, more forgiving way */
  readonly accuracyFlexible?: number;
  readonly accuracyFlexibleStderr?: number;
  /** the part of the data set that this row is about */
  readonly subject?: string;
  /** solved examples in a prompt, and items whose prompt had no room for all of them */
  readonly shots?: number;
  readonly shortened?: number;
  readonly chance?: number;
  readonly length?: number;
  readonly depth?: number;
  /** bytes of the cache / positions it holds, at the end of a window or exercise */
  readonly bytesPerToken: number;
  /** what those bytes are, of the whole cache */
  readonly bytes?: HeldBytes;
  readonly seconds: number;
}

/**
 * An evaluation cut into units that do not depend on each other, so that a run can stop after any
 * of them and go on later. `Unit` is what one leaves behind: JSON, the same after writing and
 * reading.
 */
export interface Task<Unit = unknown> {
  readonly units: number;
  /** fields of `EvalSettings` that it heeds, such as `context` or `set.pairs` */
  readonly heeds: readonly string[];
  /** Works on one unit with every method. */
  run(index: number): Promise<Unit>;
  /** @param units of all indices, in order */
  summarize(units: readonly Unit[]): EvalResult[];
  /** Releases what is kept from one unit to the next. */
  dispose?(): void;
}

/** What the file of a task exports. @throws KvError "usage" or "range" for settings it cannot serve */
export type PrepareTask = (context: TaskContext) => Promise<Task>;
