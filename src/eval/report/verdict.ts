/** Each claim of the paper: whether it holds on this model, by the numbers of the other sections. */
import { howToTrain, type AdaptedData } from './adapted.ts';
import { ablatedRow, type AblationData, type AblationRow } from './ablations.ts';
import { text, type Block } from './block.ts';
import { change, megabytes, percent, shortName, small, times } from './format.ts';
import { rowOf, type MeasuredRow } from './measure.ts';
import {
  paperLarge,
  paperLeastWidth,
  paperQuality,
  paperTasks,
  paperTimes,
  paperUntuned,
} from './paper.ts';
import { plannedAt, type PlannedData } from './planned.ts';
import type { QualityData } from './quality.ts';
import type { MeasuredTexts, Section } from './section.ts';
import type { TaskData } from './tasks.ts';
import type { TimeData } from './time.ts';
import { sectionCommand, type ReportContext } from './context.ts';

/** The sections that it judges by. */
interface Judging {
  readonly quality: QualityData;
  readonly planned: PlannedData;
  readonly tasks: TaskData;
  readonly time: TimeData;
  readonly ablations: AblationData;
  readonly adapted: AdaptedData;
}

type Seen = MeasuredTexts & Partial<Judging>;

export type Finding = 'holds' | 'does not hold' | 'cannot be tested here';

export interface Judged {
  readonly claim: string;
  readonly finding: Finding;
  /** the numbers that say so */
  readonly because: string;
  /** the section that they come from */
  readonly section: keyof Judging;
}

export interface VerdictData {
  readonly claims: readonly Judged[];
}

/** One claim judged; undefined where its section was not run. */
type Claim = (data: Seen, context: ReportContext) => Judged | undefined;

const holdsIf = (condition: boolean): Finding => (condition ? 'holds' : 'does not hold');

/** Each text's name with what `show` says of it. */
const perText = ({ texts }: ReportContext, show: (text: number) => string) =>
  texts.map(({ name }, i) => `${show(i)} on ${shortName(name)}`).join(', ');

const ratiosOf = (row: MeasuredRow, context: ReportContext) =>
  perText(context, (i) => change(row.texts[i].perplexityRatio));

const worstRatio = ({ texts }: MeasuredRow) =>
  Math.max(...texts.map(({ perplexityRatio }) => perplexityRatio));

const bytesAt7B: Claim = ({ planned }) => {
  const bytes = plannedAt(planned, 'h1b');
  const f16 = plannedAt(planned, 'f16');
  const smallest = plannedAt(planned, 'h1b:b=128');
  if (!planned || !bytes || !f16 || !smallest) return undefined;
  const reported = paperLarge.h1b.megabytes;
  return {
    claim: `The cache of a 7B model takes ${reported} MB at 8k tokens, ${times(paperLarge.f16.megabytes / reported)} less than FP16.`,
    finding: holdsIf(smallest / 1e6 <= 1.05 * reported),
    because: `Built as described and counted for ${planned.shapes[0]}: ${megabytes(bytes)} MB with sketches of 256 bits, ${megabytes(smallest)} MB with 128, of f16's ${megabytes(f16)} MB: ${times(f16 / bytes)} and ${times(f16 / smallest)} less.`,
    section: 'planned',
  };
};

const perplexityKept: Claim = ({ measured, quality }, context) => {
  const row = rowOf(measured, 'h1b');
  if (!quality || !row) return undefined;
  const claimed = paperQuality.h1b.wikitext / paperQuality.f16.wikitext;
  return {
    claim: `Perplexity grows by ${change(claimed)} only (9.28 for 9.20 on the 60M model).`,
    finding: holdsIf(worstRatio(row) <= claimed),
    because: `h1b with its fitted temperatures: ${ratiosOf(row, context)}. At ${row.bitsPerElement.toFixed(2)} bits per element, top-1 agreement with f16 is ${percent(row.all.beyond.top1)}.`,
    section: 'quality',
  };
};

