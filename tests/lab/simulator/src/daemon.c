/*
 * SIMULATED nvidia-persistenced and nv-fabricmanager (compiled twice, with NAME set): a daemon that refuses to
 * start without the driver and otherwise sits behind its socket.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "gpusim.h"

static struct sim_state state;
extern int mkdir(const char *, unsigned);
static char socket_path[108], pid_path[128];

static void leave(int signal)
{
    (void)signal;
    unlink(socket_path);
    unlink(pid_path);
    _exit(0);
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int i, server, file;
    char text[16];

    for (i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--version")) {
            printf("%s:  version %s (SIMULATED)\n", NAME, SIM_VERSION);
            return 0;
        }
    if (access(SIM_PROC "/version", R_OK)) {
#ifdef FABRIC
        fprintf(stderr, "request to query NVSwitch device information from NVSwitch driver failed with error:WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]\n");
#else
        fprintf(stderr, "%s failed to initialize. Check syslog for more details.\n", NAME);
#endif
        return 1;
    }
    sim_load(&state);
#ifdef FABRIC
    if (strcmp(state.version, SIM_VERSION)) {
        fprintf(stderr, "fabric manager NVIDIA GPU driver interface version %s don't match with driver version %s. Please update with matching NVIDIA driver package.\n", SIM_VERSION, state.version);
        return 1;
    }
    if (access(SIM_ROOT "/proc/driver/nvidia-nvswitch/devices", R_OK)) {
        fprintf(stderr, "request to query NVSwitch device information from NVSwitch driver failed with error:WARNING Nothing to do [NV_WARN_NOTHING_TO_DO]\n");
        return 1;
    }
    /* The fabric is up: what a real fabric manager tells the kernel module. */
    if (!access("/usr/lib/gpulab/hardware", X_OK) && system("/usr/lib/gpulab/hardware fabric-ready"))
        return 1;
#endif
    mkdir("/run/" NAME, 0755);
    snprintf(socket_path, sizeof socket_path, "/run/" NAME "/socket");
    snprintf(pid_path, sizeof pid_path, "/run/" NAME "/" NAME ".pid");
    unlink(socket_path);
    strcpy(address.sun_path, socket_path);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    if (server < 0 || bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 4)) {
        perror(NAME);
        return 1;
    }
    i = fork();
    if (i < 0)
        return 1;
    if (i > 0) {
        file = open(pid_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        snprintf(text, sizeof text, "%d\n", i);
        if (file < 0 || write(file, text, strlen(text)) < 0)
            return 1;
        return 0;
    }
    setsid();
    sim_hold(&state, 0);
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    for (;;)
        pause();
}
