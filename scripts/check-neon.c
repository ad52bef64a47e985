/*
 * The kernels of the NEON unit beside those of the portable unit, which is part of this program, on
 * the same random input. What caches store has to be the same bits; sums of floats differ in what
 * is rounded, as NEON fuses products and sums. scripts/check-neon.mjs compiles it and runs it.
 */
#define TARGET kernels_portable
#include "../native/kernels.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const Export kernels_neon[N_EXPORTS];

enum {
  HEADS = 6, KV_HEADS = 2, DIM = 64, PAGE = 128, PAGES = 3, LENGTH = 300, /* of attention */
  GROUPS = 16, WORDS = 8, THREADS = 2,
  MAX_BYTES = 1 << 20, /* of an output */
};

/* --- random input ----------------------------------------------------------------------------- */

static uint64_t state = 1;
/** xorshift64* of Vigna (2016). */
static uint32_t random_u32(void) {
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return (uint32_t)((state * 0x2545f4914f6cdd1d) >> 32);
}

static float random_f32(void) { return (float)(int32_t)random_u32() / 1e9f; }

static void *memory(size_t bytes) {
  void *p = calloc(1, bytes + 64);
  if (!p) abort();
  return p;
}

static float *floats(size_t count) {
  float *p = memory(4 * count);
  for (size_t i = 0; i < count; i++) p[i] = random_f32();
  return p;
}

static uint8_t *bytes(size_t count) {
  uint8_t *p = memory(count);
  for (size_t i = 0; i < count; i++) p[i] = (uint8_t)random_u32();
  return p;
}

/** An f16 of about 0.1. */
static void set_half(uint8_t *p) { p[1] = (uint8_t)(0x2c | (p[1] & 3)); }

static uint16_t *halves(size_t count) {
  uint8_t *p = bytes(2 * count);
  for (size_t i = 0; i < count; i++) set_half(p + 2 * i);
  return (uint16_t *)p;
}

