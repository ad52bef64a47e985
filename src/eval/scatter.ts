/** A scatter plot with two logarithmic axes as SVG text; colours are classes of the page around it. */

export interface ScatterPoint {
  /** short enough for everywhere */
  readonly number: number;
  readonly name: string;
  /** shown when pointed at */
  readonly note: string;
  /** index of its colour */
  readonly group: number;
  readonly x: number;
  /** may be 0 or below the axis: drawn on its lower edge */
  readonly y: number;
  readonly front: boolean;
}

export interface ScatterOptions {
  readonly width: number;
  readonly height: number;
  readonly xTitle: string;
  readonly yTitle: string;
  /** a vertical line */
  readonly reference: { readonly x: number; readonly name: string };
  /** whether points are labelled with names where there is room, or with numbers only */
  readonly names: boolean;
}

export interface Box {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

const margin = { left: 56, right: 16, top: 30, bottom: 46 };
const radius = 4.5;
const fontSize = 11;
/** of a character of the label font, and of its bold face for the front, about */
const characterWidth = 6.6;
const boldWidth = 7.6;
/** A KL below this is that of rounding, and would stretch the axis over nothing. */
const leastY = 1e-6;

/** Points, those of the front joined by a line, and labels that keep clear of each other. */
export function scatter(points: readonly ScatterPoint[], options: ScatterOptions): string {
  const { width, height, xTitle, yTitle, reference, names } = options;
  const plot: Box = {
    left: margin.left,
    top: margin.top,
    right: width - margin.right,
    bottom: height - margin.bottom,
  };
  const xs = [...points.map(({ x }) => x), reference.x];
  const ys = points.map(({ y }) => y).filter((y) => y >= leastY);
  const [xLow, xHigh] = [Math.min(...xs) / 1.25, Math.max(...xs) * 1.25];
  const [yLow, yHigh] = ys.length > 0 ? [Math.min(...ys) / 2, Math.max(...ys) * 2] : [leastY, 1];
  const across = logScale(xLow, xHigh, plot.left, plot.right);
  const up = logScale(yLow, yHigh, plot.bottom, plot.top);
  const placed = points.map((point) => ({
    point,
    x: across(point.x),
    y: up(Math.max(point.y, yLow)),
  }));
  const lines: string[] = [];
  for (const x of ticks(xLow, xHigh, plot.right - plot.left > 500 ? [1, 2, 5] : [1, 3])) {
    const at = round(across(x));
    lines.push(`<line class="grid" x1="${at}" x2="${at}" y1="${plot.top}" y2="${plot.bottom}"/>`);
    lines.push(text(at, plot.bottom + 16, count(x), 'middle'));
  }
  for (const y of ticks(yLow, yHigh, [1])) {
    const at = round(up(y));
    lines.push(`<line class="grid" x1="${plot.left}" x2="${plot.right}" y1="${at}" y2="${at}"/>`);
    lines.push(text(plot.left - 6, at + 4, count(y), 'end'));
  }
  lines.push(text((plot.left + plot.right) / 2, height - 8, xTitle, 'middle', 'title'));
  lines.push(text(8, 16, yTitle, 'start', 'title'));
  const at = round(across(reference.x));
  lines.push(
    `<line class="reference" x1="${at}" x2="${at}" y1="${plot.top}" y2="${plot.bottom}"/>`,
    text(at - 4, plot.top + 12, reference.name, 'end'),
  );
  const front = placed.filter(({ point }) => point.front).sort((a, b) => a.x - b.x);
  const path = front.map(({ x, y }) => `${round(x)},${round(y)}`).join(' ');
  lines.push(`<polyline class="front" points="${path}"/>`);
  for (const { point, x, y } of placed) {
    lines.push(
      `<circle class="point g${point.group}${point.front ? ' on' : ''}" cx="${round(x)}" cy="${round(y)}" r="${radius}"><title>${escape(point.note)}</title></circle>`,
    );
  }
  const referenceWidth = reference.name.length * characterWidth;
  const taken = [
    ...placed.map(({ x, y }) => around(x, y, radius)),
    { left: at - 4 - referenceWidth, top: plot.top, right: at, bottom: plot.top + 14 },
  ];
  lines.push(...labels(placed, taken, plot, names));
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(`${yTitle} against ${xTitle}`)}">\n${lines.join('\n')}\n</svg>`;
}

interface Placed {
  readonly point: ScatterPoint;
  readonly x: number;
  readonly y: number;
}

/**
 * Each point's name where it overlaps nothing, else its number, else nothing: the table has it. The
 * front comes first, as what is looked for.
 */
function labels(placed: readonly Placed[], taken: Box[], plot: Box, names: boolean): string[] {
  const order = [...placed].sort(
    (a, b) => Number(b.point.front) - Number(a.point.front) || a.y - b.y,
  );
  return order.flatMap(({ point, x, y }) => {
    for (const label of names ? [point.name, String(point.number)] : [String(point.number)]) {
      const width = label.length * (point.front ? boldWidth : characterWidth);
      const box = places(x, y, width).find(
        (candidate) =>
          isInside(candidate, plot) && !taken.some((other) => overlap(candidate, other)),
      );
      if (!box) continue;
      taken.push(box);
      return text(box.left, box.bottom - 3, label, 'start', point.front ? 'label on' : 'label');
    }
    return [];
  });
}

/** Boxes beside, above and below a point, near ones first. */
export function places(x: number, y: number, width: number): Box[] {
  const height = fontSize + 2;
  const gap = radius + 2;
  const box = (left: number, top: number) => ({
    left,
    top,
    right: left + width,
    bottom: top + height,
  });
  const [right, left] = [x + gap, x - gap - width];
  const [above, below] = [y - gap - height + 2, y + gap - 2];
  return [
    box(right, y - height / 2),
    box(left, y - height / 2),
    ...[right - gap, x - width / 2, left + gap].flatMap((at) => [box(at, above), box(at, below)]),
  ];
}

export const around = (x: number, y: number, r: number): Box => ({
  left: x - r,
  top: y - r,
  right: x + r,
  bottom: y + r,
});

export const overlap = (a: Box, b: Box) =>
  a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

export const isInside = (a: Box, b: Box) =>
  a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom;

export function logScale(
  low: number,
  high: number,
  from: number,
  to: number,
): (value: number) => number {
  const factor = (to - from) / Math.log(high / low);
  return (value) => from + factor * Math.log(value / low);
}

/** Steps of every decade in [low, high]. */
export function ticks(low: number, high: number, steps: readonly number[]): number[] {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const decades = Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  return decades
    .flatMap((decade) => steps.map((step) => step * decade))
    .filter((value) => value >= low && value <= high);
}

/** `200`, `5k`, `2M`, `0.001`, `1e-5`. */
export function count(value: number): string {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (value >= 1e3) return `${Number((value / 1e3).toPrecision(3))}k`;
  return value >= 1e-3 ? String(Number(value.toPrecision(3))) : value.toExponential(0);
}

export const round = (x: number) => Math.round(x * 10) / 10;

export function text(x: number, y: number, content: string, anchor: string, kind = 'tick'): string {
  return `<text class="${kind}" x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${escape(content)}</text>`;
}

/** Text as it may stand in HTML and in quoted attributes. */
export function escape(content: string): string {
  const names: Record<string, string> = { '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot' };
  return content.replace(/[&<>"]/g, (character) => `&${names[character]};`);
}
