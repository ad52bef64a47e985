/* Values in fields of 4 and 2 bits, and the bases that they are coded in (src/kernels/kernels.ts). */
#include "blocks.h"
#include "elementwise.h"
#include "pool.h"

/* --- bases: x = x M for every head ------------------------------------------------------------ */

/** Rows that share the unpacking of a matrix. */
enum { TURNED_AT_ONCE = 8 };
/** Rows of a matrix that are unpacked at a time, so that sums stay in registers meanwhile. */
enum { ROWS_AT_ONCE = 8 };

typedef struct {
  float *x; /* f32 [n, heads, d] */
  size_t n, heads, d;
  const void *matrices; /* [kv_heads d, d], of a dtype */
  int32_t dtype;
  size_t kv_heads;
} Turn;

/** out += sum over j < count of x[j] rows[j]. @param rows f32 [count, d] */
INLINE void add_turned(const float *rows, size_t d, const float *x, size_t count, float *out) {
  size_t c = 0;
  for (; c + WIDE <= d; c += WIDE) {
    f32xw sum = load_f32xw(out + c);
    UNROLL
    for (size_t j = 0; j < count; j++) sum = madd_w(splat_w(x[j]), load_f32xw(rows + j * d + c), sum);
    store_f32xw(out + c, sum);
  }
  for (; c < d; c++)
    for (size_t j = 0; j < count; j++) out[c] += x[j] * rows[j * d + c];
}

/** Rows of one KV head, TURNED_AT_ONCE of them. */
static void turn_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Turn *t = context;
  size_t group = t->heads / t->kv_heads, kv_head = (size_t)task % t->kv_heads, d = t->d;
  size_t first = (size_t)task / t->kv_heads * TURNED_AT_ONCE, all = t->n * group;
  size_t count = all - first < TURNED_AT_ONCE ? all - first : TURNED_AT_ONCE;
  float out[TURNED_AT_ONCE * MAX_D], rows[ROWS_AT_ONCE * MAX_D];
  float *x[TURNED_AT_ONCE] = {0};
  size_t matrix_bytes = d * row_bytes_of(t->dtype, d);
  touch_bytes((const uint8_t *)t->matrices + kv_head * matrix_bytes, matrix_bytes);
  for (size_t i = 0; i < count; i++) {
    size_t position = (first + i) / group, head = kv_head * group + (first + i) % group;
    x[i] = t->x + (position * t->heads + head) * d;
  }
  __builtin_memset(out, 0, count * d * sizeof(float));
  for (size_t k = 0; k < d; k += ROWS_AT_ONCE) {
    size_t some = d - k < ROWS_AT_ONCE ? d - k : ROWS_AT_ONCE;
    for (size_t j = 0; j < some; j++)
      unpack_row(t->matrices, t->dtype, d, kv_head * d + k + j, rows + j * d);
    for (size_t i = 0; i < count; i++)
      if (some == ROWS_AT_ONCE) add_turned(rows, d, x[i] + k, ROWS_AT_ONCE, out + i * d);
      else add_turned(rows, d, x[i] + k, some, out + i * d);
  }
  for (size_t i = 0; i < count; i++) __builtin_memcpy(x[i], out + i * d, d * sizeof(float));
}

EXPORT(turn)
int32_t turn(float *x, size_t n, size_t heads, size_t d, const void *matrices, int32_t dtype,
             size_t kv_heads) {
  Turn t = {x, n, heads, d, matrices, dtype, kv_heads};
  size_t rows = n * (heads / kv_heads);
  parallel_for((int32_t)((rows + TURNED_AT_ONCE - 1) / TURNED_AT_ONCE * kv_heads), turn_task, &t);
  return pool_failed() ? WORKER_DIED : OK;
}

/* --- storing ---------------------------------------------------------------------------------- */

/** Squares of a normal variable over its best step in 4 and in 2 bits (Max 1960, table II). */
#define FOUR_BIT_SQUARE 8.9f
#define TWO_BIT_SQUARE 1.0086f

typedef struct {
  const float *x; /* f32 [n, heads, d] */
  size_t heads, d;
  const float *weights;  /* f32 [heads, d] */
  uint8_t *codes;        /* u8 [heads, page_length, fours / 2 + twos / 4] */
  uint16_t *scales;      /* f16 [heads, page_length] */
  size_t page_length, slot, fours, twos;
} FieldRows;

/** Codes that are nearest to x = scale (code - (2^bits - 1) / 2). */
INLINE f32x4 field_codes(f32x4 x, float scale, int32_t bits) {
  f32x4 code = floor_f32(x / splat(scale) + splat((float)(1 << (bits - 1))));
  return min_f32(splat((float)((1 << bits) - 1)), max_f32(splat(0), code));
}

