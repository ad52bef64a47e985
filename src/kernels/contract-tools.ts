/** What the suites of kernels are made with: a backend to fill, random numbers of every kind, and comparisons. */
import { expect } from 'vitest';
import { f16ToF32, f32ToBf16, f32ToF16 } from '../math/f16.ts';
import { dtypeBlocks, elementCount, tensorSizeBytes, type DType } from '../math/dtype.ts';
import { encode, type EncodableDType } from '../math/blocks.ts';
import { Random } from '../math/random.ts';
import { unpackAffine } from './affine.ts';
import type { Codec, HostArray, Kernels, ScaleRule, Tensor } from './kernels.ts';
import { allocTensor, bytesOf } from './tensor.ts';

/** Tensors made for one test on one backend. */
export class Workspace {
  readonly kernels: Kernels;
  private readonly made: Tensor[] = [];

  constructor(kernels: Kernels) {
    this.kernels = kernels;
  }

  zeros(dtype: DType, shape: readonly number[]): Tensor {
    const t = allocTensor(this.kernels, dtype, shape);
    this.made.push(t);
    return t;
  }

  put(dtype: DType, shape: readonly number[], data: HostArray): Tensor {
    const t = this.zeros(dtype, shape);
    this.kernels.write(t, data);
    return t;
  }

  f32(shape: readonly number[], data: Float32Array): Tensor {
    return this.put('f32', shape, data);
  }

  blocks(dtype: EncodableDType, shape: readonly number[], data: Float32Array): Tensor {
    const t = this.zeros(dtype, shape);
    this.kernels.write(bytesOf(t), encode(dtype, data));
    return t;
  }

  release(): void {
    for (const t of this.made) this.kernels.free(t.buffer);
  }
}

/** Copies of the tensors that `run` returns on this backend. */
export async function results(
  kernels: Kernels,
  run: (w: Workspace) => readonly Tensor[],
): Promise<HostArray[]> {
  const workspace = new Workspace(kernels);
  const copies = await Promise.all(run(workspace).map((t) => kernels.read(t)));
  workspace.release();
  return copies;
}

export function normals(random: Random, count: number, size = 1): Float32Array {
  return Float32Array.from({ length: count }, () => size * random.normal());
}

export function bytes(random: Random, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, () => random.uint32() & 255);
}

export function words(random: Random, count: number): Uint32Array {
  return Uint32Array.from({ length: count }, () => random.uint32());
}

/** Where the f16 scales and minima of a block are, in bytes. */
export const halfFields: Partial<Record<DType, readonly number[]>> = {
  q8_0: [0],
  q4_0: [0],
  q4_1: [0, 2],
  q5_0: [0],
  q5_1: [0, 2],
  q4_k: [0, 2],
  q5_k: [0, 2],
  q6_k: [208],
};
export const hasMinima = (dtype: DType) => halfFields[dtype]?.length === 2;

/** Weights of any type, every code of the block formats included. */
export function weights(random: Random, dtype: DType, shape: readonly number[]): HostArray {
  const count = elementCount(shape);
  if (dtype === 'f32') return normals(random, count);
  if (dtype === 'f16') return Uint16Array.from(normals(random, count), f32ToF16);
  if (dtype === 'bf16') return Uint16Array.from(normals(random, count), f32ToBf16);
  const blocks = bytes(random, tensorSizeBytes(dtype, shape));
  for (let at = 0; at < blocks.length; at += dtypeBlocks[dtype].bytes) {
    // Scales of 1e-7 to 1e-2: subnormal halves among them.
    for (const field of halfFields[dtype] ?? []) {
      const scale = f32ToF16((random.uniform() < 0.5 ? -1 : 1) * 10 ** (-7 + 5 * random.uniform()));
      blocks[at + field] = scale & 255;
      blocks[at + field + 1] = scale >> 8;
    }
  }
  return blocks;
}

/**
 * Magnitudes of the terms that make up each weight. scale * code and a minimum may cancel, but among
 * 32 random codes some are so small that the sum shows the minimum, and others show the product: both
 * together are at most three times the largest sum.
 */
export function partsOf(dtype: DType, values: HostArray): Float32Array {
  const sizes = Float32Array.from(values, Math.abs);
  if (!hasMinima(dtype)) return sizes;
  return sizes.map((_, i) => {
    const unit = sizes.subarray(i - (i % 32), i - (i % 32) + 32);
    return 3 * unit.reduce((max, v) => Math.max(max, v), 0);
  });
}

