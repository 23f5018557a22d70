/*
 * SIMULATED libcuda.so.1: enough of the driver API for a framework to list its GPUs with names and compute
 * capabilities, to hold a context and memory on them, and the real error codes for the ways in which a machine is not
 * ready. It computes nothing, and there is nothing behind the memory.
 */
#include "gpusim.h"

#define API __attribute__((visibility("default")))
typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext;

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801,
    SYSTEM_NOT_READY = 802,
    SYSTEM_DRIVER_MISMATCH = 803,
    UNKNOWN = 999
};

static struct sim_state state;
static int initialised, device_count;
static struct sim_gpu *device[SIM_MAX_GPUS];
static int context_storage[SIM_MAX_GPUS], context_active[SIM_MAX_GPUS];
static unsigned context_flags[SIM_MAX_GPUS];
static __thread CUcontext current_context;

/* What a context takes of the GPU's memory before anybody asks for some. */
#define CONTEXT_BYTES (400ull << 20)
static int context_file[SIM_MAX_GPUS]; /* 0 = none, else a memfd's number + 1 */
static unsigned long long allocated[SIM_MAX_GPUS];

/* CUDA_VISIBLE_DEVICES: indices or UUID prefixes; the list ends at the first one that names no GPU. */
static void select_visible(struct sim_gpu **all, int count)
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    device_count = 0;
    if (!list) {
        memcpy(device, all, sizeof *all * count);
        device_count = count;
        return;
    }
    while (*list) {
        char word[64];
        int length = 0, found = -1, i;
        while (*list == ',' || *list == ' ')
            list++;
        while (*list && *list != ',' && length < 63)
            word[length++] = *list++;
        word[length] = 0;
        if (!length)
            break;
        if (word[0] >= '0' && word[0] <= '9') {
            found = (int)sim_number(word, 10);
            found = found < count ? found : -1;
        } else {
            for (i = 0; i < count; i++)
                if (!strncmp(all[i]->uuid, word, length))
                    found = i;
        }
        if (found < 0 || device_count == SIM_MAX_GPUS)
            break;
        for (i = 0; i < device_count; i++)
            if (device[i] == all[found])
                found = -1;
        if (found < 0) { /* the same GPU twice: no GPU at all, as the real library has it */
            device_count = 0;
            return;
        }
        device[device_count++] = all[found];
    }
}

API CUresult cuInit(unsigned flags)
{
    struct sim_gpu *usable[SIM_MAX_GPUS];
    int count = 0, i;
    if (flags)
        return INVALID_VALUE;
    if (initialised)
        return OK;
    sim_load(&state);
    if (!state.loaded || state.control == ENOENT)
        return NO_DEVICE;
    if (state.cuda_init)
        return state.cuda_init;
    if (strcmp(state.version, SIM_VERSION))
        return SYSTEM_DRIVER_MISMATCH;
    if (state.control)
        return UNKNOWN;
    for (i = 0; i < state.count; i++)
        if (!state.gpu[i].absent && !state.gpu[i].denied && !state.gpu[i].failed && !state.gpu[i].lost && !state.gpu[i].mig)
            usable[count++] = &state.gpu[i];
    if (!count)
        return NO_DEVICE;
    if (state.uvm)
        return UNKNOWN;
    if (state.fabric_pending)
        return SYSTEM_NOT_READY;
    select_visible(usable, count);
    if (!device_count)
        return NO_DEVICE;
    sim_hold(&state, 1);
    initialised = 1;
    return OK;
}

API CUresult cuDriverGetVersion(int *version)
{
    if (!version)
        return INVALID_VALUE;
    *version = SIM_CUDA;
    return OK;
}

#define READY() do { if (!initialised) return NOT_INITIALIZED; } while (0)
#define DEVICE(id) do { READY(); if ((id) < 0 || (id) >= device_count) return INVALID_DEVICE; } while (0)

API CUresult cuDeviceGetCount(int *count)
{
    READY();
    if (!count)
        return INVALID_VALUE;
    *count = device_count;
    return OK;
}

