/** How much memory a process takes that does nothing but decode with one cache. Linux only. */
import { readFileSync } from 'node:fs';
import { KvError } from '../errors/errors.ts';
import { Random } from '../math/random.ts';
import type { Model } from '../model/model.ts';
import { anyToken, fillCache } from './contestant-node.ts';

/**
 * Resident memory of this process, bytes. Pages of a mapped model file count as soon as they were
 * read, though the system may take them back at any time: `file` is they and the program's own.
 */
export interface ResidentBytes {
  readonly all: number;
  readonly file: number;
}

export interface PeakRow {
  readonly method: string;
  readonly depth: number;
  /** the largest `all` of the process in its life */
  readonly peak: number;
  /** at the end, mapped files included */
  readonly atEnd: ResidentBytes;
  /** with the model loaded and every weight read once, before there is a cache */
  readonly beforeCache: ResidentBytes;
  /** bytes of the cache as it counts itself, and of the space it works in */
  readonly cacheBytes: number;
  readonly scratchBytes: number;
  /** tokens decoded, one at a time, after one chunk of `prefilled` positions */
  readonly decoded: number;
  readonly prefilled: number;
  /** tokens a second while decoding; one run, nothing repeated */
  readonly decode: number;
}

const prefilled = 128;
const decoded = 8;

/**
 * Fills a cache to `depth` with random keys and values, runs one chunk and decodes a few tokens at
 * its end, and says what memory that took. The process should have done nothing else.
 * @throws KvError "unsupported" where there is no /proc
 */
export async function measurePeak(model: Model, method: string, depth: number): Promise<PeakRow> {
  const random = new Random(1);
  const run = async (cache: Parameters<typeof fillCache>[1], n: number) => {
    const ids = Int32Array.from({ length: n }, () => anyToken(random, model.vocabSize));
    await model.kernels.read(await model.forward([{ ids, cache }]));
  };
  const warmUp = await model.createCache('f16');
  await run(warmUp, 1);
  warmUp.dispose();
  const beforeCache = residentBytes().now;

  const cache = await model.createCache(method);
  fillCache(model, cache, depth - prefilled - decoded, random);
  await run(cache, prefilled);
  const began = performance.now();
  for (let i = 0; i < decoded; i++) await run(cache, 1);
  const decode = (1000 * decoded) / (performance.now() - began);
  const { total: cacheBytes, scratch: scratchBytes } = cache.bytes();
  const { now: atEnd, peak } = residentBytes();
  cache.dispose();
  return {
    ...{ method, depth, peak, atEnd, beforeCache, cacheBytes, scratchBytes },
    ...{ decoded, prefilled, decode },
  };
}

/** From /proc/self/status: getrusage would count the process that started this one. */
function residentBytes(): { now: ResidentBytes; peak: number } {
  if (process.platform !== 'linux') {
    throw new KvError(
      'unsupported',
      `bench: peak memory is read from /proc; this is ${process.platform}. Measure it on Linux.`,
    );
  }
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name: string) =>
    1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]);
  return { now: { all: field('VmRSS'), file: field('RssFile') }, peak: field('VmHWM') };
}
