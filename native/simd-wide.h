/*
 * Vectors of WIDE lanes of 32 bits, as wide as the target's registers: what attention and the
 * packed forms of keys and values are made of. What differs between instruction sets is in
 * simd-wide-avx512.h, simd-wide-avx2.h and simd-wide-128.h, which have the same functions each; the
 * last says what each does.
 */
#pragma once

#include "simd.h"

#if defined __AVX512VBMI__ && defined __AVX512VNNI__ && defined __AVX512VPOPCNTDQ__
enum { WIDE = 16 };
#elif defined __AVX2__
enum { WIDE = 8 };
#else
enum { WIDE = 4 };
#endif

typedef float f32xw __attribute__((vector_size(4 * WIDE)));
typedef int32_t i32xw __attribute__((vector_size(4 * WIDE)));
typedef uint32_t u32xw __attribute__((vector_size(4 * WIDE)));
typedef int16_t i16xw __attribute__((vector_size(4 * WIDE)));
typedef uint16_t u16xw __attribute__((vector_size(4 * WIDE)));

DEFINE_LOAD_STORE(f32xw, f32xw, float)

/* x - 0 is x; x + 0 would make 0 of -0. */
INLINE f32xw splat_w(float x) { return x - (f32xw){0}; }
INLINE i32xw splat_i32w(int32_t x) { return x + (i32xw){0}; }
INLINE f32xw to_f32w(i32xw a) { return __builtin_convertvector(a, f32xw); }
INLINE i16xw shift_right_u16w(i16xw a, int32_t bits) {
  return (i16xw)((u16xw)a >> (uint16_t)bits);
}

/** As to_nearest_i32. */
INLINE i32xw to_nearest_i32w(f32xw a) { return (i32xw)(a + splat_w(ROUNDER)) - 0x4b400000; }

#if defined __AVX512VBMI__ && defined __AVX512VNNI__ && defined __AVX512VPOPCNTDQ__
#include "simd-wide-avx512.h"
#elif defined __AVX2__
#include "simd-wide-avx2.h"
#else
#include "simd-wide-128.h"
#endif
