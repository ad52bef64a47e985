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

/**
 * x in 8 bits, for weights in blocks of the same length. Positions stand in groups of TILE_TOKENS,
 * side by side block by block, or alone if n = 1: group = TILE_TOKENS or 1 below.
 */
typedef struct {
  size_t block;       /* elements that share a scale */
  int16_t *codes;     /* [groups, columns / block, group, block]; split_pairs if n = 1 */
  float *scales;      /* [groups, columns / block, group] */
  float *sums;        /* of the elements of each unit; [groups, columns / UNIT, group] */
  int32_t *code_sums; /* of each half of a unit; used if n = 1 */
} Input8;

typedef struct {
  const float *x; /* f32 [n, columns] */
  float *halves;  /* x rounded to f16's precision, for f16 weights */
  size_t n, columns;
  const LinearPart *parts;
  int32_t n_parts;
  int32_t rows_per_task;
  Input8 units;    /* for formats with blocks of 32 */
  Input8 supers;   /* for formats with blocks of 256 */
  uint8_t *packed; /* [threads, packed_bytes] */
} Linear;

static size_t padded_tokens(size_t n) {
  return n == 1 ? 1 : (n + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
}

/** One Input8: codes, and for each unit at most one scale, one sum and two sums of codes. */
static size_t quantized_bytes(size_t n, size_t columns) {
  size_t each = columns * sizeof(int16_t) + columns / UNIT * 4 * sizeof(float);
  return (padded_tokens(n) * each + 63) / 64 * 64;
}

/** A thread's packed rows, their scales and minima. */
static size_t packed_bytes(size_t n, size_t columns) {
  if (n == 1) return 0;
  size_t bytes = PACKED * (columns * sizeof(int16_t) + columns / UNIT * 2 * sizeof(float));
  return (bytes + 63) / 64 * 64;
}

/** Bytes that `linear` needs beside its operands. */
EXPORT(linear_scratch_bytes)
size_t linear_scratch_bytes(size_t n, size_t columns, size_t threads) {
  return 2 * quantized_bytes(n, columns) + threads * packed_bytes(n, columns) +
         n * columns * sizeof(float);
}

static void round_input(const float *x, size_t count, float *out) {
  size_t c = 0;
  for (; c + LANES <= count; c += LANES) store_f32x4(out + c, round_to_11_bits(load_f32x4(x + c)));
  for (; c < count; c++) out[c] = round_to_11_bits(splat(x[c]))[0];
}

static float round_scale(float x) { return round_to_11_bits(splat(x))[0]; }

/** codes = x * inverse to nearest, and their sums in halves of units. */
static void quantize(const float *x, size_t count, float inverse, int16_t *codes, int32_t *sums) {
  for (size_t c = 0; c < count; c += 8) {
    i32x4 low = to_nearest_i32(load_f32x4(x + c) * splat(inverse));
    i32x4 high = to_nearest_i32(load_f32x4(x + c + 4) * splat(inverse));
    store_i16x8(codes + c, narrow_i32(low, high));
    i32x4 sum = low + high;
    sums[c / 16] = (c % 16 ? sums[c / 16] : 0) + sum[0] + sum[1] + sum[2] + sum[3];
  }
}

/** Of each half of a unit first the codes in even places, then the others: weights split so. */
static void split_pairs(int16_t *codes, size_t count) {
  for (size_t c = 0; c < count; c += 16) {
    i16x8 a = load_i16x8(codes + c), b = load_i16x8(codes + c + 8);
    store_i16x8(codes + c, even_lanes(a, b));
    store_i16x8(codes + c + 8, odd_lanes(a, b));
  }
}

/** The first element of the largest magnitude, with its sign. */
static float extreme(const float *x, size_t count) {
  float largest = max_magnitude(x, count);
  while (__builtin_fabsf(*x) != largest) x++;
  return *x;
}

/**
 * One block as GGML's Q8_1 has it (Q8_0 is that without the sum), or its Q8_K. Codes are at most
 * 127: the extreme becomes exactly that.
 */
static void quantize_block(const float *x, size_t block, size_t group, int16_t *codes, float *scale,
                           float *sums, int32_t *code_sums) {
  if (block == UNIT) {
    float largest = max_magnitude(x, UNIT);
    quantize(x, UNIT, finite_or_zero(127 / largest), codes, code_sums);
    *scale = round_scale(largest / 127);
    *sums = round_scale((float)(code_sums[0] + code_sums[1]) * (largest / 127));
    return;
  }
  float inverse = finite_or_zero(-127 / extreme(x, block));
  quantize(x, block, inverse, codes, code_sums);
  *scale = inverse == 0 ? 0 : 1 / inverse;
  for (size_t u = 0; u < block / UNIT; u++)
    sums[u * group] = *scale * (float)(code_sums[2 * u] + code_sums[2 * u + 1]);
}

/** Positions that pad the last group are zero. */
static void quantize_input(const Linear *l, Input8 *q) {
  size_t blocks = l->columns / q->block, units = q->block / UNIT;
  size_t group = l->n == 1 ? 1 : TILE_TOKENS;
  for (size_t i = 0; i < padded_tokens(l->n); i++) {
    for (size_t b = 0; b < blocks; b++) {
      size_t first = (i / group * blocks + b) * group, at = first + i % group;
      int16_t *codes = q->codes + at * q->block;
      float *sums = q->sums + first * units + i % group;
      if (i < l->n) {
        const float *x = l->x + i * l->columns + b * q->block;
        int32_t *code_sums = q->code_sums + 2 * at * units;
        quantize_block(x, q->block, group, codes, q->scales + at, sums, code_sums);
        if (l->n == 1) split_pairs(codes, q->block);
        continue;
      }
      __builtin_memset(codes, 0, q->block * sizeof *codes);
      q->scales[at] = 0;
      for (size_t u = 0; u < units; u++) sums[u * group] = 0;
    }
  }
}

INLINE const Input8 *quantized_for(const Linear *l, int32_t dtype) {
  return has_units(dtype) ? &l->supers : &l->units;
}

/** The integer products of half a unit's codes with codes of x, in four sums. */
INLINE i32x4 dot_half(int32_t dtype, i16x8 weights, const int16_t *x) {
  i16x8 even = dtype == Q8_0 ? first_bytes(weights) : weights & splat_i16(255);
  i16x8 odd = dtype == Q8_0 ? weights >> (int16_t)8 : shift_right_u16(weights, 8);
  return dot_i16(even, load_i16x8(x)) + dot_i16(odd, load_i16x8(x + 8));
}

/**
 * The integer product of a unit of each of four rows with codes of x.
 * @param sums   of the halves of x
 * @param scales of the halves of the unit in each row; only Q6_K's differ
 */
INLINE i32x4 dot_unit(int32_t dtype, i16x8 codes[4][2], const int16_t *x, const int32_t *sums,
                      const i32x4 scales[2]) {
  i32x4 low[4], high[4];
  UNROLL
  for (int32_t r = 0; r < 4; r++) {
    low[r] = dot_half(dtype, codes[r][0], x);
    high[r] = dot_half(dtype, codes[r][1], x + 16);
    if (dtype != Q6_K) low[r] += high[r];
  }
  int32_t centre = centre_of(dtype);
  i32x4 first = sum_each_i32(low[0], low[1], low[2], low[3]);
  if (dtype == Q6_K) {
    i32x4 second = sum_each_i32(high[0], high[1], high[2], high[3]);
    return (first - centre * sums[0]) * scales[0] + (second - centre * sums[1]) * scales[1];
  }
  if (centre) first -= centre * (sums[0] + sums[1]);
  return has_units(dtype) ? first * scales[0] : first;
}

/** The same for a group of units, added up. */
INLINE i32x4 dot_group(int32_t dtype, const uint8_t *const row[4], size_t group, const int16_t *x,
                       const int32_t *sums, const i32x4 (*scales)[2]) {
  i16x8 codes[4][4][2];
  i32x4 total = splat_i32(0);
  if (dtype != Q5_K && dtype != Q6_K) {
    UNROLL
    for (size_t k = 0; k < group_units(dtype); k++) {
      for (int32_t r = 0; r < 4; r++) unit_codes(dtype, row[r], group, k, codes[k][r]);
      total += dot_unit(dtype, codes[k], x + UNIT * k, sums + 2 * k, scales[k]);
    }
    return total;
  }
  // By way of memory: the bytes that their units share do not fit the registers.
  UNROLL
  for (int32_t r = 0; r < 4; r++) {
    UNROLL
    for (size_t k = 0; k < group_units(dtype); k++)
      unit_codes(dtype, row[r], group, k, codes[k][r]);
  }
  NO_UNROLL
  for (size_t k = 0; k < group_units(dtype); k++)
    total += dot_unit(dtype, codes[k], x + UNIT * k, sums + 2 * k, scales[k]);
  return total;
}

/**
 * TILE_ROWS rows for one position; lane = row. Rows beyond the last repeat it and are not stored.
 *
 * Rows read side by side look like no stream to the hardware's prefetcher, which halves the speed
 * of memory or worse. So the loop also touches the next tile's cache lines, in order.
 */
INLINE void tile_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                      int32_t dtype) {
  const Input8 *q = quantized_for(l, dtype);
  size_t bytes = block_bytes(dtype), length = block_length(dtype), blocks = l->columns / length;
  size_t groups = length / UNIT / group_units(dtype);
  const uint8_t *row[TILE_ROWS];
  for (int32_t r = 0; r < TILE_ROWS; r++) {
    int32_t at = first + (r < count ? r : count - 1);
    row[r] = (const uint8_t *)part->weight + (size_t)at * blocks * bytes;
  }
  const int16_t *codes = q->codes;
  const int32_t *code_sums = q->code_sums;
  const float *x_sums = q->sums;
  // After the last whole tile there is nothing to touch: then some of x, again and again.
  int32_t is_next = first + 2 * TILE_ROWS <= part->rows;
  const volatile uint8_t *next = (const uint8_t *)codes;
  if (is_next) next = row[0] + TILE_ROWS * blocks * bytes;
  f32x4 sums = splat(0);
  for (size_t b = 0; b < blocks; b++) {
    Header h = read_header(dtype, row[0], row[1], row[2], row[3]);
    // In memory: there are not registers enough for them.
    i32x4 scales[8][2];
    for (size_t u = 0; u < length / UNIT; u++) {
      if (has_minima(dtype)) sums = madd(unit_min(dtype, &h, u), splat(x_sums[u]), sums);
      for (size_t half = 0; half < 2; half++) scales[u][half] = unit_scale(dtype, &h, u, half);
    }
    i32x4 exact = splat_i32(0);
    NO_UNROLL
    for (size_t g = 0; g < groups; g++) {
      exact += dot_group(dtype, row, g, codes, code_sums, scales + g * group_units(dtype));
      codes += group_units(dtype) * UNIT, code_sums += group_units(dtype) * 2;
    }
    sums = madd(to_f32(exact), h.scale * splat(q->scales[b]), sums);
    UNROLL
    for (size_t line = 0; line + 64 <= TILE_ROWS * bytes; line += 64) (void)next[line];
    next += is_next ? TILE_ROWS * bytes : 0;
    x_sums += length / UNIT;
    for (int32_t r = 0; r < TILE_ROWS; r++) row[r] += bytes;
  }
  for (int32_t r = 0; r < count; r++) part->out[first + r] = sums[r];
}

