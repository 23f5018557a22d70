/*
 * SIMULATED libnvidia-ml.so.1 (NVML): the queries that nvidia-smi, pynvml, go-nvml and libnvidia-container make,
 * answered from the simulated kernel driver's files. Functions of the real library that nothing here needs are
 * present (nvml-stubs.txt) and answer "Not Supported".
 */
#include "gpusim.h"

#define API __attribute__((visibility("default")))
typedef int nvmlReturn_t;
typedef struct sim_gpu *nvmlDevice_t;

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    LIB_RM_VERSION_MISMATCH = 18,
    UNKNOWN = 999
};

static struct sim_state state;
static int references, device_count;
static struct sim_gpu *device[SIM_MAX_GPUS];

typedef struct { char busIdLegacy[16]; unsigned domain, bus, device, pciDeviceId, pciSubSystemId; char busId[32]; } nvmlPciInfo_t;
typedef struct { char busId[16]; unsigned domain, bus, device, pciDeviceId, pciSubSystemId, reserved[4]; } nvmlPciInfo_v1_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;

static nvmlReturn_t start(int without_gpus_ok)
{
    int i;
    if (references) {
        references++;
        return OK;
    }
    sim_load(&state);
    if (!state.loaded || state.control == ENOENT)
        return DRIVER_NOT_LOADED;
    if (state.nvml_init)
        return state.nvml_init;
    if (state.control)
        return UNKNOWN; /* the node is there, the cgroup or the file system forbids it */
    if (strcmp(state.version, SIM_VERSION))
        return LIB_RM_VERSION_MISMATCH;
    device_count = 0;
    for (i = 0; i < state.count; i++)
        if (!state.gpu[i].absent && !state.gpu[i].denied && !state.gpu[i].failed)
            device[device_count++] = &state.gpu[i];
    (void)without_gpus_ok;
    sim_hold(&state, 0);
    references = 1;
    return OK;
}

API nvmlReturn_t nvmlInit_v2(void) { return start(1); }
API nvmlReturn_t nvmlInit(void) { return start(0); }
API nvmlReturn_t nvmlInitWithFlags(unsigned flags) { (void)flags; return start(1); }

API nvmlReturn_t nvmlShutdown(void)
{
    if (!references)
        return UNINITIALIZED;
    if (--references == 0)
        sim_let_go();
    return OK;
}

API const char *nvmlErrorString(nvmlReturn_t code)
{
    switch (code) {
    case 0: return "Success";
    case 1: return "Uninitialized";
    case 2: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 5: return "Already Initialized";
    case 6: return "Not Found";
    case 7: return "Insufficient Size";
    case 8: return "Insufficient External Power";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 11: return "Interrupt Request Issue";
    case 12: return "NVML Shared Library Not Found";
    case 13: return "Function Not Found";
    case 14: return "Corrupted infoROM";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 17: return "GPU access blocked by the operating system";
    case 18: return "Driver/library version mismatch";
    case 19: return "In use by another client";
    case 20: return "Insufficient Memory";
    case 21: return "No data";
    default: return "Unknown Error";
    }
}

static nvmlReturn_t put(char *out, unsigned size, const char *text)
{
    if (!out)
        return INVALID_ARGUMENT;
    if (strlen(text) + 1 > size)
        return INSUFFICIENT_SIZE;
    strcpy(out, text);
    return OK;
}

#define READY() do { if (!references) return UNINITIALIZED; } while (0)
#define DEVICE(handle) do { READY(); if (!known(handle)) return INVALID_ARGUMENT; \
                            if ((handle)->lost) return GPU_IS_LOST; } while (0)

