import type { HostArray, Kernels, Tensor } from '../kernels/kernels.ts';
import { allocTensor } from '../kernels/tensor.ts';
import type { DType } from '../math/dtype.ts';

/** A tensor that a method writes once: projections, factors of the scores. */
export interface Constant {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** called when the tensor is there, so that only one is on the host at a time */
  readonly data: () => HostArray;
}

/** Factors of the scores, f32 [heads]. */
export function perHead(factors: readonly number[]): Constant {
  return { dtype: 'f32', shape: [factors.length], data: () => Float32Array.from(factors) };
}

/** Allocates and fills all of them. @throws KvError "memory" with none of them left allocated */
export function allocConstants(kernels: Kernels, constants: readonly Constant[]): Tensor[] {
  const made: Tensor[] = [];
  try {
    for (const { dtype, shape, data } of constants) {
      const t = allocTensor(kernels, dtype, shape);
      made.push(t);
      kernels.write(t, data());
    }
    return made;
  } catch (error) {
    for (const { buffer } of made) kernels.free(buffer);
    throw error;
  }
}
