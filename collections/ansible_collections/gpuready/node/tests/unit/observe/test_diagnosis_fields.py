"""What the observation gathers for the diagnosis: the kernel's log, memory, device numbers, keys' ends, …"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from gpuready import openpgp, secrecy
from gpuready.observe import apt, cdi, docker, driver, host, kernel_log, nvml, packages, toolkit
from gpuready.observe.node import ProbeError

# the kernel's log --------------------------------------------------------------------------------------

BOOT = "[    0.000000] Linux version 5.15.0-157-generic (buildd@x) #167-Ubuntu SMP\n"
LOG = (
    BOOT
    + """\
[    0.000000] Command line: ro quiet
[    1.100000] pci 0000:3b:00.0: BAR 1: no space for [mem size 0x1000000000 64bit pref]
[    1.200000] pci 0000:00:1f.3: BAR 0: assigned
[    2.000000] Lockdown: swapper/0: hibernation is restricted; see man kernel_lockdown.7
[    5.000000] nvidia: loading out-of-tree module taints kernel.
[    5.100000] audit: type=1400 apparmor="STATUS" operation="profile_load" name="nvidia_modprobe"
[    6.000000] input: HDA NVidia HDMI/DP,pcm=3 as /devices/pci0000:00
[   99.000000] eth0: link up
[  700.000000] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.
[  800.000000] oom-kill:constraint=CONSTRAINT_MEMCG,task=python3
[  800.100000] Memory cgroup out of memory: Killed process 4242 (python3) total-vm:1kB
"""
)


def test_only_telling_lines_are_kept(machine):
    machine.answer("dmesg", LOG)
    found = kernel_log.kernel_log(machine.node, ["0000:3b:00.0"])
    assert found["source"] == "dmesg"
    assert [line.split("] ", 1)[1].split()[0] for line in found["lines"]] == [
        "pci",
        "Lockdown:",
        "nvidia:",
        "NVRM:",
        "oom-kill:constraint=CONSTRAINT_MEMCG,task=python3",
        "Memory",
    ]
    assert machine.asked == [["dmesg"]]


def test_flood_of_one_message_leaves_its_first_and_its_last(machine):
    flood = "".join(f"[{n:5d}.000000] NVRM: No NVIDIA GPU found.\n" for n in range(10, 5000))
    machine.answer("dmesg", BOOT + "[    5.000000] nvidia: loading\n" + flood)
    lines = kernel_log.kernel_log(machine.node)["lines"]
    assert [line.strip("[ ").split(".")[0] for line in lines] == ["5", "10", "4999"]


def test_different_messages_are_cut_in_the_middle(machine):
    many = "".join(f"[{n:5d}.000000] NVRM: Xid (PCI:0000:3b:00): 31, pid={n}\n" for n in range(1000))
    machine.answer("dmesg", BOOT + many)
    lines = kernel_log.kernel_log(machine.node)["lines"]
    assert len(lines) == kernel_log.LIMIT
    assert "pid=0" in lines[0] and lines[-1].endswith("pid=999")


def test_ring_that_lost_the_boot_is_completed_by_the_journal(machine):
    machine.answer("dmesg", "[ 9000.000000] NVRM: late\n")
    machine.answer(
        "journalctl --dmesg --boot",
        "[    0.000000] kernel: Linux version 5.15\n[    4.000000] kernel: NVRM: early\n"
        "[ 9000.000000] kernel: NVRM: late\n",
    )
    found = kernel_log.kernel_log(machine.node)
    assert found["source"] == "journalctl" and len(found["lines"]) == 2


def test_ring_without_its_beginning_is_better_than_nothing(machine):
    machine.answer("dmesg", "[ 9000.000000] NVRM: late\n")
    assert kernel_log.kernel_log(machine.node)["lines"] == ["[ 9000.000000] NVRM: late"]


def test_log_that_may_not_be_read_is_unknown_and_not_empty(machine):
    machine.answer("dmesg", err="dmesg: read kernel buffer failed: Operation not permitted\n", rc=1)
    with pytest.raises(ProbeError, match="Operation not permitted"):
        kernel_log.kernel_log(machine.node)
    machine.answer("journalctl", "")
    with pytest.raises(ProbeError, match="Operation not permitted"):
        kernel_log.kernel_log(machine.node)


def test_empty_ring_of_a_container_is_an_answer(machine):
    machine.answer("dmesg", "")
    assert kernel_log.kernel_log(machine.node) == {"source": "dmesg", "lines": []}


# the machine -------------------------------------------------------------------------------------------


def test_memory(machine):
    machine.write("/proc/meminfo", "MemTotal:       65536000 kB\nMemFree: 1 kB\nMemAvailable:   1048576 kB\n")
    assert host.memory(machine.node) == {"total_mib": 64000, "available_mib": 1024}


def test_memory_of_an_unreadable_machine(machine):
    assert host.memory(machine.node) == {"total_mib": None, "available_mib": None}


@pytest.mark.parametrize(("answer", "rc"), [("none", 1), ("kvm", 0), ("docker", 0), ("lxc-libvirt", 0)])
def test_virtual_is_systemd_s_word(machine, answer, rc):
    machine.answer("systemd-detect-virt", answer + "\n", rc=rc)
    assert host.virtual(machine.node) == answer


def test_wsl_is_known_by_its_kernel(machine):
    machine.write("/proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
    machine.answer("systemd-detect-virt", "none\n", rc=1)
    assert host.virtual(machine.node) == "wsl"


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("QEMU", "fpu hypervisor sse", "kvm"),
        ("Amazon EC2", "fpu hypervisor", "kvm"),
        ("Amazon EC2", "fpu sse", None),  # a bare-metal instance
        ("Microsoft Corporation", "hypervisor", "microsoft"),
        ("VMware, Inc.", "hypervisor", "vmware"),
        ("Dell Inc.", "fpu", None),
    ],
)
def test_virtual_without_systemd_is_told_by_the_firmware(machine, vendor, flags, expected):
    machine.write("/sys/class/dmi/id/sys_vendor", vendor + "\n")
    machine.write("/proc/cpuinfo", f"flags\t\t: {flags}\n")
    assert host.virtual(machine.node) == expected


def test_container_without_systemd(machine):
    machine.write("/.dockerenv")
    assert host.virtual(machine.node) == "docker"


# device files ------------------------------------------------------------------------------------------


def _devices(machine, monkeypatch, table: dict[str, tuple[int, int, int]]) -> Any:
    """A node whose files under /dev are devices (a test may not make some)."""
    node = machine.node
    real = node.stat

    def fake(path: str) -> Any:
        if path not in table:
            return real(path)
        mode, major, minor = table[path]
        return SimpleNamespace(
            st_mode=stat.S_IFCHR | mode, st_uid=0, st_gid=44, st_rdev=os.makedev(major, minor)
        )

    monkeypatch.setattr(node, "stat", fake)
    for path in table:
        machine.write(path)
    return node


def test_device_access_names_mode_owner_and_number(machine, monkeypatch):
    machine.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    machine.write("/etc/group", "root:x:0:\nvideo:x:44:\n")
    node = _devices(machine, monkeypatch, {"/dev/nvidia0": (0o660, 195, 0)})
    assert driver.device_access(node) == {
        "/dev/nvidia0": {"mode": "0660", "owner": "root:video", "device": "195:0"}
    }


def test_file_that_is_no_device_says_so(machine):
    machine.write("/dev/nvidia0", mode=0o644)
    found = driver.device_access(machine.node)["/dev/nvidia0"]
    assert found["device"] is None and found["mode"] == "0644"
    assert found["owner"] == f"{os.getuid()}:{os.getgid()}"


def test_majors_are_the_character_devices_only(machine):
    machine.write(
        "/proc/devices",
        "Character devices:\n  1 mem\n195 nvidia\n511 nvidia-uvm\n\nBlock devices:\n252 nvidia-odd\n",
    )
    assert driver.majors(machine.node) == {"nvidia": 195, "nvidia-uvm": 511}


def test_majors_of_an_unreadable_machine_are_unknown(machine):
    assert driver.majors(machine.node) is None


def _spec(**device: Any) -> dict[str, Any]:
    return {"kind": "nvidia.com/gpu", "containerEdits": {"deviceNodes": [device]}, "devices": []}


@pytest.mark.parametrize(
    ("device", "wrong"),
    [
        ({"path": "/dev/nvidia-uvm"}, []),
        ({"path": "/dev/nvidia-uvm", "major": 511, "minor": 0}, []),
        ({"path": "/dev/nvidia-uvm", "major": 511}, []),
        (
            {"path": "/dev/nvidia-uvm", "type": "c", "major": 510, "minor": 0},
            [{"path": "/dev/nvidia-uvm", "spec": "510:0", "host": "511:0"}],
        ),
        (
            {"path": "/dev/x", "hostPath": "/dev/nvidia-uvm", "major": 510},
            [{"path": "/dev/nvidia-uvm", "spec": "510:0", "host": "511:0"}],
        ),
        ({"path": "/dev/gone", "major": 1}, []),
    ],
)
def test_wrong_numbers_in_a_specification(machine, monkeypatch, device, wrong):
    node = _devices(machine, monkeypatch, {"/dev/nvidia-uvm": (0o666, 511, 0)})
    assert cdi.wrong_devices(node, cdi.device_nodes(_spec(**device))) == wrong


def test_specification_with_wrong_numbers_is_stale(machine, monkeypatch):
    node = _devices(machine, monkeypatch, {"/dev/nvidia-uvm": (0o666, 511, 0)})
    machine.write(
        "/etc/cdi/nvidia.yaml",
        "kind: nvidia.com/gpu\ncontainerEdits:\n  deviceNodes:\n  - path: /dev/nvidia-uvm\n    major: 510\n"
        "devices:\n- name: all\n",
    )
    found = cdi.specs(node, None, ["/etc/cdi"])[0]
    assert found["stale"] is True and found["device_nodes"] == ["/dev/nvidia-uvm"]


def test_specification_that_cannot_be_read_says_why(machine):
    machine.write("/etc/cdi/nvidia.json", "{")
    assert "not JSON" in cdi.specs(machine.node, None, ["/etc/cdi"])[0]["error"]


# MIG ---------------------------------------------------------------------------------------------------

LISTED = """\
GPU 0: NVIDIA A100-PCIE-40GB (UUID: GPU-a)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-GPU-a/1/0)
GPU 1: NVIDIA A100-PCIE-40GB (UUID: GPU-b)
"""


def test_mig_instances_are_counted_where_mig_is_on(machine):
    row = "{0}, GPU-{0}, NVIDIA A100, 00000000:0{0}:00.0, 40960, 0, 0, 30, 580.95.05, {1}, 8.0\n"
    machine.answer("nvidia-smi --query-gpu", "")
    machine.answer(
        "nvidia-smi --query-gpu=" + ",".join(nvml.FIELDS),
        row.format(0, "Enabled") + row.format(1, "Enabled") + row.format(2, "Disabled"),
    )
    machine.answer("nvidia-smi -L", LISTED)
    devices, _facts = nvml.nvml(machine.node)
    assert [device["mig_instances"] for device in devices] == [2, 0, None]


def test_pynvml_counts_mig_instances():
    class NVMLError(Exception):
        pass

    def slot(_handle: int, index: int) -> int:
        if index:
            raise NVMLError("Not Found")
        return 1

    pynvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetMaxMigDeviceCount=lambda _handle: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=slot,
    )
    assert nvml._mig_instances(pynvml, 0) == 1


# apt ---------------------------------------------------------------------------------------------------


def test_apt_s_own_complaint_is_kept(machine):
    error = "Conflicting values set for option Signed-By regarding source https://x/ /: a.gpg !="
    machine.answer("apt-cache policy", err=f"E: {error}\nE: The list of sources could not be read.\n", rc=100)
    found = apt.reading(machine.node)
    assert found.errors == [error, "The list of sources could not be read."]
    with pytest.raises(ProbeError, match="Signed-By"):
        apt.index_origins(found)


def test_apt_s_warnings_are_no_errors(machine):
    machine.answer("apt-cache policy", "Package files:\n", err="W: configured multiple times\n")
    assert apt.reading(machine.node).errors == []


def test_packages_that_dpkg_has_half():
    text = (
        "a\tamd64\t1\tinstall\thalf-configured\tok\nb\tamd64\t1\tinstall\tinstalled\tok\n"
        "c\tamd64\t1\tinstall\tunpacked\tok\nd\tamd64\t1\tinstall\tinstalled\treinstreq\n"
    )
    assert apt.broken(packages.parse(text)) == [
        {"name": "a", "status": "half-configured"},
        {"name": "c", "status": "unpacked"},
        {"name": "d", "status": "reinst-required"},
    ]


@pytest.fixture(scope="module")
def expiring():
    """(fingerprint, when it expires by gpg's own word, the key) of a key that was prolonged once."""
    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    home = f"/tmp/gpuready-gpg-expiry-{os.getpid()}"  # the agent's socket must have a short path
    os.mkdir(home, 0o700)

    def gpg(*words: str) -> bytes:
        command = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout

    def pub() -> list[str]:
        return next(
            line.split(":")
            for line in gpg("--with-colons", "--list-keys").decode().splitlines()
            if line.startswith("pub")
        )

    try:
        gpg(
            "--faked-system-time",
            "20200101T000000",
            "--quick-gen-key",
            "a <a@example.com>",
            "ed25519",
            "sign",
            "1y",
        )
        listed = gpg("--with-colons", "--list-keys").decode().splitlines()
        fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr"))
        before = (int(pub()[6]), gpg("--export"))
        gpg("--faked-system-time", "20200601T000000", "--quick-set-expire", fingerprint, "5y")
        after = (int(pub()[6]), gpg("--export"))
        gpg("--faked-system-time", "20200701T000000", "--quick-set-expire", fingerprint, "0")
        yield fingerprint, before, after, gpg("--export")
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
        shutil.rmtree(home)


def test_key_s_end_is_gpg_s(expiring):
    _fingerprint, before, after, endless = expiring
    for expires, data in (before, after):
        assert openpgp.keys(data)[0].expires == expires
    assert before[0] < after[0]
    assert openpgp.keys(endless)[0].expires is None


def test_expired_key_of_a_source_is_told(machine, expiring):
    fingerprint, (expires, data), _after, _endless = expiring
    machine.write("/etc/apt/keyrings/x.gpg", data)
    machine.write(
        "/etc/apt/sources.list.d/x.sources",
        "Types: deb\nURIs: http://x/\nSuites: /\nSigned-By: /etc/apt/keyrings/x.gpg\n",
    )
    source = apt.sources(machine.node)[0]
    assert source["fingerprints"] == [fingerprint]
    assert source["keys"] == [{"fingerprint": fingerprint, "expires": expires, "expired": True}]
    machine.now = expires - 10.0
    assert apt.sources(machine.node)[0]["keys"][0]["expired"] is False


def test_another_key_s_signature_says_nothing_about_a_key(expiring):
    fingerprint, (_expires, data), _after, _endless = expiring
    signature = next(p for p in openpgp.packets(data) if p.tag == openpgp.SIGNATURE)
    assert openpgp.self_signature(signature.body, fingerprint) is not None
    assert openpgp.self_signature(signature.body, "0" * 40) is None
    for length in range(len(signature.body)):  # cut anywhere, it is no signature and no crash
        openpgp.self_signature(signature.body[:length], fingerprint)


# Docker and the toolkit --------------------------------------------------------------------------------


def test_runtime_whose_program_is_gone(machine):
    machine.program("/usr/bin/nvidia-container-runtime")
    runtimes = {
        "nvidia": {"path": "nvidia-container-runtime", "args": []},
        "old": {"path": "/usr/bin/gone"},
        "shim": {"runtimeType": "io.containerd.x.v1"},
        "odd": "text",
    }
    assert docker.runtime_paths(machine.node, runtimes, None) == {
        "nvidia": {"path": "nvidia-container-runtime", "found": True},
        "old": {"path": "/usr/bin/gone", "found": False},
    }
    assert docker.runtime_paths(machine.node, runtimes, "/opt/bin")["nvidia"]["found"] is False


def test_dockerd_s_last_words_come_without_debug_lines(machine):
    machine.answer(
        "journalctl --unit=docker.service",
        'time="t" level=debug msg="x"\n'
        "unable to configure the Docker daemon with file /etc/docker/daemon.json\n",
    )
    assert docker.log(machine.node) == [
        "unable to configure the Docker daemon with file /etc/docker/daemon.json"
    ]


def test_no_journal_is_no_words(machine):
    assert docker.log(machine.node) is None


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("--log-opt=splunk-token=abc", "--log-opt=splunk-token=***"),
        ("splunk-token=abc", "splunk-token=***"),
        ("--host=fd://", "--host=fd://"),
    ],
)
def test_secret_on_dockerd_s_command_line_is_not_shown(word, shown):
    assert secrecy.without_secret_option(word) == shown


