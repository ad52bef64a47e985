/* Sixteen lanes, AVX-512 with VNNI, VBMI and VPOPCNTDQ. simd-wide-128.h says what each does. */
#pragma once

INLINE __m256i pair_of(__m128i a, __m128i b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}
INLINE __m512i lane_numbers(void) {
  return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

typedef __mmask16 Lanes;
INLINE Lanes above_w(f32xw a, f32xw b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE f32xw select_w(Lanes chosen, f32xw a, f32xw b) { return _mm512_mask_blend_ps(chosen, b, a); }
INLINE uint32_t lane_bits_w(Lanes lanes) { return lanes; }

INLINE f32xw max_w(f32xw a, f32xw b) { return _mm512_max_ps(a, b); }
INLINE f32xw min_w(f32xw a, f32xw b) { return _mm512_min_ps(a, b); }
INLINE f32xw madd_w(f32xw a, f32xw b, f32xw c) { return _mm512_fmadd_ps(a, b, c); }

INLINE float sum_w(f32xw a) { return _mm512_reduce_add_ps(a); }
INLINE float max_lane_w(f32xw a) { return _mm512_reduce_max_ps(a); }

INLINE f32xw sum_each_in_quads_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  __m512 ab = _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
  __m512 cd = _mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d);
  return _mm512_shuffle_ps(ab, cd, 0x44) + _mm512_shuffle_ps(ab, cd, 0xee);
}
INLINE f32x4 sum_each_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  __m512 quads = sum_each_in_quads_w(a, b, c, d);
  __m256 two = _mm512_castps512_ps256(quads) + _mm512_extractf32x8_ps(quads, 1);
  return _mm256_castps256_ps128(two) + _mm256_extractf128_ps(two, 1);
}
INLINE f32x4 max_each_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  __m512 ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  __m512 cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  __m512 quads = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  __m256 two = _mm256_max_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
  return _mm_max_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1));
}

INLINE f32xw load_half_w(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
INLINE f32xw low_halves_w(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_loadu_si512(p)));
}
INLINE f32xw high_halves_w(const uint16_t *p) {
  __m512i high = _mm512_srli_epi32(_mm512_loadu_si512(p), 16);
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(high));
}

INLINE void store_narrow_w(int16_t *p, i32xw a, i32xw b) {
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtsepi32_epi16((__m512i)a));
  _mm256_storeu_si256((__m256i *)p + 1, _mm512_cvtsepi32_epi16((__m512i)b));
}

/** The same as bytes, of numbers from 0 to 255. */
INLINE void store_bytes_w(uint8_t *p, i32xw a, i32xw b) {
  _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8((__m512i)a));
  _mm_storeu_si128((__m128i *)p + 1, _mm512_cvtusepi32_epi8((__m512i)b));
}

INLINE void add_some_w(float *sums, f32xw x, int32_t count) {
  __mmask16 some = (__mmask16)((1u << count) - 1);
  __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(some, sums), x);
  _mm512_mask_storeu_ps(sums, some, sum);
}

INLINE void store_scaled_w(float *out, const int8_t *codes, f32xw scale) {
  const __m128i *p = (const __m128i *)codes;
  store_f32xw(out, scale * to_f32w((i32xw)_mm512_cvtepi8_epi32(_mm_loadu_si128(p))));
  store_f32xw(out + WIDE, scale * to_f32w((i32xw)_mm512_cvtepi8_epi32(_mm_loadu_si128(p + 1))));
}

