import { existsSync, readdirSync } from 'node:fs';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { forgeBytes, writtenBytes } from '../bench/forge-node.ts';
import { KvError } from '../errors/errors.ts';
import { openFileSource } from './file-node.ts';
import { readGguf, readTensorInto, type Gguf } from './gguf.ts';
import {
  getBoolean,
  getNumber,
  getNumbers,
  getString,
  getStrings,
  requireTensor,
} from './gguf-access.ts';
import * as limits from './gguf-limits.ts';
import { writeGguf } from './gguf-write.ts';
import { modelHash } from './model-hash.ts';
import { memorySource, type ByteSource } from './source.ts';

const read = (bytes: Uint8Array) => readGguf(memorySource(bytes, 'test.gguf'));

/** Writes a header by hand, so that it can lie. */
class Raw {
  private readonly parts: Uint8Array<ArrayBuffer>[] = [];

  u32(...values: number[]): this {
    this.parts.push(new Uint8Array(Uint32Array.from(values).buffer));
    return this;
  }

  u64(...values: (number | bigint)[]): this {
    this.parts.push(new Uint8Array(BigUint64Array.from(values, BigInt).buffer));
    return this;
  }

  bytes(...values: number[]): this {
    this.parts.push(Uint8Array.from(values));
    return this;
  }

  string(value: string): this {
    const bytes = new TextEncoder().encode(value);
    this.parts.push(new Uint8Array(BigUint64Array.of(BigInt(bytes.length)).buffer), bytes);
    return this;
  }

  zeros(count: number): this {
    this.parts.push(new Uint8Array(count));
    return this;
  }

  /** One row of the tensor table; `dims` in GGUF's order, innermost first. */
  tensor(name: string, dims: (number | bigint)[], type: number, offset: number | bigint): this {
    return this.string(name)
      .u32(dims.length)
      .u64(...dims)
      .u32(type)
      .u64(offset);
  }

  done(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.parts));
  }
}

const header = (tensors: number | bigint, metadata: number | bigint) =>
  new Raw().u32(0x46554747, 3).u64(tensors, metadata);

const u32Id = 4;
const boolId = 7;
const stringId = 8;
const arrayId = 9;

