/** Perplexity of texts, and how far each cache's predictions are from those with an f16 cache. */
import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { Prediction, sideBySide } from './agreement.ts';
import { blockBootstrap } from './bootstrap.ts';
import type { EvalResult, EvalSettings, Figures, HeldBytes, Task, TaskContext } from './task.ts';
import { windowsOf, type Window } from './windows.ts';

const reference = 'f16';

/** Sums over scored positions of one window. */
interface Sums {
  /** of -ln p(token), nats */
  loss: number;
  /** of KL(f16 || method), nats */
  kl: number;
  /** the largest of them, in falling order: as many as the 99.9 % quantile may need */
  largestKl: number[];
  /** positions where f16 puts the same token first */
  same: number;
}

/** What one cache left in one window. */
interface CacheSums extends Sums {
  spec: string;
  /** of the cache at the end of the window */
  bytes: HeldBytes;
  seconds: number;
  /** over positions from `alsoBeyond` on */
  beyond?: Sums;
}

interface WindowSums {
  readonly length: number;
  readonly scored: number;
  readonly scoredBeyond: number;
  /** by the spec that made the cache; `f16` is always there */
  readonly caches: Readonly<Record<string, CacheSums>>;
}

const noSums = (): Sums => ({ loss: 0, kl: 0, largestKl: [], same: 0 });
const noBytes = { keys: 0, values: 0, scales: 0, windows: 0, codebooks: 0, total: 0 };

const scoredIn = ({ ids, from }: Window, since = 0) =>
  Math.max(0, ids.length - 1 - Math.max(from, since));

/** Of `tokens` values, the 99.9 % quantile is the one with this place from the top, 1 = largest. */
const placeOf999 = (tokens: number) => tokens - Math.ceil((999 * tokens) / 1000) + 1;

const total = (list: readonly number[]) => list.reduce((sum, x) => sum + x, 0);

export async function prepare({ model, texts, settings }: TaskContext): Promise<Task<WindowSums>> {
  const { alsoBeyond, seeds } = settings;
  const windows = windowsOf(model, texts, settings);
  ensure(
    alsoBeyond === undefined || windows.some((window) => scoredIn(window, alsoBeyond) > 0),
    'usage',
    () => `eval: nothing lies beyond position ${alsoBeyond}. Give a longer context.`,
  );
  const seeded = new Map<string, readonly string[]>();
  for (const method of settings.methods) {
    seeded.set(method, seeds === undefined ? [method] : await seedsOf(model, method, seeds));
  }
  const specs = new Set([reference, ...[...seeded.values()].flat()]);
  const tokens = total(windows.map((window) => scoredIn(window)));
  const keptKls = placeOf999(tokens * (seeds ?? 1));
  return {
    units: windows.length,
    heeds: ['context', 'stride', 'beyond', 'alsoBeyond', 'seeds'],
    run: (index) => runWindow(model, windows[index], [...specs], keptKls, alsoBeyond),
    summarize: (units) =>
      [...seeded].map(([method, own]) => resultOf(method, own, units, settings)),
  };
}

/**
 * The spec with each of `count` seeds, or as it is where its method has no seed or it gives one.
 * Its full form tells: it names every setting.
 */
async function seedsOf(model: Model, spec: string, count: number): Promise<readonly string[]> {
  const setting = /[:,]seed=\d+/;
  if (setting.test(spec)) return [spec];
  const cache = await model.createCache(spec);
  const full = cache.spec;
  cache.dispose();
  // What was finetuned has the seed that it was trained with.
  if (!setting.test(full) || /[:,]tuned=/.test(full)) return [spec];
  // Settings of single layers come last, after an @.
  const [whole, ...layers] = spec.split('@');
  const joined = `${whole}${whole.includes(':') ? ',' : ':'}`;
  const rest = layers.map((settings) => `@${settings}`).join('');
  return Array.from({ length: count }, (_, seed) => `${joined}seed=${seed}${rest}`);
}

async function runWindow(
  model: Model,
  window: Window,
  specs: readonly string[],
  keptKls: number,
  alsoBeyond: number | undefined,
): Promise<WindowSums> {
  const { ids, from } = window;
  const caches: KvCache[] = [];
  try {
    for (const spec of specs) caches.push(await model.createCache(spec));
    const sums = caches.map(({ spec }): CacheSums => {
      const beyond = alsoBeyond === undefined ? {} : { beyond: noSums() };
      return { spec, ...noSums(), bytes: noBytes, seconds: 0, ...beyond };
    });
    let expected: Prediction[] = [];
    for await (const { cache, start, rows, elapsedMs } of sideBySide(model, ids, caches)) {
      const own = sums[cache];
      own.seconds += elapsedMs / 1000;
      const first = Math.max(0, from - start);
      const last = Math.min(rows.length, ids.length - 1 - start);
      const predictions = rows.slice(first, last).map((row) => new Prediction(row));
      if (cache === 0) expected = predictions;
      const both = own.beyond ? [own, own.beyond] : [own];
      predictions.forEach((prediction, i) => {
        const position = start + first + i;
        const target = ids[position + 1];
        const late = position >= (alsoBeyond ?? 0);
        for (const sum of late ? both : [own]) add(sum, prediction, expected[i], target);
      });
      for (const sum of both) {
        sum.largestKl = sum.largestKl.sort((a, b) => b - a).slice(0, keptKls);
      }
    }
    caches.forEach((cache, i) => {
      const { scratch: _, ...bytes } = cache.bytes();
      sums[i].bytes = bytes;
    });
    return {
      length: ids.length,
      scored: scoredIn(window),
      scoredBeyond: scoredIn(window, alsoBeyond),
      caches: Object.fromEntries(specs.map((spec, i) => [spec, sums[i]])),
    };
  } finally {
    for (const cache of caches) cache.dispose();
  }
}