const bestQpb: Claim = ({ measured, quality }) => {
  const row = rowOf(measured, 'h1b');
  if (!quality || !row) return undefined;
  const rivals = Object.keys(paperQuality)
    .filter((spec) => spec !== 'h1b')
    .flatMap((spec) => rowOf(measured, spec) ?? [])
    .sort((a, b) => b.all.qpb - a.all.qpb);
  if (rivals.length < 2) return undefined;
  const [best] = rivals;
  return {
    claim: 'It has the highest quality per byte of all methods compared (20.35, the next 12.44).',
    finding: holdsIf(row.all.qpb > best.all.qpb),
    because: `QpB of h1b over all texts: ${row.all.qpb.toPrecision(4)}; the best of the paper's other methods is ${best.method} with ${best.all.qpb.toPrecision(4)}, in ${megabytes(best.bytes.total)} MB for ${megabytes(row.bytes.total)}.`,
    section: 'quality',
  };
};

const beatsKivi: Claim = ({ measured, quality }, context) => {
  const [row, kivi] = [rowOf(measured, 'h1b'), rowOf(measured, 'kivi:2')];
  if (!quality || !row || !kivi) return undefined;
  const isSmaller = row.bytes.total < kivi.bytes.total;
  return {
    claim:
      'Against KIVI at 2 bits it has both fewer bytes (5.3 MB for 8.4) and a lower perplexity (9.28 for 9.65).',
    finding: holdsIf(isSmaller && row.all.perplexityRatio < kivi.all.perplexityRatio),
    because: `h1b ${megabytes(row.bytes.total)} MB, ${ratiosOf(row, context)}; kivi:2 ${megabytes(kivi.bytes.total)} MB, ${ratiosOf(kivi, context)}, its exact window included.`,
    section: 'quality',
  };
};

const keysAlone: Claim = ({ measured, quality }, context) => {
  const row = rowOf(measured, 'loki');
  if (!quality || !row) return undefined;
  const claimed = paperQuality.loki.wikitext / paperQuality.f16.wikitext;
  return {
    claim: `Keys as 1-bit sketches beside f16 values cost ${change(claimed)} of perplexity.`,
    finding: holdsIf(worstRatio(row) <= claimed),
    because: `loki, the same sketches: ${ratiosOf(row, context)}.`,
    section: 'quality',
  };
};

const tuning: Claim = ({ ablations }) => {
  const [untuned, one, tuned] = ['h1b:t=1', 'h1b:t=global', 'h1b:t=head'].map((spec) =>
    ablatedRow(ablations, spec),
  );
  if (!untuned || !tuned) return undefined;
  const globally = one ? `, one for the model ${change(one.perplexityRatio)}` : '';
  return {
    claim: `The temperature has to be tuned: perplexity is ${paperUntuned} without it and ${paperQuality.h1b.wikitext} with it.`,
    finding: holdsIf(untuned.perplexityRatio > 1.05 * (one ?? tuned).perplexityRatio),
    because: `Perplexity to f16: ${change(untuned.perplexityRatio)} at t = 1${globally}, one for each head ${change(tuned.perplexityRatio)}.`,
    section: 'ablations',
  };
};

const sharpLoss: Claim = ({ ablations }) => {
  const rows = [32, 64, 128, 256].map((b) => ablatedRow(ablations, `h1b:b=${b},t=head`));
  if (!rows.every((row): row is AblationRow => row !== undefined)) return undefined;
  const steps = rows.slice(1).map((row, i) => rows[i].kl / row.kl);
  return {
    claim: `Quality falls sharply for sketches of fewer than ${paperLeastWidth} bits.`,
    // Sharp: halving the width costs clearly more there than it does above.
    finding: holdsIf(steps[0] > 1.25 * Math.max(...steps.slice(1))),
    because: `KL at b = 32, 64, 128, 256: ${rows.map(({ kl }) => small(kl)).join(', ')}. Halving b multiplies it by ${steps.map((step) => step.toFixed(2)).join(', ')}: a sharp loss would be a first factor clearly above the others.`,
    section: 'ablations',
  };
};