INLINE i16xw widen_i8w(const int8_t *p) {
  return (i16xw)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
INLINE i32xw dot_pairs_w(i32xw sum, i16xw a, i16xw b) {
  return (i32xw)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}

INLINE i32xw interleave_low_words(i32xw a, i32xw b) {
  return (i32xw)_mm512_unpacklo_epi32((__m512i)a, (__m512i)b);
}
INLINE i32xw interleave_high_words(i32xw a, i32xw b) {
  return (i32xw)_mm512_unpackhi_epi32((__m512i)a, (__m512i)b);
}
INLINE i32xw low_halves(i32xw a, i32xw b) {
  return (i32xw)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}
INLINE i32xw high_halves(i32xw a, i32xw b) {
  return (i32xw)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}

INLINE i32xw sum_quads_w(i32xw a, i32xw b, i32xw c, i32xw d) {
  i32xw ab = interleave_low_words(a, b) + interleave_high_words(a, b);
  i32xw cd = interleave_low_words(c, d) + interleave_high_words(c, d);
  return low_halves(ab, cd) + high_halves(ab, cd);
}

INLINE i32x4 add_quads_w(i32xw a) {
  __m256i low = _mm512_castsi512_si256((__m512i)a), high = _mm512_extracti64x4_epi64((__m512i)a, 1);
  __m256i two = _mm256_add_epi32(low, high);
  return (i32x4)_mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

INLINE i16xw splat_word_w(const void *p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return (i16xw)_mm512_set1_epi32(word);
}
INLINE i16xw splat_quad_w(const void *p) {
  return (i16xw)_mm512_broadcast_i32x4(_mm_loadu_si128(p));
}

/* --- weights in blocks ------------------------------------------------------------------------ */

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

INLINE f32xw gather_halves_w(const uint8_t *p, size_t stride) {
  __m128i low = (__m128i)gather_u16x8(p, stride);
  __m128i high = (__m128i)gather_u16x8(p + 8 * stride, stride);
  return _mm512_cvtph_ps(pair_of(low, high));
}

INLINE i32xw quads_of(i16x8 a, i16x8 b, i16x8 c, i16x8 d) {
  __m256i ab = pair_of((__m128i)a, (__m128i)b), cd = pair_of((__m128i)c, (__m128i)d);
  return (i32xw)_mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
}

INLINE i32xw gather_words_w(const uint8_t *p, size_t stride) {
  i16x8 quads[4];
  UNROLL
  for (size_t j = 0; j < 4; j++) {
    const uint8_t *q = p + 4 * j * stride;
    quads[j] = (i16x8)gather_i32(q, q + stride, q + 2 * stride, q + 3 * stride);
  }
  return quads_of(quads[0], quads[1], quads[2], quads[3]);
}

INLINE i16xw gather_quads_w(const uint8_t *p, size_t stride) {
  size_t next = 4 * stride;
  return (i16xw)quads_of(load_bytes(p), load_bytes(p + next), load_bytes(p + 2 * next),
                         load_bytes(p + 3 * next));
}

INLINE i16xw gather_bits_w(const uint8_t *p, size_t stride) {
  uint64_t bits[4];
  UNROLL
  for (size_t j = 0; j < 4; j++) {
    uint16_t some;
    __builtin_memcpy(&some, p + 4 * j * stride, sizeof some);
    bits[j] = some;
  }
  uint64_t all = bits[0] | bits[1] << 16 | bits[2] << 32 | bits[3] << 48;
  return (i16xw)_mm512_maskz_set1_epi8(all, 1);
}

/** Lane i of c plus the products of its four bytes of a, unsigned, with those of b, signed. */
INLINE i32xw dot_fours_w(i32xw c, i16xw a, i16xw b) {
  return (i32xw)_mm512_dpbusd_epi32((__m512i)c, (__m512i)a, (__m512i)b);
}

/** Of 16 bytes of four rows each, rows side by side: 4 columns to a word and to a vector. */
INLINE void transpose_words_w(const i16xw v[4], i32xw out[4]) {
  i32xw a = interleave_low_words((i32xw)v[0], (i32xw)v[1]);
  i32xw b = interleave_low_words((i32xw)v[2], (i32xw)v[3]);
  i32xw c = interleave_high_words((i32xw)v[0], (i32xw)v[1]);
  i32xw d = interleave_high_words((i32xw)v[2], (i32xw)v[3]);
  out[0] = low_halves(a, b), out[1] = high_halves(a, b);
  out[2] = low_halves(c, d), out[3] = high_halves(c, d);
}

/* --- values in affine codes ------------------------------------------------------------------- */

/** `count` <= 16 bytes of a, and of b after 16 bytes. */
INLINE __m512i bytes_of_two(const uint8_t *a, const uint8_t *b, int32_t count) {
  __mmask16 some = (__mmask16)((1u << count) - 1);
  __m128i x = count == 16 ? _mm_loadu_si128((const __m128i *)a) : _mm_maskz_loadu_epi8(some, a);
  __m128i y = count == 16 ? _mm_loadu_si128((const __m128i *)b) : _mm_maskz_loadu_epi8(some, b);
  return _mm512_castsi256_si512(pair_of(x, y));
}

/** Lane i: byte i of 16 at its bits 0 to 7, byte 16 + i at its bits 16 to 23. */
INLINE __m512i byte_pairs(__m512i bytes) {
  const __m512i lanes = lane_numbers();
  __m512i places = _mm512_or_si512(_mm512_or_si512(lanes, _mm512_slli_epi32(lanes, 16)),
                                   _mm512_set1_epi32(16 << 16));
  return _mm512_maskz_permutexvar_epi8(0x5555555555555555, places, bytes);
}

INLINE i16xw pair_few_words(const uint8_t *a, const uint8_t *b, int32_t count) {
  return (i16xw)byte_pairs(bytes_of_two(a, b, count));
}

INLINE void pair_words(const uint8_t *a, const uint8_t *b, int32_t count, i16xw *out) {
  int32_t few = count < WIDE ? count : WIDE;
  out[0] = pair_few_words(a, b, few);
  out[1] = pair_few_words(a + WIDE, b + WIDE, count - few);
}

enum { ADDS_FOURS = 1 };

/** Byte 16 j + i of four times 16 bytes as byte j of lane i. */
INLINE __m512i transpose_bytes(__m512i bytes) {
  __m512i within = _mm512_mullo_epi32(lane_numbers(), _mm512_set1_epi32(0x01010101));
  return _mm512_permutexvar_epi8(_mm512_add_epi32(within, _mm512_set1_epi32(0x30201000)), bytes);
}

INLINE i16xw four_words_w(const uint8_t *p, size_t stride, int32_t rows) {
  if (rows >= 4 && stride == WIDE) return (i16xw)transpose_bytes(_mm512_loadu_si512(p));
  i16x8 quads[4];
  UNROLL
  for (int32_t j = 0; j < 4; j++) quads[j] = load_bytes(p + (j < rows ? (size_t)j * stride : 0));
  return (i16xw)transpose_bytes((__m512i)quads_of(quads[0], quads[1], quads[2], quads[3]));
}

/* --- keys as sketches ------------------------------------------------------------------------- */

INLINE int32_t counts_bits_wide(int32_t words) { return words == 2 || words == 4 || words == 8; }

/** Ones in each 64 bits of what differs in the `part`th 64 bytes of keys. */
INLINE __m512i ones_of(__m512i query, const uint32_t *keys, int32_t part) {
  return _mm512_popcnt_epi64(_mm512_xor_si512(query, _mm512_loadu_si512(keys + 16 * part)));
}

/** The low 16 bits of each 32 of four vectors as bytes are packed: of each 64 of a count one stays. */
INLINE __m512i counts_of_four(__m512i query, const uint32_t *keys) {
  __m512i a = _mm512_packus_epi32(ones_of(query, keys, 0), ones_of(query, keys, 1));
  __m512i b = _mm512_packus_epi32(ones_of(query, keys, 2), ones_of(query, keys, 3));
  return _mm512_packus_epi32(a, b);
}

INLINE i32xw differing_bits_w(const uint32_t *query, const uint32_t *keys, int32_t words) {
  const __m512i lanes = lane_numbers();
  if (words == 2) {
    int64_t two;
    __builtin_memcpy(&two, query, sizeof two);
    __m512i q = _mm512_set1_epi64(two);
    __m512i even = _mm512_slli_epi32(lanes, 1);
    return (i32xw)_mm512_permutex2var_epi32(ones_of(q, keys, 0), even, ones_of(q, keys, 1));
  }
  if (words == 4) {
    // Quad l has the two counts of keys l, 4 + l, 8 + l, 12 + l.
    __m512i q = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)query));
    __m512i sums = _mm512_madd_epi16(counts_of_four(q, keys), _mm512_set1_epi16(1));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return (i32xw)_mm512_permutexvar_epi32(order, sums);
  }
  // Bytes 32 o + 2 i + {0, 1, 16, 17} are the four counts of key 2 i + o.
  __m512i q = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)query));
  __m512i bytes = _mm512_packus_epi16(counts_of_four(q, keys), counts_of_four(q, keys + 64));
  __m512i odd = _mm512_and_si512(lanes, _mm512_set1_epi32(1));
  __m512i start = _mm512_add_epi32(_mm512_slli_epi32(odd, 5), _mm512_sub_epi32(lanes, odd));
  __m512i places = _mm512_add_epi32(_mm512_mullo_epi32(start, _mm512_set1_epi32(0x01010101)),
                                    _mm512_set1_epi32(0x11100100));
  __m512i of_key = _mm512_permutexvar_epi8(places, bytes);
  return (i32xw)_mm512_dpbusd_epi32(_mm512_setzero_si512(), of_key, _mm512_set1_epi8(1));
}

