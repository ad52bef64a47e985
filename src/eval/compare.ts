/** Every cache method on one model and the same text: bytes, agreement with f16, and speed. */
import type { LayerShape } from '../cache/cache.ts';
import { cacheMethods } from '../cache/registry.ts';
import { KvError } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { decodeSpeeds } from './decode-speed.ts';
import { evaluate, type EvaluateOptions } from './evaluate.ts';
import type { Figures, HeldBytes, TaskContext } from './task.ts';
import { windowsOf } from './windows.ts';

export interface ComparisonRow extends Figures {
  /** the caller's spec, and its full form (of the first seed) */
  readonly method: string;
  readonly spec: string;
  /** seeds that were averaged */
  readonly seeds: number;
  /** of the cache at the end of a window */
  readonly bytesPerToken: number;
  readonly bytes: HeldBytes;
  /** bits of all that is held, per element of keys and values */
  readonly bitsPerElement: number;
  /** bytes of f16 / bytes */
  readonly ratio: number;
  /** over positions from `Comparison.beyond` on */
  readonly beyond: Figures;
  /** tokens per second at the end of a window, one at a time, median */
  readonly decode: number;
  /** no other method has both fewer bytes and a smaller KL beyond */
  readonly front: boolean;
}

/** A spec that cannot run on the model. */
export interface LeftOut {
  readonly method: string;
  readonly reason: string;
}

export interface Comparison {
  readonly context: number;
  readonly windows: number;
  readonly beyond: number;
  readonly rows: readonly ComparisonRow[];
  readonly leftOut: readonly LeftOut[];
}

/** Specs that are compared of a method; one that is not here is compared as its name alone makes it. */
const comparedSpecs: Readonly<Record<string, (headDim: number) => readonly string[]>> = {
  h1b: (headDim) => {
    const aBitPerElement = `b=${32 * Math.ceil(headDim / 32)}`;
    const temperatures = ['t=0.07', 't=global', 't=head'];
    return ['b=256', aBitPerElement].flatMap((b) => temperatures.map((t) => `h1b:${b},${t}`));
  },
  loki: () => ['loki', 'loki:pca'],
  kivi: () => ['kivi:4', 'kivi:4,window=0', 'kivi:2', 'kivi:2,window=0'],
  bitplane: () => {
    const bits = ['k=1,v=2', 'k=1.5,v=2', 'k=2,v=3', 'k=1,v=4'];
    const rest = ['', ',window=0', ',window=0,alloc=none'];
    return ['bitplane', ...bits.flatMap((kv) => rest.map((each) => `bitplane:${kv}${each}`))];
  },
};

/** What is compared unless the caller says what. */
export function defaultSpecs([{ headDimK }]: readonly LayerShape[]): string[] {
  return Object.keys(cacheMethods).flatMap((name) => comparedSpecs[name]?.(headDimK) ?? [name]);
}

/**
 * Tries what each spec needs before anything is run: settings that suit the model, an adapter,
 * memory for `positions`. Of specs with the same full form the first one stays; `f16` is always in.
 * @returns `sameAs`: those that were dropped, and what stayed for them
 */
export async function chooseRunnable(
  model: Model,
  specs: readonly string[],
  positions: number,
): Promise<{ methods: string[]; leftOut: LeftOut[]; sameAs: Map<string, string> }> {
  const byFullForm = new Map<string, string>();
  const sameAs = new Map<string, string>();
  const leftOut: LeftOut[] = [];
  for (const method of new Set(['f16', ...specs])) {
    try {
      const cache = await model.createCache(method);
      try {
        const twin = byFullForm.get(cache.spec);
        if (twin !== undefined) {
          sameAs.set(method, twin);
          continue;
        }
        cache.begin(positions);
        cache.rollback();
        byFullForm.set(cache.spec, method);
      } finally {
        cache.dispose();
      }
    } catch (error) {
      if (!(error instanceof KvError)) throw error;
      leftOut.push({ method, reason: error.message });
    }
  }
  return { methods: [...byFullForm.values()], leftOut, sameAs };
}

/** What the perplexity task measures. */
type Measured = Omit<ComparisonRow, 'seeds' | 'bitsPerElement' | 'ratio' | 'decode' | 'front'>;

export interface CompareOptions extends EvaluateOptions {
  readonly leftOut?: readonly LeftOut[];
}

/**
 * Compares caches on one model. Windows are read once by all of them side by side
 * (`perplexity.ts`), and once more for the speed; both go into the journal.
 * @param context its settings name methods that can run, with `alsoBeyond` and `seeds`
 */
export async function compare(
  context: TaskContext,
  { leftOut = [], journal, onProgress }: CompareOptions = {},
): Promise<Comparison> {
  const { model, texts, settings } = context;
  const results = await evaluate(['perplexity'], context, {
    ...(journal && { journal }),
    // The pass for the speed is one window more.
    onProgress: (done, total) => onProgress?.(done, total + 1),
  });
  const { methods } = settings;
  const windows = windowsOf(model, texts, settings);
  const { ids } = windows.reduce((a, b) => (b.ids.length > a.ids.length ? b : a));
  let speeds = journal?.find('decode', 0) as number[] | undefined;
  if (!speeds) {
    speeds = await decodeSpeeds(model, ids, methods);
    journal?.append('decode', 0, speeds);
  }
  const bytesF16 = results[methods.indexOf('f16')].bytesPerToken;
  const elements = model.layers.reduce(
    (sum, { nKvHeads, headDimK, headDimV }) => sum + nKvHeads * (headDimK + headDimV),
    0,
  );
  const rows = results.map((result, i) => {
    const { task: _t, windows: _w, context: _c, seconds: _s, seeds = 1, ...figures } = result;
    return {
      // The perplexity task gives all of them when it is asked for `alsoBeyond`.
      ...(figures as Measured),
      seeds,
      bitsPerElement: (8 * result.bytesPerToken) / elements,
      ratio: bytesF16 / result.bytesPerToken,
      decode: speeds[i],
    };
  });
  return {
    context: ids.length,
    windows: windows.length,
    beyond: results[0].beyond?.from ?? 0,
    rows: rows.map((row) => ({ ...row, front: isOnFront(row, rows) })),
    leftOut,
  };
}

type Place = Pick<ComparisonRow, 'bytesPerToken'> & { readonly beyond: Pick<Figures, 'kl'> };

/** Whether no other method is at least as good in both bytes and KL, and better in one. */
export function isOnFront(row: Place, rows: readonly Place[]): boolean {
  return !rows.some((other) => {
    const bytes = other.bytesPerToken - row.bytesPerToken;
    const kl = other.beyond.kl - row.beyond.kl;
    return bytes <= 0 && kl <= 0 && (bytes < 0 || kl < 0);
  });
}
