"""What a pasted text states becomes a fact, in its place; what it does not state is absent."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from gpuready.diagnosis.reader import read
from hypothesis import given, settings
from hypothesis import strategies as st

TABLE = """\
+-----------------------------------------------------------------------------+
| NVIDIA-SMI 470.57.02    Driver Version: 470.57.02    CUDA Version: 11.4     |
|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | GPU-Util  Compute M. |
|                               |                      |               MIG M. |
|===============================+======================+======================|
|   0  Tesla T4            Off  | 00000000:00:1E.0 Off |                    0 |
| N/A   35C    P8     9W /  70W |     10MiB / 15109MiB |      3%      Default |
|                               |                      |                  N/A |
|   1  NVIDIA A30          On   | 00000000:00:1F.0 Off |                    0 |
| N/A   35C    P8     9W /  70W |      0MiB / 24258MiB |      0%   E. Process |
|                               |                      |             Disabled |
+-------------------------------+----------------------+----------------------+
"""
NEW_TABLE = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 615.10.02              KMD Version: 615.10.02     CUDA UMD Version: 13.4     |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
|=========================================+========================+======================|
|   0  NVIDIA A100-SXM4-80GB          On  |   00000000:3B:00.0 Off |                   On |
| N/A   31C    P0             62W /  400W |       0MiB /  81920MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| MIG devices:                                                                            |
+------------------+----------------------------------+-----------+-----------------------+
|  No MIG devices found                                                                   |
+-----------------------------------------------------------------------------------------+
"""


def at(facts: dict[str, Any], path: str) -> Any:
    """What lies under a path; ... where nothing does."""
    value: Any = facts
    for name in path.split("."):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return ...
    return value


def test_nothing_said_gives_no_facts() -> None:
    assert read("") == {}
    assert read("Hello, my GPU does not work. What can I do?") == {}


# --- the host


def test_the_table_of_nvidia_smi() -> None:
    driver = read(TABLE)["gpu_stack"]["driver"]
    assert driver["nvml"] == {
        "source": "nvidia-smi",
        "driver_version": "470.57.02",
        "cuda_version": "11.4",
        "error": None,
    }
    assert driver["loaded"]["version"] == "470.57.02"
    first, second = driver["devices"]
    assert (first["name"], first["pci"]) == ("Tesla T4", "0000:00:1e.0")
    assert (first["memory_used_mib"], first["memory_total_mib"]) == (10, 15109)
    assert (second["index"], second["compute_mode"], second["mig_mode"]) == (1, "E. Process", False)


def test_the_new_table_with_mig_on_and_no_instance() -> None:
    driver = read(NEW_TABLE)["gpu_stack"]["driver"]
    assert driver["nvml"]["driver_version"] == "615.10.02"
    assert driver["nvml"]["cuda_version"] == "13.4"
    assert driver["devices"][0]["mig_mode"] is True
    assert driver["devices"][0]["mig_instances"] == 0


