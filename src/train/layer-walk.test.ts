import { expect, test } from 'vitest';
import { forgeModel } from '../../test/forged.ts';
import { createCache } from '../cache/registry.ts';
import type { Tensor } from '../kernels/kernels.ts';
import { allocTensor } from '../kernels/tensor.ts';
import type { Model } from '../model/model.ts';
import { LayerWalk } from './layer-walk.ts';
import { collectStatistics } from './statistics.ts';
import { watch } from './watch.ts';

const someIds = (n: number, vocab: number) =>
  Int32Array.from({ length: n }, (_, i) => (i * 37 + (i % 7) * 11 + 5) % vocab);

const windowed = { window: 50, chunk: 20 };

/** What the model says of every position, its own forward pass being run on each window. */
async function ownLogits(model: Model, ids: Int32Array): Promise<Float32Array> {
  const all = new Float32Array(ids.length * model.vocabSize);
  for (let start = 0; start < ids.length; start += windowed.window) {
    const cache = await model.createCache('f16');
    const some = ids.subarray(start, start + windowed.window);
    const logits = await model.forward([{ ids: some, cache }], 'all');
    all.set((await model.kernels.read(logits)) as Float32Array, start * model.vocabSize);
    cache.dispose();
  }
  return all;
}

test('layer by layer a text comes out as it does from the whole model', async () => {
  const model = await forgeModel();
  const { kernels, parts } = model;
  const ids = someIds(120, model.vocabSize);
  const walk = new LayerWalk(model, ids, windowed);
  let last = new Float32Array();
  for (const [layer, shape] of model.layers.entries()) {
    const newCache = () => createCache('f16', [shape], kernels);
    await walk.peek(layer, newCache);
    await walk.advance(layer, newCache);
    last = walk.stream.slice();
  }
  const { dModel, rmsEpsilon } = parts.config;
  const x = allocTensor(kernels, 'f32', [ids.length, dModel]);
  const logits = allocTensor(kernels, 'f32', [ids.length, model.vocabSize]);
  kernels.write(x, last);
  kernels.rmsNorm(x, parts.outputNorm, rmsEpsilon, x);
  kernels.linear(x, [{ weight: parts.output, out: logits }]);
  const walked = (await kernels.read(logits)) as Float32Array;
  const expected = await ownLogits(model, ids);
  expect(Math.max(...expected.map(Math.abs))).toBeGreaterThan(0.1);
  expect(Math.max(...walked.map((y, i) => Math.abs(y - expected[i])))).toBeLessThan(1e-4);
  walk.dispose();
  model.dispose();
});

test('statistics are those of the keys and values that the whole model has', async () => {
  const model = await forgeModel({ nLayers: 3 });
  const ids = someIds(120, model.vocabSize);
  const view = (t: Tensor) => model.kernels.view(t) as Float32Array;
  const seen = model.layers.map(() => ({ keys: new Array<number>(), values: new Array<number>() }));
  for (let start = 0; start < ids.length; start += windowed.window) {
    const watcher = {
      append: (layer: number, k: Tensor, v: Tensor) => {
        seen[layer].keys.push(...view(k));
        seen[layer].values.push(...view(v));
      },
      attend: () => undefined,
    };
    const cache = watch(await model.createCache('f16'), watcher);
    await model.forward([{ ids: ids.subarray(start, start + windowed.window), cache }]);
    cache.dispose();
  }
  const statistics = await collectStatistics(model, ids, { window: windowed.window });
  const meanOf = (rows: number[], width: number, f: (row: number[]) => number) => {
    let sum = 0;
    for (let at = 0; at < rows.length; at += width) sum += f(rows.slice(at, at + width));
    return sum / (rows.length / width);
  };
  model.layers.forEach(({ nKvHeads, headDimK: d, headDimV }, layer) => {
    const { keys, values } = seen[layer];
    const { keyMean, keys: covariance, valueMean } = statistics[layer];
    const width = nKvHeads * d;
    keyMean.forEach((mean, c) =>
      expect(mean).toBeCloseTo(
        meanOf(keys, width, (row) => row[c]),
        4,
      ),
    );
    valueMean.forEach((mean, c) =>
      expect(mean).toBeCloseTo(
        meanOf(values, nKvHeads * headDimV, (row) => row[c]),
        4,
      ),
    );
    const product = meanOf(keys, width, (row) => row[d] * row[d + 1]);
    const second = covariance[d * d + 1] + keyMean[d] * keyMean[d + 1];
    expect(second).toBeCloseTo(product, 4);
  });
  model.dispose();
});

test('more layers need no more memory', async () => {
  const most: number[] = [];
  for (const nLayers of [2, 6]) {
    const model = await forgeModel({ nLayers });
    const ids = someIds(120, model.vocabSize);
    const run = async (onProgress: () => void) => {
      await collectStatistics(model, ids, { window: windowed.window, onProgress });
    };
    // The first run leaves the model its scratch.
    await run(() => undefined);
    const before = model.kernels.allocatedBytes;
    let peak = 0;
    await run(() => (peak = Math.max(peak, model.kernels.allocatedBytes - before)));
    expect(model.kernels.allocatedBytes).toBe(before);
    most.push(peak);
    model.dispose();
  }
  expect(most[0]).toBeGreaterThan(0);
  expect(most[1]).toBe(most[0]);
});
