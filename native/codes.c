/* Keys as codes in a product codebook: stored, and scored by tables (src/kernels/kernels.ts). */
#include "codes.h"

#include "attend.h"
#include "blocks.h"
#include "elementwise.h"
#include "pool.h"

/** Row `row` of a table of `columns` numbers of any type, as f32; in elementwise.c. */
static void unpack_row(const void *table, int32_t dtype, size_t columns, size_t row, float *out);

/* check.ts refuses more */
enum { MAX_GROUPS = 512, MAX_D = 512 };
/** Keys or queries that share the unpacking of a codec's rows. */
enum { AT_ONCE = 4 };

/* Numbered as in src/kernels/compiled-kernels.ts. */
enum { UNBIASED = 0, LEAST_SQUARES = 1, NORM = 2, NO_SCALE = 3 };

typedef struct {
  const void *project;   /* [rows, d], of its dtype */
  const void *levels;    /* [heads groups, 64], of its dtype */
  const int32_t *places; /* i32 [heads, 4 groups]: rows of `project`; others are zero */
  const int32_t *in_use; /* i32 [heads]: how many places have a row */
  int32_t project_dtype, rows, levels_dtype, heads, groups, rule;
} Codec;

/* --- projections: sums in f32 in an order that is part of the contract ------------------------ */

/** The first `count` < LANES numbers; the rest 0. */
INLINE f32x4 load_some_f32(const float *p, size_t count) {
  f32x4 v = splat(0);
  for (size_t i = 0; i < count; i++) v[i] = p[i];
  return v;
}

/** Products of x with LANES rows in a row. @param rows f32 [LANES, d] */
INLINE f32x4 multiply(const float *rows, const float *x, size_t d) {
  NO_FUSING // a fused sum would differ from other backends'
  size_t whole = d / LANES * LANES;
  const float *m0 = rows, *m1 = m0 + d, *m2 = m1 + d, *m3 = m2 + d;
  f32x4 a = splat(0), b = splat(0), c = splat(0), e = splat(0);
  for (size_t i = 0; i < whole; i += LANES) {
    f32x4 v = load_f32x4(x + i);
    a += load_f32x4(m0 + i) * v;
    b += load_f32x4(m1 + i) * v;
    c += load_f32x4(m2 + i) * v;
    e += load_f32x4(m3 + i) * v;
  }
  if (whole < d) {
    size_t rest = d - whole;
    f32x4 v = load_some_f32(x + whole, rest);
    a += load_some_f32(m0 + whole, rest) * v;
    b += load_some_f32(m1 + whole, rest) * v;
    c += load_some_f32(m2 + whole, rest) * v;
    e += load_some_f32(m3 + whole, rest) * v;
  }
  return sum_each_f32(a, b, c, e);
}

/** Has what the codec of a head needs read side by side, before it is unpacked row by row. */
INLINE void touch_codec(const Codec *codec, size_t head, size_t d) {
  size_t groups = (size_t)codec->groups, row_bytes = row_bytes_of(codec->project_dtype, d);
  size_t levels_bytes = groups * row_bytes_of(codec->levels_dtype, 64);
  const int32_t *places = codec->places + head * 4 * groups;
  for (size_t place = 0; place < 4 * groups; place++)
    if (places[place] >= 0 && places[place] < codec->rows)
      touch_bytes((const uint8_t *)codec->project + (size_t)places[place] * row_bytes, row_bytes);
  touch_bytes((const uint8_t *)codec->levels + head * levels_bytes, levels_bytes);
}

/** Writes products of x with `count` <= LANES rows to their places. @param rows f32 [LANES, d] */
INLINE void project_rows(const float *rows, const size_t *places, size_t count, const float *x,
                         size_t d, float *out) {
  f32x4 products = multiply(rows, x, d);
  for (size_t k = 0; k < count; k++) out[places[k]] = products[k];
}

