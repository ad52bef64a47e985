/* Checks and small functions that several kernels share. */
#pragma once

#include "simd-wide.h"

/** Makes a function callable from TypeScript; the addon has a table of them, in kernels.c. */
#ifdef __wasm__
#define EXPORT(name) __attribute__((export_name(#name)))
#else
#define EXPORT(name) static
#endif

/** What a kernel returns; TypeScript turns it into an error. */
enum { OK = 0, NOT_FINITE = 1, OUT_OF_RANGE = 2, WORKER_DIED = 3 };

/** Element types, numbered as in src/kernels/compiled-kernels.ts. */
enum { F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K };

/**
 * e^x, relative error below 4e-7; 0 below -87, and as if x were 88.3 above it.
 * x = n ln 2 + r, |r| <= ln(2) / 2; e^r by the polynomial of least relative error, 1.1e-7, that starts
 * with 1 + r; n is added to its exponent.
 */
INLINE f32xw exp_w(f32xw x) {
  f32xw clamped = min_w(splat_w(88.3f), x);
  f32xw shifted = madd_w(clamped, splat_w(1.44269504f), splat_w(ROUNDER));
  f32xw n = shifted - splat_w(ROUNDER);
  f32xw r = madd_w(n, splat_w(2.12194440e-4f), madd_w(n, splat_w(-0.693359375f), clamped));
  f32xw p = splat_w(8.312501e-3f);
  p = madd_w(p, r, splat_w(4.189033e-2f));
  p = madd_w(p, r, splat_w(0.16667116f));
  p = madd_w(p, r, splat_w(0.4999923f));
  p = madd_w(p, r, splat_w(1.0f));
  p = madd_w(p, r, splat_w(1.0f));
  f32xw scaled = (f32xw)((i32xw)p + ((i32xw)shifted << 23));
  return select_w(above_w(splat_w(-87.0f), x), splat_w(0.0f), scaled);
}

INLINE float exp_f32(float x) { return exp_w(splat_w(x))[0]; }

INLINE int is_finite(const float *x, size_t count) {
  f32xw zero = splat_w(0);
  size_t i = 0;
  for (; i + WIDE <= count; i += WIDE) {
    f32xw v = load_f32xw(x + i);
    zero += v - v;
  }
  float rest = sum_w(zero);
  for (; i < count; i++) rest += x[i] - x[i];
  return rest == 0;
}

/** max |x|, 0 for none. */
INLINE float max_magnitude(const float *x, size_t count) {
  f32xw max = splat_w(0);
  size_t i = 0;
  for (; i + WIDE <= count; i += WIDE)
    max = max_w(max, (f32xw)((i32xw)load_f32xw(x + i) & 0x7fffffff));
  float m = max_lane_w(max);
  for (; i < count; i++) m = __builtin_fabsf(x[i]) > m ? __builtin_fabsf(x[i]) : m;
  return m;
}

/** Nearest whole number, half away from zero. Adding 0.5 would round 0.49999997 up to 1. */
INLINE f32x4 round_half_away(f32x4 x) {
  f32x4 magnitude = abs_f32(x);
  f32x4 whole = floor_f32(magnitude);
  whole += select_f32(magnitude - whole >= splat(0.5f), splat(1), splat(0));
  return (f32x4)((i32x4)whole | ((i32x4)x & (int32_t)0x80000000));
}

/** The nearest number with the 11 significant bits of an f16, but the exponent range of an f32. */
INLINE f32x4 round_to_11_bits(f32x4 x) {
  u32x4 bits = (u32x4)x;
  return (f32x4)((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu);
}

/** The inverse of a scale; a vector too small for one counts as zero. */
INLINE float finite_or_zero(float inverse) {
  return inverse - inverse == 0 ? inverse : 0;
}
