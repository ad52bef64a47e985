/**
 * Questions of 57 subjects with four options (MMLU, Hendrycks et al. 2021, arXiv:2009.03300), asked
 * after the subject's solved examples. Nothing is written: the letter that is likeliest counts.
 */
import { ensure } from '../errors/errors.ts';
import { benchmarkTask, meanOf, type Answered, type Row } from './benchmark.ts';
import { mostLikely } from './continuation.ts';
import { dataFiles } from './data.ts';
import { letters, mmluQuestions, type MmluQuestion } from './mmlu-data.ts';
import { checkSetting } from './skills/pieces.ts';
import type { EvalText, Task, TaskContext } from './task.ts';

/** `shots` solved examples before each question: the first ones of the subject's dev file */
const defaults = { shots: 5 };
/** Tokens that a letter with its space may take. */
const letterTokens = 4;
const needs =
  "MMLU's folder or archive, with SUBJECT_test.csv and SUBJECT_dev.csv for each subject";

interface Outcome {
  readonly chosen: number;
  readonly right: boolean;
}

type Answers = readonly Answered<Outcome>[];

export async function prepare(context: TaskContext): Promise<Task> {
  const { model, settings } = context;
  const { shots } = { ...defaults, ...settings.set };
  checkSetting('mmlu', 'shots', shots, 0, 100);
  const tests = bySubject(dataFiles(context, 'mmlu', needs, 'test'));
  const examples = bySubject(shots > 0 ? dataFiles(context, 'mmlu', needs, 'dev') : []);
  const subjects = [...tests.keys()].sort();
  const items = subjects.flatMap((subject) => tests.get(subject)?.slice(0, settings.limit) ?? []);
  const solved = new Map(
    subjects.map((subject) => [subject, solvedOf(subject, examples.get(subject) ?? [], shots)]),
  );
  return benchmarkTask<Outcome>(context, {
    task: 'mmlu',
    items: items.length,
    shots,
    heeds: ['set.shots'],
    ask: (index) => ({
      head: headOf(items[index].subject),
      shots: solved.get(items[index].subject) ?? [],
      asked: questionText(items[index]),
      room: letterTokens,
    }),
    async answer(index, prompt, cache) {
      const choices = letters.map((letter) => ` ${letter}`);
      const chosen = await mostLikely(model, cache, prompt, choices);
      return { chosen, right: chosen === items[index].right };
    },
    rows: (answers) => rowsOf(items, subjects, answers),
  });
}

function bySubject(files: readonly EvalText[]): Map<string, MmluQuestion[]> {
  const subjects = new Map<string, MmluQuestion[]>();
  for (const question of files.flatMap(mmluQuestions)) {
    const { subject } = question;
    const others = subjects.get(subject);
    if (others) others.push(question);
    else subjects.set(subject, [question]);
  }
  return subjects;
}

function solvedOf(subject: string, examples: readonly MmluQuestion[], shots: number): string[] {
  ensure(
    examples.length >= shots,
    'range',
    () =>
      `mmlu: shots=${shots}; the dev file of ${subject} has ${examples.length} questions. Choose another shots.`,
  );
  return examples
    .slice(0, shots)
    .map((example) => `${questionText(example)} ${letters[example.right]}\n\n`);
}

function headOf(subject: string): string {
  const name = subject.replaceAll('_', ' ');
  return `The following are multiple choice questions (with answers) about ${name}.\n\n`;
}

function questionText({ question, options }: MmluQuestion): string {
  const lines = options.map((option, i) => `${letters[i]}. ${option}\n`).join('');
  return `${question.trim()}\n${lines}Answer:`;
}

/** Each subject, the mean of the subjects (macro), and all questions alike (micro). */
function rowsOf(
  items: readonly MmluQuestion[],
  subjects: readonly string[],
  answers: Answers,
): Row<Outcome>[] {
  const perSubject = subjects.map((subject) => {
    const own = answers.filter((_, i) => items[i].subject === subject);
    return { subject, own, ...accuracyOf(own) };
  });
  const macro = meanOf(perSubject.map(({ mean }) => mean)).mean;
  const variance = perSubject.reduce((sum, { stderr }) => sum + stderr ** 2, 0);
  const row = (subject: string, own: Answers, mean: number, stderr: number): Row<Outcome> => ({
    figures: { subject, accuracy: mean, accuracyStderr: stderr, chance: 1 / letters.length },
    answers: own,
  });
  const micro = accuracyOf(answers);
  return [
    ...perSubject.map(({ subject, own, mean, stderr }) => row(subject, own, mean, stderr)),
    row('mean of subjects', answers, macro, Math.sqrt(variance) / subjects.length),
    row('all questions', answers, micro.mean, micro.stderr),
  ];
}

const accuracyOf = (answers: Answers) =>
  meanOf(answers.map(({ outcome }) => Number(outcome.right)));
