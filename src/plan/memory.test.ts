import { expect, test } from 'vitest';
import { createCache } from '../cache/registry.ts';
import { allocTensor } from '../kernels/tensor.ts';
import { createWasmKernels } from '../kernels/wasm.ts';
import { plannedBytes } from './plan.ts';

const layer = { nHeads: 8, nKvHeads: 8, headDimK: 128, headDimV: 128, scale: 1 };
const layers = Array.from({ length: 8 }, () => layer);
const positions = 4096;

/** What else a process does between two looks at its memory, in bytes. */
const slack = 12e6;

test('the process grows by the planned bytes', { timeout: 60_000 }, async () => {
  const kernels = await createWasmKernels({ threads: 1, shared: false });
  const chunk = 256;
  const rows = allocTensor(kernels, 'f32', [chunk, layer.nKvHeads, layer.headDimK]);
  kernels.write(rows, new Float32Array(chunk * layer.nKvHeads * layer.headDimK).fill(1));
  // Nothing is given back in between: when the engine frees memory is its own affair.
  for (const spec of ['h1b:b=128', 'f16']) {
    const planned = (await plannedBytes(spec, layers, positions)).total;
    const before = process.memoryUsage().rss;
    const cache = await createCache(spec, layers, kernels);
    while (cache.length < positions) {
      cache.begin(chunk);
      layers.forEach((_, l) => cache.append(l, rows, rows));
      cache.commit();
    }
    const grown = process.memoryUsage().rss - before;
    expect(cache.bytes().total).toBe(planned);
    expect(Math.abs(grown - planned), spec).toBeLessThan(slack + 0.02 * planned);
  }
  kernels.dispose();
});