STATED = [
    # (what was pasted, path, value)
    (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.54.03  Release Build",
        "driver.loaded.flavour",
        "open",
    ),
    ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue", "driver.loaded.version", "470.57.02"),
    (
        "NVRM: API mismatch: the client has the version 470.57.02, but\nNVRM: this kernel "
        "module has the version"
        " 460.80.  Please\nNVRM: make sure",
        "driver.loaded.version",
        "460.80",
    ),
    (
        "Failed to initialize NVML: Driver/library version mismatch",
        "driver.nvml.error",
        "Failed to initialize NVML: Driver/library version mismatch",
    ),
    ("No devices were found", "driver.devices", []),
    (
        "$ nvidia-smi -L\nGPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)",
        "driver.devices.0.name",
        "Tesla T4",
    ),
    ("GPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)", "host.gpus.0.name", "Tesla T4"),
    ("bash: nvidia-smi: command not found", "driver.userspace.nvidia_smi", False),
    ("zsh: command not found: nvidia-smi", "driver.userspace.nvidia_smi", False),
    (
        "nvidia_uvm           1036288  0\nnvidia              35270656  1 nvidia_uvm",
        "driver.loaded.modules",
        ["nvidia_uvm", "nvidia"],
    ),
    ("nouveau              2306048  4", "host.nouveau.loaded", True),
    (
        "modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.1.0-13-amd64",
        "driver.on_disk",
        False,
    ),
    (
        "modprobe: FATAL: Module nvidia not found in directory /lib/modules/6.1.0-13-amd64",
        "host.kernel.running",
        "6.1.0-13-amd64",
    ),
    ("nvidia/535.54.03, 5.15.0-91-generic, x86_64: installed", "driver.dkms.0.status", "installed"),
    ("nvidia, 470.57.02, 5.4.0-80-generic, x86_64: installed", "driver.dkms.0.kernel", "5.4.0-80-generic"),
    ("nvidia/535.54.03: added", "driver.dkms.0.status", "added"),
    ("SecureBoot enabled", "host.secure_boot", True),
    ("SecureBoot disabled", "host.secure_boot", False),
    ("EFI variables are not supported on this system", "host.secure_boot", False),
    (
        "Linux gpu1 5.15.0-91-generic #101-Ubuntu SMP Tue Nov 14 13:30:08 UTC 2023 x86_64 GNU/Linux",
        "host.kernel.running",
        "5.15.0-91-generic",
    ),
    ("$ uname -r\n6.8.0-40-generic", "host.kernel.running", "6.8.0-40-generic"),
    ('PRETTY_NAME="Ubuntu 22.04.3 LTS"', "host.os.version_id", "22.04"),
    (
        "ii  nvidia-driver-535  535.54.03-0ubuntu1  amd64  NVIDIA driver",
        "driver.packages.0.status",
        "installed",
    ),
    ("hi  libnvidia-compute-535:amd64  535.54.03-0ubuntu1  amd64  libs", "driver.packages.0.held", True),
    ("iF  nvidia-dkms-535  535.54.03-0ubuntu1  amd64  NVIDIA DKMS", "apt.broken.0.status", "half-configured"),
    (
        "ii  nvidia-container-toolkit  1.17.8-1  amd64  x",
        "container_runtime.toolkit.packages.0.version",
        "1.17.8-1",
    ),
    (
        "nvidia-container-toolkit/unknown,now 1.17.8-1 amd64 [installed]",
        "container_runtime.toolkit.packages.0.status",
        "installed",
    ),
    (
        "nvidia-driver-535:\n  Installed: (none)\n  Candidate: 535.54.03-0ubuntu1",
        "apt.candidates.nvidia-driver-535.candidate",
        "535.54.03-0ubuntu1",
    ),
    ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", "apt.dpkg_interrupted", True),
    (
        "01:00.0 VGA compatible controller [0300]: NVIDIA Corporation GP104 [GeForce GTX "
        "1070] [10de:1b81] (rev a1)\n"
        "\tKernel driver in use: nouveau\n\tKernel modules: nvidiafb, nouveau",
        "host.gpus.0.driver_bound",
        "nouveau",
    ),
    (
        "01:00.0 3D controller: NVIDIA Corporation TU104GL [Tesla T4] (rev a1)\n\tKernel modules: nouveau",
        "host.gpus.0.driver_bound",
        None,
    ),
    ("0000:3b:00.0 3D controller: NVIDIA Corporation Device 2330 (rev ff)", "host.gpus.0.device_id", "2330"),
    ("0000:3b:00.0 3D controller: NVIDIA Corporation Device 2330 (rev ff)", "host.gpus.0.rev", "ff"),
    (
        "07:00.0 Bridge: NVIDIA Corporation GA100 [A100 NVSwitch] (rev a1)",
        "host.nvswitches.0.pci",
        "0000:07:00.0",
    ),
    ("crw-rw-rw- 1 root root 195,   0 Nov 23 09:00 /dev/nvidia0", "driver.device_nodes", ["/dev/nvidia0"]),
    (
        "crw-rw---- 1 root video 195,   0 Nov 23 09:00 /dev/nvidia0",
        "driver.device_access./dev/nvidia0.mode",
        "0660",
    ),
    ("ls: cannot access '/dev/nvidia*': No such file or directory", "driver.device_nodes", []),
    (
        "lrwxrwxrwx 1 root root 20 x libcuda.so.1 -> libcuda.so.535.54.03",
        "driver.userspace.version",
        "535.54.03",
    ),
    (
        "\u25cf nvidia-fabricmanager.service - NVIDIA fabric manager service\n"
        "     Loaded: loaded (/lib/systemd/system/nvidia-fabricmanager.service; disabled; "
        "vendor preset: enabled)\n"
        "     Active: failed (Result: exit-code) since x",
        "driver.fabricmanager.active",
        False,
    ),
    ("Unit nvidia-fabricmanager.service could not be found.", "driver.fabricmanager.installed", False),
    (
        "Filesystem 1M-blocks Used Available Use% Mounted on\n/dev/sda1 20000 19990 10 100% /",
        "disk.0.free_mib",
        10,
    ),
    ("Docker version 24.0.5, build ced0996", "container_runtime.docker.version", "24.0.5"),
    (
        " Runtimes: io.containerd.runc.v2 nvidia runc\n Default Runtime: runc",
        "container_runtime.docker.live.runtimes",
        ["io.containerd.runc.v2", "nvidia", "runc"],
    ),
    (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "container_runtime.docker.live.reachable",
        False,
    ),
    (" Docker Root Dir: /var/snap/docker/common/var-lib-docker", "container_runtime.docker.snap", True),
    (" Context:    rootless", "container_runtime.docker.rootless", True),
    ("NVIDIA Container Toolkit CLI version 1.13.5", "container_runtime.toolkit.version", "1.13.5"),
    ("nvidia-ctk: command not found", "container_runtime.toolkit.binaries.nvidia-ctk", False),
    (
        '$ cat /etc/docker/daemon.json\n{\n  "runtimes": {}\n}',
        "container_runtime.docker.daemon_json.runtimes",
        {},
    ),
    (
        '$ cat /etc/docker/daemon.json\n{\n  "a": 1\n  "b": 2\n}',
        "container_runtime.docker.daemon_json.valid",
        False,
    ),
    (
        "cat: /etc/docker/daemon.json: No such file or directory",
        "container_runtime.docker.daemon_json.exists",
        False,
    ),
    (
        "dockerd: unable to configure the Docker daemon with file /etc/docker/daemon.json: EOF",
        "container_runtime.docker.daemon_json.error",
        "EOF",
    ),
]


