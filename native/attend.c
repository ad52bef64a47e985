/*
 * Attention over the pages of a cache: flash-decoding (Dao et al. 2023) with one score function per
 * form of keys and one accumulate function per form of values.
 *
 * A block is up to ROWS query rows, (position, head) pairs that share a KV head, so that a key or
 * value is loaded and unpacked once for all of them. A block meets the positions of a segment in
 * tiles of up to TILE slots of one page; a split is a run of whole pages with a softmax of its own.
 * Splits are merged in order, whoever computed them, so the result depends neither on the number
 * of threads nor on how many positions are asked at once.
 */
#include "attend.h"

#include "affine.h"
#include "codes.h"
#include "elementwise.h"
#include "pool.h"

enum {
  SPLIT = 1024, /* positions; short enough to share one KV head among threads */
  PAD = 16,     /* floats past the end of a row, so that rows do not share all of their cache sets */
};

/* Numbered as in src/kernels/compiled-kernels.ts. */
enum { KEYS_F32 = 0, KEYS_F16 = 1, KEYS_SKETCH = 2, KEYS_CODES = 3 };
enum { VALUES_F32 = 0, VALUES_F16 = 1, VALUES_AFFINE = 2, VALUES_FIELDS = 3 };

typedef struct {
  const void *keys;           /* [kv_heads, page_length, ...] */
  const uint16_t *key_scales; /* f16 [kv_heads, page_length] or NULL, codes only */
  const void *values;         /* [kv_heads, page_length, ...] */
  const uint16_t *params;     /* f16 [kv_heads, page_length, 2], affine; [kv_heads, page_length], fields */
} Page;

typedef struct {
  /* f32 [n, heads, key_dim], u32 [heads, n, words], or tables i8 [heads, n, groups, 16] */
  const void *query;
  const float *query_scales; /* f32 [heads, n], or NULL: sketches without factors */
  const float *scale;        /* f32 [heads] */
  const Page *pages;
  int32_t key_form, value_form;
  int32_t page_length, first, length;
  int32_t min_distance, max_distance;
  int32_t words; /* of a sketch; groups of codes */
  float skip;    /* coded values: the share of all weights that may be left out */
  int32_t fours, twos; /* fields: dimensions of 4 and of 2 bits */
  const float *table; /* of exp_table, or NULL; filled in here */
} Segment;

typedef struct {
  int32_t n, start, heads, kv_heads, key_dim, value_dim;
} Shape;

/** A softmax so far: sums of exp(logit - max), and of those times the values. */
typedef struct {
  float *max;   /* [ROWS] */
  float *total; /* [ROWS] */
  float *sums;  /* [ROWS, sums_stride] */
} Partial;

/** The rows of a block, and one thread's scratch memory. */
typedef struct {
  const Shape *shape;
  int32_t kv_head;
  int32_t first_row, rows; /* row r is position r / group, head r % group of the KV head */
  int32_t group;
  size_t key_stride, sums_stride; /* floats */
  int32_t low[ROWS], high[ROWS];  /* slots of the segment that a row sees, [low, high) */
  float *queries;                 /* f32 [ROWS, key_stride], zero past key_dim */
  float *unpacked;                /* f32 [GROUP, key_stride or sums_stride] */
  float *weights;                 /* f32 [ROWS, TILE]: logits, then weights */
  Partial part, total;
  Page ahead; /* where the block finds its keys and values of the next tile, or of this one */
} Block;

INLINE int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }
INLINE size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

INLINE int32_t head_of(const Block *b, int32_t r) {
  return b->kv_head * b->group + (b->first_row + r) % b->group;
}
INLINE int32_t position_of(const Block *b, int32_t r) { return (b->first_row + r) / b->group; }

/** Rows that will be read next. */
typedef struct {
  const uint8_t *first;
  size_t bytes; /* of each; 0: they were touched */
} Ahead;

static int32_t pages_per_split(const Segment *s) { return max_i32(1, SPLIT / s->page_length); }

/* --- scores: weights[r, s] = scale <query r, key slot + s>, 0 <= s < count ------------------- */

INLINE int32_t differing_bits(const uint32_t *a, const uint32_t *b, int32_t words) {
  int32_t sum = 0, w = 0;
  for (; w + 2 <= words; w += 2) {
    uint64_t x, y;
    __builtin_memcpy(&x, a + w, 8);
    __builtin_memcpy(&y, b + w, 8);
    sum += (int32_t)__builtin_popcountll(x ^ y);
  }
  return w < words ? sum + __builtin_popcount(a[w] ^ b[w]) : sum;
}

