import { expect, test } from 'vitest';
import { median, undisturbed } from './timing.ts';

test('the speed of a machine that others use too is that of its few free moments', () => {
  const speeds = Array.from({ length: 100 }, (_, i) => (i < 90 ? 1 : 8 + (i - 90) / 100));
  expect(undisturbed(speeds)).toBe(8.04);
  expect(undisturbed([3])).toBe(3);
});

test('the median of an even number of values is between the middle two', () => {
  expect(median([9, 1, 2])).toBe(2);
  expect(median([9, 1, 2, 4])).toBe(3);
});