describe('a small file', () => {
  let bytes: Uint8Array;
  let gguf: Gguf;
  const f32Data = new Uint8Array(Float32Array.from({ length: 6 }, (_, i) => i - 2.5).buffer);

  beforeAll(async () => {
    bytes = await writtenBytes((sink) =>
      writeGguf(sink, {
        metadata: new Map([
          ['a.u8', { type: 'u8', value: 255 }],
          ['a.i64', { type: 'i64', value: -(2n ** 60n) }],
          ['a.small', { type: 'u64', value: 7 }],
          ['a.f32', { type: 'f32', value: 0.5 }],
          ['a.bool', { type: 'bool', value: true }],
          ['a.string', { type: 'string', value: '\ufeffgrüße 🙂' }],
          ['a.strings', { type: 'string[]', value: ['x', '', 'ÿ'] }],
          ['a.floats', { type: 'f32[]', value: [1, -2.5] }],
          ['a.longs', { type: 'u64[]', value: [1, 2] }],
          ['a.huge', { type: 'u64[]', value: new BigUint64Array([2n ** 63n]) }],
          ['a.bools', { type: 'bool[]', value: [true, false] }],
          ['a.none', { type: 'bool[]', value: [] }],
        ]),
        tensors: [
          { name: 'w', type: 'F32', shape: [3, 2], data: async () => f32Data },
          { name: 'q', type: 'IQ2_XS', shape: [2, 256], data: async () => new Uint8Array(148) },
        ],
      }),
    );
    gguf = await read(bytes);
  });

  test('its metadata has the right values in compact arrays', () => {
    expect(gguf.version).toBe(3);
    expect(gguf.alignment).toBe(32);
    expect(gguf.metadata.get('a.i64')).toBe(-(2n ** 60n));
    expect(gguf.metadata.get('a.small')).toBe(7);
    expect(gguf.metadata.get('a.floats')).toEqual(Float32Array.of(1, -2.5));
    expect(gguf.metadata.get('a.bools')).toEqual([true, false]);
    expect(gguf.metadataTypes.get('a.small')).toBe('u64');
    expect(gguf.metadataTypes.get('a.strings')).toBe('string[]');
  });

  test('its tensors have row-major shapes, and read back', async () => {
    const w = requireTensor(gguf, 'w', [3, 2]);
    expect(w).toMatchObject({ type: 'F32', dtype: 'f32', sizeBytes: 24, offset: gguf.dataOffset });
    const shared = new Uint8Array(new SharedArrayBuffer(24));
    await readTensorInto(memorySource(bytes, 'x'), w, shared);
    expect([...shared]).toEqual([...f32Data]);
    await expect(
      readTensorInto(memorySource(bytes, 'x'), w, new Uint8Array(25)),
    ).rejects.toMatchObject({ code: 'shape' });
  });

  test('a type that the engine cannot use is listed, and refused only when asked for', () => {
    expect(gguf.tensors.get('q')).toMatchObject({ type: 'IQ2_XS', sizeBytes: 148 });
    expect(gguf.tensors.get('q')?.dtype).toBeUndefined();
    expect(() => requireTensor(gguf, 'q')).toThrow(
      new KvError(
        'unsupported',
        'gguf: tensor "q" is IQ2_XS; supported: F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K BF16. Re-quantize to Q8_0.',
      ),
    );
  });

  test('getters give values, fallbacks, and errors that name key, found and needed', () => {
    expect(getNumber(gguf, 'a.u8')).toBe(255);
    expect(getNumber(gguf, 'absent', 3)).toBe(3);
    expect(getString(gguf, 'a.string')).toBe('\ufeffgrüße 🙂');
    expect(getBoolean(gguf, 'a.bool')).toBe(true);
    expect(getBoolean(gguf, 'absent', false)).toBe(false);
    expect(getStrings(gguf, 'a.strings')).toEqual(['x', '', 'ÿ']);
    expect([...getNumbers(gguf, 'a.floats')]).toEqual([1, -2.5]);
    expect([...getNumbers(gguf, 'a.longs')]).toEqual([1, 2]);
    expect([...getNumbers(gguf, 'absent', [4])]).toEqual([4]);
    expect(() => getNumber(gguf, 'absent')).toThrow(/"absent" is missing; need number/);
    expect(() => getNumber(gguf, 'a.string')).toThrow(/"a.string" is string .*; need number/);
    expect(() => getNumber(gguf, 'a.i64')).toThrow(/is i64 "-1152921504606846976"; need number/);
    expect(() => getString(gguf, 'a.u8', 'x')).toThrow(/"a.u8" is u8 "255"; need string/);
    expect(() => getBoolean(gguf, 'a.u8')).toThrow(/need bool/);
    expect(() => getStrings(gguf, 'a.none')).toThrow(/"a.none" is bool\[\]; need string\[\]/);
    expect(() => getNumbers(gguf, 'a.huge')).toThrow(/"a.huge" is u64\[\]; need array of numbers/);
  });

  test('a missing tensor and a wrong shape are named', () => {
    expect(() => requireTensor(gguf, 'v')).toThrow(/tensor "v" is missing; the file has 2 tensors/);
    expect(() => requireTensor(gguf, 'w', [2, 3])).toThrow(/is \[3, 2\]; need \[2, 3\]/);
  });

  test('cut anywhere, it is refused', async () => {
    const q = requireEnd(gguf);
    for (let size = 0; size < q; size += 7) {
      await expect(read(bytes.subarray(0, size)), `${size} bytes`).rejects.toMatchObject({
        name: 'KvError',
        code: 'format',
      });
    }
    await expect(read(bytes.subarray(0, q - 1))).rejects.toThrow(/truncated/);
    await expect(read(bytes.subarray(0, q))).resolves.toBeDefined();
  });
});

/** Where the last tensor ends. */
function requireEnd(gguf: Gguf): number {
  return Math.max(...[...gguf.tensors.values()].map((t) => t.offset + t.sizeBytes));
}

