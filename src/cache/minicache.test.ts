import { describe, expect, test } from 'vitest';
import { rootMeanSquareError } from '../../test/round-trip.ts';
import { ReferenceKernels } from '../kernels/reference.ts';
import { Random } from '../math/random.ts';
import { blockLength } from './decoded-method.ts';
import { perToken } from './kivi.ts';
import { borrowingCodec } from './minicache.ts';
import { createCache } from './registry.ts';

const [nKvHeads, d, keep] = [2, 32, 2];
const lowerCodec = perToken(4, nKvHeads, d);
const noCodebooks = new Uint16Array(0);

/** The lower page and its code, and what comes back of an upper page. */
function borrow(lower: Float32Array, upper: Float32Array): Float32Array {
  const empty = (codec: { codeBytes: number; scaleBytes: number }) => ({
    codes: new Uint8Array(codec.codeBytes),
    scales: new Uint16Array(codec.scaleBytes / 2),
    codebooks: noCodebooks,
  });
  const all = { first: 0, end: blockLength };
  const below = empty(lowerCodec);
  lowerCodec.encode(lower, all, below);
  const codec = borrowingCodec(lowerCodec, nKvHeads, d, keep);
  const coded = { ...empty(codec), below };
  codec.encode(upper, all, coded);
  const back = new Float32Array(upper.length);
  codec.decode(coded, blockLength, back);
  return back;
}

const rowsOf = (page: Float32Array) =>
  Array.from({ length: nKvHeads * blockLength }, (_, row) => page.subarray(row * d, row * d + d));
const length = (x: Float32Array) => Math.hypot(...x);
const cosine = (a: Float32Array, b: Float32Array) =>
  a.reduce((sum, x, c) => sum + x * b[c], 0) / (length(a) * length(b));

/** An upper page: the lower one's directions, turned a little, with other lengths. */
function pair(turn: number): { lower: Float32Array; upper: Float32Array } {
  const random = new Random(1);
  const lower = Float32Array.from({ length: nKvHeads * blockLength * d }, () => random.normal());
  const factors = rowsOf(lower).map(() => 0.5 + 3 * random.uniform());
  const upper = lower.map((x, at) => factors[Math.floor(at / d)] * (x + turn * random.normal()));
  return { lower, upper };
}

describe('the upper layer of a pair', () => {
  test('keeps the length of every row', () => {
    const { lower, upper } = pair(0.5);
    const back = rowsOf(borrow(lower, upper));
    const errors = rowsOf(upper).map((x, row) => Math.abs(length(back[row]) / length(x) - 1));
    // But for the rows that are quantized by themselves, only f16 rounds.
    const merged = errors.sort((a, b) => a - b).slice(0, nKvHeads * (blockLength - keep));
    expect(Math.max(...merged)).toBeLessThan(2 ** -10);
  });

  test('has the directions of the lower one', () => {
    const { lower, upper } = pair(0);
    const back = rowsOf(borrow(lower, upper));
    rowsOf(lower).forEach((x, row) => expect(cosine(x, back[row])).toBeGreaterThan(0.99));
    const error = (turn: number) => {
      const pages = pair(turn);
      return rootMeanSquareError(pages.upper, borrow(pages.lower, pages.upper));
    };
    expect(error(0.3)).toBeGreaterThan(2 * error(0));
  });

  test('keeps the rows that point elsewhere', () => {
    const { lower, upper } = pair(0.1);
    const outliers = [3, 17, blockLength, blockLength + 31];
    for (const row of outliers) {
      const x = upper.subarray(row * d, row * d + d);
      x.forEach((v, c) => (x[c] = -v));
    }
    const back = rowsOf(borrow(lower, upper));
    for (const row of outliers) expect(cosine(rowsOf(upper)[row], back[row])).toBeGreaterThan(0.99);
  });

  test('rows of zeros', () => {
    const { lower, upper } = pair(0);
    const row = upper.subarray(5 * d, 6 * d).fill(0);
    expect(rowsOf(borrow(lower, upper))[5]).toEqual(row);
    lower.subarray(7 * d, 8 * d).fill(0);
    expect(borrow(lower, upper).every(Number.isFinite)).toBe(true);
  });
});

test('bytes: lower layers as kivi:4, every second one from `start` on much less', async () => {
  const shape = { nHeads: 2, nKvHeads, headDimK: d, headDimV: d, scale: 1 };
  const bytes = async (spec: string) => {
    const cache = await createCache(spec, Array(8).fill(shape), new ReferenceKernels());
    cache.begin(64);
    return cache.bytes().total;
  };
  const plain = await bytes('kivi:4,window=0');
  expect(await bytes('minicache:start=1')).toBe(plain);
  // lengths, slots, and the kept rows with a minimum and a step each, of keys and of values
  const upper = 2 * 2 * nKvHeads * (blockLength * 2 + keep * (2 + 4 + d / 2));
  expect(await bytes('minicache')).toBe((plain * 6) / 8 + 2 * upper);
  expect(await bytes('minicache:start=0')).toBe((plain * 4) / 8 + 4 * upper);
});
