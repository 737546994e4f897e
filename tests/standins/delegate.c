/* A stand-in for an accelerator's delegate library, for tests: it has the two entry points of TFLite's external
 * delegates and does on the processor what its options say. It is no Edge TPU and measures nothing.
 *
 * The declarations below are the part of TFLite's C interface (common.h, c_api_types.h; "semi-ABI stable": only ever
 * added to at the end) that a delegate needs. Structures that only the runtime makes are declared as far as they are read.
 *
 * Options: take = edgetpu (default; compiled operators), add (float additions), all, half, none;
 *   fail = message, empty, crash (when the library is loaded); pulled = a file without which an inference aborts;
 *   crash_at = the inference that crashes; work_us = how long an inference takes at least;
 *   lie = nothing (outputs are not written), constant, copied (from the inputs), nan, late (those of `late` inferences
 *   before), zeros (from inference `after` on), glitch (every fifth is that of the inference before).
 *   junk = a text that it writes, with a newline, to the descriptors 3-63 when it is loaded; junk_mib writes MiB of x.
 *   bytes = how many bytes of 0xff it writes so; exits = 1: it ends its process well after that.
 *   closes = 1: it closes all descriptors when it is loaded, and hangs.
 *   daemon = a file for the pid of a daemon that it leaves running for a minute, with all that it inherits;
 *   daemon_hides = 1: the daemon closes its descriptors, 2: it clears its environment (exec of sleep).
 *
 * A compiled operator has no additions to work out: its outputs are a hash of its inputs, the same for the same.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, ERROR = 1, READ_ONLY = 1, FLOAT32 = 1, ADD = 0, ALLOW_DYNAMIC_TENSORS = 1 };

typedef struct { int size; int data[]; } Ints;

typedef struct {
  int type;
  void *data;
  Ints *dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  char data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const Ints *dims_signature;
} Tensor;

typedef struct {
  Ints *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
} Node;

typedef struct Context Context;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *external, *async_kernel;
  uint64_t inplace_operator;
} Registration;

typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque_builder;
} Delegate;

struct Context {
  size_t tensors_size;
  int (*execution_plan)(Context *, Ints **);
  Tensor *tensors;
  void *impl, *resize_tensor;
  void (*report_error)(Context *, const char *, ...);
  void *add_tensors;
  int (*node)(Context *, int, Node **, Registration **);
  int (*replace)(Context *, Registration, const Ints *, Delegate *);
};

typedef struct { Delegate *delegate; Ints *nodes, *inputs, *outputs; } Partition;

/* What the options say. */
typedef struct {
  Delegate delegate;
  char take[16], pulled[512], lie[16];
  long crash_at, work_us, inferences, late, after;
} Standin;

/* A partition: its additions in order, and memory for the tensors between them. */
typedef struct {
  Standin *standin;
  int count;
  int (*adds)[3];
  void **between;
  char *history; /* of all outputs, a ring of late + 1 inferences */
  long runs;
} Kernel;

static int contains(const Ints *list, int value) {
  for (int i = 0; i < list->size; i++)
    if (list->data[i] == value) return 1;
  return 0;
}

static int is_compiled(const Registration *registration) {
  return registration->custom_name && !strcmp(registration->custom_name, "edgetpu-custom-op");
}

static int is_add(const Context *context, const Node *node, const Registration *registration) {
  return registration->builtin_code == ADD && !registration->custom_name &&
         context->tensors[node->outputs->data[0]].type == FLOAT32;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  (void)length;
  const Partition *partition = (const Partition *)buffer;
  Kernel *kernel = calloc(1, sizeof *kernel);
  kernel->standin = partition->delegate->data;
  kernel->adds = calloc(partition->nodes->size, sizeof *kernel->adds);
  kernel->between = calloc(context->tensors_size, sizeof *kernel->between);
  for (int i = 0; i < partition->nodes->size; i++) {
    Node *node;
    Registration *registration;
    if (context->node(context, partition->nodes->data[i], &node, &registration) != OK) break;
    if (!is_add(context, node, registration)) continue;
    int *add = kernel->adds[kernel->count++];
    add[0] = node->inputs->data[0], add[1] = node->inputs->data[1], add[2] = node->outputs->data[0];
    /* The runtime has no memory for what is neither in nor out of a partition. */
    if (!contains(partition->outputs, add[2])) kernel->between[add[2]] = calloc(1, context->tensors[add[2]].bytes);
  }
  return kernel;
}

static int kernel_prepare(Context *context, Node *node) {
  (void)context, (void)node;
  return OK;
}

