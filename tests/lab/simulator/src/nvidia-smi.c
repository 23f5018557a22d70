/*
 * SIMULATED nvidia-smi: the table, -L, -q (short), --query-gpu and --query-compute-apps, over libnvidia-ml.so.1 as
 * the real one, with the real one's error texts and exit codes.
 *
 * It loads NVML at run time with old symbol versions, so that a binary built on Debian 12 also starts in an
 * Ubuntu 20.04 or Debian 11 container.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
extern void *dlopen(const char *, int);
extern void *dlsym(void *, const char *);

typedef void *handle_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilisation_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } process_t;

static void *library;
#define CALL(name, ...) ({ int (*f)() = (int (*)())dlsym(library, name); f ? f(__VA_ARGS__) : 13; })

static const char *error_text(int code)
{
    const char *(*f)(int) = (const char *(*)(int))dlsym(library, "nvmlErrorString");
    return f ? f(code) : "Unknown Error";
}

struct gpu {
    handle_t handle;
    unsigned index, minor, temperature, power, limit, mig, mig_pending;
    int failed, mig_supported, ecc_supported, ecc, persistence, cc_major, cc_minor, power_failed, pstate;
    unsigned limit_default, clock_sm, clock_memory, clock_sm_max, clock_memory_max;
    unsigned long long ecc_errors[2], reasons; /* corrected, uncorrected */
    char name[96], uuid[96], serial[32], vbios[32];
    pci_t pci;
    memory_t memory;
    utilisation_t utilisation;
};

static struct gpu gpus[64];
static int gpu_count;
static char driver_version[96];
static int cuda_version;

static void read_gpu(struct gpu *gpu)
{
    int mode = 0, pending = 0;
    CALL("nvmlDeviceGetName", gpu->handle, gpu->name, (unsigned)sizeof gpu->name);
    CALL("nvmlDeviceGetUUID", gpu->handle, gpu->uuid, (unsigned)sizeof gpu->uuid);
    if (CALL("nvmlDeviceGetSerial", gpu->handle, gpu->serial, (unsigned)sizeof gpu->serial))
        strcpy(gpu->serial, "[N/A]");
    CALL("nvmlDeviceGetVbiosVersion", gpu->handle, gpu->vbios, (unsigned)sizeof gpu->vbios);
    CALL("nvmlDeviceGetPciInfo_v3", gpu->handle, &gpu->pci);
    CALL("nvmlDeviceGetMemoryInfo", gpu->handle, &gpu->memory);
    CALL("nvmlDeviceGetUtilizationRates", gpu->handle, &gpu->utilisation);
    CALL("nvmlDeviceGetTemperature", gpu->handle, 0, &gpu->temperature);
    CALL("nvmlDeviceGetPowerUsage", gpu->handle, &gpu->power);
    CALL("nvmlDeviceGetPowerManagementLimit", gpu->handle, &gpu->limit);
    CALL("nvmlDeviceGetPersistenceMode", gpu->handle, &gpu->persistence);
    CALL("nvmlDeviceGetPerformanceState", gpu->handle, &gpu->pstate);
    CALL("nvmlDeviceGetMinorNumber", gpu->handle, &gpu->minor);
    CALL("nvmlDeviceGetCudaComputeCapability", gpu->handle, &gpu->cc_major, &gpu->cc_minor);
    gpu->mig_supported = !CALL("nvmlDeviceGetMigMode", gpu->handle, &gpu->mig, &gpu->mig_pending);
    gpu->ecc_supported = !CALL("nvmlDeviceGetEccMode", gpu->handle, &mode, &pending);
    gpu->ecc = mode;
    CALL("nvmlDeviceGetTotalEccErrors", gpu->handle, 0, 0, &gpu->ecc_errors[0]);
    CALL("nvmlDeviceGetTotalEccErrors", gpu->handle, 1, 0, &gpu->ecc_errors[1]);
    CALL("nvmlDeviceGetPowerManagementDefaultLimit", gpu->handle, &gpu->limit_default);
    CALL("nvmlDeviceGetClockInfo", gpu->handle, 1, &gpu->clock_sm);
    CALL("nvmlDeviceGetClockInfo", gpu->handle, 2, &gpu->clock_memory);
    CALL("nvmlDeviceGetMaxClockInfo", gpu->handle, 1, &gpu->clock_sm_max);
    CALL("nvmlDeviceGetMaxClockInfo", gpu->handle, 2, &gpu->clock_memory_max);
    CALL("nvmlDeviceGetCurrentClocksThrottleReasons", gpu->handle, &gpu->reasons);
}

