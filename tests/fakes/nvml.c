/* A libnvidia-ml.so.1 with as much NVML as pynvml needs to see GPUs, from a state file that is read on every call.
 *
 *   cc -shared -fPIC -O1 -Wl,-soname,libnvidia-ml.so.1 -o lib/libnvidia-ml.so.1 nvml.c
 *   LD_LIBRARY_PATH=lib FAKE_NVML_STATE=gpus.txt python ...
 *
 * Lines of the state file; eight GPUs without one, in MiB, mW and degrees:
 *   count 8 | name NVIDIA H100 | memtotal 81920 | init CODE (nvmlInit fails) | hang 1 (no call returns) | crash 1
 *   G util N | G memused N | G temp N | G power N | G near NUMA | G proc PID MIB
 *   G name NVIDIA A100 | G memtotal N       where it isn't as the others
 *   G ret CODE            every call for GPU G fails with it (15: it is lost)
 *   G sick CODE           every call fails but for its handle and its UUID
 *   G nosupport util|mem|temp|power|proc|near|pci|mig
 *   G mig N               MIG is on, with instances 0 to N-1
 *   G.I memused N | G.I proc PID MIB | G.I gone 1     the same for an instance
 * NVIDIA_VISIBLE_DEVICES (all, none, numbers, UUIDs) limits what is seen, as it does in containers. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result;
enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
enum { GPUS = 64, INSTANCES = 7, PROCESSES = 32 };
enum { UTIL, MEM, TEMP, POWER, PROC, NEAR, PCI, MIG, KINDS, UUID };
static const char *kinds[KINDS] = {"util", "mem", "temp", "power", "proc", "near", "pci", "mig"};

typedef struct { unsigned pid; long mib; } Proc;
typedef struct {
  int util, temp, power, near, ret, sick, mig, gone, unsupported, procs;
  long memused, memtotal;
  char name[96];
  Proc proc[PROCESSES];
} Gpu;
typedef struct { int gpu, instance; } Device; /* instance -1: the whole GPU */
typedef Device *Handle;

static struct { int count, init, hang, crash; long memtotal; char name[96]; Gpu gpu[GPUS], part[GPUS][INSTANCES]; } now;
static Device whole[GPUS], parts[GPUS][INSTANCES];
static int seen[GPUS], seen_count, initialised;

static void uuid_of(Handle h, char *text, size_t size) {
  if (h->instance < 0) snprintf(text, size, "GPU-fa4e0000-0000-4000-8000-%012x", h->gpu);
  else snprintf(text, size, "MIG-fa4e0000-0000-4000-8000-%08x%04x", h->gpu, h->instance);
}

static void line_for(Gpu *g, const char *rest) {
  char key[32], word[160];
  unsigned pid;
  long mib;
  if (sscanf(rest, "proc %u %ld", &pid, &mib) == 2) {
    if (g->procs < PROCESSES) g->proc[g->procs++] = (Proc){pid, mib};
    return;
  }
  if (sscanf(rest, "name %95[^\n]", g->name) == 1) return;
  if (sscanf(rest, "%31s %159s", key, word) != 2) return;
  int value = atoi(word);
  if (!strcmp(key, "util")) g->util = value;
  else if (!strcmp(key, "temp")) g->temp = value;
  else if (!strcmp(key, "power")) g->power = value;
  else if (!strcmp(key, "near")) g->near = value;
  else if (!strcmp(key, "ret")) g->ret = value;
  else if (!strcmp(key, "sick")) g->sick = value;
  else if (!strcmp(key, "mig")) g->mig = value + 1;
  else if (!strcmp(key, "gone")) g->gone = value;
  else if (!strcmp(key, "memused")) g->memused = value;
  else if (!strcmp(key, "memtotal")) g->memtotal = value;
  else if (!strcmp(key, "nosupport"))
    for (int k = 0; k < KINDS; k++) if (!strcmp(word, kinds[k])) g->unsupported |= 1 << k;
}

static void read_line(const char *line) {
  int gpu, instance, used;
  if (sscanf(line, "%d.%d %n", &gpu, &instance, &used) == 2 && gpu >= 0 && gpu < GPUS && instance >= 0 && instance < INSTANCES)
    line_for(&now.part[gpu][instance], line + used);
  else if (sscanf(line, "%d %n", &gpu, &used) == 1 && gpu >= 0 && gpu < GPUS) line_for(&now.gpu[gpu], line + used);
  else if (sscanf(line, "name %95[^\n]", now.name) == 1) return;
  else if (sscanf(line, "count %d", &now.count) == 1) return;
  else if (sscanf(line, "init %d", &now.init) == 1) return;
  else if (sscanf(line, "hang %d", &now.hang) == 1) return;
  else if (sscanf(line, "crash %d", &now.crash) == 1) return;
  else sscanf(line, "memtotal %ld", &now.memtotal);
}

