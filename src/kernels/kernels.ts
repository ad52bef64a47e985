/**
 * The kernel contract: what a backend can do with tensors in its own memory.
 *
 * Glossary of dimensions, used in every shape comment below:
 *   n    positions in this call          T    positions in the cache
 *   H    query heads                     Hkv  key/value heads; H is a multiple of Hkv
 *   D    head dimension of keys          Dv   head dimension of values
 *   P    positions in a page             b    bits of a key sketch, W = b / 32 words
 *   G    groups of a key's codes, each standing for 4 dimensions of its projection
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
/** What the native backend is compiled for, best first; `baseline` runs on every machine. */
export type InstructionSet = 'avx512' | 'avx2' | 'neon' | 'baseline';
/** The best that works here, or one that has to. */
export type BackendChoice = 'auto' | BackendName | `native-${InstructionSet}`;

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
 * - `codes`: keys u8 [Hkv, P/32, G, 16], P a multiple of 32: slot s lies in block s >> 5, and byte i of
 *   a group holds the codes of slots 32 block + i in its low nibble and 32 block + 16 + i in its high
 *   one, so that 16 bytes are one group of 32 keys. The query is the tables of `queryTables`; raw
 *   score = key scale * query scale * sum over g of table[g][code g], the sum an exact integer. A page
 *   without `keyScales` has key scales of 1.
 */
export type KeyForm = 'f32' | 'f16' | 'sketch' | 'codes';

/**
 * How a page holds values.
 * - `f32`, `f16`: values [Hkv, P, Dv]
 * - `affine4`: values u8 [Hkv, P, Dv / 2], Dv even; valueParams f16 [Hkv, P, 2] holds (minimum, step); value =
 *   minimum + step * code. Byte i of a row holds the codes of dimensions i, in its low nibble, and i + Dv / 2.
 * - `fields`: values u8 [Hkv, P, fours/2 + twos/4], valueParams f16 [Hkv, P] scales. The first `fours`
 *   dimensions have codes of 4 bits, the next `twos` of 2, the rest none; value = scale * (code - 7.5),
 *   scale * (code - 1.5) and 0. A row is the fours as in affine4, then N = twos / 4 bytes, byte i holding the codes
 *   of dimensions i, i + N, i + 2N, i + 3N of the twos from its low bits up. Both counts are multiples of 8.
 */
export type ValueForm = 'f32' | 'f16' | 'affine4' | 'fields';

/** How many dimensions have codes of 4 and of 2 bits. */
export interface FieldCounts {
  readonly fours: number;
  readonly twos: number;
}

