/* One quad: the functions of simd.h. Here is what each does. */
#pragma once

INLINE f32xn madd_n(f32xn a, f32xn b, f32xn c) { return madd(a, b, c); }

/** An f16 of each row, the rows `stride` bytes apart. */
INLINE f32xn gather_halves(const uint8_t *p, size_t stride) {
  return half_to_f32(gather_u16(p, p + stride, p + 2 * stride, p + 3 * stride));
}

/** A 32-bit word of each row. */
INLINE i32xn gather_words(const uint8_t *p, size_t stride) {
  return gather_i32(p, p + stride, p + 2 * stride, p + 3 * stride);
}

/** 16 bytes of every fourth row. */
INLINE i16xn gather_quads(const uint8_t *p, size_t stride) {
  (void)stride;
  return load_bytes(p);
}

/** The same 16 bytes in every quad. */
INLINE i16xn splat_quad(const void *p) { return load_bytes(p); }
/** The same 4 bytes in every lane. */
INLINE i16xn splat_word(const void *p) { return splat_pair(p); }

/** Byte i of a quad is bit i of 16, which every fourth row has at p. */
INLINE i16xn gather_bits(const uint8_t *p, size_t stride) {
  (void)stride;
  return spread_bits(p);
}

/** Of each quad the lanes of the arguments added up, one lane for each argument. */
INLINE i32xn sum_each_n(i32xn a, i32xn b, i32xn c, i32xn d) { return sum_each_i32(a, b, c, d); }

INLINE i32xn dot_i16xn(i16xn a, i16xn b) { return dot_i16(a, b); }

/** Of each quad the first and the last 8 bytes as i16. */
INLINE i16xn low_bytes_n(i16xn a) { return low_bytes(a); }
INLINE i16xn high_bytes_n(i16xn a) { return high_bytes(a); }

/** Of 16 bytes of four rows each, rows side by side: 2 columns to a word, 4 columns to a vector. */
INLINE void transpose_pairs(const i16xn v[4], i16xn out[4]) {
  i16x8 a = interleave_low(v[0], v[1]), b = interleave_low(v[2], v[3]);
  i16x8 c = interleave_high(v[0], v[1]), d = interleave_high(v[2], v[3]);
  out[0] = interleave_low_pairs(a, b), out[1] = interleave_high_pairs(a, b);
  out[2] = interleave_low_pairs(c, d), out[3] = interleave_high_pairs(c, d);
}

/**
 * Makes the processor read a cache line that is needed after the next TOUCH_AHEAD bytes. Here it is
 * a load, there being no prefetch, so it must stay within the weights.
 */
enum { TOUCH_AHEAD = 0 };
INLINE void touch(const uint8_t *p) { (void)*(const volatile uint8_t *)p; }