/** Where row r is in what has [heads, n] rows. */
INLINE size_t query_row(const Block *b, int32_t r) {
  return (size_t)(head_of(b, r) * b->shape->n + position_of(b, r));
}

INLINE const uint32_t *sketch_of_row(const Block *b, const Segment *s, int32_t r, int32_t words) {
  return (const uint32_t *)s->query + query_row(b, r) * (size_t)words;
}

INLINE void score_sketch_words(Block *b, const Segment *s, const uint32_t *keys, int32_t count,
                               int32_t words) {
  for (int32_t r = 0; r < b->rows; r++) {
    const uint32_t *query = sketch_of_row(b, s, r, words);
    float scale = s->scale[head_of(b, r)], *out = b->weights + r * TILE;
    if (s->query_scales) scale *= s->query_scales[query_row(b, r)];
    int32_t j = 0;
    if (counts_bits_wide(words))
      for (; j + WIDE <= count; j += WIDE) {
        i32xw bits = differing_bits_w(query, keys + (size_t)(j * words), words);
        store_f32xw(out + j, splat_w(scale) * to_f32w(splat_i32w(words * 32) - 2 * bits));
      }
    const uint32_t *key = keys + (size_t)(j * words);
    for (; j < count; j++, key += words)
      out[j] = scale * (float)(words * 32 - 2 * differing_bits(query, key, words));
  }
}

/** Known widths keep the query in registers. */
static void score_sketch(Block *b, const Segment *s, const Page *page, int32_t slot,
                         int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  const uint32_t *keys = (const uint32_t *)page->keys + row * (size_t)s->words;
  if (s->words == 2) score_sketch_words(b, s, keys, count, 2);
  else if (s->words == 4) score_sketch_words(b, s, keys, count, 4);
  else if (s->words == 8) score_sketch_words(b, s, keys, count, 8);
  else score_sketch_words(b, s, keys, count, s->words);
}

/** WIDE numbers of a row that is f16 or f32. */
INLINE f32xw load_numbers(const void *numbers, int32_t is_half, size_t at) {
  return is_half ? load_half_w((const uint16_t *)numbers + at)
                 : load_f32xw((const float *)numbers + at);
}

/** Rows of `width` numbers as f32 [count, stride], zero up to `stride`. */
INLINE void unpack_rows(const void *rows, int32_t is_half, size_t first, size_t count, size_t width,
                        size_t stride, float *out) {
  for (size_t j = 0; j < count; j++, out += stride) {
    size_t at = (first + j) * width;
    size_t c = 0;
    for (; c + WIDE <= width; c += WIDE) store_f32xw(out + c, load_numbers(rows, is_half, at + c));
    for (; c < width; c++)
      out[c] = is_half ? half_value(((const uint16_t *)rows)[at + c])
                       : ((const float *)rows)[at + c];
    for (; c < stride; c++) out[c] = 0;
  }
}

/**
 * Keys are read in place where their rows are whole vectors and, if f16, few queries would read
 * the unpacked ones; else they are unpacked first.
 */
INLINE int32_t read_in_place(const Block *b, int32_t is_half, int32_t width) {
  return width % WIDE == 0 && (!is_half || b->rows <= 2 * TRIPLE);
}

/**
 * out[r, j] = scale[r] <query r, key j> for `rows` <= TRIPLE rows, which share each key.
 * @param queries f32 [rows, width]; @param keys [count, width]; @param out [rows, TILE]
 */
INLINE void score_rows(const float *queries, int32_t rows, const float *scales, const void *keys,
                       int32_t is_half, int32_t count, size_t width, Ahead ahead, float *out) {
  for (int32_t j = 0; j < count; j += KEYS_AT_ONCE) {
    touch_bytes(ahead.first + (size_t)j * ahead.bytes, KEYS_AT_ONCE * ahead.bytes);
    // The last key takes the place of those past the end, whose scores are masked afterwards.
    size_t at[KEYS_AT_ONCE];
    UNROLL
    for (int32_t k = 0; k < KEYS_AT_ONCE; k++) at[k] = (size_t)min_i32(j + k, count - 1) * width;
    f32xw sums[TRIPLE][KEYS_AT_ONCE];
    UNROLL
    for (int32_t r = 0; r < rows; r++)
      UNROLL
      for (int32_t k = 0; k < KEYS_AT_ONCE; k++) sums[r][k] = splat_w(0);
    NO_UNROLL
    for (size_t c = 0; c < width; c += WIDE) {
      f32xw x[KEYS_AT_ONCE];
      UNROLL
      for (int32_t k = 0; k < KEYS_AT_ONCE; k++) x[k] = load_numbers(keys, is_half, at[k] + c);
      UNROLL
      for (int32_t r = 0; r < rows; r++) {
        f32xw q = load_f32xw(queries + (size_t)r * width + c);
        UNROLL
        for (int32_t k = 0; k < KEYS_AT_ONCE; k++) sums[r][k] = madd_w(q, x[k], sums[r][k]);
      }
    }
    UNROLL
    for (int32_t r = 0; r < rows; r++) {
      f32xw *s = sums[r];
      f32x4 four = sum_each_w(s[0], s[1], s[2 % KEYS_AT_ONCE], s[3 % KEYS_AT_ONCE]);
      UNROLL
      for (int32_t k = 0; k < KEYS_AT_ONCE; k++) out[r * TILE + j + k] = scales[r] * four[k];
    }
  }
}

