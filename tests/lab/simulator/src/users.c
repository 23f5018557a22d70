/*
 * SIMULATED: keeps the use counts in /sys/module current. A process holds the simulated driver while it holds one of
 * its device files (opened with O_PATH, because no driver stands behind them); the kernel would count that by itself.
 *
 *     users            count for ever, twice a second, while a module is loaded
 *     users --once     print "<module> <count>" for each module that is held
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define NVIDIA_MAJOR 195
#define UVM_MAJOR 510

/* Open device files: of nvidia itself, and of nvidia_uvm. */
static void count(int *nvidia, int *uvm)
{
    DIR *proc = opendir("/proc"), *table;
    struct dirent *process, *entry;
    char path[512];
    struct stat about;

    *nvidia = *uvm = 0;
    while (proc && (process = readdir(proc))) {
        if (!isdigit((unsigned char)process->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%s/fd", process->d_name);
        table = opendir(path);
        while (table && (entry = readdir(table))) {
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", process->d_name, entry->d_name);
            if (stat(path, &about) || !S_ISCHR(about.st_mode))
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

int main(int argc, char **argv)
{
    int nvidia, uvm, before_nvidia = -1, before_uvm = -1, before_holders = -1;
    struct timespec pause = {0, 500000000};

    if (argc > 1 && !strcmp(argv[1], "--once")) {
        count(&nvidia, &uvm);
        if (nvidia)
            printf("nvidia %d\n", nvidia);
        if (uvm)
            printf("nvidia_uvm %d\n", uvm);
        return 0;
    }
    for (;; nanosleep(&pause, NULL)) {
        int held;
        if (access("/sys/module/nvidia", F_OK)) {
            before_nvidia = -1;
            continue;
        }
        count(&nvidia, &uvm);
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
