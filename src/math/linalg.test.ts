import { describe, expect, test } from 'vitest';
import { cholesky, symmetricEigen } from './linalg.ts';
import { Random } from './random.ts';

/** B B^T of a random B [n, rank]. */
function gram(random: Random, n: number, rank: number): Float64Array {
  const b = Float64Array.from({ length: n * rank }, () => random.normal());
  return Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += b[i * rank + k] * b[j * rank + k];
    return sum;
  });
}

describe('symmetricEigen', () => {
  test.each([
    ['one element', 1, 1],
    ['two', 2, 2],
    ['full rank', 17, 40],
    ['singular', 32, 5],
    ['a head of 128', 128, 200],
  ])('gives back the matrix, with orthonormal rows in falling order: %s', (_, n, rank) => {
    const a = gram(new Random(n), n, rank);
    const { values, vectors } = symmetricEigen(a, n);
    const scale = values[0];
    for (let i = 0; i < n; i++) {
      if (i > 0) expect(values[i]).toBeLessThanOrEqual(values[i - 1]);
      for (let j = 0; j < n; j++) {
        let [product, element] = [0, 0];
        for (let k = 0; k < n; k++) {
          product += vectors[i * n + k] * vectors[j * n + k];
          element += values[k] * vectors[k * n + i] * vectors[k * n + j];
        }
        expect(Math.abs(product - (i === j ? 1 : 0))).toBeLessThan(1e-12);
        expect(Math.abs(element - a[i * n + j])).toBeLessThan(1e-12 * scale * n);
      }
    }
    // The last values of a singular matrix are zero but for rounding.
    for (let i = rank; i < n; i++) expect(Math.abs(values[i])).toBeLessThan(1e-12 * scale * n);
  });

  test('known values, negative ones among them, and a fixed sign', () => {
    const { values, vectors } = symmetricEigen(Float64Array.of(0, -2, -2, 3), 2);
    expect(values[0]).toBeCloseTo(4, 12);
    expect(values[1]).toBeCloseTo(-1, 12);
    const expected = [-1, 2, 2, 1].map((x) => x / Math.sqrt(5));
    vectors.forEach((x, i) => expect(x).toBeCloseTo(expected[i], 12));
  });

  test('zero and equal values leave the axes', () => {
    expect(symmetricEigen(new Float64Array(9), 3).values).toEqual(new Float64Array(3));
    const identity = Float64Array.of(1, 0, 0, 1);
    expect(symmetricEigen(identity, 2).vectors).toEqual(identity);
  });

  test('what is no matrix of numbers is refused', () => {
    const code = (wanted: string) => expect.objectContaining({ code: wanted });
    expect(() => symmetricEigen(new Float64Array(3), 2)).toThrow(code('shape'));
    expect(() => symmetricEigen(Float64Array.of(1, NaN, NaN, 1), 2)).toThrow(code('not-finite'));
  });
});

test.each([1, 2, 17, 64])(
  'cholesky: L is lower triangular and L L^T the matrix, %i by that',
  (n) => {
    const a = gram(new Random(n), n, 2 * n);
    const l = cholesky(a, n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        if (j > i) expect(l[i * n + j]).toBe(0);
        let sum = 0;
        for (let k = 0; k < n; k++) sum += l[i * n + k] * l[j * n + k];
        expect(Math.abs(sum - a[i * n + j])).toBeLessThan(1e-12 * n * a[0]);
      }
    }
  },
);