/** Four rows of bytes, two columns of each row to a vector of i16: (byte - centre) * scale. */
INLINE void store_transposed(const i16x8 v[4], i16x8 centre, i16x8 scales, int16_t *out) {
  size_t pair = 2 * PACKED;
  i16x8 a = interleave_low(v[0], v[1]), b = interleave_low(v[2], v[3]);
  i16x8 c = interleave_high(v[0], v[1]), d = interleave_high(v[2], v[3]);
  i16x8 eight[4] = {interleave_low_pairs(a, b), interleave_high_pairs(a, b),
                    interleave_low_pairs(c, d), interleave_high_pairs(c, d)};
  UNROLL
  for (size_t i = 0; i < 4; i++) {
    store_i16x8(out + 2 * i * pair, (low_bytes(eight[i]) - centre) * scales);
    store_i16x8(out + (2 * i + 1) * pair, (high_bytes(eight[i]) - centre) * scales);
  }
}

/**
 * PACKED rows so that a vector holds two columns of four rows, which one i16 dot multiplies by the
 * same two codes of x. Unit scales are multiplied in: at most 128 * 32.
 * @param codes  i16 [columns / 2, 2, 8]
 * @param scales f32 [blocks, PACKED]
 * @param minima f32 [columns / UNIT, PACKED]
 */
