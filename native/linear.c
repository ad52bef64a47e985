/*
 * out = x weight^T. The rows of all parts of a call are shared out among the threads. Every output is
 * summed in the same order whatever n, the parts and the threads are.
 */
#include <stdatomic.h>

#include "dot.h"
#include "pool.h"

enum {
  PACKED = VECTORS * WIDE, /* rows that share the loads of a code of x */
  FLOAT_TOKENS = WIDE == 16 ? 4 : 2, /* positions that share the loads of weights that are floats */
  TAKEN_BYTES = 1 << 14, /* weights that a thread takes at a time: many beside the cost of that */
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
  size_t block;       /* elements that share a scale; 0: no weights want this */
  Code *codes;        /* [groups, columns / block, group, block]; PAIRED and n = 1: split_pairs */
  float *scales;      /* [groups, columns / block, group] */
  float *sums;        /* of the elements of each unit; [groups, columns / UNIT, group] */
  int32_t *code_sums; /* of each half of a unit; [groups, columns / block, group, 2 block / UNIT] */
} Input8;

/** Rows that one thread begins with. */
typedef struct {
  _Alignas(64) _Atomic int32_t next; /* step that nobody has taken */
} Range;

typedef struct {
  const float *x; /* f32 [n, columns] */
  float *halves;  /* x rounded to f16's precision, for f16 weights */
  size_t n, columns;
  const LinearPart *parts;
  int32_t n_parts;
  int32_t steps; /* of PACKED rows, in all parts */
  int32_t taken; /* steps at a time */
  int32_t threads;
  Range *ranges; /* [threads], of steps */
  Input8 units;    /* for formats with blocks of 32 */
  Input8 supers;   /* for formats with blocks of 256 */
  uint8_t *packed; /* [threads, packed_bytes] */
} Linear;

static size_t padded_tokens(size_t n) {
  return n == 1 ? 1 : (n + TILE_TOKENS - 1) / TILE_TOKENS * TILE_TOKENS;
}

/** One Input8: codes, and for each unit at most one scale, one sum and two sums of codes. */
static size_t quantized_bytes(size_t n, size_t columns) {
  size_t each = columns * sizeof(Code) + columns / UNIT * 4 * sizeof(float);
  return (padded_tokens(n) * each + 63) / 64 * 64;
}

/** A thread's packed rows: codes, a scale and minimum for each unit, and two unit scales. */
static size_t packed_bytes(size_t n, size_t columns) {
  if (n == 1) return 0;
  size_t bytes = PACKED * (columns * sizeof(Code) + columns / UNIT * 4 * sizeof(float));
  return (bytes + 63) / 64 * 64;
}

/** Bytes that `linear` needs beside its operands. */
EXPORT(linear_scratch_bytes)
size_t linear_scratch_bytes(size_t n, size_t columns, size_t threads) {
  return threads * sizeof(Range) + 2 * quantized_bytes(n, columns) +
         threads * packed_bytes(n, columns) + n * columns * sizeof(float);
}

static void round_input(const float *x, size_t count, float *out) {
  size_t c = 0;
  for (; c + LANES <= count; c += LANES) store_f32x4(out + c, round_to_11_bits(load_f32x4(x + c)));
  for (; c < count; c++) out[c] = round_to_11_bits(splat(x[c]))[0];
}

static float round_scale(float x) { return round_to_11_bits(splat(x))[0]; }