/** @param row_bytes of keys that stand as they are stored; 0: many rows share them, and nothing is fetched */
INLINE void score_block(Block *b, const float *scales, const void *keys, int32_t is_half,
                        int32_t count, int32_t from, size_t row_bytes) {
  size_t width = b->key_stride;
  Ahead ahead = {(const uint8_t *)b->ahead.keys + (size_t)from * row_bytes, row_bytes};
  int32_t r = 0;
  for (; r + TRIPLE <= b->rows; r += TRIPLE, ahead.bytes = 0)
    score_rows(b->queries + (size_t)r * width, TRIPLE, scales + r, keys, is_half, count, width,
               ahead, b->weights + r * TILE + from);
  for (; r < b->rows; r++, ahead.bytes = 0)
    score_rows(b->queries + (size_t)r * width, 1, scales + r, keys, is_half, count, width,
               ahead, b->weights + r * TILE + from);
}

static void score_float(Block *b, const Segment *s, const Page *page, int32_t slot,
                        int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  size_t width = (size_t)b->shape->key_dim;
  int32_t is_half = s->key_form == KEYS_F16;
  size_t row_bytes = width * (is_half ? 2 : 4);
  float scales[ROWS];
  for (int32_t r = 0; r < b->rows; r++) scales[r] = s->scale[head_of(b, r)];
  if (read_in_place(b, is_half, b->shape->key_dim)) {
    const uint8_t *keys = (const uint8_t *)page->keys + row * row_bytes;
    if (is_half) score_block(b, scales, keys, 1, count, 0, row_bytes);
    else score_block(b, scales, keys, 0, count, 0, row_bytes);
    return;
  }
  for (int32_t j = 0; j < count; j += GROUP) {
    int32_t some = min_i32(GROUP, count - j);
    unpack_rows(page->keys, is_half, row + (size_t)j, (size_t)some, width, b->key_stride,
                b->unpacked);
    score_block(b, scales, b->unpacked, 0, some, j, 0);
  }
}

/** Whole blocks of keys: those past `count` are in the page, and their scores are not used. */
static void score_codes(Block *b, const Segment *s, const Page *page, int32_t slot,
                        int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot), groups = (size_t)s->words;
  const uint8_t *keys = (const uint8_t *)page->keys + row / BLOCK_KEYS * groups * GROUP_BYTES;
  int32_t blocks = (count + BLOCK_KEYS - 1) / BLOCK_KEYS;
  float alphas[TILE], factors[ROWS];
  const int8_t *tables[ROWS];
  for (int32_t j = 0; j < blocks * BLOCK_KEYS; j += WIDE) {
    if (page->key_scales) touch_any((const uint8_t *)(b->ahead.key_scales + j));
    store_f32xw(alphas + j, page->key_scales ? load_half_w(page->key_scales + row + j) : splat_w(1));
  }
  for (int32_t r = 0; r < b->rows; r++) {
    size_t query = query_row(b, r);
    tables[r] = (const int8_t *)s->query + query * groups * TABLE_BYTES;
    factors[r] = s->scale[head_of(b, r)] * s->query_scales[query];
  }
  scan_codes(keys, b->ahead.keys, blocks, s->words, tables, factors, b->rows, alphas, b->weights);
}

typedef void (*Score)(Block *, const Segment *, const Page *, int32_t slot, int32_t count);
static const Score score[] = {score_float, score_float, score_sketch, score_codes};

/* --- softmax ---------------------------------------------------------------------------------- */

