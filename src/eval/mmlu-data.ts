/** The questions of MMLU (Hendrycks et al. 2021, arXiv:2009.03300) from the formats they come in. */
import { ensure, KvError } from '../errors/errors.ts';
import { csvRows } from './csv.ts';
import { jsonLines, textIn, type DataRow } from './data.ts';
import type { EvalText } from './task.ts';

export const letters = ['A', 'B', 'C', 'D'] as const;

export interface MmluQuestion {
  /** such as `abstract_algebra` */
  readonly subject: string;
  readonly question: string;
  readonly options: readonly string[];
  /** index of the right option */
  readonly right: number;
}

/**
 * - `SUBJECT_test.csv`: question, four options and the letter or index of the right one, with a line
 *   of column titles or without
 * - `.jsonl`, as exported from the Hugging Face data set: question, subject, choices, answer (index)
 * @throws KvError "format" for anything else
 */
export function mmluQuestions(file: EvalText): MmluQuestion[] {
  if (file.name.endsWith('.jsonl')) return jsonLines(file).map(fromJson);
  const subject = file.name.replace(/_(dev|test|val)\.csv$/, '');
  const rows = csvRows(file.text);
  const body = rows[0]?.[0] === 'question' ? rows.slice(1) : rows;
  ensure(body.length > 0, 'format', () => `data: ${file.name} is empty. Get the file again.`);
  return body.map((row, i) => {
    const where = `question ${i + 1} of ${file.name}`;
    if (row.length !== 6) {
      throw wrong(where, `${row.length} columns, not question, four options and answer`);
    }
    const right = rightOption(where, row[5]);
    return { subject, question: row[0], options: row.slice(1, 5), right };
  });
}

function fromJson(row: DataRow): MmluQuestion {
  const { choices, answer } = row.cells;
  const isFour = Array.isArray(choices) && choices.length === letters.length;
  if (!isFour) throw wrong(row.where, 'no four "choices"');
  return {
    subject: textIn(row, 'subject'),
    question: textIn(row, 'question'),
    options: choices.map(String),
    right: rightOption(row.where, String(answer)),
  };
}

function rightOption(where: string, answer: string): number {
  const text = answer.trim();
  const right = letters.findIndex((letter, i) => text === letter || text === String(i));
  if (right < 0) throw wrong(where, `the answer "${answer}", not one of A to D or 0 to 3`);
  return right;
}

function wrong(where: string, what: string): KvError {
  return new KvError('format', `data: ${where} has ${what}. Give the data set in its own format.`);
}
