import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { writtenBytes } from '../bench/forge-node.ts';
import { openFileSource } from './file-node.ts';
import { readGguf } from './gguf.ts';
import { metadataEntries, writeGguf, type GgufEntry, type TensorToWrite } from './gguf-write.ts';
import { memorySource, type ByteSource } from './source.ts';

const write = (metadata: [string, GgufEntry][], tensors: TensorToWrite[] = []) =>
  writtenBytes((sink) => writeGguf(sink, { metadata: new Map(metadata), tensors }));

const tensor = (over: Partial<TensorToWrite> = {}): TensorToWrite => ({
  name: 't',
  type: 'F32',
  shape: [2, 5],
  data: async () => new Uint8Array(40),
  ...over,
});

/** Reads a file and writes it again. */
async function rewritten(source: ByteSource): Promise<Uint8Array> {
  const gguf = await readGguf(source);
  const tensors = [...gguf.tensors.values()].map(({ name, type, shape, offset, sizeBytes }) => ({
    name,
    type,
    shape,
    data: async () => {
      const bytes = new Uint8Array(sizeBytes);
      await source.read(offset, bytes);
      return bytes;
    },
  }));
  return writtenBytes((sink) => writeGguf(sink, { metadata: metadataEntries(gguf), tensors }));
}

const everyType: [string, GgufEntry][] = [
  ['u8', { type: 'u8', value: 200 }],
  ['i8', { type: 'i8', value: -128 }],
  ['u16', { type: 'u16', value: 65535 }],
  ['i16', { type: 'i16', value: -32768 }],
  ['u32', { type: 'u32', value: 2 ** 32 - 1 }],
  ['i32', { type: 'i32', value: -(2 ** 31) }],
  ['f32', { type: 'f32', value: 1.5 }],
  ['bool', { type: 'bool', value: false }],
  ['string', { type: 'string', value: 'Ġthe 🙂' }],
  ['u64', { type: 'u64', value: 2n ** 64n - 1n }],
  ['i64', { type: 'i64', value: -(2n ** 63n) }],
  ['f64', { type: 'f64', value: Math.PI }],
  ['u8[]', { type: 'u8[]', value: Uint8Array.of(1, 255) }],
  ['i8[]', { type: 'i8[]', value: Int8Array.of(-1) }],
  ['u16[]', { type: 'u16[]', value: Uint16Array.of(65535) }],
  ['i16[]', { type: 'i16[]', value: Int16Array.of(-5) }],
  ['u32[]', { type: 'u32[]', value: Uint32Array.of(2 ** 32 - 1) }],
  ['i32[]', { type: 'i32[]', value: Int32Array.of(-7, 7) }],
  ['f32[]', { type: 'f32[]', value: Float32Array.of(-0, 0.1, NaN) }],
  ['f64[]', { type: 'f64[]', value: Float64Array.of(0.1) }],
  ['u64[]', { type: 'u64[]', value: BigUint64Array.of(2n ** 64n - 1n) }],
  ['i64[]', { type: 'i64[]', value: BigInt64Array.of(-1n) }],
  ['bool[]', { type: 'bool[]', value: [true, false] }],
  ['string[]', { type: 'string[]', value: ['', 'a'] }],
  ['empty', { type: 'string[]', value: [] }],
];

