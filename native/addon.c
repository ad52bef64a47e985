/*
 * The Node-API binding. `open(set, threads)` gives an object with the kernels of one instruction set
 * as functions of numbers, and with memory of its own; nothing is allocated in a call of a kernel.
 */
#define NAPI_VERSION 8
#include <node_api.h>

#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

#if defined __x86_64__
#include <cpuid.h>
#elif defined __aarch64__ && defined __linux__
#include <sys/auxv.h>
#endif

/* --- instruction sets ------------------------------------------------------------------------- */

extern const Export kernels_baseline[N_EXPORTS];
#ifdef __x86_64__
extern const Export kernels_avx2[N_EXPORTS];
extern const Export kernels_avx512[N_EXPORTS];

/* As scripts/build-native.mjs compiles them. */

static int has_avx2(void) {
  unsigned a, b, c = 0, d;
  __get_cpuid(1, &a, &b, &c, &d);
  return (c & bit_F16C) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("popcnt");
}

static int has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}
#endif

#ifdef __aarch64__
extern const Export kernels_neon[N_EXPORTS];

/** Every Mac with an ARM processor has dot products. */
static int has_dot_products(void) {
#ifdef __linux__
  return (getauxval(AT_HWCAP) & (1 << 20)) != 0; /* HWCAP_ASIMDDP, which old headers lack */
#elif defined __APPLE__
  return 1;
#else
  return 0;
#endif
}
#endif

static int always(void) { return 1; }

/** The best first. */
static const struct {
  const char *name;
  int (*runs_here)(void);
  const Export *exports;
} sets[] = {
#ifdef __x86_64__
    {"avx512", has_avx512, kernels_avx512},
    {"avx2", has_avx2, kernels_avx2},
#endif
#ifdef __aarch64__
    {"neon", has_dot_products, kernels_neon},
#endif
    {"baseline", always, kernels_baseline},
};
enum { N_SETS = sizeof sets / sizeof *sets };

/* --- instances -------------------------------------------------------------------------------- */

typedef struct Instance Instance;

/** What a function of an instance's object is about. */
typedef struct {
  Instance *instance;
  const Export *export;
} Bound;

/** Lives as long as its environment: functions may outlive the object that they came with. */
struct Instance {
  Pool *pool; /* NULL once closed */
  Memory memory;
  Bound bound[N_EXPORTS], self;
  Instance *next;
};

static void close_instance(Instance *instance) {
  if (!instance->pool) return;
  pool_close(instance->pool);
  instance->pool = NULL;
  memory_release(&instance->memory);
}

/** An environment ends: the main program's, or a worker's. */
static void end_environment(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  Instance **first = data;
  while (*first) {
    Instance *instance = *first;
    *first = instance->next;
    close_instance(instance);
    free(instance);
  }
  free(first);
}

static napi_value refuse(napi_env env, const char *message) {
  napi_throw_error(env, NULL, message);
  return NULL;
}

/** Arguments and the open instance of a call. @returns NULL, with an error thrown, if it is wrong */
static Bound *bound_call(napi_env env, napi_callback_info info, size_t arity, napi_value *values) {
  Bound *bound;
  size_t count = MAX_ARITY;
  napi_get_cb_info(env, info, &count, values, NULL, (void **)&bound);
  if (bound->export) arity = (size_t)bound->export->arity;
  if (!bound->instance->pool) refuse(env, "native: the backend is closed");
  else if (count != arity) refuse(env, "native: wrong number of arguments");
  else return bound;
  return NULL;
}

static napi_value call_kernel(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARITY], result;
  double arguments[MAX_ARITY];
  Bound *bound = bound_call(env, info, 0, values);
  if (!bound) return NULL;
  for (int i = 0; i < bound->export->arity; i++) {
    if (napi_get_value_double(env, values[i], arguments + i) != napi_ok)
      return refuse(env, "native: an argument is not a number");
  }
  pool_use(bound->instance->pool);
  napi_create_double(env, bound->export->call(arguments), &result);
  return result;
}

/** An ArrayBuffer over memory of an instance, or null if there is none. */
static napi_value array_buffer(napi_env env, void *data, size_t bytes) {
  napi_value result;
  if (!data || napi_create_external_arraybuffer(env, data, bytes, NULL, NULL, &result) != napi_ok)
    napi_get_null(env, &result);
  return result;
}

/** Makes what is left of views empty. @returns where the bytes are */
static void *detached(napi_env env, napi_value array_buffer) {
  void *data;
  size_t bytes;
  if (napi_get_arraybuffer_info(env, array_buffer, &data, &bytes) != napi_ok ||
      napi_detach_arraybuffer(env, array_buffer) != napi_ok)
    return NULL;
  return data;
}

