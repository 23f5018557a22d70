"""What Docker, the toolkit, compose, Kubernetes and registries say: each text must lead to its cause.

The transcripts are typed for these tests after the programs' message formats; nobody's machine said them.
"""

from __future__ import annotations

import pytest
from gpuready.catalog import load_catalog
from gpuready.diagnosis.engine import diagnose
from gpuready.diagnosis.knowledge import load_knowledge
from gpuready.diagnosis.reader import read

KNOWLEDGE = load_knowledge(skip_broken=True)
CATALOG = load_catalog()

OLD_HOOK = (
    "docker: Error response from daemon: OCI runtime create failed: container_linux.go:380: starting "
    "container "
    "process caused: process_linux.go:545: container init caused: Running hook #0:: error running hook: exit "
    "status 1, stdout: , stderr: "
)
NEW_HOOK = (
    "docker: Error response from daemon: failed to create task for container: failed to create shim task: "
    "OCI "
    "runtime create failed: runc create failed: unable to start container process: error during container "
    "init: "
    "error running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\n"
)
MERGED = "/var/lib/docker/overlay2/4be1f0c2a9/merged"
DAEMON = "unable to configure the Docker daemon with file /etc/docker/daemon.json: "
FAILED = (
    "Nov 23 08:01:12 node7 systemd[1]: docker.service: Main process exited, code=exited, status=1/FAILURE\n"
    "Nov 23 08:01:12 node7 systemd[1]: Failed to start docker.service - Docker Application Container "
    "Engine.\n"
)

