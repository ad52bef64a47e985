/* Sums of weighted values that are held as affine codes of 4 bits, or in fields of 4 and 2. */
#include "affine.h"

#include "attend.h"
#include "elementwise.h"

/** What one row brings to a tile of positions: integers that stand for weight * step. */
typedef struct {
  union {
    int16_t q[TILE];     /* of 15 bits */
    uint8_t bytes[TILE]; /* where ADDS_FOURS */
  };
  int32_t total; /* of q */
  float unit;    /* weight * step = unit * q */
  float centre;  /* sum of weight * (minimum + middle step), what codes of `middle` would give */
} Quantized;

/** Codes count from here, so that roundings of the weights cost least. */
INLINE int32_t middle_code(int32_t bits) { return 1 << (bits - 1); }
/** Codes in a word of 8 bits. */
INLINE int32_t codes_per_word(int32_t bits) { return 8 / bits; }

/**
 * For `rows` <= 4 rows, whose sums over lanes are made side by side.
 * @param w       f32 [rows, TILE]
 * @param groups of positions
 */
INLINE void quantize_rows(const float *w, int32_t rows, const float *steps, const float *centres,
                          int32_t groups, int32_t in_bytes, Quantized *out) {
  f32xw centre[4], largest[4], totals[4];
  UNROLL
  for (int32_t r = 0; r < 4; r++) centre[r] = largest[r] = totals[r] = splat_w(0);
  for (int32_t first = 0; first < groups * GROUP; first += GROUP)
    UNROLL
    for (int32_t r = 0; r < rows; r++)
      UNROLL
      for (int32_t k = first; k < first + GROUP; k += WIDE) {
        f32xw weight = load_f32xw(w + r * TILE + k);
        centre[r] = madd_w(weight, load_f32xw(centres + k), centre[r]);
        largest[r] = max_w(largest[r], weight * load_f32xw(steps + k));
      }
  f32x4 centre_of = sum_each_w(centre[0], centre[1], centre[2], centre[3]);
  f32x4 unit = max_each_w(largest[0], largest[1], largest[2], largest[3]) /
               splat(in_bytes ? 255 : 32767);
  f32x4 inverse = splat(1) / unit;
  UNROLL
  for (int32_t r = 0; r < rows; r++) {
    f32xw units = splat_w(finite_or_zero(inverse[r]));
    i32xw total = splat_i32w(0);
    for (int32_t first = 0; first < groups * GROUP; first += GROUP)
      UNROLL
      for (int32_t k = first; k < first + GROUP; k += 2 * WIDE) {
        // Products once more: they are too many to keep.
        const float *weight = w + r * TILE + k;
        f32xw x = load_f32xw(weight) * load_f32xw(steps + k);
        f32xw y = load_f32xw(weight + WIDE) * load_f32xw(steps + k + WIDE);
        i32xw a = to_nearest_i32w(x * units), b = to_nearest_i32w(y * units);
        if (in_bytes) store_bytes_w(out[r].bytes + k, a, b);
        else store_narrow_w(out[r].q + k, a, b);
        total += a + b;
      }
    totals[r] = to_f32w(total);
  }
  f32x4 total_of = sum_each_w(totals[0], totals[1], totals[2], totals[3]);
  UNROLL
  for (int32_t r = 0; r < rows; r++) {
    out[r].centre = centre_of[r];
    out[r].unit = unit[r];
    out[r].total = (int32_t)total_of[r]; // at most 2^22: its sum in f32 is exact
  }
}

/* Functions of their own: V8 allots registers badly in large ones. */
#define DEFINE_QUANTIZE(name, rows)                                                                \
  __attribute__((noinline)) static void name(const float *w, const float *steps,                   \
                                             const float *centres, int32_t groups,                 \
                                             int32_t in_bytes, Quantized *out) {                   \
    if (ADDS_FOURS && in_bytes) quantize_rows(w, rows, steps, centres, groups, 1, out);            \
    else quantize_rows(w, rows, steps, centres, groups, 0, out);                                   \
  }

