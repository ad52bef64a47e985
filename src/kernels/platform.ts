import type { Kernels } from './kernels.ts';
import type { NativeOptions } from './native.ts';

/** What the backends need of their host; the package's `imports` pick the file. */
export interface Platform {
  /** Threads that the machine can run at once. */
  readonly hardwareThreads: number;
  /** Whether a program here may hold machine code of its own. */
  readonly hasAddons: boolean;
  /** Starts the kernels compiled for this machine. @throws KvError "backend" if there are none */
  createNativeKernels(options: NativeOptions): Kernels;
  /** The backend that the user's environment names, in H1BKV_BACKEND. */
  environmentBackend(): string | undefined;
  /** Why memory cannot be shared between threads here, or undefined if it can. */
  readonly noSharedMemory: string | undefined;
  /** The bytes of a compiled kernel file. @throws KvError "backend" if it was not built */
  readWasm(fileName: string): Promise<BufferSource>;
  /**
   * Runs `body`, the text of an async function (data, post), in a thread that does not keep the
   * program alive; `receive` gets what it posts, or the message of an error that it throws.
   */
  startThread(body: string, data: unknown, receive: (message: ThreadMessage) => void): Thread;
}

export type ThreadMessage = { ready: true } | { error: string };

export interface Thread {
  stop(): void;
}
