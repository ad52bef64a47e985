/** A whole document on one model: the paper's tables, its figures beside ours, and what holds of its claims. */
import { ensure } from '../../errors/errors.ts';
import type { Block } from './block.ts';
import type { OnShare, ReportContext } from './context.ts';
import { measure, workOfMeasuring } from './measure.ts';
import type { ReportData, SectionName, Sections } from './sections.ts';

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
  const section: Sections[Name] = sections[name];
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
  const section: Sections[Name] = sections[name];
  const own = data[name];
  return own && section.render(own as NonNullable<ReportData[Name]>, context, data);
}