/** Of element types, by number. */
static const char *names[] = {"f32",  "f16",  "bf16", "q8_0", "q4_0", "q4_1",
                              "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};

/** Weights of a type: random codes, scales and minima of about 0.1. */
static uint8_t *weights(int32_t dtype, size_t rows, size_t columns) {
  if (dtype == F32) return (uint8_t *)floats(rows * columns);
  if (!has_blocks(dtype)) return (uint8_t *)halves(rows * columns);
  size_t size = block_bytes(dtype), blocks = rows * columns / block_length(dtype);
  uint8_t *p = bytes(blocks * size);
  for (size_t b = 0; b < blocks; b++) {
    set_half(p + b * size + (dtype == Q6_K ? 208 : 0));
    if (has_minima(dtype)) set_half(p + b * size + 2);
  }
  return p;
}

/* --- two units side by side ------------------------------------------------------------------- */

static int failures, cases;
static uint8_t before[MAX_BYTES], expected[MAX_BYTES];

#define P(pointer) ((double)(uintptr_t)(pointer))
#define CALL_BOTH(what, out, bytes, exact, name, ...)                                              \
  compare(what, out, bytes, exact, name, (const double[MAX_ARITY]){__VA_ARGS__})

static double call(const Export *unit, const char *name, const double *arguments) {
  for (int i = 0; i < N_EXPORTS; i++)
    if (!strcmp(unit[i].name, name)) return unit[i].call(arguments);
  abort();
}

/** Calls a kernel of both units on the same memory and compares what they leave in `out`. */
static void compare(const char *what, void *out, size_t size, int exact, const char *name,
                    const double *arguments) {
  if (size > MAX_BYTES) abort();
  cases++;
  memcpy(before, out, size);
  double status = call(kernels_portable, name, arguments);
  memcpy(expected, out, size);
  memcpy(out, before, size);
  if (call(kernels_neon, name, arguments) != status) {
    printf("FAIL %s %s: another status\n", name, what);
    failures++;
    return;
  }
  if (exact) {
    if (!memcmp(out, expected, size) && memcmp(out, before, size)) return;
    printf("FAIL %s %s: other bits, or nothing written\n", name, what);
    failures++;
    return;
  }
  const float *is = out, *should = (const float *)expected;
  double largest = 0, error = 0;
  for (size_t i = 0; i < size / 4; i++) {
    double difference = (double)is[i] - should[i];
    if (is[i] == should[i]) difference = 0; /* infinities */
    if (!(difference * difference <= error * error)) error = difference < 0 ? -difference : difference;
    double magnitude = should[i] < 0 ? -should[i] : should[i];
    if (magnitude > largest && magnitude < 1e30) largest = magnitude;
  }
  if (largest > 0 && error <= 1e-5 * largest) return;
  printf("FAIL %s %s: differs by %g, largest %g\n", name, what, error, largest);
  failures++;
}

/* --- every kernel ----------------------------------------------------------------------------- */

static void check_weights(void) {
  enum { COLUMNS = 512, ROWS_OF_WEIGHTS = 43 };
  const int32_t counts[] = {1, 2, 9, 16};
  for (int32_t dtype = F32; dtype <= Q6_K; dtype++) {
    uint8_t *w = weights(dtype, ROWS_OF_WEIGHTS, COLUMNS);
    int32_t ids[3] = {0, 42, 7};
    float *rows = memory(3 * COLUMNS * 4);
    CALL_BOTH(names[dtype], rows, 3 * COLUMNS * 4, 0, "embed", P(w), dtype, COLUMNS, P(ids), 3, P(rows));
    for (size_t i = 0; i < 4; i++) {
      int32_t n = counts[i];
      float *x = floats((size_t)n * COLUMNS), *out = memory((size_t)n * ROWS_OF_WEIGHTS * 4);
      LinearPart part = {w, out, ROWS_OF_WEIGHTS, dtype};
      double sizes[MAX_ARITY] = {n, COLUMNS, THREADS};
      double a = call(kernels_portable, "linear_scratch_bytes", sizes);
      double b = call(kernels_neon, "linear_scratch_bytes", sizes);
      void *scratch = memory((size_t)(a > b ? a : b));
      CALL_BOTH(names[dtype], out, (size_t)n * ROWS_OF_WEIGHTS * 4, 0, "linear", P(x), n, COLUMNS,
                P(&part), 1, P(scratch));
    }
  }
}

static void check_elementwise(void) {
  float *x = floats(4096), *y = floats(4096);
  size_t size = 4096 * 4;
  CALL_BOTH("", x, size, 0, "rms_norm", P(y), P(y), 1e-5, P(x), 8, 512);
  CALL_BOTH("pairs apart", x, size, 0, "rope", P(x), P(y), 4, 16, 64, 32, 0);
  CALL_BOTH("adjacent", x, size, 0, "rope", P(x), P(y), 4, 16, 64, 32, 1);
  CALL_BOTH("", x, size, 1, "add", P(x), P(y), 4096);
  CALL_BOTH("", x, size, 1, "add_bias", P(x), P(y), 8, 6, 80, 2);
  CALL_BOTH("", x, size, 0, "swiglu", P(x), P(y), 4095);
}

typedef struct {
  int32_t fours, twos;
} FieldCase;
static const FieldCase no_fields = {0, 0};
static const FieldCase field_cases[] = {{24, 32}, {0, DIM}, {16, 8}};

/** Stores keys and values in every form; attention over what was stored, in every pair of forms. */
static void check_stores_and_attention(void) {
  float *x = floats(LENGTH * KV_HEADS * DIM), *q = floats(LENGTH * HEADS * DIM);
  uint8_t *projection = bytes(KV_HEADS * WORDS * 32 * DIM);
  const int32_t matrix_types[] = {F32, F16, Q8_0}, level_types[] = {F32, Q8_0, Q8_0};
  int32_t places[KV_HEADS * 4 * GROUPS], in_use[KV_HEADS] = {4 * GROUPS, 4 * GROUPS};
  for (int32_t i = 0; i < KV_HEADS * 4 * GROUPS; i++) places[i] = i % 7 ? i : -1;
  Codec codecs[3];
  for (size_t i = 0; i < 3; i++)
    codecs[i] = (Codec){
        .project = weights(matrix_types[i], KV_HEADS * 4 * GROUPS, DIM),
        .levels = weights(level_types[i], KV_HEADS * GROUPS, 64),
        .places = places, .in_use = in_use,
        .project_dtype = matrix_types[i], .rows = KV_HEADS * 4 * GROUPS,
        .levels_dtype = level_types[i], .heads = KV_HEADS, .groups = GROUPS,
    };
  const int32_t lengths[PAGES] = {PAGE, PAGE, LENGTH - 2 * PAGE};
  Page keys[4][PAGES] = {0}, values[6][PAGES] = {0};
  float *weights_of_fields = floats(KV_HEADS * DIM);
  for (size_t i = 0; i < KV_HEADS * DIM; i++)
    weights_of_fields[i] *= weights_of_fields[i];
  for (size_t i = 0; i < 3; i++) {
    float *turned = floats(LENGTH * HEADS * DIM);
    CALL_BOTH(names[matrix_types[i]], turned, (size_t)(LENGTH * HEADS * DIM) * 4, 0, "turn", P(turned),
              LENGTH, HEADS, DIM, P(weights(matrix_types[i], KV_HEADS * DIM, DIM)), matrix_types[i],
              KV_HEADS);
  }
  for (int32_t p = 0; p < PAGES; p++, x += PAGE * KV_HEADS * DIM) {
    int32_t n = lengths[p];
    for (int32_t form = KEYS_F32; form <= KEYS_F16; form++) {
      size_t size = (size_t)KV_HEADS * PAGE * DIM * (form == KEYS_F32 ? 4 : 2);
      void *page = memory(size);
      keys[form][p].keys = values[form][p].values = page;
      CALL_BOTH("", page, size, 1, "store_rows", P(x), n, KV_HEADS, DIM, P(page), form, PAGE, 0);
    }
    void *sketch = memory(KV_HEADS * PAGE * WORDS * 4);
    keys[KEYS_SKETCH][p].keys = sketch;
    CALL_BOTH("", sketch, KV_HEADS * PAGE * WORDS * 4, 1, "store_sketch", P(x), n, KV_HEADS, DIM,
              P(projection), KV_HEADS, WORDS * 32, P(sketch), PAGE, 0);
    size_t size = KV_HEADS * PAGE / 2 * GROUPS;
    uint8_t *codes = memory(size + KV_HEADS * PAGE * 2);
    uint16_t *scales = (uint16_t *)(codes + size);
    keys[KEYS_CODES][p].keys = codes, keys[KEYS_CODES][p].key_scales = scales;
    for (size_t i = 0; i < 3; i++)
      for (int32_t rule = NO_SCALE; rule >= UNBIASED; rule--) {
        Codec codec = codecs[i];
        codec.rule = rule;
        CALL_BOTH(names[matrix_types[i]], codes, size + KV_HEADS * PAGE * 2, 1, "store_codes", P(x), n,
                  KV_HEADS, DIM, P(&codec), 1.5, P(codes), PAGE / BLOCK_KEYS, P(scales), 0);
      }
    size = (size_t)KV_HEADS * PAGE * DIM / 2;
    uint8_t *affine = memory(size + KV_HEADS * PAGE * 4);
    uint16_t *params = (uint16_t *)(affine + size);
    values[VALUES_AFFINE][p].values = affine, values[VALUES_AFFINE][p].params = params;
    CALL_BOTH("", affine, size + KV_HEADS * PAGE * 4, 1, "store_affine", P(x), n, KV_HEADS, DIM,
              P(affine), P(params), PAGE, 0);
    for (int32_t i = 0; i < 3; i++) {
      const FieldCase *f = field_cases + i;
      size = (size_t)(KV_HEADS * PAGE * (f->fours / 2 + f->twos / 4));
      uint8_t *fields = memory(size + KV_HEADS * PAGE * 2);
      uint16_t *field_scales = (uint16_t *)(fields + size);
      values[VALUES_FIELDS + i][p].values = fields;
      values[VALUES_FIELDS + i][p].params = field_scales;
      CALL_BOTH("", fields, size + KV_HEADS * PAGE * 2, 1, "store_fields", P(x), n, KV_HEADS, DIM,
                P(weights_of_fields), P(fields), P(field_scales), PAGE, 0, f->fours, f->twos);
    }
  }

  const int32_t steps[] = {1, 3, 40};
  float *scale = memory(HEADS * 4);
  for (size_t h = 0; h < HEADS; h++) scale[h] = 0.02f;
  for (size_t i = 0; i < 3; i++) {
    int32_t n = steps[i];
    size_t out_bytes = (size_t)(n * HEADS * DIM) * 4;
    uint32_t *sketches = (uint32_t *)bytes((size_t)(HEADS * n) * WORDS * 4);
    size_t table_size = (size_t)(HEADS * n) * GROUPS * TABLE_BYTES;
    uint8_t *tables = memory(table_size + (size_t)(HEADS * n) * 4);
    float *table_scales = (float *)(tables + table_size), *out = memory(out_bytes);
    for (size_t t = 0; t < 3; t++)
      CALL_BOTH(names[matrix_types[t]], tables, table_size + (size_t)(HEADS * n) * 4, 1, "query_tables",
                P(q), n, HEADS, DIM, P(&codecs[t]), P(tables), P(table_scales));
    for (int32_t k = 0; k < 4; k++) {
      for (int32_t v = 0; v < 6; v++) {
        const FieldCase *f = v < VALUES_FIELDS ? &no_fields : field_cases + v - VALUES_FIELDS;
        Page both[PAGES];
        for (size_t p = 0; p < PAGES; p++) {
          both[p] = keys[k][p];
          both[p].values = values[v][p].values, both[p].params = values[v][p].params;
        }
        Segment segment = {
            .query = k == KEYS_CODES ? (void *)tables : k == KEYS_SKETCH ? (void *)sketches : (void *)q,
            .query_scales = table_scales, .scale = scale, .pages = both,
            .key_form = k, .value_form = v < VALUES_FIELDS ? v : VALUES_FIELDS,
            .fours = f->fours, .twos = f->twos, .page_length = PAGE, .first = 0, .length = LENGTH,
            .min_distance = 0, .max_distance = INT32_MAX,
            .words = k == KEYS_SKETCH ? WORDS : GROUPS,
        };
        Shape shape = {n, LENGTH - n, HEADS, KV_HEADS, DIM, DIM};
        double sizes[MAX_ARITY] = {P(&segment), 1, P(&shape), THREADS};
        double a = call(kernels_portable, "attend_scratch_bytes", sizes);
        double b = call(kernels_neon, "attend_scratch_bytes", sizes);
        float *scratch = memory((size_t)(a > b ? a : b));
        char what[64];
        snprintf(what, sizeof what, "keys %d, values %d, %d queries", k, v, n);
        CALL_BOTH(what, out, out_bytes, 0, "attend", P(&segment), 1, P(&shape), P(out), P(scratch),
                  THREADS);
        if (v > 0) continue;
        float *scores = memory((size_t)(HEADS * n * LENGTH) * 4);
        CALL_BOTH(what, scores, (size_t)(HEADS * n * LENGTH) * 4, 0, "scores", P(&segment),
                  P(&shape), P(scores), P(scratch));
        free(scores);
      }
    }
  }
}

int main(void) {
  Pool *pool = pool_open(THREADS);
  if (!pool) return 2;
  pool_use(pool);
  check_weights();
  check_elementwise();
  check_stores_and_attention();
  pool_close(pool);
  printf("%d calls compared, %d differ\n", cases, failures);
  return failures > 0;
}