API CUresult cuDeviceGet(CUdevice *handle, int ordinal)
{
    DEVICE(ordinal);
    *handle = ordinal;
    return OK;
}

API CUresult cuDeviceGetName(char *name, int size, CUdevice id)
{
    DEVICE(id);
    if (!name || size < 1)
        return INVALID_VALUE;
    snprintf(name, size, "%s", device[id]->model->name);
    return OK;
}

API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice id)
{
    DEVICE(id);
    *bytes = (size_t)device[id]->model->memory_mib * 1048576 / 100 * 99; /* the driver keeps a little for itself */
    return OK;
}

API CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice id)
{
    size_t all;
    CUresult result = cuDeviceTotalMem_v2(&all, id);
    if (!result)
        *bytes = all > 0xffffffffu ? 0xffffffffu : (unsigned)all;
    return result;
}

API CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice id)
{
    const struct sim_model *model;
    DEVICE(id);
    if (!value)
        return INVALID_VALUE;
    model = device[id]->model;
    switch (attribute) {
    case 1: *value = 1024; break;          /* threads per block */
    case 2: case 3: *value = 1024; break;  /* block dimensions */
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;    /* grid dimensions */
    case 6: case 7: *value = 65535; break;
    case 8: *value = 49152; break;         /* shared memory per block */
    case 9: *value = 65536; break;         /* constant memory */
    case 10: *value = 32; break;           /* warp */
    case 11: *value = 2147483647; break;   /* pitch */
    case 12: *value = 65536; break;        /* registers per block */
    case 13: *value = 1410000; break;      /* clock, kHz */
    case 14: *value = 512; break;          /* texture alignment */
    case 16: *value = model->sms; break;
    case 15: case 19: case 31: case 41: case 78: case 79: case 80: case 83: case 88: case 90: case 91: *value = 1; break;
    case 32: *value = model->major >= 6; break; /* ECC */
    case 33: *value = device[id]->bus; break;
    case 34: *value = device[id]->slot; break;
    case 36: *value = 1593000; break;
    case 37: *value = model->major >= 8 ? 5120 : 256; break;
    case 38: *value = 41943040; break;
    case 39: *value = model->major == 7 && model->minor == 5 ? 1024 : model->minor >= 6 ? 1536 : 2048; break;
    case 40: *value = 3; break;
    case 50: *value = device[id]->domain; break;
    case 75: *value = model->major; break;
    case 76: *value = model->minor; break;
    case 81: *value = 102400; break;       /* shared memory per multiprocessor */
    case 82: *value = 65536; break;
    case 89: *value = model->major >= 6; break;
    case 95: *value = model->major >= 6; break;
    case 97: *value = 65536; break;        /* shared memory per block, opt-in */
    case 106: *value = 32; break;
    default: *value = 0;
    }
    return OK;
}

API CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice id)
{
    DEVICE(id);
    *major = device[id]->model->major;
    *minor = device[id]->model->minor;
    return OK;
}

API CUresult cuDeviceGetProperties(int *properties, CUdevice id)
{
    DEVICE(id);
    memset(properties, 0, 12 * sizeof *properties);
    properties[0] = properties[1] = properties[2] = 1024;
    properties[3] = 64;
    return OK;
}

API CUresult cuDeviceGetPCIBusId(char *text, int size, CUdevice id)
{
    DEVICE(id);
    if (!text || size < 13)
        return INVALID_VALUE;
    snprintf(text, size, "%04X:%02X:%02X.0", device[id]->domain, device[id]->bus, device[id]->slot);
    return OK;
}

API CUresult cuDeviceGetByPCIBusId(CUdevice *handle, const char *text)
{
    int i;
    READY();
    for (i = 0; i < device_count; i++) {
        const char *rest = strchr(text, ':');
        if (rest && sim_number(rest + 1, 16) == device[i]->bus) {
            *handle = i;
            return OK;
        }
    }
    return INVALID_DEVICE;
}