/* NVML's bits, as --query-gpu calls them. */
static const struct { const char *name; unsigned bit; } reasons[] = {
    {"gpu_idle", 0x1},         {"applications_clocks_setting", 0x2}, {"sw_power_cap", 0x4},
    {"hw_slowdown", 0x8},      {"sync_boost", 0x10},                 {"sw_thermal_slowdown", 0x20},
    {"hw_thermal_slowdown", 0x40}, {"hw_power_brake_slowdown", 0x80},
};

/* clocks_throttle_reasons.X, which is clocks_event_reasons.X today */
static int write_reason(char *out, int size, struct gpu *gpu, const char *field)
{
    const char *name = !strncmp(field, "clocks_throttle_reasons.", 24) ? field + 24
                       : !strncmp(field, "clocks_event_reasons.", 21) ? field + 21 : 0;
    unsigned i;
    if (!name)
        return 0;
    if (!strcmp(name, "active")) snprintf(out, size, "0x%016llX", gpu->reasons);
    else if (!strcmp(name, "supported")) snprintf(out, size, "0x%016llX", 0x1ffull);
    else {
        for (i = 0; i < sizeof reasons / sizeof *reasons; i++)
            if (!strcmp(name, reasons[i].name)) {
                snprintf(out, size, gpu->reasons & reasons[i].bit ? "Active" : "Not Active");
                return 1;
            }
        return 0;
    }
    return 1;
}

