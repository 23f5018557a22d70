"""The driver in the kernel, on the disk and in user space; NVML through both of its doors."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from gpuready import driver_record
from gpuready.observe import driver, nvml, packages, processes
from gpuready.observe.node import MissingTool, Node, ProbeError

CLOSED = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.261.03  Tue May 20 03:13:17 UTC 2025
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""
OPEN = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04.2)
"""
ARM = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  570.133.20  Release Build\n"
OLD = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  390.157  Wed Oct 12 09:19:07 UTC 2022\n"


@pytest.mark.parametrize(
    ("text", "version", "flavour"),
    [
        (CLOSED, "535.261.03", "proprietary"),
        (OPEN, "580.95.05", "open"),
        (ARM, "570.133.20", "open"),
        (OLD, "390.157", "proprietary"),
    ],
)
def test_loaded_module_is_read_in_both_wordings(machine, text, version, flavour):
    machine.write("/proc/driver/nvidia/version", text)
    for module in ("nvidia", "nvidia_uvm", "nvidiafb", "nv_backlight"):
        machine.mkdir("/sys/module/" + module)
    assert driver.loaded(machine.node) == {
        "version": version,
        "flavour": flavour,
        "modules": ["nvidia", "nvidia_uvm"],
        "users": None,
    }


def test_no_module_is_null(machine):
    machine.mkdir("/sys/module/nvidiafb")
    assert driver.loaded(machine.node) is None


def test_unknown_wording_is_reported_and_the_version_taken_from_sysfs(machine):
    machine.write("/proc/driver/nvidia/version", "something else\n")
    machine.write("/sys/module/nvidia/version", "600.1.2\n")
    node = machine.node
    assert driver.loaded(node) == {
        "version": "600.1.2",
        "flavour": None,
        "modules": ["nvidia"],
        "users": None,
    }
    assert "something else" in node.problems[0]["error"]


def test_users_are_what_the_modules_do_not_hold_of_each_other(machine):
    machine.module("nvidia", "6", ["nvidia_uvm", "nvidia_modeset"])
    machine.module("nvidia_modeset", "1", ["nvidia_drm"])
    machine.module("nvidia_drm", "0")
    machine.module("nvidia_uvm", "2")
    assert driver.users(machine.node) == 4 + 2


def test_a_foreign_module_is_a_user(machine):
    machine.module("nvidia", "2", ["nvidia_uvm", "nvidia_fs"])
    machine.module("nvidia_uvm")
    machine.module("nvidia_fs")
    assert driver.users(machine.node) == 1


@pytest.mark.parametrize("refcnt", [None, "-1", "live"])
def test_modules_that_cannot_be_unloaded_have_unknown_users(machine, refcnt):
    machine.module("nvidia", refcnt)
    assert driver.users(machine.node) is None


def test_idle_driver_has_no_users(machine):
    for name, holders in (("nvidia", ["nvidia_uvm"]), ("nvidia_uvm", [])):
        machine.module(name, str(len(holders)), holders)
    assert driver.users(machine.node) == 0


# Who holds the device files open ----------------------------------------------------------------------

NODE_ID, CONTAINER_ID = "0e4d" * 16, "ab12" * 16


