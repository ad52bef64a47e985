import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attendAll, normalScript } from '../../test/attend-all.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { Random } from '../math/random.ts';
import { entriesAt, evict } from './sparse.ts';

let kernels: Kernels;
beforeAll(async () => {
  kernels = await createKernels('auto');
});
afterAll(() => kernels.dispose());

const shape = { nHeads: 2, nKvHeads: 1, headDimK: 16, headDimV: 8, scale: 1 };

describe('evict', () => {
  const entries = Array.from({ length: 20 }, (_, position) => ({
    position,
    heat: [7, 9, 12].includes(position) ? 5 : 1,
  }));
  const kept = (budget: number, sinks: number) =>
    evict(entries, budget, sinks).map(({ position }) => position);

  test('keeps sinks, the newest half, and the hottest, in order of position', () => {
    expect(kept(10, 2)).toEqual([0, 1, 7, 9, 12, 15, 16, 17, 18, 19]);
    expect(kept(8, 4)).toEqual([0, 1, 2, 3, 16, 17, 18, 19]);
    expect(kept(3, 0)).toEqual([7, 9, 19]);
  });

  test('gives ties to the older, and everything if there is room', () => {
    expect(kept(12, 0)).toEqual([0, 1, 2, 7, 9, 12, 14, 15, 16, 17, 18, 19]);
    expect(kept(20, 4)).toHaveLength(20);
  });
});

test('the budget is a fraction of the positions, and what came since the last eviction', async () => {
  const rule = { budget: 0.25, sinks: 4 };
  expect([63, 64, 65, 127, 128, 640, 650].map((n) => entriesAt(n, rule))).toEqual([
    63, 16, 17, 79, 32, 160, 170,
  ]);
  const script = normalScript(new Random(1), shape, 650);
  const { cache } = await attendAll('sparse:budget=0.25', kernels, shape, script, 100);
  const { keys, values, scales, total } = cache.bytes();
  expect([keys, values, scales]).toEqual([170 * 16 * 2, 170 * 8 * 2, 170 * 4]);
  expect(total).toBe(keys + values + scales);
  cache.dispose();
});

describe('heavy hitters', () => {
  const needle = 20;
  const positions = 640;

  /** What the last query, which looks for the needle's key, gets back of the needle's value (1 everywhere; else 0). */
  async function found(isAttended: boolean): Promise<number> {
    const script = normalScript(new Random(2), shape, positions);
    const { headDimK, headDimV, nHeads } = shape;
    const axis = (scale: number) =>
      Float32Array.from({ length: headDimK }, (_, c) => (c ? 0 : scale));
    // No other key has anything along the needle's axis.
    for (let j = 0; j < positions; j++) script.k[j * headDimK] = 0;
    script.k.set(axis(10), needle * headDimK);
    script.v.fill(0).fill(1, needle * headDimV, (needle + 1) * headDimV);
    for (let i = 0; i < positions; i++) {
      const looks = isAttended ? i % 3 === 0 : i === positions - 1;
      const query = axis(looks ? 2 : -2);
      for (let h = 0; h < nHeads; h++) script.q.set(query, (i * nHeads + h) * headDimK);
    }
    const last = {
      ...script,
      q: script.q.map((x, at) =>
        at < (positions - 1) * nHeads * headDimK ? x : axis(2)[at % headDimK],
      ),
    };
    const { cache, out } = await attendAll('sparse:budget=0.1', kernels, shape, last);
    cache.dispose();
    return out[out.length - 1];
  }

  test('stay, far outside the window, if they were attended to, and go if not', async () => {
    expect(await found(true)).toBeGreaterThan(0.99);
    expect(await found(false)).toBe(0);
  });
});
