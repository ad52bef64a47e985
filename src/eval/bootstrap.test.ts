import { expect, test } from 'vitest';
import { Random } from '../math/random.ts';
import { blockBootstrap } from './bootstrap.ts';

const range = <T>(length: number, make: (i: number) => T) =>
  Array.from({ length }, (_, i) => make(i));

/** Blocks of unequal size around 2; what a block's tokens share makes them move together. */
function draw(random: Random, blocks: number) {
  const counts = range(blocks, () => 20 + Math.floor(random.uniform() * 60));
  const sums = counts.map((count) => {
    const shared = 0.5 * random.normal();
    return range(count, () => 2 + shared + random.normal()).reduce((sum, x) => sum + x, 0);
  });
  return { sums, counts };
}

test('95 % intervals hold the true mean in about 95 % of experiments, with dependent tokens', () => {
  const random = new Random(11);
  const experiments = 400;
  let [held, tokenwise] = [0, 0];
  for (let i = 0; i < experiments; i++) {
    const { sums, counts } = draw(random, 30);
    const found = blockBootstrap(sums, counts, { replicates: 400, seed: i });
    if (found && found.low <= 2 && 2 <= found.high) held++;
    // What independent tokens would give: 1.96 sqrt((0.25 + 1) / n). It is far too narrow.
    const tokens = counts.reduce((sum, count) => sum + count, 0);
    if (found && Math.abs(found.mean - 2) < 1.96 * Math.sqrt(1.25 / tokens)) tokenwise++;
  }
  expect(held / experiments).toBeGreaterThan(0.92);
  expect(held / experiments).toBeLessThan(0.98);
  expect(tokenwise / experiments).toBeLessThan(0.6);
});

test('the standard error is that of the mean of independent blocks', () => {
  const random = new Random(3);
  const sums = range(200, () => random.normal());
  const found = blockBootstrap(
    sums,
    sums.map(() => 1),
  );
  const mean = sums.reduce((a, b) => a + b) / 200;
  const variance = sums.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 199;
  expect(found?.mean).toBeCloseTo(mean, 12);
  expect((found?.stderr ?? 0) / Math.sqrt(variance / 200)).toBeCloseTo(1, 1);
  expect(found?.high).toBeCloseTo((found?.mean ?? 0) + 1.96 * (found?.stderr ?? 0), 2);
});

test('equal blocks leave no doubt; one block tells nothing; the same seed gives the same', () => {
  expect(blockBootstrap([3, 6, 9], [1, 2, 3])).toEqual({ mean: 3, stderr: 0, low: 3, high: 3 });
  expect(blockBootstrap([3], [1])).toBeUndefined();
  const once = blockBootstrap([1, 5, 2], [1, 1, 1]);
  expect(blockBootstrap([1, 5, 2], [1, 1, 1])).toEqual(once);
  expect(() => blockBootstrap([1, 2], [1])).toThrow(/2 sums and 1 counts/);
});
