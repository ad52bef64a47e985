/** What the backends made of C promise beyond the kernel contract: the same bits however a call is split. */
import { describe, expect, it } from 'vitest';
import type { HostArray, Kernels } from './kernels.ts';
import { weightDTypes } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import { attendCases, segmentsOf } from './attend-cases.ts';
import {
  bytes,
  codecOf,
  hostileRows,
  normals,
  results,
  weights,
  type Workspace,
} from './contract-tools.ts';
import { rows } from './tensor.ts';

/** One of everything that more than one thread works on. */
async function everyParallelKernel(kernels: Kernels): Promise<HostArray[]> {
  const random = new Random(21);
  const x = normals(random, 5 * 96);
  const q8 = weights(random, 'q8_0', [1000, 96]);
  const half = weights(random, 'f16', [1000, 96]);
  const keys = hostileRows(random, 5 * 6, 64, 1e30);
  const projection = Int8Array.from(bytes(random, 2 * 256 * 64));
  return results(kernels, (w) => [
    ...[1, 5].flatMap((n) => {
      const [a, b] = [w.zeros('f32', [n, 1000]), w.zeros('f32', [n, 1000])];
      w.kernels.linear(rows(w.f32([5, 96], x), 0, n), [
        { weight: w.put('q8_0', [1000, 96], q8), out: a },
        { weight: w.put('f16', [1000, 96], half), out: b },
      ]);
      return [a, b];
    }),
    ...[w.zeros('u32', [6, 5, 8])].map((page) => {
      const p = w.put('i8', [2, 256, 64], projection);
      w.kernels.storeSketch(w.f32([5, 6, 64], keys), p, page, 0);
      return page;
    }),
    ...[w.zeros('u8', [6, 3, 16, 16])].flatMap((page) => {
      const codec = codecOf(w, { nKvHeads: 6, groups: 16, d: 64, rule: 'unbiased' }, 25);
      const [scales, steps] = [w.zeros('f16', [6, 96]), w.zeros('f32', [6, 5])];
      const [tables, x] = [w.zeros('i8', [6, 5, 16, 16]), w.f32([5, 6, 64], keys)];
      w.kernels.storeCodes(x, codec, page, scales, 30);
      w.kernels.queryTables(x, codec, tables, steps);
      const [codes, params] = [w.zeros('u8', [6, 5, 32]), w.zeros('f16', [6, 5, 2])];
      const values = w.f32([5, 6, 64], hostileRows(random, 5 * 6, 64, 65504));
      w.kernels.storeAffine(values, codes, params, 0);
      const [fields, sizes] = [w.zeros('u8', [6, 5, 20]), w.zeros('f16', [6, 5])];
      const weights = w.f32([6, 64], new Float32Array(6 * 64).fill(1));
      w.kernels.storeFields(values, weights, fields, sizes, { fours: 24, twos: 32 }, 0);
      w.kernels.turn(values, w.blocks('q8_0', [2, 64, 64], normals(random, 2 * 64 * 64)));
      return [page, scales, tables, steps, codes, params, fields, sizes, values];
    }),
    ...Object.values(attendCases).map((c) => {
      const out = w.zeros('f32', [c.shape.n, c.shape.nHeads, c.shape.headDimV]);
      w.kernels.attend(segmentsOf(w, c, 22), c.shape, out);
      return out;
    }),
  ]);
}

/** @param starts the same kernels with more and more threads, the first with one */
export function describeThreads(name: string, starts: readonly (() => Promise<Kernels>)[]): void {
  describe(`${name}: results do not depend`, () => {
    it('on the number of threads', async () => {
      const outputs: HostArray[][] = [];
      for (const start of starts) {
        const kernels = await start();
        outputs.push(await everyParallelKernel(kernels));
        kernels.dispose();
      }
      for (const output of outputs) expect(output).toEqual(outputs[0]);
    });

    it('on how many positions are asked at once', async () => {
      const kernels = await starts[0]();
      const random = new Random(23);
      const columns = 768;
      const x = normals(random, 7 * columns);
      for (const dtype of weightDTypes) {
        const weight = weights(random, dtype, [30, columns]);
        const [together, apart] = await results(kernels, (w) => {
          const [all, one] = [w.zeros('f32', [7, 30]), w.zeros('f32', [7, 30])];
          const [input, table] = [w.f32([7, columns], x), w.put(dtype, [30, columns], weight)];
          kernels.linear(input, [{ weight: table, out: all }]);
          for (let i = 0; i < 7; i++) {
            kernels.linear(rows(input, i, 1), [{ weight: table, out: rows(one, i, 1) }]);
          }
          return [all, one];
        });
        expect(apart, dtype).toEqual(together);
      }
      const c = attendCases['causal prefill of several blocks'];
      const { n, start, nHeads, headDimV } = c.shape;
      const attendWith = (skip: number) => (w: Workspace) => {
        const [all, one] = [
          w.zeros('f32', [n, nHeads, headDimV]),
          w.zeros('f32', [n, nHeads, headDimV]),
        ];
        const segment = { ...segmentsOf(w, c, 24)[0], skip };
        kernels.attend([segment], c.shape, all);
        for (let i = 0; i < n; i++) {
          const query = rows(segment.query, i, 1);
          const shape = { ...c.shape, n: 1, start: start + i };
          kernels.attend([{ ...segment, query }], shape, rows(one, i, 1));
        }
        return [all, one];
      };
      const [together, apart] = await results(kernels, attendWith(0));
      expect(apart).toEqual(together);
      const [skipped, skippedApart] = await results(kernels, attendWith(0.2));
      expect(skippedApart).toEqual(skipped);
      expect(skipped).not.toEqual(together);
      kernels.dispose();
    });
  });
}