/** Rows to store: ordinary, constant, huge, tiny, offset, sparse and zero ones, and ties in turn. */
export function hostileRows(
  random: Random,
  count: number,
  d: number,
  largest: number,
): Float32Array {
  const kinds: ((i: number) => number)[] = [
    () => random.normal(),
    () => 3.3,
    () => random.normal() * largest * 0.1,
    () => random.normal() * 1e-42,
    () => 1000 + random.normal() * 1e-3,
    (i) => (i === 1 ? -2 : 0),
    (i) => (i % 32 === 0 ? 127 : (i % 100) + 0.5), // halves of a q8 step
    () => 0,
    () => -0.1,
    (i) => (i % 2 ? largest : -largest),
    () => random.normal() * 1e-6,
  ];
  return Float32Array.from({ length: count * d }, (_, i) => {
    return kinds[Math.floor(i / d) % kinds.length](i % d);
  });
}

export function maxMagnitude(values: HostArray): number {
  let max = 0;
  for (const v of values) max = Math.max(max, Math.abs(v));
  return max;
}

/** Fails with the worst element unless |actual - expected| <= bound(i) everywhere. */
export function expectClose(
  actual: HostArray,
  expected: HostArray,
  bound: (i: number) => number,
): void {
  expect(actual.length).toBe(expected.length);
  let worst = { ratio: 0, text: '' };
  expected.forEach((e: number, i: number) => {
    const ratio = e === actual[i] ? 0 : Math.abs(actual[i] - e) / bound(i);
    if (ratio > worst.ratio || Number.isNaN(ratio)) {
      worst = {
        ratio: Number.isNaN(ratio) ? Infinity : ratio,
        text: `[${i}]: ${actual[i]}, not ${e}`,
      };
    }
  });
  expect(worst.ratio, `worst element ${worst.text}`).toBeLessThanOrEqual(1);
}

/**
 * A random codec, its matrices of any type that is allowed; every ninth place has no row, as where a group
 * has fewer channels.
 */
export function codecOf(
  w: Workspace,
  c: { nKvHeads: number; groups: number; d: number; rule: ScaleRule },
  seed: number,
): Codec {
  const random = new Random(seed);
  const { nKvHeads, groups, d, rule } = c;
  const width = 4 * groups;
  const isEmpty = (place: number) => place % 9 === 8;
  const nRows = nKvHeads * width;
  const outside = [-1, nRows, -(2 ** 31), 2 ** 31 - 1];
  const places = Int32Array.from({ length: nRows }, (_, place) =>
    isEmpty(place) ? outside[place % outside.length] : nRows - 1 - place,
  );
  const used = Int32Array.from(
    { length: nKvHeads },
    (_, h) =>
      Array.from({ length: width }, (_, i) => h * width + i).filter((i) => !isEmpty(i)).length,
  );
  const put = (shape: readonly number[], numbers: Float32Array) => {
    const dtypes = (['f32', 'f16', 'q8_0'] as const).slice(
      0,
      shape[shape.length - 1] % 32 === 0 ? 3 : 2,
    );
    const dtype = dtypes[Math.floor(random.uniform() * dtypes.length)];
    if (dtype === 'f32') return w.f32(shape, numbers);
    if (dtype === 'f16') return w.put(dtype, shape, Uint16Array.from(numbers, f32ToF16));
    return w.blocks('q8_0', shape, numbers);
  };
  const matrix = () => put([nRows, d], normals(random, nRows * d, 1 / Math.sqrt(d)));
  const levels = normals(random, nKvHeads * groups * 64);
  const levelsShape = [nKvHeads, groups, 64];
  return {
    project: matrix(),
    queryProject: matrix(),
    places: w.put('i32', [nKvHeads, width], places),
    rows: w.put('i32', [nKvHeads], used),
    levels:
      random.uniform() < 0.5 ? w.f32(levelsShape, levels) : w.blocks('q8_0', levelsShape, levels),
    rule,
    gain: 0.7,
  };
}

/** A stored affine row as numbers, for tests of the codes themselves. */
export function affineValues(row: HostArray, params: HostArray): number[] {
  const [minimum, step] = [f16ToF32(params[0]), f16ToF32(params[1])];
  return Array.from(unpackAffine(row, 4), (code) => minimum + step * code);
}
