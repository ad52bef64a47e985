import type { GrowthLine } from './growth.ts';

const width = 720;
const height = 440;
const plot = { left: 64, top: 44, right: 520, bottom: 392 };
/** Colours that people who see few colours tell apart: Okabe and Ito (2008). */
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#555555'];

/**
 * The lines as an SVG document of its own, both axes logarithmic; each line's slope beside its end.
 * @param title what was measured, for the line above the picture
 */
export function growthPicture(lines: readonly GrowthLine[], title: string): string {
  const all = lines.flatMap(({ points }) => points);
  const depths = [...new Set(all.map(({ depth }) => depth))].sort((a, b) => a - b);
  const times = all.map(({ attendMs }) => attendMs);
  const [low, high] = [Math.min(...times) / 1.3, Math.max(...times) * 1.3];
  const across = logScale(depths[0], depths[depths.length - 1], plot.left + 12, plot.right - 12);
  const up = logScale(low, high, plot.bottom, plot.top);

  const parts = [text(plot.left, 24, title, 'start', '#222')];
  for (const depth of depths) {
    const x = across(depth);
    parts.push(grid(x, plot.top, x, plot.bottom));
    parts.push(text(x, plot.bottom + 18, depth >= 1024 ? `${depth / 1024}k` : `${depth}`));
  }
  for (const ms of ticks(low, high)) {
    const y = up(ms);
    parts.push(grid(plot.left, y, plot.right, y), text(plot.left - 8, y + 4, `${ms}`, 'end'));
  }
  parts.push(text((plot.left + plot.right) / 2, height - 12, 'positions in the cache'));
  parts.push(text(plot.left - 8, plot.top - 8, 'ms', 'end'));

  const labelYs = spread(lines.map(({ points }) => up(points[points.length - 1].attendMs)));
  lines.forEach(({ method, points, slope, slopeFrom8k }, i) => {
    const colour = colours[i % colours.length];
    const path = points.map((p) => `${round(across(p.depth))},${round(up(p.attendMs))}`).join(' ');
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const p of points) {
      const [x, y] = [round(across(p.depth)), round(up(p.attendMs))];
      parts.push(`<circle cx="${x}" cy="${y}" r="3" fill="${colour}"/>`);
    }
    const slopes = `${slope.toFixed(2)}, from 8k ${slopeFrom8k.toFixed(2)}`;
    parts.push(text(plot.right + 6, labelYs[i] + 4, `${method}: ${slopes}`, 'start', colour));
  });
  parts.push(text(plot.right + 6, plot.top - 8, 'slope, log-log', 'start'));
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="12">
<rect width="${width}" height="${height}" fill="#fff"/>
${parts.join('\n')}
</svg>
`;
}

function logScale(low: number, high: number, from: number, to: number) {
  const perUnit = (to - from) / Math.log(high / low);
  return (value: number) => from + perUnit * Math.log(value / low);
}

/** 1, 2 and 5 times powers of ten. */
function ticks(low: number, high: number): number[] {
  const list: number[] = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const digit of [1, 2, 5]) list.push(Number(`${digit}e${power}`));
  }
  return list.filter((value) => value >= low && value <= high);
}

/** Moves labels down until none is on another; the order stays. */
function spread(ys: readonly number[]): number[] {
  const placed = [...ys];
  const order = ys.map((_, i) => i).sort((a, b) => ys[a] - ys[b]);
  for (let k = 1; k < order.length; k++) {
    placed[order[k]] = Math.max(placed[order[k]], placed[order[k - 1]] + 16);
  }
  return placed;
}

const round = (value: number) => Math.round(value * 10) / 10;

function grid(x1: number, y1: number, x2: number, y2: number): string {
  const [a, b, c, d] = [x1, y1, x2, y2].map(round);
  return `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}" stroke="#ddd"/>`;
}

function text(x: number, y: number, content: string, anchor = 'middle', colour = '#444'): string {
  const escaped = content.replace(/&/g, '&amp;').replace(/</g, '&lt;');
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" fill="${colour}">${escaped}</text>`;
}