/** logits -> weights for `count` slots from `first` of the segment; 0 where a row does not see. */
static void softmax_tile(Block *b, int32_t first, int32_t count) {
  const float minus_infinity = -__builtin_inff();
  int32_t padded = (count + WIDE - 1) / WIDE * WIDE;
  for (int32_t r = 0; r < b->rows; r++) {
    float *w = b->weights + r * TILE;
    int32_t low = max_i32(0, b->low[r] - first), high = min_i32(count, b->high[r] - first);
    if (low >= high) {
      __builtin_memset(w, 0, (size_t)padded * sizeof(float));
      continue;
    }
    for (int32_t j = 0; j < low; j++) w[j] = minus_infinity;
    for (int32_t j = high; j < padded; j++) w[j] = minus_infinity;
    f32xw largest = load_f32xw(w);
    for (int32_t j = WIDE; j < padded; j += WIDE) largest = max_w(largest, load_f32xw(w + j));
    float max = max_lane_w(largest);
    if (max > b->part.max[r]) {
      float shrink = exp_f32(b->part.max[r] - max);
      b->part.max[r] = max;
      b->part.total[r] *= shrink;
      float *sums = b->part.sums + (size_t)r * b->sums_stride;
      for (size_t c = 0; c < b->sums_stride; c += WIDE)
        store_f32xw(sums + c, load_f32xw(sums + c) * splat_w(shrink));
    }
    f32xw total = splat_w(0), offset = splat_w(b->part.max[r]);
    for (int32_t j = 0; j < padded; j += WIDE) {
      f32xw weight = exp_w(load_f32xw(w + j) - offset);
      store_f32xw(w + j, weight);
      total += weight;
    }
    b->part.total[r] += sum_w(total);
  }
}

/*
 * A sketch of b bits has b + 1 scores, so e^logit comes from a table and needs no maximum: the
 * largest possible logit, scale b, takes its place.
 */

/** Logits of a head may span this much: e^-60 and its products with steps are ordinary floats. */
#define TABLE_SPAN 60.0f

static size_t table_stride(const Segment *s) {
  return s->key_form == KEYS_SKETCH ? round_up((size_t)s->words * 32 + 1, WIDE) : 0;
}

/**
 * table[h, differing bits] = e^(logit - scale b) of every head.
 * @returns NULL if a span is too wide, or each query has a factor of its own
 */
static const float *exp_table(const Segment *s, int32_t heads, float *table) {
  size_t stride = table_stride(s);
  if (stride == 0 || s->query_scales) return NULL;
  for (int32_t h = 0; h < heads; h++)
    if (!(2 * s->scale[h] * (float)(s->words * 32) <= TABLE_SPAN)) return NULL;
  for (int32_t h = 0; h < heads; h++)
    for (size_t d = 0; d < stride; d += WIDE) {
      float *some = table + (size_t)h * stride + d;
      for (size_t i = 0; i < WIDE; i++) some[i] = (float)(d + i);
      store_f32xw(some, exp_w(load_f32xw(some) * splat_w(-2 * s->scale[h])));
    }
  return table;
}

/** What score_sketch and softmax_tile do, in one pass. */
INLINE void weigh_sketch_words(Block *b, const Segment *s, const uint32_t *keys, int32_t first,
                               int32_t count, int32_t words) {
  for (int32_t r = 0; r < b->rows; r++) {
    float *w = b->weights + r * TILE;
    __builtin_memset(w, 0, TILE * sizeof(float));
    int32_t low = max_i32(0, b->low[r] - first), high = min_i32(count, b->high[r] - first);
    if (low >= high) continue;
    int32_t head = head_of(b, r);
    const float *table = s->table + (size_t)head * table_stride(s);
    const uint32_t *query = sketch_of_row(b, s, r, words), *ahead = b->ahead.keys;
    int32_t j = low;
    if (counts_bits_wide(words)) {
      // Sixteen of these take less time than sixteen look-ups.
      f32xw factor = splat_w(-2 * s->scale[head]);
      for (; j + WIDE <= high; j += WIDE) {
        touch_bytes((const uint8_t *)(ahead + j * words), WIDE * (size_t)words * 4);
        i32xw bits = differing_bits_w(query, keys + (size_t)(j * words), words);
        store_f32xw(w + j, exp_w(to_f32w(bits) * factor));
      }
    }
    const uint32_t *key = keys + (size_t)(j * words);
    for (; j < high; j++, key += words) w[j] = table[differing_bits(query, key, words)];
    f32xw total = splat_w(0);
    for (j = 0; j < count; j += WIDE) total += load_f32xw(w + j);
    b->part.max[r] = s->scale[head] * (float)(words * 32);
    b->part.total[r] += sum_w(total);
  }
}

