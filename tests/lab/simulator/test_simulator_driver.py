"""The simulated libraries and nvidia-smi, over another root."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import binaries
import pytest
from machine import Machine

VERSION = "580.95.05"
QUERY = """
import json, pynvml as n
out = {}
try:
    n.nvmlInit()
except n.NVMLError as error:
    print(json.dumps({"error": error.value, "text": str(error)}))
    raise SystemExit
out["driver"] = n.nvmlSystemGetDriverVersion()
out["cuda"] = n.nvmlSystemGetCudaDriverVersion()
out["devices"] = []
for index in range(n.nvmlDeviceGetCount()):
    try:
        h = n.nvmlDeviceGetHandleByIndex(index)
    except n.NVMLError as error:
        out["devices"].append({"error": error.value})
        continue
    try:
        mig = list(n.nvmlDeviceGetMigMode(h))
    except n.NVMLError_NotSupported:
        mig = None
    out["devices"].append({
        "name": n.nvmlDeviceGetName(h), "uuid": n.nvmlDeviceGetUUID(h),
        "bus": n.nvmlDeviceGetPciInfo(h).busId,
        "id": n.nvmlDeviceGetPciInfo(h).pciDeviceId,
        "total": n.nvmlDeviceGetMemoryInfo(h).total >> 20,
        "total2": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).total >> 20,
        "cc": list(n.nvmlDeviceGetCudaComputeCapability(h)), "mig": mig,
        "util": n.nvmlDeviceGetUtilizationRates(h).gpu,
        "temperature": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
        "minor": n.nvmlDeviceGetMinorNumber(h),
        "persistence": n.nvmlDeviceGetPersistenceMode(h),
    })