@pytest.mark.parametrize(("pasted", "path", "value"), STATED)
def test_a_fact_of_the_host(pasted: str, path: str, value: Any) -> None:
    facts = read(pasted)["gpu_stack"]
    if "/dev/nvidia0.mode" in path:
        assert facts["driver"]["device_access"]["/dev/nvidia0"]["mode"] == value
    else:
        assert at(facts, path) == value


def test_modinfo_tells_the_flavour_the_kernel_and_the_signature() -> None:
    text = """filename:       /lib/modules/5.15.0-91-generic/updates/dkms/nvidia.ko
version:        535.54.03
supported:      external
license:        Dual MIT/GPL
vermagic:       5.15.0-91-generic SMP mod_unload modversions
sig_id:         PKCS#7
signer:         gpu1 Secure Boot Module Signature key
parm:           NvSwitchRegDwords:NvSwitch regkey (charp)"""
    assert read(text)["gpu_stack"]["driver"]["on_disk"] == {
        "path": "/lib/modules/5.15.0-91-generic/updates/dkms/nvidia.ko",
        "kernel": "5.15.0-91-generic",
        "version": "535.54.03",
        "flavour": "open",
        "signed": True,
    }


def test_nvidia_smi_q_tells_the_fabric_s_state() -> None:
    text = """==============NVSMI LOG==============

Timestamp                                 : Tue Jul 21 21:07:33 2026
Driver Version                            : 550.54.15
CUDA Version                              : 12.4

Attached GPUs                             : 1
GPU 00000000:1B:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    MIG Mode
        Current                           : Disabled
        Pending                           : Disabled
    Fabric
        State                             : In Progress
        Status                            : N/A
    FB Memory Usage
        Total                             : 81559 MiB
        Used                              : 4 MiB
"""
    driver = read(text)["gpu_stack"]["driver"]
    assert driver["nvml"]["driver_version"] == "550.54.15"
    assert driver["devices"] == [
        {
            "index": 0,
            "pci": "0000:1b:00.0",
            "name": "NVIDIA H100 80GB HBM3",
            "mig_mode": False,
            "fabric": {"state": "In Progress", "status": "N/A"},
            "memory_total_mib": 81559,
            "memory_used_mib": 4,
        }
    ]


def test_the_kernel_s_lines_are_kept() -> None:
    text = (
        "[    4.0] usb 1-1: new device\n[    5.123456] NVRM: Xid (PCI:0000:3b:00): 79, "
        "pid=1, GPU has fallen off the bus."
    )
    log = read(text)["gpu_stack"]["host"]["kernel_log"]
    assert log["lines"] == ["NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus."]


@pytest.mark.parametrize(
    ("empty", "path", "value"),
    [
        ("lsmod | grep nvidia", "driver.loaded", False),
        ("lsmod | grep -i nouveau", "host.nouveau.loaded", False),
        ("lspci | grep -i nvidia", "host.gpus", []),
        ("lspci -nn -d 10de:", "host.gpus", []),
    ],
)
def test_no_answer_is_an_answer_at_a_real_prompt(empty: str, path: str, value: Any) -> None:
    assert at(read(f"me@box:~$ {empty}\nme@box:~$ date\nMon")["gpu_stack"], path) == value
    # Instructions are lists of commands, too.
    assert "gpu_stack" not in read(f"Please run:\n{empty}\nnvidia-smi -L")
    assert "gpu_stack" not in read(f"me@box:~$ {empty}\n")


