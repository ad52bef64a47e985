import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import { defaultChunkSize } from '../generate/generate.ts';
import { argmax } from '../generate/sample.ts';
import type { Model } from '../model/model.ts';

export interface Agreement {
  /** positions compared */
  readonly positions: number;
  /** share of positions where both put the same token first, 0 to 1 */
  readonly top1: number;
  /** mean KL(reference || candidate) of the next-token distributions, nats */
  readonly kl: number;
}

/**
 * Runs the same tokens through two caches and compares what the model predicts after each. Both
 * caches must be empty; they compress as they would in generation, chunk by chunk.
 * @param from first position that counts
 * @throws KvError "usage" if there is no such position
 */
export async function compareCaches(
  model: Model,
  ids: Int32Array,
  reference: KvCache,
  candidate: KvCache,
  from = 0,
): Promise<Agreement> {
  ensure(
    Number.isInteger(from) && from >= 0 && from < ids.length,
    'usage',
    () => `agreement: nothing to compare from position ${from} on; there are ${ids.length} tokens.`,
  );
  let same = 0;
  let divergence = 0;
  for (let start = 0; start < ids.length; start += defaultChunkSize) {
    const chunk = ids.subarray(start, start + defaultChunkSize);
    const logits = async (cache: KvCache) =>
      (await model.kernels.read(
        await model.forward([{ ids: chunk, cache }], 'all'),
      )) as Float32Array;
    const [p, q] = [await logits(reference), await logits(candidate)];
    for (let i = Math.max(0, from - start); i < chunk.length; i++) {
      const row = (all: Float32Array) =>
        all.subarray(i * model.vocabSize, (i + 1) * model.vocabSize);
      if (argmax(row(p)) === argmax(row(q))) same++;
      divergence += klDivergence(row(p), row(q));
    }
  }
  const positions = ids.length - from;
  return { positions, top1: same / positions, kl: divergence / positions };
}

/** KL(softmax(p) || softmax(q)) of two rows of logits, in nats. */
export function klDivergence(p: Float32Array, q: Float32Array): number {
  const [maxP, maxQ] = [p, q].map((row) => row.reduce((m, x) => Math.max(m, x), -Infinity));
  let [sumP, sumQ, cross] = [0, 0, 0];
  for (let i = 0; i < p.length; i++) {
    const weight = Math.exp(p[i] - maxP);
    sumP += weight;
    sumQ += Math.exp(q[i] - maxQ);
    cross += weight * (p[i] - maxP - (q[i] - maxQ));
  }
  return cross / sumP - Math.log(sumP) + Math.log(sumQ);
}
