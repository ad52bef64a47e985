import { KvError } from '../errors/errors.ts';
import { platform } from '#kernels-platform';
import type { KernelExports } from './compiled-kernels.ts';
import { createMemory, Heap } from './memory.ts';
import type { Thread } from './platform.ts';

/** Sizes and addresses are u32, seen as signed where they come back. */
export interface WasmExports extends KernelExports {
  readonly __stack_pointer: WebAssembly.Global;
  readonly __heap_base: WebAssembly.Global;
  pool_stop(): void;
  pool_fail(): void;
}

/** A running copy of the kernels, its memory and its threads. */
export interface WasmInstance {
  readonly exports: WasmExports;
  readonly heap: Heap;
  readonly threads: readonly Thread[];
}

/** The stack of a worker; the main thread's is part of the module. */
const stackBytes = 256 << 10;

/**
 * The body of a worker thread. Every instance starts with the main thread's stack pointer, so each
 * worker is given a stack of its own. Only JavaScript notices a trap: it tells the pool, which
 * would wait for ever.
 */
const workerBody = `async ({ module, memory, stackTop }, post) => {
  let exports;
  try {
    ({ exports } = await WebAssembly.instantiate(module, { env: { memory } }));
    exports.__stack_pointer.value = stackTop;
    post({ ready: true });
    exports.worker_loop();
  } catch (error) {
    if (exports) exports.pool_fail();
    post({ error: String(error) });
  }
}`;

/** A module of one instruction, i8x16.relaxed_swizzle, which only relaxed SIMD has. */
const relaxedProbe = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0],
  ...[65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11],
);

export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(relaxedProbe);
}

/** Why threads cannot share memory here, or undefined if they can. */
export function noSharedMemory(): string | undefined {
  // First what the host says: browsers hide SharedArrayBuffer from pages that are not isolated.
  if (platform.noSharedMemory !== undefined) return platform.noSharedMemory;
  return typeof SharedArrayBuffer === 'undefined'
    ? 'the engine has no SharedArrayBuffer'
    : undefined;
}

/**
 * Loads one of the four builds and starts `threads - 1` workers.
 * @throws KvError "backend" if the file is missing or a thread does not start
 */
export async function instantiate(
  threads: number,
  shared: boolean,
  relaxed: boolean,
): Promise<WasmInstance> {
  const fileName = `kernels${shared ? '-shared' : ''}${relaxed ? '-relaxed' : ''}.wasm`;
  const memory = createMemory(shared);
  const module = await compile(fileName);
  const instance = await WebAssembly.instantiate(module, { env: { memory } });
  const exports = instance.exports as unknown as WasmExports;
  const heap = new Heap(memory, exports.__heap_base.value >>> 0);

  const workers: Thread[] = [];
  const ready = Array.from({ length: threads - 1 }, () => {
    const stackTop = heap.allocate(stackBytes) + stackBytes;
    return startWorker({ module, memory, stackTop }, exports, workers);
  });
  try {
    await Promise.all(ready);
  } catch (error) {
    for (const worker of workers) worker.stop();
    throw error;
  }
  return { exports, heap, threads: workers };
}

async function compile(fileName: string): Promise<WebAssembly.Module> {
  const bytes = await platform.readWasm(fileName);
  try {
    return await WebAssembly.compile(bytes);
  } catch (cause) {
    throw new KvError(
      'backend',
      `wasm: this engine cannot compile ${fileName} (${String(cause)}). It needs WebAssembly SIMD; use --backend reference or a newer engine.`,
      { cause },
    );
  }
}

/** Adds a worker to `threads`; resolves when it waits for work. */
function startWorker(data: object, exports: WasmExports, threads: Thread[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const thread = platform.startThread(workerBody, data, (message) => {
      if ('ready' in message) return resolve();
      exports.pool_fail();
      reject(new KvError('backend', `wasm: a worker thread died: ${message.error}`));
    });
    threads.push(thread);
  });
}
