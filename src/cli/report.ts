import { join } from 'node:path';
import { statSync } from 'node:fs';
import { InvalidArgumentError, type Command } from 'commander';
import { attentionAtDepths } from '../bench/attention.ts';
import { memoryReadSpeed } from '../bench/memory-speed-node.ts';
import { openJournal } from '../eval/journal-node.ts';
import type { Instruments, ReportContext, ReportText } from '../eval/report/context.ts';
import { chartFiles, reportMarkdown } from '../eval/report/markdown.ts';
import { reportIdentity } from '../eval/report/measure.ts';
import { reportPage } from '../eval/report/page.ts';
import { defaultShapes } from '../eval/report/planned.ts';
import type { ReportProvenance } from '../eval/report/provenance.ts';
import { chooseSections, renderReport, runReport } from '../eval/report/report.ts';
import { sections } from '../eval/report/sections.ts';
import type { Model } from '../model/model.ts';
import { plannedBytes } from '../plan/plan.ts';
import { calledAs, writeDocuments } from './documents.ts';
import { machine, sourceCommit } from './machine.ts';
import {
  addModelFlags,
  loadFromFlags,
  packageVersion,
  progressLine,
  wholeNumber,
  type ModelFlags,
} from './options.ts';
import { collectTexts, readTexts } from './texts.ts';

interface ReportFlags extends ModelFlags {
  readonly sections?: string[];
  readonly text?: string[];
  readonly context?: number;
  readonly beyond?: number;
  readonly limit: number;
  readonly seeds: number;
  readonly items: number;
  readonly seed: number;
  readonly length?: number;
  readonly depth: number;
  readonly resume?: string;
  readonly out: string;
  readonly json?: boolean;
}

const longest = 2 ** 24;

export function define(command: Command): void {
  addModelFlags(command)
    .option('--sections <list>', 'by commas (default: all)', names)
    .option(
      '--text <file>',
      'a text, or a folder of .txt; may be repeated (default: a short one)',
      collectTexts,
    )
    .option(
      '--context <n>',
      "positions of a window (default: the model's, at most 2048)",
      wholeNumber(2, longest),
    )
    .option(
      '--beyond <n>',
      'KL of positions from n on (default: half the context)',
      wholeNumber(0, longest),
    )
    .option('--limit <n>', 'windows of each text', wholeNumber(1, longest), 5)
    .option('--seeds <n>', 'seeds averaged where a method has one', wholeNumber(1, 1000), 2)
    .option('--items <n>', 'exercises of each kind', wholeNumber(1, longest), 24)
    .option('--seed <n>', 'of exercises', wholeNumber(0, 2 ** 32 - 1), 1)
    .option(
      '--length <n>',
      'prompt tokens of exercises with prose (default: 1024)',
      wholeNumber(1, longest),
    )
    .option('--depth <n>', 'context at which attention is timed', wholeNumber(1, longest), 8192)
    .option('--resume <file>', 'keep finished work here, and go on from it')
    .option('--out <folder>', 'report.md, report.html, report.json and charts', 'report')
    .option('--json', 'print the JSON document on standard output')
    .addHelpText(
      'after',
      () =>
        `\nSections:\n${Object.entries(sections)
          .map(([name, { title }]) => `  ${name.padEnd(14)}${title}`)
          .join(
            '\n',
          )}\n\nExample:\n  h1bkv report --text novel.txt --text wiki.txt --out docs/report --resume report.jsonl`,
    )
    .action((flags: ReportFlags) => run(flags));
}

