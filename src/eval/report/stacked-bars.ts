/** Horizontal bars of parts that add up, with their sums written out, as SVG text. */
import { escape, round, text } from '../scatter.ts';
import { isOurs } from './block.ts';
import { familyClass } from './colours.ts';

export interface Bar {
  /** the spec of a method */
  readonly label: string;
  readonly parts: readonly number[];
}

export interface BarOptions {
  readonly width: number;
  readonly title: string;
  /** of the parts */
  readonly names: readonly string[];
  readonly format: (value: number) => string;
}

const rowHeight = 26;
const barHeight = 15;

export function stackedBars(bars: readonly Bar[], options: BarOptions): string {
  const { width, title, names, format } = options;
  const left = Math.min(Math.max(...bars.map(({ label }) => label.length)) * 6.4 + 12, width * 0.4);
  const right = width - 64;
  const total = (bar: Bar) => bar.parts.reduce((sum, part) => sum + part, 0);
  const most = Math.max(...bars.map(total), 1e-9);
  const scale = (right - left) / most;
  const lines: string[] = [];
  const nameWidth = (name: string) => 28 + name.length * 6.6;
  // Above the bars, or as far left of them as it takes.
  let at = Math.min(left, Math.max(0, width - names.reduce((sum, n) => sum + nameWidth(n), -14)));
  for (const [i, name] of names.entries()) {
    lines.push(
      `<rect class="bar${i} ${familyClass('h1b')}" x="${round(at)}" y="4" width="10" height="10" rx="2"/>`,
    );
    lines.push(text(at + 14, 13, name, 'start'));
    at += nameWidth(name);
  }
  for (const [row, bar] of bars.entries()) {
    const y = 26 + row * rowHeight;
    const own = familyClass(bar.label);
    lines.push(text(left - 10, y + 12, bar.label, 'end', isOurs(bar.label) ? 'ours' : 'label'));
    let x = left;
    for (const [i, part] of bar.parts.entries()) {
      const length = Math.max(0, part * scale);
      lines.push(
        `<rect class="bar${i} ${own}" x="${round(x)}" y="${y}" width="${round(length)}" height="${barHeight}"><title>${escape(`${bar.label}: ${names[i]} ${format(part)} ${title}`)}</title></rect>`,
      );
      x += length;
    }
    lines.push(
      text(
        x + 6,
        y + 12,
        `${format(total(bar))} ${title}`,
        'start',
        isOurs(bar.label) ? 'ours' : 'label',
      ),
    );
  }
  const height = 26 + bars.length * rowHeight;
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(names.join(', '))}">\n${lines.join('\n')}\n</svg>`;
}