def test_processes_and_the_services_and_containers_they_belong_to(machine):
    machine.process(1, "systemd", "/dev/null", cgroup=f"/docker/{NODE_ID}/init.scope")
    machine.process(
        811,
        "python3",
        "/dev/nvidia10",
        "/dev/nvidia2",
        "/dev/nvidia-uvm",
        cgroup="/user.slice/user-0.slice/x.scope",
    )
    machine.process(812, "bash", "/dev/pts/0", "socket:[99]", "pipe:[1]")
    machine.process(
        9,
        "nvidia-persiste",
        "/dev/nvidiactl",
        "/dev/nvidia0 (deleted)",
        "/dev/nvidia0",
        cgroup=f"/docker/{NODE_ID}/system.slice/nvidia-persistenced.service",
    )
    machine.process(
        77, "tf", "/dev/nvidia0", cgroup=f"/docker/{NODE_ID}/system.slice/docker-{CONTAINER_ID}.scope"
    )
    machine.process(50, "nv-fabricmanage", "/dev/nvidia-nvswitchctl", cgroup="/")
    machine.write("/proc/uptime", "1 1")
    assert processes.processes(machine.node) == [
        {
            "pid": 9,
            "name": "nvidia-persiste",
            "files": ["/dev/nvidia0", "/dev/nvidiactl"],
            "service": "nvidia-persistenced",
            "container": None,
        },
        {
            "pid": 50,
            "name": "nv-fabricmanage",
            "files": ["/dev/nvidia-nvswitchctl"],
            "service": "nvidia-fabricmanager",
            "container": None,
        },
        {"pid": 77, "name": "tf", "files": ["/dev/nvidia0"], "service": None, "container": CONTAINER_ID},
        {
            "pid": 811,
            "name": "python3",
            "files": ["/dev/nvidia2", "/dev/nvidia10", "/dev/nvidia-uvm"],
            "service": None,
            "container": None,
        },
    ]


def test_a_daemon_that_somebody_started_by_hand_is_no_service(machine):
    """Stopping the service would not end it."""
    machine.process(9, "nvidia-persiste", "/dev/nvidia0", cgroup="/user.slice/user-0.slice/session-1.scope")
    machine.process(10, "nvidia-persiste", "/dev/nvidia0", cgroup=f"/kubepods/pod1/{CONTAINER_ID}")
    assert [row["service"] for row in processes.processes(machine.node)] == [None, None]


def test_cgroup_version_1_is_read_too(machine):
    machine.process(9, "x", "/dev/nvidia0")
    machine.write(
        "/proc/9/cgroup", f"12:memory:/docker/{CONTAINER_ID}\n1:name=systemd:/docker/{CONTAINER_ID}\n0::/\n"
    )
    assert processes.processes(machine.node)[0]["container"] == CONTAINER_ID


def test_others_processes_are_null_without_root(machine):
    machine.uid = 1000
    node = machine.node
    assert processes.processes(node) is None
    assert node.problems[0]["probe"] == "driver.processes"
    assert processes.processes(machine.node, users=0) == []