describe('writeGguf', () => {
  test('every value type is read back as it was, with its type', async () => {
    const gguf = await readGguf(memorySource(await write(everyType), 'x'));
    expect([...metadataEntries(gguf)]).toEqual(everyType);
  });

  test('a file that is read and written again is the same, byte for byte', async () => {
    const bytes = await write(everyType, [tensor(), tensor({ name: 'u' })]);
    expect(await rewritten(memorySource(bytes, 'x'))).toEqual(bytes);
  });

  test('data starts on the alignment that the metadata asks for', async () => {
    for (const alignment of [32, 256]) {
      const entry: GgufEntry = { type: 'u32', value: alignment };
      const bytes = await write([['general.alignment', entry]], [tensor(), tensor({ name: 'u' })]);
      const { tensors, dataOffset } = await readGguf(memorySource(bytes, 'x'));
      expect(dataOffset % alignment).toBe(0);
      expect(tensors.get('u')?.offset).toBe(dataOffset + Math.ceil(40 / alignment) * alignment);
      expect(bytes.length % alignment).toBe(0);
    }
  });

  test('data may come in pieces, and a tensor is asked for only when it is its turn', async () => {
    const events: string[] = [];
    const pieces = (name: string) =>
      tensor({
        name,
        async *data() {
          events.push(`${name} asked`);
          yield new Uint8Array(17).fill(1);
          yield new Uint8Array(23).fill(2);
        },
      });
    await writeGguf(
      { write: async (bytes) => void (bytes.length === 23 && events.push('23 written')) },
      { metadata: new Map(), tensors: [pieces('a'), pieces('b')] },
    );
    expect(events).toEqual(['a asked', '23 written', 'b asked', '23 written']);
  });

  test.each<[string, GgufEntry]>([
    ['too large', { type: 'u8', value: 256 }],
    ['negative', { type: 'u32', value: -1 }],
    ['a fraction', { type: 'i32', value: 0.5 }],
    ['2^64', { type: 'u64', value: 2n ** 64n }],
    ['a bigint for a float', { type: 'f32', value: 1n }],
    ['a string for a number', { type: 'u32', value: '1' }],
    ['a number for a string', { type: 'string', value: 1 }],
    ['a number for a boolean', { type: 'bool', value: 1 }],
    ['a number for an array', { type: 'u32[]', value: 1 }],
    ['an item of another type', { type: 'i32[]', value: ['1'] }],
  ])('refuses a value that does not fit its type: %s', async (_, entry) => {
    const writing = write([['some.key', entry]]);
    await expect(writing).rejects.toMatchObject({ name: 'KvError', code: 'range' });
    await expect(writing).rejects.toThrow(/"some.key" is/);
  });

  test('refuses strings that UTF-8 cannot hold', async () => {
    const entry: GgufEntry = { type: 'string', value: 'a\ud800' };
    await expect(write([['k', entry]])).rejects.toThrow(/half a surrogate/);
  });

  test.each<[string, Partial<TensorToWrite>, string, RegExp]>([
    ['too little data', { data: async () => new Uint8Array(39) }, 'shape', /40 bytes.*has 39/],
    ['too much data', { data: async () => new Uint8Array(41) }, 'shape', /40 bytes.*has more/],
    ['no dimension', { shape: [] }, 'shape', /1 to 4 dimensions/],
    ['five dimensions', { shape: [1, 1, 1, 1, 1] }, 'shape', /1 to 4 dimensions/],
    ['an empty dimension', { shape: [0, 4] }, 'shape', /1 to 4 dimensions/],
    ['rows that are no whole blocks', { type: 'Q8_0', shape: [2, 40] }, 'shape', /multiple of 32/],
    ['an unknown type', { type: 'Q8_9' }, 'unsupported', /type Q8_9; known: F32/],
    ['a name that is too long', { name: 'n'.repeat(257) }, 'range', /257 bytes; at most 256/],
  ])('refuses a tensor with %s', async (_, over, code, message) => {
    const writing = write([], [tensor(over)]);
    await expect(writing).rejects.toMatchObject({ name: 'KvError', code });
    await expect(writing).rejects.toThrow(message);
  });

  test('refuses data that does not end, before writing more than belongs there', async () => {
    async function* endless() {
      for (;;) yield new Uint8Array(16);
    }
    let written = 0;
    const sink = { write: async (bytes: Uint8Array) => void (written += bytes.length) };
    const file = { metadata: new Map(), tensors: [tensor({ data: endless })] };
    await expect(writeGguf(sink, file)).rejects.toThrow(/its data has more/);
    expect(written % 32).toBe(0); // a padded header, and two chunks of 16
  });

  test('refuses two tensors of one name', async () => {
    await expect(write([], [tensor(), tensor()])).rejects.toThrow(/there twice/);
  });

  test('a real vocabulary survives a round trip', async (context) => {
    const file = new URL('../../../shared/data/tokenizers/ggml-vocab-gpt-2.gguf', import.meta.url);
    if (!existsSync(file)) context.skip('no development data at ../shared');
    const source = await openFileSource(decodeURIComponent(file.pathname));
    const before = await readGguf(source);
    const after = await readGguf(memorySource(await rewritten(source), 'again'));
    expect(after.metadata).toEqual(before.metadata);
    expect(after.metadataTypes).toEqual(before.metadataTypes);
    await source.close();
  });
});
