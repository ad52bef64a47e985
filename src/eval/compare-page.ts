/** A comparison as a document: Markdown, and one HTML file that needs nothing beside it. */
import type { Comparison, ComparisonRow } from './compare.ts';
import { bytesCells, comparisonCells, markdownTable, type Cells } from './compare-table.ts';
import { escape, scatter, type ScatterPoint } from './scatter.ts';

/** Where and how a comparison was made. */
export interface Provenance {
  readonly model: string;
  readonly hash: string;
  readonly command: string;
  readonly version: string;
  /** of the source, if it is there with its history */
  readonly commit?: string;
  readonly machine: string;
  readonly backend: string;
  readonly threads: number;
  readonly texts: readonly string[];
}

/** What a reader has to know beside the column titles. */
function notes({ context, windows, beyond }: Comparison): string[] {
  return [
    `Windows of ${context} tokens, ${windows} of them; every figure "> ${beyond}" is over positions from ${beyond} on, where windows and first positions that a method keeps exact weigh less. The chart shows those.`,
    'Bytes are measured: all buffers that a cache holds at the end of a window, scales, exact windows and codebooks too. Codebooks do not grow: at longer contexts they weigh less.',
    '* marks the front: no other method has both fewer bytes and a smaller KL.',
    'Methods that others are compared with decode in plain TypeScript: their tokens/s are those of this program, not of the method.',
  ];
}

function facts(provenance: Provenance): [string, string][] {
  const { model, hash, command, version, commit, machine, backend, threads, texts } = provenance;
  return [
    ['command', command],
    ['model', `${model}, hash ${hash.slice(0, 12)}`],
    ['text', texts.join(', ')],
    ['version', `h1b-kv ${version}${commit === undefined ? '' : `, commit ${commit}`}`],
    ['machine', `${machine}; ${backend}, threads: ${threads}`],
  ];
}

export function comparisonMarkdown(comparison: Comparison, provenance: Provenance): string {
  const { leftOut } = comparison;
  return [
    `# Cache methods on ${provenance.model}`,
    facts(provenance)
      .map(([name, value]) => `- ${name}: \`${value}\``)
      .join('\n'),
    ...notes(comparison).map((note) => note.replace(/^\*/, '\\*')),
    markdownTable(comparisonCells(comparison, { wide: true })),
    '## What the bytes are, per token',
    markdownTable(bytesCells(comparison)),
    ...(leftOut.length > 0
      ? [
          '## Left out',
          leftOut.map(({ method, reason }) => `- \`${method}\`: ${reason}`).join('\n'),
        ]
      : []),
  ]
    .map((part) => `${part}\n`)
    .join('\n');
}