TEXTS = {
    # the engine
    "docker-not-installed": [
        "$ docker run --gpus all tensorflow/tensorflow:2.9.0-gpu\n-bash: docker: command not found",
        "# systemctl restart docker\nFailed to restart docker.service: Unit docker.service not found.",
    ],
    "docker-not-running": [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct "
        "and if the "
        "daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory",
        "docker.errors.DockerException: Error while fetching server API version: ('Connection aborted.', "
        "FileNotFoundError(2, 'No such file or directory'))",
    ],
    "docker-masked": ["Failed to start docker.service: Unit docker.service is masked."],
    "docker-socket-not-permitted": [
        "docker: permission denied while trying to connect to the Docker daemon socket at "
        "unix:///var/run/docker.sock: "
        'Get "http://%2Fvar%2Frun%2Fdocker.sock/_ping": dial unix /var/run/docker.sock: connect: permission '
        "denied.",
        "docker.errors.DockerException: Error while fetching server API version: ('Connection aborted.', "
        "PermissionError(13, 'Permission denied'))",
    ],
    "daemon-json-broken": [
        FAILED + DAEMON + "invalid character '}' looking for beginning of object key string",
        DAEMON + "unexpected end of JSON input",
        "dockerd[1022]: " + DAEMON + "invalid character '/' looking for beginning of value",
    ],
    "daemon-json-bom": [DAEMON + "invalid character 'ï' looking for beginning of value"],
    "daemon-json-empty": [DAEMON + "EOF"],
    "daemon-json-not-readable": [DAEMON + "open /etc/docker/daemon.json: permission denied"],
    "daemon-json-conflicting-flags": [
        FAILED
        + DAEMON
        + "the following directives are specified both as a flag and in the configuration file: "
        "hosts: (from flag: [fd://], from file: [unix:///var/run/docker.sock tcp://127.0.0.1:2375])"
    ],
    "daemon-json-unknown-option": [
        DAEMON + "the following directives don't match any configuration option: runtime"
    ],
    "default-runtime-undefined": [
        "failed to start daemon: specified default runtime 'nvidia' does not exist",
    ],
    "containerd-not-running": [
        'failed to start daemon: failed to dial "/run/containerd/containerd.sock": dial unix '
        "/run/containerd/containerd.sock: connect: connection refused"
    ],
    "dockerd-network-setup-failed": [
        "failed to start daemon: Error initializing network controller: error obtaining controller "
        "instance: unable to "
        "add return rule in DOCKER-ISOLATION-STAGE-1 chain: iptables v1.8.7: can't initialize iptables "
        "table `filter'"
    ],
    "dockerd-storage-refused": [
        "failed to start daemon: error initializing graphdriver: driver not supported: aufs",
    ],
    "dockerd-pid-file-left": [
        "failed to start daemon, ensure docker is not running or delete /var/run/docker.pid: process with "
        "PID 811 is "
        "still running"
    ],
    "docker-is-snap": [
        "$ docker info | grep Root\n Docker Root Dir: /var/snap/docker/common/var-lib-docker\n$ docker run "
        "--gpus all "
        'ubuntu nvidia-smi\ndocker: Error response from daemon: could not select device driver "" with '
        "capabilities: "
        "[[gpu]]."
    ],
    "docker-is-rootless": [
        NEW_HOOK
        + "nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device "
        "filters attached to the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted: "
        "unknown"
    ],
    "docker-desktop-no-gpu": [
        "$ docker context ls\nNAME              DESCRIPTION    DOCKER ENDPOINT\ndefault           Current "
        "DOCKER_HOST\n"
        "desktop-linux *   Docker Desktop unix:///home/ada/.docker/desktop/docker.sock\n$ uname -a\n"
        "Linux ada 6.5.0-26-generic x86_64 GNU/Linux\n$ docker run --gpus all ubuntu nvidia-smi\n"
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].'
    ],
    "docker-too-old": [
        "$ docker run --gpus all nvidia/cuda:12.4.1-base-ubuntu22.04 nvidia-smi\nunknown flag: --gpus\nSee "
        "'docker run "
        "--help'.",
        'docker: "--gpus" requires API version 1.40, but the Docker daemon API version is 1.39.',
    ],
    "podman-in-place-of-docker": [
        "Error: unknown flag: --gpus\nSee 'podman run --help'",
    ],
    "inotify-limit": [
        "ENOSPC: System limit for number of file watchers reached, watch '/app/src'",
        "Failed to create control group inotify object: Too many open files\nfailed to create fsnotify "
        "watcher: too "
        "many open files",
    ],
    # the toolkit
    "toolkit-missing": [
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
        "docker: Error response from daemon: failed to discover GPU vendor from CDI: no known GPU "
        "vendor found",
        'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu '
        "compute utility]]",
        'ERROR: for web  Cannot start service web: could not select device driver "nvidia" '
        "with\ncapabilities: [[gpu]]",
    ],
    "toolkit-unknown-to-dockerd": ["docker: Error response from daemon: AMD CDI spec not found"],
    "legacy-nvidia-docker1": [
        "docker: Error response from daemon: create nvidia_driver_384.90: Error looking up volume plugin "
        "nvidia-docker: legacy plugin: plugin not found."
    ],
    "toolkit-insists-on-cuda": [
        OLD_HOOK + "nvidia-container-cli: initialization error: cuda error: unknown error: unknown.",
    ],
    "docker-in-unprivileged-lxc": [
        "Docker runs inside an unprivileged LXC container on Proxmox.\n$ systemd-detect-virt\nlxc\n"
        + NEW_HOOK
        + "nvidia-container-cli: mount error: failed to add device rules: unable to find any existing device "
        "filters attached to the cgroup: bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted",
    ],
    "runtime-missing-from-daemon-json": [
        "docker: Error response from daemon: Unknown runtime specified nvidia.",
        "Error response from daemon: unknown or invalid runtime name: nvidia",
    ],
    "runtime-program-missing": [
        "ii  nvidia-container-toolkit 1.14.3-1 amd64 NVIDIA Container toolkit\ndocker: Error response from "
        "daemon: OCI "
        "runtime create failed: unable to retrieve OCI runtime error (open "
        "/run/containerd/io.containerd.runtime.v2"
        ".task/moby/ab/log.json: no such file or directory): fork/exec "
        "/opt/nvidia/bin/nvidia-container-runtime: no "
        "such file or directory: unknown."
    ],
    "toolkit-versions-mixed": [
        "nvidia-container-cli: symbol lookup error: nvidia-container-cli: undefined symbol: nvc_imex_free, "
        "version NVC_1.0"
    ],
    "runtime-finds-no-runc": [
        "docker: Error response from daemon: OCI runtime create failed: error constructing low-level "
        "runtime: error "
        "locating runtime: no runtime binary found from candidate list: [docker-runc runc]"
    ],
    "hook-refused-in-this-mode": [
        NEW_HOOK.replace("legacy", "csv")
        + "invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the "
        "docker --gpus flag) is not supported. Please use the NVIDIA Container Runtime (e.g. specify the "
        "--runtime=nvidia flag) instead.: unknown."
    ],
    "toolkit-too-old-for-cgroup2": [
        OLD_HOOK + "nvidia-container-cli: container error: cgroup subsystem devices not found: unknown.",
    ],
    "toolkit-bpf-rejected": [
        NEW_HOOK
        + "nvidia-container-cli: mount error: failed to add device rules: unable to generate new device "
        "filter "
        "program from existing programs: unable to create new device filters program: load program: invalid "
        "argument: "
        "last insn is not an exit or jmp\nprocessed 0 insns (limit 1000000) max_states_per_insn 0: unknown."
    ],
    "toolkit-too-old-for-wsl-driver": [
        "$ docker run --gpus all tensorflow/tensorflow:2.16.1-gpu python3 t.py\nfailed call to cuInit: "
        "CUDA_ERROR_NOT_FOUND: named symbol not found",
        "ERROR: The NVIDIA Driver is present, but CUDA failed to initialize.  GPU functionality will not be "
        "available.\n   [[ Named symbol not found (error 500) ]]",
    ],
    "toolkit-config-broken": [
        "unable to load config: failed to load config /etc/nvidia-container-runtime/config.toml: toml: "
        "line 4: expected '='"
    ],
    "containerd-runtime-without-type": [
        "failed to create containerd task: container.Runtime.Name must be set: invalid argument",
    ],
    "kubernetes-gpu-unhealthy": [
        "UnexpectedAdmissionError  Allocate failed due to no healthy devices present; cannot allocate "
        "unhealthy devices "
        "nvidia.com/gpu, which is unexpected"
    ],
    "device-file-not-on-host": [
        "docker: Error response from daemon: error gathering device information while adding custom device "
        '"/dev/nvidia-uvm": no such file or directory.'
    ],
    "driver-file-missing-on-host": [
        OLD_HOOK + "nvidia-container-cli: mount error: stat failed: "
        "/usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03: no such "
        "file or directory: unknown"
    ],
    "toolkit-imex-bug": [
        "nvidia-container-cli: error parsing IMEX info: unsupported IMEX channel value: all: unknown"
    ],
    "ldconfig-path-wrong": [
        OLD_HOOK
        + "nvidia-container-cli: ldcache error: open failed: /sbin/ldconfig.real: no such file or directory: "
        "unknown."
    ],
    "ldconfig-failed-in-container": [
        OLD_HOOK
        + "nvidia-container-cli: ldcache error: process /sbin/ldconfig.real failed with error code: 1: "
        "unknown."
    ],
    "toolkit-lacks-privileges": [
        "nvidia-container-cli: permission error: capability change failed: operation not permitted",
    ],
    "toolkit-too-new-for-driver": [
        OLD_HOOK + "nvidia-container-cli: detection error: nvml error: function not found: unknown.",
    ],
    # CDI
    "cdi-spec-missing": [
        "docker: Error response from daemon: CDI device injection failed: unresolvable CDI devices "
        "nvidia.com/gpu=all",
        "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",
    ],
    "cdi-spec-stale": [
        "docker: Error response from daemon: OCI runtime create failed: error mounting "
        '"/usr/lib/x86_64-linux-gnu/'
        'libnvidia-ml.so.535.54.03" to rootfs at "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.54.03": '
        "mount src=…: "
        "no such file or directory: unknown",
        "Error: crun: cannot stat `/usr/lib64/libEGL_nvidia.so.535.86.05`: No such file or directory: OCI "
        "runtime "
        "attempted to invoke a command that was not found",
    ],
    "cdi-feature-off": [
        'docker: Error response from daemon: could not select device driver "cdi" with capabilities: [].',
        "docker: Error response from daemon: error gathering device information while adding custom device "
        '"nvidia.com/gpu=all": no such file or directory',
    ],
    # Kubernetes, swarm
    "kubernetes-no-runtime-handler": [
        "Warning  FailedCreatePodSandBox  3s (x5 over 50s)  kubelet  Failed to create pod sandbox: rpc "
        "error: code = "
        'Unknown desc = failed to get sandbox runtime: no runtime for "nvidia" is configured'
    ],
    "kubernetes-plugin-without-runtime": [
        "I0923 main.go:256] Retrieving plugins.\nW0923 factory.go:31] No valid resources detected, creating "
        "a null CDI "
        "handler\nE0923 factory.go:115] Incompatible platform detected\nE0923 factory.go:116] If this is a "
        "GPU node, "
        "did you configure the NVIDIA Container Toolkit?"
    ],
    "kubernetes-gpu-not-advertised": [
        "Warning  FailedScheduling  12s  default-scheduler  0/3 nodes are available: 3 Insufficient "
        "nvidia.com/gpu."
    ],
    "kubernetes-no-runtime-class": ['pod rejected: RuntimeClass "nvidia" not found'],
    "kubernetes-limit-missing": [
        'The Pod "train" is invalid: spec.containers[0].resources.limits: Required value: Limit must be set '
        "for non "
        "overcommitable resources"
    ],
    "swarm-without-generic-resource": ["2 tasks: no suitable node (insufficient resources on 2 nodes)"],
    # image and registry
    "registry-unreachable": [
        'Error response from daemon: Get "https://registry-1.docker.io/v2/": net/http: request canceled '
        "while waiting "
        "for connection (Client.Timeout exceeded while awaiting headers)",
        'Error response from daemon: Get "https://registry.example.org:5000/v2/": dial tcp 10.0.0.7:5000: '
        "connect: "
        "connection refused",
    ],
    "registry-name-not-resolved": [
        'docker: Error response from daemon: Get "https://nvcr.io/v2/": dial tcp: lookup nvcr.io on '
        "127.0.0.53:53: "
        "server misbehaving."
    ],
    "registry-proxy-refuses": [
        'Error response from daemon: Get "https://registry-1.docker.io/v2/": proxyconnect tcp: dial tcp '
        "10.1.1.1:3128: "
        "connect: connection refused"
    ],
    "registry-untrusted": [
        'Error response from daemon: Get "https://reg.example.org/v2/": tls: failed to verify certificate: '
        "x509: "
        "certificate signed by unknown authority",
        'Error response from daemon: Get "https://reg.example.org:5000/v2/": http: server gave HTTP '
        "response to HTTPS "
        "client",
    ],
    "certificate-out-of-date": [
        "Error response from daemon: Get https://nvcr.io/v2/: x509: certificate has expired or is not yet "
        "valid: current time 2018-01-01T00:00:10Z is before "
        "2026-01-01"
    ],
    "registry-login-needed": [
        'Error response from daemon: Head "https://nvcr.io/v2/nvidia/x/manifests/1": unauthorized: '
        "authentication required"
    ],
    "registry-rate-limit": [
        "toomanyrequests: You have reached your pull rate limit. You may increase the limit by "
        "authenticating."
    ],
    "image-not-found": [
        "Error response from daemon: manifest for tensorflow/tensorflow:2.99-gpu not found: manifest unknown"
    ],
    "cuda-image-tag-withdrawn": [
        "Error response from daemon: manifest for nvidia/cuda:latest not found: manifest unknown: manifest "
        "unknown",
        "docker: Error response from daemon: manifest for nvidia/cuda:11.0-base not found: manifest unknown.",
    ],
    "podman-too-old-for-cdi": ["Error: stat nvidia.com/gpu=all: no such file or directory"],
    "image-other-architecture": [
        "image with reference tensorflow/tensorflow:2.9.0-gpu was found but its platform (linux/amd64) does "
        "not match the specified platform (linux/arm64)",
        "Error: crun: exec container process `/usr/bin/python3`: Exec format error: OCI runtime error",
        "no matching manifest for linux/arm64/v8 in the manifest list entries",
        "WARNING: The requested image's platform (linux/arm64) does not match the detected host platform "
        "(linux/amd64/v3) and no specific platform was requested\nexec /usr/bin/python3: exec format error",
    ],
    "disk-full": [
        "failed to register layer: Error processing tar file(exit status 1): write /usr/local/cuda/lib64/"
        "libcublas.so.11: no space left on device"
    ],
    # the request
    "gpus-not-requested": [
        "$ docker run -it --rm tensorflow/tensorflow:2.9.0-gpu python -c 'import tensorflow as tf'\n"
        "2026-11-23 E tensorflow/stream_executor/cuda/cuda_driver.cc:271] failed call to cuInit: "
        "CUDA_ERROR_NO_DEVICE: "
        "no CUDA-capable device is detected\n2026-11-23 I "
        "tensorflow/stream_executor/cuda/cuda_diagnostics.cc:156] no "
        "NVIDIA GPU device is present: /dev/nvidia0 does not exist",
        "$ docker run -it --rm nvcr.io/nvidia/pytorch:23.10-py3\n\nWARNING: The NVIDIA Driver was not "
        "detected.  GPU "
        "functionality will not be available.\n   Use the NVIDIA Container Toolkit to start this container "
        "with GPU "
        "support.",
        "$ docker run --rm ubuntu:22.04 nvidia-smi\ndocker: Error response from daemon: failed to create "
        "task for "
        "container: failed to create shim task: OCI runtime create failed: runc create failed: unable to "
        "start "
        'container process: exec: "nvidia-smi": executable file not found in $PATH: unknown.',
    ],
    "compose-too-old": [
        "ERROR: The Compose file './docker-compose.yml' is invalid because:\nservices.train.deploy.resources."
        "reservations value Additional properties are not allowed ('devices' was unexpected)",
        "services.train.deploy.resources.reservations Additional property devices is not allowed",
    ],
    "compose-reservation-malformed": [
        "validating docker-compose.yml: services.a.deploy.resources.reservations.devices.0 missing property "
        "'capabilities'",
        '"count" and "device_ids" attributes are exclusive',
    ],
    "compose-without-device-reservation": [
        "version: '3'\nservices:\n  train:\n    image: pytorch/pytorch\n    command: python t.py\n\n$ "
        "docker compose up\n"
        "train-1  | UserWarning: CUDA initialization: Found no NVIDIA driver on your system."
    ],
    "gpus-flag-malformed": [
        "docker: Error response from daemon: cannot set both Count and DeviceIDs on device request."
    ],
    "compose-missing": ["docker: 'compose' is not a docker command.\nSee 'docker --help'"],
    "singularity-without-nv": [
        '$ singularity exec tf.sif python3 -c "import tensorflow as tf; '
        "print(tf.config.list_physical_devices('GPU'))\""
        "\n[]\n",
    ],
    "visible-devices-unset": [
        "$ docker run --runtime=nvidia --rm ubuntu:20.04 nvidia-smi\ndocker: Error response from daemon: "
        "failed to create "
        "shim task: OCI runtime create failed: runc create failed: unable to start container process: "
        'exec: "nvidia-smi": '
        "executable file not found in $PATH: unknown."
    ],
    "visible-devices-void": [
        "$ docker run -e NVIDIA_VISIBLE_DEVICES=void --runtime=nvidia tensorflow/tensorflow:2.9.0-gpu "
        "nvidia-smi\ndocker: "
        'Error response from daemon: OCI runtime create failed: exec: "nvidia-smi": executable file not '
        "found in $PATH"
    ],
    "devices-given-by-hand": [
        "$ docker run --device=/dev/nvidia0 --device=/dev/nvidiactl pytorch/pytorch python -c 'import torch; "
        "print(torch.cuda.is_available())'\nFalse\n"
    ],
    "driver-capabilities-without-compute": [
        "$ docker run --gpus all --rm -e NVIDIA_DRIVER_CAPABILITIES=utility "
        "tensorflow/tensorflow:2.9.0-gpu python t.py\n"
        "Could not load dynamic library 'libcuda.so.1'; dlerror: libcuda.so.1: cannot open shared object file"
    ],
    "gpus-flag-after-image": [
        'docker: Error response from daemon: OCI runtime create failed: exec: "--gpus": executable file not '
        "found in "
        "$PATH: unknown."
    ],
    "gpu-in-docker-build": [
        "#14 [stage-1 6/9] RUN python setup.py install\n#14 21.3     arch_list[-1] += '+PTX'\n#14 21.3 "
        "IndexError: list "
        'index out of range\nERROR: failed to solve: process "/bin/sh -c python setup.py install" did not '
        "complete "
        "successfully: exit code: 1"
    ],
    "requested-gpu-absent": [
        OLD_HOOK + "nvidia-container-cli: device error: unknown device id: 1: unknown.",
        NEW_HOOK + "nvidia-container-cli: device error: 3: unknown device: unknown.",
    ],
    "driver-capabilities-refused": [
        "unsupported capabilities found in 'compute,vulkan' (allowed 'compute,utility')",
    ],
    "visible-devices-refused": [
        "nvidia-container-cli.real: insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES "
        "envvar"
    ],
    "mig-configuration-not-privileged": [
        "cannot set MIG_CONFIG_DEVICES in non privileged container",
    ],
    # in the container
    "gpu-lost-after-daemon-reload": [
        "$ docker exec -it train nvidia-smi\nFailed to initialize NVML: Unknown Error",
    ],
    "driver-libraries-in-image": [
        OLD_HOOK
        + f"nvidia-container-cli: mount error: file creation failed: {MERGED}/usr/lib/x86_64-linux-gnu/"
        "libnvidia-ml.so.1: file exists: unknown."
    ],
    "run-mounted-over": [
        OLD_HOOK + f"nvidia-container-cli: mount error: file creation failed: "
        f"{MERGED}/run/nvidia-persistenced/socket: "
        "no such device or address: unknown."
    ],
    "container-read-only": [
        NEW_HOOK
        + f"nvidia-container-cli: mount error: file creation failed: {MERGED}/usr/bin/nvidia-smi: read-only "
        "file system: unknown"
    ],
    "image-on-musl": [
        "Error loading shared library libcuda.so.1: No such file or directory (needed by /app/bin)\n"
        "Error loading shared library ld-linux-x86-64.so.2: No such file or directory (needed by "
        "/usr/lib/libcuda.so.1)"
    ],
    "image-glibc-too-old": [
        "nvidia-smi: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.34' not found (required by "
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1)"
    ],
    "stub-libcuda-first": [
        "$ docker run --gpus all -e LD_LIBRARY_PATH=/usr/local/cuda/lib64/stubs img python a.py\nfailed "
        "call to cuInit: "
        "CUDA_ERROR_STUB_LIBRARY: CUDA driver is a stub library"
    ],
    "shm-too-small": [
        "RuntimeError: DataLoader worker (pid 114) is killed by signal: Bus error. It is possible that "
        "dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit."
    ],
}

