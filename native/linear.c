/*
 * out = x weight^T. All parts of a call form one loop for the pool; a task is a run of rows of one
 * part. Every output is summed in the same order whatever n, the tasks and the threads are.
 */
#include "blocks.h"
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

/** x in 8-bit codes; a run is 32 columns of a position. */
typedef struct {
  int16_t *codes; /* [n / TILE_TOKENS, columns / 32, TILE_TOKENS, 32], or [columns] if n = 1 */
  float *scales;  /* of each run */
  float *sums;    /* of each run: scale * sum of its codes, what a minimum is multiplied by */
} Codes;

typedef struct {
  const float *x; /* f32 [n, columns] */
  float *halves;  /* x rounded to f16's precision, for f16 weights */
  size_t n, columns;
  const LinearPart *parts;
  int32_t n_parts;
  int32_t rows_per_task;
  Codes by_32, by_256; /* for blocks of 32, and of 256 columns that share a scale */
  uint8_t *packed;     /* [threads, packed_bytes] */
} Linear;

static size_t padded_tokens(size_t n) {
  return n == 1 ? 1 : (n + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
}

static size_t round_to_64(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t codes_bytes(size_t n, size_t columns) {
  return round_to_64(padded_tokens(n) *
                     (columns * sizeof(int16_t) + columns / 32 * 2 * sizeof(float)));
}

static Codes codes_at(uint8_t *memory, size_t n, size_t columns) {
  Codes c = {.scales = (float *)memory};
  c.sums = c.scales + padded_tokens(n) * (columns / 32);
  c.codes = (int16_t *)(c.sums + padded_tokens(n) * (columns / 32));
  return c;
}

/** A thread's packed rows, their scales and minima. */
static size_t packed_bytes(size_t n, size_t columns) {
  if (n == 1) return 0;
  return round_to_64(PACKED * (columns * sizeof(int16_t) + columns / 32 * 3 * sizeof(float)));
}

/** Bytes that `linear` needs beside its operands. */
EXPORT(linear_scratch_bytes)
size_t linear_scratch_bytes(size_t n, size_t columns, size_t threads) {
  return 2 * codes_bytes(n, columns) + threads * packed_bytes(n, columns) +
         n * columns * sizeof(float);
}

static void round_input(const float *x, size_t count, float *out) {
  size_t c = 0;
  for (; c + LANES <= count; c += LANES) store_f32x4(out + c, round_to_11_bits(load_f32x4(x + c)));
  for (; c < count; c++) out[c] = round_to_11_bits(splat(x[c]))[0];
}

/** Where run `b` of position i lies among the codes. */
INLINE size_t run_at(const Linear *l, size_t i, size_t b) {
  size_t group = l->n == 1 ? 1 : TILE_TOKENS;
  return (i / group * (l->columns / 32) + b) * group + i % group;
}

/** Codes of one run. @param inverse what x is multiplied by before it is rounded */
INLINE void quantize_run(const float *x, float inverse, float scale, size_t at, Codes *out) {
  i32x4 sum = splat_i32(0);
  for (size_t c = 0; c < 32; c += 8) {
    i32x4 low = to_nearest_i32(load_f32x4(x + c) * splat(inverse));
    i32x4 high = to_nearest_i32(load_f32x4(x + c + 4) * splat(inverse));
    low = select_i32(low > 127, splat_i32(127), low);
    high = select_i32(high > 127, splat_i32(127), high);
    store_i16x8(out->codes + at * 32 + c, narrow_i32(low, high));
    sum += low + high;
  }
  out->scales[at] = scale;
  out->sums[at] = scale * (float)((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/** The value of largest magnitude, with its sign; the first of equals. */
static float extreme_of(const float *x, size_t count) {
  float largest = max_magnitude(x, count);
  for (size_t c = 0; c < count; c++)
    if (__builtin_fabsf(x[c]) == largest) return x[c];
  return 0;
}

/** x in codes, four positions side by side. Positions that pad the last group count as zero. */
static void quantize_input(const Linear *l, size_t block, Codes *out) {
  for (size_t i = 0; i < padded_tokens(l->n); i++) {
    for (size_t from = 0; from < l->columns; from += block) {
      if (i >= l->n) {
        for (size_t c = 0; c < block; c += 32) {
          size_t at = run_at(l, i, (from + c) / 32);
          out->scales[at] = out->sums[at] = 0;
          __builtin_memset(out->codes + at * 32, 0, 64);
        }
        continue;
      }
      const float *x = l->x + i * l->columns + from;
      float inverse, scale;
      if (block == 32) {
        float largest = max_magnitude(x, 32);
        inverse = finite_or_zero(127 / largest);
        scale = round_to_11_bits(splat(largest / 127))[0];
      } else {
        inverse = finite_or_zero(-127 / extreme_of(x, block));
        scale = finite_or_zero(1 / inverse);
      }
      for (size_t c = 0; c < block; c += 32)
        quantize_run(x + c, inverse, scale, run_at(l, i, (from + c) / 32), out);
    }
  }
}

INLINE const Codes *codes_for(const Linear *l, int32_t dtype) {
  return block_elements(dtype) == 32 ? &l->by_32 : &l->by_256;
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
  const int16_t *codes = l->by_32.codes;
  size_t tile_bytes = TILE_ROWS * blocks * 34;
  const volatile uint8_t *next = row[0] + (first + 2 * TILE_ROWS <= part->rows ? tile_bytes : 0);
  f32x4 sums = splat(0);
  for (size_t b = 0; b < blocks; b++, codes += 32, r0 += 34, r1 += 34, r2 += 34, r3 += 34) {
    i32x4 exact = sum_each_i32(
        dot_block((const int8_t *)r0 + 2, codes), dot_block((const int8_t *)r1 + 2, codes),
        dot_block((const int8_t *)r2 + 2, codes), dot_block((const int8_t *)r3 + 2, codes));
    f32x4 scale = half_to_f32(gather_u16(r0, r1, r2, r3)) * splat(l->by_32.scales[b]);
    sums = madd(to_f32(exact), scale, sums);
    (void)next[b * TILE_ROWS * 34];
    (void)next[b * TILE_ROWS * 34 + 64];
  }
  for (int32_t r = 0; r < count; r++) part->out[first + r] = sums[r];
}

/**
 * TILE_ROWS rows of any block format for one position: a block of each row is unpacked, then
 * multiplied run by run; lane = row. Rows beyond the last repeat it and are not stored.
 */
INLINE void block_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                       int32_t dtype) {
  const Codes *x = codes_for(l, dtype);
  size_t elements = block_elements(dtype), bytes = block_bytes(dtype), runs = elements / 32;
  size_t blocks = l->columns / elements;
  const uint8_t *row[TILE_ROWS];
  for (int32_t r = 0; r < TILE_ROWS; r++) {
    int32_t at = first + (r < count ? r : count - 1);
    row[r] = (const uint8_t *)part->weight + (size_t)at * blocks * bytes;
  }
  size_t tile_bytes = TILE_ROWS * blocks * bytes;
  const volatile uint8_t *next = row[0] + (first + 2 * TILE_ROWS <= part->rows ? tile_bytes : 0);
  f32x4 sums = splat(0);
  for (size_t b = 0; b < blocks; b++) {
    int8_t codes[TILE_ROWS][MAX_BLOCK];
    float scales[2 * MAX_RUNS][TILE_ROWS], minima[MAX_RUNS][TILE_ROWS];
#pragma unroll
    for (int32_t r = 0; r < TILE_ROWS; r++)
      unpack_block(dtype, row[r] + b * bytes, TILE_ROWS, codes[r], scales[0] + r, minima[0] + r);
    for (size_t touched = 0; touched < TILE_ROWS * bytes; touched += 64)
      (void)next[b * TILE_ROWS * bytes + touched];
    for (size_t run = 0; run < runs; run++) {
      size_t at = b * runs + run;
      const int16_t *c = x->codes + at * 32;
      i32x4 half[TILE_ROWS][2];
#pragma unroll
      for (int32_t r = 0; r < TILE_ROWS; r++) {
        const int8_t *w = codes[r] + run * 32;
        half[r][0] = dot_i16(widen_i8(w), load_i16x8(c)) + dot_i16(widen_i8(w + 8), load_i16x8(c + 8));
        half[r][1] = dot_i16(widen_i8(w + 16), load_i16x8(c + 16)) +
                     dot_i16(widen_i8(w + 24), load_i16x8(c + 24));
      }
      f32x4 x_scale = splat(x->scales[at]);
      f32x4 scale = load_f32x4(scales[2 * run]) * x_scale;
      if (dtype == Q6_K) {
        i32x4 low = sum_each_i32(half[0][0], half[1][0], half[2][0], half[3][0]);
        i32x4 high = sum_each_i32(half[0][1], half[1][1], half[2][1], half[3][1]);
        sums = madd(to_f32(low), scale, sums);
        sums = madd(to_f32(high), load_f32x4(scales[2 * run + 1]) * x_scale, sums);
      } else {
        i32x4 exact = sum_each_i32(half[0][0] + half[0][1], half[1][0] + half[1][1],
                                   half[2][0] + half[2][1], half[3][0] + half[3][1]);
        sums = madd(to_f32(exact), scale, sums);
      }
      if (has_minima(dtype)) sums = madd(load_f32x4(minima[run]), splat(x->sums[at]), sums);
    }
  }
  for (int32_t r = 0; r < count; r++) part->out[first + r] = sums[r];
}

/**
 * PACKED rows so that a vector holds two columns of four rows, which one i16 dot multiplies by the
 * same two codes of x.
 */
typedef struct {
  int16_t *codes; /* [columns / 2, 2, 8] */
  float *scales;  /* [columns / 16, PACKED] */
  float *minima;  /* [columns / 32, PACKED] */
} Packed;

static Packed packed_at(uint8_t *memory, size_t columns) {
  Packed p = {.codes = (int16_t *)memory};
  p.scales = (float *)(p.codes + columns * PACKED);
  p.minima = p.scales + columns / 16 * PACKED;
  return p;
}

INLINE void pack_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                      int32_t dtype, Packed out) {
  size_t elements = block_elements(dtype), blocks = l->columns / elements;
  for (int32_t quad = 0; quad < PACKED / 4; quad++) {
    const uint8_t *row[4];
    for (int32_t r = 0; r < 4; r++) {
      int32_t at = 4 * quad + r < count ? 4 * quad + r : count - 1;
      row[r] = (const uint8_t *)part->weight + (size_t)(first + at) * blocks * block_bytes(dtype);
    }
    for (size_t b = 0; b < blocks; b++) {
      int8_t unpacked[4][MAX_BLOCK];
      float *scales = out.scales + b * (elements / 16) * PACKED + 4 * quad;
      float *minima = out.minima + b * (elements / 32) * PACKED + 4 * quad;
      for (int32_t r = 0; r < 4; r++)
        unpack_block(dtype, row[r] + b * block_bytes(dtype), PACKED, unpacked[r], scales + r, minima + r);
      for (size_t c = 0; c < elements; c += 16) {
        int16_t *to = out.codes + (b * elements + c) * PACKED + 8 * quad;
        i16x8 v0 = load_bytes((const uint8_t *)unpacked[0] + c);
        i16x8 v1 = load_bytes((const uint8_t *)unpacked[1] + c);
        i16x8 v2 = load_bytes((const uint8_t *)unpacked[2] + c);
        i16x8 v3 = load_bytes((const uint8_t *)unpacked[3] + c);
        i16x8 a = interleave_low(v0, v1), x = interleave_low(v2, v3);
        store_widened(to, 2 * PACKED, interleave_low_pairs(a, x));
        store_widened(to + 4 * PACKED, 2 * PACKED, interleave_high_pairs(a, x));
        a = interleave_high(v0, v1), x = interleave_high(v2, v3);
        store_widened(to + 8 * PACKED, 2 * PACKED, interleave_low_pairs(a, x));
        store_widened(to + 12 * PACKED, 2 * PACKED, interleave_high_pairs(a, x));
      }
    }
  }
}

/** PACKED rows for every position, TILE_TOKENS at a time; lane = row; a scale holds for `span` columns. */
INLINE void packed_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                        int32_t dtype, size_t span, Packed packed) {
  size_t runs = l->columns / 32;
  const Codes *x = codes_for(l, dtype);
  for (size_t i = 0; i < l->n; i += TILE_TOKENS) {
    const int16_t *codes = x->codes + i * l->columns, *w = packed.codes;
    const float *scales = x->scales + i * runs, *x_sums = x->sums + i * runs;
    f32x4 low_sums[TILE_TOKENS], high_sums[TILE_TOKENS];
#pragma unroll
    for (size_t t = 0; t < TILE_TOKENS; t++) low_sums[t] = high_sums[t] = splat(0);
    for (size_t b = 0; b < runs; b++, codes += 32 * TILE_TOKENS) {
      for (size_t from = 0; from < 32; from += span) {
        i32x4 low[TILE_TOKENS], high[TILE_TOKENS];
#pragma unroll
        for (size_t t = 0; t < TILE_TOKENS; t++) low[t] = high[t] = splat_i32(0);
        // Unrolled by 8 it ran at 0.6 of the speed in V8 11, which then spills the sums.
#pragma clang loop unroll(disable)
        for (size_t c = from; c < from + span; c += 2, w += 2 * PACKED) {
          i16x8 low_rows = load_i16x8(w), high_rows = load_i16x8(w + 8);
#pragma unroll
          for (size_t t = 0; t < TILE_TOKENS; t++) {
            i16x8 pair = splat_pair(codes + 32 * t + c);
            low[t] += dot_i16(low_rows, pair);
            high[t] += dot_i16(high_rows, pair);
          }
        }
        const float *row_scales = packed.scales + (b * 2 + from / 16) * PACKED;
        f32x4 low_scale = load_f32x4(row_scales), high_scale = load_f32x4(row_scales + 4);
#pragma unroll
        for (size_t t = 0; t < TILE_TOKENS; t++) {
          f32x4 scale = splat(scales[b * TILE_TOKENS + t]);
          low_sums[t] = madd(to_f32(low[t]), low_scale * scale, low_sums[t]);
          high_sums[t] = madd(to_f32(high[t]), high_scale * scale, high_sums[t]);
        }
      }
      if (!has_minima(dtype)) continue;
      f32x4 low_minima = load_f32x4(packed.minima + b * PACKED);
      f32x4 high_minima = load_f32x4(packed.minima + b * PACKED + 4);
#pragma unroll
      for (size_t t = 0; t < TILE_TOKENS; t++) {
        f32x4 sum = splat(x_sums[b * TILE_TOKENS + t]);
        low_sums[t] = madd(low_minima, sum, low_sums[t]);
        high_sums[t] = madd(high_minima, sum, high_sums[t]);
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

/** Rows start .. end - 1 of a block format. */
INLINE void format_task(const Linear *l, const LinearPart *part, int32_t start, int32_t end,
                       int32_t dtype, uint8_t *memory) {
  if (l->n == 1) {
    for (int32_t row = start; row < end; row += TILE_ROWS) {
      int32_t count = end - row < TILE_ROWS ? end - row : TILE_ROWS;
      if (dtype == Q8_0) q8_rows(l, part, row, count);
      else block_rows(l, part, row, count, dtype);
    }
    return;
  }
  Packed packed = packed_at(memory, l->columns);
  for (int32_t row = start; row < end; row += PACKED) {
    int32_t count = end - row < PACKED ? end - row : PACKED;
    pack_rows(l, part, row, count, dtype, packed);
    packed_rows(l, part, row, count, dtype, dtype == Q6_K ? 16 : 32, packed);
  }
}

/*
 * A function for each format, in which its number is a constant. They are kept apart: V8 allots
 * registers badly in one function that holds them all, which ran at half the speed.
 */
typedef void (*FormatTask)(const Linear *, const LinearPart *, int32_t start, int32_t end, uint8_t *memory);
#define DEFINE_FORMAT_TASK(dtype)                                                                  \
  __attribute__((noinline)) static void task_##dtype(                                              \
      const Linear *l, const LinearPart *part, int32_t start, int32_t end, uint8_t *memory) {      \
    format_task(l, part, start, end, dtype, memory);                                               \
  }
DEFINE_FORMAT_TASK(Q8_0)
DEFINE_FORMAT_TASK(Q4_0)
DEFINE_FORMAT_TASK(Q4_1)
DEFINE_FORMAT_TASK(Q5_0)
DEFINE_FORMAT_TASK(Q5_1)
DEFINE_FORMAT_TASK(Q4_K)
DEFINE_FORMAT_TASK(Q5_K)
DEFINE_FORMAT_TASK(Q6_K)
static const FormatTask format_tasks[] = {
    [Q8_0] = task_Q8_0, [Q4_0] = task_Q4_0, [Q4_1] = task_Q4_1, [Q5_0] = task_Q5_0,
    [Q5_1] = task_Q5_1, [Q4_K] = task_Q4_K, [Q5_K] = task_Q5_K, [Q6_K] = task_Q6_K,
};

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
  uint8_t *memory = l->packed + (size_t)worker * packed_bytes(l->n, l->columns);
  if (part->dtype >= Q8_0) {
    format_tasks[part->dtype](l, part, start, end, memory);
    return;
  }
  for (int32_t row = start; row < end; row += TILE_ROWS)
    float_rows(l, part, row, end - row < TILE_ROWS ? end - row : TILE_ROWS);
}

EXPORT(linear)
int32_t linear(const float *x, size_t n, size_t columns, const LinearPart *parts, int32_t n_parts,
               void *scratch) {
  if (!is_finite(x, n * columns)) return NOT_FINITE;
  Linear l = {.x = x, .n = n, .columns = columns, .parts = parts, .n_parts = n_parts};
  uint8_t *memory = scratch;
  l.by_32 = codes_at(memory, n, columns);
  l.by_256 = codes_at(memory += codes_bytes(n, columns), n, columns);
  l.halves = (float *)(memory += codes_bytes(n, columns));
  l.packed = memory + n * columns * sizeof(float);
  int32_t wants_32 = 0, wants_256 = 0, wants_halves = 0, tasks = 0;
  for (int32_t p = 0; p < n_parts; p++) {
    int32_t dtype = parts[p].dtype;
    wants_halves |= dtype == F16;
    wants_32 |= dtype >= Q8_0 && block_elements(dtype) == 32;
    wants_256 |= dtype >= Q8_0 && block_elements(dtype) == 256;
  }
  if (wants_32) quantize_input(&l, 32, &l.by_32);
  if (wants_256) quantize_input(&l, 256, &l.by_256);
  if (wants_halves) round_input(x, n * columns, l.halves);
  size_t work_per_row = columns * (n < 16 ? n : 16) + 1;
  l.rows_per_task = (int32_t)((TASK_BYTES / work_per_row + PACKED) / PACKED * PACKED);
  for (int32_t p = 0; p < n_parts; p++) tasks += tasks_of(&l, parts + p);
  parallel_for(tasks, linear_task, &l);
  return pool_failed() ? WORKER_DIED : OK;
}
