/**
 * Word problems of GSM8K (Cobbe et al. 2021, arXiv:2110.14168), answered in steps after solved
 * examples. Prompt, stops and both ways to read an answer are those of the task `gsm8k` of
 * lm-evaluation-harness; its examples are drawn anew for each problem, ours are the same for all.
 */
import { ensure } from '../errors/errors.ts';
import { benchmarkTask, meanOf } from './benchmark.ts';
import { write } from './continuation.ts';
import { dataFiles, jsonLines, textIn, type DataRow } from './data.ts';
import { checkSetting } from './skills/pieces.ts';
import { Draw } from './skills/skill.ts';
import type { Task, TaskContext } from './task.ts';

/**
 * - `shots` solved examples before each problem
 * - `drawn` 0: the first ones of the train file; 1: drawn from it by the seed
 */
const defaults = { shots: 8, drawn: 0 };
const answerTokens = 256;
const needs = 'the JSON lines of GSM8K with "question" and "answer": a test and a train file';

interface Outcome {
  readonly written: string;
  readonly strict: boolean;
  readonly flexible: boolean;
}

export async function prepare(context: TaskContext): Promise<Task> {
  const { model, settings } = context;
  const { shots, drawn } = { ...defaults, ...settings.set };
  checkSetting('gsm8k', 'shots', shots, 0, 100);
  checkSetting('gsm8k', 'drawn', drawn, 0, 1);
  const problems = dataFiles(context, 'gsm8k', needs, 'test').flatMap(jsonLines);
  const items = problems.slice(0, settings.limit).map((row) => ({
    question: textIn(row, 'question'),
    answer: strictAnswer(textIn(row, 'answer')),
  }));
  const examples = shots > 0 ? shotsOf(context, shots, drawn) : [];
  return benchmarkTask<Outcome>(context, {
    task: 'gsm8k',
    items: items.length,
    shots,
    heeds: Object.keys(defaults).map((key) => `set.${key}`),
    ask: (index) => ({
      head: '',
      shots: examples,
      asked: questionText(items[index].question),
      room: answerTokens,
    }),
    async answer(index, prompt, cache) {
      const options = { maxTokens: answerTokens, stop: ['Question:'] };
      const written = await write(model, cache, prompt, options);
      const { answer } = items[index];
      return {
        written,
        strict: answer !== undefined && strictAnswer(written) === answer,
        flexible: answer !== undefined && flexibleAnswer(written) === answer,
      };
    },
    rows(answers) {
      const strict = meanOf(answers.map(({ outcome }) => Number(outcome.strict)));
      const flexible = meanOf(answers.map(({ outcome }) => Number(outcome.flexible)));
      const figures = {
        accuracy: strict.mean,
        accuracyStderr: strict.stderr,
        accuracyFlexible: flexible.mean,
        accuracyFlexibleStderr: flexible.stderr,
      };
      return [{ figures, answers }];
    },
  });
}

const questionText = (question: string) => `Question: ${question}\nAnswer:`;

function shotsOf(context: TaskContext, count: number, drawn: number): string[] {
  const rows = dataFiles(context, 'gsm8k', needs, 'train').flatMap(jsonLines);
  ensure(
    rows.length >= count,
    'range',
    () =>
      `gsm8k: shots=${count}; the train file has ${rows.length} problems. Choose another shots.`,
  );
  const chosen: DataRow[] =
    drawn === 1
      ? new Draw('train', context.settings.seed).sample(rows, count)
      : rows.slice(0, count);
  return chosen.map(
    (row) => `${questionText(textIn(row, 'question'))} ${textIn(row, 'answer')}\n\n`,
  );
}

/** The number after the first `#### `, without commas, dollar signs and a dot at its end. */
export function strictAnswer(text: string): string | undefined {
  const found = /#### (-?[0-9.,]+)/.exec(text);
  return found ? plain(found[1]) : undefined;
}

/** The last of all numbers, written in the same way. */
export function flexibleAnswer(text: string): string | undefined {
  const found = text.match(/-?[$0-9.,]{2,}|-?[0-9]+/g)?.at(-1);
  return found === undefined ? undefined : plain(found);
}

const plain = (number: string) => number.replace(/[,$]/g, '').replace(/\.$/, '');