/** out[i] = what the codec of a head projects x[i] to, f32 [count, 4 groups]; count <= AT_ONCE */
static void project_some(const Codec *codec, size_t head, const float *const *x, size_t count,
                         size_t d, float *out) {
  size_t width = 4 * (size_t)codec->groups, found = 0, places[LANES];
  const int32_t *place_rows = codec->places + head * width;
  float rows[LANES * MAX_D];
  __builtin_memset(rows, 0, LANES * d * sizeof(float));
  __builtin_memset(out, 0, count * width * sizeof(float));
  for (size_t place = 0; place < width; place++) {
    int32_t row = place_rows[place];
    if (row < 0 || row >= codec->rows) continue;
    unpack_row(codec->project, codec->project_dtype, d, (size_t)row, rows + found * d);
    places[found++] = place;
    if (found < LANES) continue;
    for (size_t i = 0; i < count; i++)
      project_rows(rows, places, LANES, x[i], d, out + i * width);
    found = 0;
  }
  for (size_t i = 0; found > 0 && i < count; i++)
    project_rows(rows, places, found, x[i], d, out + i * width);
}

/** The 16 levels of a group, f32 [16, 4]. */
static void unpack_levels(const Codec *codec, size_t head, size_t group, float *levels) {
  size_t row = head * (size_t)codec->groups + group;
  unpack_row(codec->levels, codec->levels_dtype, 64, row, levels);
}

/** A number for each level of a group. */
typedef struct {
  f32x4 of[16 / LANES];
} ByLevel;

/** <u, level> of each level. */
INLINE ByLevel level_products(f32x4 u, const float *levels) {
  NO_FUSING
  ByLevel out;
  UNROLL
  for (size_t i = 0; i < 16 / LANES; i++, levels += 4 * LANES)
    out.of[i] = sum_each_f32(u * load_f32x4(levels), u * load_f32x4(levels + 4),
                             u * load_f32x4(levels + 8), u * load_f32x4(levels + 12));
  return out;
}

/** |level|^2 of each level. */
INLINE ByLevel level_squares(const float *levels) {
  NO_FUSING
  ByLevel out;
  UNROLL
  for (size_t i = 0; i < 16 / LANES; i++, levels += 4 * LANES) {
    f32x4 a = load_f32x4(levels), b = load_f32x4(levels + 4);
    f32x4 c = load_f32x4(levels + 8), d = load_f32x4(levels + 12);
    out.of[i] = sum_each_f32(a * a, b * b, c * c, d * d);
  }
  return out;
}

static double sum_of_products(const float *a, const float *b, size_t count) {
  NO_FUSING
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += (double)a[i] * b[i];
  return sum;
}

/* --- storing ---------------------------------------------------------------------------------- */

typedef struct {
  const float *x; /* f32 [n, heads, d] */
  size_t n, heads, d;
  const Codec *codec;
  double gain;
  uint8_t *keys; /* u8 [heads, blocks, groups, 16] */
  size_t blocks;
  uint16_t *scales; /* f16 [heads, 32 blocks], or NULL */
  size_t slot;
} Codes;

/** The level that is nearest to u / factor, the first on ties. @param products of u with the levels */
INLINE size_t nearest_level(const ByLevel *products, const ByLevel *squares, float factor) {
  NO_FUSING
  f32x4 gains[16 / LANES], most = splat(-__builtin_inff());
  UNROLL
  for (size_t i = 0; i < 16 / LANES; i++) {
    gains[i] = products->of[i] - splat(0.5f * factor) * squares->of[i];
    most = max_f32(most, gains[i]);
  }
  most = splat(max_lane(most));
  uint32_t below = 0;
  UNROLL
  for (size_t i = 0; i < 16 / LANES; i++) below |= lane_bits(gains[i] < most) << (LANES * i);
  return (size_t)__builtin_ctz(~below);
}

/** Bits of the f16 nearest to a scale, at most 65504; 0 for what is not a positive number. */
static uint16_t scale_bits(double alpha) {
  if (!(alpha > 0 && alpha < __builtin_inf())) return 0;
  float rounded = (float)alpha;
  return (uint16_t)to_half(splat(rounded < 65504 ? rounded : 65504))[0];
}

/** Keys from here on have codes of zero: their products with levels might not be numbers. */
#define LARGEST_KEY 0x1p60f

/** Codes of a key, and what they have in common with it: sums over groups, in f64 in their order. */
typedef struct {
  uint8_t codes[MAX_GROUPS];
  double product, square; /* of u and the levels, of the levels */
} Tried;

