/** The same as in `adapted.ts` by right answers: what stands for the paper's benchmarks, and recall. */
import { chooseRunnable } from '../compare.ts';
import type { EvalResult } from '../task.ts';
import { candidates } from './adapted.ts';
import { isOurs, text, type Block } from './block.ts';
import { percent } from './format.ts';
import type { Section } from './section.ts';
import { askAll, rightAnswers, taskCommands, type Asked } from './tasks.ts';

export interface AdaptedTaskData {
  readonly methods: readonly { readonly label: string; readonly method: string }[];
  /** [tasks][methods] */
  readonly results: readonly (readonly EvalResult[])[];
}

const asked: readonly Asked[] = [
  { task: 'tiny-gsm', set: { max: 20 } },
  { task: 'tiny-mmlu' },
  { task: 'tiny-humaneval' },
  { task: 'kv-recall' },
];

export const section: Section<AdaptedTaskData> = {
  title: 'Exercises after fitting and finetuning',
  work: ({ model, settings: { items } }) => items * candidates(model).length * asked.length * 250,
  async run(context, _, onShare) {
    const all = candidates(context.model);
    const specs = all.map(({ method }) => method);
    const runnable = (await chooseRunnable(context.model, specs, 64)).methods;
    return {
      methods: all
        .filter(({ method }) => runnable.includes(method))
        .map(({ label, method }) => ({ label, method })),
      results: await askAll(context, asked, runnable, onShare),
    };
  },
  render({ methods, results }, context): Block[] {
    const specs = methods.map(({ method }) => method);
    return [
      text(
        `The caches of the section before, by right answers in percent ± one standard error: ${context.settings.items} exercises of each kind, the same for every cache, kept out of training. Guessing reaches ${results.map(([{ task, chance = 0 }]) => `${percent(chance)} (${task})`).join(', ')}.`,
      ),
      {
        kind: 'table',
        caption: 'Right answers after fitting and finetuning, % ± standard error',
        command: taskCommands(context, asked, specs),
        columns: [
          { title: 'what was adapted', words: true },
          { title: 'spec', words: true },
          ...asked.map(({ task }) => ({ title: task })),
        ],
        rows: methods.map(({ label, method }, i) => ({
          ours: isOurs(method),
          command: taskCommands(context, asked, [method]),
          cells: [label, method, ...results.map((own) => rightAnswers(own[i]))],
        })),
      },
    ];
  },
};
