/** What every cache method promises, as tests. `describeCache` runs them for one spec. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { KvError } from '../errors/errors.ts';
import type { KernelBuffer, Kernels } from '../kernels/kernels.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';
import type { Adapter } from './adapter.ts';
import type { CacheState, KvCache, LayerShape } from './cache.ts';
import { createCache } from './registry.ts';

const shape: LayerShape = { nHeads: 6, nKvHeads: 2, headDimK: 16, headDimV: 8, scale: 0.25 };
const shapes = [shape, shape];
/** crosses two page boundaries */
const total = 300;

/** Outputs of two runs of the same positions differ by no more than f32 rounding of sums. */
const rounding = 2e-4;

interface Script {
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly q: Float32Array;
}

/** Keys, values and queries of `total` positions; the same for every layer and run. */
function script(seed: number): Script {
  const random = new Random(seed);
  const fill = (perPosition: number) =>
    Float32Array.from({ length: total * perPosition }, () => random.normal());
  const { nHeads, nKvHeads, headDimK, headDimV } = shape;
  return { k: fill(nKvHeads * headDimK), v: fill(nKvHeads * headDimV), q: fill(nHeads * headDimK) };
}

export function describeCache(
  spec: string,
  makeKernels: () => Promise<Kernels>,
  options: { truncatesExactly: boolean; adapter?: Adapter },
): void {
  describe(`cache ${spec}`, () => {
    let kernels: Kernels;
    beforeAll(async () => {
      kernels = await makeKernels();
    });
    afterAll(() => kernels.dispose());

    const create = () => createCache(spec, shapes, kernels, options.adapter);

    /** Runs positions cache.length .. to - 1 in steps of `chunk`. @returns f32 [positions, nHeads * headDimV] of the last layer */
    async function run(cache: KvCache, { k, v, q }: Script, to: number, chunk: number) {
      const { nHeads, nKvHeads, headDimK, headDimV } = shape;
      const outputs: number[] = [];
      const tensors = {
        k: allocTensor(kernels, 'f32', [chunk, nKvHeads, headDimK]),
        v: allocTensor(kernels, 'f32', [chunk, nKvHeads, headDimV]),
        q: allocTensor(kernels, 'f32', [chunk, nHeads, headDimK]),
        out: allocTensor(kernels, 'f32', [chunk, nHeads, headDimV]),
      };
      while (cache.length < to) {
        const n = Math.min(chunk, to - cache.length);
        const part = (all: Float32Array, width: number) =>
          all.subarray(cache.length * width, (cache.length + n) * width);
        const own = Object.fromEntries(
          Object.entries(tensors).map(([name, t]) => [name, rows(t, 0, n)]),
        ) as typeof tensors;
        kernels.write(own.k, part(k, nKvHeads * headDimK));
        kernels.write(own.v, part(v, nKvHeads * headDimV));
        kernels.write(own.q, part(q, nHeads * headDimK));
        cache.begin(n);
        shapes.forEach((_, layer) => {
          cache.append(layer, own.k, own.v);
          cache.attend(layer, own.q, own.out);
        });
        cache.commit();
        outputs.push(...((await kernels.read(own.out)) as Float32Array));
      }
      for (const { buffer } of Object.values(tensors)) kernels.free(buffer);
      return outputs;
    }

    function expectSame(actual: readonly number[], expected: readonly number[]): void {
      expect(actual.length).toBe(expected.length);
      const worst = actual.reduce((w, x, i) => Math.max(w, Math.abs(x - expected[i])), 0);
      expect(worst).toBeLessThan(rounding);
    }

    const lastRow = (outputs: readonly number[]) => outputs.slice(-shape.nHeads * shape.headDimV);

    test('the size of the steps never changes a result', async () => {
      const whole = await create();
      const expected = await run(whole, script(1), total, total);
      for (const chunk of [1, 7, 64]) {
        const cache = await create();
        expectSame(await run(cache, script(1), total, chunk), expected);
        expect(cache.bytes()).toEqual({ ...whole.bytes(), scratch: cache.bytes().scratch });
        cache.dispose();
      }
      whole.dispose();
    });

    test('a rolled back step leaves no trace', async () => {
      const cache = await create();
      await run(cache, script(1), 130, 130);
      const k = allocTensor(kernels, 'f32', [200, shape.nKvHeads, shape.headDimK]);
      const v = allocTensor(kernels, 'f32', [200, shape.nKvHeads, shape.headDimV]);
      const before = cache.bytes().total;
      cache.begin(200);
      cache.append(0, k, v);
      cache.rollback();
      expect(cache.length).toBe(130);
      expect(cache.bytes().total).toBe(before);
      const fresh = await create();
      expectSame(
        lastRow(await run(cache, script(1), total, 50)),
        lastRow(await run(fresh, script(1), total, 300)),
      );
      for (const { buffer } of [k, v]) kernels.free(buffer);
      cache.dispose();
      fresh.dispose();
    });

    test('truncate returns a length from which the past is as if nothing had followed', async () => {
      for (const target of [0, 1, 100, 128, 131, 299]) {
        const cache = await create();
        await run(cache, script(2), total, 64);
        const honest = cache.truncate(target);
        expect(honest).toBeLessThanOrEqual(target);
        if (options.truncatesExactly) expect(honest).toBe(target);
        expect(cache.length).toBe(honest);
        const other = script(3);
        const spliced = splice(script(2), other, honest);
        const fresh = await create();
        expectSame(
          lastRow(await run(cache, spliced, total, 41)),
          lastRow(await run(fresh, spliced, total, 300)),
        );
        cache.dispose();
        fresh.dispose();
      }
    });

    test('a fork and its origin go their own ways', async () => {
      const origin = await create();
      await run(origin, script(4), 200, 200);
      const fork = origin.fork();
      const left = splice(script(4), script(5), 200);
      const right = splice(script(4), script(6), 200);
      const [a, b] = [await run(origin, left, total, 3), await run(fork, right, total, 100)];
      for (const [story, outputs] of [
        [left, a],
        [right, b],
      ] as const) {
        const fresh = await create();
        expectSame(lastRow(outputs), lastRow(await run(fresh, story, total, total)));
        fresh.dispose();
      }
      // What the fork did since must not have changed a page that both hold.
      const further = splice(left, script(7), 299);
      origin.truncate(299);
      const again = await run(origin, further, total, 1);
      const fresh = await create();
      expectSame(lastRow(again), lastRow(await run(fresh, further, total, total)));
      fresh.dispose();
      origin.dispose();
      expect(fork.length).toBe(total);
      fork.truncate(150);
      await run(fork, script(4), 160, 10);
      fork.dispose();
    });

    test('a restored cache goes on bit for bit like the one saved and one that never was', async () => {
      const before = kernels.allocatedBytes;
      for (const seed of [1, 2, 3, 4]) {
        const random = new Random(seed);
        const draw = (least: number, most: number) =>
          least + Math.floor(random.uniform() * (most - least + 1));
        // The first never stops; the second is saved at times; the third is restored from it then.
        let caches = [await create(), await create(), await create()];
        for (let step = 0; step < 14; step++) {
          const [{ length }] = caches;
          const to = Math.min(total, length + draw(1, 90));
          const target = draw(0, length);
          const chunk = draw(1, 90);
          const story = script(seed * 100 + step);
          switch (step % 2 ? 'run' : (['truncate', 'fork', 'restore'] as const)[draw(0, 2)]) {
            case 'run': {
              const outputs = [];
              for (const cache of caches) outputs.push(await run(cache, story, to, chunk));
              expect(outputs[1]).toEqual(outputs[0]);
              expect(outputs[2]).toEqual(outputs[0]);
              break;
            }
            case 'truncate': {
              const honest = caches.map((cache) => cache.truncate(target));
              expect(honest).toEqual(Array(3).fill(honest[0]));
              break;
            }
            case 'fork': {
              const origins = caches;
              caches = origins.map((cache) => cache.fork());
              for (const cache of origins) cache.dispose();
              break;
            }
            case 'restore': {
              const state = await caches[1].save();
              caches[2].dispose();
              caches[2] = await create();
              caches[2].restore(state);
              expect(caches[2].length).toBe(length);
              expect(withoutScratch(caches[2])).toEqual(withoutScratch(caches[1]));
            }
          }
        }
        for (const cache of caches) cache.dispose();
      }
      expect(kernels.allocatedBytes).toBe(before);
    });

    test('a state that does not fit is refused, and the cache stays empty and usable', async () => {
      const saved = await create();
      await run(saved, script(8), 200, 64);
      const state = await saved.save();
      const [first, ...others] = state.blocks;
      const longer = new Uint8Array(first.length + 1);
      const misfits: Partial<CacheState>[] = [
        ...[0, 1, 400, -1, 1.5, NaN, 1e300].map((length) => ({ length })),
        { blocks: [] },
        { blocks: others },
        { blocks: [...state.blocks, first] },
        { blocks: [first.subarray(1), ...others] },
        { blocks: [longer, ...others] },
      ];
      const cache = await create();
      const empty = cache.bytes().total;
      for (const misfit of misfits) {
        const restore = () => cache.restore({ ...state, ...misfit });
        expect(restore).toThrow(expect.objectContaining({ code: 'format' }));
        expect(cache.length).toBe(0);
        expect(cache.bytes().total).toBe(empty);
      }
      cache.restore(state);
      const again = () => cache.restore(state);
      expect(again).toThrow(expect.objectContaining({ code: 'usage' }));
      expect(await run(cache, script(8), total, 50)).toEqual(
        await run(saved, script(8), total, 50),
      );
      cache.begin(1);
      await expect(cache.save()).rejects.toMatchObject({ code: 'usage' });
      cache.rollback();
      for (const held of [cache, saved]) held.dispose();
      await expect(cache.save()).rejects.toMatchObject({ code: 'usage' });
      expect(again).toThrow(expect.objectContaining({ code: 'usage' }));
    });

    test('no memory: restore throws, and the cache stays empty', async () => {
      const saved = await create();
      await run(saved, script(8), 200, 64);
      const state = await saved.save();
      const limited = limitMemory(kernels);
      const cache = await createCache(spec, shapes, limited.kernels, options.adapter);
      const empty = [cache.bytes().total, kernels.allocatedBytes];
      let failures = 0;
      for (let isFull = true; isFull && failures < 100;) {
        limited.allow(failures);
        try {
          cache.restore(state);
          isFull = false;
        } catch (error) {
          expect(error).toMatchObject({ code: 'memory' });
          expect(cache.length).toBe(0);
          expect([cache.bytes().total, kernels.allocatedBytes]).toEqual(empty);
          failures++;
        }
      }
      limited.allow(Infinity);
      expect(failures).toBeGreaterThan(0);
      expect(await run(cache, script(8), total, 50)).toEqual(
        await run(saved, script(8), total, 50),
      );
      for (const held of [cache, saved]) held.dispose();
    });

    test('bytes are those of the buffers held, and dispose gives all of them back', async () => {
      const before = kernels.allocatedBytes;
      const cache = await create();
      await run(cache, script(1), 129, 43);
      const { total: bytes, scratch, ...kinds } = cache.bytes();
      const { keys, values, scales, windows, codebooks } = kinds;
      expect(keys + values + scales + windows + codebooks).toBe(bytes);
      // What is left are the per-head factors of the scores: a few bytes a layer.
      const held = kernels.allocatedBytes - before - scratch;
      expect(held - bytes).toBeGreaterThanOrEqual(0);
      expect(held - bytes).toBeLessThanOrEqual(shapes.length * 64);
      const fork = cache.fork();
      cache.dispose();
      fork.dispose();
      expect(kernels.allocatedBytes).toBe(before);
    });

    test('no memory: begin throws, and the cache goes on as it was', async () => {
      const limited = limitMemory(kernels);
      const cache = await createCache(spec, shapes, limited.kernels, options.adapter);
      await run(cache, script(1), 128, 64);
      const before = cache.bytes().total;
      limited.allow(1);
      expect(() => cache.begin(500)).toThrow(expect.objectContaining({ code: 'memory' }));
      limited.allow(Infinity);
      expect(cache.length).toBe(128);
      expect(cache.bytes().total).toBe(before);
      const fresh = await create();
      expectSame(
        lastRow(await run(cache, script(1), total, 64)),
        lastRow(await run(fresh, script(1), total, total)),
      );
      cache.dispose();
      fresh.dispose();
    });

    test('NaN keys are refused and the step can be rolled back', async () => {
      const cache = await create();
      await run(cache, script(1), 10, 10);
      const k = allocTensor(kernels, 'f32', [1, shape.nKvHeads, shape.headDimK]);
      const v = allocTensor(kernels, 'f32', [1, shape.nKvHeads, shape.headDimV]);
      kernels.write(k, new Float32Array(shape.nKvHeads * shape.headDimK).fill(NaN));
      cache.begin(1);
      const append = () => cache.append(0, k, v);
      expect(append).toThrow(expect.objectContaining({ code: 'not-finite' }));
      cache.rollback();
      expect(cache.length).toBe(10);
      for (const { buffer } of [k, v]) kernels.free(buffer);
      cache.dispose();
    });

    test('calls out of turn are refused', async () => {
      const cache = await create();
      const usage = expect.objectContaining({ code: 'usage' });
      const k = allocTensor(kernels, 'f32', [2, shape.nKvHeads, shape.headDimK]);
      const v = allocTensor(kernels, 'f32', [2, shape.nKvHeads, shape.headDimV]);
      expect(() => cache.append(0, k, v)).toThrow(usage);
      expect(() => cache.begin(0)).toThrow(usage);
      cache.begin(3);
      expect(() => cache.begin(1)).toThrow(usage);
      expect(() => cache.fork()).toThrow(usage);
      expect(() => cache.append(0, k, v)).toThrow(usage);
      expect(() => cache.append(9, k, v)).toThrow(usage);
      cache.rollback();
      expect(() => cache.truncate(-1)).toThrow(usage);
      cache.dispose();
      cache.dispose();
      expect(() => cache.begin(1)).toThrow(usage);
      for (const { buffer } of [k, v]) kernels.free(buffer);
    });
  });
}

/** Scratch depends on the largest step so far; everything else on the contents alone. */
function withoutScratch(cache: KvCache) {
  return { ...cache.bytes(), scratch: 0 };
}

/** The first `at` positions of one script, then the other's. */
function splice(first: Script, second: Script, at: number): Script {
  const join = (a: Float32Array, b: Float32Array) => {
    const cut = (a.length / total) * at;
    return Float32Array.from([...a.subarray(0, cut), ...b.subarray(cut)]);
  };
  return { k: join(first.k, second.k), v: join(first.v, second.v), q: join(first.q, second.q) };
}

/** Kernels that refuse after a number of further allocations. */
function limitMemory(kernels: Kernels): { kernels: Kernels; allow(count: number): void } {
  let left = Infinity;
  const alloc = (sizeBytes: number): KernelBuffer => {
    if (left-- <= 0) throw new KvError('memory', 'test: no memory is left.');
    return kernels.alloc(sizeBytes);
  };
  const limited = new Proxy(kernels, {
    get(target, name) {
      if (name === 'alloc') return alloc;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  return { kernels: limited, allow: (count) => (left = count) };
}
