/** What a section of the report is to the code that runs it. */
import type { Block } from './block.ts';
import type { OnShare, ReportContext } from './context.ts';
import type { Measured } from './measure.ts';

/** What every section may read: the specs that all of them wanted, measured on the texts in one pass. */
export interface MeasuredTexts {
  measured?: Measured;
}

/** @typeParam Seen what it reads of the sections before it, beside what was measured on the texts */
export interface Section<Data, Seen extends MeasuredTexts = MeasuredTexts> {
  readonly title: string;
  /** Specs that it wants measured on the texts; all sections' are measured in one pass. */
  readonly specs?: (context: ReportContext) => readonly string[];
  /** Tokens that go through the model, about: what the time left is guessed from. */
  readonly work?: (context: ReportContext) => number;
  readonly run: (context: ReportContext, seen: Seen, onShare: OnShare) => Promise<Data>;
  /** The section's content. Numbers come from the data; JSON has the same. */
  readonly render: (data: Data, context: ReportContext, seen: Seen) => readonly Block[];
}
