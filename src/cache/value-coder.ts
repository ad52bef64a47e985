/** How `bitplane` codes the values of a layer: in a basis where few channels matter, more bits for those. */
import { ensure, KvError } from '../errors/errors.ts';
import { fieldMultiple } from '../kernels/fields.ts';
import type { FieldCounts, Kernels, Page, Tensor } from '../kernels/kernels.ts';
import { bytesOf } from '../kernels/tensor.ts';
import { encode } from '../math/blocks.ts';
import { f32ToF16 } from '../math/f16.ts';
import type { LayerStatistics } from './adapter.ts';
import type { LayerShape } from './cache.ts';
import { balancedBasis, randomRotation, type BalancedBasis } from './codec.ts';
import { allocTensors } from './constants.ts';

/** Step of the uniform quantizer of least squared error for a standard normal variable (Max 1960, table II). */
const stepOf = { 0: 1, 2: 0.9957, 4: 0.3352 } as const;

/** Squared error of a standard normal variable at these steps. */
export const fieldErrors = { 0: 1, 2: 0.1188, 4: 0.01154 } as const;

export const bitsOfField = ({ fours, twos }: FieldCounts, channel: number): 0 | 2 | 4 =>
  channel < fours ? 4 : channel < fours + twos ? 2 : 0;

/**
 * Bases in which errors of values count alike whatever their direction: channels are uncorrelated, and
 * `variances` squared is what losing one costs.
 */
export function valueBases(
  { nKvHeads, headDimV: d }: LayerShape,
  { values, outputs }: Pick<LayerStatistics, 'values' | 'outputs'>,
): BalancedBasis[] {
  return Array.from({ length: nKvHeads }, (_, head) => {
    const own = (all: Float32Array) =>
      Float64Array.from(all.subarray(head * d * d, (head + 1) * d * d));
    return balancedBasis({ keys: own(values), queries: own(outputs) }, d);
  });
}

/** A random rotation as the bases of a layer: no channel matters more than another. */
export function rotatedBases({ nKvHeads, headDimV: d }: LayerShape, seed: number): BalancedBasis[] {
  const rotation = randomRotation(d, seed);
  const basis = { keys: rotation, queries: rotation, variances: new Float64Array(d).fill(1) };
  return Array<BalancedBasis>(nKvHeads).fill(basis);
}

/**
 * Values u = v T, each channel in units of its step, and back v = u B. Exact values are held as u, too, so
 * that one sum of attention has both. T and B are held in 8 bits, where rows are whole blocks of 32.
 */
export class ValueCoder {
  readonly tensors: readonly Tensor[];
  private readonly into: Tensor;
  private readonly back: Tensor;
  private readonly weights: Tensor;

  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    readonly fields: FieldCounts,
  ) {
    const { nKvHeads, headDimV: d } = shape;
    const matrix = [nKvHeads, d, d];
    this.tensors = allocTensors(kernels, [
      { dtype: d % 32 === 0 ? 'q8_0' : 'f16', shape: matrix },
      { dtype: d % 32 === 0 ? 'q8_0' : 'f16', shape: matrix },
      { dtype: 'f32', shape: [nKvHeads, d] },
    ]);
    [this.into, this.back, this.weights] = this.tensors;
  }

  /** @param bases of values as they will be coded, by KV head */
  fit(bases: readonly BalancedBasis[]): void {
    const { nKvHeads, headDimV: d } = this.shape;
    const [into, back] = [0, 0].map(() => new Float32Array(nKvHeads * d * d));
    const weights = new Float32Array(nKvHeads * d);
    const units = bases.map(({ variances }) =>
      variances.map((s, c) => Math.sqrt(s) * stepOf[bitsOfField(this.fields, c)]),
    );
    bases.forEach(({ keys, queries, variances }, head) => {
      const costs = variances.map((s, c) => s * units[head][c] ** 2);
      const most = Math.max(...costs);
      for (let c = 0; c < d; c++) {
        weights[head * d + c] = costs[c] / most;
        for (let i = 0; i < d; i++) {
          into[(head * d + i) * d + c] = keys[c * d + i] / units[head][c];
          back[(head * d + c) * d + i] = queries[c * d + i] * units[head][c];
        }
      }
    });
    this.writeNumbers(this.into, into);
    this.writeNumbers(this.back, back);
    this.kernels.write(this.weights, weights);
  }

  turn(v: Tensor): void {
    this.kernels.turn(v, this.into);
  }

  turnBack(out: Tensor): void {
    this.kernels.turn(out, this.back);
  }

  /** @param u values that were turned */
  store(
    u: Tensor,
    { values, valueParams }: Pick<Page, 'values' | 'valueParams'>,
    slot: number,
  ): void {
    if (!valueParams) throw new KvError('shape', 'bitplane: the page has no valueParams.');
    this.kernels.storeFields(u, this.weights, values, valueParams, this.fields, slot);
  }

  private writeNumbers(t: Tensor, numbers: Float32Array): void {
    if (t.dtype === 'f16') this.kernels.write(t, Uint16Array.from(numbers, f32ToF16));
    else this.kernels.write(bytesOf(t), encode('q8_0', numbers));
  }
}

/** Fields where nothing says which channels matter. @param bits of a value, on average */
export function evenFields(bits: number, d: number): FieldCounts {
  const units = Math.max(1, Math.round((bits * d) / unitBits));
  const fours = fieldMultiple * Math.max(0, units - d / fieldMultiple);
  return { fours, twos: Math.min(fieldMultiple * units, d) - fours };
}

/** Bits of a value that two more for `fieldMultiple` channels take. */
export const unitBits = 2 * fieldMultiple;

/** @throws KvError "usage" if value vectors of this layer are no whole fields */
export function expectFields(method: string, { headDimV }: LayerShape): void {
  ensure(
    headDimV % fieldMultiple === 0,
    'usage',
    () =>
      `cache "${method}": values of ${headDimV} dimensions; the dimensions must be a multiple of ${fieldMultiple}. Take v=16, or another cache.`,
  );
}
