/* Eight lanes, AVX2. simd-wide-128.h says what each function does. */
#pragma once

typedef __m256 Lanes;
INLINE Lanes above_w(f32xw a, f32xw b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
INLINE f32xw select_w(Lanes chosen, f32xw a, f32xw b) { return _mm256_blendv_ps(b, a, chosen); }
INLINE uint32_t lane_bits_w(Lanes lanes) { return (uint32_t)_mm256_movemask_ps(lanes); }

INLINE f32xw max_w(f32xw a, f32xw b) { return _mm256_max_ps(a, b); }
INLINE f32xw min_w(f32xw a, f32xw b) { return _mm256_min_ps(a, b); }
INLINE f32xw madd_w(f32xw a, f32xw b, f32xw c) { return _mm256_fmadd_ps(a, b, c); }

INLINE f32x4 lower_half(f32xw a) { return (f32x4)_mm256_castps256_ps128(a); }
INLINE f32x4 upper_half(f32xw a) { return (f32x4)_mm256_extractf128_ps(a, 1); }
INLINE float sum_w(f32xw a) { return sum_f32(lower_half(a) + upper_half(a)); }
INLINE float max_lane_w(f32xw a) { return max_lane(max_f32(lower_half(a), upper_half(a))); }

INLINE f32x4 sum_each_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  return sum_each_f32(lower_half(a) + upper_half(a), lower_half(b) + upper_half(b),
                      lower_half(c) + upper_half(c), lower_half(d) + upper_half(d));
}
INLINE f32xw sum_each_in_quads_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  __m256 ab = _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
  __m256 cd = _mm256_unpacklo_ps(c, d) + _mm256_unpackhi_ps(c, d);
  return _mm256_shuffle_ps(ab, cd, 0x44) + _mm256_shuffle_ps(ab, cd, 0xee);
}
INLINE f32x4 max_each_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  return (f32x4){max_lane_w(a), max_lane_w(b), max_lane_w(c), max_lane_w(d)};
}

INLINE f32xw load_half_w(const uint16_t *p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE i16xw pair_of(i16x8 a, i16x8 b) {
  return (i16xw)_mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)a), (__m128i)b, 1);
}
INLINE f32xw low_halves_w(const uint16_t *p) {
  return (f32xw)pair_of((i16x8)low_halves_finite(p), (i16x8)low_halves_finite(p + 8));
}
INLINE f32xw high_halves_w(const uint16_t *p) {
  return (f32xw)pair_of((i16x8)high_halves_finite(p), (i16x8)high_halves_finite(p + 8));
}

INLINE void store_narrow_w(int16_t *p, i32xw a, i32xw b) {
  __m256i mixed = _mm256_packs_epi32((__m256i)a, (__m256i)b);
  _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(mixed, 0xd8));
}

INLINE void add_some_w(float *sums, f32xw x, int32_t count) {
  if (count == WIDE) store_f32xw(sums, load_f32xw(sums) + x);
  else for (int32_t k = 0; k < count; k++) sums[k] += x[k];
}

INLINE void store_scaled_w(float *out, const int8_t *codes, f32xw scale) {
  __m128i both = _mm_loadu_si128((const __m128i *)codes);
  store_f32xw(out, scale * to_f32w((i32xw)_mm256_cvtepi8_epi32(both)));
  __m128i second = _mm_unpackhi_epi64(both, both);
  store_f32xw(out + WIDE, scale * to_f32w((i32xw)_mm256_cvtepi8_epi32(second)));
}

INLINE i16xw widen_i8w(const int8_t *p) {
  return (i16xw)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}
INLINE i32xw dot_pairs_w(i32xw sum, i16xw a, i16xw b) {
  return (i32xw)((u32xw)sum + (u32xw)_mm256_madd_epi16((__m256i)a, (__m256i)b));
}

INLINE i32xw sum_quads_w(i32xw a, i32xw b, i32xw c, i32xw d) {
  __m256i ab = _mm256_hadd_epi32((__m256i)a, (__m256i)b);
  return (i32xw)_mm256_hadd_epi32(ab, _mm256_hadd_epi32((__m256i)c, (__m256i)d));
}
INLINE i32x4 add_quads_w(i32xw a) {
  u32x4 low = (u32x4)_mm256_castsi256_si128((__m256i)a);
  return (i32x4)(low + (u32x4)_mm256_extracti128_si256((__m256i)a, 1));
}

INLINE i16xw splat_word_w(const void *p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return (i16xw)_mm256_set1_epi32(word);
}
INLINE i16xw splat_quad_w(const void *p) {
  return (i16xw)_mm256_broadcastsi128_si256(_mm_loadu_si128(p));
}

/* --- weights in blocks ------------------------------------------------------------------------ */

INLINE f32xw gather_halves_w(const uint8_t *p, size_t stride) {
  i16x8 v = {0};
  UNROLL
  for (size_t r = 0; r < 8; r++) {
    int16_t half;
    __builtin_memcpy(&half, p + r * stride, sizeof half);
    v[r] = half;
  }
  return _mm256_cvtph_ps((__m128i)v);
}

INLINE i32xw gather_words_w(const uint8_t *p, size_t stride) {
  i32xw v = {0};
  UNROLL
  for (size_t r = 0; r < 8; r++) {
    int32_t word;
    __builtin_memcpy(&word, p + r * stride, sizeof word);
    v[r] = word;
  }
  return v;
}

