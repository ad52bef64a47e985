import { KvError } from '../errors/errors.ts';
import type { BackendName, Kernels } from './kernels.ts';
import { ReferenceKernels } from './reference.ts';
import { createWasmKernels } from './wasm.ts';

/**
 * Starts a backend by name; `auto` is the fastest that works here.
 * @param options threads: how many compute; the reference has one whatever is asked
 * @throws KvError "unsupported" for a backend that this version does not have, "backend" if it
 *   cannot start
 */
export async function createKernels(
  name: 'auto' | BackendName,
  options: { threads?: number } = {},
): Promise<Kernels> {
  switch (name) {
    case 'reference':
      return new ReferenceKernels();
    case 'wasm':
      return createWasmKernels(options);
    case 'auto':
      return fastest(options);
    default:
      throw new KvError(
        'unsupported',
        `kernels: no backend "${name}" in this version; there are auto, wasm and reference.`,
      );
  }
}

/** Threads, else one thread (a page may forbid workers), else plain TypeScript. */
async function fastest(options: { threads?: number }): Promise<Kernels> {
  try {
    return await createWasmKernels(options);
  } catch (threaded) {
    const reason = backendProblem(threaded);
    try {
      return await createWasmKernels({ threads: 1, shared: false, reason });
    } catch (single) {
      return new ReferenceKernels(backendProblem(single));
    }
  }
}

function backendProblem(error: unknown): string {
  if (error instanceof KvError && error.code === 'backend') return error.message;
  throw error;
}