def test_a_process_that_hides_makes_all_unknown(machine, monkeypatch):
    machine.process(9, "x", "/dev/nvidia0")
    machine.process(10, "y", "/dev/null")
    real = os.listdir

    def listdir(path):
        if str(path).endswith("/10/fd"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("os.listdir", listdir)
    with pytest.raises(ProbeError, match=r"1 processes do not show .* \(the first is 10\)"):
        processes.processes(machine.node)
    # Nothing is in use, so that it hides nothing.
    assert [row["pid"] for row in processes.processes(machine.node, users=0)] == [9]


def test_a_process_that_ends_meanwhile_is_none(machine):
    machine.process(9, "x", "/dev/nvidia0")
    (machine.root / "proc/9/fd/0").unlink()
    machine.mkdir("/proc/10")
    assert processes.processes(machine.node) == []


def test_this_very_machine_s_processes_are_read():
    """The real /proc, which may hide processes even from root, and show those of the lab's nodes."""
    for row in processes.processes(Node(), users=0):
        assert set(row) == {"pid", "name", "files", "service", "container"}
        assert row["files"] and all(path.startswith("/dev/nvidia") for path in row["files"])


# Debian renames the module ----------------------------------------------------------------------------

DEBIAN_KERNEL = "6.1.0-50-cloud-amd64"
DEBIAN_MODPROBE = """\
install nvidia modprobe -i nvidia-current $CMDLINE_OPTS

install nvidia-uvm modprobe nvidia ; modprobe -i nvidia-current-uvm $CMDLINE_OPTS
remove nvidia modprobe -r -i nvidia-drm nvidia-modeset nvidia-peermem nvidia-uvm nvidia
alias char-major-195* nvidia
"""
DEBIAN_MODINFO = f"""\
filename:       /lib/modules/{DEBIAN_KERNEL}/updates/dkms/nvidia-current.ko.xz
version:        535.261.03
license:        NVIDIA
sig_id:         PKCS#7
signer:         DKMS module signing key
"""


def _debian(machine):
    """As nvidia-kernel-support and glx-alternative-nvidia leave it: by alternatives."""
    machine.write("/etc/nvidia/current/nvidia-modprobe.conf", DEBIAN_MODPROBE)
    machine.link("/etc/alternatives/glx--nvidia-modprobe.conf", "/etc/nvidia/current/nvidia-modprobe.conf")
    machine.link("/etc/modprobe.d/nvidia.conf", "/etc/alternatives/glx--nvidia-modprobe.conf")
    machine.answer("modinfo", err="modinfo: ERROR: Module nvidia not found.\n", rc=1)
    machine.write(
        f"/lib/modules/{DEBIAN_KERNEL}/modules.dep",
        "updates/dkms/nvidia-current-modeset.ko.xz: updates/dkms/nvidia-current.ko.xz\n"
        "updates/dkms/nvidia-current.ko.xz:\nkernel/drivers/nvme/nvme.ko.xz:\n",
    )


def test_debian_s_renamed_module_is_found_where_modprobe_would(machine):
    _debian(machine)
    machine.answer(f"modinfo -k {DEBIAN_KERNEL} nvidia-current", DEBIAN_MODINFO)
    assert driver.on_disk(machine.node, DEBIAN_KERNEL) == {
        "version": "535.261.03",
        "flavour": "proprietary",
        "kernel": DEBIAN_KERNEL,
        "path": f"/lib/modules/{DEBIAN_KERNEL}/updates/dkms/nvidia-current.ko.xz",
        "signed": True,
    }
    assert len(machine.asked) == 1


def test_renamed_module_without_its_configuration_is_found_by_modules_dep(machine):
    _debian(machine)
    (machine.root / "etc/modprobe.d/nvidia.conf").unlink()
    machine.answer(f"modinfo -k {DEBIAN_KERNEL} nvidia-current", DEBIAN_MODINFO)
    node = machine.node
    assert driver.on_disk(node, DEBIAN_KERNEL)["version"] == "535.261.03"
    assert node.problems == []


def test_configuration_that_names_a_module_the_kernel_lacks_is_told(machine):
    _debian(machine)
    machine.write(
        "/etc/nvidia/current/nvidia-modprobe.conf",
        "install nvidia modprobe -i nvidia-tesla-470 $CMDLINE_OPTS\n",
    )
    machine.answer(f"modinfo -k {DEBIAN_KERNEL} nvidia-current", DEBIAN_MODINFO)
    node = machine.node
    assert driver.on_disk(node, DEBIAN_KERNEL)["version"] == "535.261.03"
    assert node.problems == [
        {
            "probe": "driver.on_disk",
            "error": "modprobe is told to load nvidia-tesla-470, which kernel 6.1.0-50-cloud-amd64 lacks; "
            "it has nvidia-current",
        }
    ]


def test_a_kernel_without_the_renamed_module_has_none(machine):
    _debian(machine)
    machine.write(f"/lib/modules/{DEBIAN_KERNEL}/modules.dep", "kernel/drivers/nvme/nvme.ko.xz:\n")
    assert driver.on_disk(machine.node, DEBIAN_KERNEL) is None


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("updates/dkms/nvidia.ko.zst:", ["nvidia"]),
        ("kernel/nvidia-580srv-open/nvidia.ko: kernel/a.ko", ["nvidia"]),
        ("updates/dkms/nvidia-current-open.ko:", ["nvidia-current-open"]),
        ("updates/dkms/nvidia-tesla-470.ko.xz:", ["nvidia-tesla-470"]),
        ("updates/dkms/nvidia-legacy-390xx.ko:", ["nvidia-legacy-390xx"]),
        ("updates/dkms/nvidia-current-uvm.ko:", []),
        ("updates/dkms/nvidia-tesla-470-drm.ko.xz:", []),
        ("kernel/drivers/video/fbdev/nvidia/nvidiafb.ko:", []),
        ("updates/dkms/nvidia-uvm.ko: updates/dkms/nvidia.ko", []),
    ],
)
def test_core_module_in_depmod_s_list(machine, line, names):
    machine.write("/lib/modules/k/modules.dep", line + "\n")
    assert driver.core_modules(machine.node, "k") == names


