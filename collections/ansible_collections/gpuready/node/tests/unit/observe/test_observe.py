"""The observation as a whole: it keeps the contract on every machine, and each probe fails alone."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from gpuready.observe import nvml, observe, schema
from gpuready.observe.node import MissingTool, ProbeError, Result

KERNEL = "5.15.0-157-generic"
DPKG = """\
dpkg\tamd64\t1.21.1\tinstall\tinstalled\tok
docker.io\tamd64\t24.0.7-0ubuntu2~22.04.1\tinstall\tinstalled\tok
nvidia-utils-580-server\tamd64\t580.95.05-0ubuntu0.22.04.2\thold\tinstalled\tok
nvidia-container-toolkit\tamd64\t1.17.8-1\thold\tinstalled\tok
"""
LIB = "/usr/lib/x86_64-linux-gnu/"


def bare(machine: Any) -> None:
    """A fresh Ubuntu with a GPU and nothing else."""
    machine.write(
        "/etc/os-release",
        'ID=ubuntu\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    )
    machine.write("/etc/hostname", "gpulab-a100\n")
    machine.write("/proc/sys/kernel/osrelease", KERNEL + "\n")
    machine.write("/proc/sys/kernel/random/boot_id", "0a1b\n")
    machine.write("/proc/uptime", "1000.00 3900.00\n")
    machine.write("/proc/cmdline", "ro quiet\n")
    machine.write("/boot/vmlinuz-" + KERNEL)
    machine.write("/boot/initrd.img-" + KERNEL)
    machine.mkdir("/var/lib/dpkg/updates")
    machine.program("/usr/bin/apt-get")
    machine.pci(
        "0000:3b:00.0",
        vendor="0x10de",
        device="0x20b5",
        subsystem_vendor="0x10de",
        subsystem_device="0x1533",
        **{"class": "0x030200"},
    )
    machine.answer("dpkg-query", DPKG.splitlines()[0] + "\n")
    machine.answer(
        "systemctl show",
        "Id=docker.service\nLoadState=not-found\nActiveState=inactive\nMainPID=0\n\n"
        "Id=nvidia-persistenced.service\nLoadState=not-found\nActiveState=inactive\nMainPID=0\n",
    )
    machine.answer("apt-config dump", "")
    machine.answer("apt-cache pkgnames", "apt\nbash\n")
    machine.answer("ldconfig -p", "")
    machine.answer("dmesg", "[    0.000000] Linux version 5.15.0-157-generic\n")
    machine.answer("systemd-detect-virt", "none\n", rc=1)
    machine.answer("apt-cache policy", "Package files:\nPinned packages:\n")
    machine.answer("modinfo", err="modinfo: ERROR: Module nvidia not found.\n", rc=1)


def converged(machine: Any) -> None:
    """The same machine when everything is done."""
    bare(machine)
    machine.answer("dpkg-query", DPKG)
    machine.answer(
        "systemctl show",
        "Id=docker.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=411\n\n"
        "Id=nvidia-persistenced.service\nLoadState=loaded\nActiveState=active\nUnitFileState=static\nMainPID=9\n\n"
        "Id=nvidia-cdi-refresh.service\nLoadState=loaded\nActiveState=failed\nUnitFileState=enabled\nMainPID=0\n",
    )
    machine.write("/proc/411/comm", "dockerd\n")
    machine.write("/proc/411/cmdline", "/usr/bin/dockerd\0-H\0fd://\0")
    machine.write("/proc/411/environ", "PATH=/usr/sbin:/usr/bin\0")
    machine.write("/proc/411/stat", "411 (dockerd) S 1 " + "0 " * 17 + "90000 0 0\n")
    machine.now = time.time() + 500
    for name in (
        "nvidia-ctk",
        "nvidia-container-runtime",
        "nvidia-container-runtime-hook",
        "nvidia-smi",
        "nvidia-persistenced",
    ):
        machine.program("/usr/bin/" + name)
    machine.answer("nvidia-ctk --version", "NVIDIA Container Toolkit CLI version 1.17.8\n")
    machine.answer(
        "modinfo",
        f"filename: /lib/modules/{KERNEL}/nvidia.ko\nversion: 580.95.05\nlicense: Dual MIT/GPL\nsigner: x\n",
    )
    machine.write(
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release\n",
    )
    machine.module("nvidia", "1")
    machine.process(9, "nvidia-persiste", "/dev/nvidia0", cgroup="/system.slice/nvidia-persistenced.service")
    for name in ("libcuda.so", "libnvidia-ml.so"):
        machine.write(f"{LIB}{name}.580.95.05")
        machine.link(f"{LIB}{name}.1", f"{name}.580.95.05")
    machine.answer(
        "nvidia-smi --query-gpu=" + ",".join(nvml.FIELDS),
        "0, GPU-5f6, NVIDIA A100 80GB PCIe, 00000000:3B:00.0, 81920, 4, 0, 34, 580.95.05, Disabled, 8.0\n",
    )
    machine.write(
        "/etc/docker/daemon.json",
        '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}',
    )
    machine.api.update(
        {
            "/info": {
                "ServerVersion": "24.0.7",
                "Runtimes": {"runc": {}, "nvidia": {}},
                "DockerRootDir": "/var/lib/docker",
            },
            "/images/json": [
                {
                    "Id": "sha256:aa",
                    "RepoTags": ["tf:2.9"],
                    "RepoDigests": ["tf@sha256:1"],
                    "Size": 4000000000,
                }
            ],
            "/images/sha256%3Aaa/json": {"Config": {"Env": ["CUDA_VERSION=11.2.2"]}},
            "/containers/json": [],
            "/containers/json?all=1": [],
        }
    )
    machine.write(
        "/etc/cdi/nvidia.json", json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": "all"}]})
    )
    machine.write("/var/lib/apt/lists/x_Packages")
    machine.answer("apt-cache policy", "apt:\n  Installed: 1\n  Candidate: 1\n  Version table:\n *** 1 100\n")
    machine.write(
        "/etc/apt/sources.list.d/u.sources",
        "Types: deb\nURIs: http://u.example/\nSuites: jammy\nComponents: main\n",
    )


@pytest.mark.parametrize(
    "describe", [bare, converged, lambda machine: None], ids=["bare", "converged", "empty"]
)
def test_observation_keeps_the_contract_and_is_json(machine, describe):
    describe(machine)
    observed = observe(machine.node, [{"name": "registry", "address": "127.0.0.1:1"}])
    assert schema.complaints(observed) == []
    assert json.loads(json.dumps(observed)) == observed


def test_bare_machine(machine):
    bare(machine)
    observed = observe(machine.node)
    assert observed["problems"] == []
    assert observed["host"]["gpus"][0]["device_id"] == "20b5"
    assert observed["host"]["os"]["arch"] == "amd64"
    assert observed["driver"]["loaded"] is None and observed["driver"]["on_disk"] is None
    assert observed["container_runtime"]["docker"]["installed"] is False
    assert observed["container_runtime"]["docker"]["live"] is None
    assert observed["container_runtime"]["docker"]["version"] is None
    assert observed["framework"]["images"] is None
    assert observed["apt"]["candidates"] is None and observed["apt"]["lists_age_seconds"] is None
    assert observed["host"]["hostname"] == "gpulab-a100"


def test_converged_machine(machine):
    converged(machine)
    observed = observe(machine.node)
    assert observed["problems"] == []
    runtime = observed["container_runtime"]
    assert runtime["docker"]["version"] == "24.0.7" and runtime["docker"]["live"]["runtimes"] == [
        "nvidia",
        "runc",
    ]
    assert runtime["docker"]["service"] == {
        "unit": "docker.service",
        "active": True,
        "enabled": True,
        "pid": 411,
        "started_at": pytest.approx(machine.now - 1000 + 90000 / os.sysconf("SC_CLK_TCK"), abs=0.1),
        "result": None,
        "exec_start": ["/usr/bin/dockerd", "-H", "fd://"],
    }
    assert runtime["toolkit"]["version"] == "1.17.8" and runtime["toolkit"]["hook_on_dockerd_path"] is True
    assert observed["driver"]["devices"][0]["compute_capability"] == "8.0"
    assert observed["driver"]["persistenced"] == {"installed": True, "enabled": True, "active": True}
    assert observed["framework"]["images"][0]["env"] == {"CUDA_VERSION": "11.2.2"}
    assert {entry["path"] for entry in observed["disk"]} == {"/", "/var/lib/docker", "/var", "/boot"}
    assert observed["driver"]["on_disk_next_boot"] is None
    assert observed["driver"]["loaded"]["users"] == 1
    assert [row["service"] for row in observed["driver"]["processes"]] == ["nvidia-persistenced"]
    assert runtime["toolkit"]["cdi_refresh"] == {"installed": True, "failed": True}
    assert observed["host"]["mok"] == {"key": None, "enrolled": None}
    assert observed["driver"]["record"] is None and observed["apt"]["driver_pin"] is None


def test_what_gpuready_left_on_the_node_is_seen(machine):
    converged(machine)
    machine.write("/etc/apt/preferences.d/gpuready-nvidia-driver", "Package: x\n")
    machine.write("/var/lib/gpuready/nvidia_driver.json", '{"held": ["nvidia-utils-580-server"]}')
    observed = observe(machine.node)
    assert observed["apt"]["driver_pin"] == "Package: x\n"
    assert observed["driver"]["record"]["held"] == ["nvidia-utils-580-server"]
    assert schema.complaints(observed) == []


def test_driver_that_is_not_loaded_is_used_by_nobody(machine):
    bare(machine)
    machine.process(9, "x", "/dev/nvidia0")
    assert observe(machine.node)["driver"]["processes"] == []
    machine.uid = 1000
    assert observe(machine.node)["problems"] == []


def test_new_kernel_is_looked_at_too(machine):
    converged(machine)
    machine.write("/boot/vmlinuz-5.15.0-160-generic")
    machine.answer(
        "modinfo -k 5.15.0-160-generic nvidia", err="modinfo: ERROR: Module nvidia not found.", rc=1
    )
    observed = observe(machine.node)
    assert observed["host"]["kernel"]["next_boot"] == "5.15.0-160-generic"
    assert observed["driver"]["on_disk"]["kernel"] == KERNEL
    assert observed["driver"]["on_disk_next_boot"] is None
    assert ["modinfo", "-k", "5.15.0-160-generic", "nvidia"] in machine.asked


COMMANDS = {
    "dpkg-query": ("dpkg", lambda o: o["driver"]["packages"]),
    "systemctl show": ("systemd", lambda o: o["container_runtime"]["docker"]["service"]["active"]),
    "apt-cache policy": ("apt.candidates", lambda o: o["apt"]["candidates"]),
    "dmesg": ("host.kernel_log", lambda o: o["host"]["kernel_log"]),
    "systemd-detect-virt": ("host.virtual", lambda o: o["host"]["virtual"]),
    "apt-config dump": ("apt.unattended_upgrades", lambda o: o["apt"]["unattended_upgrades"]),
    "modinfo": ("driver.on_disk", lambda o: o["driver"]["on_disk"]),
    "nvidia-ctk --version": (
        "container_runtime.toolkit",
        lambda o: o["container_runtime"]["toolkit"]["version"],
    ),
}


@pytest.mark.parametrize(
    "failure", [Result(1, "", "broken"), ProbeError("timed out"), PermissionError(13, "Permission denied")]
)
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_probe_that_fails_fails_alone(machine, command, failure):
    converged(machine)
    before = observe(machine.node)
    machine.commands[command] = failure
    observed = observe(machine.node)
    probe, field = COMMANDS[command]

    def mine(part):
        return [probe.rpartition(".")[2]] if probe.startswith(part + ".") else []

    assert field(observed) is None
    assert probe in {problem["probe"] for problem in observed["problems"]}
    assert schema.complaints(observed) == []
    # What has nothing to do with it is as before.
    for untouched in ("host", "framework"):
        if command != "dpkg-query":
            assert observed[untouched] == dict(before[untouched], **dict.fromkeys(mine(untouched)))


def test_nvidia_smi_that_hangs_is_an_error_of_nvml_only(machine):
    converged(machine)
    for command in list(machine.commands):
        if command.startswith("nvidia-smi"):
            machine.fail(command, ProbeError("nvidia-smi did not answer in 10 s"))
    observed = observe(machine.node)
    assert observed["driver"]["devices"] is None
    assert observed["driver"]["nvml"]["error"] == "nvidia-smi did not answer in 10 s"
    assert observed["problems"] == [{"probe": "driver.nvml", "error": "nvidia-smi did not answer in 10 s"}]


def test_machine_without_any_tool_is_observed_all_the_same(machine):
    bare(machine)
    for command in list(machine.commands):
        machine.fail(command, MissingTool(f"{command.split()[0]} is not installed"))
    observed = observe(machine.node)
    assert schema.complaints(observed) == []
    assert observed["host"]["gpus"][0]["pci"] == "0000:3b:00.0"
    assert observed["container_runtime"]["docker"]["installed"] is None


def test_engine_that_is_down_leaves_images_unknown(machine):
    converged(machine)
    machine.api.clear()
    machine.write("/etc/docker/daemon.json", '{"data-root": "/srv/docker"}')
    observed = observe(machine.node)
    assert observed["framework"]["images"] is None
    assert observed["container_runtime"]["docker"]["live"]["reachable"] is False
    assert observed["problems"] == []
    assert "/srv/docker" in {entry["path"] for entry in observed["disk"]}


def test_rootless_docker_is_told_by_its_own_word(machine):
    converged(machine)
    machine.api["/info"]["SecurityOptions"] = ["name=rootless"]
    assert observe(machine.node)["container_runtime"]["docker"]["rootless"] is True


def test_docker_without_a_package_says_its_version_itself(machine):
    bare(machine)
    machine.program("/usr/local/bin/dockerd")
    machine.answer("/usr/local/bin/dockerd --version", "Docker version 27.3.1, build ce12230\n")
    found = observe(machine.node)["container_runtime"]["docker"]
    assert (found["installed"], found["package"], found["version"]) == (True, None, "27.3.1")


def test_no_package_costs_a_command_of_its_own(machine):
    converged(machine)
    observe(machine.node)
    assert len(machine.asked) <= 13


def test_observation_writes_nothing(machine):
    converged(machine)

    def state():
        return sorted((str(path), path.lstat().st_mtime_ns) for path in machine.root.rglob("*"))

    before = state()
    observe(machine.node)
    assert state() == before


def test_endpoints_are_tried_side_by_side(machine):
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    port = server.getsockname()[1]
    observed = observe(
        machine.node,
        [
            {"name": "open", "address": f"127.0.0.1:{port}"},
            {"name": "closed", "address": "127.0.0.1:1"},
            {"name": "odd", "address": "nowhere"},
            {"name": "unknown", "address": "gpuready.invalid:5000"},
        ],
    )
    server.close()
    found = {entry["name"]: entry for entry in observed["framework"]["endpoints"]}
    assert found["open"]["reachable"] is True and found["open"]["error"] is None
    assert found["closed"]["error"] == "Connection refused"
    assert found["odd"]["error"] == "'nowhere' is not host:port"
    assert found["unknown"]["reachable"] is False and found["unknown"]["error"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda o: o.pop("apt"), "gpu_stack.apt is missing"),
        (lambda o: o.update(extra=1), "gpu_stack.extra is in no contract"),
        (lambda o: o["host"].update(secure_boot="no"), "gpu_stack.host.secure_boot is 'no', not a boolean"),
        (lambda o: o.update(schema=True), "gpu_stack.schema is True, not a integer"),
        (lambda o: o["driver"]["nvml"].update(source="guess"), "not one of: pynvml, nvidia-smi"),
        (lambda o: o["host"].update(gpus={}), "not a list"),
        (lambda o: o["driver"].update(nvml=[]), "not a mapping"),
    ],
)
def test_schema_sees_what_breaks_the_contract(machine, damage, words):
    bare(machine)
    observed = observe(machine.node)
    damage(observed)
    assert any(words in complaint for complaint in schema.complaints(observed))


def _fields(shape: Any, at: str = "") -> set[str]:
    while isinstance(shape, schema.Null | schema.Each | schema.Table):
        shape = shape.inner
    if not isinstance(shape, dict):
        return set()
    return {f"{at}.{key}" for key in shape}.union(
        *(_fields(inner, f"{at}.{key}") for key, inner in shape.items())
    )


def test_contract_and_schema_name_the_same_fields():
    """docs/contracts.md is what people read: it names every field, and none that the code does not know."""
    place = Path(__file__).resolve()
    while not (place / "docs" / "contracts.md").is_file():
        place = place.parent
    text = (place / "docs" / "contracts.md").read_text(encoding="utf-8")
    example = text.split("## 1. Observation")[1].split("```yaml")[1].split("```")[0]
    record = text.split("## 7. ")[1].split("```yaml")[1].split("```")[0]
    known = _fields(schema.GPU_STACK)
    assert [
        name
        for name in known
        if not re.search(
            rf"\b{re.escape(name.rpartition('.')[2])}\b", record if ".record." in name else example
        )
    ] == []
    for name in re.findall(r"^  (\w+):", example, re.M) + re.findall(r"[{,] (\w+): ", example):
        assert any(field.endswith("." + name) for field in known) or name in (
            "nvidia",
            "path",
            "args",
            "NVIDIA_REQUIRE_CUDA",
            "reload_failed",  # the action plugin's, not the module's
        ), name


# Recorded on nodes with NVIDIA's real packages; see the README beside them.

RECORDED = sorted((Path(__file__).parents[7] / "tests" / "fixtures" / "recorded").glob("*.json"))


@pytest.mark.parametrize("path", RECORDED, ids=[path.stem for path in RECORDED])
def test_recorded_observation_keeps_the_contract(path):
    observed = json.loads(path.read_text(encoding="utf-8"))
    assert schema.complaints(observed) == []
    assert observed["problems"] == []


@pytest.mark.parametrize(
    ("name", "version", "module", "signed"),
    [
        ("debian-11-nvidia-470", "470.256.02", "nvidia-current.ko", False),
        ("debian-13-nvidia-550", "550.163.01", "nvidia-current.ko.xz", True),
    ],
)
def test_debian_s_real_driver_is_told_as_it_is(name, version, module, signed):
    """Installed and built for the next boot's kernel, and nothing loaded."""
    path = next(path for path in RECORDED if path.stem == name)
    observed = json.loads(path.read_text(encoding="utf-8"))
    kernel, driver = observed["host"]["kernel"], observed["driver"]
    assert kernel["headers"] == [kernel["next_boot"]] == kernel["installed"]
    assert driver["on_disk"] is None and driver["loaded"] is None and driver["processes"] == []
    assert driver["on_disk_next_boot"] == {
        "version": version,
        "flavour": "proprietary",
        "kernel": kernel["next_boot"],
        "path": f"/lib/modules/{kernel['next_boot']}/updates/dkms/{module}",
        "signed": signed,
    }
    assert driver["userspace"]["version"] == version and driver["userspace"]["nvidia_smi"]
    assert [row["status"] for row in driver["dkms"]] == ["installed"]
    assert "couldn't communicate with the NVIDIA driver" in driver["nvml"]["error"]
    candidates = observed["apt"]["candidates"]
    assert all(origins == ["Debian"] for origins in candidates["libcuda1"]["origins"].values())
    assert candidates["linux-headers-cloud-amd64"]["kernel"].endswith("-cloud-amd64")
    assert observed["host"]["nouveau"]["blacklisted"] and observed["host"]["initramfs"]["stale"] is False
