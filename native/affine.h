/* Values as affine codes of 4 bits, or in fields of 4 and 2; see ValueForm in src/kernels/kernels.ts. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/** Neighbouring dimensions whose codes have the same bits. */
typedef struct {
  size_t dim;
  int32_t bits;
} Fields;

/** Consecutive positions of one head. */
typedef struct {
  const uint8_t *codes;   /* u8 [positions, dim bits / 8 of both], one after the other */
  const uint16_t *params; /* f16 [positions, 2], minimum and step; [positions] where none has a minimum */
  int32_t has_minimum;
  Fields fields[2];
  const uint8_t *ahead;         /* codes of the positions that are summed next */
  const uint16_t *ahead_params;
} AffineValues;

/**
 * sums[r] += sum over k < count of weights[r, k] value k, without the weights of at most
 * share * totals[r], which are taken from totals[r].
 * @param weights f32 [rows, TILE]; set to zero from `count` to the next multiple of GROUP
 * @param totals  f32 [rows], the sum of all weights so far
 * @param sums    f32 [rows, stride]
 * @param scratch room for TILE rows of codes
 */
static void add_affine(float *weights, int32_t rows, const AffineValues *values, int32_t count,
                float share, float *totals, float *sums, size_t stride, uint8_t *scratch);
