import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { attentionAtDepths } from '../bench/attention.ts';
import { compareCaches } from '../eval/agreement.ts';
import type { GenerateStats } from '../generate/generate.ts';
import { Session } from '../generate/session.ts';
import type { Model } from '../model/model.ts';
import { namedShapes } from '../model/shapes.ts';
import { Columns } from './columns.ts';
import { perSecond } from './generate.ts';
import {
  addModelFlags,
  formatBytes,
  loadFromFlags,
  packageRoot,
  wholeNumber,
  type ModelFlags,
} from './options.ts';

interface DemoFlags extends ModelFlags {
  readonly maxTokens: number;
}

const prompt =
  'The rain had not ceased since morning, and the road to the old house was so deep in mud that ' +
  'the coachman swore he would go no farther. "Then I shall walk," said the young lady, and she ' +
  'stepped down with her bag in her hand. There was a light in one of the upper windows. She ' +
  'looked at it for some time before she knocked, for she remembered what her father had told her ' +
  'of the man who lived there, and of';

export function define(command: Command): void {
  addModelFlags(command)
    .option('--max-tokens <n>', 'length of each text', wholeNumber(1, 100000), 200)
    .action((flags: DemoFlags) => run(flags));
}

/** What is compared: uncompressed, ours, and the paper's method as it stands. */
const methods = ['f16', 'bitplane', 'h1b'] as const;

const intro = (model: Model) => `\
A language model keeps keys and values of every token it has read: the KV cache. Here the same model
(${model.name}, ${formatBytes(model.weightBytes)} of weights) continues the same text twice, once with
the cache in 16 bits, once with ours, bitplane: 2 bits per key channel and per value, 64 newest tokens exact.
${model.kernels.description}

The prompt:
`;

async function run(flags: DemoFlags): Promise<void> {
  const model = await loadFromFlags(flags);
  try {
    console.log(intro(model));
    console.log(`${prompt}\n`);
    const sides: [Side, Side] = [await startSide(model, 'f16'), await startSide(model, 'bitplane')];
    await writeBoth(sides, flags.maxTokens);
    const speeds = sides.map(({ stats, elapsedMs }) =>
      perSecond((stats?.tokens ?? 1) - 1, elapsedMs).toFixed(0),
    );
    for (const { session } of sides) session.dispose();
    await printReading(model, speeds);
    await printLongContext(model);
  } finally {
    model.dispose();
  }
}

interface Side {
  readonly session: Session;
  elapsedMs: number;
  stats: GenerateStats | undefined;
}

async function startSide(model: Model, cache: string): Promise<Side> {
  const session = await Session.create(model, { cache });
  session.append(prompt);
  return { session, elapsedMs: 0, stats: undefined };
}

/** Lets both sides write one token in turn, so that both meet the same load of the machine. */
async function writeBoth(sides: readonly [Side, Side], maxTokens: number): Promise<void> {
  const width = Math.min(process.stdout.columns ?? 100, 120);
  const live = process.stdout.isTTY === true;
  const columns = new Columns(width, live, (text) => process.stdout.write(text));
  columns.header('f16 cache (uncompressed)', `${sides[1].session.cache.spec} cache`);
  const sampling = { maxTokens, temperature: 0.8, topP: 0.9, repeatPenalty: 1.1, seed: 7 };
  const streams = sides.map(({ session }) => session.generate(sampling));
  let first = true;
  while (sides.some(({ stats }) => !stats)) {
    for (const at of [0, 1] as const) {
      const side = sides[at];
      if (side.stats) continue;
      const began = performance.now();
      const { done, value } = await streams[at].next();
      // The first turn is the prompt, not a token's time.
      if (!first) side.elapsedMs += performance.now() - began;
      if (done) side.stats = value;
      else columns.push(at, value.text);
    }
    first = false;
  }
  columns.end();
}

/** Tokens of prose between a number and the question for it. */
const longAgo = 2000;

