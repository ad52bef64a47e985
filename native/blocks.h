/*
 * GGML's block formats, as the kernels read them. Every block is 1 or 8 units of 32 elements, and
 *   element = scale * unit_scale * (code - centre) + unit_min
 * with integer codes, an integer unit_scale (1 where a block is one unit; Q6_K has one for each
 * half of a unit) and a unit_min only in some formats. All but the last addition is exact in f32.
 *
 * Functions take `dtype` as a constant, so that each format compiles to code of its own. They read
 * WIDE rows at a time, `stride` bytes apart, as simd-wide.h lays them out.
 */
#pragma once

#include "elementwise.h"

enum { UNIT = 32 };

INLINE int has_blocks(int32_t dtype) { return dtype >= Q8_0; }
INLINE int has_units(int32_t dtype) { return dtype >= Q4_K; }
INLINE int has_minima(int32_t dtype) {
  return dtype == Q4_1 || dtype == Q5_1 || dtype == Q4_K || dtype == Q5_K;
}

/** The code that stands for zero, in formats without minima. */
INLINE int32_t centre_of(int32_t dtype) {
  return dtype == Q4_0 ? 8 : dtype == Q5_0 ? 16 : dtype == Q6_K ? 32 : 0;
}

/** Elements of a block. */
INLINE size_t block_length(int32_t dtype) { return has_units(dtype) ? 256 : UNIT; }

INLINE size_t block_bytes(int32_t dtype) {
  switch (dtype) {
  case Q8_0: return 34;  /* f16 scale, i8 codes[32] */
  case Q4_0: return 18;  /* f16 scale, u4 codes[32] */
  case Q4_1: return 20;  /* f16 scale, min, u4 codes[32] */
  case Q5_0: return 22;  /* f16 scale, fifth bits u32, u4 codes[32] */
  case Q5_1: return 24;  /* f16 scale, min, fifth bits u32, u4 codes[32] */
  case Q4_K: return 144; /* f16 scale, min scale, u6 scales and minima[8], u4 codes[256] */
  case Q5_K: return 176; /* the same with 32 bytes of fifth bits before the codes */
  default: return 210;   /* Q6_K: u4 low codes[256], u2 high[256], i8 scales[16], f16 scale */
  }
}

/** Bytes of a row of any type. */
INLINE size_t row_bytes_of(int32_t dtype, size_t columns) {
  if (has_blocks(dtype)) return columns / block_length(dtype) * block_bytes(dtype);
  return columns * (dtype == F32 ? 4 : 2);
}

/** Units that share the bytes of their codes; their place among these is a constant in loops. */
INLINE size_t group_units(int32_t dtype) {
  return has_units(dtype) ? dtype == Q6_K ? 4 : 2 : 1;
}

/**
 * The codes of unit k of a group of a block in every fourth row, as two vectors of bytes; only
 * Q8_0's are signed.
 */
INLINE void unit_codes(int32_t dtype, const uint8_t *block, size_t stride, size_t group, size_t k,
                       i16xw out[2]) {
  i16xw nibble = splat_bytes_w(15);
  if (dtype == Q8_0) {
    for (size_t i = 0; i < 2; i++) out[i] = gather_quads_w(block + 2 + 16 * i, stride);
    return;
  }
  if (!has_units(dtype)) {
    const uint8_t *codes = block + block_bytes(dtype) - 16;
    i16xw v = gather_quads_w(codes, stride);
    out[0] = v & nibble;
    out[1] = shift_right_u16w(v, 4) & nibble;
    for (size_t i = 0; i < 2; i++) {
      if (dtype == Q5_0 || dtype == Q5_1)
        out[i] |= gather_bits_w(codes - 4 + 2 * i, stride) << (int16_t)4;
    }
    return;
  }
  for (size_t i = 0; i < 2; i++) {
    if (dtype == Q6_K) {
      i16xw low = gather_quads_w(block + 64 * group + 32 * (k % 2) + 16 * i, stride);
      i16xw high = gather_quads_w(block + 128 + 32 * group + 16 * i, stride);
      if (k >= 2) low = shift_right_u16w(low, 4);
      high = k < 2 ? high << (int16_t)(4 - 2 * k) : shift_right_u16w(high, 2 * (int32_t)k - 4);
      out[i] = (low & nibble) | (high & splat_bytes_w(0x30));
      continue;
    }
    i16xw v = gather_quads_w(block + block_bytes(dtype) - 128 + 32 * group + 16 * i, stride);
    if (k == 1) v = shift_right_u16w(v, 4);
    out[i] = v & nibble;
    if (dtype == Q5_K) {
      i16xw bits = gather_quads_w(block + 16 + 16 * i, stride);
      i16xw high = shift_right_u16w(bits, (int32_t)(2 * group + k));
      out[i] |= (high & splat_bytes_w(1)) << (int16_t)4;
    }
  }
}

