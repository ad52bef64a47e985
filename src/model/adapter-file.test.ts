import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { withHeader } from '../../test/hf-twin.ts';
import type { Adapter } from '../cache/adapter.ts';
import { KvError } from '../errors/errors.ts';
import { safetensorsBytes, type NumberTensor } from '../format/safetensors-write.ts';
import { Random } from '../math/random.ts';
import { adapterBytes, readAdapter } from './adapter-file.ts';

const model = 'ab'.repeat(32);
const random = new Random(1);
const numbers = (count: number) => Float32Array.from({ length: count }, () => random.normal());
const positive = (count: number) => Array.from(numbers(count), (x) => Math.fround(1 + Math.abs(x)));

/** Two layers of unlike shapes: 4 heads and 2 KV heads, then 2 and 1; keys of 4, values of 6. */
const adapter: Adapter = {
  model,
  text: 'größer, 12 tokens',
  temperatures: [64, 256].map((bits) => ({
    bits,
    global: 0.5,
    layer: positive(2),
    head: [positive(4), positive(2)],
  })),
  statistics: [2, 1].map((heads) => ({
    keyMean: numbers(heads * 4),
    valueMean: numbers(heads * 6),
    keys: numbers(heads * 16),
    queries: numbers(heads * 16),
    valueCosts: numbers(heads),
    values: numbers(heads * 36),
    outputs: numbers(heads * 36),
    bareQueries: numbers(heads * 16),
    bareValueCosts: numbers(heads),
  })),
};
const whole = adapterBytes(adapter);
const read = (bytes: Uint8Array) => readAdapter({ name: 'of x', bytes }, model);

/** A file with these tensors and metadata, in the form of an adapter unless said otherwise. */
const file = (tensors: Record<string, NumberTensor>, metadata: Record<string, string> = {}) =>
  safetensorsBytes(new Map(Object.entries(tensors)), {
    format: 'h1b-kv adapter',
    version: '3',
    model,
    ...metadata,
  });
const one = (shape: number[], x: number) => ({ shape, numbers: Float32Array.of(x) });

test('an adapter is read as it was written, whole or with one part alone', async () => {
  expect(await read(whole)).toEqual(adapter);
  const { statistics: _, ...temperaturesAlone } = adapter;
  expect(await read(adapterBytes(temperaturesAlone))).toEqual(temperaturesAlone);
  const statisticsAlone = { ...adapter, temperatures: [] };
  expect(await read(adapterBytes(statisticsAlone))).toEqual(statisticsAlone);
});

test('it may lie anywhere in memory, as what Node reads from a file does', async () => {
  const moved = Buffer.alloc(whole.length + 1);
  moved.set(whole, 1);
  expect(await read(moved.subarray(1))).toEqual(adapter);
});

test('its metadata say whose it is, and for whom it was fitted', () => {
  const header = new TextDecoder().decode(whole.subarray(8, 400));
  expect(header).toContain(`"model":"${model}"`);
  expect(header).toContain('"fitted":"h1b:b=64 h1b:b=256 bitplane"');
});

test.each<[string, Uint8Array, RegExp]>([
  ['a future version', file({}, { version: '4' }), /version is 4; .* reads version 3\. Update/],
  ['a tensor of nobody', file({ r: one([1], 1) }), /tensor "r" is unknown to this .*Update/],
])('cannot serve %s', async (_, bytes, message) => {
  await expect(read(bytes)).rejects.toMatchObject({ name: 'KvError', code: 'unsupported' });
  await expect(read(bytes)).rejects.toThrow(message);
});

describe('refuses', () => {
  test.each<[string, Uint8Array, RegExp]>([
    ['what is no safetensors file', new TextEncoder().encode('{"version":1}'), /is damaged\. Run/],
    ['half a file', whole.subarray(0, whole.length / 2), /is damaged\. Run h1bkv calibrate again/],
    ['somebody else’s file', withHeader('{}', []), /is no h1b-kv adapter/],
    ['a past version', file({}, { version: '1' }), /version is 1; .*calibrate again/],
    [
      'another model',
      file({}, { model: '01'.repeat(32) }),
      /another model, 010101010101; this one/,
    ],
    ['a missing tensor', file({ 'h1b.64.global': one([1], 1) }), /no tensor "h1b.64.layer"/],
    ['a negative temperature', file({ 'h1b.64.global': one([1], -1) }), /not above 0/],
    ['a width that is no number', file({ 'h1b.x.global': one([1], 1) }), /for b=x/],
    ['NaN', file({ 'h1b.64.global': one([1], NaN) }), /"h1b.64.global" has NaN at 0/],
    ['another shape', file({ 'statistics.0.keyMean': one([1], 1) }), /has shape \[1\]; .* 2 dim/],
    [
      'other numbers than f32',
      withHeader(
        `{"__metadata__":{"format":"h1b-kv adapter","version":"3","model":"${model}"},"h1b.64.global":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}`,
        [new Uint8Array(2)],
      ),
      /"h1b.64.global" is F16; it needs F32/,
    ],
  ])('%s', async (_, bytes, message) => {
    await expect(read(bytes)).rejects.toMatchObject({ name: 'KvError', code: 'format' });
    await expect(read(bytes)).rejects.toThrow(message);
  });

  test('damage by a KvError, or reads on', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(whole.length - 1), fc.nat(255), async (at, value) => {
        const bytes = whole.slice();
        bytes[at] = value;
        const found = await read(bytes).catch((error: unknown) => error);
        if (found instanceof Error) expect(found).toBeInstanceOf(KvError);
      }),
      { numRuns: 300 },
    );
  });
});
