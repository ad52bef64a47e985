import type { Kernels, Tensor } from '../kernels/kernels.ts';
import type { LayerShape } from './cache.ts';
import type { Means, Rows } from './windowed-method.ts';

/** The tensors of `LayerMeans`. */
export function meansLayout({ nKvHeads, headDimK, headDimV }: LayerShape) {
  const dtype = 'f32' as const;
  return [headDimK, headDimV, headDimV].map((d) => ({ dtype, shape: [nKvHeads, d] }));
}

/** The means of one layer's keys and values, ready for use: what is added is negative. */
export class LayerMeans {
  /** @param tensors of `meansLayout`: negative means of keys, of values, and means of values */
  constructor(
    private readonly kernels: Kernels,
    private readonly tensors: readonly Tensor[],
  ) {}

  set(means: Means): void {
    const negative = (numbers: Float32Array) => numbers.map((x) => -x);
    const [keys, values, restored] = this.tensors;
    this.kernels.write(keys, negative(means.keys));
    this.kernels.write(values, negative(means.values));
    this.kernels.write(restored, means.values);
  }

  subtract({ k, v }: Rows): void {
    this.kernels.addBias(k, this.tensors[0]);
    this.kernels.addBias(v, this.tensors[1]);
  }

  /** Adds the mean value of its KV head to the output of every query head. @param out f32 [n, nHeads, headDimV] */
  restore(out: Tensor): void {
    this.kernels.addBias(out, this.tensors[2]);
  }
}
