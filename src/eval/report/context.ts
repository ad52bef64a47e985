/** What a report is made of and with: the model, the texts, the settings, and what other rooms measure. */
import type { LayerShape } from '../../cache/cache.ts';
import type { Model } from '../../model/model.ts';
import type { ModelShape, ShapeName } from '../../model/shapes.ts';
import type { Journal } from '../evaluate.ts';
import type { EvalText, RunPython } from '../task.ts';
import { h1bkv } from './command.ts';

export interface ReportText extends EvalText {
  /** what --text was given; undefined for the text that comes with the program */
  readonly path?: string;
}

/** Everything that decides a result, beside model, texts and the sections' own lists of specs. */
export interface ReportSettings {
  /** positions of a window */
  readonly context: number;
  /** positions from here on count for KL */
  readonly beyond: number;
  /** windows of each text */
  readonly limit: number;
  /** seeds averaged where a method has one */
  readonly seeds: number;
  /** exercises of each task */
  readonly items: number;
  /** of exercises */
  readonly seed: number;
  /** prompt tokens of exercises with prose; default: that of `h1bkv eval` */
  readonly length?: number;
  /** positions of the cache whose attention is timed */
  readonly depth: number;
}

/** What other rooms measure; the caller brings it, since this room does not import them. */
export interface Instruments {
  /** bytes of a cache, from the planner */
  readonly plannedBytes: (
    spec: string,
    layers: readonly LayerShape[],
    positions: number,
  ) => Promise<number>;
  /**
   * one token's attention in all layers at a depth, milliseconds, in the order of `specs`: the median
   * of so many turns on random keys and values, in a few layers whose time is scaled to all
   */
  readonly attentionMs: (
    shape: ModelShape,
    specs: readonly string[],
    options: {
      readonly depth: number;
      readonly turns: number;
      readonly onPhase: (what: string, done: number, total: number) => void;
    },
  ) => Promise<readonly { readonly attendMs: number; readonly bytes: number }[]>;
  /** what all threads together read from memory, 10^9 bytes a second */
  readonly memoryGigabytes: () => Promise<number>;
  readonly runPython: RunPython;
}

export interface ReportContext {
  readonly model: Model;
  /** what --model was given; undefined for the embedded one */
  readonly modelFlag?: string;
  /** what --adapter was given, if it was */
  readonly adapterFlag?: string;
  readonly texts: readonly ReportText[];
  readonly settings: ReportSettings;
  readonly instruments: Instruments;
  /** a model of the paper's size and one with grouped queries */
  readonly shapes: readonly ShapeName[];
  readonly journal?: Journal;
}

/** Called with the share of a section's work that is done, 0 to 1, and where it is in it. */
export type OnShare = (share: number, detail?: string) => void;

/** The command that makes a part of the report alone. */
export function sectionCommand(name: string, context: ReportContext): string {
  const { settings } = context;
  return h1bkv(
    'report',
    ['--sections', name],
    ['--model', context.modelFlag],
    ['--adapter', context.adapterFlag],
    ...textFlags(context),
    ['--context', settings.context],
    ['--beyond', settings.beyond],
    ['--limit', settings.limit],
    ['--seeds', settings.seeds],
    ['--items', settings.items],
    ['--seed', settings.seed],
    ['--length', settings.length],
    ['--depth', settings.depth],
  );
}

export const textFlags = ({ texts }: Pick<ReportContext, 'texts'>) =>
  texts.map(({ path }) => ['--text', path] as const);
