import type { KvCache } from '../cache/cache.ts';
import { defaultChunkSize } from '../generate/generate.ts';
import { nextTask } from '../generate/next-task.ts';
import type { Model } from '../model/model.ts';

const turns = 3;
/** Steps of a turn; the first ones do not count: weights come back into the processor's caches. */
const stepsOfTurn = 8;
const warmUpSteps = 2;

/**
 * Tokens per second, one at a time, of every cache near the end of a text that it really holds: the
 * caches read all but the last tokens, then take turns, so that all meet the same load of the
 * machine. Nothing is truncated, since not every method can.
 * @param ids at least two tokens; of a short text fewer steps are taken
 * @returns medians, in the order of `specs`
 */
export async function decodeSpeeds(
  model: Model,
  ids: Int32Array,
  specs: readonly string[],
): Promise<number[]> {
  const steps = Math.min(stepsOfTurn, Math.floor(ids.length / (turns + 1)) || 1);
  const filled = Math.max(0, ids.length - turns * steps);
  const caches: KvCache[] = [];
  const run = async (cache: KvCache, end: number) => {
    const began = performance.now();
    const logits = await model.forward([{ ids: ids.subarray(cache.length, end), cache }]);
    await model.kernels.read(logits);
    return performance.now() - began;
  };
  try {
    for (const spec of specs) {
      const cache = await model.createCache(spec);
      caches.push(cache);
      while (cache.length < filled) {
        await nextTask();
        await run(cache, Math.min(filled, cache.length + defaultChunkSize));
      }
    }
    const times = caches.map((): number[] => []);
    while (caches[0].length < ids.length) {
      for (const [i, cache] of caches.entries()) {
        await nextTask();
        for (let step = 0; step < steps && cache.length < ids.length; step++) {
          const elapsedMs = await run(cache, cache.length + 1);
          if (step >= Math.min(warmUpSteps, steps - 1)) times[i].push(elapsedMs);
        }
      }
    }
    return times.map((list) => 1000 / median(list));
  } finally {
    for (const cache of caches) cache.dispose();
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
