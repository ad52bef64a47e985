import { decodeBlocks } from '../math/blocks.ts';
import { f32ToF16 } from '../math/f16.ts';

/** The numbers that these f16 bits stand for. */
export function fromF16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const bytes = new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
  return decodeBlocks('f16', bytes, bits.length);
}

/** f16 bits of numbers that f16 can hold, rounded to nearest. */
export function toF16(values: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(values, f32ToF16);
}