static void write_plain(char *out, int size, struct gpu *gpu, const char *field, const char **unit)
{
    *unit = "";
    if (!strcmp(field, "index")) snprintf(out, size, "%u", gpu->index);
    else if (!strcmp(field, "count")) snprintf(out, size, "%d", gpu_count);
    else if (!strcmp(field, "name") || !strcmp(field, "gpu_name")) snprintf(out, size, "%s", gpu->name);
    else if (!strcmp(field, "uuid") || !strcmp(field, "gpu_uuid")) snprintf(out, size, "%s", gpu->uuid);
    else if (!strcmp(field, "serial") || !strcmp(field, "gpu_serial")) snprintf(out, size, "%s", gpu->serial);
    else if (!strcmp(field, "driver_version")) snprintf(out, size, "%s", driver_version);
    else if (!strcmp(field, "vbios_version")) snprintf(out, size, "%s", gpu->vbios);
    else if (!strcmp(field, "pci.bus_id") || !strcmp(field, "gpu_bus_id")) snprintf(out, size, "%s", gpu->pci.bus_id);
    else if (!strcmp(field, "pci.domain")) snprintf(out, size, "0x%04X", gpu->pci.domain);
    else if (!strcmp(field, "pci.bus")) snprintf(out, size, "0x%02X", gpu->pci.bus);
    else if (!strcmp(field, "pci.device")) snprintf(out, size, "0x%02X", gpu->pci.device);
    else if (!strcmp(field, "pci.device_id")) snprintf(out, size, "0x%08X", gpu->pci.id);
    else if (!strcmp(field, "pci.sub_device_id")) snprintf(out, size, "0x%08X", gpu->pci.subsystem);
    else if (!strcmp(field, "memory.total")) snprintf(out, size, "%llu", gpu->memory.total >> 20), *unit = " MiB";
    else if (!strcmp(field, "memory.used")) snprintf(out, size, "%llu", gpu->memory.used >> 20), *unit = " MiB";
    else if (!strcmp(field, "memory.free")) snprintf(out, size, "%llu", gpu->memory.free >> 20), *unit = " MiB";
    else if (!strcmp(field, "utilization.gpu")) snprintf(out, size, "%u", gpu->utilisation.gpu), *unit = " %";
    else if (!strcmp(field, "utilization.memory")) snprintf(out, size, "%u", gpu->utilisation.memory), *unit = " %";
    else if (!strcmp(field, "temperature.gpu")) snprintf(out, size, "%u", gpu->temperature);
    else if (!strcmp(field, "power.draw") || !strcmp(field, "power.draw.instant") || !strcmp(field, "power.draw.average")) snprintf(out, size, "%u.%02u", gpu->power / 1000, gpu->power % 1000 / 10), *unit = " W";
    else if (!strcmp(field, "power.limit") || !strcmp(field, "enforced.power.limit")) snprintf(out, size, "%u.%02u", gpu->limit / 1000, gpu->limit % 1000 / 10), *unit = " W";
    else if (!strcmp(field, "power.default_limit") || !strcmp(field, "power.max_limit")) snprintf(out, size, "%u.%02u", gpu->limit_default / 1000, gpu->limit_default % 1000 / 10), *unit = " W";
    else if (!strcmp(field, "clocks.sm") || !strcmp(field, "clocks.gr") || !strcmp(field, "clocks.current.sm") || !strcmp(field, "clocks.current.graphics")) snprintf(out, size, "%u", gpu->clock_sm), *unit = " MHz";
    else if (!strcmp(field, "clocks.mem") || !strcmp(field, "clocks.current.memory")) snprintf(out, size, "%u", gpu->clock_memory), *unit = " MHz";
    else if (!strcmp(field, "clocks.max.sm") || !strcmp(field, "clocks.max.gr")) snprintf(out, size, "%u", gpu->clock_sm_max), *unit = " MHz";
    else if (!strcmp(field, "clocks.max.mem") || !strcmp(field, "clocks.max.memory")) snprintf(out, size, "%u", gpu->clock_memory_max), *unit = " MHz";
    else if (!strcmp(field, "fan.speed") || !strcmp(field, "temperature.memory")) snprintf(out, size, "[N/A]");
    else if (!strncmp(field, "ecc.errors.corrected.", 21) && !strcmp(field + strlen(field) - 6, ".total")) snprintf(out, size, gpu->ecc_supported ? "%llu" : "[N/A]", gpu->ecc_errors[0]);
    else if (!strncmp(field, "ecc.errors.uncorrected.", 23) && !strcmp(field + strlen(field) - 6, ".total")) snprintf(out, size, gpu->ecc_supported ? "%llu" : "[N/A]", gpu->ecc_errors[1]);
    else if (!strcmp(field, "timestamp")) {
        time_t now = time(0);
        strftime(out, size, "%Y/%m/%d %H:%M:%S.000", localtime(&now));
    }
    else if (write_reason(out, size, gpu, field)) ;
    else if (!strcmp(field, "compute_cap")) snprintf(out, size, "%d.%d", gpu->cc_major, gpu->cc_minor);
    else if (!strcmp(field, "compute_mode")) snprintf(out, size, "Default");
    else if (!strcmp(field, "pstate")) snprintf(out, size, "P%d", gpu->pstate);
    else if (!strcmp(field, "persistence_mode")) snprintf(out, size, gpu->persistence ? "Enabled" : "Disabled");
    else if (!strcmp(field, "display_active") || !strcmp(field, "display_mode")) snprintf(out, size, "Disabled");
    else if (!strcmp(field, "mig.mode.current")) snprintf(out, size, "%s", !gpu->mig_supported ? "[N/A]" : gpu->mig ? "Enabled" : "Disabled");
    else if (!strcmp(field, "mig.mode.pending")) snprintf(out, size, "%s", !gpu->mig_supported ? "[N/A]" : gpu->mig_pending ? "Enabled" : "Disabled");
    else if (!strcmp(field, "ecc.mode.current")) snprintf(out, size, "%s", !gpu->ecc_supported ? "[N/A]" : gpu->ecc ? "Enabled" : "Disabled");
    else if (!strcmp(field, "minor_number")) snprintf(out, size, "%u", gpu->minor);
    else out[0] = 0;
}

