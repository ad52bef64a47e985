import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { KvError } from '../errors/errors.ts';
import { chooseRunnable, compare, defaultSpecs, type LeftOut } from '../eval/compare.ts';
import { comparisonHtml, comparisonMarkdown, type Provenance } from '../eval/compare-page.ts';
import { comparisonCells, plainTable } from '../eval/compare-table.ts';
import { runIdentity } from '../eval/evaluate.ts';
import { openJournal } from '../eval/journal-node.ts';
import type { TaskContext } from '../eval/task.ts';
import { windowsOf } from '../eval/windows.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import { machine } from './machine.ts';
import {
  addModelFlags,
  collectSpecs,
  loadFromFlags,
  packageRoot,
  packageVersion,
  progressLine,
  wholeNumber,
  type ModelFlags,
} from './options.ts';
import { collectTexts, readTexts } from './texts.ts';

interface CompareFlags extends ModelFlags {
  readonly cache?: string[];
  readonly text?: string[];
  readonly context?: number;
  readonly beyond?: number;
  readonly limit?: number;
  readonly seeds: number;
  readonly resume?: string;
  readonly out?: string;
  readonly json?: boolean;
}

const longest = 2 ** 24;

export function define(command: Command): void {
  addModelFlags(command)
    .option('--cache <specs...>', 'cache methods (default: all, in several settings)', collectSpecs)
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
      'score positions from n on apart (default: half the context)',
      wholeNumber(0, longest),
    )
    .option('--limit <n>', 'windows (default: all)', wholeNumber(1, longest))
    .option('--seeds <n>', 'seeds averaged where a method has one', wholeNumber(1, 1000), 3)
    .option('--resume <file>', 'keep finished work here, and go on from it')
    .option('--out <folder>', 'write compare.md, compare.html and compare.json there')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText('after', `\nExamples:\n${examples}`)
    .action((flags: CompareFlags) => run(flags));
}

const examples = `\
  h1bkv compare --text novel.txt --context 512 --out comparison --resume run.jsonl
  h1bkv compare --cache "h1b kivi:2 bitplane:k=1,v=2" --text novel.txt --limit 20`;

async function run(flags: CompareFlags): Promise<void> {
  const texts = readTexts(flags.text);
  process.once('SIGINT', () => {
    console.error(`\nstopped${flags.resume ? `; the same call goes on from ${flags.resume}` : ''}`);
    process.exit(130);
  });
  const model = await loadFromFlags(flags);
  try {
    const { context, limit, seeds, beyond } = flags;
    const windows = {
      ...(context !== undefined && { context }),
      ...(limit !== undefined && { limit }),
    };
    const common = { methods: [], seed: 1, set: {}, ...windows };
    const length = Math.max(...windowsOf(model, texts, common).map(({ ids }) => ids.length));
    const specs = flags.cache ?? defaultSpecs(model.layers);
    const { methods, leftOut } = await chooseRunnable(model, specs, length);
    for (const { method, reason } of leftOut) console.error(`left out: ${method}: ${reason}`);
    expectAny(specs, leftOut);
    const settings = { ...common, methods, alsoBeyond: beyond ?? Math.floor(length / 2), seeds };
    const taskContext: TaskContext = { model, texts, shuffled: false, settings };
    const version = packageVersion();
    const identity = { version, ...(await runIdentity(['compare'], taskContext)) };
    const progress = progressLine('comparing');
    const comparison = await compare(taskContext, {
      leftOut,
      ...(flags.resume !== undefined && { journal: openJournal(flags.resume, identity) }),
      onProgress: progress,
    });
    progress.done();
    const { commit } = source();
    const provenance: Provenance = {
      model: model.name,
      hash: model.hash,
      command: ['h1bkv', ...process.argv.slice(2).map(quoted)].join(' '),
      version,
      ...(commit !== undefined && { commit }),
      machine: machine(),
      backend: model.kernels.backend,
      threads: model.kernels.threads,
      texts: texts.map(({ name }) => name),
    };
    const json = JSON.stringify({ ...provenance, seeds, ...comparison }, null, 2);
    if (flags.out !== undefined) {
      await writeDocuments(flags.out, {
        'compare.json': `${json}\n`,
        'compare.md': comparisonMarkdown(comparison, provenance),
        'compare.html': comparisonHtml(comparison, provenance),
      });
    }
    if (flags.json) {
      console.log(json);
      return;
    }
    const table = plainTable(comparisonCells(comparison, { wide: false }));
    console.log(
      `${model.name}: ${comparison.windows} windows of ${comparison.context}; * no other method has fewer bytes and a smaller KL >${comparison.beyond}\n\n${table}`,
    );
    for (const { method, reason } of leftOut) console.log(`\nleft out: ${method}: ${reason}`);
  } finally {
    model.dispose();
  }
}

/** @throws KvError "usage" with the first reason if none of the specs can run */
function expectAny(specs: readonly string[], leftOut: readonly LeftOut[]): void {
  if (specs.some((spec) => !leftOut.some(({ method }) => method === spec))) return;
  throw new KvError(
    'usage',
    `compare: no method of this call can run. ${leftOut[0]?.reason ?? ''}`,
  );
}

/** The commit that the program was built from, where its folder is a repository. */
function source(): { commit?: string } {
  if (!existsSync(join(packageRoot(), '.git'))) return {};
  const args = ['-C', packageRoot(), 'describe', '--always', '--dirty'];
  const { status, stdout } = spawnSync('git', args, { encoding: 'utf8' });
  return status === 0 ? { commit: stdout.trim() } : {};
}

/** An argument as a shell takes it. */
function quoted(argument: string): string {
  return /^[\w./:=,@+-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`;
}

/** Each file whole or not at all. */
async function writeDocuments(
  folder: string,
  files: Readonly<Record<string, string>>,
): Promise<void> {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw new KvError('io', `compare: ${folder} cannot be a folder. Name another with --out.`, {
      cause,
    });
  }
  for (const [name, text] of Object.entries(files)) {
    const bytes = new TextEncoder().encode(text);
    await writeFileAtomically(join(folder, name), (sink) => sink.write(bytes));
  }
}
