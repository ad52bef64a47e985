/* Keys as codes in a product codebook: stored, and scored by tables (src/kernels/kernels.ts). */
#include "codes.h"

#include "attend.h"
#include "elementwise.h"
#include "pool.h"

enum { MAX_GROUPS = 512 }; /* check.ts refuses more */

/* Numbered as in src/kernels/compiled-kernels.ts. */
enum { UNBIASED = 0, LEAST_SQUARES = 1, NORM = 2, NO_SCALE = 3 };

/* --- projections: sums in f32 in an order that is part of the contract ------------------------ */

/** The first `count` < LANES numbers; the rest 0. */
INLINE f32x4 load_some_f32(const float *p, size_t count) {
  f32x4 v = splat(0);
  for (size_t i = 0; i < count; i++) v[i] = p[i];
  return v;
}

/** out = matrix x. @param matrix f32 [rows, d], rows a multiple of LANES */
static void multiply(const float *matrix, size_t rows, const float *x, size_t d, float *out) {
  NO_FUSING // a fused sum would differ from other backends'
  size_t whole = d / LANES * LANES;
  for (size_t row = 0; row < rows; row += LANES, matrix += LANES * d) {
    const float *m0 = matrix, *m1 = m0 + d, *m2 = m1 + d, *m3 = m2 + d;
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
    store_f32x4(out + row, sum_each_f32(a, b, c, e));
  }
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
  const float *project; /* f32 [heads, 4 groups, d] */
  const float *levels;  /* f32 [heads, groups, 16, 4] */
  const int32_t *rows;  /* i32 [heads] */
  size_t groups;
  int32_t rule;
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

/** The codes of one key, u8 [groups]. @returns bits of its scale */
static uint16_t encode_key(const Codes *c, size_t head, const float *x, uint8_t *codes) {
  float u[4 * MAX_GROUPS], chosen[4 * MAX_GROUPS];
  size_t width = 4 * c->groups;
  multiply(c->project + head * width * c->d, width, x, c->d, u);
  float r = (float)__builtin_sqrt(sum_of_products(u, u, width) / c->rows[head]);
  if (c->rule != NO_SCALE) {
    if (!(r > 0 && r < __builtin_inff())) {
      __builtin_memset(codes, 0, c->groups);
      return 0;
    }
    for (size_t i = 0; i < width; i += LANES) store_f32x4(u + i, load_f32x4(u + i) / splat(r));
  }
  const float *levels = c->levels + head * c->groups * 64;
  for (size_t g = 0; g < c->groups; g++, levels += 64) {
    codes[g] = (uint8_t)nearest_level(load_f32x4(u + 4 * g), levels);
    store_f32x4(chosen + 4 * g, load_f32x4(levels + 4 * codes[g]));
  }
  if (c->rule == UNBIASED)
    return scale_bits(r * sum_of_products(u, u, width) / sum_of_products(u, chosen, width));
  if (c->rule == LEAST_SQUARES)
    return scale_bits(r * sum_of_products(u, chosen, width) /
                      sum_of_products(chosen, chosen, width));
  if (c->rule == NORM) return scale_bits(c->gain * __builtin_sqrt(sum_of_products(x, x, c->d)));
  return 0;
}

/** The keys that one head has in one block of slots: no other task writes to their bytes. */
static void codes_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Codes *c = context;
  size_t head = (size_t)task % c->heads;
  size_t block = c->slot / BLOCK_KEYS + (size_t)task / c->heads;
  size_t from = block * BLOCK_KEYS < c->slot ? c->slot : block * BLOCK_KEYS;
  size_t end = c->slot + c->n, to = (block + 1) * BLOCK_KEYS < end ? (block + 1) * BLOCK_KEYS : end;
  uint8_t *out = c->keys + (head * c->blocks + block) * c->groups * GROUP_BYTES;
  for (size_t slot = from; slot < to; slot++) {
    uint8_t codes[MAX_GROUPS];
    const float *x = c->x + ((slot - c->slot) * c->heads + head) * c->d;
    uint16_t scale = encode_key(c, head, x, codes);
    if (c->scales) c->scales[head * c->blocks * BLOCK_KEYS + slot] = scale;
    int32_t shift = slot & GROUP_BYTES ? 4 : 0;
    uint8_t *byte = out + slot % GROUP_BYTES;
    for (size_t g = 0; g < c->groups; g++, byte += GROUP_BYTES)
      *byte = (uint8_t)((*byte & (0xf0 >> shift)) | codes[g] << shift);
  }
}

