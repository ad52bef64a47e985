/*
 * Vectors as wide as the target's registers: QUADS times the 128 bits of simd.h. Functions work on
 * each 128 bits as their namesakes there. Of ROW_LANES = 4 QUADS rows, quad j of a vector holds bytes of
 * one of rows 4j .. 4j + 3, and lane r of 32 bits something of row r.
 */
#pragma once

#include "simd.h"

#if defined __AVX512VNNI__
enum { QUADS = 4 };
#elif defined __AVX2__
enum { QUADS = 2 };
#else
enum { QUADS = 1 };
#endif

enum { ROW_LANES = 4 * QUADS };

typedef float f32xn __attribute__((vector_size(16 * QUADS)));
typedef int32_t i32xn __attribute__((vector_size(16 * QUADS)));
typedef int16_t i16xn __attribute__((vector_size(16 * QUADS)));
typedef uint16_t u16xn __attribute__((vector_size(16 * QUADS)));

DEFINE_LOAD_STORE(f32xn, f32xn, float)
DEFINE_LOAD_STORE(i32xn, i32xn, int32_t)
DEFINE_LOAD_STORE(i16xn, i16xn, int16_t)

#if defined __AVX512VNNI__
#include "wide-avx512.h"
#elif defined __AVX2__
#include "wide-avx2.h"
#else
#include "wide-128.h"
#endif

/* x - 0 is x; x + 0 would make 0 of -0. */
INLINE f32xn splat_f32xn(float x) { return x - (f32xn){0}; }
INLINE i32xn splat_i32xn(int32_t x) { return x + (i32xn){0}; }
/** The same byte everywhere. */
INLINE i16xn splat_bytes(int32_t x) { return (int16_t)(x * 0x0101) + (i16xn){0}; }

INLINE f32xn to_f32xn(i32xn a) { return __builtin_convertvector(a, f32xn); }

INLINE i16xn shift_right_u16xn(i16xn a, int32_t bits) {
  return (i16xn)((u16xn)a >> (uint16_t)bits);
}
