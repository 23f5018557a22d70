/* Which driver release this file belongs to. One binary is compiled for all releases; build.py writes the release
 * into it ("brands" it). Not const, so that the compiler leaves every use alone. */
#ifndef RELEASE_H
#define RELEASE_H

struct sim_release {
    char version[32]; /* 580.95.05 */
    int cuda;         /* 13000 */
};

__attribute__((visibility("hidden"))) struct sim_release sim_release = {"@SIM_VERSION@", 0};

#define SIM_VERSION (sim_release.version)
#define SIM_CUDA (sim_release.cuda)

#endif