/** codes = x * inverse to nearest, and their sums in halves of units. */
static void quantize(const float *x, size_t count, float inverse, Code *codes, int32_t *sums) {
  for (size_t c = 0; c < count; c += 8) {
    i32x4 low = to_nearest_i32(load_f32x4(x + c) * splat(inverse));
    i32x4 high = to_nearest_i32(load_f32x4(x + c + 4) * splat(inverse));
    store_eight_codes(codes + c, low, high);
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
static void quantize_block(const float *x, size_t block, size_t group, Code *codes, float *scale,
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

/** One group of positions; those that pad the last group are zero. */
static void quantize_group(const Linear *l, const Input8 *q, size_t number) {
  size_t blocks = l->columns / q->block, units = q->block / UNIT;
  size_t group = l->n == 1 ? 1 : TILE_TOKENS;
  for (size_t i = number * group; i < (number + 1) * group; i++) {
    for (size_t b = 0; b < blocks; b++) {
      size_t first = (i / group * blocks + b) * group, at = first + i % group;
      Code *codes = q->codes + at * q->block;
      float *sums = q->sums + first * units + i % group;
      if (i < l->n) {
        const float *x = l->x + i * l->columns + b * q->block;
        int32_t *code_sums = q->code_sums + 2 * at * units;
        quantize_block(x, q->block, group, codes, q->scales + at, sums, code_sums);
        if (l->n == 1 && PAIRED) split_pairs((int16_t *)codes, q->block);
        continue;
      }
      __builtin_memset(codes, 0, q->block * sizeof *codes);
      q->scales[at] = 0;
      __builtin_memset(q->code_sums + 2 * at * units, 0, 2 * units * sizeof(int32_t));
      for (size_t u = 0; u < units; u++) sums[u * group] = 0;
    }
  }
}

/** A group of positions, for the formats that are there. */
static void quantize_task(void *context, int32_t task, int32_t worker) {
  (void)worker;
  const Linear *l = context;
  if (l->units.block) quantize_group(l, &l->units, (size_t)task);
  if (l->supers.block) quantize_group(l, &l->supers, (size_t)task);
}

INLINE const Input8 *quantized_for(const Linear *l, int32_t dtype) {
  return has_units(dtype) ? &l->supers : &l->units;
}

/** The product of all of x's codes of a half or a whole unit with the code that stands for zero. */
INLINE i32xw zero_part(int32_t dtype, int32_t code_sum) {
  return splat_i32w(-dot_centre(dtype) * code_sum);
}

/**
 * The integer product of a unit of each row with codes of x.
 * @param codes  [k] of row k of each four
 * @param sums   of the halves of x
 * @param scales of the halves of the unit in each row; only Q6_K's differ
 */
INLINE i32xw dot_unit(int32_t dtype, i16xw codes[4][2], const Code *x, const int32_t *sums,
                      const i32xw scales[2]) {
  i32xw low[4], high[4], zero = splat_i32w(0);
  UNROLL
  for (int32_t k = 0; k < 4; k++) {
    low[k] = dot_half(zero, dtype, codes[k][0], x);
    high[k] = dot_half(dtype == Q6_K ? zero : low[k], dtype, codes[k][1], x + 16);
  }
  i32xw all = sum_quads_w(high[0], high[1], high[2], high[3]);
  if (dtype == Q6_K) {
    i32xw first = sum_quads_w(low[0], low[1], low[2], low[3]);
    return (first + zero_part(dtype, sums[0])) * scales[0] +
           (all + zero_part(dtype, sums[1])) * scales[1];
  }
  if (dot_centre(dtype)) all += zero_part(dtype, sums[0] + sums[1]);
  return has_units(dtype) ? all * scales[0] : all;
}

/** The same for a group of units, added up. */
INLINE i32xw dot_group(int32_t dtype, const uint8_t *block, size_t stride, size_t group,
                       const Code *x, const int32_t *sums, const i32xw (*scales)[2]) {
  i16xw codes[4][4][2];
  i32xw total = splat_i32w(0);
  if (dtype != Q5_K && dtype != Q6_K) {
    UNROLL
    for (size_t k = 0; k < group_units(dtype); k++) {
      UNROLL
      for (size_t r = 0; r < 4; r++)
        unit_codes(dtype, block + r * stride, stride, group, k, codes[k][r]);
      total += dot_unit(dtype, codes[k], x + UNIT * k, sums + 2 * k, scales[k]);
    }
    return total;
  }
  // By way of memory: the bytes that their units share do not fit the registers.
  UNROLL
  for (size_t r = 0; r < 4; r++) {
    UNROLL
    for (size_t k = 0; k < group_units(dtype); k++)
      unit_codes(dtype, block + r * stride, stride, group, k, codes[k][r]);
  }
  NO_UNROLL
  for (size_t k = 0; k < group_units(dtype); k++)
    total += dot_unit(dtype, codes[k], x + UNIT * k, sums + 2 * k, scales[k]);
  return total;
}

/** Rows of a part that a thread takes at once. */
typedef struct {
  int32_t start, end;
  int32_t range_end; /* of the rows of this part that the thread will come to if nobody helps it */
  int32_t follows;   /* whether it has just done the rows before them */
} Run;

INLINE const uint8_t *row_at(const LinearPart *part, int32_t row, size_t row_bytes) {
  return (const uint8_t *)part->weight + (size_t)row * row_bytes;
}

/** WIDE rows that stand `stride` bytes apart, of which `count` after `skip` are wanted. */
typedef struct {
  const uint8_t *row;
  size_t stride;
  int32_t skip, count;
} Rows;

/**
 * Row `first` and those after it up to `end`. Where fewer than WIDE are left, rows before them come
 * along; a part of fewer rows than that gives them one by one.
 */
INLINE Rows rows_from(const LinearPart *part, int32_t first, int32_t end, size_t row_bytes) {
  if (part->rows < WIDE) return (Rows){row_at(part, first, row_bytes), 0, 0, 1};
  int32_t at = first + WIDE <= part->rows ? first : part->rows - WIDE;
  int32_t count = end - first < WIDE ? end - first : WIDE;
  return (Rows){row_at(part, at, row_bytes), row_bytes, first - at, count};
}

INLINE void store_rows_of(const Rows *rows, f32xw sums, float *out) {
  if (rows->count == WIDE) {
    store_f32xw(out, sums);
    return;
  }
  for (int32_t r = 0; r < rows->count; r++) out[r] = sums[rows->skip + r];
}

/**
 * WIDE rows for one position; lane = row.
 *
 * Rows read side by side look like no stream to the hardware's prefetcher, which halves the speed
 * of memory or worse. So the loop also touches the next tile's cache lines, in order.
 */
INLINE void tile_rows(const Linear *l, const LinearPart *part, int32_t first, Run run,
                      int32_t dtype) {
  const Input8 *q = quantized_for(l, dtype);
  size_t bytes = block_bytes(dtype), length = block_length(dtype), blocks = l->columns / length;
  size_t groups = length / UNIT / group_units(dtype);
  Rows rows = rows_from(part, first, run.end, blocks * bytes);
  const uint8_t *block = rows.row;
  size_t stride = rows.stride;
  const Code *codes = q->codes;
  const int32_t *code_sums = q->code_sums;
  const float *x_sums = q->sums;
  // In every pass a few lines: many at once wait for each other. None past the range's end: those are
  // another thread's.
  size_t touched = WIDE * bytes / groups;
  const uint8_t *next = block + WIDE * stride + TOUCH_AHEAD;
  const uint8_t *last = row_at(part, run.range_end, blocks * bytes);
  f32xw sums = splat_w(0);
  for (size_t b = 0; b < blocks; b++) {
    Header h = read_header(dtype, block, stride);
    // In memory: there are not registers enough for them.
    i32xw scales[8][2];
    for (size_t u = 0; u < length / UNIT; u++) {
      if (has_minima(dtype)) sums = madd_w(unit_min(dtype, &h, u), splat_w(x_sums[u]), sums);
      for (size_t half = 0; half < 2; half++) scales[u][half] = unit_scale(dtype, &h, u, half);
    }
    i32xw exact = splat_i32w(0);
    NO_UNROLL
    for (size_t g = 0; g < groups; g++) {
      exact += dot_group(dtype, block, stride, g, codes, code_sums, scales + g * group_units(dtype));
      codes += group_units(dtype) * UNIT, code_sums += group_units(dtype) * 2;
      if (next + touched <= last)
        UNROLL
        for (size_t line = 0; line < touched; line += 64) touch(next + line);
      next += touched;
    }
    sums = madd_w(to_f32w(exact), h.scale * splat_w(q->scales[b]), sums);
    x_sums += length / UNIT;
    block += bytes;
  }
  store_rows_of(&rows, sums, part->out + first);
}

/** PACKED rows as dot.h wants them. */
typedef struct {
  Code *codes;      /* [columns / WORD, PACKED, WORD] */
  float *scales;    /* [blocks, PACKED] */
  float *minima;    /* [columns / UNIT, PACKED] */
  int32_t *factors; /* unit scales [columns / UNIT, 2, PACKED], unless IN_PACKED */
} PackedRows;

INLINE void pack_rows(const Linear *l, Rows rows, size_t vector, int32_t dtype,
                      const PackedRows *out) {
  size_t bytes = block_bytes(dtype), units = block_length(dtype) / UNIT, at = vector * WIDE;
  size_t blocks = l->columns / block_length(dtype), word_stride = PACKED * WORD;
  const uint8_t *block = rows.row;
  for (size_t b = 0; b < blocks; b++, block += bytes) {
    Header h = read_header(dtype, block, rows.stride);
    store_f32xw(out->scales + b * PACKED + at, h.scale);
    for (size_t g = 0; g < units; g += group_units(dtype)) {
      UNROLL
      for (size_t k = 0; k < group_units(dtype); k++) {
        size_t unit = b * units + g + k;
        if (has_minima(dtype))
          store_f32xw(out->minima + unit * PACKED + at, unit_min(dtype, &h, g + k));
        i16xw v[4][2];
        for (size_t r = 0; r < 4; r++)
          unit_codes(dtype, block + r * rows.stride, rows.stride, g / group_units(dtype), k, v[r]);
        for (size_t half = 0; half < 2; half++) {
          i32xw scale = unit_scale(dtype, &h, g + k, half);
          i16xw four[4] = {v[0][half], v[1][half], v[2][half], v[3][half]};
          size_t column = unit * UNIT + 16 * half;
          pack_half(dtype, four, scale, out->codes + column * PACKED + at * WORD, word_stride);
          if (!IN_PACKED && has_units(dtype))
            store_i32xw(out->factors + (2 * unit + half) * PACKED + at, scale);
        }
      }
    }
  }
}

/** Columns of a block that share an integer scale once they are packed. */
INLINE size_t span_of(int32_t dtype) {
  if (IN_PACKED || !has_units(dtype)) return block_length(dtype);
  return dtype == Q6_K ? UNIT / 2 : UNIT;
}

/**
 * Adds the integer products of a block of PACKED rows with TILE_TOKENS positions.
 * @param x    codes [TILE_TOKENS, block]
 * @param sums of x, [TILE_TOKENS, block / UNIT, 2]
 */
INLINE void dot_packed(int32_t dtype, const Code *w, const Code *x, const int32_t *sums,
                       const int32_t *factors, i32xw exact[TILE_TOKENS][VECTORS]) {
  size_t length = block_length(dtype), span = span_of(dtype), units = length / UNIT;
  for (size_t from = 0; from < length; from += span) {
    i32xw dots[TILE_TOKENS][VECTORS];
    UNROLL
    for (size_t t = 0; t < TILE_TOKENS; t++) {
      int32_t sum = 0;
      if (!IN_PACKED && dot_centre(dtype)) {
        const int32_t *halves = sums + 2 * units * t + from / 16;
        sum = span == 16 ? halves[0] : halves[0] + halves[1];
      }
      for (size_t v = 0; v < VECTORS; v++) dots[t][v] = zero_part(dtype, sum);
    }
    // Unrolled by 8 it ran at 0.6 of the speed in V8 11, which then spills the sums.
    NO_UNROLL
    for (size_t c = from; c < from + span; c += WORD, w += PACKED * WORD) {
      i16xw rows[VECTORS];
      UNROLL
      for (size_t v = 0; v < VECTORS; v++)
        rows[v] = load_i16xw((const int16_t *)(w + v * WIDE * WORD));
      UNROLL
      for (size_t t = 0; t < TILE_TOKENS; t++) {
        UNROLL
        for (size_t v = 0; v < VECTORS; v++)
          dots[t][v] = dot_word(dots[t][v], rows[v], x + length * t + c);
      }
    }
    UNROLL
    for (size_t t = 0; t < TILE_TOKENS; t++) {
      UNROLL
      for (size_t v = 0; v < VECTORS; v++) {
        if (span < length)
          dots[t][v] *= load_i32xw(factors + from / 16 * PACKED + v * WIDE);
        exact[t][v] += dots[t][v];
      }
    }
  }
}

/** PACKED rows for every position, TILE_TOKENS at a time; lane = row. */
INLINE void multiply_packed(const Linear *l, const LinearPart *part, int32_t first,
                            const Rows rows[VECTORS], int32_t dtype, const PackedRows *packed) {
  const Input8 *q = quantized_for(l, dtype);
  size_t length = block_length(dtype), blocks = l->columns / length, units = l->columns / UNIT;
  for (size_t i = 0; i < l->n; i += TILE_TOKENS) {
    const Code *codes = q->codes + i * l->columns;
    const int32_t *code_sums = q->code_sums + i * units * 2;
    const float *scales = q->scales + i * blocks;
    const float *x_sums = q->sums + i * units;
    f32xw sums[TILE_TOKENS][VECTORS];
    UNROLL
    for (size_t t = 0; t < TILE_TOKENS; t++) {
      for (size_t v = 0; v < VECTORS; v++) sums[t][v] = splat_w(0);
    }
    for (size_t b = 0; b < blocks; b++) {
      size_t unit = b * (length / UNIT);
      i32xw exact[TILE_TOKENS][VECTORS];
      UNROLL
      for (size_t t = 0; t < TILE_TOKENS; t++) {
        for (size_t v = 0; v < VECTORS; v++) exact[t][v] = splat_i32w(0);
      }
      dot_packed(dtype, packed->codes + b * length * PACKED, codes + b * length * TILE_TOKENS,
                 code_sums + unit * 2 * TILE_TOKENS, packed->factors + 2 * unit * PACKED, exact);
      if (has_minima(dtype)) {
        for (size_t u = unit; u < unit + length / UNIT; u++) {
          UNROLL
          for (size_t v = 0; v < VECTORS; v++) {
            f32xw min = load_f32xw(packed->minima + u * PACKED + v * WIDE);
            UNROLL
            for (size_t t = 0; t < TILE_TOKENS; t++)
              sums[t][v] = madd_w(min, splat_w(x_sums[u * TILE_TOKENS + t]), sums[t][v]);
          }
        }
      }
      UNROLL
      for (size_t v = 0; v < VECTORS; v++) {
        f32xw row_scale = load_f32xw(packed->scales + b * PACKED + v * WIDE);
        UNROLL
        for (size_t t = 0; t < TILE_TOKENS; t++) {
          f32xw scale = row_scale * splat_w(scales[b * TILE_TOKENS + t]);
          sums[t][v] = madd_w(to_f32w(exact[t][v]), scale, sums[t][v]);
        }
      }
    }
    UNROLL
    for (size_t t = 0; t < TILE_TOKENS; t++) {
      if (i + t >= l->n) break;
      float *out = part->out + (i + t) * (size_t)part->rows + first;
      UNROLL
      for (size_t v = 0; v < VECTORS; v++)
        if (rows[v].count > 0) store_rows_of(rows + v, sums[t][v], out + v * WIDE);
    }
  }
}

/** Rows of a format with blocks. */
INLINE void block_rows(const Linear *l, const LinearPart *part, Run run, int32_t worker,
                       int32_t dtype) {
  int32_t step = part->rows < WIDE ? 1 : l->n == 1 ? WIDE : PACKED;
  size_t row_bytes = l->columns / block_length(dtype) * block_bytes(dtype);
  PackedRows packed;
  packed.codes = (Code *)(l->packed + (size_t)worker * packed_bytes(l->n, l->columns));
  packed.scales = (float *)(packed.codes + l->columns * PACKED);
  packed.minima = packed.scales + l->columns / UNIT * PACKED;
  packed.factors = (int32_t *)(packed.minima + l->columns / UNIT * PACKED);
  if (l->n == 1 && !run.follows) {
    const uint8_t *row = row_at(part, run.start, row_bytes);
    const uint8_t *last = row_at(part, run.range_end, row_bytes);
    size_t ahead = WIDE * row_bytes + TOUCH_AHEAD;
    for (size_t at = 0; at < ahead && row + at < last; at += 64) touch(row + at);
  }
  for (int32_t first = run.start; first < run.end; first += step) {
    if (l->n == 1) {
      tile_rows(l, part, first, run, dtype);
      continue;
    }
    Rows rows[VECTORS];
    UNROLL
    for (int32_t v = 0; v < VECTORS; v++) {
      rows[v] = rows_from(part, first + v * WIDE, run.end, row_bytes);
      if (v > 0 && (step == 1 || first + v * WIDE >= run.end)) rows[v] = rows[0], rows[v].count = 0;
      pack_rows(l, rows[v], (size_t)v, dtype, &packed);
    }
    multiply_packed(l, part, first, rows, dtype, &packed);
  }
}

/*
 * A function for each format, in which its number is a constant. They are kept apart: V8 allots
 * registers badly in one function that holds them all.
 */
typedef void BlockTask(const Linear *l, const LinearPart *part, Run run, int32_t worker);
#define DEFINE_BLOCK_TASK(dtype)                                                                   \
  __attribute__((noinline)) static void rows_of_##dtype(                                           \
      const Linear *l, const LinearPart *part, Run run, int32_t worker) {                          \
    block_rows(l, part, run, worker, dtype);                                                       \
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

enum { CHUNK = 512 }; /* columns of a tile of unpacked weights: 8 to 32 KiB, which stay in L1 */

/**
 * Weights of WIDE rows, f32 [CHUNK / 4, 4, WIDE]: of every four columns a vector for each k, with those of
 * row 4 g + k in quad g.
 */
typedef float FloatTile[CHUNK / 4][4][WIDE];

INLINE f32x4 load_four(const LinearPart *part, int32_t dtype, size_t at) {
  if (dtype == F32) return load_f32x4((const float *)part->weight + at);
  const uint16_t *half = (const uint16_t *)part->weight + at;
  return dtype == F16 ? load_half(half) : load_bfloat(half);
}

INLINE float load_one(const LinearPart *part, size_t at) {
  if (part->dtype == F32) return ((const float *)part->weight)[at];
  i32x4 bits = splat_i32(((const uint16_t *)part->weight)[at]);
  return (part->dtype == F16 ? half_to_f32(bits) : (f32x4)(bits << 16))[0];
}

/** Columns from .. from + width of `rows` rows; the tile's other rows are zero. */
static void unpack(const LinearPart *part, int32_t first, int32_t rows, size_t columns, size_t from,
                   size_t width, FloatTile tile) {
  if (rows < WIDE) __builtin_memset(tile, 0, sizeof(FloatTile));
  for (int32_t r = 0; r < rows; r++) {
    size_t at = (size_t)(first + r) * columns + from, c = 0;
    int32_t k = r % 4, quad = r / 4 * 4;
    for (; c + 4 <= width; c += 4)
      store_f32x4(tile[c / 4][k] + quad, load_four(part, part->dtype, at + c));
    for (; c < width; c++) tile[c / 4][k][quad + (int32_t)(c % 4)] = load_one(part, at + c);
  }
}

/** Products of a tile with `tokens` <= FLOAT_TOKENS positions of x [tokens, columns]; lane = row. */
INLINE void multiply_floats(const float *x, size_t columns, FloatTile tile, size_t width,
                            size_t tokens, f32xw sums[FLOAT_TOKENS]) {
  f32xw parts[FLOAT_TOKENS][4];
  for (size_t t = 0; t < tokens; t++)
    for (size_t k = 0; k < 4; k++) parts[t][k] = splat_w(0);
  size_t c = 0;
  for (; c + 4 <= width; c += 4) {
    UNROLL
    for (size_t t = 0; t < tokens; t++) {
      f32xw four = (f32xw)splat_quad_w(x + t * columns + c);
      UNROLL
      for (size_t k = 0; k < 4; k++)
        parts[t][k] = madd_w(four, load_f32xw(tile[c / 4][k]), parts[t][k]);
    }
  }
  UNROLL
  for (size_t t = 0; t < tokens; t++)
    sums[t] = sum_each_in_quads_w(parts[t][0], parts[t][1], parts[t][2], parts[t][3]);
  for (; c < width; c++) {
    f32xw column = splat_w(0);
    for (int32_t r = 0; r < WIDE; r++) column[r] = tile[c / 4][r % 4][r / 4 * 4 + (int32_t)(c % 4)];
    for (size_t t = 0; t < tokens; t++) sums[t] += splat_w(x[t * columns + c]) * column;
  }
}

/** Rows first .. end for the only position, four at a time, with the sums of `multiply_floats`. */
INLINE void float_rows_once(const Linear *l, const LinearPart *part, int32_t first, int32_t end,
                            int32_t dtype) {
  const float *x = dtype == F16 ? l->halves : l->x;
  for (int32_t row = first; row < end; row += 4) {
    size_t at[4];
    for (int32_t k = 0; k < 4; k++)
      at[k] = (size_t)(row + k < end ? row + k : end - 1) * l->columns;
    f32x4 total = splat(0);
    for (size_t from = 0, c = 0; from < l->columns; from += CHUNK) {
      size_t to = l->columns - from < CHUNK ? l->columns : from + CHUNK;
      f32x4 s[4] = {splat(0), splat(0), splat(0), splat(0)};
      for (; c + 4 <= to; c += 4) {
        UNROLL
        for (int32_t k = 0; k < 4; k++)
          s[k] = madd(load_f32x4(x + c), load_four(part, dtype, at[k] + c), s[k]);
      }
      f32x4 sums = sum_each_f32(s[0], s[1], s[2], s[3]);
      for (; c < to; c++)
        for (int32_t k = 0; k < 4; k++) sums[k] += x[c] * load_one(part, at[k] + c);
      total = from ? total + sums : sums;
    }
    for (int32_t k = 0; k < 4 && row + k < end; k++) part->out[row + k] = total[k];
  }
}

/** f32, f16 and bf16: `count` <= WIDE rows for every position, unpacked once for all of them. */
static void float_rows(const Linear *l, const LinearPart *part, int32_t first, int32_t count) {
  _Alignas(64) FloatTile tile;
  for (size_t from = 0; from < l->columns; from += CHUNK) {
    size_t width = l->columns - from < CHUNK ? l->columns - from : CHUNK;
    unpack(part, first, count, l->columns, from, width, tile);
    for (size_t i = 0, tokens; i < l->n; i += tokens) {
      const float *x = (part->dtype == F16 ? l->halves : l->x) + i * l->columns + from;
      f32xw sums[FLOAT_TOKENS];
      tokens = i + FLOAT_TOKENS <= l->n ? FLOAT_TOKENS : 1;
      if (tokens == 1) multiply_floats(x, l->columns, tile, width, 1, sums);
      else multiply_floats(x, l->columns, tile, width, FLOAT_TOKENS, sums);
      for (size_t t = 0; t < tokens; t++) {
        float *out = part->out + (i + t) * (size_t)part->rows + first;
        if (from == 0 && count == WIDE) store_f32xw(out, sums[t]);
        else for (int32_t r = 0; r < count; r++) out[r] = (from ? out[r] : 0) + sums[t][r];
      }
    }
  }
}

static int32_t steps_of(const LinearPart *part) { return (part->rows + PACKED - 1) / PACKED; }

/** Rows of any type of weights. */
static void some_rows(const Linear *l, const LinearPart *part, Run run, int32_t worker) {
  if (has_blocks(part->dtype)) {
    block_tasks[part->dtype](l, part, run, worker);
    return;
  }
  if (l->n == 1) {
    if (part->dtype == F32) float_rows_once(l, part, run.start, run.end, F32);
    else if (part->dtype == F16) float_rows_once(l, part, run.start, run.end, F16);
    else float_rows_once(l, part, run.start, run.end, BF16);
    return;
  }
  for (int32_t row = run.start; row < run.end; row += WIDE)
    float_rows(l, part, row, run.end - row < WIDE ? run.end - row : WIDE);
}

INLINE int32_t min_of(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t range_start(const Linear *l, int32_t range) {
  return (int32_t)((int64_t)l->steps * range / l->threads);
}

/** Steps `from` to `to`, which belong to a range that ends at step `end`. */
static void some_steps(const Linear *l, int32_t from, int32_t to, int32_t end, int follows,
                       int32_t worker) {
  for (const LinearPart *part = l->parts; part < l->parts + l->n_parts && to > 0; part++) {
    int32_t steps = steps_of(part);
    if (from < steps) {
      Run run = {(from > 0 ? from : 0) * PACKED, min_of(to * PACKED, part->rows),
                 min_of(end * PACKED, part->rows), follows && from > 0};
      some_rows(l, part, run, worker);
    }
    from -= steps, to -= steps, end -= steps;
  }
}

/**
 * A range of all rows, and what is left of the others: each thread stays in rows that follow each
 * other as long as it can, since what it has fetched ahead is in no other thread's cache.
 */
static void linear_task(void *context, int32_t task, int32_t worker) {
  const Linear *l = context;
  for (int32_t i = 0; i < l->threads; i++) {
    int32_t range = (task + i) % l->threads, end = range_start(l, range + 1), before = -1;
    for (;;) {
      int32_t from = atomic_fetch_add(&l->ranges[range].next, l->taken);
      if (from >= end) break;
      some_steps(l, from, min_of(from + l->taken, end), end, from == before, worker);
      before = from + l->taken;
    }
  }
}

/** Lays out a Input8 in `memory`. */
static Input8 quantized_at(uint8_t *memory, size_t n, size_t columns, size_t block) {
  float *scales = (float *)memory, *sums = scales + padded_tokens(n) * (columns / UNIT);
  int32_t *code_sums = (int32_t *)(sums + padded_tokens(n) * (columns / UNIT));
  Code *codes = (Code *)(code_sums + padded_tokens(n) * (columns / UNIT) * 2);
  return (Input8){block, codes, scales, sums, code_sums};
}

EXPORT(linear)
int32_t linear(const float *x, size_t n, size_t columns, const LinearPart *parts, int32_t n_parts,
               void *scratch) {
  if (!is_finite(x, n * columns)) return NOT_FINITE;
  Linear l = {.x = x, .n = n, .columns = columns, .parts = parts, .n_parts = n_parts};
  l.threads = pool_threads();
  l.ranges = scratch;
  uint8_t *memory = (uint8_t *)(l.ranges + l.threads);
  l.packed = memory + 2 * quantized_bytes(n, columns);
  // Before the packed rows, whose number goes with the threads.
  l.halves = (float *)l.packed;
  l.packed += n * columns * sizeof(float);
  int32_t in_units = 0, in_supers = 0, halved = 0;
  for (int32_t p = 0; p < n_parts; p++) {
    l.steps += steps_of(parts + p);
    in_units |= has_blocks(parts[p].dtype) && !has_units(parts[p].dtype);
    in_supers |= has_units(parts[p].dtype);
    halved |= parts[p].dtype == F16;
  }
  if (in_units) l.units = quantized_at(memory, n, columns, UNIT);
  if (in_supers) l.supers = quantized_at(memory + quantized_bytes(n, columns), n, columns, 256);
  if (in_units || in_supers)
    parallel_for(n == 1 ? 1 : (int32_t)(padded_tokens(n) / TILE_TOKENS), quantize_task, &l);
  if (halved) round_input(x, n * columns, l.halves);
  size_t work_per_row = columns * (n < 16 ? n : 16) + 1;
  l.taken = (int32_t)(TAKEN_BYTES / work_per_row / PACKED + 1);
  for (int32_t r = 0; r < l.threads; r++) l.ranges[r].next = range_start(&l, r);
  parallel_for(l.threads, linear_task, &l);
  return pool_failed() ? WORKER_DIED : OK;
}
