/* The memory of one backend in the addon. */
#pragma once

#include <stddef.h>

typedef struct Header Header;

typedef struct {
  Header *first; /* of all that is not free */
} Memory;

/** Zeroed, aligned to 64 bytes; large ones straight from the system. @returns NULL if there is none */
void *memory_allocate(Memory *, size_t bytes);
/** Large ones go back to the system at once. */
void memory_free(Memory *, void *data);
/** Frees everything. */
void memory_release(Memory *);
