/*
 * The only file that names an instruction set. Kernels use these few types and functions; a new
 * target is a new branch here. Vectors are GNU vector extensions, so + - * / & | and comparisons
 * work on them directly.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <wasm_simd128.h>

typedef float f32x4 __attribute__((vector_size(16)));
typedef double f64x2 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint16_t u16x4 __attribute__((vector_size(8)));
typedef int8_t i8x8 __attribute__((vector_size(8)));
typedef uint8_t u8x8 __attribute__((vector_size(8)));

enum { LANES = 4 };

#define INLINE static inline __attribute__((always_inline))

/* Unaligned loads and stores: weights sit wherever a file put them. */
#define DEFINE_LOAD_STORE(name, vector, scalar)                                                    \
  INLINE vector load_##name(const scalar *p) {                                                     \
    vector v;                                                                                      \
    __builtin_memcpy(&v, p, sizeof v);                                                             \
    return v;                                                                                      \
  }                                                                                                \
  INLINE void store_##name(scalar *p, vector v) { __builtin_memcpy(p, &v, sizeof v); }

DEFINE_LOAD_STORE(f32x4, f32x4, float)
DEFINE_LOAD_STORE(i32x4, i32x4, int32_t)
DEFINE_LOAD_STORE(i16x8, i16x8, int16_t)
DEFINE_LOAD_STORE(u16x4, u16x4, uint16_t)
DEFINE_LOAD_STORE(i8x8, i8x8, int8_t)
DEFINE_LOAD_STORE(u8x8, u8x8, uint8_t)

INLINE f32x4 splat(float x) { return (f32x4){x, x, x, x}; }
INLINE i32x4 splat_i32(int32_t x) { return (i32x4){x, x, x, x}; }

/** Lanes of a where the mask is set, of b elsewhere. */
INLINE f32x4 select(i32x4 mask, f32x4 a, f32x4 b) {
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
INLINE f32x4 to_f32(i32x4 a) { return __builtin_convertvector(a, f32x4); }

/** Truncates. Lanes beyond i32 are any number, so clamp first. */
INLINE i32x4 to_i32(f32x4 a) {
#ifdef __wasm_relaxed_simd__
  return (i32x4)wasm_i32x4_relaxed_trunc_f32x4((v128_t)a);
#else
  return (i32x4)wasm_i32x4_trunc_sat_f32x4((v128_t)a);
#endif
}

/** 1.5 * 2^23: in a sum with it the last bit of the mantissa counts ones. */
#define ROUNDER 12582912.0f

/** The nearest whole number, ties to even, of |a| < 2^22; any number for others. */
INLINE i32x4 to_nearest_i32(f32x4 a) { return (i32x4)(a + splat(ROUNDER)) - 0x4b400000; }

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

/** The first `count` bytes; the rest 0. */
INLINE i16x8 widen_some_u8(const uint8_t *p, int32_t count) {
  uint8_t some[8] = {0};
  for (int32_t i = 0; i < count; i++) some[i] = p[i];
  return widen_u8(some);
}

INLINE i16x8 splat_i16(int32_t x) { return (i16x8)wasm_i16x8_splat((int16_t)x); }

/** The same byte 16 times. */
INLINE i16x8 splat_byte(int32_t x) { return (i16x8)wasm_i8x16_splat((int8_t)x); }

/** Of 8 pairs of i8, the first ones as i16. The second ones are a >> 8. */
INLINE i16x8 first_bytes(i16x8 a) { return (a << (int16_t)8) >> (int16_t)8; }

/** Lanes 0, 2, 4 .. of a and then of b. */
INLINE i16x8 even_lanes(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}

INLINE i16x8 odd_lanes(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}

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

/** a0 b0 a1 b1 a2 b2 a3 b3 */
INLINE i16x8 interleave_low(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}

/** a4 b4 a5 b5 a6 b6 a7 b7 */
INLINE i16x8 interleave_high(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

/** a01 b01 a23 b23: pairs of a and b in turn, from their lower halves. */
INLINE i16x8 interleave_low_pairs(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 0, 1, 8, 9, 2, 3, 10, 11);
}

INLINE i16x8 interleave_high_pairs(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 4, 5, 12, 13, 6, 7, 14, 15);
}

