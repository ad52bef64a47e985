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
#include "elementwise.h"
#include "pool.h"

enum {
  ROWS = 32,
  TILE = 128,
  SPLIT = 1024, /* positions; short enough to share one KV head among threads */
  KEYS = 16,    /* keys unpacked at a time */
  GROUP = 32,   /* values unpacked at a time; for affine4 also what shares one weight scale */
  PAD = 8,      /* floats past the end of a row that vector code may touch */
};

/* Numbered as in src/kernels/wasm.ts. */
enum { KEYS_F32 = 0, KEYS_F16 = 1, KEYS_SKETCH = 2 };
enum { VALUES_F32 = 0, VALUES_F16 = 1, VALUES_AFFINE4 = 2 };

typedef struct {
  const void *keys;       /* [kv_heads, page_length, ...] */
  const void *values;     /* [kv_heads, page_length, ...] */
  const uint16_t *params; /* f16 [kv_heads, page_length, 2], affine4 only */
} Page;

typedef struct {
  const void *query;  /* f32 [n, heads, key_dim], or u32 [heads, n, words] */
  const float *scale; /* f32 [heads] */
  const Page *pages;
  int32_t key_form, value_form;
  int32_t page_length, first, length;
  int32_t min_distance, max_distance;
  int32_t words;
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
  float *unpacked;                /* f32 [KEYS, key_stride], f32 or i16 [GROUP, sums_stride] */
  float *weights;                 /* f32 [ROWS, TILE]: logits, then weights */
  Partial part, total;
} Block;

INLINE int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }
INLINE size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

INLINE int32_t head_of(const Block *b, int32_t r) {
  return b->kv_head * b->group + (b->first_row + r) % b->group;
}
INLINE int32_t position_of(const Block *b, int32_t r) { return (b->first_row + r) / b->group; }

/* --- scores: weights[r, s] = scale <query r, key slot + s>, 0 <= s < count ------------------- */

INLINE void score_sketch_words(Block *b, const Segment *s, const uint32_t *keys, int32_t count,
                               int32_t words) {
  for (int32_t r = 0; r < b->rows; r++) {
    size_t query_row = (size_t)(head_of(b, r) * b->shape->n + position_of(b, r));
    const uint32_t *query = (const uint32_t *)s->query + query_row * (size_t)words;
    float scale = s->scale[head_of(b, r)];
    float *out = b->weights + r * TILE;
    const uint32_t *key = keys;
    for (int32_t j = 0; j < count; j++, key += words) {
      int32_t differing = 0;
      int32_t w = 0;
      for (; w + 2 <= words; w += 2) {
        uint64_t q, k;
        __builtin_memcpy(&q, query + w, 8);
        __builtin_memcpy(&k, key + w, 8);
        differing += __builtin_popcountll(q ^ k);
      }
      if (w < words) differing += __builtin_popcount(query[w] ^ key[w]);
      out[j] = scale * (float)(words * 32 - 2 * differing);
    }
  }
}

/** Known widths keep the query in registers. */
static void score_sketch(Block *b, const Segment *s, const Page *page, int32_t slot, int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  const uint32_t *keys = (const uint32_t *)page->keys + row * (size_t)s->words;
  if (s->words == 2) score_sketch_words(b, s, keys, count, 2);
  else if (s->words == 4) score_sketch_words(b, s, keys, count, 4);
  else if (s->words == 8) score_sketch_words(b, s, keys, count, 8);
  else score_sketch_words(b, s, keys, count, s->words);
}

/** Rows of `width` numbers as f32 [count, stride], zero up to a whole vector. */
INLINE void unpack_rows(const void *rows, int32_t is_half, size_t first, size_t count, size_t width,
                        size_t stride, float *out) {
  for (size_t j = 0; j < count; j++, out += stride) {
    size_t at = (first + j) * width;
    size_t c = 0;
    for (; c + LANES <= width; c += LANES)
      store_f32x4(out + c, is_half ? load_half_finite((const uint16_t *)rows + at + c)
                                   : load_f32x4((const float *)rows + at + c));
    if (c == width) continue;
    store_f32x4(out + c, splat(0));
    for (; c < width; c++)
      out[c] = is_half ? half_value(((const uint16_t *)rows)[at + c]) : ((const float *)rows)[at + c];
  }
}

