import { join } from 'node:path';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { attentionAtDepths } from '../bench/attention.ts';
import { forgedQuants, forgedShape, type ForgedQuant } from '../bench/forge-shape-node.ts';
import { growthDepths, growthLines } from '../bench/growth.ts';
import { growthPicture } from '../bench/growth-picture.ts';
import { linearSpeed } from '../bench/linear.ts';
import { memoryReadSpeed } from '../bench/memory-speed-node.ts';
import { peerMissing, type PeerOptions } from '../bench/peer-node.ts';
import { roofline, scanRoofline } from '../bench/roofline.ts';
import { benchSideBySide } from '../bench/side-by-side-node.ts';
import { KvError } from '../errors/errors.ts';
import { writeFileAtomically } from '../format/file-node.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { layersOf, namedShapes, type ModelShape, type ShapeName } from '../model/shapes.ts';
import { Plan } from '../plan/plan.ts';
import { printGrowth, printRoofline, printRows, printSplits } from './bench-print.ts';
import { peaksInChildren, printOwnPeak, printPeaks } from './bench-rss.ts';
import { machine } from './machine.ts';
import {
  addModelFlags,
  collectSpecs,
  loadFromFlags,
  modelPath,
  packageRoot,
  wholeNumber,
  type ModelFlags,
} from './options.ts';

const peerKvs = ['F32', 'F16', 'Q8_0', 'Q4_0'] as const satisfies PeerOptions['kv'][];

interface BenchFlags extends ModelFlags {
  readonly shape: ShapeName;
  readonly quant: ForgedQuant;
  readonly cache: string[];
  readonly depth: number[];
  readonly rounds: number;
  readonly peer?: string;
  readonly peerCache: PeerOptions['kv'][];
  readonly growth?: string;
  readonly rss?: boolean;
  readonly rssChild?: boolean;
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
      new Option('--quant <type>', 'weights of the random model')
        .choices(forgedQuants)
        .default('q8_0'),
    )
    .option('--cache <specs...>', 'cache methods (default: f16 h1b)', collectSpecs)
    .option('--depth <list>', 'positions in the cache, separated by commas', depths, [0, 8192])
    .option('--rounds <n>', 'turns of each contestant', wholeNumber(1, 1000), 5)
    .addOption(new Option('--peer <name>', 'measure it too').choices(['node-llama-cpp']))
    .option('--peer-cache <types...>', `its KV caches, of ${peerKvs.join(' ')}`, collectPeerKvs)
    .option('--growth <file>', 'instead: attention from 1k to 64k positions, drawn as an SVG')
    .option('--rss', 'instead: peak memory of a process for each cache and depth')
    .addOption(new Option('--rss-child').hideHelp())
    .option('--json', 'print one JSON document on standard output')
    .addHelpText(
      'after',
      `
Examples:
  h1bkv bench --depth 0,8192 --cache "f16 h1b" --peer node-llama-cpp --peer-cache "f16 q8_0 q4_0"
  h1bkv bench --growth growth.svg --cache "f16 h1b bitplane"
  h1bkv bench --rss --shape llama-2-7b --quant q4_0 --depth 8192 --cache bitplane`,
    )
    .action((flags: BenchFlags) =>
      run({
        ...flags,
        cache: flags.cache ?? ['f16', 'h1b'],
        peerCache: flags.peerCache ?? ['F16'],
      }),
    );
}

function depths(text: string): number[] {
  const list = text.split(',').map(Number);
  if (list.every((depth) => Number.isInteger(depth) && depth >= 0 && depth <= 2 ** 20)) return list;
  throw new InvalidArgumentError('They must be whole numbers, such as 0,8192.');
}

function collectPeerKvs(text: string, all: PeerOptions['kv'][] = []): PeerOptions['kv'][] {
  const names = text.split(/\s+/).filter((name) => name !== '');
  return [
    ...all,
    ...names.map((name) => {
      const known = peerKvs.find((kv) => kv === name.toUpperCase());
      if (known) return known;
      throw new InvalidArgumentError(`Allowed choices are ${peerKvs.join(', ')}.`);
    }),
  ];
}

async function run(flags: BenchFlags): Promise<void> {
  if (flags.rssChild) return printOwnPeak(flags, flags.cache[0], flags.depth[0]);
  if (flags.growth !== undefined) return measureGrowth(flags, flags.growth);
  const missing = flags.peer === undefined ? undefined : peerMissing(packageRoot());
  if (missing) throw new KvError('unsupported', `bench: ${missing}.`);
  const path = flags.model === 'default' ? await randomModel(flags) : modelPath(flags.model);
  if (flags.rss) measureRss(flags, path);
  else await measureSpeed(flags, path);
}

