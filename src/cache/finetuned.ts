import { KvError } from '../errors/errors.ts';
import type { Adapter } from './adapter.ts';
import type { LayerShape } from './cache.ts';
import type { CacheSpec } from './spec.ts';

/** What finetuning made of `h1b` for one model: a part of its adapter, chosen with `tuned=name`. */
export interface Finetuned {
  readonly name: string;
  readonly bits: number;
  /** of R, in layers without a projection of their own */
  readonly seed: number;
  /** whether temperatures are for scores that count by the norm of the query: `ChosenTemperatures.byNorm` */
  readonly byNorm?: boolean;
  readonly layers: readonly FinetunedLayer[];
}

export interface FinetunedLayer {
  /** [nHeads] */
  readonly temperatures: Float32Array;
  /**
   * What is added to the value projection [rows, dModel], rows being nKvHeads * headDimV: nothing, a
   * matrix of that shape, or a product: [rank, dModel], then [rows, rank]
   */
  readonly values: readonly FinetunedMatrix[];
  /** R as whole numbers from -127 to 127 in units of `projectionStep`, [nKvHeads * bits, headDimK] */
  readonly projection?: Float32Array;
}

export interface FinetunedMatrix {
  /** [rows, columns] */
  readonly shape: readonly number[];
  readonly numbers: Float32Array;
}

/** Names may stand in a spec. */
export const finetunedName = /^[a-z0-9-]+$/;

/**
 * The part that a spec asks for, if it does.
 * @throws KvError "usage" if the adapter has none of that name, or the spec contradicts it; "shape"
 *   if it was made for other layers
 */
export function finetunedOf(
  spec: CacheSpec,
  shapes: readonly LayerShape[],
  adapter: Adapter | undefined,
): Finetuned | undefined {
  const name = spec.settings.get('tuned');
  if (name === undefined) return undefined;
  const all = adapter?.finetuned ?? [];
  const found = all.find((candidate) => candidate.name === name);
  const refuse = (code: 'usage' | 'shape', problem: string) =>
    new KvError(code, `cache "${spec.name}": tuned=${name} ${problem}`);
  if (!found) {
    const names = all.map((one) => one.name).join(', ') || 'nothing';
    throw refuse(
      'usage',
      `is not in the adapter of this model, which has ${names}. Run h1bkv finetune.`,
    );
  }
  const own = { b: found.bits, seed: found.seed };
  for (const [key, value] of Object.entries(own)) {
    const wanted = spec.settings.get(key);
    if (wanted === undefined || wanted === String(value)) continue;
    throw refuse('usage', `was made with ${key}=${value}, not ${wanted}. Leave out ${key}.`);
  }
  if (spec.settings.has('t')) throw refuse('usage', 'has temperatures of its own. Leave out t.');
  const fits =
    found.layers.length === shapes.length &&
    shapes.every((shape, i) => fitsLayer(found.layers[i], shape, found.bits));
  if (!fits) throw refuse('shape', 'is for other layers than the model has. Run h1bkv finetune.');
  return found;
}

function fitsLayer(
  { temperatures, values, projection }: FinetunedLayer,
  { nHeads, nKvHeads, headDimK, headDimV }: LayerShape,
  bits: number,
): boolean {
  const rows = nKvHeads * headDimV;
  const joined = values.every(({ shape }, i) => i === 0 || shape[1] === values[i - 1].shape[0]);
  return (
    temperatures.length === nHeads &&
    joined &&
    (values.length === 0 || values[values.length - 1].shape[0] === rows) &&
    (projection === undefined || projection.length === nKvHeads * bits * headDimK)
  );
}