/** P consecutive positions of one layer, all KV heads. */
export interface Page {
  readonly keys: Tensor;
  /** f16 [Hkv, P], for `codes` only */
  readonly keyScales?: Tensor;
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
  /** of `fields` */
  readonly fields?: FieldCounts | undefined;
  readonly query: Tensor;
  /**
   * f32 [H, n], factors of the raw scores: for `codes` what `queryTables` wrote, for `sketch` what the
   * caller likes (none: 1)
   */
  readonly queryScales?: Tensor | undefined;
  /** Not changed once it was given: backends remember where the pages of a list are. */
  readonly pages: readonly Page[];
  /** P; slot s of page p holds position first + p P + s */
  readonly pageLength: number;
  readonly first: number;
  readonly length: number;
  readonly minDistance: number;
  readonly maxDistance: number;
  /** f32 [H]; logit = scale[h] * raw score */
  readonly scale: Tensor;
  /**
   * The share of a query's weights, from 0 (the default) to below 1, that a backend may leave out with
   * the values they belong to, the smallest ones; the rest is renormalised. With S of this segment's
   * weights left out the output errs by at most 2 S max|v|.
   */
  readonly skip?: number | undefined;
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

/**
 * The scale of a coded key, with r the root mean square of its projection z, u = z / r, c its levels:
 * `unbiased` r <u,u> / <u,c>; `least-squares` r <u,c> / <c,c>; `norm` gain ||x||; `none` has no scale,
 * and there u = z.
 */
export type ScaleRule = 'unbiased' | 'least-squares' | 'norm' | 'none';

/**
 * A product codebook for the keys of one layer: G groups of 4 places, 16 levels each. Matrices are held
 * without the rows that are zero, and may be f32, f16 or q8_0.
 */
export interface Codec {
  /** [R, D]: key -> z, through `places` */
  readonly project: Tensor;
  /** [R, D], for queries; may be `project` */
  readonly queryProject: Tensor;
  /** i32 [Hkv, 4G]: the row of both matrices that each place of z has; zero where there is no such row */
  readonly places: Tensor;
  /** i32 [Hkv]: places that have a row that is not all zero */
  readonly rows: Tensor;
  /** [Hkv, G, 64], f32 or q8_0: 16 levels of 4 numbers */
  readonly levels: Tensor;
  readonly rule: ScaleRule;
  /** of rule `norm` */
  readonly gain: number;
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
  /**
   * Bytes of a file as a buffer, without a copy: read when first touched, not counted below. Tensors in it
   * are for reading. The file must not become shorter while the buffer is in use: the system would end
   * the program. Only where a backend can; `descriptor` may be closed afterwards.
   * @param offset a multiple of 4
   * @returns undefined if the system refuses
   */
  mapFile?(descriptor: number, offset: number, sizeBytes: number): KernelBuffer | undefined;
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
  /** x[i, h] += bias[h * Hkv / heads]. @param x f32 [n, heads, D] @param bias f32 [Hkv, D]; heads is a multiple of Hkv */
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
   * Codes and scales of keys. z = project x is a sum in f32, of four parts in the order (0 + 2) + (1 + 3),
   * element c of a row of `project` going into part c mod 4; r = sqrt(sum of z^2 / rows). With p =
   * <u[4g .. 4g+3], levels[g][e]> and s = |levels[g][e]|^2, sums in f32 in that order, the code of group g is
   * the e of largest p - f/2 s, which is the level nearest to u / f, the lowest on ties. f is 1; for rule
   * `least-squares` it is the first of 0.8, 0.9, 1, 1.1, 1.2 that leaves the least error, that is of largest
   * <u,c>^2 / <c,c> with <u,c> > 0. <u,c> and <c,c>, sums of p and of s, and the other norms and products
   * are summed in f64 in order, and the scale is rounded to the nearest f16, at most 65504: every backend
   * gives the same bytes. Codes and scales are zero where r is zero (codes but for rule `none`) or not
   * below 2^60, scales also where they would not be positive.
   * @param x         f32 [n, Hkv, D]
   * @param keys      u8 [Hkv, P/32, G, 16] as in KeyForm, G <= 512; the other slots' codes stay
   * @param keyScales f16 [Hkv, P]; undefined for rule `none`, and only there
   */
  storeCodes(
    x: Tensor,
    codec: Codec,
    keys: Tensor,
    keyScales: Tensor | undefined,
    slot: number,
  ): void;
  /**
   * Look-up tables of queries. y = queryProject q; t[g][e] = <y[4g .. 4g+3], levels[g][e]>, sums as in
   * `storeCodes`; step = max|t| / min(127, floor(32767 / G)); entry = t / step, rounded half away from
   * zero. Entries of G groups add up within 16 bits. Where a step is zero or not finite, entries and
   * scale are zero.
   * @param q      f32 [n, H, D]
   * @param tables i8 [H, n, G, 16], overwritten: ready for byte shuffles
   * @param scales f32 [H, n], overwritten: the steps
   */
  queryTables(q: Tensor, codec: Codec, tables: Tensor, scales: Tensor): void;
  /**
   * Affine codes of 4 bits per row: minimum = low rounded down to f16, step = (high - minimum) / 15
   * rounded up to f16, code = clamp(floor((v - minimum) / step + 0.5), 0, 15), low and high being the row's
   * extremes; a step of zero gives codes of zero. Rounding outwards keeps every value within half a stored
   * step. All in f32.
   * @param x      f32 [n, heads, Dv], |x| <= 65504 (f16's largest; beyond it KvError "range")
   * @param codes  u8 [heads, P, Dv / 2] as in ValueForm
   * @param params f16 [heads, P, 2]
   */
  storeAffine(x: Tensor, codes: Tensor, params: Tensor, slot: number): void;
  /**
   * x[i, h] = x[i, h] matrices[h * Hkv / heads], in place. A row does not depend on the others of the call.
   * @param x        f32 [n, heads, D], D <= 512
   * @param matrices f32, f16 or q8_0 [Hkv, D, D]; heads is a multiple of Hkv
   */
  turn(x: Tensor, matrices: Tensor): void;
  /**
   * Codes in fields per row. With r^2 = sum of w x^2 / (8.9 sum of w over the fours + 1.0086 over the twos), u = x / r and
   * for each factor f of 0.8, 0.9, 1, 1.1, 1.2 codes = clamp(floor(u / f + 2^(bits - 1)), 0, 2^bits - 1), levels
   * c = code - (2^bits - 1) / 2 and a = sum of w u c / sum of w c^2: the first f of the largest a * sum of w u c, scale r a rounded to
   * the nearest f16, at most 65504. All in f32; sums are of four parts, element i in part i mod 4, added (0 + 1) +
   * (2 + 3). Codes and scale are zero where r is zero or not finite.
   * @param x       f32 [n, heads, Dv]
   * @param weights f32 [heads, Dv], w above: what squared errors count
   * @param codes   u8 [heads, P, fours/2 + twos/4] as in ValueForm
   * @param scales  f16 [heads, P]
   */
  storeFields(
    x: Tensor,
    weights: Tensor,
    codes: Tensor,
    scales: Tensor,
    fields: FieldCounts,
    slot: number,
  ): void;
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
