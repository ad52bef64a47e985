import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import type { Model } from '../model/model.ts';
import { compareCaches, klDivergence } from './agreement.ts';

describe('klDivergence', () => {
  const logs = (...probabilities: number[]) => Float32Array.from(probabilities, Math.log);

  test('equals the sum by hand', () => {
    // 0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1) = 0.5108256
    expect(klDivergence(logs(0.5, 0.5), logs(0.9, 0.1))).toBeCloseTo(0.5108256, 6);
    // 0.2 ln(0.2 / 0.4) + 0.3 ln(0.3 / 0.4) + 0.5 ln(0.5 / 0.2) = 0.2332114
    expect(klDivergence(logs(0.2, 0.3, 0.5), logs(0.4, 0.4, 0.2))).toBeCloseTo(0.2332114, 6);
  });

  test('is zero for equal rows, and does not see a shift of all logits', () => {
    const row = Float32Array.of(3, -1, 0.5, 7);
    expect(klDivergence(row, row)).toBe(0);
    expect(
      klDivergence(
        row,
        row.map((x) => x + 4),
      ),
    ).toBeCloseTo(0, 6);
    expect(
      klDivergence(
        row.map((x) => x - 500),
        row.map((x) => x + 500),
      ),
    ).toBeCloseTo(0, 4);
  });

  test('large logits do not overflow', () => {
    expect(klDivergence(Float32Array.of(1000, 0), Float32Array.of(0, 1000))).toBeCloseTo(1000, 3);
  });
});

describe('compareCaches', () => {
  let model: Model;
  const ids = Int32Array.from({ length: 200 }, (_, i) => (i * 61) % 250);
  beforeAll(async () => {
    model = await forgeModel();
  });
  afterAll(() => model.dispose());

  const compare = async (reference: string, candidate: string, from?: number) => {
    const caches = [await model.createCache(reference), await model.createCache(candidate)];
    const agreement = await compareCaches(model, ids, caches[0], caches[1], from);
    for (const cache of caches) cache.dispose();
    return agreement;
  };

  test('two caches of one kind agree exactly', async () => {
    for (const spec of ['f16', 'h1b']) {
      expect(await compare(spec, spec)).toEqual({ positions: 200, top1: 1, kl: 0 });
    }
  });

  test('f16 is nearly f32; one bit is not, and more bits are nearer', async () => {
    const half = await compare('f32', 'f16');
    expect(half.kl).toBeGreaterThan(0);
    expect(half.kl).toBeLessThan(1e-5);
    expect(half.top1).toBeGreaterThan(0.98);
    const [few, many] = [await compare('f32', 'h1b:b=32'), await compare('f32', 'h1b:b=1024')];
    expect(many.kl).toBeGreaterThan(10 * half.kl);
    expect(few.kl).toBeGreaterThan(many.kl);
  });

  test('counts from a position on, as the mean of the parts', async () => {
    const all = await compare('f32', 'h1b:b=32');
    const late = await compare('f32', 'h1b:b=32', 150);
    expect(late.positions).toBe(50);
    const early = await compareCaches(
      model,
      ids.subarray(0, 150),
      await model.createCache('f32'),
      await model.createCache('h1b:b=32'),
    );
    expect((150 * early.kl + 50 * late.kl) / 200).toBeCloseTo(all.kl, 5);
    expect((150 * early.top1 + 50 * late.top1) / 200).toBeCloseTo(all.top1, 9);
  });

  test('no position to compare is refused', async () => {
    const usage = expect.objectContaining({ code: 'usage' });
    await expect(compare('f16', 'f16', 200)).rejects.toThrow(usage);
    await expect(compare('f16', 'f16', -1)).rejects.toThrow(usage);
  });
});
