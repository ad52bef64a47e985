/* WebAssembly SIMD, relaxed where the build has it. */
#pragma once

#include <wasm_simd128.h>

/** Lanes of a where the mask is set, of b elsewhere. */
INLINE f32x4 select_f32(i32x4 mask, f32x4 a, f32x4 b) {
  return (f32x4)wasm_v128_bitselect((v128_t)a, (v128_t)b, (v128_t)mask);
}

INLINE i32x4 select_i32(i32x4 mask, i32x4 a, i32x4 b) {
  return (i32x4)wasm_v128_bitselect((v128_t)a, (v128_t)b, (v128_t)mask);
}

/** Bit i is set where lane i of a mask is. */
INLINE uint32_t lane_bits(i32x4 mask) { return wasm_i32x4_bitmask((v128_t)mask); }

/** The larger of each lane; b where either is NaN. */
INLINE f32x4 max_f32(f32x4 a, f32x4 b) { return (f32x4)wasm_f32x4_pmax((v128_t)b, (v128_t)a); }
INLINE f32x4 min_f32(f32x4 a, f32x4 b) { return (f32x4)wasm_f32x4_pmin((v128_t)b, (v128_t)a); }
INLINE f32x4 abs_f32(f32x4 a) { return (f32x4)wasm_f32x4_abs((v128_t)a); }
INLINE f32x4 floor_f32(f32x4 a) { return (f32x4)wasm_f32x4_floor((v128_t)a); }

/** Truncates. Lanes beyond i32 are any number, so clamp first. */
INLINE i32x4 to_i32(f32x4 a) {
#ifdef __wasm_relaxed_simd__
  return (i32x4)wasm_i32x4_relaxed_trunc_f32x4((v128_t)a);
#else
  return (i32x4)wasm_i32x4_trunc_sat_f32x4((v128_t)a);
#endif
}

/** a * b + c, rounded once where the target has a fused instruction. */
INLINE f32x4 madd(f32x4 a, f32x4 b, f32x4 c) {
#ifdef __wasm_relaxed_simd__
  return (f32x4)wasm_f32x4_relaxed_madd((v128_t)a, (v128_t)b, (v128_t)c);
#else
  return a * b + c;
#endif
}

/** Lane i: a[2i] b[2i] + a[2i+1] b[2i+1]. */
INLINE i32x4 dot_i16(i16x8 a, i16x8 b) {
  return (i32x4)wasm_i32x4_dot_i16x8((v128_t)a, (v128_t)b);
}

INLINE i16x8 widen_i8(const int8_t *p) { return __builtin_convertvector(load_i8x8(p), i16x8); }

INLINE i16x8 widen_u8(const uint8_t *p) { return __builtin_convertvector(load_u8x8(p), i16x8); }

INLINE i16x8 splat_i16(int32_t x) { return (i16x8)wasm_i16x8_splat((int16_t)x); }

/** The same byte 16 times. */
INLINE i16x8 splat_byte(int32_t x) { return (i16x8)wasm_i8x16_splat((int8_t)x); }

/** The first 8 of 16 i8 as i16, and the last 8. */
INLINE i16x8 low_bytes(i16x8 a) { return (i16x8)wasm_i16x8_extend_low_i8x16((v128_t)a); }
INLINE i16x8 high_bytes(i16x8 a) { return (i16x8)wasm_i16x8_extend_high_i8x16((v128_t)a); }

/** Byte i is bit i of the 16 at an address. */
INLINE i16x8 spread_bits(const uint8_t *p) {
  const v128_t places = wasm_i8x16_make(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const v128_t others = wasm_i64x2_splat((int64_t)0x7fbfdfeff7fbfdfe);
  v128_t bytes = wasm_i8x16_swizzle(wasm_v128_load16_splat(p), places);
  // Without a comparison: V8 makes three instructions of "not equal".
  return (i16x8)wasm_u8x16_sub_sat(wasm_v128_or(bytes, others), wasm_u8x16_splat(0xfe));
}

/** Both as i16, low lanes first; saturates. */
INLINE i16x8 narrow_i32(i32x4 low, i32x4 high) {
  return (i16x8)wasm_i16x8_narrow_i32x4((v128_t)low, (v128_t)high);
}

/** A u16 from each address. */
INLINE i32x4 gather_u16(const void *a, const void *b, const void *c, const void *d) {
  v128_t v = wasm_v128_load16_lane(a, wasm_i16x8_splat(0), 0);
  v = wasm_v128_load16_lane(b, v, 1);
  v = wasm_v128_load16_lane(c, v, 2);
  v = wasm_v128_load16_lane(d, v, 3);
  return (i32x4)wasm_u32x4_extend_low_u16x8(v);
}

/** A 32-bit word from each address. */
INLINE i32x4 gather_i32(const void *a, const void *b, const void *c, const void *d) {
  v128_t v = wasm_v128_load32_zero(a);
  v = wasm_v128_load32_lane(b, v, 1);
  v = wasm_v128_load32_lane(c, v, 2);
  return (i32x4)wasm_v128_load32_lane(d, v, 3);
}

/** 16 bytes, whatever they hold. */
INLINE i16x8 load_bytes(const uint8_t *p) { return (i16x8)wasm_v128_load(p); }

/** The lower half of each of 16 bytes. */
INLINE i16x8 low_nibbles(i16x8 a) { return a & splat_byte(15); }
INLINE i16x8 high_nibbles(i16x8 a) { return (i16x8)wasm_u8x16_shr((v128_t)a, 4); }

/** Byte i is byte indices[i] < 16 of the table. */
INLINE i16x8 look_up(i16x8 table, i16x8 indices) {
#ifdef __wasm_relaxed_simd__
  return (i16x8)wasm_i8x16_relaxed_swizzle((v128_t)table, (v128_t)indices);
#else
  return (i16x8)wasm_i8x16_swizzle((v128_t)table, (v128_t)indices);
#endif
}

/** Bytes a0 b0 a1 b1 .. a7 b7 */
INLINE i16x8 interleave_low_bytes(i16x8 a, i16x8 b) {
  return (i16x8)wasm_i8x16_shuffle((v128_t)a, (v128_t)b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
                                   6, 22, 7, 23);
}

/** The first 8 of 16 u8 as i16. */
INLINE i16x8 widen_low_bytes(i16x8 a) { return (i16x8)wasm_u16x8_extend_low_u8x16((v128_t)a); }

/** The first 4 of 8 i16 as i32, and the last 4. */
INLINE i32x4 low_i32(i16x8 a) { return (i32x4)wasm_i32x4_extend_low_i16x8((v128_t)a); }
INLINE i32x4 high_i32(i16x8 a) { return (i32x4)wasm_i32x4_extend_high_i16x8((v128_t)a); }

INLINE i16x8 shift_right_u16(i16x8 a, int32_t bits) {
  return (i16x8)wasm_u16x8_shr((v128_t)a, (uint32_t)bits);
}

/** The pair of i16 at an address, in every pair of lanes. */
INLINE i16x8 splat_pair(const int16_t *p) { return (i16x8)wasm_v128_load32_splat(p); }

/** Four bytes and zeros. */
INLINE i16x8 load_four_bytes(const uint8_t *p) { return (i16x8)wasm_v128_load32_zero(p); }

/** Four 16-bit numbers as i32. */
INLINE i32x4 load_i16_as_i32(const uint16_t *p) { return (i32x4)wasm_i32x4_load16x4(p); }
INLINE i32x4 load_u16_as_i32(const uint16_t *p) { return (i32x4)wasm_u32x4_load16x4(p); }

#include "simd-half.h"
