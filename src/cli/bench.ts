import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { attentionAtDepth, type AttentionRow } from '../bench/attention.ts';
import { forgeGguf, type ForgeOptions } from '../bench/forge-node.ts';
import { peerMissing, type PeerOptions } from '../bench/peer-node.ts';
import { linearSpeed, type LinearRow } from '../bench/linear.ts';
import { memoryReadSpeed } from '../bench/memory-speed-node.ts';
import { benchSideBySide, type BenchRow } from '../bench/side-by-side-node.ts';
import { KvError } from '../errors/errors.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { namedShapes, type ShapeName } from '../model/shapes.ts';
import { machine } from './machine.ts';
import {
  addModelFlags,
  collectSpecs,
  formatBytes,
  loadFromFlags,
  modelPath,
  packageRoot,
  wholeNumber,
  type ModelFlags,
} from './options.ts';

const peerKvs = ['F32', 'F16', 'Q8_0', 'Q4_0'] as const satisfies PeerOptions['kv'][];

const quants = ['q8_0', 'q4_0', 'q4_k', 'q6_k', 'f16', 'f32'] as const;

interface BenchFlags extends ModelFlags {
  readonly shape: ShapeName;
  readonly quant: (typeof quants)[number];
  readonly cache?: string[];
  readonly depth: number[];
  readonly rounds: number;
  readonly peer?: string;
  readonly peerKv: PeerOptions['kv'][];
  readonly json?: boolean;
}

export function define(command: Command): void {
  addModelFlags(command)
    .addOption(
      new Option('--shape <name>', 'a model of this shape with random weights, unless --model')
        .choices(Object.keys(namedShapes))
        .default('smollm2-135m'),
    )
    .addOption(
      new Option('--quant <type>', 'weights of the random model').choices(quants).default('q8_0'),
    )
    .option('--cache <specs...>', 'cache methods (default: f16 h1b)', collectSpecs)
    .option('--depth <list>', 'positions in the cache, separated by commas', depths, [0, 8192])
    .option('--rounds <n>', 'turns of each contestant', wholeNumber(1, 1000), 5)
    .addOption(new Option('--peer <name>', 'measure it too').choices(['node-llama-cpp']))
    .addOption(
      new Option('--peer-kv <types...>', 'its KV cache types').choices(peerKvs).default(['F16']),
    )
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      '\nExample:\n  h1bkv bench --depth 0,8192 --cache "f16 h1b" --peer node-llama-cpp',
    )
    .action((flags: BenchFlags) => run(flags));
}

function depths(text: string): number[] {
  const list = text.split(',').map(Number);
  if (list.every((depth) => Number.isInteger(depth) && depth >= 0 && depth <= 2 ** 20)) return list;
  throw new InvalidArgumentError('They must be whole numbers, such as 0,8192.');
}

async function run(flags: BenchFlags): Promise<void> {
  const missing = flags.peer === undefined ? undefined : peerMissing(packageRoot());
  if (missing) throw new KvError('unsupported', `bench: ${missing}.`);
  const path = flags.model === 'default' ? await randomModel(flags) : modelPath(flags.model);
  const model = await loadFromFlags({ ...flags, model: path });
  try {
    console.error(`${model.name}: ${model.kernels.description}`);
    const methods = flags.cache ?? ['f16', 'h1b'];
    const rows = await benchSideBySide({
      model,
      modelPath: path,
      methods,
      depths: flags.depth,
      rounds: flags.rounds,
      ...(flags.peer && { peer: { packageRoot: packageRoot(), kvs: flags.peerKv } }),
      onStep: (what) => process.stderr.isTTY && process.stderr.write(`\r${what}\x1b[K`),
    });
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    const deepest = Math.max(...flags.depth);
    const shape = namedShapes[flags.shape];
    const kernels =
      deepest > 0 ? await attentionAtDepth(model.kernels, shape, methods, deepest) : [];
    const weights = await weightsAlone(model.kernels);
    const report = { machine: machine(), rows, kernels, weights };
    if (flags.json) console.log(JSON.stringify(report, null, 2));
    else print(report, flags.shape, deepest);
  } finally {
    model.dispose();
  }
}

/** A file with random weights in a known shape, made once below build/. */
async function randomModel({ shape, quant }: BenchFlags): Promise<string> {
  const folder = join(packageRoot(), 'build', 'bench');
  const path = join(folder, `${shape}-${quant}.gguf`);
  mkdirSync(folder, { recursive: true });
  console.error(`random weights in the shape of ${shape}, ${quant}: ${path}`);
  const { vocabSize, ...sizes } = namedShapes[shape];
  await forgeGguf(path, {
    ...sizes,
    vocab: vocabSize,
    type: quant.toUpperCase() as ForgeOptions['type'],
    tied: true,
    contextLength: 131072,
    seed: 1,
    tokenizer: 'bpe',
  });
  return path;
}

interface WeightsReport {
  /** bytes read from memory by one thread and by all, 10^9 a second */
  readonly memoryGigabytes: readonly [number, number];
  readonly linear: readonly LinearRow[];
}

async function weightsAlone(kernels: Kernels): Promise<WeightsReport> {
  const memoryGigabytes = [
    await memoryReadSpeed(1),
    await memoryReadSpeed(kernels.threads),
  ] as const;
  return { memoryGigabytes, linear: await linearSpeed(kernels, ['q8_0', 'q4_0', 'q4_k', 'q6_k']) };
}

function print(
  report: {
    machine: string;
    rows: BenchRow[];
    kernels: AttentionRow[];
    weights: WeightsReport;
  },
  shape: string,
  depth: number,
): void {
  console.log(`${report.machine}\n`);
  console.log('engine          cache           depth  decode/s  prefill/s       cache');
  for (const row of report.rows) {
    console.log(
      [
        row.engine.padEnd(16),
        row.kv.padEnd(14),
        String(row.depth).padStart(7),
        row.decode.toFixed(1).padStart(10),
        row.prefill.toFixed(1).padStart(11),
        formatBytes(row.cacheBytes).padStart(12),
      ].join(''),
    );
  }
  printWeights(report.weights);
  const baseline = report.kernels.at(0);
  if (!baseline) return;
  console.log(`\nattention alone, one token at depth ${depth}, all layers of ${shape}:`);
  for (const { method, attendMs, bytes } of report.kernels) {
    console.log(
      `${method.padEnd(16)}${attendMs.toFixed(2).padStart(8)} ms  ${formatBytes(bytes).padStart(9)}  ${(baseline.attendMs / attendMs).toFixed(2)}x of ${baseline.method}`,
    );
  }
}

function printWeights({ memoryGigabytes: [one, all], linear }: WeightsReport): void {
  console.log(
    `\nmatrix products alone; memory reads ${one.toFixed(1)} GB/s with one thread, ${all.toFixed(1)} with all:`,
  );
  for (const { dtype, vectorGigabytes, matrixGigaops } of linear) {
    const share = Math.round((100 * vectorGigabytes) / all);
    console.log(
      `${dtype.padEnd(8)}one token ${vectorGigabytes.toFixed(1).padStart(6)} GB/s, ${share} % of memory; 128 tokens ${matrixGigaops.toFixed(0).padStart(5)} Gop/s`,
    );
  }
}
