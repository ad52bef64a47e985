import { expect, test } from 'vitest';
import { growthDepths, growthLines } from './growth.ts';
import { growthPicture } from './growth-picture.ts';

/** 2 ms whatever the depth, and 1 ms for every thousand positions. */
const rows = growthDepths.map((depth) => ({
  ...{ method: 'f16', depth, bytes: depth },
  attendMs: 2 + depth / 1000,
}));
const steep = growthDepths.map((depth) => ({
  ...{ method: 'a<b', depth, bytes: depth },
  attendMs: depth ** 2 / 1e6,
}));

test('a slope is the power of the context with which time grows', () => {
  const [line, square] = growthLines([...rows, ...steep]);
  expect(line.slope).toBeGreaterThan(0.7);
  expect(line.slope).toBeLessThan(0.9);
  expect(line.slopeFrom8k).toBeGreaterThan(0.9);
  expect(line.slopeFrom8k).toBeLessThan(1);
  expect(line.perThousandUs).toBeCloseTo(1000, 6);
  expect(square.slope).toBeCloseTo(2, 6);
});

test('the picture has every line and says its slope', () => {
  const svg = growthPicture(growthLines([...rows, ...steep]), 'made up');
  expect(svg.match(/<polyline/g)).toHaveLength(2);
  expect(svg.match(/<circle/g)).toHaveLength(2 * growthDepths.length);
  expect(svg).toContain('a&lt;b: 2.00, from 8k 2.00');
  expect(svg).not.toContain('NaN');
  const xs = [...svg.matchAll(/<circle cx="([\d.]+)"/g)].map(([, x]) => Number(x));
  for (const x of xs) expect(x).toBeGreaterThan(0);
});
