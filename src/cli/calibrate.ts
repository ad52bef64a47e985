import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import { fittedTemperatures, type Adapter } from '../cache/adapter.ts';
import type { Finetuned } from '../cache/finetuned.ts';
import { ensure, KvError } from '../errors/errors.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import { adapterBytes, readAdapter } from '../model/adapter-file.ts';
import type { Model } from '../model/model.ts';
import { calibrate } from '../train/calibrate.ts';
import type { OnProgress } from '../train/layer-walk.ts';
import { fitRidge } from '../train/ridge.ts';
import { collectStatistics } from '../train/statistics.ts';
import {
  adapterOut,
  addModelFlags,
  loadFromFlags,
  packageRoot,
  progressLine,
  readAdapterFile,
  wholeNumber,
  type ModelFlags,
} from './options.ts';

interface CalibrateFlags extends ModelFlags {
  readonly text: string;
  readonly bits: number[];
  readonly seed: number;
  readonly ridge?: number;
  readonly out?: string;
  readonly json?: boolean;
}

export function define(command: Command): void {
  addModelFlags(command)
    .option('--text <file>', 'text to fit on', join(packageRoot(), 'models', 'fit-text.txt'))
    .option('--bits <list>', 'sketch widths, separated by commas', widths, [64, 128, 256])
    .option('--seed <n>', 'seed of the sketches', wholeNumber(0, 65535), 0)
    .option(
      '--ridge <bits>',
      'also correct the attention of h1b at this width',
      wholeNumber(32, 1024),
    )
    .option('--out <file>', 'adapter file (default: that of --adapter, else beside the model)')
    .option('--json', 'print one JSON document on standard output')
    .addHelpText('after', '\nExample:\n  h1bkv calibrate --model model.gguf --bits 256')
    .action((flags: CalibrateFlags) => run(flags));
}

function widths(text: string): number[] {
  const list = text.split(',').map(Number);
  if (list.every((b) => Number.isInteger(b) && b >= 32 && b <= 1024 && b % 32 === 0)) return list;
  throw new InvalidArgumentError('They must be multiples of 32 from 32 to 1024, such as 64,256.');
}

/** More would change a covariance little. */
const statisticsTokens = 65_536;

/** One temperature per head needs little text, and the fit is slow. */
const temperatureCharacters = 8000;

async function run(flags: CalibrateFlags): Promise<void> {
  const { bits, ridge } = flags;
  ensure(
    ridge === undefined || bits.includes(ridge),
    'usage',
    () => `calibrate: --ridge ${ridge}; it must be one of --bits, ${bits.join(',')}. Add it there.`,
  );
  const text = readText(flags.text);
  const out = adapterOut('calibrate', flags);
  const model = await loadFromFlags({ ...flags, adapter: 'none' });
  try {
    // Now already, so that what will be refused in the end is refused before the work.
    await finetunedBefore(flags, out, model, (note) => console.error(note));
    const byLayer =
      (bar: ReturnType<typeof progressLine>) => (done: number, total: number, layer: number) =>
        bar(done, total, `, layer ${layer + 1} of ${model.layers.length}`);
    const progress = progressLine('calibrating');
    const temperatures = await calibrate(
      model,
      text.slice(0, temperatureCharacters),
      basename(flags.text),
      {
        bits: flags.bits,
        seed: flags.seed,
        onProgress: byLayer(progress),
      },
    );
    progress.done();
    const collecting = progressLine('collecting');
    const ids = model.tokenizer.encode(text).subarray(0, statisticsTokens);
    const statistics = await collectStatistics(model, ids, { onProgress: byLayer(collecting) });
    collecting.done();
    const fitted: Adapter = { ...temperatures, statistics };
    const correcting = progressLine('correcting');
    const corrected = await corrections(model, ids, fitted, flags, byLayer(correcting));
    correcting.done();
    // Again: finetuning may have written to it since.
    const kept = (await finetunedBefore(flags, out, model)).filter(
      ({ name }) => !corrected.some((part) => part.name === name),
    );
    const finetuned = [...kept, ...corrected];
    const adapter = finetuned.length > 0 ? { ...fitted, finetuned } : fitted;
    const bytes = adapterBytes(adapter);
    await writeFileAtomically(out, (sink) => sink.write(bytes));
    if (flags.json) console.log(JSON.stringify(report(out, bytes.length, adapter, kept), null, 2));
    else print(out, adapter, kept);
  } finally {
    model.dispose();
  }
}

/**
 * What finetuning left in the adapter that is written over, and in that of `--adapter`, whose parts come first
 * where names are the same. It is kept. It was made for these weights, which `readAdapter` makes sure of, and leans
 * on nothing that is fitted here: temperatures were where its training began, and it has its own since; so has it
 * its own seed, or R. What another model left there, or damage, is written over, as errors say that it can be.
 * @throws KvError "io" if `--adapter` names what cannot be read, "unsupported" for a future version
 */
async function finetunedBefore(
  { adapter }: CalibrateFlags,
  out: string,
  { hash }: Model,
  onNote?: (note: string) => void,
): Promise<Finetuned[]> {
  const byName = new Map<string, Finetuned>();
  if (adapter === 'none') return [];
  const files = new Set([...(existsSync(out) ? [out] : []), ...(adapter ? [adapter] : [])]);
  for (const file of files) {
    try {
      const { finetuned = [] } = await readAdapter(readAdapterFile(file), hash);
      for (const part of finetuned) byName.set(part.name, part);
    } catch (error) {
      if (!(error instanceof KvError && error.code === 'format')) throw error;
      onNote?.(`${error.message}\nNothing of it is kept.`);
    }
  }
  return [...byName.values()];
}

/** Tokens for these: what they fit has few numbers, and sees every query of a KV head. */
const ridgeTokens = 16_384;

/** The correction of the attention of `h1b` at one width, if it is asked for. */
async function corrections(
  model: Model,
  ids: Int32Array,
  adapter: Adapter,
  { ridge, seed }: CalibrateFlags,
  onProgress: OnProgress,
): Promise<Finetuned[]> {
  const temperatures = ridge && fittedTemperatures(adapter, ridge, 'norm', model.layers);
  if (!temperatures) return [];
  const start = { bits: ridge, seed, temperatures, byNorm: true };
  const some = ids.subarray(0, ridgeTokens);
  return [await fitRidge(model, some, 'ridge', start, { onProgress })];
}

/** What is said of an adapter on standard output; its matrices are only in the file. */
function report(
  file: string,
  sizeBytes: number,
  { model, text, temperatures, statistics = [] }: Adapter,
  kept: readonly Finetuned[],
) {
  const layers = statistics.length;
  return { file, sizeBytes, model, text, temperatures, layers, kept: kept.map(specOf) };
}

const specOf = ({ name }: Finetuned) => `h1b:tuned=${name}`;

function print(file: string, adapter: Adapter, kept: readonly Finetuned[]): void {
  const short = (t: number) => t.toPrecision(3);
  for (const { bits, global, layer } of adapter.temperatures) {
    const perLayer = layer.map(short).join(' ');
    console.log(`b=${bits}: T = ${short(global)} for all heads; per layer ${perLayer}`);
  }
  if (kept.length > 0) console.log(`kept what finetuning left: ${kept.map(specOf).join(' ')}`);
  console.log(`written to ${file}`);
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new KvError('io', `calibrate: ${file} cannot be read. Give a text with --text.`, {
      cause,
    });
  }
}
