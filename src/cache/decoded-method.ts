/** What a method tells `DecodedCache`: its format, its law, and what it keeps beside. */
import type { Range } from './blocks.ts';

/** Positions that are coded, decoded and allocated together. */
export const blockLength = 32;

/** Where a codec writes the keys, or the values, of one block of one layer. */
export interface Coded {
  readonly codes: Uint8Array;
  /** f16 */
  readonly scales: Uint16Array;
  /** f16, what the method has fitted for this layer; empty if nothing */
  readonly codebooks: Uint16Array;
  /** the same block of the layer below */
  readonly below?: Coded;
}

/** How the keys, or the values, of one layer are written. Pages are f32 [nKvHeads, blockLength, headDim]. */
export interface BlockCodec {
  /** bytes of a block's codes, a multiple of 4 */
  readonly codeBytes: number;
  /** bytes of a block's scales, a multiple of 4 */
  readonly scaleBytes: number;
  /** Writes the slots `first .. end - 1` of a page. */
  encode(page: Float32Array, slots: Range, coded: Coded): void;
  /** Reads at least the slots `0 .. count - 1`. */
  decode(coded: Coded, count: number, page: Float32Array): void;
}

/** Bytes of a method's state for one layer, by the kind they are counted as. Multiples of 4. */
export type StateLayout = Readonly<Record<keyof StateView, number>>;

/** The state of one layer; keys, values and codebooks are f16. */
export interface StateView {
  readonly scales: Float32Array;
  readonly keys: Uint16Array;
  readonly values: Uint16Array;
  readonly codebooks: Uint16Array;
}

/** What a method keeps beside the entries of positions: codebooks, a basis, accumulated weights. */
export interface MethodState {
  /** The version that a cache of this length holds; undefined: none yet, as at length 0. */
  version(length: number): number | undefined;
  layout(layer: number, version: number): StateLayout;
  /**
   * Makes the state of a layer, once, from its first `positions` keys and values, f32 [nKvHeads,
   * positions, headDim]. Left out where `attend` writes the state.
   */
  readonly fit?: {
    readonly positions: number;
    run(layer: number, keys: Float32Array, values: Float32Array, state: StateView): void;
  };
}

/** Rows of one form; each is valid until the next allocation. */
export interface Rows {
  /** f32 [headDimK] */
  key(kvHead: number, position: number): Float32Array;
  /** f32 [headDimV] */
  value(kvHead: number, position: number): Float32Array;
}

/** The queries of one `attend`, at positions start .. start + n - 1, and all that they may see. */
export interface DecodedStep {
  readonly layer: number;
  readonly start: number;
  readonly n: number;
  /** f32 [n, nHeads, headDimK] */
  readonly q: Float32Array;
  readonly compressed: Rows;
  readonly exact: Rows;
  /** The state before this step, and the one after it; the same if their versions are. As valid as rows. */
  state(): StateView | undefined;
  nextState(): StateView | undefined;
}

/** What a method adds to `DecodedCache`. */
export interface DecodedMethod {
  readonly spec: string;
  /** by layer; left out where all that is kept is in the state */
  readonly codecs?: readonly { readonly keys: BlockCodec; readonly values: BlockCodec }[];
  /**
   * How many leading positions a query sees in compressed form if it sees `count` in all, itself
   * the last; the rest is exact. A multiple of blockLength or `count`; never falls as `count` grows.
   */
  compressedAt(count: number): number;
  /** Positions from here on are compressed at once: 0 for all, Infinity for none. */
  readonly exactUntil: number;
  readonly state?: MethodState;
  /** Attention other than softmax over everything before the query. @returns f32 [n, nHeads, headDimV] */
  attend?(step: DecodedStep): Float32Array;
}
