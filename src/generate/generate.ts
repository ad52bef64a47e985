/**
 * The way of one token, top to bottom:
 *
 *   text -> tokenizer -> ids -> model.forward(ids, cache) -> logits -> sampler -> id -> text
 *
 * `tokens` is everything said so far and the cache holds a prefix of it. Each turn feeds the rest,
 * samples one id, and appends it: prefill is the turn where the rest is long. When they fill the
 * context, either that is the end, or the oldest go (`shift.ts`).
 */
import type { KvCache } from '../cache/cache.ts';
import { ensure, KvError } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { nextTask } from './next-task.ts';
import { Sampler, type SampleOptions } from './sample.ts';
import { contextOf, forgetOf, rewind, type ContextOptions } from './shift.ts';
import { StopMatcher } from './stop.ts';

export interface GenerateOptions extends SampleOptions, ContextOptions {
  /** default 256 */
  readonly maxTokens?: number;
  /** texts that end the generation; they are not part of it */
  readonly stop?: readonly string[];
  readonly signal?: AbortSignal;
  /** positions per step of prefill; default 128. It never changes the result, only the speed. */
  readonly chunkSize?: number;
}

/** One sampled token. `text` may be empty while a character or a stop string is incomplete. */
export interface Piece {
  readonly id: number;
  readonly text: string;
}

export interface GenerateStats {
  /** tokens fed before the first one was sampled */
  readonly promptTokens: number;
  readonly tokens: number;
  /** tokens that were forgotten, so that the rest had room in the context */
  readonly forgotten: number;
  readonly prefillMs: number;
  /** time of all tokens after the first */
  readonly decodeMs: number;
  readonly ended: 'end-of-text' | 'stop' | 'max-tokens' | 'context';
}

export const defaultMaxTokens = 256;
export const defaultChunkSize = 128;

/**
 * Continues `tokens`, appending to it and to the cache. A shift takes tokens out of it as well.
 * @param tokens everything said so far; the cache holds its first `cache.length` tokens
 * @returns (as the generator's return value) counts, times and why it ended
 * @throws KvError "range" if `tokens` does not fit the context and there is no shift, "aborted" when
 *   the signal fires: in mid-prefill the cache is then as it was, later it holds what was generated so
 *   far, and in mid-shift a shorter prefix of `tokens`
 */
export async function* generate(
  model: Model,
  cache: KvCache,
  tokens: number[],
  options: GenerateOptions = {},
): AsyncGenerator<Piece, GenerateStats> {
  const maxTokens = options.maxTokens ?? defaultMaxTokens;
  const context = contextOf(model, options);
  const forget = forgetOf(model, context, options);
  const sampler = new Sampler(options);
  const decoder = model.tokenizer.stream();
  const stops = new StopMatcher(options.stop ?? []);
  let promptTokens = tokens.length - cache.length;
  expectPrompt(promptTokens, maxTokens);
  if (!forget) expectRoom(model, tokens.length, context);

  const begin = performance.now();
  let prefillMs = 0;
  let count = 0;
  let forgotten = 0;
  let ended: GenerateStats['ended'] = 'max-tokens';
  while (count < maxTokens) {
    if (tokens.length >= context) {
      const kept = forget?.(tokens);
      if (!kept) {
        ended = 'context';
        break;
      }
      expectKept(kept.length, context);
      forgotten += tokens.length - kept.length;
      rewind(tokens, cache, kept);
    }
    if (count === 0) promptTokens = tokens.length - cache.length;
    const logits = await feed(model, cache, tokens, options);
    if (count === 0) prefillMs = performance.now() - begin;
    const id = sampler.sample(logits, tokens);
    tokens.push(id);
    count++;
    if (model.tokenizer.eosIds.includes(id)) {
      ended = 'end-of-text';
      break;
    }
    const { text, stopped } = stops.push(decoder.push(id));
    yield { id, text };
    if (stopped) {
      ended = 'stop';
      break;
    }
  }
  if (ended !== 'stop') {
    const rest = stops.push(decoder.end()).text + stops.end();
    if (rest) yield { id: tokens[tokens.length - 1], text: rest };
  }
  const decodeMs = performance.now() - begin - prefillMs;
  return { promptTokens, tokens: count, forgotten, prefillMs, decodeMs, ended };
}

/**
 * Runs the tokens that the cache does not hold yet, in chunks.
 * @returns logits of the last one, f32 [vocabSize]
 * @throws KvError "usage" for a chunk size that is no whole number above 0, "aborted"
 */
export async function feed(
  model: Model,
  cache: KvCache,
  tokens: readonly number[],
  { signal, chunkSize = defaultChunkSize }: Pick<GenerateOptions, 'signal' | 'chunkSize'> = {},
): Promise<Float32Array> {
  ensure(
    Number.isInteger(chunkSize) && chunkSize > 0,
    'usage',
    () => `generate: chunkSize is ${chunkSize}; it must be a whole number above 0.`,
  );
  const start = cache.length;
  for (;;) {
    // Without this an abort, or anything else, would wait until the whole prompt is done.
    await nextTask();
    if (signal?.aborted) {
      cache.truncate(start);
      throw new KvError('aborted', 'generate: the signal was aborted.', { cause: signal.reason });
    }
    const ids = Int32Array.from(tokens.slice(cache.length, cache.length + chunkSize));
    const logits = await model.forward([{ ids, cache }]);
    if (cache.length === tokens.length) return (await model.kernels.read(logits)) as Float32Array;
  }
}

function expectPrompt(promptTokens: number, maxTokens: number): void {
  ensure(
    Number.isInteger(maxTokens) && maxTokens >= 0,
    'usage',
    () => `generate: maxTokens is ${maxTokens}; it must be a whole number from 0.`,
  );
  ensure(
    promptTokens > 0,
    'usage',
    () => 'generate: there is nothing to continue. Give a prompt of at least one token.',
  );
}

function expectRoom(model: Model, count: number, context: number): void {
  ensure(
    count < context,
    'range',
    () =>
      `generate: ${count} tokens; the context of "${model.name}" is ${context}, one of them for the answer. Shorten the prompt, or let the oldest tokens go (--shift; in a program, shift: {}).`,
  );
}

function expectKept(count: number, context: number): void {
  ensure(
    count > 0 && count < context,
    'range',
    () =>
      `generate: shift is to go on with ${count} tokens; in a context of ${context} there can be 1 to ${context - 1}.`,
  );
}
