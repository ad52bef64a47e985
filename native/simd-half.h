/*
 * Half-precision floats where no instruction reads them: moving the bits gives the value times
 * 2^-112, exactly, subnormals included.
 */
#pragma once

#define HALF_REBASE 0x1p112f

/** Four finite f16; infinity and NaN come out as finite numbers of 65536 and more. */
INLINE f32x4 load_half_finite(const uint16_t *p) {
  i32x4 bits = load_i16_as_i32(p);
  return (f32x4)((bits << 13) & splat_i32((int32_t)0x8fffe000)) * splat(HALF_REBASE);
}

/** Of four pairs of finite f16, the first ones. */
INLINE f32x4 low_halves_finite(const uint16_t *p) {
  i32x4 bits = load_i32x4((const int32_t *)p) << 16;
  return (f32x4)((bits >> 3) & splat_i32((int32_t)0x8fffe000)) * splat(HALF_REBASE);
}

/** Of four pairs of finite f16, the second ones. */
INLINE f32x4 high_halves_finite(const uint16_t *p) {
  i32x4 bits = load_i32x4((const int32_t *)p);
  return (f32x4)((bits >> 3) & splat_i32((int32_t)0x8fffe000)) * splat(HALF_REBASE);
}

/** The value of any f16, infinity and NaN included. */
INLINE f32x4 half_to_f32(i32x4 bits) {
  i32x4 moved = (bits & 0x7fff) << 13;
  f32x4 finite = (f32x4)moved * splat(HALF_REBASE);
  f32x4 special = (f32x4)(moved | 0x7f800000);
  f32x4 magnitude = select_f32(moved >= 0x0f800000, special, finite);
  return (f32x4)((i32x4)magnitude | ((bits & 0x8000) << 16));
}

INLINE f32x4 load_half(const uint16_t *p) { return half_to_f32(load_u16_as_i32(p)); }

/** Bits of the nearest f16 in each lane, ties to even; overflow gives infinity. */
INLINE i32x4 to_half(f32x4 x) {
  i32x4 bits = (i32x4)x;
  i32x4 sign = (i32x4)((u32x4)bits >> 16) & 0x8000;
  i32x4 magnitude = bits & 0x7fffffff;
  i32x4 odd = (magnitude >> 13) & 1;
  i32x4 normal = (magnitude - 0x38000000 + 0xfff + odd) >> 13;
  i32x4 subnormal = (i32x4)((f32x4)magnitude + splat(0.5f)) - 0x3f000000;
  i32x4 half = select_i32(magnitude < 0x38800000, subnormal, normal);
  half = select_i32(magnitude >= 0x477ff000, splat_i32(0x7c00), half);
  return sign | half;
}
