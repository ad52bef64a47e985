import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { KvError } from '../errors/errors.ts';
import { refuseParquet } from '../eval/parquet.ts';
import type { EvalText } from '../eval/task.ts';
import { packageRoot } from './options.ts';

/** Parser for --text, which may be repeated. */
export const collectTexts = (path: string, all: readonly string[] = []) => [...all, path];

/**
 * The texts that --text names: files, and folders' .txt files in the order of their names. Without
 * any, a short text that comes with the program.
 * @throws KvError "io"
 */
export function readTexts(paths: readonly string[] | undefined): EvalText[] {
  return paths?.flatMap(readPath) ?? [readText(join(packageRoot(), 'models', 'fit-text.txt'))];
}

function readPath(path: string): EvalText[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [readText(path)];
  const files = readdirSync(path).filter((file) => file.endsWith('.txt'));
  if (files.length === 0) {
    throw new KvError(
      'io',
      `${path} holds no .txt files. Name a file of another kind itself, such as --text wiki.test.raw.`,
    );
  }
  return files.sort().map((file) => readText(join(path, file)));
}

function readText(file: string): EvalText {
  try {
    const bytes = readFileSync(file);
    refuseParquet(file, bytes);
    return { name: basename(file), text: bytes.toString('utf8') };
  } catch (cause) {
    if (cause instanceof KvError) throw cause;
    throw new KvError('io', `${file} cannot be read. Give a text with --text.`, { cause });
  }
}
