/*
 * The simulated kernel driver's face, as seen by the simulated user-space libraries.
 *
 * A real libcuda or libnvidia-ml asks the kernel module through ioctl()s on /dev/nvidia*. Here they read the
 * same files that a real module publishes: /proc/driver/nvidia/version, /proc/driver/nvidia/gpus, and the
 * device nodes, which they open (a node that the cgroup forbids gives EPERM, as on a real machine; an allowed
 * one gives ENXIO, because no driver stands behind it).  The container toolkit carries those files into
 * containers, so nothing else has to be passed on.
 *
 * Built against old glibc symbols only: no stat(), no strtol(), no pthreads.
 */
#ifndef GPUSIM_H
#define GPUSIM_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "release.h"

#ifndef SIM_ROOT
#define SIM_ROOT "" /* tests build the libraries with another root */
#endif

#define SIM_PROC SIM_ROOT "/proc/driver/nvidia"
#define SIM_MAX_GPUS 32

struct sim_model {
    const char *name;
    const char *arch;
    unsigned device, subsystem;
    unsigned memory_mib;
    int major, minor, sms, watts;
};

static const struct sim_model sim_models[] = {
#include "models.inc"
};

struct sim_gpu {
    char pci[24]; /* 0000:3b:00.0 */
    unsigned domain, bus, slot;
    char uuid[64];
    int minor;
    int lost;    /* fell off the bus while the driver was loaded */
    int failed;  /* RmInitAdapter failed */
    int denied;  /* the device node exists and may not be opened */
    int absent;  /* no device node here */
    int mig;     /* MIG mode is on, and no instance has been made */
    const struct sim_model *model;
};

struct sim_state {
    int loaded; /* a kernel module is loaded */
    char version[32];
    int control;  /* /dev/nvidiactl: 0 usable, else errno */
    int uvm;      /* /dev/nvidia-uvm: the same */
    int nvml_init, cuda_init; /* error codes forced by a fault */
    int fabric_pending;
    int count;
    struct sim_gpu gpu[SIM_MAX_GPUS];
};

static int sim_read(const char *path, char *buffer, int size)
{
    int fd = open(path, O_RDONLY), total = 0, got;
    if (fd < 0)
        return -1;
    while (total < size - 1 && (got = read(fd, buffer + total, size - 1 - total)) > 0)
        total += got;
    close(fd);
    buffer[total] = 0;
    return total;
}

static unsigned sim_number(const char *text, int base)
{
    unsigned value = 0;
    for (; *text; text++) {
        int digit = *text >= '0' && *text <= '9'   ? *text - '0'
                    : *text >= 'a' && *text <= 'f' ? *text - 'a' + 10
                    : *text >= 'A' && *text <= 'F' ? *text - 'A' + 10
                                                   : 99;
        if (digit >= base)
            break;
        value = value * base + digit;
    }
    return value;
}

/* Copies the text after `label`, without the blanks around it, up to the end of its line. */
static int sim_field(const char *text, const char *label, char *out, int size)
{
    const char *from = strstr(text, label);
    int length = 0;
    if (!from)
        return 0;
    from += strlen(label);
    while (*from == ' ' || *from == '\t')
        from++;
    while (from[length] && from[length] != '\n' && length < size - 1) {
        out[length] = from[length];
        length++;
    }
    while (length && out[length - 1] == ' ')
        length--;
    out[length] = 0;
    return 1;
}

/* 0 = usable. A node without a driver behind it opens with ENXIO or ENODEV: that is "allowed" here. */
static int sim_node(const char *path)
{
    int fd = open(path, O_RDWR);
    if (fd >= 0) {
        close(fd);
        return 0;
    }
    return errno == ENXIO || errno == ENODEV ? 0 : errno;
}

/* The major number under which /proc/devices lists a driver; 0 = not listed. */
static unsigned sim_major(const char *name)
{
    static char text[8192];
    char *line = text, *next;
    if (sim_read(SIM_ROOT "/proc/devices", text, sizeof text) <= 0)
        return 0;
    for (; line; line = next) {
        char *word = line;
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        while (*word == ' ')
            word++;
        line = strchr(word, ' ');
        if (line && !strcmp(line + 1, name))
            return sim_number(word, 10);
    }
    return 0;
}

/* A device node of another major number leads to another driver, or to none. The system call by itself: the
 * C library's stat() has another name in every version. */