static const char *header_unit(const char *field)
{
    if (!strncmp(field, "memory.", 7)) return " [MiB]";
    if (!strncmp(field, "utilization.", 12)) return " [%]";
    if (!strncmp(field, "power.", 6) || !strncmp(field, "enforced.power.", 15)) return " [W]";
    if (!strncmp(field, "clocks.", 7)) return " [MHz]";
    if (!strcmp(field, "used_memory") || !strcmp(field, "used_gpu_memory")) return " [MiB]";
    return "";
}

static int query(const char *fields, const char *format, struct gpu **chosen, int count)
{
    char copy[1024], value[128];
    char *list[64];
    const char *unit;
    int n = 0, i, g, header = 1, units = 1;
    struct gpu blank;
    char *at;
    memset(&blank, 0, sizeof blank);
    snprintf(copy, sizeof copy, "%s", fields);
    for (at = strtok(copy, ", "); at && n < 64; at = strtok(0, ", "))
        list[n++] = at;
    for (i = 0; i < n; i++) {
        write_plain(value, sizeof value, count ? chosen[0] : &blank, list[i], &unit);
        if (!value[0] && count) {
            printf("Field \"%s\" is not a valid field to query.\n\n", list[i]);
            return 2;
        }
    }
    if (!format || strncmp(format, "csv", 3)) {
        printf("\"--format=\" switch is missing. Run 'nvidia-smi -h' for help\n");
        return 2;
    }
    header = !strstr(format, "noheader");
    units = !strstr(format, "nounits");
    if (header) {
        for (i = 0; i < n; i++)
            printf("%s%s%s", i ? ", " : "", list[i], header_unit(list[i]));
        printf("\n");
    }
    for (g = 0; g < count; g++) {
        for (i = 0; i < n; i++) {
            write_plain(value, sizeof value, chosen[g], list[i], &unit);
            printf("%s%s%s", i ? ", " : "", value, units ? unit : "");
        }
        printf("\n");
    }
    return 0;
}

static process_t processes[512];

/* Those who compute on a GPU, or draw with it; 0 also where the driver keeps it to itself. */
static int read_processes(struct gpu *gpu, int graphics)
{
    unsigned count = 512;
    if (CALL(graphics ? "nvmlDeviceGetGraphicsRunningProcesses_v3" : "nvmlDeviceGetComputeRunningProcesses_v3", gpu->handle, &count, processes))
        return 0;
    return (int)count;
}

static void process_name(unsigned pid, char *out, int size)
{
    if (CALL("nvmlSystemGetProcessName", pid, out, (unsigned)size))
        snprintf(out, size, "[Not Found]");
}

static int query_processes(const char *fields, const char *format, struct gpu **chosen, int count)
{
    char copy[1024], name[1024], *list[32], *at;
    int n = 0, i, g, p, found, header, units;
    snprintf(copy, sizeof copy, "%s", fields);
    for (at = strtok(copy, ", "); at && n < 32; at = strtok(0, ", "))
        list[n++] = at;
    for (i = 0; i < n; i++)
        if (strcmp(list[i], "pid") && strcmp(list[i], "process_name") && strcmp(list[i], "name") && strcmp(list[i], "used_memory") &&
            strcmp(list[i], "used_gpu_memory") && strcmp(list[i], "gpu_uuid") && strcmp(list[i], "gpu_bus_id") && strcmp(list[i], "gpu_name") &&
            strcmp(list[i], "gpu_serial") && strcmp(list[i], "timestamp")) {
            printf("Field \"%s\" is not a valid field to query.\n\n", list[i]);
            return 2;
        }
    if (!format || strncmp(format, "csv", 3)) {
        printf("\"--format=\" switch is missing. Run 'nvidia-smi -h' for help\n");
        return 2;
    }
    header = !strstr(format, "noheader");
    units = !strstr(format, "nounits");
    for (i = 0; header && i < n; i++)
        printf("%s%s%s%s", i ? ", " : "", strcmp(list[i], "used_memory") ? list[i] : "used_gpu_memory", header_unit(list[i]), i == n - 1 ? "\n" : "");
    for (g = 0; g < count; g++)
        for (found = read_processes(chosen[g], 0), p = 0; p < found; p++)
            for (i = 0; i < n; i++) {
                const char *unit = "", *end = i == n - 1 ? "\n" : ", ";
                if (!strcmp(list[i], "pid")) printf("%u%s", processes[p].pid, end);
                else if (!strcmp(list[i], "process_name") || !strcmp(list[i], "name")) {
                    process_name(processes[p].pid, name, sizeof name);
                    printf("%s%s", name, end);
                } else if (!strcmp(list[i], "used_memory") || !strcmp(list[i], "used_gpu_memory"))
                    printf("%llu%s%s", processes[p].bytes >> 20, units ? " MiB" : "", end);
                else {
                    write_plain(name, sizeof name, chosen[g], list[i], &unit);
                    printf("%s%s", name, end);
                }
            }
    return 0;
}

