import { describe, expect, test } from 'vitest';
import { Random } from '../math/random.ts';
import { kMeans, nearest } from './kmeans.ts';

/** Mean squared distance of points to their centres. */
function distortion(points: Float32Array, d: number, centres: Float32Array): number {
  const [n, count] = [points.length / d, centres.length / d];
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const k = nearest(points, i * d, centres, 0, d, count);
    for (let c = 0; c < d; c++) sum += (points[i * d + c] - centres[k * d + c]) ** 2;
  }
  return sum / n;
}

describe('kMeans', () => {
  test('finds clusters that are far apart', () => {
    const random = new Random(1);
    const truth = [-10, -10, 10, -10, 0, 10];
    const points = Float32Array.from(
      { length: 300 * 2 },
      (_, at) => truth[(Math.floor(at / 2) % 3) * 2 + (at % 2)] + 0.1 * random.normal(),
    );
    const centres = kMeans(points, 2, 3, new Random(2));
    for (let k = 0; k < 3; k++) {
      const found = nearest(Float32Array.from(truth), k * 2, centres, 0, 2, 3);
      const miss = Math.hypot(
        truth[k * 2] - centres[found * 2],
        truth[k * 2 + 1] - centres[found * 2 + 1],
      );
      expect(miss).toBeLessThan(0.05);
    }
  });

  test('reaches the least error that 1 and 2 bits can have on a normal variable', () => {
    const random = new Random(3);
    const points = Float32Array.from({ length: 20_000 }, () => random.normal());
    // Max 1960; the sample itself is 1 % off.
    expect(distortion(points, 1, kMeans(points, 1, 2, random))).toBeCloseTo(0.3634, 1);
    const four = distortion(points, 1, kMeans(points, 1, 4, random));
    expect(four).toBeGreaterThan(0.1175 * 0.97);
    expect(four).toBeLessThan(0.1175 * 1.03);
  });

  test('is a function of its seed', () => {
    const random = new Random(4);
    const points = Float32Array.from({ length: 400 }, () => random.normal());
    const run = (seed: number) => kMeans(points, 4, 16, new Random(seed));
    expect(run(5)).toEqual(run(5));
    expect(run(6)).not.toEqual(run(5));
  });

  test('fewer distinct points than clusters: every point is a centre', () => {
    const points = Float32Array.of(1, 2, 1, 2, 1);
    const centres = kMeans(points, 1, 4, new Random(1));
    expect(new Set(centres)).toEqual(new Set([1, 2]));
    expect(distortion(points, 1, centres)).toBe(0);
  });
});
