/** How `bitplane` codes the values of a layer: in a basis where few channels matter, more bits for those. */
import { ensure, KvError } from '../errors/errors.ts';
import { fieldMultiple } from '../kernels/fields.ts';
import type { FieldCounts, Kernels, Page, Tensor } from '../kernels/kernels.ts';
import type { LayerStatistics } from './adapter.ts';
import type { LayerShape } from './cache.ts';
import { balancedBasis, randomRotation, type BalancedBasis } from './codec.ts';
import { allocTensors, matrixDType, writeRounded, type TensorShape } from './constants.ts';

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

/**
 * Values u = v T, each channel in units of its step, and back v = u B. Exact values are held as u, too, so
 * that one sum of attention has both. T and B are held in 8 bits, where rows are whole blocks of 32.
 */
export class ValueCoder {
  /** what it holds for this layer alone */
  readonly tensors: readonly Tensor[];
  private readonly bases: ValueBases;
  private readonly weights: Tensor;

  /** @param shared bases that were written; none: it has its own, which `fit` writes */
  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    readonly fields: FieldCounts,
    shared?: ValueBases,
  ) {
    const { nKvHeads, headDimV: d } = shape;
    const own = shared ? [] : basesLayout(nKvHeads, d);
    this.tensors = allocTensors(kernels, [{ dtype: 'f32', shape: [nKvHeads, d] }, ...own]);
    this.weights = this.tensors[0];
    this.bases = shared ?? { into: this.tensors[1], back: this.tensors[2] };
    if (shared) kernels.write(this.weights, this.weightsOf(Array(nKvHeads).fill(evenVariances(d))));
  }

  /** @param bases of values as they will be coded, by KV head */
  fit(bases: readonly BalancedBasis[]): void {
    writeBases(this.kernels, this.bases, bases, this.fields);
    this.kernels.write(this.weights, this.weightsOf(bases.map(({ variances }) => variances)));
  }

  /** What squared errors count, the largest of a head 1. */
  private weightsOf(variances: readonly Float64Array[]): Float32Array {
    const { headDimV: d } = this.shape;
    const weights = new Float32Array(variances.length * d);
    variances.forEach((own, head) => {
      const costs = own.map((s, c) => s * unitOf(own, this.fields, c) ** 2);
      const most = Math.max(...costs);
      costs.forEach((cost, c) => (weights[head * d + c] = cost / most));
    });
    return weights;
  }

  turn(v: Tensor): void {
    this.kernels.turn(v, this.bases.into);
  }

  turnBack(out: Tensor): void {
    this.kernels.turn(out, this.bases.back);
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
}

/** T and B of a layer, [nKvHeads, d, d], or one of each for all heads. */
interface ValueBases {
  readonly into: Tensor;
  readonly back: Tensor;
}

const basesLayout = (heads: number, d: number): TensorShape[] =>
  [0, 0].map(() => ({ dtype: matrixDType(d), shape: [heads, d, d] }));

const evenVariances = (d: number) => new Float64Array(d).fill(1);

/** What u counts in, in standard deviations times the step of its bits. */
const unitOf = (variances: Float64Array, fields: FieldCounts, c: number) =>
  Math.sqrt(variances[c]) * stepOf[bitsOfField(fields, c)];

function writeBases(
  kernels: Kernels,
  { into, back }: ValueBases,
  bases: readonly BalancedBasis[],
  fields: FieldCounts,
): void {
  const [heads, d] = into.shape;
  const [t, b] = [0, 0].map(() => new Float32Array(heads * d * d));
  bases.forEach(({ keys, queries, variances }, head) => {
    for (let c = 0; c < d; c++) {
      const unit = unitOf(variances, fields, c);
      for (let i = 0; i < d; i++) {
        t[(head * d + i) * d + c] = keys[c * d + i] / unit;
        b[(head * d + c) * d + i] = queries[c * d + i] * unit;
      }
    }
  });
  writeRounded(kernels, into, t);
  writeRounded(kernels, back, b);
}

/** One random rotation for all layers and heads that have the same width and fields, held once. */
export class ValueRotations {
  private readonly made = new Map<string, ValueBases>();

  constructor(
    private readonly kernels: Kernels,
    private readonly seed: number,
  ) {}

  coder(shape: LayerShape, fields: FieldCounts): ValueCoder {
    const d = shape.headDimV;
    const key = `${d} ${fields.fours} ${fields.twos}`;
    let bases = this.made.get(key);
    if (!bases) {
      const [into, back] = allocTensors(this.kernels, basesLayout(1, d));
      bases = { into, back };
      this.made.set(key, bases);
      const rotation = randomRotation(d, this.seed);
      const basis = { keys: rotation, queries: rotation, variances: evenVariances(d) };
      writeBases(this.kernels, bases, [basis], fields);
    }
    return new ValueCoder(this.kernels, shape, fields, bases);
  }

  private get tensors(): Tensor[] {
    return [...this.made.values()].flatMap(({ into, back }) => [into, back]);
  }

  get sizeBytes(): number {
    return this.tensors.reduce((sum, { buffer }) => sum + buffer.sizeBytes, 0);
  }

  dispose(): void {
    for (const { buffer } of this.tensors) this.kernels.free(buffer);
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
