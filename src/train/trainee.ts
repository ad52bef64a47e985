/** Which cache is trained for, where that begins, and what the adapter will say of it. */
import type { FinetunedCodes, FinetunedSketches } from '../cache/finetuned.ts';
import { resolveSpec } from '../cache/registry.ts';
import { chooseTemperatures } from '../cache/sketched.ts';
import { parseSpec } from '../cache/spec.ts';
import { ensure, KvError } from '../errors/errors.ts';
import type { Model } from '../model/model.ts';
import { codedCache } from './coded-attention.ts';
import { sketchCache } from './sketch-attention.ts';
import type { TunedCache } from './tuned-attention.ts';
import type { TuningStart, ValueTraining } from './tuning.ts';

export interface TraineeOptions {
  /** spec: `h1b`, or one of `bitplane` with its settings */
  readonly cache: string;
  readonly name: string;
  readonly seed: number;
  readonly values: ValueTraining;
  /** of `h1b` alone: width of sketches (default 256), whether R is trained, temperatures by norm */
  readonly bits?: number;
  readonly projection?: boolean;
  readonly norm?: boolean;
}

export interface Trainee {
  readonly cache: TunedCache;
  readonly start: TuningStart;
  readonly part: Omit<FinetunedSketches, 'layers'> | Omit<FinetunedCodes, 'layers'>;
}

/** @throws KvError "usage" if the cache cannot be trained for, or an option is of another one */
export function traineeOf(model: Model, options: TraineeOptions): Trainee {
  const { cache } = options;
  const { spec } = resolveSpec(cache);
  if (spec.name === 'h1b') {
    ensure(
      spec.settings.size === 0 && spec.layers.length === 0,
      'usage',
      () =>
        `finetune: --cache ${cache}; h1b is given without settings. Use --bits, --seed, --norm.`,
    );
    return sketches(model, options);
  }
  if (spec.name !== 'bitplane' && spec.name !== 'bitplane-small') {
    throw new KvError(
      'usage',
      `finetune: --cache ${cache}; it can be h1b, bitplane or bitplane-small. Take one of them.`,
    );
  }
  const { bits, projection, norm, name, seed, values } = options;
  const foreign = Object.entries({ bits, projection, norm }).find(([, given]) => given);
  ensure(
    !foreign,
    'usage',
    () => `finetune: --${foreign?.[0]} is of h1b, and --cache is ${cache}. Leave it out.`,
  );
  ensure(
    !spec.settings.has('tuned'),
    'usage',
    () => `finetune: --cache ${cache}; training begins with the model as it is. Leave out tuned.`,
  );
  const coded = codedCache(model, spec);
  const temperatures = model.layers.map(({ nHeads }) => Array<number>(nHeads).fill(1));
  const { dModel } = model.parts.config;
  return {
    cache: coded,
    start: { seed, values, dModel, temperatures },
    part: { method: 'bitplane', name, spec: coded.spec },
  };
}

/** `h1b`, which begins with the temperatures that calibration found, if it did. */
function sketches(model: Model, options: TraineeOptions): Trainee {
  const { name, seed, values, bits = 256, projection, norm } = options;
  const asked = parseSpec(norm ? 'h1b:t=norm' : 'h1b');
  const chosen = chooseTemperatures(asked, bits, model.layers, model.adapter);
  const byNorm = chosen.byNorm && { byNorm: true };
  const { dModel } = model.parts.config;
  const own = { bits, ...(projection && { orthogonal: true }) };
  return {
    cache: sketchCache(model.layers, { bits, ...byNorm, surrogate: false }),
    start: { seed, values, dModel, temperatures: chosen.temperatures, sketches: own },
    part: { method: 'h1b', name, bits, seed, ...byNorm },
  };
}