static void score_float(Block *b, const Segment *s, const Page *page, int32_t slot, int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  size_t stride = b->key_stride;
  for (int32_t j = 0; j < count; j += KEYS) {
    int32_t some = min_i32(KEYS, count - j);
    unpack_rows(page->keys, s->key_form == KEYS_F16, row + (size_t)j, (size_t)some,
                (size_t)b->shape->key_dim, stride, b->unpacked);
    for (int32_t r = 0; r < b->rows; r++) {
      const float *query = b->queries + (size_t)r * stride;
      f32x4 scale = splat(s->scale[head_of(b, r)]);
      // The last few of four may be what an earlier tile left: they are masked afterwards.
      for (int32_t k = 0; k < some; k += 4) {
        const float *key = b->unpacked + (size_t)k * stride;
        f32x4 s0 = splat(0), s1 = s0, s2 = s0, s3 = s0;
        for (size_t c = 0; c < stride; c += LANES) {
          f32x4 q = load_f32x4(query + c);
          s0 = madd(q, load_f32x4(key + c), s0);
          s1 = madd(q, load_f32x4(key + c + stride), s1);
          s2 = madd(q, load_f32x4(key + c + 2 * stride), s2);
          s3 = madd(q, load_f32x4(key + c + 3 * stride), s3);
        }
        store_f32x4(b->weights + r * TILE + j + k, scale * sum_each_f32(s0, s1, s2, s3));
      }
    }
  }
}

typedef void (*Score)(Block *, const Segment *, const Page *, int32_t slot, int32_t count);
static const Score score[] = {score_float, score_float, score_sketch};

/* --- softmax ---------------------------------------------------------------------------------- */

/** logits -> weights for `count` slots from `first` of the segment; marks what a row does not see. */
static void softmax_tile(Block *b, int32_t first, int32_t count) {
  const float minus_infinity = -__builtin_inff();
  int32_t padded = (count + LANES - 1) / LANES * LANES;
  for (int32_t r = 0; r < b->rows; r++) {
    float *w = b->weights + r * TILE;
    int32_t low = max_i32(0, b->low[r] - first), high = min_i32(count, b->high[r] - first);
    if (low >= high) {
      __builtin_memset(w, 0, (size_t)padded * sizeof(float));
      continue;
    }
    for (int32_t j = 0; j < low; j++) w[j] = minus_infinity;
    for (int32_t j = high; j < padded; j++) w[j] = minus_infinity;
    f32x4 max4 = load_f32x4(w);
    for (int32_t j = LANES; j < padded; j += LANES) max4 = max_f32(max4, load_f32x4(w + j));
    float max = max_lane(max4);
    if (max > b->part.max[r]) {
      float shrink = exp_f32(splat(b->part.max[r] - max))[0];
      b->part.max[r] = max;
      b->part.total[r] *= shrink;
      float *sums = b->part.sums + (size_t)r * b->sums_stride;
      for (size_t c = 0; c < b->sums_stride; c += LANES)
        store_f32x4(sums + c, load_f32x4(sums + c) * splat(shrink));
    }
    f32x4 total = splat(0), offset = splat(b->part.max[r]);
    for (int32_t j = 0; j < padded; j += LANES) {
      f32x4 weight = exp_f32(load_f32x4(w + j) - offset);
      store_f32x4(w + j, weight);
      total += weight;
    }
    b->part.total[r] += sum_f32(total);
  }
}

/* --- values: sums[r] += sum over s of weights[r, s] value[slot + s], 0 <= s < count ---------- */

