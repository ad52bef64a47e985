import { expect, test } from 'vitest';
import { ReferenceKernels } from '../kernels/reference.ts';
import { linearSpeed } from './linear.ts';

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
