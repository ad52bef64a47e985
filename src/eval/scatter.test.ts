import { expect, test } from 'vitest';
import { Random } from '../math/random.ts';
import { scatter, type ScatterPoint } from './scatter.ts';

const options = {
  ...{ width: 800, height: 500, names: true, xTitle: 'bytes', yTitle: 'KL' },
  reference: { x: 3000, name: 'f16' },
};

const random = new Random(1);
const points: ScatterPoint[] = Array.from({ length: 40 }, (_, i) => ({
  number: i + 1,
  name: `method${i}:window=0,k=${i}`,
  note: `a <note> & "more" ${i}`,
  group: i % 5,
  x: 200 * Math.exp(3 * random.uniform()),
  y: i === 0 ? 0 : Math.exp(-9 * random.uniform()),
  front: i < 4,
}));

const circles = (svg: string) =>
  [...svg.matchAll(/<circle class="[^"]*" cx="([\d.]+)" cy="([\d.]+)"/g)].map(([, x, y]) => ({
    x: Number(x),
    y: Number(y),
  }));

const labels = (svg: string) =>
  [...svg.matchAll(/<text class="label[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</g)].map(
    ([, x, y, text]) => ({ x: Number(x), y: Number(y), text }),
  );

test('every point is in the plot, further right and up the larger it is', () => {
  const placed = circles(scatter(points, options));
  expect(placed.length).toBe(points.length);
  points.forEach((a, i) => {
    expect(placed[i].x).toBeGreaterThan(56);
    expect(placed[i].x).toBeLessThan(784);
    points.forEach((b, j) => {
      if (a.x < b.x) expect(placed[i].x).toBeLessThanOrEqual(placed[j].x);
      if (a.y < b.y) expect(placed[i].y).toBeGreaterThanOrEqual(placed[j].y);
    });
  });
  // A KL of 0 has no place on a logarithmic axis: it lies on the edge.
  expect(placed[0].y).toBe(454);
});

test.each([true, false])('labels do not overlap each other, with names: %s', (names) => {
  const found = labels(scatter(points, { ...options, names }));
  expect(found.length).toBeGreaterThan(names ? 25 : 35);
  expect(found.some(({ text }) => text.startsWith('method'))).toBe(names);
  // Narrower than they are taken to be, so that only real overlap counts.
  const boxes = found.map(({ x, y, text }) => ({ x, y, right: x + 5.5 * text.length }));
  boxes.forEach((a, i) => {
    for (const b of boxes.slice(i + 1)) {
      const apart = a.right <= b.x || b.right <= a.x || Math.abs(a.y - b.y) >= 11;
      expect(apart, `${JSON.stringify(a)} and ${JSON.stringify(b)}`).toBe(true);
    }
  });
});

test('the line joins the front from left to right, and notes are escaped', () => {
  const svg = scatter(points, options);
  const path = /class="front" points="([^"]*)"/.exec(svg)?.[1] ?? '';
  const along = path.split(' ').map((pair) => Number(pair.split(',')[0]));
  expect(along.length).toBe(4);
  expect(along).toEqual([...along].sort((a, b) => a - b));
  expect(svg).toContain('a &lt;note&gt; &amp; &quot;more&quot; 3');
  expect(svg).not.toContain('<note>');
});

test('one point alone, with nothing to compare, is drawn', () => {
  const svg = scatter([{ ...points[0], x: 3000 }], options);
  expect(circles(svg).length).toBe(1);
  expect(svg).not.toContain('NaN');
});
