import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeModel } from '../../../test/forged.ts';
import { plannedBytes } from '../../plan/plan.ts';
import type { Model } from '../../model/model.ts';
import type { Journal } from '../evaluate.ts';
import type { TableBlock } from './block.ts';
import type { ReportContext } from './context.ts';
import { megabytes, small } from './format.ts';
import { chartFiles, reportMarkdown } from './markdown.ts';
import { reportPage } from './page.ts';
import { paperLarge, paperQuality } from './paper.ts';
import { chooseSections, renderReport, runReport } from './report.ts';
import { sections, type ReportData, type SectionName } from './sections.ts';

// Paragraphs: exercises take whole ones.
const text = Array.from({ length: 60 }, (_, i) => `${i} the cat sat on ${i % 7} mats.\n\n`).join(
  '',
);
const hostile = '<script>"cats"&.txt';

let model: Model;
let context: ReportContext;
let data: ReportData;
const all = Object.keys(sections) as SectionName[];

const provenance = () => ({
  ...{ model: '<i>model</i>', hash: 'abcdef0123456789', command: 'h1bkv report "<x>"' },
  ...{ version: '1', machine: 'a machine', backend: 'native', threads: 1, texts: [hostile] },
});

/** A journal in memory that fails with the write number `lastWrites`, as a killed run would. */
function memoryJournal(kept: Map<string, unknown>, lastWrites = Infinity): Journal {
  let writes = 0;
  return {
    find: (task, unit) => kept.get(`${task} ${unit}`),
    append(task, unit, result) {
      if (++writes > lastWrites) throw new Error('killed');
      kept.set(`${task} ${unit}`, JSON.parse(JSON.stringify(result)));
    },
  };
}

beforeAll(async () => {
  model = await forgeModel();
  context = {
    model,
    texts: [
      { name: hostile, text, path: `/x/${hostile}` },
      { name: 'dogs.txt', text: text.replaceAll('cat', 'dog'), path: 'dogs.txt' },
    ],
    settings: {
      ...{ context: 64, beyond: 32, limit: 2, seeds: 1, items: 1, seed: 1, length: 160, depth: 64 },
    },
    shapes: ['smollm2-135m', 'smollm2-360m'],
    instruments: {
      plannedBytes: async (spec, layers, positions) =>
        (await plannedBytes(spec, layers, positions)).total,
      attentionMs: async (_, specs, { onPhase }) => {
        onPhase('f16', 0, 2);
        onPhase('turns', 1, 2);
        return specs.map((_, i) => ({ attendMs: 40 / (i + 1), bytes: 1e6 }));
      },
      memoryGigabytes: async () => 10,
      runPython: async () => ({ ok: false }),
    },
  };
  data = await runReport(all, sections, context);
}, 240_000);
afterAll(() => model.dispose());

const rendered = () => renderReport(data, sections, context);
const tables = () =>
  rendered().flatMap(({ blocks }) =>
    blocks.filter((block): block is TableBlock => block.kind === 'table'),
  );