/** Adds one position. @param target the token that comes next in the text */
function add(sum: Sums, prediction: Prediction, expected: Prediction, target: number): void {
  const kl = expected.divergence(prediction);
  sum.loss -= prediction.logProbability(target);
  sum.kl += kl;
  // Seven digits keep the journal small; what is not there is 0.
  if (kl > 0) sum.largestKl.push(Number(kl.toPrecision(7)));
  if (prediction.best === expected.best) sum.same++;
}

/** @param specs one, or the method with several seeds */
function resultOf(
  method: string,
  specs: readonly string[],
  units: readonly WindowSums[],
  { seeds, alsoBeyond }: EvalSettings,
): EvalResult {
  const longest = units.reduce((a, b) => (b.length > a.length ? b : a));
  const { bytes, spec } = longest.caches[specs[0]];
  const counts = units.map(({ scored }) => scored);
  const all = figuresOf(
    specs.map((each) => units.map(({ caches }) => caches[each])),
    units.map(({ caches }) => caches[reference]),
    counts,
    bytes.total,
  );
  const late = units.filter(({ scoredBeyond }) => scoredBeyond > 0);
  const beyond = (sums: CacheSums) => sums.beyond ?? sums;
  return {
    task: 'perplexity',
    method,
    spec,
    windows: units.length,
    context: longest.length,
    ...(seeds !== undefined && { seeds: specs.length }),
    ...all,
    ...(alsoBeyond !== undefined && {
      beyond: {
        from: alsoBeyond,
        ...figuresOf(
          specs.map((each) => late.map(({ caches }) => beyond(caches[each]))),
          late.map(({ caches }) => beyond(caches[reference])),
          late.map(({ scoredBeyond }) => scoredBeyond),
          bytes.total,
        ),
      },
    }),
    bytesPerToken: bytes.total / longest.length,
    bytes,
    seconds: total(
      specs.flatMap((each) => units.map(({ caches }) => caches[each].seconds / specs.length)),
    ),
  };
}

/**
 * @param seeds  [seeds][windows]; their mean is what is reported
 * @param f16    [windows]
 * @param counts scored positions of each window
 */
function figuresOf(
  seeds: readonly (readonly Sums[])[],
  f16: readonly Sums[],
  counts: readonly number[],
  bytes: number,
): Figures {
  const tokens = total(counts);
  /** by window, averaged over seeds */
  const mean = (pick: (own: Sums, f16: Sums) => number) =>
    f16.map((expected, i) => total(seeds.map((own) => pick(own[i], expected))) / seeds.length);
  const losses = mean(({ loss }) => loss);
  const differences = mean((own, expected) => own.loss - expected.loss);
  const kls = mean(({ kl }) => kl);
  const perplexity = Math.exp(total(losses) / tokens);
  const spread = blockBootstrap(losses, counts);
  const ratio = blockBootstrap(differences, counts);
  const klSpread = blockBootstrap(kls, counts);
  const largestKl = seeds.flat().flatMap((own) => own.largestKl);
  const f16Loss = total(f16.map(({ loss }) => loss));
  const ratios = seeds.map((own) =>
    Math.exp((total(own.map(({ loss }) => loss)) - f16Loss) / tokens),
  );
  const klMeans = seeds.map((own) => total(own.map(({ kl }) => kl)) / tokens);
  return {
    tokens,
    perplexity,
    ...(spread && { perplexityStderr: perplexity * spread.stderr }),
    perplexityRatio: Math.exp(total(differences) / tokens),
    ...(ratio && {
      perplexityRatioInterval: { low: Math.exp(ratio.low), high: Math.exp(ratio.high) },
    }),
    kl: total(kls) / tokens,
    ...(klSpread && { klInterval: { low: klSpread.low, high: klSpread.high } }),
    kl999: largestKl.sort((a, b) => b - a)[placeOf999(tokens * seeds.length) - 1] ?? 0,
    top1: total(mean(({ same }) => same)) / tokens,
    qpb: 1000 / (perplexity * (bytes / 1e6)),
    ...(seeds.length > 1 && {
      seedSpread: { perplexityRatio: extent(ratios), kl: extent(klMeans) },
    }),
  };
}

const extent = (list: readonly number[]) => ({ low: Math.min(...list), high: Math.max(...list) });
