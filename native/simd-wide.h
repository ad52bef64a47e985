/*
 * Vectors as wide as the target's registers, WIDE lanes of 32 bits: what weights, attention and the
 * packed forms of keys and values are made of. What differs between instruction sets is in
 * simd-wide-avx512.h, simd-wide-avx2.h and simd-wide-128.h, which have the same functions each; the
 * last says what each does. Where an instruction multiplies bytes by fours, in AVX-512 and in
 * simd-wide-neon.h, there are two functions more. A quad is 128 bits of a vector.
 */
#pragma once

#include "simd.h"

#if defined __AVX512VNNI__
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
DEFINE_LOAD_STORE(i32xw, i32xw, int32_t)
DEFINE_LOAD_STORE(i16xw, i16xw, int16_t)

/* x - 0 is x; x + 0 would make 0 of -0. */
INLINE f32xw splat_w(float x) { return x - (f32xw){0}; }
INLINE i32xw splat_i32w(int32_t x) { return x + (i32xw){0}; }
/** The same byte everywhere. */
INLINE i16xw splat_bytes_w(int32_t x) { return (int16_t)(x * 0x0101) + (i16xw){0}; }
INLINE f32xw to_f32w(i32xw a) { return __builtin_convertvector(a, f32xw); }
INLINE i16xw shift_right_u16w(i16xw a, int32_t bits) { return (i16xw)((u16xw)a >> (uint16_t)bits); }

/** As to_nearest_i32. */
INLINE i32xw to_nearest_i32w(f32xw a) { return (i32xw)(a + splat_w(ROUNDER)) - 0x4b400000; }

#if defined __AVX512VNNI__
#include "simd-wide-avx512.h"
#elif defined __AVX2__
#include "simd-wide-avx2.h"
#elif defined __ARM_FEATURE_DOTPROD
#include "simd-wide-neon.h"
#else
#include "simd-wide-128.h"
#endif

/** As sum_each_w. */
INLINE i32x4 sum_each_i32w(i32xw a, i32xw b, i32xw c, i32xw d) {
  return add_quads_w(sum_quads_w(a, b, c, d));
}

#ifndef __AVX512VNNI__
/** Whether `differing_bits_w` knows sketches of so many words: with AVX-512 alone. */
INLINE int32_t counts_bits_wide(int32_t words) { return (void)words, 0; }
/** Bits in which WIDE keys in a row differ from the query. @param keys u32 [WIDE, words] */
INLINE i32xw differing_bits_w(const uint32_t *query, const uint32_t *keys, int32_t words) {
  return (void)query, (void)keys, (void)words, splat_i32w(0);
}

/** Whether attention adds products of bytes four at a time: with AVX-512 alone, and so are these. */
enum { ADDS_FOURS = 0 };
#ifndef __ARM_FEATURE_DOTPROD
INLINE i32xw dot_fours_w(i32xw c, i16xw a, i16xw b) { return (void)a, (void)b, c; }
#endif
INLINE void store_bytes_w(uint8_t *p, i32xw a, i32xw b) { (void)p, (void)a, (void)b; }
/**
 * WIDE words of a byte each of four rows `stride` bytes apart, a word's four bytes side by side; those
 * of rows that are not there are any.
 */
INLINE i16xw four_words_w(const uint8_t *p, size_t stride, int32_t rows) {
  return (void)p, (void)stride, (void)rows, splat_bytes_w(0);
}
#endif

/*
 * Makes the processor read a cache line that is needed after the next TOUCH_AHEAD bytes: into L2, as
 * into L1 it ran at 0.6 of the speed. Without a prefetch it is a load, which must stay within the
 * weights.
 */
#ifdef __AVX2__
enum { TOUCH_AHEAD = 8192 };
INLINE void touch(const uint8_t *p) { __builtin_prefetch(p, 0, 2); }
#else
enum { TOUCH_AHEAD = 0 };
INLINE void touch(const uint8_t *p) { (void)*(const volatile uint8_t *)p; }
#endif

/** The same of a line that need not be there; nothing where only a load would do it. */
#ifdef __wasm__
INLINE void touch_any(const uint8_t *p) { (void)p; }
#else
INLINE void touch_any(const uint8_t *p) { __builtin_prefetch(p, 0, 2); }
#endif

/*
 * Has the lines of some bytes read, ahead of their use. Inline: gcc takes calls of a function that does
 * nothing else for calls without effect.
 */
INLINE void touch_bytes(const uint8_t *from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) touch_any(from + at);
}
