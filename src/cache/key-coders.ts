/** How `bitplane` codes the keys of a layer: with bits by importance, or evenly after a rotation. */
import { KvError } from '../errors/errors.ts';
import type { Codec, Kernels, ScaleRule, Tensor } from '../kernels/kernels.ts';
import { rows } from '../kernels/tensor.ts';
import type { LayerStatistics } from './adapter.ts';
import type { LayerShape } from './cache.ts';
import { allocatedCodec, balancedBasis, uniformCodec, type BalancedBasis } from './codec.ts';
import {
  allocConstants,
  allocTensors,
  matrixDType,
  writeRounded,
  type TensorShape,
} from './constants.ts';
import { exactKeys } from './spread.ts';

/** How the keys of one layer are coded. */
export interface KeyCoder {
  readonly nibbles: number;
  readonly codec: Codec;
  /** what it holds for this layer alone */
  readonly tensors: readonly Tensor[];
  /**
   * Fits it to the layer.
   * @param statistics second moments of keys as they will be coded, and of queries
   * @param bases      what `basesOf` makes of them, if it is known
   */
  fit(
    statistics: Pick<LayerStatistics, 'keys' | 'queries'>,
    bases?: readonly BalancedBasis[],
  ): void;
}

/** Balanced bases of the KV heads of a layer. */
export function basesOf(
  { nKvHeads, headDimK: d }: LayerShape,
  { keys, queries }: Pick<LayerStatistics, 'keys' | 'queries'>,
): BalancedBasis[] {
  return Array.from({ length: nKvHeads }, (_, head) => {
    const own = (all: Float32Array) =>
      Float64Array.from(all.subarray(head * d * d, (head + 1) * d * d));
    return balancedBasis({ keys: own(keys), queries: own(queries) }, d);
  });
}

/**
 * Bits by importance. Matrices and levels are held in 8 bits, where rows are whole blocks of 32; a matrix
 * has one row per channel.
 */
export class AllocatedKeys implements KeyCoder {
  readonly codec: Codec;

  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    readonly nibbles: number,
    rule: ScaleRule,
  ) {
    const { nKvHeads, headDimK: d } = shape;
    const matrix: TensorShape = {
      dtype: matrixDType(d),
      shape: [nKvHeads * rowsHeld(d, nibbles), d],
    };
    const [project, queryProject, levels, places, rows] = allocTensors(kernels, [
      matrix,
      matrix,
      { dtype: 'q8_0', shape: [nKvHeads, nibbles, levelsOfNibble] },
      { dtype: 'i32', shape: [nKvHeads, 4 * nibbles] },
      { dtype: 'i32', shape: [nKvHeads] },
    ]);
    this.codec = { project, queryProject, levels, places, rows, rule, gain: 1 };
  }

  get tensors(): readonly Tensor[] {
    const { project, queryProject, levels, places, rows } = this.codec;
    return [project, queryProject, levels, places, rows];
  }

  fit(
    statistics: Pick<LayerStatistics, 'keys' | 'queries'>,
    bases = basesOf(this.shape, statistics),
  ): void {
    const { nKvHeads, headDimK: d } = this.shape;
    const held = rowsHeld(d, this.nibbles);
    const project = new Float32Array(nKvHeads * held * d);
    const queryProject = new Float32Array(nKvHeads * held * d);
    const levels = new Float32Array(nKvHeads * this.nibbles * levelsOfNibble);
    const places = new Int32Array(nKvHeads * 4 * this.nibbles).fill(noRow);
    const rows = new Int32Array(nKvHeads);
    for (let head = 0; head < nKvHeads; head++) {
      const codec = allocatedCodec(bases[head], d, this.nibbles);
      levels.set(codec.levels, head * codec.levels.length);
      rows[head] = codec.bits.length;
      let next = head * held;
      for (let place = 0; place < 4 * this.nibbles; place++) {
        const row = (m: Float32Array) => m.subarray(place * d, (place + 1) * d);
        if (row(codec.project).every((x) => x === 0)) continue;
        project.set(row(codec.project), next * d);
        queryProject.set(row(codec.queryProject), next * d);
        places[head * 4 * this.nibbles + place] = next++;
      }
    }
    writeRounded(this.kernels, this.codec.project, project);
    writeRounded(this.kernels, this.codec.queryProject, queryProject);
    writeRounded(this.kernels, this.codec.levels, levels);
    this.kernels.write(this.codec.places, places);
    this.kernels.write(this.codec.rows, rows);
  }
}

/** The most channels of a head that can be in use. */
const rowsHeld = (d: number, nibbles: number) => Math.min(d, 4 * nibbles);

/** 16 codes for up to 4 channels. */
const levelsOfNibble = 64;

/** The place of a nibble that has fewer channels. */
const noRow = -1;

/** One random rotation for all layers and heads that have the same width and bits, held once. */
export class Rotations {
  private readonly codecs = new Map<string, Codec>();

  constructor(
    private readonly kernels: Kernels,
    private readonly shapes: readonly LayerShape[],
    private readonly nibblesOf: readonly number[],
    rule: ScaleRule,
    seed: number,
  ) {
    const heads = Math.max(...shapes.map(({ nKvHeads }) => nKvHeads));
    shapes.forEach(({ headDimK: d }, layer) => {
      const nibbles = nibblesOf[layer];
      if (nibbles === exactKeys || this.codecs.has(this.keyOf(layer))) return;
      const head = uniformCodec(d, nibbles, seed);
      const repeated = (numbers: Float32Array | Int32Array) => () => {
        const all =
          numbers instanceof Float32Array
            ? new Float32Array(heads * numbers.length)
            : new Int32Array(heads * numbers.length);
        for (let h = 0; h < heads; h++) all.set(numbers, h * numbers.length);
        return all;
      };
      const width = 4 * nibbles;
      const [project, levels, places, counts] = allocConstants(kernels, [
        { dtype: 'f32', shape: [width, d], data: () => head.project },
        { dtype: 'f32', shape: [heads, nibbles, 64], data: repeated(head.levels) },
        {
          dtype: 'i32',
          shape: [heads, width],
          data: repeated(Int32Array.from({ length: width }, (_, row) => row)),
        },
        { dtype: 'i32', shape: [heads], data: repeated(Int32Array.of(head.bits.length)) },
      ]);
      const codec = { project, queryProject: project, levels, places, rows: counts, rule, gain: 1 };
      this.codecs.set(this.keyOf(layer), codec);
    });
  }

  private keyOf(layer: number): string {
    return `${this.shapes[layer].headDimK} ${this.nibblesOf[layer]}`;
  }

  private get tensors(): Tensor[] {
    return [...this.codecs.values()].flatMap(({ project, levels, places, rows }) => [
      project,
      levels,
      places,
      rows,
    ]);
  }

  get sizeBytes(): number {
    return this.tensors.reduce((sum, { buffer }) => sum + buffer.sizeBytes, 0);
  }

  of(layer: number): KeyCoder {
    const all = this.codecs.get(this.keyOf(layer));
    if (!all) throw new KvError('shape', `bitplane: layer ${layer} has no rotation.`);
    const { nKvHeads } = this.shapes[layer];
    const [levels, places, counts] = [all.levels, all.places, all.rows].map((t) =>
      rows(t, 0, nKvHeads),
    );
    const codec = { ...all, levels, places, rows: counts };
    return { nibbles: this.nibblesOf[layer], codec, tensors: [], fit: () => {} };
  }

  dispose(): void {
    for (const { buffer } of this.tensors) this.kernels.free(buffer);
  }
}
