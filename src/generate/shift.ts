/**
 * What happens when the context is full: the oldest tokens go, and what stays is run again, so that
 * the session is what a fresh one would be over the tokens that stayed, with every cache. Why not
 * in place: docs/decisions/0006-a-full-context-is-run-again.md.
 */
import type { KvCache } from '../cache/cache.ts';
import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';

/** Of tokens that fill the context, those to go on with, fewer; undefined: nothing can go. */
export type Forget = (tokens: readonly number[]) => readonly number[] | undefined;

export interface ShiftOptions {
  /** tokens at the start that stay, such as an instruction; default: the BOS token, if there is one */
  readonly keep?: number;
}

export interface ContextOptions {
  /** tokens that the model sees at most; default: as many as it was trained for, which cannot be exceeded */
  readonly context?: number;
  /**
   * When the context is full, forget the oldest tokens and go on; without it a generation ends there.
   * With `{}` or `{ keep }` the newest tokens stay that fill half of what `keep` leaves of it.
   */
  readonly shift?: ShiftOptions | Forget | undefined;
}

/** @throws KvError "usage" if the context is none that the model has */
export function contextOf(model: Model, { context = model.contextLength }: ContextOptions): number {
  ensure(
    Number.isInteger(context) && context >= 2 && context <= model.contextLength,
    'usage',
    () =>
      `generate: context is ${context}; it must be a whole number from 2 to ${model.contextLength}, the context of "${model.name}".`,
  );
  return context;
}

/**
 * How tokens are forgotten; undefined: they are not.
 * @throws KvError "usage" if so much is to be kept that nothing could go
 */
export function forgetOf(
  { tokenizer }: Model,
  context: number,
  { shift }: ContextOptions,
): Forget | undefined {
  if (shift === undefined || typeof shift === 'function') return shift;
  const { keep } = shift;
  ensure(
    keep === undefined || (Number.isInteger(keep) && keep >= 0 && keep <= context - 2),
    'usage',
    () =>
      `generate: shift is to keep ${keep} tokens; in a context of ${context} it must be a whole number from 0 to ${context - 2}.`,
  );
  return (tokens) => withoutOldest(tokens, keep ?? Number(tokens[0] === tokenizer.bosId), context);
}

/** The first `keep` of at least `context` tokens, and the newest ones that fill half of what is left of it. */
export function withoutOldest(tokens: readonly number[], keep: number, context: number): number[] {
  const newest = Math.floor((context - keep) / 2);
  return [...tokens.slice(0, keep), ...tokens.slice(tokens.length - newest)];
}

/** Makes `tokens` these ids, and keeps of the cache what they have in common; one token is left to run. */
export function rewind(tokens: number[], cache: KvCache, ids: ArrayLike<number>): void {
  let common = 0;
  while (common < ids.length && ids[common] === tokens[common]) common++;
  cache.truncate(Math.max(0, Math.min(common, ids.length - 1)));
  tokens.length = common;
  for (let i = common; i < ids.length; i++) tokens.push(ids[i]);
}