static void weigh_sketch(Block *b, const Segment *s, const Page *page, int32_t slot, int32_t first,
                         int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  const uint32_t *keys = (const uint32_t *)page->keys + row * (size_t)s->words;
  if (s->words == 2) weigh_sketch_words(b, s, keys, first, count, 2);
  else if (s->words == 4) weigh_sketch_words(b, s, keys, first, count, 4);
  else if (s->words == 8) weigh_sketch_words(b, s, keys, first, count, 8);
  else weigh_sketch_words(b, s, keys, first, count, s->words);
}

/* --- values: sums[r] += sum over s of weights[r, s] value[slot + s], 0 <= s < count ---------- */

/**
 * sums[r] += sum over k of weights[r, k] value k for `rows` <= TRIPLE rows, which share each value.
 * @param weights f32 [rows, TILE]; @param values [count, width], width a multiple of LANES
 */
INLINE void add_values(const float *weights, int32_t rows, const void *values, int32_t is_half,
                       int32_t count, size_t width, Ahead ahead, float *sums, size_t stride) {
  for (size_t c = 0; c < width; c += VECTORS_AT_ONCE * WIDE) {
    size_t at[VECTORS_AT_ONCE];
    UNROLL
    for (size_t v = 0; v < VECTORS_AT_ONCE; v++) // past the end the first vector once more
      at[v] = c + v * WIDE < width ? c + v * WIDE : c;
    f32xw part[TRIPLE][VECTORS_AT_ONCE];
    UNROLL
    for (int32_t r = 0; r < rows; r++)
      UNROLL
      for (int32_t v = 0; v < VECTORS_AT_ONCE; v++) part[r][v] = splat_w(0);
    const float *weight = weights;
    size_t row = 0;
    NO_UNROLL
    for (int32_t k = 0; k < count; k++, weight++, row += width) {
      if (c == 0) touch_bytes(ahead.first + (size_t)k * ahead.bytes, ahead.bytes);
      f32xw x[VECTORS_AT_ONCE];
      UNROLL
      for (int32_t v = 0; v < VECTORS_AT_ONCE; v++)
        x[v] = load_numbers(values, is_half, row + at[v]);
      UNROLL
      for (int32_t r = 0; r < rows; r++)
        UNROLL
        for (int32_t v = 0; v < VECTORS_AT_ONCE; v++)
          part[r][v] = madd_w(splat_w(weight[r * TILE]), x[v], part[r][v]);
    }
    UNROLL
    for (int32_t r = 0; r < rows; r++)
      UNROLL
      for (size_t v = 0; v < VECTORS_AT_ONCE; v++) {
        float *sum = sums + (size_t)r * stride + c + v * WIDE;
        if (c + v * WIDE < width) store_f32xw(sum, load_f32xw(sum) + part[r][v]);
      }
  }
}

/** @param row_bytes as in `score_block` */
INLINE void add_block(Block *b, const void *values, int32_t is_half, int32_t count, size_t width,
                      int32_t from, size_t row_bytes) {
  size_t stride = b->sums_stride;
  Ahead ahead = {(const uint8_t *)b->ahead.values + (size_t)from * row_bytes, row_bytes};
  int32_t r = 0;
  for (; r + TRIPLE <= b->rows; r += TRIPLE, ahead.bytes = 0)
    add_values(b->weights + r * TILE + from, TRIPLE, values, is_half, count, width,
               ahead, b->part.sums + (size_t)r * stride, stride);
  for (; r < b->rows; r++, ahead.bytes = 0)
    add_values(b->weights + r * TILE + from, 1, values, is_half, count, width,
               ahead, b->part.sums + (size_t)r * stride, stride);
}

static void accumulate_float(Block *b, const Segment *s, const Page *page, int32_t slot,
                             int32_t count) {
  size_t width = (size_t)b->shape->value_dim, padded = round_up(width, WIDE);
  int32_t is_half = s->value_form == VALUES_F16;
  size_t row_bytes = width * (is_half ? 2 : 4);
  for (int32_t j = 0; j < count; j += GROUP) {
    int32_t some = min_i32(GROUP, count - j);
    size_t row = (size_t)(b->kv_head * s->page_length + slot + j);
    if (!read_in_place(b, is_half, b->shape->value_dim)) {
      unpack_rows(page->values, is_half, row, (size_t)some, width, padded, b->unpacked);
      add_block(b, b->unpacked, 0, some, padded, j, 0);
      continue;
    }
    const uint8_t *values = (const uint8_t *)page->values + row * row_bytes;
    if (is_half) add_block(b, values, 1, some, width, j, row_bytes);
    else add_block(b, values, 0, some, width, j, row_bytes);
  }
}

