/* Sums of weighted values that are held as affine codes of 2, 3 or 4 bits. */
#include "affine.h"

#include "attend.h"
#include "elementwise.h"

/** What one row brings to a group of positions: 15-bit integers that stand for weight * step. */
typedef struct {
  int16_t q[GROUP];
  int32_t total; /* of q */
  float unit;    /* weight * step = unit * q */
  float centre;  /* sum of weight * (minimum + middle step), what codes of `middle` would give */
} Quantized;

/** Codes count from here, so that roundings of the weights cost least. */
INLINE int32_t middle_code(int32_t bits) { return 1 << (bits - 1); }
/** Codes in a word: 8 bits, or 12 where codes have 3. */
INLINE int32_t codes_per_word(int32_t bits) { return bits == 4 ? 2 : 4; }

static void quantize_weights(const float *w, const float *steps, const float *centres,
                             Quantized *out) {
  f32x4 centre = splat(0), largest = splat(0);
  f32x4 products[GROUP / LANES];
  for (int32_t k = 0; k < GROUP / LANES; k++) {
    f32x4 weight = load_f32x4(w + k * LANES);
    centre = madd(weight, load_f32x4(centres + k * LANES), centre);
    products[k] = weight * load_f32x4(steps + k * LANES);
    largest = max_f32(largest, products[k]);
  }
  out->centre = sum_f32(centre);
  out->unit = max_lane(largest) / 32767;
  f32x4 inverse = splat(finite_or_zero(1 / out->unit));
  i32x4 total = splat_i32(0);
  for (int32_t k = 0; k < GROUP / LANES; k += 2) {
    i32x4 a = to_nearest_i32(products[k] * inverse);
    i32x4 b = to_nearest_i32(products[k + 1] * inverse);
    store_i16x8(out->q + k * LANES, narrow_i32(a, b));
    total += a + b;
  }
  out->total = (total[0] + total[1]) + (total[2] + total[3]);
}

/**
 * Sets the weights of a group that are at most a share of their row's total to zero, and takes
 * them from the total.
 * @param weights f32 [rows, TILE]
 * @returns bit k is set where a row has kept its weight of position k
 */
static uint32_t leave_out(float *weights, int32_t rows, float share, float *totals) {
  i32x4 kept[GROUP / LANES] = {0};
  for (int32_t r = 0; r < rows; r++) {
    f32x4 least = splat(share * totals[r]), dropped = splat(0);
    for (int32_t k = 0; k < GROUP / LANES; k++) {
      float *w = weights + r * TILE + k * LANES;
      f32x4 weight = load_f32x4(w);
      i32x4 above = weight > least;
      kept[k] |= above;
      dropped += select_f32(above, splat(0), weight);
      store_f32x4(w, select_f32(above, weight, splat(0)));
    }
    totals[r] -= sum_f32(dropped);
  }
  uint32_t positions = 0;
  for (int32_t k = 0; k < GROUP / LANES; k++) positions |= lane_bits(kept[k]) << (k * LANES);
  return positions;
}

/** Moves the codes and weights of some positions of a group together. @returns how many they are */
static int32_t gather(uint32_t positions, const uint8_t *codes, size_t row_bytes,
                      Quantized *quantized, int32_t rows, uint8_t *gathered) {
  int32_t count = 0;
  for (; positions != 0; positions &= positions - 1, count++) {
    int32_t k = __builtin_ctz(positions);
    const uint8_t *from = codes + (size_t)k * row_bytes;
    size_t c = 0;
    for (; c + 8 <= row_bytes; c += 8, gathered += 8) __builtin_memcpy(gathered, from + c, 8);
    for (; c < row_bytes; c++) *gathered++ = from[c];
    for (int32_t r = 0; r < rows; r++) quantized[r].q[count] = quantized[r].q[k];
  }
  // The partner of an odd last position.
  for (int32_t r = 0; r < rows && count < GROUP; r++) quantized[r].q[count] = 0;
  return count;
}

/** sums[0 .. count) += x, count <= LANES. */
INLINE void add_some(float *sums, f32x4 x, int32_t count) {
  if (count >= LANES) store_f32x4(sums, load_f32x4(sums) + x);
  else for (int32_t k = 0; k < count; k++) sums[k] += x[k];
}

/** Where the codes of rows are. */
typedef struct {
  size_t row_bytes;
  size_t words;       /* of a row */
  size_t high;        /* 3 bits: bytes from the low 8 bits of words to where their high 4 bits are */
  int32_t high_shift; /* 0 or 4: in which nibble */
} Layout;

