/** Asks a model one exercise and says whether its answer is right. */
import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import { feed, generate } from '../generate/generate.ts';
import type { Model } from '../model/model.ts';
import { Prediction, sideBySide } from './agreement.ts';
import type { Judge } from './skills/skill.ts';
import type { RunPython } from './task.ts';

export interface Question {
  /** everything before the answer; control tokens in it are read as such */
  readonly prompt: string;
  /** the prompt without its prose: where the answer is a program, how it begins */
  readonly code: string;
  readonly answer: string;
  readonly judge: Judge;
}

const pythonTimeoutMs = 5000;

/** Tokens that may be written: enough for the answer, whatever the tokenizer makes of it. */
export function maxAnswerTokens(
  model: Model,
  { answer, judge }: Omit<Question, 'prompt' | 'code'>,
) {
  const usual = judge.kind === 'python' || judge.kind === 'last-number' ? 200 : 64;
  return Math.max(usual, model.tokenizer.encode(answer, { addBos: false }).length + 8);
}

/**
 * @param cache empty; holds the prompt and what was written afterwards
 * @throws KvError "range" if the prompt does not fit the model's context, "unsupported" if the
 *   answer is a program and there is nothing to run it
 */
export async function answersRight(
  model: Model,
  cache: KvCache,
  question: Question,
  runPython?: RunPython,
): Promise<boolean> {
  const { answer, judge, code } = question;
  if (judge.kind === 'choices') {
    const chosen = await mostLikely(model, cache, question.prompt, judge.choices);
    return chosen.trim() === answer.trim();
  }
  const written = await write(model, cache, question, judge.stop);
  switch (judge.kind) {
    case 'exact':
      return written.trim() === upTo(judge.stop, answer).trim();
    case 'last-number':
      return lastNumber(written) !== undefined && lastNumber(written) === lastNumber(answer);
    case 'python': {
      ensure(
        runPython !== undefined,
        'unsupported',
        () => 'eval: the answers are Python, and there is nothing to run it. Give runPython.',
      );
      const program = `${code}${written}\n\n${judge.tests}\n`;
      return (await runPython(program, { timeoutMs: pythonTimeoutMs })).ok;
    }
  }
}

/** The number after the last "####", as GSM8K marks results, else the last number of all. */
export function lastNumber(text: string): number | undefined {
  const mark = text.lastIndexOf('####');
  const numbers = text.slice(Math.max(0, mark)).match(/-?\d[\d,]*(?:\.\d+)?/g);
  const found = numbers?.at(mark < 0 ? -1 : 0);
  return found === undefined ? undefined : Number(found.replaceAll(',', ''));
}

const upTo = (stop: string, text: string) => text.split(stop, 1)[0];

/** Greedy text up to the stop. */
async function write(
  model: Model,
  cache: KvCache,
  question: Question,
  stop: string,
): Promise<string> {
  const { tokenizer } = model;
  const tokens = [...tokenizer.encode(question.prompt, { parseSpecial: true })];
  // A stop that is a control token never shows in the text.
  const stopIds = tokenizer.encode(stop, { parseSpecial: true, addBos: false });
  let text = '';
  const options = { maxTokens: maxAnswerTokens(model, question), stop: [stop] };
  for await (const piece of generate(model, cache, tokens, options)) {
    text += piece.text;
    if (stopIds.length === 1 && piece.id === stopIds[0]) break;
  }
  return text;
}

/** The choice whose tokens are most likely to follow, by the sum of their log-probabilities. */
async function mostLikely(
  model: Model,
  cache: KvCache,
  prompt: string,
  choices: readonly string[],
): Promise<string> {
  const tokens = model.tokenizer.encode(prompt, { parseSpecial: true });
  const next = new Prediction(await feed(model, cache, [...tokens]));
  let [best, highest] = ['', -Infinity];
  for (const choice of choices) {
    const ids = continuation(model, prompt, tokens, choice);
    let sum = next.logProbability(ids[0]);
    const fork = cache.fork();
    try {
      for await (const { start, rows } of sideBySide(model, ids.subarray(0, -1), [fork])) {
        rows.forEach((row, i) => (sum += new Prediction(row).logProbability(ids[start + i + 1])));
      }
    } finally {
      fork.dispose();
    }
    if (sum > highest) [best, highest] = [choice, sum];
  }
  return best;
}

/** Ids of a text that follows the prompt: as both are read together, if the prompt stays the same. */
function continuation(model: Model, prompt: string, ids: Int32Array, text: string): Int32Array {
  const both = model.tokenizer.encode(prompt + text, { parseSpecial: true });
  if (both.length > ids.length && ids.every((id, i) => both[i] === id)) {
    return both.subarray(ids.length);
  }
  return model.tokenizer.encode(text, { parseSpecial: true, addBos: false });
}
