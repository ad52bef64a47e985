/** Asks a model one exercise and says whether its answer is right. */
import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { mostLikely, write } from './continuation.ts';
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

export const pythonTimeoutMs = 5000;

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
  const ids = model.tokenizer.encode(question.prompt, { parseSpecial: true });
  const prompt = { text: question.prompt, ids, fed: [...ids] };
  if (judge.kind === 'choices') {
    const chosen = await mostLikely(model, cache, prompt, judge.choices);
    return judge.choices[chosen].trim() === answer.trim();
  }
  const options = { maxTokens: maxAnswerTokens(model, question), stop: [judge.stop] };
  const written = await write(model, cache, prompt, options);
  switch (judge.kind) {
    case 'exact':
      return written.trim() === upTo(judge.stop, answer).trim();
    case 'last-number':
      return lastNumber(written) !== undefined && lastNumber(written) === lastNumber(answer);
    case 'last-letter':
      return lastLetter(written) !== undefined && lastLetter(written) === lastLetter(answer);
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

/** The last of the letters A to D that stands alone. */
export function lastLetter(text: string): string | undefined {
  return text.match(/\b[A-D]\b/g)?.at(-1);
}

const upTo = (stop: string, text: string) => text.split(stop, 1)[0];
