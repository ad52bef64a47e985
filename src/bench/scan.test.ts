import { expect, test } from 'vitest';
import { ReferenceKernels } from '../kernels/reference.ts';
import { scanSpeed } from './scan.ts';

test('a scan counts the bytes of a key and every row, and gives its memory back', async () => {
  const kernels = new ReferenceKernels();
  const forms = [{ sketchBits: 256 }, { codeGroups: 16 }, { f16Dimensions: 64 }];
  const rows = await scanSpeed(kernels, forms, 3, 130, 1);
  expect(rows.map(({ form, bytesPerKey }) => [form, bytesPerKey])).toEqual([
    ['sketch of 256 bits', 32],
    ['codes of 16 groups', 10],
    ['f16 of 64 dimensions', 128],
  ]);
  for (const { rows: shared, keysPerSecond, bytesPerKey, gigabytesPerSecond } of rows) {
    expect(keysPerSecond).toBeGreaterThan(0);
    const bytesPerSecond = (keysPerSecond / shared) * bytesPerKey;
    expect(gigabytesPerSecond * 1e9).toBeCloseTo(bytesPerSecond, -3);
  }
  expect(kernels.allocatedBytes).toBe(0);
});