def test_debian_s_libraries_by_alternatives(machine):
    current = LIB + "nvidia/current/"
    for name in ("libcuda.so", "libnvidia-ml.so"):
        machine.write(f"{current}{name}.535.261.03")
        machine.link(f"{current}{name}.1", f"{name}.535.261.03")
        machine.link(f"/etc/alternatives/nvidia--{name}.1-x86_64-linux-gnu", f"{current}{name}.1")
        machine.link(f"{LIB}{name}.1", f"/etc/alternatives/nvidia--{name}.1-x86_64-linux-gnu")
    machine.program("/usr/lib/nvidia/current/nvidia-smi")
    machine.link("/etc/alternatives/nvidia--nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi")
    machine.link("/usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi")
    machine.link("/lib", "usr/lib")
    machine.answer(
        "ldconfig -p",
        "\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1\n"
        "\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1\n",
    )
    expected = {
        "version": "535.261.03",
        "libcuda": current + "libcuda.so.535.261.03",
        "libnvidia_ml": current + "libnvidia-ml.so.535.261.03",
        "nvidia_smi": "/usr/bin/nvidia-smi",
    }
    assert driver.userspace(machine.node) == expected
    # The alternatives are gone: where the packages put them.
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        (machine.root / LIB.lstrip("/") / name).unlink()
    assert driver.userspace(machine.node) == expected


# Fabric manager, record -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("nvidia-fabricmanager-580\tamd64\t580.95.05-0ubuntu0.22.04.2", "580.95.05"),
        ("nvidia-fabricmanager\tamd64\t590.48.01-1", "590.48.01"),
    ],
)
def test_fabricmanager_is_of_its_package_s_version(machine, package, version):
    found = packages.parse(package + "\tinstall\tinstalled\tok\n")
    unit = {"UnitFileState": "enabled", "ActiveState": "failed"}
    assert driver.fabricmanager(machine.node, found, unit) == {
        "installed": True,
        "version": version,
        "enabled": True,
        "active": False,
    }


def test_fabricmanager_that_is_not_there(machine):
    gone = packages.parse("nvidia-fabricmanager-580\tamd64\t580.95.05-1\tdeinstall\tconfig-files\tok\n")
    unit = {"UnitFileState": "enabled", "ActiveState": "failed"}
    expected = {"installed": False, "version": None, "enabled": None, "active": None}
    assert driver.fabricmanager(machine.node, gone, unit) == expected
    assert driver.fabricmanager(machine.node, None, unit) == {**expected, "installed": None}
    machine.program("/usr/bin/nv-fabricmanager")  # from a runfile
    assert driver.fabricmanager(machine.node, [], None) == {**expected, "installed": True}


def test_record_is_handed_on_by_its_schema(machine):
    assert driver.record(machine.node) is None
    before = {"version": "535.247.01", "packages": [{"name": "a", "version": "1", "x": 1}]}
    machine.write(driver_record.PATH, json.dumps({"packages": ["a"], "previous": before, "later": {"x": 1}}))
    found = driver.record(machine.node)
    assert found["previous"] == {
        "version": "535.247.01",
        "branch": None,
        "flavour": None,
        "source": None,
        "packages": [{"name": "a", "version": "1"}],
    }
    assert found["packages"] == ["a"] and found["rejected"] == [] and "later" not in found


