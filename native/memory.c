#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/** What stands before the bytes handed out; blocks form a list. */
struct Header {
  _Alignas(64) Header *before;
  Header *after;
  size_t bytes; /* of both; mapped from the system if at least MAPPED */
};
_Static_assert(sizeof(Header) == 64, "keeps what follows aligned to 64 bytes");

enum { MAPPED = 1 << 18 };

void *memory_allocate(Memory *memory, size_t bytes) {
  if (bytes > SIZE_MAX - sizeof(Header)) return NULL;
  bytes += sizeof(Header);
  void *start;
  if (bytes >= MAPPED) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED) return NULL;
  } else {
    if (posix_memalign(&start, _Alignof(Header), bytes) != 0) return NULL;
    memset(start, 0, bytes);
  }
  Header *header = start;
  *header = (Header){.after = memory->first, .bytes = bytes};
  if (memory->first) memory->first->before = header;
  memory->first = header;
  return header + 1;
}

void memory_free(Memory *memory, void *data) {
  Header *header = (Header *)data - 1;
  if (header->after) header->after->before = header->before;
  if (header->before) header->before->after = header->after;
  else memory->first = header->after;
  if (header->bytes >= MAPPED) munmap(header, header->bytes);
  else free(header);
}

/** A part of a file: `data` is inside the whole pages that the system maps. */
struct Mapping {
  void *data, *pages;
  size_t bytes; /* of the pages */
  Mapping *next;
};

void *memory_map(Memory *memory, int file, size_t offset, size_t bytes) {
  size_t before = offset % (size_t)sysconf(_SC_PAGESIZE);
  Mapping *mapping = malloc(sizeof *mapping);
  if (!mapping) return NULL;
  mapping->bytes = before + bytes;
  mapping->pages = mmap(NULL, mapping->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                        file, (off_t)(offset - before));
  if (mapping->pages == MAP_FAILED) {
    free(mapping);
    return NULL;
  }
  madvise(mapping->pages, mapping->bytes, MADV_WILLNEED);
  mapping->data = (char *)mapping->pages + before;
  mapping->next = memory->mappings;
  memory->mappings = mapping;
  return mapping->data;
}

void memory_unmap(Memory *memory, void *data) {
  Mapping **at = &memory->mappings;
  while (*at && (*at)->data != data) at = &(*at)->next;
  Mapping *mapping = *at;
  if (!mapping) return;
  *at = mapping->next;
  munmap(mapping->pages, mapping->bytes);
  free(mapping);
}

void memory_release(Memory *memory) {
  while (memory->mappings) memory_unmap(memory, memory->mappings->data);
  while (memory->first) memory_free(memory, memory->first + 1);
}