describe('a report', () => {
  test('has every section, the verdict first, and is JSON', () => {
    expect(rendered().map(({ name }) => name)).toEqual([
      'verdict',
      ...all.filter((name) => name !== 'verdict'),
    ]);
    expect(JSON.parse(JSON.stringify(data))).toEqual(data);
  });

  test('shows its numbers in the page and in Markdown', () => {
    const page = reportPage(rendered(), provenance());
    const markdown = reportMarkdown(rendered(), provenance());
    const numbers = [
      ...(data.measured?.rows ?? [])
        .filter(({ method }) => data.quality?.methods.includes(method))
        .flatMap(({ bytes, texts }) => [
          megabytes(bytes.total),
          ...texts.map(({ perplexity }) => perplexity.toFixed(2)),
        ]),
      ...(data.planned?.rows ?? []).flatMap(({ bytes }) => bytes.map(megabytes)),
      ...(data.ablations?.groups ?? []).flatMap(({ rows }) => rows.map(({ kl }) => small(kl))),
      ...(data.trade?.families ?? []).flatMap(({ points }) =>
        points.map(({ bytesPerToken }) => String(Math.round(bytesPerToken))),
      ),
    ];
    expect(numbers.length).toBeGreaterThan(100);
    for (const number of numbers) {
      expect(page).toContain(`>${number}<`);
      expect(markdown).toContain(` ${number} |`);
    }
    for (const { benchmark } of [{ benchmark: 'GSM8K' }]) expect(page).toContain(benchmark);
  });

  test('marks what the paper reports, and shows it nowhere else', () => {
    const [quality] = tables().filter(({ caption }) => /on each text/.test(caption));
    const h1b = quality.rows.find(({ cells }) => cells[0] === 'h1b');
    const paper = quality.columns.flatMap((column, i) => (column.paper ? [h1b?.cells[i]] : []));
    const { megabytes: mb, wikitext, ptb, qpb } = paperQuality.h1b;
    expect(paper).toEqual([String(mb), ...[wikitext, ptb, qpb].map((x) => x.toFixed(2))]);
    const planned = tables().find(({ caption }) => /counted by the planner/.test(caption));
    for (const { cells } of planned?.rows ?? []) {
      cells.forEach((cell, i) => {
        if (cell === String(paperLarge.h1b.megabytes)) expect(planned?.columns[i].paper).toBe(true);
      });
    }
  });

  test('says of every table and chart which command makes it', () => {
    const page = reportPage(rendered(), provenance());
    const markdown = reportMarkdown(rendered(), provenance());
    for (const { blocks } of rendered()) {
      for (const block of blocks) {
        if (block.kind === 'text') continue;
        expect(block.command).toMatch(/^h1bkv (compare|eval|plan|report) |^arXiv/);
        expect(markdown).toContain(`\`\`\`sh\n${block.command}\n\`\`\``);
      }
    }
    const h1b = tables()[1].rows.find(({ cells }) => cells[0] === 'h1b');
    expect(h1b?.command).toMatch(/^h1bkv compare --text .* --limit 4 --seeds 1 --cache h1b$/);
    expect(page.match(/data-command="h1bkv/g)?.length).toBeGreaterThan(100);
    const adapted = renderReport(data, sections, { ...context, adapterFlag: 'a.safetensors' });
    const commands = adapted.flatMap(({ blocks }) =>
      blocks.flatMap((block) => (block.kind === 'text' ? [] : [block.command])),
    );
    for (const command of commands.filter((each) => /^h1bkv (compare|eval|report) /.test(each))) {
      expect(command).toContain(' --adapter a.safetensors ');
    }
  });

  test('lets nothing of a name become HTML, Markdown or a shell', () => {
    const page = reportPage(rendered(), provenance());
    expect(page.match(/<script>/g)?.length).toBe(1);
    expect(page).not.toContain('<i>model');
    expect(page).toContain('&lt;script&gt;');
    for (const svg of Object.values(chartFiles(rendered()))) expect(svg).not.toContain('<script');
    expect(tables()[1].command).toContain(`--text '/x/${hostile}'`);
  });

  test('loads nothing', () => {
    const page = reportPage(rendered(), provenance());
    expect(page).not.toMatch(/(src|href)="(?!#)|@import|url\(/);
    const files = chartFiles(rendered());
    expect(Object.keys(files)).toContain('bits-kl.svg');
    for (const svg of Object.values(files)) {
      expect(svg).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" /);
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    }
    expect(page).not.toMatch(/NaN|Infinity|undefined/);
  });
});

describe('figures of one pass', () => {
  test('are those of the windows of each text', () => {
    const { measured } = data;
    expect(measured?.windows).toEqual([2, 2]);
    for (const { all, texts } of measured?.rows ?? []) {
      expect(texts.map(({ tokens }) => tokens)).toEqual([126, 126]);
      const loss = texts.reduce((sum, { perplexity }) => sum + Math.log(perplexity), 0) / 2;
      expect(Math.log(all.perplexity)).toBeCloseTo(loss, 9);
    }
    const [f16, ...others] = measured?.rows ?? [];
    expect(f16.all.kl).toBe(0);
    expect(others.some(({ texts }) => texts[0].kl !== texts[1].kl)).toBe(true);
  });

  test('planned bytes are those of the planner', async () => {
    const { layersOf, namedShapes } = await import('../../model/shapes.ts');
    const layers = layersOf(namedShapes['smollm2-360m']);
    const expected = (await plannedBytes('h1b', layers, 8192)).total;
    expect(data.planned?.rows.find(({ method }) => method === 'h1b')?.bytes[1]).toBe(expected);
  });
});

describe('a run', () => {
  test('that was killed goes on where it stopped, and ends the same', async () => {
    const names: SectionName[] = ['planned', 'ablations', 'trade', 'verdict'];
    const kept = new Map<string, unknown>();
    const killed = runReport(names, sections, { ...context, journal: memoryJournal(kept, 3) });
    await expect(killed).rejects.toThrow('killed');
    expect(kept.size).toBe(3);
    const again = memoryJournal(kept);
    let appended = 0;
    const journal: Journal = {
      ...again,
      append: (...entry) => {
        appended++;
        again.append(...entry);
      },
    };
    const resumed = await runReport(names, sections, { ...context, journal });
    expect(appended).toBe(kept.size - 3);
    const whole = await runReport(names, sections, { ...context, journal: memoryJournal(kept, 0) });
    expect(resumed).toEqual(whole);
    expect(resumed.planned).toEqual(data.planned);
  });

  test('says how far it is, and never goes back', async () => {
    const shares: number[] = [];
    const places = new Set<string>();
    await runReport(['planned', 'time', 'verdict'], sections, context, {
      onProgress(done, total, what) {
        shares.push(done / total);
        places.add(what);
      },
    });
    expect([...places]).toContain('time, smollm2-135m, turns');
    expect(shares).toEqual([...shares].sort((a, b) => a - b));
    expect(shares.at(-1)).toBe(1);
  });

  test('of an unknown section is refused by name', () => {
    expect(() => chooseSections(['quality', 'nosuch'], sections)).toThrow(
      /section "nosuch" is unknown; there are quality, planned/,
    );
    expect(chooseSections(['verdict', 'planned'], sections)).toEqual(['planned', 'verdict']);
  });

  test('of a text that ends before what is scored says so', async () => {
    const texts = [{ name: 'short', text: 'the cat' }, ...context.texts];
    const run = runReport(['quality'], sections, { ...context, texts });
    await expect(run).rejects.toThrow(/short has \d+ tokens/);
  });
});

describe('the verdict', () => {
  const judge = async (change: (data: ReportData) => void) => {
    const changed = structuredClone(data);
    change(changed);
    const { claims } = await sections.verdict.run(context, changed, () => {});
    return (words: RegExp) => claims.find(({ claim }) => words.test(claim));
  };

  test('turns with the numbers', async () => {
    const small = await judge(({ planned }) =>
      planned?.rows.forEach(({ method, bytes }) => {
        if (method.startsWith('h1b')) (bytes as number[])[0] = 50e6;
      }),
    );
    expect(small(/7B model takes/)).toMatchObject({ finding: 'holds' });
    expect(small(/7B model takes/)?.because).toContain('50.0 MB');
    const large = await judge(({ planned }) =>
      planned?.rows.forEach(({ method, bytes }) => {
        if (method.startsWith('h1b')) (bytes as number[])[0] = 700e6;
      }),
    );
    expect(large(/7B model takes/)).toMatchObject({ finding: 'does not hold' });
  });

  test('does not judge by a task that f16 cannot do', async () => {
    const set = (f16: number, h1b: number) =>
      judge(({ tasks }) => {
        for (const result of tasks?.results.flat() ?? []) {
          const accuracy = { f16, h1b }[result.method];
          if (accuracy === undefined) continue;
          Object.assign(result, { accuracy, accuracyStderr: 0.02, chance: 0.02 });
        }
      });
    expect((await set(0.03, 0))(/GSM8K keeps/)?.finding).toBe('cannot be tested here');
    expect((await set(0.9, 0.2))(/GSM8K keeps/)?.finding).toBe('does not hold');
    expect((await set(0.9, 0.89))(/GSM8K keeps/)?.finding).toBe('holds');
  });

  test('says nothing of a section that was not run', async () => {
    const without = await judge((changed) => delete changed.time);
    expect(without(/11 ms instead of 41/)).toBeUndefined();
    expect((await judge(() => {}))(/11 ms instead of 41/)).toBeDefined();
  });
});
