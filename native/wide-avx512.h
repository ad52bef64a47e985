/* Four quads, AVX-512 with VNNI. wide-128.h says what each function does. */
#pragma once

INLINE f32xn madd_n(f32xn a, f32xn b, f32xn c) {
  return (f32xn)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

INLINE i16x8 gather_u16x8(const uint8_t *p, size_t stride) {
  i16x8 v = {0};
  UNROLL
  for (size_t r = 0; r < 8; r++) {
    int16_t word;
    __builtin_memcpy(&word, p + r * stride, sizeof word);
    v[r] = word;
  }
  return v;
}

INLINE f32xn gather_halves(const uint8_t *p, size_t stride) {
  __m128i low = (__m128i)gather_u16x8(p, stride);
  __m128i high = (__m128i)gather_u16x8(p + 8 * stride, stride);
  return (f32xn)_mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1));
}

INLINE i32xn quads_of(i16x8 a, i16x8 b, i16x8 c, i16x8 d) {
  __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)a), (__m128i)b, 1);
  __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)c), (__m128i)d, 1);
  return (i32xn)_mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
}

INLINE i32xn gather_words(const uint8_t *p, size_t stride) {
  i16x8 quads[4];
  UNROLL
  for (size_t j = 0; j < 4; j++) {
    const uint8_t *q = p + 4 * j * stride;
    quads[j] = (i16x8)gather_i32(q, q + stride, q + 2 * stride, q + 3 * stride);
  }
  return quads_of(quads[0], quads[1], quads[2], quads[3]);
}

INLINE i16xn gather_quads(const uint8_t *p, size_t stride) {
  size_t next = 4 * stride;
  return (i16xn)quads_of(load_bytes(p), load_bytes(p + next), load_bytes(p + 2 * next),
                         load_bytes(p + 3 * next));
}

INLINE i16xn splat_quad(const void *p) {
  return (i16xn)_mm512_broadcast_i32x4(_mm_loadu_si128(p));
}

INLINE i16xn splat_word(const void *p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return (i16xn)_mm512_set1_epi32(word);
}

INLINE i16xn gather_bits(const uint8_t *p, size_t stride) {
  uint64_t bits[4];
  UNROLL
  for (size_t j = 0; j < 4; j++) {
    uint16_t some;
    __builtin_memcpy(&some, p + 4 * j * stride, sizeof some);
    bits[j] = some;
  }
  uint64_t all = bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48;
  return (i16xn)_mm512_maskz_set1_epi8(all, 1);
}

INLINE i32xn interleave_low_words(i32xn a, i32xn b) {
  return (i32xn)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b);
}
INLINE i32xn interleave_high_words(i32xn a, i32xn b) {
  return (i32xn)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b);
}
INLINE i32xn low_halves(i32xn a, i32xn b) {
  return (i32xn)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}
INLINE i32xn high_halves(i32xn a, i32xn b) {
  return (i32xn)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}

INLINE i32xn sum_each_n(i32xn a, i32xn b, i32xn c, i32xn d) {
  i32xn ab = interleave_low_words(a, b) + interleave_high_words(a, b);
  i32xn cd = interleave_low_words(c, d) + interleave_high_words(c, d);
  return low_halves(ab, cd) + high_halves(ab, cd);
}

/** Lane i of c plus the products of its four bytes of a, unsigned, with those of b, signed. */
INLINE i32xn dot_u8_i8(i32xn c, i16xn a, i16xn b) {
  return (i32xn)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
}

/** Of 16 bytes of four rows each, rows side by side: 4 columns to a word and to a vector. */
INLINE void transpose_words(const i16xn v[4], i32xn out[4]) {
  i32xn a = interleave_low_words((i32xn)v[0], (i32xn)v[1]);
  i32xn b = interleave_low_words((i32xn)v[2], (i32xn)v[3]);
  i32xn c = interleave_high_words((i32xn)v[0], (i32xn)v[1]);
  i32xn d = interleave_high_words((i32xn)v[2], (i32xn)v[3]);
  out[0] = low_halves(a, b), out[1] = high_halves(a, b);
  out[2] = low_halves(c, d), out[3] = high_halves(c, d);
}

/* Into L2: into L1 it ran at 0.6 of the speed. */
enum { TOUCH_AHEAD = 8192 };
INLINE void touch(const uint8_t *p) { __builtin_prefetch(p, 0, 2); }
