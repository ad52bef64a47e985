import { expect, it } from 'vitest';
import { createKernels } from './select.ts';

it.each(['reference', 'wasm'] as const)('starts %s by name', async (name) => {
  const kernels = await createKernels(name, { threads: 1 });
  expect(kernels.backend).toBe(name);
  expect(kernels.threads).toBe(1);
  kernels.dispose();
});

it('auto is WebAssembly', async () => {
  const kernels = await createKernels('auto', { threads: 2 });
  expect(kernels.backend).toBe('wasm');
  expect(kernels.threads).toBe(2);
  kernels.dispose();
});

it('auto does not hide a wrong call behind the slow backend', async () => {
  await expect(createKernels('auto', { threads: 0 })).rejects.toMatchObject({ code: 'range' });
});

it.each(['native', 'webgpu'] as const)('refuses %s and names what there is', async (name) => {
  await expect(createKernels(name)).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringMatching(/auto, wasm and reference/),
  });
});