static void accumulate_float(Block *b, const Segment *s, const Page *page, int32_t slot,
                             int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  size_t stride = b->sums_stride;
  size_t width = round_up((size_t)b->shape->value_dim, LANES);
  for (int32_t j = 0; j < count; j += GROUP) {
    int32_t some = min_i32(GROUP, count - j);
    unpack_rows(page->values, s->value_form == VALUES_F16, row + (size_t)j, (size_t)some,
                (size_t)b->shape->value_dim, stride, b->unpacked);
    for (int32_t r = 0; r < b->rows; r++) {
      const float *w = b->weights + r * TILE + j;
      for (size_t c = 0; c < width; c += 4 * LANES) {
        // Vectors past `width` compute on what is there and are not stored.
        float *sums = b->part.sums + (size_t)r * stride + c;
        const float *value = b->unpacked + c;
        f32x4 s0 = splat(0), s1 = s0, s2 = s0, s3 = s0;
        for (int32_t k = 0; k < some; k++, value += stride) {
          f32x4 weight = splat(w[k]);
          s0 = madd(weight, load_f32x4(value), s0);
          s1 = madd(weight, load_f32x4(value + 4), s1);
          s2 = madd(weight, load_f32x4(value + 8), s2);
          s3 = madd(weight, load_f32x4(value + 12), s3);
        }
        store_f32x4(sums, load_f32x4(sums) + s0);
        if (c + 4 < width) store_f32x4(sums + 4, load_f32x4(sums + 4) + s1);
        if (c + 8 < width) store_f32x4(sums + 8, load_f32x4(sums + 8) + s2);
        if (c + 12 < width) store_f32x4(sums + 12, load_f32x4(sums + 12) + s3);
      }
    }
  }
}

/**
 * Codes of two positions side by side, minus 8, ready for dot_i16: per pair of positions and 8
 * bytes of a row, the dimensions of the low nibbles (2 vectors), then those of the high ones.
 * @param codes u8 [count, half] @param out i16 [GROUP / 2, round_up(half, 8) / 8, 4, 8]
 */
static void unpack_affine4(const uint8_t *codes, int32_t count, size_t half, int16_t *out) {
  for (int32_t j = 0; j < count; j += 2) {
    const uint8_t *a = codes + (size_t)j * half;
    const uint8_t *b = j + 1 < count ? a + half : a; // its weight is zero
    for (size_t c = 0; c < half; c += 8, out += 32) {
      u8x8 x, y;
      if (c + 8 <= half) {
        x = load_u8x8(a + c);
        y = load_u8x8(b + c);
      } else {
        x = y = (u8x8){0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88};
        for (size_t k = 0; c + k < half; k++) x[k] = a[c + k], y[k] = b[c + k];
      }
      interleave_nibbles(x, y, 8, out);
    }
  }
}

/**
 * Weights times steps become 15-bit integers that share a scale within a GROUP of positions, and
 * codes are centred, so a group errs by at most GROUP / 2 * 8 steps / 32767 of its largest weight.
 */
