import { f16ToF32, f32ToF16 } from '../math/f16.ts';

/** The numbers that these f16 bits stand for. */
export function fromF16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = f16ToF32(bits[i]);
  return values;
}

/** f16 bits of numbers that f16 can hold, rounded to nearest. */
export function toF16(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = f32ToF16(values[i]);
  return bits;
}
