/**
 * The kernel contract: what a backend can do with tensors in its own memory.
 *
 * Glossary of dimensions, used in every shape comment below:
 *   n    positions in this call          T    positions in the cache
 *   H    query heads                     Hkv  key/value heads; H is a multiple of Hkv
 *   D    head dimension of keys          Dv   head dimension of values
 *   P    positions in a page             b    bits of a key sketch, W = b / 32 words
 *
 * `reference.ts` is the oracle: slow and obvious. Every other backend agrees with it within the
 * bounds that `kernels-contract.ts` states. Calls only enqueue where the backend is a GPU, so
 * nothing returns numbers except `read`.
 *
 * NaN and infinity: `linear`, `rmsNorm` and the `store` kernels refuse them with
 * KvError "not-finite"; the element-wise kernels let them through to the next of those.
 */
import type { DType } from '../math/dtype.ts';

export type BackendName = 'reference' | 'wasm' | 'native' | 'webgpu';

/** A region of a backend's memory. Only the backend that made it knows where it is. */
export interface KernelBuffer {
  readonly sizeBytes: number;
}

/** Numbers in a backend's memory, row-major and contiguous. `offset` is in bytes. */
export interface Tensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly buffer: KernelBuffer;
  readonly offset: number;
}

/** What a host view of a tensor is: f16 and bf16 are seen as raw bits, block formats as bytes. */
export type HostArray =
  Float32Array | Uint16Array | Int32Array | Uint32Array | Int8Array | Uint8Array;

/** One output of `linear`. */
export interface LinearPart {
  /** [rows, columns], any type of weights */
  readonly weight: Tensor;
  /** f32 [n, rows], overwritten */
  readonly out: Tensor;
}

/**
 * How a page holds keys.
 * - `f32`, `f16`: keys [Hkv, P, D]; the query is f32 [n, H, D]; raw score = <q, k>
 * - `sketch`: keys u32 [Hkv, P, W], bit i of word w is sketch dimension 32w + i; the query is
 *   u32 [H, n, W]; raw score = b - 2 popcount(q XOR k), an exact integer
 */
export type KeyForm = 'f32' | 'f16' | 'sketch';

/**
 * How a page holds values.
 * - `f32`, `f16`: values [Hkv, P, Dv]
 * - `affine4`: values u8 [Hkv, P, Dv / 2], byte i of a row holds dimension i in its low nibble and
 *   dimension i + Dv/2 in its high one; valueParams f16 [Hkv, P, 2] holds (minimum, step);
 *   value = minimum + step * code
 */
export type ValueForm = 'f32' | 'f16' | 'affine4';

/** P consecutive positions of one layer, all KV heads. */
export interface Page {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly valueParams?: Tensor;
}

/**
 * A run of cached positions in one form. The query at position i sees key j of the segment iff
 * `minDistance <= i - j <= maxDistance`: a function of i and j alone, so that the chunk size of
 * prefill never changes a result. Causality is `minDistance >= 0`.
 */
export interface Segment {
  readonly keyForm: KeyForm;
  readonly valueForm: ValueForm;
  readonly query: Tensor;
  readonly pages: readonly Page[];
  /** P; slot s of page p holds position first + p P + s */
  readonly pageLength: number;
  readonly first: number;
  readonly length: number;
  readonly minDistance: number;
  readonly maxDistance: number;
  /** f32 [H]; logit = scale[h] * raw score */
  readonly scale: Tensor;
}

/** The queries of one `attend`: positions start .. start + n - 1. */
export interface AttendShape {
  readonly n: number;
  readonly start: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDimK: number;
  readonly headDimV: number;
}

/** RoPE pairs: `adjacent` rotates (2i, 2i+1), as GGUF llama stores it; `halves` (i, i + D/2). */
export type RopeStyle = 'adjacent' | 'halves';

export interface Kernels {
  readonly backend: BackendName;
  /** One line for people: instruction set, threads, and why this one. */
  readonly description: string;
  readonly threads: number;

  // memory

  /**
   * Reserves zeroed memory, aligned to 64 bytes.
   * @throws KvError "memory" if there is not enough; nothing is changed
   */
  alloc(sizeBytes: number): KernelBuffer;
  /** Gives a buffer back. Freeing twice, or a buffer of another backend, is an error. */
  free(buffer: KernelBuffer): void;
  /** Bytes that `alloc` handed out and `free` did not take back. */
  readonly allocatedBytes: number;
  /** The most that `alloc` could ever hand out, in bytes. */
  readonly maxBytes: number;
  /** Host view of a tensor (CPU backends only). Valid until the next `alloc`. */
  view(tensor: Tensor): HostArray;
  /** Copy of a tensor's contents, after everything enqueued so far. The only thing that waits. */
  read(tensor: Tensor): Promise<HostArray>;
  /** Overwrites a tensor with `data`, which has the tensor's host type and length. */
  write(tensor: Tensor, data: HostArray): void;
  /** Copies bytes; both tensors have the same size in bytes. */
  copy(source: Tensor, target: Tensor): void;