INLINE void pack_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                      int32_t dtype, int16_t *codes, float *scales, float *minima) {
  size_t bytes = block_bytes(dtype), units = block_length(dtype) / UNIT;
  size_t blocks = l->columns / block_length(dtype);
  for (int32_t quad = 0; quad < PACKED / 4; quad++) {
    const uint8_t *row[4];
    for (int32_t r = 0; r < 4; r++) {
      int32_t at = 4 * quad + r < count ? 4 * quad + r : count - 1;
      row[r] = (const uint8_t *)part->weight + (size_t)(first + at) * blocks * bytes;
    }
    for (size_t b = 0; b < blocks; b++) {
      Header h = read_header(dtype, row[0], row[1], row[2], row[3]);
      store_f32x4(scales + b * PACKED + 4 * quad, h.scale);
      for (size_t g = 0; g < units; g += group_units(dtype)) {
        UNROLL
        for (size_t k = 0; k < group_units(dtype); k++) {
          size_t unit = b * units + g + k;
          if (has_minima(dtype))
            store_f32x4(minima + unit * PACKED + 4 * quad, unit_min(dtype, &h, g + k));
          i16x8 v[4][2];
          for (int32_t r = 0; r < 4; r++)
            unit_codes(dtype, row[r], g / group_units(dtype), k, v[r]);
          for (size_t half = 0; half < 2; half++) {
            i32x4 scale = unit_scale(dtype, &h, g + k, half);
            i16x8 pairs = (i16x8)((scale & 0xffff) | (scale << 16));
            i16x8 rows[4] = {v[0][half], v[1][half], v[2][half], v[3][half]};
            store_transposed(rows, splat_i16(centre_of(dtype)), pairs,
                             codes + (unit * UNIT + 16 * half) * PACKED + 8 * quad);
          }
        }
      }
      for (int32_t r = 0; r < 4; r++) row[r] += bytes;
    }
  }
}

