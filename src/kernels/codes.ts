/** Keys as 4-bit codes in a product codebook, as `Kernels.storeCodes` and `queryTables` define it. */
import { f32ToF16 } from '../math/f16.ts';
import type { ScaleRule } from './kernels.ts';

/** Codes of a byte lie this far apart in their block: half of its 32 keys. */
const halfBlock = 16;

/** Of the root mean square of a key: what its codes are tried at. */
const scaleFactors = [0.8, 0.9, 1, 1.1, 1.2].map(Math.fround);

/** Keys from here on have codes of zero: their products with levels might not be numbers. */
const largestKey = 2 ** 60;

/** One KV head of a `Codec`, on the host. */
export interface HeadCodebook {
  /** [4G, D] */
  readonly project: Float32Array;
  /** [G, 16, 4] */
  readonly levels: Float32Array;
  readonly rows: number;
  readonly rule: ScaleRule;
  readonly gain: number;
}

/** Where the code of group g of a slot is in keys [Hkv, P/32, G, 16]. */
export function codePlace(
  keysShape: readonly number[],
  head: number,
  slot: number,
  g: number,
): { byte: number; shift: number } {
  const [, blocks, groups] = keysShape;
  const byte = ((head * blocks + (slot >> 5)) * groups + g) * halfBlock + (slot % halfBlock);
  return { byte, shift: slot & halfBlock ? 4 : 0 };
}

/** The codes of one key, one per group, and the f16 bits of its scale (0 for rule `none`). */
export function encodeKey(
  x: Float32Array,
  { project, levels, rows, rule, gain }: HeadCodebook,
): { codes: Uint8Array; scale: number } {
  const z = projected(project, x);
  const r = Math.fround(Math.sqrt(sumOfProducts(z, z) / rows));
  const unit = rule === 'none' ? 1 : r;
  if (!(unit > 0 && r < largestKey)) return { codes: new Uint8Array(z.length / 4), scale: 0 };
  const u = z.map((v) => v / unit);
  const tries = (rule === 'least-squares' ? scaleFactors : [1]).map((factor) =>
    codesAt(u, levels, factor),
  );
  const gains = tries.map(({ product, square }) =>
    product > 0 ? (product / square) * product : -1,
  );
  const best = tries[gains.indexOf(Math.max(...gains))];
  const alpha = {
    unbiased: () => (r * sumOfProducts(u, u)) / best.product,
    'least-squares': () => r * (best.product / best.square),
    norm: () => gain * Math.sqrt(sumOfProducts(x, x)),
    none: () => 0,
  }[rule]();
  return { codes: best.codes, scale: scaleBits(alpha) };
}

/** The codes of u / factor, and in f64 sums of their levels times u, and squared. */
function codesAt(u: Float32Array, levels: Float32Array, factor: number) {
  const codes = new Uint8Array(u.length / 4);
  let [product, square] = [0, 0];
  codes.forEach((_, g) => {
    const part = u.subarray(4 * g, 4 * g + 4);
    const group = Array.from({ length: 16 }, (_, e) =>
      levels.subarray((g * 16 + e) * 4).subarray(0, 4),
    );
    const products = group.map((level) => pairedSum(part.map((v, j) => v * level[j])));
    const squares = group.map((level) => pairedSum(level.map((v) => v * v)));
    const gains = products.map((p, e) =>
      Math.fround(p - Math.fround(Math.fround(factor / 2) * squares[e])),
    );
    codes[g] = gains.indexOf(Math.max(...gains));
    product += products[codes[g]];
    square += squares[codes[g]];
  });
  return { codes, product, square };
}

/** Bits of the f16 nearest to a scale, at most 65504; 0 for what is not a positive number. */
function scaleBits(alpha: number): number {
  return alpha > 0 && alpha < Infinity ? f32ToF16(Math.min(Math.fround(alpha), 65504)) : 0;
}

/**
 * The table of one query, and what one unit in it stands for.
 * @returns entries i8 [G, 16]
 */
export function tableOf(
  q: Float32Array,
  queryProject: Float32Array,
  levels: Float32Array,
): { entries: Int8Array; scale: number } {
  const y = projected(queryProject, q);
  const groups = y.length / 4;
  const exact = new Float32Array(groups * 16);
  for (let i = 0; i < exact.length; i++) {
    const part = y.subarray((i >> 4) * 4, (i >> 4) * 4 + 4);
    exact[i] = pairedSum(part.map((v, j) => v * levels[i * 4 + j]));
  }
  const limit = Math.min(127, Math.floor(32767 / groups));
  const step = Math.fround(exact.reduce((max, t) => Math.max(max, Math.abs(t)), 0) / limit);
  const entries = new Int8Array(groups * 16);
  if (!(step > 0 && step < Infinity)) return { entries, scale: 0 };
  // A step that is subnormal may have been rounded far down: hence the limit.
  exact.forEach((t, i) => {
    const units = Math.min(limit, Math.floor(Math.abs(Math.fround(t / step)) + 0.5));
    entries[i] = t < 0 ? -units : units;
  });
  return { entries, scale: step };
}

/** matrix x in f32, element c of a row into lane c mod 4. @param matrix [rows, x.length] */
function projected(matrix: Float32Array, x: Float32Array): Float32Array {
  const lanes = new Float32Array(4);
  return Float32Array.from({ length: matrix.length / x.length }, (_, row) => {
    lanes.fill(0);
    for (let c = 0; c < x.length; c++) {
      lanes[c % 4] += Math.fround(matrix[row * x.length + c] * x[c]);
    }
    return pairedSum(lanes);
  });
}

/** Sum of four in f32, as vector code has it: (0 + 2) + (1 + 3). */
function pairedSum(v: Float32Array): number {
  return Math.fround(Math.fround(v[0] + v[2]) + Math.fround(v[1] + v[3]));
}

/** In f64, one after the other. */
function sumOfProducts(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, v, i) => sum + v * b[i], 0);
}
