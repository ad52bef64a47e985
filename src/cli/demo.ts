import type { Command } from 'commander';
import { attentionAtDepth } from '../bench/attention.ts';
import { compareCaches, type Agreement } from '../eval/agreement.ts';
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

const intro = (model: Model) => `\
A language model keeps keys and values of every token it has read: the KV cache. Here the same model
(${model.name}, ${formatBytes(model.weightBytes)} of weights) continues the same text twice, once with
the cache in 16 bits, once with the H1B-KV cache: 1-bit sketches of keys, 4-bit values.
${model.kernels.description}

The prompt:
`;

async function run(flags: DemoFlags): Promise<void> {
  const model = await loadFromFlags(flags);
  try {
    console.log(intro(model));
    console.log(`${prompt}\n`);
    const sides: [Side, Side] = [await startSide(model, 'f16'), await startSide(model, 'h1b')];
    await writeBoth(sides, flags.maxTokens);
    const agreement = await agreementOn(model, sides[0].session.tokens);
    printTable(sides, agreement);
    for (const { session } of sides) session.dispose();
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

/** How often the two caches would choose the same next token on one and the same text. */
async function agreementOn(model: Model, tokens: readonly number[]): Promise<Agreement> {
  const caches = [await model.createCache('f16'), await model.createCache('h1b')];
  const ids = Int32Array.from(tokens.slice(0, model.contextLength));
  const agreement = await compareCaches(model, ids, caches[0], caches[1], 16);
  for (const cache of caches) cache.dispose();
  return agreement;
}

function printTable([full, small]: readonly [Side, Side], agreement: Agreement): void {
  const bytes = [full, small].map(({ session }) => session.bytes());
  const positions = full.session.cache.length;
  const speed = ({ stats, elapsedMs }: Side) => perSecond((stats?.tokens ?? 1) - 1, elapsedMs);
  const row = (label: string, ...cells: string[]) =>
    console.log(`${label.padEnd(34)}${cells.map((cell) => cell.padStart(12)).join('')}`);
  console.log();
  row('', 'f16', 'h1b', 'f16 / h1b');
  row(
    `cache, ${positions} positions`,
    ...bytes.map(({ total }) => formatBytes(total)),
    `${(bytes[0].total / bytes[1].total).toFixed(2)}x`,
  );
  row('  of it fixed, for any length', ...bytes.map(({ codebooks }) => formatBytes(codebooks)));
  const grows = bytes.map(({ total, codebooks }) => total - codebooks);
  row(
    '  growing with the text',
    ...grows.map((size) => formatBytes(size)),
    `${(grows[0] / grows[1]).toFixed(2)}x`,
  );
  row('tokens/s', speed(full).toFixed(0), speed(small).toFixed(0));
  console.log(
    `\nOn the left text the two caches put the same token first at ${(100 * agreement.top1).toFixed(0)} % of ${agreement.positions} positions (KL ${agreement.kl.toFixed(3)} nats).`,
  );
}

/** What the cache costs where it is long: one layer's attention, measured, for a known model shape. */
async function printLongContext(model: Model): Promise<void> {
  const depth = 8192;
  const shape = namedShapes['smollm2-135m'];
  console.log(
    `\nLonger: attention of one token over ${depth} positions, SmolLM2-135M shape (${shape.nLayers} layers), random keys:\n`,
  );
  const rows = await attentionAtDepth(model.kernels, shape, ['f16', 'h1b', 'h1b:b=64'], depth);
  const f16 = rows[0];
  for (const { method, bytes, attendMs } of rows) {
    console.log(
      `${method.padEnd(12)}${formatBytes(bytes).padStart(10)}  ${attendMs.toFixed(2).padStart(7)} ms per token   ${(f16.bytes / bytes).toFixed(1)}x smaller, ${(f16.attendMs / attendMs).toFixed(1)}x faster`,
    );
  }
}
