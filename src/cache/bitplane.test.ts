import { describe, expect, it, test } from 'vitest';
import { attendAll, largestDifference, normalScript } from '../../test/attend-all.ts';
import { encodeKey, tableOf } from '../kernels/codes.ts';
import { ReferenceKernels } from '../kernels/reference.ts';
import { createKernels } from '../kernels/select.ts';
import { f16ToF32 } from '../math/f16.ts';
import { Random } from '../math/random.ts';
import { describeCache } from './cache-contract.ts';
import { uniformCodec } from './codec.ts';
import { createCache } from './registry.ts';
import { gaussianProjection } from './sketch.ts';

for (const spec of [
  'bitplane',
  'bitplane:k=2,v=4,window=40,sinks=4',
  'bitplane:k=1,v=16,window=8@1:v=3',
  'bitplane:k=16,v=3,window=8@1:k=2,v=2',
  'bitplane:k=16,v=2,alloc=none,window=0,sinks=0',
  'bitplane:k=1,v=3,window=0,sinks=4,alloc=none@1:k=2,v=4',
]) {
  describeCache(spec, () => createKernels('auto'), { truncatesExactly: false });
}
describeCache(
  'bitplane:k=1,v=2,window=0,sinks=0,alloc=none,centre=none',
  () => createKernels('auto'),
  { truncatesExactly: true },
);

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  range(a.length).reduce((sum, i) => sum + a[i] * b[i], 0);

/** The score of a key by sign planes after a random rotation, as the kernels compute it. */
function signScore(q: Float32Array, k: Float32Array, seed: number): number {
  const codec = uniformCodec(k.length, k.length / 4, seed);
  const head = { ...codec, rows: k.length, rule: 'unbiased', gain: 1 } as const;
  const { codes, scale } = encodeKey(k, head);
  const table = tableOf(q, codec.queryProject, codec.levels);
  const sum = codes.reduce((s, code, g) => s + table.entries[g * 16 + code], 0);
  return f16ToF32(scale) * table.scale * sum;
}

describe('the estimator of sign planes', () => {
  const d = 12; // no power of two: rotations are by Gram-Schmidt, and so Haar
  const random = new Random(7);
  const normals = () => Float32Array.from({ length: d }, () => random.normal());
  const [q, k] = [normals(), normals()];
  const draws = 10_000;
  const errors = range(draws).map((seed) => signScore(q, k, seed) - dot(q, k));
  const variance = dot(errors, errors) / draws;

  it('has no bias', () => {
    const mean = errors.reduce((a, b) => a + b) / draws;
    expect(Math.abs(mean)).toBeLessThan(3 * Math.sqrt(variance / draws));
  });
  it('has the variance that theory gives it', () => {
    const inverseL1 = range(draws).map(() => {
      const z = normals();
      return dot(z, z) / z.reduce((sum, x) => sum + Math.abs(x), 0) ** 2;
    });
    const mean = inverseL1.reduce((a, b) => a + b) / draws;
    const across = (dot(q, q) * dot(k, k) - dot(q, k) ** 2) / (d - 1);
    const expected = across * (d * mean - 1);
    expect(Math.abs(variance / expected - 1)).toBeLessThan(0.05);
  });
});

test('says more about scores than sketches of the same number of bits', () => {
  const d = 64;
  const random = new Random(11);
  const normals = () => Float32Array.from({ length: d }, () => random.normal());
  const projection = gaussianProjection(0, 0, 1, d, d);
  const signs = (x: Float32Array) =>
    range(d).map((r) => (dot(projection.subarray(r * d, (r + 1) * d), x) >= 0 ? 1 : -1));
  const [exact, sketched, coded]: number[][] = [[], [], []];
  for (let trial = 0; trial < 1500; trial++) {
    const [q, k] = [normals(), normals()];
    exact.push(dot(q, k));
    sketched.push(dot(signs(q), signs(k)));
    coded.push(signScore(q, k, 3));
  }
  const correlation = (a: number[], b: number[]) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const lost = (estimates: number[]) => 1 / correlation(exact, estimates) ** 2 - 1;
  expect(lost(coded)).toBeLessThan(0.4 * lost(sketched));
});