test('strings are read whole wherever they lie in the window that moves over the header', async () => {
  const strings = Array.from({ length: 60_000 }, (_, i) => `${'ü'.repeat(i % 40)}${i}`);
  const long = 'x'.repeat(3 << 20);
  const bytes = await writtenBytes((sink) =>
    writeGguf(sink, {
      metadata: new Map([
        ['before', { type: 'string[]', value: strings }],
        ['long', { type: 'string', value: long }],
        ['after', { type: 'string[]', value: ['', long, 'ü', ''] }],
      ]),
      tensors: [],
    }),
  );
  expect(bytes.length).toBeGreaterThan(8 << 20);
  const { metadata } = await read(bytes);
  expect(metadata.get('before')).toEqual(strings);
  expect(metadata.get('long') === long).toBe(true);
  expect(metadata.get('after')).toEqual(['', long, 'ü', '']);
});

describe('files that are not what they say', () => {
  const padded = (raw: Raw) => raw.zeros(4096).done();
  const oneTensor = (...row: Parameters<Raw['tensor']>) => padded(header(1, 0).tensor(...row));
  const oneKey = (id: number) => header(0, 1).string('key').u32(id);
  const array = (id: number, length: number | bigint) =>
    padded(oneKey(arrayId).u32(id).u64(length));
  const twoTensors = (a: string, b: string, offset: number) =>
    padded(header(2, 0).tensor(a, [64], 0, 0).tensor(b, [64], 0, offset));
  const alignment = (id: number, value: number) =>
    padded(header(0, 1).string('general.alignment').u32(id).u32(value));

  const bad: [string, () => Uint8Array, string, RegExp][] = [
    ['nothing', () => new Uint8Array(0), 'format', /magic needs 4 bytes/],
    ['wrong magic', () => padded(new Raw().u32(0x04034b50, 3)), 'format', /0x04034b50/],
    ['version 1', () => padded(new Raw().u32(0x46554747, 1)), 'unsupported', /version 1/],
    [
      'version 99',
      () => padded(new Raw().u32(0x46554747, 99)),
      'unsupported',
      /version 99.*Update/,
    ],
    ['big-endian', () => padded(new Raw().u32(0x46554747, 3 << 24)), 'unsupported', /big-endian/],
    ['swapped magic', () => padded(new Raw().u32(0x47475546, 3)), 'unsupported', /big-endian/],
    ['2^60 tensors', () => padded(header(2n ** 60n, 0)), 'format', /tensor count is 1152921504606/],
    ['2^17 tensors', () => padded(header(2 ** 17, 0)), 'format', /tensor count is 131072/],
    ['2^63 keys', () => padded(header(0, 2n ** 63n)), 'format', /metadata count is/],
    ['a key of 2^16', () => padded(header(0, 1).u64(2 ** 16)), 'format', /key 0 is 65536; at most/],
    ['a key past the end', () => padded(header(0, 1).u64(60_000)), 'format', /file ends/],
    [
      'invalid UTF-8 in a key',
      () => padded(header(0, 1).u64(2).bytes(0xc3, 0x28)),
      'format',
      /key 0 is not valid UTF-8/,
    ],
    [
      'a key twice',
      () => padded(header(0, 2).string('k').u32(u32Id, 1).string('k').u32(u32Id, 1)),
      'format',
      /"k" is there twice/,
    ],
    ['value type 13', () => padded(oneKey(13)), 'format', /value type 13/],
    ['a string of 2^40', () => padded(oneKey(stringId).u64(2n ** 40n)), 'format', /1099511627776/],
    ['a string past the end', () => padded(oneKey(stringId).u64(2 ** 20)), 'format', /file ends/],
    [
      'invalid UTF-8 in a list',
      () => padded(oneKey(arrayId).u32(stringId).u64(3, 0, 0, 1).bytes(0xff)),
      'format',
      /"key" is not valid UTF-8/,
    ],
    [
      'a string of 2^33 in a list',
      () =>
        padded(
          oneKey(arrayId)
            .u32(stringId)
            .u64(3, 0, 2n ** 33n),
        ),
      'format',
      /8589934592; at most 16777216/,
    ],
    ['a boolean of 2', () => padded(oneKey(boolId).bytes(2)), 'format', /boolean of 2/],
    ['an array of 2^60', () => array(u32Id, 2n ** 60n), 'format', /at most 4194304/],
    ['numbers past the end', () => array(u32Id, 2 ** 20), 'format', /needs 4194304 bytes/],
    ['strings past the end', () => array(stringId, 2 ** 20), 'format', /needs 8388608 bytes/],
    ['booleans past the end', () => array(boolId, 2 ** 20), 'format', /needs 1048576 bytes/],
    ['an array of type 77', () => array(77, 1), 'format', /value type 77/],
    ['an array of arrays', () => array(arrayId, 1), 'unsupported', /array of arrays/],
    ['alignment 48', () => alignment(u32Id, 48), 'format', /is u32 48; allowed/],
    ['alignment 0', () => alignment(u32Id, 0), 'format', /is u32 0; allowed/],
    ['alignment 2^30', () => alignment(u32Id, 2 ** 30), 'format', /is u32 1073741824; allowed/],
    ['alignment as i32', () => alignment(5, 32), 'format', /is i32 32; allowed/],
    [
      'a tensor name of 257',
      () => oneTensor('n'.repeat(257), [4], 0, 0),
      'format',
      /name of tensor 0 is 257; at most 256/,
    ],
    ['a tensor twice', () => twoTensors('a', 'a', 256), 'format', /"a" is there twice/],
    ['0 dimensions', () => oneTensor('t', [], 0, 0), 'format', /has 0 dimensions/],
    ['5 dimensions', () => oneTensor('t', [1, 1, 1, 1, 1], 0, 0), 'format', /has 5 dimensions/],
    ['dimension 0', () => oneTensor('t', [4, 0], 0, 0), 'format', /dimension 1 of 0/],
    ['2^54 elements', () => oneTensor('t', [2 ** 27, 2 ** 27], 0, 0), 'format', /at most 67108863/],
    ['dimension 2^63', () => oneTensor('t', [2n ** 63n], 0, 0), 'format', /dimension 0 of tensor/],
    ['2^50 elements', () => oneTensor('t', [2 ** 50], 0, 0), 'format', /file ends/],
    ['type 999', () => oneTensor('t', [32], 999, 0), 'unsupported', /GGML type 999/],
    ['Q8_0 rows of 40', () => oneTensor('t', [40, 8], 8, 0), 'format', /rows of 40.*of 32/],
    ['offset 8', () => oneTensor('t', [4], 0, 8), 'format', /offset 8; .* multiple of 32/],
    ['offset 2^50', () => oneTensor('t', [4], 0, 2 ** 50), 'format', /file ends/],
    ['offset 2^63', () => oneTensor('t', [4], 0, 2n ** 63n), 'format', /offset of tensor "t"/],
    ['overlap', () => twoTensors('a', 'b', 224), 'format', /"a" and "b" overlap/],
    ['the same bytes twice', () => twoTensors('a', 'b', 0), 'format', /overlap/],
  ];

  test.each(bad)('%s', async (_, make, code, message) => {
    const reading = read(make());
    await expect(reading).rejects.toMatchObject({ name: 'KvError', code });
    await expect(reading).rejects.toThrow(message);
  });

  test('what the table above damages is otherwise fine', async () => {
    await expect(read(oneTensor('t', [40, 8], 0, 32))).resolves.toBeDefined();
    await expect(read(twoTensors('a', 'b', 256))).resolves.toBeDefined();
    await expect(read(array(stringId, 500))).resolves.toBeDefined();
    expect((await read(alignment(u32Id, 64))).alignment).toBe(64);
    expect((await read(padded(new Raw().u32(0x46554747, 2).u64(0, 0)))).version).toBe(2);
  });

  test('a huge file with a lying header costs one small read', async () => {
    let bytesRead = 0;
    const start = array(stringId, limits.maxArrayLength);
    const source: ByteSource = {
      name: 'huge',
      sizeBytes: 2 ** 50,
      async read(offset, target) {
        bytesRead += target.length;
        target.fill(255);
        if (offset < start.length) target.set(start.subarray(offset, offset + target.length));
      },
      async close() {},
    };
    // After 500 empty strings the next claims 2^64 - 1 bytes.
    await expect(readGguf(source)).rejects.toThrow(
      /length of metadata "key" is 18446744073709551615/,
    );
    expect(bytesRead).toBeLessThanOrEqual(2 ** 20);
  });

  test('many arrays that are each allowed may not add up to more than a header', async () => {
    const count = limits.maxHeaderBytes / limits.maxArrayLength + 1;
    const raw = header(0, count);
    for (let i = 0; i < count; i++) {
      raw.string(`k${i}`).u32(arrayId, 0).u64(limits.maxArrayLength).zeros(limits.maxArrayLength);
    }
    await expect(read(raw.done())).rejects.toThrow(/a header may have 67108864/);
  });
});

