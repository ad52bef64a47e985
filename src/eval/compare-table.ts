/** A comparison as tables: plain text for a terminal, Markdown, and cells for a page. */
import type { Interval } from './bootstrap.ts';
import type { Comparison, ComparisonRow } from './compare.ts';

interface ColumnOf {
  readonly title: string;
  /** what the column is, for those who point at it */
  readonly meaning: string;
  readonly cell: (row: ComparisonRow, number: number) => string;
  /** left out on a terminal, where lines are short */
  readonly wide?: true;
}

const ratio = (x: number) => x.toFixed(4);
const interval = (range: Interval | undefined) =>
  range ? `${ratio(range.low)} to ${ratio(range.high)}` : '';
const small = (x: number) => (x === 0 ? '0' : x < 1e-3 ? x.toExponential(1) : x.toPrecision(3));
const percent = (x: number) => `${(100 * x).toFixed(1)} %`;
const whole = (x: number) => String(Math.round(x));

function columnsOf({ beyond }: Comparison): readonly ColumnOf[] {
  const late = `from position ${beyond} on`;
  return [
    { title: '#', meaning: 'number in the chart', cell: (_, number) => String(number) },
    { title: 'method', meaning: '* on the front', cell: nameOf },
    {
      title: 'bytes/token',
      meaning: 'all that the cache holds at the end of a window, codebooks too, over its length',
      cell: ({ bytesPerToken }) => whole(bytesPerToken),
    },
    {
      title: 'bits',
      meaning: 'those bytes in bits per element of keys and values',
      cell: ({ bitsPerElement }) => bitsPerElement.toFixed(2),
    },
    { title: 'f16/it', meaning: 'bytes of f16 over its bytes', cell: (row) => times(row.ratio) },
    {
      title: 'perplexity',
      meaning: 'over all positions',
      cell: ({ perplexity }) => perplexity.toFixed(3),
    },
    {
      title: 'to f16',
      meaning: 'perplexity over that of f16, paired',
      cell: ({ perplexityRatio }) => ratio(perplexityRatio),
    },
    {
      title: '95 %',
      meaning: 'interval of the ratio, block bootstrap over windows',
      cell: ({ perplexityRatioInterval }) => interval(perplexityRatioInterval),
    },
    { title: 'KL', meaning: 'mean KL(f16 || method), nats', cell: ({ kl }) => small(kl) },
    { title: 'KL 99.9 %', meaning: 'its 99.9 % quantile', cell: ({ kl999 }) => small(kl999) },
    {
      title: 'top-1',
      meaning: 'positions where both put the same token first',
      cell: ({ top1 }) => percent(top1),
    },
    {
      title: 'QpB',
      meaning: '1000 / (perplexity x MB), as in the H1B-KV paper',
      cell: ({ qpb }) => qpb.toPrecision(4),
    },
    {
      title: `to f16 >${beyond}`,
      meaning: `perplexity over that of f16, ${late}`,
      cell: (row) => ratio(row.beyond.perplexityRatio),
    },
    {
      title: '95 %',
      meaning: 'interval of the ratio',
      cell: (row) => interval(row.beyond.perplexityRatioInterval),
      wide: true,
    },
    { title: `KL >${beyond}`, meaning: `mean KL ${late}`, cell: (row) => small(row.beyond.kl) },
    {
      title: 'KL 99.9 %',
      meaning: `its 99.9 % quantile ${late}`,
      cell: (row) => small(row.beyond.kl999),
      wide: true,
    },
    { title: `top-1 >${beyond}`, meaning: late, cell: (row) => percent(row.beyond.top1) },
    {
      title: `QpB >${beyond}`,
      meaning: `with the perplexity ${late}`,
      cell: (row) => row.beyond.qpb.toPrecision(4),
      wide: true,
    },
    {
      title: 'seeds',
      meaning: `how many were averaged, and the smallest and largest KL of one ${late}`,
      cell: seedsOf,
      wide: true,
    },
    {
      title: 'tokens/s',
      meaning: 'one token at a time at the end of a window, median',
      cell: ({ decode }) => decode.toPrecision(3),
    },
  ];
}

const times = (x: number) => `${x.toFixed(2)}x`;
const nameOf = ({ method, front }: ComparisonRow) => `${method}${front ? ' *' : ''}`;

function seedsOf({ seeds, beyond: { seedSpread } }: ComparisonRow): string {
  if (!seedSpread) return '';
  return `${seeds}: ${small(seedSpread.kl.low)} to ${small(seedSpread.kl.high)}`;
}

/** Titles with their meanings, and the cells of every row. */
export interface Cells {
  readonly titles: readonly string[];
  readonly meanings: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** the first so many columns are words */
  readonly words: number;
}

export function comparisonCells(comparison: Comparison, { wide }: { wide: boolean }): Cells {
  const columns = columnsOf(comparison).filter((column) => wide || !column.wide);
  return {
    titles: columns.map(({ title }) => title),
    meanings: columns.map(({ meaning }) => meaning),
    rows: comparison.rows.map((row, i) => columns.map(({ cell }) => cell(row, i + 1))),
    words: 2,
  };
}

const kinds = ['keys', 'values', 'scales', 'windows', 'codebooks', 'total'] as const;

/** What the bytes of each method are, per token. */
export function bytesCells({ rows, context }: Comparison): Cells {
  return {
    titles: ['#', 'method', ...kinds],
    meanings: kinds.map(() => ''),
    rows: rows.map((row, i) => [
      String(i + 1),
      row.method,
      ...kinds.map((kind) => (row.bytes[kind] / context).toFixed(kind === 'total' ? 0 : 1)),
    ]),
    words: 2,
  };
}

/** Lines of text: words to the left, numbers to the right. */
export function plainTable({ titles, rows, words }: Cells): string {
  const lines = [titles, ...rows];
  const widths = titles.map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  const pad = (cell: string, i: number) =>
    i < words ? cell.padEnd(widths[i]) : cell.padStart(widths[i]);
  return lines.map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}

export function markdownTable({ titles, rows, words }: Cells): string {
  const line = (cells: readonly string[]) => `| ${cells.map(plain).join(' | ')} |`;
  const rule = titles.map((_, i) => (i < words ? '---' : '--:'));
  return [line(titles), line(rule), ...rows.map(line)].join('\n');
}

/** A cell that Markdown takes as it is. */
const plain = (cell: string) => cell.replace(/[|\\*<]/g, '\\$&');
