/** Rows of a name and dots on a common axis, with whiskers, as SVG text. */
import { escape, logScale, round, text, ticks } from '../scatter.ts';
import { isOurs } from './block.ts';
import { familyClass } from './colours.ts';

export interface Dot {
  readonly value: number;
  readonly low?: number;
  readonly high?: number;
  readonly hollow?: boolean;
  /** shown when pointed at */
  readonly note: string;
}

export interface DotRow {
  readonly label: string;
  /** its family gives the colour */
  readonly method: string;
  /** stands above the row, and begins a group */
  readonly heading?: string;
  /** a tick on the row's own line */
  readonly mark?: number;
  readonly dots: readonly Dot[];
}

export interface DotRowsOptions {
  readonly width: number;
  readonly title: string;
  readonly log: boolean;
  readonly format: (value: number) => string;
  /** of the axis; default: what the values need */
  readonly range?: readonly [number, number];
  /** a vertical line through all rows */
  readonly reference?: { readonly value: number; readonly name: string };
  /** groups are spread over so many columns */
  readonly columns?: number;
}

const rowHeight = 19;
const headingHeight = 26;
const axisHeight = 40;
const gap = 36;

export function dotRows(rows: readonly DotRow[], options: DotRowsOptions): string {
  const { width, title, columns = 1 } = options;
  const columnWidth = (width - gap * (columns - 1)) / columns;
  const parts = spread(rows, columns);
  const scale = scaleOf(rows, options);
  const drawn = parts.map((part) => drawColumn(part, options, scale, columnWidth));
  const height = Math.max(...drawn.map((each) => each.height));
  const groups = drawn.map(
    ({ lines }, i) =>
      `<g transform="translate(${round(i * (columnWidth + gap))} 0)">\n${lines.join('\n')}\n</g>`,
  );
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(title)}">\n${groups.join('\n')}\n</svg>`;
}

const heightOf = (rows: readonly DotRow[]) =>
  rows.reduce(
    (sum, { heading }) => sum + rowHeight + (heading === undefined ? 0 : headingHeight),
    0,
  );

/** Groups in their order, into columns of about the same height. */
function spread(rows: readonly DotRow[], columns: number): DotRow[][] {
  const parts: DotRow[][] = [[]];
  const share = heightOf(rows) / columns;
  for (const row of rows) {
    const last = parts[parts.length - 1];
    const full = heightOf(last) >= share - rowHeight && parts.length < columns;
    if (full && row.heading !== undefined) parts.push([row]);
    else last.push(row);
  }
  return parts.filter((part) => part.length > 0);
}

interface Scale {
  readonly low: number;
  readonly high: number;
  readonly ticks: readonly number[];
}

function scaleOf(rows: readonly DotRow[], { log, range, reference }: DotRowsOptions): Scale {
  const values = rows.flatMap(({ dots }) =>
    dots.flatMap(({ value, low = value, high = value }) => [low, value, high]),
  );
  const usable = [...values, ...(reference ? [reference.value] : [])].filter(
    (value) => Number.isFinite(value) && (!log || value > 0),
  );
  if (!log) {
    const [low, high] = range ?? [0, Math.max(...usable, 1)];
    return { low, high, ticks: [0, 0.25, 0.5, 0.75, 1].map((t) => low + t * (high - low)) };
  }
  const [least, most] = [Math.min(...usable), Math.max(...usable)];
  const margin = Math.max(1.02, (most / least) ** 0.06);
  const [low, high] = [least / margin, most * margin];
  // Less than a decade has its ticks at even steps.
  if (high / low > 8)
    return { low, high, ticks: ticks(low, high, high / low > 300 ? [1] : [1, 3]) };
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2].find((s) => (high - low) / s <= 7) ?? 5;
  const first = Math.ceil(low / step);
  const length = Math.floor(high / step) - first + 1;
  return { low, high, ticks: Array.from({ length }, (_, i) => (first + i) * step) };
}

/** About: a bold character is wider. */
const labelWidth = ({ label, method }: Pick<DotRow, 'label' | 'method'>) =>
  label.length * (isOurs(method) ? 7 : 6.2);

function drawColumn(
  rows: readonly DotRow[],
  { log, format, title, reference }: DotRowsOptions,
  { low, high, ticks }: Scale,
  width: number,
): { lines: string[]; height: number } {
  const longest = Math.max(...rows.map(labelWidth));
  const left = Math.min(longest + 14, width * 0.5);
  const right = width - 14;
  const linear = (value: number) => left + ((value - low) / (high - low)) * (right - left);
  const across = log ? logScale(low, high, left, right) : linear;
  const clamp = (value: number) => across(Math.min(high, Math.max(low, value)));
  const top = reference ? 16 : 4;
  const bottom = top + heightOf(rows);
  const lines: string[] = [];
  // Every tick has its line; names stand at as many of them as there is room for.
  const nearest = Math.min(...ticks.slice(1).map((tick, i) => across(tick) - across(ticks[i])));
  const widest = Math.max(...ticks.map((tick) => format(tick).length)) * 6.2 + 8;
  const every = Math.max(1, Math.ceil(widest / nearest));
  for (const [i, value] of ticks.entries()) {
    const at = round(across(value));
    lines.push(`<line class="grid" x1="${at}" x2="${at}" y1="${top}" y2="${bottom}"/>`);
    if (i % every === 0) lines.push(text(at, bottom + 16, format(value), 'middle'));
  }
  lines.push(text((left + right) / 2, bottom + 33, title, 'middle', 'title'));
  if (reference) {
    const at = round(across(reference.value));
    lines.push(`<line class="reference" x1="${at}" x2="${at}" y1="${top}" y2="${bottom}"/>`);
    lines.push(text(at, 11, reference.name, 'middle'));
  }
  let y = top;
  for (const { label, method, heading, mark, dots } of rows) {
    if (heading !== undefined) {
      y += headingHeight;
      lines.push(text(0, y - 7, heading, 'start', 'heading'));
    }
    const middle = y + rowHeight / 2;
    const own = familyClass(method);
    const room = Math.floor(((left - 12) * label.length) / labelWidth({ label, method }));
    const shown = label.length > room ? `${label.slice(0, room - 1)}…` : label;
    lines.push(text(left - 10, middle + 4, shown, 'end', isOurs(method) ? 'ours' : 'label'));
    if (mark !== undefined) {
      const at = round(clamp(mark));
      lines.push(
        `<line class="mark" x1="${at}" x2="${at}" y1="${middle - 5}" y2="${middle + 5}"/>`,
      );
    }
    for (const { value, low: from, high: to, hollow, note } of dots) {
      if (from !== undefined && to !== undefined) {
        lines.push(
          `<line class="whisker ${own}" x1="${round(clamp(from))}" x2="${round(clamp(to))}" y1="${middle}" y2="${middle}"/>`,
        );
      }
      lines.push(
        `<circle class="${hollow ? 'hollow' : 'point'} ${own}" cx="${round(clamp(value))}" cy="${middle}" r="${hollow ? 3.75 : 4.5}"><title>${escape(note)}</title></circle>`,
      );
    }
    y += rowHeight;
  }
  return { lines, height: bottom + axisHeight };
}