/** What stands beside the codes of one block in each row. */
typedef struct {
  f32xw scale;
  f32xw min;       /* the only unit's; for Q4_K and Q5_K what unit minima are multiples of */
  i32xw scales[4]; /* unit scales, 4 bytes a word: 8 unsigned ones, or Q6_K's 16 signed ones */
  i32xw minima[2]; /* 8 of them, 4 bytes a word */
} Header;

INLINE Header read_header(int32_t dtype, const uint8_t *block, size_t stride) {
  Header h = {0};
  if (dtype == Q6_K) {
    h.scale = gather_halves_w(block + 208, stride);
    for (size_t i = 0; i < 4; i++) h.scales[i] = gather_words_w(block + 192 + 4 * i, stride);
    return h;
  }
  h.scale = gather_halves_w(block, stride);
  if (has_minima(dtype)) h.min = gather_halves_w(block + 2, stride);
  if (!has_units(dtype)) return h;
  h.min = -h.min;
  // Bytes 0 to 3 hold scales 0 to 3 and bytes 4 to 7 minima 0 to 3 in six bits each, and above
  // those the upper two bits of the others, whose lower four are the nibbles of bytes 8 to 11.
  i32xw a = gather_words_w(block + 4, stride);
  i32xw b = gather_words_w(block + 8, stride);
  i32xw c = gather_words_w(block + 12, stride);
  h.scales[0] = a & 0x3f3f3f3f;
  h.minima[0] = b & 0x3f3f3f3f;
  h.scales[1] = (c & 0x0f0f0f0f) | ((a >> 2) & 0x30303030);
  h.minima[1] = ((c >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030);
  return h;
}

/** The integer scale of one half of unit u, in each row. */
INLINE i32xw unit_scale(int32_t dtype, const Header *h, size_t u, size_t half) {
  if (!has_units(dtype)) return splat_i32w(1);
  if (dtype != Q6_K) return (h->scales[u / 4] >> (int32_t)(u % 4 * 8)) & 0xff;
  return (h->scales[u / 2] << (int32_t)(24 - 16 * (u % 2) - 8 * half)) >> 24;
}

/** What is added to every element of unit u, in each row. */
INLINE f32xw unit_min(int32_t dtype, const Header *h, size_t u) {
  if (!has_units(dtype)) return h->min;
  return to_f32w((h->minima[u / 4] >> (int32_t)(u % 4 * 8)) & 0xff) * h->min;
}

/** One block as numbers. */
INLINE void block_values(int32_t dtype, const uint8_t *block, float *out) {
  Header h = read_header(dtype, block, 0);
  for (size_t u = 0; u < block_length(dtype) / UNIT; u++, out += UNIT) {
    i16xw halves[2];
    unit_codes(dtype, block, 0, u / group_units(dtype), u % group_units(dtype), halves);
    int8_t codes[UNIT];
    for (size_t i = 0; i < 2; i++) __builtin_memcpy(codes + 16 * i, halves + i, 16);
    for (size_t k = 0; k < UNIT; k++) {
      float scale = h.scale[0] * (float)unit_scale(dtype, &h, u, k / 16)[0];
      out[k] = scale * (float)(codes[k] - centre_of(dtype));
      if (has_minima(dtype)) out[k] += unit_min(dtype, &h, u)[0];
    }
  }
}