/** 16 bytes, whatever they hold. */
INLINE i16x8 load_bytes(const uint8_t *p) { return (i16x8)wasm_v128_load(p); }

/** The first `count` <= 4 bytes; the rest 0. */
INLINE i16x8 load_some_bytes(const uint8_t *p, int32_t count) {
  if (count == 4) return (i16x8)wasm_v128_load32_zero(p);
  uint8_t some[16] = {0};
  for (int32_t i = 0; i < count; i++) some[i] = p[i];
  return load_bytes(some);
}

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

/** Bytes a8 b8 .. a15 b15 */
INLINE i16x8 interleave_high_bytes(i16x8 a, i16x8 b) {
  return (i16x8)wasm_i8x16_shuffle((v128_t)a, (v128_t)b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
                                   29, 14, 30, 15, 31);
}

/** Bytes 0, 2, 4 .. of a and then of b. */
INLINE i16x8 even_bytes(i16x8 a, i16x8 b) {
  return (i16x8)wasm_i8x16_shuffle((v128_t)a, (v128_t)b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22,
                                   24, 26, 28, 30);
}

INLINE i16x8 odd_bytes(i16x8 a, i16x8 b) {
  return (i16x8)wasm_i8x16_shuffle((v128_t)a, (v128_t)b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23,
                                   25, 27, 29, 31);
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

INLINE float sum_f32(f32x4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }

INLINE float max_lane(f32x4 v) {
  float a = v[0] > v[1] ? v[0] : v[1];
  float b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}

/** Lane i is the sum of the lanes of the i-th argument. */
INLINE i32x4 sum_each_i32(i32x4 a, i32x4 b, i32x4 c, i32x4 d) {
  i32x4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  i32x4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

INLINE f32x4 sum_each_f32(f32x4 a, f32x4 b, f32x4 c, f32x4 d) {
  f32x4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  f32x4 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

/*
 * Half-precision floats, without an instruction for them: moving the bits gives the value times
 * 2^-112, exactly, subnormals included.
 */
#define HALF_REBASE 0x1p112f

/** Four finite f16; infinity and NaN come out as finite numbers of 65536 and more. */
INLINE f32x4 load_half_finite(const uint16_t *p) {
  i32x4 bits = (i32x4)wasm_i32x4_load16x4(p);
  return (f32x4)((bits << 13) & splat_i32((int32_t)0x8fffe000)) * splat(HALF_REBASE);
}

/** Of four pairs of finite f16, the first ones. */
INLINE f32x4 low_halves_finite(const uint16_t *p) {
  i32x4 bits = (i32x4)wasm_v128_load(p) << 16;
  return (f32x4)((bits >> 3) & splat_i32((int32_t)0x8fffe000)) * splat(HALF_REBASE);
}

/** Of four pairs of finite f16, the second ones. */
INLINE f32x4 high_halves_finite(const uint16_t *p) {
  i32x4 bits = (i32x4)wasm_v128_load(p);
  return (f32x4)((bits >> 3) & splat_i32((int32_t)0x8fffe000)) * splat(HALF_REBASE);
}

/** The value of any f16, infinity and NaN included. */
INLINE f32x4 half_to_f32(i32x4 bits) {
  i32x4 moved = (bits & 0x7fff) << 13;
  f32x4 finite = (f32x4)moved * splat(HALF_REBASE);
  f32x4 special = (f32x4)(moved | 0x7f800000);
  f32x4 magnitude = select(moved >= 0x0f800000, special, finite);
  return (f32x4)((i32x4)magnitude | ((bits & 0x8000) << 16));
}

INLINE f32x4 load_half(const uint16_t *p) { return half_to_f32((i32x4)wasm_u32x4_load16x4(p)); }
INLINE f32x4 load_bfloat(const uint16_t *p) {
  return (f32x4)((i32x4)wasm_u32x4_load16x4(p) << 16);
}
INLINE float half_value(uint16_t h) { return half_to_f32(splat_i32(h))[0]; }

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

INLINE void store_half(uint16_t *p, f32x4 x) {
  store_u16x4(p, __builtin_convertvector(to_half(x), u16x4));
}
