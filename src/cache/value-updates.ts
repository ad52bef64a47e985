/** What finetuning adds to the value projections, in a backend's memory: `KvCache.valueUpdates`. */
import type { Tensor } from '../kernels/kernels.ts';
import type { Constant } from './constants.ts';
import type { Finetuned } from './finetuned.ts';

/** The matrices of all layers, in their order; none if nothing was finetuned. */
export function updateConstants(tuned: Finetuned | undefined): Constant[] {
  const matrices = tuned?.layers.flatMap(({ values }) => values) ?? [];
  return matrices.map(({ shape, numbers }) => ({ dtype: 'f32', shape, data: () => numbers }));
}

/** @param matrices what was made of `updateConstants`, in the same order */
export function updatesByLayer(
  tuned: Finetuned | undefined,
  matrices: readonly Tensor[],
): Tensor[][] {
  const left = [...matrices];
  return tuned?.layers.map(({ values }) => left.splice(0, values.length)) ?? [];
}