CASES = [(cause, text) for cause, texts in TEXTS.items() for text in texts]


def told(text: str) -> dict:
    return diagnose(read(text), [("the text", text)], knowledge=KNOWLEDGE, catalog=CATALOG)


@pytest.mark.parametrize(("cause", "text"), CASES, ids=[f"{cause}-{n}" for n, (cause, _) in enumerate(CASES)])
def test_a_text_leads_to_its_cause(cause, text):
    answer = told(text)
    ranked = [row["cause"] for row in answer["causes"]]
    assert ranked[:1] == [cause], [(row["cause"], row["confidence"]) for row in answer["causes"][:4]]
    assert answer["causes"][0]["standing"] == "root"


@pytest.mark.parametrize(("cause", "text"), CASES, ids=[f"{cause}-{n}" for n, (cause, _) in enumerate(CASES)])
def test_wrapping_and_prefixes_change_nothing(cause, text):
    """A terminal wraps, journald and compose put words in front: the first cause stays."""
    prefixed = "\n".join(f"Nov 23 10:11:12 node7 app[812]: {line}" for line in text.splitlines())
    again = [row["cause"] for row in told(prefixed)["causes"]][:1]
    # What the shell shows (prompts, commands) is read as such only where it stands at the line's beginning.
    if "$ " not in text and "# " not in text:
        assert again == [cause]