static void table(struct gpu **chosen, int count)
{
    char stamp[64], cuda[16], memory[40], power[40], ecc[24], left[32];
    const char *line = "+-----------------------------------------+------------------------+----------------------+";
    time_t now = time(0);
    int i, shown = 0;
    strftime(stamp, sizeof stamp, "%a %b %e %H:%M:%S %Y", localtime(&now));
    snprintf(cuda, sizeof cuda, "%d.%d", cuda_version / 1000, cuda_version % 1000 / 10);
    printf("%-31s\n", stamp);
    printf("+-----------------------------------------------------------------------------------------+\n");
    printf("| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n", driver_version, driver_version, cuda);
    printf("%s\n", line);
    printf("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n");
    printf("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |\n");
    printf("|                                         |                        |               MIG M. |\n");
    printf("|=========================================+========================+======================|\n");
    for (i = 0; i < count; i++) {
        struct gpu *gpu = chosen[i];
        char name[32];
        snprintf(name, sizeof name, strlen(gpu->name) > 24 ? "%.21s ..." : "%s", gpu->name);
        snprintf(memory, sizeof memory, "%8lluMiB / %6lluMiB", gpu->memory.used >> 20, gpu->memory.total >> 20);
        snprintf(power, sizeof power, "%uW / %4uW", gpu->power / 1000, gpu->limit / 1000);
        snprintf(left, sizeof left, " N/A%5uC    P%d", gpu->temperature, gpu->pstate);
        snprintf(ecc, sizeof ecc, gpu->ecc_supported && gpu->ecc ? "%llu" : "N/A", gpu->ecc_errors[1]);
        printf("|%4u  %-24s %9s | %18s Off | %20s |\n", gpu->index, name, gpu->persistence ? "On" : "Off", gpu->pci.bus_id, ecc);
        printf("|%-17s%23s |%s |%7u%%      Default |\n", left, power, memory, gpu->utilisation.gpu);
        printf("|                                         |                        | %20s |\n",
               !gpu->mig_supported ? "N/A" : gpu->mig ? "Enabled" : "Disabled");
        printf("%s\n", line);
    }
    for (i = 0; i < count && !(chosen[i]->mig_supported && chosen[i]->mig); i++)
        ;
    if (i < count) { /* somebody switched MIG on; instances are never made here */
        printf("\n+-----------------------------------------------------------------------------------------+\n");
        printf("| MIG devices:                                                                            |\n");
        printf("+------------------+----------------------------------+-----------+-----------------------+\n");
        printf("| GPU  GI  CI  MIG |              Shared Memory-Usage |        Vol|        Shared         |\n");
        printf("|      ID  ID  Dev |                Shared BAR1-Usage | SM     Unc| CE ENC  DEC  OFA  JPG |\n");
        printf("|==================+==================================+===========+=======================|\n");
        printf("|  No MIG devices found                                                                   |\n");
        printf("+-----------------------------------------------------------------------------------------+\n");
    }
    printf("\n+-----------------------------------------------------------------------------------------+\n");
    printf("| Processes:                                                                              |\n");
    printf("|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |\n");
    printf("|        ID   ID                                                               Usage      |\n");
    printf("|=========================================================================================|\n");
    for (i = 0; i < count; i++) {
        int graphics, p, found;
        for (graphics = 0; graphics < 2; graphics++)
            for (found = read_processes(chosen[i], graphics), p = 0; p < found; p++, shown++) {
                char name[1024], used[32];
                const char *from = name;
                process_name(processes[p].pid, name, sizeof name);
                if (strlen(name) > 35) { /* the end tells more */
                    from = name + strlen(name) - 35;
                    memcpy((char *)from, "...", 3);
                }
                snprintf(used, sizeof used, "%lluMiB", processes[p].bytes >> 20);
                printf("|%5u   N/A  N/A %15u %6s   %-35s %10s |\n", chosen[i]->index, processes[p].pid, graphics ? "G" : "C", from, used);
            }
    }
    if (!shown)
        printf("|  No running processes found                                                             |\n");
    printf("+-----------------------------------------------------------------------------------------+\n");
}

