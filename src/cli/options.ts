/** What several commands share: flags, the default model, numbers for people. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openModel } from '#model-platform';
import { SingleBar } from 'cli-progress';
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { BackendChoice } from '../kernels/kernels.ts';
import { KvError } from '../errors/errors.ts';
import { backendChoices } from '../kernels/select.ts';
import { adapterSuffix, type AdapterFile } from '../model/adapter-file.ts';
import { loadModel, type LoadOptions } from '../model/load.ts';
import type { Model } from '../model/model.ts';
import type { OpenedModel } from '../model/open.ts';

export interface ModelFlags {
  readonly model: string;
  readonly backend: BackendChoice;
  readonly adapter?: string;
  readonly threads?: number;
}

export function addModelFlags(command: Command): Command {
  return command
    .option('--model <what>', 'GGUF file, folder, URL or hf:owner/repo[/file]', 'default')
    .option('--adapter <file>', 'what was fitted for it, or none (default: the file beside it)')
    .addOption(
      new Option('--backend <name>', 'what computes').choices(backendChoices).default('auto'),
    )
    .option('--threads <n>', 'threads for the kernels (default: all cores)', wholeNumber(1, 64));
}

/** Parser for whole-number flags; commander turns its error into exit code 2. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isInteger(value) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };
}

/** Parser for --cache where methods are compared: repeated, or several in one string, by spaces. */
export function collectSpecs(text: string, all: readonly string[] = []): string[] {
  return [...all, ...text.split(/\s+/).filter((spec) => spec !== '')];
}

/** Parser for flags that are any number; ranges are checked where they are used. */
export function anyNumber(text: string): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isFinite(value)) return value;
  throw new InvalidArgumentError('It must be a number.');
}

/** The folder that holds package.json and models/, from source and from the bundle alike. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json')) && folder !== dirname(folder)) {
    folder = dirname(folder);
  }
  return folder;
}

export function packageVersion(): string {
  const text = readFileSync(join(packageRoot(), 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export const defaultModelFile = 'books-skills-5m-q8_0.gguf';

export function modelPath(name: string): string {
  return name === 'default' ? join(packageRoot(), 'models', defaultModelFile) : name;
}

/** What `--adapter` means to `loadModel`. @throws KvError "io" if the file cannot be read */
function namedAdapter(name: string | undefined): LoadOptions['adapter'] {
  if (name === undefined) return undefined;
  return name === 'none' ? false : readAdapterFile(name);
}

/** @throws KvError "io" if it cannot be read */
export function readAdapterFile(name: string): AdapterFile {
  try {
    return { name, bytes: readFileSync(name) };
  } catch (cause) {
    const why = (cause as Error).message;
    throw new KvError(
      'io',
      `adapter ${name}: it cannot be read (${why}). Check the path, or give none.`,
      { cause },
    );
  }
}

/** The adapter file of a model that is opened and not loaded. @throws KvError "io" if it cannot be read */
export async function adapterFileOf(
  { source, readSibling }: OpenedModel,
  named: string | undefined,
): Promise<AdapterFile | undefined> {
  if (named === 'none') return undefined;
  if (named !== undefined) return readAdapterFile(named);
  const bytes = await readSibling(adapterSuffix);
  return bytes && { name: `of ${source.name}`, bytes };
}

/**
 * Where a command writes an adapter: the file of `--out`, of `--adapter`, or beside the model.
 * @throws KvError "usage" where nothing can be written
 */
export function adapterOut(
  command: string,
  { out, adapter, model }: ModelFlags & { readonly out?: string },
): string {
  return out ?? (adapter === 'none' ? undefined : adapter) ?? besideModel(command, model);
}

/** Where a model's adapter is found again. @throws KvError "usage" where nothing can be written */
function besideModel(command: string, name: string): string {
  if (/^(hf|https?|file):/.test(name)) {
    throw new KvError(
      'usage',
      `${command}: ${name} is not a path, so an adapter cannot be put beside it. Say where with --out.`,
    );
  }
  return modelPath(name).replace(/(\.gguf|\/)$/, '') + adapterSuffix;
}

/** Loads the model that the flags name; on a terminal, says how far it is. */
export async function loadFromFlags(flags: ModelFlags): Promise<Model> {
  const adapter = namedAdapter(flags.adapter);
  const progress = progressLine('loading');
  const download = progressLine('downloading');
  const model = await loadModel(modelPath(flags.model), {
    ...(adapter !== undefined && { adapter }),
    onDownload: download,
    onNote: (note) => console.error(note),
    backend: flags.backend,
    ...(flags.threads !== undefined && { threads: flags.threads }),
    onProgress: progress,
  });
  download.done();
  progress.done();
  return model;
}

/** A progress bar on stderr that appears after a second of work, on a terminal only. */
export function progressLine(what: string) {
  const began = performance.now();
  let bar: SingleBar | undefined;
  const update = (done: number, total: number, stage = '') => {
    if (!process.stderr.isTTY || performance.now() - began < 1000) return;
    if (!bar) {
      const format = `${what}{stage} {bar} {percentage} %, {eta_formatted} left`;
      // Its own handler would swallow the first Ctrl-C of every command.
      const options = { stream: process.stderr, clearOnComplete: true, etaBuffer: 50 };
      bar = new SingleBar({ format, ...options, gracefulExit: false });
      bar.start(total, done, { stage });
    }
    bar.update(done, { stage });
  };
  return Object.assign(update, { done: () => bar?.stop() });
}

/** Opens what `--model` names: default, path, folder, URL or hf:owner/repo[/file]. */
export async function openFromFlags(name: string): Promise<OpenedModel> {
  const progress = progressLine('downloading');
  const opened = await openModel(modelPath(name), {
    onDownload: progress,
    onNote: (note) => console.error(note),
  });
  progress.done();
  return opened;
}

/** Bytes for people: `1.57 MB`. Decimal units. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}