static void accumulate_affine4(Block *b, const Segment *s, const Page *page, int32_t slot,
                               int32_t count) {
  size_t row = (size_t)(b->kv_head * s->page_length + slot);
  size_t half = (size_t)b->shape->value_dim / 2;
  size_t chunks = (half + 7) / 8;
  const uint8_t *codes = (const uint8_t *)page->values + row * half;
  const uint16_t *params = page->params + row * 2;
  float steps[TILE], centres[TILE];
  int32_t padded = (count + LANES - 1) / LANES * LANES;
  for (int32_t j = 0; j < count; j++) {
    steps[j] = half_value(params[2 * j + 1]);
    centres[j] = half_value(params[2 * j]) + 8 * steps[j];
  }
  for (int32_t j = count; j < padded; j++) steps[j] = centres[j] = 0;

  for (int32_t j = 0; j < padded; j += GROUP) {
    int32_t some = min_i32(GROUP, padded - j);
    int16_t *unpacked = (int16_t *)b->unpacked;
    unpack_affine4(codes + (size_t)j * half, min_i32(some, count - j), half, unpacked);
    for (int32_t r = 0; r < b->rows; r++) {
      const float *w = b->weights + r * TILE + j;
      f32x4 base = splat(0), largest = splat(0);
      for (int32_t k = 0; k < some; k += LANES) {
        f32x4 weight = load_f32x4(w + k);
        base = madd(weight, load_f32x4(centres + j + k), base);
        largest = max_f32(largest, weight * load_f32x4(steps + j + k));
      }
      float *sums = b->part.sums + (size_t)r * b->sums_stride;
      f32x4 centre = splat(sum_f32(base));
      float unit = max_lane(largest) / 32767;
      float inverse = finite_or_zero(1 / unit);
      int16_t q[GROUP];
      for (int32_t k = 0; k < some; k += 2 * LANES) {
        f32x4 x = load_f32x4(w + k) * load_f32x4(steps + j + k) * splat(inverse);
        f32x4 y = k + LANES < some
                      ? load_f32x4(w + k + 4) * load_f32x4(steps + j + k + 4) * splat(inverse)
                      : splat(0);
        store_i16x8(q + k, narrow_i32(to_i32(x + splat(0.5f)), to_i32(y + splat(0.5f))));
      }
      f32x4 rescale = splat(unit);
      for (size_t c = 0; c < chunks; c++) {
        const int16_t *v = unpacked + c * 32;
        i32x4 low0 = splat_i32(0), low1 = low0, high0 = low0, high1 = low0;
        for (int32_t k = 0; k < some; k += 2, v += chunks * 32) {
          int32_t pair_bits;
          __builtin_memcpy(&pair_bits, q + k, 4);
          i16x8 pair = (i16x8)splat_i32(pair_bits);
          low0 += dot_i16(load_i16x8(v), pair);
          low1 += dot_i16(load_i16x8(v + 8), pair);
          high0 += dot_i16(load_i16x8(v + 16), pair);
          high1 += dot_i16(load_i16x8(v + 24), pair);
        }
        float *low = sums + c * 8, *high = sums + half + c * 8;
        store_f32x4(low, madd(to_f32(low0), rescale, load_f32x4(low)));
        store_f32x4(low + 4, madd(to_f32(low1), rescale, load_f32x4(low + 4)));
        store_f32x4(high, madd(to_f32(high0), rescale, load_f32x4(high)));
        store_f32x4(high + 4, madd(to_f32(high1), rescale, load_f32x4(high + 4)));
      }
      for (size_t c = 0; c < 2 * half; c += LANES) store_f32x4(sums + c, load_f32x4(sums + c) + centre);
    }
  }
}

typedef void (*Accumulate)(Block *, const Segment *, const Page *, int32_t slot, int32_t count);
static const Accumulate accumulate[] = {accumulate_float, accumulate_float, accumulate_affine4};

/* --- blocks and splits ------------------------------------------------------------------------ */

static int32_t pages_per_split(const Segment *s) { return max_i32(1, SPLIT / s->page_length); }

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
    if (s->key_form == KEYS_SKETCH) continue;
    size_t row = (size_t)position_of(b, r) * (size_t)b->shape->heads + (size_t)head_of(b, r);
    unpack_rows(s->query, 0, row, 1, dim, b->key_stride, b->queries + (size_t)r * b->key_stride);
  }
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
    score[s->key_form](b, s, page, from, count);
    softmax_tile(b, first, count);
    accumulate[s->value_form](b, s, page, from, count);
    low = first + (end - from);
  }
}