def test_record_that_is_spoilt_is_told(machine):
    machine.write(driver_record.PATH, '{"held": ["a"], "rejected": 5}')
    node = machine.node
    assert driver.record(node)["held"] == ["a"]
    assert node.problems[0]["error"].endswith("rejected is 5, not a list")
    machine.write(driver_record.PATH, "{")
    with pytest.raises(ProbeError, match=r"nvidia_driver\.json is not valid JSON"):
        driver.record(machine.node)


MODINFO = """\
filename:       /lib/modules/5.15.0-157-generic/kernel/nvidia-580srv-open/nvidia.ko
alias:          char-major-195-*
version:        580.95.05
supported:      external
license:        Dual MIT/GPL
description:    NVIDIA open kernel module
alias:          pci:v000010DEd*sv*sd*bc03sc02i00*
depends:
vermagic:       5.15.0-157-generic SMP mod_unload modversions
sig_id:         PKCS#7
signer:         Canonical Ltd. Kernel Module Signing
signature:      4B:0B:12:
\t\t11:22:33
parm:           NvSwitchRegDwords:NvSwitch regkey (charp)
"""


def test_module_on_disk_with_its_flavour_and_signature(machine):
    machine.answer("modinfo -k 5.15.0-157-generic nvidia", MODINFO)
    assert driver.on_disk(machine.node, "5.15.0-157-generic") == {
        "version": "580.95.05",
        "flavour": "open",
        "kernel": "5.15.0-157-generic",
        "path": "/lib/modules/5.15.0-157-generic/kernel/nvidia-580srv-open/nvidia.ko",
        "signed": True,
    }


def test_unsigned_proprietary_module(machine):
    machine.answer("modinfo", "filename: /x/nvidia.ko.zst\nversion: 470.256.02\nlicense: NVIDIA\n")
    found = driver.on_disk(machine.node, "k")
    assert (found["flavour"], found["signed"]) == ("proprietary", False)


def test_no_module_on_disk_is_null(machine):
    machine.answer("modinfo", err="modinfo: ERROR: Module nvidia not found.\n", rc=1)
    assert driver.on_disk(machine.node, "5.15.0-157-generic") is None
    assert driver.on_disk(machine.node, None) is None


def test_node_without_kmod_and_without_modules_has_none_on_disk(machine):
    assert driver.on_disk(machine.node, "k") is None
    machine.write("/lib/modules/k/modules.dep", "updates/dkms/nvidia.ko.zst: kernel/drm.ko\n")
    with pytest.raises(ProbeError, match="package kmod"):
        driver.on_disk(machine.node, "k")


def test_modinfo_that_fails_otherwise_is_quoted(machine):
    machine.answer("modinfo", err="modinfo: ERROR: could not get modinfo: Invalid argument\n", rc=1)
    with pytest.raises(ProbeError, match="Invalid argument"):
        driver.on_disk(machine.node, "k")


LIB = "/usr/lib/x86_64-linux-gnu/"


def _libraries(machine, version="580.95.05"):
    machine.link("/lib", "usr/lib")
    for name in ("libcuda.so", "libnvidia-ml.so"):
        machine.write(f"{LIB}{name}.{version}")
        machine.link(f"{LIB}{name}.1", f"{name}.{version}")
    machine.answer(
        "ldconfig -p",
        "312 libs found in cache `/etc/ld.so.cache'\n"
        "\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1\n"
        "\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1\n"
        "\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1\n",
    )