DEFINE_QUANTIZE(quantize_row, 1)
DEFINE_QUANTIZE(quantize_three, 3)
DEFINE_QUANTIZE(quantize_four, 4)

static void quantize_weights(const float *w, int32_t rows, const float *steps,
                             const float *centres, int32_t groups, int32_t in_bytes,
                             Quantized *out) {
  int32_t r = 0;
  for (; r + 4 <= rows; r += 4)
    quantize_four(w + r * TILE, steps, centres, groups, in_bytes, out + r);
  for (; r + 3 <= rows; r += 3)
    quantize_three(w + r * TILE, steps, centres, groups, in_bytes, out + r);
  for (; r < rows; r++) quantize_row(w + r * TILE, steps, centres, groups, in_bytes, out + r);
}

/**
 * Sets the weights of a group that are at most a share of their row's total to zero, and takes
 * them from the total.
 * @param weights f32 [rows, TILE]
 * @returns bit k is set where a row has kept its weight of position k
 */
static uint32_t leave_out(float *weights, int32_t rows, float share, float *totals) {
  uint32_t positions = 0;
  for (int32_t r = 0; r < rows; r++) {
    f32xw least = splat_w(share * totals[r]), dropped = splat_w(0);
    for (int32_t k = 0; k < GROUP / WIDE; k++) {
      float *w = weights + r * TILE + k * WIDE;
      f32xw weight = load_f32xw(w);
      Lanes above = above_w(weight, least);
      positions |= lane_bits_w(above) << (k * WIDE);
      dropped += select_w(above, splat_w(0), weight);
      store_f32xw(w, select_w(above, weight, splat_w(0)));
    }
    totals[r] -= sum_w(dropped);
  }
  return positions;
}

/**
 * Moves the codes and weights of some positions of a tile together.
 * @param positions bits of each group's
 * @returns how many they are
 */
static int32_t gather(const uint32_t *positions, int32_t groups, const uint8_t *codes,
                      size_t row_bytes, Quantized *quantized, int32_t rows, uint8_t *gathered) {
  int32_t count = 0;
  for (int32_t g = 0; g < groups; g++)
    for (uint32_t some = positions[g]; some != 0; some &= some - 1, count++) {
      int32_t k = g * GROUP + __builtin_ctz(some);
      const uint8_t *from = codes + (size_t)k * row_bytes;
      size_t c = 0;
      for (; c + 8 <= row_bytes; c += 8, gathered += 8) __builtin_memcpy(gathered, from + c, 8);
      for (; c < row_bytes; c++) *gathered++ = from[c];
      for (int32_t r = 0; r < rows; r++) quantized[r].q[count] = quantized[r].q[k];
    }
  // The partner of an odd last position.
  for (int32_t r = 0; r < rows && count < TILE; r++) quantized[r].q[count] = 0;
  return count;
}

/** Where the codes of rows are. */
typedef struct {
  size_t row_bytes, words; /* of a row */
} Layout;

/**
 * sums += unit * (q code - middle total) + centre for `rows` rows, which share the unpacking, and for
 * the dimensions of `width` words: 2 WIDE of them at most, WIDE where a word has 4 codes. The sums over
 * words shifted by ever more codes differ by those over single codes. They may wrap; the differences
 * are small.
 * @param sums f32 [rows, stride], from the dimension of the lowest code of the first word
 */