/** A loss of this share of right answers has to be visible before a task can say that there is none. */
const telling = 0.1;

/** A benchmark's cousin: whether h1b loses no more than the paper says it does, within two standard errors. */
const taskKept =
  (task: string): Claim =>
  ({ tasks }) => {
    const own = tasks?.results.find(([first]) => first.task === task);
    const [f16, h1b] = ['f16', 'h1b'].map((spec) => own?.find(({ method }) => method === spec));
    if (!f16 || !h1b) return undefined;
    const { benchmark, right } = paperTasks[task];
    const of = (result: typeof f16) => ({ chance: 0, accuracy: 0, accuracyStderr: 0, ...result });
    const [full, ours] = [of(f16), of(h1b)];
    const clear = full.accuracy - full.chance > 2 * Math.max(full.accuracyStderr, 0.01);
    const lost = full.accuracy - ours.accuracy;
    const error = Math.hypot(full.accuracyStderr, ours.accuracyStderr);
    const allowed = (right.f16 - right.h1b) / 100 + 2 * error;
    const numbers = `${task}: f16 ${percent(full.accuracy, 0)} ± ${percent(full.accuracyStderr, 0)}, h1b ${percent(ours.accuracy, 0)} ± ${percent(ours.accuracyStderr, 0)}, chance ${percent(full.chance, 0)}`;
    return {
      claim: `${benchmark} keeps its right answers: ${right.h1b} % for ${right.f16} %.`,
      finding:
        clear && (lost > allowed || 2 * error <= telling)
          ? holdsIf(lost <= allowed)
          : 'cannot be tested here',
      because: clear
        ? `${numbers}; a loss counts beyond two standard errors of the difference, ${percent(2 * error, 0)}, and without one these have to be at most ${percent(telling, 0)}.`
        : `${numbers}: the model itself is not clear of chance.`,
      section: 'tasks',
    };
  };

const eviction: Claim = ({ tasks }) => {
  const compared = (tasks?.results ?? []).flatMap((own) => {
    const at = (spec: string) => own.find(({ method }) => method === spec)?.accuracy;
    const [f16, sparse, h1b] = [at('f16'), at('sparse:budget=0.125'), at('h1b')];
    const clear = f16 !== undefined && f16 - (own[0].chance ?? 0) > 0.1;
    if (!clear || sparse === undefined || h1b === undefined) return [];
    return [{ task: own[0].task, f16, sparse, h1b }];
  });
  if (!tasks) return undefined;
  const mean = (pick: (each: (typeof compared)[number]) => number) =>
    compared.reduce((sum, each) => sum + pick(each), 0) / compared.length;
  const [full, sparse, h1b] = [mean((x) => x.f16), mean((x) => x.sparse), mean((x) => x.h1b)];
  return {
    claim:
      'Eviction at the same budget loses reasoning (GSM8K 15.7 % for 54.2 %), where H1B-KV does not.',
    finding:
      compared.length === 0
        ? 'cannot be tested here'
        : holdsIf(full - sparse > telling && full - h1b <= telling),
    because:
      compared.length === 0
        ? 'On no task is f16 clear of chance.'
        : `Mean right answers over ${compared.map(({ task }) => task).join(', ')}: f16 ${percent(full, 0)}, h1b ${percent(h1b, 0)}, sparse at an eighth of the tokens ${percent(sparse, 0)}.`,
    section: 'tasks',
  };
};

