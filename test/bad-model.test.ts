/** Damaged model files: a `KvError` or a model that works, never anything else. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { forgeBytes } from '../src/bench/forge-node.ts';
import { KvError } from '../src/errors/errors.ts';
import type { GgufEntry } from '../src/format/gguf-write.ts';
import { readGguf } from '../src/format/gguf.ts';
import { memorySource } from '../src/format/source.ts';
import { argmax } from '../src/generate/sample.ts';
import type { Kernels } from '../src/kernels/kernels.ts';
import { createKernels } from '../src/kernels/select.ts';
import { Random } from '../src/math/random.ts';
import { loadModel } from '../src/model/load.ts';
import { editGguf, tinyShape } from './forged.ts';

let kernels: Kernels;
beforeAll(async () => {
  kernels = await createKernels('wasm', { threads: 1 });
});
afterAll(() => kernels.dispose());

/** One value of each kind of damage: bytes, numbers that mean sizes, floats. */
const nastyWords = [0, 1, 0x7f, 0xff, 0x80000000, 0x7fffffff, 0xffffffff, 0x7fc00000, 0x7f800000];

/** Damages a file in 1 to 4 places, in the header more often than in the weights. */
function mutate(bytes: Uint8Array, headerBytes: number, random: Random): Uint8Array {
  const pick = (n: number) => Math.floor(random.uniform() * n);
  const copy = new Uint8Array(bytes);
  const view = new DataView(copy.buffer);
  for (let count = 1 + pick(4); count > 0; count--) {
    const at = pick(pick(4) === 0 ? copy.length - 8 : headerBytes);
    switch (pick(5)) {
      case 0:
        copy[at] = pick(256);
        break;
      case 1:
        copy[at] ^= 1 << pick(8);
        break;
      case 2:
        view.setUint32(at, nastyWords[pick(nastyWords.length)], true);
        break;
      case 3:
        view.setBigUint64(at, BigInt.asUintN(64, BigInt(pick(2 ** 32)) << BigInt(pick(40))), true);
        break;
      case 4:
        copy.copyWithin(at, pick(headerBytes), pick(headerBytes));
        break;
    }
  }
  return pick(10) === 0 ? copy.subarray(0, pick(copy.length)) : copy;
}

type Outcome = 'refused' | 'failed' | 'worked';

/** Loads and runs the file. @throws whatever is no KvError */
async function attempt(bytes: Uint8Array, spec: string): Promise<Outcome> {
  let outcome: Outcome = 'refused';
  try {
    const model = await loadModel(memorySource(bytes, 'damaged'), { kernels });
    try {
      outcome = 'failed';
      const cache = await model.createCache(spec);
      try {
        const ids = model.tokenizer.encode('the cat');
        model.tokenizer.decode(ids);
        const known = Int32Array.of(1, 2, 3, ...ids.filter((id) => id < model.vocabSize));
        for (let step = 0; step < 2; step++) {
          const logits = await kernels.read(await model.forward([{ ids: known, cache }]));
          // The last matrix product is checked where it is used: the sampler refuses NaN.
          argmax(logits as Float32Array);
          expect(logits.every(Number.isFinite)).toBe(true);
        }
        outcome = 'worked';
      } finally {
        cache.dispose();
      }
    } finally {
      model.dispose();
    }
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    expect(error.message).toMatch(/\S+.*\.$/s);
  }
  expect(kernels.allocatedBytes).toBe(0);
  return outcome;
}

test.each([
  ['F32', 'bpe', 'f16'],
  ['Q8_0', 'spm', 'h1b:b=32'],
] as const)('a damaged %s file with a %s tokenizer, %s', async (type, tokenizer, spec) => {
  const shape = { ...tinyShape, nLayers: 1, vocab: 270, contextLength: 64 };
  const bytes = await forgeBytes({ ...shape, type, tokenizer });
  const { dataOffset } = await readGguf(memorySource(bytes, 'forged'));
  expect(await attempt(bytes, spec)).toBe('worked');
  const counts: Record<Outcome, number> = { refused: 0, failed: 0, worked: 0 };
  for (let seed = 0; seed < 1500; seed++) {
    const damaged = mutate(bytes, dataOffset, new Random(seed));
    const outcome = await attempt(damaged, spec).catch((cause: unknown) => {
      throw new Error(`seed ${seed}`, { cause });
    });
    counts[outcome]++;
  }
  // If one of these never happens, the damage is too great or too small to say anything.
  expect(counts.refused).toBeGreaterThan(100);
  expect(counts.worked).toBeGreaterThan(100);
  expect(counts.failed).toBeGreaterThan(0);
});

const nastyValues: GgufEntry[] = [
  ...[0, 1, 2, 3, 7, 2 ** 31, 2 ** 32 - 1].map((value) => ({ type: 'u32' as const, value })),
  ...[-1, -(2 ** 31)].map((value) => ({ type: 'i32' as const, value })),
  ...[NaN, Infinity, -0, 0.5, 1e-38, 3e38].map((value) => ({ type: 'f32' as const, value })),
  { type: 'u64', value: 2n ** 63n },
  { type: 'bool', value: true },
  { type: 'string', value: '' },
  { type: 'string', value: '__proto__' },
  { type: 'string[]', value: [] },
  { type: 'f32[]', value: [1, 2] },
];

test('every metadata value, replaced by every nasty one', async () => {
  const shape = { ...tinyShape, nLayers: 1, vocab: 270, contextLength: 64 };
  const bytes = await forgeBytes({ ...shape, tokenizer: 'spm' });
  const { metadata } = await readGguf(memorySource(bytes, 'forged'));
  const counts: Record<Outcome, number> = { refused: 0, failed: 0, worked: 0 };
  for (const key of metadata.keys()) {
    for (const value of nastyValues) {
      const edited = await editGguf(bytes, { metadata: (entries) => entries.set(key, value) });
      const outcome = await attempt(edited, 'f16').catch((cause: unknown) => {
        throw new Error(`${key} = ${value.type} ${String(value.value)}`, { cause });
      });
      counts[outcome]++;
    }
  }
  expect(metadata.size).toBeGreaterThan(20);
  expect(counts.refused).toBeGreaterThan(metadata.size);
  expect(counts.worked).toBeGreaterThan(0);
});
