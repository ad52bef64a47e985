/*
 * All kernels as one unit, compiled once for every target. The functions of a unit are static, so
 * that the addon can hold the units of several instruction sets; TARGET names the unit's table.
 */
#include "affine.c"
#include "attend.c"
#include "codes.c"
#include "elementwise.c"
#include "linear.c"
#include "store.c"
#include "fields.c"

#ifndef __wasm__
#include "kernels.h"

#define AT(i) ((void *)(uintptr_t)a[i])
#define CALL(name) static double call_##name(const double *a)

CALL(embed) { return embed(AT(0), a[1], a[2], AT(3), a[4], AT(5)), 0; }
CALL(rms_norm) { return rms_norm(AT(0), AT(1), a[2], AT(3), a[4], a[5]); }
CALL(linear) { return linear(AT(0), a[1], a[2], AT(3), a[4], AT(5)); }
CALL(linear_scratch_bytes) { return linear_scratch_bytes(a[0], a[1], a[2]); }
CALL(rope) { return rope(AT(0), AT(1), a[2], a[3], a[4], a[5], a[6]), 0; }
CALL(add) { return add(AT(0), AT(1), a[2]), 0; }
CALL(add_bias) { return add_bias(AT(0), AT(1), a[2], a[3], a[4], a[5]), 0; }
CALL(swiglu) { return swiglu(AT(0), AT(1), a[2]), 0; }
CALL(store_rows) { return store_rows(AT(0), a[1], a[2], a[3], AT(4), a[5], a[6], a[7]); }
CALL(store_sketch) {
  return store_sketch(AT(0), a[1], a[2], a[3], AT(4), a[5], a[6], AT(7), a[8], a[9]);
}
CALL(store_codes) {
  return store_codes(AT(0), a[1], a[2], a[3], AT(4), a[5], AT(6), a[7], AT(8), a[9]);
}
CALL(query_tables) { return query_tables(AT(0), a[1], a[2], a[3], AT(4), AT(5), AT(6)); }
CALL(store_affine) {
  return store_affine(AT(0), a[1], a[2], a[3], AT(4), AT(5), a[6], a[7]);
}
CALL(turn) { return turn(AT(0), a[1], a[2], a[3], AT(4), a[5], a[6]); }
CALL(store_fields) {
  return store_fields(AT(0), a[1], a[2], a[3], AT(4), AT(5), AT(6), a[7], a[8], a[9], a[10]);
}
CALL(attend_scratch_bytes) { return attend_scratch_bytes(AT(0), a[1], AT(2), a[3]); }
CALL(attend) { return attend(AT(0), a[1], AT(2), AT(3), AT(4), a[5]); }
CALL(scores) { return scores(AT(0), AT(1), AT(2), AT(3)), 0; }

#define ROW(name, arity) {#name, arity, call_##name}
const Export TARGET[N_EXPORTS] = {
    ROW(embed, 6),
    ROW(rms_norm, 6),
    ROW(linear, 6),
    ROW(linear_scratch_bytes, 3),
    ROW(rope, 7),
    ROW(add, 3),
    ROW(add_bias, 6),
    ROW(swiglu, 3),
    ROW(store_rows, 8),
    ROW(store_sketch, 10),
    ROW(store_codes, 10),
    ROW(query_tables, 7),
    ROW(store_affine, 8),
    ROW(turn, 7),
    ROW(store_fields, 11),
    ROW(attend_scratch_bytes, 4),
    ROW(attend, 6),
    ROW(scores, 4),
};
#endif