n.nvmlShutdown()
print(json.dumps(out))
"""


class Driver:
    """A booted machine with the driver loaded, and libraries that look at it."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine, self.directory = machine, directory

    def nvml(self) -> dict:
        """What pynvml sees."""
        done = subprocess.run(
            [sys.executable, "-c", QUERY],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def smi(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of nvidia-smi."""
        done = subprocess.run(
            [self.directory / "nvidia-smi", *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def cuda(self, expression: str = "init", **env: str) -> int:
        """cuInit's result, or the number of devices, in a fresh process."""
        code = f"""
import ctypes
c = ctypes.CDLL({str(self.directory / "libcuda.so.1")!r})
init = c.cuInit(0)
count = ctypes.c_int(-1)
c.cuDeviceGetCount(ctypes.byref(count))
print(init if {expression!r} == "init" else count.value)
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)


@pytest.fixture
def driver(machine: Machine, libraries: Callable[[str], Path]) -> Driver:
    """An A100 and a T4 with the open driver 580.95.05 loaded."""
    machine.profile["gpus"].append({"pci": "0000:5e:00.0", "model": "t4"})
    machine.install(VERSION)
    machine.boot()
    return Driver(machine, libraries(VERSION))


def test_pynvml_lists_the_gpus(driver: Driver) -> None:
    seen = driver.nvml()
    assert (seen["driver"], seen["cuda"]) == (VERSION, 13000)
    a100, t4 = seen["devices"]
    assert (a100["name"], a100["cc"], a100["total"], a100["total2"], a100["mig"]) == (
        "NVIDIA A100 80GB PCIe",
        [8, 0],
        81920,
        81920,
        [0, 0],
    )
    assert (a100["bus"], a100["id"], a100["minor"]) == (
        "00000000:3B:00.0",
        0x20B510DE,
        0,
    )
    assert (t4["name"], t4["cc"], t4["mig"], t4["minor"]) == (
        "Tesla T4",
        [7, 5],
        None,
        1,
    )
    assert a100["uuid"].startswith("GPU-") and a100["uuid"] != t4["uuid"]


def test_smi_prints_the_real_forms(driver: Driver) -> None:
    code, text = driver.smi()
    assert code == 0
    assert (
        f"| NVIDIA-SMI {VERSION}              Driver Version: {VERSION}      CUDA Version: 13.0     |" in text
    )
    assert len({len(line) for line in text.splitlines() if line.startswith(("|", "+"))}) == 1, "ragged table"
    assert driver.smi("-L")[1].startswith("GPU 0: NVIDIA A100 80GB PCIe (UUID: GPU-")
    assert driver.smi(
        "--query-gpu=index,name,memory.total,compute_cap",
        "--format=csv,noheader,nounits",
    ) == (
        0,
        "0, NVIDIA A100 80GB PCIe, 81920, 8.0\n1, Tesla T4, 15360, 7.5\n",
    )
    assert driver.smi("--query-gpu=memory.total", "--format=csv")[1].splitlines()[0] == "memory.total [MiB]"
    assert driver.smi("--query-gpu=no.such", "--format=csv")[0] == 2


def test_driver_that_is_not_loaded(driver: Driver) -> None:
    for name in ("nvidia_uvm", "nvidia_modeset", "nvidia"):
        assert driver.machine.run("rmmod", name).rc == 0
    assert driver.nvml() == {"error": 9, "text": "Driver Not Loaded"}
    code, text = driver.smi()
    assert code == 9
    assert "couldn't communicate with the NVIDIA driver" in text
    assert driver.cuda() == 100


def test_library_that_is_missing(driver: Driver, tmp_path: Path) -> None:
    shutil.copy(driver.directory / "nvidia-smi", tmp_path)
    code, text = Driver(driver.machine, tmp_path).smi()
    assert code == 12
    assert "couldn't find libnvidia-ml.so" in text


def test_library_newer_than_the_module(machine: Machine, libraries: Callable[[str], Path]) -> None:
    machine.install("580.82.07")
    machine.boot()
    driver = Driver(machine, libraries(VERSION))
    assert driver.nvml()["error"] == 18
    assert driver.smi() == (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n",
    )
    assert driver.cuda() == 803


def test_gpu_off_the_bus_is_lost(driver: Driver) -> None:
    driver.machine.profile["faults"]["gpu_off_bus"] = ["0000:5e:00.0"]
    assert driver.machine.run("apply").rc == 0
    assert driver.nvml()["devices"][1] == {"error": 15}
    code, text = driver.smi()
    assert code == 15 and "GPU is lost" in text
    assert driver.cuda("count") == 1


def test_uvm_that_is_missing(driver: Driver) -> None:
    driver.machine.profile["faults"]["uvm_missing"] = True
    assert driver.machine.run("apply").rc == 0
    assert len(driver.nvml()["devices"]) == 2
    assert driver.cuda() == 999


def test_device_nodes_that_are_missing(driver: Driver) -> None:
    driver.machine.profile["faults"]["device_nodes_missing"] = True
    assert driver.machine.run("apply").rc == 0
    assert driver.nvml()["error"] == 9
    assert driver.cuda() == 100


def test_nvml_error_of_the_profile(driver: Driver) -> None:
    driver.machine.profile["faults"].update(nvml_error=999, cuda_error=999)
    assert driver.machine.run("apply").rc == 0
    assert driver.nvml()["error"] == 999
    assert driver.smi() == (255, "Failed to initialize NVML: Unknown Error\n")
    assert driver.cuda() == 999


def test_adapter_that_does_not_initialise(driver: Driver) -> None:
    driver.machine.profile["faults"]["rm_init_failed"] = True
    assert driver.machine.run("apply").rc == 0
    assert driver.smi() == (6, "No devices were found\n")
    assert driver.cuda() == 100


def test_mig_without_instances(driver: Driver) -> None:
    driver.machine.profile["faults"]["mig_without_instances"] = ["0000:3b:00.0"]
    assert driver.machine.run("apply").rc == 0
    a100, t4 = driver.nvml()["devices"]
    assert (a100["mig"], t4["mig"]) == ([1, 1], None)
    code, text = driver.smi()
    assert code == 0 and "No MIG devices found" in text
    assert driver.cuda("count") == 1
    driver.machine.profile["faults"]["mig_without_instances"] = True
    driver.machine.profile["gpus"].pop()
    driver.machine.boot()
    assert driver.cuda() == 100


@pytest.mark.skipif(os.geteuid() != 0, reason="making device nodes needs root")
def test_uvm_node_of_another_major_number_leads_nowhere(driver: Driver) -> None:
    node = driver.machine.root / "dev/nvidia-uvm"
    # In a node the one is mounted over the other.
    driver.machine.write("proc/devices", driver.machine.read("run/gpulab/devices"))
    try:
        for major, code in ((510, 0), (511, 999)):
            node.unlink()
            os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(major, 0))
            assert driver.cuda() == code
    except PermissionError:
        pytest.skip("this machine makes no device nodes")


def test_fabric_that_is_not_ready(driver: Driver) -> None:
    driver.machine.profile["nvswitches"] = 2
    driver.machine.boot()
    assert driver.cuda() == 802
    assert driver.machine.run("fabric-ready").rc == 0
    assert driver.cuda() == 0


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        ("0", 1),
        ("1,0", 2),
        ("1", 1),
        ("0,5", 1),
        ("", -1),
        ("-1", -1),
        ("0,0", -1),
        ("GPU-", 1),
    ],
)
def test_cuda_visible_devices(driver: Driver, visible: str, count: int) -> None:
    assert driver.cuda("count", CUDA_VISIBLE_DEVICES=visible) == count


def test_cuda_device_properties(driver: Driver) -> None:
    library = ctypes.CDLL(str(driver.directory / "libcuda.so.1"))
    assert library.cuInit(0) == 0
    version, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    assert version.value == 13000
    library.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), 1)
    assert (major.value, minor.value) == (7, 5)
    name = ctypes.create_string_buffer(64)
    library.cuDeviceGetName(name, 64, 1)
    assert name.value == b"Tesla T4"
    bus = ctypes.create_string_buffer(16)
    assert library.cuDeviceGetPCIBusId(bus, 16, 0) == 0 and bus.value == b"0000:3B:00.0"
    text = ctypes.c_char_p()
    library.cuGetErrorName(803, ctypes.byref(text))
    assert text.value == b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
    assert library.cuDeviceGetName(name, 64, 2) == 101


def test_every_model_is_known_to_the_libraries(machine: Machine, libraries: Callable[[str], Path]) -> None:
    models = {
        key: model
        for key, model in binaries.load_models().items()
        if not model["last"] and model["open"] != "no"
    }
    machine.profile["gpus"] = [
        {"pci": f"0000:{index + 1:02x}:00.0", "model": key} for index, key in enumerate(models)
    ]
    machine.install("595.71.05")
    machine.boot()
    seen = Driver(machine, libraries("595.71.05")).nvml()["devices"]
    assert [device["name"] for device in seen] == [model["name"] for model in models.values()]
    assert [".".join(map(str, device["cc"])) for device in seen] == [model["sm"] for model in models.values()]


def test_who_uses_the_driver_holds_its_device_files(driver: Driver) -> None:
    """NVML until it is shut down, CUDA until the process ends, as on a real machine."""
    code = f"""
import ctypes, os
def held():
    links = [os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd") if name.isdigit()
             and os.path.islink("/proc/self/fd/" + name)]
    return sorted(os.path.basename(link) for link in links if "/dev/nvidia" in link)
ml = ctypes.CDLL({str(driver.directory / "libnvidia-ml.so.1")!r})
ml.nvmlInit_v2(); ml.nvmlInit_v2()
print(held())
ml.nvmlShutdown(); print(len(held()))
ml.nvmlShutdown(); print(held())
ctypes.CDLL({str(driver.directory / "libcuda.so.1")!r}).cuInit(0)
print(held())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['nvidia0', 'nvidia1', 'nvidiactl']",
        "3",
        "[]",
        "['nvidia-uvm', 'nvidia0', 'nvidia1', 'nvidiactl']",
    ]


def test_fabric_manager_of_another_version_refuses(driver: Driver, tmp_path: Path) -> None:
    driver.machine.profile["nvswitches"] = 1
    driver.machine.boot()
    binaries.generated_includes(tmp_path)
    program = tmp_path / "nv-fabricmanager"
    root = f'-DSIM_ROOT="{driver.machine.root}"'
    binaries.build_program("daemon.c", program, tmp_path, '-DNAME="nvidia-fabricmanager"', "-DFABRIC", root)
    program.write_bytes(binaries.brand(program.read_bytes(), binaries.DRIVERS["580.82.07"]))
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "fabric manager NVIDIA GPU driver interface version 580.82.07 don't match with driver version "
        "580.95.05. "
        "Please update with matching NVIDIA driver package.\n"
    )


