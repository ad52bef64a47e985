import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { reshape } from '../kernels/tensor.ts';
import type { LayerShape } from './cache.ts';
import type { Means, Rows } from './windowed-method.ts';

/** The tensors of `LayerMeans`. */
export function meansLayout({ nKvHeads, headDimK, headDimV }: LayerShape) {
  const dtype = 'f32' as const;
  return [headDimK, headDimV, headDimV].map((d) => ({ dtype, shape: [nKvHeads * d] }));
}

/** The means of one layer's keys and values, ready for use: what is added is negative. */
export class LayerMeans {
  /** the KV head of each query head */
  private readonly kvHeads: Int32Array;

  /** @param tensors of `meansLayout`: negative means of keys, of values, and means of values */
  constructor(
    private readonly kernels: Kernels,
    private readonly shape: LayerShape,
    private readonly tensors: readonly Tensor[],
  ) {
    const { nHeads, nKvHeads } = shape;
    this.kvHeads = Int32Array.from({ length: nHeads }, (_, head) =>
      Math.floor((head * nKvHeads) / nHeads),
    );
  }

  set(means: Means): void {
    const negative = (numbers: Float32Array) => numbers.map((x) => -x);
    const [keys, values, restored] = this.tensors;
    this.kernels.write(keys, negative(means.keys));
    this.kernels.write(values, negative(means.values));
    this.kernels.write(restored, means.values);
  }

  subtract({ k, v }: Rows): void {
    this.kernels.addBias(reshape(k, [k.shape[0], -1]), this.tensors[0]);
    this.kernels.addBias(reshape(v, [v.shape[0], -1]), this.tensors[1]);
  }

  /**
   * Adds the mean value of its KV head to the output of every query head.
   * @param out f32 [n, nHeads, headDimV]
   * @param bias room for f32 [nHeads, headDimV]
   */
  restore(out: Tensor, bias: Tensor): void {
    const { nKvHeads, headDimV } = this.shape;
    this.kernels.embed(reshape(this.tensors[2], [nKvHeads, headDimV]), this.kvHeads, bias);
    this.kernels.addBias(reshape(out, [out.shape[0], -1]), reshape(bias, [-1]));
  }
}
