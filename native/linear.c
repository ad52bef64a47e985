/*
 * out = x weight^T. All parts of a call form one loop for the pool; a task is a run of rows of one
 * part. Every output is summed in the same order whatever n, the tasks and the threads are.
 */
#include "elementwise.h"
#include "pool.h"

enum {
  TILE_ROWS = 4,   /* rows that share the loads of x: as many as fit the registers */
  TILE_TOKENS = 4, /* positions that share the loads of a weight */
  PACKED = 8,      /* rows that share the loads of a code of x */
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
  float *halves;  /* x rounded to f16's precision, for f16 weights */
  size_t n, columns;
  const LinearPart *parts;
  int32_t n_parts;
  int32_t rows_per_task;
  /* x in q8: i16 [n / TILE_TOKENS, columns / 32, TILE_TOKENS, 32], or [columns] if n = 1 */
  int16_t *codes;
  float *scales; /* f32, one for each 32 codes */
  uint8_t *packed; /* [threads, packed_bytes] */
} Linear;

static size_t padded_tokens(size_t n) {
  return n == 1 ? 1 : (n + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
}

static size_t quantized_bytes(size_t n, size_t columns) {
  size_t bytes = padded_tokens(n) * (columns * sizeof(int16_t) + columns / 32 * sizeof(float));
  return (bytes + 63) / 64 * 64;
}

/** A thread's packed rows and their scales. */
static size_t packed_bytes(size_t n, size_t columns) {
  if (n == 1) return 0;
  size_t bytes = PACKED * (columns * sizeof(int16_t) + columns / 32 * sizeof(float));
  return (bytes + 63) / 64 * 64;
}

/** Bytes that `linear` needs beside its operands. */
EXPORT(linear_scratch_bytes)
size_t linear_scratch_bytes(size_t n, size_t columns, size_t threads) {
  return quantized_bytes(n, columns) + threads * packed_bytes(n, columns) + n * columns * sizeof(float);
}

static void round_input(const float *x, size_t count, float *out) {
  size_t c = 0;
  for (; c + LANES <= count; c += LANES) store_f32x4(out + c, round_to_11_bits(load_f32x4(x + c)));
  for (; c < count; c++) out[c] = round_to_11_bits(splat(x[c]))[0];
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
      float largest = max_magnitude(x, 32);
      float inverse = finite_or_zero(127 / largest);
      l->scales[at] = round_to_11_bits(splat(largest / 127))[0];
      for (size_t c = 0; c < 32; c += 8) {
        i32x4 low = to_nearest_i32(load_f32x4(x + c) * splat(inverse));
        i32x4 high = to_nearest_i32(load_f32x4(x + c + 4) * splat(inverse));
        store_i16x8(codes + c, narrow_i32(low, high));
      }
    }
  }
}

/** The integer products of a block of a row with the codes of one position, in four sums. */
INLINE i32x4 dot_block(const int8_t *weight, const int16_t *codes) {
  i32x4 a = dot_i16(widen_i8(weight), load_i16x8(codes));
  i32x4 b = dot_i16(widen_i8(weight + 8), load_i16x8(codes + 8));
  i32x4 c = dot_i16(widen_i8(weight + 16), load_i16x8(codes + 16));
  i32x4 d = dot_i16(widen_i8(weight + 24), load_i16x8(codes + 24));
  return (a + b) + (c + d);
}

/**
 * TILE_ROWS rows for one position; lane = row. Rows beyond the last repeat it and are not stored.
 *
 * Rows read side by side look like no stream to the hardware's prefetcher, which halves the speed
 * of memory or worse. So the loop also touches the next tile's cache lines, in order.
 */
