/* A pool of threads that share out the tasks of one loop at a time. */
#pragma once

#include <stdint.h>

/** @param worker number of the thread, 0 for the caller's: an index of its scratch memory */
typedef void (*Task)(void *context, int32_t task, int32_t worker);

/** Runs tasks 0 .. count - 1 in any order on all threads and returns when all are done. */
void parallel_for(int32_t count, Task task, void *context);

/** Threads that run tasks, the caller's included. */
int32_t pool_threads(void);

/** Whether a thread has died; results since then are not to be trusted. */
int32_t pool_failed(void);

#ifndef __wasm__
typedef struct Pool Pool;

/** Starts `threads` - 1 workers. @returns NULL if the system refuses */
Pool *pool_open(int32_t threads);
/** From now on `parallel_for` on this thread runs in that pool. */
void pool_use(Pool *);
/** Ends the workers and returns when they are gone. */
void pool_close(Pool *);
#endif
