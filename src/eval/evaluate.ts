import { ensure } from '../errors/errors.ts';
import { evalTasks, loadTask } from './registry.ts';
import type { EvalResult, EvalSettings, EvalText, TaskContext } from './task.ts';

/** Where finished units are kept, so that a run can be continued. */
export interface Journal {
  /** What a unit left behind; undefined if it has not been worked on. */
  find(task: string, unit: number): unknown;
  append(task: string, unit: number, result: unknown): void;
}

/** One of several processes that share the units of a run: number `index` of `of`, from 1. */
export interface Part {
  readonly index: number;
  readonly of: number;
}

export interface EvaluateOptions {
  readonly journal?: Journal;
  readonly onProgress?: (doneUnits: number, totalUnits: number) => void;
}

/**
 * Runs the tasks, unit by unit, and summarizes them.
 * @throws KvError "usage" or "range" for tasks and settings that cannot be served, before anything
 *   is run
 */
export async function evaluate(
  names: readonly string[],
  context: TaskContext,
  { journal, onProgress }: EvaluateOptions = {},
): Promise<EvalResult[]> {
  const tasks = await prepareTasks(names, context);
  const total = tasks.reduce((sum, { task }) => sum + task.units, 0);
  let done = 0;
  const results: EvalResult[] = [];
  for (const { name, task } of tasks) {
    const units: unknown[] = [];
    try {
      for (let index = 0; index < task.units; index++) {
        let unit = journal?.find(name, index);
        if (unit === undefined) {
          unit = await task.run(index);
          journal?.append(name, index, unit);
        }
        units.push(unit);
        onProgress?.(++done, total);
      }
    } finally {
      task.dispose?.();
    }
    results.push(...task.summarize(units));
  }
  return results;
}

/**
 * Works on every `part.of`-th unit of the tasks that the journal does not have yet. Once all parts are
 * done, `evaluate` finds all units in their journals.
 * @returns units of this part
 */
export async function evaluatePart(
  names: readonly string[],
  context: TaskContext,
  part: Part,
  { journal, onProgress }: EvaluateOptions & { readonly journal: Journal },
): Promise<number> {
  const tasks = await prepareTasks(names, context);
  const units = tasks.flatMap(({ name, task }) =>
    Array.from({ length: task.units }, (_, index) => ({ name, task, index })),
  );
  const own = units.filter((_, i) => i % part.of === part.index - 1);
  for (const [done, { name, task, index }] of own.entries()) {
    if (journal.find(name, index) === undefined) {
      journal.append(name, index, await task.run(index));
    }
    onProgress?.(done + 1, own.length);
  }
  return own.length;
}

async function prepareTasks(names: readonly string[], context: TaskContext) {
  checkData(names, context);
  const tasks = [];
  for (const name of names) {
    tasks.push({ name, task: await (await loadTask(name))(context) });
  }
  checkHeeded(
    context.settings,
    tasks.flatMap(({ task }) => task.heeds),
  );
  return tasks;
}

/** Data has to be for a task of the run that reads some. */
function checkData(names: readonly string[], { data = {} }: TaskContext): void {
  const readers = names.filter(
    (name) => Object.hasOwn(evalTasks, name) && evalTasks[name].readsData,
  );
  const idle = Object.keys(data).find((name) => !readers.includes(name));
  ensure(
    idle === undefined,
    'usage',
    () =>
      `eval: data for "${idle}"; tasks of this run that read data: ${readers.join(', ') || 'none'}. Name the task with --task, or leave the data out.`,
  );
}

/** Whatever is given has to mean something to a task of the run; the rest means something to all. */
function checkHeeded(settings: EvalSettings, heeded: readonly string[]): void {
  const { methods: _m, limit: _l, seed: _s, set, ...others } = settings;
  const given = [...Object.keys(others), ...Object.keys(set).map((key) => `set.${key}`)];
  const idle = given.find((key) => !heeded.includes(key));
  ensure(
    idle === undefined,
    'usage',
    () => `eval: no task of this run heeds ${idle}; what they heed: ${heeded.join(', ')}.`,
  );
}

/** Everything that the units of a run depend on, as JSON: two runs with the same may share them. */
export async function runIdentity(
  tasks: readonly string[],
  { model, texts, shuffled, settings, data }: TaskContext,
): Promise<Record<string, unknown>> {
  const hashes: Record<string, unknown> = {};
  for (const [task, files] of Object.entries(data ?? {})) hashes[task] = await hashed(files);
  return {
    model: model.hash,
    adapter: model.adapter ? await sha256(JSON.stringify(model.adapter)) : 'none',
    tasks,
    texts: await hashed(texts),
    ...(data && { data: hashes }),
    shuffled,
    ...settings,
  };
}

function hashed(files: readonly EvalText[]): Promise<{ name: string; sha256: string }[]> {
  return Promise.all(files.map(async ({ name, text }) => ({ name, sha256: await sha256(text) })));
}

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