static CUresult device_uuid(unsigned char *uuid, CUdevice id)
{
    const char *text;
    int i = 0;
    DEVICE(id);
    for (text = device[id]->uuid + 4; *text && i < 16; text++) {
        char pair[3] = {text[0], text[1], 0};
        if (*text == '-')
            continue;
        uuid[i++] = (unsigned char)sim_number(pair, 16);
        text++;
    }
    return OK;
}

API CUresult cuDeviceGetUuid(unsigned char *uuid, CUdevice id) { return device_uuid(uuid, id); }
API CUresult cuDeviceGetUuid_v2(unsigned char *uuid, CUdevice id) { return device_uuid(uuid, id); }

API CUresult cuDeviceCanAccessPeer(int *can, CUdevice a, CUdevice b)
{
    DEVICE(a);
    DEVICE(b);
    *can = 0;
    return OK;
}

API CUresult cuDeviceGetDefaultMemPool(void **pool, CUdevice id)
{
    (void)pool;
    DEVICE(id);
    return NOT_SUPPORTED;
}

/* A process with a context has a file without a name that says where the context is, whose it is (children inherit the
 * file, not the context) and, by its size, how much memory it has. What the kernel module knows on a real machine,
 * src/users.c gathers from these files. */
static void publish_context(CUdevice id)
{
    char name[64];
    if (!context_active[id]) {
        if (context_file[id])
            close(context_file[id] - 1);
        context_file[id] = 0;
        return;
    }
    if (!context_file[id]) {
        snprintf(name, sizeof name, SIM_CONTEXT " %s %d", device[id]->pci, (int)getpid());
        context_file[id] = (int)syscall(SYS_memfd_create, name, 1 /* MFD_CLOEXEC */) + 1;
    }
    if (context_file[id] && ftruncate(context_file[id] - 1, (off_t)(CONTEXT_BYTES + allocated[id])))
        return; /* the size is for those who look on; nothing depends on it */
}

static void forget_allocations(CUdevice id);

API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice id)
{
    DEVICE(id);
    context_active[id]++;
    publish_context(id);
    *context = &context_storage[id];
    return OK;
}

API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice id)
{
    DEVICE(id);
    if (context_active[id] && !--context_active[id])
        forget_allocations(id);
    publish_context(id);
    return OK;
}
API CUresult cuDevicePrimaryCtxRelease(CUdevice id) { return cuDevicePrimaryCtxRelease_v2(id); }
API CUresult cuDevicePrimaryCtxReset_v2(CUdevice id)
{
    DEVICE(id);
    context_active[id] = 0;
    forget_allocations(id);
    publish_context(id);
    return OK;
}
API CUresult cuDevicePrimaryCtxReset(CUdevice id) { return cuDevicePrimaryCtxReset_v2(id); }

API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice id, unsigned flags)
{
    DEVICE(id);
    context_flags[id] = flags;
    return OK;
}
API CUresult cuDevicePrimaryCtxSetFlags(CUdevice id, unsigned flags) { return cuDevicePrimaryCtxSetFlags_v2(id, flags); }

API CUresult cuDevicePrimaryCtxGetState(CUdevice id, unsigned *flags, int *active)
{
    DEVICE(id);
    *flags = context_flags[id];
    *active = context_active[id] > 0;
    return OK;
}

static int context_device(CUcontext context)
{
    int *slot = context;
    return slot >= context_storage && slot < context_storage + SIM_MAX_GPUS ? (int)(slot - context_storage) : -1;
}

API CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice id)
{
    CUresult result = cuDevicePrimaryCtxRetain(context, id); /* one context per GPU and process is all there is */
    if (!result) {
        context_flags[id] = flags;
        current_context = *context;
    }
    return result;
}
API CUresult cuCtxCreate_v3(CUcontext *context, void *parameters, int count, unsigned flags, CUdevice id)
{
    (void)parameters; (void)count;
    return cuCtxCreate_v2(context, flags, id);
}
API CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags, CUdevice id)
{
    (void)parameters;
    return cuCtxCreate_v2(context, flags, id);
}
API CUresult cuCtxDestroy_v2(CUcontext context)
{
    int id = context_device(context);
    if (id < 0)
        return INVALID_CONTEXT;
    if (current_context == context)
        current_context = 0;
    return cuDevicePrimaryCtxRelease_v2(id);
}

