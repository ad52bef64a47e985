/** Lines on two logarithmic axes, each named at its end, as SVG text. */
import {
  around,
  count,
  escape,
  isInside,
  logScale,
  overlap,
  places,
  round,
  text,
  ticks,
  type Box,
} from '../scatter.ts';

export interface LinePoint {
  readonly x: number;
  readonly y: number;
  /** shown beside the point where there is room */
  readonly label: string;
  /** shown when pointed at */
  readonly note: string;
}

export interface Line {
  readonly name: string;
  /** of its colour */
  readonly className: string;
  readonly ours: boolean;
  readonly dashed: boolean;
  /** in the order in which they are joined */
  readonly points: readonly LinePoint[];
}

export interface LineOptions {
  readonly width: number;
  readonly xTitle: string;
  readonly yTitle: string;
}

/** of a name, of one in bold and of a label, about, in the wider of the fonts that systems have */
const [nameWidth, boldWidth, labelWidth] = [6.8, 7.7, 6.7];
/** A KL below this is that of rounding. */
const leastY = 1e-6;

export function lineChart(lines: readonly Line[], { width, xTitle, yTitle }: LineOptions): string {
  const wide = width > 600;
  const height = wide ? 520 : 460;
  const plot: Box = { left: 48, top: 30, right: width - (wide ? 130 : 12), bottom: height - 44 };
  const points = lines.flatMap((line) => line.points);
  const xs = points.map(({ x }) => x);
  const ys = points.map(({ y }) => Math.max(y, leastY));
  const [xLow, xHigh] = [Math.min(...xs, 1) / 1.15, Math.max(...xs, 2) * 1.15];
  const [yLow, yHigh] = [Math.min(...ys) / 1.6, Math.max(...ys) * 1.6];
  const across = logScale(xLow, xHigh, plot.left, plot.right);
  const up = logScale(yLow, yHigh, plot.bottom, plot.top);
  const place = ({ x, y }: LinePoint) => ({ x: across(x), y: up(Math.max(y, yLow)) });
  const out: string[] = [];
  for (const x of [0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32]) {
    if (x < xLow || x > xHigh) continue;
    const at = round(across(x));
    out.push(`<line class="grid" x1="${at}" x2="${at}" y1="${plot.top}" y2="${plot.bottom}"/>`);
    out.push(text(at, plot.bottom + 16, String(x), 'middle'));
  }
  for (const y of ticks(yLow, yHigh, [1])) {
    const at = round(up(y));
    out.push(`<line class="grid" x1="${plot.left}" x2="${plot.right}" y1="${at}" y2="${at}"/>`);
    out.push(text(plot.left - 6, at + 4, count(y), 'end'));
  }
  out.push(text((plot.left + plot.right) / 2, height - 8, xTitle, 'middle', 'title'));
  out.push(text(4, 14, yTitle, 'start', 'title'));
  // Ours last, so that they lie on top.
  const inOrder = [...lines].sort((a, b) => Number(a.ours) - Number(b.ours));
  for (const { points, className, ours, dashed } of inOrder) {
    const path = points.map(place).map(({ x, y }) => `${round(x)},${round(y)}`);
    const kinds = `line ${className}${ours ? ' strong' : ''}${dashed ? ' dashed' : ''}`;
    if (path.length > 1) out.push(`<polyline class="${kinds}" points="${path.join(' ')}"/>`);
  }
  for (const { points, className, ours } of inOrder) {
    for (const point of points) {
      const { x, y } = place(point);
      out.push(
        `<circle class="point ${className}" cx="${round(x)}" cy="${round(y)}" r="${ours ? 5 : 4}"><title>${escape(point.note)}</title></circle>`,
      );
    }
  }
  const taken = points.map(place).map(({ x, y }) => around(x, y, 4));
  const frame: Box = { ...plot, right: width, bottom: plot.bottom };
  const drawn = lines.flatMap((line) => alongLine(line.points.map(place)));
  const free = freeAmong(taken, drawn);
  out.push(...names(lines, place, free, frame), ...labels(lines, place, free, plot));
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(`${yTitle} against ${xTitle}`)}">\n${out.join('\n')}\n</svg>`;
}

type Spot = { readonly x: number; readonly y: number };
type Place = (point: LinePoint) => Spot;
/** Takes the first free box of those in the frame. */
type TakeFree = (boxes: readonly Box[], frame: Box) => Box | undefined;

/** Small boxes along a line through these points. */
function alongLine(points: readonly Spot[]): Box[] {
  const step = 5;
  return points.slice(1).flatMap((to, i) => {
    const from = points[i];
    const count = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / step);
    return Array.from({ length: count }, (_, j) => {
      const t = (j + 0.5) / count;
      return around(from.x + t * (to.x - from.x), from.y + t * (to.y - from.y), 1);
    });
  });
}

/**
 * Boxes that overlap nothing that is taken, better those that lie on no line either.
 * @param taken grows with each box that is found
 */
function freeAmong(taken: Box[], drawn: readonly Box[]): TakeFree {
  const isClear = (box: Box, of: readonly Box[]) => !of.some((other) => overlap(box, other));
  return (boxes, frame) => {
    const free = boxes.filter((box) => isInside(box, frame) && isClear(box, taken));
    const found = free.find((box) => isClear(box, drawn)) ?? free[0];
    if (found) taken.push(found);
    return found;
  };
}

/** Each line's name at one of its ends, the first of the places that is free; ours come first. */
function names(lines: readonly Line[], place: Place, take: TakeFree, frame: Box): string[] {
  const order = [...lines].sort((a, b) => Number(b.ours) - Number(a.ours));
  return order.flatMap(({ name, points, className, ours }) => {
    const width = name.length * (ours ? boldWidth : nameWidth);
    const ends = [points[points.length - 1], points[0], ...points.slice(1, -1)];
    for (const point of ends) {
      const { x, y } = place(point);
      const free = take(places(x, y, width), frame);
      if (!free) continue;
      const kind = `own ${className}${ours ? ' ours' : ''}`;
      return text(free.left, free.bottom - 3, name, 'start', kind);
    }
    return [];
  });
}

/** What single points are called, where there is room. */
function labels(lines: readonly Line[], place: Place, take: TakeFree, plot: Box): string[] {
  const order = [...lines].sort((a, b) => Number(b.ours) - Number(a.ours));
  return order.flatMap(({ points }) =>
    points.flatMap((point) => {
      if (point.label === '') return [];
      const { x, y } = place(point);
      const free = take(places(x, y, point.label.length * labelWidth), plot);
      if (!free) return [];
      return text(free.left, free.bottom - 3, point.label, 'start', 'tick');
    }),
  );
}
