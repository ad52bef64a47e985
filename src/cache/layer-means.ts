import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { reshape } from '../kernels/tensor.ts';
import type { LayerShape } from './cache.ts';
import type { Means, Rows } from './windowed-method.ts';

/** The tensors of `LayerMeans`. */
export function meansLayout({ nHeads, nKvHeads, headDimK, headDimV }: LayerShape) {
  const dtype = 'f32' as const;
  const sizes = [nKvHeads * headDimK, nKvHeads * headDimV, nHeads * headDimV];
  return sizes.map((size) => ({ dtype, shape: [size] }));
}

/** The means of one layer's keys and values, ready for use: what is added is negative. */
export class LayerMeans {
  /** @param tensors of `meansLayout`: negative means of keys, of values, and of each query head the mean value */
  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    private readonly tensors: readonly Tensor[],
  ) {}

  set(means: Means): void {
    const { nHeads, nKvHeads, headDimV } = this.shape;
    const negative = (numbers: Float32Array) => numbers.map((x) => -x);
    const ofHeads = Float32Array.from({ length: nHeads * headDimV }, (_, i) => {
      const kvHead = Math.floor((Math.floor(i / headDimV) * nKvHeads) / nHeads);
      return means.values[kvHead * headDimV + (i % headDimV)];
    });
    const [keys, values, restored] = this.tensors;
    this.kernels.write(keys, negative(means.keys));
    this.kernels.write(values, negative(means.values));
    this.kernels.write(restored, ofHeads);
  }

  subtract({ k, v }: Rows): void {
    this.kernels.addBias(reshape(k, [k.shape[0], -1]), this.tensors[0]);
    this.kernels.addBias(reshape(v, [v.shape[0], -1]), this.tensors[1]);
  }

  /** Adds the mean value of its KV head to the output of every query head. @param out f32 [n, nHeads, headDimV] */
  restore(out: Tensor): void {
    this.kernels.addBias(reshape(out, [out.shape[0], -1]), this.tensors[2]);
  }
}