static void look(void) {
  const char *path = getenv("FAKE_NVML_STATE");
  do {
    memset(&now, 0, sizeof now);
    now.count = 8;
    now.memtotal = 81920;
    strcpy(now.name, "NVIDIA Fake H100 80GB HBM3");
    for (int i = 0; i < GPUS; i++) {
      now.gpu[i] = (Gpu){.util = i * 10, .temp = 30 + i, .power = 70000 + 1000 * i, .near = i / 4, .memused = 512 * i};
      for (int j = 0; j < INSTANCES; j++) {
        whole[i] = (Device){i, -1};
        parts[i][j] = (Device){i, j};
      }
    }
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    while (file && fgets(line, sizeof line, file)) read_line(line);
    if (file) fclose(file);
    if (now.crash) abort();
    if (now.hang) usleep(20000);
  } while (now.hang);
  if (now.count > GPUS) now.count = GPUS;
}

/* Which GPUs this process may see, in order. */
static void choose(void) {
  const char *wanted = getenv("NVIDIA_VISIBLE_DEVICES");
  seen_count = 0;
  if (!wanted || !*wanted || !strcmp(wanted, "all")) {
    for (int i = 0; i < now.count; i++) seen[seen_count++] = i;
    return;
  }
  char copy[4096], id[64], number[12], *rest, *word;
  snprintf(copy, sizeof copy, "%s", wanted);
  for (word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
    for (int i = 0; i < now.count; i++) {
      uuid_of(&whole[i], id, sizeof id);
      snprintf(number, sizeof number, "%d", i);
      if ((!strcmp(word, id) || !strcmp(word, number)) && seen_count < GPUS) seen[seen_count++] = i;
    }
}

static Result ready(void) {
  if (!initialised) return UNINITIALIZED;
  look();
  choose();
  return OK;
}

/* The state of a device; what goes wrong with it in `result`. kind < 0: something that every device can. */
static Gpu *state(Handle h, int kind, Result *result) {
  if ((*result = ready()) != OK) return NULL;
  if (!h || h->gpu < 0 || h->gpu >= GPUS) return *result = INVALID, NULL;
  Gpu *g = h->instance < 0 ? &now.gpu[h->gpu] : &now.part[h->gpu][h->instance];
  if (now.gpu[h->gpu].ret) return *result = now.gpu[h->gpu].ret, NULL;
  if (kind != UUID && now.gpu[h->gpu].sick) return *result = now.gpu[h->gpu].sick, NULL;
  if (kind >= 0 && (g->unsupported >> kind & 1)) return *result = NOT_SUPPORTED, NULL;
  if (h->instance >= 0 && (kind == UTIL || kind == TEMP || kind == POWER || kind == PCI || kind == NEAR))
    return *result = NOT_SUPPORTED, NULL; /* as real instances answer */
  return g;
}
#define STATE(kind) Result result; Gpu *g = state(h, kind, &result); (void)g; if (result != OK) return result

static Result say(const char *text, char *buffer, unsigned size) {
  if (strlen(text) + 1 > size) return TOO_SMALL;
  strcpy(buffer, text);
  return OK;
}

Result nvmlInitWithFlags(unsigned flags) { (void)flags; look(); if (now.init) return now.init; initialised++; return OK; }
Result nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
Result nvmlShutdown(void) { if (!initialised) return UNINITIALIZED; initialised--; return OK; }
const char *nvmlErrorString(Result r) { return r == OK ? "Success" : "Unknown Error"; }
Result nvmlSystemGetDriverVersion(char *b, unsigned n) { return say("570.00.fake", b, n); }
Result nvmlSystemGetCudaDriverVersion(int *v) { *v = 12080; return OK; }

Result nvmlDeviceGetCount_v2(unsigned *n) { Result r = ready(); if (r == OK) *n = seen_count; return r; }

Result nvmlDeviceGetHandleByIndex_v2(unsigned i, Handle *h) {
  Result r = ready();
  if (r != OK) return r;
  if (i >= (unsigned)seen_count) return INVALID;
  *h = &whole[seen[i]];
  return now.gpu[seen[i]].ret;
}

Result nvmlDeviceGetHandleByUUID(const char *wanted, Handle *h) {
  Result r = ready();
  if (r != OK) return r;
  char id[64];
  for (int i = 0; i < seen_count; i++) {
    uuid_of(&whole[seen[i]], id, sizeof id);
    if (!strcmp(id, wanted)) return *h = &whole[seen[i]], OK;
  }
  return NOT_FOUND;
}

Result nvmlDeviceGetIndex(Handle h, unsigned *index) {
  STATE(-1);
  for (int i = 0; i < seen_count; i++) if (seen[i] == h->gpu) return *index = i, OK;
  return NOT_FOUND;
}

Result nvmlDeviceGetName(Handle h, char *b, unsigned n) {
  STATE(-1);
  char text[128];
  const char *own = now.gpu[h->gpu].name;
  snprintf(text, sizeof text, "%s%s", *own ? own : now.name, h->instance < 0 ? "" : " MIG 1g.10gb");
  return say(text, b, n);
}

Result nvmlDeviceGetUUID(Handle h, char *b, unsigned n) { STATE(UUID); char id[64]; uuid_of(h, id, sizeof id); return say(id, b, n); }

static long total(Handle h) {
  long own = now.gpu[h->gpu].memtotal, whole = own ? own : now.memtotal;
  return (h->instance < 0 ? whole : whole / 8) << 20;
}
Result nvmlDeviceGetMemoryInfo(Handle h, unsigned long long *m) { /* total, free, used */
  STATE(MEM);
  m[0] = total(h), m[2] = g->memused << 20, m[1] = m[0] - m[2];
  return OK;
}
Result nvmlDeviceGetMemoryInfo_v2(Handle h, unsigned long long *m) { /* version, total, reserved, free, used */
  STATE(MEM);
  m[1] = total(h), m[2] = 0, m[4] = g->memused << 20, m[3] = m[1] - m[4];
  return OK;
}

Result nvmlDeviceGetUtilizationRates(Handle h, unsigned *u) { STATE(UTIL); u[0] = g->util, u[1] = g->util / 2; return OK; }
Result nvmlDeviceGetTemperature(Handle h, int sensor, unsigned *t) { (void)sensor; STATE(TEMP); *t = g->temp; return OK; }
Result nvmlDeviceGetTemperatureV(Handle h, unsigned *t) { STATE(TEMP); t[2] = g->temp; return OK; }
Result nvmlDeviceGetPowerUsage(Handle h, unsigned *p) { STATE(POWER); *p = g->power; return OK; }

Result nvmlDeviceGetMemoryAffinity(Handle h, unsigned n, unsigned long *words, unsigned scope) {
  (void)scope;
  STATE(NEAR);
  memset(words, 0, n * sizeof *words);
  if ((unsigned)g->near / 64 < n) words[g->near / 64] = 1UL << (g->near % 64);
  return OK;
}

/* char busIdLegacy[16]; unsigned domain, bus, device, pciDeviceId, pciSubSystemId; char busId[32] */
Result nvmlDeviceGetPciInfo_v3(Handle h, char *p) {
  STATE(PCI);
  unsigned numbers[5] = {0xfa4e, 0x10 + h->gpu, 0, 0x233010de, 0x16c110de};
  memset(p, 0, 68);
  snprintf(p, 16, "fa4e:%02X:00.0", 0x10 + h->gpu);
  memcpy(p + 16, numbers, sizeof numbers);
  snprintf(p + 36, 32, "0000FA4E:%02X:00.0", 0x10 + h->gpu);
  return OK;
}

Result nvmlDeviceGetMigMode(Handle h, unsigned *current, unsigned *pending) {
  STATE(MIG);
  *current = *pending = g->mig > 0;
  return h->instance < 0 ? OK : INVALID;
}
Result nvmlDeviceGetMaxMigDeviceCount(Handle h, unsigned *n) { STATE(MIG); *n = INSTANCES; return OK; }
Result nvmlDeviceGetMigDeviceHandleByIndex(Handle h, unsigned i, Handle *instance) {
  STATE(MIG);
  if (i >= INSTANCES) return INVALID;
  if ((int)i >= g->mig - 1 || now.part[h->gpu][i].gone) return NOT_FOUND;
  *instance = &parts[h->gpu][i];
  return OK;
}

typedef struct { unsigned pid; unsigned long long mem; unsigned gpu_instance, compute_instance; } Listed;
Result nvmlDeviceGetComputeRunningProcesses_v3(Handle h, unsigned *n, Listed *list) {
  STATE(PROC);
  unsigned room = *n;
  *n = g->procs;
  if (!g->procs) return OK;
  if (!list || room < *n) return TOO_SMALL;
  for (unsigned i = 0; i < *n; i++)
    list[i] = (Listed){g->proc[i].pid, (unsigned long long)g->proc[i].mib << 20, ~0u, ~0u};
  return OK;
}
