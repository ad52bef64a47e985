import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { ensure, KvError } from '../errors/errors.ts';
import type { RequestOptions } from '../model/hub-request-node.ts';
import { refuseParquet } from './parquet.ts';
import { tarFiles } from './tar.ts';
import type { EvalText } from './task.ts';

/** The largest data set read here, MMLU, has 8 MB; a file that unpacks to more is a trap or a mistake. */
const maxUnpackedBytes = 2 ** 30;

const isTable = (name: string) => /\.(jsonl|csv)(\.gz)?$/.test(name);
const isArchive = (name: string) => /\.(tar|tar\.gz|tgz)$/.test(name);
/** macOS puts files beside the real ones whose names begin so. */
const isHidden = (name: string) => basename(name).startsWith('.');

/**
 * The tables that `--data` names: on the hub with `hf:owner/repo/path[@revision]`, else by path.
 * @throws KvError as `readData` and `downloadData`
 */
export async function openData(name: string, options?: RequestOptions): Promise<EvalText[]> {
  if (!name.startsWith('hf:')) return readData(name);
  const { downloadData } = await import('./hub-data-node.ts');
  const { path, bytes } = await downloadData(name, maxUnpackedBytes, options);
  return checked(name, tablesIn(path, bytes, name));
}

/**
 * The tables of a data set: a `.jsonl` or `.csv` file, a folder of such, or a tar archive of them;
 * files and archives may be compressed with gzip. Their names are kept without folders.
 * @throws KvError "io" if the path cannot be read or holds no tables, "format" if it cannot be unpacked,
 *   "unsupported" if it is Parquet
 */
export function readData(path: string): EvalText[] {
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  const found = isFolder
    ? attempt(path, () => readdirSync(path, { recursive: true, encoding: 'utf8' }))
        .filter((name) => isTable(name) && !isHidden(name))
        .flatMap((name) => readFile(join(path, name)))
    : readFile(path);
  return checked(path, found);
}

function checked(path: string, found: EvalText[]): EvalText[] {
  ensure(
    found.length > 0,
    'io',
    () => `data: ${path} holds no .jsonl or .csv files. Name the data set's file or folder.`,
  );
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const readFile = (path: string) =>
  tablesIn(
    path,
    attempt(path, () => readFileSync(path)),
  );

/** @param path whose ending says what the file is; @param where it is, for messages */
function tablesIn(path: string, raw: Uint8Array, where = path): EvalText[] {
  refuseParquet(where, raw);
  const bytes = raw[0] === 0x1f && raw[1] === 0x8b ? unpack(path, raw) : raw;
  const files = isArchive(path)
    ? tarFiles(path, bytes).filter(({ name }) => isTable(name) && !isHidden(name))
    : [{ name: path, bytes }];
  return files.map((file) => ({
    name: basename(file.name).replace(/\.gz$/, ''),
    text: new TextDecoder().decode(file.bytes),
  }));
}

function unpack(path: string, bytes: Uint8Array): Uint8Array {
  try {
    return gunzipSync(bytes, { maxOutputLength: maxUnpackedBytes });
  } catch (cause) {
    throw new KvError('format', `data: ${path} cannot be unpacked as gzip. Get it again.`, {
      cause,
    });
  }
}

function attempt<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw new KvError('io', `data: ${path} cannot be read. Give a path with --data task=path.`, {
      cause,
    });
  }
}