/** A number, prose, and the question for the number. */
function longPrompt(model: Model) {
  const key = '48213';
  const told = `The pass key is ${key}. Remember it. ${key} is the pass key.\n`;
  const asked = '\nWhat is the pass key? The pass key is';
  const prose = readFileSync(join(packageRoot(), 'models', 'fit-text.txt'), 'utf8').trim();
  const count = (text: string) => model.tokenizer.encode(text).length;
  const room = Math.min(model.contextLength - count(told + asked) - 16, longAgo);
  let between = '';
  for (const paragraph of Array<string>(4).fill(prose).join('\n\n').split('\n\n')) {
    const longer = between === '' ? paragraph : `${between}\n\n${paragraph}`;
    if (count(longer) > room) break;
    between = longer;
  }
  return { text: told + between + asked, key, asked: asked.trim(), distance: count(between) };
}

/** Reads a long text through each cache: what it holds then, what it would say, what it remembers. */
async function printReading(model: Model, speeds: readonly string[]): Promise<void> {
  const { text, key, asked, distance } = longPrompt(model);
  const ids = model.tokenizer.encode(text);
  console.log(
    `\nThen they read ${ids.length} tokens. At their beginning a number was told, ${key}; at their end stands: "${asked}"\n`,
  );
  const results: ReadResult[] = [];
  for (const method of methods) results.push(await read(model, method, text, ids));
  const of = (cell: (result: ReadResult) => string) => results.map(cell);
  const row = (label: string, cells: readonly string[]) =>
    console.log(`${label.padEnd(40)}${cells.map((cell) => cell.padStart(11)).join('')}`);
  const [full] = results.map(({ bytes }) => bytes.total);
  row('', methods);
  row(
    `the number, told ${distance} tokens ago`,
    of(({ answer }) => answer),
  );
  row(
    'cache',
    of(({ bytes }) => formatBytes(bytes.total)),
  );
  row(
    '  of it fixed, for any length',
    of(({ bytes }) => formatBytes(bytes.codebooks)),
  );
  row(
    '  smaller than f16',
    of(({ bytes }) => `${(full / bytes.total).toFixed(1)}x`),
  );
  row(
    'the same token first as f16',
    of((r) => `${(100 * r.agreement.top1).toFixed(0)} %`),
  );
  row(
    'KL from f16, nats',
    of((r) => r.agreement.kl.toFixed(3)),
  );
  row('tokens/s, writing the texts above', [...speeds, '']);
}

type ReadResult = Awaited<ReturnType<typeof read>>;

async function read(model: Model, method: string, text: string, ids: Int32Array) {
  const caches = [await model.createCache('f16'), await model.createCache(method)];
  const agreement = await compareCaches(model, ids, caches[0], caches[1], 16);
  const bytes = caches[1].bytes();
  for (const cache of caches) cache.dispose();
  const session = await Session.create(model, { cache: method });
  session.append(text);
  let answer = '';
  for await (const piece of session.generate({ maxTokens: 12, stop: ['.', '\n'] })) {
    answer += piece.text;
  }
  session.dispose();
  const said = answer.trim();
  return { agreement, bytes, answer: said.length > 9 ? `${said.slice(0, 8)}…` : said };
}

/** What the cache costs where it is long: one layer's attention, measured, for a known model shape. */
async function printLongContext(model: Model): Promise<void> {
  const depth = 8192;
  const shape = namedShapes['smollm2-135m'];
  console.log(
    `\nLonger: attention of one token over ${depth} positions, SmolLM2-135M shape (${shape.nLayers} layers), random keys:\n`,
  );
  const rows = await attentionAtDepths(model.kernels, shape, methods, [depth]);
  const f16 = rows[0];
  for (const { method, bytes, attendMs } of rows) {
    console.log(
      `${method.padEnd(12)}${formatBytes(bytes).padStart(10)}  ${attendMs.toFixed(2).padStart(7)} ms per token   ${(f16.bytes / bytes).toFixed(1)}x smaller, ${(f16.attendMs / attendMs).toFixed(1)}x faster`,
    );
  }
}