describe('a forged model', () => {
  const options = {
    nLayers: 1,
    nHeads: 2,
    nKvHeads: 1,
    headDim: 16,
    dFeedForward: 32,
    vocab: 300,
    type: 'Q8_0',
    tied: false,
    contextLength: 64,
    seed: 3,
    tokenizer: 'bpe',
  } as const;
  let bytes: Uint8Array;
  let gguf: Gguf;

  beforeAll(async () => {
    bytes = await forgeBytes(options);
    gguf = await read(bytes);
  });

  test('cut at every 97th byte, it is refused', async () => {
    const end = requireEnd(gguf);
    for (let size = 0; size < end; size += 97) {
      await expect(read(bytes.subarray(0, size)), `${size} bytes`).rejects.toMatchObject({
        name: 'KvError',
        code: 'format',
      });
    }
  });

  test('the same seed gives the same file, another seed another one', async () => {
    expect(Buffer.from(await forgeBytes(options)).equals(bytes)).toBe(true);
    const other = await forgeBytes({ ...options, seed: 4 });
    expect(Buffer.from(other).equals(bytes)).toBe(false);
  });

  test('its hash is the same every time, and changes with header and weights', async () => {
    const hash = (b: Uint8Array) => read(b).then((g) => modelHash(g, memorySource(b, 'x')));
    const original = await hash(bytes);
    expect(original).toMatch(/^[0-9a-f]{64}$/);
    expect(await hash(bytes.slice())).toBe(original);
    const { offset, sizeBytes } = requireTensor(gguf, 'blk.0.attn_q.weight');
    const middle = offset + Math.floor(sizeBytes / 2);
    for (const at of [offset, middle, offset + sizeBytes - 1, bytes.indexOf(0x66, 40)]) {
      const changed = bytes.slice();
      changed[at] ^= 1;
      expect(await hash(changed), `byte ${at}`).not.toBe(original);
    }
  });

  test('damaged at random, it is read or refused with a KvError, quickly', async () => {
    const small = Buffer.from(bytes.subarray(0, gguf.dataOffset));
    const byte = fc.oneof(fc.constantFrom(0, 1, 127, 128, 255), fc.nat(255));
    const place = fc.oneof(fc.nat(200), fc.nat(small.length - 1));
    const mutation = fc.record({ place, value: byte, count: fc.constantFrom(1, 1, 2, 4, 8) });
    const cut = fc.oneof(fc.constant(bytes.length), fc.nat(bytes.length));
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(mutation, { minLength: 1, maxLength: 6 }),
        cut,
        async (list, size) => {
          const damaged = bytes.slice(0, size);
          for (const { place, value, count } of list) damaged.fill(value, place, place + count);
          const start = performance.now();
          const before = process.memoryUsage().arrayBuffers;
          try {
            await read(damaged);
          } catch (error) {
            refused++;
            if (!(error instanceof KvError)) throw error;
          }
          expect(performance.now() - start).toBeLessThan(1000);
          expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 24);
        },
      ),
      { numRuns: 2000, seed: 1 },
    );
    expect(refused).toBeGreaterThan(500);
  });
});

describe('real files', () => {
  const folders = ['../shared/models', '../shared/data/tokenizers'].map(
    (folder) => new URL(`../../${folder}/`, import.meta.url),
  );
  const files = folders
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((name) => new URL(name, folder)))
    .filter((file) => file.pathname.endsWith('.gguf'));

  test('are read whole', async (context) => {
    if (files.length === 0) context.skip('no development data at ../shared');
    for (const file of files) {
      const source = await openFileSource(decodeURIComponent(file.pathname));
      const gguf = await readGguf(source);
      expect(getStrings(gguf, 'tokenizer.ggml.tokens').length, file.pathname).toBeGreaterThan(100);
      expect(getString(gguf, 'general.architecture').length).toBeGreaterThan(0);
      for (const name of gguf.tensors.keys()) requireTensor(gguf, name);
      expect(await modelHash(gguf, source)).toMatch(/^[0-9a-f]{64}$/);
      await source.close();
    }
  });
});
