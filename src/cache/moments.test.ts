import { expect, test } from 'vitest';
import { Random } from '../math/random.ts';
import { addMoments } from './moments.ts';

test.each([
  [1, 3, 1],
  [7, 6, 2],
  [9, 4, 4],
])('moments of %i rows of %i heads in %i groups, in one call or in many', (n, heads, groups) => {
  const d = 5;
  const random = new Random(n);
  const x = Float32Array.from({ length: n * heads * d }, () => random.normal());
  const expected = new Float64Array(groups * d * d).map((_, at) => {
    const [group, i, j] = [Math.floor(at / d / d), Math.floor(at / d) % d, at % d];
    let sum = 0;
    for (let row = 0; row < n * heads; row++) {
      if (Math.floor(((row % heads) * groups) / heads) === group)
        sum += x[row * d + i] * x[row * d + j];
    }
    return sum;
  });
  const [whole, parts] = [expected, expected].map(({ length }) => new Float64Array(length));
  addMoments(whole, x, d, heads, groups);
  for (let row = 0; row < n; row++)
    addMoments(parts, x.subarray(row * heads * d, (row + 1) * heads * d), d, heads, groups);
  expect(parts).toEqual(whole);
  whole.forEach((sum, at) => expect(sum).toBeCloseTo(expected[at], 12));
});