# --- What the GPU does, and for whom ------------------------------------------------------------------------

METRICS = """
import json, pynvml as n
n.nvmlInit()
out = []
for index in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(index)
    try:
        samples = [[s.pid, s.smUtil] for s in n.nvmlDeviceGetProcessUtilization(h, 0)]
    except n.NVMLError_NotFound:
        samples = []
    power = n.nvmlDeviceGetFieldValues(h, [n.NVML_FI_DEV_POWER_INSTANT, n.NVML_FI_DEV_MEMORY_TEMP])
    out.append({
        "utilization": n.nvmlDeviceGetUtilizationRates(h).gpu,
        "memory_utilization": n.nvmlDeviceGetUtilizationRates(h).memory,
        "used": n.nvmlDeviceGetMemoryInfo(h).used >> 20,
        "used_v2": n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2).used >> 20,
        "temperature": n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
        "temperature_v": n.nvmlDeviceGetTemperatureV(h, n.NVML_TEMPERATURE_GPU),
        "power": n.nvmlDeviceGetPowerUsage(h), "limit": n.nvmlDeviceGetEnforcedPowerLimit(h),
        "field": [power[0].value.uiVal, power[1].nvmlReturn],
        "sm": n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
        "reasons": n.nvmlDeviceGetCurrentClocksThrottleReasons(h),
        "ecc": [n.nvmlDeviceGetTotalEccErrors(h, kind, n.NVML_VOLATILE_ECC) for kind in (0, 1)],
        "compute": [[p.pid, p.usedGpuMemory >> 20] for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
        "graphics": [[p.pid, p.usedGpuMemory >> 20] for p in n.nvmlDeviceGetGraphicsRunningProcesses(h)],
        "samples": samples,
        "names": [n.nvmlSystemGetProcessName(p.pid) for p in n.nvmlDeviceGetComputeRunningProcesses(h)],
    })
print(json.dumps(out))
"""


