import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** What each thread reads before it reads anything again: more than caches hold. */
const bytesPerThread = 96 << 20;
/** Of it in a round: long beside the clock, short beside a turn of the system's scheduler. */
const bytesPerRound = 8 << 20;
const rounds = 1000;

/**
 * `indexOf` of a byte that is not there is C's memchr: it reads and does hardly anything else. The
 * threads wait for each other before every round; the clock is the system's, the same for all.
 */
const workerBody = `
const { parentPort, workerData } = require('node:worker_threads');
const { bytesPerThread, bytesPerRound, threads, arrived } = workerData;
const bytes = Buffer.alloc(bytesPerThread, 1);
const times = Array.from(arrived, (_, round) => {
  const from = (round * bytesPerRound) % bytesPerThread;
  const slice = bytes.subarray(from, from + bytesPerRound);
  Atomics.add(arrived, round, 1);
  while (Atomics.load(arrived, round) < threads);
  const began = process.hrtime.bigint();
  slice.indexOf(0);
  return [began, process.hrtime.bigint()];
});
parentPort.postMessage(times);
`;

/**
 * Bytes that so many threads read from memory, in 10^9 a second: what a kernel that reads every weight
 * once can reach. All of them together, or one alone where that is faster: on a busy machine the others
 * wait for their turns.
 */
export async function memoryReadSpeed(threads: number): Promise<number> {
  const together = await readTogether(threads);
  return threads > 1 ? Math.max(together, await readTogether(1)) : together;
}

/** The best round counts, from the first start to the last end: in the others a thread had to share the machine. */
async function readTogether(threads: number): Promise<number> {
  const arrived = new Int32Array(new SharedArrayBuffer(4 * rounds));
  const workerData = { bytesPerThread, bytesPerRound, threads, arrived };
  const workers = Array.from(
    { length: threads },
    () => new Worker(workerBody, { eval: true, workerData }),
  );
  try {
    const answers = await Promise.all(workers.map((worker) => once(worker, 'message')));
    return bestRound(
      answers.map(([times]) => times as RoundTime[]),
      bytesPerRound,
    );
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** When a thread began a round and when it was through, nanoseconds. */
export type RoundTime = readonly [began: bigint, ended: bigint];

/** @param times [threads][rounds] @returns 10^9 bytes a second of all threads in their best round */
export function bestRound(times: readonly RoundTime[][], bytesOfThread: number): number {
  const elapsed = times[0].map((_, round) => {
    const begins = times.map((ofThread) => ofThread[round][0]);
    const ends = times.map((ofThread) => ofThread[round][1]);
    const first = begins.reduce((a, b) => (a < b ? a : b));
    return Number(ends.reduce((a, b) => (a > b ? a : b)) - first);
  });
  return (times.length * bytesOfThread) / Math.min(...elapsed);
}
