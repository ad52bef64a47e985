import type { HostArray, Kernels, Tensor } from '../kernels/kernels.ts';
import { allocTensor, bytesOf } from '../kernels/tensor.ts';
import { encode } from '../math/blocks.ts';
import type { DType } from '../math/dtype.ts';
import { f32ToF16 } from '../math/f16.ts';

export interface TensorShape {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A tensor that a method writes once: projections, factors of the scores. */
export interface Constant extends TensorShape {
  /** called when the tensor is there, so that only one is on the host at a time */
  readonly data: () => HostArray;
}

/** Factors of the scores, f32 [heads]. */
export function perHead(factors: readonly number[]): Constant {
  return { dtype: 'f32', shape: [factors.length], data: () => Float32Array.from(factors) };
}

/** Allocates all of them, zeroed. @throws KvError "memory" with none of them left allocated */
export function allocTensors(kernels: Kernels, shapes: readonly TensorShape[]): Tensor[] {
  const made: Tensor[] = [];
  try {
    for (const { dtype, shape } of shapes) made.push(allocTensor(kernels, dtype, shape));
    return made;
  } catch (error) {
    for (const { buffer } of made) kernels.free(buffer);
    throw error;
  }
}

/** Allocates and fills all of them. @throws KvError "memory" with none of them left allocated */
export function allocConstants(kernels: Kernels, constants: readonly Constant[]): Tensor[] {
  const made = allocTensors(kernels, constants);
  made.forEach((t, i) => kernels.write(t, constants[i].data()));
  return made;
}

/** The type of a matrix that is held beside the cache: 8 bits where rows are whole blocks of them. */
export const matrixDType = (columns: number) => (columns % 32 === 0 ? 'q8_0' : 'f16');

/** Overwrites a tensor of q8_0 or f16 with numbers, rounded. */
export function writeRounded(kernels: Kernels, t: Tensor, numbers: Float32Array): void {
  if (t.dtype === 'f16') kernels.write(t, Uint16Array.from(numbers, f32ToF16));
  else kernels.write(bytesOf(t), encode('q8_0', numbers));
}