INLINE i16x8 eight_words(const uint8_t *p, int32_t width) {
  return width == 8 ? widen_u8(p) : widen_some_u8(p, width);
}

/** Four words of a position and of its partner in turn. */
INLINE i16x8 word_pairs(const uint8_t *codes, const uint8_t *partner, const Layout *l,
                        int32_t width, int32_t bits) {
  i16x8 low = interleave_low_bytes(load_some_bytes(codes, width), load_some_bytes(partner, width));
  if (bits != 3) return widen_low_bytes(low);
  i16x8 high = interleave_low_bytes(load_some_bytes(codes + l->high, width),
                                    load_some_bytes(partner + l->high, width));
  return interleave_low_bytes(low, l->high_shift ? high_nibbles(high) : low_nibbles(high));
}

/**
 * sums += unit * (q code - middle total) + centre for `rows` rows, which share the unpacking, and for
 * the dimensions of `width` words: 8 of them at most, 4 where a word has 4 codes. The sums over
 * words shifted by ever more codes differ by those over single codes. They may wrap; the differences
 * are small.
 * @param sums f32 [rows, stride], from the dimension of the lowest code of the first word
 */
INLINE void add_words(const Quantized *weights, int32_t rows, const uint8_t *codes,
                      const Layout *l, int32_t positions, int32_t width, int32_t bits, float *sums,
                      size_t stride) {
  const int32_t planes = codes_per_word(bits), vectors = 4 / planes;
  u32x4 shifted[TRIPLE][4];
  UNROLL
  for (int32_t r = 0; r < rows; r++)
    UNROLL
    for (int32_t i = 0; i < 4; i++) shifted[r][i] = (u32x4)splat_i32(0);
  NO_UNROLL // see linear.c
  for (int32_t k = 0; k < positions; k += 2, codes += 2 * l->row_bytes) {
    // An odd last position is its own partner, whose weight is zero.
    const uint8_t *partner = k + 1 < positions ? codes + l->row_bytes : codes;
    i16x8 a, b;
    if (vectors == 2) a = eight_words(codes, width), b = eight_words(partner, width);
    UNROLL
    for (int32_t v = 0; v < vectors; v++) {
      i16x8 pairs = vectors == 1 ? word_pairs(codes, partner, l, width, bits)
                    : v == 0     ? interleave_low(a, b)
                                 : interleave_high(a, b);
      i16x8 plane[4];
      UNROLL
      for (int32_t p = 0; p < planes; p++) plane[p] = shift_right_u16(pairs, p * bits);
      UNROLL
      for (int32_t r = 0; r < rows; r++) {
        i16x8 weight = splat_pair(weights[r].q + k);
        UNROLL
        for (int32_t p = 0; p < planes; p++)
          shifted[r][v * planes + p] += (u32x4)dot_i16(plane[p], weight);
      }
    }
  }
  UNROLL
  for (int32_t r = 0; r < rows; r++) {
    i32x4 middles = splat_i32(middle_code(bits) * weights[r].total);
    f32x4 unit = splat(weights[r].unit), centre = splat(weights[r].centre);
    UNROLL
    for (int32_t v = 0; v < vectors; v++) {
      UNROLL
      for (int32_t p = 0; p < planes; p++) {
        u32x4 codes = shifted[r][v * planes + p];
        if (p + 1 < planes) codes -= shifted[r][v * planes + p + 1] << bits;
        float *sum = sums + (size_t)r * stride + (size_t)p * l->words + v * LANES;
        add_some(sum, madd(to_f32((i32x4)codes - middles), unit, centre), width - v * LANES);
      }
    }
  }
}

/** All words of rows of `dim` values. */
INLINE void add_rows(const Quantized *weights, int32_t rows, const uint8_t *codes,
                     int32_t positions, size_t dim, int32_t bits, float *sums, size_t stride) {
  const int32_t step = 16 / codes_per_word(bits);
  Layout l = {.row_bytes = dim * (size_t)bits / 8, .words = dim / (size_t)codes_per_word(bits)};
  // The high bits of the words of a row's second half are in other nibbles of the same bytes.
  size_t parts = bits == 3 ? 2 : 1, end = 0;
  for (size_t part = 0; part < parts; part++) {
    size_t w = end;
    end += l.words / parts;
    l.high = part ? l.words / 2 : l.words;
    l.high_shift = part ? 4 : 0;
    for (; w + (size_t)step <= end; w += (size_t)step)
      add_words(weights, rows, codes + w, &l, positions, step, bits, sums + w, stride);
    if (w < end)
      add_words(weights, rows, codes + w, &l, positions, (int32_t)(end - w), bits, sums + w,
                stride);
  }
}