# --- places


def test_a_container_s_facts_are_not_the_host_s() -> None:
    text = f"""me@box:~$ nvidia-smi
{TABLE}
me@box:~$ docker run -it --rm -e CUDA_VISIBLE_DEVICES=-1 tensorflow/tensorflow:2.9.0-gpu bash
root@3f2a1b4c5d6e:/# nvidia-smi
bash: nvidia-smi: command not found
root@3f2a1b4c5d6e:/# ls -l /dev/nvidia*
ls: cannot access '/dev/nvidia*': No such file or directory
root@3f2a1b4c5d6e:/# cat /proc/driver/nvidia/version
cat: /proc/driver/nvidia/version: No such file or directory
root@3f2a1b4c5d6e:/# exit
me@box:~$ ls -l /dev/nvidia*
crw-rw-rw- 1 root root 195,   0 Nov 23 09:00 /dev/nvidia0
"""
    facts = read(text)
    assert at(facts, "gpu_stack.driver.loaded.version") == "470.57.02"
    assert at(facts, "gpu_stack.driver.userspace.nvidia_smi") == "nvidia-smi"
    assert at(facts, "gpu_stack.driver.device_nodes") == ["/dev/nvidia0"]
    assert facts["container"]["nvidia_smi"]["ok"] is False
    assert facts["container"]["device_nodes"] == []
    assert facts["container"]["proc_driver_version"] is False
    assert facts["container"]["requests"]["gpus"] is False
    assert facts["container"]["env"] == {"CUDA_VISIBLE_DEVICES": "-1"}


def test_what_a_container_ran_is_its_own() -> None:
    text = """$ docker run --rm --gpus all nvidia/cuda:12.2.0-base-ubuntu22.04 nvidia-smi
Failed to initialize NVML: Unknown Error
$ nvidia-smi -L
GPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)"""
    facts = read(text)
    assert facts["container"]["nvidia_smi"]["error"] == "Failed to initialize NVML: Unknown Error"
    assert at(facts, "gpu_stack.driver.nvml.error") is None


def test_a_trial_that_works_is_not_the_container_asked_about() -> None:
    text = f"""$ docker run --rm --gpus all ubuntu nvidia-smi
{TABLE}
$ docker run --rm mine/app python -c "import torch; print(torch.cuda.is_available())"
False"""
    facts = read(text)
    assert facts["probes"]["with_gpu"]["nvidia_smi"]["ok"] is True
    assert facts["container"]["image"] == "mine/app"
    assert facts["container"]["requests"]["gpus"] is False
    assert facts["framework"]["available"] is False


def test_tensorflow_s_host_name_tells_a_container() -> None:
    text = (
        "2022-05-01 10:00:00.1: I tensorflow/x.cc:1] kernel driver does not appear to be "
        "running on this host (16c54693e7f2): /proc/driver/nvidia/version does not exist"
    )
    facts = read(text)
    assert facts["container"]["proc_driver_version"] is False
    assert facts["framework"]["place"] == "container"
    assert "gpu_stack" not in facts


def test_headings_tell_the_place() -> None:
    text = (
        "On the host:\nNVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  "
        "Tue\n\nInside the container:\nbash: nvidia-smi: command not found\n"
    )
    facts = read(text)
    assert at(facts, "gpu_stack.driver.userspace") is ...
    assert facts["container"]["nvidia_smi"]["ok"] is False


def test_wsl_and_windows_have_no_module_of_their_own() -> None:
    wsl = read("Linux pc 5.15.90.1-microsoft-standard-WSL2 #1 SMP x86_64 GNU/Linux\n" + TABLE)
    assert wsl["platform"]["wsl"] is True
    assert at(wsl, "gpu_stack.driver.loaded") is ...
    windows = read(
        "C:\\Users\\me>nvidia-smi\n" + TABLE.replace("Off  | 00000000:00:1E.0", "WDDM | 00000000:00:1E.0")
    )
    assert windows["platform"]["os"] == "windows"
    assert at(windows, "gpu_stack.driver.loaded") is ...


