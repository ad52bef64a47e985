import { existsSync, readFileSync } from 'node:fs';
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { Adapter } from '../cache/adapter.ts';
import { finetunedName } from '../cache/finetuned.ts';
import { ensure } from '../errors/errors.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import { adapterBytes, readAdapter } from '../model/adapter-file.ts';
import type { Model } from '../model/model.ts';
import { checkpointBytes, readCheckpoint } from '../train/checkpoint.ts';
import { curve } from '../train/curve.ts';
import { bestEntry, finetune, startFinetune, type FinetuneState } from '../train/finetune.ts';
import { TextWindows } from '../train/text-windows.ts';
import { traineeOf } from '../train/trainee.ts';
import { finetunedFrom, startTuning, type ValueTraining } from '../train/tuning.ts';
import {
  adapterOut,
  addModelFlags,
  anyNumber,
  loadFromFlags,
  progressLine,
  readAdapterFile,
  wholeNumber,
  type ModelFlags,
} from './options.ts';
import { collectTexts, readTexts } from './texts.ts';

interface FinetuneFlags extends ModelFlags {
  readonly text: string[];
  readonly cache: string;
  readonly values: ValueTraining;
  readonly projection?: boolean;
  readonly norm?: boolean;
  readonly bits?: number;
  readonly seed: number;
  readonly name?: string;
  readonly window: number;
  readonly batch: number;
  readonly steps: number;
  readonly evaluateEvery: number;
  readonly heldOut: number;
  readonly patience: number;
  readonly rate: number;
  readonly languageWeight: number;
  readonly out?: string;
  readonly run?: string;
  readonly json?: boolean;
}

/** Adam's step sizes at `--rate 1`: ln T, entries of W_v, entries of R in units of 1/32. */
const rates = { logT: 0.01, values: 0.001, projection: 0.5 };

export function define(command: Command): void {
  addModelFlags(command)
    .addOption(
      new Option(
        '--text <path>',
        'text file, or folder of .txt files, to train on; may be repeated',
      )
        .argParser(collectTexts)
        .makeOptionMandatory(),
    )
    .option('--cache <spec>', 'what is trained for: h1b, bitplane or bitplane-small', 'h1b')
    .addOption(
      new Option('--values <what>', 'value projection: none, rank:<n> or full')
        .argParser(valueTraining)
        .default({ rank: 2 }, 'rank:2'),
    )
    .option('--projection', 'h1b: train the projection of the sketches as well')
    .option('--norm', 'h1b: let temperatures follow the norm of each query, as t=norm does')
    .option('--bits <n>', 'h1b: bits of a key sketch (default: 256)', width)
    .option('--seed <n>', 'of the projection and of the order of texts', wholeNumber(0, 65535), 0)
    .option('--name <word>', 'what tuned=<word> will call it (default: from what is trained)')
    .option('--window <n>', 'tokens of a window', wholeNumber(16, 4096), 256)
    .option('--batch <n>', 'windows of a step', wholeNumber(1, 256), 4)
    .option('--steps <n>', 'steps at most', wholeNumber(1, 1_000_000), 400)
    .option('--evaluate-every <n>', 'steps between evaluations', wholeNumber(1, 100_000), 20)
    .option('--held-out <n>', 'windows of an evaluation', wholeNumber(1, 4096), 16)
    .option('--patience <n>', 'evaluations without gain that end it', wholeNumber(1, 10_000), 5)
    .option('--rate <x>', 'factor of all learning rates', anyNumber, 1)
    .option('--language-weight <x>', 'weight of -ln p(token) beside KL', anyNumber, 0)
    .option('--out <file>', 'adapter file (default: that of --adapter, else beside the model)')
    .option('--run <path>', 'checkpoint, log and curve: this name and .safetensors, .jsonl, .svg')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText('after', '\nExample:\n  h1bkv finetune --text books/ --values rank:2 --steps 400')
    .action((flags: FinetuneFlags) => run(flags));
}

function valueTraining(text: string): ValueTraining {
  if (text === 'none' || text === 'full') return text;
  const [, rank] = /^rank:([1-9]\d{0,2})$/.exec(text) ?? [];
  if (rank) return { rank: Number(rank) };
  throw new InvalidArgumentError('It must be none, full, or rank:1 and up.');
}

function width(text: string): number {
  const bits = wholeNumber(32, 1024)(text);
  if (bits % 32 === 0) return bits;
  throw new InvalidArgumentError('It must be a multiple of 32.');
}

