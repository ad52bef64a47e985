/** Exercises with every cache: what stands for the paper's benchmarks, and finding what was read. */
import { chooseRunnable } from '../compare.ts';
import { evaluate, type Journal } from '../evaluate.ts';
import type { EvalResult } from '../task.ts';
import { text, type Block } from './block.ts';
import { h1bkv } from './command.ts';
import { dotRows } from './dot-rows.ts';
import { percent } from './format.ts';
import { paperTasks } from './paper.ts';
import { textFlags, type OnShare, type ReportContext } from './context.ts';
import type { Section } from './section.ts';

export interface TaskData {
  readonly methods: readonly string[];
  /** [tasks][methods] */
  readonly results: readonly (readonly EvalResult[])[];
}

export interface Asked {
  readonly task: string;
  /** has prose around it, and so a length */
  readonly prose?: true;
  /** settings of the skill that are not its own */
  readonly set?: Readonly<Record<string, number>>;
}

const asked: readonly Asked[] = [
  { task: 'tiny-gsm', set: { max: 20 } },
  { task: 'tiny-mmlu' },
  { task: 'tiny-humaneval' },
  { task: 'passkey', prose: true },
  { task: 'needle', prose: true },
  { task: 'kv-recall' },
  { task: 'copy', prose: true },
  { task: 'var-track', prose: true },
];

const methods = [
  ...['f16', 'kivi:2', 'sparse:budget=0.125', 'minicache', 'loki', 'h1b', 'h1b:b=128'],
  ...['bitplane', 'bitplane-small'],
];

const defaultLength = 1024;

export const section: Section<TaskData> = {
  title: 'Exercises',
  work: ({ settings: { items, length = defaultLength } }) =>
    items * methods.length * asked.reduce((sum, { prose }) => sum + (prose ? length : 250), 0),
  async run(context, _, onShare) {
    const runnable = (await chooseRunnable(context.model, methods, 64)).methods;
    const results = await askAll(context, asked, runnable, onShare);
    return { methods: runnable, results };
  },
  render(data, context): Block[] {
    const { methods, results } = data;
    const command = taskCommands(context, asked, methods);
    return [
      text(
        `${context.settings.items} exercises of each kind, the same for every cache, kept out of training; right answers in percent ± one standard error. Chance is what guessing would reach: where f16 is no better than chance, a row says nothing of a cache. The first three are small cousins of GSM8K, MMLU and HumanEval, made for a model of this size; the paper's figures are of a 7B model on the benchmarks themselves.`,
      ),
      {
        kind: 'chart',
        name: 'tasks',
        caption:
          'Right answers in percent, with standard errors; the tick is chance. A row for each task and cache.',
        command,
        draw: (width) =>
          dotRows(
            results.flatMap((own) =>
              own.map(({ task, method, accuracy = 0, accuracyStderr = 0, chance = 0 }, i) => ({
                label: method,
                method,
                ...(i === 0 && { heading: task }),
                mark: 100 * chance,
                dots: [
                  {
                    value: 100 * accuracy,
                    low: 100 * Math.max(0, accuracy - accuracyStderr),
                    high: 100 * Math.min(1, accuracy + accuracyStderr),
                    note: `${task}, ${method}: ${percent(accuracy)} ± ${percent(accuracyStderr)}`,
                  },
                ],
              })),
            ),
            {
              ...{ width, log: false, title: 'right answers, %', columns: width > 600 ? 2 : 1 },
              range: [0, 100],
              format: String,
            },
          ),
      },
      {
        kind: 'table',
        caption: 'Right answers, % ± standard error',
        command,
        columns: [
          { title: 'task', words: true },
          { title: 'chance' },
          ...methods.map((title) => ({ title })),
        ],
        rows: results.map((own, i) => ({
          command: taskCommands(context, [asked[i]], methods),
          cells: [
            own[0].length === undefined ? own[0].task : `${own[0].task}, ${own[0].length} tokens`,
            percent(own[0].chance ?? 0),
            ...own.map(rightAnswers),
          ],
        })),
      },
      paperTable(methods),
    ];
  },
};

function paperTable(methods: readonly string[]): Block {
  const known = Object.entries(paperTasks);
  const shown = methods.filter((method) =>
    known.some(([, { right }]) => right[method] !== undefined),
  );
  return {
    kind: 'table',
    caption:
      'The benchmarks themselves on a 7B model, right answers in percent: reported by the paper, not repeated here',
    command: 'arXiv 2510.05529',
    columns: [
      { title: 'benchmark', words: true, paper: true },
      { title: 'our cousin', words: true },
      ...shown.map((title) => ({ title, paper: true as const })),
    ],
    rows: known.map(([task, { benchmark, right }]) => ({
      cells: [benchmark, task, ...shown.map((method) => right[method]?.toFixed(1) ?? '')],
    })),
  };
}

/** @returns [tasks][methods] @param methods all of which can run */
export async function askAll(
  context: ReportContext,
  tasks: readonly Asked[],
  methods: readonly string[],
  onShare: OnShare,
): Promise<EvalResult[][]> {
  const { model, texts, settings, instruments, journal } = context;
  const results: EvalResult[][] = [];
  for (const [i, { task, prose, set = {} }] of tasks.entries()) {
    const evalContext = {
      ...{ model, texts, shuffled: texts.every(({ path }) => path === undefined) },
      runPython: instruments.runPython,
      settings: {
        ...{ methods, seed: settings.seed, set, limit: settings.items },
        ...(prose && settings.length !== undefined && { lengths: [settings.length] }),
      },
    };
    const own = await evaluate([task], evalContext, {
      ...(journal && { journal: named(journal, `tasks ${JSON.stringify(methods)}`) }),
      onProgress: (done, total) => onShare((i + done / total) / tasks.length),
    });
    results.push(own);
  }
  return results;
}

export const rightAnswers = ({ accuracy = 0, accuracyStderr = 0 }: EvalResult) =>
  `${(100 * accuracy).toFixed(0)} ± ${(100 * accuracyStderr).toFixed(0)}`;

/** One for each task. */
export function taskCommands(
  context: ReportContext,
  tasks: readonly Asked[],
  specs: readonly string[],
): string {
  const { settings, modelFlag, adapterFlag } = context;
  const command = ({ task, prose, set = {} }: Asked) =>
    h1bkv(
      'eval',
      ['--task', task],
      ['--model', modelFlag],
      ['--adapter', adapterFlag],
      ...textFlags(context),
      ['--limit', settings.items],
      ['--seed', settings.seed],
      ['--length', prose ? settings.length : undefined],
      ...Object.entries(set).map(([name, value]) => ['--set', `${name}=${value}`] as const),
      ['--cache', specs.join(' ')],
    );
  return tasks.map(command).join('\n');
}

/** A journal whose entries belong to one part of the report. */
const named = (journal: Journal, part: string): Journal => ({
  find: (task, unit) => journal.find(`${part} ${task}`, unit),
  append: (task, unit, result) => journal.append(`${part} ${task}`, unit, result),
});
