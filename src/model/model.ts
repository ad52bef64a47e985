import type { Adapter } from '../cache/adapter.ts';
import type { KvCache, LayerShape } from '../cache/cache.ts';
import type { Kernels, Tensor } from '../kernels/kernels.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { DecoderParts } from './decoder.ts';
import type { WeightLoader } from './weights.ts';

/** One sequence's share of a forward pass: new token ids, and the cache that holds what came before. */
export interface BatchItem {
  readonly ids: Int32Array;
  readonly cache: KvCache;
}

/** Which positions `forward` turns into logits: the last of each item, or all. */
export type LogitRows = 'last' | 'all';

/** The part of a model that differs between families. */
export interface Network {
  /**
   * Runs the batch through the network and commits the caches. If it throws, every cache is as it
   * was before.
   * @returns logits f32 [rows, vocabSize], in the order of the items; valid until the next call
   * @throws KvError "range" if an id is outside the vocabulary
   */
  forward(batch: readonly BatchItem[], logitRows?: LogitRows): Promise<Tensor>;
  /**
   * Runs one layer over more positions, for those that go through a text layer by layer.
   * @param x f32 [n, dModel], the residual stream before the layer, overwritten with the one behind it
   * @param cache of this layer alone, committed
   */
  forwardLayer(index: number, x: Tensor, cache: KvCache): void;
  readonly layers: readonly LayerShape[];
  readonly vocabSize: number;
  /** Positions that the model was trained for; longer prompts are refused. */
  readonly contextLength: number;
  /** What `forward` computes with, for those that compute more with it, such as gradients. */
  readonly parts: DecoderParts;
  /** Bytes of the weights in kernel memory, in their stored types. */
  readonly weightBytes: number;
  /** Releases weights and scratch. */
  dispose(): void;
}

/** What the file of a family exports: it loads the weights and makes a network of them. */
export type LoadNetwork = (weights: WeightLoader) => Promise<Network>;

/** A loaded model: the network, its tokenizer, and what was fitted for it. */
export interface Model extends Network {
  readonly name: string;
  readonly architecture: string;
  /** Identity for adapters and saved sessions: header, tensor table and samples of the tensors. */
  readonly hash: string;
  readonly kernels: Kernels;
  readonly tokenizer: Tokenizer;
  /** Jinja template of the model's chat format, if its file has one. */
  readonly chatTemplate: string | undefined;
  readonly adapter: Adapter | undefined;
  /** An empty cache for this model, from a spec such as `f16` or `h1b:b=128`. */
  createCache(spec: string): Promise<KvCache>;
}