/** The codes of u / factor for each of some factors. */
INLINE void try_factors(const Codes *c, size_t head, const float *u, const float *factors,
                        size_t count, Tried *tried) {
  for (size_t f = 0; f < count; f++) tried[f].product = tried[f].square = 0;
  for (size_t g = 0; g < (size_t)c->codec->groups; g++) {
    float levels[64], products[16], squares[16];
    unpack_levels(c->codec, head, g, levels);
    ByLevel p = level_products(load_f32x4(u + 4 * g), levels), s = level_squares(levels);
    __builtin_memcpy(products, &p, sizeof products);
    __builtin_memcpy(squares, &s, sizeof squares);
    UNROLL
    for (size_t f = 0; f < count; f++) {
      size_t code = nearest_level(&p, &s, factors[f]);
      tried[f].codes[g] = (uint8_t)code;
      tried[f].product += products[code], tried[f].square += squares[code];
    }
  }
}

/** What the scale that fits best takes off the squared error. */
static double gain_of(const Tried *t) {
  return t->product > 0 ? t->product / t->square * t->product : -1;
}

/**
 * The codes of one key, u8 [groups].
 * @param u what it was projected to, [4 groups]; overwritten
 * @returns bits of its scale
 */
static uint16_t encode_key(const Codes *c, size_t head, const float *x, float *u, uint8_t *codes) {
  static const float factors[] = {0.8f, 0.9f, 1.0f, 1.1f, 1.2f}, one[] = {1};
  enum { FACTORS = sizeof factors / sizeof *factors };
  const Codec *codec = c->codec;
  Tried tried[FACTORS], *best = tried;
  size_t groups = (size_t)codec->groups, width = 4 * groups;
  float r = (float)__builtin_sqrt(sum_of_products(u, u, width) / codec->in_use[head]);
  float unit = codec->rule == NO_SCALE ? 1 : r;
  if (!(unit > 0 && r < LARGEST_KEY)) {
    __builtin_memset(codes, 0, groups);
    return 0;
  }
  for (size_t i = 0; i < width; i += LANES) store_f32x4(u + i, load_f32x4(u + i) / splat(unit));
  if (codec->rule == LEAST_SQUARES) {
    try_factors(c, head, u, factors, FACTORS, tried);
    for (size_t f = 1; f < FACTORS; f++)
      if (gain_of(tried + f) > gain_of(best)) best = tried + f;
  } else try_factors(c, head, u, one, 1, tried);
  __builtin_memcpy(codes, best->codes, groups);
  switch (codec->rule) {
  case UNBIASED: return scale_bits(r * sum_of_products(u, u, width) / best->product);
  case LEAST_SQUARES: return scale_bits(r * (best->product / best->square));
  case NORM: return scale_bits(c->gain * __builtin_sqrt(sum_of_products(x, x, c->d)));
  default: return 0;
  }
}

/** Writes the codes of a slot into its nibbles of a block. @param block u8 [groups, 16] */
static void write_codes(const uint8_t *codes, size_t groups, size_t slot, uint8_t *block) {
  int32_t shift = slot & GROUP_BYTES ? 4 : 0;
  uint8_t *byte = block + slot % GROUP_BYTES;
  for (size_t g = 0; g < groups; g++, byte += GROUP_BYTES)
    *byte = (uint8_t)((*byte & (0xf0 >> shift)) | codes[g] << shift);
}

/** The keys that one head has in one block of slots: no other task writes to their bytes. */
static void codes_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Codes *c = context;
  size_t head = (size_t)task % c->heads, groups = (size_t)c->codec->groups;
  size_t block = c->slot / BLOCK_KEYS + (size_t)task / c->heads;
  size_t from = block * BLOCK_KEYS < c->slot ? c->slot : block * BLOCK_KEYS;
  size_t end = c->slot + c->n, to = (block + 1) * BLOCK_KEYS < end ? (block + 1) * BLOCK_KEYS : end;
  uint8_t *out = c->keys + (head * c->blocks + block) * groups * GROUP_BYTES;
  float u[AT_ONCE * 4 * MAX_GROUPS];
  touch_codec(c->codec, head, c->d);
  for (size_t slot = from, count; slot < to; slot += count) {
    const float *x[AT_ONCE] = {0};
    for (count = 0; count < AT_ONCE && slot + count < to; count++)
      x[count] = c->x + ((slot + count - c->slot) * c->heads + head) * c->d;
    project_some(c->codec, head, x, count, c->d, u);
    for (size_t i = 0; i < count; i++) {
      uint8_t codes[MAX_GROUPS];
      uint16_t scale = encode_key(c, head, x[i], u + i * 4 * groups, codes);
      if (c->scales) c->scales[head * c->blocks * BLOCK_KEYS + slot + i] = scale;
      write_codes(codes, groups, slot + i, out);
    }
  }
}