test('values that are skipped change an output by at most 2 skip max|v|', async () => {
  const shape = { nHeads: 4, nKvHeads: 2, headDimK: 32, headDimV: 32, scale: 1 };
  const kernels = await createKernels('auto', { threads: 1 });
  const script = normalScript(new Random(13), shape, 300);
  const outputs = async (setting: string) => {
    const spec = `bitplane:k=2,v=4,window=0,sinks=0,alloc=none,centre=none${setting}`;
    const { cache, out } = await attendAll(spec, kernels, shape, script);
    expect(cache.spec.includes('skip')).toBe(setting !== '');
    cache.dispose();
    return out;
  };
  const all = await outputs('');
  const largest = script.v.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  for (const skip of [1e-3, 0.02, 0.3]) {
    const difference = largestDifference(await outputs(`,skip=${skip}`), all);
    // What the kernels round sums of values to comes on top.
    expect(difference, `${skip}`).toBeLessThanOrEqual(2 * skip * largest + 1e-3);
    if (skip > 0.01) expect(difference, `${skip}`).toBeGreaterThan(0.01 * skip);
  }
  kernels.dispose();
});

test('tables of 8 bits add less than a hundredth to the error of 2-bit keys', () => {
  const [d, nibbles] = [64, 32];
  const random = new Random(12);
  const codec = uniformCodec(d, nibbles, 1);
  const [ofTables, ofCodes]: number[][] = [[], []];
  for (let trial = 0; trial < 1000; trial++) {
    const [q, k] = [0, 0].map(() => Float32Array.from({ length: d }, () => random.normal()));
    const head = { ...codec, rows: d, rule: 'least-squares', gain: 1 } as const;
    const { codes, scale } = encodeKey(k, head);
    const { entries, scale: step } = tableOf(q, codec.queryProject, codec.levels);
    const score = f16ToF32(scale) * step * codes.reduce((s, c, g) => s + entries[g * 16 + c], 0);
    const chosen = Array.from(codes, (c, g) => (g * 16 + c) * 4).flatMap((at) =>
      Array.from(codec.levels.subarray(at, at + 4)),
    );
    const y = chosen.map((_, i) => dot(codec.queryProject.subarray(i * d, (i + 1) * d), q));
    const exact = f16ToF32(scale) * dot(y, chosen);
    ofTables.push(score - exact);
    ofCodes.push(exact - dot(q, k));
  }
  const share = dot(ofTables, ofTables) / dot(ofCodes, ofCodes);
  expect(share).toBeGreaterThan(0);
  expect(share).toBeLessThan(0.01);
});

test('values of 16 bits are those of f16, beside keys that are coded', async () => {
  const shape = { nHeads: 4, nKvHeads: 2, headDimK: 32, headDimV: 32, scale: 1 };
  const kernels = await createKernels('auto', { threads: 1 });
  const script = normalScript(new Random(14), shape, 200);
  // Without keys all scores are the same, so that only values can differ.
  script.k.fill(0);
  const run = async (spec: string) => {
    const { cache, out } = await attendAll(spec, kernels, shape, script);
    const { values, scales } = cache.bytes();
    cache.dispose();
    return { out, values, scales };
  };
  const bare = 'window=0,sinks=0,alloc=none,centre=none';
  const [f16, exact, coded] = [
    await run('f16'),
    await run(`bitplane:k=1,v=16,${bare}`),
    await run(`bitplane:k=1,v=4,${bare}`),
  ];
  expect(exact.values).toBe(f16.values);
  expect(exact.scales).toBeLessThan(coded.scales);
  expect(largestDifference(exact.out, f16.out)).toBeLessThan(1e-3);
  expect(largestDifference(coded.out, f16.out)).toBeGreaterThan(1e-2);
  kernels.dispose();
});