async function run(flags: FinetuneFlags): Promise<void> {
  const name = flags.name ?? nameOf(flags);
  ensure(
    finetunedName.test(name),
    'usage',
    () => `finetune: --name ${name}; allowed are small letters, digits and "-". Take another.`,
  );
  const out = adapterOut('finetune', flags);
  const files = filesOf(flags.run ?? `${out.replace(/(\.adapter)?\.safetensors$/, '')}.${name}`);
  const texts = readTexts(flags.text);
  const model = await loadFromFlags(flags);
  try {
    // Now already, so that what will be refused in the end is refused before the work.
    await adapterBefore(out, model);
    const windows = new TextWindows(
      model.tokenizer,
      texts.map(({ text }) => text),
      Math.min(flags.window, model.contextLength),
      flags.seed,
    );
    const { cache, start, part } = traineeOf(model, { ...flags, name });
    const options = { ...flags, rates: ratesOf(flags) };
    const identity = JSON.stringify({
      ...start,
      ...part,
      ...options,
      // Where things are, how fast, and how long it goes on are no part of what is computed.
      ...Object.fromEntries(notOfTheRun.map((key) => [key, undefined])),
      model: model.hash,
      texts: texts.map((t) => `${t.name} ${t.text.length}`),
    });
    const tuning = startTuning(model.layers, start);
    let state = existsSync(files.checkpoint)
      ? await readCheckpoint(readFileSync(files.checkpoint), files.checkpoint, identity, tuning)
      : startFinetune(tuning);
    if (state.step > 0) console.error(`goes on after step ${state.step} of ${files.checkpoint}`);
    const progress = progressLine('finetuning');
    for await (state of finetune(model, cache, windows, options, state)) {
      progress(state.step, flags.steps);
      await save(files, state, identity, name);
      if (!process.stderr.isTTY) console.error(JSON.stringify(state.history.at(-1)));
    }
    progress.done();
    const projection = flags.projection ?? false;
    const finetuned = finetunedFrom(state.best, start.dModel, part, { projection });
    const before = await adapterBefore(out, model);
    const others = (before.finetuned ?? []).filter((other) => other.name !== name);
    const adapter = { ...before, finetuned: [...others, finetuned] };
    await writeFileAtomically(out, (sink) => sink.write(adapterBytes(adapter)));
    report(flags, { cache: `${part.method}:tuned=${name}`, out, files }, state);
  } finally {
    model.dispose();
  }
}

const notOfTheRun = ['text', 'backend', 'threads', 'adapter', 'out', 'run', 'json', 'patience'];

const nameOf = ({ cache, values, projection, norm }: FinetuneFlags) =>
  (cache === 'h1b' ? '' : `${cache.replace(/:.*/, '')}-`) +
  (values === 'none' ? 't' : values === 'full' ? 'full' : `rank${values.rank}`) +
  (projection ? '-r' : '') +
  (norm ? '-norm' : '');

const filesOf = (base: string) => ({
  checkpoint: `${base}.safetensors`,
  log: `${base}.jsonl`,
  curve: `${base}.svg`,
});

function ratesOf({ rate, projection }: FinetuneFlags) {
  ensure(
    rate > 0 && rate <= 1000,
    'usage',
    () => `finetune: --rate is ${rate}; it must be above 0 and at most 1000.`,
  );
  return {
    logT: rate * rates.logT,
    values: rate * rates.values,
    projection: projection ? rate * rates.projection : 0,
  };
}

async function save(
  files: ReturnType<typeof filesOf>,
  state: FinetuneState,
  identity: string,
  name: string,
): Promise<void> {
  const text = new TextEncoder();
  const lines = state.history.map((entry) => `${JSON.stringify(entry)}\n`).join('');
  const write = (path: string, bytes: Uint8Array) =>
    writeFileAtomically(path, (sink) => sink.write(bytes));
  await write(files.log, text.encode(lines));
  await write(files.curve, text.encode(curve(state.history, `KL to the f16 cache, ${name}`)));
  await write(files.checkpoint, checkpointBytes(state, identity));
}

/** The adapter as it is now: another run may have written to it since this one began. */
async function adapterBefore(out: string, model: Model): Promise<Adapter> {
  if (existsSync(out)) return readAdapter(readAdapterFile(out), model.hash);
  return model.adapter ?? { model: model.hash, text: 'finetuned only', temperatures: [] };
}

function report(
  flags: FinetuneFlags,
  { cache, out, files }: { cache: string; out: string; files: ReturnType<typeof filesOf> },
  state: FinetuneState,
): void {
  const best = bestEntry(state);
  const result = { cache, file: out, ...files, first: state.history[0], best };
  if (flags.json) return console.log(JSON.stringify(result, null, 2));
  const [first] = state.history;
  console.log(`held-out KL ${first.kl.toFixed(4)} -> ${best.kl.toFixed(4)} at step ${best.step}`);
  console.log(
    `held-out perplexity ${first.perplexity.toFixed(2)} -> ${best.perplexity.toFixed(2)}; f16: ${best.perplexityF16.toFixed(2)}`,
  );
  console.log(`written to ${out}; use it with --cache ${cache}`);
}