static int known(nvmlDevice_t handle)
{
    return handle >= state.gpu && handle < state.gpu + state.count;
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned size) { READY(); return put(out, size, state.version); }
API nvmlReturn_t nvmlSystemGetNVMLVersion(char *out, unsigned size)
{
    char text[48];
    snprintf(text, sizeof text, "%d.%s", SIM_CUDA / 1000, SIM_VERSION);
    return put(out, size, text);
}
API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { if (!version) return INVALID_ARGUMENT; *version = SIM_CUDA; return OK; }
API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }
API nvmlReturn_t nvmlSystemGetDriverBranch(unsigned char *info, unsigned size)
{
    char text[32];
    READY();
    if (!info)
        return INVALID_ARGUMENT;
    snprintf(text, sizeof text, "r%d_00", (int)sim_number(state.version, 10));
    return put((char *)info + 4, size, text); /* nvmlSystemDriverBranchInfo_t: version, branch[] */
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) { READY(); if (!count) return INVALID_ARGUMENT; *count = device_count; return OK; }
API nvmlReturn_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *handle)
{
    READY();
    if (!handle || index >= (unsigned)device_count)
        return INVALID_ARGUMENT;
    if (device[index]->lost)
        return GPU_IS_LOST;
    *handle = device[index];
    return OK;
}
API nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *handle) { return nvmlDeviceGetHandleByIndex_v2(index, handle); }

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *handle)
{
    int i;
    READY();
    for (i = 0; i < device_count; i++)
        if (!strcmp(device[i]->uuid, uuid))
            return nvmlDeviceGetHandleByIndex_v2(i, handle);
    return NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *text, nvmlDevice_t *handle)
{
    const char *rest = strchr(text, ':');
    int i;
    READY();
    for (i = 0; rest && i < device_count; i++)
        if (sim_number(text, 16) == device[i]->domain && sim_number(rest + 1, 16) == device[i]->bus)
            return nvmlDeviceGetHandleByIndex_v2(i, handle);
    return NOT_FOUND;
}
API nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *text, nvmlDevice_t *handle) { return nvmlDeviceGetHandleByPciBusId_v2(text, handle); }

API nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t handle, unsigned *index)
{
    int i;
    DEVICE(handle);
    for (i = 0; i < device_count; i++)
        if (device[i] == handle) {
            *index = i;
            return OK;
        }
    return NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t handle, char *out, unsigned size) { DEVICE(handle); return put(out, size, handle->model->name); }
API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t handle, char *out, unsigned size) { DEVICE(handle); return put(out, size, handle->uuid); }
API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t handle, unsigned *minor) { DEVICE(handle); *minor = handle->minor; return OK; }

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t *info)
{
    DEVICE(handle);
    if (!info)
        return INVALID_ARGUMENT;
    memset(info, 0, sizeof *info);
    snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%04X:%02X:%02X.0", handle->domain, handle->bus, handle->slot);
    snprintf(info->busId, sizeof info->busId, "%08X:%02X:%02X.0", handle->domain, handle->bus, handle->slot);
    info->domain = handle->domain;
    info->bus = handle->bus;
    info->device = handle->slot;
    info->pciDeviceId = handle->model->device << 16 | 0x10de;
    info->pciSubSystemId = handle->model->subsystem << 16 | 0x10de;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t handle, nvmlPciInfo_v1_t *info)
{
    nvmlPciInfo_t full;
    nvmlReturn_t result = nvmlDeviceGetPciInfo_v3(handle, &full);
    if (result)
        return result;
    memset(info, 0, sizeof *info);
    memcpy(info->busId, full.busIdLegacy, sizeof info->busId);
    info->domain = full.domain;
    info->bus = full.bus;
    info->device = full.device;
    info->pciDeviceId = full.pciDeviceId;
    info->pciSubSystemId = full.pciSubSystemId;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t handle, nvmlPciInfo_v1_t *info) { return nvmlDeviceGetPciInfo_v2(handle, info); }

#define MIB 1048576ULL
#define MAX_PROCESSES 512
static struct sim_process processes[MAX_PROCESSES];

/* What processes hold, and what the profile adds to it. */
static unsigned long long used_bytes(nvmlDevice_t handle, unsigned long long most)
{
    unsigned long long kib, bytes;
    sim_processes(handle, processes, MAX_PROCESSES, &kib);
    bytes = kib * 1024 + sim_metric(handle, "memory_used_mib", 0) * MIB;
    return bytes < most ? bytes : most;
}