@pytest.mark.parametrize(
    "said",
    [
        "dxcore initialization failed, continuing assuming a non-WSL environment",
        "attempting to load dxcore to see if we are running under Windows Subsystem for Linux (WSL)",
        "I do not use WSL2 here, it is a plain Ubuntu.",
        "I don't have Docker Desktop installed",
    ],
)
def test_a_denial_is_no_statement(said: str) -> None:
    assert read(said).get("platform", {}) in ({}, {"os": "linux"})


# --- requests


@pytest.mark.parametrize(
    ("line", "requests"),
    [
        ("docker run --gpus all img", {"gpus": True, "count": -1, "privileged": False}),
        ("docker run --gpus=2 img", {"gpus": True, "count": 2, "privileged": False}),
        (
            "docker run --gpus '\"device=0,2\"' img",
            {"gpus": True, "device_ids": ["0", "2"], "privileged": False},
        ),
        ("docker run --gpus device=1 img", {"gpus": True, "device_ids": ["1"], "privileged": False}),
        ("docker run -it -p 8888:8888 -v $PWD:/w img", {"gpus": False, "privileged": False}),
        (
            "docker run --rm -itd -eA=1 -w /x img python -c 'x --gpus all'",
            {"gpus": False, "privileged": False},
        ),
        ("sudo docker run --runtime=nvidia img", {"runtime": "nvidia", "gpus": False, "privileged": False}),
        (
            "docker run --device nvidia.com/gpu=all img",
            {"cdi_devices": ["nvidia.com/gpu=all"], "gpus": False, "privileged": False},
        ),
        (
            "docker run --privileged --device /dev/nvidia0:/dev/nvidia0 img",
            {"privileged": True, "devices": ["/dev/nvidia0"], "gpus": False},
        ),
        ("podman run --device nvidia.com/gpu=0 img", {"cdi_devices": ["nvidia.com/gpu=0"]}),
        ("nvidia-docker run img", {"runtime": "nvidia", "gpus": False, "privileged": False}),
        ("singularity exec --nv img.sif python x.py", {"gpus": True}),
        (
            "docker run --shm-size=8g --gpus all img",
            {"gpus": True, "count": -1, "shm_size_mib": 8192, "privileged": False},
        ),
    ],
)
def test_what_a_command_line_asks_for(line: str, requests: dict[str, Any]) -> None:
    assert read(f"$ {line}\nerror")["container"]["requests"] == requests


def test_a_command_line_over_several_lines_and_one_that_is_cut() -> None:
    assert read("$ docker run \\\n  --rm \\\n  --gpus all \\\n  img")["container"]["requests"]["gpus"] is True
    assert "gpus" not in read("$ docker run ... img").get("container", {}).get("requests", {})


COMPOSE = """services:
  trainer:
    image: pytorch/pytorch
    environment:
      CUDA_VISIBLE_DEVICES: all
"""


def test_a_compose_file_without_and_with_a_gpu() -> None:
    without = read(COMPOSE)["container"]
    assert (without["compose"], without["name"], without["requests"]) == (True, "trainer", {"gpus": False})
    assert without["env"] == {"CUDA_VISIBLE_DEVICES": "all"}
    given_ = (
        COMPOSE
        + """    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              capabilities: [gpu]
"""
    )
    assert read(given_)["container"]["requests"] == {"gpus": True, "capabilities": ["gpu"], "count": 1}
    assert read(COMPOSE + "    runtime: nvidia\n")["container"]["requests"]["runtime"] == "nvidia"


def test_a_pod_asks_by_its_limits() -> None:
    pod = """apiVersion: v1
kind: Pod
metadata:
  name: gpu-pod
spec:
  runtimeClassName: nvidia
  containers:
    - name: a
      image: nvidia/cuda:12.2.0-base-ubuntu22.04
"""
    assert read(pod)["container"]["requests"] == {"gpus": False, "runtime": "nvidia"}
    asking = pod + "      resources:\n        limits:\n          nvidia.com/gpu: 2\n"
    assert read(asking)["container"]["requests"]["count"] == 2


def test_docker_inspect_tells_everything() -> None:
    inspected = [
        {
            "Name": "/jupyter",
            "State": {"Running": False, "OOMKilled": True, "ExitCode": 137},
            "HostConfig": {
                "Runtime": "runc",
                "DeviceRequests": None,
                "Memory": 2147483648,
                "Privileged": False,
            },
            "Config": {
                "Image": "jupyter/base",
                "Env": ["NVIDIA_VISIBLE_DEVICES=void", "HOME=/x"],
                "Labels": {},
            },
        }
    ]
    container = read(json.dumps(inspected, indent=4))["container"]
    assert container["name"] == "jupyter"
    assert container["requests"]["gpus"] is False
    assert container["memory_limit_mib"] == 2048
    assert (container["oom_killed"], container["exit_code"]) == (True, 137)
    assert container["env"] == {"NVIDIA_VISIBLE_DEVICES": "void"}
    short = read("$ docker inspect -f '{{.HostConfig.DeviceRequests}} {{.HostConfig.Runtime}}' web\n[] runc")
    assert short["container"]["requests"] == {"gpus": False, "runtime": "runc"}


