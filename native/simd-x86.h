/* AVX2 with FMA and F16C, and AVX-512 where the build has it. simd-wasm.h says what each does. */
#pragma once

#include <immintrin.h>

INLINE f32x4 select_f32(i32x4 mask, f32x4 a, f32x4 b) {
  return (f32x4)_mm_blendv_ps((__m128)b, (__m128)a, (__m128)mask);
}

INLINE i32x4 select_i32(i32x4 mask, i32x4 a, i32x4 b) {
  return (i32x4)_mm_blendv_epi8((__m128i)b, (__m128i)a, (__m128i)mask);
}

INLINE uint32_t lane_bits(i32x4 mask) { return (uint32_t)_mm_movemask_ps((__m128)mask); }

INLINE f32x4 max_f32(f32x4 a, f32x4 b) { return (f32x4)_mm_max_ps((__m128)a, (__m128)b); }
INLINE f32x4 min_f32(f32x4 a, f32x4 b) { return (f32x4)_mm_min_ps((__m128)a, (__m128)b); }
INLINE f32x4 abs_f32(f32x4 a) { return (f32x4)((i32x4)a & 0x7fffffff); }
INLINE f32x4 floor_f32(f32x4 a) { return (f32x4)_mm_floor_ps((__m128)a); }
INLINE i32x4 to_i32(f32x4 a) { return (i32x4)_mm_cvttps_epi32((__m128)a); }

INLINE f32x4 madd(f32x4 a, f32x4 b, f32x4 c) {
  return (f32x4)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
}

INLINE i32x4 dot_i16(i16x8 a, i16x8 b) { return (i32x4)_mm_madd_epi16((__m128i)a, (__m128i)b); }

INLINE i16x8 splat_i16(int32_t x) { return (i16x8)_mm_set1_epi16((int16_t)x); }
INLINE i16x8 splat_byte(int32_t x) { return (i16x8)_mm_set1_epi8((int8_t)x); }

INLINE i16x8 load_bytes(const uint8_t *p) { return (i16x8)_mm_loadu_si128((const __m128i *)p); }

INLINE i16x8 load_four_bytes(const uint8_t *p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return (i16x8)_mm_cvtsi32_si128(word);
}

INLINE i16x8 widen_i8(const int8_t *p) {
  return (i16x8)_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p));
}

INLINE i16x8 widen_u8(const uint8_t *p) {
  return (i16x8)_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
}

INLINE i32x4 load_u16_as_i32(const uint16_t *p) {
  return (i32x4)_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p));
}

INLINE i16x8 low_bytes(i16x8 a) { return (i16x8)_mm_cvtepi8_epi16((__m128i)a); }
INLINE i16x8 high_bytes(i16x8 a) {
  return (i16x8)_mm_cvtepi8_epi16(_mm_unpackhi_epi64((__m128i)a, (__m128i)a));
}

INLINE i16x8 spread_bits(const uint8_t *p) {
  uint16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
#ifdef __AVX512BW__
  return (i16x8)_mm_maskz_set1_epi8(bits, 1);
#else
  const __m128i places = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const __m128i others = _mm_set1_epi64x(0x7fbfdfeff7fbfdfe);
  __m128i bytes = _mm_shuffle_epi8(_mm_set1_epi16((int16_t)bits), places);
  return (i16x8)_mm_subs_epu8(_mm_or_si128(bytes, others), _mm_set1_epi8((int8_t)0xfe));
#endif
}

INLINE i16x8 narrow_i32(i32x4 low, i32x4 high) {
  return (i16x8)_mm_packs_epi32((__m128i)low, (__m128i)high);
}

INLINE i32x4 gather_u16(const void *a, const void *b, const void *c, const void *d) {
  uint16_t v[4];
  __builtin_memcpy(v, a, 2);
  __builtin_memcpy(v + 1, b, 2);
  __builtin_memcpy(v + 2, c, 2);
  __builtin_memcpy(v + 3, d, 2);
  return (i32x4){v[0], v[1], v[2], v[3]};
}

INLINE i32x4 gather_i32(const void *a, const void *b, const void *c, const void *d) {
  int32_t v[4];
  __builtin_memcpy(v, a, 4);
  __builtin_memcpy(v + 1, b, 4);
  __builtin_memcpy(v + 2, c, 4);
  __builtin_memcpy(v + 3, d, 4);
  return (i32x4){v[0], v[1], v[2], v[3]};
}

INLINE i16x8 shift_right_u16(i16x8 a, int32_t bits) {
  return (i16x8)((u16x8)a >> (uint16_t)bits);
}

INLINE i16x8 low_nibbles(i16x8 a) { return a & splat_byte(15); }
INLINE i16x8 high_nibbles(i16x8 a) { return shift_right_u16(a, 4) & splat_byte(15); }

INLINE i16x8 look_up(i16x8 table, i16x8 indices) {
  return (i16x8)_mm_shuffle_epi8((__m128i)table, (__m128i)indices);
}

INLINE i16x8 interleave_low_bytes(i16x8 a, i16x8 b) {
  return (i16x8)_mm_unpacklo_epi8((__m128i)a, (__m128i)b);
}

INLINE i16x8 widen_low_bytes(i16x8 a) { return (i16x8)_mm_cvtepu8_epi16((__m128i)a); }

INLINE i32x4 low_i32(i16x8 a) { return (i32x4)_mm_cvtepi16_epi32((__m128i)a); }
INLINE i32x4 high_i32(i16x8 a) {
  return (i32x4)_mm_cvtepi16_epi32(_mm_unpackhi_epi64((__m128i)a, (__m128i)a));
}

INLINE i16x8 splat_pair(const int16_t *p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (i16x8)_mm_set1_epi32(pair);
}

/* Half-precision floats; infinity and NaN stay what they are, in load_half_finite too. */

INLINE f32x4 load_half(const uint16_t *p) {
  return (f32x4)_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)p));
}

INLINE f32x4 load_half_finite(const uint16_t *p) { return load_half(p); }

INLINE f32x4 low_halves_finite(const uint16_t *p) {
  const __m128i even = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  return (f32x4)_mm_cvtph_ps(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p), even));
}

INLINE f32x4 high_halves_finite(const uint16_t *p) {
  const __m128i odd = _mm_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1);
  return (f32x4)_mm_cvtph_ps(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)p), odd));
}

INLINE f32x4 half_to_f32(i32x4 bits) {
  return (f32x4)_mm_cvtph_ps(_mm_packus_epi32((__m128i)bits, (__m128i)bits));
}

INLINE i32x4 to_half(f32x4 x) {
  return (i32x4)_mm_cvtepu16_epi32(_mm_cvtps_ph((__m128)x, _MM_FROUND_TO_NEAREST_INT));
}
