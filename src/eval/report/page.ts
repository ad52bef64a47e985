/** The report as one HTML file that loads nothing. */
import { escape } from '../scatter.ts';
import { chartWidths, type Block, type ChartBlock, type TableBlock } from './block.ts';
import { factsOf, type ReportProvenance } from './provenance.ts';
import type { RenderedSection } from './report.ts';
import { pageScript, pageStyle } from './page-style.ts';

export function reportPage(
  sections: readonly RenderedSection[],
  provenance: ReportProvenance,
): string {
  const { model } = provenance;
  const links = sections.map(({ name, title }) => `<a href="#${name}">${escape(title)}</a>`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Caches on ${escape(model)}</title>
<style>${pageStyle}</style>
</head>
<body>
<header>
<p class="kicker">h1b-kv · report</p>
<h1>Caches on ${escape(model)}</h1>
<p class="lead">The tables of the H1B-KV paper (arXiv 2510.05529) on this model. <em class="paper">Figures in italics are the paper’s own</em>; everything else is measured or counted here. Click a table or a chart to see the command that makes it.</p>
<nav>${links.join('')}</nav>
</header>
<main>
${sections.map(sectionHtml).join('\n')}
<section id="made">
<h2>How it was made</h2>
<dl>${factsOf(provenance)
    .map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`)
    .join('')}</dl>
</section>
</main>
<div id="command" role="status" hidden><pre></pre><button type="button" data-copy>copy</button><button type="button" data-close aria-label="close">×</button></div>
<script>${pageScript}</script>
</body>
</html>
`;
}

function sectionHtml({ name, title, blocks }: RenderedSection): string {
  return `<section id="${name}">
<h2>${escape(title)}</h2>
${blocks.map(blockHtml).join('\n')}
</section>`;
}

function blockHtml(block: Block): string {
  if (block.kind === 'text') return `<p>${breakable(block.text)}</p>`;
  return block.kind === 'chart' ? chartHtml(block) : tableHtml(block);
}

function chartHtml({ caption, command, draw }: ChartBlock): string {
  return `<figure data-command="${escape(command)}">
<figcaption>${escape(caption)}</figcaption>
<div class="broad">${draw(chartWidths.broad)}</div>
<div class="narrow">${draw(chartWidths.narrow)}</div>
${commandHtml(command)}
</figure>`;
}

function tableHtml({ caption, command, columns, rows }: TableBlock): string {
  const kindOf = (i: number) => {
    const kinds = [columns[i].words ? 'word' : '', columns[i].paper ? 'paper' : ''];
    const all = kinds.filter((kind) => kind !== '').join(' ');
    return all === '' ? '' : ` class="${all}"`;
  };
  const head = columns.map(
    ({ title }, i) => `<th scope="col"${kindOf(i)}>${breakable(title)}</th>`,
  );
  const body = rows.map(({ cells, ours, command: own = command }) => {
    const tds = cells.map((cell, i) => `<td${kindOf(i)}>${cellHtml(cell)}</td>`);
    return `<tr${ours ? ' class="ours"' : ''} data-command="${escape(own)}">${tds.join('')}</tr>`;
  });
  return `<figure class="table" data-command="${escape(command)}">
<figcaption>${escape(caption)}</figcaption>
<div class="scroll" tabindex="0"><table><thead><tr>${head.join('')}</tr></thead>
<tbody>${body.join('\n')}</tbody></table></div>
${commandHtml(command)}
</figure>`;
}

const commandHtml = (command: string) =>
  `<details><summary>command</summary><pre>${escape(command)}</pre></details>`;

const findings: Readonly<Record<string, string>> = {
  holds: 'yes',
  'does not hold': 'no',
  'cannot be tested here': 'open',
};

/** A judgement is a badge. */
function cellHtml(cell: string): string {
  const kind = findings[cell];
  return kind ? `<span class="badge ${kind}">${escape(cell)}</span>` : breakable(cell);
}

/** A spec may be broken between its settings. */
const breakable = (content: string) => escape(content).replace(/[,:](?=\S)/g, '$&<wbr>');