def metrics(driver: Driver) -> list[dict]:
    """What pynvml says that each GPU does."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver.directory)}
    done = subprocess.run(
        [sys.executable, "-c", METRICS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def apply(machine: Machine, **faults: object) -> None:
    """A changed profile, taken into the running machine."""
    machine.profile["faults"] = faults
    done = machine.run("apply")
    assert done.rc == 0, done.err


def test_an_idle_gpu_says_so(driver: Driver) -> None:
    a100, t4 = metrics(driver)
    assert (
        a100["utilization"],
        a100["used"],
        a100["used_v2"],
        a100["temperature"],
    ) == (0, 0, 0, 34)
    assert (a100["power"], a100["limit"], a100["sm"], a100["reasons"]) == (
        42000,
        300000,
        210,
        1,
    )
    assert (a100["ecc"], a100["compute"], a100["graphics"], a100["samples"]) == (
        [0, 0],
        [],
        [],
        [],
    )
    assert t4["limit"] == 70000


def test_metrics_of_the_profile_are_the_drivers_answers(driver: Driver) -> None:
    told = {
        "utilization_percent": 97,
        "temperature_c": 83,
        "power_watts": 288.5,
        "power_limit_watts": 250,
        "clock_sm_mhz": 1095,
        "memory_used_mib": 1024,
        "throttled": ["sw_thermal_slowdown", "sw_power_cap"],
        "ecc_corrected": 12,
        "ecc_uncorrected": 1,
    }
    apply(driver.machine, metrics={"0000:3b:00.0": told})
    a100, t4 = metrics(driver)
    assert (a100["utilization"], a100["memory_utilization"], a100["used"]) == (
        97,
        48,
        1024,
    )
    assert (a100["temperature"], a100["temperature_v"], a100["sm"]) == (83, 83, 1095)
    assert (a100["power"], a100["field"][0], a100["limit"]) == (288500, 288500, 250000)
    assert a100["field"][1] == 3, "a passive card has no such sensor"
    assert (a100["reasons"], a100["ecc"]) == (0x24, [12, 1])
    assert (t4["utilization"], t4["reasons"]) == (0, 1), "the other GPU is as it was"
    fields = "utilization.gpu,power.draw,clocks.sm,clocks_throttle_reasons.active,"
    fields += "clocks_throttle_reasons.sw_power_cap,ecc.errors.uncorrected.volatile.total"
    assert driver.smi(f"--query-gpu={fields}", "--format=csv,noheader", "-i", "0") == (
        0,
        "97 %, 288.50 W, 1095 MHz, 0x0000000000000024, Active, 1\n",
    )
    apply(driver.machine, metrics={"utilization_percent": 50})
    assert [gpu["utilization"] for gpu in metrics(driver)] == [50, 50], "without an address it is for all"
    assert metrics(driver)[0]["power"] == 42000 + (300000 - 42000) // 2
    apply(driver.machine)
    assert [gpu["utilization"] for gpu in metrics(driver)] == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": {"utilisation": 3}},
        {"metrics": {"temperature_c": "hot"}},
        {"metrics": {"temperature_c": -3}},
        {"metrics": {"throttled": ["heat"]}},
        {"processes": [{"pid": 3}]},
        {"processes": [{"pid": 3, "memory_mib": 3, "gpu": "0000:00:00.0"}]},
    ],
)
def test_a_metric_that_does_not_exist_is_refused(driver: Driver, wrong: dict) -> None:
    driver.machine.profile["faults"] = wrong
    done = driver.machine.run("apply")
    assert done.rc != 0
    assert "hardware: faults." in done.err


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """The program that gathers who uses the driver."""
    program = tmp_path / "users"
    binaries.compile_c("users.c", program, tmp_path, "-s")
    return program


def gather(driver: Driver, users: Path, *pids: int) -> None:
    """Tell the driver who holds a context now; of these, for a lab's nodes may run on this machine, too."""
    text = subprocess.run([users, "--processes"], capture_output=True, text=True, check=True).stdout
    first, *lines = text.splitlines()
    ours = [line for line in lines if int(line.split()[2]) in pids]
    driver.machine.write("proc/driver/gpulab/processes", "\n".join([first, *ours]) + "\n")