API CUresult cuCtxGetCurrent(CUcontext *context)
{
    READY();
    *context = current_context;
    return OK;
}

API CUresult cuCtxSetCurrent(CUcontext context)
{
    READY();
    current_context = context;
    return OK;
}

API CUresult cuCtxGetDevice(CUdevice *id)
{
    READY();
    *id = context_device(current_context);
    return *id < 0 ? INVALID_CONTEXT : OK;
}

API CUresult cuCtxSynchronize(void)
{
    READY();
    return context_device(current_context) < 0 ? INVALID_CONTEXT : OK;
}

API CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version)
{
    (void)context;
    READY();
    *version = 3020;
    return OK;
}

/* What other processes have counts as well: the memory is the GPU's. */
static unsigned long long free_bytes(CUdevice id)
{
    struct sim_process list[1];
    unsigned long long kib, own = context_active[id] ? CONTEXT_BYTES + allocated[id] : 0, used;
    size_t total;
    sim_processes(device[id], list, 1, &kib);
    used = kib * 1024 > own ? kib * 1024 : own;
    cuDeviceTotalMem_v2(&total, id);
    return used < total ? total - used : 0;
}

API CUresult cuMemGetInfo_v2(size_t *unused, size_t *total)
{
    int id;
    READY();
    id = context_device(current_context);
    if (id < 0)
        return INVALID_CONTEXT;
    cuDeviceTotalMem_v2(total, id);
    *unused = (size_t)free_bytes(id);
    return OK;
}

static struct allocation {
    struct allocation *next;
    unsigned long long address, bytes;
    int id;
} *allocations;

static void forget_allocations(CUdevice id)
{
    struct allocation **at = &allocations, *gone;
    while (*at) {
        if ((*at)->id != id) {
            at = &(*at)->next;
            continue;
        }
        gone = *at;
        *at = gone->next;
        free(gone);
    }
    allocated[id] = 0;
}

API CUresult cuMemAlloc_v2(unsigned long long *address, size_t bytes)
{
    static unsigned long long next = 0x700000000000ull;
    struct allocation *made;
    int id;
    READY();
    if (!address || !bytes)
        return INVALID_VALUE;
    id = context_device(current_context);
    if (id < 0)
        return INVALID_CONTEXT;
    bytes = (bytes + 0x1fffff) & ~(size_t)0x1fffff; /* in pages of 2 MiB */
    if (bytes > free_bytes(id) || !(made = malloc(sizeof *made)))
        return OUT_OF_MEMORY;
    made->address = *address = next;
    made->bytes = bytes;
    made->id = id;
    made->next = allocations;
    allocations = made;
    next += bytes;
    allocated[id] += bytes;
    publish_context(id);
    return OK;
}

API CUresult cuMemFree_v2(unsigned long long address)
{
    struct allocation **at, *gone;
    READY();
    for (at = &allocations; *at; at = &(*at)->next)
        if ((*at)->address == address) {
            gone = *at;
            *at = gone->next;
            allocated[gone->id] -= gone->bytes;
            publish_context(gone->id);
            free(gone);
            return OK;
        }
    return INVALID_VALUE;
}

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {35, "CUDA_ERROR_INSUFFICIENT_DRIVER", "CUDA driver version is insufficient for CUDA runtime version"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

API CUresult cuGetErrorName(CUresult code, const char **out)
{
    unsigned i;
    for (i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *out = errors[i].name;
            return OK;
        }
    *out = 0;
    return INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult code, const char **out)
{
    unsigned i;
    for (i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *out = errors[i].text;
            return OK;
        }
    *out = 0;
    return INVALID_VALUE;
}

API CUresult cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = 0;
    return NOT_FOUND;
}