static void details(struct gpu **chosen, int count)
{
    char stamp[64];
    time_t now = time(0);
    int i;
    strftime(stamp, sizeof stamp, "%a %b %e %H:%M:%S %Y", localtime(&now));
    printf("\n==============NVSMI LOG==============\n\n%-42s: %s\n", "Timestamp", stamp);
    printf("%-42s: %s\n%-42s: %d.%d\n\n", "Driver Version", driver_version, "CUDA Version", cuda_version / 1000, cuda_version % 1000 / 10);
    printf("%-42s: %d\n", "Attached GPUs", gpu_count);
    for (i = 0; i < count; i++) {
        struct gpu *gpu = chosen[i];
        printf("GPU %s\n", gpu->pci.bus_id);
        printf("    %-38s: %s\n", "Product Name", gpu->name);
        printf("    %-38s: %s\n", "Persistence Mode", gpu->persistence ? "Enabled" : "Disabled");
        printf("    MIG Mode\n        %-34s: %s\n", "Current", !gpu->mig_supported ? "N/A" : gpu->mig ? "Enabled" : "Disabled");
        printf("    %-38s: %s\n", "Serial Number", gpu->serial);
        printf("    %-38s: %s\n", "GPU UUID", gpu->uuid);
        printf("    %-38s: %u\n", "Minor Number", gpu->minor);
        printf("    %-38s: %s\n", "VBIOS Version", gpu->vbios);
        printf("    FB Memory Usage\n        %-34s: %llu MiB\n        %-34s: %llu MiB\n        %-34s: %llu MiB\n", "Total",
               gpu->memory.total >> 20, "Used", gpu->memory.used >> 20, "Free", gpu->memory.free >> 20);
        printf("    Utilization\n        %-34s: %u %%\n", "GPU", gpu->utilisation.gpu);
        printf("    Temperature\n        %-34s: %u C\n", "GPU Current Temp", gpu->temperature);
        printf("    GPU Power Readings\n        %-34s: %u.%02u W\n        %-34s: %u.%02u W\n", "Power Draw", gpu->power / 1000,
               gpu->power % 1000 / 10, "Current Power Limit", gpu->limit / 1000, gpu->limit % 1000 / 10);
        printf("    Clocks\n        %-34s: %u MHz\n        %-34s: %u MHz\n\n", "SM", gpu->clock_sm, "Memory", gpu->clock_memory);
    }
}

static int matches(struct gpu *gpu, const char *wanted)
{
    char number[16];
    snprintf(number, sizeof number, "%u", gpu->index);
    return !strcmp(wanted, number) || !strcmp(wanted, gpu->uuid) || !strcmp(wanted, gpu->pci.bus_id) ||
           !strcmp(wanted, gpu->pci.legacy);
}