static void q8_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count) {
  size_t blocks = l->columns / 32;
  const uint8_t *row[TILE_ROWS];
  for (int32_t r = 0; r < TILE_ROWS; r++) {
    int32_t at = first + (r < count ? r : count - 1);
    row[r] = (const uint8_t *)part->weight + (size_t)at * blocks * 34;
  }
  const uint8_t *r0 = row[0], *r1 = row[1], *r2 = row[2], *r3 = row[3];
  const int16_t *codes = l->codes;
  size_t tile_bytes = TILE_ROWS * blocks * 34;
  const volatile uint8_t *next = row[0] + (first + 2 * TILE_ROWS <= part->rows ? tile_bytes : 0);
  f32x4 sums = splat(0);
  for (size_t b = 0; b < blocks; b++, codes += 32, r0 += 34, r1 += 34, r2 += 34, r3 += 34) {
    i32x4 exact = sum_each_i32(
        dot_block((const int8_t *)r0 + 2, codes), dot_block((const int8_t *)r1 + 2, codes),
        dot_block((const int8_t *)r2 + 2, codes), dot_block((const int8_t *)r3 + 2, codes));
    f32x4 scale = half_to_f32(gather_u16(r0, r1, r2, r3)) * splat(l->scales[b]);
    sums = madd(to_f32(exact), scale, sums);
    (void)next[b * TILE_ROWS * 34];
    (void)next[b * TILE_ROWS * 34 + 64];
  }
  for (int32_t r = 0; r < count; r++) part->out[first + r] = sums[r];
}

/**
 * PACKED rows of q8_0 so that a vector holds two columns of four rows, which one i16 dot multiplies
 * by the same two codes of x.
 * @param codes  i16 [columns / 2, 2, 8]
 * @param scales f32 [blocks, PACKED]
 */
static void pack_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                      int16_t *codes, float *scales) {
  size_t blocks = l->columns / 32;
  for (int32_t quad = 0; quad < PACKED / 4; quad++) {
    const uint8_t *row[4];
    for (int32_t r = 0; r < 4; r++) {
      int32_t at = 4 * quad + r < count ? 4 * quad + r : count - 1;
      row[r] = (const uint8_t *)part->weight + (size_t)(first + at) * blocks * 34;
    }
    for (size_t b = 0; b < blocks; b++) {
      size_t at = b * 34;
      f32x4 scale = half_to_f32(gather_u16(row[0] + at, row[1] + at, row[2] + at, row[3] + at));
      store_f32x4(scales + b * PACKED + 4 * quad, scale);
      for (size_t c = 0; c < 32; c += 16) {
        int16_t *out = codes + (b * 32 + c) * PACKED + 8 * quad;
        i16x8 v0 = load_bytes(row[0] + at + 2 + c), v1 = load_bytes(row[1] + at + 2 + c);
        i16x8 v2 = load_bytes(row[2] + at + 2 + c), v3 = load_bytes(row[3] + at + 2 + c);
        i16x8 a = interleave_low(v0, v1), x = interleave_low(v2, v3);
        store_widened(out, 2 * PACKED, interleave_low_pairs(a, x));
        store_widened(out + 4 * PACKED, 2 * PACKED, interleave_high_pairs(a, x));
        a = interleave_high(v0, v1), x = interleave_high(v2, v3);
        store_widened(out + 8 * PACKED, 2 * PACKED, interleave_low_pairs(a, x));
        store_widened(out + 12 * PACKED, 2 * PACKED, interleave_high_pairs(a, x));
      }
    }
  }
}

