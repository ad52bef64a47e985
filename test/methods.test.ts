/** What every cache method must keep inside a whole model. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cacheMethods } from '../src/cache/registry.ts';
import { feed } from '../src/generate/generate.ts';
import { Random } from '../src/math/random.ts';
import type { Model } from '../src/model/model.ts';
import { forgeModel } from './forged.ts';

let model: Model;
beforeAll(async () => {
  model = await forgeModel();
});
afterAll(() => model.dispose());

/** longer than what methods learn from, and than a window */
const length = 400;

test.each(Object.keys(cacheMethods))(
  '%s: steps of 1, 7, 64 and 512 give the same logits',
  async (method) => {
    const random = new Random(5);
    const tokens = Array.from({ length }, () => random.uint32() % model.vocabSize);
    const logits: Float32Array[] = [];
    for (const chunkSize of [512, 64, 7, 1]) {
      const cache = await model.createCache(method);
      logits.push((await feed(model, cache, tokens, { chunkSize })).slice());
      expect(cache.length).toBe(length);
      cache.dispose();
    }
    const [whole, ...others] = logits;
    const spread = Math.max(...whole) - Math.min(...whole);
    for (const other of others) {
      const worst = other.reduce((w, x, i) => Math.max(w, Math.abs(x - whole[i])), 0);
      expect(worst / spread).toBeLessThan(1e-4);
    }
  },
  30_000,
);