INLINE void add_words(const Quantized *weights, int32_t rows, const uint8_t *codes,
                      const uint8_t *ahead, const Layout *l, int32_t positions, int32_t width,
                      int32_t bits, float *sums, size_t stride) {
  const int32_t planes = codes_per_word(bits), vectors = 4 / planes;
  i32xw shifted[TRIPLE][4];
  UNROLL
  for (int32_t r = 0; r < rows; r++)
    UNROLL
    for (int32_t i = 0; i < 4; i++) shifted[r][i] = splat_i32w(0);
  NO_UNROLL // see linear.c
  for (int32_t k = 0; k < positions; k += 2, codes += 2 * l->row_bytes) {
    touch_any(ahead), ahead += 2 * l->row_bytes;
    // An odd last position is its own partner, whose weight is zero.
    const uint8_t *partner = k + 1 < positions ? codes + l->row_bytes : codes;
    i16xw pairs[2];
    if (bits == 4) pair_words(codes, partner, width, pairs);
    else pairs[0] = pair_few_words(codes, partner, width);
    UNROLL
    for (int32_t v = 0; v < vectors; v++) {
      i16xw plane[4];
      UNROLL
      for (int32_t p = 0; p < planes; p++) plane[p] = shift_right_u16w(pairs[v], p * bits);
      UNROLL
      for (int32_t r = 0; r < rows; r++) {
        i16xw weight = splat_word_w(weights[r].q + k);
        UNROLL
        for (int32_t p = 0; p < planes; p++)
          shifted[r][v * planes + p] = dot_pairs_w(shifted[r][v * planes + p], plane[p], weight);
      }
    }
  }
  UNROLL
  for (int32_t r = 0; r < rows; r++) {
    i32xw middles = splat_i32w(middle_code(bits) * weights[r].total);
    f32xw unit = splat_w(weights[r].unit), centre = splat_w(weights[r].centre);
    UNROLL
    for (int32_t v = 0; v < vectors; v++) {
      UNROLL
      for (int32_t p = 0; p < planes; p++) {
        u32xw codes = (u32xw)shifted[r][v * planes + p];
        if (p + 1 < planes) codes -= (u32xw)shifted[r][v * planes + p + 1] << bits;
        float *sum = sums + (size_t)r * stride + (size_t)p * l->words + v * WIDE;
        int32_t left = width - v * WIDE, some = left < WIDE ? left : WIDE;
        if (some > 0)
          add_some_w(sum, madd_w(to_f32w((i32xw)codes - middles), unit, centre), some);
      }
    }
  }
}

/** All words of `dim` values of rows of `row_bytes`. */
INLINE void add_rows(const Quantized *weights, int32_t rows, const uint8_t *codes,
                     const uint8_t *ahead, size_t row_bytes, int32_t positions, size_t dim,
                     int32_t bits, float *sums, size_t stride) {
  const int32_t step = 4 * WIDE / codes_per_word(bits);
  Layout l = {.row_bytes = row_bytes, .words = dim / (size_t)codes_per_word(bits)};
  size_t w = 0;
  for (; w + (size_t)step <= l.words; w += (size_t)step)
    add_words(weights, rows, codes + w, ahead + w, &l, positions, step, bits, sums + w, stride);
  if (w < l.words)
    add_words(weights, rows, codes + w, ahead + w, &l, positions, (int32_t)(l.words - w), bits,
              sums + w, stride);
}

/* Functions of their own: V8 allots registers badly in large ones. */
#define DEFINE_ADD_ROWS(name, rows, bits)                                                          \
  __attribute__((noinline)) static void name(const Quantized *weights, const uint8_t *codes,       \
                                             const uint8_t *ahead, size_t row_bytes,               \
                                             int32_t positions, size_t dim, float *sums,           \
                                             size_t stride) {                                      \
    add_rows(weights, rows, codes, ahead, row_bytes, positions, dim, bits, sums, stride);          \
  }

DEFINE_ADD_ROWS(add_row2, 1, 2)
DEFINE_ADD_ROWS(add_row4, 1, 4)
DEFINE_ADD_ROWS(add_triple2, TRIPLE, 2)
DEFINE_ADD_ROWS(add_triple4, TRIPLE, 4)

/**
 * The same for codes of 2 bits and weights in bytes, four positions at a time.
 * @param words of a row, a multiple of WIDE
 */