EXPORT(store_codes)
int32_t store_codes(const float *x, size_t n, size_t heads, size_t d, const Codec *codec,
                    double gain, uint8_t *keys, size_t blocks, uint16_t *scales, size_t slot) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  if (n == 0) return OK;
  Codes c = {x, n, heads, d, codec, gain, keys, blocks, scales, slot};
  size_t touched = (slot + n - 1) / BLOCK_KEYS - slot / BLOCK_KEYS + 1;
  parallel_for((int32_t)(heads * touched), codes_task, &c);
  return pool_failed() ? WORKER_DIED : OK;
}

/* --- tables of queries ------------------------------------------------------------------------ */

typedef struct {
  const float *q; /* f32 [n, heads, d] */
  size_t n, heads, d;
  const Codec *codec;
  int8_t *tables; /* i8 [heads, n, groups, 16] */
  float *scales;  /* f32 [heads, n] */
} Tables;

/**
 * t[i][g][e] = <y[i][4g ..], levels[g][e]>
 * @param y f32 [count, 4 groups]
 * @param t f32 [count, groups, 16]
 */
static void exact_tables(const Codec *codec, size_t head, const float *y, size_t count, float *t) {
  size_t groups = (size_t)codec->groups;
  for (size_t g = 0; g < groups; g++) {
    float levels[64];
    unpack_levels(codec, head, g, levels);
    for (size_t row = g; row < count * groups; row += groups) {
      ByLevel products = level_products(load_f32x4(y + 4 * row), levels);
      __builtin_memcpy(t + 16 * row, &products, sizeof products);
    }
  }
}

typedef int8_t i8xw __attribute__((vector_size(WIDE)));

/** x / step as bytes, rounded half away from zero. */
INLINE i8xw entries_of(f32xw x, float step, float limit) {
  NO_FUSING
  const int32_t sign = (int32_t)0x80000000;
  i32xw signs = (i32xw)x & sign;
  // A step that is subnormal may have been rounded far down.
  f32xw units = min_w(splat_w(limit), (f32xw)((i32xw)x & ~sign) / splat_w(step));
  f32xw even = units + splat_w(ROUNDER) - splat_w(ROUNDER);
  // What is left of a tie is exactly half, and else less.
  Lanes halves = above_w(units - even, splat_w(0.49999997f));
  f32xw whole = select_w(halves, even + splat_w(1), even);
  i32xw entries = __builtin_convertvector((f32xw)((i32xw)whole | signs), i32xw);
  return __builtin_convertvector(entries, i8xw);
}

/** Entries of 8 bits for one query. @returns what a unit in them stands for */
static float quantize_table(const float *exact, size_t groups, int8_t *out) {
  float limit = groups > 258 ? (float)(32767 / groups) : 127;
  float step = max_magnitude(exact, 16 * groups) / limit;
  if (!is_finite(exact, 16 * groups) || step == 0) {
    __builtin_memset(out, 0, groups * TABLE_BYTES);
    return 0;
  }
  for (size_t i = 0; i < 16 * groups; i += WIDE) {
    i8xw entries = entries_of(load_f32xw(exact + i), step, limit);
    __builtin_memcpy(out + i, &entries, sizeof entries);
  }
  return step;
}

/** The tables of up to AT_ONCE queries of one KV head: query i is position i / group, head i % group. */
static void table_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Tables *t = context;
  size_t kv_heads = (size_t)t->codec->heads, groups = (size_t)t->codec->groups;
  size_t group = t->heads / kv_heads, kv_head = (size_t)task % kv_heads;
  size_t first = (size_t)task / kv_heads * AT_ONCE, count = 0, rows[AT_ONCE];
  const float *x[AT_ONCE] = {0};
  for (size_t i = first; i < t->n * group && count < AT_ONCE; i++, count++) {
    size_t head = kv_head * group + i % group, position = i / group;
    x[count] = t->q + (position * t->heads + head) * t->d;
    rows[count] = head * t->n + position;
  }
  float y[AT_ONCE * 4 * MAX_GROUPS], exact[AT_ONCE * 16 * MAX_GROUPS];
  touch_codec(t->codec, kv_head, t->d);
  project_some(t->codec, kv_head, x, count, t->d, y);
  exact_tables(t->codec, kv_head, y, count, exact);
  for (size_t i = 0; i < count; i++)
    t->scales[rows[i]] = quantize_table(exact + i * 16 * groups, groups,
                                        t->tables + rows[i] * groups * TABLE_BYTES);
}

