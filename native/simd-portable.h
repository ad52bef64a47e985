/*
 * Any instruction set, in what compilers make good code of: vectors lane by lane, and loops over
 * lanes where vector extensions have no word. simd-wasm.h says what each function does.
 */
#pragma once

typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int16_t i16x4 __attribute__((vector_size(8)));

INLINE i32x4 select_i32(i32x4 mask, i32x4 a, i32x4 b) { return (a & mask) | (b & ~mask); }

INLINE f32x4 select_f32(i32x4 mask, f32x4 a, f32x4 b) {
  return (f32x4)select_i32(mask, (i32x4)a, (i32x4)b);
}

INLINE uint32_t lane_bits(i32x4 mask) {
  return (mask[0] & 1u) | (mask[1] & 2u) | (mask[2] & 4u) | (mask[3] & 8u);
}

INLINE f32x4 max_f32(f32x4 a, f32x4 b) { return select_f32(a > b, a, b); }
INLINE f32x4 min_f32(f32x4 a, f32x4 b) { return select_f32(a < b, a, b); }
INLINE f32x4 abs_f32(f32x4 a) { return (f32x4)((i32x4)a & 0x7fffffff); }

INLINE f32x4 floor_f32(f32x4 a) {
  for (int i = 0; i < 4; i++) a[i] = __builtin_floorf(a[i]);
  return a;
}

INLINE i32x4 to_i32(f32x4 a) { return __builtin_convertvector(a, i32x4); }

INLINE f32x4 madd(f32x4 a, f32x4 b, f32x4 c) { return a * b + c; }

INLINE i32x4 low_i32(i16x8 a) {
  return __builtin_convertvector(__builtin_shufflevector(a, a, 0, 1, 2, 3), i32x4);
}

INLINE i32x4 high_i32(i16x8 a) {
  return __builtin_convertvector(__builtin_shufflevector(a, a, 4, 5, 6, 7), i32x4);
}

INLINE i32x4 dot_i16(i16x8 a, i16x8 b) {
  i32x4 low = low_i32(a) * low_i32(b), high = high_i32(a) * high_i32(b);
  return __builtin_shufflevector(low, high, 0, 2, 4, 6) +
         __builtin_shufflevector(low, high, 1, 3, 5, 7);
}

INLINE i16x8 splat_i16(int32_t x) { return (i16x8){0} + (int16_t)x; }
INLINE i16x8 splat_byte(int32_t x) { return (i16x8)((i8x16){0} + (int8_t)x); }

INLINE i16x8 load_bytes(const uint8_t *p) { return load_i16x8((const int16_t *)p); }

INLINE i16x8 load_four_bytes(const uint8_t *p) {
  i16x8 v = {0};
  __builtin_memcpy(&v, p, 4);
  return v;
}

INLINE i16x8 widen_i8(const int8_t *p) { return __builtin_convertvector(load_i8x8(p), i16x8); }
INLINE i16x8 widen_u8(const uint8_t *p) { return __builtin_convertvector(load_u8x8(p), i16x8); }

INLINE i32x4 load_u16_as_i32(const uint16_t *p) {
  return __builtin_convertvector(load_u16x4(p), i32x4);
}

INLINE i32x4 load_i16_as_i32(const uint16_t *p) {
  return __builtin_convertvector((i16x4)load_u16x4(p), i32x4);
}

INLINE i16x8 interleave_low_bytes(i16x8 a, i16x8 b) {
  return (i16x8)__builtin_shufflevector((u8x16)a, (u8x16)b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5,
                                        21, 6, 22, 7, 23);
}

INLINE i16x8 interleave_high_bytes(i16x8 a, i16x8 b) {
  return (i16x8)__builtin_shufflevector((u8x16)a, (u8x16)b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
                                        13, 29, 14, 30, 15, 31);
}

INLINE i16x8 low_bytes(i16x8 a) { return interleave_low_bytes(a, a) >> (int16_t)8; }
INLINE i16x8 high_bytes(i16x8 a) { return interleave_high_bytes(a, a) >> (int16_t)8; }

INLINE i16x8 spread_bits(const uint8_t *p) {
  const u8x16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  u8x16 low = (u8x16){0} + p[0], high = (u8x16){0} + p[1];
  u8x16 bytes = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21,
                                        22, 23);
  return (i16x8)((bytes & bit) != 0) & splat_byte(1);
}

INLINE i16x8 narrow_i32(i32x4 low, i32x4 high) {
  i32x4 both[2] = {low, high};
  for (int i = 0; i < 2; i++) {
    both[i] = select_i32(both[i] > 32767, splat_i32(32767), both[i]);
    both[i] = select_i32(both[i] < -32768, splat_i32(-32768), both[i]);
  }
  return __builtin_shufflevector((i16x8)both[0], (i16x8)both[1], 0, 2, 4, 6, 8, 10, 12, 14);
}

INLINE i32x4 gather_u16(const void *a, const void *b, const void *c, const void *d) {
  uint16_t v[4];
  __builtin_memcpy(v, a, 2);
  __builtin_memcpy(v + 1, b, 2);
  __builtin_memcpy(v + 2, c, 2);
  __builtin_memcpy(v + 3, d, 2);
  return load_u16_as_i32(v);
}

INLINE i32x4 gather_i32(const void *a, const void *b, const void *c, const void *d) {
  int32_t v[4];
  __builtin_memcpy(v, a, 4);
  __builtin_memcpy(v + 1, b, 4);
  __builtin_memcpy(v + 2, c, 4);
  __builtin_memcpy(v + 3, d, 4);
  return load_i32x4(v);
}

INLINE i16x8 shift_right_u16(i16x8 a, int32_t bits) {
  return (i16x8)((u16x8)a >> (uint16_t)bits);
}

INLINE i16x8 low_nibbles(i16x8 a) { return a & splat_byte(15); }
INLINE i16x8 high_nibbles(i16x8 a) { return shift_right_u16(a, 4) & splat_byte(15); }

INLINE i16x8 look_up(i16x8 table, i16x8 indices) {
  uint8_t entries[16], places[16], found[16];
  __builtin_memcpy(entries, &table, 16);
  __builtin_memcpy(places, &indices, 16);
  for (int i = 0; i < 16; i++) found[i] = entries[places[i]];
  return load_bytes(found);
}

INLINE i16x8 widen_low_bytes(i16x8 a) { return interleave_low_bytes(a, (i16x8){0}); }

INLINE i16x8 splat_pair(const int16_t *p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (i16x8)splat_i32(pair);
}

#include "simd-half.h"
