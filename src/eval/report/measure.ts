/** Every spec that a section asks for, on every text, in one pass. */
import { ensure } from '../../errors/errors.ts';
import { chooseRunnable, type LeftOut } from '../compare.ts';
import { runIdentity, type Journal } from '../evaluate.ts';
import { prepare } from '../perplexity.ts';
import type { Figures, HeldBytes, TaskContext } from '../task.ts';
import { windowsOf } from '../windows.ts';
import { h1bkv } from './command.ts';
import { textFlags, type OnShare, type ReportContext } from './context.ts';

/** Figures over all positions, and over those past the window's `beyond`. */
export interface TextFigures extends Figures {
  readonly beyond: Figures;
}

export interface MeasuredRow {
  readonly method: string;
  readonly spec: string;
  readonly seeds: number;
  /** of the cache at the end of a window */
  readonly bytes: HeldBytes;
  readonly bytesPerToken: number;
  /** bits of all that is held, per element of keys and values */
  readonly bitsPerElement: number;
  /** over all texts together */
  readonly all: TextFigures;
  /** by text */
  readonly texts: readonly TextFigures[];
}

export interface Measured {
  readonly context: number;
  readonly beyond: number;
  /** windows of each text */
  readonly windows: readonly number[];
  readonly rows: readonly MeasuredRow[];
  /** specs that say the same as one that was measured, and which */
  readonly sameAs: Readonly<Record<string, string>>;
  readonly leftOut: readonly LeftOut[];
}

/** The row of a spec, or of one with the same full form. */
export function rowOf(measured: Measured | undefined, spec: string): MeasuredRow | undefined {
  const method = measured?.sameAs[spec] ?? spec;
  return measured?.rows.find((row) => row.method === method);
}

export const workOfMeasuring = (
  { settings: { context, limit, seeds }, texts }: ReportContext,
  specs: number,
) => context * limit * texts.length * specs * (1 + (seeds - 1) / 3);

/**
 * Windows are read once by all caches side by side. Texts take turns, as `windowsOf` orders them, so
 * that the figures of all together are those of `h1bkv compare` with the same flags.
 */
export async function measure(
  context: ReportContext,
  specs: readonly string[],
  onShare: OnShare,
): Promise<Measured> {
  const { model, texts, settings } = context;
  const { limit, seeds, beyond } = settings;
  const perText = texts.map((text) => {
    const windows = windowsOf(model, [text], {
      methods: [],
      seed: 1,
      set: {},
      context: settings.context,
    });
    ensure(
      windows[0].ids.length > beyond + 1,
      'usage',
      () =>
        `report: ${text.name} has ${windows[0].ids.length} tokens, and nothing lies beyond position ${beyond}. Give a longer text, or a smaller --context.`,
    );
    return Math.min(limit, windows.length);
  });
  const { methods, leftOut, sameAs } = await chooseRunnable(model, specs, settings.context);
  const taskContext: TaskContext = {
    model,
    texts,
    shuffled: false,
    settings: {
      ...{ methods, seed: 1, set: {}, context: settings.context, alsoBeyond: beyond, seeds },
      limit: perText.reduce((sum, count) => sum + count, 0),
    },
  };
  const task = await prepare(taskContext);
  const key = `measure ${JSON.stringify(methods)}`;
  const units: Awaited<ReturnType<typeof task.run>>[] = [];
  for (let index = 0; index < task.units; index++) {
    units.push(await resumed(context.journal, key, index, () => task.run(index)));
    onShare((index + 1) / task.units);
  }
  const owners = turns(perText);
  const all = task.summarize(units);
  const each = texts.map((_, text) => task.summarize(units.filter((_, i) => owners[i] === text)));
  const elements = model.layers.reduce(
    (sum, { nKvHeads, headDimK, headDimV }) => sum + nKvHeads * (headDimK + headDimV),
    0,
  );
  return {
    context: settings.context,
    beyond,
    windows: perText,
    rows: all.map((result, i): MeasuredRow => {
      const { method, spec, bytesPerToken, seeds = 1, bytes } = result;
      return {
        ...{ method, spec, seeds, bytesPerToken },
        // The perplexity task gives bytes and figures beyond, since it was asked for them.
        bytes: bytes as HeldBytes,
        bitsPerElement: (8 * bytesPerToken) / elements,
        all: result as unknown as TextFigures,
        texts: each.map((rows) => rows[i] as unknown as TextFigures),
      };
    }),
    sameAs: Object.fromEntries(sameAs),
    leftOut,
  };
}

/** The text of each window where the first ones of all texts come first, then the second ones. */
function turns(windows: readonly number[]): number[] {
  return Array.from({ length: Math.max(...windows) }, (_, round) =>
    windows.flatMap((count, text) => (count > round ? [text] : [])),
  ).flat();
}

/** A unit from the journal, or worked on and written there. */
export async function resumed<T>(
  journal: Journal | undefined,
  task: string,
  unit: number,
  work: () => Promise<T>,
): Promise<T> {
  const found = journal?.find(task, unit) as T | undefined;
  if (found !== undefined) return found;
  const result = await work();
  journal?.append(task, unit, result);
  return result;
}

/** Everything that the units of a report depend on; its sections may differ from call to call. */
export async function reportIdentity({ model, texts, settings }: ReportContext) {
  const none = { methods: [], seed: settings.seed, set: {} };
  const plain = texts.map(({ name, text }) => ({ name, text }));
  const identity = { model, texts: plain, shuffled: false, settings: none };
  return { ...(await runIdentity(['report'], identity)), ...settings };
}

/** The command that measures these specs, on one text or on all together. */
export function compareCommand(
  context: ReportContext,
  specs: readonly string[],
  text?: number,
): string {
  const { settings, texts, modelFlag, adapterFlag } = context;
  const used = text === undefined ? texts : texts.slice(text, text + 1);
  return h1bkv(
    'compare',
    ['--model', modelFlag],
    ['--adapter', adapterFlag],
    ...textFlags({ texts: used }),
    ['--context', settings.context],
    ['--beyond', settings.beyond],
    ['--limit', settings.limit * used.length],
    ['--seeds', settings.seeds],
    ['--cache', specs.join(' ')],
  );
}
