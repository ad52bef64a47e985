import type { Kernels } from '../kernels/kernels.ts';
import type { LayerShape } from './cache.ts';
import type { CacheMethod } from './method.ts';
import { DecodedCache } from './decoded.ts';
import { type DecodedStep } from './decoded-method.ts';
import { fromF16, toF16 } from './halves.ts';
import { attendMatrices, matrix, putRows, queriesOf, rowOf } from './matrix-attention.ts';
import { expectSettings, numberSetting, wholeSetting } from './spec.ts';

/** Positions between evictions: at fixed places, so that the size of the steps changes nothing. */
const evictionInterval = 64;

interface Rule {
  /** fraction of the positions so far that survive an eviction */
  readonly budget: number;
  /** first positions that always survive */
  readonly sinks: number;
}

/**
 * `sparse`: eviction by H2O's rule (arXiv 2306.14048), which the H1B-KV paper calls SparseLLM. Each
 * KV head keeps a fraction `budget` of the positions: half of it the newest, the other half those
 * with the most attention so far (heavy hitters), the first `sinks` always among them. The rest is
 * gone for good.
 *
 * Attention is summed over all queries since the key came, and over the query heads of its KV head.
 * After every 64 positions all but the budget is evicted; in between nothing is, so a query sees the
 * survivors of the last eviction and everything since. Keys and values are f16; the sum of attention
 * of each is f32 and counted under `scales`. Once a step is done the sums before it are gone, so
 * `truncate` can only go back to nothing.
 *
 * Settings: `budget` (default 0.2; never fewer than four times the sinks), `sinks` (0 to 16, default 4).
 */
export const create: CacheMethod['create'] = (spec, shapes, kernels) => {
  expectSettings(spec, ['budget', 'sinks']);
  const rule: Rule = {
    budget: numberSetting(spec, 'budget', 0.2, { min: 0.01, max: 1 }),
    sinks: wholeSetting(spec, 'sinks', 4, { min: 0, max: evictionInterval / 4 }),
  };
  return new DecodedCache(kernels, shapes, {
    spec: `sparse:budget=${rule.budget},sinks=${rule.sinks}`,
    compressedAt: (count) => count,
    exactUntil: Infinity,
    state: {
      version: (length) => (length > 0 ? length : undefined),
      layout: (layer, length) => {
        const { nKvHeads, headDimK, headDimV } = shapes[layer];
        const entries = nKvHeads * entriesAt(length, rule);
        const [keys, values] = [entries * headDimK * 2, entries * headDimV * 2];
        return { keys, values, scales: entries * 4, codebooks: 0 };
      },
    },
    attend: (step) => attend(kernels, step, shapes[step.layer], rule),
  });
};

/** Entries that each KV head holds after `length` positions. */
export function entriesAt(length: number, rule: Rule): number {
  const sinceEviction = length % evictionInterval;
  return survivors(length - sinceEviction, rule) + sinceEviction;
}

/** Entries that an eviction after `length` positions leaves: early on, enough for more than the sinks. */
function survivors(length: number, { budget, sinks }: Rule): number {
  return Math.min(length, Math.max(4 * sinks, Math.ceil(budget * length)));
}

/** One key and value in the care of a KV head. */
interface Entry {
  readonly key: Float32Array;
  readonly value: Float32Array;
  /** attention so far */
  heat: number;
}

/** Up to each eviction the queries see the same entries and those that have come since. */
function attend(kernels: Kernels, step: DecodedStep, shape: LayerShape, rule: Rule): Float32Array {
  const { start, n, q, exact } = step;
  const { nHeads, nKvHeads, headDimK, headDimV, scale } = shape;
  const group = nHeads / nKvHeads;
  const out = new Float32Array(n * nHeads * headDimV);
  for (let kvHead = 0; kvHead < nKvHeads; kvHead++) {
    let entries = readEntries(step, shape, kvHead, entriesAt(start, rule));
    for (let from = 0; from < n;) {
      const sinceEviction = (start + from) % evictionInterval;
      const to = Math.min(n, from + evictionInterval - sinceEviction);
      const old = entries.length;
      for (let i = from; i < to; i++) {
        const [key, value] = [exact.key(kvHead, start + i), exact.value(kvHead, start + i)];
        entries.push({ key: key.slice(), value: value.slice(), heat: 0 });
      }
      const queries = queriesOf(q, shape, kvHead, from, to);
      const keys = matrix(
        entries.map(({ key }) => key),
        headDimK,
      );
      const values = matrix(
        entries.map(({ value }) => value),
        headDimV,
      );
      const seen = (row: number) => old + Math.floor(row / group) + 1;
      const attended = attendMatrices(kernels, { queries, keys, values, scale }, (row, logits) =>
        logits.fill(-Infinity, seen(row)),
      );
      putRows(attended.out, out, shape, kvHead, from);
      for (let row = 0; row < queries.rows; row++) {
        const weights = rowOf(attended.weights, row);
        // f32, as they are stored: sums must not depend on where steps begin.
        entries.forEach((entry, j) => (entry.heat = Math.fround(entry.heat + weights[j])));
      }
      if ((start + to) % evictionInterval === 0) {
        entries = evict(entries, survivors(start + to, rule), rule.sinks);
      }
      from = to;
    }
    writeEntries(step, shape, kvHead, entries);
  }
  return out;
}

/** What is left of entries in order of position: sinks, the newest half of the budget, and the hottest. */
export function evict<T extends { readonly heat: number }>(
  entries: readonly T[],
  budget: number,
  sinks: number,
): T[] {
  const firstRecent = entries.length - Math.floor(budget / 2);
  const isProtected = (j: number) => j < sinks || j >= firstRecent;
  const all = entries.map((_, j) => j);
  const order = all.sort(
    (a, b) =>
      Number(isProtected(b)) - Number(isProtected(a)) || entries[b].heat - entries[a].heat || a - b,
  );
  const kept = order.slice(0, budget).sort((a, b) => a - b);
  return kept.map((j) => entries[j]);
}

/** Entries of a KV head out of the state: scales [nKvHeads, count], keys and values [nKvHeads, count, d]. */
function readEntries(
  step: DecodedStep,
  { headDimK, headDimV }: LayerShape,
  kvHead: number,
  count: number,
): Entry[] {
  const state = step.state();
  if (!state) return [];
  const row = (all: Uint16Array, j: number, d: number) =>
    fromF16(all.subarray((kvHead * count + j) * d, (kvHead * count + j + 1) * d));
  return Array.from({ length: count }, (_, j) => ({
    key: row(state.keys, j, headDimK),
    value: row(state.values, j, headDimV),
    heat: state.scales[kvHead * count + j],
  }));
}

function writeEntries(
  step: DecodedStep,
  { headDimK, headDimV }: LayerShape,
  kvHead: number,
  entries: readonly Entry[],
): void {
  const state = step.nextState();
  entries.forEach(({ key, value, heat }, j) => {
    const row = kvHead * entries.length + j;
    state?.keys.set(toF16(key), row * headDimK);
    state?.values.set(toF16(value), row * headDimV);
    state?.scales.set([heat], row);
  });
}