# --- frameworks


@pytest.mark.parametrize(
    ("pasted", "path", "value"),
    [
        (">>> torch.cuda.is_available()\nFalse", "available", False),
        (">>> torch.version.cuda\n>>> print(torch.version.cuda)\nNone", "cuda", False),
        (">>> torch.__version__\n'2.4.1+cpu'", "cuda", False),
        ("torch                    2.4.1+cu121", "cuda", "12.1"),
        ("torch==1.13.1+cpu", "cuda", False),
        ("pytorch                   1.9.0           py3.8_cpu_0  [cpuonly]  pytorch", "cuda", False),
        ("tensorflow-cpu            2.15.0", "cuda", False),
        ("CUDA used to build PyTorch: Could not collect", "cuda", ...),
        ("CUDA used to build PyTorch: None", "cuda", False),
        ("AssertionError: Torch not compiled with CUDA enabled", "cuda", False),
        ("- PyTorch version (GPU?): 2.0.1+cu117 (False)", "available", False),
        (">>> tf.config.list_physical_devices('GPU')\n[]", "gpus_listed", 0),
        (
            ">>> tf.config.list_physical_devices('GPU')\n[PhysicalDevice(name='/physical_devi"
            "ce:GPU:0', device_type='GPU')]",
            "gpus_listed",
            1,
        ),
        ("Num GPUs Available:  0", "available", False),
        (">>> tf.test.is_built_with_cuda()\nFalse", "cuda", False),
        (
            '$ python -c "import torch; print(torch.__version__, torch.version.cuda, '
            'torch.cuda.is_available())"\n2.4.1+cu121 12.1 False',
            "available",
            False,
        ),
        ("print(torch.cuda.is_available(), torch.cuda.device_count())\n\noutput:\nFalse 0", "gpus_listed", 0),
        ("print(tf.test.is_built_with_cuda())  # False", "cuda", False),
        (
            "Could not load dynamic library 'libcudnn.so.8'; dlerror: libcudnn.so.8: cannot open",
            "libraries_missing",
            ["libcudnn.so.8"],
        ),
        ("Could not load dynamic library 'libnvinfer.so.7'; dlerror: no", "libraries_missing", ...),
        (
            "ImportError: libcublas.so.12: cannot open shared object file: No such file or directory",
            "libraries_missing",
            ["libcublas.so.12"],
        ),
        ("Loaded runtime CuDNN library: 8.0.5 but source was compiled with: 8.1.0.", "cudnn_loaded", "8.0.5"),
        (
            "Loaded runtime CuDNN library: 8005 (compatibility version 8000) but source was "
            "compiled with: 8100 (x)",
            "cudnn",
            "8.1.0",
        ),
        ("Loaded cuDNN version 90100", "cudnn_loaded", "9.1.0"),
        (
            "The current PyTorch install supports CUDA capabilities sm_50 sm_60.\nNVIDIA "
            "GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current "
            "PyTorch installation.\nThe current PyTorch install supports CUDA capabilities "
            "sm_50 sm_60.",
            "archs",
            ["sm_50", "sm_60"],
        ),
        (">>> ort.get_available_providers()\n['CPUExecutionProvider']", "cuda", False),
        ("### TensorFlow version\n\n2.11.0", "version", "2.11.0"),
        (
            "Found GPU0 GeForce GTX 1050 which is of cuda capability 6.1.\nMinimum and Maximum cuda"
            " capability supported by this version of PyTorch is\n(7.0) - (12.0)",
            "archs",
            ["sm_70", "sm_120"],
        ),
        ("- PyTorch: 2.8.0+cu128", "cuda", "12.8"),
        ("$ export CUDA_VISIBLE_DEVICES=1\n$ python x.py", "env", {"CUDA_VISIBLE_DEVICES": "1"}),
        ("$ CUDA_VISIBLE_DEVICES=1 python x.py\nno", "env", {"CUDA_VISIBLE_DEVICES": "1"}),
        (" + onnxruntime==1.20.1", "packages", {"onnxruntime": "1.20.1"}),
        ("- **TensorFlow version (use command below)**: 2.4.1", "version", "2.4.1"),
        ("I use TensorFlow 2.11 and it fails", "version", "2.11"),
        ("It works with TensorFlow 2.10 but not with TensorFlow 2.11", "version", ...),
    ],
)
def test_a_fact_of_the_framework(pasted: str, path: str, value: Any) -> None:
    assert at(read(pasted).get("framework", {}), path) == value


