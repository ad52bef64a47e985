import { describe, expect, it } from 'vitest';
import { describeCodes } from './codes-contract.ts';
import type { HostArray, Kernels } from './kernels.ts';
import { weightDTypes } from '../math/dtype.ts';
import { Random } from '../math/random.ts';
import {
  attendCases,
  bytes,
  codecOf,
  describeKernels,
  describeRefusals,
  hostileRows,
  normals,
  results,
  segmentsOf,
  weights,
  type Workspace,
} from './kernels-contract.ts';
import { createWasmKernels, type WasmOptions } from './wasm.ts';
import { hasRelaxedSimd, instantiate } from './wasm-module.ts';
import { rows } from './tensor.ts';

const builds: Record<string, WasmOptions> = {
  'wasm, single': { threads: 1, shared: false, relaxed: false },
  'wasm, shared, 1 thread': { threads: 1, shared: true, relaxed: false },
  'wasm, shared, 2 threads': { threads: 2, relaxed: false },
  'wasm, shared, 3 threads': { threads: 3, relaxed: false },
  'wasm, relaxed, single': { threads: 1, shared: false, relaxed: true },
  'wasm, relaxed, 2 threads': { threads: 2, relaxed: true },
};

for (const [name, options] of Object.entries(builds)) {
  if (options.relaxed && !hasRelaxedSimd()) {
    const reason = 'this engine has no relaxed SIMD: Node 22 and later have';
    process.stderr.write(`skipped: kernels of ${name}: ${reason}\n`);
    it.skip(`${name} (${reason})`, () => undefined);
  } else {
    describeKernels(name, () => createWasmKernels(options));
    describeCodes(name, () => createWasmKernels(options));
    describeRefusals(name, () => createWasmKernels(options));
  }
}

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
      const [tables, x] = [w.zeros('u8', [6, 5, 16, 2, 16]), w.f32([5, 6, 64], keys)];
      w.kernels.storeCodes(x, codec, page, scales, 30);
      w.kernels.queryTables(x, codec, tables, steps);
      const [codes, params] = [w.zeros('u8', [6, 5, 24]), w.zeros('f16', [6, 5, 2])];
      const values = w.f32([5, 6, 64], hostileRows(random, 5 * 6, 64, 65504));
      w.kernels.storeAffine(values, codes, params, 3, 0, { clip: true });
      return [page, scales, tables, steps, codes, params];
    }),
    ...Object.values(attendCases).map((c) => {
      const out = w.zeros('f32', [c.shape.n, c.shape.nHeads, c.shape.headDimV]);
      w.kernels.attend(segmentsOf(w, c, 22), c.shape, out);
      return out;
    }),
  ]);
}

describe('wasm: results do not depend', () => {
  it('on the number of threads', async () => {
    const all = [
      { threads: 1, shared: false },
      { threads: 1, shared: true },
      { threads: 2 },
      { threads: 3 },
    ];
    const outputs: HostArray[][] = [];
    for (const options of all) {
      const kernels = await createWasmKernels(options);
      outputs.push(await everyParallelKernel(kernels));
      kernels.dispose();
    }
    for (const output of outputs) expect(output).toEqual(outputs[0]);
  });

  it('on how many positions are asked at once', async () => {
    const kernels = await createWasmKernels({ threads: 1 });
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

describe('wasm: starting and stopping', () => {
  it('a thread that died ends the wait for it, and every call from then on says so', async () => {
    const { exports, heap, threads } = await instantiate(2, true, false);
    const [rows, columns] = [4096, 32];
    const weight = heap.allocate(rows * columns * 4);
    const [x, out, parts] = [heap.allocate(128), heap.allocate(rows * 4), heap.allocate(16)];
    new Uint32Array(heap.memory.buffer, parts, 4).set([weight, out, rows, 0]);
    const scratch = heap.allocate(exports.linear_scratch_bytes(1, columns, 2));
    expect(exports.linear(x, 1, columns, parts, 1, scratch)).toBe(0);
    exports.pool_fail();
    expect(exports.linear(x, 1, columns, parts, 1, scratch)).toBe(3);
    exports.pool_stop();
    for (const thread of threads) thread.stop();
  });

  it('refuses thread counts and options that make no sense', async () => {
    for (const threads of [0, -1, 1.5, 65]) {
      await expect(createWasmKernels({ threads })).rejects.toMatchObject({ code: 'range' });
    }
    await expect(createWasmKernels({ threads: 2, shared: false })).rejects.toMatchObject({
      code: 'usage',
    });
  });

  it('says what it is', async () => {
    const kernels = await createWasmKernels({ threads: 2, relaxed: false });
    expect(kernels.description).toBe('wasm: SIMD128, 2 threads');
    expect(kernels.threads).toBe(2);
    kernels.dispose();
    expect(() => kernels.alloc(1)).toThrow(/disposed/);
    kernels.dispose();
  });
});
