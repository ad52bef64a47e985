import { expect, test } from 'vitest';
import type { DecoderConfig } from './config.ts';
import { fillRopeTable, ropeFrequencies } from './rope.ts';

const config = (change: Partial<DecoderConfig>): DecoderConfig => ({
  architecture: 'llama',
  nLayers: 1,
  dModel: 16,
  nHeads: 2,
  nKvHeads: 1,
  headDimK: 8,
  headDimV: 8,
  dFeedForward: 16,
  vocabSize: 10,
  contextLength: 100,
  rmsEpsilon: 1e-5,
  ropeDims: 8,
  ropeTheta: 10_000,
  ropeLinearScale: 1,
  ...change,
});

function expectNear(actual: Float64Array, expected: readonly number[]): void {
  expect(actual.length).toBe(expected.length);
  expected.forEach((value, i) => expect(actual[i]).toBeCloseTo(value, 12));
}

test('a frequency per pair of rotating dimensions', () => {
  expectNear(ropeFrequencies(config({})), [1, 0.1, 0.01, 0.001]);
  expectNear(ropeFrequencies(config({ ropeDims: 4 })), [1, 0.01]);
  expectNear(ropeFrequencies(config({ ropeTheta: 16 })), [1, 0.5, 0.25, 0.125]);
});

test('linear scaling divides all of them, factors each its own', () => {
  expectNear(ropeFrequencies(config({ ropeLinearScale: 4 })), [0.25, 0.025, 0.0025, 0.00025]);
  const factors = Float32Array.of(1, 2, 4, 8);
  expectNear(ropeFrequencies(config({}), factors), [1, 0.05, 0.0025, 0.000125]);
});

test('the table holds cos and sin of position times frequency, and nothing else is written', () => {
  const frequencies = Float64Array.of(1, 0.1);
  const out = new Float32Array(2 + 3 * 4 + 1).fill(-7);
  fillRopeTable(frequencies, 5, 3, out, 2);
  const expected = [5, 6, 7].flatMap((position) =>
    [position, position * 0.1].flatMap((angle) => [Math.cos(angle), Math.sin(angle)]),
  );
  expect([...out]).toEqual([-7, -7, ...expected.map(Math.fround), -7]);
});

test('far positions are exact: the angle is not summed up', () => {
  const out = new Float32Array(2);
  fillRopeTable(Float64Array.of(0.7), 1_000_000, 1, out, 0);
  expect(out[0]).toBe(Math.fround(Math.cos(700_000)));
});
