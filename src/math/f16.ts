const f32Bits = new Float32Array(1);
const u32Bits = new Uint32Array(f32Bits.buffer);

/** Bits of the IEEE binary16 nearest to `value`, ties to even; overflow gives infinity. */
export function f32ToF16(value: number): number {
  f32Bits[0] = value;
  const bits = u32Bits[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds to 65536 or more
  if (magnitude < 0x38800000) {
    // Below 2^-14: a subnormal counts steps of 2^-24. Adding 0.5 lets the FPU round the mantissa.
    u32Bits[0] = magnitude;
    f32Bits[0] += 0.5;
    return sign | (u32Bits[0] - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
}

/** Value of the IEEE binary16 with these bits, 0 to 65535. */
export function f16ToF32(bits: number): number {
  values ??= Float32Array.from({ length: 65536 }, (_, each) => valueOf(each));
  return values[bits];
}

/** The value of every f16, made when first needed: a model has hundreds of millions of them. */
let values: Float32Array | undefined;

function valueOf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** Value of the bfloat16 with these bits: the upper half of an f32. */
export function bf16ToF32(bits: number): number {
  u32Bits[0] = bits << 16;
  return f32Bits[0];
}

/** Bits of the bfloat16 nearest to `value`, ties to even. */
export function f32ToBf16(value: number): number {
  f32Bits[0] = value;
  const bits = u32Bits[0];
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
