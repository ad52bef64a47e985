import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import type { EvalSettings, EvalText } from './task.ts';

/** A stretch of a text that is read from an empty cache. */
export interface Window {
  readonly ids: Int32Array;
  /** The first position whose prediction is scored; the last one predicts nothing that is known. */
  readonly from: number;
}

const defaultContext = 2048;

/** Positions of a window. @throws KvError "range" if it is more than the model's context */
function contextOf(model: Model, { context }: EvalSettings): number {
  ensure(
    context === undefined || (context >= 2 && context <= model.contextLength),
    'range',
    () =>
      `eval: the context is ${context}; it must be from 2 to ${model.contextLength}, the context of "${model.name}".`,
  );
  return context ?? Math.min(model.contextLength, defaultContext);
}

/**
 * The windows of all texts: first the first ones of each text, then the second ones, so that a
 * limit takes from all of them. A rest that fills no window is left out, but a text shorter than
 * one makes a short one. Where the model wants BOS, it takes the place of each window's first
 * token, as in llama.cpp's perplexity.
 * @throws KvError "usage" if there is nothing to score, "range" for a context beyond the model's
 */
export function windowsOf(
  model: Model,
  texts: readonly EvalText[],
  settings: EvalSettings,
): Window[] {
  const { beyond = 0, limit = Infinity } = settings;
  const context = contextOf(model, settings);
  const stride = settings.stride ?? context;
  ensure(
    stride >= 1 && stride <= context,
    'usage',
    () => `eval: the stride is ${stride}; it must be from 1 to the context, ${context}.`,
  );
  ensure(
    beyond >= 0 && beyond < context - 1,
    'usage',
    () =>
      `eval: nothing lies beyond position ${beyond} in windows of ${context}. Give a longer context.`,
  );
  const perText = texts.map(({ text }) => {
    const ids = model.tokenizer.encode(text);
    const hasBos = ids[0] === model.tokenizer.bosId;
    const size = Math.min(context, ids.length);
    const windows: Window[] = [];
    for (let start = 0; start + size <= ids.length && size > beyond + 1; start += stride) {
      const window = ids.slice(start, start + size);
      if (hasBos) window[0] = ids[0];
      // The target of position i is token i + 1: a later window scores its last `stride` targets.
      const fresh = start === 0 ? 0 : size - 1 - stride;
      windows.push({ ids: window, from: Math.max(0, beyond, fresh) });
    }
    return windows;
  });
  const rounds = Math.max(0, ...perText.map((windows) => windows.length));
  const all = Array.from({ length: rounds }, (_, round) =>
    perText.flatMap((windows) => windows.slice(round, round + 1)),
  ).flat();
  ensure(
    all.length > 0,
    'usage',
    () =>
      `eval: the texts are too short to score anything beyond position ${beyond}. Give longer ones with --text.`,
  );
  return all.slice(0, limit);
}