static int sim_wrong_major(const char *path, const char *driver)
{
    struct stat about;
    unsigned wanted = sim_major(driver);
    if (!wanted || syscall(SYS_stat, path, &about) || !S_ISCHR(about.st_mode))
        return 0;
    return (about.st_rdev >> 8 & 0xfff) != wanted;
}

/* The version is the first word made of digits and dots, with at least one dot, in the NVRM line. */
static void sim_parse_version(const char *text, char *out, int size)
{
    const char *at = text, *end;
    out[0] = 0;
    while (*at && *at != '\n') {
        int dots = 0, other = 0;
        while (*at == ' ')
            at++;
        for (end = at; *end && *end != ' ' && *end != '\n'; end++) {
            if (*end == '.')
                dots++;
            else if (*end < '0' || *end > '9')
                other++;
        }
        if (dots && !other && end - at < size) {
            memcpy(out, at, end - at);
            out[end - at] = 0;
            return;
        }
        at = end;
    }
}

static int sim_compare(const void *left, const void *right)
{
    const struct sim_gpu *a = left, *b = right;
    return a->minor - b->minor;
}

static void sim_load(struct sim_state *state)
{
    static char text[8192];
    char path[512], value[128];
    DIR *directory;
    struct dirent *entry;

    memset(state, 0, sizeof *state);
    if (sim_read(SIM_PROC "/version", text, sizeof text) > 0) {
        state->loaded = 1;
        sim_parse_version(text, state->version, sizeof state->version);
    }
    state->control = sim_node(SIM_ROOT "/dev/nvidiactl");
    state->uvm = sim_node(SIM_ROOT "/dev/nvidia-uvm");
    if (!state->uvm && sim_wrong_major(SIM_ROOT "/dev/nvidia-uvm", "nvidia-uvm"))
        state->uvm = ENXIO;

    directory = opendir(SIM_PROC "/gpus");
    while (directory && (entry = readdir(directory)) && state->count < SIM_MAX_GPUS) {
        struct sim_gpu *gpu = &state->gpu[state->count];
        unsigned i;
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= sizeof gpu->pci)
            continue;
        snprintf(path, sizeof path, SIM_PROC "/gpus/%s/information", entry->d_name);
        if (sim_read(path, text, sizeof text) <= 0)
            continue;
        strcpy(gpu->pci, entry->d_name);
        gpu->domain = sim_number(gpu->pci, 16);
        gpu->bus = sim_number(strchr(gpu->pci, ':') ? strchr(gpu->pci, ':') + 1 : "", 16);
        gpu->slot = sim_number(strrchr(gpu->pci, ':') ? strrchr(gpu->pci, ':') + 1 : "", 16);
        gpu->minor = sim_field(text, "Device Minor:", value, sizeof value) ? (int)sim_number(value, 10) : 0;
        if (!sim_field(text, "GPU UUID:", gpu->uuid, sizeof gpu->uuid))
            continue;
        if (!sim_field(text, "Model:", value, sizeof value))
            continue;
        gpu->model = &sim_models[0];
        for (i = 0; i < sizeof sim_models / sizeof *sim_models; i++)
            if (!strcmp(sim_models[i].name, value))
                gpu->model = &sim_models[i];
        snprintf(path, sizeof path, SIM_ROOT "/dev/nvidia%d", gpu->minor);
        i = sim_node(path);
        gpu->absent = i == ENOENT;
        gpu->denied = i && i != ENOENT;
        state->count++;
    }
    if (directory)
        closedir(directory);
    qsort(state->gpu, state->count, sizeof *state->gpu, sim_compare);

    /* What a fault of the profile makes the simulated module answer; "/proc/driver/nvidia/registry" is a real
     * file and travels into containers. */
    if (sim_read(SIM_PROC "/registry", text, sizeof text) > 0) {
        char *line = text, *next;
        for (; line; line = next) {
            int i;
            next = strchr(line, '\n');
            if (next)
                *next++ = 0;
            if (strncmp(line, "SimulatedFault: ", 16))
                continue;
            line += 16;
            if (!strncmp(line, "nvml_init=", 10))
                state->nvml_init = sim_number(line + 10, 10);
            else if (!strncmp(line, "cuda_init=", 10))
                state->cuda_init = sim_number(line + 10, 10);
            else if (!strcmp(line, "fabric=pending"))
                state->fabric_pending = 1;
            for (i = 0; i < state->count; i++) {
                if (!strncmp(line, "lost=", 5) && !strcmp(line + 5, state->gpu[i].pci))
                    state->gpu[i].lost = 1;
                if (!strncmp(line, "rminit=", 7) && !strcmp(line + 7, state->gpu[i].pci))
                    state->gpu[i].failed = 1;
                if (!strncmp(line, "mig=", 4) && !strcmp(line + 4, state->gpu[i].pci))
                    state->gpu[i].mig = 1;
            }
        }
    }
}

