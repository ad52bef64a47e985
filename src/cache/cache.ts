/**
 * The cache contract. A cache is asked to attend, never to hand back keys and values: a one-bit
 * cache has no keys to hand back. Everything that a method does to keys and values happens behind
 * these calls, and the model does not know which method it runs on.
 *
 * One step of a session: `begin(n)`, then for each layer `append` and `attend` once, then `commit`.
 * Which form of key j a query at position i sees is a function of i and j alone, so the size of the
 * steps never changes a result.
 */
import type { Tensor } from '../kernels/kernels.ts';

/** What a cache has to know of one layer of a model. */
export interface LayerShape {
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDimK: number;
  readonly headDimV: number;
  /** multiplies <q, k> before softmax; 1 / sqrt(headDimK) in most models */
  readonly scale: number;
}

/** Bytes of the buffers that a cache holds, open pages counted whole. */
export interface CacheBytes {
  readonly keys: number;
  readonly values: number;
  /** scales, minima and steps of quantized entries */
  readonly scales: number;
  /** entries kept in full precision beside quantized ones */
  readonly windows: number;
  /** projections, means, codebooks: what does not grow with the context */
  readonly codebooks: number;
  /** the sum of all of the above */
  readonly total: number;
  /** temporary space for one step; not part of the total */
  readonly scratch: number;
}

/** What `save` gives and `restore` takes: the contents of a cache, whole. */
export interface CacheState {
  /** committed positions */
  readonly length: number;
  readonly numbers: Readonly<Record<string, number>>;
  readonly blocks: readonly Uint8Array[];
}

export interface KvCache {
  /** The full form of the method's spec; `createCache(spec, ...)` makes the same method again. */
  readonly spec: string;
  /** Committed positions. */
  readonly length: number;
  /**
   * By layer, what was finetuned of the model for this cache: matrices f32 through which the input of
   * the value projection, [n, dModel], goes one after the other, to be added to the values.
   */
  readonly valueUpdates?: readonly (readonly Tensor[])[] | undefined;
  /**
   * Reserves room for n more positions in every layer.
   * @throws KvError "memory" with nothing changed; KvError "usage" if a step is under way
   */
  begin(n: number): void;
  /** Stores this step's keys and values, f32 [n, nKvHeads, headDim], keys after RoPE. Enqueues. */
  append(layer: number, k: Tensor, v: Tensor): void;
  /** Causal attention of this step's queries over all positions so far. q, out: f32 [n, nHeads, headDim]. Enqueues. */
  attend(layer: number, q: Tensor, out: Tensor): void;
  /** Ends the step: `length` moves. */
  commit(): void;
  /** Drops the step under way, if any: the cache is as it was before `begin`. */
  rollback(): void;
  /**
   * Shortens the cache to the longest length <= `length` that is exactly as if nothing had
   * followed, and returns it. The caller runs the tokens in between again.
   */
  truncate(length: number): number;
  /** An independent cache with the same contents. Pages are shared until one side writes. */
  fork(): KvCache;
  bytes(): CacheBytes;
  /**
   * Everything that an empty cache of the same spec needs to go on exactly from here. Waits for the
   * backend.
   * @throws KvError "usage" if a step is under way
   */
  save(): Promise<CacheState>;
  /**
   * Fills an empty cache with what `save` gave.
   * @throws KvError "format" if the state does not fit this cache, "memory", or "usage" if the cache
   *   is not empty; it is as before then
   */
  restore(state: CacheState): void;
  /** Releases the buffers. The cache cannot be used afterwards; forks live on. */
  dispose(): void;
}
