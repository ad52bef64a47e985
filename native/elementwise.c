#include "blocks.h"

/** What `block_values` gives, several at once: caches hold their codebooks in this type. */
INLINE void unpack_q8_0(const uint8_t *block, size_t columns, float *out) {
  for (size_t c = 0; c < columns; c += 32, block += 34) {
    uint16_t scale;
    __builtin_memcpy(&scale, block, sizeof scale);
    const int8_t *codes = (const int8_t *)block + 2;
    for (size_t i = 0; i < 32; i += 2 * WIDE)
      store_scaled_w(out + c + i, codes + i, splat_w(half_value(scale)));
  }
}

INLINE void unpack_f16(const uint16_t *row, size_t columns, float *out) {
  size_t c = 0;
  for (; c + WIDE <= columns; c += WIDE) store_f32xw(out + c, load_half_w(row + c));
  for (; c < columns; c++) out[c] = half_value(row[c]);
}

static void unpack_row(const void *table, int32_t dtype, size_t columns, size_t row, float *out) {
  size_t at = row * columns;
  if (has_blocks(dtype)) {
    size_t length = block_length(dtype);
    const uint8_t *block = (const uint8_t *)table + at / length * block_bytes(dtype);
    if (dtype == Q8_0) return unpack_q8_0(block, columns, out);
    for (size_t c = 0; c < columns; c += length, block += block_bytes(dtype))
      block_values(dtype, block, out + c);
    return;
  }
  if (dtype == F32) __builtin_memcpy(out, (const float *)table + at, columns * sizeof(float));
  if (dtype == F16) unpack_f16((const uint16_t *)table + at, columns, out);
  for (size_t c = 0; dtype == BF16 && c < columns; c++) {
    uint32_t bits = (uint32_t)((const uint16_t *)table)[at + c] << 16;
    __builtin_memcpy(out + c, &bits, 4);
  }
}

EXPORT(embed)
void embed(const void *table, int32_t dtype, size_t columns, const int32_t *ids, size_t n,
           float *out) {
  for (size_t i = 0; i < n; i++) unpack_row(table, dtype, columns, (size_t)ids[i], out + i * columns);
}

/** Squares are summed in f64: |x| of 1e30 squared is beyond f32. */
EXPORT(rms_norm)
int32_t rms_norm(const float *x, const float *weight, float eps, float *out, size_t n, size_t d) {
  if (!is_finite(x, n * d)) return NOT_FINITE;
  for (size_t i = 0; i < n; i++, x += d, out += d) {
    double sums[LANES] = {0};
    for (size_t c = 0; c < d; c++) sums[c % LANES] += (double)x[c] * x[c];
    double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float factor = (float)(1 / __builtin_sqrt(sum / (double)d + (double)eps));
    for (size_t c = 0; c < d; c++) out[c] = x[c] * factor * weight[c];
  }
  return OK;
}

/**
 * @param table    f32 [n, pairs, 2], (cos, sin)
 * @param adjacent 1: pairs (2i, 2i+1); 0: (i, i + pairs)
 */
EXPORT(rope)
void rope(float *x, const float *table, size_t n, size_t heads, size_t d, size_t pairs,
          int32_t adjacent) {
  for (size_t i = 0; i < n; i++, table += 2 * pairs) {
    for (size_t h = 0; h < heads; h++, x += d) {
      for (size_t p = 0; p < pairs; p++) {
        float *a = adjacent ? x + 2 * p : x + p;
        float *b = adjacent ? a + 1 : a + pairs;
        float u = *a, v = *b, cosine = table[2 * p], sine = table[2 * p + 1];
        *a = u * cosine - v * sine;
        *b = u * sine + v * cosine;
      }
    }
  }
}

EXPORT(add)
void add(float *x, const float *y, size_t count) {
  for (size_t i = 0; i < count; i++) x[i] += y[i];
}

/** @param bias f32 [kv_heads, d] */
EXPORT(add_bias)
void add_bias(float *x, const float *bias, size_t n, size_t heads, size_t d, size_t kv_heads) {
  for (size_t i = 0; i < n; i++)
    for (size_t h = 0; h < heads; h++, x += d)
      for (size_t c = 0; c < d; c++) x[c] += bias[h * kv_heads / heads * d + c];
}

EXPORT(swiglu)
void swiglu(float *gate, const float *up, size_t count) {
  size_t i = 0;
  for (; i + WIDE <= count; i += WIDE) {
    f32xw g = load_f32xw(gate + i);
    store_f32xw(gate + i, g / (splat_w(1) + exp_w(-g)) * load_f32xw(up + i));
  }
  for (; i < count; i++) gate[i] = gate[i] / (1 + exp_f32(-gate[i])) * up[i];
}
