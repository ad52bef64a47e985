import { platform } from '#kernels-platform';
import { expect, it, vi } from 'vitest';
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

it('auto takes one thread where workers are refused, and says why', async () => {
  const refused = vi.spyOn(platform, 'startThread').mockImplementation((_body, _data, receive) => {
    queueMicrotask(() => receive({ error: 'workers are refused here' }));
    return { stop: () => {} };
  });
  const kernels = await createKernels('auto', { threads: 2 });
  refused.mockRestore();
  expect(kernels.backend).toBe('wasm');
  expect(kernels.threads).toBe(1);
  expect(kernels.description).toMatch(/workers are refused here/);
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
