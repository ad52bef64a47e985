/*
 * The block formats of GGUF (GGML's ggml-common.h), each unpacked to the same thing: 8-bit codes,
 * a scale for 16 of them and a minimum for 32, value = scale * code + minimum. `dtype` is a constant
 * wherever speed matters, so that only its branch is compiled.
 */
#pragma once

#include "elementwise.h"

enum { MAX_BLOCK = 256, MAX_RUNS = MAX_BLOCK / 32 };

INLINE size_t block_elements(int32_t dtype) {
  return dtype >= Q4_K ? 256 : 32;
}

INLINE size_t block_bytes(int32_t dtype) {
  static const uint8_t bytes[] = {[Q8_0] = 34, [Q4_0] = 18, [Q4_1] = 20, [Q5_0] = 22,
                                  [Q5_1] = 24, [Q4_K] = 144, [Q5_K] = 176, [Q6_K] = 210};
  return bytes[dtype];
}

INLINE int32_t has_minima(int32_t dtype) {
  return dtype == Q4_1 || dtype == Q5_1 || dtype == Q4_K || dtype == Q5_K;
}

/** The f16 at an address, in scalar arithmetic; infinity and NaN stay what they are. */
INLINE float half_at(const uint8_t *p) {
  uint16_t half;
  __builtin_memcpy(&half, p, 2);
  uint32_t moved = (half & 0x7fffu) << 13;
  float finite, special;
  uint32_t bits = moved | 0x7f800000;
  __builtin_memcpy(&finite, &moved, 4);
  __builtin_memcpy(&special, &bits, 4);
  float magnitude = moved >= 0x0f800000 ? special : finite * HALF_REBASE;
  return half & 0x8000 ? -magnitude : magnitude;
}

/** 16 lanes of 16 or 0: whether bit i of the two bytes is set. */
INLINE u8x16 fifth_bits(const uint8_t *p) {
  u8x16 bytes = {p[0], p[0], p[0], p[0], p[0], p[0], p[0], p[0],
                 p[1], p[1], p[1], p[1], p[1], p[1], p[1], p[1]};
  u8x16 bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return (u8x16)((bytes & bits) != 0) & 16;
}

/** Scale and minimum j (of 8) of a Q4_K or Q5_K block: 6 bits each, packed into 12 bytes. */
INLINE void packed_scale(const uint8_t *p, size_t j, float *scale, float *minimum) {
  *scale = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
  *minimum = j < 4 ? p[j + 4] & 63 : p[j + 4] >> 4 | (p[j] >> 6) << 4;
}

/**
 * @param codes   i8 [block_elements]
 * @param scales  every `stride`-th float, one for 16 codes
 * @param minima  every `stride`-th float, one for 32 codes; untouched without minima
 */
INLINE void unpack_block(int32_t dtype, const uint8_t *block, size_t stride, int8_t *codes,
                         float *scales, float *minima) {
  uint8_t *out = (uint8_t *)codes;
  if (dtype == Q8_0) {
    __builtin_memcpy(codes, block + 2, 32);
    scales[0] = scales[stride] = half_at(block);
    return;
  }
  if (dtype == Q4_0 || dtype == Q4_1 || dtype == Q5_0 || dtype == Q5_1) {
    int32_t is_five = dtype == Q5_0 || dtype == Q5_1, has_minimum = has_minima(dtype);
    const uint8_t *bits = block + (has_minimum ? 4 : 2), *nibbles = bits + (is_five ? 4 : 0);
    u8x16 bytes = load_u8x16(nibbles), low = bytes & 15, high = bytes >> 4;
    if (is_five) low |= fifth_bits(bits), high |= fifth_bits(bits + 2);
    uint8_t centre = dtype == Q4_0 ? 8 : dtype == Q5_0 ? 16 : 0;
    store_u8x16(out, low - centre);
    store_u8x16(out + 16, high - centre);
    scales[0] = scales[stride] = half_at(block);
    if (has_minimum) minima[0] = half_at(block + 2);
    return;
  }
  if (dtype == Q4_K || dtype == Q5_K) {
    float d = half_at(block), d_min = half_at(block + 2);
    const uint8_t *upper = block + 16, *nibbles = dtype == Q5_K ? block + 48 : block + 16;
#pragma unroll
    for (size_t run = 0; run < MAX_RUNS; run++) {
      float scale, minimum;
      packed_scale(block + 4, run, &scale, &minimum);
      scales[2 * run * stride] = scales[(2 * run + 1) * stride] = d * scale;
      minima[run * stride] = -d_min * minimum;
#pragma unroll
      for (size_t half = 0; half < 32; half += 16) {
        u8x16 bytes = load_u8x16(nibbles + run / 2 * 32 + half);
        u8x16 code = run % 2 ? bytes >> 4 : bytes & 15;
        if (dtype == Q5_K) code |= (load_u8x16(upper + half) >> (uint8_t)run & 1) << 4;
        store_u8x16(out + run * 32 + half, code);
      }
    }
    return;
  }
  float d = half_at(block + 208); // Q6_K
#pragma unroll
  for (size_t run = 0; run < MAX_RUNS; run++) {
    size_t part = run / 4, quarter = run % 4;
#pragma unroll
    for (size_t half = 0; half < 2; half++) {
      u8x16 bytes = load_u8x16(block + 64 * part + 32 * (quarter & 1) + 16 * half);
      u8x16 upper = load_u8x16(block + 128 + 32 * part + 16 * half) >> (uint8_t)(2 * quarter) & 3;
      u8x16 code = (quarter < 2 ? bytes & 15 : bytes >> 4) | upper << 4;
      store_u8x16(out + run * 32 + 16 * half, code - 32);
      int8_t scale = (int8_t)block[192 + 8 * part + 2 * quarter + half];
      scales[(2 * run + half) * stride] = d * scale;
    }
  }
}