const faster: Claim = ({ time }) => {
  const rows = time?.parts.find(({ own }) => !own)?.rows;
  const f16 = rows?.find(({ method }) => method === 'f16');
  const h1b = rows?.find(({ method }) => method.startsWith('h1b:'));
  if (!time || !f16 || !h1b) return undefined;
  const claimed = paperTimes.f16.attentionMs / paperTimes.h1b.attentionMs;
  const measured = f16.attendMs / h1b.attendMs;
  return {
    claim: `Attention of a 7B model at 8k takes 11 ms instead of 41 (${times(claimed)}), loading the cache 3 instead of 25 (${times(paperTimes.f16.loadMs / paperTimes.h1b.loadMs)}).`,
    finding: holdsIf(measured >= claimed),
    because: `Not the paper's board but this machine, at ${time.depth} positions of ${time.parts[1].name}: attention ${f16.attendMs.toFixed(1)} ms with f16, ${h1b.attendMs.toFixed(1)} with h1b: ${times(measured)}. The bytes to load are ${times(f16.bytes / h1b.bytes)} fewer.`,
    section: 'time',
  };
};

/** What the paper calls a light finetuning. */
const lightShare = 1e-3;

const finetuned: Claim = ({ adapted }, context) => {
  if (!adapted) return undefined;
  const { rows, parameters } = adapted;
  const claimed = paperQuality.h1b.wikitext / paperQuality.f16.wikitext;
  // The paper's own method alone.
  const variants = rows.flatMap(({ trained, ...row }) =>
    trained === undefined || !row.method.startsWith('h1b:')
      ? []
      : [{ ...row, share: trained / parameters }],
  );
  const [light, heavy] = [true, false].map((isLight) =>
    variants.filter(({ share }) => share < lightShare === isLight),
  );
  const recovers = (list: typeof variants) => list.some((row) => row.worstRatio <= claimed);
  const left = variants.map(
    ({ method, share, worstRatio, gapClosed }) =>
      `${method}, ${percent(share, 3)} of the parameters trained: ${change(worstRatio)} on the text where it loses most${gapClosed === undefined ? '' : `, ${percent(gapClosed, 0)} of the gap closed`}`,
  );
  // Light ones decide; where there are none, more parameters that are not enough say that fewer are not.
  const tells = light.length > 0 || (heavy.length > 0 && !recovers(heavy));
  return {
    claim: 'Finetuning less than 0.1 % of the parameters is enough to recover what is lost.',
    finding: tells ? holdsIf(recovers(light)) : 'cannot be tested here',
    because:
      variants.length === 0
        ? `Nothing was trained for this model; ${howToTrain(context)} does it.`
        : `Recovered is what the paper is left with, ${change(claimed)}. ${left.join('; ')}.`,
    section: 'adapted',
  };
};

const untested: readonly Claim[] = [
  () => ({
    claim: 'A 7B model keeps its perplexity (5.15 for 5.05).',
    finding: 'cannot be tested here',
    because: 'No 7B model was run for this report: its bytes were counted, its text was not read.',
    section: 'planned',
  }),
];

const claims: readonly Claim[] = [
  ...[bytesAt7B, perplexityKept, bestQpb, beatsKivi, keysAlone, tuning, sharpLoss],
  ...Object.keys(paperTasks).map(taskKept),
  ...[eviction, faster, finetuned, ...untested],
];

export const section: Section<VerdictData, Seen> = {
  title: 'What holds of the paper’s claims',
  run: async (context, data) => ({
    claims: claims.flatMap((claim) => claim(data, context) ?? []),
  }),
  render({ claims }, context): Block[] {
    const count = (finding: Finding) => claims.filter((each) => each.finding === finding).length;
    return [
      text(
        `Of ${claims.length} claims ${count('holds')} hold on this model, ${count('does not hold')} do not, ${count('cannot be tested here')} cannot be tested here. Claims are the paper's, judgements and numbers ours: a small model says what a method does to attention, not what a large one would make of it.`,
      ),
      {
        kind: 'table',
        caption: 'Claims of arXiv 2510.05529, and the numbers that speak for or against them',
        command: sectionCommand('verdict', context).replace(' --sections verdict', ''),
        columns: [
          { title: 'the paper claims', words: true, paper: true },
          { title: 'on this model', words: true },
          { title: 'because', words: true },
        ],
        rows: claims.map(({ claim, finding, because, section }) => ({
          command: sectionCommand(section, context),
          cells: [claim, finding, because],
        })),
      },
    ];
  },
};
