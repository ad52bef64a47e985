import { describe, expect, test } from 'vitest';
import { attendAll, largestDifference, normalScript } from '../../test/attend-all.ts';
import { ReferenceKernels } from '../kernels/reference.ts';
import { allocTensor } from '../kernels/tensor.ts';
import { f16ToF32 } from '../math/f16.ts';
import { Random } from '../math/random.ts';
import { fittedTemperatures, type Adapter } from './adapter.ts';
import { createCache } from './registry.ts';
import { gaussianProjection, orthogonalProjection, projectionStep } from './sketch.ts';

describe('the projection', () => {
  test('is standard normal in steps of 1/32, and a function of seed and layer', () => {
    const r = gaussianProjection(0, 0, 2, 256, 64);
    const values = Array.from(r, (x) => x * projectionStep);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
    const sigma = 1 / Math.sqrt(values.length);
    expect(Math.abs(mean)).toBeLessThan(4 * sigma);
    expect(Math.abs(variance - 1)).toBeLessThan(4 * Math.SQRT2 * sigma);
    expect(gaussianProjection(0, 0, 2, 256, 64)).toEqual(r);
    expect(gaussianProjection(1, 0, 2, 256, 64)).not.toEqual(r);
    expect(gaussianProjection(0, 1, 2, 256, 64)).not.toEqual(r);
    // Saved sketches depend on these numbers: they may never change.
    expect([...r.subarray(0, 8)]).toEqual(goldenProjection);
  });
});

describe('the orthogonal projection', () => {
  // 40 rows at width 16: two whole blocks and half of a third, in each of two heads.
  const [heads, bits, d] = [2, 40, 16];
  const r = orthogonalProjection(0, 3, heads, bits, d);
  const row = (head: number, i: number) =>
    Array.from(r.subarray((head * bits + i) * d, (head * bits + i + 1) * d), (x) => x / 32);
  const product = (a: number[], b: number[]) => a.reduce((sum, x, j) => sum + x * b[j], 0) / d;

  test('has orthogonal rows of one length in blocks of the head dimension, up to rounding', () => {
    let across = 0;
    for (let head = 0; head < heads; head++) {
      for (let i = 0; i < bits; i++) {
        for (let j = 0; j <= i; j++) {
          const cosine = product(row(head, i), row(head, j));
          if (Math.floor(i / d) !== Math.floor(j / d)) across = Math.max(across, Math.abs(cosine));
          else expect(Math.abs(cosine - Number(i === j))).toBeLessThan(0.03);
        }
      }
    }
    // Blocks know nothing of each other.
    expect(across).toBeGreaterThan(0.3);
    expect(row(0, 0)).not.toEqual(row(1, 0));
    expect(orthogonalProjection(0, 3, heads, bits, d)).toEqual(r);
    expect(orthogonalProjection(1, 3, heads, bits, d)).not.toEqual(r);
  });

  test('is named by the spec, takes the same memory, and is not what finetuning began with', async () => {
    const shapes = [{ nHeads: 2, nKvHeads: 1, headDimK: 32, headDimV: 32, scale: 1 }];
    const create = (spec: string, adapter?: Adapter) =>
      createCache(spec, shapes, new ReferenceKernels(), adapter);
    const [gaussian, orthogonal] = [await create('h1b'), await create('h1b:r=orthogonal')];
    expect(gaussian.spec).toBe('h1b:b=256,seed=0,t=0.07');
    expect(orthogonal.spec).toBe('h1b:b=256,seed=0,r=orthogonal,t=0.07');
    expect(orthogonal.bytes()).toEqual(gaussian.bytes());
    const layers = [{ temperatures: Float32Array.of(1, 1), values: [] }];
    const finetuned = [{ method: 'h1b' as const, name: 'x', bits: 64, seed: 0, layers }];
    const adapter: Adapter = { model: '', text: '', temperatures: [], finetuned };
    await expect(create('h1b:tuned=x,r=orthogonal', adapter)).rejects.toThrow(/Leave out r/);
  });
});

/** First entries of R for seed 0, layer 0. */
const goldenProjection = [42, 3, 26, -20, 24, 46, -40, 9];