static size_t value_row_bytes(const Block *b, const Segment *s) {
  static const uint8_t bits[] = {32, 16, 4};
  if (s->value_form == VALUES_FIELDS) return (size_t)(s->fours / 2 + s->twos / 4);
  return (size_t)b->shape->value_dim * bits[s->value_form] / 8;
}

static void accumulate_affine(Block *b, const Segment *s, const Page *page, int32_t slot,
                              int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  AffineValues values = {.has_minimum = s->value_form != VALUES_FIELDS,
                         .ahead = b->ahead.values,
                         .ahead_params = b->ahead.params};
  if (values.has_minimum) {
    values.fields[0] = (Fields){(size_t)b->shape->value_dim, 4};
  } else {
    values.fields[s->fours > 0] = (Fields){(size_t)s->twos, 2};
    if (s->fours > 0) values.fields[0] = (Fields){(size_t)s->fours, 4};
  }
  values.codes = (const uint8_t *)page->values + row * value_row_bytes(b, s);
  values.params = page->params + row * (values.has_minimum ? 2 : 1);
  // So small a share of what a split has so far, that all its positions together have at most `skip`.
  float share = s->skip / (float)(pages_per_split(s) * s->page_length);
  add_affine(b->weights, b->rows, &values, count, share, b->part.total, b->part.sums,
             b->sums_stride, (uint8_t *)b->unpacked);
}

typedef void (*Accumulate)(Block *, const Segment *, const Page *, int32_t slot, int32_t count);
static const Accumulate accumulate[] = {accumulate_float, accumulate_float, accumulate_affine,
                                        accumulate_affine};

/* --- blocks and splits ------------------------------------------------------------------------ */

static int32_t splits_of(const Segment *s) {
  int32_t positions = pages_per_split(s) * s->page_length;
  return (s->length + positions - 1) / positions;
}

/** Readies a block for a segment: what each row sees, and its queries where keys are floats. */
static void see(Block *b, const Segment *s) {
  size_t dim = (size_t)b->shape->key_dim;
  for (int32_t r = 0; r < b->rows; r++) {
    int64_t at = (int64_t)b->shape->start + position_of(b, r) - s->first;
    int64_t low = at - s->max_distance, high = at - s->min_distance + 1;
    b->low[r] = low < 0 ? 0 : low > s->length ? s->length : (int32_t)low;
    b->high[r] = high < 0 ? 0 : high > s->length ? s->length : (int32_t)high;
    if (s->key_form != KEYS_F32 && s->key_form != KEYS_F16) continue;
    size_t row = (size_t)position_of(b, r) * (size_t)b->shape->heads + (size_t)head_of(b, r);
    unpack_rows(s->query, 0, row, 1, dim, b->key_stride, b->queries + (size_t)r * b->key_stride);
  }
}

/** Where a block finds its keys and values from a position on. */
static Page tile_at(const Block *b, const Segment *s, int32_t position) {
  static const uint8_t key_bits[] = {32, 16, 32, 4};
  const Page *page = s->pages + position / s->page_length;
  size_t row = (size_t)(b->kv_head * s->page_length + position % s->page_length);
  size_t width = (size_t)(s->words > 0 ? s->words : b->shape->key_dim) * key_bits[s->key_form];
  return (Page){(const uint8_t *)page->keys + row * width / 8, page->key_scales + row,
                (const uint8_t *)page->values + row * value_row_bytes(b, s),
                page->params + row * (s->value_form == VALUES_FIELDS ? 1 : 2)};
}

/** The softmax of a block over one split of a segment into b->part. */
static void attend_split(Block *b, const Segment *s, int32_t split) {
  for (int32_t r = 0; r < b->rows; r++) b->part.max[r] = -__builtin_inff(), b->part.total[r] = 0;
  __builtin_memset(b->part.sums, 0, (size_t)b->rows * b->sums_stride * sizeof(float));
  int32_t low = s->length, high = 0;
  for (int32_t r = 0; r < b->rows; r++) {
    if (b->low[r] >= b->high[r]) continue;
    low = min_i32(low, b->low[r]);
    high = max_i32(high, b->high[r]);
  }
  int32_t split_length = pages_per_split(s) * s->page_length;
  low = max_i32(low, split * split_length);
  high = min_i32(high, min_i32(s->length, (split + 1) * split_length));
  while (low < high) {
    int32_t slot = low % s->page_length;
    // Tiles end at multiples of TILE, so that what else a block sees does not move them.
    int32_t end = min_i32(s->page_length, slot / TILE * TILE + TILE);
    int32_t from = slot / TILE * TILE, first = low - (slot - from);
    int32_t count = min_i32(end - from, high - first);
    const Page *page = s->pages + first / s->page_length;
    int32_t next = first + (end - from);
    b->ahead = tile_at(b, s, next < high ? next : first);
    if (s->table) {
      weigh_sketch(b, s, page, from, first, count);
    } else {
      score[s->key_form](b, s, page, from, count);
      softmax_tile(b, first, count);
    }
    accumulate[s->value_form](b, s, page, from, count);
    low = next;
  }
}