static long busy(nvmlDevice_t handle) { return sim_metric(handle, "utilization_percent", 0); }

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory)
{
    DEVICE(handle);
    memory->total = handle->model->memory_mib * MIB;
    memory->used = used_bytes(handle, memory->total);
    memory->free = memory->total - memory->used;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory)
{
    DEVICE(handle);
    if (memory->version != (sizeof *memory | 2u << 24))
        return 25; /* argument version mismatch */
    memory->total = handle->model->memory_mib * MIB;
    memory->reserved = 400 * MIB;
    memory->used = used_bytes(handle, memory->total - memory->reserved);
    memory->free = memory->total - memory->reserved - memory->used;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory)
{
    DEVICE(handle);
    memory->total = 256 * MIB; /* bar1Total, bar1Free, bar1Used */
    memory->free = 254 * MIB;
    memory->used = 2 * MIB;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t *rates)
{
    DEVICE(handle);
    rates->gpu = busy(handle);
    rates->memory = sim_metric(handle, "memory_utilization_percent", rates->gpu / 2);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, int sensor, unsigned *celsius)
{
    DEVICE(handle);
    if (sensor)
        return INVALID_ARGUMENT;
    *celsius = sim_metric(handle, "temperature_c", 34 + handle->minor + busy(handle) * 2 / 5);
    return OK;
}
typedef struct { unsigned version; int sensor, celsius; } nvmlTemperature_t;
API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t handle, nvmlTemperature_t *temperature)
{
    if (!temperature || temperature->version != (sizeof *temperature | 1u << 24))
        return temperature ? 25 : INVALID_ARGUMENT; /* argument version mismatch */
    return nvmlDeviceGetTemperature(handle, temperature->sensor, (unsigned *)&temperature->celsius);
}
API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t handle, int kind, unsigned *celsius)
{
    DEVICE(handle);
    if (kind < 0 || kind > 2)
        return NOT_SUPPORTED;
    *celsius = kind == 0 ? 95 : kind == 1 ? 92 : 90; /* shutdown, slowdown, memory's maximum */
    return OK;
}
API nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t handle, unsigned *milliwatts)
{
    DEVICE(handle);
    *milliwatts = sim_metric(handle, "power_limit_mw", handle->model->watts * 1000l);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t handle, unsigned *milliwatts)
{
    unsigned limit;
    nvmlReturn_t result = nvmlDeviceGetPowerManagementLimit(handle, &limit);
    if (result)
        return result;
    /* 14 % of what the board may take when nobody computes */
    *milliwatts = sim_metric(handle, "power_mw", handle->model->watts * 140l + (limit - handle->model->watts * 140l) * busy(handle) / 100);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t handle, unsigned *milliwatts) { return nvmlDeviceGetPowerManagementLimit(handle, milliwatts); }
API nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t handle, unsigned *milliwatts) { DEVICE(handle); *milliwatts = handle->model->watts * 1000; return OK; }
API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t handle, unsigned *least, unsigned *most)
{
    DEVICE(handle);
    *least = handle->model->watts * 400;
    *most = handle->model->watts * 1000;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t handle, int *pstate) { DEVICE(handle); *pstate = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t handle, int *mode) { DEVICE(handle); *mode = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t handle, int *mode) { DEVICE(handle); *mode = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t handle, int *active) { DEVICE(handle); *active = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t handle, int *active) { DEVICE(handle); *active = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t handle, int *major, int *minor)
{
    DEVICE(handle);
    *major = handle->model->major;
    *minor = handle->model->minor;
    return OK;
}

API nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t handle, unsigned *code)
{
    static const char *names[] = {"Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Ampere", "Ada", "Hopper", "Blackwell"};
    static const unsigned codes[] = {2, 3, 4, 5, 6, 7, 8, 9, 10};
    unsigned i;
    DEVICE(handle);
    *code = 0xffffffffu;
    for (i = 0; i < sizeof codes / sizeof *codes; i++)
        if (!strcmp(names[i], handle->model->arch))
            *code = codes[i];
    return OK;
}

API nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t handle, int *brand)
{
    DEVICE(handle);
    *brand = strstr(handle->model->name, "GeForce") ? 5 : strncmp(handle->model->name, "Tesla", 5) ? 14 : 2; /* GeForce, NVIDIA, Tesla */
    return OK;
}

static int mig_capable(nvmlDevice_t handle)
{
    return handle->model->major >= 8 && (handle->model->sms == 108 || handle->model->sms == 56 || handle->model->sms == 114 ||
                                         handle->model->sms == 132 || handle->model->sms == 148);
}
API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t handle, unsigned *current, unsigned *pending)
{
    DEVICE(handle);
    if (!mig_capable(handle))
        return NOT_SUPPORTED;
    *current = *pending = handle->mig;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t handle, unsigned *count) { DEVICE(handle); *count = mig_capable(handle) ? 7 : 0; return OK; }
