/** Small models with random weights, and folders that go away, for the tests of every room. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';
import { forgeBytes, writtenBytes, type ForgeOptions } from '../src/bench/forge-node.ts';
import {
  metadataEntries,
  writeGguf,
  type GgufEntry,
  type TensorToWrite,
} from '../src/format/gguf-write.ts';
import { readGguf } from '../src/format/gguf.ts';
import { memorySource } from '../src/format/source.ts';
import { loadModel, type LoadOptions } from '../src/model/load.ts';
import type { Model } from '../src/model/model.ts';

/** Two layers, grouped queries, a vocabulary that is no multiple of 32: about 200 kB in F32. */
export const tinyShape: ForgeOptions = {
  nLayers: 2,
  dModel: 32,
  nHeads: 4,
  nKvHeads: 2,
  headDim: 16,
  dFeedForward: 64,
  vocab: 333,
  type: 'F32',
  tied: false,
  contextLength: 512,
  seed: 1,
  tokenizer: 'bpe',
};

/** The folder that holds package.json. */
export const packageRoot = fileURLToPath(new URL('..', import.meta.url));

export const embeddedModel = join(packageRoot, 'models', 'books-skills-5m-q8_0.gguf');
/** A fourth of its size, for what is slow or asks little of a model. */
export const smallModel = join(packageRoot, 'models', 'books-skills-1m-q8_0.gguf');

/** A file of the development data beside the repository, which may be absent. */
export const inShared = (path: string) => join(packageRoot, '..', 'shared', path);

/** A folder for this test file, removed after its last test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'h1bkv-test-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Loads a forged model from memory. @param change what differs from `tinyShape` */
export async function forgeModel(
  change: Partial<ForgeOptions> = {},
  options: LoadOptions = {},
): Promise<Model> {
  const bytes = await forgeBytes({ ...tinyShape, ...change });
  return loadModel(memorySource(bytes, 'forged'), options);
}

/** A line for whoever reads the test run: Vitest shows the reasons of skips in no default report. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Skips a test, and says why. */
export function skipBecause(skip: (note: string) => never, what: string, reason: string): never {
  say(`skipped: ${what}: ${reason}`);
  return skip(reason);
}

export interface GgufEdit {
  readonly metadata?: (entries: Map<string, GgufEntry>) => void;
  readonly tensors?: (tensors: TensorToWrite[]) => TensorToWrite[];
}

/** A GGUF file with some of its metadata or tensors changed. */
export async function editGguf(bytes: Uint8Array, edit: GgufEdit): Promise<Uint8Array> {
  const source = memorySource(bytes, 'forged');
  const gguf = await readGguf(source);
  const metadata = metadataEntries(gguf);
  edit.metadata?.(metadata);
  const kept = [...gguf.tensors.values()].map(({ name, type, shape, offset, sizeBytes }) => ({
    name,
    type,
    shape,
    data: async () => bytes.subarray(offset, offset + sizeBytes),
  }));
  const tensors = edit.tensors?.(kept) ?? kept;
  return writtenBytes((sink) => writeGguf(sink, { metadata, tensors }));
}
