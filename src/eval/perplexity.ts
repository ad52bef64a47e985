/** Perplexity of texts, and how far each cache's predictions are from those with an f16 cache. */
import type { KvCache } from '../cache/cache.ts';
import type { Model } from '../model/model.ts';
import { Prediction, sideBySide } from './agreement.ts';
import { blockBootstrap } from './bootstrap.ts';
import type { EvalResult, Task, TaskContext } from './task.ts';
import { windowsOf, type Window } from './windows.ts';

const reference = 'f16';

/** What one method left in one window: sums over its scored positions. */
interface MethodSums {
  spec: string;
  /** of -ln p(token), nats */
  loss: number;
  /** of KL(f16 || method), nats */
  kl: number;
  /** the largest of them, in falling order: as many as the 99.9 % quantile may need */
  largestKl: number[];
  /** positions where f16 puts the same token first */
  same: number;
  /** of the cache at the end of the window */
  bytes: number;
  seconds: number;
}

interface WindowSums {
  readonly length: number;
  readonly scored: number;
  /** by the caller's spec; `f16` is always there */
  readonly methods: Readonly<Record<string, MethodSums>>;
}

const scoredIn = ({ ids, from }: Window) => ids.length - 1 - from;

/** Of `tokens` values, the 99.9 % quantile is the one with this place from the top, 1 = largest. */
const placeOf999 = (tokens: number) => tokens - Math.ceil((999 * tokens) / 1000) + 1;

export async function prepare({ model, texts, settings }: TaskContext): Promise<Task<WindowSums>> {
  const windows = windowsOf(model, texts, settings);
  const methods = [reference, ...settings.methods.filter((method) => method !== reference)];
  const tokens = windows.reduce((sum, window) => sum + scoredIn(window), 0);
  return {
    units: windows.length,
    heeds: ['context', 'stride', 'beyond'],
    run: (index) => runWindow(model, windows[index], methods, placeOf999(tokens)),
    summarize: (units) => settings.methods.map((method) => resultOf(method, units)),
  };
}

async function runWindow(
  model: Model,
  window: Window,
  methods: readonly string[],
  keptKls: number,
): Promise<WindowSums> {
  const { ids, from } = window;
  const caches: KvCache[] = [];
  try {
    for (const method of methods) caches.push(await model.createCache(method));
    const sums = caches.map(({ spec }): MethodSums => {
      return { spec, loss: 0, kl: 0, largestKl: [], same: 0, bytes: 0, seconds: 0 };
    });
    let expected: Prediction[] = [];
    for await (const { cache, start, rows, elapsedMs } of sideBySide(model, ids, caches)) {
      const sum = sums[cache];
      sum.seconds += elapsedMs / 1000;
      const first = Math.max(0, from - start);
      const last = Math.min(rows.length, ids.length - 1 - start);
      const predictions = rows.slice(first, last).map((row) => new Prediction(row));
      if (cache === 0) expected = predictions;
      predictions.forEach((prediction, i) => {
        const kl = expected[i].divergence(prediction);
        sum.loss -= prediction.logProbability(ids[start + first + i + 1]);
        sum.kl += kl;
        // Seven digits keep the journal small; what is not there is 0.
        if (kl > 0) sum.largestKl.push(Number(kl.toPrecision(7)));
        if (prediction.best === expected[i].best) sum.same++;
      });
      sum.largestKl = sum.largestKl.sort((a, b) => b - a).slice(0, keptKls);
    }
    caches.forEach((cache, i) => (sums[i].bytes = cache.bytes().total));
    return {
      length: ids.length,
      scored: scoredIn(window),
      methods: Object.fromEntries(methods.map((method, i) => [method, sums[i]])),
    };
  } finally {
    for (const cache of caches) cache.dispose();
  }
}

function resultOf(method: string, units: readonly WindowSums[]): EvalResult {
  const counts = units.map(({ scored }) => scored);
  const of = (pick: (own: MethodSums, f16: MethodSums) => number) =>
    units.map(({ methods }) => pick(methods[method], methods[reference]));
  const total = (list: readonly number[]) => list.reduce((sum, x) => sum + x, 0);
  const tokens = total(counts);
  const losses = of(({ loss }) => loss);
  const differences = of((own, f16) => own.loss - f16.loss);
  const perplexity = Math.exp(total(losses) / tokens);
  const spread = blockBootstrap(losses, counts);
  const ratio = blockBootstrap(differences, counts);
  const kls = of(({ kl }) => kl);
  const klSpread = blockBootstrap(kls, counts);
  const largestKl = units.flatMap(({ methods }) => methods[method].largestKl);
  const longest = units.reduce((a, b) => (b.length > a.length ? b : a));
  const { bytes, spec } = longest.methods[method];
  return {
    task: 'perplexity',
    method,
    spec,
    tokens,
    windows: units.length,
    context: longest.length,
    perplexity,
    ...(spread && { perplexityStderr: perplexity * spread.stderr }),
    perplexityRatio: Math.exp(total(differences) / tokens),
    ...(ratio && {
      perplexityRatioInterval: { low: Math.exp(ratio.low), high: Math.exp(ratio.high) },
    }),
    kl: total(kls) / tokens,
    ...(klSpread && { klInterval: { low: klSpread.low, high: klSpread.high } }),
    kl999: largestKl.sort((a, b) => b - a)[placeOf999(tokens) - 1] ?? 0,
    top1: total(of(({ same }) => same)) / tokens,
    bytesPerToken: bytes / longest.length,
    qpb: 1000 / (perplexity * (bytes / 1e6)),
    seconds: total(of(({ seconds }) => seconds)),
  };
}