/** total += part, row by row. */
static void merge(const Block *b, Partial total, Partial part) {
  for (int32_t r = 0; r < b->rows; r++) {
    if (part.total[r] == 0) continue;
    float max = total.max[r] > part.max[r] ? total.max[r] : part.max[r];
    float x = exp_f32(splat(total.max[r] - max))[0], y = exp_f32(splat(part.max[r] - max))[0];
    total.max[r] = max;
    total.total[r] = total.total[r] * x + part.total[r] * y;
    float *a = total.sums + (size_t)r * b->sums_stride;
    const float *c = part.sums + (size_t)r * b->sums_stride;
    for (size_t i = 0; i < b->sums_stride; i += LANES)
      store_f32x4(a + i, load_f32x4(a + i) * splat(x) + load_f32x4(c + i) * splat(y));
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
  a.key_stride = round_up((size_t)shape->key_dim, LANES);
  a.sums_stride = round_up((size_t)shape->value_dim, 4 * LANES) + PAD;
  a.partial_floats = ROWS * (2 + a.sums_stride);
  size_t unpacked = max_i32(KEYS * (int32_t)a.key_stride, GROUP * (int32_t)a.sums_stride);
  a.thread_floats = round_up(ROWS * a.key_stride + unpacked + ROWS * TILE + 2 * a.partial_floats, 16);
  int32_t rows = shape->n * (shape->heads / shape->kv_heads);
  a.blocks = (rows + ROWS - 1) / ROWS;
  for (int32_t i = 0; i < n_segments; i++) a.splits += splits_of(segments + i);
  return a;
}

static Partial partial_at(const Attend *a, float *memory) {
  (void)a;
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
  b.part = partial_at(a, memory += ROWS * a->key_stride);
  b.total = partial_at(a, memory += a->partial_floats);
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
  b.part = partial_at(a, a->partials + (size_t)task * a->partial_floats);
  const Segment *segment = a->segments;
  int32_t split = task % a->splits;
  for (; split >= splits_of(segment); segment++) split -= splits_of(segment);
  see(&b, segment);
  attend_split(&b, segment, split);
}

/** Bytes that `attend` needs beside its operands. */
EXPORT(attend_scratch_bytes)
size_t attend_scratch_bytes(const Segment *segments, int32_t n_segments, const Shape *shape,
                            int32_t threads) {
  Attend a = plan(shape, segments, n_segments);
  size_t partials = a.blocks == 1 ? (size_t)(shape->kv_heads * a.splits) * a.partial_floats : 0;
  return ((size_t)threads * a.thread_floats + partials) * sizeof(float);
}

EXPORT(attend)
int32_t attend(const Segment *segments, int32_t n_segments, const Shape *shape, float *out,
               float *scratch, int32_t threads) {
  Attend a = plan(shape, segments, n_segments);
  a.out = out;
  a.scratch = scratch;
  a.partials = scratch + (size_t)threads * a.thread_floats;
  if (a.blocks != 1) {
    parallel_for(shape->kv_heads * a.blocks, block_task, &a);
    return pool_failed() ? WORKER_DIED : OK;
  }
  parallel_for(shape->kv_heads * a.splits, split_task, &a);
  for (int32_t kv_head = 0; kv_head < shape->kv_heads; kv_head++) {
    Block b = block_at(&a, kv_head, 0, 0);
    start_total(&b);
    for (int32_t split = 0; split < a.splits; split++)
      merge(&b, b.total, partial_at(&a, a.partials + (size_t)(kv_head * a.splits + split) * a.partial_floats));
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
      score[segment->key_form](&b, segment, segment->pages + first / segment->page_length, slot, count);
      for (int32_t r = 0; r < b.rows; r++) {
        size_t row = (size_t)(head_of(&b, r) * shape->n + position_of(&b, r));
        for (int32_t j = 0; j < count; j++) {
          int32_t seen = first + j >= b.low[r] && first + j < b.high[r];
          out[row * (size_t)segment->length + (size_t)(first + j)] =
              seen ? b.weights[r * TILE + j] : -__builtin_inff();
        }
      }
      first += count;
    }
  }
}
