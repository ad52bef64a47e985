import { expect, test } from 'vitest';
import { createKernels } from '../kernels/select.ts';
import { Random } from '../math/random.ts';
import { attendMatrices, firstRows, products, rowOf, type Matrix } from './matrix-attention.ts';

function normal(random: Random, rows: number, columns: number): Matrix {
  const data = Float32Array.from({ length: rows * columns }, () => random.normal());
  return { rows, columns, data };
}

test('what a query gets does not depend on later keys or on other queries', async () => {
  const kernels = await createKernels('auto', { threads: 1 });
  const random = new Random(3);
  const [queries, keys, values] = [5, 200, 200].map((rows) => normal(random, rows, 40));
  const hideFrom = (seen: number) => (_: number, row: Float32Array) => row.fill(-Infinity, seen);
  for (const seen of [1, 63, 64, 65, 130]) {
    const all = attendMatrices(kernels, { queries, keys, values, scale: 0.3 }, hideFrom(seen));
    const alone = attendMatrices(
      kernels,
      {
        queries: firstRows(queries, 1),
        keys: firstRows(keys, seen),
        values: firstRows(values, seen),
        scale: 0.3,
      },
      hideFrom(seen),
    );
    expect(rowOf(alone.out, 0)).toEqual(rowOf(all.out, 0));
  }
  kernels.dispose();
});

test('products are those of rows', async () => {
  const kernels = await createKernels('reference');
  const random = new Random(4);
  const [a, b] = [normal(random, 2, 70), normal(random, 3, 70)];
  const { rows, columns, data } = products(kernels, a, b);
  expect([rows, columns]).toEqual([2, 3]);
  const dot = rowOf(a, 1).reduce((sum, x, i) => sum + x * rowOf(b, 2)[i], 0);
  expect(data[5]).toBeCloseTo(dot, 4);
  kernels.dispose();
});
