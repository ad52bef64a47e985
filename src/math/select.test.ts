import { expect, test } from 'vitest';
import { Random } from './random.ts';
import { kthLargest } from './select.ts';

test('is what stands there in the sorted list, ties and all', () => {
  const random = new Random(1);
  for (let round = 0; round < 300; round++) {
    const length = 1 + Math.floor(random.uniform() * 40);
    // Few different numbers in every second round.
    const draw = () => (round % 2 ? random.normal() : Math.floor(random.uniform() * 4));
    const values = Float32Array.from({ length }, draw);
    const before = values.slice();
    const sorted = values.slice().sort().reverse();
    sorted.forEach((x, i) => expect(kthLargest(values, i + 1)).toBe(x));
    expect(values).toEqual(before);
  }
});