static int smi(int argc, char **argv)
{
    const char *fields = 0, *apps = 0, *format = 0, *wanted = 0;
    int list = 0, full = 0, result, i, count = 0;
    unsigned n = 0;
    struct gpu *chosen[64];

    for (i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!strncmp(arg, "--query-gpu=", 12)) fields = arg + 12;
        else if (!strncmp(arg, "--query-compute-apps=", 21)) apps = arg + 21;
        else if (!strncmp(arg, "--format=", 9)) format = arg + 9;
        else if (!strcmp(arg, "-L") || !strcmp(arg, "--list-gpus")) list = 1;
        else if (!strcmp(arg, "-q") || !strcmp(arg, "--query")) full = 1;
        else if (!strcmp(arg, "-i") && i + 1 < argc) wanted = argv[++i];
        else if (!strncmp(arg, "--id=", 5)) wanted = arg + 5;
        else if (!strcmp(arg, "--version")) full = 2;
        else if (!strcmp(arg, "-h") || !strcmp(arg, "--help")) {
            printf("NVIDIA System Management Interface (SIMULATED for gpuready's lab)\n\n"
                   "nvidia-smi [-L | -q | --query-gpu=FIELDS | --query-compute-apps=FIELDS] [--format=csv[,noheader][,nounits]] [-i ID]\n");
            return 0;
        } else {
            printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n");
            return 2;
        }
    }

    library = dlopen("libnvidia-ml.so.1", 2 /* RTLD_NOW */);
    if (!library) {
        printf("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display "
               "Driver is properly installed and present in your system.\nPlease also try adding directory that contains "
               "libnvidia-ml.so to your system PATH.\n");
        return 12;
    }
    result = CALL("nvmlInit_v2");
    if (result == 9) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest "
               "NVIDIA driver is installed and running.\n\n");
        return 9;
    }
    if (result) {
        printf("Failed to initialize NVML: %s\n", error_text(result));
        if (result == 18) {
            char nvml[96] = "";
            char *dot;
            CALL("nvmlSystemGetNVMLVersion", nvml, (unsigned)sizeof nvml);
            dot = strchr(nvml, '.');
            if (dot) { /* "13.580.95.05" is shown as "580.95" */
                char *end = strchr(dot + 1, '.');
                end = end ? strchr(end + 1, '.') : 0;
                if (end)
                    *end = 0;
                printf("NVML library version: %s\n", dot + 1);
            }
        }
        return result > 255 ? 255 : result;
    }
    CALL("nvmlSystemGetDriverVersion", driver_version, (unsigned)sizeof driver_version);
    CALL("nvmlSystemGetCudaDriverVersion", &cuda_version);
    if (full == 2) {
        printf("NVIDIA-SMI version  : %s\nNVML version        : %s\nDRIVER version      : %s\nCUDA Version        : %d.%d\n",
               driver_version, driver_version, driver_version, cuda_version / 1000, cuda_version % 1000 / 10);
        return 0;
    }
    CALL("nvmlDeviceGetCount_v2", &n);
    gpu_count = (int)n;
    for (i = 0; i < gpu_count && i < 64; i++) {
        gpus[i].index = i;
        result = CALL("nvmlDeviceGetHandleByIndex_v2", (unsigned)i, &gpus[i].handle);
        if (result == 15) {
            printf("Unable to determine the device handle for GPU%d: GPU is lost.  Reboot the system to recover this GPU\n\n", i);
            return 15;
        }
        if (result) {
            printf("Unable to determine the device handle for GPU%d: %s\n\n", i, error_text(result));
            return result > 255 ? 255 : result;
        }
        read_gpu(&gpus[i]);
        if (!wanted || matches(&gpus[i], wanted))
            chosen[count++] = &gpus[i];
    }
    if (!gpu_count || (wanted && !count)) {
        printf("No devices were found\n");
        return 6;
    }
    if (list) {
        for (i = 0; i < count; i++)
            printf("GPU %u: %s (UUID: %s)\n", chosen[i]->index, chosen[i]->name, chosen[i]->uuid);
    } else if (fields)
        return query(fields, format, chosen, count);
    else if (apps)
        return query_processes(apps, format, chosen, count);
    else if (full)
        details(chosen, count);
    else
        table(chosen, count);
    return 0;
}

int main(int argc, char **argv)
{
    int code = smi(argc, argv);
    fflush(stdout);
    return code;
}
