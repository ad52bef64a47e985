import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { attendAll, largestDifference, normalScript, type Script } from '../../test/attend-all.ts';
import type { Kernels } from '../kernels/kernels.ts';
import { createKernels } from '../kernels/select.ts';
import { Random } from '../math/random.ts';
import type { LayerShape } from './cache.ts';
import { principalDirections } from './loki-pca.ts';
import { createCache } from './registry.ts';

let kernels: Kernels;
beforeAll(async () => {
  kernels = await createKernels('auto');
});
afterAll(() => kernels.dispose());

const shape = { nHeads: 4, nKvHeads: 2, headDimK: 16, headDimV: 8, scale: 0.25 };

async function outputs(spec: string, own: LayerShape, script: Script): Promise<Float32Array> {
  const { cache, out } = await attendAll(spec, kernels, own, script);
  cache.dispose();
  return out;
}

describe('loki', () => {
  test('weighs as h1b does and loses nothing of the values', async () => {
    const script = normalScript(new Random(1), shape, 150);
    // Whole numbers from 0 to 15, both in every row, are what h1b's 4-bit codes hold exactly.
    const random = new Random(2);
    const fill = (at: number) => [0, 15][at % shape.headDimV] ?? Math.floor(16 * random.uniform());
    const whole = { ...script, v: script.v.map((_, at) => fill(at)) };
    const apart = async (s: Script) =>
      largestDifference(await outputs('loki:b=64', shape, s), await outputs('h1b:b=64', shape, s));
    expect(await apart(whole)).toBeLessThan(5e-3);
    expect(await apart(script)).toBeGreaterThan(0.05);
  });

  test('a value that alone is seen comes back in f16', async () => {
    const script = normalScript(new Random(3), shape, 1);
    const out = await outputs('loki', shape, script);
    const group = shape.nHeads / shape.nKvHeads;
    out.forEach((x, at) => {
      const kvHead = Math.floor(at / shape.headDimV / group);
      const value = script.v[kvHead * shape.headDimV + (at % shape.headDimV)];
      expect(Math.abs(x - value)).toBeLessThanOrEqual(Math.abs(value) * 2 ** -11);
    });
  });

  test('bytes: b bits for a key, 16 for each element of a value', async () => {
    const cache = await createCache('loki:b=64', [shape], kernels);
    cache.begin(128);
    expect(cache.bytes()).toMatchObject({
      keys: (128 * shape.nKvHeads * 64) / 8,
      values: 128 * shape.nKvHeads * shape.headDimV * 2,
      scales: 0,
      codebooks: shape.nKvHeads * 64 * shape.headDimK,
    });
    cache.dispose();
  });

  test('specs', async () => {
    const spec = async (text: string) => {
      const cache = await createCache(text, [shape], kernels);
      cache.dispose();
      return cache.spec;
    };
    expect(await spec('loki')).toBe('loki:sketch,b=256,seed=0,t=0.07');
    expect(await spec('loki:t=0.1,b=32')).toBe('loki:sketch,b=32,seed=0,t=0.1');
    expect(await spec('loki:pca')).toBe('loki:pca,d=0.25,top=0.25,n=256');
    for (const text of ['loki', 'loki:pca,top=0.5'])
      expect(await spec(await spec(text))).toBe(await spec(text));
    for (const text of [
      'loki:lda',
      'loki:pca,b=64',
      'loki:d=0.5',
      'loki:pca,d=0',
      'loki:pca,top=2',
    ]) {
      await expect(spec(text)).rejects.toMatchObject({ code: 'usage' });
    }
  });
});

describe('loki:pca', () => {
  const one = { nHeads: 1, nKvHeads: 1, headDimK: 16, headDimV: 8, scale: 0.5 };
  const positions = 160;

  /** A script whose keys lie in a random space of `rank` dimensions. */
  function flatScript(rank: number): Script {
    const random = new Random(4);
    const script = normalScript(random, one, positions);
    const directions = Array.from({ length: rank }, () =>
      Float32Array.from({ length: one.headDimK }, () => random.normal()),
    );
    for (let j = 0; j < positions; j++) {
      const key = script.k.subarray(j * one.headDimK, (j + 1) * one.headDimK).fill(0);
      for (const direction of directions) {
        const share = random.normal() / Math.sqrt(rank);
        direction.forEach((x, c) => (key[c] += share * x));
      }
    }
    return script;
  }

  /** Exact attention of the last query to the `count` keys with the largest scores. */
  function bestOfAll({ k, v, q }: Script, count: number): Float64Array {
    const d = one.headDimK;
    const query = q.subarray((positions - 1) * d);
    const scored = Array.from({ length: positions }, (_, j) => {
      let score = 0;
      for (let c = 0; c < d; c++) score += query[c] * k[j * d + c];
      return { j, score: score * one.scale };
    });
    const best = scored.sort((a, b) => b.score - a.score).slice(0, count);
    const total = best.reduce((sum, { score }) => sum + Math.exp(score), 0);
    return Float64Array.from({ length: one.headDimV }, (_, c) =>
      best.reduce((sum, { j, score }) => sum + (Math.exp(score) / total) * v[j * 8 + c], 0),
    );
  }

  const lastError = (out: Float32Array, expected: Float64Array) =>
    largestDifference(out.slice(-one.headDimV), Float32Array.from(expected));

  test('finds the best keys if they lie in no more dimensions than it looks at', async () => {
    // 4 of 16 dimensions, 16 of 160 positions
    const spec = 'loki:pca,d=0.25,top=0.1,n=64';
    const expected = (script: Script) => bestOfAll(script, 16);
    const flat = flatScript(4);
    expect(lastError(await outputs(spec, one, flat), expected(flat))).toBeLessThan(0.001);
    const full = flatScript(16);
    expect(lastError(await outputs(spec, one, full), expected(full))).toBeGreaterThan(0.01);
  });

  test('its bytes are those of f16 and the basis', async () => {
    const cache = await createCache('loki:pca,d=0.25', [one], kernels);
    cache.begin(512);
    const { keys, values, codebooks, total } = cache.bytes();
    expect([keys, values, codebooks]).toEqual([512 * 16 * 2, 512 * 8 * 2, 4 * 16 * 2]);
    expect(total).toBe(keys + values + codebooks);
    cache.dispose();
  });

  test('the directions are those of the most energy', () => {
    const random = new Random(5);
    const keys = Float32Array.from({ length: 500 * 8 }, (_, at) => random.normal() * (at % 8));
    const directions = principalDirections(keys, 8);
    expect(Math.abs(directions[7])).toBeGreaterThan(0.95);
    expect(Math.abs(directions[8 + 6])).toBeGreaterThan(0.9);
  });
});
