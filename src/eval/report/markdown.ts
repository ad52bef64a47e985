/** The report as Markdown, with its charts as files beside it. */
import { markdownTable } from '../compare-table.ts';
import { chartWidths, type Block, type ChartBlock } from './block.ts';
import { chartStyle } from './colours.ts';
import type { RenderedSection } from './report.ts';
import type { ReportProvenance } from './provenance.ts';
import { factsOf } from './provenance.ts';

export function reportMarkdown(
  sections: readonly RenderedSection[],
  provenance: ReportProvenance,
): string {
  return [
    `# Caches on ${provenance.model}`,
    'The tables of the H1B-KV paper (arXiv 2510.05529) on this model. What the paper reports is in columns of its own, marked _paper_; everything else is measured or counted here, by the command above it.',
    factsOf(provenance)
      .map(([name, value]) => `- ${name}: \`${value}\``)
      .join('\n'),
    ...sections.flatMap(({ title, blocks }) => [`## ${title}`, ...blocks.map(blockMarkdown)]),
  ]
    .map((part) => `${part}\n`)
    .join('\n');
}

function blockMarkdown(block: Block): string {
  if (block.kind === 'text') return escaped(block.text);
  const above = `\`\`\`sh\n${block.command}\n\`\`\``;
  if (block.kind === 'chart') {
    return `${above}\n\n![${block.caption.replace(/[[\]]/g, '')}](${block.name}.svg)`;
  }
  const { columns, rows, caption } = block;
  // Words may stand anywhere here, and Markdown's columns are aligned each by itself.
  const lines = markdownTable({
    titles: columns.map(({ title, paper }) => (paper ? `_${title}_` : title)),
    meanings: [],
    rows: rows.map(({ cells }) =>
      cells.map((cell, i) => (columns[i].paper && cell ? `_${cell}_` : cell)),
    ),
    words: columns.findIndex(({ words }) => !words) < 0 ? columns.length : 1,
  });
  return `**${escaped(caption)}**\n\n${above}\n\n${lines}`;
}

const escaped = (content: string) => content.replace(/[\\*_<|]/g, '\\$&');

/** Every chart as a file: SVG that needs nothing beside it, light or dark as its reader likes. */
export function chartFiles(sections: readonly RenderedSection[]): Record<string, string> {
  const charts = sections.flatMap(({ blocks }) =>
    blocks.filter((block): block is ChartBlock => block.kind === 'chart'),
  );
  return Object.fromEntries(
    charts.map(({ name, draw }) => [`${name}.svg`, standalone(draw(chartWidths.broad))]),
  );
}

function standalone(svg: string): string {
  const style = `<style>${chartStyle}\n.ground { fill: var(--paper); }</style>`;
  const ground = '<rect class="ground" width="100%" height="100%" rx="6"/>';
  return `${svg
    .replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" ')
    .replace('>', `>\n${style}\n${ground}`)}\n`;
}
