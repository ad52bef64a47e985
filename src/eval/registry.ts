import { ensure } from '../errors/errors.ts';
import { skills } from './skills/registry.ts';
import type { PrepareTask } from './task.ts';

export interface TaskRow {
  readonly summary: string;
  /** whether it reads a data set that the user gives */
  readonly readsData?: true;
  readonly load: () => Promise<PrepareTask>;
}

/** Every task of `h1bkv eval`. To add one: one file that exports `prepare`, one row. */
export const evalTasks: Readonly<Record<string, TaskRow>> = {
  perplexity: {
    summary: 'perplexity, KL divergence from the f16 cache and top-1 agreement on texts',
    load: async () => (await import('./perplexity.ts')).prepare,
  },
  gsm8k: {
    summary: 'accuracy on the word problems of GSM8K, in steps after solved examples',
    readsData: true,
    load: async () => (await import('./gsm8k.ts')).prepare,
  },
  mmlu: {
    summary: 'accuracy on the questions of MMLU, by subject',
    readsData: true,
    load: async () => (await import('./mmlu.ts')).prepare,
  },
  humaneval: {
    summary: 'pass@k on the Python functions of HumanEval, run in a sandbox',
    readsData: true,
    load: async () => (await import('./humaneval.ts')).prepare,
  },
  lambada: {
    summary: 'accuracy on the last words of LAMBADA, and their perplexity',
    readsData: true,
    load: async () => (await import('./lambada.ts')).prepare,
  },
  ...Object.fromEntries(Object.entries(skills).map(([name, row]) => [name, skillRow(name, row)])),
};

function skillRow(name: string, row: (typeof skills)[string]): TaskRow {
  return {
    summary: `accuracy on exercises of the skill ${name}`,
    load: async () => {
      const [skill, { prepareExercises }] = await Promise.all([
        row.load(),
        import('./exercises.ts'),
      ]);
      return (context) => prepareExercises(name, skill, context);
    },
  };
}

/** @throws KvError "usage" if there is no such task */
export async function loadTask(name: string): Promise<PrepareTask> {
  ensure(
    Object.hasOwn(evalTasks, name),
    'usage',
    () => `eval: task "${name}" is unknown; there are ${Object.keys(evalTasks).join(', ')}.`,
  );
  return evalTasks[name].load();
}
