/* Four lanes: the functions of simd.h. Here is what each does. */
#pragma once

/** The result of a comparison, lane by lane. */
typedef i32x4 Lanes;
INLINE Lanes above_w(f32xw a, f32xw b) { return a > b; }
/** Lanes of a where they are chosen, of b elsewhere. */
INLINE f32xw select_w(Lanes chosen, f32xw a, f32xw b) { return select_f32(chosen, a, b); }
INLINE uint32_t lane_bits_w(Lanes lanes) { return lane_bits(lanes); }

/** b where either is NaN. */
INLINE f32xw max_w(f32xw a, f32xw b) { return max_f32(a, b); }
INLINE f32xw min_w(f32xw a, f32xw b) { return min_f32(a, b); }
INLINE f32xw madd_w(f32xw a, f32xw b, f32xw c) { return madd(a, b, c); }

INLINE float sum_w(f32xw a) { return sum_f32(a); }
INLINE float max_lane_w(f32xw a) { return max_lane(a); }
/** Lane i is the sum of the lanes of the i-th argument. */
INLINE f32x4 sum_each_w(f32xw a, f32xw b, f32xw c, f32xw d) { return sum_each_f32(a, b, c, d); }
/** In each quad, lane i is the sum of the lanes of the i-th argument there. */
INLINE f32xw sum_each_in_quads_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  return sum_each_f32(a, b, c, d);
}
INLINE f32x4 max_each_w(f32xw a, f32xw b, f32xw c, f32xw d) {
  return (f32x4){max_lane(a), max_lane(b), max_lane(c), max_lane(d)};
}

/** WIDE finite f16. */
INLINE f32xw load_half_w(const uint16_t *p) { return load_half_finite(p); }
/** Of WIDE pairs of finite f16, the first ones, and the second ones. */
INLINE f32xw low_halves_w(const uint16_t *p) { return low_halves_finite(p); }
INLINE f32xw high_halves_w(const uint16_t *p) { return high_halves_finite(p); }

/** Both as i16, the lanes of a first; saturates. */
INLINE void store_narrow_w(int16_t *p, i32xw a, i32xw b) { store_i16x8(p, narrow_i32(a, b)); }

/** sums[0 .. count) += x, count <= WIDE. */
INLINE void add_some_w(float *sums, f32xw x, int32_t count) {
  if (count == WIDE) store_f32x4(sums, load_f32x4(sums) + x);
  else for (int32_t k = 0; k < count; k++) sums[k] += x[k];
}

/** out[i] = scale codes[i], 2 WIDE of them. */
INLINE void store_scaled_w(float *out, const int8_t *codes, f32xw scale) {
  i16x8 both = widen_i8(codes);
  store_f32x4(out, scale * to_f32(low_i32(both)));
  store_f32x4(out + WIDE, scale * to_f32(high_i32(both)));
}

/** 2 WIDE of i8 as i16. */
INLINE i16xw widen_i8w(const int8_t *p) { return widen_i8(p); }
/** Lane i: sum + a[2i] b[2i] + a[2i+1] b[2i+1]; wraps. */
INLINE i32xw dot_pairs_w(i32xw sum, i16xw a, i16xw b) {
  return (i32xw)((u32xw)sum + (u32xw)dot_i16(a, b));
}

/** In each quad, lane i is the sum of the lanes of the i-th argument there. */
INLINE i32xw sum_quads_w(i32xw a, i32xw b, i32xw c, i32xw d) { return sum_each_i32(a, b, c, d); }
/** Its quads added up. */
INLINE i32x4 add_quads_w(i32xw a) { return a; }

/** The same 4 bytes in every lane; the same 16 in every quad. */
INLINE i16xw splat_word_w(const void *p) { return splat_pair(p); }
INLINE i16xw splat_quad_w(const void *p) { return load_bytes(p); }

/* --- weights in blocks: a lane for each of WIDE rows, `stride` bytes apart -------------------- */

/** An f16 of each row. */
INLINE f32xw gather_halves_w(const uint8_t *p, size_t stride) {
  return half_to_f32(gather_u16(p, p + stride, p + 2 * stride, p + 3 * stride));
}