/* --- keys as codes ---------------------------------------------------------------------------- */

enum { GROUPS_AT_ONCE = 4 };
/** Where the entries of each of 16 keys are in the tables of four groups. */
typedef struct {
  __m512i first, second;
} KeyCodes;
typedef struct {
  i32xw halves[2];
} EntrySums;

/** Up to 4 groups of 16 bytes; zeros for those that are not there. */
INLINE __m512i load_groups(const void *p, int32_t groups) {
  if (groups == GROUPS_AT_ONCE) return _mm512_loadu_si512(p);
  return _mm512_maskz_loadu_epi32((__mmask16)((1u << 4 * groups) - 1), p);
}

INLINE KeyCodes load_codes(const uint8_t *keys, int32_t groups) {
  const __m512i nibble = _mm512_set1_epi8(15), starts = _mm512_set1_epi32(0x30201000);
  __m512i bytes = transpose_bytes(load_groups(keys, groups));
  enum { A_AND_B_OR_C = 0xea };
  return (KeyCodes){
      _mm512_ternarylogic_epi32(bytes, nibble, starts, A_AND_B_OR_C),
      _mm512_ternarylogic_epi32(_mm512_srli_epi16(bytes, 4), nibble, starts, A_AND_B_OR_C),
  };
}

INLINE void add_entries(EntrySums *sums, KeyCodes codes, const int8_t *table, int32_t groups) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i entries = load_groups(table, groups);
  __m512i first = _mm512_permutexvar_epi8(codes.first, entries);
  __m512i second = _mm512_permutexvar_epi8(codes.second, entries);
  sums->halves[0] = (i32xw)_mm512_dpbusd_epi32((__m512i)sums->halves[0], ones, first);
  sums->halves[1] = (i32xw)_mm512_dpbusd_epi32((__m512i)sums->halves[1], ones, second);
}

INLINE f32xw sums_of_part(const EntrySums *sums, int32_t part) {
  return to_f32w(sums->halves[part]);
}