INLINE void add_fours(const Quantized *weights, int32_t rows, const uint8_t *codes,
                      const uint8_t *ahead, int32_t positions, size_t words, float *sums,
                      size_t stride) {
  const i16xw code = splat_bytes_w(3);
  for (size_t w = 0; w < words; w += WIDE) {
    i32xw dots[TRIPLE][4];
    UNROLL
    for (int32_t r = 0; r < rows; r++)
      UNROLL
      for (int32_t p = 0; p < 4; p++) dots[r][p] = splat_i32w(0);
    NO_UNROLL // see linear.c
    for (int32_t k = 0; k < positions; k += 4) {
      touch_any(ahead + w + (size_t)k * words);
      i16xw four = four_words_w(codes + w + (size_t)k * words, words, positions - k);
      UNROLL
      for (int32_t p = 0; p < 4; p++) {
        i16xw plane = shift_right_u16w(four, 2 * p) & code;
        UNROLL
        for (int32_t r = 0; r < rows; r++)
          dots[r][p] = dot_fours_w(dots[r][p], splat_word_w(weights[r].bytes + k), plane);
      }
    }
    UNROLL
    for (int32_t r = 0; r < rows; r++) {
      i32xw middles = splat_i32w(middle_code(2) * weights[r].total);
      f32xw unit = splat_w(weights[r].unit), centre = splat_w(weights[r].centre);
      UNROLL
      for (size_t p = 0; p < 4; p++) {
        float *sum = sums + (size_t)r * stride + p * words + w;
        store_f32xw(sum, load_f32xw(sum) + madd_w(to_f32w(dots[r][p] - middles), unit, centre));
      }
    }
  }
}

__attribute__((noinline)) static void add_fours_of_rows(const Quantized *weights, int32_t rows,
                                                        const uint8_t *codes, const uint8_t *ahead,
                                                        int32_t positions, size_t words, float *sums,
                                                        size_t stride) {
  int32_t r = 0;
  for (; r + TRIPLE <= rows; r += TRIPLE)
    add_fours(weights + r, TRIPLE, codes, ahead, positions, words, sums + (size_t)r * stride,
              stride);
  for (; r < rows; r++)
    add_fours(weights + r, 1, codes, ahead, positions, words, sums + (size_t)r * stride, stride);
}

static void add_triple(const Quantized *weights, const uint8_t *codes, const uint8_t *ahead,
                       size_t row_bytes, int32_t positions, Fields f, float *sums, size_t stride) {
  if (f.bits == 2) add_triple2(weights, codes, ahead, row_bytes, positions, f.dim, sums, stride);
  else add_triple4(weights, codes, ahead, row_bytes, positions, f.dim, sums, stride);
}

static void add_row(const Quantized *weights, const uint8_t *codes, const uint8_t *ahead,
                    size_t row_bytes, int32_t positions, Fields f, float *sums, size_t stride) {
  if (f.bits == 2) add_row2(weights, codes, ahead, row_bytes, positions, f.dim, sums, stride);
  else add_row4(weights, codes, ahead, row_bytes, positions, f.dim, sums, stride);
}

INLINE size_t bytes_of(Fields f) { return f.dim * (size_t)f.bits / 8; }

/** Whether four products of bytes are added at once. */
INLINE int32_t adds_fours(const AffineValues *values) {
  const Fields *f = values->fields;
  return ADDS_FOURS && f[0].bits == 2 && f[0].dim / 4 % WIDE == 0 && f[1].dim == 0;
}

/** Steps of a group without minima: codes of `middle` stand for half a step, whatever their bits. */
INLINE void read_scales(const uint16_t *scales, const uint16_t *ahead, int32_t some, float *steps,
                        float *centres) {
  uint16_t last[GROUP] = {0};
  if (some < GROUP) {
    __builtin_memcpy(last, scales, (size_t)some * sizeof(uint16_t));
    scales = last;
  }
  touch_any((const uint8_t *)ahead);
  for (int32_t k = 0; k < GROUP; k += WIDE) {
    f32xw step = load_half_w(scales + k);
    store_f32xw(steps + k, step);
    store_f32xw(centres + k, step * splat_w(0.5f));
  }
}

