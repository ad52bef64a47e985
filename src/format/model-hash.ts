import { ensure } from '../errors/errors.ts';
import type { Gguf, GgufTensor } from './gguf.ts';
import type { ByteSource } from './source.ts';

/** Bytes of each sample; three of them tell two trainings of one architecture apart. */
const sampleBytes = 64;

/**
 * Identity of a model, for saved sessions and adapters: SHA-256, in hex, of the header (metadata
 * and tensor table) and of the first, middle and last 64 bytes of every tensor. Hashing whole
 * files would take longer than loading them.
 * @throws KvError "unsupported" where the page has no Web Crypto, as over plain http
 */
export async function modelHash(gguf: Gguf, source: ByteSource): Promise<string> {
  ensure(
    globalThis.crypto?.subtle !== undefined,
    'unsupported',
    () => 'model hash: Web Crypto is missing; browsers have it over https. Serve the page so.',
  );
  const headerBytes = Math.min(gguf.dataOffset, source.sizeBytes);
  const samples = [...gguf.tensors.values()].flatMap(samplesOf);
  const total = samples.reduce((sum, sample) => sum + sample.length, headerBytes);
  const bytes = new Uint8Array(total);
  await source.read(0, bytes.subarray(0, headerBytes));
  let at = headerBytes;
  for (const { offset, length } of samples) {
    await source.read(offset, bytes.subarray(at, at + length));
    at += length;
  }
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function samplesOf({ offset, sizeBytes }: GgufTensor): { offset: number; length: number }[] {
  if (sizeBytes <= 3 * sampleBytes) return [{ offset, length: sizeBytes }];
  const middle = Math.floor((sizeBytes - sampleBytes) / 2);
  return [0, middle, sizeBytes - sampleBytes].map((at) => ({
    offset: offset + at,
    length: sampleBytes,
  }));
}
