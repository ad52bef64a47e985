/* What the kernels of one instruction set look like from the addon. */
#pragma once

/** Calls a kernel. Addresses are numbers too: exact, being below 2^53. @returns what it returns */
typedef double Call(const double *arguments);

typedef struct {
  const char *name;
  int arity;
  Call *call;
} Export;

enum { MAX_ARITY = 11, N_EXPORTS = 18 };
