import { expect, test } from 'vitest';
import { ReferenceKernels } from '../kernels/reference.ts';
import { linearSpeed, undisturbed } from './linear.ts';
import { memoryReadSpeed } from './memory-speed-node.ts';

test('every format gets both speeds, and the memory is given back', async () => {
  const kernels = new ReferenceKernels();
  const options = { weightBytes: 5000, rounds: 1 };
  const rows = await linearSpeed(kernels, ['q8_0', 'q4_k'], options);
  expect(rows.map(({ dtype }) => dtype)).toEqual(['q8_0', 'q4_k']);
  for (const { vectorGigabytes, matrixGigaops } of rows) {
    expect(vectorGigabytes).toBeGreaterThan(0);
    expect(matrixGigaops).toBeGreaterThan(0);
  }
  expect(kernels.allocatedBytes).toBe(0);
});

test('the speed of a machine that others use too is that of its few free moments', () => {
  const speeds = Array.from({ length: 100 }, (_, i) => (i < 90 ? 1 : 8 + (i - 90) / 100));
  expect(undisturbed(speeds)).toBe(8.04);
  expect(undisturbed([3])).toBe(3);
});

test('memory is read faster than any disk and slower than any cache', async () => {
  const speed = await memoryReadSpeed(1);
  expect(speed).toBeGreaterThan(0.2);
  expect(speed).toBeLessThan(2000);
});
