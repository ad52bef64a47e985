import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { undisturbed } from './linear.ts';

/** What each thread reads: more than caches hold. */
const bytesPerThread = 96 << 20;
/** Read and timed at once: long beside the clock, short beside a turn of the system's scheduler. */
const sliceBytes = 4 << 20;
const readForMs = 400;

/** `indexOf` of a byte that is not there is C's memchr: it reads and does hardly anything else. */
const workerBody = `
const { parentPort, workerData } = require('node:worker_threads');
const bytes = Buffer.alloc(workerData.bytes, 1);
parentPort.on('message', (until) => {
  const speeds = [];
  for (let at = 0; Date.now() < until; at = (at + workerData.slice) % bytes.length) {
    const slice = bytes.subarray(at, at + workerData.slice);
    const began = performance.now();
    slice.indexOf(0);
    speeds.push(workerData.slice / (performance.now() - began) / 1e6);
  }
  parentPort.postMessage(speeds);
});
parentPort.postMessage('ready');
`;

/**
 * Bytes that so many threads read from memory at once, in 10^9 a second: what a kernel that reads
 * every weight once can reach. Of each thread's slices the speed is taken that one in 20 exceeds:
 * the others had to share the machine.
 */
export async function memoryReadSpeed(threads: number): Promise<number> {
  const workerData = { bytes: bytesPerThread, slice: sliceBytes };
  const workers = Array.from(
    { length: threads },
    () => new Worker(workerBody, { eval: true, workerData }),
  );
  try {
    await Promise.all(workers.map((worker) => once(worker, 'message')));
    const answers = workers.map((worker) => once(worker, 'message'));
    const until = Date.now() + readForMs;
    for (const worker of workers) worker.postMessage(until);
    const speeds = (await Promise.all(answers)) as [number[]][];
    return speeds.reduce((sum, [ofThread]) => sum + undisturbed(ofThread), 0);
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}
