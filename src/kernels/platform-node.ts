import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { KvError } from '../errors/errors.ts';
import { createNativeKernels } from './native.ts';
import type { Platform, ThreadMessage } from './platform.ts';

// Beside the bundle in dist/, or where the build left it when running from the sources.
const folders = ['./wasm/', '../../build/wasm/'];

export const platform: Platform = {
  hardwareThreads: availableParallelism(),
  hasAddons: true,
  createNativeKernels,
  environmentBackend: () => process.env['H1BKV_BACKEND'] || undefined,
  noSharedMemory: undefined,

  async readWasm(fileName) {
    for (const folder of folders) {
      try {
        return await readFile(new URL(folder + fileName, import.meta.url));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
    }
    throw new KvError('backend', `wasm: ${fileName} is missing. Run "npm run build".`);
  },

  startThread(body, data, receive) {
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      (${body})(workerData, (message) => parentPort.postMessage(message));`;
    const worker = new Worker(source, { eval: true, workerData: data });
    worker.on('message', (message: ThreadMessage) => {
      // Not sooner: a program that only waits for its kernels would end.
      worker.unref();
      receive(message);
    });
    worker.on('error', (error) => receive({ error: error.message }));
    return { stop: () => void worker.terminate() };
  },
};
