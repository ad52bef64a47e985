import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { editGguf, forgeModel, tinyShape } from '../../test/forged.ts';
import { forgeBytes } from '../bench/forge-node.ts';
import type { KvCache } from '../cache/cache.ts';
import { KvError } from '../errors/errors.ts';
import { memorySource } from '../format/source.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { loadModel } from './load.ts';
import type { BatchItem, LogitRows, Model } from './model.ts';

/** f32 sums in another order; logits have a deviation of 3. */
const rounding = 1e-4;

async function logitsOf(model: Model, batch: BatchItem[], rows?: LogitRows): Promise<number[][]> {
  const t = await model.forward(batch, rows);
  const all = Array.from(await model.kernels.read(t));
  return Array.from({ length: t.shape[0] }, (_, i) =>
    all.slice(i * model.vocabSize, (i + 1) * model.vocabSize),
  );
}

function expectNear(actual: number[], expected: number[]): void {
  expect(actual.length).toBe(expected.length);
  const worst = actual.reduce((w, x, i) => Math.max(w, Math.abs(x - expected[i])), 0);
  expect(worst).toBeLessThan(rounding);
}

const story = (length: number, seed = 1) =>
  Int32Array.from({ length }, (_, i) => (i * 37 * seed + 11 * seed) % 199);

describe.each([
  ['F32', 'f32'],
  ['BF16', 'f32'],
  ['F16', 'f16'],
  ['Q8_0', 'f16'],
  ['Q8_0', 'h1b:b=64'],
] as const)('%s weights, %s cache', (type, spec) => {
  let model: Model;
  beforeAll(async () => {
    model = await forgeModel({ type });
  });
  afterAll(() => model.dispose());

  test('an item of a batch gives what it gives alone', async () => {
    const pasts = [story(9, 2), story(130, 3), Int32Array.of()];
    const news = [story(1, 4), story(7, 5), story(20, 6)];
    const withPast = async (past: Int32Array) => {
      const cache = await model.createCache(spec);
      if (past.length > 0) await model.forward([{ ids: past, cache }]);
      return cache;
    };
    const alone: number[][] = [];
    for (const [i, ids] of news.entries()) {
      alone.push(...(await logitsOf(model, [{ ids, cache: await withPast(pasts[i]) }], 'all')));
    }
    const batch: BatchItem[] = [];
    for (const [i, ids] of news.entries()) batch.push({ ids, cache: await withPast(pasts[i]) });
    const together = await logitsOf(model, batch, 'all');
    expect(together.length).toBe(28);
    together.forEach((row, i) => expectNear(row, alone[i]));
    expect(batch.map(({ cache }) => cache.length)).toEqual([10, 137, 20]);
  });

  test('a text in steps gives what it gives at once', async () => {
    const ids = story(150);
    const whole = await logitsOf(model, [{ ids, cache: await model.createCache(spec) }], 'all');
    const cache = await model.createCache(spec);
    const inSteps: number[][] = [];
    for (let start = 0; start < ids.length; start += 7) {
      const step = { ids: ids.subarray(start, start + 7), cache };
      inSteps.push(...(await logitsOf(model, [step], 'all')));
    }
    expect(inSteps.length).toBe(150);
    inSteps.forEach((row, i) => expectNear(row, whole[i]));
  });

  test('the last rows are those of all rows', async () => {
    const batch = async () => [
      { ids: story(5, 1), cache: await model.createCache(spec) },
      { ids: story(12, 2), cache: await model.createCache(spec) },
      { ids: story(1, 3), cache: await model.createCache(spec) },
    ];
    const all = await logitsOf(model, await batch(), 'all');
    const last = await logitsOf(model, await batch(), 'last');
    expect(last.length).toBe(3);
    [4, 16, 17].forEach((row, i) => expectNear(last[i], all[row]));
  });
});

test('tied embeddings are the output matrix', async () => {
  const model = await forgeModel({ tied: true });
  const bytes = await forgeBytes({ ...tinyShape, tied: true });
  const untied = await editGguf(bytes, {
    tensors: (list) => [
      ...list,
      ...list.flatMap((t) =>
        t.name === 'token_embd.weight' ? [{ ...t, name: 'output.weight' }] : [],
      ),
    ],
  });
  const twin = await loadModel(memorySource(untied, 'untied'));
  const row = async (m: Model) => {
    const [logits] = await logitsOf(m, [{ ids: story(20), cache: await m.createCache('f32') }]);
    return logits;
  };
  expect(await row(twin)).toEqual(await row(model));
  expect(twin.weightBytes - model.weightBytes).toBe(tinyShape.vocab * 32 * 4);
  for (const held of [model, twin]) held.dispose();
});

