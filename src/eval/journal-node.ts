import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { KvError } from '../errors/errors.ts';
import type { Journal, Part } from './evaluate.ts';

const format = 'h1b-kv eval journal';

/** One line of the file after the first. */
interface Entry {
  readonly task: string;
  readonly unit: number;
  readonly result: unknown;
}

/**
 * A journal in a file of JSON lines: first what the run depends on, then one line for each unit. A
 * last line without its end, from a run that was killed while it wrote, is cut off.
 *
 * A part of a run has a file of its own beside it, `run.jsonl.1-of-2`, so that no two processes write
 * to one. Every journal knows what all of these files hold when it is opened.
 * @param identity of the run, see `runIdentity`
 * @throws KvError "usage" if a file belongs to another run or is no journal, "format" if it is
 *   damaged elsewhere, "io" if it cannot be read or written
 */
export function openJournal(
  path: string,
  identity: Readonly<Record<string, unknown>>,
  part?: Part,
): Journal {
  const header = JSON.stringify({ format, ...identity });
  const own = part ? `${path}.${part.index}-of-${part.of}` : path;
  const others = [path, ...partsOf(path)].filter((file) => file !== own);
  const found = [own, ...others].map((file) => ({ file, ...readJournal(file, header) }));
  const entries = new Map(found.flatMap((each) => each.entries));
  const [{ length, isTorn, hasHeader }] = found;
  if (hasHeader && isTorn) attempt(own, () => truncateSync(own, length));
  let begun = hasHeader;
  return {
    find: (task, unit) => entries.get(keyOf(task, unit)),
    append(task, unit, result) {
      const entry: Entry = { task, unit, result };
      const line = `${JSON.stringify(entry)}\n`;
      // A call that is refused before any work leaves no file that would bind the next one.
      if (begun) attempt(own, () => appendFileSync(own, line));
      else attempt(own, () => writeFileSync(own, `${header}\n${line}`));
      begun = true;
    },
  };
}

/** Files of the parts of a run that are there. */
function partsOf(path: string): string[] {
  const isPart = (name: string) =>
    name.startsWith(`${basename(path)}.`) &&
    /^\d+-of-\d+$/.test(name.slice(basename(path).length + 1));
  const folder = dirname(path);
  const names = existsSync(folder) ? attempt(path, () => readdirSync(folder)) : [];
  return names.filter(isPart).map((name) => join(folder, name));
}

const keyOf = (task: string, unit: number) => `${task} ${unit}`;

interface FoundJournal {
  readonly hasHeader: boolean;
  readonly entries: readonly (readonly [key: string, result: unknown])[];
  /** bytes of whole lines */
  readonly length: number;
  readonly isTorn: boolean;
}

/** What a file holds; nothing if it is not there. Another process may be writing to it. */
function readJournal(path: string, header: string): FoundJournal {
  const bytes = readIfThere(path);
  // In bytes: a character of the torn line may be torn itself.
  const whole = bytes.subarray(0, bytes.lastIndexOf(0x0a) + 1);
  const torn = bytes.subarray(whole.length).toString('utf8');
  const [first, ...rest] = whole.toString('utf8').split('\n').slice(0, -1);
  if (first !== undefined) checkHeader(path, first, JSON.parse(header));
  else if (!header.startsWith(torn)) throw notAJournal(path);
  const entries = rest.map((line, i) => {
    const entry = parse<Partial<Entry> | null>(line, () => damaged(path, i + 2));
    if (typeof entry?.task !== 'string' || typeof entry.unit !== 'number') {
      throw damaged(path, i + 2);
    }
    return [keyOf(entry.task, entry.unit), entry.result] as const;
  });
  return { hasHeader: first !== undefined, entries, length: whole.length, isTorn: torn !== '' };
}

function checkHeader(path: string, line: string, expected: Record<string, unknown>): void {
  const found = parse<Record<string, unknown>>(line, () => notAJournal(path));
  if (found?.format !== format) throw notAJournal(path);
  const keys = new Set([...Object.keys(found), ...Object.keys(expected)]);
  const differences = [...keys].flatMap((key) => {
    const [then, now] = [found[key], expected[key]].map((value) => JSON.stringify(value));
    return then === now ? [] : [`${key} was ${then ?? 'not set'} and is ${now ?? 'not set'}`];
  });
  if (differences.length === 0) return;
  throw new KvError(
    'usage',
    `eval: ${path} belongs to another run: ${differences.join('; ')}. Repeat its arguments, or name another file.`,
  );
}

function readIfThere(path: string): Buffer {
  return existsSync(path) ? attempt(path, () => readFileSync(path)) : Buffer.alloc(0);
}

function attempt<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KvError('io', `eval: ${path} cannot be used as a journal (${reason}).`, { cause });
  }
}

function parse<T>(line: string, failure: () => KvError): T {
  try {
    return JSON.parse(line) as T;
  } catch {
    throw failure();
  }
}

function notAJournal(path: string): KvError {
  return new KvError(
    'usage',
    `eval: ${path} is not a journal of h1bkv eval; it was left as it is. Name another file.`,
  );
}

function damaged(path: string, line: number): KvError {
  return new KvError(
    'format',
    `eval: line ${line} of ${path} is not JSON. Remove it to work on that unit again.`,
  );
}