describe('the sketched score', () => {
  const dim = 32;
  const draws = 4000;

  /**
   * Mean over independent sketches of a - (1 - (2/pi) angle), in standard errors. One fixed pair
   * of vectors and many R: random pairs would hide an R that prefers some directions.
   */
  async function biasInSigmas(cosine: number, makeR: (seed: number) => Int8Array, bits = 64) {
    const kernels = new ReferenceKernels();
    const x = allocTensor(kernels, 'f32', [2, 1, dim]);
    kernels.write(x, pairAtCosine(new Random(99), cosine, dim));
    const projection = allocTensor(kernels, 'i8', [1, bits, dim]);
    const page = allocTensor(kernels, 'u32', [1, 2, bits / 32]);
    let [sum, sumOfSquares] = [0, 0];
    for (let i = 0; i < draws; i++) {
      kernels.write(projection, makeR(i));
      kernels.storeSketch(x, projection, page, 0);
      const words = kernels.view(page);
      let differing = 0;
      for (let w = 0; w < bits / 32; w++) differing += bitCount(words[w] ^ words[bits / 32 + w]);
      const error = 1 - (2 * differing) / bits - (1 - (2 / Math.PI) * Math.acos(cosine));
      sum += error;
      sumOfSquares += error * error;
    }
    const mean = sum / draws;
    return mean / Math.sqrt((sumOfSquares / draws - mean * mean) / draws);
  }

  test.each([-0.9, -0.3, 0, 0.5, 0.95])(
    'has expectation 1 - (2/pi) arccos(cos) at cos = %d',
    async (cosine) => {
      const sigmas = await biasInSigmas(cosine, (seed) => gaussianProjection(seed, 7, 1, 64, dim));
      expect(Math.abs(sigmas)).toBeLessThan(4);
    },
  );

  test('has it with orthogonal rows too', async () => {
    const sigmas = await biasInSigmas(0.5, (seed) => orthogonalProjection(seed, 7, 1, 64, dim));
    expect(Math.abs(sigmas)).toBeLessThan(4);
  });

  test.each([
    ['entries that are not centred', (r: Int8Array) => r.map((x) => x + 16)],
    ['single coordinates', (r: Int8Array) => r.map((x, i) => (i % (dim + 1) === 0 ? x : 0))],
  ])('and the test sees a wrong R: %s', async (_, spoil) => {
    const wrong = (seed: number) => spoil(gaussianProjection(seed, 7, 1, 64, dim));
    expect(Math.abs(await biasInSigmas(0.5, wrong))).toBeGreaterThan(8);
  });
});

describe('the stored values', () => {
  test.each([
    ['constant', () => 3.25],
    ['huge', (random: Random) => 6e4 * (2 * random.uniform() - 1)],
    ['tiny', (random: Random) => 1e-6 * random.normal()],
    ['far from zero', (random: Random) => 1000 + 0.01 * random.normal()],
    ['zero', () => 0],
  ])('come back within half a stored step: %s', (_, draw) => {
    const kernels = new ReferenceKernels();
    const [n, dim] = [50, 16];
    const x = allocTensor(kernels, 'f32', [n, 1, dim]);
    const random = new Random(5);
    const values = Float32Array.from({ length: n * dim }, () => draw(random));
    kernels.write(x, values);
    const codes = allocTensor(kernels, 'u8', [1, n, dim / 2]);
    const params = allocTensor(kernels, 'f16', [1, n, 2]);
    kernels.storeAffine(x, codes, params, 0);
    const [nibbles, minStep] = [kernels.view(codes), kernels.view(params)];
    values.forEach((value, at) => {
      const [i, c] = [Math.floor(at / dim), at % dim];
      const byte = nibbles[(i * dim) / 2 + (c % (dim / 2))];
      const code = c < dim / 2 ? byte & 15 : byte >> 4;
      const [minimum, step] = [f16ToF32(minStep[2 * i]), f16ToF32(minStep[2 * i + 1])];
      // f32 arithmetic may add a rounding of the value itself.
      const slack = step / 2 + Math.abs(value) * 2 ** -22;
      expect(Math.abs(minimum + step * code - value)).toBeLessThanOrEqual(slack);
    });
  });
});

