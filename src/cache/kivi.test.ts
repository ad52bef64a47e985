import { describe, expect, test } from 'vitest';
import { rootMeanSquareError, roundTrip } from '../../test/round-trip.ts';
import { ReferenceKernels } from '../kernels/reference.ts';
import { Random } from '../math/random.ts';
import { blockLength } from './decoded-method.ts';
import { perChannel, perToken } from './kivi.ts';
import { createCache } from './registry.ts';

const [nKvHeads, d] = [2, 64];

/** Normal keys; with outliers, three channels are far from zero, as in real models. */
function keys(outliers: boolean): Float32Array {
  const random = new Random(1);
  return Float32Array.from({ length: nKvHeads * blockLength * d }, (_, i) => {
    const shift = outliers && [3, 20, 41].includes(i % d) ? 15 : 0;
    return random.normal() + shift;
  });
}

describe.each([2, 4] as const)('%i bits', (bits) => {
  const levels = 2 ** bits - 1;
  const half = blockLength / 2;

  test('a key comes back within half a step of its channel', () => {
    const page = keys(true);
    const back = roundTrip(perChannel(bits, nKvHeads, d), page);
    for (let h = 0; h < nKvHeads; h++) {
      for (let c = 0; c < d; c++) {
        const at = (slot: number) => (h * blockLength + slot) * d + c;
        const channel = Array.from({ length: blockLength }, (_, slot) => page[at(slot)]);
        const [min, max] = [Math.min(...channel), Math.max(...channel)];
        // Minimum and step are rounded outwards to f16.
        const bound = (max - min) / levels / 2 + Math.max(Math.abs(min), max) * 2 ** -10;
        channel.forEach((x, slot) =>
          expect(Math.abs(x - back[at(slot)])).toBeLessThanOrEqual(bound),
        );
      }
    }
  });

  test('a value comes back within half a step of its group, and tokens do not mix', () => {
    const page = keys(false);
    const codec = perToken(bits, nKvHeads, d);
    const back = roundTrip(codec, page);
    for (let from = 0; from < page.length; from += 32) {
      const group = page.subarray(from, from + 32);
      const [min, max] = [Math.min(...group), Math.max(...group)];
      const bound = (max - min) / levels / 2 + Math.max(Math.abs(min), max) * 2 ** -10;
      group.forEach((x, i) => expect(Math.abs(x - back[from + i])).toBeLessThanOrEqual(bound));
    }
    expect(roundTrip(codec, page, half)).toEqual(back);
  });

  test('where few channels hold the outliers, keys per channel beat keys per token', () => {
    const error = (outliers: boolean, make: typeof perChannel) => {
      const page = keys(outliers);
      return rootMeanSquareError(page, roundTrip(make(bits, nKvHeads, d), page));
    };
    expect(error(true, perChannel)).toBeLessThan(error(true, perToken) / 2);
    // Without outliers neither is much better: the test sees what it says it sees.
    const even = error(false, perChannel) / error(false, perToken);
    expect(even).toBeGreaterThan(0.9);
    expect(even).toBeLessThan(1.1);
  });
});

test('a last group of fewer channels', () => {
  const random = new Random(2);
  const page = Float32Array.from({ length: blockLength * 40 }, () => random.normal());
  const codec = perToken(4, 1, 40);
  expect(codec.scaleBytes).toBe(blockLength * 2 * 4);
  expect(rootMeanSquareError(page, roundTrip(codec, page))).toBeLessThan(0.1);
});

test('specs: the bits may stand first, and the full form makes the same method', async () => {
  const shapes = [{ nHeads: 1, nKvHeads: 1, headDimK: 8, headDimV: 8, scale: 1 }];
  const spec = async (text: string) =>
    (await createCache(text, shapes, new ReferenceKernels())).spec;
  expect(await spec('kivi')).toBe('kivi:2,window=128');
  expect(await spec('kivi:4')).toBe('kivi:4,window=128');
  expect(await spec('kivi:window=0,bits=4')).toBe('kivi:4,window=0');
  expect(await spec('kivi:4,window=0')).toBe('kivi:4,window=0');
  for (const text of ['kivi:3', 'kivi:', 'kivi:2,4', 'kivi:2,bits=2', 'kivi:2,window=-1']) {
    await expect(spec(text)).rejects.toMatchObject({ code: 'usage' });
  }
});
