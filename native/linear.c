/*
 * out = x weight^T. All parts of a call form one loop for the pool; a task is a run of rows of one
 * part. Every output is summed in the same order whatever n, the tasks and the threads are.
 */
#include "elementwise.h"
#include "pool.h"

enum {
  TILE_ROWS = 4,        /* rows that share the loads of x: as many as keep their sums in registers */
  TILE_TOKENS = 4,      /* positions that share the loads of a weight */
  TASK_BYTES = 1 << 15, /* weights per task: large beside the cost of taking one, small beside L2 */
};

typedef struct {
  const void *weight; /* [rows, columns] */
  float *out;         /* f32 [n, rows] */
  int32_t rows;
  int32_t dtype;
} LinearPart;

typedef struct {
  const float *x; /* f32 [n, columns] */
  size_t n, columns;
  const LinearPart *parts;
  int32_t n_parts;
  int32_t rows_per_task;
  int16_t *codes; /* x in q8: i16 [n / TILE_TOKENS, columns / 32, TILE_TOKENS, 32], or [columns] if n = 1 */
  float *scales;  /* f32 [n / TILE_TOKENS, columns / 32, TILE_TOKENS], or [columns / 32] if n = 1 */
} Linear;

static size_t padded_tokens(size_t n) { return n == 1 ? 1 : (n + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS; }

/** Bytes that `linear` needs beside its operands: x in q8. */
EXPORT(linear_scratch_bytes)
size_t linear_scratch_bytes(size_t n, size_t columns) {
  return padded_tokens(n) * (columns * sizeof(int16_t) + columns / 32 * sizeof(float)) + 64;
}

/** x in q8, four positions side by side. Positions that pad the last group have scales of zero. */
static void quantize_input(Linear *l) {
  size_t blocks = l->columns / 32;
  size_t group = l->n == 1 ? 1 : TILE_TOKENS;
  for (size_t i = 0; i < padded_tokens(l->n); i++) {
    for (size_t b = 0; b < blocks; b++) {
      size_t at = (i / group * blocks + b) * group + i % group;
      int16_t *codes = l->codes + at * 32;
      if (i >= l->n) {
        l->scales[at] = 0;
        __builtin_memset(codes, 0, 64);
        continue;
      }
      const float *x = l->x + i * l->columns + b * 32;
      float scale = max_magnitude(x, 32) / 127;
      float inverse = finite_or_zero(1 / scale);
      l->scales[at] = scale;
      for (size_t c = 0; c < 32; c += 8) {
        i32x4 low = to_i32(round_half_away(load_f32x4(x + c) * splat(inverse)));
        i32x4 high = to_i32(round_half_away(load_f32x4(x + c + 4) * splat(inverse)));
        store_i16x8(codes + c, narrow_i32(low, high));
      }
    }
  }
}

/** The integer products of one block of a row with the codes of one position, in four partial sums. */
INLINE i32x4 dot_block(const int8_t *weight, const int16_t *codes) {
  i32x4 a = dot_i16(widen_i8(weight), load_i16x8(codes));
  i32x4 b = dot_i16(widen_i8(weight + 8), load_i16x8(codes + 8));
  i32x4 c = dot_i16(widen_i8(weight + 16), load_i16x8(codes + 16));
  i32x4 d = dot_i16(widen_i8(weight + 24), load_i16x8(codes + 24));
  return (a + b) + (c + d);
}

/** TILE_ROWS rows for one position; lane = row. Rows beyond the last repeat it and are not stored. */
static void q8_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count) {
  size_t blocks = l->columns / 32;
  const uint8_t *row[TILE_ROWS];
  for (int32_t r = 0; r < TILE_ROWS; r++) {
    int32_t at = first + (r < count ? r : count - 1);
    row[r] = (const uint8_t *)part->weight + (size_t)at * blocks * 34;
  }
  const uint8_t *r0 = row[0], *r1 = row[1], *r2 = row[2], *r3 = row[3];
  const int16_t *codes = l->codes;
  f32x4 sums = splat(0);
  for (size_t b = 0; b < blocks; b++, codes += 32, r0 += 34, r1 += 34, r2 += 34, r3 += 34) {
    i32x4 exact = sum_each_i32(
        dot_block((const int8_t *)r0 + 2, codes), dot_block((const int8_t *)r1 + 2, codes),
        dot_block((const int8_t *)r2 + 2, codes), dot_block((const int8_t *)r3 + 2, codes));
    f32x4 scale = half_to_f32(gather_u16(r0, r1, r2, r3)) * splat(l->scales[b]);
    sums = madd(to_f32(exact), scale, sums);
  }
  for (int32_t r = 0; r < count; r++) part->out[first + r] = sums[r];
}

