import { expect, test } from 'vitest';
import { Random } from '../math/random.ts';
import { errorCosts } from './statistics.ts';

test.each<[string, (age: number, j: number) => boolean]>([
  ['windowed', (age, j) => j >= 4 && age >= 64],
  ['bare', () => true],
])('%s costs of errors are what small random errors do to the output', (kind, isCodedAt) => {
  const random = new Random(5);
  const [positions, d] = [200, 4];
  const normals = () => Float32Array.from({ length: d }, () => random.normal());
  const values = Array.from({ length: positions }, normals);
  const logits = values.map(() => 2 * random.normal());
  const isCoded = (j: number) => isCodedAt(positions - 1 - j, j);
  /** Output and weights, with errors of this size in scores, in values. */
  const attend = (inScores: number, inValues: number) => {
    const weights = Float64Array.from(logits, (logit, j) =>
      Math.exp(logit + (isCoded(j) ? inScores * random.normal() : 0)),
    );
    const total = weights.reduce((a, b) => a + b);
    const out = new Float32Array(d);
    weights.forEach((w, j) => {
      weights[j] = w / total;
      const noise = isCoded(j) && inValues > 0 ? normals() : new Float32Array(d);
      out.forEach((_, c) => (out[c] += weights[j] * (values[j][c] + inValues * noise[c])));
    });
    return { weights, out };
  };
  const exact = attend(0, 0);
  const flat = Float32Array.from(values.flatMap((value) => [...value]));
  const costs = errorCosts(exact.weights, flat, exact.out)[kind as 'windowed' | 'bare'];
  const size = 0.01;
  const measured = (inScores: number, inValues: number) => {
    const draws = 2000;
    let sum = 0;
    for (let draw = 0; draw < draws; draw++) {
      const { out } = attend(inScores, inValues);
      sum += out.reduce((s, x, c) => s + (x - exact.out[c]) ** 2, 0);
    }
    return sum / draws / size ** 2;
  };
  expect(Math.abs(measured(size, 0) / costs.scores - 1)).toBeLessThan(0.15);
  expect(Math.abs(measured(0, size) / (d * costs.values) - 1)).toBeLessThan(0.15);
});
