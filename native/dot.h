/*
 * Products of codes of weights with codes of x: in fours of 8 bits where an instruction multiplies
 * bytes of all values, in pairs of 16 bits elsewhere.
 *
 * Packed rows stand so that a vector holds a word, WORD columns, of each of WIDE rows: multiplied
 * by the same word of x it adds to all of them.
 */
#pragma once

#include "blocks.h"

#if defined __AVX512VNNI__ || defined __ARM_FEATURE_DOTPROD

typedef int8_t Code;
enum {
  WORD = 4,
  VECTORS = WIDE == 4 ? 2 : 1, /* of WIDE packed rows that share the loads of x */
  TILE_TOKENS = 8, /* positions that share the loads of a weight: as many as fit the registers */
  PAIRED = 0,      /* whether `dot_half` wants x in the order of `split_pairs` */
  IN_PACKED = 0,   /* whether packed codes have zero at 0, and unit scales multiplied in */
};

#ifdef __AVX512VNNI__
/** Bytes are multiplied unsigned, so signed ones are moved up. */
INLINE int32_t dot_centre(int32_t dtype) { return dtype == Q8_0 ? 128 : centre_of(dtype); }
INLINE i16xw moved_up(int32_t dtype, i16xw codes) {
  return dtype == Q8_0 ? codes ^ splat_bytes_w(128) : codes;
}
#else
/** Bytes are multiplied signed, and no unsigned code is above 127. */
INLINE int32_t dot_centre(int32_t dtype) { return centre_of(dtype); }
INLINE i16xw moved_up(int32_t dtype, i16xw codes) { return (void)dtype, codes; }
#endif

/** sum plus the products of half a unit's codes with codes of x, in four lanes for each row. */
INLINE i32xw dot_half(i32xw sum, int32_t dtype, i16xw codes, const Code *x) {
  return dot_fours_w(sum, moved_up(dtype, codes), splat_quad_w(x));
}

/** sum plus the products of a vector of packed codes with a word of x. */
INLINE i32xw dot_word(i32xw sum, i16xw packed, const Code *x) {
  return dot_fours_w(sum, packed, splat_word_w(x));
}

/** Packs half a unit of WIDE rows; v[k] has row k of each four. */
INLINE void pack_half(int32_t dtype, const i16xw v[4], i32xw scale, Code *out, size_t word_stride) {
  (void)scale;
  i32xw words[4];
  transpose_words_w(v, words);
  UNROLL
  for (size_t i = 0; i < 4; i++)
    store_i16xw((int16_t *)(out + i * word_stride), moved_up(dtype, (i16xw)words[i]));
}

INLINE void store_eight_codes(Code *p, i32x4 low, i32x4 high) {
  store_i8x8(p, __builtin_convertvector(narrow_i32(low, high), i8x8));
}

#else

typedef int16_t Code;
enum { WORD = 2, VECTORS = 2, TILE_TOKENS = 4, PAIRED = 1, IN_PACKED = 1 };

INLINE int32_t dot_centre(int32_t dtype) { return centre_of(dtype); }

INLINE i32xw dot_half(i32xw sum, int32_t dtype, i16xw codes, const Code *x) {
  int is_signed = dtype == Q8_0;
  i16xw even = is_signed ? (codes << (int16_t)8) >> (int16_t)8 : codes & (int16_t)255;
  i16xw odd = is_signed ? codes >> (int16_t)8 : shift_right_u16w(codes, 8);
  return dot_pairs_w(dot_pairs_w(sum, even, splat_quad_w(x)), odd, splat_quad_w(x + 8));
}

INLINE i32xw dot_word(i32xw sum, i16xw packed, const Code *x) {
  return dot_pairs_w(sum, packed, splat_word_w(x));
}

INLINE void pack_half(int32_t dtype, const i16xw v[4], i32xw scale, Code *out, size_t word_stride) {
  i16xw centre = splat_bytes_w(0) + (int16_t)centre_of(dtype);
  i16xw scales = (i16xw)((scale & 0xffff) | (scale << 16)), four[4];
  transpose_pairs_w(v, four);
  UNROLL
  for (size_t i = 0; i < 4; i++) {
    store_i16xw(out + 2 * i * word_stride, (low_bytes_w(four[i]) - centre) * scales);
    store_i16xw(out + (2 * i + 1) * word_stride, (high_bytes_w(four[i]) - centre) * scales);
  }
}

INLINE void store_eight_codes(Code *p, i32x4 low, i32x4 high) {
  store_i16x8(p, narrow_i32(low, high));
}

#endif
