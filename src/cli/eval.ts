import { InvalidArgumentError, type Command } from 'commander';
import { ensure } from '../errors/errors.ts';
import { openData } from '../eval/data-node.ts';
import { evaluate, runIdentity } from '../eval/evaluate.ts';
import { heatMap } from '../eval/heat-map.ts';
import { openJournal } from '../eval/journal-node.ts';
import { protocols } from '../eval/protocols.ts';
import { evalTasks } from '../eval/registry.ts';
import type { EvalText, TaskContext } from '../eval/task.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import { resultTable } from './eval-table.ts';
import { machine, sourceCommit } from './machine.ts';
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
  readonly data?: Readonly<Record<string, readonly string[]>>;
  readonly protocol?: string;
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
  readonly svg?: string;
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
      '--data <task=path>',
      "a data set's file, folder or archive, or hf:owner/repo/file; may be repeated",
      collectData,
    )
    .option('--protocol <name>', 'windows of perplexity as others cut them', protocolName)
    .option(
      '--context <n>',
      "positions of a window (default: the model's, at most 2048)",
      wholeNumber(2, longest),
    )
    .option('--stride <n>', 'windows begin every n tokens', wholeNumber(1, longest))
    .option('--beyond <n>', 'score only positions from n on', wholeNumber(0, longest))
    .option(
      '--limit <n>',
      'windows, exercises in a row, or items of a data set (default: all; 100 exercises)',
      wholeNumber(1, longest),
    )
    .option('--seed <n>', 'of exercises and samples', wholeNumber(0, 2 ** 32 - 1), 1)
    .option('--set <name=n>', 'a setting of a task; may be repeated', collectSettings)
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
    .option('--svg <file>', 'draw accuracy by length and depth here')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      () =>
        `\nTasks (* need --data):\n${taskLines()}\n\nProtocols:\n${protocolLines()}\n\nExamples:\n${examples}`,
    )
    .action((flags: EvalFlags) => run(flags));
}

const examples = `\
  h1bkv eval --text novel.txt --context 512 --cache "f16 h1b h1b:b=128" --resume run.jsonl
  h1bkv eval --task needle --text novel.txt --length 512,1024 --depth 0,0.5,1 --limit 50 --svg needle.svg
  h1bkv eval --task gsm8k,mmlu --data gsm8k=gsm8k/ --data mmlu=mmlu.tar.gz --limit 20`;

function taskLines(): string {
  return Object.entries(evalTasks)
    .map(([name, { summary, readsData }]) => row(name, `${summary}${readsData ? ' *' : ''}`))
    .join('\n');
}

function protocolLines(): string {
  return Object.entries(protocols)
    .map(([name, { summary }]) => row(name, summary))
    .join('\n');
}

const row = (name: string, summary: string) => `  ${name.padEnd(20)}${summary}`;

function protocolName(name: string): string {
  if (Object.hasOwn(protocols, name)) return name;
  throw new InvalidArgumentError(`There are ${Object.keys(protocols).join(', ')}.`);
}

function collectData(
  text: string,
  all: Record<string, readonly string[]> = {},
): Record<string, readonly string[]> {
  const [, task, path] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (task) return { ...all, [task]: [...(all[task] ?? []), path] };
  throw new InvalidArgumentError('It must be task=path, such as gsm8k=data/gsm8k.');
}

async function openAllData(
  paths: EvalFlags['data'],
): Promise<Record<string, readonly EvalText[]> | undefined> {
  if (!paths) return undefined;
  const opened: Record<string, EvalText[]> = {};
  for (const [task, own] of Object.entries(paths)) {
    opened[task] = (await Promise.all(own.map((name) => openData(name)))).flat();
  }
  return opened;
}

const fileNames = (data: Readonly<Record<string, readonly EvalText[]>>) =>
  Object.fromEntries(
    Object.entries(data).map(([task, files]) => [task, files.map(({ name }) => name)]),
  );

/**
 * Windows as the flags and the protocol say. With a protocol, `--context` stays free.
 * @throws KvError "usage" if `--stride` or `--beyond` are given beside a protocol
 */
function windowsFrom({ protocol, context, stride, beyond }: EvalFlags) {
  if (protocol !== undefined) {
    ensure(
      stride === undefined && beyond === undefined,
      'usage',
      () =>
        `eval: --protocol ${protocol} sets --stride and --beyond itself. Leave those or the protocol out.`,
    );
    return protocols[protocol].windows(context);
  }
  return {
    ...(context !== undefined && { context }),
    ...(stride !== undefined && { stride }),
    ...(beyond !== undefined && { beyond }),
  };
}

async function writeText(path: string, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  await writeFileAtomically(path, (sink) => sink.write(bytes));
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
  const data = await openAllData(flags.data);
  const windows = windowsFrom(flags);
  ensure(
    flags.svg === undefined || flags.depth !== undefined,
    'usage',
    () => 'eval: --svg draws accuracy by depth, and there are no depths. Give --depth 0,0.5,1.',
  );
  // The progress bar has a listener too, which would keep the process alive.
  process.once('SIGINT', () => {
    console.error(`\nstopped${flags.resume ? `; the same call goes on from ${flags.resume}` : ''}`);
    process.exit(130);
  });
  const model = await loadFromFlags(flags);
  try {
    const { task = ['perplexity'], limit, seed, set = {}, length, depth } = flags;
    const settings = {
      methods: [...new Set(flags.cache ?? ['f16', 'h1b'])],
      seed,
      set,
      ...windows,
      ...(limit !== undefined && { limit }),
      ...(length && { lengths: length }),
      ...(depth && { depths: depth }),
    };
    const taskContext: TaskContext = {
      model,
      texts,
      shuffled: !flags.text,
      settings,
      ...(data && { data }),
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
    const commit = sourceCommit();
    const report = {
      model: model.name,
      hash: model.hash,
      version,
      ...(commit !== undefined && { commit }),
      machine: machine(),
      platform: `${process.platform}-${process.arch}`,
      backend: model.kernels.backend,
      threads: model.kernels.threads,
      texts: texts.map(({ name }) => name),
      ...(data && { data: fileNames(data) }),
      ...(flags.protocol !== undefined && { protocol: flags.protocol }),
      settings,
      results,
    };
    const json = JSON.stringify(report, null, 2);
    if (flags.out !== undefined) await writeText(flags.out, `${json}\n`);
    if (flags.svg !== undefined) await writeText(flags.svg, heatMap(results));
    if (flags.json) console.log(json);
    else console.log(`${model.name}\n\n${resultTable(results)}`);
  } finally {
    model.dispose();
  }
}
