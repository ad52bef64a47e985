/** A whole document on one model: the paper's tables, its figures beside ours, and what holds of its claims. */
import { ensure } from '../../errors/errors.ts';
import type { LayerShape } from '../../cache/cache.ts';
import type { Model } from '../../model/model.ts';
import type { ModelShape, ShapeName } from '../../model/shapes.ts';
import type { Journal } from '../evaluate.ts';
import type { EvalText, RunPython } from '../task.ts';
import type { AblationData } from './ablations.ts';
import type { Block } from './block.ts';
import { h1bkv } from './command.ts';
import { measure, workOfMeasuring, type Measured } from './measure.ts';
import type { PlannedData } from './planned.ts';
import type { QualityData } from './quality.ts';
import type { TaskData } from './tasks.ts';
import type { TimeData } from './time.ts';
import type { TradeData } from './trade.ts';
import type { VerdictData } from './verdict.ts';

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
  readonly texts: readonly ReportText[];
  readonly settings: ReportSettings;
  readonly instruments: Instruments;
  /** a model of the paper's size and one with grouped queries */
  readonly shapes: readonly ShapeName[];
  readonly journal?: Journal;
}

/** What sections found; a section that was not asked for left nothing. */
export interface ReportData {
  measured?: Measured;
  quality?: QualityData;
  planned?: PlannedData;
  tasks?: TaskData;
  time?: TimeData;
  ablations?: AblationData;
  trade?: TradeData;
  verdict?: VerdictData;
}

export type SectionName = Exclude<keyof ReportData, 'measured'>;

/** Called with the share of a section's work that is done, 0 to 1, and where it is in it. */
export type OnShare = (share: number, detail?: string) => void;

export interface Section<Name extends SectionName = SectionName> {
  readonly title: string;
  /** Specs that it wants measured on the texts; all sections' are measured in one pass. */
  readonly specs?: (context: ReportContext) => readonly string[];
  /** Tokens that go through the model, about: what the time left is guessed from. */
  readonly work?: (context: ReportContext) => number;
  /** @param data of the sections before it */
  readonly run: (
    context: ReportContext,
    data: Readonly<ReportData>,
    onShare: OnShare,
  ) => Promise<NonNullable<ReportData[Name]>>;
  /** The section's content. Numbers come from the data; JSON has the same. */
  readonly render: (
    data: NonNullable<ReportData[Name]>,
    context: ReportContext,
    all: Readonly<ReportData>,
  ) => readonly Block[];
}

export type Sections = { readonly [Name in SectionName]: Section<Name> };

/** @throws KvError "usage" if a name is none of a section */
export function chooseSections(names: readonly string[], all: Sections): SectionName[] {
  const known = Object.keys(all) as SectionName[];
  const unknown = names.find((name) => !known.includes(name as SectionName));
  ensure(
    unknown === undefined,
    'usage',
    () => `report: section "${unknown}" is unknown; there are ${known.join(', ')}.`,
  );
  return known.filter((name) => names.includes(name));
}

export interface RunOptions {
  /**
   * @param done of `total`, in units of work that only their ratio gives a meaning
   * @param what is being worked on: a section, and sometimes a place in it
   */
  readonly onProgress?: (done: number, total: number, what: string) => void;
}

/** Measures what the sections want, then runs them in order. */
export async function runReport(
  names: readonly SectionName[],
  sections: Sections,
  context: ReportContext,
  { onProgress }: RunOptions = {},
): Promise<ReportData> {
  const specs = [...new Set(names.flatMap((name) => sections[name].specs?.(context) ?? []))];
  const measuring = specs.length > 0 ? workOfMeasuring(context, specs.length) : 0;
  const works = names.map((name) => sections[name].work?.(context) ?? 0);
  const total = Math.max(
    1,
    works.reduce((a, b) => a + b, measuring),
  );
  let done = 0;
  const watch = (work: number, what: string): OnShare => {
    onProgress?.(done, total, what);
    return (share, detail) =>
      onProgress?.(done + share * work, total, detail === undefined ? what : `${what}, ${detail}`);
  };
  const data: ReportData = {};
  if (specs.length > 0) {
    data.measured = await measure(context, specs, watch(measuring, 'measuring on the texts'));
    done += measuring;
  }
  for (const [i, name] of names.entries()) {
    await runSection(name, sections, context, data, watch(works[i], name));
    done += works[i];
  }
  onProgress?.(total, total, 'done');
  return data;
}

async function runSection<Name extends SectionName>(
  name: Name,
  sections: Sections,
  context: ReportContext,
  data: ReportData,
  onShare: OnShare,
): Promise<void> {
  const section: Section<Name> = sections[name];
  data[name] = (await section.run(context, data, onShare)) as ReportData[Name];
}

export interface RenderedSection {
  readonly name: SectionName;
  readonly title: string;
  readonly blocks: readonly Block[];
}

/** Sections with data, as blocks; the verdict comes first. */
export function renderReport(
  data: Readonly<ReportData>,
  sections: Sections,
  context: ReportContext,
): RenderedSection[] {
  const names = Object.keys(sections) as SectionName[];
  const order = [...names].sort((a, b) => Number(b === 'verdict') - Number(a === 'verdict'));
  return order.flatMap((name) => {
    const blocks = renderSection(name, data, sections, context);
    return blocks ? [{ name, title: sections[name].title, blocks }] : [];
  });
}

function renderSection<Name extends SectionName>(
  name: Name,
  data: Readonly<ReportData>,
  sections: Sections,
  context: ReportContext,
): readonly Block[] | undefined {
  const section: Section<Name> = sections[name];
  const own = data[name];
  return own && section.render(own as NonNullable<ReportData[Name]>, context, data);
}

/** The command that makes a part of the report alone. */
export function sectionCommand(name: SectionName, context: ReportContext): string {
  const { settings } = context;
  return h1bkv(
    'report',
    ['--sections', name],
    ['--model', context.modelFlag],
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
