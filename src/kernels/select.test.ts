import { platform } from '#kernels-platform';
import { expect, it, vi } from 'vitest';
import { KvError } from '../errors/errors.ts';
import { ReferenceKernels } from './reference.ts';
import { createKernels } from './select.ts';

it.each(['reference', 'wasm'] as const)('starts %s by name', async (name) => {
  const kernels = await createKernels(name, { threads: 1 });
  expect(kernels.backend).toBe(name);
  expect(kernels.threads).toBe(1);
  kernels.dispose();
});

it('auto is native, and where there is no addon WebAssembly, which says why', async () => {
  const native = vi.spyOn(platform, 'createNativeKernels');
  native.mockImplementation(() => new ReferenceKernels('as if native'));
  const first = await createKernels('auto', { threads: 2 });
  expect(first.description).toMatch(/as if native/);
  native.mockImplementation(() => {
    throw new KvError('backend', 'no native addon: cc not found at build.');
  });
  const second = await createKernels('auto', { threads: 2 });
  expect(second.backend).toBe('wasm');
  expect(second.threads).toBe(2);
  expect(second.description).toMatch(/2 threads \(no native addon: cc not found at build\)$/);
  second.dispose();
  await expect(createKernels('native')).rejects.toThrow(/cc not found at build.*--backend auto/);
  native.mockRestore();
});

it('auto takes what the environment names, and refuses what it does not know', async () => {
  const environment = vi.spyOn(platform, 'environmentBackend');
  environment.mockReturnValue('reference');
  expect((await createKernels('auto')).backend).toBe('reference');
  const wasm = await createKernels('wasm', { threads: 1 });
  expect(wasm.backend).toBe('wasm');
  wasm.dispose();
  environment.mockReturnValue('native-z80');
  await expect(createKernels('auto')).rejects.toMatchObject({
    code: 'usage',
    message: expect.stringMatching(/H1BKV_BACKEND.*z80.*native-avx2/),
  });
  environment.mockRestore();
});

it('auto takes one thread where workers are refused, and says why', async () => {
  const native = vi.spyOn(platform, 'createNativeKernels').mockImplementation(() => {
    throw new KvError('backend', 'no native addon: none here.');
  });
  const refused = vi.spyOn(platform, 'startThread').mockImplementation((_body, _data, receive) => {
    queueMicrotask(() => receive({ error: 'workers are refused here' }));
    return { stop: () => {} };
  });
  const kernels = await createKernels('auto', { threads: 2 });
  refused.mockRestore();
  native.mockRestore();
  expect(kernels.backend).toBe('wasm');
  expect(kernels.threads).toBe(1);
  expect(kernels.description).toMatch(/none here; .*workers are refused here/);
  kernels.dispose();
});

it('auto does not hide a wrong call behind the slow backend', async () => {
  await expect(createKernels('auto', { threads: 0 })).rejects.toMatchObject({ code: 'range' });
});

it('refuses webgpu and names what there is', async () => {
  await expect(createKernels('webgpu')).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringMatching(/auto, native.*wasm, reference/),
  });
});