/** Adds to products and squares of levels, weighted, with the codes of a scale. */
INLINE void add_levels(const float *u, const float *weights, size_t count, float scale,
                       int32_t bits, f32x4 *products, f32x4 *squares) {
  NO_FUSING // a fused sum would differ from other backends'
  f32x4 middle = splat((float)((1 << bits) - 1) / 2);
  for (size_t c = 0; c < count; c += LANES) {
    f32x4 x = load_f32x4(u + c), level = field_codes(x, scale, bits) - middle;
    f32x4 weighted = load_f32x4(weights + c) * level;
    *products += weighted * x;
    *squares += weighted * level;
  }
}

/** @param weights of a row, or all 1 @returns sum of weights x^2, or of weights */
INLINE float weighted_squares(const float *x, const float *weights, size_t count) {
  NO_FUSING
  f32x4 sum = splat(0);
  for (size_t c = 0; c < count; c += LANES) {
    f32x4 w = load_f32x4(weights + c);
    if (!x) sum += w;
    else sum += w * load_f32x4(x + c) * load_f32x4(x + c);
  }
  return sum_f32(sum);
}

/** The codes of words of `per_word` fields that lie `words` apart. */
INLINE void pack_fields(const float *u, size_t words, float scale, int32_t bits, uint8_t *out) {
  for (size_t w = 0; w < words; w += LANES) {
    size_t some = words - w < LANES ? words - w : LANES;
    i32x4 word = splat_i32(0);
    for (size_t k = 0; k < (size_t)(8 / bits); k++)
      word |= to_i32(field_codes(load_row(u + w + k * words, some), scale, bits))
              << (int32_t)k * bits;
    for (size_t i = 0; i < some; i++) out[w + i] = (uint8_t)word[i];
  }
}

/** @returns bits of the scale of a row */
static uint16_t encode_fields(const FieldRows *f, const float *x, const float *weights,
                              uint8_t *codes) {
  NO_FUSING
  static const float factors[] = {0.8f, 0.9f, 1.0f, 1.1f, 1.2f};
  size_t fours = f->fours, twos = f->twos, all = fours + twos;
  float expected = FOUR_BIT_SQUARE * weighted_squares(0, weights, fours) +
                   TWO_BIT_SQUARE * weighted_squares(0, weights + fours, twos);
  float r = __builtin_sqrtf(weighted_squares(x, weights, all) / expected);
  float u[MAX_D];
  if (!(r > 0 && r < __builtin_inff())) {
    __builtin_memset(codes, 0, fours / 2 + twos / 4);
    return 0;
  }
  for (size_t c = 0; c < all; c += LANES) store_f32x4(u + c, load_f32x4(x + c) / splat(r));
  float most = -1, best = 1, alpha = 0;
  for (int32_t i = 0; i < 5; i++) {
    f32x4 products = splat(0), squares = splat(0);
    add_levels(u, weights, fours, factors[i], 4, &products, &squares);
    add_levels(u + fours, weights + fours, twos, factors[i], 2, &products, &squares);
    float product = sum_f32(products), square = sum_f32(squares), share = product / square;
    // The error that is left with the best scale is what squares of x have beyond this.
    if (product * share > most) most = product * share, best = factors[i], alpha = share;
  }
  pack_fields(u, fours / 2, best, 4, codes);
  pack_fields(u + fours, twos / 4, best, 2, codes + fours / 2);
  return scale_bits(r * alpha);
}

/** All heads of one position. */
static void fields_task(void *context, int32_t position, int32_t worker) {
  (void)worker;
  const FieldRows *f = context;
  for (size_t h = 0; h < f->heads; h++) {
    const float *x = f->x + ((size_t)position * f->heads + h) * f->d;
    size_t at = h * f->page_length + f->slot + (size_t)position;
    uint8_t *codes = f->codes + at * (f->fours / 2 + f->twos / 4);
    f->scales[at] = encode_fields(f, x, f->weights + h * f->d, codes);
  }
}

EXPORT(store_fields)
int32_t store_fields(const float *x, size_t n, size_t heads, size_t d, const float *weights,
                     uint8_t *codes, uint16_t *scales, size_t page_length, size_t slot,
                     size_t fours, size_t twos) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  FieldRows f = {x, heads, d, weights, codes, scales, page_length, slot, fours, twos};
  parallel_for((int32_t)n, fields_task, &f);
  return pool_failed() ? WORKER_DIED : OK;
}
