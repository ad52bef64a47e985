import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import { cacheMethods } from '../cache/registry.ts';
import { adapterBytes } from '../model/adapter-file.ts';
import type { Model } from '../model/model.ts';
import { chooseRunnable, compare, defaultSpecs, isOnFront } from './compare.ts';
import { evaluate, type Journal } from './evaluate.ts';
import type { EvalSettings } from './task.ts';

const text = Array.from({ length: 60 }, (_, i) => `${i} the cat sat on ${i % 7} mats. `).join('');

let model: Model;
beforeAll(async () => {
  model = await forgeModel();
});
afterAll(() => model.dispose());

function contextOf(change: Partial<EvalSettings>) {
  const common = { seed: 1, set: {}, context: 64, limit: 4, alsoBeyond: 32, seeds: 3 };
  const settings = { methods: ['f16', 'h1b:b=64'], ...common, ...change };
  return { model, texts: [{ name: 'cats', text }], shuffled: false, settings };
}

test('every registered method is compared unless the caller says what', () => {
  const specs = defaultSpecs([{ nHeads: 1, nKvHeads: 1, headDimK: 80, headDimV: 80, scale: 1 }]);
  expect(new Set(specs.map((spec) => spec.split(':')[0]))).toEqual(
    new Set(Object.keys(cacheMethods)),
  );
  expect(specs.length).toBe(new Set(specs).size);
  // A sketch has whole words.
  expect(specs).toContain('h1b:b=96,t=head');
});

