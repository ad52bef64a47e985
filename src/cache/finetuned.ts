import type { LayerShape } from './cache.ts';

/** What finetuning made of one cache for one model: a part of its adapter, chosen with `tuned=name`. */
export type Finetuned = FinetunedSketches | FinetunedCodes;

interface FinetunedPart {
  readonly name: string;
  readonly layers: readonly FinetunedLayer[];
}

export interface FinetunedSketches extends FinetunedPart {
  readonly method: 'h1b';
  readonly bits: number;
  /** of R, in layers without a projection of their own */
  readonly seed: number;
  /** whether temperatures are for scores that count by the norm of the query: `ChosenTemperatures.byNorm` */
  readonly byNorm?: boolean;
}

export interface FinetunedCodes extends FinetunedPart {
  readonly method: 'bitplane';
  /** the full spec of the cache that it was made for, `tuned` left out */
  readonly spec: string;
}

export interface FinetunedLayer {
  /** T, [nHeads]; of `bitplane` what scores are divided by besides */
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

/** Whether a layer of the model is one that this was made for. @param bits of sketches */
export function fitsLayer(
  { temperatures, values, projection }: FinetunedLayer,
  { nHeads, nKvHeads, headDimK, headDimV }: LayerShape,
  bits = 0,
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