API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t handle, unsigned *is) { DEVICE(handle); *is = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t handle, unsigned index, nvmlDevice_t *mig)
{
    (void)index; (void)mig;
    DEVICE(handle);
    return mig_capable(handle) ? NOT_FOUND : NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t handle, int *current, int *pending)
{
    DEVICE(handle);
    if (strstr(handle->model->name, "GeForce"))
        return NOT_SUPPORTED;
    *current = *pending = 1;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t handle, int type, int counter, unsigned long long *errors)
{
    (void)counter; /* since boot, or since ever: the same here */
    DEVICE(handle);
    if (strstr(handle->model->name, "GeForce"))
        return NOT_SUPPORTED;
    *errors = sim_metric(handle, type ? "ecc_uncorrected" : "ecc_corrected", 0);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t handle, int type, int counter, int place, unsigned long long *errors)
{
    nvmlReturn_t result = nvmlDeviceGetTotalEccErrors(handle, type, counter, errors);
    if (!result && place != 2) /* all of them are in the device's memory */
        *errors = 0;
    return result;
}
API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failure)
{
    DEVICE(handle);
    if (handle->model->major < 8 || strstr(handle->model->name, "GeForce"))
        return NOT_SUPPORTED;
    *corrected = 0;
    *uncorrected = sim_metric(handle, "remapped_rows", 0);
    *pending = sim_metric(handle, "row_remap_pending", 0);
    *failure = sim_metric(handle, "row_remap_failed", 0);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t handle, char *out, unsigned size)
{
    char text[16];
    DEVICE(handle);
    if (strstr(handle->model->name, "GeForce"))
        return NOT_SUPPORTED;
    snprintf(text, sizeof text, "%010u", sim_number(handle->uuid + 4, 16) % 1000000000u);
    return put(out, size, text);
}
API nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t handle, char *out, unsigned size) { DEVICE(handle); return put(out, size, "92.00.45.00.03"); }
API nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t handle, char *out, unsigned size)
{
    char text[32];
    DEVICE(handle);
    snprintf(text, sizeof text, "900-SIM-%04X-000", handle->model->device);
    return put(out, size, text);
}
API nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t handle, unsigned *id) { DEVICE(handle); *id = handle->bus << 8; return OK; }
API nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t handle, unsigned *multi) { DEVICE(handle); *multi = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t handle, unsigned *node) { DEVICE(handle); *node = 0; return NOT_SUPPORTED; }
API nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t handle, unsigned *generation) { DEVICE(handle); *generation = handle->model->major >= 8 ? 4 : 3; return OK; }
API nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t handle, unsigned *generation)
{
    nvmlReturn_t result = nvmlDeviceGetMaxPcieLinkGeneration(handle, generation);
    if (!result)
        *generation = sim_metric(handle, "pcie_generation", *generation);
    return result;
}
API nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t handle, unsigned *width) { DEVICE(handle); *width = 16; return OK; }
API nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t handle, unsigned *width) { DEVICE(handle); *width = sim_metric(handle, "pcie_width", 16); return OK; }
API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t handle, int type, unsigned *mhz)
{
    DEVICE(handle);
    *mhz = type == 2 ? sim_metric(handle, "clock_memory_mhz", 1593) : sim_metric(handle, "clock_sm_mhz", busy(handle) ? 1410 : 210);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t handle, int type, int id, unsigned *mhz)
{
    if (id) /* only the clock of this moment */
        return NOT_SUPPORTED;
    return nvmlDeviceGetClockInfo(handle, type, mhz);
}
/* Why the clocks are what they are: bit 0 = nobody computes. */
API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t handle, unsigned long long *reasons)
{
    DEVICE(handle);
    *reasons = sim_metric(handle, "throttled", busy(handle) ? 0 : 1);
    return OK;
}
API nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t handle, unsigned long long *reasons) { return nvmlDeviceGetCurrentClocksEventReasons(handle, reasons); }
API nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t handle, unsigned long long *reasons) { DEVICE(handle); *reasons = 0x1ff; return OK; }
API nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t handle, unsigned long long *reasons) { return nvmlDeviceGetSupportedClocksEventReasons(handle, reasons); }