  // the model

  /** out[i] = table[ids[i]], dequantized. @param table [rows, columns] @param out f32 [n, columns] */
  embed(table: Tensor, ids: Int32Array, out: Tensor): void;
  /** out = x / sqrt(mean(x^2) + eps) * weight, row by row. x and out f32 [n, d] (may be the same), weight f32 [d]. */
  rmsNorm(x: Tensor, weight: Tensor, eps: number, out: Tensor): void;
  /**
   * part.out = x part.weight^T for every part; one call shares the preparation of x.
   * x is brought to the precision of the weights, as llama.cpp does it. For f16 weights it is rounded
   * to 11 significant bits. For formats with blocks of 32 it is quantized in such blocks: codes = x *
   * (127 / max|x|) rounded half to even (zero where that factor is not finite), scale = max|x| / 127
   * rounded to 11 significant bits; the minima of q4_1 and q5_1 are multiplied by the sum of the codes
   * times max|x| / 127, rounded alike. For the K types blocks of 256 get codes = x * (-127 / extreme),
   * extreme being the value of largest magnitude, and scale = 1 / (-127 / extreme). Products of codes
   * are exact integers, summed in f32. A block whose scale is NaN or infinite gives outputs that are
   * not finite: the next `rmsNorm`, or the sampler, refuses them.
   * @param x f32 [n, columns]
   */
  linear(x: Tensor, parts: readonly LinearPart[]): void;
  /**
   * Rotates pairs of x in place.
   * @param x     f32 [n, heads, D]
   * @param table f32 [n, R/2, 2], (cos, sin) of each pair; only the first R <= D dimensions rotate
   */
  rope(x: Tensor, table: Tensor, style: RopeStyle): void;
  /** x += y. f32, same shape. */
  add(x: Tensor, y: Tensor): void;
  /** x[i] += bias. @param x f32 [n, d] @param bias f32 [d] */
  addBias(x: Tensor, bias: Tensor): void;
  /** gate = silu(gate) * up. f32, same shape. */
  swiglu(gate: Tensor, up: Tensor): void;

  // the caches

  /**
   * page[h, slot + i] = x[i, h], converted.
   * @param x    f32 [n, heads, D]; for an f16 page |x| <= 65504, f16's largest (KvError "range")
   * @param page f32 or f16 [heads, P, D]
   */
  storeRows(x: Tensor, page: Tensor, slot: number): void;
  /**
   * Signs of a projection: bit r of page[h, slot + i] is 1 iff <projection[h * Hkv / heads, r], q> >= 0,
   * where q is x[i, h] rounded to 15 bits, x * (32767 / max|x|), half away from zero (zero where that
   * factor is not finite). Sums are exact integers, so every backend gives the same bits for the same x.
   * @param x          f32 [n, heads, D], D <= 512
   * @param projection i8 [Hkv, b, D]; heads is a multiple of Hkv
   * @param page       u32 [heads, P, b / 32]
   */
  storeSketch(x: Tensor, projection: Tensor, page: Tensor, slot: number): void;
  /**
   * Affine 4-bit codes per row: minimum = min(x) rounded down to f16, step = (max(x) - minimum) / 15
   * rounded up to f16, code = clamp(floor((v - minimum) / step + 0.5), 0, 15), all in f32; a step
   * of zero gives codes of zero. Rounding outwards keeps every value within half a stored step.
   * @param x      f32 [n, heads, Dv], Dv even, |x| <= 65504 (f16's largest; beyond it KvError "range")
   * @param codes  u8 [heads, P, Dv / 2], nibbles as in ValueForm
   * @param params f16 [heads, P, 2]
   */
  storeAffine4(x: Tensor, codes: Tensor, params: Tensor, slot: number): void;
  /**
   * softmax over every visible key of all segments together, times the values. A query that sees
   * no key gives zeros.
   * @param out f32 [n, H, Dv], overwritten
   */
  attend(segments: readonly Segment[], shape: AttendShape, out: Tensor): void;
  /**
   * The logits that `attend` uses, for tests and for methods that need them.
   * @param out f32 [H, n, segment.length]; -Infinity where the query does not see the key
   */
  scores(segment: Segment, shape: AttendShape, out: Tensor): void;

  /** Stops threads and releases all memory. The backend cannot be used afterwards. */
  dispose(): void;
}
