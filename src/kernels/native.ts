/** The kernels of native/ as machine code, in an addon that the build compiles. Node only. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { ensure, KvError } from '../errors/errors.ts';
import { CompiledKernels } from './compiled-kernels.ts';
import type { InstructionSet, Kernels } from './kernels.ts';
import { inWords, threadCount, type KernelExports, type Machine } from './machine.ts';

export interface NativeOptions {
  /** Threads that compute, this one included. Default: what the machine has, at most 16. */
  readonly threads?: number;
  /** Default: the best that this processor has. */
  readonly instructionSet?: InstructionSet;
}

const labels: Record<InstructionSet, string> = {
  avx512: 'AVX-512 VNNI',
  avx2: 'AVX2',
  neon: 'NEON with dot products',
  baseline: process.arch === 'arm64' ? 'NEON' : 'baseline',
};

/** What native/addon.c exports. */
interface Addon {
  /** For each instruction set that was compiled, best first, whether it runs here. */
  readonly instructionSets: Partial<Record<InstructionSet, boolean>>;
  open(instructionSet: InstructionSet, threads: number): AddonInstance;
}

interface AddonInstance extends KernelExports {
  allocate(sizeBytes: number): ArrayBuffer | null;
  release(memory: ArrayBuffer): void;
  map(descriptor: number, offset: number, sizeBytes: number): ArrayBuffer | null;
  unmap(memory: ArrayBuffer): void;
  address(memory: ArrayBuffer): number;
  close(): void;
}

/** Whether each instruction set runs here. @throws KvError "backend" if there is no addon */
export function instructionSets(): Partial<Record<InstructionSet, boolean>> {
  return load().instructionSets;
}

/**
 * Starts the native backend.
 * @throws KvError "backend" if it cannot run here, "range" for a number of threads that makes no sense
 */
export function createNativeKernels(options: NativeOptions = {}): Kernels {
  const threads = threadCount('native', options.threads, availableParallelism());
  const addon = load();
  const able = (Object.keys(addon.instructionSets) as InstructionSet[]).filter(
    (set) => addon.instructionSets[set],
  );
  const { instructionSet = able[0] } = options;
  ensure(
    able.includes(instructionSet),
    'backend',
    () => `native: ${instructionSet} does not run here; there are ${able.join(', ')}.`,
  );
  const description = `native: ${labels[instructionSet]}, ${inWords(threads)}`;
  const instance = openInstance(addon, instructionSet, threads);
  return new CompiledKernels(new NativeMachine(instance, description, threads));
}

// Beside the bundle in dist/, or where the build left it when running from the sources.
const folder = import.meta.url.endsWith('.ts') ? '../../build/native/' : './native/';

/** The addon, or why there is none, which does not change while the program runs. */
let loaded: Addon | KvError | undefined;

function load(): Addon {
  loaded ??= tryToLoad();
  if (loaded instanceof KvError) throw loaded;
  return loaded;
}

function tryToLoad(): Addon | KvError {
  const place = new URL(`${folder}${process.platform}-${process.arch}/`, import.meta.url);
  const path = fileURLToPath(new URL('kernels.node', place));
  if (!existsSync(path)) {
    const reason = new URL('reason.txt', place);
    const why = existsSync(reason)
      ? readFileSync(reason, 'utf8')
      : 'not built; "npm run build" makes it';
    return new KvError('backend', `no native addon: ${why}.`);
  }
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (cause) {
    const [line] = String(cause).split('\n');
    return new KvError('backend', `no native addon: it does not load (${line}).`, { cause });
  }
}

function openInstance(addon: Addon, set: InstructionSet, threads: number): AddonInstance {
  try {
    return addon.open(set, threads);
  } catch (cause) {
    throw new KvError('backend', `${(cause as Error).message}. Ask for fewer than ${threads}.`, {
      cause,
    });
  }
}

class NativeMachine implements Machine {
  readonly backend = 'native';
  readonly addressWords = 2;
  readonly maxBytes = memoryOfMachine();
  readonly description: string;
  readonly threads: number;
  readonly exports: KernelExports;
  private readonly instance: AddonInstance;
  private readonly memories = new Map<number, ArrayBuffer>();
  /** Addresses of those that are parts of files. */
  private readonly files = new Set<number>();
  private used = 0;

  constructor(instance: AddonInstance, description: string, threads: number) {
    this.instance = instance;
    this.exports = instance;
    this.description = description;
    this.threads = threads;
  }

  allocate(sizeBytes: number): number {
    const size = Math.max(sizeBytes, 1);
    const memory = this.used + size > this.maxBytes ? null : this.instance.allocate(size);
    if (memory === null) {
      throw new KvError(
        'memory',
        `native: cannot allocate ${sizeBytes} bytes beside the ${this.used} in use; the machine has ${this.maxBytes}. Use a shorter context, a more compressed cache or a smaller model.`,
      );
    }
    const address = this.instance.address(memory);
    this.memories.set(address, memory);
    this.used += size;
    return address;
  }

  free(address: number): void {
    const memory = this.bufferAt(address);
    this.memories.delete(address);
    if (this.files.delete(address)) {
      this.instance.unmap(memory);
      return;
    }
    this.used -= memory.byteLength;
    this.instance.release(memory);
  }

  mapFile(descriptor: number, offset: number, sizeBytes: number): number | undefined {
    const memory = this.instance.map(descriptor, offset, sizeBytes);
    if (memory === null) return undefined;
    const address = this.instance.address(memory);
    this.memories.set(address, memory);
    this.files.add(address);
    return address;
  }

  memory(address: number): { buffer: ArrayBufferLike; start: number } {
    return { buffer: this.bufferAt(address), start: 0 };
  }

  close(): void {
    for (const address of this.memories.keys()) this.free(address);
    this.instance.close();
  }

  private bufferAt(address: number): ArrayBuffer {
    const memory = this.memories.get(address);
    ensure(memory !== undefined, 'shape', () => 'native: this buffer was freed before.');
    return memory;
  }
}

/** Bytes of the machine, or of the container that the program is in. */
function memoryOfMachine(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}
