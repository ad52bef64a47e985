import { describe, expect, test } from 'vitest';
import { rootMeanSquareError } from '../../test/round-trip.ts';
import { ReferenceKernels } from '../kernels/reference.ts';
import { Random } from '../math/random.ts';
import { bookLength, coupledCodec, fitBook, type CoupledBook } from './cq.ts';
import { blockLength } from './decoded-method.ts';
import { toF16 } from './halves.ts';
import { createCache } from './registry.ts';

const [nKvHeads, d] = [2, 16];

/** Rows whose neighbouring channels share most of their value, f32 [nKvHeads, positions, d]. */
function coupledRows(random: Random, positions: number, share: number): Float32Array {
  const own = Math.sqrt(1 - share);
  const rows = new Float32Array(nKvHeads * positions * d);
  let common = 0;
  for (let at = 0; at < rows.length; at++) {
    if (at % 4 === 0) common = Math.sqrt(share) * random.normal();
    rows[at] = common + own * random.normal();
  }
  return rows;
}

/** Error on a fresh page, for a book that was fitted to other rows of the same kind. */
function error(channels: number, bits: CoupledBook['bits'], share: number): number {
  const random = new Random(7);
  const book: CoupledBook = { nKvHeads, d, channels, bits, from: 0 };
  const codebooks = toF16(fitBook(coupledRows(random, 512, share), book, random));
  const page = coupledRows(random, blockLength, share);
  const codec = coupledCodec(book);
  const coded = { codes: new Uint8Array(codec.codeBytes), scales: new Uint16Array(0), codebooks };
  codec.encode(page, { first: 0, end: 5 }, coded);
  codec.encode(page, { first: 5, end: blockLength }, coded);
  const back = new Float32Array(page.length);
  codec.decode(coded, blockLength, back);
  return rootMeanSquareError(page, back);
}

describe('at one bit per channel', () => {
  test('one channel alone has the error of the best 1-bit quantizer', () => {
    expect(error(1, 1, 0)).toBeGreaterThan(0.95 * Math.sqrt(0.3634));
    expect(error(1, 1, 0)).toBeLessThan(1.05 * Math.sqrt(0.3634));
  });

  test('four channels with 4 bits beat four with one bit each if they depend on each other', () => {
    const ratio = (share: number) => error(4, 4, share) / error(1, 1, share);
    expect(ratio(0.8)).toBeLessThan(0.75);
    // Independent channels have nothing to gain from it.
    expect(ratio(0)).toBeGreaterThan(0.95);
    expect(ratio(0)).toBeLessThan(1.05);
  });

  test('two bits per channel beat one', () => {
    expect(error(2, 4, 0.5)).toBeLessThan(0.8 * error(4, 4, 0.5));
    expect(error(1, 2, 0.5)).toBeLessThan(0.8 * error(1, 1, 0.5));
  });
});

test('bytes: exact up to n positions, then b / c bits per channel and the codebooks', async () => {
  const shape = { nHeads: 2, nKvHeads, headDimK: d, headDimV: 8, scale: 1 };
  const cache = await createCache('cq:n=64', [shape], new ReferenceKernels());
  const bytesAt = (n: number) => {
    cache.begin(n);
    const bytes = cache.bytes();
    cache.rollback();
    return bytes;
  };
  expect(bytesAt(64)).toMatchObject({ keys: 0, values: 0, windows: 64 * nKvHeads * (d + 8) * 2 });
  const books = [d, 8].map(
    (dim) => 2 * bookLength({ nKvHeads, d: dim, channels: 4, bits: 4, from: 0 }),
  );
  expect(bytesAt(96)).toMatchObject({
    keys: (96 * nKvHeads * d) / 8,
    values: (96 * nKvHeads * 8) / 8,
    scales: 0,
    windows: 0,
    codebooks: books[0] + books[1],
  });
});

test('what does not fit is refused', async () => {
  const shapes = [{ nHeads: 1, nKvHeads: 1, headDimK: 8, headDimV: 8, scale: 1 }];
  for (const spec of ['cq:c=3', 'cq:c=16', 'cq:b=3', 'cq:n=15', 'cq:b=8,n=100', 'cq:4']) {
    await expect(createCache(spec, shapes, new ReferenceKernels())).rejects.toMatchObject({
      code: 'usage',
    });
  }
  const cache = await createCache('cq:b=8', shapes, new ReferenceKernels());
  expect(cache.spec).toBe('cq:c=4,b=8,n=1024,seed=0');
});