function names(list: string): string[] {
  const chosen = list.split(',');
  try {
    return chooseSections(chosen, sections);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

async function run(flags: ReportFlags): Promise<void> {
  const texts = textsOf(flags.text);
  process.once('SIGINT', () => {
    console.error(`\nstopped${flags.resume ? `; the same call goes on from ${flags.resume}` : ''}`);
    process.exit(130);
  });
  const model = await loadFromFlags(flags);
  try {
    const bare = contextOf(flags, model, texts);
    const version = packageVersion();
    const context: ReportContext = {
      ...bare,
      ...(flags.resume !== undefined && {
        journal: openJournal(flags.resume, { version, ...(await reportIdentity(bare)) }),
      }),
    };
    const chosen = chooseSections(flags.sections ?? Object.keys(sections), sections);
    const progress = progressOf();
    const data = await runReport(chosen, sections, context, { onProgress: progress.update });
    progress.done();
    const commit = sourceCommit();
    const provenance: ReportProvenance = {
      ...{ model: model.name, hash: model.hash, command: calledAs(), version },
      ...(commit !== undefined && { commit }),
      ...{ machine: machine(), backend: model.kernels.backend, threads: model.kernels.threads },
      texts: texts.map(({ name }) => name),
    };
    const json = JSON.stringify({ ...provenance, settings: context.settings, ...data }, null, 2);
    const rendered = renderReport(data, sections, context);
    await writeDocuments('report', flags.out, {
      ...chartFiles(rendered),
      'report.json': `${json}\n`,
      'report.md': reportMarkdown(rendered, provenance),
      'report.html': reportPage(rendered, provenance),
    });
    if (flags.json) console.log(json);
    else console.log(`wrote report.html, report.md, report.json and charts to ${flags.out}`);
  } finally {
    model.dispose();
  }
}

/** Each text with the path that a command can name it by. */
function textsOf(paths: readonly string[] | undefined): ReportText[] {
  if (!paths) return readTexts(undefined);
  return paths.flatMap((path) => {
    const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
    return readTexts([path]).map((text) => ({
      ...text,
      path: isFolder ? join(path, text.name) : path,
    }));
  });
}

function contextOf(flags: ReportFlags, model: Model, texts: readonly ReportText[]): ReportContext {
  const { limit, seeds, items, seed, length, depth } = flags;
  const longestText = Math.max(...texts.map(({ text }) => model.tokenizer.encode(text).length));
  const context = Math.min(flags.context ?? 2048, model.contextLength, longestText);
  const settings = { context, limit, seeds, items, seed, depth };
  return {
    ...{ model, texts, shapes: defaultShapes(), instruments: instrumentsOf(model) },
    ...(flags.model !== 'default' && { modelFlag: flags.model }),
    ...(flags.adapter !== undefined && { adapterFlag: flags.adapter }),
    settings: {
      ...settings,
      beyond: flags.beyond ?? Math.floor(context / 2),
      ...(length !== undefined && { length }),
    },
  };
}

function instrumentsOf({ kernels }: Model): Instruments {
  return {
    plannedBytes: async (spec, layers, positions) =>
      (await plannedBytes(spec, layers, positions)).total,
    attentionMs: (shape, specs, { depth, turns, onPhase }) =>
      attentionAtDepths(kernels, shape, specs, [depth], { rounds: turns, onPhase }),
    memoryGigabytes: () => memoryReadSpeed(kernels.threads),
    runPython: async (code, options) =>
      (await import('../eval/python-node.ts')).runPython(code, options),
  };
}

/** A bar on a terminal; elsewhere a line for each thing that begins, and one a minute, with what is left. */
function progressOf() {
  const bar = progressLine('reporting');
  const began = performance.now();
  let told = began;
  let toldWhat: string | undefined;
  return {
    update(done: number, total: number, what: string) {
      bar(done, total);
      const now = performance.now();
      if (process.stderr.isTTY || (what === toldWhat && now - told < 60_000)) return;
      [told, toldWhat] = [now, what];
      const left =
        done > 0 && done < total
          ? Math.round(((now - began) * (total / done - 1)) / 60_000)
          : undefined;
      const share = Math.round((100 * done) / total);
      console.error(
        `${what}: ${share} % of all${left === undefined ? '' : `, about ${left} min left`}`,
      );
    },
    done: () => bar.done(),
  };
}