/** A word of 32 bits of each row. */
INLINE i32xw gather_words_w(const uint8_t *p, size_t stride) {
  return gather_i32(p, p + stride, p + 2 * stride, p + 3 * stride);
}

/** 16 bytes of every fourth row. */
INLINE i16xw gather_quads_w(const uint8_t *p, size_t stride) {
  (void)stride;
  return load_bytes(p);
}

/** Byte i of a quad is bit i of 16, which every fourth row has at p. */
INLINE i16xw gather_bits_w(const uint8_t *p, size_t stride) {
  (void)stride;
  return spread_bits(p);
}

/** Of each quad the first and the last 8 bytes as i16. */
INLINE i16xw low_bytes_w(i16xw a) { return low_bytes(a); }
INLINE i16xw high_bytes_w(i16xw a) { return high_bytes(a); }

/** Of 16 bytes of four rows each, rows side by side: 2 columns to a word, 4 columns to a vector. */
INLINE void transpose_pairs_w(const i16xw v[4], i16xw out[4]) {
  i16x8 a = interleave_low(v[0], v[1]), b = interleave_low(v[2], v[3]);
  i16x8 c = interleave_high(v[0], v[1]), d = interleave_high(v[2], v[3]);
  out[0] = interleave_low_pairs(a, b), out[1] = interleave_high_pairs(a, b);
  out[2] = interleave_low_pairs(c, d), out[3] = interleave_high_pairs(c, d);
}

/* --- values in affine codes ------------------------------------------------------------------- */

/** out[0], out[1] = words of a and of b in turn, u8 to u16; the first `count` words, then zeros. */
INLINE void pair_words(const uint8_t *a, const uint8_t *b, int32_t count, i16xw *out) {
  i16x8 x = count == 2 * WIDE ? widen_u8(a) : widen_some_u8(a, count);
  i16x8 y = count == 2 * WIDE ? widen_u8(b) : widen_some_u8(b, count);
  out[0] = interleave_low(x, y), out[1] = interleave_high(x, y);
}

/** The same of up to WIDE words. */
INLINE i16xw pair_few_words(const uint8_t *a, const uint8_t *b, int32_t count) {
  return widen_low_bytes(interleave_low_bytes(load_some_bytes(a, count), load_some_bytes(b, count)));
}

/* --- keys as codes: 32 keys of a block at once ------------------------------------------------ */

enum { GROUPS_AT_ONCE = 1 };
/** The codes of a block's keys in up to GROUPS_AT_ONCE groups, ready to look entries up. */
typedef struct {
  i16x8 first, second;
} KeyCodes;
/** Sums of the entries of a block's keys: of its halves, those in even places and those in odd ones. */
typedef struct {
  i16x8 even[2], odd[2];
} EntrySums;

/** @param keys u8 [groups, 16] */
INLINE KeyCodes load_codes(const uint8_t *keys, int32_t groups) {
  (void)groups;
  i16x8 codes = load_bytes(keys);
  return (KeyCodes){low_nibbles(codes), high_nibbles(codes)};
}

/** @param table i8 [groups, 16] */
INLINE void add_entries(EntrySums *sums, KeyCodes codes, const int8_t *table, int32_t groups) {
  (void)groups;
  i16x8 entries = load_bytes((const uint8_t *)table);
  i16x8 halves[2] = {look_up(entries, codes.first), look_up(entries, codes.second)};
  UNROLL
  for (int32_t i = 0; i < 2; i++) {
    sums->even[i] += (halves[i] << (int16_t)8) >> (int16_t)8;
    sums->odd[i] += halves[i] >> (int16_t)8;
  }
}

/** The sums of keys WIDE part .. WIDE part + WIDE - 1. */
INLINE f32xw sums_of_part(const EntrySums *sums, int32_t part) {
  i16x8 even = sums->even[part >> 2], odd = sums->odd[part >> 2];
  i16x8 eight = part & 2 ? interleave_high(even, odd) : interleave_low(even, odd);
  return to_f32(part & 1 ? high_i32(eight) : low_i32(eight));
}