EXPORT(query_tables)
int32_t query_tables(const float *q, size_t n, size_t heads, size_t d, const Codec *codec,
                     int8_t *tables, float *scales) {
  if (!is_finite(q, n * heads * d)) return NOT_FINITE;
  Tables t = {q, n, heads, d, codec, tables, scales};
  size_t rows = n * heads / (size_t)codec->heads, chunks = (rows + AT_ONCE - 1) / AT_ONCE;
  parallel_for((int32_t)(chunks * (size_t)codec->heads), table_task, &t);
  return pool_failed() ? WORKER_DIED : OK;
}

/* --- scanning --------------------------------------------------------------------------------- */

/** As many as the registers hold the sums of. */
enum { SCAN_ROWS = WIDE == 16 ? 3 : 2 };

/** `rows` <= SCAN_ROWS rows share the loads of the codes. */
INLINE void scan_blocks(const uint8_t *keys, const uint8_t *ahead, int32_t blocks, int32_t groups,
                        const int8_t *const *tables, const float *factors, int32_t rows,
                        const float *alphas, float *out) {
  for (int32_t b = 0; b < blocks; b++, alphas += BLOCK_KEYS, out += BLOCK_KEYS) {
    EntrySums sums[SCAN_ROWS];
    UNROLL
    for (int32_t r = 0; r < rows; r++) sums[r] = (EntrySums){0};
    int32_t g = 0;
    NO_UNROLL // see linear.c
    for (; g + GROUPS_AT_ONCE <= groups; g += GROUPS_AT_ONCE) {
      touch_any(ahead);
      KeyCodes codes = load_codes(keys, GROUPS_AT_ONCE);
      keys += GROUPS_AT_ONCE * GROUP_BYTES, ahead += GROUPS_AT_ONCE * GROUP_BYTES;
      UNROLL
      for (int32_t r = 0; r < rows; r++)
        add_entries(sums + r, codes, tables[r] + g * TABLE_BYTES, GROUPS_AT_ONCE);
    }
    if (g < groups) {
      int32_t rest = groups - g;
      KeyCodes codes = load_codes(keys, rest);
      keys += rest * GROUP_BYTES, ahead += rest * GROUP_BYTES;
      UNROLL
      for (int32_t r = 0; r < rows; r++)
        add_entries(sums + r, codes, tables[r] + g * TABLE_BYTES, rest);
    }
    UNROLL
    for (int32_t r = 0; r < rows; r++) {
      f32xw factor = splat_w(factors[r]);
      UNROLL
      for (int32_t i = 0; i < BLOCK_KEYS / WIDE; i++)
        store_f32xw(out + r * TILE + i * WIDE,
                    sums_of_part(sums + r, i) * load_f32xw(alphas + i * WIDE) * factor);
    }
  }
}

/* Functions of their own: V8 allots registers badly in large ones. */

__attribute__((noinline)) static void scan_row(const uint8_t *keys, const uint8_t *ahead,
                                               int32_t blocks, int32_t groups,
                                               const int8_t *const *tables, const float *factors,
                                               const float *alphas, float *out) {
  scan_blocks(keys, ahead, blocks, groups, tables, factors, 1, alphas, out);
}

__attribute__((noinline)) static void scan_rows(const uint8_t *keys, const uint8_t *ahead,
                                               int32_t blocks, int32_t groups,
                                               const int8_t *const *tables, const float *factors,
                                               const float *alphas, float *out) {
  scan_blocks(keys, ahead, blocks, groups, tables, factors, SCAN_ROWS, alphas, out);
}

static void scan_codes(const uint8_t *keys, const uint8_t *ahead, int32_t blocks, int32_t groups,
                       const int8_t *const *tables, const float *factors, int32_t rows,
                       const float *alphas, float *out) {
  int32_t r = 0;
  for (; r + SCAN_ROWS <= rows; r += SCAN_ROWS)
    scan_rows(keys, ahead, blocks, groups, tables + r, factors + r, alphas, out + r * TILE);
  for (; r < rows; r++)
    scan_row(keys, ahead, blocks, groups, tables + r, factors + r, alphas, out + r * TILE);
}
