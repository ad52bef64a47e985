/* Two quads, AVX2. wide-128.h says what each function does. */
#pragma once

INLINE f32xn madd_n(f32xn a, f32xn b, f32xn c) {
  return (f32xn)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

INLINE f32xn gather_halves(const uint8_t *p, size_t stride) {
  i16x8 v = {0};
  UNROLL
  for (size_t r = 0; r < 8; r++) {
    int16_t half;
    __builtin_memcpy(&half, p + r * stride, sizeof half);
    v[r] = half;
  }
  return (f32xn)_mm256_cvtph_ps((__m128i)v);
}

INLINE i32xn gather_words(const uint8_t *p, size_t stride) {
  i32xn v = {0};
  UNROLL
  for (size_t r = 0; r < 8; r++) {
    int32_t word;
    __builtin_memcpy(&word, p + r * stride, sizeof word);
    v[r] = word;
  }
  return v;
}

INLINE i16xn pair_of(i16x8 a, i16x8 b) {
  return (i16xn)_mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)a), (__m128i)b, 1);
}

INLINE i16xn gather_quads(const uint8_t *p, size_t stride) {
  return pair_of(load_bytes(p), load_bytes(p + 4 * stride));
}

INLINE i16xn splat_quad(const void *p) {
  return (i16xn)_mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}

INLINE i16xn splat_word(const void *p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return (i16xn)_mm256_set1_epi32(word);
}

INLINE i16xn gather_bits(const uint8_t *p, size_t stride) {
  return pair_of(spread_bits(p), spread_bits(p + 4 * stride));
}

INLINE i32xn sum_each_n(i32xn a, i32xn b, i32xn c, i32xn d) {
  __m256i ab = _mm256_hadd_epi32((__m256i)a, (__m256i)b);
  return (i32xn)_mm256_hadd_epi32(ab, _mm256_hadd_epi32((__m256i)c, (__m256i)d));
}

INLINE i32xn dot_i16xn(i16xn a, i16xn b) {
  return (i32xn)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}

INLINE i16xn low_bytes_n(i16xn a) {
  return (i16xn)_mm256_unpacklo_epi8((__m256i)a, (__m256i)a) >> (int16_t)8;
}
INLINE i16xn high_bytes_n(i16xn a) {
  return (i16xn)_mm256_unpackhi_epi8((__m256i)a, (__m256i)a) >> (int16_t)8;
}

INLINE void transpose_pairs(const i16xn v[4], i16xn out[4]) {
  __m256i a = _mm256_unpacklo_epi16((__m256i)v[0], (__m256i)v[1]);
  __m256i b = _mm256_unpacklo_epi16((__m256i)v[2], (__m256i)v[3]);
  __m256i c = _mm256_unpackhi_epi16((__m256i)v[0], (__m256i)v[1]);
  __m256i d = _mm256_unpackhi_epi16((__m256i)v[2], (__m256i)v[3]);
  out[0] = (i16xn)_mm256_unpacklo_epi32(a, b), out[1] = (i16xn)_mm256_unpackhi_epi32(a, b);
  out[2] = (i16xn)_mm256_unpacklo_epi32(c, d), out[3] = (i16xn)_mm256_unpackhi_epi32(c, d);
}

/* Into L2: into L1 it ran at 0.6 of the speed. */
enum { TOUCH_AHEAD = 8192 };
INLINE void touch(const uint8_t *p) { __builtin_prefetch(p, 0, 2); }
