import { expect, test } from 'vitest';
import { heatMap } from './heat-map.ts';
import type { EvalResult } from './task.ts';

const cell = (method: string, length: number, depth: number, accuracy: number): EvalResult => ({
  task: 'needle',
  method,
  spec: method,
  tokens: 1,
  bytesPerToken: 1,
  seconds: 1,
  length,
  depth,
  accuracy,
});

/** Where a percentage stands: x and y of every text that is one. */
const cells = (svg: string) =>
  [...svg.matchAll(/x="([\d.]+)" y="([\d.]+)"[^>]*>(\d+) %</g)].map((found) =>
    found.slice(1).map(Number),
  );

test('longer prompts stand to the right, later answers below, methods side by side', () => {
  const svg = heatMap([
    cell('f16', 512, 0, 1),
    cell('h1b', 512, 0, 0),
    cell('f16', 512, 1, 0.25),
    cell('f16', 64, 0, 0.5),
    cell('f16', 64, 1, 0.75),
  ]);
  const at = new Map(cells(svg).map(([x, y, percent]) => [percent, { x, y }]));
  const place = (percent: number) => at.get(percent) ?? { x: NaN, y: NaN };
  expect(place(100).x).toBeGreaterThan(place(50).x);
  expect(place(100).y).toBe(place(50).y);
  expect(place(75).y).toBeGreaterThan(place(50).y);
  expect(place(75).x).toBe(place(50).x);
  expect(svg.match(/<g transform="translate\((\d+) 0\)">/g)?.length).toBe(2);
  const fills = new Set(svg.match(/fill="rgb\([^"]*"/g));
  expect(fills.size).toBe(5);
});

test('names cannot break out of the picture', () => {
  const svg = heatMap([cell('<script>"&', 64, 0, 1)]);
  expect(svg).toContain('needle, &lt;script&gt;&quot;&amp;');
  expect(svg).not.toContain('<script');
});

test('nothing to draw is refused', () => {
  const { depth: _, ...flat } = cell('f16', 64, 0, 1);
  expect(() => heatMap([flat])).toThrow(/nothing to draw.*Give --length and --depth/);
});
