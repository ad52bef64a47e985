/** Affine value codes of 2, 3 or 4 bits: how they are chosen and how they lie in a row. */
import { f16ToF32, f32ToF16 } from '../math/f16.ts';
import type { AffineBits, AffineForm } from './kernels.ts';

const bitsOfForm: Readonly<Record<string, AffineBits | undefined>> = {
  affine2: 2,
  affine3: 3,
  affine4: 4,
} satisfies Record<AffineForm, AffineBits>;

/** Bits of an affine form; undefined for the others. */
export function affineBits(form: string): AffineBits | undefined {
  return bitsOfForm[form];
}

/** Codes in one word of a row: a row of Dv values is Dv / codesPerWord(bits) words. */
export function codesPerWord(bits: AffineBits): number {
  return bits === 4 ? 2 : 4;
}

/** Dv must be a multiple of this, so that a row is whole bytes. */
export function affineMultiple(bits: AffineBits): number {
  return bits === 3 ? 8 : codesPerWord(bits);
}

/** Bytes of a row laid out as `ValueForm` says. @param codes one per dimension, 0 .. 2^bits - 1 */
export function packAffine(codes: ArrayLike<number>, bits: AffineBits): Uint8Array {
  const perWord = codesPerWord(bits);
  const words = codes.length / perWord;
  const row = new Uint8Array((codes.length * bits) / 8);
  for (let i = 0; i < words; i++) {
    let word = 0;
    for (let k = 0; k < perWord; k++) word |= codes[i + k * words] << (k * bits);
    row[i] = word & 255;
    if (bits === 3) row[words + (i % (words / 2))] |= (word >> 8) << (i < words / 2 ? 0 : 4);
  }
  return row;
}

/** What `packAffine` laid out. */
export function unpackAffine(row: ArrayLike<number>, bits: AffineBits): Uint8Array {
  const codes = new Uint8Array((row.length * 8) / bits);
  const perWord = codesPerWord(bits);
  const words = codes.length / perWord;
  for (let i = 0; i < words; i++) {
    let word = row[i];
    if (bits === 3) {
      const high = row[words + (i % (words / 2))] >> (i < words / 2 ? 0 : 4);
      word |= (high & 15) << 8;
    }
    for (let k = 0; k < perWord; k++) codes[i + k * words] = (word >> (k * bits)) & (2 ** bits - 1);
  }
  return codes;
}

interface AffineRow {
  /** f16 bits */
  readonly minimum: number;
  /** f16 bits */
  readonly step: number;
  readonly codes: Uint8Array;
}

/** Codes of one row as `Kernels.storeAffine` defines them, every operation rounded to f32. */
export function quantizeAffine(row: Float32Array, bits: AffineBits, clip: boolean): AffineRow {
  const [low, high] = [Math.min(...row), Math.max(...row)];
  let best = affineOver(row, low, high, bits);
  if (!clip) return best;
  const sum = laneSum(row.length, (i) => row[i]);
  const mean = Math.min(high, Math.max(low, Math.fround(sum / row.length)));
  const towardsMean = (end: number, factor: number) =>
    Math.fround(mean + Math.fround(factor * Math.fround(end - mean)));
  let leastError = squaredError(row, best);
  for (let twentieths = 19; twentieths >= 10; twentieths--) {
    const factor = Math.fround(twentieths / 20);
    const from = Math.max(low, towardsMean(low, factor));
    const to = Math.min(high, towardsMean(high, factor));
    const candidate = affineOver(row, from, to, bits);
    const error = squaredError(row, candidate);
    if (error < leastError) [best, leastError] = [candidate, error];
  }
  return best;
}

function affineOver(row: Float32Array, low: number, high: number, bits: AffineBits): AffineRow {
  const largest = 2 ** bits - 1;
  const minimumBits = roundedDown(low);
  const minimum = f16ToF32(minimumBits);
  const stepBits = roundedUp(Math.fround(Math.fround(high - minimum) / largest));
  const step = f16ToF32(stepBits);
  const code = (v: number) => {
    if (step === 0) return 0;
    const steps = Math.fround(Math.fround(v - minimum) / step);
    return Math.min(largest, Math.max(0, Math.floor(Math.fround(steps + 0.5))));
  };
  return { minimum: minimumBits, step: stepBits, codes: Uint8Array.from(row, code) };
}

function squaredError(row: Float32Array, { minimum, step, codes }: AffineRow): number {
  const [m, s] = [f16ToF32(minimum), f16ToF32(step)];
  return laneSum(row.length, (i) => {
    const error = Math.fround(Math.fround(m + Math.fround(s * codes[i])) - row[i]);
    return Math.fround(error * error);
  });
}

/** Sum in f32 as four lanes do it: element i into lane i mod 4, then (0 + 1) + (2 + 3). */
function laneSum(count: number, element: (i: number) => number): number {
  const lanes = new Float32Array(4);
  for (let i = 0; i < count; i++) lanes[i % 4] += element(i);
  return Math.fround(Math.fround(lanes[0] + lanes[1]) + Math.fround(lanes[2] + lanes[3]));
}

/** Bits of the largest f16 that is not above x. */
function roundedDown(x: number): number {
  const bits = f32ToF16(x);
  if (f16ToF32(bits) <= x) return bits;
  if (bits === 0) return 0x8001;
  return bits & 0x8000 ? bits + 1 : bits - 1;
}

/** Bits of the smallest f16 that is not below x. */
function roundedUp(x: number): number {
  return roundedDown(-x) ^ 0x8000;
}
