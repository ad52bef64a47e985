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

INLINE size_t row_bytes_of(int32_t dtype, size_t columns) {
  if (has_blocks(dtype)) return columns / block_length(dtype) * block_bytes(dtype);
  return columns * (dtype == F32 ? 4 : 2);
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

/** out[i] = what the codec of a head projects x[i] to, f32 [count, 4 groups]; count <= AT_ONCE */
static void project_some(const Codec *codec, size_t head, const float *const *x, size_t count,
                         size_t d, float *out) {
  size_t width = 4 * (size_t)codec->groups;
  const int32_t *places = codec->places + head * width;
  float rows[LANES * MAX_D];
  for (size_t place = 0; place < width; place += LANES) {
    for (size_t k = 0; k < LANES; k++) {
      int32_t row = places[place + k];
      if (row >= 0 && row < codec->rows)
        unpack_row(codec->project, codec->project_dtype, d, (size_t)row, rows + k * d);
      else __builtin_memset(rows + k * d, 0, d * sizeof(float));
    }
    for (size_t i = 0; i < count; i++)
      store_f32x4(out + i * width + place, multiply(rows, x[i], d));
  }
}

/** The 16 levels of a group, f32 [16, 4]. */
static void unpack_levels(const Codec *codec, size_t head, size_t group, float *levels) {
  size_t row = head * (size_t)codec->groups + group;
  unpack_row(codec->levels, codec->levels_dtype, 64, row, levels);
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

INLINE f32x4 squares(f32x4 v) { return v * v; }

/** The nearest of 16 levels, the first on ties. @param u f32 [4] @param levels f32 [16, 4] */
INLINE int32_t nearest_level(f32x4 u, const float *levels) {
  f32x4 least = splat(__builtin_inff());
  i32x4 nearest = splat_i32(0), e = {0, 1, 2, 3};
  for (int32_t i = 0; i < 4; i++, levels += 16, e += 4) {
    f32x4 distance =
        sum_each_f32(squares(u - load_f32x4(levels)), squares(u - load_f32x4(levels + 4)),
                     squares(u - load_f32x4(levels + 8)), squares(u - load_f32x4(levels + 12)));
    i32x4 nearer = distance < least;
    nearest = select_i32(nearer, e, nearest);
    least = select_f32(nearer, distance, least);
  }
  int32_t best = 0;
  for (int32_t lane = 1; lane < LANES; lane++) {
    int32_t ties = least[lane] == least[best] && nearest[lane] < nearest[best];
    if (least[lane] < least[best] || ties) best = lane;
  }
  return nearest[best];
}

/** Bits of the f16 nearest to a scale, at most 65504; 0 for what is not a positive number. */
static uint16_t scale_bits(double alpha) {
  if (!(alpha > 0 && alpha < __builtin_inf())) return 0;
  float rounded = (float)alpha;
  return (uint16_t)to_half(splat(rounded < 65504 ? rounded : 65504))[0];
}

/**
 * The codes of u / f for that f of a few which leaves the least error at the scale that fits its levels best.
 * @returns this scale
 */
static double encode_at_best_scale(const Codes *c, size_t head, const float *u, uint8_t *codes) {
  NO_FUSING
  static const float factors[] = {0.8f, 0.9f, 1.0f, 1.1f, 1.2f};
  enum { FACTORS = sizeof factors / sizeof *factors };
  uint8_t tried[FACTORS][MAX_GROUPS];
  double products[FACTORS] = {0}, squares[FACTORS] = {0};
  size_t groups = (size_t)c->codec->groups;
  for (size_t g = 0; g < groups; g++) {
    float levels[64];
    unpack_levels(c->codec, head, g, levels);
    for (size_t f = 0; f < FACTORS; f++) {
      int32_t code = nearest_level(load_f32x4(u + 4 * g) / splat(factors[f]), levels);
      tried[f][g] = (uint8_t)code;
      for (size_t j = 0; j < 4; j++) {
        double level = levels[4 * code + (int32_t)j];
        products[f] += u[4 * g + j] * level;
        squares[f] += level * level;
      }
    }
  }
  size_t best = 0;
  double most = -1;
  for (size_t f = 0; f < FACTORS; f++) {
    double won = products[f] / squares[f] * products[f];
    if (products[f] > 0 && won > most) best = f, most = won;
  }
  if (most < 0) return __builtin_memset(codes, 0, groups), 0;
  __builtin_memcpy(codes, tried[best], groups);
  return products[best] / squares[best];
}

/**
 * The codes of one key, u8 [groups].
 * @param u what it was projected to, [4 groups]; overwritten
 * @returns bits of its scale
 */
static uint16_t encode_key(const Codes *c, size_t head, const float *x, float *u, uint8_t *codes) {
  const Codec *codec = c->codec;
  float chosen[4 * MAX_GROUPS];
  size_t groups = (size_t)codec->groups, width = 4 * groups;
  float r = (float)__builtin_sqrt(sum_of_products(u, u, width) / codec->in_use[head]);
  if (codec->rule != NO_SCALE) {
    if (!(r > 0 && r < __builtin_inff())) {
      __builtin_memset(codes, 0, groups);
      return 0;
    }
    for (size_t i = 0; i < width; i += LANES) store_f32x4(u + i, load_f32x4(u + i) / splat(r));
  }
  if (codec->rule == LEAST_SQUARES) return scale_bits(r * encode_at_best_scale(c, head, u, codes));
  for (size_t g = 0; g < groups; g++) {
    float levels[64];
    unpack_levels(codec, head, g, levels);
    codes[g] = (uint8_t)nearest_level(load_f32x4(u + 4 * g), levels);
    store_f32x4(chosen + 4 * g, load_f32x4(levels + 4 * codes[g]));
  }
  if (codec->rule == UNBIASED)
    return scale_bits(r * sum_of_products(u, u, width) / sum_of_products(u, chosen, width));
  if (codec->rule == NORM) return scale_bits(c->gain * __builtin_sqrt(sum_of_products(x, x, c->d)));
  return 0;
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

/** t[g][e] = <y[4g ..], levels[g][e]> */
static void exact_table(const Codec *codec, size_t head, const float *y, float *t) {
  for (size_t g = 0; g < (size_t)codec->groups; g++) {
    float levels[64], *l = levels;
    unpack_levels(codec, head, g, levels);
    f32x4 part = load_f32x4(y + 4 * g);
    for (int32_t e = 0; e < 16; e += LANES, l += 4 * LANES, t += LANES) {
      f32x4 a = part * load_f32x4(l), b = part * load_f32x4(l + 4);
      f32x4 c = part * load_f32x4(l + 8), d = part * load_f32x4(l + 12);
      store_f32x4(t, sum_each_f32(a, b, c, d));
    }
  }
}

/** Entries of 8 bits for one query. @returns what a unit in them stands for */
static float quantize_table(const float *exact, size_t groups, int8_t *out) {
  float limit = groups > 258 ? (float)(32767 / groups) : 127;
  float step = max_magnitude(exact, 16 * groups) / limit;
  if (!is_finite(exact, 16 * groups) || step == 0) {
    __builtin_memset(out, 0, groups * TABLE_BYTES);
    return 0;
  }
  for (size_t g = 0; g < groups; g++, out += TABLE_BYTES) {
    i32x4 entries[4];
    for (int32_t k = 0; k < 4; k++) {
      f32x4 units = round_half_away(load_f32x4(exact + 16 * g + LANES * k) / splat(step));
      // A step that is subnormal may have been rounded far down.
      entries[k] = to_i32(max_f32(splat(-limit), min_f32(splat(limit), units)));
    }
    for (int32_t k = 0; k < 4; k += 2)
      store_i8x8(out + 4 * k,
                 __builtin_convertvector(narrow_i32(entries[k], entries[k + 1]), i8x8));
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
  float y[AT_ONCE * 4 * MAX_GROUPS], exact[16 * MAX_GROUPS];
  touch_codec(t->codec, kv_head, t->d);
  project_some(t->codec, kv_head, x, count, t->d, y);
  for (size_t i = 0; i < count; i++) {
    exact_table(t->codec, kv_head, y + i * 4 * groups, exact);
    t->scales[rows[i]] = quantize_table(exact, groups, t->tables + rows[i] * groups * TABLE_BYTES);
  }
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
