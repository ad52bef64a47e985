import type { HostArray, Kernels, Tensor } from '../kernels/kernels.ts';
import { allocTensor } from '../kernels/tensor.ts';
import type { DType } from '../math/dtype.ts';

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