/** PACKED rows for every position, TILE_TOKENS at a time; lane = row. */
INLINE void multiply_packed(const Linear *l, const LinearPart *part, int32_t first, int32_t count,
                            int32_t dtype, const int16_t *packed, const float *row_scales,
                            const float *minima) {
  const Input8 *q = quantized_for(l, dtype);
  size_t length = block_length(dtype), blocks = l->columns / length, units = l->columns / UNIT;
  for (size_t i = 0; i < l->n; i += TILE_TOKENS) {
    const int16_t *codes = q->codes + i * l->columns, *w = packed;
    const float *scales = q->scales + i * blocks;
    const float *x_sums = q->sums + i * units;
    f32x4 low_sums[TILE_TOKENS], high_sums[TILE_TOKENS];
    UNROLL
    for (size_t t = 0; t < TILE_TOKENS; t++) low_sums[t] = high_sums[t] = splat(0);
    for (size_t b = 0; b < blocks; b++, codes += length * TILE_TOKENS) {
      i32x4 low[TILE_TOKENS], high[TILE_TOKENS];
      UNROLL
      for (size_t t = 0; t < TILE_TOKENS; t++) low[t] = high[t] = splat_i32(0);
      // Unrolled by 8 it ran at 0.6 of the speed in V8 11, which then spills the sums.
      NO_UNROLL
      for (size_t c = 0; c < length; c += 2, w += 2 * PACKED) {
        i16x8 low_rows = load_i16x8(w), high_rows = load_i16x8(w + 8);
        UNROLL
        for (size_t t = 0; t < TILE_TOKENS; t++) {
          i16x8 x = splat_pair(codes + length * t + c);
          low[t] += dot_i16(low_rows, x);
          high[t] += dot_i16(high_rows, x);
        }
      }
      if (has_minima(dtype)) {
        for (size_t u = b * (length / UNIT); u < (b + 1) * (length / UNIT); u++) {
          f32x4 low_min = load_f32x4(minima + u * PACKED);
          f32x4 high_min = load_f32x4(minima + u * PACKED + 4);
          UNROLL
          for (size_t t = 0; t < TILE_TOKENS; t++) {
            f32x4 sum = splat(x_sums[u * TILE_TOKENS + t]);
            low_sums[t] = madd(low_min, sum, low_sums[t]);
            high_sums[t] = madd(high_min, sum, high_sums[t]);
          }
        }
      }
      f32x4 low_scale = load_f32x4(row_scales + b * PACKED);
      f32x4 high_scale = load_f32x4(row_scales + b * PACKED + 4);
      UNROLL
      for (size_t t = 0; t < TILE_TOKENS; t++) {
        f32x4 scale = splat(scales[b * TILE_TOKENS + t]);
        low_sums[t] = madd(to_f32(low[t]), low_scale * scale, low_sums[t]);
        high_sums[t] = madd(to_f32(high[t]), high_scale * scale, high_sums[t]);
      }
    }
    UNROLL
    for (size_t t = 0; t < TILE_TOKENS; t++) {
      if (i + t >= l->n) break;
      float sums[PACKED], *out = part->out + (i + t) * (size_t)part->rows + first;
      store_f32x4(sums, low_sums[t]);
      store_f32x4(sums + 4, high_sums[t]);
      for (int32_t r = 0; r < count; r++) out[r] = sums[r];
    }
  }
}

