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

/** 32 signs of one query. @param projection i8 [32, d] @param q i16 [d] */
static uint32_t signs(const int8_t *projection, const int16_t *q, size_t d) {
  size_t whole = d / (2 * WIDE) * (2 * WIDE);
  uint32_t word = 0;
  for (size_t bit = 0; bit < 32; bit += 4, projection += 4 * d) {
    i32xw sums[4] = {0};
    for (size_t c = 0; c < whole; c += 2 * WIDE)
      UNROLL
      for (size_t k = 0; k < 4; k++) {
        i16xw row = widen_i8w(projection + k * d + c);
        sums[k] = dot_pairs_w(sums[k], row, load_i16xw(q + c));
      }
    i32x4 four = sum_each_i32w(sums[0], sums[1], sums[2], sums[3]);
    for (size_t c = whole; c < d; c++)
      for (size_t k = 0; k < 4; k++) four[k] += projection[k * d + c] * q[c];
    word |= lane_bits(four >= 0) << bit;
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

/* --- affine codes ----------------------------------------------------------------------------- */

typedef struct {
  uint16_t minimum_bits, step_bits;
  float minimum, step;
} Affine;

/** The range of a row, rounded outwards to f16. */
static Affine affine_of_row(const float *x, size_t d) {
  float low = x[0], high = x[0];
  for (size_t c = 1; c < d; c++) {
    low = x[c] < low ? x[c] : low;
    high = x[c] > high ? x[c] : high;
  }
  Affine a = {.minimum_bits = half_below(low)};
  a.minimum = half_value(a.minimum_bits);
  a.step_bits = half_above((high - a.minimum) / 15);
  a.step = half_value(a.step_bits);
  return a;
}

INLINE f32x4 affine_codes(f32x4 x, const Affine *a) {
  // A step of zero has codes of zero.
  f32x4 step = splat(a->step == 0 ? 1 : a->step), largest = splat(a->step == 0 ? 0 : 15);
  f32x4 code = floor_f32((x - splat(a->minimum)) / step + splat(0.5f));
  return min_f32(largest, max_f32(splat(0), code));
}

/** The first `count` <= LANES of a row; 0 in the other lanes. */
INLINE f32x4 load_row(const float *x, size_t count) {
  return count >= LANES ? load_f32x4(x) : load_some_f32(x, count);
}

/** A row of words as ValueForm says. @param out u8 [d / 2] */
INLINE void pack_row(const float *x, size_t d, const Affine *a, uint8_t *out) {
  size_t words = d / 2;
  for (size_t w = 0; w < words; w += LANES) {
    size_t some = words - w < LANES ? words - w : LANES;
    i32x4 word = to_i32(affine_codes(load_row(x + w, some), a)) |
                 to_i32(affine_codes(load_row(x + w + words, some), a)) << 4;
    for (size_t i = 0; i < some; i++) out[w + i] = (uint8_t)word[i];
  }
}

typedef struct {
  const float *x; /* f32 [n, heads, d] */
  size_t heads, d;
  uint8_t *codes;   /* u8 [heads, page_length, d / 2] */
  uint16_t *params; /* f16 [heads, page_length, 2] */
  size_t page_length, slot;
} AffineRows;

/** All heads of one position. */
static void affine_task(void *context, int32_t position, int32_t worker) {
  (void)worker;
  const AffineRows *s = context;
  for (size_t h = 0; h < s->heads; h++) {
    const float *x = s->x + ((size_t)position * s->heads + h) * s->d;
    size_t at = h * s->page_length + s->slot + (size_t)position;
    Affine a = affine_of_row(x, s->d);
    s->params[2 * at] = a.minimum_bits;
    s->params[2 * at + 1] = a.step_bits;
    pack_row(x, s->d, &a, s->codes + at * (s->d / 2));
  }
}

EXPORT(store_affine)
int32_t store_affine(const float *x, size_t n, size_t heads, size_t d, uint8_t *codes,
                     uint16_t *params, size_t page_length, size_t slot) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  if (max_magnitude(x, n * heads * d) > 65504) return OUT_OF_RANGE;
  AffineRows s = {x, heads, d, codes, params, page_length, slot};
  parallel_for((int32_t)n, affine_task, &s);
  return pool_failed() ? WORKER_DIED : OK;
}
