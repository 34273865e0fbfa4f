/* A hand-made libnvidia-ml.so.1: as much of NVML as edged asks for. Behaviour is chosen by the environment:
   FAKE_NVML_INIT=code  the answer of nvmlInit;  FAKE_NVML_GPUS=n (default 2);  FAKE_NVML_LOST=index  that GPU has fallen off the bus;
   FAKE_NVML_HANG=1  nvmlDeviceGetCount never comes back.
   GPU 0 gives every figure; GPU 1 gives neither power, temperature nor utilisation (NOT_SUPPORTED), as some boards do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
typedef struct { int index; } device;
static device devices[8] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static int up = 0;

static int number(const char *name, int otherwise) { const char *text = getenv(name); return text ? atoi(text) : otherwise; }
static int state(const device *gpu) { return !up ? UNINITIALIZED : gpu->index == number("FAKE_NVML_LOST", -1) ? GPU_IS_LOST : SUCCESS; }
static int partly(const device *gpu) { int code = state(gpu); return code ? code : gpu->index == 1 ? NOT_SUPPORTED : SUCCESS; }

int nvmlInitWithFlags(unsigned flags) { (void)flags; int code = number("FAKE_NVML_INIT", SUCCESS); up = code == SUCCESS; return code; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { int code = up ? SUCCESS : UNINITIALIZED; up = 0; return code; }
const char *nvmlErrorString(int code) { (void)code; return "a fake error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.54.15"); return up ? SUCCESS : UNINITIALIZED; }
int nvmlDeviceGetCount_v2(unsigned *count) {
  while (number("FAKE_NVML_HANG", 0)) pause();
  *count = (unsigned)number("FAKE_NVML_GPUS", 2);
  return up ? SUCCESS : UNINITIALIZED;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **gpu) { *gpu = &devices[index]; return up ? SUCCESS : UNINITIALIZED; }
int nvmlDeviceGetName(device *gpu, char *text, unsigned size) { snprintf(text, size, "Fake L%d", gpu->index + 4); return state(gpu); }
int nvmlDeviceGetUUID(device *gpu, char *text, unsigned size) { snprintf(text, size, "GPU-%04d", gpu->index); return state(gpu); }
int nvmlDeviceGetUtilizationRates(device *gpu, unsigned *rates) { rates[0] = 37; rates[1] = 12; return partly(gpu); }
int nvmlDeviceGetMemoryInfo(device *gpu, unsigned long long *memory) {
  memory[0] = 24000000000ull; memory[1] = 20000000000ull; memory[2] = 4000000000ull;
  return state(gpu);
}
int nvmlDeviceGetTemperature(device *gpu, int sensor, unsigned *degrees) { (void)sensor; *degrees = 54; return partly(gpu); }
int nvmlDeviceGetPowerUsage(device *gpu, unsigned *milliwatts) { *milliwatts = 61250; return partly(gpu); }
int nvmlDeviceGetEnforcedPowerLimit(device *gpu, unsigned *milliwatts) { *milliwatts = 72000; return partly(gpu); }
int nvmlDeviceGetClockInfo(device *gpu, int kind, unsigned *mhz) { *mhz = kind == 1 ? 2040 : 6251; return state(gpu); }
int nvmlDeviceGetComputeRunningProcesses_v3(device *gpu, unsigned *count, char *processes) {
  int code = state(gpu);
  if (code) return code;
  if (gpu->index == 1) { *count = 0; return SUCCESS; }
  if (*count < 1) { *count = 1; return INSUFFICIENT_SIZE; }
  *count = 1;
  memset(processes, 0, 24);
  return SUCCESS;
}