def test_userspace_is_what_the_loader_would_take(machine):
    _libraries(machine)
    machine.program("/usr/bin/nvidia-smi")
    assert driver.userspace(machine.node) == {
        "version": "580.95.05",
        "libcuda": LIB + "libcuda.so.580.95.05",
        "libnvidia_ml": LIB + "libnvidia-ml.so.580.95.05",
        "nvidia_smi": "/usr/bin/nvidia-smi",
    }


def test_compatibility_libcuda_does_not_hide_the_driver_s_version(machine):
    _libraries(machine, "535.261.03")
    machine.write("/usr/local/cuda/compat/libcuda.so.580.95.05")
    machine.link("/usr/local/cuda/compat/libcuda.so.1", "libcuda.so.580.95.05")
    machine.answer(
        "ldconfig -p",
        "\tlibcuda.so.1 (libc6,x86-64) => /usr/local/cuda/compat/libcuda.so.1\n"
        "\tlibnvidia-ml.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnvidia-ml.so.1\n",
    )
    found = driver.userspace(machine.node)
    assert found["version"] == "535.261.03"
    assert found["libcuda"] == "/usr/local/cuda/compat/libcuda.so.580.95.05"


def test_stale_loader_cache_is_not_believed(machine):
    machine.answer("ldconfig -p", "\tlibcuda.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcuda.so.1\n")
    assert driver.userspace(machine.node)["libcuda"] is None


def test_missing_ldconfig_is_reported_and_the_usual_place_searched(machine):
    _libraries(machine)
    machine.fail("ldconfig -p", MissingTool("ldconfig is not installed"))
    node = machine.node
    assert driver.userspace(node)["version"] == "580.95.05"
    assert node.problems == [{"probe": "driver.userspace", "error": "ldconfig is not installed"}]


def test_library_without_a_version_in_its_name_is_unknown(machine):
    machine.write(LIB + "libcuda.so.1")
    machine.answer("ldconfig -p", "")
    found = driver.userspace(machine.node)
    assert found["libcuda"] == LIB + "libcuda.so.1" and found["version"] is None


def test_device_nodes_without_their_directories(machine):
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        machine.write("/dev/" + name)
    machine.write("/dev/nvidia-caps/nvidia-cap1")
    found = driver.device_nodes(machine.node)
    assert found[:3] == ["/dev/nvidia0", "/dev/nvidia2", "/dev/nvidia10"]
    assert set(found[3:]) == {"/dev/nvidia-uvm", "/dev/nvidiactl"}


@pytest.mark.parametrize(
    ("unit", "enabled", "active"),
    [
        (None, None, None),
        ({}, False, False),
        ({"UnitFileState": "static", "ActiveState": "active"}, True, True),
        ({"UnitFileState": "enabled", "ActiveState": "failed"}, True, False),
        ({"UnitFileState": "masked", "ActiveState": "inactive"}, False, False),
    ],
)
def test_persistenced(machine, unit, enabled, active):
    machine.program("/usr/bin/nvidia-persistenced")
    assert driver.persistenced(machine.node, unit) == {
        "installed": True,
        "enabled": enabled,
        "active": active,
    }


def test_dkms_tree_says_what_dkms_would(machine):
    machine.program("/usr/sbin/dkms")
    base = "/var/lib/dkms/nvidia/"
    machine.link(base + "535.261.03/source", "/usr/src/nvidia-535.261.03")
    machine.write("/usr/src/nvidia-535.261.03/dkms.conf")
    machine.write(base + "535.261.03/6.1.0-50-cloud-amd64/x86_64/module/nvidia.ko")
    machine.link(base + "kernel-6.1.0-50-cloud-amd64-x86_64", "535.261.03/6.1.0-50-cloud-amd64/x86_64")
    machine.write(base + "535.261.03/6.1.0-51-cloud-amd64/x86_64/module/nvidia.ko")
    machine.link("/var/lib/dkms/gone/1.0/source", "/usr/src/gone-1.0")
    machine.mkdir("/var/lib/dkms/fresh/2.0/build")
    machine.link("/var/lib/dkms/fresh/2.0/source", "/usr/src/nvidia-535.261.03")
    machine.write("/var/lib/dkms/dkms_dbversion", "2.0.0")
    assert driver.dkms(machine.node) == [
        {"module": "fresh", "version": "2.0", "kernel": None, "status": "added"},
        {"module": "gone", "version": "1.0", "kernel": None, "status": "broken"},
        {
            "module": "nvidia",
            "version": "535.261.03",
            "kernel": "6.1.0-50-cloud-amd64",
            "status": "installed",
        },
        {"module": "nvidia", "version": "535.261.03", "kernel": "6.1.0-51-cloud-amd64", "status": "built"},
    ]


