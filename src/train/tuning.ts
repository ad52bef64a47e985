/** What finetuning changes, and Adam, which changes it. */
import { gaussianProjection, orthogonalProjection, roundedProjection } from '../cache/sketch.ts';
import type { LayerShape } from '../cache/cache.ts';
import type { Finetuned, FinetunedCodes, FinetunedSketches } from '../cache/finetuned.ts';
import { Random } from '../math/random.ts';

/** How the value projection is trained: not, as a product of two thin matrices, or whole. */
export type ValueTraining = 'none' | 'full' | { readonly rank: number };

/** What is trained of one layer; gradients have the same form. */
export interface TunedLayer {
  /** ln T, [nHeads] */
  readonly logT: Float32Array;
  /**
   * What is added to W_v: nothing, the sum [nKvHeads * headDimV, dModel], or a product, first
   * [rank, dModel], then [nKvHeads * headDimV, rank]
   */
  readonly values: readonly Float32Array[];
  /** R in units of `projectionStep`, [nKvHeads, bits, headDimK], empty where there is none; it counts as rounded to i8 */
  readonly projection: Float32Array;
}

export type Tuning = readonly TunedLayer[];

export interface TuningStart {
  /** of R, and of the thin matrices */
  readonly seed: number;
  readonly values: ValueTraining;
  readonly dModel: number;
  /** T to begin with, [layers][nHeads] */
  readonly temperatures: readonly (readonly number[])[];
  /** of `h1b` alone */
  readonly sketches?: SketchStart;
}

export interface SketchStart {
  readonly bits: number;
  /** R begins with orthogonal rows in blocks; for an R that is trained, as the cache draws the other */
  readonly orthogonal?: boolean;
}

/** The model as it is: the value projections are what they were, R is the cache's. */
export function startTuning(shapes: readonly LayerShape[], start: TuningStart): Tuning {
  const { seed, values, dModel, temperatures, sketches } = start;
  const draw = sketches?.orthogonal ? orthogonalProjection : gaussianProjection;
  const random = new Random(seed);
  return shapes.map(({ nKvHeads, headDimK, headDimV }, layer) => {
    const rows = nKvHeads * headDimV;
    // One of the two is zero, so that the sum begins at zero; the other is not, or neither would move.
    const thin = (rank: number) => [
      Float32Array.from({ length: rank * dModel }, () => random.normal() / Math.sqrt(dModel)),
      new Float32Array(rows * rank),
    ];
    return {
      logT: Float32Array.from(temperatures[layer], Math.log),
      values:
        values === 'none'
          ? []
          : values === 'full'
            ? [new Float32Array(rows * dModel)]
            : thin(values.rank),
      projection: Float32Array.from(
        sketches ? draw(seed, layer, nKvHeads, sketches.bits, headDimK) : [],
      ),
    };
  });
}

export function zerosLike(tuning: Tuning): Tuning {
  return mapTuning(tuning, (x) => new Float32Array(x.length));
}

export function mapTuning(
  tuning: Tuning,
  change: (x: Float32Array, name: string) => Float32Array,
): Tuning {
  return tuning.map(({ logT, values, projection }, layer) => ({
    logT: change(logT, `${layer}.logT`),
    values: values.map((x, i) => change(x, `${layer}.values.${i}`)),
    projection: change(projection, `${layer}.projection`),
  }));
}

/** All arrays, in a fixed order. */
export function arraysOf(tuning: Tuning): Float32Array[] {
  return tuning.flatMap(({ logT, values, projection }) => [logT, ...values, projection]);
}

export interface LearningRates {
  readonly logT: number;
  readonly values: number;
  /** in units of `projectionStep`; 0 keeps R as it is */
  readonly projection: number;
}

export interface AdamState {
  readonly mean: Tuning;
  readonly square: Tuning;
}

const [beta1, beta2, epsilon] = [0.9, 0.98, 1e-8];

/** One step of Adam (Kingma and Ba 2015), in place. @param step 1 for the first */
export function adamStep(
  tuning: Tuning,
  gradient: Tuning,
  { mean, square }: AdamState,
  step: number,
  rates: LearningRates,
): void {
  const update = (
    x: Float32Array,
    g: Float32Array,
    m: Float32Array,
    s: Float32Array,
    rate: number,
  ) => {
    for (let i = 0; i < x.length; i++) {
      m[i] = beta1 * m[i] + (1 - beta1) * g[i];
      s[i] = beta2 * s[i] + (1 - beta2) * g[i] * g[i];
      const [first, second] = [m[i] / (1 - beta1 ** step), s[i] / (1 - beta2 ** step)];
      x[i] -= (rate * first) / (Math.sqrt(second) + epsilon);
    }
  };
  tuning.forEach((layer, l) => {
    const [g, m, s] = [gradient[l], mean[l], square[l]];
    update(layer.logT, g.logT, m.logT, s.logT, rates.logT);
    layer.values.forEach((x, i) => update(x, g.values[i], m.values[i], s.values[i], rates.values));
    if (rates.projection > 0) {
      update(layer.projection, g.projection, m.projection, s.projection, rates.projection);
    }
  });
}

/** R of a layer as a cache uses it. */
export const projectionOf = ({ projection }: TunedLayer): Int8Array =>
  roundedProjection(projection);

/**
 * A tuning as a part of an adapter.
 * @param part what it is called and what it was made for
 * @param trained whether R is one of its own
 */
export function finetunedFrom(
  tuning: Tuning,
  dModel: number,
  part: Omit<FinetunedSketches, 'layers'> | Omit<FinetunedCodes, 'layers'>,
  trained: { readonly projection: boolean },
): Finetuned {
  const layers = tuning.map((layer) => {
    let columns = dModel;
    const values = layer.values.map((numbers) => {
      const shape = [numbers.length / columns, columns];
      columns = shape[0];
      return { shape, numbers };
    });
    const projection = Float32Array.from(projectionOf(layer));
    return {
      temperatures: layer.logT.map(Math.exp),
      values,
      ...(trained.projection && { projection }),
    };
  });
  return { ...part, layers };
}