EXPORT(store_codes)
int32_t store_codes(const float *x, size_t n, size_t heads, size_t d, const float *project,
                    const float *levels, const int32_t *rows, size_t groups, int32_t rule,
                    double gain, uint8_t *keys, size_t blocks, uint16_t *scales, size_t slot) {
  if (!is_finite(x, n * heads * d)) return NOT_FINITE;
  if (n == 0) return OK;
  Codes c = {x, n, heads, d, project, levels, rows, groups, rule, gain, keys, blocks, scales, slot};
  size_t touched = (slot + n - 1) / BLOCK_KEYS - slot / BLOCK_KEYS + 1;
  parallel_for((int32_t)(heads * touched), codes_task, &c);
  return pool_failed() ? WORKER_DIED : OK;
}

/* --- tables of queries ------------------------------------------------------------------------ */

typedef struct {
  const float *q; /* f32 [n, heads, d] */
  size_t n, heads, d;
  const float *project; /* f32 [kv_heads, 4 groups, d] */
  const float *levels;  /* f32 [kv_heads, groups, 16, 4] */
  size_t kv_heads, groups;
  int8_t *tables; /* i8 [heads, n, groups, 16] */
  float *scales;   /* f32 [heads, n] */
} Tables;

/** t[g][e] = <y[4g ..], levels[g][e]> */
static void exact_table(const float *y, const float *levels, size_t groups, float *t) {
  for (size_t g = 0; g < groups; g++) {
    f32x4 part = load_f32x4(y + 4 * g);
    for (int32_t e = 0; e < 16; e += LANES, levels += 4 * LANES, t += LANES) {
      f32x4 a = part * load_f32x4(levels), b = part * load_f32x4(levels + 4);
      f32x4 c = part * load_f32x4(levels + 8), d = part * load_f32x4(levels + 12);
      store_f32x4(t, sum_each_f32(a, b, c, d));
    }
  }
}

/** The table of one head at one position. */
static void table_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Tables *t = context;
  size_t row = (size_t)task, head = row / t->n, position = row % t->n;
  size_t kv_head = head * t->kv_heads / t->heads, groups = t->groups;
  float y[4 * MAX_GROUPS], exact[16 * MAX_GROUPS];
  multiply(t->project + kv_head * 4 * groups * t->d, 4 * groups,
           t->q + (position * t->heads + head) * t->d, t->d, y);
  exact_table(y, t->levels + kv_head * groups * 64, groups, exact);
  int8_t *out = t->tables + row * groups * TABLE_BYTES;
  float limit = groups > 258 ? (float)(32767 / groups) : 127;
  float step = max_magnitude(exact, 16 * groups) / limit;
  if (!is_finite(exact, 16 * groups) || step == 0) {
    __builtin_memset(out, 0, groups * TABLE_BYTES);
    t->scales[row] = 0;
    return;
  }
  t->scales[row] = step;
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
}

EXPORT(query_tables)
int32_t query_tables(const float *q, size_t n, size_t heads, size_t d, const float *project,
                     const float *levels, size_t kv_heads, size_t groups, int8_t *tables,
                     float *scales) {
  if (!is_finite(q, n * heads * d)) return NOT_FINITE;
  Tables t = {q, n, heads, d, project, levels, kv_heads, groups, tables, scales};
  parallel_for((int32_t)(heads * n), table_task, &t);
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
