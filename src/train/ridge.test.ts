import { expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import { adapterBytes } from '../model/adapter-file.ts';
import type { KvCache } from '../cache/cache.ts';
import type { Finetuned } from '../cache/finetuned.ts';
import type { Tensor } from '../kernels/kernels.ts';
import type { Model } from '../model/model.ts';
import { fitRidge } from './ridge.ts';

const shape = { nLayers: 2, architecture: 'qwen2' as const };
const bits = 32;

async function fitted(model: Model, ids: Int32Array): Promise<Finetuned> {
  const temperatures = model.layers.map(({ nHeads }) => Array<number>(nHeads).fill(0.3));
  return fitRidge(model, ids, 'ridge', { bits, seed: 1, temperatures, byNorm: true });
}

const someIds = (from: number, n: number, vocab: number) =>
  Int32Array.from({ length: n }, (_, i) => ((from + i) * 37 + ((from + i) % 7) * 11 + 5) % vocab);

/** What attention of the first layer gives, [positions, nHeads * headDimV]. */
async function firstOutputs(model: Model, spec: string, ids: Int32Array): Promise<Float32Array> {
  const cache = await model.createCache(spec);
  const attend = cache.attend.bind(cache);
  let seen = new Float32Array();
  Object.assign(cache, {
    attend: (...[layer, q, out]: Parameters<KvCache['attend']>) => {
      attend(layer, q, out);
      if (layer === 0) seen = (model.kernels.view(out as Tensor) as Float32Array).slice();
    },
  });
  await model.forward([{ ids, cache }]);
  cache.dispose();
  return seen;
}

test('brings the outputs of attention nearer to the exact ones, on another text too', async () => {
  const base = await forgeModel(shape);
  const part = await fitted(base, someIds(0, 480, base.vocabSize));
  // The same R and temperatures, and nothing added to the values.
  const without = {
    ...part,
    name: 'without',
    layers: part.layers.map((layer) => ({ ...layer, values: [] })),
  };
  const adapter = { model: base.hash, text: '', temperatures: [], finetuned: [part, without] };
  const model = await forgeModel(shape, { adapter: adapterBytes(adapter) });
  expect(model.adapter).toEqual(adapter);
  const errorOf = async (name: string, ids: Int32Array) => {
    const exact = await firstOutputs(model, 'f32', ids);
    const own = await firstOutputs(model, `h1b:tuned=${name}`, ids);
    return exact.reduce((sum, x, i) => sum + (x - own[i]) ** 2, 0);
  };
  for (const from of [0, 5000]) {
    const ids = someIds(from, 400, model.vocabSize);
    const ratio = (await errorOf('ridge', ids)) / (await errorOf('without', ids));
    expect(ratio).toBeLessThan(0.95);
  }
  model.dispose();
  base.dispose();
});

test('leaves nothing allocated but the scratch of the model', async () => {
  const model = await forgeModel(shape);
  const ids = someIds(0, 120, model.vocabSize);
  await fitted(model, ids);
  const before = model.kernels.allocatedBytes;
  await fitted(model, ids);
  expect(model.kernels.allocatedBytes).toBe(before);
  model.dispose();
});
