import { expect, test } from 'vitest';
import { roofline } from './roofline.ts';

test('a kernel that reads at half the speed of memory takes twice the time', () => {
  const rows = roofline({
    threads: 2,
    memoryGigabytes: 30,
    linear: [{ dtype: 'q8_0', vectorGigabytes: 15, matrixGigaops: 1 }],
    attention: [{ method: 'f16', depth: 8192, bytes: 200e6, attendMs: 20 }],
  });
  const common = { threads: 2, memoryGigabytes: 30 };
  expect(rows).toEqual([
    { ...common, kernel: 'linear q8_0', gigabytes: 15, timesOfReading: 2 },
    { ...common, kernel: 'attend f16 at 8192', gigabytes: 10, timesOfReading: 3 },
  ]);
});