/** allocate(bytes): an ArrayBuffer of zeros, or null. */
static napi_value allocate(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARITY];
  double bytes;
  Bound *bound = bound_call(env, info, 1, values);
  if (!bound || napi_get_value_double(env, values[0], &bytes) != napi_ok) return NULL;
  void *data = memory_allocate(&bound->instance->memory, (size_t)bytes);
  return array_buffer(env, data, (size_t)bytes);
}

/** release(arrayBuffer) of `allocate` */
static napi_value release(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARITY];
  Bound *bound = bound_call(env, info, 1, values);
  void *data = bound ? detached(env, values[0]) : NULL;
  if (data) memory_free(&bound->instance->memory, data);
  return NULL;
}

/** map(descriptor, offset, bytes): an ArrayBuffer over a part of a file, or null. */
static napi_value map(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARITY];
  double numbers[3];
  Bound *bound = bound_call(env, info, 3, values);
  if (!bound) return NULL;
  for (int i = 0; i < 3; i++)
    if (napi_get_value_double(env, values[i], numbers + i) != napi_ok) return NULL;
  size_t offset = (size_t)numbers[1], bytes = (size_t)numbers[2];
  return array_buffer(env, memory_map(&bound->instance->memory, (int)numbers[0], offset, bytes),
                      bytes);
}

/** unmap(arrayBuffer) of `map` */
static napi_value unmap(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARITY];
  Bound *bound = bound_call(env, info, 1, values);
  void *data = bound ? detached(env, values[0]) : NULL;
  if (data) memory_unmap(&bound->instance->memory, data);
  return NULL;
}

/** address(arrayBuffer) */
static napi_value address(napi_env env, napi_callback_info info) {
  napi_value values[MAX_ARITY], result;
  void *data;
  size_t bytes;
  Bound *bound = bound_call(env, info, 1, values);
  if (!bound || napi_get_arraybuffer_info(env, values[0], &data, &bytes) != napi_ok) return NULL;
  napi_create_double(env, (double)(uintptr_t)data, &result);
  return result;
}

/** close(): ends threads and gives all memory back; the caller has released its ArrayBuffers. */
static napi_value close_call(napi_env env, napi_callback_info info) {
  Bound *bound;
  napi_get_cb_info(env, info, NULL, NULL, NULL, (void **)&bound);
  close_instance(bound->instance);
  return NULL;
}

static void add_function(napi_env env, napi_value object, const char *name, napi_callback body,
                         void *data) {
  napi_value function;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, body, data, &function);
  napi_set_named_property(env, object, name, function);
}

/** open(set, threads) */
static napi_value open_set(napi_env env, napi_callback_info info) {
  napi_value values[2], object;
  size_t count = 2, length;
  char name[16];
  int32_t threads, set = 0;
  napi_get_cb_info(env, info, &count, values, NULL, NULL);
  if (count != 2 || napi_get_value_string_utf8(env, values[0], name, sizeof name, &length) !=
                        napi_ok ||
      napi_get_value_int32(env, values[1], &threads) != napi_ok)
    return refuse(env, "native: open takes an instruction set and a number of threads");
  while (set < N_SETS && strcmp(sets[set].name, name) != 0) set++;
  if (set == N_SETS || !sets[set].runs_here())
    return refuse(env, "native: this instruction set does not run here");
  Instance **first, *instance = calloc(1, sizeof *instance);
  if (!instance || !(instance->pool = pool_open(threads))) {
    free(instance);
    return refuse(env, "native: the system refuses to start threads");
  }
  napi_get_instance_data(env, (void **)&first);
  instance->next = *first;
  *first = instance;

  napi_create_object(env, &object);
  for (int i = 0; i < N_EXPORTS; i++) {
    const Export *export = sets[set].exports + i;
    instance->bound[i] = (Bound){instance, export};
    add_function(env, object, export->name, call_kernel, instance->bound + i);
  }
  instance->self = (Bound){instance, NULL};
  add_function(env, object, "allocate", allocate, &instance->self);
  add_function(env, object, "release", release, &instance->self);
  add_function(env, object, "map", map, &instance->self);
  add_function(env, object, "unmap", unmap, &instance->self);
  add_function(env, object, "address", address, &instance->self);
  add_function(env, object, "close", close_call, &instance->self);
  return object;
}

/** Exports `open`, and `instructionSets`: for each that was compiled whether it runs here. */
NAPI_MODULE_INIT() {
  napi_value all;
  Instance **first = calloc(1, sizeof *first);
  if (!first || napi_set_instance_data(env, first, end_environment, NULL) != napi_ok) return NULL;
  napi_create_object(env, &all);
  for (int i = 0; i < N_SETS; i++) {
    napi_value runs;
    napi_get_boolean(env, sets[i].runs_here(), &runs);
    napi_set_named_property(env, all, sets[i].name, runs);
  }
  napi_set_named_property(env, exports, "instructionSets", all);
  add_function(env, exports, "open", open_set, NULL);
  return exports;
}
