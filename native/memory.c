#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

void memory_release(Memory *memory) {
  while (memory->first) memory_free(memory, memory->first + 1);
}