def test_dkms_is_null_when_it_is_not_installed(machine):
    assert driver.dkms(machine.node) is None


# NVML -------------------------------------------------------------------------------------------------

QUERY = "nvidia-smi --query-gpu=" + ",".join(nvml.FIELDS) + " --format=csv,noheader,nounits"
ROW = "0, GPU-5f6, NVIDIA A100 80GB PCIe, 00000000:3B:00.0, 81920, 4, 0, 34, 580.95.05, Disabled, 8.0\n"


def test_nvidia_smi_is_queried(machine):
    machine.answer(QUERY, ROW)
    devices, facts = nvml.nvml(machine.node)
    assert devices == [
        {
            "index": 0,
            "uuid": "GPU-5f6",
            "name": "NVIDIA A100 80GB PCIe",
            "pci": "0000:3b:00.0",
            "memory_total_mib": 81920,
            "memory_used_mib": 4,
            "compute_capability": "8.0",
            "utilization_percent": 0,
            "temperature_c": 34,
            "mig_mode": False,
            "mig_instances": None,
        }
    ]
    assert facts == {
        "source": "nvidia-smi",
        "driver_version": "580.95.05",
        "cuda_version": None,
        "error": None,
    }


def test_nothing_said_is_null(machine):
    machine.answer(
        QUERY,
        "0, GPU-1, Tesla T4, 00000000:00:1E.0, 15360, [N/A], [Unknown Error], ERR!, 580.95.05, [N/A], \n",
    )
    device = nvml.nvml(machine.node)[0][0]
    names = ("memory_used_mib", "utilization_percent", "temperature_c", "mig_mode", "compute_capability")
    assert [device[name] for name in names] == [None] * 5


def test_older_nvidia_smi_is_asked_again_without_what_it_does_not_know(machine):
    machine.answer("nvidia-smi", 'Field "compute_cap" is not a valid field to query.\n', rc=2)
    fields = [name for name in nvml.FIELDS if name != "compute_cap"]
    machine.answer(
        "nvidia-smi --query-gpu=" + ",".join(fields) + " --format=csv,noheader,nounits",
        'Field "mig.mode.current" is not a valid field to query.\n',
        rc=2,
    )
    fields.remove("mig.mode.current")
    machine.answer(
        "nvidia-smi --query-gpu=" + ",".join(fields) + " --format=csv,noheader,nounits",
        "0, GPU-1, Tesla T4, 00000000:00:1E.0, 15109, 0, 0, 40, 418.226.00\n",
    )
    devices, facts = nvml.nvml(machine.node)
    assert facts["driver_version"] == "418.226.00" and devices[0]["mig_mode"] is None


@pytest.mark.parametrize(
    ("out", "rc"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n", 18),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the"
            " latest NVIDIA driver is installed and running.\n\n",
            9,
        ),
        ("Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error\n", 255),
    ],
)
def test_errors_are_handed_on_verbatim(machine, out, rc):
    machine.answer("nvidia-smi", out, rc=rc)
    devices, facts = nvml.nvml(machine.node)
    assert devices is None and facts["error"] == out.strip()