/** One row for every position, TILE_TOKENS at a time; lane = position. */
static void q8_row_many(const Linear *l, const LinearPart *part, int32_t row) {
  size_t blocks = l->columns / 32;
  const uint8_t *weights = (const uint8_t *)part->weight + (size_t)row * blocks * 34;
  for (size_t i = 0; i < l->n; i += TILE_TOKENS) {
    const int16_t *codes = l->codes + i * l->columns;
    const float *scales = l->scales + i * blocks;
    const uint8_t *block = weights;
    f32x4 sums = splat(0);
    for (size_t b = 0; b < blocks; b++, block += 34, codes += TILE_TOKENS * 32, scales += TILE_TOKENS) {
      const int8_t *w = (const int8_t *)block + 2;
      i32x4 exact = sum_each_i32(dot_block(w, codes), dot_block(w, codes + 32),
                                 dot_block(w, codes + 64), dot_block(w, codes + 96));
      f32x4 scale = half_to_f32(gather_u16(block, block, block, block)) * load_f32x4(scales);
      sums = madd(to_f32(exact), scale, sums);
    }
    for (size_t t = 0; t < TILE_TOKENS && i + t < l->n; t++)
      part->out[(i + t) * (size_t)part->rows + (size_t)row] = sums[t];
  }
}

enum { CHUNK = 512 }; /* columns of a tile of unpacked weights: 8 KiB, which stays in L1 */

/** weights [rows, from .. from + count) as f32 [TILE_ROWS, CHUNK], zero beyond. */
static void unpack(const LinearPart *part, int32_t first, int32_t rows, size_t columns, size_t from,
                   size_t count, float tile[TILE_ROWS][CHUNK]) {
  __builtin_memset(tile, 0, TILE_ROWS * CHUNK * sizeof(float));
  for (int32_t r = 0; r < rows; r++) {
    size_t at = (size_t)(first + r) * columns + from;
    const uint16_t *half = (const uint16_t *)part->weight + at;
    if (part->dtype == F32) {
      __builtin_memcpy(tile[r], (const float *)part->weight + at, count * sizeof(float));
      continue;
    }
    size_t c = 0;
    for (; c + LANES <= count; c += LANES)
      store_f32x4(tile[r] + c, part->dtype == F16 ? load_half(half + c) : load_bfloat(half + c));
    for (; c < count; c++) {
      i32x4 bits = splat_i32(half[c]);
      tile[r][c] = (part->dtype == F16 ? half_to_f32(bits) : (f32x4)(bits << 16))[0];
    }
  }
}

/** f32, f16 and bf16: TILE_ROWS rows for every position, unpacked once for all of them. */
static void float_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count) {
  float tile[TILE_ROWS][CHUNK];
  for (size_t from = 0; from < l->columns; from += CHUNK) {
    size_t width = l->columns - from < CHUNK ? l->columns - from : CHUNK;
    unpack(part, first, count, l->columns, from, width, tile);
    for (size_t i = 0; i < l->n; i++) {
      const float *x = l->x + i * l->columns + from;
      f32x4 s0 = splat(0), s1 = s0, s2 = s0, s3 = s0;
      size_t c = 0;
      for (; c + LANES <= width; c += LANES) {
        f32x4 v = load_f32x4(x + c);
        s0 = madd(v, load_f32x4(tile[0] + c), s0);
        s1 = madd(v, load_f32x4(tile[1] + c), s1);
        s2 = madd(v, load_f32x4(tile[2] + c), s2);
        s3 = madd(v, load_f32x4(tile[3] + c), s3);
      }
      f32x4 sums = sum_each_f32(s0, s1, s2, s3);
      for (; c < width; c++)
        sums += splat(x[c]) * (f32x4){tile[0][c], tile[1][c], tile[2][c], tile[3][c]};
      float *out = part->out + i * (size_t)part->rows + first;
      for (int32_t r = 0; r < count; r++) out[r] = from == 0 ? sums[r] : out[r] + sums[r];
    }
  }
}

static int32_t tasks_of(const Linear *l, const LinearPart *part) {
  return (part->rows + l->rows_per_task - 1) / l->rows_per_task;
}

static void linear_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Linear *l = context;
  const LinearPart *part = l->parts;
  for (; task >= tasks_of(l, part); part++) task -= tasks_of(l, part);
  int32_t end = (task + 1) * l->rows_per_task < part->rows ? (task + 1) * l->rows_per_task : part->rows;
  for (int32_t row = task * l->rows_per_task; row < end; row += TILE_ROWS) {
    int32_t count = end - row < TILE_ROWS ? end - row : TILE_ROWS;
    if (part->dtype != Q8_0) float_rows(l, part, row, count);
    else if (l->n == 1) q8_rows(l, part, row, count);
    else for (int32_t r = 0; r < count; r++) q8_row_many(l, part, row + r);
  }
}

EXPORT(linear)
int32_t linear(const float *x, size_t n, size_t columns, const LinearPart *parts, int32_t n_parts,
               void *scratch) {
  if (!is_finite(x, n * columns)) return NOT_FINITE;
  Linear l = {.x = x, .n = n, .columns = columns, .parts = parts, .n_parts = n_parts};
  l.scales = scratch;
  l.codes = (int16_t *)(l.scales + padded_tokens(n) * (columns / 32));
  int32_t quantized = 0, tasks = 0;
  for (int32_t p = 0; p < n_parts; p++) quantized |= parts[p].dtype == Q8_0;
  if (quantized) quantize_input(&l);
  size_t work_per_row = columns * (n < 16 ? n : 16) + 1;
  l.rows_per_task = (int32_t)((TASK_BYTES / work_per_row + TILE_ROWS) / TILE_ROWS * TILE_ROWS);
  for (int32_t p = 0; p < n_parts; p++) tasks += tasks_of(&l, parts + p);
  parallel_for(tasks, linear_task, &l);
  return pool_failed() ? WORKER_DIED : OK;
}