describe('a step that fails', () => {
  let kernels: Kernels;
  beforeAll(async () => {
    kernels = await createKernels('auto');
  });
  afterAll(() => kernels.dispose());

  /** A model whose embedding of token 200 is NaN. */
  async function damaged(): Promise<Model> {
    const bytes = await forgeBytes(tinyShape);
    const edited = await editGguf(bytes, {
      tensors: (list) =>
        list.map((t) => {
          if (t.name !== 'token_embd.weight') return t;
          return {
            ...t,
            async data() {
              const rows = new Uint8Array((await t.data()) as Uint8Array);
              new Float32Array(rows.buffer).fill(NaN, 200 * 32, 201 * 32);
              return rows;
            },
          };
        }),
    });
    return loadModel(memorySource(edited, 'damaged'), { kernels });
  }

  /** Fails in the second layer, when keys and values of the first are stored. */
  function failing(cache: KvCache): KvCache {
    return new Proxy(cache, {
      get(target, name) {
        if (name === 'attend') {
          return (layer: number, q: Tensor, out: Tensor) => {
            if (layer === 1) throw new KvError('memory', 'test: no memory is left.');
            target.attend(layer, q, out);
          };
        }
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  test('rolls every cache of the batch back', async () => {
    const model = await damaged();
    const past = async () => {
      const [a, b] = [await model.createCache('f16'), await model.createCache('h1b:b=64')];
      await model.forward([
        { ids: Int32Array.of(1, 2, 3), cache: a },
        { ids: Int32Array.of(4), cache: b },
      ]);
      return [a, b];
    };
    const [a, b] = await past();
    const step = (last: number, second = b) => [
      { ids: Int32Array.of(5, 6), cache: a },
      { ids: Int32Array.of(...story(200), last), cache: second },
    ];
    const state = () => [a, b].map((cache) => [cache.length, cache.bytes().total]);
    const before = state();
    const notFinite = expect.objectContaining({ code: 'not-finite' });
    await expect(model.forward(step(200))).rejects.toThrow(notFinite);
    expect(state()).toEqual(before);
    const memory = expect.objectContaining({ code: 'memory' });
    await expect(model.forward(step(7, failing(b)))).rejects.toThrow(memory);
    expect(state()).toEqual(before);

    const after = await logitsOf(model, step(7));
    const [c, d] = await past();
    const expected = await logitsOf(model, [
      { ids: Int32Array.of(5, 6), cache: c },
      { ids: Int32Array.of(...story(200), 7), cache: d },
    ]);
    expect(after).toEqual(expected);
    for (const cache of [a, b, c, d]) cache.dispose();
    model.dispose();
    expect(kernels.allocatedBytes).toBe(0);
  });

  test('a wrong call leaves the caches as they were', async () => {
    const model = await forgeModel({}, { kernels });
    const cache = await model.createCache('f16');
    await model.forward([{ ids: story(3), cache }]);
    const ids = Int32Array.of(1, 333);
    const range = expect.objectContaining({ code: 'range' });
    const usage = expect.objectContaining({ code: 'usage' });
    await expect(model.forward([{ ids, cache }])).rejects.toThrow(range);
    await expect(model.forward([])).rejects.toThrow(usage);
    await expect(model.forward([{ ids: Int32Array.of(), cache }])).rejects.toThrow(usage);
    const twice = { ids: story(2), cache };
    await expect(model.forward([twice, twice])).rejects.toThrow(usage);
    expect(cache.length).toBe(3);
    await model.forward([{ ids: story(2), cache }]);
    expect(cache.length).toBe(5);
    cache.dispose();
    model.dispose();
    expect(kernels.allocatedBytes).toBe(0);
  });

  test('without memory it changes nothing and leaks nothing', async () => {
    const bytes = await forgeBytes(tinyShape);
    for (let allowed = 0; ; allowed++) {
      const limited = limitAllocations(kernels);
      const model = await loadModel(memorySource(bytes, 'forged'), { kernels: limited.kernels });
      const cache = await model.createCache('f16');
      limited.allow(allowed);
      const step = () => model.forward([{ ids: story(140), cache }]);
      const failure = await step().then(
        () => undefined,
        (error: unknown) => error,
      );
      limited.allow(Infinity);
      if (failure) {
        expect(failure).toMatchObject({ code: 'memory' });
        expect(cache.length).toBe(0);
        expect(cache.bytes().total).toBe(0);
        await step();
      }
      cache.dispose();
      model.dispose();
      expect(kernels.allocatedBytes).toBe(0);
      if (failure) continue;
      // pages, scratch and logits: all of them were refused once
      expect(allowed).toBeGreaterThan(10);
      return;
    }
  });

  test.each(['f16', 'h1b:b=32'])('a cache %s that cannot be made leaves nothing', async (spec) => {
    const limited = limitAllocations(kernels);
    const model = await forgeModel({}, { kernels: limited.kernels });
    const before = kernels.allocatedBytes;
    for (let allowed = 0; ; allowed++) {
      limited.allow(allowed);
      const cache = await model.createCache(spec).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'memory' });
      });
      cache?.dispose();
      expect(kernels.allocatedBytes).toBe(before);
      if (!cache) continue;
      // at least the factors of the scores of both layers
      expect(allowed).toBeGreaterThanOrEqual(2);
      break;
    }
    model.dispose();
  });
});

/** Kernels that refuse after a number of further allocations. */
function limitAllocations(kernels: Kernels): { kernels: Kernels; allow(count: number): void } {
  let left = Infinity;
  const limited = new Proxy(kernels, {
    get(target, name) {
      if (name === 'alloc' && left-- <= 0) {
        return () => {
          throw new KvError('memory', 'test: no memory is left.');
        };
      }
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return { kernels: limited, allow: (count) => (left = count) };
}
