import { afterAll, beforeAll, expect, test } from 'vitest';
import type { LayerShape } from '../cache/cache.ts';
import { createCache } from '../cache/registry.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { allocTensor, rows } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';
import { Plan, plannedBytes } from './plan.ts';

let kernels: Kernels;
beforeAll(async () => {
  kernels = await createKernels('wasm', { threads: 1 });
});
afterAll(() => kernels.dispose());

const specs = [
  ...[
    'f16',
    'f32',
    'h1b',
    'h1b:b=32',
    'h1b:b=96,t=0.1',
    'h1b:b=1024,seed=5',
    'h1b+:b=64',
    'q8_0',
    'q4_0',
  ],
  ...['kivi:2', 'kivi:4,window=0', 'loki', 'loki:pca', 'sparse', 'minicache', 'cq'],
  ...['bitplane', 'bitplane:k=2,v=4,window=0,sinks=0', 'bitplane:k=1,v=3,window=40,alloc=none'],
];

/** Bytes of a cache that went through every call of a session. */
async function filledBytes(spec: string, shapes: LayerShape[], positions: number, step: number) {
  const cache = await createCache(spec, shapes, kernels);
  while (cache.length < positions) {
    const n = Math.min(step, positions - cache.length);
    cache.begin(n);
    shapes.forEach(({ nHeads, nKvHeads, headDimK, headDimV }, layer) => {
      const tensors = [
        allocTensor(kernels, 'f32', [n, nKvHeads, headDimK]),
        allocTensor(kernels, 'f32', [n, nKvHeads, headDimV]),
        allocTensor(kernels, 'f32', [n, nHeads, headDimK]),
        allocTensor(kernels, 'f32', [n, nHeads, headDimV]),
      ];
      const [k, v, q, out] = tensors.map((t) => rows(t, 0, n));
      cache.append(layer, k, v);
      cache.attend(layer, q, out);
      for (const { buffer } of tensors) kernels.free(buffer);
    });
    cache.commit();
  }
  const bytes = cache.bytes();
  cache.dispose();
  return bytes;
}

test('a plan is what a filled cache holds, kind by kind', async () => {
  const random = new Random(1);
  const pick = (min: number, max: number) => min + Math.floor(random.uniform() * (max - min + 1));
  for (let round = 0; round < 2 * specs.length; round++) {
    const shapes = Array.from({ length: pick(1, 2) }, () => {
      const nKvHeads = pick(1, 2);
      return {
        nHeads: nKvHeads * pick(1, 4),
        nKvHeads,
        headDimK: 8 * pick(1, 12),
        headDimV: 8 * pick(1, 12),
        scale: 1,
      };
    });
    const spec = specs[round % specs.length];
    const positions = [0, 1, 127, 128, 129][round] ?? pick(1, 400);
    const planned = await plannedBytes(spec, shapes, positions);
    const held = await filledBytes(spec, shapes, positions, pick(20, 200));
    // Scratch depends on the size of the steps, the rest must not.
    const { scratch } = held;
    expect(held, `${spec}, ${positions} positions`).toEqual({ ...planned, scratch });
  }
  expect(kernels.allocatedBytes).toBe(0);
});

test('the formats are as large as they say', async () => {
  const shape = { nHeads: 4, nKvHeads: 2, headDimK: 64, headDimV: 32, scale: 1 };
  const page = 128 * 2; // positions times KV heads
  const bytes = (spec: string, positions: number) => plannedBytes(spec, [shape], positions);
  expect(await bytes('f16', 128)).toMatchObject({ keys: page * 128, values: page * 64, scales: 0 });
  expect(await bytes('f32', 1)).toMatchObject({ keys: page * 256, values: page * 128 });
  expect(await bytes('h1b:b=64', 129)).toMatchObject({
    keys: 2 * page * 8,
    values: 2 * page * 16,
    scales: 2 * page * 4,
    codebooks: 2 * 64 * 64,
  });
  expect(await bytes('f16', 0)).toMatchObject({ keys: 0, values: 0, total: 0 });
});

test('an unknown method is refused', async () => {
  const usage = expect.objectContaining({ code: 'usage' });
  await expect(plannedBytes('h2b', [], 1)).rejects.toThrow(usage);
  await expect(plannedBytes('h1b:b=33', [], 1)).rejects.toThrow(usage);
});

test('the longest context within a budget: it fits, and one position more does not', async () => {
  const shapes = [{ nHeads: 4, nKvHeads: 2, headDimK: 64, headDimV: 64, scale: 1 }];
  for (const spec of ['f16', 'h1b:b=64']) {
    const plan = await Plan.create(spec, shapes);
    const pageBytes = plan.bytesAt(2).total - plan.bytesAt(0).total;
    for (const budget of [pageBytes * 3 + 100_000, 10 * pageBytes + plan.bytesAt(0).total]) {
      const longest = plan.longestWithin(budget);
      expect(longest).toBeGreaterThan(0);
      expect(plan.bytesAt(longest).total).toBeLessThanOrEqual(budget);
      expect(plan.bytesAt(longest + 1).total).toBeGreaterThan(budget);
    }
    expect(plan.longestWithin(pageBytes - 1)).toBe(0);
    expect(plan.longestWithin(1e12, 1000)).toBe(1000);
  }
});
