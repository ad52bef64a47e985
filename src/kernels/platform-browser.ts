import { KvError } from '../errors/errors.ts';
import type { Platform, ThreadMessage } from './platform.ts';

export const platform: Platform = {
  hardwareThreads: navigator.hardwareConcurrency,
  noSharedMemory: globalThis.crossOriginIsolated
    ? undefined
    : 'the page is not cross-origin isolated',

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
    worker.onerror = (event) => receive({ error: event.message });
    worker.postMessage(data);
    return { stop: () => worker.terminate() };
  },
};
