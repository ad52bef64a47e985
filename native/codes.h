/* Keys as 4-bit codes, 32 keys to a block; see KeyForm in src/kernels/kernels.ts. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
  BLOCK_KEYS = 32,
  GROUP_BYTES = 16, /* the codes of one group of a block */
  TABLE_BYTES = 16, /* the entries of a group */
};

/**
 * out[r, j] = factors[r] alphas[j] sum over g of tables[r][g][code g of key j]
 * @param keys   u8 [blocks, groups, 16]
 * @param tables of each row, i8 [groups, 16]
 * @param ahead  keys that are scanned next
 * @param out    f32 [rows, TILE]
 */
static void scan_codes(const uint8_t *keys, const uint8_t *ahead, int32_t blocks, int32_t groups,
                       const int8_t *const *tables, const float *factors, int32_t rows,
                       const float *alphas, float *out);
