/** Accuracy by length of the prompt and depth of the answer, a panel for each method, as an SVG file. */
import { ensure } from '../errors/errors.ts';
import { escape } from './scatter.ts';
import type { EvalResult } from './task.ts';

interface Cell {
  readonly length: number;
  readonly depth: number;
  readonly accuracy: number;
}

interface Panel {
  readonly title: string;
  readonly cells: readonly Cell[];
}

const cellWidth = 46;
const cellHeight = 26;
const margin = { left: 52, right: 12, top: 34, bottom: 44 };

/**
 * @param results those without length, depth or accuracy are left out
 * @throws KvError "usage" if that leaves none
 */
export function heatMap(results: readonly EvalResult[]): string {
  const panels = panelsOf(results);
  ensure(
    panels.length > 0,
    'usage',
    () =>
      'eval: there is nothing to draw; a heat map needs a task with lengths and depths, such as needle. Give --length and --depth.',
  );
  let left = 0;
  const drawn = panels.map((panel) => {
    const { width, height, lines } = draw(panel);
    const placed = `<g transform="translate(${left} 0)">\n${lines.join('\n')}\n</g>`;
    left += width;
    return { placed, height };
  });
  const height = Math.max(...drawn.map((each) => each.height));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${left} ${height}" width="${left}" height="${height}" role="img" aria-label="accuracy by length and depth">
<style>text { font: 11px sans-serif; fill: #222 } .title { font-weight: bold }</style>
<rect width="100%" height="100%" fill="#fff"/>
${drawn.map(({ placed }) => placed).join('\n')}
</svg>
`;
}

function panelsOf(results: readonly EvalResult[]): Panel[] {
  const panels = new Map<string, Cell[]>();
  for (const { task, method, length, depth, accuracy } of results) {
    if (length === undefined || depth === undefined || accuracy === undefined) continue;
    const title = `${task}, ${method}`;
    panels.set(title, [...(panels.get(title) ?? []), { length, depth, accuracy }]);
  }
  return [...panels].map(([title, cells]) => ({ title, cells }));
}

function draw({ title, cells }: Panel): { width: number; height: number; lines: string[] } {
  const lengths = sorted(cells.map(({ length }) => length));
  const depths = sorted(cells.map(({ depth }) => depth));
  const right = margin.left + cellWidth * lengths.length;
  const bottom = margin.top + cellHeight * depths.length;
  const lines = [text(margin.left, 20, title, 'start', 'title')];
  const centre = (list: readonly number[], value: number, size: number) =>
    size * (list.indexOf(value) + 0.5);
  for (const { length, depth, accuracy } of cells) {
    const x = margin.left + centre(lengths, length, cellWidth);
    const y = margin.top + centre(depths, depth, cellHeight);
    const [left, top] = [x - cellWidth / 2, y - cellHeight / 2];
    lines.push(
      `<rect x="${left}" y="${top}" width="${cellWidth}" height="${cellHeight}" fill="${colour(accuracy)}" stroke="#fff"/>`,
      text(x, y + 4, `${Math.round(100 * accuracy)} %`, 'middle'),
    );
  }
  for (const length of lengths) {
    const x = margin.left + centre(lengths, length, cellWidth);
    lines.push(text(x, bottom + 16, String(length), 'middle'));
  }
  for (const depth of depths) {
    const y = margin.top + centre(depths, depth, cellHeight);
    lines.push(text(margin.left - 6, y + 4, String(depth), 'end'));
  }
  lines.push(
    text((margin.left + right) / 2, bottom + 34, 'tokens of the prompt', 'middle'),
    text(8, margin.top - 4, 'depth', 'start'),
  );
  const width = Math.max(right, margin.left + 7 * title.length) + margin.right;
  return { width, height: bottom + margin.bottom, lines };
}

const sorted = (values: readonly number[]) => [...new Set(values)].sort((a, b) => a - b);

/** From orange (none right) over pale yellow to blue (all right): told apart by all kinds of sight. */
function colour(accuracy: number): string {
  const stops = [
    [230, 145, 56],
    [250, 240, 200],
    [110, 170, 220],
  ];
  const at = 2 * Math.min(1, Math.max(0, accuracy));
  const from = Math.min(1, Math.floor(at));
  const mixed = stops[from].map((low, i) => low + (at - from) * (stops[from + 1][i] - low));
  return `rgb(${mixed.map(Math.round).join(' ')})`;
}

function text(x: number, y: number, content: string, anchor: string, kind = 'tick'): string {
  return `<text class="${kind}" x="${x}" y="${y}" text-anchor="${anchor}">${escape(content)}</text>`;
}
