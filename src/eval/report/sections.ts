import { section as ablations } from './ablations.ts';
import { section as planned } from './planned.ts';
import { section as quality } from './quality.ts';
import type { Sections } from './report.ts';
import { section as tasks } from './tasks.ts';
import { section as time } from './time.ts';
import { section as trade } from './trade.ts';
import { section as verdict } from './verdict.ts';

/** Every section, in the order of the document. To add one: one file that exports `section`, one row, and its field of `ReportData`. */
export const sections: Sections = { quality, planned, tasks, time, ablations, trade, verdict };
