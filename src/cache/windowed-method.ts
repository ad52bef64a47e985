/** What a method tells `WindowedCache`: its law, its pages, and the quantizer of each layer. */
import type { Page, Segment, Tensor } from '../kernels/kernels.ts';
import { rows } from '../kernels/tensor.ts';
import type { PageLayout } from './pages.ts';
import type { WindowLaw } from './window-law.ts';

/** Keys and values of neighbouring positions, f32 [n, nKvHeads, headDim]. */
export interface Rows {
  readonly k: Tensor;
  readonly v: Tensor;
}

export function partOf({ k, v }: Rows, from: number, count: number): Rows {
  return { k: rows(k, from, count), v: rows(v, from, count) };
}

/** The first positions of one layer. */
export interface Sample {
  readonly positions: number;
  /** [positions, nKvHeads, headDimK] */
  readonly keys: Float32Array;
  /** [positions, nKvHeads, headDimV] */
  readonly values: Float32Array;
  /** mean over every other position and the query heads of each KV head of q q^T, [nKvHeads, headDimK, headDimK] */
  readonly queryMoments: Float64Array;
}

/** What is subtracted before anything is stored; softmax does not see it, see docs/method.md. */
export interface Means {
  /** [nKvHeads * headDimK] */
  readonly keys: Float32Array;
  /** [nKvHeads * headDimV] */
  readonly values: Float32Array;
}

/** The quantizer of one layer in one cache. Keys and values come with their means subtracted. */
export interface LayerCodec {
  /** Everything that it holds, for saving and forking. */
  readonly tensors: readonly Tensor[];
  /** what it knows without learning, if anything */
  readonly means: Means | undefined;
  learn(sample: Sample): Means;
  /** Brings values into the basis that pages hold, in place, and outputs back; none: they are as they came. */
  readonly basis: { turn(v: Tensor): void; turnBack(out: Tensor): void } | undefined;
  store(page: Page, slot: number, k: Tensor, v: Tensor): void;
  /** @param q f32 [n, nHeads, headDimK] */
  read(
    q: Tensor,
  ): Pick<Segment, 'keyForm' | 'valueForm' | 'fields' | 'query' | 'queryScales' | 'skip'>;
}

/** What a method that quantizes all but a window adds to `WindowedCache`. */
export interface WindowedMethod {
  readonly spec: string;
  readonly law: WindowLaw;
  /** f32 [nHeads] by layer: what multiplies <q, k> */
  readonly scales: readonly Tensor[];
  /** as in `KvCache` */
  readonly valueUpdates?: readonly (readonly Tensor[])[];
  /** Tensors of one page of quantized positions. */
  layout(layer: number): PageLayout;
  /**
   * A quantizer that has not learnt yet, with its memory.
   * @param isCopy its tensors will be overwritten with those of another one
   */
  createCodec(layer: number, isCopy: boolean): LayerCodec;
  /** Bytes held for all layers together. */
  codebookBytes(): number;
  /** Room for n queries; called before each step. */
  reserveScratch(n: number): void;
  scratchBytes(): number;
  dispose(): void;
}