describe('temperatures', () => {
  const shapes = [0, 1].map(() => ({
    nHeads: 2,
    nKvHeads: 1,
    headDimK: 8,
    headDimV: 8,
    scale: 1,
  }));
  const adapter: Adapter = {
    model: 'abc',
    text: 'a test',
    temperatures: [
      {
        bits: 64,
        global: 0.1,
        layer: [0.2, 0.3],
        head: [
          [0.4, 0.5],
          [0.6, 0.7],
        ],
      },
    ],
  };

  test('come from the adapter by head, layer or globally', async () => {
    expect(fittedTemperatures(adapter, 64, 'head', shapes)).toEqual(adapter.temperatures[0].head);
    expect(fittedTemperatures(adapter, 64, 'layer', shapes)).toEqual([
      [0.2, 0.2],
      [0.3, 0.3],
    ]);
    expect(fittedTemperatures(adapter, 64, 'global', shapes)?.flat()).toEqual([0.1, 0.1, 0.1, 0.1]);
    expect(fittedTemperatures(adapter, 128, 'head', shapes)).toBeUndefined();
    const spec = async (text: string) =>
      (await createCache(text, shapes, new ReferenceKernels(), adapter)).spec;
    expect(await spec('h1b:b=64')).toBe('h1b:b=64,seed=0,t=head');
    expect(await spec('h1b:b=64,t=layer')).toBe('h1b:b=64,seed=0,t=layer');
    expect(await spec('h1b:b=128')).toBe('h1b:b=128,seed=0,t=0.07');
  });

  test('of another shape are refused', () => {
    const shape = expect.objectContaining({ code: 'shape' });
    expect(() => fittedTemperatures(adapter, 64, 'head', shapes.slice(1))).toThrow(shape);
    const [fit] = adapter.temperatures;
    const odd = { ...adapter, temperatures: [{ ...fit, norm: [[1, 2], [3]] }] };
    expect(() => fittedTemperatures(odd, 64, 'norm', shapes)).toThrow(shape);
  });

  test('by the norm of the query are refused where the adapter has none', async () => {
    const [fit] = adapter.temperatures;
    const wider = { ...fit, bits: 128, norm: fit.head };
    const both = { ...adapter, temperatures: [fit, wider] };
    const make = (spec: string) => createCache(spec, shapes, new ReferenceKernels(), both);
    await expect(make('h1b:b=64,t=norm')).rejects.toThrow(/b=64.*t=norm for b=128\. Run/);
    expect((await make('h1b:b=128,t=norm')).spec).toBe('h1b:b=128,seed=0,t=norm');
    expect((await make('loki:b=128,t=norm')).spec).toBe('loki:sketch,b=128,seed=0,t=norm');
  });

  test.each(['h1b', 'loki'])(
    'by its norm, a query of %s has T over its root mean square',
    async (name) => {
      const kernels = new ReferenceKernels();
      const shape = shapes[0];
      const at = (temperature: number): Adapter => {
        const heads = [[temperature, 2 * temperature]];
        const fit = { bits: 64, global: 1, layer: [1], head: heads, norm: heads };
        return { model: '', text: '', temperatures: [fit] };
      };
      const all = normalScript(new Random(8), shape, 40);
      // Queries of one length each: 1, then 2.5.
      const unit = all.q.map((x, i) => x / rootMeanSquare(all.q, i, shape.headDimK));
      const run = (t: string, temperature: number, factor: number) => {
        const script = { ...all, q: unit.map((x) => x * factor) };
        return attendAll(`${name}:b=64,t=${t}`, kernels, shape, script, 7, at(temperature));
      };
      const { out: plain } = await run('head', 0.2, 1);
      for (const factor of [1, 2.5]) {
        const { out } = await run('norm', 0.2 * factor, factor);
        expect(largestDifference(out, plain)).toBeLessThan(1e-5);
      }
      const { out: colder } = await run('norm', 0.2, 2.5);
      expect(largestDifference(colder, plain)).toBeGreaterThan(0.1);
    },
  );
});

/** Of the row of x that element i belongs to. */
function rootMeanSquare(x: Float32Array, i: number, dim: number): number {
  const row = x.subarray(i - (i % dim), i - (i % dim) + dim);
  return Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / dim);
}

/** Two vectors [2, dim] with this cosine between them; the first leans towards (1, ..., 1). */
function pairAtCosine(random: Random, cosine: number, dim: number): Float32Array {
  const draw = () => Float64Array.from({ length: dim }, () => random.normal());
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, x, i) => sum + x * b[i], 0);
  const unit = (a: Float64Array) => a.map((x) => x / Math.sqrt(dot(a, a)));
  const u = unit(draw().map((x) => x + 1));
  const other = draw();
  const along = dot(other, u);
  const v = unit(other.map((x, i) => x - along * u[i]));
  const sine = Math.sqrt(1 - cosine * cosine);
  const [lengthA, lengthB] = [0.1 + 3 * random.uniform(), 0.1 + 3 * random.uniform()];
  return Float32Array.from([
    ...u.map((x) => x * lengthA),
    ...u.map((x, i) => (cosine * x + sine * v[i]) * lengthB),
  ]);
}

function bitCount(x: number): number {
  return (x >>> 0).toString(2).replaceAll('0', '').length;
}
