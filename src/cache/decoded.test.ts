import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attendAll, largestDifference, normalScript } from '../../test/attend-all.ts';
import { ReferenceKernels } from '../kernels/reference.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { allocTensor } from '../kernels/tensor.ts';
import { Random } from '../math/random.ts';
import { createCache } from './registry.ts';

let kernels: Kernels;
beforeAll(async () => {
  kernels = await createKernels('auto');
});
afterAll(() => kernels.dispose());

const shape = { nHeads: 4, nKvHeads: 2, headDimK: 16, headDimV: 8, scale: 0.25 };
const positions = 200;
const rowLength = shape.nHeads * shape.headDimV;
const script = normalScript(new Random(1), shape, positions);

describe.each([
  // spec, how many positions a query may see and still see all of them exact
  ['kivi:2,window=128', 159],
  ['kivi:2,window=0', 31],
  ['cq:c=4,b=4,n=100', 100],
  ['minicache', 31],
  ['sparse', 64],
  ['loki:pca,n=100', 100],
])('%s', (spec, exactCount) => {
  test(`sees what f16 sees up to ${exactCount} positions, and less after them`, async () => {
    const [own, f16] = [
      await attendAll(spec, kernels, shape, script, 50),
      await attendAll('f16', kernels, shape, script, 50),
    ];
    const row = (out: Float32Array, i: number) => out.subarray(i * rowLength, (i + 1) * rowLength);
    const difference = (i: number) => largestDifference(row(own.out, i), row(f16.out, i));
    for (let i = 0; i < exactCount; i++) expect(difference(i)).toBeLessThan(1e-5);
    expect(difference(exactCount)).toBeGreaterThan(1e-4);
    own.cache.dispose();
    f16.cache.dispose();
  });
});

test('all of them come close to f16 where they lose little', async () => {
  const f16 = await attendAll('f16', kernels, shape, script);
  const error = async (spec: string) => {
    const { cache, out } = await attendAll(spec, kernels, shape, script);
    cache.dispose();
    return largestDifference(out, f16.out);
  };
  expect(await error('q8_0')).toBeLessThan(0.02);
  expect(await error('q4_0')).toBeLessThan(0.3);
  expect(await error('q4_0')).toBeGreaterThan(await error('q8_0'));
  expect(await error('kivi:4')).toBeLessThan(0.3);
  expect(await error('sparse:budget=1')).toBeLessThan(1e-5);
  expect(await error('loki:pca,top=1')).toBeLessThan(1e-5);
  f16.cache.dispose();
});

test('what f16 cannot hold is refused', async () => {
  const cache = await createCache('q8_0', [shape], kernels);
  const k = allocTensor(kernels, 'f32', [1, shape.nKvHeads, shape.headDimK]);
  const v = allocTensor(kernels, 'f32', [1, shape.nKvHeads, shape.headDimV]);
  kernels.write(v, new Float32Array(shape.nKvHeads * shape.headDimV).fill(7e4));
  cache.begin(1);
  expect(() => cache.append(0, k, v)).toThrow(expect.objectContaining({ code: 'range' }));
  cache.dispose();
  for (const { buffer } of [k, v]) kernels.free(buffer);
});

test('a backend whose memory cannot be seen is refused', async () => {
  const reference = new ReferenceKernels();
  const webgpu = Object.assign(Object.create(reference) as Kernels, { backend: 'webgpu' });
  await expect(createCache('q8_0', [shape], webgpu)).rejects.toMatchObject({ code: 'unsupported' });
  expect(reference.allocatedBytes).toBe(0);
});

test('forks share their blocks until one side writes', async () => {
  const before = kernels.allocatedBytes;
  const { cache } = await attendAll('kivi:2', kernels, shape, script);
  const alone = kernels.allocatedBytes;
  const fork = cache.fork();
  expect(kernels.allocatedBytes).toBe(alone);
  fork.begin(1);
  // The open block of exact positions, and nothing else, is copied.
  const exactBlock = 32 * shape.nKvHeads * (shape.headDimK + shape.headDimV) * 2;
  expect(kernels.allocatedBytes - alone).toBe(exactBlock);
  fork.dispose();
  cache.dispose();
  expect(kernels.allocatedBytes).toBe(before);
});

test.each(['q8_0', 'kivi:2', 'cq', 'sparse', 'minicache', 'loki:pca'])(
  '%s: what a fork writes is not seen by its origin',
  async (spec) => {
    // The open block is partly filled, so both sides have to write to it.
    const { cache } = await attendAll(spec, kernels, shape, script);
    const before = await cache.save();
    const fork = cache.fork();
    const zeros = (heads: number, d: number) => allocTensor(kernels, 'f32', [1, heads, d]);
    const [k, v] = [zeros(shape.nKvHeads, shape.headDimK), zeros(shape.nKvHeads, shape.headDimV)];
    const [q, out] = [zeros(shape.nHeads, shape.headDimK), zeros(shape.nHeads, shape.headDimV)];
    kernels.write(k, new Float32Array(shape.nKvHeads * shape.headDimK).fill(3));
    fork.begin(1);
    fork.append(0, k, v);
    fork.attend(0, q, out);
    fork.commit();
    expect(await cache.save()).toEqual(before);
    expect(await fork.save()).not.toEqual(before);
    for (const { buffer } of [k, v, q, out]) kernels.free(buffer);
    fork.dispose();
    cache.dispose();
  },
);
