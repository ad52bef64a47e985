import { describe, expect, it, test } from 'vitest';
import { Random } from '../math/random.ts';
import {
  allocateBits,
  allocatedCodec,
  balancedBasis,
  normalErrors,
  normalLevels,
  randomRotation,
  uniformCodec,
  type HeadCodec,
  type HeadStatistics,
} from './codec.ts';

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  range(a.length).reduce((sum, i) => sum + a[i] * b[i], 0);

test.each([1, 2, 3, 4])('normal levels of %i bits are the means of their cells', (bits) => {
  const levels = normalLevels(bits);
  const random = new Random(bits);
  const [sums, counts] = [levels.map(() => 0), levels.map(() => 0)];
  let error = 0;
  const draws = 400_000;
  for (let i = 0; i < draws; i++) {
    const x = random.normal();
    const code = levels.reduce((b, l, c) => (Math.abs(x - l) < Math.abs(x - levels[b]) ? c : b), 0);
    sums[code] += x;
    counts[code]++;
    error += (x - levels[code]) ** 2 / draws;
  }
  levels.forEach((level, code) => {
    expect(Math.abs(sums[code] / counts[code] - level)).toBeLessThan(4 / Math.sqrt(counts[code]));
  });
  expect(error / normalErrors[bits]).toBeCloseTo(1, 1);
});

test.each([8, 20, 64, 80])('a random rotation of %i dimensions is orthonormal', (d) => {
  const r = randomRotation(d, 3);
  const row = (i: number) => r.subarray(i * d, (i + 1) * d);
  for (const i of range(d)) {
    for (const j of range(i + 1)) expect(dot(row(i), row(j))).toBeCloseTo(i === j ? 1 : 0, 10);
  }
  expect(randomRotation(d, 3)).toEqual(r);
  expect(randomRotation(d, 4)).not.toEqual(r);
});

describe('allocation', () => {
  it('spreads equal channels evenly', () => {
    expect(new Set(allocateBits(Array<number>(64).fill(1), 16))).toEqual(new Set([1]));
    expect(new Set(allocateBits(Array<number>(64).fill(1), 32))).toEqual(new Set([2]));
  });
  it('gives nothing to channels that do not matter, and uses all bits', () => {
    const bits = allocateBits([100, 100, 100, 100, 1e-9, 1e-9, 1e-9, 1e-9], 4);
    expect(bits).toEqual([4, 4, 4, 4, 0, 0, 0, 0]);
  });
  it('fits every budget', () => {
    const random = new Random(1);
    for (let trial = 0; trial < 200; trial++) {
      const d = 8 * (1 + Math.floor(random.uniform() * 16));
      const nibbles = 1 + Math.floor(random.uniform() * d);
      const importance = range(d).map(() => Math.exp(3 * random.normal()));
      const bits = allocateBits(importance, nibbles);
      const total = bits.reduce((a, b) => a + b);
      expect(total).toBeLessThanOrEqual(4 * nibbles);
      expect(total).toBeGreaterThanOrEqual(Math.min(4 * nibbles, 4 * d) - 3);
      for (const b of bits) expect(b <= 4).toBe(true);
    }
  });
});

/** Keys and queries with a few strong directions, which differ between the two. */
function skewed(d: number, seed: number, decays = { keys: d / 8, queries: d / 4 }) {
  const random = new Random(seed);
  const mix = (basis: Float64Array, decay: number) => {
    const x = range(d).map((i) => random.normal() * Math.exp(-i / decay));
    return Float64Array.from(range(d), (j) =>
      range(d).reduce((s, i) => s + x[i] * basis[i * d + j], 0),
    );
  };
  const [a, b] = [randomRotation(d, seed + 1), randomRotation(d, seed + 2)];
  return { key: () => mix(a, decays.keys), query: () => mix(b, decays.queries) };
}

function statisticsOf(draw: ReturnType<typeof skewed>, d: number, n: number): HeadStatistics {
  const moment = (vectors: Float64Array[]) => {
    const out = new Float64Array(d * d);
    for (const v of vectors) {
      for (const i of range(d)) for (const j of range(d)) out[i * d + j] += (v[i] * v[j]) / n;
    }
    return out;
  };
  return { keys: moment(range(n).map(draw.key)), queries: moment(range(n).map(draw.query)) };
}