CONFIG = """\
#accept-nvidia-visible-devices-as-volume-mounts = false
disable-require = true
supported-driver-capabilities = "compute,utility"

[nvidia-container-cli]
environment = []
ldconfig = "@/sbin/ldconfig.real"
no-cgroups = true # for rootless

[nvidia-container-runtime]
mode = 'cdi'
runtimes = [
  "runc",
  "crun",
]

[nvidia-container-runtime.modes.cdi]
default-kind = "nvidia.com/gpu"
"""


def test_toolkit_s_configuration(machine):
    machine.write("/etc/nvidia-container-runtime/config.toml", CONFIG)
    found = toolkit.config(machine.node)
    assert found is not None
    assert (found["mode"], found["no_cgroups"], found["disable_require"]) == ("cdi", True, True)
    assert found["runtimes"] == ["runc", "crun"] and found["cdi_default_kind"] == "nvidia.com/gpu"
    assert found["accept_as_volume_mounts"] is None
    assert toolkit.ldconfig_exists(machine.node, found) is False
    machine.write("/sbin/ldconfig.real")
    assert toolkit.ldconfig_exists(machine.node, found) is True


@pytest.mark.parametrize("text", ["", "[", "x", "= 1", "a = [\n", "\x00", 'ldconfig = "'])
def test_broken_configuration_is_no_crash(machine, text):
    machine.write("/etc/nvidia-container-runtime/config.toml", text)
    found = toolkit.config(machine.node)
    assert found is not None and found["mode"] is None


def test_no_configuration(machine):
    assert toolkit.config(machine.node) is None and toolkit.ldconfig_exists(machine.node, None) is None
