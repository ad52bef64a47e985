import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import { nextTask } from '../generate/next-task.ts';
import { argmax } from '../generate/sample.ts';
import type { Model } from '../model/model.ts';

/** What a model predicts with one cache after each position of a chunk. */
export interface ChunkLogits {
  /** index of the cache */
  readonly cache: number;
  /** position of the first row */
  readonly start: number;
  /** f32 [positions][vocabSize] */
  readonly rows: readonly Float32Array[];
  readonly elapsedMs: number;
}

/** Logits of one chunk that may be held: 64 MiB. */
const heldLogits = 2 ** 24;
const longestChunk = 512;

/**
 * Runs the same tokens through several caches side by side: a chunk through each of them, in their
 * order, then the next chunk. Caches compress as they would in generation, whatever the chunk; long
 * ones spare methods that decode all they hold in each step.
 * @param caches empty
 */
export async function* sideBySide(
  model: Model,
  ids: Int32Array,
  caches: readonly KvCache[],
): AsyncGenerator<ChunkLogits> {
  const size = Math.min(longestChunk, Math.ceil(heldLogits / model.vocabSize));
  for (let start = 0; start < ids.length; start += size) {
    const chunk = ids.subarray(start, start + size);
    for (const [index, cache] of caches.entries()) {
      await nextTask();
      const began = performance.now();
      const logits = await model.forward([{ ids: chunk, cache }], 'all');
      const all = (await model.kernels.read(logits)) as Float32Array;
      const rows = Array.from(chunk, (_, i) =>
        all.subarray(i * model.vocabSize, (i + 1) * model.vocabSize),
      );
      yield { cache: index, start, rows, elapsedMs: performance.now() - began };
    }
  }
}

/** Logits of one position with what every comparison needs of them. */
export class Prediction {
  /** ln of the sum of exp(logit) */
  readonly logSum: number;
  /** the most likely token */
  readonly best: number;

  constructor(readonly logits: Float32Array) {
    this.best = argmax(logits);
    const max = logits[this.best];
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - max);
    this.logSum = max + Math.log(sum);
  }

  /** ln of the probability of a token. */
  logProbability(id: number): number {
    return this.logits[id] - this.logSum;
  }

  /** KL(this || other) of the two distributions, nats. */
  divergence(other: Prediction): number {
    const [p, q] = [this.logits, other.logits];
    let sum = 0;
    for (let i = 0; i < p.length; i++) {
      const logP = p[i] - this.logSum;
      sum += Math.exp(logP) * (logP - (q[i] - other.logSum));
    }
    return sum;
  }
}

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
  let [same, divergence] = [0, 0];
  let expected: Prediction[] = [];
  for await (const { cache, start, rows } of sideBySide(model, ids, [reference, candidate])) {
    const predictions = rows.slice(Math.max(0, from - start)).map((row) => new Prediction(row));
    if (cache === 0) {
      expected = predictions;
      continue;
    }
    predictions.forEach((prediction, i) => {
      if (expected[i].best === prediction.best) same++;
      divergence += expected[i].divergence(prediction);
    });
  }
  const positions = ids.length - from;
  return { positions, top1: same / positions, kl: divergence / positions };
}

/** KL(softmax(p) || softmax(q)) of two rows of logits, in nats. */
export function klDivergence(p: Float32Array, q: Float32Array): number {
  return new Prediction(p).divergence(new Prediction(q));
}
