/** How likely texts are to follow a prompt, and what a model writes after it. */
import type { KvCache } from '../cache/cache.ts';
import { feed, generate } from '../generate/generate.ts';
import type { SampleOptions } from '../generate/sample.ts';
import type { Model } from '../model/model.ts';
import { Prediction, sideBySide } from './agreement.ts';

/** A text and its tokens; `fed` are those that the model reads: all, or the newest that have room. */
export interface Prompt {
  readonly text: string;
  readonly ids: Int32Array;
  readonly fed: readonly number[];
}

export interface Score {
  /** sum over the tokens, nats */
  readonly logProbability: number;
  /** whether each token is the likeliest one at its place: greedy generation would write them */
  readonly greedy: boolean;
}

export interface WriteOptions extends SampleOptions {
  readonly maxTokens: number;
  /** texts that end the answer and are no part of it; control tokens in them are read as such */
  readonly stop: readonly string[];
}

/** Ids of a text that follows the prompt: as both are read together, if the prompt stays the same. */
export function continuation(model: Model, prompt: Prompt, text: string): Int32Array {
  const { ids } = prompt;
  const both = model.tokenizer.encode(prompt.text + text, { parseSpecial: true });
  if (both.length > ids.length && ids.every((id, i) => both[i] === id)) {
    return both.subarray(ids.length);
  }
  return model.tokenizer.encode(text, { parseSpecial: true, addBos: false });
}

/**
 * @param cache holds what comes before; afterwards also `ids` but for the last
 * @param next  what the model predicts after the cache's last position
 * @param ids   i32 [n], n > 0
 */
export async function scoreContinuation(
  model: Model,
  cache: KvCache,
  next: Prediction,
  ids: Int32Array,
): Promise<Score> {
  let logProbability = next.logProbability(ids[0]);
  let greedy = next.best === ids[0];
  for await (const { start, rows } of sideBySide(model, ids.subarray(0, -1), [cache])) {
    rows.forEach((row, i) => {
      const prediction = new Prediction(row);
      const target = ids[start + i + 1];
      logProbability += prediction.logProbability(target);
      greedy &&= prediction.best === target;
    });
  }
  return { logProbability, greedy };
}

/** Index of the text whose tokens are most likely to follow, by the sum of their log-probabilities. */
export async function mostLikely(
  model: Model,
  cache: KvCache,
  prompt: Prompt,
  texts: readonly string[],
): Promise<number> {
  const next = new Prediction(await feed(model, cache, prompt.fed));
  let [best, highest] = [-1, -Infinity];
  for (const [index, text] of texts.entries()) {
    const fork = cache.fork();
    try {
      const ids = continuation(model, prompt, text);
      const { logProbability } = await scoreContinuation(model, fork, next, ids);
      if (logProbability > highest) [best, highest] = [index, logProbability];
    } finally {
      fork.dispose();
    }
  }
  return best;
}

/** @param cache empty, or holding a beginning of the prompt; holds prompt and answer afterwards */
export async function write(
  model: Model,
  cache: KvCache,
  { fed }: Prompt,
  options: WriteOptions,
): Promise<string> {
  // A stop that is a control token never shows in the text.
  const stopIds = options.stop.map((stop) =>
    model.tokenizer.encode(stop, { parseSpecial: true, addBos: false }),
  );
  let text = '';
  for await (const piece of generate(model, cache, [...fed], options)) {
    text += piece.text;
    if (stopIds.some((ids) => ids.length === 1 && ids[0] === piece.id)) break;
  }
  return text;
}
