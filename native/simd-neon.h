/* ARM's NEON with dot products (ARMv8.2). simd-wasm.h says what each function does. */
#pragma once

#include <arm_neon.h>

INLINE i32x4 select_i32(i32x4 mask, i32x4 a, i32x4 b) {
  return (i32x4)vbslq_s32((uint32x4_t)mask, (int32x4_t)a, (int32x4_t)b);
}

INLINE f32x4 select_f32(i32x4 mask, f32x4 a, f32x4 b) {
  return (f32x4)vbslq_f32((uint32x4_t)mask, (float32x4_t)a, (float32x4_t)b);
}

INLINE uint32_t lane_bits(i32x4 mask) {
  const u32x4 bits = {1, 2, 4, 8};
  return vaddvq_u32((uint32x4_t)((u32x4)mask & bits));
}

/* Not vmaxq_f32, which gives NaN where either is NaN. */
INLINE f32x4 max_f32(f32x4 a, f32x4 b) { return select_f32(a > b, a, b); }
INLINE f32x4 min_f32(f32x4 a, f32x4 b) { return select_f32(a < b, a, b); }
INLINE f32x4 abs_f32(f32x4 a) { return (f32x4)vabsq_f32((float32x4_t)a); }
INLINE f32x4 floor_f32(f32x4 a) { return (f32x4)vrndmq_f32((float32x4_t)a); }
INLINE i32x4 to_i32(f32x4 a) { return (i32x4)vcvtq_s32_f32((float32x4_t)a); }

INLINE f32x4 madd(f32x4 a, f32x4 b, f32x4 c) {
  return (f32x4)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

INLINE i32x4 low_i32(i16x8 a) { return (i32x4)vmovl_s16(vget_low_s16((int16x8_t)a)); }
INLINE i32x4 high_i32(i16x8 a) { return (i32x4)vmovl_high_s16((int16x8_t)a); }

INLINE i32x4 dot_i16(i16x8 a, i16x8 b) {
  int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
  return (i32x4)vpaddq_s32(low, vmull_high_s16((int16x8_t)a, (int16x8_t)b));
}

INLINE i16x8 splat_i16(int32_t x) { return (i16x8)vdupq_n_s16((int16_t)x); }
INLINE i16x8 splat_byte(int32_t x) { return (i16x8)vdupq_n_s8((int8_t)x); }

INLINE i16x8 load_bytes(const uint8_t *p) { return (i16x8)vld1q_u8(p); }

INLINE i16x8 load_four_bytes(const uint8_t *p) {
  i32x4 v = {0};
  __builtin_memcpy(&v, p, 4);
  return (i16x8)v;
}

INLINE i16x8 widen_i8(const int8_t *p) { return (i16x8)vmovl_s8(vld1_s8(p)); }
INLINE i16x8 widen_u8(const uint8_t *p) { return (i16x8)vmovl_u8(vld1_u8(p)); }

INLINE i32x4 load_u16_as_i32(const uint16_t *p) { return (i32x4)vmovl_u16(vld1_u16(p)); }

INLINE i16x8 interleave_low_bytes(i16x8 a, i16x8 b) {
  return (i16x8)vzip1q_u8((uint8x16_t)a, (uint8x16_t)b);
}

INLINE i16x8 interleave_high_bytes(i16x8 a, i16x8 b) {
  return (i16x8)vzip2q_u8((uint8x16_t)a, (uint8x16_t)b);
}

INLINE i16x8 even_bytes(i16x8 a, i16x8 b) {
  return (i16x8)vuzp1q_u8((uint8x16_t)a, (uint8x16_t)b);
}

INLINE i16x8 odd_bytes(i16x8 a, i16x8 b) {
  return (i16x8)vuzp2q_u8((uint8x16_t)a, (uint8x16_t)b);
}

INLINE i16x8 low_bytes(i16x8 a) { return (i16x8)vmovl_s8(vget_low_s8((int8x16_t)a)); }
INLINE i16x8 high_bytes(i16x8 a) { return (i16x8)vmovl_high_s8((int8x16_t)a); }
INLINE i16x8 widen_low_bytes(i16x8 a) { return (i16x8)vmovl_u8(vget_low_u8((uint8x16_t)a)); }

INLINE i16x8 spread_bits(const uint8_t *p) {
  const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  uint8x16_t bytes = vcombine_u8(vdup_n_u8(p[0]), vdup_n_u8(p[1]));
  return (i16x8)vandq_u8(vtstq_u8(bytes, bit), vdupq_n_u8(1));
}

INLINE i16x8 narrow_i32(i32x4 low, i32x4 high) {
  return (i16x8)vqmovn_high_s32(vqmovn_s32((int32x4_t)low), (int32x4_t)high);
}

INLINE i32x4 gather_u16(const void *a, const void *b, const void *c, const void *d) {
  uint16_t v[4];
  __builtin_memcpy(v, a, 2);
  __builtin_memcpy(v + 1, b, 2);
  __builtin_memcpy(v + 2, c, 2);
  __builtin_memcpy(v + 3, d, 2);
  return load_u16_as_i32(v);
}

INLINE i32x4 gather_i32(const void *a, const void *b, const void *c, const void *d) {
  int32_t v[4];
  __builtin_memcpy(v, a, 4);
  __builtin_memcpy(v + 1, b, 4);
  __builtin_memcpy(v + 2, c, 4);
  __builtin_memcpy(v + 3, d, 4);
  return load_i32x4(v);
}

INLINE i16x8 shift_right_u16(i16x8 a, int32_t bits) {
  return (i16x8)((u16x8)a >> (uint16_t)bits);
}

INLINE i16x8 low_nibbles(i16x8 a) { return a & splat_byte(15); }
INLINE i16x8 high_nibbles(i16x8 a) { return (i16x8)vshrq_n_u8((uint8x16_t)a, 4); }

INLINE i16x8 look_up(i16x8 table, i16x8 indices) {
  return (i16x8)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)indices);
}

INLINE i16x8 splat_pair(const int16_t *p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (i16x8)vdupq_n_s32(pair);
}

/* Half-precision floats; infinity and NaN stay what they are, in load_half_finite too. */

INLINE f32x4 half_bits_to_f32(uint16x4_t bits) {
  return (f32x4)vcvt_f32_f16(vreinterpret_f16_u16(bits));
}

INLINE f32x4 load_half(const uint16_t *p) { return half_bits_to_f32(vld1_u16(p)); }
INLINE f32x4 load_half_finite(const uint16_t *p) { return load_half(p); }

INLINE f32x4 low_halves_finite(const uint16_t *p) {
  return half_bits_to_f32(vmovn_u32((uint32x4_t)load_i32x4((const int32_t *)p)));
}

INLINE f32x4 high_halves_finite(const uint16_t *p) {
  return half_bits_to_f32(vshrn_n_u32((uint32x4_t)load_i32x4((const int32_t *)p), 16));
}

INLINE f32x4 half_to_f32(i32x4 bits) { return half_bits_to_f32(vmovn_u32((uint32x4_t)bits)); }

INLINE i32x4 to_half(f32x4 x) {
  return (i32x4)vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x)));
}
