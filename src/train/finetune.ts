import { ensure } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import type { TextWindows } from './text-windows.ts';
import type { TunedCache } from './tuned-attention.ts';
import { TunedDecoder } from './tuned-decoder.ts';
import { tuningLoss, type WindowLoss } from './tuning-loss.ts';
import {
  adamStep,
  mapTuning,
  zerosLike,
  type AdamState,
  type LearningRates,
  type Tuning,
} from './tuning.ts';

export interface FinetuneOptions {
  /** windows of a step */
  readonly batch: number;
  readonly steps: number;
  /** steps between evaluations */
  readonly evaluateEvery: number;
  /** windows that are held out */
  readonly heldOut: number;
  /** evaluations without a better one after which it ends */
  readonly patience: number;
  /** of the first step; they fall to a tenth along a cosine */
  readonly rates: LearningRates;
  /** how much -ln p of the next token counts beside KL */
  readonly languageWeight: number;
}

/** What an evaluation found. */
export interface FinetuneEntry {
  readonly step: number;
  /** mean KL of the steps since the last evaluation, nats; absent before the first step */
  readonly trainingKl?: number;
  /** over the held-out windows: KL(f16 || tuned), and the perplexities of both */
  readonly kl: number;
  readonly perplexity: number;
  readonly perplexityF16: number;
}

/** All that a run needs to go on. */
export interface FinetuneState {
  step: number;
  readonly tuning: Tuning;
  readonly adam: AdamState;
  /** the tuning that did best on the held-out windows */
  best: Tuning;
  readonly history: FinetuneEntry[];
}

export function startFinetune(tuning: Tuning): FinetuneState {
  const adam = { mean: zerosLike(tuning), square: zerosLike(tuning) };
  return { step: 0, tuning, adam, best: mapTuning(tuning, (x) => x.slice()), history: [] };
}

/**
 * Trains a tuning of a cache so that the model predicts what it predicts with an f16 cache: KL of the
 * two, end to end, through frozen weights (arXiv 2510.05529, section on light finetuning). Yields the
 * state, which it goes on changing, after each evaluation.
 * @param cache what is trained for; it is disposed of in the end
 * @throws KvError "not-finite" if the loss is
 */
export async function* finetune(
  model: Model,
  cache: TunedCache,
  windows: TextWindows,
  options: FinetuneOptions,
  state: FinetuneState,
): AsyncGenerator<FinetuneState> {
  const decoder = new TunedDecoder(model, cache);
  try {
    if (state.history.length === 0) yield await evaluate(model, decoder, windows, options, state);
    while (state.step < options.steps && !isStale(state, options.patience)) {
      const end = Math.min(options.steps, state.step + options.evaluateEvery);
      let sum = 0;
      const from = state.step;
      while (state.step < end) sum += await trainStep(model, decoder, windows, options, state);
      yield await evaluate(model, decoder, windows, options, state, sum / (end - from));
    }
  } finally {
    decoder.dispose();
  }
}

/** The evaluation with the least KL. */
export function bestEntry({ history }: FinetuneState): FinetuneEntry {
  return history.reduce((best, entry) => (entry.kl < best.kl ? entry : best));
}

function isStale(state: FinetuneState, patience: number): boolean {
  return state.history.length - 1 - state.history.indexOf(bestEntry(state)) >= patience;
}

/** @returns mean KL of its windows */
async function trainStep(
  model: Model,
  decoder: TunedDecoder,
  windows: TextWindows,
  { batch, steps, rates, languageWeight }: FinetuneOptions,
  state: FinetuneState,
): Promise<number> {
  const { tuning, adam } = state;
  const gradient = zerosLike(tuning);
  let kl = 0;
  for (let i = 0; i < batch; i++) {
    const ids = windows.training(state.step * batch + i);
    const teacher = await teacherLogits(model, ids);
    const tape = decoder.forward(ids, tuning);
    const loss = tuningLoss(teacher, tape.logits, ids, languageWeight);
    // Adam divides by the size of gradients, so their sum serves as well as their mean.
    decoder.backward(tape, loss.dLogits, tuning, gradient);
    kl += loss.kl / batch;
  }
  ensure(
    Number.isFinite(kl),
    'not-finite',
    () => `finetune: the loss of step ${state.step} is ${kl}. Take smaller learning rates.`,
  );
  const factor = 0.55 + 0.45 * Math.cos((Math.PI * state.step) / steps);
  state.step++;
  adamStep(tuning, gradient, adam, state.step, {
    logT: rates.logT * factor,
    values: rates.values * factor,
    projection: rates.projection * factor,
  });
  return kl;
}

async function evaluate(
  model: Model,
  decoder: TunedDecoder,
  windows: TextWindows,
  { heldOut }: FinetuneOptions,
  state: FinetuneState,
  trainingKl?: number,
): Promise<FinetuneState> {
  const sums = { kl: 0, student: 0, teacher: 0 } satisfies WindowLoss;
  for (let i = 0; i < heldOut; i++) {
    const ids = windows.heldOut(i);
    const teacher = await teacherLogits(model, ids);
    const loss = tuningLoss(teacher, decoder.forward(ids, state.tuning).logits, ids, 0);
    for (const key of Object.keys(sums) as (keyof typeof sums)[]) sums[key] += loss[key] / heldOut;
  }
  const entry: FinetuneEntry = {
    step: state.step,
    ...(trainingKl !== undefined && { trainingKl }),
    kl: sums.kl,
    perplexity: Math.exp(sums.student),
    perplexityF16: Math.exp(sums.teacher),
  };
  state.history.push(entry);
  if (bestEntry(state) === entry) state.best = mapTuning(state.tuning, (x) => x.slice());
  return state;
}

/** What the model says with an f16 cache after each position, [n, vocabSize]. */
async function teacherLogits(model: Model, ids: Int32Array): Promise<Float32Array> {
  const cache = await model.createCache('f16');
  try {
    return (await model.kernels.read(await model.forward([{ ids, cache }], 'all'))) as Float32Array;
  } finally {
    cache.dispose();
  }
}