/** Score by codes, as the kernels compute it, without their rounding. */
function codedScore(codec: HeadCodec, d: number, q: Float64Array, k: Float64Array): number {
  const nibbles = codec.levels.length / 64;
  const rows = (m: Float32Array, x: Float64Array) =>
    range(4 * nibbles).map((i) => dot(m.subarray(i * d, (i + 1) * d), x));
  const [z, y] = [rows(codec.project, k), rows(codec.queryProject, q)];
  const r = Math.sqrt(dot(z, z) / codec.bits.length);
  const u = z.map((x) => x / r);
  let [score, uu, uc] = [0, 0, 0];
  for (let g = 0; g < nibbles; g++) {
    const entries = range(16).map((e) =>
      codec.levels.subarray((g * 16 + e) * 4, (g * 16 + e) * 4 + 4),
    );
    const far = (c: Float32Array) => range(4).reduce((s, j) => s + (u[4 * g + j] - c[j]) ** 2, 0);
    const chosen = entries.reduce((best, c) => (far(c) < far(best) ? c : best));
    for (let j = 0; j < 4; j++) {
      score += y[4 * g + j] * chosen[j];
      uu += u[4 * g + j] ** 2;
      uc += u[4 * g + j] * chosen[j];
    }
  }
  return (score * r * uu) / uc;
}

describe('scores by codes', () => {
  const d = 32;
  const draw = skewed(d, 5);
  const basis = balancedBasis(statisticsOf(draw, d, 2000), d);
  const error = (codec: HeadCodec) => {
    let [sum, scale] = [0, 0];
    for (let trial = 0; trial < 400; trial++) {
      const [q, k] = [draw.query(), draw.key()];
      const exact = dot(q, k);
      sum += (codedScore(codec, d, q, k) - exact) ** 2;
      scale += exact ** 2;
    }
    return sum / scale;
  };

  it('are in a basis where keys and queries have the same variances, and no correlations', () => {
    const through = (rows: Float64Array, moment: Float64Array, i: number, j: number) =>
      range(d).reduce(
        (sum, a) =>
          sum +
          rows[i * d + a] * dot(moment.subarray(a * d, a * d + d), rows.subarray(j * d, j * d + d)),
        0,
      );
    // Decays so slow that the ridge, 1 % of the mean variance, changes little.
    const statistics = statisticsOf(skewed(d, 5, { keys: 2 * d, queries: d }), d, 500);
    const { keys, queries, variances } = balancedBasis(statistics, d);
    for (const [rows, moment] of [
      [keys, statistics.keys],
      [queries, statistics.queries],
    ]) {
      for (const i of range(d)) {
        expect(through(rows, moment, i, i) / variances[i]).toBeCloseTo(1, 1);
        for (const j of range(i)) {
          expect(Math.abs(through(rows, moment, i, j)) / variances[i]).toBeLessThan(0.05);
        }
      }
    }
  });
  it('are exact projections where every channel is kept', () => {
    const { project, queryProject } = allocatedCodec(basis, d, d);
    const [q, k] = [draw.query(), draw.key()];
    const through = range(4 * d).reduce(
      (s, i) =>
        s +
        dot(queryProject.subarray(i * d, (i + 1) * d), q) *
          dot(project.subarray(i * d, (i + 1) * d), k),
      0,
    );
    expect(through / dot(q, k)).toBeCloseTo(1, 4);
  });
  it.each([1, 2])('%i bits allocated halve the error of uniform ones, and more', (bits) => {
    const nibbles = (bits * d) / 4;
    const allocated = error(allocatedCodec(basis, d, nibbles));
    expect(allocated).toBeLessThan(0.5 * error(uniformCodec(d, nibbles, 1)));
  });
  it('get better with every bit', () => {
    const errors = [1, 2, 3, 4].map((bits) => error(uniformCodec(d, (bits * d) / 4, 1)));
    for (let i = 1; i < 4; i++) expect(errors[i]).toBeLessThan(0.6 * errors[i - 1]);
  });
});
