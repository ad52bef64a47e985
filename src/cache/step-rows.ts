import { KvError } from '../errors/errors.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import { bytesOf, rows, tensor } from '../kernels/tensor.ts';
import { tensorSizeBytes } from '../math/dtype.ts';
import type { LayerShape } from './cache.ts';
import { allocTensors } from './constants.ts';
import type { Rows } from './windowed-method.ts';

/** Room for one step's keys and values, which change on their way into a cache; layers share it. */
export class StepRows {
  private held: readonly Tensor[] = [];
  private capacity = 0;

  constructor(
    private readonly kernels: Kernels,
    private readonly shapes: readonly LayerShape[],
  ) {}

  get sizeBytes(): number {
    return this.held.reduce((sum, t) => sum + tensorSizeBytes(t.dtype, t.shape), 0);
  }

  /** @param n positions of the step */
  reserve(n: number): void {
    if (this.capacity >= n) return;
    const widest = (of: (shape: LayerShape) => number) => Math.max(...this.shapes.map(of));
    const held = allocTensors(this.kernels, [
      { dtype: 'f32', shape: [n, widest((s) => s.nKvHeads * s.headDimK)] },
      { dtype: 'f32', shape: [n, widest((s) => s.nKvHeads * s.headDimV)] },
    ]);
    this.dispose();
    this.held = held;
    this.capacity = n;
  }

  /** A copy of a step's keys and values. */
  take({ k, v }: Rows, shape: LayerShape): Rows {
    const own = this.rows(shape, 0, k.shape[0]);
    this.kernels.copy(bytesOf(k), bytesOf(own.k));
    this.kernels.copy(bytesOf(v), bytesOf(own.v));
    return own;
  }

  /** Rows of what was taken last, in the layer's shape. */
  rows({ nKvHeads, headDimK, headDimV }: LayerShape, from: number, count: number): Rows {
    const of = (place: number, width: number) =>
      rows(this.view(place, [from + count, nKvHeads, width]), from, count);
    return { k: of(0, headDimK), v: of(1, headDimV) };
  }

  dispose(): void {
    for (const { buffer } of this.held) this.kernels.free(buffer);
    this.held = [];
    this.capacity = 0;
  }

  private view(place: number, shape: readonly number[]): Tensor {
    if (this.capacity === 0) throw new KvError('usage', 'cache: it was asked outside a step.');
    return tensor(this.held[place].buffer, 'f32', shape);
  }
}