static void work(long microseconds) {
  struct timespec now, begin;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  do {
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while ((now.tv_sec - begin.tv_sec) * 1000000L + (now.tv_nsec - begin.tv_nsec) / 1000 < microseconds);
}

static float *values(Context *context, const Kernel *kernel, int tensor) {
  return kernel->between[tensor] ? kernel->between[tensor] : context->tensors[tensor].data;
}

static uint32_t hash_of(Context *context, const Node *node) {
  uint32_t hash = 2166136261u; /* FNV-1a */
  for (int i = 0; i < node->inputs->size; i++) {
    const Tensor *in = &context->tensors[node->inputs->data[i]];
    if (in->allocation_type == READ_ONLY || !in->data) continue;
    for (size_t j = 0; j < in->bytes; j++) hash = (hash ^ ((unsigned char *)in->data)[j]) * 16777619u;
  }
  return hash;
}

static void fill(Tensor *out, uint32_t hash) {
  size_t count = out->type == FLOAT32 ? out->bytes / sizeof(float) : out->bytes;
  for (size_t j = 0; j < count; j++) {
    hash = hash * 1664525u + 1013904223u;
    if (out->type == FLOAT32) ((float *)out->data)[j] = (hash >> 8) / 16777216.0f;
    else ((unsigned char *)out->data)[j] = hash >> 24;
  }
}

/* Replace the right outputs by those that the lie says. */
static void lie(Context *context, Kernel *kernel, const Node *node) {
  Standin *standin = kernel->standin;
  const char *how = standin->lie;
  kernel->runs++;
  size_t total = 0, at = 0, rounds = standin->late + 1;
  for (int i = 0; i < node->outputs->size; i++) total += context->tensors[node->outputs->data[i]].bytes;
  if (!kernel->history) kernel->history = calloc(rounds, total);
  char *kept = kernel->history + kernel->runs % rounds * total;
  const char *old = kernel->history + (kernel->runs + 1) % rounds * total;
  for (int i = 0; i < node->outputs->size; i++) {
    Tensor *out = &context->tensors[node->outputs->data[i]];
    memcpy(kept + at, out->data, out->bytes);
    if (!strcmp(how, "constant")) memset(out->data, 42, out->bytes);
    if (!strcmp(how, "zeros") && standin->inferences >= standin->after) memset(out->data, 0, out->bytes);
    if (!strcmp(how, "nan")) memset(out->data, 0xff, out->bytes);
    if (!strcmp(how, "late") || (!strcmp(how, "glitch") && kernel->runs % 5 == 0))
      memcpy(out->data, old + at, out->bytes);
    const Tensor *in = &context->tensors[node->inputs->data[0]];
    for (int j = 1; j < node->inputs->size && in->allocation_type == READ_ONLY; j++)
      in = &context->tensors[node->inputs->data[j]];
    for (size_t j = 0; !strcmp(how, "copied") && j < out->bytes; j++)
      ((char *)out->data)[j] = ((char *)in->data)[j % in->bytes];
    at += out->bytes;
  }
}

static int kernel_invoke(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  Standin *standin = kernel->standin;
  standin->inferences++;
  if (standin->inferences == standin->crash_at) *(volatile int *)0 = 0;
  if (standin->pulled[0] && access(standin->pulled, F_OK) != 0) {
    fprintf(stderr, "transfer on tag 1 failed. Abort. Deadline exceeded: USB transfer error 2 [stand-in]\n");
    abort();
  }
  if (!strcmp(standin->lie, "nothing")) return work(standin->work_us), OK;
  for (int i = 0; i < kernel->count; i++) {
    const int *add = kernel->adds[i];
    const float *a = values(context, kernel, add[0]), *b = values(context, kernel, add[1]);
    float *sum = values(context, kernel, add[2]);
    size_t count = context->tensors[add[2]].bytes / sizeof *sum;
    size_t many = context->tensors[add[1]].bytes / sizeof *sum;
    for (size_t j = 0; j < count; j++) sum[j] = a[j] + b[j % many];
  }
  for (int i = 0; !kernel->count && i < node->outputs->size; i++) {
    Tensor *out = &context->tensors[node->outputs->data[i]];
    if (out->data) fill(out, hash_of(context, node));
  }
  if (standin->lie[0]) lie(context, kernel, node);
  work(standin->work_us);
  return OK;
}

static int prepare(Context *context, Delegate *delegate) {
  Standin *standin = delegate->data;
  Ints *plan;
  if (context->execution_plan(context, &plan) != OK) return ERROR;
  Ints *taken = calloc(1, sizeof *taken + plan->size * sizeof(int));
  int size = plan->size, *copy = malloc((size + 1) * sizeof(int));
  memcpy(copy, plan->data, size * sizeof(int));
  for (int i = 0; i < size; i++) {
    Node *node;
    Registration *registration;
    if (context->node(context, copy[i], &node, &registration) != OK) return ERROR;
    const char *take = standin->take;
    if (!strcmp(take, "all") || (!strcmp(take, "edgetpu") && is_compiled(registration)) ||
        ((!strcmp(take, "add") || !strcmp(take, "half")) && is_add(context, node, registration)))
      taken->data[taken->size++] = copy[i];
  }
  if (!strcmp(standin->take, "half")) taken->size /= 2;
  Registration kernel = {.init = kernel_init, .prepare = kernel_prepare, .invoke = kernel_invoke,
                         .custom_name = "StandInDelegate", .version = 1};
  int status = taken->size ? context->replace(context, kernel, taken, delegate) : OK;
  free(taken), free(copy);
  return status;
}

/* Fork twice, as daemons do: the second child is in a session of its own and outlives this process. */
static void leave_daemon(const char *path, int hides) {
  pid_t first = fork();
  if (first == 0) {
    setsid();
    pid_t second = fork();
    if (second == 0) {
      signal(SIGHUP, SIG_IGN);
      for (int fd = 0; hides == 1 && fd < 256; fd++) close(fd);
      if (hides == 2) execle("/bin/sleep", "sleep", "60", (char *)0, (char *[]){NULL});
      sleep(60);
      _exit(0);
    }
    FILE *file = fopen(path, "w");
    fprintf(file, "%d", (int)second);
    fclose(file);
    _exit(0);
  }
  waitpid(first, NULL, 0);
}

static void write_everywhere(const char *text, long times) {
  for (int fd = 3; fd < 64; fd++) {
    if (lseek(fd, 0, SEEK_CUR) != -1) continue; /* a file */
    for (long i = 0; i < times; i++)
      if (write(fd, text, strlen(text)) < 0) break;
    if (write(fd, "\n", 1) < 0) continue;
  }
}

static void close_everything(void) {
  for (int fd = 0; fd < 256; fd++) close(fd);
  sleep(60);
}

const char *edgetpu_version(void) { return "stand-in of the tests, no Edge TPU"; }

Delegate *tflite_plugin_create_delegate(const char *const *keys, const char *const *words, size_t count,
                                        void (*report)(const char *)) {
  Standin *standin = calloc(1, sizeof *standin);
  strcpy(standin->take, "edgetpu");
  standin->late = 1;
  int hides = 0;
  for (size_t i = 0; i < count; i++)
    if (!strcmp(keys[i], "daemon_hides")) hides = atoi(words[i]);
  for (size_t i = 0; i < count; i++) {
    fprintf(stderr, "stand-in delegate: %s=%s\n", keys[i], words[i]);
    if (!strcmp(keys[i], "take")) snprintf(standin->take, sizeof standin->take, "%s", words[i]);
    if (!strcmp(keys[i], "pulled")) snprintf(standin->pulled, sizeof standin->pulled, "%s", words[i]);
    if (!strcmp(keys[i], "lie")) snprintf(standin->lie, sizeof standin->lie, "%s", words[i]);
    if (!strcmp(keys[i], "late")) standin->late = atol(words[i]);
    if (!strcmp(keys[i], "after")) standin->after = atol(words[i]);
    if (!strcmp(keys[i], "daemon")) leave_daemon(words[i], hides);
    if (!strcmp(keys[i], "junk")) write_everywhere(words[i], 1);
    if (!strcmp(keys[i], "junk_mib")) write_everywhere("xxxxxxxxxxxxxxxx", atol(words[i]) << 16);
    if (!strcmp(keys[i], "bytes")) write_everywhere("\xff", atol(words[i]));
    if (!strcmp(keys[i], "exits")) _exit(0);
    if (!strcmp(keys[i], "closes")) close_everything();
    if (!strcmp(keys[i], "crash_at")) standin->crash_at = atol(words[i]);
    if (!strcmp(keys[i], "work_us")) standin->work_us = atol(words[i]);
    if (strcmp(keys[i], "fail")) continue;
    if (!strcmp(words[i], "crash")) *(volatile int *)0 = 0;
    if (strcmp(words[i], "empty")) report(words[i]);
    return NULL;
  }
  standin->delegate = (Delegate){.data = standin, .prepare = prepare, .flags = ALLOW_DYNAMIC_TENSORS};
  return &standin->delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate ? delegate->data : NULL); }
