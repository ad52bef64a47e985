/* Sizes that attention shares with the kernels for its packed keys and values. */
#pragma once

#include "simd-wide.h"

enum {
  ROWS = 32,  /* query rows of a block */
  TILE = 128, /* slots of a page that a block meets at a time */
  GROUP = 32, /* keys or values unpacked at a time: TILE rows of affine codes are fewer bytes */
  TRIPLE = 3, /* rows that share the loads of a key or value: as many as fit the registers */
  KEYS_AT_ONCE = WIDE == 4 ? 2 : 4,    /* keys whose scores are summed side by side */
  VECTORS_AT_ONCE = WIDE == 16 ? 4 : 2, /* of values that are summed side by side */
};
