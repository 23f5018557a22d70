/*
 * SIMULATED: keeps the use counts in /sys/module current. A process holds the simulated driver while it holds one of
 * its device files (opened with O_PATH, because no driver stands behind them); the kernel would count that by itself.
 *
 * It also tells the driver who holds a CUDA context and how much memory (/proc/driver/gpulab/processes, which NVML
 * reads): each such process has a memfd that says so (src/libcuda.c).
 *
 *     users              count for ever, twice a second, while a module is loaded
 *     users --once       print "<module> <count>" for each module that is held
 *     users --processes  print who holds a CUDA context
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define NVIDIA_MAJOR 195
#define UVM_MAJOR 510

#define PROCESSES "/proc/driver/gpulab/processes"
#define CONTEXT "/memfd:gpulab-cuda "
static char processes[65536];

/* The process' own idea of its number: the last one that /proc has for it. */
static long own_pid(const char *pid)
{
    char path[64], line[512];
    long found = -1;
    FILE *file;
    snprintf(path, sizeof path, "/proc/%.20s/status", pid);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "NSpid:", 6)) {
            char *word = strtok(line + 6, " \t\n");
            for (; word; word = strtok(NULL, " \t\n"))
                found = atol(word);
        }
    if (file)
        fclose(file);
    return found;
}

/* A memfd that stands for a CUDA context becomes a line "<pci> C <pid> <KiB>". */
static void note_context(const char *pid, const char *path, const struct stat *about)
{
    char target[256], pci[32];
    long owner;
    int used = (int)strlen(processes), length = (int)readlink(path, target, sizeof target - 1);
    if (length <= 0)
        return;
    target[length] = 0;
    if (strncmp(target, CONTEXT, strlen(CONTEXT)) || sscanf(target + strlen(CONTEXT), "%31s %ld", pci, &owner) != 2)
        return;
    if (owner != own_pid(pid)) /* a child that inherited the file */
        return;
    snprintf(processes + used, sizeof processes - used, "%s C %.20s %lld\n", pci, pid, (long long)about->st_size / 1024);
}

/* The profile's fault `processes`: lines that are ready. */
static void note_declared(void)
{
    char line[512];
    FILE *file = fopen("/proc/driver/gpulab/declared", "r");
    while (file && fgets(line, sizeof line, file))
        if (strlen(processes) + strlen(line) < sizeof processes)
            strcat(processes, line);
    if (file)
        fclose(file);
}

/* Open device files: of nvidia itself, and of nvidia_uvm; and the list of processes. */
static void count(int *nvidia, int *uvm)
{
    DIR *proc = opendir("/proc"), *table;
    struct dirent *process, *entry;
    char path[512];
    struct stat about;

    char space[64];
    int length = (int)readlink("/proc/self/ns/pid", space, sizeof space - 1);

    *nvidia = *uvm = 0;
    space[length < 0 ? 0 : length] = 0;
    snprintf(processes, sizeof processes, "pidns %s\n", space);
    note_declared();
    while (proc && (process = readdir(proc))) {
        if (!isdigit((unsigned char)process->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%s/fd", process->d_name);
        table = opendir(path);
        while (table && (entry = readdir(table))) {
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", process->d_name, entry->d_name);
            if (stat(path, &about))
                continue;
            if (S_ISREG(about.st_mode) && !about.st_nlink)
                note_context(process->d_name, path, &about);
            if (!S_ISCHR(about.st_mode))
                continue;
            if (major(about.st_rdev) == NVIDIA_MAJOR)
                ++*nvidia;
            else if (major(about.st_rdev) == UVM_MAJOR)
                ++*uvm;
        }
        if (table)
            closedir(table);
    }
    if (proc)
        closedir(proc);
}

static int holders(const char *module)
{
    char path[128];
    int found = 0;
    DIR *directory;
    struct dirent *entry;
    snprintf(path, sizeof path, "/sys/module/%s/holders", module);
    directory = opendir(path);
    while (directory && (entry = readdir(directory)))
        found += entry->d_name[0] != '.';
    if (directory)
        closedir(directory);
    return found;
}

static void publish(const char *module, int users)
{
    char path[128];
    FILE *file;
    snprintf(path, sizeof path, "/sys/module/%s/refcnt", module);
    file = fopen(path, "r+");
    if (!file)
        return;
    fprintf(file, "%d\n", users + holders(module));
    fflush(file);
    if (ftruncate(fileno(file), ftell(file)))
        perror(path);
    fclose(file);
}

/* Under another name first: who reads it never finds half of it. */
static void publish_processes(void)
{
    FILE *file = fopen(PROCESSES ".new", "w");
    if (!file)
        return;
    fputs(processes, file);
    if (fclose(file) || rename(PROCESSES ".new", PROCESSES))
        perror(PROCESSES);
}

int main(int argc, char **argv)
{
    int nvidia, uvm, before_nvidia = -1, before_uvm = -1, before_holders = -1;
    static char before_processes[sizeof processes];
    struct timespec pause = {0, 500000000};

    if (argc > 1 && !strcmp(argv[1], "--once")) {
        count(&nvidia, &uvm);
        if (nvidia)
            printf("nvidia %d\n", nvidia);
        if (uvm)
            printf("nvidia_uvm %d\n", uvm);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "--processes")) {
        count(&nvidia, &uvm);
        fputs(processes, stdout);
        return 0;
    }
    for (;; nanosleep(&pause, NULL)) {
        int held;
        if (access("/sys/module/nvidia", F_OK)) {
            before_nvidia = -1;
            before_processes[0] = 0;
            continue;
        }
        count(&nvidia, &uvm);
        if (strcmp(processes, before_processes)) {
            publish_processes();
            strcpy(before_processes, processes);
        }
        held = holders("nvidia");
        if (nvidia == before_nvidia && uvm == before_uvm && held == before_holders)
            continue;
        publish("nvidia", nvidia);
        publish("nvidia_uvm", uvm);
        before_nvidia = nvidia;
        before_uvm = uvm;
        before_holders = held;
    }
}
