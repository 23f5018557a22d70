/*
 * SIMULATED kernel name. A container has the kernel of the machine it runs on; a lab node says the name of the kernel
 * that its /boot holds, which the node's first process chose (/usr/local/lib/gpulab/init). Loaded into every program
 * of the node by /etc/ld.so.preload. What is in containers on the node, and statically linked programs, see the real
 * name, as does everything that a kernel itself decides.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

static char release[65];

/* Read once, at the start: a sandboxed program may not open files later. */
__attribute__((constructor)) static void read_release(void)
{
    int file = open("/run/gpulab/kernel", O_RDONLY | O_CLOEXEC), length;
    if (file < 0)
        return;
    length = read(file, release, sizeof release - 1);
    close(file);
    for (int i = 0; i < (int)sizeof release; i++)
        if (i >= length || release[i] == '\n')
            release[i] = 0;
}

int uname(struct utsname *name)
{
    static const char version[] = "#1 SMP PREEMPT_DYNAMIC (SIMULATED)";
    int result = syscall(SYS_uname, name);
    if (result == 0 && release[0]) {
        for (int i = 0; i < (int)sizeof name->release; i++)
            name->release[i] = i < (int)sizeof release ? release[i] : 0;
        for (int i = 0; i < (int)sizeof version; i++)
            name->version[i] = version[i];
    }
    return result;
}