def test_nvidia_smi_is_asked_one_by_one_beside_a_lost_gpu(machine):
    lost = "Unable to determine the device handle for GPU1: 0000:AF:00.0: GPU is lost.  Reboot the system\n"
    machine.answer("nvidia-smi", lost, rc=15)
    for address in ("0000:3b:00.0", "0000:af:00.0"):
        machine.write(f"/proc/driver/nvidia/gpus/{address}/information")
    machine.answer("nvidia-smi --id=0000:3b:00.0", ROW)
    devices, facts = nvml.nvml(machine.node)
    assert [device["pci"] for device in devices] == ["0000:3b:00.0"]
    assert facts["error"] == lost.strip() and facts["driver_version"] == "580.95.05"


def test_no_devices_is_an_answer(machine):
    machine.answer("nvidia-smi", "No devices were found\n", rc=6)
    devices, facts = nvml.nvml(machine.node)
    assert devices == [] and facts["error"] == "No devices were found"


def test_rows_of_another_shape_are_refused(machine):
    machine.answer(QUERY, "0, GPU-1\n")
    with pytest.raises(ProbeError, match="2 values where 11 were asked for"):
        nvml.nvml(machine.node)


def test_node_without_a_driver_has_no_source_and_no_error(machine):
    assert nvml.nvml(machine.node) == (
        None,
        {"source": None, "driver_version": None, "cuda_version": None, "error": None},
    )


class NVMLError(Exception):
    pass


def _pynvml(**changes):
    """The bindings as nvidia-ml-py offers them (an older one gives bytes)."""

    def unsupported(*_arguments):
        raise NVMLError("Not Supported")

    found = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"580.95.05",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda _handle: "GPU-5f6",
        "nvmlDeviceGetName": lambda _handle: b"Tesla T4",
        "nvmlDeviceGetPciInfo": lambda _handle: SimpleNamespace(busId=b"00000000:00:1E.0"),
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(total=16106127360, used=1048576),
        "nvmlDeviceGetCudaComputeCapability": lambda _handle: (7, 5),
        "nvmlDeviceGetUtilizationRates": lambda _handle: SimpleNamespace(gpu=12),
        "nvmlDeviceGetTemperature": lambda _handle, _sensor: 41,
        "nvmlDeviceGetMigMode": unsupported,
    }
    found.update(changes)
    return SimpleNamespace(**found)


def test_pynvml_is_asked_for_the_same_facts():
    devices, facts = nvml.ask_pynvml(_pynvml())
    assert facts == {"source": "pynvml", "driver_version": "580.95.05", "cuda_version": "13.0", "error": None}
    assert devices == [
        {
            "index": 0,
            "uuid": "GPU-5f6",
            "name": "Tesla T4",
            "pci": "0000:00:1e.0",
            "memory_total_mib": 15360,
            "memory_used_mib": 1,
            "compute_capability": "7.5",
            "utilization_percent": 12,
            "temperature_c": 41,
            "mig_mode": None,
            "mig_instances": None,
        }
    ]


def test_pynvml_s_error_is_handed_on_verbatim():
    def mismatch():
        raise NVMLError("Driver/library version mismatch")

    devices, facts = nvml.ask_pynvml(_pynvml(nvmlInit=mismatch))
    assert devices is None and facts["error"] == "Driver/library version mismatch"


def test_lost_gpu_does_not_hide_the_others():
    def handle(index):
        if index == 0:
            raise NVMLError("GPU is lost")
        return index

    devices, facts = nvml.ask_pynvml(_pynvml(nvmlDeviceGetCount=lambda: 2, nvmlDeviceGetHandleByIndex=handle))
    assert [device["index"] for device in devices] == [1]
    assert facts["error"] == "GPU 0: GPU is lost"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("0000:3b:00.0", "0000:3b:00.0"),
        ("00010000:3B:00.0", "10000:3b:00.0"),
        ("", ""),
    ],
)
def test_pci_addresses_are_sysfs_s(text, expected):
    assert nvml.pci_address(text) == expected