typedef struct {
    unsigned id, scope;
    long long stamp, latency;
    int type; /* 1 = unsigned int, 3 = unsigned long long */
    nvmlReturn_t result;
    union { double real; unsigned number; unsigned long long large; } value;
} nvmlFieldValue_t;
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, nvmlFieldValue_t *values)
{
    DEVICE(handle);
    if (!values || count < 1)
        return INVALID_ARGUMENT;
    for (; count--; values++) {
        values->type = 1;
        values->value.large = 0;
        switch (values->id) {
        case 3: case 4: case 5: case 6: /* ECC, single and double bit: since boot, since ever */
            values->type = 3;
            values->result = nvmlDeviceGetTotalEccErrors(handle, values->id % 2 == 0, values->id > 4, &values->value.large);
            break;
        case 185: case 186: values->result = nvmlDeviceGetPowerUsage(handle, &values->value.number); break;
        case 189: values->result = nvmlDeviceGetPowerManagementDefaultLimit(handle, &values->value.number); break;
        case 190: case 192: values->result = nvmlDeviceGetPowerManagementLimit(handle, &values->value.number); break;
        default: values->result = NOT_SUPPORTED;
        }
    }
    return OK;
}
API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t handle, int type, unsigned *mhz) { DEVICE(handle); *mhz = type == 2 ? 1593 : 1410; return OK; }

typedef struct { unsigned pid; unsigned long long bytes; } nvmlProcessInfo_v1_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } nvmlProcessInfo_t;

static int of_type(nvmlDevice_t handle, char type)
{
    unsigned long long kib;
    int i, kept = 0, count = sim_processes(handle, processes, MAX_PROCESSES, &kib);
    for (i = 0; i < count; i++)
        if (processes[i].type == type)
            processes[kept++] = processes[i];
    return kept;
}

static nvmlReturn_t list_processes(nvmlDevice_t handle, unsigned *count, void *list, char type, int version)
{
    unsigned room, i;
    DEVICE(handle);
    if (!count)
        return INVALID_ARGUMENT;
    room = *count;
    *count = of_type(handle, type);
    if (*count > room)
        return INSUFFICIENT_SIZE;
    for (i = 0; i < *count; i++) {
        unsigned long long bytes = processes[i].kib * 1024ull;
        if (version == 1) {
            ((nvmlProcessInfo_v1_t *)list)[i] = (nvmlProcessInfo_v1_t){processes[i].pid, bytes};
        } else
            ((nvmlProcessInfo_t *)list)[i] = (nvmlProcessInfo_t){processes[i].pid, bytes, ~0u, ~0u};
    }
    return OK;
}
#define PROCESSES(name, type, version) \
    API nvmlReturn_t name(nvmlDevice_t handle, unsigned *count, void *list) { return list_processes(handle, count, list, type, version); }
PROCESSES(nvmlDeviceGetComputeRunningProcesses, 'C', 1)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, 'C', 2)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, 'C', 3)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, 'G', 1)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, 'G', 2)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, 'G', 3)

/* The GPU's utilisation, in equal parts to those who compute on it: one sample of this moment for each. */
typedef struct { unsigned pid; unsigned long long stamp; unsigned sm, memory, encoder, decoder; } nvmlProcessUtilizationSample_t;
API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t handle, nvmlProcessUtilizationSample_t *list, unsigned *count, unsigned long long since)
{
    struct timespec now = {0, 0};
    unsigned long long stamp;
    unsigned room, i;
    DEVICE(handle);
    if (!count)
        return INVALID_ARGUMENT;
    room = *count;
    *count = of_type(handle, 'C');
    syscall(SYS_clock_gettime, 0 /* CLOCK_REALTIME */, &now);
    stamp = now.tv_sec * 1000000ull + now.tv_nsec / 1000;
    if (!*count || stamp <= since)
        return NOT_FOUND;
    if (!list || *count > room)
        return INSUFFICIENT_SIZE;
    for (i = 0; i < *count; i++) {
        unsigned share = busy(handle) / *count, memory = sim_metric(handle, "memory_utilization_percent", busy(handle) / 2) / *count;
        list[i] = (nvmlProcessUtilizationSample_t){processes[i].pid, stamp, share, memory, 0, 0};
    }
    return OK;
}

API nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size)
{
    char path[64], text[4096];
    READY();
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    if (sim_read(path, text, sizeof text) <= 0)
        return NOT_FOUND;
    return put(out, size, text); /* the first word: cmdline separates with zeros */
}

/* Present in the real library, not needed here. */
#define STUB(name) API nvmlReturn_t name(void) { return references ? NOT_SUPPORTED : UNINITIALIZED; }
#include "nvml-stubs.inc"
