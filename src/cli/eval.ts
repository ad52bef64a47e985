import { InvalidArgumentError, type Command } from 'commander';
import { evaluate, runIdentity } from '../eval/evaluate.ts';
import { openJournal } from '../eval/journal-node.ts';
import { evalTasks } from '../eval/registry.ts';
import type { TaskContext } from '../eval/task.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import { resultTable } from './eval-table.ts';
import { machine } from './machine.ts';
import {
  addModelFlags,
  anyNumber,
  collectSpecs,
  loadFromFlags,
  packageVersion,
  progressLine,
  wholeNumber,
  type ModelFlags,
} from './options.ts';
import { collectTexts, readTexts } from './texts.ts';

interface EvalFlags extends ModelFlags {
  readonly task?: string[];
  readonly cache?: string[];
  readonly text?: string[];
  readonly context?: number;
  readonly stride?: number;
  readonly beyond?: number;
  readonly limit?: number;
  readonly seed: number;
  readonly set?: Readonly<Record<string, number>>;
  readonly length?: number[];
  readonly depth?: number[];
  readonly resume?: string;
  readonly out?: string;
  readonly json?: boolean;
}

const longest = 2 ** 24;

export function define(command: Command): void {
  addModelFlags(command)
    .option('--task <list>', 'tasks, separated by commas (default: perplexity)', taskNames)
    .option('--cache <specs...>', 'cache methods (default: f16 h1b)', collectSpecs)
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
    .option('--stride <n>', 'windows begin every n tokens', wholeNumber(1, longest))
    .option('--beyond <n>', 'score only positions from n on', wholeNumber(0, longest))
    .option(
      '--limit <n>',
      'windows, or exercises in a row (default: all, 100)',
      wholeNumber(1, longest),
    )
    .option('--seed <n>', 'of exercises', wholeNumber(0, 2 ** 32 - 1), 1)
    .option('--set <name=n>', 'a setting of exercises; may be repeated', collectSettings)
    .option(
      '--length <list>',
      'prompt tokens of exercises with prose (default: 1024)',
      listOf(wholeNumber(1, longest)),
    )
    .option(
      '--depth <list>',
      'where the answer stands in the prose, 0 to 1 (default: anywhere)',
      listOf(share),
    )
    .option('--resume <file>', 'keep finished work here, and go on from it')
    .option('--out <file>', 'write the JSON document here')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText('after', () => `\nTasks:\n${taskLines()}\n\nExamples:\n${examples}`)
    .action((flags: EvalFlags) => run(flags));
}

const examples = `\
  h1bkv eval --text novel.txt --context 512 --cache "f16 h1b h1b:b=128" --resume run.jsonl
  h1bkv eval --task needle --text novel.txt --length 512,1024 --depth 0,0.5,1 --limit 50`;

function taskLines(): string {
  return Object.entries(evalTasks)
    .map(([name, { summary }]) => `  ${name.padEnd(16)}${summary}`)
    .join('\n');
}

function taskNames(text: string): string[] {
  const names = text.split(',');
  if (names.every((name) => Object.hasOwn(evalTasks, name))) return [...new Set(names)];
  throw new InvalidArgumentError(`There are ${Object.keys(evalTasks).join(', ')}.`);
}

function collectSettings(text: string, all: Record<string, number> = {}): Record<string, number> {
  const [, name, value] = /^([^=]+)=([^=]+)$/.exec(text) ?? [];
  if (name) return { ...all, [name]: anyNumber(value) };
  throw new InvalidArgumentError('It must be name=number, such as pairs=32.');
}

const listOf = (parse: (text: string) => number) => (text: string) => text.split(',').map(parse);

function share(text: string): number {
  const value = anyNumber(text);
  if (value >= 0 && value <= 1) return value;
  throw new InvalidArgumentError('It must be a number from 0 to 1.');
}

async function run(flags: EvalFlags): Promise<void> {
  const texts = readTexts(flags.text);
  // The progress bar has a listener too, which would keep the process alive.
  process.once('SIGINT', () => {
    console.error(`\nstopped${flags.resume ? `; the same call goes on from ${flags.resume}` : ''}`);
    process.exit(130);
  });
  const model = await loadFromFlags(flags);
  try {
    const {
      task = ['perplexity'],
      context,
      stride,
      beyond,
      limit,
      seed,
      set = {},
      length,
      depth,
    } = flags;
    const settings = {
      methods: [...new Set(flags.cache ?? ['f16', 'h1b'])],
      seed,
      set,
      ...(context !== undefined && { context }),
      ...(stride !== undefined && { stride }),
      ...(beyond !== undefined && { beyond }),
      ...(limit !== undefined && { limit }),
      ...(length && { lengths: length }),
      ...(depth && { depths: depth }),
    };
    const taskContext: TaskContext = {
      model,
      texts,
      shuffled: !flags.text,
      settings,
      runPython: async (code, options) =>
        (await import('../eval/python-node.ts')).runPython(code, options),
    };
    const version = packageVersion();
    const identity = { version, ...(await runIdentity(task, taskContext)) };
    const progress = progressLine('evaluating');
    const results = await evaluate(task, taskContext, {
      ...(flags.resume !== undefined && { journal: openJournal(flags.resume, identity) }),
      onProgress: progress,
    });
    progress.done();
    const report = {
      model: model.name,
      hash: model.hash,
      version,
      machine: machine(),
      backend: model.kernels.backend,
      threads: model.kernels.threads,
      texts: texts.map(({ name }) => name),
      settings,
      results,
    };
    const json = JSON.stringify(report, null, 2);
    if (flags.out !== undefined) {
      const bytes = new TextEncoder().encode(`${json}\n`);
      await writeFileAtomically(flags.out, (sink) => sink.write(bytes));
    }
    if (flags.json) console.log(json);
    else console.log(`${model.name}\n\n${resultTable(results)}`);
  } finally {
    model.dispose();
  }
}