def hold(driver: Driver, *arguments: str) -> subprocess.Popen[str]:
    """cuda-hold, running."""
    program = Path(__file__).resolve().parent / "node/usr/lib/gpulab/cuda-hold"
    process = subprocess.Popen(
        [sys.executable, program, *arguments],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver.directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "holds" in line, line
    return process


def test_who_holds_a_context_is_listed_with_its_memory(driver: Driver, users: Path) -> None:
    apply(driver.machine, metrics={"utilization_percent": 90})
    process = hold(driver, "--gpu", "0", "--mib", "4096")
    second = hold(driver, "--gpu", "0")
    try:
        gather(driver, users, process.pid, second.pid)
        a100, t4 = metrics(driver)
        assert sorted(a100["compute"]) == sorted([[process.pid, 4496], [second.pid, 400]])
        assert (a100["used"], t4["compute"], t4["used"]) == (4896, [], 0)
        assert sorted(a100["samples"]) == sorted([[process.pid, 45], [second.pid, 45]])
        assert a100["names"] == [sys.executable, sys.executable]
        apps = "--query-compute-apps=pid,process_name,used_memory,gpu_uuid"
        code, text = driver.smi(apps, "--format=csv,noheader,nounits")
        assert code == 0
        assert f"{process.pid}, {sys.executable}, 4496, GPU-" in text
        assert driver.smi(apps, "--format=csv")[1].startswith(
            "pid, process_name, used_gpu_memory [MiB], gpu_uuid\n"
        )
        table = driver.smi()[1]
        assert len({len(line) for line in table.splitlines() if line.startswith(("|", "+"))}) == 1, table
        assert any(
            f" {process.pid} " in line and "4496MiB |" in line and " C " in line
            for line in table.splitlines()
        )
        assert "No running processes found" not in table
    finally:
        for each in (process, second):
            each.terminate()
            each.wait()
    gather(driver, users, process.pid, second.pid)
    assert metrics(driver)[0]["compute"] == [], "it is gone with its process"
    assert "No running processes found" in driver.smi()[1]


def test_another_pid_namespace_sees_the_memory_and_not_the_processes(
    driver: Driver,
) -> None:
    text = f"pidns pid:[1]\n0000:3b:00.0 C {os.getpid()} 1048576\n"
    driver.machine.write("proc/driver/gpulab/processes", text)
    a100, _ = metrics(driver)
    assert (a100["used"], a100["compute"], a100["samples"]) == (1024, [], [])


def test_a_child_that_inherits_the_file_holds_no_context(driver: Driver, users: Path) -> None:
    code = """
import ctypes, os, sys
c = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
assert c.cuInit(0) == 0 and c.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print(os.getpid(), child, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver.directory)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    parent, child = (int(word) for word in process.stdout.readline().split())
    gather(driver, users, parent, child)
    pids = [pid for pid, _ in metrics(driver)[0]["compute"]]
    process.communicate("")
    assert parent in pids
    assert child not in pids


def test_memory_is_taken_given_back_and_runs_out(driver: Driver, users: Path) -> None:
    code = """
import ctypes
c = ctypes.CDLL("libcuda.so.1")
context, a, b = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint64()
unused, total = ctypes.c_size_t(), ctypes.c_size_t()
c.cuInit(0)
print(c.cuMemAlloc_v2(ctypes.byref(a), ctypes.c_size_t(1 << 20)))
print(c.cuCtxCreate_v2(ctypes.byref(context), 0, 0))
print(c.cuMemAlloc_v2(ctypes.byref(a), ctypes.c_size_t(1 << 30)))
c.cuMemGetInfo_v2(ctypes.byref(unused), ctypes.byref(total))
print((total.value - unused.value) >> 20)
print(c.cuMemAlloc_v2(ctypes.byref(b), ctypes.c_size_t(90 << 30)))
print(c.cuMemFree_v2(a), c.cuMemFree_v2(a))
c.cuMemGetInfo_v2(ctypes.byref(unused), ctypes.byref(total))
print((total.value - unused.value) >> 20)
print(c.cuCtxDestroy_v2(context), c.cuMemAlloc_v2(ctypes.byref(a), ctypes.c_size_t(1 << 20)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver.directory)},
        capture_output=True,
        text=True,
        check=True,
    )
    # no context; made; taken; the context's own and 1 GiB; too much; given back once
    assert done.stdout.split("\n")[:-1] == [
        "201",
        "0",
        "0",
        "1424",
        "2",
        "0 1",
        "400",
        "0 201",
    ]