/** PACKED rows for every position, TILE_TOKENS at a time; lane = row. */
static void q8_packed(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                      int16_t *packed) {
  size_t blocks = l->columns / 32;
  float *row_scales = (float *)(packed + l->columns * PACKED);
  pack_rows(l, part, first, count, packed, row_scales);
  for (size_t i = 0; i < l->n; i += TILE_TOKENS) {
    const int16_t *codes = l->codes + i * l->columns, *w = packed;
    const float *scales = l->scales + i * blocks;
    f32x4 low_sums[TILE_TOKENS], high_sums[TILE_TOKENS];
#pragma unroll
    for (size_t t = 0; t < TILE_TOKENS; t++) low_sums[t] = high_sums[t] = splat(0);
    for (size_t b = 0; b < blocks; b++, codes += 32 * TILE_TOKENS) {
      i32x4 low[TILE_TOKENS], high[TILE_TOKENS];
#pragma unroll
      for (size_t t = 0; t < TILE_TOKENS; t++) low[t] = high[t] = splat_i32(0);
      // Unrolled by 8 it ran at 0.6 of the speed in V8 11, which then spills the sums.
#pragma clang loop unroll(disable)
      for (size_t c = 0; c < 32; c += 2, w += 2 * PACKED) {
        i16x8 low_rows = load_i16x8(w), high_rows = load_i16x8(w + 8);
#pragma unroll
        for (size_t t = 0; t < TILE_TOKENS; t++) {
          i16x8 x = splat_pair(codes + 32 * t + c);
          low[t] += dot_i16(low_rows, x);
          high[t] += dot_i16(high_rows, x);
        }
      }
      f32x4 low_scale = load_f32x4(row_scales + b * PACKED);
      f32x4 high_scale = load_f32x4(row_scales + b * PACKED + 4);
#pragma unroll
      for (size_t t = 0; t < TILE_TOKENS; t++) {
        f32x4 scale = splat(scales[b * TILE_TOKENS + t]);
        low_sums[t] = madd(to_f32(low[t]), low_scale * scale, low_sums[t]);
        high_sums[t] = madd(to_f32(high[t]), high_scale * scale, high_sums[t]);
      }
    }
#pragma unroll
    for (size_t t = 0; t < TILE_TOKENS; t++) {
      if (i + t >= l->n) break;
      float sums[PACKED], *out = part->out + (i + t) * (size_t)part->rows + first;
      store_f32x4(sums, low_sums[t]);
      store_f32x4(sums + 4, high_sums[t]);
      for (int32_t r = 0; r < count; r++) out[r] = sums[r];
    }
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
      const float *x = (part->dtype == F16 ? l->halves : l->x) + i * l->columns + from;
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
  const Linear *l = context;
  const LinearPart *part = l->parts;
  for (; task >= tasks_of(l, part); part++) task -= tasks_of(l, part);
  int32_t start = task * l->rows_per_task, end = start + l->rows_per_task;
  if (end > part->rows) end = part->rows;
  if (part->dtype == Q8_0 && l->n > 1) {
    int16_t *packed = (int16_t *)(l->packed + (size_t)worker * packed_bytes(l->n, l->columns));
    for (int32_t row = start; row < end; row += PACKED)
      q8_packed(l, part, row, end - row < PACKED ? end - row : PACKED, packed);
    return;
  }
  for (int32_t row = start; row < end; row += TILE_ROWS) {
    int32_t count = end - row < TILE_ROWS ? end - row : TILE_ROWS;
    if (part->dtype == Q8_0) q8_rows(l, part, row, count);
    else float_rows(l, part, row, count);
  }
}

EXPORT(linear)
int32_t linear(const float *x, size_t n, size_t columns, const LinearPart *parts, int32_t n_parts,
               void *scratch) {
  if (!is_finite(x, n * columns)) return NOT_FINITE;
  Linear l = {.x = x, .n = n, .columns = columns, .parts = parts, .n_parts = n_parts};
  l.scales = scratch;
  l.codes = (int16_t *)(l.scales + padded_tokens(n) * (columns / 32));
  l.packed = (uint8_t *)scratch + quantized_bytes(n, columns);
  // Before the packed rows, whose number goes with the threads.
  l.halves = (float *)l.packed;
  l.packed += n * columns * sizeof(float);
  int32_t quantized = 0, halved = 0, tasks = 0;
  for (int32_t p = 0; p < n_parts; p++) {
    quantized |= parts[p].dtype == Q8_0;
    halved |= parts[p].dtype == F16;
  }
  if (quantized) quantize_input(&l);
  if (halved) round_input(x, n * columns, l.halves);
  size_t work_per_row = columns * (n < 16 ? n : 16) + 1;
  l.rows_per_task = (int32_t)((TASK_BYTES / work_per_row + PACKED) / PACKED * PACKED);
  for (int32_t p = 0; p < n_parts; p++) tasks += tasks_of(&l, parts + p);
  parallel_for(tasks, linear_task, &l);
  return pool_failed() ? WORKER_DIED : OK;
}
