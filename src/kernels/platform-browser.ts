import { KvError } from '../errors/errors.ts';
import type { Platform, ThreadMessage } from './platform.ts';

export const platform: Platform = {
  hardwareThreads: navigator.hardwareConcurrency,
  hasAddons: false,
  createNativeKernels() {
    throw new KvError('backend', 'native: a browser runs no addons.');
  },
  environmentBackend: () => undefined,
  noSharedMemory: noSharedMemory(),

  async readWasm(fileName) {
    const url = new URL(`./wasm/${fileName}`, import.meta.url);
    const response = await fetch(url);
    if (!response.ok) {
      throw new KvError(
        'backend',
        `wasm: ${url.href} answers ${response.status}. Serve the package's wasm folder beside its scripts.`,
      );
    }
    return response.arrayBuffer();
  },

  startThread(body, data, receive) {
    const source = `onmessage = ({ data }) => (${body})(data, postMessage);`;
    const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
    const worker = new Worker(url);
    URL.revokeObjectURL(url);
    worker.onmessage = (event: MessageEvent<ThreadMessage>) => receive(event.data);
    // Only a script that ran has a message.
    worker.onerror = ({ message = 'the page refuses its script; allow blob: in worker-src' }) =>
      receive({ error: message });
    worker.postMessage(data);
    return { stop: () => worker.terminate() };
  },
};

function noSharedMemory(): string | undefined {
  if (!globalThis.crossOriginIsolated) return 'the page is not cross-origin isolated';
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
    return undefined;
  } catch {
    // The kernels wait for their threads, and what the user sees must never wait.
    return "a page's main thread may not wait for others: load the model in a worker";
  }
}
