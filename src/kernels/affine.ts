/** Affine value codes: how they are chosen; and how codes of 2 and 4 bits lie in a row. */
import { f16ToF32, f32ToF16 } from '../math/f16.ts';

/** Bits of a code; a byte holds a whole number of them. */
type CodeBits = 2 | 4;

/** Bytes of a row: byte i of N holds the codes of dimensions i, i + N .. from its low bits up. */
export function packAffine(codes: ArrayLike<number>, bits: CodeBits): Uint8Array {
  const row = new Uint8Array((codes.length * bits) / 8);
  for (let at = 0; at < codes.length; at++) {
    row[at % row.length] |= codes[at] << (Math.floor(at / row.length) * bits);
  }
  return row;
}

/** What `packAffine` laid out. */
export function unpackAffine(row: ArrayLike<number>, bits: CodeBits): Uint8Array {
  const codes = new Uint8Array((row.length * 8) / bits);
  const mask = 2 ** bits - 1;
  for (let k = 0, at = 0; k < 8; k += bits) {
    for (let i = 0; i < row.length; i++) codes[at++] = (row[i] >> k) & mask;
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

/** Codes of one row as `Kernels.storeAffine` defines them for 4 bits, every operation rounded to f32. */
export function quantizeAffine(row: Float32Array, bits: CodeBits): AffineRow {
  const largest = 2 ** bits - 1;
  const minimumBits = roundedDown(Math.min(...row));
  const minimum = f16ToF32(minimumBits);
  const stepBits = roundedUp(Math.fround(Math.fround(Math.max(...row) - minimum) / largest));
  const step = f16ToF32(stepBits);
  const code = (v: number) => {
    if (step === 0) return 0;
    const steps = Math.fround(Math.fround(v - minimum) / step);
    return Math.min(largest, Math.max(0, Math.floor(Math.fround(steps + 0.5))));
  };
  return { minimum: minimumBits, step: stepBits, codes: Uint8Array.from(row, code) };
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