INLINE i16xw gather_quads_w(const uint8_t *p, size_t stride) {
  return pair_of(load_bytes(p), load_bytes(p + 4 * stride));
}

INLINE i16xw gather_bits_w(const uint8_t *p, size_t stride) {
  return pair_of(spread_bits(p), spread_bits(p + 4 * stride));
}

INLINE i16xw low_bytes_w(i16xw a) {
  return (i16xw)_mm256_unpacklo_epi8((__m256i)a, (__m256i)a) >> (int16_t)8;
}
INLINE i16xw high_bytes_w(i16xw a) {
  return (i16xw)_mm256_unpackhi_epi8((__m256i)a, (__m256i)a) >> (int16_t)8;
}

INLINE void transpose_pairs_w(const i16xw v[4], i16xw out[4]) {
  __m256i a = _mm256_unpacklo_epi16((__m256i)v[0], (__m256i)v[1]);
  __m256i b = _mm256_unpacklo_epi16((__m256i)v[2], (__m256i)v[3]);
  __m256i c = _mm256_unpackhi_epi16((__m256i)v[0], (__m256i)v[1]);
  __m256i d = _mm256_unpackhi_epi16((__m256i)v[2], (__m256i)v[3]);
  out[0] = (i16xw)_mm256_unpacklo_epi32(a, b), out[1] = (i16xw)_mm256_unpackhi_epi32(a, b);
  out[2] = (i16xw)_mm256_unpacklo_epi32(c, d), out[3] = (i16xw)_mm256_unpackhi_epi32(c, d);
}

/* --- values in affine codes ------------------------------------------------------------------- */

/** The first `count` <= 8 bytes; the rest 0. */
INLINE __m128i eight_bytes(const uint8_t *p, int32_t count) {
  uint8_t some[8] = {0};
  if (count == 8) return _mm_loadl_epi64((const __m128i *)p);
  for (int32_t i = 0; i < count; i++) some[i] = p[i];
  return _mm_loadl_epi64((const __m128i *)some);
}

INLINE __m256i byte_pairs(const uint8_t *a, const uint8_t *b, int32_t count) {
  __m128i bytes = _mm_unpacklo_epi8(eight_bytes(a, count), eight_bytes(b, count));
  return _mm256_cvtepu8_epi16(bytes);
}

INLINE i16xw pair_few_words(const uint8_t *a, const uint8_t *b, int32_t count) {
  return (i16xw)byte_pairs(a, b, count);
}

INLINE void pair_words(const uint8_t *a, const uint8_t *b, int32_t count, i16xw *out) {
  int32_t few = count < WIDE ? count : WIDE;
  out[0] = pair_few_words(a, b, few);
  out[1] = pair_few_words(a + WIDE, b + WIDE, count - few);
}

/* --- keys as codes ---------------------------------------------------------------------------- */

enum { GROUPS_AT_ONCE = 4 };
/** A group in each 128 bits. */
typedef struct {
  __m256i first[2], second[2];
} KeyCodes;
typedef struct {
  __m256i quarters[4];
} EntrySums;

/** Two groups of 16 bytes, of which `groups` are there; zeros for the others. */
INLINE __m256i load_groups(const void *p, int32_t groups) {
  if (groups >= 2) return _mm256_loadu_si256(p);
  return groups == 1 ? _mm256_zextsi128_si256(_mm_loadu_si128(p)) : _mm256_setzero_si256();
}

INLINE KeyCodes load_codes(const uint8_t *keys, int32_t groups) {
  const __m256i nibble = _mm256_set1_epi8(15);
  KeyCodes codes;
  UNROLL
  for (int32_t i = 0; i < 2; i++) {
    __m256i both = load_groups(keys + 32 * i, groups - 2 * i);
    codes.first[i] = _mm256_and_si256(both, nibble);
    codes.second[i] = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
  }
  return codes;
}

/** Adds the entries of 16 keys in two groups of 128 bits each: 8 keys to a quarter. */
INLINE void add_four(__m256i *quarters, __m256i a, __m256i b) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i low = _mm256_maddubs_epi16(ones, _mm256_unpacklo_epi8(a, b));
  __m256i high = _mm256_maddubs_epi16(ones, _mm256_unpackhi_epi8(a, b));
  quarters[0] = _mm256_add_epi16(quarters[0], low);
  quarters[1] = _mm256_add_epi16(quarters[1], high);
}

INLINE void add_entries(EntrySums *sums, KeyCodes codes, const int8_t *table, int32_t groups) {
  __m256i x = load_groups(table, groups), y = load_groups(table + 32, groups - 2);
  add_four(sums->quarters, _mm256_shuffle_epi8(x, codes.first[0]),
           _mm256_shuffle_epi8(y, codes.first[1]));
  add_four(sums->quarters + 2, _mm256_shuffle_epi8(x, codes.second[0]),
           _mm256_shuffle_epi8(y, codes.second[1]));
}

INLINE f32xw sums_of_part(const EntrySums *sums, int32_t part) {
  __m256i quarter = sums->quarters[part];
  __m128i both = _mm_add_epi16(_mm256_castsi256_si128(quarter), _mm256_extracti128_si256(quarter, 1));
  return to_f32w((i32xw)_mm256_cvtepi16_epi32(both));
}