describe('what can run', () => {
  test('f16 comes first, twins are dropped, the rest is left out with its reason', async () => {
    const specs = ['h1b:t=0.07', 'h1b:t=head', 'h1b:b=256,t=0.07', 'nosuch', 'f16', 'f32'];
    const { methods, leftOut } = await chooseRunnable(model, specs, 64);
    expect(methods).toEqual(['f16', 'h1b:t=0.07', 'f32']);
    expect(leftOut.map(({ method }) => method)).toEqual(['h1b:t=head', 'nosuch']);
    expect(leftOut[0].reason).toMatch(/needs an adapter/);
    expect(leftOut[1].reason).toMatch(/"nosuch" is unknown/);
  });

  test('a head dimension that a method cannot divide is found before anything runs', async () => {
    const odd = await forgeModel({ headDim: 40 });
    const { methods, leftOut } = await chooseRunnable(odd, ['cq:c=16', 'cq:c=8'], 64);
    expect(methods).toEqual(['f16', 'cq:c=8']);
    expect(leftOut[0].reason).toMatch(/must divide the model's head dimension, 40/);
    odd.dispose();
  });

  test('nothing stays allocated', async () => {
    const before = model.kernels.allocatedBytes;
    await chooseRunnable(model, defaultSpecs(model.layers), 100);
    expect(model.kernels.allocatedBytes).toBe(before);
  });
});

describe('one pass', () => {
  test('gives the same figures beyond a position as a run of its own', async () => {
    const [, both] = await evaluate(['perplexity'], contextOf({ seeds: 1 }));
    const { alsoBeyond: _, ...settings } = contextOf({ seeds: 1, beyond: 32 }).settings;
    const [, alone] = await evaluate(['perplexity'], { ...contextOf({}), settings });
    const { from, ...beyond } = both.beyond ?? { from: -1 };
    expect(from).toBe(32);
    expect(alone).toMatchObject(beyond);
    expect(both.tokens).toBe(4 * 63);
    expect(alone.tokens).toBe(4 * 31);
  });

  test('averages seeds, and says how far they are apart', async () => {
    const seeds = ['seed=0', 'seed=1', 'seed=2'].map((seed) => `h1b:b=64,${seed}`);
    const [averaged] = await evaluate(['perplexity'], contextOf({ methods: ['h1b:b=64'] }));
    const each = await evaluate(['perplexity'], contextOf({ methods: seeds }));
    const kls = each.map(({ kl }) => kl ?? 0);
    expect(new Set(kls).size).toBe(3);
    expect(averaged).toMatchObject({ method: 'h1b:b=64', seeds: 3, tokens: each[0].tokens });
    expect(averaged.kl).toBeCloseTo((kls[0] + kls[1] + kls[2]) / 3, 9);
    expect(averaged.seedSpread?.kl.low).toBeCloseTo(Math.min(...kls), 12);
    expect(averaged.seedSpread?.kl.high).toBeCloseTo(Math.max(...kls), 12);
    const logs = each.map(({ perplexityRatio }) => Math.log(perplexityRatio ?? 0));
    const mean = (logs[0] + logs[1] + logs[2]) / 3;
    expect(Math.log(averaged.perplexityRatio ?? 0)).toBeCloseTo(mean, 9);
    // The quantile of all seeds' positions together: no seed alone can be above or below all.
    const quantiles = each.map(({ kl999 }) => kl999 ?? 0);
    expect(averaged.kl999).toBeGreaterThanOrEqual(Math.min(...quantiles));
    expect(averaged.kl999).toBeLessThanOrEqual(Math.max(...quantiles));
    expect(each[0].seedSpread).toBeUndefined();
  });

  test('leaves alone what has no seed, or gives its own', async () => {
    const methods = ['f32', 'h1b:b=64,seed=7'];
    const results = await evaluate(['perplexity'], contextOf({ methods }));
    expect(results.map(({ seeds }) => seeds)).toEqual([1, 1]);
  });

  test('leaves alone what was finetuned with a seed of its own', async () => {
    const layer = { temperatures: new Float32Array(4).fill(0.5), values: [] };
    const finetuned = [
      { method: 'h1b' as const, name: 'x', bits: 32, seed: 5, layers: [layer, layer] },
    ];
    const bytes = adapterBytes({ model: model.hash, text: '', temperatures: [], finetuned });
    const tuned = await forgeModel({}, { adapter: bytes });
    const methods = ['h1b:tuned=x', 'f16:tuned=x'];
    const context = { ...contextOf({ methods, limit: 1 }), model: tuned };
    const results = await evaluate(['perplexity'], context);
    expect(results.map(({ seeds, spec }) => [seeds, spec])).toEqual([
      [1, 'h1b:b=32,seed=5,tuned=x'],
      [1, 'f16:tuned=x'],
    ]);
    // Its value projections are the model's own.
    expect(results[1].kl).toBe(0);
    tuned.dispose();
  });

  test.each(['h1b', 'bitplane:alloc=none', 'bitplane:alloc=none@0:k=3,v=4@-1:k=3'])(
    'adds the seed to %s where it belongs',
    async (method) => {
      const [result] = await evaluate(['perplexity'], contextOf({ methods: [method], limit: 1 }));
      expect(result.seeds).toBe(3);
      const cache = await model.createCache(method);
      expect(result.spec).toBe(cache.spec);
      cache.dispose();
    },
  );

  test('of windows that end before the position is refused', async () => {
    const run = evaluate(['perplexity'], contextOf({ alsoBeyond: 63 }));
    await expect(run).rejects.toThrow(/nothing lies beyond position 63/);
  });
});

describe('a comparison', () => {
  test('holds bytes, agreement and speed of every method', async () => {
    const { rows, ...rest } = await compare(contextOf({}));
    expect(rest).toEqual({ context: 64, windows: 4, beyond: 32, leftOut: [] });
    const [f16, h1b] = rows;
    expect(f16).toMatchObject({ method: 'f16', ratio: 1, bitsPerElement: 32, kl: 0, front: true });
    for (const row of rows) {
      const cache = await model.createCache(row.method);
      await model.forward([{ ids: model.tokenizer.encode(text).slice(0, 64), cache }]);
      const { scratch: _, ...bytes } = cache.bytes();
      cache.dispose();
      expect(row.bytes).toEqual(bytes);
      expect(row.bytesPerToken).toBeCloseTo(bytes.total / 64, 9);
      expect(row.ratio).toBeCloseTo(f16.bytes.total / bytes.total, 9);
      expect(row.beyond.tokens).toBe(4 * 31);
      expect(row.decode).toBeGreaterThan(0);
    }
    expect(h1b.beyond.kl).toBeGreaterThan(0);
  });

  test('takes from the journal what is there, the speed too', async () => {
    const kept = new Map<string, unknown>();
    const journal: Journal = {
      find: (task, unit) => kept.get(`${task} ${unit}`),
      append: (task, unit, result) =>
        kept.set(`${task} ${unit}`, JSON.parse(JSON.stringify(result))),
    };
    const first = await compare(contextOf({}), { journal });
    expect([...kept.keys()].sort()).toEqual([
      'decode 0',
      ...[0, 1, 2, 3].map((unit) => `perplexity ${unit}`),
    ]);
    expect(await compare(contextOf({}), { journal })).toEqual(first);
  });

  test('progress counts windows and the pass for the speed', async () => {
    const seen: string[] = [];
    await compare(contextOf({ limit: 2 }), { onProgress: (a, b) => seen.push(`${a}/${b}`) });
    expect(seen).toEqual(['1/3', '2/3']);
  });
});

test('the front holds what nothing else beats in both bytes and KL', () => {
  const place = (bytesPerToken: number, kl: number) => ({ bytesPerToken, beyond: { kl } });
  const places = [place(10, 1), place(20, 0.5), place(20, 0.6), place(30, 0.5), place(5, 2)];
  const front = places.map((one) => isOnFront(one, places));
  expect(front).toEqual([true, true, false, false, true]);
  // Twins stand side by side.
  expect(isOnFront(places[0], [...places, place(10, 1)])).toBe(true);
});

test('bytes of a cache are what the kernels gave it, megabytes of them', async () => {
  const shape = { nHeads: 8, nKvHeads: 8, headDim: 64, contextLength: 2048 };
  const large = await forgeModel(shape);
  const ids = Int32Array.from({ length: 128 }, (_, i) => i + 1);
  const fill = async (spec: string, positions: number) => {
    const cache = await large.createCache(spec);
    while (cache.length < positions) await large.forward([{ ids, cache }]);
    return cache;
  };
  // The model's own scratch is there from now on.
  (await fill('f16', 128)).dispose();
  for (const spec of ['f16', 'h1b', 'bitplane:k=1,v=2', 'kivi:2']) {
    const before = large.kernels.allocatedBytes;
    const cache = await fill(spec, 1024);
    const { total, scratch } = cache.bytes();
    const grown = large.kernels.allocatedBytes - before - scratch;
    expect(total, spec).toBeGreaterThan(0.5e6);
    expect(grown - total, spec).toBeGreaterThanOrEqual(0);
    expect(grown - total, spec).toBeLessThan(0.01 * total);
    cache.dispose();
    expect(large.kernels.allocatedBytes, spec).toBe(before);
  }
  large.dispose();
});
