import { section as ablations, type AblationData } from './ablations.ts';
import { section as adapted, type AdaptedData } from './adapted.ts';
import { section as adaptedTasks, type AdaptedTaskData } from './adapted-tasks.ts';
import { section as planned, type PlannedData } from './planned.ts';
import { section as quality, type QualityData } from './quality.ts';
import type { MeasuredTexts, Section } from './section.ts';
import { section as tasks, type TaskData } from './tasks.ts';
import { section as time, type TimeData } from './time.ts';
import { section as trade, type TradeData } from './trade.ts';
import { section as verdict, type VerdictData } from './verdict.ts';

/** What sections found; a section that was not asked for left nothing. */
export interface ReportData extends MeasuredTexts {
  quality?: QualityData;
  planned?: PlannedData;
  tasks?: TaskData;
  time?: TimeData;
  ablations?: AblationData;
  adapted?: AdaptedData;
  adaptedTasks?: AdaptedTaskData;
  trade?: TradeData;
  verdict?: VerdictData;
}

export type SectionName = Exclude<keyof ReportData, 'measured'>;

export type Sections = {
  readonly [Name in SectionName]: Section<NonNullable<ReportData[Name]>, ReportData>;
};

/** Every section, in the order of the document. To add one: one file that exports `section`, its row here and its field of `ReportData`. */
export const sections: Sections = {
  quality,
  planned,
  tasks,
  time,
  ablations,
  adapted,
  adaptedTasks,
  trade,
  verdict,
};
