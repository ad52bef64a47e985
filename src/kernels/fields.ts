/** Values in fields of 4 and 2 bits, as `Kernels.storeFields` defines them. */
import { f32ToF16 } from '../math/f16.ts';
import { packAffine, unpackAffine } from './affine.ts';
import type { FieldCounts } from './kernels.ts';

/** Squares of a normal variable over its best step in 4 and in 2 bits (Max 1960, table II). */
const squaresInSteps = { 4: Math.fround(8.9), 2: Math.fround(1.0086) } as const;
const scaleFactors = [0.8, 0.9, 1, 1.1, 1.2].map(Math.fround);

/** Dimensions of each width are a multiple of this, so that their codes fill whole vectors. */
export const fieldMultiple = 8;

export const fieldBytes = ({ fours, twos }: FieldCounts) => fours / 2 + twos / 4;

/** Codes of a row as they lie in a page, and the f16 bits of its scale. @param weights of its dimensions */
export function encodeFields(
  x: Float32Array,
  weights: Float32Array,
  { fours, twos }: FieldCounts,
): { readonly packed: Uint8Array; readonly scale: number } {
  const all = fours + twos;
  const packed = new Uint8Array(fieldBytes({ fours, twos }));
  const expected = Math.fround(
    Math.fround(squaresInSteps[4] * laneSum(0, fours, (c) => weights[c])) +
      Math.fround(squaresInSteps[2] * laneSum(fours, all, (c) => weights[c])),
  );
  const squares = laneSum(0, all, (c) => Math.fround(Math.fround(weights[c] * x[c]) * x[c]));
  const r = Math.fround(Math.sqrt(Math.fround(squares / expected)));
  if (!(r > 0 && r < Infinity)) return { packed, scale: 0 };
  const u = x.subarray(0, all).map((value) => value / r);
  const bitsOf = (c: number) => (c < fours ? 4 : 2);
  let [most, best, alpha] = [-1, 1, 0];
  for (const factor of scaleFactors) {
    const levels = Float32Array.from(u, (value, c) => {
      const bits = bitsOf(c);
      return fieldCode(value, factor, bits) - (2 ** bits - 1) / 2;
    });
    const weighted = levels.map((level, c) => weights[c] * level);
    const product = laneSum(0, all, (c) => Math.fround(weighted[c] * u[c]));
    const square = laneSum(0, all, (c) => Math.fround(weighted[c] * levels[c]));
    const share = Math.fround(product / square);
    const won = Math.fround(product * share);
    if (won > most) [most, best, alpha] = [won, factor, share];
  }
  const codes = Array.from(u, (value, c) => fieldCode(value, best, bitsOf(c)));
  packed.set(packAffine(codes.slice(0, fours), 4));
  packed.set(packAffine(codes.slice(fours), 2), fours / 2);
  const scale = Math.fround(r * alpha);
  return { packed, scale: scale > 0 && scale < Infinity ? f32ToF16(Math.min(scale, 65504)) : 0 };
}

/** Values of a row less their scale: code - (2^bits - 1) / 2, zero in dimensions that have no code. */
export function fieldLevels(row: Uint8Array, { fours, twos }: FieldCounts, d: number) {
  const levels = new Float32Array(d);
  unpackAffine(row.subarray(0, fours / 2), 4).forEach((code, c) => (levels[c] = code - 7.5));
  const rest = unpackAffine(row.subarray(fours / 2, fours / 2 + twos / 4), 2);
  rest.forEach((code, c) => (levels[fours + c] = code - 1.5));
  return levels;
}

function fieldCode(value: number, scale: number, bits: 2 | 4): number {
  const code = Math.floor(Math.fround(Math.fround(value / scale) + 2 ** (bits - 1)));
  return Math.min(2 ** bits - 1, Math.max(0, code));
}

/** Sum in f32 from `from` to `to`, of four parts, element i in part i mod 4, added (0 + 1) + (2 + 3). */
function laneSum(from: number, to: number, term: (c: number) => number): number {
  const lanes = new Float32Array(4);
  for (let c = from; c < to; c++) lanes[c % 4] += term(c);
  return Math.fround(Math.fround(lanes[0] + lanes[1]) + Math.fround(lanes[2] + lanes[3]));
}
