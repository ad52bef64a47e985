import { describe, expect, test } from 'vitest';
import { rootMeanSquareError, roundTrip } from '../../test/round-trip.ts';
import { Random } from '../math/random.ts';
import { blockLength } from './decoded-method.ts';
import { hadamard, symmetricCodec } from './quantized.ts';

function normalPage(seed: number, nKvHeads: number, d: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length: nKvHeads * blockLength * d }, () => random.normal());
}

describe.each([8, 16, 64, 80])('head dimension %i', (d) => {
  const page = normalPage(d, 2, d);
  const groups = Array.from({ length: 2 * blockLength }, (_, row) =>
    Array.from({ length: Math.ceil(d / 32) }, (_, g) => {
      const first = row * d + g * 32;
      return page.subarray(first, Math.min(first + 32, (row + 1) * d));
    }),
  ).flat();
  const largest = (x: Float32Array) => x.reduce((m, v) => Math.max(m, Math.abs(v)), 0);

  test('q8_0 comes back within half a step of each group', () => {
    const back = roundTrip(symmetricCodec(8, 2, d, false), page);
    let from = 0;
    for (const group of groups) {
      const max = largest(group);
      // Half a step, and the scale's rounding to f16 on 127 steps.
      const bound = max / 254 + max * 2 ** -11;
      group.forEach((x, i) => expect(Math.abs(x - back[from + i])).toBeLessThanOrEqual(bound));
      from += group.length;
    }
  });

  test('q4_0 comes back within half a step, a whole one opposite the largest', () => {
    const back = roundTrip(symmetricCodec(4, 2, d, false), page);
    let from = 0;
    for (const group of groups) {
      const max = largest(group);
      const sign = Math.sign(group.find((x) => Math.abs(x) === max) ?? 1);
      const step = max / 8;
      group.forEach((x, i) => {
        const bound = (x * sign < -7.5 * step ? step : step / 2) + max * 2 ** -11;
        expect(Math.abs(x - back[from + i])).toBeLessThanOrEqual(bound);
      });
      from += group.length;
    }
  });

  test('slots written one by one are those written at once', () => {
    for (const codec of [symmetricCodec(4, 2, d, true), symmetricCodec(8, 2, d, false)]) {
      expect(roundTrip(codec, page, 1)).toEqual(roundTrip(codec, page));
    }
  });
});

test('errors spread as evenly as rounding does: step / sqrt(12)', () => {
  const page = normalPage(3, 4, 64).map((x) => Math.sign(x) * Math.min(1, Math.abs(x) / 3));
  for (let at = 0; at < page.length; at += 32) page[at] = 1; // every group has the same step
  const error = rootMeanSquareError(page, roundTrip(symmetricCodec(8, 4, 64, false), page));
  expect(error * Math.sqrt(12) * 127).toBeGreaterThan(0.95);
  expect(error * Math.sqrt(12) * 127).toBeLessThan(1.05);
});

test('zeros and the sizes of the formats', () => {
  const page = new Float32Array(blockLength * 64);
  for (const bits of [4, 8] as const) {
    const codec = symmetricCodec(bits, 1, 64, true);
    expect(roundTrip(codec, page).every((x) => x === 0)).toBe(true);
    // llama.cpp's blocks: 34 bytes and 18 bytes for 32 elements
    expect(codec.codeBytes + codec.scaleBytes).toBe(blockLength * 2 * (bits === 8 ? 34 : 18));
  }
});

describe('hadamard', () => {
  test('is orthonormal and its own inverse', () => {
    const x = normalPage(5, 1, 2).slice(0, 64);
    const y = hadamard(x.slice());
    const norm = (v: Float32Array) => Math.hypot(...v);
    expect(norm(y)).toBeCloseTo(norm(x), 4);
    hadamard(y).forEach((v, i) => expect(v).toBeCloseTo(x[i], 5));
    // The transform of an axis has entries of one magnitude.
    const axis = hadamard(Float32Array.from({ length: 8 }, (_, i) => (i === 5 ? 1 : 0)));
    axis.forEach((v) => expect(Math.abs(v)).toBeCloseTo(Math.sqrt(1 / 8), 6));
  });

  test('tames a channel of outliers', () => {
    const page = normalPage(6, 1, 64).map((x, i) => (i % 64 === 7 ? 20 + x : x));
    const error = (rotated: boolean) =>
      rootMeanSquareError(page, roundTrip(symmetricCodec(4, 1, 64, rotated), page));
    expect(error(true)).toBeLessThan(0.7 * error(false));
  });
});
