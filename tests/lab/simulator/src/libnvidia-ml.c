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
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory)
{
    DEVICE(handle);
    memory->total = handle->model->memory_mib * MIB;
    memory->used = 0;
    memory->free = memory->total;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory)
{
    DEVICE(handle);
    if (memory->version != (sizeof *memory | 2u << 24))
        return 25; /* argument version mismatch */
    memory->total = handle->model->memory_mib * MIB;
    memory->reserved = 400 * MIB;
    memory->used = 0;
    memory->free = memory->total - memory->reserved;
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
API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t *rates) { DEVICE(handle); rates->gpu = rates->memory = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, int sensor, unsigned *celsius)
{
    DEVICE(handle);
    if (sensor)
        return INVALID_ARGUMENT;
    *celsius = 34 + handle->minor;
    return OK;
}
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t handle, unsigned *milliwatts) { DEVICE(handle); *milliwatts = handle->model->watts * 140; return OK; }
API nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t handle, unsigned *milliwatts) { DEVICE(handle); *milliwatts = handle->model->watts * 1000; return OK; }
API nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t handle, unsigned *milliwatts) { return nvmlDeviceGetPowerManagementLimit(handle, milliwatts); }
API nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t handle, unsigned *milliwatts) { return nvmlDeviceGetPowerManagementLimit(handle, milliwatts); }
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
    (void)type; (void)counter;
    DEVICE(handle);
    if (strstr(handle->model->name, "GeForce"))
        return NOT_SUPPORTED;
    *errors = 0;
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
API nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t handle, unsigned *id) { DEVICE(handle); *id = handle->bus << 8; return OK; }
API nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t handle, unsigned *multi) { DEVICE(handle); *multi = 0; return OK; }
API nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t handle, unsigned *node) { DEVICE(handle); *node = 0; return NOT_SUPPORTED; }
API nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t handle, unsigned *generation) { DEVICE(handle); *generation = handle->model->major >= 8 ? 4 : 3; return OK; }
API nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t handle, unsigned *generation) { return nvmlDeviceGetMaxPcieLinkGeneration(handle, generation); }
API nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t handle, unsigned *width) { DEVICE(handle); *width = 16; return OK; }
API nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t handle, unsigned *width) { return nvmlDeviceGetMaxPcieLinkWidth(handle, width); }
API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t handle, int type, unsigned *mhz) { DEVICE(handle); *mhz = type == 2 ? 1593 : 210; return OK; }
API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t handle, int type, unsigned *mhz) { DEVICE(handle); *mhz = type == 2 ? 1593 : 1410; return OK; }

static nvmlReturn_t no_processes(nvmlDevice_t handle, unsigned *count) { DEVICE(handle); *count = 0; return OK; }
#define PROCESSES(name) API nvmlReturn_t name(nvmlDevice_t handle, unsigned *count, void *list) { (void)list; return no_processes(handle, count); }
PROCESSES(nvmlDeviceGetComputeRunningProcesses)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)

/* Present in the real library, not needed here. */
#define STUB(name) API nvmlReturn_t name(void) { return references ? NOT_SUPPORTED : UNINITIALIZED; }
#include "nvml-stubs.inc"
