/** What tasks on data sets have in common: prompts that fit, prefixes read once, one item a unit. */
import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import type { Prompt } from './continuation.ts';
import { SharedPrefix } from './shared-prefix.ts';
import type { EvalResult, Task, TaskContext } from './task.ts';

/** The parts of a prompt, in reading order. */
export interface Question {
  /** before the shots */
  readonly head: string;
  /** solved examples; as many of the first ones are taken as there is room for */
  readonly shots: readonly string[];
  readonly asked: string;
  /** tokens to leave free for the answer */
  readonly room: number;
}

/** How one method did on one item. */
export interface Answered<Outcome> {
  readonly spec: string;
  readonly outcome: Outcome;
  /** positions and bytes of the cache in the end */
  readonly positions: number;
  readonly bytes: number;
  readonly seconds: number;
  /** whether the prompt has fewer shots than asked for, or lacks its beginning */
  readonly shortened: boolean;
}

/** A row of results: what it says beside what all rows say, and the items it is about. */
export interface Row<Outcome> {
  readonly figures: Partial<EvalResult>;
  readonly answers: readonly Answered<Outcome>[];
}

/** `Outcome` is JSON: it goes into the journal. */
export interface Benchmark<Outcome> {
  readonly task: string;
  readonly items: number;
  readonly heeds: readonly string[];
  /** asked for; absent where the benchmark knows none */
  readonly shots?: number;
  ask(index: number): Question;
  /** @param cache holds a beginning of the prompt */
  answer(index: number, prompt: Prompt, cache: KvCache): Promise<Outcome>;
  /** @param answers of one method, of all items in order */
  rows(answers: readonly Answered<Outcome>[]): readonly Row<Outcome>[];
}

type Unit<Outcome> = Readonly<Record<string, Answered<Outcome>>>;

export function benchmarkTask<Outcome>(
  { model, settings }: TaskContext,
  benchmark: Benchmark<Outcome>,
): Task<Unit<Outcome>> {
  const prefixes = new SharedPrefix(model);
  return {
    units: benchmark.items,
    heeds: benchmark.heeds,
    async run(index) {
      const { prefix, prompt, shortened } = fittingPrompt(model, benchmark.ask(index));
      const unit: Record<string, Answered<Outcome>> = {};
      for (const method of settings.methods) {
        const began = performance.now();
        const cache = await prefixes.fork(method, prefix, prompt);
        try {
          const outcome = await benchmark.answer(index, prompt, cache);
          unit[method] = {
            spec: cache.spec,
            outcome,
            positions: cache.length,
            bytes: cache.bytes().total,
            seconds: (performance.now() - began) / 1000,
            shortened,
          };
        } finally {
          cache.dispose();
        }
      }
      return unit;
    },
    summarize(units) {
      const perMethod = settings.methods.map((method) =>
        benchmark.rows(units.map((unit) => unit[method])),
      );
      return perMethod[0].flatMap((_, row) =>
        settings.methods.map((method, i) => resultOf(benchmark, method, perMethod[i][row])),
      );
    },
    dispose: () => prefixes.dispose(),
  };
}

/**
 * The prompt with as many shots as fit the context beside the answer. Where it does not even fit
 * without any, its beginning is left out.
 * @throws KvError "range" if the context has no room for the answer alone
 */
export function fittingPrompt(
  model: Model,
  { head, shots, asked, room }: Question,
): { prefix: string; prompt: Prompt; shortened: boolean } {
  const most = model.contextLength - room;
  ensure(
    most > 0,
    'range',
    () =>
      `eval: an answer needs ${room} tokens; the context of "${model.name}" is ${model.contextLength}. Take another model.`,
  );
  for (let count = shots.length; ; count--) {
    const prefix = head + shots.slice(0, count).join('');
    const text = prefix + asked;
    const ids = model.tokenizer.encode(text, { parseSpecial: true });
    const fits = ids.length <= most;
    if (!fits && count > 0) continue;
    const fed = fits ? [...ids] : newest(ids, most, model.tokenizer.bosId);
    const shortened = !fits || count < shots.length;
    // A prompt that lost its beginning has it in common with no other.
    return { prefix: fits ? prefix : '', prompt: { text, ids, fed }, shortened };
  }
}

/** The last `count` tokens, the first of them BOS if it was so before. */
function newest(ids: Int32Array, count: number, bosId: number | undefined): number[] {
  const kept = [...ids.subarray(ids.length - count)];
  if (ids[0] === bosId) kept[0] = ids[0];
  return kept;
}

/** Mean and standard error of a mean of n values. */
export function meanOf(values: readonly number[]): { mean: number; stderr: number } {
  const n = values.length;
  const mean = values.reduce((sum, x) => sum + x, 0) / n;
  const square = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, stderr: n > 1 ? Math.sqrt(square / (n - 1) / n) : 0 };
}

function resultOf<Outcome>(
  { task, shots }: Benchmark<Outcome>,
  method: string,
  { figures, answers }: Row<Outcome>,
): EvalResult {
  const total = (pick: (answer: Answered<Outcome>) => number) =>
    answers.reduce((sum, each) => sum + pick(each), 0);
  const tokens = total(({ positions }) => positions);
  const shortened = total((answer) => Number(answer.shortened));
  return {
    task,
    method,
    spec: answers[0].spec,
    ...(shots !== undefined && { shots }),
    items: answers.length,
    tokens,
    ...figures,
    ...(shortened > 0 && { shortened }),
    bytesPerToken: total(({ bytes }) => bytes) / tokens,
    seconds: total(({ seconds }) => seconds),
  };
}
