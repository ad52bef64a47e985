/*
 * Vectors as the kernels see them: a few types and functions. What differs between instruction sets
 * is in simd-wasm.h, simd-x86.h, simd-neon.h and simd-portable.h, which have the same functions
 * each. Vectors are GNU vector extensions, so + - * / & | and comparisons work on them directly.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

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

/*
 * Before a loop: all of its passes one after the other, or none. In a block: products and sums are
 * rounded each. gcc has no word for the last, so the build gives it -ffp-contract=off.
 */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
#define NO_FUSING _Pragma("clang fp contract(off)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define NO_UNROLL _Pragma("GCC unroll 1")
#define NO_FUSING
#endif

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

#if defined __wasm__
#include "simd-wasm.h"
#elif defined __AVX2__
#include "simd-x86.h"
#elif defined __ARM_FEATURE_DOTPROD
#include "simd-neon.h"
#else
#include "simd-portable.h"
#endif

INLINE f32x4 to_f32(i32x4 a) { return __builtin_convertvector(a, f32x4); }

/** 1.5 * 2^23: in a sum with it the last bit of the mantissa counts ones. */
#define ROUNDER 12582912.0f

/** The nearest whole number, ties to even, of |a| < 2^22; any number for others. */
INLINE i32x4 to_nearest_i32(f32x4 a) { return (i32x4)(a + splat(ROUNDER)) - 0x4b400000; }

/** Lanes 0, 2, 4 .. of a and then of b. */
INLINE i16x8 even_lanes(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}

INLINE i16x8 odd_lanes(i16x8 a, i16x8 b) {
  return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
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

/** The first `count` bytes; the rest 0. */
INLINE i16x8 widen_some_u8(const uint8_t *p, int32_t count) {
  uint8_t some[8] = {0};
  for (int32_t i = 0; i < count; i++) some[i] = p[i];
  return widen_u8(some);
}

/** The first `count` <= 4 bytes; the rest 0. */
INLINE i16x8 load_some_bytes(const uint8_t *p, int32_t count) {
  if (count == 4) return load_four_bytes(p);
  uint8_t some[16] = {0};
  for (int32_t i = 0; i < count; i++) some[i] = p[i];
  return load_bytes(some);
}

INLINE f32x4 load_bfloat(const uint16_t *p) { return (f32x4)(load_u16_as_i32(p) << 16); }
INLINE float half_value(uint16_t h) { return half_to_f32(splat_i32(h))[0]; }

INLINE void store_half(uint16_t *p, f32x4 x) {
  store_u16x4(p, __builtin_convertvector(to_half(x), u16x4));
}
