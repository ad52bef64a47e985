import { platform } from '#kernels-platform';
import { ensure } from '../errors/errors.ts';
import {
  CompiledKernels,
  inWords,
  threadCount,
  type KernelExports,
  type Machine,
} from './compiled-kernels.ts';
import type { Kernels } from './kernels.ts';
import { hasRelaxedSimd, instantiate, noSharedMemory, type WasmInstance } from './wasm-module.ts';

export interface WasmOptions {
  /** Threads that compute, this one included. Default: what the machine has, at most 16. */
  readonly threads?: number;
  /** Use relaxed SIMD. Default: if the engine has it. */
  readonly relaxed?: boolean;
  /** Use the build with shared memory. Default: if there is more than one thread. */
  readonly shared?: boolean;
  /** Why it is this backend, or not more threads, for the description. */
  readonly reasons?: readonly string[];
}

/**
 * Starts the WebAssembly backend.
 * @throws KvError "backend" if it cannot run here, "usage" if the options contradict each other
 */
export async function createWasmKernels(options: WasmOptions = {}): Promise<Kernels> {
  const wanted = threadCount('wasm', options.threads, platform.hardwareThreads);
  ensure(
    !(options.shared === false && (options.threads ?? 1) > 1),
    'usage',
    () => `wasm: ${wanted} threads need shared memory. Leave out shared: false.`,
  );
  const obstacle = noSharedMemory();
  ensure(
    obstacle === undefined || options.shared !== true,
    'backend',
    () => `wasm: no shared memory: ${obstacle}. Leave out shared: true.`,
  );
  const relaxed = options.relaxed ?? hasRelaxedSimd();
  const shared = options.shared ?? (wanted > 1 && obstacle === undefined);
  const threads = shared ? wanted : 1;
  const instance = await instantiate(threads, shared, relaxed);
  const simd = relaxed ? 'relaxed SIMD' : 'SIMD128';
  const reasons = [...(options.reasons ?? [])];
  if (wanted > threads && obstacle !== undefined) reasons.push(obstacle);
  const why = reasons.length > 0 ? ` (${reasons.join('; ')})` : '';
  const description = `wasm: ${simd}, ${inWords(threads)}${why}`;
  return new CompiledKernels(new WasmMachine(instance, description));
}

class WasmMachine implements Machine {
  readonly backend = 'wasm';
  readonly addressWords = 1;
  readonly maxBytes = 2 ** 32;
  readonly description: string;
  readonly threads: number;
  readonly exports: KernelExports;
  private readonly instance: WasmInstance;

  constructor(instance: WasmInstance, description: string) {
    this.instance = instance;
    this.description = description;
    this.threads = instance.threads.length + 1;
    const { linear_scratch_bytes, attend_scratch_bytes } = instance.exports;
    this.exports = {
      ...instance.exports,
      linear_scratch_bytes: (...args) => linear_scratch_bytes(...args) >>> 0,
      attend_scratch_bytes: (...args) => attend_scratch_bytes(...args) >>> 0,
    };
  }

  allocate(sizeBytes: number): number {
    return this.instance.heap.allocate(sizeBytes);
  }

  free(address: number): void {
    this.instance.heap.free(address);
  }

  /** Another buffer whenever an unshared memory grew. */
  memory(address: number): { buffer: ArrayBufferLike; start: number } {
    return { buffer: this.instance.heap.memory.buffer, start: address };
  }

  close(): void {
    this.instance.exports.pool_stop();
    for (const thread of this.instance.threads) thread.stop();
  }
}
