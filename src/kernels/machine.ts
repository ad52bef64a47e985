/** What the C kernels of native/ run on, as `CompiledKernels` sees it. */
import { ensure } from '../errors/errors.ts';

/** The C kernels of native/, called with numbers; addresses are of the machine's memory. */
export interface KernelExports {
  embed(...args: number[]): void;
  rms_norm(...args: number[]): number;
  linear(...args: number[]): number;
  linear_scratch_bytes(...args: number[]): number;
  rope(...args: number[]): void;
  add(...args: number[]): void;
  add_bias(...args: number[]): void;
  swiglu(...args: number[]): void;
  store_rows(...args: number[]): number;
  store_sketch(...args: number[]): number;
  store_codes(...args: number[]): number;
  query_tables(...args: number[]): number;
  store_affine(...args: number[]): number;
  turn(...args: number[]): number;
  store_fields(...args: number[]): number;
  attend(...args: number[]): number;
  attend_scratch_bytes(...args: number[]): number;
  scores(...args: number[]): void;
}

/** What runs the C kernels: a WebAssembly instance, or the addon. */
export interface Machine {
  readonly backend: 'wasm' | 'native';
  /** One line for people. */
  readonly description: string;
  readonly threads: number;
  /** 32-bit words of an address in the structs of C. */
  readonly addressWords: 1 | 2;
  readonly maxBytes: number;
  readonly exports: KernelExports;
  /** Address of zeroed bytes, aligned to 64. @throws KvError "memory"; nothing is changed */
  allocate(sizeBytes: number): number;
  free(address: number): void;
  /** Address of bytes of a file, or undefined; see `Kernels.mapFile`. `free` takes it back. */
  mapFile?(descriptor: number, offset: number, sizeBytes: number): number | undefined;
  /** Where TypeScript sees what was allocated at an address. */
  memory(address: number): { readonly buffer: ArrayBufferLike; readonly start: number };
  /** Stops threads and releases all memory. */
  close(): void;
}

/** More threads than this only wait for memory; a caller may still ask for up to `maxThreads`. */
const maxDefaultThreads = 16;
const maxThreads = 64;

/** Threads of a backend. @throws KvError "range" for a number that makes no sense */
export function threadCount(backend: string, asked: number | undefined, hardware: number): number {
  const threads = asked ?? Math.min(hardware, maxDefaultThreads);
  ensure(
    Number.isInteger(threads) && threads >= 1 && threads <= maxThreads,
    'range',
    () => `${backend}: ${threads} threads; it must be a whole number from 1 to ${maxThreads}.`,
  );
  return threads;
}

/** For descriptions. */
export function inWords(threads: number): string {
  return threads === 1 ? '1 thread' : `${threads} threads`;
}
