/* Rows of keys and values into the pages of a cache. */
#include "elementwise.h"
#include "pool.h"

enum { MAX_SKETCH_DIM = 512 }; /* check.ts refuses more */

/** page[h, slot + i] = x[i, h]. @param page f32 or f16 [heads, page_length, d] */
EXPORT(store_rows)
int32_t store_rows(const float *x, size_t n, size_t heads, size_t d, void *page, int32_t dtype,
                   size_t page_length, size_t slot) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  if (dtype == F16 && max_magnitude(x, n * heads * d) > 65504) return OUT_OF_RANGE;
  for (size_t i = 0; i < n; i++) {
    for (size_t h = 0; h < heads; h++, x += d) {
      size_t at = (h * page_length + slot + i) * d;
      if (dtype == F32) {
        __builtin_memcpy((float *)page + at, x, d * sizeof(float));
        continue;
      }
      uint16_t *half = (uint16_t *)page + at;
      size_t c = 0;
      for (; c + LANES <= d; c += LANES) store_half(half + c, load_f32x4(x + c));
      for (; c < d; c++) half[c] = (uint16_t)to_half(splat(x[c]))[0];
    }
  }
  return OK;
}

typedef struct {
  const float *x; /* f32 [n, heads, d] */
  size_t n, heads, d;
  const int8_t *projection; /* i8 [kv_heads, bits, d] */
  size_t kv_heads, bits;
  uint32_t *page; /* u32 [heads, page_length, bits / 32] */
  size_t page_length, slot;
} Sketch;

/** Whole rows of 32 signs of one query. @param q i16 [d padded to 8 with zeros] */
static uint32_t signs(const int8_t *projection, const int16_t *q, size_t d) {
  uint32_t word = 0;
  for (size_t bit = 0; bit < 32; bit++, projection += d) {
    i32x4 sums = splat_i32(0);
    size_t c = 0;
    for (; c + 8 <= d; c += 8) sums += dot_i16(widen_i8(projection + c), load_i16x8(q + c));
    int32_t sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (; c < d; c++) sum += projection[c] * q[c];
    if (sum >= 0) word |= 1u << bit;
  }
  return word;
}

/** One head of every position. */
static void sketch_task(void *context, int32_t head, int32_t worker) {
  (void)worker;
  const Sketch *s = context;
  size_t h = (size_t)head, words = s->bits / 32;
  const int8_t *projection = s->projection + h * s->kv_heads / s->heads * s->bits * s->d;
  int16_t q[MAX_SKETCH_DIM];
  for (size_t i = 0; i < s->n; i++) {
    const float *x = s->x + (i * s->heads + h) * s->d;
    float factor = finite_or_zero(32767 / max_magnitude(x, s->d));
    for (size_t c = 0; c < s->d; c++) q[c] = (int16_t)round_half_away(splat(x[c] * factor))[0];
    uint32_t *out = s->page + (h * s->page_length + s->slot + i) * words;
    for (size_t w = 0; w < words; w++) out[w] = signs(projection + w * 32 * s->d, q, s->d);
  }
}

EXPORT(store_sketch)
int32_t store_sketch(const float *x, size_t n, size_t heads, size_t d, const int8_t *projection,
                     size_t kv_heads, size_t bits, uint32_t *page, size_t page_length,
                     size_t slot) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  Sketch s = {x, n, heads, d, projection, kv_heads, bits, page, page_length, slot};
  parallel_for((int32_t)heads, sketch_task, &s);
  return pool_failed() ? WORKER_DIED : OK;
}

/** Bits of the largest f16 that is not above x, |x| <= 65504. */
static uint16_t half_below(float x) {
  uint16_t bits = (uint16_t)to_half(splat(x))[0];
  if (half_value(bits) <= x) return bits;
  if (bits == 0) return 0x8001;
  return bits & 0x8000 ? bits + 1 : bits - 1;
}

static uint16_t half_above(float x) { return half_below(-x) ^ 0x8000; }

INLINE i32x4 affine4_codes(f32x4 x, float minimum, float step) {
  f32x4 code = floor_f32((x - splat(minimum)) / splat(step) + splat(0.5f));
  code = min_f32(splat(15), max_f32(splat(0), code));
  return to_i32(code);
}

/** @param codes u8 [heads, page_length, d / 2] @param params f16 [heads, page_length, 2] */
EXPORT(store_affine4)
int32_t store_affine4(const float *x, size_t n, size_t heads, size_t d, uint8_t *codes,
                      uint16_t *params, size_t page_length, size_t slot) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  if (max_magnitude(x, n * heads * d) > 65504) return OUT_OF_RANGE;
  size_t half = d / 2;
  for (size_t i = 0; i < n; i++) {
    for (size_t h = 0; h < heads; h++, x += d) {
      float low = x[0], high = x[0];
      for (size_t c = 1; c < d; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
      }
      size_t at = h * page_length + slot + i;
      params[2 * at] = half_below(low);
      float minimum = half_value(params[2 * at]);
      params[2 * at + 1] = half_above((high - minimum) / 15);
      float step = half_value(params[2 * at + 1]);
      uint8_t *out = codes + at * half;
      if (step == 0) {
        __builtin_memset(out, 0, half);
        continue;
      }
      size_t c = 0;
      for (; c + LANES <= half; c += LANES) {
        i32x4 lower = affine4_codes(load_f32x4(x + c), minimum, step);
        i32x4 upper = affine4_codes(load_f32x4(x + half + c), minimum, step);
        i32x4 bytes = lower | upper << 4;
        for (size_t k = 0; k < LANES; k++) out[c + k] = (uint8_t)bytes[k];
      }
      for (; c < half; c++)
        out[c] = (uint8_t)(affine4_codes(splat(x[c]), minimum, step)[0] |
                           affine4_codes(splat(x[half + c]), minimum, step)[0] << 4);
    }
  }
  return OK;
}
