import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { safetensorsBytes, withHeader } from '../../test/hf-twin.ts';
import { KvError } from '../errors/errors.ts';
import {
  maxSafetensorsHeaderBytes,
  readSafetensors,
  type SafetensorsHeader,
} from './safetensors.ts';
import { safetensorsBytes as writtenBytes } from './safetensors-write.ts';
import { memorySource } from './source.ts';

const read = (bytes: Uint8Array) => readSafetensors(memorySource(bytes, 'x.safetensors'));

const small = safetensorsBytes([
  { name: 'b', dtype: 'BF16', shape: [3, 2], bytes: new Uint8Array(12) },
  { name: 'none', dtype: 'F32', shape: [0, 2], bytes: new Uint8Array() },
  { name: 'a', dtype: 'F8_E4M3', shape: [5], bytes: new Uint8Array(5) },
  { name: 'one', dtype: 'I64', shape: [], bytes: new Uint8Array(8) },
]);

/** One tensor of 4 bytes with anything changed, in a file of `dataBytes`. */
const lying = (row: object, dataBytes = 4) =>
  withHeader(JSON.stringify({ w: { dtype: 'F32', shape: [1], data_offsets: [0, 4], ...row } }), [
    new Uint8Array(dataBytes),
  ]);

describe('readSafetensors', () => {
  test('lists tensors with absolute offsets, types that the engine lacks included', async () => {
    const start = small.length - 25;
    expect(Object.fromEntries((await read(small)).tensors)).toEqual({
      b: { dtype: 'BF16', shape: [3, 2], offset: start, sizeBytes: 12 },
      none: { dtype: 'F32', shape: [0, 2], offset: start + 12, sizeBytes: 0 },
      a: { dtype: 'F8_E4M3', shape: [5], offset: start + 12, sizeBytes: 5 },
      one: { dtype: 'I64', shape: [], offset: start + 17, sizeBytes: 8 },
    });
  });

  test.each<[string, Uint8Array, RegExp]>([
    ['no header', new Uint8Array(8), /has 8 bytes, too few/],
    ['a header that is no JSON', withHeader('{"a":', []), /header that is no JSON/],
    ['a header that is no UTF-8', Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 255), /no JSON/],
    ['a header that is a list', withHeader('[]', []), /the header is \[\]; need a JSON object/],
    [
      'metadata that is no text',
      withHeader('{"__metadata__":{"v":2}}', []),
      /"v" is 2; need a string/,
    ],
    ['a row that is no object', withHeader('{"w":3}', []), /tensor "w" is 3; need a JSON object/],
    ['a negative size', lying({ shape: [-1] }), /has shape \[-1\]/],
    ['a broken size', lying({ shape: [0.5] }), /has shape \[0.5\]/],
    ['sizes whose product overflows', lying({ shape: [2 ** 40, 2 ** 40] }), /its offsets say 4/],
    ['too many dimensions', lying({ shape: new Array<number>(17).fill(1) }), /at most 16/],
    ['offsets in reverse', lying({ data_offsets: [4, 0] }), /has offsets \[4,0\]/],
    ['offsets of another size', lying({ shape: [2] }), /8 bytes; its offsets say 4/],
    ['a gap', lying({ data_offsets: [4, 8] }, 8), /Gaps and overlaps/],
    ['bytes that are nobody’s', lying({}, 5), /tensors end at/],
    ['a truncated file', lying({}, 3), /tensors end at/],
  ])('refuses %s', async (_, bytes, message) => {
    const reading = read(bytes);
    await expect(reading).rejects.toMatchObject({ name: 'KvError', code: 'format' });
    await expect(reading).rejects.toThrow(message);
  });

  test('reads what is written, numbers at multiples of 8 and metadata included', async () => {
    const numbers = Float32Array.of(1, -2.5, 3e-9, Infinity, 0.1, 7);
    const tensors = new Map([
      ['empty', { shape: [0], numbers: new Float32Array() }],
      ['é.1', { shape: [2, 3], numbers }],
    ]);
    const bytes = writtenBytes(tensors, { format: 'x', about: 'größer' });
    const found = await read(bytes);
    expect(Object.fromEntries(found.metadata)).toEqual({ format: 'x', about: 'größer' });
    const { offset, ...rest } = found.tensors.get('é.1') ?? { offset: 0 };
    expect(rest).toEqual({ dtype: 'F32', shape: [2, 3], sizeBytes: 24 });
    expect(offset % 8).toBe(0);
    expect(new Float32Array(bytes.buffer, offset, 6)).toEqual(numbers);
    expect(found.tensors.get('empty')).toEqual({ dtype: 'F32', shape: [0], offset, sizeBytes: 0 });
  });

  test('refuses overlapping tensors', async () => {
    const row = { dtype: 'F32', shape: [2], data_offsets: [0, 8] };
    const header = JSON.stringify({ a: row, b: { ...row, data_offsets: [4, 12] } });
    await expect(read(withHeader(header, [new Uint8Array(12)]))).rejects.toThrow(
      /tensor "b" begins at byte \d+, but the one before it ends at \d+/,
    );
  });

  test('names a type that nobody knows', async () => {
    const reading = read(lying({ dtype: 'toString' }));
    await expect(reading).rejects.toMatchObject({ code: 'unsupported' });
    await expect(reading).rejects.toThrow(/tensor "w" has type "toString"; known: BOOL/);
  });

  test('a header length beyond the limit is refused before it is read', async () => {
    let largest = 0;
    const source = {
      name: 'huge',
      sizeBytes: 2 ** 40,
      async read(_offset: number, target: Uint8Array) {
        largest = Math.max(largest, target.length);
        target.fill(0);
        new DataView(target.buffer).setBigUint64(0, BigInt(maxSafetensorsHeaderBytes + 1), true);
      },
      async close() {},
    };
    await expect(readSafetensors(source)).rejects.toThrow(/at most 100000000 are possible/);
    expect(largest).toBe(8);
  });

  test('a damaged file is read or refused, with nothing outside the file', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(small.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(small.length),
        async (changes, cut) => {
          const bytes = small.slice(0, cut || small.length);
          for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value;
          const found = await read(bytes).catch((error: unknown) => error);
          if (found instanceof Error) {
            expect(found).toBeInstanceOf(KvError);
            return;
          }
          for (const { offset, sizeBytes } of (found as SafetensorsHeader).tensors.values()) {
            expect(offset + sizeBytes).toBeLessThanOrEqual(bytes.length);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