export function comparisonHtml(comparison: Comparison, provenance: Provenance): string {
  const { rows, leftOut } = comparison;
  const families = [...new Set(rows.map(familyOf))];
  const points = rows.map((row, i) => pointOf(row, i + 1, families.indexOf(familyOf(row))));
  const chart = (width: number, height: number, names: boolean) =>
    scatter(points, {
      ...{ width, height, names },
      xTitle: 'bytes per token',
      yTitle: `KL from f16, positions from ${comparison.beyond} on (nats)`,
      reference: {
        x: rows.find(({ method }) => method === 'f16')?.bytesPerToken ?? 1,
        name: 'f16',
      },
    });
  const legend = families.map(
    (name, i) => `<span><i class="dot g${i % colours.length}"></i>${escape(name)}</span>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cache methods on ${escape(provenance.model)}</title>
<style>${style}</style>
</head>
<body>
<h1>Cache methods on ${escape(provenance.model)}</h1>
<figure>
<div class="broad">${chart(1120, 600, true)}</div>
<div class="narrow">${chart(380, 440, false)}</div>
<figcaption><p class="legend">${legend.join('')}</p>
<p>Lower left is better. The line joins the front; numbers are those of the table. f16 itself, with a KL of 0, lies on the lower edge.</p></figcaption>
</figure>
${htmlTable(comparisonCells(comparison, { wide: true }))}
${notes(comparison)
  .map((note) => `<p>${escape(note)}</p>`)
  .join('\n')}
<h2>What the bytes are, per token</h2>
${htmlTable(bytesCells(comparison))}
${leftOut.length > 0 ? `<h2>Left out</h2>\n${definitions(leftOut.map(({ method, reason }) => [method, reason]))}` : ''}
<h2>How it was made</h2>
${definitions(facts(provenance))}
</body>
</html>
`;
}

const familyOf = ({ method }: ComparisonRow) => method.split(':')[0];

function pointOf(row: ComparisonRow, number: number, group: number): ScatterPoint {
  const { method, bytesPerToken, ratio, beyond, front } = row;
  return {
    ...{
      number,
      name: method,
      group: group % colours.length,
      x: bytesPerToken,
      y: beyond.kl,
      front,
    },
    note: `${number} ${method}: ${Math.round(bytesPerToken)} bytes per token (f16 / it ${ratio.toFixed(2)}), KL ${beyond.kl.toPrecision(3)}, top-1 ${(100 * beyond.top1).toFixed(1)} %`,
  };
}

function htmlTable({ titles, meanings, rows, words }: Cells): string {
  const kind = (i: number) => (i < words ? ' class="word"' : '');
  const head = titles.map(
    (title, i) => `<th${kind(i)} title="${escape(meanings[i] ?? '')}">${escape(title)}</th>`,
  );
  const body = rows.map(
    (cells) =>
      `<tr>${cells.map((cell, i) => `<td${kind(i)}>${breakable(cell)}</td>`).join('')}</tr>`,
  );
  return `<div class="scroll"><table><thead><tr>${head.join('')}</tr></thead>\n<tbody>${body.join('\n')}</tbody></table></div>`;
}

/** A spec may be broken between its settings. */
const breakable = (cell: string) => escape(cell).replace(/[,:]/g, '$&<wbr>');

const definitions = (list: readonly (readonly [string, string])[]) =>
  `<dl>${list.map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`).join('')}</dl>`;

/** Of families of methods; the first two are usually the uncompressed ones. */
const colours = [
  ...['#555b66', '#9aa1ad', '#d1495b', '#1668b8', '#e08a00', '#8a5fbf', '#1d8a5c', '#b85c9e'],
  ...['#0f8fa3', '#7a6a1e', '#3d4db7', '#c2571a', '#5f8f1d'],
];

const style = `
:root { color-scheme: light dark; --ink: #1b1f27; --soft: #5b6270; --rule: #dde1e8; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa3b2; --rule: #333945; --paper: #14171d; }
}
body { margin: 0 auto; padding: 1.2rem; max-width: 1160px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
figure { margin: 0 0 1.5rem; } svg { width: 100%; height: auto; display: block; }
svg text { font-size: 11px; fill: var(--ink); }
svg .tick, svg .title { fill: var(--soft); } svg .title { font-size: 12px; } svg .on { font-weight: 600; }
.grid { stroke: var(--rule); } .reference { stroke: var(--soft); stroke-dasharray: 4 4; }
.front { fill: none; stroke: var(--ink); stroke-width: 1.5; opacity: 0.6; }
.point { stroke: var(--paper); stroke-width: 1; } .point.on { stroke: var(--ink); stroke-width: 1.5; }
.dot { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 50%; margin-right: 0.35em; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; margin: 0.4rem 0; }
figcaption, dd { color: var(--soft); } figcaption p { margin: 0.2rem 0; }
.narrow { display: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; } .word { text-align: left; }
dt { font-weight: 600; } dd { margin: 0 0 0.6rem; overflow-wrap: anywhere; }
@media (max-width: 700px) { body { padding: 0.6rem; } .narrow { display: block; } .broad { display: none; }
  td.word:nth-child(2) { white-space: normal; min-width: 7rem; } }
${colours.map((colour, i) => `.g${i} { fill: ${colour}; background: ${colour}; }`).join('\n')}
`;