/** A file with random weights in a known shape, below build/. */
function randomModel({ shape, quant }: BenchFlags): Promise<string> {
  return forgedShape(join(packageRoot(), 'build', 'bench'), shape, quant, (path) =>
    console.error(`writing random weights in the shape of ${shape}, ${quant}: ${path}`),
  );
}

async function measureSpeed(flags: BenchFlags, path: string): Promise<void> {
  const model = await loadFromFlags({ ...flags, model: path });
  try {
    const { kernels } = model;
    console.error(`${model.name}: ${kernels.description}`);
    const memoryGigabytes = [
      await memoryReadSpeed(1),
      await memoryReadSpeed(kernels.threads),
    ] as const;
    const rows = await benchSideBySide({
      ...{ model, modelPath: path, methods: flags.cache, depths: flags.depth },
      ...{ rounds: flags.rounds, memoryGigabytes: memoryGigabytes[1] },
      ...(flags.peer && { peer: { packageRoot: packageRoot(), kvs: flags.peerCache } }),
      onStep: (what) => process.stderr.isTTY && process.stderr.write(`\r${what}\x1b[K`),
    });
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    const alone = await kernelsAlone(flags, kernels, memoryGigabytes);
    const deepest = Math.max(...flags.depth);
    const report = {
      machine: machine(),
      rows,
      kernels: alone.attention.filter(({ depth }) => depth === deepest),
      weights: { memoryGigabytes, linear: alone.linear },
      roofline: alone.roofline,
    };
    if (flags.json) {
      console.log(JSON.stringify(report, null, 2));
      return;
    }
    console.log(`${report.machine}\n`);
    printRows(rows);
    printSplits(rows);
    printRoofline(report.roofline, alone.linear);
  } finally {
    model.dispose();
  }
}

const weightTypes = ['q8_0', 'q4_0', 'q4_k', 'q6_k'] as const;

/** Each kernel beside memory, on one thread and on all. */
async function kernelsAlone(
  { shape: name, cache, depth, backend }: BenchFlags,
  all: Kernels,
  memoryGigabytes: readonly [number, number],
) {
  const shape = namedShapes[name];
  const deepest = Math.max(...depth, 1024);
  const methods = await runnableWithout(cache, shape);
  const one = await createKernels(backend, { threads: 1 });
  const measured = [];
  for (const [i, kernels] of [one, all].entries()) {
    measured.push({
      threads: kernels.threads,
      memoryGigabytes: memoryGigabytes[i],
      linear: await linearSpeed(kernels, weightTypes),
      attention: await attentionAtDepths(kernels, shape, methods, [deepest]),
    });
  }
  const scans = await scanRoofline(one, shape, memoryGigabytes[0]);
  one.dispose();
  return { ...measured[1], roofline: [...measured.flatMap(roofline), ...scans] };
}

/** The specs that ask nothing of an adapter: kernels alone run on a shape, which has none. */
async function runnableWithout(specs: readonly string[], shape: ModelShape): Promise<string[]> {
  const runnable = [];
  for (const spec of specs) {
    try {
      await Plan.create(spec, layersOf(shape));
      runnable.push(spec);
    } catch (error) {
      if (!(error instanceof KvError)) throw error;
      console.error(`kernels alone, left out: ${error.message}`);
    }
  }
  return runnable;
}

async function measureGrowth(flags: BenchFlags, file: string): Promise<void> {
  const { threads, backend, shape, cache, rounds } = flags;
  const kernels = await createKernels(backend, { ...(threads !== undefined && { threads }) });
  try {
    const options = { rounds };
    const rows = await attentionAtDepths(kernels, namedShapes[shape], cache, growthDepths, options);
    const lines = growthLines(rows);
    const title = `attention of one token, all layers of ${shape}; ${kernels.description}`;
    const picture = new TextEncoder().encode(growthPicture(lines, title));
    await writeFileAtomically(file, (sink) => sink.write(picture));
    if (flags.json) {
      const report = { machine: machine(), backend: kernels.description, shape, lines };
      console.log(JSON.stringify(report, null, 2));
      return;
    }
    console.log(`${machine()}\n${title}\n`);
    printGrowth(lines);
  } finally {
    kernels.dispose();
  }
}

function measureRss(flags: BenchFlags, path: string): void {
  const { cache, depth, json } = flags;
  if (depth.some((positions) => positions < 256)) {
    throw new KvError('usage', 'bench: --rss needs depths of 256 or more, such as --depth 8192.');
  }
  const peaks = peaksInChildren(flags, path, cache, depth);
  if (json) {
    console.log(JSON.stringify({ machine: machine(), peaks }, null, 2));
    return;
  }
  console.log(`${machine()}\n`);
  printPeaks(peaks);
}
