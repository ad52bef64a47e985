import { expect, test } from 'vitest';
import { createKernels } from '../kernels/select.ts';
import { namedShapes } from '../model/shapes.ts';
import { attentionAtDepths } from './attention.ts';

test('every method is timed at every depth, and the memory is given back', async () => {
  const kernels = await createKernels('wasm', { threads: 1 });
  const shape = { ...namedShapes['smollm2-135m'], nLayers: 6 };
  const phases: unknown[] = [];
  const onPhase = (...phase: unknown[]) => phases.push(phase);
  const options = { rounds: 1, weightBytes: 5000, onPhase };
  const rows = await attentionAtDepths(kernels, shape, ['f16', 'h1b'], [600, 40], options);
  expect(rows.map(({ method, depth }) => [method, depth])).toEqual([
    ['f16', 40],
    ['f16', 600],
    ['h1b', 40],
    ['h1b', 600],
  ]);
  for (const { attendMs } of rows) expect(attendMs).toBeGreaterThan(0);
  expect(phases).toEqual([
    ['f16', 0, 3],
    ['h1b', 1, 3],
    ['turns', 2, 3],
  ]);
  // A page of 128 positions, keys and values of 3 heads and 64 dimensions in f16, in 6 layers.
  const pageBytes = 128 * 2 * 3 * 64 * 2 * 6;
  expect(rows.slice(0, 2).map(({ bytes }) => bytes)).toEqual([pageBytes, 5 * pageBytes]);
  expect(kernels.allocatedBytes).toBe(0);
  kernels.dispose();
});
