/* The memory of one backend in the addon. */
#pragma once

#include <stddef.h>

typedef struct Header Header;
typedef struct Mapping Mapping;

typedef struct {
  Header *first;     /* of all that is allocated */
  Mapping *mappings; /* of files */
} Memory;

/** Zeroed, aligned to 64 bytes; large ones straight from the system. @returns NULL if there is none */
void *memory_allocate(Memory *, size_t bytes);
/** Large ones go back to the system at once. */
void memory_free(Memory *, void *data);

/**
 * Bytes of a file, read when they are first touched. Writing to them does not change the file.
 * @returns NULL if the system refuses
 */
void *memory_map(Memory *, int file, size_t offset, size_t bytes);
void memory_unmap(Memory *, void *data);

/** Frees and unmaps everything. */
void memory_release(Memory *);
