#include "pool.h"

#include "elementwise.h"

/*
 * One loop runs at a time. `ticket` holds its generation in the upper half and the number of tasks
 * not yet taken in the lower one. A thread takes a task by lowering that number, so a thread that
 * wakes late finds zero, or the next loop, and never a stale task; and once it has taken one, the
 * loop cannot end before it, so `task`, `context` and `count` stay what they are.
 */
static struct {
  _Alignas(64) _Atomic uint64_t ticket;
  _Alignas(64) _Atomic int32_t unfinished;
  _Alignas(64) _Atomic int32_t sleepers;
  _Atomic int32_t wake;
  _Atomic int32_t workers;
  _Atomic int32_t stopping;
  _Atomic int32_t failed;
  Task task;
  void *context;
  int32_t count;
} pool;

/* Looks at an empty queue before a thread sleeps: about as long as the gap between two kernels. */
enum { SPINS = 4000 };

#ifdef __wasm_atomics__
static void wait_while(_Atomic int32_t *p, int32_t value) {
  __builtin_wasm_memory_atomic_wait32((int32_t *)p, value, -1);
}
static void notify(_Atomic int32_t *p) {
  __builtin_wasm_memory_atomic_notify((int32_t *)p, 0x7fffffff);
}
#else
static void wait_while(_Atomic int32_t *p, int32_t value) { (void)p, (void)value; }
static void notify(_Atomic int32_t *p) { (void)p; }
#endif

/** Takes and runs tasks until none is left. */
static void work(int32_t worker) {
  uint64_t ticket = pool.ticket;
  while ((uint32_t)ticket != 0) {
    if (!__c11_atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket - 1, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
      continue;
    pool.task(pool.context, pool.count - (int32_t)(uint32_t)ticket, worker);
    if (__c11_atomic_fetch_sub(&pool.unfinished, 1, __ATOMIC_SEQ_CST) == 1 && worker != 0)
      notify(&pool.unfinished);
    ticket = pool.ticket;
  }
}

void parallel_for(int32_t count, Task task, void *context) {
  if (count <= 0) return;
  if (count == 1 || pool.workers == 0) {
    for (int32_t i = 0; i < count; i++) task(context, i, 0);
    return;
  }
  pool.task = task;
  pool.context = context;
  pool.count = count;
  pool.unfinished = count;
  pool.ticket = ((pool.ticket >> 32) + 1) << 32 | (uint32_t)count;
  pool.wake++;
  if (pool.sleepers > 0) notify(&pool.wake);
  work(0);
  for (int32_t spins = 0; pool.unfinished != 0 && !pool.failed; spins++) {
    int32_t unfinished = pool.unfinished;
    if (spins >= SPINS && unfinished != 0 && !pool.failed) wait_while(&pool.unfinished, unfinished);
  }
}

int32_t pool_failed(void) { return pool.failed; }

/** The life of a worker thread: returns when the pool stops. */
EXPORT(worker_loop) void worker_loop(void) {
  int32_t worker = ++pool.workers;
  for (int32_t spins = 0; !pool.stopping;) {
    int32_t wake = pool.wake;
    if ((uint32_t)pool.ticket != 0) {
      work(worker);
      spins = 0;
    } else if (++spins >= SPINS) {
      pool.sleepers++;
      // The ticket is read again: a loop published before `sleepers` rose has notified nobody.
      if ((uint32_t)pool.ticket == 0 && !pool.stopping) wait_while(&pool.wake, wake);
      pool.sleepers--;
      spins = 0;
    }
  }
}

EXPORT(pool_stop) void pool_stop(void) {
  pool.stopping = 1;
  pool.wake++;
  notify(&pool.wake);
}

/** Called on behalf of a thread that died: ends a wait that would never end. */
EXPORT(pool_fail) void pool_fail(void) {
  pool.failed = 1;
  pool.unfinished = 0;
  notify(&pool.unfinished);
}