def test_capabilities_and_the_driver_s_cuda_come_from_frameworks_too() -> None:
    text = (
        "2022-05-01 10:00:00.1: I tensorflow/x.cc:1] Created device "
        "/job:localhost/replica:0/task:0/device:GPU:0 with 13 MB memory:"
        "  -> device: 0, name: Tesla T4, pci bus id: 0000:00:1e.0, compute capability: 7.5"
    )
    device = read(text)["gpu_stack"]["driver"]["devices"][0]
    assert (device["name"], device["compute_capability"]) == ("Tesla T4", "7.5")
    old = read(
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please update"
    )
    assert at(old, "gpu_stack.driver.nvml.cuda_version") == "11.4"


def test_two_pythons_are_told_apart() -> None:
    text = """In [1]: import sys; print(sys.executable)
/usr/bin/python3
In [2]: import torch; print(torch.__version__, torch.cuda.is_available())
2.1.0+cpu False

(dl) $ which python
/opt/conda/envs/dl/bin/python
(dl) $ python -c "import torch; print(torch.__version__, torch.cuda.is_available())"
2.1.0+cu121 True"""
    framework = read(text)["framework"]
    assert [one["available"] for one in framework["pythons"]] == [False, True]
    assert framework["available"] is False
    assert framework["python"]["executable"] == "/usr/bin/python3"


def test_the_environment_of_a_program_on_the_host() -> None:
    assert read("$ env | grep CUDA\nCUDA_VISIBLE_DEVICES=-1")["framework"]["env"] == {
        "CUDA_VISIBLE_DEVICES": "-1"
    }
    script = 'import os\nos.environ["CUDA_VISIBLE_DEVICES"] = ""\nimport torch'
    assert read(script)["framework"]["env"] == {"CUDA_VISIBLE_DEVICES": ""}
    assert "env" not in read("export LD_LIBRARY_PATH=/x:$LD_LIBRARY_PATH").get("framework", {})


def test_after_exit_the_prompt_is_the_host_s_again() -> None:
    text = """$ docker run -it --gpus all img bash
root@3f2a1b9c8d7e:/workspace# python -c 'import torch; print(torch.cuda.is_available())'
False
root@3f2a1b9c8d7e:/workspace# exit
$ nvidia-smi -L
GPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)"""
    facts = read(text)
    assert at(facts, "gpu_stack.driver.devices.0.name") == "Tesla T4"
    assert "nvidia_smi" not in facts["container"]
    assert facts["framework"] == {"place": "container", "name": "pytorch", "available": False}


@pytest.mark.parametrize(
    ("pasted", "valid"),
    [
        ('$ cat /etc/docker/daemon.json\n{\n "runtimes": {}\n}\n}\n$ docker info', False),
        ('$ cat /etc/docker/daemon.json\n{\n "runtimes": {\n}\n$ docker info', False),
        ("My /etc/docker/daemon.json:\n```\n{\n  \u201cruntimes\u201d: {}\n}\n```", False),
        ('My /etc/docker/daemon.json:\n```\n{\n  "runtimes": {}\n}\n```', True),
        # The page that it was copied from has typeset everything.
        (
            "\u201cno GPU\u201d it says\n$ cat /etc/docker/daemon.json\n{\n  \u201cruntimes\u201d: {}\n}",
            True,
        ),
        ('I see\u00a0nothing\n$ cat /etc/docker/daemon.json\n{\n\u00a0 "runtimes": {}\n}', True),
        ('$ cat /etc/docker/daemon.json\n{\n\u00a0 "runtimes": {}\n}\n$ docker info', False),
        ('You should put this into /etc/docker/daemon.json:\n{\n  "log-opts": {},\n}', ...),
    ],
)
def test_a_shown_daemon_json_is_judged_as_it_was_pasted(pasted: str, valid: Any) -> None:
    assert at(read(pasted), "gpu_stack.container_runtime.docker.daemon_json.valid") == valid


def test_another_program_s_server_version_is_not_docker_s() -> None:
    assert read('Server Version: version.Info{Major:"1", Minor:"20", GitVersion:"v1.20.0"}') == {}
    assert read("Server Version: v1.28.2") == {}


