import type { EvalResult } from '../eval/task.ts';
import { formatBytes } from './options.ts';

/** A column of the table: its title, and the cell of a row that has one. */
type ColumnOf = readonly [title: string, cell: (result: EvalResult) => string | undefined];

const optional = (show: (x: number) => string) => (x: number | undefined) =>
  x === undefined ? undefined : show(x);
const percent = optional((x) => `${(100 * x).toFixed(1)} %`);

const columns: readonly ColumnOf[] = [
  ['task', ({ task }) => task],
  ['method', ({ method }) => method],
  ['subject', ({ subject }) => subject],
  ['length', ({ length }) => optional(String)(length)],
  ['depth', ({ depth }) => optional(String)(depth)],
  ['perplexity', ({ perplexity }) => optional((x) => x.toFixed(3))(perplexity)],
  ['+-', ({ perplexityStderr }) => optional((x) => x.toFixed(3))(perplexityStderr)],
  ['to f16', ({ perplexityRatio }) => optional((x) => x.toFixed(4))(perplexityRatio)],
  ['KL', ({ kl }) => optional((x) => x.toPrecision(3))(kl)],
  ['KL 99.9 %', ({ kl999 }) => optional((x) => x.toPrecision(3))(kl999)],
  ['top-1', ({ top1 }) => percent(top1)],
  ['accuracy', ({ accuracy }) => percent(accuracy)],
  ['+-', ({ accuracyStderr }) => percent(accuracyStderr)],
  ['flexible', ({ accuracyFlexible }) => percent(accuracyFlexible)],
  ...[10, 100].map((k): ColumnOf => [`pass@${k}`, ({ passAt }) => percent(passAt?.[String(k)])]),
  ['chance', ({ chance }) => percent(chance)],
  ['shortened', ({ shortened }) => optional(String)(shortened)],
  ['tokens', ({ tokens }) => String(tokens)],
  ['bytes/token', ({ bytesPerToken }) => formatBytes(Math.round(bytesPerToken))],
  ['QpB', ({ qpb }) => optional((x) => x.toPrecision(4))(qpb)],
  ['seconds', ({ seconds }) => seconds.toFixed(1)],
];

/** Results as lines of text; columns that no row has are left out. */
export function resultTable(results: readonly EvalResult[]): string {
  const used = columns.filter(([, cell]) => results.some((result) => cell(result) !== undefined));
  const lines = [
    used.map(([title]) => title),
    ...results.map((result) => used.map(([, cell]) => cell(result) ?? '')),
  ];
  const widths = used.map((_, i) => Math.max(...lines.map((line) => line[i].length)));
  const pad = (cell: string, i: number) =>
    i < 2 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]);
  return lines.map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}
