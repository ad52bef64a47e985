/**
 * Adapters as files: safetensors whose tensors are f32, and whose metadata says what they are, whose
 * they are and what they were fitted for. `adapter-parts.ts` says which tensors there are.
 */
import type { Adapter } from '../cache/adapter.ts';
import { KvError } from '../errors/errors.ts';
import { readSafetensors } from '../format/safetensors.ts';
import { safetensorsBytes, type NumberTensor } from '../format/safetensors-write.ts';
import { memorySource } from '../format/source.ts';
import { adapterParts, AdapterTensors } from './adapter-parts.ts';

/** What follows the name of a model, less `.gguf`, in the name of its adapter. */
export const adapterSuffix = '.adapter.safetensors';

/** A file that was read, and what messages call it. */
export interface AdapterFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

const format = 'h1b-kv adapter';
const version = 3;

/** The file of an adapter. The same adapter makes the same bytes. */
export function adapterBytes(adapter: Adapter): Uint8Array<ArrayBuffer> {
  const { model, text } = adapter;
  const fitted = adapterParts.flatMap((part) => part.serves(adapter)).join(' ');
  const tensors = new Map(adapterParts.flatMap((part) => [...part.write(adapter)]));
  return safetensorsBytes(tensors, { format, version: String(version), model, text, fitted });
}

/**
 * Reads an adapter and checks that it belongs to a model.
 * @throws KvError "format" if it is damaged, of a past version or fitted for another model;
 *   "unsupported" if it is of a future version
 */
export async function readAdapter(
  { name, bytes }: AdapterFile,
  modelHash: string,
): Promise<Adapter> {
  const source = memorySource(bytes, name);
  const where = `adapter ${name}`;
  const refuse = (problem: string, cause?: unknown) =>
    new KvError('format', `${where}: ${problem}`, { cause });
  const tooNew = (problem: string) =>
    new KvError('unsupported', `${where}: ${problem} Update this package.`);
  const { tensors, metadata } = await readSafetensors(source).catch((cause: Error) => {
    throw refuse(`it is damaged. Run h1bkv calibrate again. (${cause.message})`, cause);
  });
  const found = metadata.get('version') ?? 'missing';
  const model = metadata.get('model') ?? 'missing';
  if (metadata.get('format') !== format) {
    throw refuse('it is no h1b-kv adapter. Run h1bkv calibrate.');
  }
  if (found !== String(version)) {
    const problem = `its version is ${found}; this program reads version ${version}.`;
    throw Number(found) > version
      ? tooNew(problem)
      : refuse(`${problem} Run h1bkv calibrate again.`);
  }
  if (model !== modelHash) {
    const [theirs, ours] = [model, modelHash].map((hash) => hash.slice(0, 12));
    throw refuse(
      `it was fitted for another model, ${theirs}; this one is ${ours}. Run h1bkv calibrate for this one.`,
    );
  }
  const read = new Map<string, NumberTensor>();
  for (const [key, { dtype, shape, offset, sizeBytes }] of tensors) {
    if (dtype !== 'F32') {
      throw refuse(`tensor "${key}" is ${dtype}; it needs F32. Run h1bkv calibrate again.`);
    }
    const numbers = new Float32Array(sizeBytes / 4);
    await source.read(offset, new Uint8Array(numbers.buffer));
    read.set(key, { shape, numbers });
  }
  const file = new AdapterTensors(where, read);
  const parts = adapterParts.map((part) => part.read(file));
  if (file.unread !== undefined) {
    throw tooNew(`its tensor "${file.unread}" is unknown to this program.`);
  }
  const text = metadata.get('text') ?? '';
  return Object.assign({ model, text, temperatures: [] }, ...parts) as Adapter;
}