def test_a_title_is_no_fact() -> None:
    assert read('# "Failed to initialize NVML: Unknown Error" after random time') == {}
    assert read("Failed to initialize NVML: Unknown Error after some hours, please help") == {}


def test_a_gpu_that_is_only_spoken_of_is_in_the_machine_and_listed_by_nobody() -> None:
    spoken = read("My Tesla K80 gives: no kernel image is available")["gpu_stack"]
    assert spoken["host"]["gpus"] == [{"name": "Tesla K80", "vendor_id": "10de"}]
    assert "driver" not in spoken
    assert read("It works on the RTX 4090 but not on the GTX 1080 Ti") == {}
    listed = read(
        "My Tesla K80.\n$ nvidia-smi -L\nGPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)"
    )["gpu_stack"]
    assert "host" not in listed


def test_indented_code_is_code() -> None:
    text = "Look:\n\n    me@box:~$ uname -r\n    6.1.0-13-amd64\n    me@box:~$ date\n\nThanks"
    assert at(read(text), "gpu_stack.host.kernel.running") == "6.1.0-13-amd64"


def test_pythons_statements_over_several_lines() -> None:
    text = (
        "In [1]: import torch\n   ...: print(torch.__version__)"
        "\n   ...: print(torch.cuda.is_available())\n2.3.0+cpu\nFalse"
    )
    framework = read(text)["framework"]
    assert (framework["version"], framework["cuda"], framework["available"]) == ("2.3.0", False, False)


def test_the_later_statement_counts() -> None:
    text = (
        "$ nvidia-smi\nFailed to initialize NVML: Driver/library version mismatch\n$ sudo "
        "reboot\n$ nvidia-smi\n" + TABLE
    )
    assert at(read(text), "gpu_stack.driver.nvml.error") is None
    text = (
        "$ nvidia-smi\n"
        + TABLE
        + "$ nvidia-smi\nFailed to initialize NVML: Driver/library version mismatch\n"
    )
    assert (
        at(read(text), "gpu_stack.driver.nvml.error")
        == "Failed to initialize NVML: Driver/library version mismatch"
    )


# --- rubbish, and much of it

WHOLE = "\n".join(
    [
        "me@box:~$ nvidia-smi",
        TABLE,
        NEW_TABLE,
        *(pasted for pasted, _, _ in STATED),
        COMPOSE,
        "me@box:~$ docker run -it --gpus all img bash",
        "root@3f2a1b4c5d6e:/# python",
        ">>> torch.cuda.is_available()",
        "False",
        '[{"Name": "/a", "HostConfig": {"DeviceRequests": [{"Capabilities": [["gpu"]]}]}, '
        '"Config": {"Env": ["A=b"]}}]',
    ]
)


@given(st.text(max_size=600))
@settings(max_examples=60)
def test_any_text_can_be_read(text: str) -> None:
    json.dumps(read(text))


@given(st.data())
@settings(max_examples=80)
def test_a_mutilated_transcript_can_be_read(data: st.DataObject) -> None:
    """Cut, doubled, with characters changed: never an exception, always JSON."""
    lines = WHOLE.split("\n")
    start = data.draw(st.integers(0, len(lines)))
    part = lines[start : start + data.draw(st.integers(1, 120))]
    for _ in range(data.draw(st.integers(0, 8))):
        index = data.draw(st.integers(0, max(0, len(part) - 1)))
        if not part:
            break
        line = part[index]
        cut = data.draw(st.integers(0, len(line)))
        part[index] = (
            line[:cut] + data.draw(st.text("|:[]{}()\"'\\/= \t$#>@-0a", max_size=4)) + line[cut + 1 :]
        )
    json.dumps(read("\n".join(part)))


@pytest.mark.parametrize(
    "piece",
    [
        WHOLE + "\n",
        '{"a":\n',
        "services:\n  a:\n",
        "a@b:~$ docker run --gpus all x\n",
        ">>> torch.cuda.is_available()\n",
        "nvidia\n",
        "NVRM version: NVIDIA UNIX\n",
        "| NVIDIA-SMI 470.57.02    Driver Version: 470.57.02\n",
        "filename: /nvidia.ko\n",
        "import torch\n",
        "ii  nvidia-driver-1 1 ",
        "Candidate: \n",
        "tensorflow 2.1 ",
        "LD_LIBRARY_PATH=",
    ],
)
def test_a_megabyte_is_read_in_no_time(piece: str) -> None:
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    started = time.process_time()
    read(text)
    # About 0.3 s at most where nothing else runs.
    assert time.process_time() - started < 2.5