def test_processes_of_the_profile_are_gathered_as_well(driver: Driver) -> None:
    apply(driver.machine, processes=[{"pid": os.getpid(), "memory_mib": 64, "type": "G"}])
    lines = driver.machine.read("proc/driver/gpulab/declared").splitlines()
    assert lines == [f"0000:3b:00.0 G {os.getpid()} 65536"]
    own = os.readlink("/proc/self/ns/pid")
    driver.machine.write("proc/driver/gpulab/processes", "\n".join([f"pidns {own}", *lines]) + "\n")
    a100, _ = metrics(driver)
    assert (a100["graphics"], a100["compute"], a100["used"]) == (
        [[os.getpid(), 64]],
        [],
        64,
    )


BOARD = """
import json, pynvml as n
n.nvmlInit()
out = []
for i in range(n.nvmlDeviceGetCount()):
    h = n.nvmlDeviceGetHandleByIndex(i)
    rows = None
    try:
        rows = list(n.nvmlDeviceGetRemappedRows(h))
    except n.NVMLError_NotSupported:
        pass
    out.append({
        "part": n.nvmlDeviceGetBoardPartNumber(h),
        "serial": n.nvmlDeviceGetSerial(h),
        "rows": rows,
        "link": [n.nvmlDeviceGetCurrPcieLinkWidth(h), n.nvmlDeviceGetMaxPcieLinkWidth(h),
                 n.nvmlDeviceGetCurrPcieLinkGeneration(h), n.nvmlDeviceGetMaxPcieLinkGeneration(h)],
    })
print(json.dumps(out))
"""


def boards(driver: Driver) -> list[dict]:
    """What pynvml says of the boards and their links."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver.directory)}
    done = subprocess.run(
        [sys.executable, "-c", BOARD], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_boards_have_numbers_and_links(driver: Driver) -> None:
    a100, t4 = boards(driver)
    assert (a100["part"], t4["part"]) == ("900-SIM-20B5-000", "900-SIM-1EB8-000")
    assert a100["serial"] != t4["serial"]
    assert (a100["link"], t4["link"]) == ([16, 16, 4, 4], [16, 16, 3, 3])
    assert (a100["rows"], t4["rows"]) == ([0, 0, 0, 0], None), "a T4 retires pages, it remaps no rows"
    apply(driver.machine, metrics={"remapped_rows": 2, "row_remap_pending": 1, "pcie_width": 8})
    a100, t4 = boards(driver)
    assert (a100["rows"], t4["rows"]) == ([0, 2, 1, 0], None)
    assert (a100["link"], t4["link"]) == ([8, 16, 4, 4], [8, 16, 3, 3])