/* What changes under a running program is not in NVIDIA's own directory: container tools copy that one's files when a
 * container starts, and the rest of /proc/driver is the same everywhere. Read again at each question.
 *
 * metrics: what the profile's `metrics` say of a GPU now, "<pci> <name>=<number> …" for each GPU. */
#define SIM_LIVE SIM_ROOT "/proc/driver/gpulab"
static long sim_metric(const struct sim_gpu *gpu, const char *name, long otherwise)
{
    static char text[16384];
    char label[64];
    const char *line, *end, *at;
    int length = snprintf(label, sizeof label, " %s=", name);
    if (sim_read(SIM_LIVE "/metrics", text, sizeof text) <= 0)
        return otherwise;
    for (line = text; (end = strchr(line, '\n')); line = end + 1) {
        if (strncmp(line, gpu->pci, strlen(gpu->pci)))
            continue;
        at = strstr(line, label);
        if (at && at < end)
            return (long)sim_number(at + length, 10);
    }
    return otherwise;
}

/* processes: who holds a CUDA context, on which GPU and with how much memory. Each holder has a memfd of a telling name and size
 * (libcuda.c); gpulab-hardware-users.service collects them here, as the kernel module knows them on a real machine:
 * "pidns <namespace>", then "<pci> <type> <pid> <KiB>" for each. */
#define SIM_CONTEXT "gpulab-cuda"
struct sim_process {
    char type; /* C or G */
    unsigned pid, kib;
};

/* All that use a GPU; `kib` is the sum of their memory. As a real driver does, it keeps to itself who they are when
 * the question comes from another PID namespace: a container. */
static int sim_processes(const struct sim_gpu *gpu, struct sim_process *out, int size, unsigned long long *kib)
{
    static char text[65536];
    char own[64], *line = text, *next;
    int count = 0, visible, length;
    *kib = 0;
    if (sim_read(SIM_LIVE "/processes", text, sizeof text) <= 0)
        return 0;
    length = (int)readlink("/proc/self/ns/pid", own, sizeof own - 1);
    own[length < 0 ? 0 : length] = 0;
    visible = length > 0 && !strncmp(text, "pidns ", 6) && !strncmp(text + 6, own, length) && text[6 + length] == '\n';
    for (; line; line = next) {
        struct sim_process found;
        char *word;
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        length = (int)strlen(gpu->pci);
        if (strncmp(line, gpu->pci, length) || line[length] != ' ')
            continue;
        found.type = line[length + 1];
        word = line + length + 3;
        found.pid = sim_number(word, 10);
        word = strchr(word, ' ');
        found.kib = word ? sim_number(word + 1, 10) : 0;
        *kib += found.kib;
        if (visible && count < size)
            out[count++] = found;
    }
    return count;
}

/* A process that uses the driver holds its device files; with O_PATH, because opening them asks for a driver. Who
 * looks into /proc sees them, and the simulated kernel counts them as the module's users (src/users.c). */
#define SIM_O_PATH 010000000
#define SIM_O_CLOEXEC 02000000
static int sim_held[SIM_MAX_GPUS + 2], sim_holding;

static void sim_hold_file(const char *path)
{
    int fd = open(path, SIM_O_PATH | SIM_O_CLOEXEC);
    if (fd >= 0)
        sim_held[sim_holding++] = fd;
}

static void sim_hold(const struct sim_state *state, int uvm)
{
    char path[512];
    int i;
    if (sim_holding)
        return;
    sim_hold_file(SIM_ROOT "/dev/nvidiactl");
    for (i = 0; i < state->count; i++) {
        snprintf(path, sizeof path, SIM_ROOT "/dev/nvidia%d", state->gpu[i].minor);
        if (!state->gpu[i].denied && !state->gpu[i].absent)
            sim_hold_file(path);
    }
    if (uvm)
        sim_hold_file(SIM_ROOT "/dev/nvidia-uvm");
}

static void sim_let_go(void)
{
    while (sim_holding)
        close(sim_held[--sim_holding]);
}

#endif
