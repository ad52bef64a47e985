#include "pool.h"

#include <stdatomic.h>
#include <stddef.h>

#ifdef __wasm__
#include "elementwise.h"
#else
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#endif

/*
 * One loop runs at a time. `ticket` holds its generation in the upper half and the number of tasks
 * not yet taken in the lower one. A thread takes a task by lowering that number, so a thread that
 * wakes late finds zero, or the next loop, and never a stale task; and once it has taken one, the
 * loop cannot end before it, so `task`, `context` and `count` stay what they are.
 */
struct Pool {
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
#ifndef __wasm__
  pthread_t *threads;
  int32_t n_threads;
  pthread_mutex_t mutex; /* of `changed`, for systems without futexes */
  pthread_cond_t changed;
#endif
};
typedef struct Pool Pool;

/* --- waiting ---------------------------------------------------------------------------------- */

/* Looks at an empty queue before a thread sleeps: about as long as the gap between two kernels. */
#ifdef __wasm__
enum { SPINS = 4000 };
#else
enum { SPINS = 4000 };
#endif

#if defined __wasm_atomics__
static void wait_while(Pool *pool, _Atomic int32_t *p, int32_t value) {
  (void)pool;
  __builtin_wasm_memory_atomic_wait32((int32_t *)p, value, -1);
}
static void notify(Pool *pool, _Atomic int32_t *p) {
  (void)pool;
  __builtin_wasm_memory_atomic_notify((int32_t *)p, 0x7fffffff);
}
#elif defined __wasm__
static void wait_while(Pool *pool, _Atomic int32_t *p, int32_t value) {
  (void)pool, (void)p, (void)value;
}
static void notify(Pool *pool, _Atomic int32_t *p) { (void)pool, (void)p; }
#elif defined __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
static void wait_while(Pool *pool, _Atomic int32_t *p, int32_t value) {
  (void)pool;
  syscall(SYS_futex, p, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void notify(Pool *pool, _Atomic int32_t *p) {
  (void)pool;
  syscall(SYS_futex, p, FUTEX_WAKE_PRIVATE, 0x7fffffff, NULL, NULL, 0);
}
#else
static void wait_while(Pool *pool, _Atomic int32_t *p, int32_t value) {
  pthread_mutex_lock(&pool->mutex);
  while (*p == value) pthread_cond_wait(&pool->changed, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}
static void notify(Pool *pool, _Atomic int32_t *p) {
  (void)p;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->changed);
  pthread_mutex_unlock(&pool->mutex);
}
#endif

/** Leaves the core's units to its other thread for a moment. */
static void relax(void) {
#if defined __x86_64__
  __builtin_ia32_pause();
#elif defined __aarch64__
  __asm__ volatile("yield");
#endif
}

/* --- loops ------------------------------------------------------------------------------------ */

#ifdef __wasm__
/* An instance of the module has a pool of its own. */
static Pool only;
static Pool *current_pool(void) { return &only; }
#else
static _Thread_local Pool *used;
static Pool *current_pool(void) { return used; }
void pool_use(Pool *pool) { used = pool; }
#endif

/** Takes and runs tasks until none is left. */
static void work(Pool *pool, int32_t worker) {
  uint64_t ticket = pool->ticket;
  while ((uint32_t)ticket != 0) {
    if (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1)) continue;
    pool->task(pool->context, pool->count - (int32_t)(uint32_t)ticket, worker);
    if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && worker != 0)
      notify(pool, &pool->unfinished);
    ticket = pool->ticket;
  }
}

void parallel_for(int32_t count, Task task, void *context) {
  Pool *pool = current_pool();
  if (count <= 0) return;
  if (count == 1 || pool->workers == 0) {
    for (int32_t i = 0; i < count; i++) task(context, i, 0);
    return;
  }
  pool->task = task;
  pool->context = context;
  pool->count = count;
  pool->unfinished = count;
  pool->ticket = ((pool->ticket >> 32) + 1) << 32 | (uint32_t)count;
  pool->wake++;
  if (pool->sleepers > 0) notify(pool, &pool->wake);
  work(pool, 0);
  for (int32_t spins = 0; pool->unfinished != 0 && !pool->failed; spins++) {
    int32_t unfinished = pool->unfinished;
    if (spins < SPINS) relax();
    else if (unfinished != 0 && !pool->failed) wait_while(pool, &pool->unfinished, unfinished);
  }
}

int32_t pool_threads(void) { return current_pool()->workers + 1; }

int32_t pool_failed(void) { return current_pool()->failed; }

/** The life of a worker thread: returns when the pool stops. */
static void live(Pool *pool) {
  int32_t worker = ++pool->workers;
  for (int32_t spins = 0; !pool->stopping;) {
    int32_t wake = pool->wake;
    if ((uint32_t)pool->ticket != 0) {
      work(pool, worker);
      spins = 0;
    } else if (++spins < SPINS) {
      relax();
    } else {
      pool->sleepers++;
      // The ticket is read again: a loop published before `sleepers` rose has notified nobody.
      if ((uint32_t)pool->ticket == 0 && !pool->stopping) wait_while(pool, &pool->wake, wake);
      pool->sleepers--;
      spins = 0;
    }
  }
}

static void stop(Pool *pool) {
  pool->stopping = 1;
  pool->wake++;
  notify(pool, &pool->wake);
}

/* --- threads ---------------------------------------------------------------------------------- */

#ifdef __wasm__
EXPORT(worker_loop) void worker_loop(void) { live(&only); }
EXPORT(pool_stop) void pool_stop(void) { stop(&only); }

/** Called on behalf of a thread that died: ends a wait that would never end. */
EXPORT(pool_fail) void pool_fail(void) {
  only.failed = 1;
  only.unfinished = 0;
  notify(&only, &only.unfinished);
}
#else

enum { STACK_BYTES = 1 << 20 };

static void *start(void *pool) {
  live(pool);
  return NULL;
}

/** Starts workers; signals stay with the program's own threads. */
static void start_threads(Pool *pool, int32_t count) {
  pthread_attr_t attributes;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  while (pool->n_threads < count &&
         pthread_create(pool->threads + pool->n_threads, &attributes, start, pool) == 0)
    pool->n_threads++;
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

Pool *pool_open(int32_t threads) {
  void *memory;
  if (posix_memalign(&memory, _Alignof(Pool), sizeof(Pool)) != 0) return NULL;
  Pool *pool = memory;
  __builtin_memset(pool, 0, sizeof *pool);
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->changed, NULL);
  pool->threads = calloc((size_t)threads, sizeof *pool->threads);
  if (pool->threads) start_threads(pool, threads - 1);
  if (pool->n_threads == threads - 1) return pool;
  pool_close(pool);
  return NULL;
}

void pool_close(Pool *pool) {
  stop(pool);
  for (int32_t i = 0; i < pool->n_threads; i++) pthread_join(pool->threads[i], NULL);
  pthread_cond_destroy(&pool->changed);
  pthread_mutex_destroy(&pool->mutex);
  free(pool->threads);
  free(pool);
}
#endif
