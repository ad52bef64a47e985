/* Four lanes, NEON with dot products. */
#pragma once

#include "simd-wide-128.h"

/** Lane i: sum plus the products of four bytes each, both signed. */
INLINE i32xw dot_fours_w(i32xw sum, i16xw a, i16xw b) {
  return (i32xw)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b);
}

/** Of 16 bytes of four rows each, rows side by side: 4 columns to a word and to a vector. */
INLINE void transpose_words_w(const i16xw v[4], i32xw out[4]) {
  int32x4x2_t a = vtrnq_s32((int32x4_t)v[0], (int32x4_t)v[1]);
  int32x4x2_t b = vtrnq_s32((int32x4_t)v[2], (int32x4_t)v[3]);
  UNROLL
  for (int k = 0; k < 2; k++) {
    int64x2_t x = vreinterpretq_s64_s32(a.val[k]), y = vreinterpretq_s64_s32(b.val[k]);
    out[k] = (i32xw)vtrn1q_s64(x, y);
    out[k + 2] = (i32xw)vtrn2q_s64(x, y);
  }
}
