import { describe, expect, it } from 'vitest';
import { describeCodes } from './codes-contract.ts';
import { describeKernels, describeRefusals } from './kernels-contract.ts';
import { describeThreads } from './threads-contract.ts';
import { createWasmKernels, type WasmOptions } from './wasm.ts';
import { hasRelaxedSimd, instantiate } from './wasm-module.ts';

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

describeThreads('wasm', [
  () => createWasmKernels({ threads: 1, shared: false }),
  () => createWasmKernels({ threads: 1, shared: true }),
  () => createWasmKernels({ threads: 2 }),
  () => createWasmKernels({ threads: 3 }),
]);

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