/* Functions of their own: V8 allots registers badly in large ones. */
#define DEFINE_ADD_ROWS(name, rows, bits)                                                          \
  __attribute__((noinline)) static void name(const Quantized *weights, const uint8_t *codes,       \
                                             int32_t positions, size_t dim, float *sums,           \
                                             size_t stride) {                                      \
    add_rows(weights, rows, codes, positions, dim, bits, sums, stride);                            \
  }

DEFINE_ADD_ROWS(add_row2, 1, 2)
DEFINE_ADD_ROWS(add_row3, 1, 3)
DEFINE_ADD_ROWS(add_row4, 1, 4)
DEFINE_ADD_ROWS(add_triple2, TRIPLE, 2)
DEFINE_ADD_ROWS(add_triple3, TRIPLE, 3)
DEFINE_ADD_ROWS(add_triple4, TRIPLE, 4)

static void add_triple(const Quantized *weights, const uint8_t *codes, int32_t positions,
                       size_t dim, int32_t bits, float *sums, size_t stride) {
  if (bits == 2) add_triple2(weights, codes, positions, dim, sums, stride);
  else if (bits == 3) add_triple3(weights, codes, positions, dim, sums, stride);
  else add_triple4(weights, codes, positions, dim, sums, stride);
}

static void add_row(const Quantized *weights, const uint8_t *codes, int32_t positions, size_t dim,
                    int32_t bits, float *sums, size_t stride) {
  if (bits == 2) add_row2(weights, codes, positions, dim, sums, stride);
  else if (bits == 3) add_row3(weights, codes, positions, dim, sums, stride);
  else add_row4(weights, codes, positions, dim, sums, stride);
}

/*
 * Weights times steps become 15-bit integers that share a unit within a GROUP of positions, and
 * codes count from the middle, so a group errs by at most GROUP / 2 * 8 steps / 32767 of its
 * largest weight.
 */
static void add_affine(float *weights, int32_t rows, const AffineValues *values, int32_t count,
                float share, float *totals, float *sums, size_t stride, uint8_t *scratch) {
  int32_t bits = values->bits;
  size_t dim = values->dim, row_bytes = dim * (size_t)bits / 8;
  const uint8_t *codes = values->codes;
  const uint16_t *params = values->params;
  f32x4 middle = splat((float)middle_code(bits));
  for (int32_t j = 0; j < count; j += GROUP, codes += GROUP * row_bytes, params += GROUP * 2) {
    int32_t some = GROUP < count - j ? GROUP : count - j;
    float steps[GROUP] = {0}, centres[GROUP] = {0};
    uint16_t last[2 * GROUP] = {0};
    const uint16_t *p = params;
    if (some < GROUP) {
      __builtin_memcpy(last, params, (size_t)some * 2 * sizeof(uint16_t));
      p = last;
    }
    for (int32_t k = 0; k < GROUP; k += LANES) {
      f32x4 minimum = low_halves_finite(p + 2 * k), step = high_halves_finite(p + 2 * k);
      store_f32x4(steps + k, step);
      store_f32x4(centres + k, madd(middle, step, minimum));
    }
    for (int32_t r = 0; r < rows; r++)
      for (int32_t k = some; k < GROUP; k++) weights[r * TILE + j + k] = 0;
    uint32_t positions = share > 0 ? leave_out(weights + j, rows, share, totals) : ~0u;
    Quantized quantized[ROWS];
    for (int32_t r = 0; r < rows; r++)
      quantize_weights(weights + r * TILE + j, steps, centres, quantized + r);
    const uint8_t *from = codes;
    // Sums over the other positions are the same integers; gathering a few more would not pay.
    if (4 * __builtin_popcount(positions) <= 3 * some) {
      some = gather(positions, codes, row_bytes, quantized, rows, scratch);
      from = scratch;
    }
    int32_t r = 0;
    for (; r + TRIPLE <= rows; r += TRIPLE)
      add_triple(quantized + r, from, some, dim, bits, sums + (size_t)r * stride, stride);
    for (; r < rows; r++)
      add_row(quantized + r, from, some, dim, bits, sums + (size_t)r * stride, stride);
  }
}