@pytest.mark.parametrize(
    "text",
    [
        "$ docker run --rm --gpus all tensorflow/tensorflow:2.9.0-gpu python -c 'import tensorflow as tf; "
        "print(tf.config.list_physical_devices())'\n[PhysicalDevice(name='/physical_device:GPU:0', "
        "device_type='GPU')]",
        "$ docker info\n Server Version: 24.0.7\n Runtimes: io.containerd.runc.v2 nvidia runc\n Default "
        "Runtime: runc\n"
        " Docker Root Dir: /var/lib/docker",
        "NOTE: The SHMEM allocation limit is set to the default of 64MB.  This may be\n   insufficient for "
        "PyTorch.",
        "Nov 23 10:00:00 node7 systemd[1]: Reloading requested from client PID 71 ('systemctl')\n# "
        "systemctl daemon-reload",
        "$ docker build -t me/app .\n#5 [2/4] RUN apt-get update\n#5 DONE 4.2s\n#9 exporting to image\n#9 "
        "DONE 0.1s",
        "dial tcp 127.0.0.1:6443: connect: connection refused\nE1123 The connection to the server was "
        "refused",
        "train.py: error: unrecognized arguments: --gpus 1",
        'level=warning msg="grpc: addrConn.createTransport failed to connect to '
        "{unix:///run/containerd/containerd.sock}. "
        'Err: dial unix:///run/containerd/containerd.sock: timeout"\nlevel=info msg="Daemon has completed '
        'initialization"',
        "$ ldd /bin/ls\n\tlibc.musl-x86_64.so.1 => /lib/ld-musl-x86_64.so.1",
        "-- Found CUDA_cuda_driver_LIBRARY: /usr/local/cuda/lib64/stubs/libcuda.so",
        "$ docker pull hello-world\nUsing default tag: latest\nStatus: Image is up to date for "
        "hello-world:latest",
    ],
)
def test_a_sound_text_has_no_cause(text):
    assert [row["cause"] for row in told(text)["causes"] if row["standing"] == "root"] == []