/** total += part, row by row. */
static void merge(const Block *b, Partial total, Partial part) {
  for (int32_t r = 0; r < b->rows; r++) {
    if (part.total[r] == 0) continue;
    float max = total.max[r] > part.max[r] ? total.max[r] : part.max[r];
    float x = exp_f32(total.max[r] - max), y = exp_f32(part.max[r] - max);
    total.max[r] = max;
    total.total[r] = total.total[r] * x + part.total[r] * y;
    float *a = total.sums + (size_t)r * b->sums_stride;
    const float *c = part.sums + (size_t)r * b->sums_stride;
    for (size_t i = 0; i < b->sums_stride; i += WIDE)
      store_f32xw(a + i, load_f32xw(a + i) * splat_w(x) + load_f32xw(c + i) * splat_w(y));
  }
}

static void start_total(const Block *b) {
  for (int32_t r = 0; r < b->rows; r++) b->total.max[r] = -__builtin_inff(), b->total.total[r] = 0;
  __builtin_memset(b->total.sums, 0, (size_t)b->rows * b->sums_stride * sizeof(float));
}

static void write_out(const Block *b, float *out) {
  size_t dim = (size_t)b->shape->value_dim;
  for (int32_t r = 0; r < b->rows; r++) {
    size_t row = (size_t)position_of(b, r) * (size_t)b->shape->heads + (size_t)head_of(b, r);
    const float *sums = b->total.sums + (size_t)r * b->sums_stride;
    float total = b->total.total[r];
    for (size_t c = 0; c < dim; c++) out[row * dim + c] = total == 0 ? 0 : sums[c] / total;
  }
}

/* --- memory and tasks ------------------------------------------------------------------------- */

typedef struct {
  const Shape *shape;
  const Segment *segments;
  int32_t n_segments;
  int32_t blocks, splits; /* per KV head */
  float *out;
  float *scratch;
  size_t thread_floats, partial_floats, key_stride, sums_stride;
  float *partials; /* [kv_heads, splits] partials, where there is one block per KV head */
} Attend;

static Attend plan(const Shape *shape, const Segment *segments, int32_t n_segments) {
  Attend a = {.shape = shape, .segments = segments, .n_segments = n_segments};
  a.key_stride = round_up((size_t)shape->key_dim, WIDE);
  a.sums_stride = round_up((size_t)shape->value_dim, 16) + PAD;
  a.partial_floats = ROWS * (2 + a.sums_stride);
  size_t unpacked = GROUP * (a.key_stride > a.sums_stride ? a.key_stride : a.sums_stride);
  size_t block = ROWS * a.key_stride + unpacked + ROWS * TILE + 2 * a.partial_floats;
  a.thread_floats = round_up(block, 16);
  int32_t rows = shape->n * (shape->heads / shape->kv_heads);
  a.blocks = (rows + ROWS - 1) / ROWS;
  for (int32_t i = 0; i < n_segments; i++) a.splits += splits_of(segments + i);
  return a;
}

static Partial partial_at(float *memory) {
  return (Partial){memory, memory + ROWS, memory + 2 * ROWS};
}

static Block block_at(const Attend *a, int32_t kv_head, int32_t block, int32_t worker) {
  Block b = {.shape = a->shape, .kv_head = kv_head, .first_row = block * ROWS};
  b.group = a->shape->heads / a->shape->kv_heads;
  b.rows = min_i32(ROWS, a->shape->n * b.group - b.first_row);
  b.key_stride = a->key_stride;
  b.sums_stride = a->sums_stride;
  float *memory = a->scratch + (size_t)worker * a->thread_floats;
  b.weights = memory;
  b.queries = memory += ROWS * TILE;
  b.part = partial_at(memory += ROWS * a->key_stride);
  b.total = partial_at(memory += a->partial_floats);
  b.unpacked = memory + a->partial_floats;
  return b;
}