/**
 * Steps of a group, and what codes of `middle` stand for.
 * @param some how many positions there are; others get zeros
 */
INLINE void read_params(const uint16_t *params, const uint16_t *ahead, int32_t some, int32_t bits,
                        float *steps, float *centres) {
  uint16_t last[2 * GROUP] = {0};
  if (some < GROUP) {
    __builtin_memcpy(last, params, (size_t)some * 2 * sizeof(uint16_t));
    params = last;
  }
  f32xw middle = splat_w((float)middle_code(bits));
  for (int32_t k = 0; k < GROUP; k += WIDE) {
    touch_any((const uint8_t *)(ahead + 2 * k));
    f32xw minimum = low_halves_w(params + 2 * k), step = high_halves_w(params + 2 * k);
    store_f32xw(steps + k, step);
    store_f32xw(centres + k, madd_w(middle, step, minimum));
  }
}

/*
 * Weights times steps become 15-bit integers that share a unit within a TILE of positions, and
 * codes count from the middle, so a tile errs by at most TILE / 2 * 8 steps / 32767 of its
 * largest weight. Where four products of bytes are added at once, codes of 2 bits get weights of 8
 * bits: at most TILE / 2 * 2 steps / 255, and as roundings are independent one or two hundredths of a
 * step, beside the 0.3 steps by which such a code is off.
 */
static void add_affine(float *weights, int32_t rows, const AffineValues *values, int32_t count,
                       float share, float *totals, float *sums, size_t stride, uint8_t *scratch) {
  int32_t groups = (count + GROUP - 1) / GROUP, fours = adds_fours(values);
  const Fields *fields = values->fields;
  size_t row_bytes = bytes_of(fields[0]) + bytes_of(fields[1]);
  float steps[TILE], centres[TILE];
  uint32_t positions[TILE / GROUP];
  int32_t kept = 0;
  for (int32_t g = 0; g < groups; g++) {
    int32_t at = g * GROUP, some = count - at < GROUP ? count - at : GROUP;
    if (values->has_minimum)
      read_params(values->params + 2 * at, values->ahead_params + 2 * at, some, fields[0].bits,
                  steps + at, centres + at);
    else
      read_scales(values->params + at, values->ahead_params + at, some, steps + at, centres + at);
    for (int32_t r = 0; r < rows; r++)
      for (int32_t k = at + some; k < at + GROUP; k++) weights[r * TILE + k] = 0;
    positions[g] = share > 0 ? leave_out(weights + at, rows, share, totals) : ~0u;
    kept += __builtin_popcount(positions[g]);
  }
  Quantized quantized[ROWS];
  quantize_weights(weights, rows, steps, centres, groups, fours, quantized);
  const uint8_t *codes = values->codes;
  if (fours) {
    add_fours_of_rows(quantized, rows, codes, values->ahead, count, row_bytes, sums, stride);
    return;
  }
  // Sums over the other positions are the same integers; gathering a few more would not pay.
  if (4 * kept <= 3 * count) {
    count = gather(positions, groups, codes, row_bytes, quantized, rows, scratch);
    codes = scratch;
  }
  const uint8_t *ahead = values->ahead;
  for (int32_t i = 0; i < 2 && fields[i].dim > 0; i++) {
    int32_t r = 0;
    for (; r + TRIPLE <= rows; r += TRIPLE)
      add_triple(quantized + r, codes, ahead, row_bytes, count, fields[i],
                 sums + (size_t)r * stride, stride);
    for (; r < rows; r++)
      add_row(quantized + r, codes, ahead, row_bytes, count, fields[i], sums + (size_t)r * stride,
              stride);
    codes += bytes_of(fields[i]), ahead += bytes_of(fields[i]), sums += fields[i].dim;
  }
}