test('keys of 16 bits are those of f16, beside values that are coded', async () => {
  const shape = { nHeads: 4, nKvHeads: 2, headDimK: 32, headDimV: 32, scale: 0.2 };
  const kernels = await createKernels('auto', { threads: 1 });
  const script = normalScript(new Random(15), shape, 200);
  const run = async (spec: string) => {
    const { cache, out } = await attendAll(spec, kernels, shape, script);
    const { keys, scales } = cache.bytes();
    cache.dispose();
    return { out, keys, scales };
  };
  const bare = 'window=0,sinks=0,alloc=none,centre=none';
  const f16 = await run('f16');
  const exact = await run(`bitplane:k=16,v=16,${bare}`);
  expect(exact.keys).toBe(f16.keys);
  expect(largestDifference(exact.out, f16.out)).toBeLessThan(1e-3);
  const [four, two] = [await run(`bitplane:k=16,v=4,${bare}`), await run(`bitplane:k=16,${bare}`)];
  expect(four.keys).toBe(f16.keys);
  expect(largestDifference(four.out, f16.out)).toBeLessThan(largestDifference(two.out, f16.out));
  expect(largestDifference(four.out, f16.out)).toBeGreaterThan(1e-3);
  kernels.dispose();
});

describe('settings', () => {
  const shapes = [{ nHeads: 2, nKvHeads: 1, headDimK: 16, headDimV: 16, scale: 1 }];
  const create = (spec: string) => createCache(spec, shapes, new ReferenceKernels());

  it('are written in full, and read again', async () => {
    const { spec } = await create('bitplane:v=2');
    expect(spec).toContain('k=2,v=2,window=64,sinks=4');
    expect((await create(spec)).spec).toBe(spec);
  });
  it('may differ by layer, and take more bytes there', async () => {
    const two = [shapes[0], shapes[0]];
    const bytesOf = async (spec: string) => {
      const cache = await createCache(spec, two, new ReferenceKernels());
      cache.begin(100);
      return cache.bytes();
    };
    const [plain, last, both] = [
      await bytesOf('bitplane:k=1,v=2'),
      await bytesOf('bitplane:k=1,v=2@-1:k=2,v=4'),
      await bytesOf('bitplane:k=2,v=4'),
    ];
    expect(last.keys - plain.keys).toBe(both.keys - last.keys);
    expect(last.values - plain.values).toBe(both.values - last.values);
    expect(last.keys).toBeGreaterThan(plain.keys);
    const { spec } = await createCache('bitplane:k=1@0-1:k=3', two, new ReferenceKernels());
    expect((await createCache(spec, two, new ReferenceKernels())).spec).toBe(spec);
  });
  it('have short names', async () => {
    expect((await create('bitplane-small')).spec).toContain('bitplane:k=1.375,v=2,window=32,');
    expect((await create('bitplane-small:window=0')).spec).toContain('k=1.375,v=2,window=0,');
  });
  it.each([
    ['bitplane:k=0.1', /k is 0.1; it must be a number from 0.5 to 4, or 16/],
    ['bitplane:k=5', /k is 5; it must be/],
    ['bitplane:v=5', /v is 5; it must be a number from 0.5 to 4, or 16/],
    ['bitplane:window=-1', /window/],
    ['bitplane:source=adapter', /needs an adapter/],
    ['bitplane@1:k=2', /layers 1 to 1; the model has layers 0 to 0/],
    ['bitplane@0:window=2', /unknown setting "window" of single layers/],
    ['f16@0:k=2', /unknown setting "k" of single layers/],
    ['bitplane:skip=0.6', /skip is 0.6; it must be a number from 0 to 0.5/],
    ['bitplane:bits=3', /unknown setting "bits"/],
  ])('%s is refused', async (spec, pattern) => {
    await expect(create(spec)).rejects.toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringMatching(pattern) }),
    );
  });
});
