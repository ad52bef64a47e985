/** Rows of the data sets that a user gives, checked where they are read. */
import { ensure, KvError } from '../errors/errors.ts';
import type { EvalText, TaskContext } from './task.ts';

/** A row of a table, and where it stands, for errors. */
export interface DataRow {
  readonly where: string;
  readonly cells: Readonly<Record<string, unknown>>;
}

/**
 * The files of a data set whose names have a word in them.
 * @param word such as `train`; without it all files
 * @throws KvError "usage" if there are none
 */
export function dataFiles(
  { data }: Pick<TaskContext, 'data'>,
  task: string,
  needs: string,
  word = '',
): readonly EvalText[] {
  const files = data?.[task] ?? [];
  const named = files.filter(({ name }) => name.includes(word));
  const given = files.map(({ name }) => name);
  const found = given.length > 0 ? `is given ${given.slice(0, 5).join(', ')}` : 'has no data';
  ensure(
    named.length > 0,
    'usage',
    () => `eval: ${task} ${found}; it needs ${needs}. Give --data ${task}=PATH.`,
  );
  return named;
}

/** @throws KvError "format" if a line is no JSON object, or there is none */
export function jsonLines({ name, text }: EvalText): DataRow[] {
  const rows = text.split('\n').flatMap((line, i): DataRow[] => {
    if (line.trim() === '') return [];
    const where = `line ${i + 1} of ${name}`;
    return [{ where, cells: objectOf(line, where) }];
  });
  ensure(rows.length > 0, 'format', () => `data: ${name} is empty. Get the file again.`);
  return rows;
}

function objectOf(line: string, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new KvError('format', `data: ${where} is not JSON. Get the file again.`, { cause });
  }
  ensure(
    typeof value === 'object' && value !== null && !Array.isArray(value),
    'format',
    () => `data: ${where} is not a JSON object. Get the file again.`,
  );
  return value as Record<string, unknown>;
}

/** The text in a column. @throws KvError "format" if there is none */
export function textIn({ where, cells }: DataRow, column: string): string {
  const value = cells[column];
  ensure(
    typeof value === 'string' && value !== '',
    'format',
    () =>
      `data: ${where} has no text in the column "${column}"; it has ${Object.keys(cells).join(', ')}. Give the data set in its own format.`,
  );
  return value;
}