/** Many rows: a task is a block, which goes through all splits. */
static void block_task(void *context, int32_t task, int32_t worker) {
  const Attend *a = context;
  Block b = block_at(a, task / a->blocks, task % a->blocks, worker);
  start_total(&b);
  for (int32_t i = 0; i < a->n_segments; i++) {
    see(&b, a->segments + i);
    for (int32_t split = 0; split < splits_of(a->segments + i); split++) {
      attend_split(&b, a->segments + i, split);
      merge(&b, b.total, b.part);
    }
  }
  write_out(&b, a->out);
}

/** Few rows: a task is a split, whose result waits in `partials`. */
static void split_task(void *context, int32_t task, int32_t worker) {
  const Attend *a = context;
  Block b = block_at(a, task / a->splits, 0, worker);
  b.part = partial_at(a->partials + (size_t)task * a->partial_floats);
  const Segment *segment = a->segments;
  int32_t split = task % a->splits;
  for (; split >= splits_of(segment); segment++) split -= splits_of(segment);
  see(&b, segment);
  attend_split(&b, segment, split);
}

static size_t table_floats(const Segment *segments, int32_t n_segments, const Shape *shape) {
  size_t floats = 0;
  for (int32_t i = 0; i < n_segments; i++) floats += (size_t)shape->heads * table_stride(segments + i);
  return floats;
}

/** Bytes that `attend` needs beside its operands. */
EXPORT(attend_scratch_bytes)
size_t attend_scratch_bytes(const Segment *segments, int32_t n_segments, const Shape *shape,
                            int32_t threads) {
  Attend a = plan(shape, segments, n_segments);
  size_t partials = a.blocks == 1 ? (size_t)(shape->kv_heads * a.splits) * a.partial_floats : 0;
  size_t tables = table_floats(segments, n_segments, shape);
  return ((size_t)threads * a.thread_floats + tables + partials) * sizeof(float);
}

EXPORT(attend)
int32_t attend(Segment *segments, int32_t n_segments, const Shape *shape, float *out,
               float *scratch, int32_t threads) {
  Attend a = plan(shape, segments, n_segments);
  a.out = out;
  a.scratch = scratch;
  float *table = scratch + (size_t)threads * a.thread_floats;
  a.partials = table + table_floats(segments, n_segments, shape);
  for (int32_t i = 0; i < n_segments; i++) {
    segments[i].table = exp_table(segments + i, shape->heads, table);
    table += (size_t)shape->heads * table_stride(segments + i);
  }
  if (a.blocks != 1) {
    parallel_for(shape->kv_heads * a.blocks, block_task, &a);
    return pool_failed() ? WORKER_DIED : OK;
  }
  parallel_for(shape->kv_heads * a.splits, split_task, &a);
  for (int32_t kv_head = 0; kv_head < shape->kv_heads; kv_head++) {
    Block b = block_at(&a, kv_head, 0, 0);
    start_total(&b);
    for (int32_t split = 0; split < a.splits; split++) {
      size_t at = (size_t)(kv_head * a.splits + split) * a.partial_floats;
      merge(&b, b.total, partial_at(a.partials + at));
    }
    write_out(&b, out);
  }
  return pool_failed() ? WORKER_DIED : OK;
}

/** @param out f32 [heads, n, length], -infinity where a row does not see the position */
EXPORT(scores)
void scores(const Segment *segment, const Shape *shape, float *out, float *scratch) {
  Attend a = plan(shape, segment, 1);
  a.scratch = scratch;
  for (int32_t task = 0; task < shape->kv_heads * a.blocks; task++) {
    Block b = block_at(&a, task / a.blocks, task % a.blocks, 0);
    see(&b, segment);
    for (int32_t first = 0; first < segment->length;) {
      int32_t slot = first % segment->page_length;
      int32_t count = min_i32(min_i32(TILE, segment->page_length - slot), segment->length - first);
      const Page *page = segment->pages + first / segment->page_length;
      b.ahead = tile_at(&b, segment, first + count < segment->length ? first + count : first);
      score[segment->key_form](&b, segment, page, slot, count);
      for (int32_t r = 0; r < b.rows; r++) {
        size_t row = (size_t)(head_of(&b, r) * shape->n + position_of(&b, r));
        float *to = out + row * (size_t)segment->length + (size_t)first;
        int32_t low = min_i32(count, max_i32(0, b.low[r] - first));
        int32_t high = max_i32(low, min_i32(count, b.high[r] - first));
        __builtin_memcpy(to + low, b.weights + r * TILE + low, (size_t)(high - low) * sizeof(float));
        for (int32_t j = 0; j < low; j++) to[j] = -__builtin_inff();
        for (int32_t j = high; j < count; j++) to[j] = -__builtin_inff();
      }
      first += count;
    }
  }
}