/** Rows start to end of a format with blocks. */
INLINE void block_rows(const Linear *l, const LinearPart *part, int32_t start, int32_t end,
                       int32_t worker, int32_t dtype) {
  int32_t step = l->n == 1 ? TILE_ROWS : PACKED;
  int16_t *packed = (int16_t *)(l->packed + (size_t)worker * packed_bytes(l->n, l->columns));
  float *scales = (float *)(packed + l->columns * PACKED);
  float *minima = scales + l->columns / UNIT * PACKED;
  for (int32_t row = start; row < end; row += step) {
    int32_t count = end - row < step ? end - row : step;
    if (l->n == 1) {
      tile_rows(l, part, row, count, dtype);
      continue;
    }
    pack_rows(l, part, row, count, dtype, packed, scales, minima);
    multiply_packed(l, part, row, count, dtype, packed, scales, minima);
  }
}

/*
 * A function for each format, in which its number is a constant. They are kept apart: V8 allots
 * registers badly in one function that holds them all.
 */
typedef void BlockTask(const Linear *l, const LinearPart *part, int32_t start, int32_t end,
                       int32_t worker);
#define DEFINE_BLOCK_TASK(dtype)                                                                   \
  __attribute__((noinline)) static void rows_of_##dtype(                                           \
      const Linear *l, const LinearPart *part, int32_t start, int32_t end, int32_t worker) {       \
    block_rows(l, part, start, end, worker, dtype);                                                \
  }
DEFINE_BLOCK_TASK(Q8_0)
DEFINE_BLOCK_TASK(Q4_0)
DEFINE_BLOCK_TASK(Q4_1)
DEFINE_BLOCK_TASK(Q5_0)
DEFINE_BLOCK_TASK(Q5_1)
DEFINE_BLOCK_TASK(Q4_K)
DEFINE_BLOCK_TASK(Q5_K)
DEFINE_BLOCK_TASK(Q6_K)
static BlockTask *const block_tasks[] = {
    [Q8_0] = rows_of_Q8_0, [Q4_0] = rows_of_Q4_0, [Q4_1] = rows_of_Q4_1, [Q5_0] = rows_of_Q5_0,
    [Q5_1] = rows_of_Q5_1, [Q4_K] = rows_of_Q4_K, [Q5_K] = rows_of_Q5_K, [Q6_K] = rows_of_Q6_K,
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
  if (has_blocks(part->dtype)) {
    block_tasks[part->dtype](l, part, start, end, worker);
    return;
  }
  for (int32_t row = start; row < end; row += TILE_ROWS)
    float_rows(l, part, row, end - row < TILE_ROWS ? end - row : TILE_ROWS);
}

/** Lays out a Input8 in `memory`. */
static Input8 quantized_at(uint8_t *memory, size_t n, size_t columns, size_t block) {
  float *scales = (float *)memory, *sums = scales + padded_tokens(n) * (columns / UNIT);
  int16_t *codes = (int16_t *)(sums + padded_tokens(n) * (columns / UNIT));
  int32_t *code_sums = (int32_t *)(codes + padded_tokens(n) * columns);
  return (Input8){block, codes, scales, sums, code_sums};
}

EXPORT(linear)
int32_t linear(const float *x, size_t n, size_t columns, const LinearPart *parts, int32_t n_parts,
               void *scratch) {
  if (!is_finite(x, n * columns)) return NOT_FINITE;
  Linear l = {.x = x, .n = n, .columns = columns, .parts = parts, .n_parts = n_parts};
  uint8_t *memory = scratch;
  l.units = quantized_at(memory, n, columns, UNIT);
  l.supers = quantized_at(memory + quantized_bytes(n, columns), n, columns, 256);
  l.packed = memory + 2 * quantized_bytes(n, columns);
  // Before the packed rows, whose number goes with the threads.
  l.halves = (float *)l.packed;
  l.packed += n * columns * sizeof(float);
  int32_t in_units = 0, in_supers = 0, halved = 0, tasks = 0;
  for (int32_t p = 0; p < n_parts; p++) {
    in_units |= has_blocks(parts[p].dtype) && !has_units(parts[p].dtype);
    in_supers |= has_units(parts[p].dtype);
    halved |= parts[p].dtype == F16;
  }
  if (in_units) quantize_input(&l, &l.units);
  if (in_supers) quantize_input(&l, &l.supers);
  if (halved) round_input(x, n * columns, l.halves);
  size_t work_per_row = columns * (n < 16 ? n : 16) + 1;
  l.rows_per_task = (int32_t)((TASK_BYTES / work_per_row + PACKED) / PACKED * PACKED);
  for (int32_t p = 0; p < n_parts; p++) tasks += tasks_of(&l, parts + p);
  parallel_for(tasks, linear_task, &l);
  return pool_failed() ? WORKER_DIED : OK;
}
