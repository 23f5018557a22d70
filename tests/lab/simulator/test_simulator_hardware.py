"""The simulated machine: PCI bus, kernel modules, boot, faults."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util

import binaries
import pytest
from machine import KERNEL, Machine

VERSION_FILE = "proc/driver/nvidia/version"
BLACKLIST = "blacklist nouveau\noptions nouveau modeset=0\n"


def test_bare_machine_shows_its_gpu(machine: Machine) -> None:
    machine.boot()
    base = "sys/bus/pci/devices/0000:3b:00.0"
    assert [machine.read(f"{base}/{name}") for name in ("vendor", "device", "class", "subsystem_device")] == [
        "0x10de\n",
        "0x20b5\n",
        "0x030200\n",
        "0x1533\n",
    ]
    config = (machine.root / base / "config").read_bytes()
    assert config[:4] == b"\xde\x10\xb5\x20"
    assert machine.driver_of() is None
    done = machine.run("modprobe", "nvidia")
    assert (done.rc, done.err) == (
        1,
        f"modprobe: FATAL: Module nvidia not found in directory /lib/modules/{KERNEL}\n",
    )
    assert machine.run("modprobe", "-q", "nvidia").err == ""


def test_loading_publishes_what_the_real_module_does(machine: Machine) -> None:
    machine.boot()
    machine.install("580.95.05", "open", udev=False)
    assert machine.run("modprobe", "nvidia").rc == 0
    assert machine.read(VERSION_FILE).startswith(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    )
    assert machine.read("sys/module/nvidia/version") == "580.95.05\n"
    assert "Model: \t\t NVIDIA A100 80GB PCIe\n" in machine.read(
        "proc/driver/nvidia/gpus/0000:3b:00.0/information"
    )
    assert sorted(path.name for path in (machine.root / "dev").iterdir()) == ["nvidia0", "nvidiactl"]
    assert machine.driver_of() == "nvidia"
    assert "195 nvidiactl" in machine.read("run/gpulab/devices")
    assert machine.read("proc/driver/nvidia/registry") == 'Binary: ""\n'
    # Headless machines get uvm from udev's rules or by name.
    assert machine.run("modprobe", "nvidia-uvm").rc == 0
    assert (machine.root / "dev/nvidia-uvm").exists()
    assert machine.read("sys/module/nvidia/refcnt") == "1\n"


def test_proprietary_module_has_its_own_wording(machine: Machine) -> None:
    machine.boot()
    machine.install("535.274.02", "proprietary")
    assert machine.run("modprobe", "nvidia").rc == 0
    assert machine.read(VERSION_FILE).startswith(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.274.02  Fri"
    )
    assert machine.read("sys/module/nvidia/taint") == "POE\n"


def test_loaded_stays_loaded_until_the_next_boot(machine: Machine) -> None:
    machine.install("580.82.07")
    machine.boot()
    assert "580.82.07" in machine.read(VERSION_FILE)
    machine.install("580.95.05")
    assert machine.run("modprobe", "nvidia").rc == 0, "already loaded: nothing happens"
    assert "580.82.07" in machine.read(VERSION_FILE)
    machine.boot()
    assert "580.95.05" in machine.read(VERSION_FILE)


def test_modules_in_use_are_not_removed(machine: Machine) -> None:
    machine.install()
    machine.boot()
    done = machine.run("modprobe", "-r", "nvidia")
    assert (done.rc, done.err) == (
        1,
        "modprobe: FATAL: Module nvidia is in use by: nvidia_modeset nvidia_uvm.\n",
    )
    done = machine.run("rmmod", "nvidia")
    assert (done.rc, done.err) == (1, "rmmod: ERROR: Module nvidia is in use by: nvidia_modeset nvidia_uvm\n")
    assert machine.run("rmmod", "nvidia_uvm", "nvidia_modeset", "nvidia").rc == 0
    assert machine.read(VERSION_FILE) == ""
    assert list((machine.root / "dev").iterdir()) == []
    assert machine.driver_of() is None
    assert machine.run("rmmod", "nvidia").err == "rmmod: ERROR: Module nvidia is not currently loaded\n"


def test_nouveau_needs_blacklist_and_initramfs_and_reboot(machine: Machine) -> None:
    machine.boot(nouveau_bound=True)
    assert machine.driver_of() == "nouveau"
    machine.install()
    done = machine.run("modprobe", "nvidia")
    assert (done.rc, done.err) == (1, "modprobe: ERROR: could not insert 'nvidia': No such device\n")
    assert "NVRM: The NVIDIA probe routine was not called for 1 device(s)." in machine.read("run/gpulab/kmsg")
    machine.write("etc/modprobe.d/blacklist-nouveau.conf", BLACKLIST)
    machine.boot()
    assert machine.driver_of() == "nouveau", "the initramfs still loads it"
    done = machine.run("update-initramfs", "-u")
    assert done.out == f"update-initramfs: Generating /boot/initrd.img-{KERNEL}\n"
    assert machine.driver_of() == "nouveau", "a loaded module stays"
    machine.boot()
    assert machine.driver_of() == "nvidia"


def test_blacklist_without_root_file_system_is_not_enough(machine: Machine) -> None:
    machine.write("etc/modprobe.d/blacklist-nouveau.conf", BLACKLIST)
    machine.boot(nouveau_bound=True)
    assert machine.driver_of() is None
    (machine.root / "etc/modprobe.d/blacklist-nouveau.conf").unlink()
    machine.boot()
    assert machine.driver_of() == "nouveau", "udev loads it once the root file system is there"


def test_blacklisted_nvidia_is_loaded_by_name_only(machine: Machine) -> None:
    machine.write("etc/modprobe.d/no.conf", "blacklist nvidia\n")
    machine.install()
    machine.boot()
    assert machine.read(VERSION_FILE) == ""
    assert machine.run("modprobe", "-b", "nvidia").rc == 0
    assert machine.read(VERSION_FILE) == ""
    assert machine.run("modprobe", "nvidia").rc == 0
    assert machine.read(VERSION_FILE)


def test_install_line_is_obeyed(machine: Machine) -> None:
    machine.write("etc/modprobe.d/no.conf", "install nvidia /bin/false\n")
    machine.install()
    machine.boot()
    done = machine.run("modprobe", "nvidia")
    assert done.rc == 1
    assert "Error running install command '/bin/false' for module nvidia: retcode 1" in done.err
    assert done.err.endswith("modprobe: ERROR: could not insert 'nvidia': Invalid argument\n")


def test_secure_boot_takes_signed_modules_only(machine: Machine) -> None:
    machine.install(signed=False)
    machine.boot(secure_boot=True)
    variable = machine.root / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    assert variable.read_bytes() == b"\x06\0\0\0\x01"
    done = machine.run("modprobe", "nvidia")
    assert (done.rc, done.err) == (
        1,
        "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n",
    )
    machine.install(signed=True)
    assert machine.run("modprobe", "nvidia").rc == 0


def test_module_of_another_kernel(machine: Machine) -> None:
    machine.boot()
    machine.install()
    path = next((machine.root / "lib/modules").rglob("nvidia.ko"))
    path.write_bytes(
        path.read_bytes().replace(f"vermagic={KERNEL}".encode(), f"vermagic=9{KERNEL[1:]}".encode())
    )
    done = machine.run("modprobe", "nvidia")
    assert (done.rc, done.err) == (1, "modprobe: ERROR: could not insert 'nvidia': Exec format error\n")


def test_gpu_off_the_bus(machine: Machine) -> None:
    machine.install()
    machine.boot(gpu_off_bus=True)
    assert not (machine.root / "sys/bus/pci/devices/0000:3b:00.0").exists()
    done = machine.run("modprobe", "nvidia")
    assert (done.rc, done.err) == (1, "modprobe: ERROR: could not insert 'nvidia': No such device\n")


def test_gpu_falls_off_the_bus_of_a_running_machine(machine: Machine) -> None:
    machine.install()
    machine.boot()
    machine.profile["faults"]["gpu_off_bus"] = True
    assert machine.run("apply").rc == 0
    assert not (machine.root / "sys/bus/pci/devices/0000:3b:00.0").exists()
    assert "NVRM: Xid (PCI:0000:3b:00): 79, " in machine.read("run/gpulab/kmsg")
    assert "SimulatedFault: lost=0000:3b:00.0" in machine.read("proc/driver/nvidia/registry")
    machine.profile["faults"].clear()
    assert machine.run("apply").rc == 0
    assert machine.driver_of() == "nvidia"
    assert machine.read("proc/driver/nvidia/registry") == 'Binary: ""\n'


def test_xid_is_said_once(machine: Machine) -> None:
    machine.install()
    machine.boot()
    machine.profile["faults"]["xid"] = [119]
    for _ in range(2):
        assert machine.run("apply").rc == 0
    assert machine.read("run/gpulab/kmsg").count("NVRM: Xid (PCI:0000:3b:00): 119, pid=1234") == 1


@pytest.mark.parametrize(
    ("model", "version", "flavour", "answer"),
    [
        ("k80", "535.274.02", "proprietary", "supported through the NVIDIA 470.xx Legacy drivers"),
        ("k80", "470.256.02", "proprietary", None),
        ("v100", "595.71.05", "proprietary", "supported through the NVIDIA 580.xx Legacy drivers"),
        ("v100", "580.95.05", "proprietary", None),
        ("p100", "580.95.05", "open", "is not supported by open"),
        ("h100", "470.256.02", "proprietary", "is not supported by the"),
        ("h100", "535.274.02", "open", None),
        ("b200", "535.274.02", "open", "is not supported by open"),
        ("b200", "580.95.05", "open", None),
    ],
)
def test_driver_takes_only_the_chips_it_knows(
    machine: Machine, model: str, version: str, flavour: str, answer: str | None
) -> None:
    machine.profile["gpus"][0]["model"] = model
    machine.boot()
    machine.install(version, flavour)
    done = machine.run("modprobe", "nvidia")
    if answer is None:
        assert done.rc == 0, done.err
        return
    assert done.err == "modprobe: ERROR: could not insert 'nvidia': No such device\n"
    assert answer in machine.read("run/gpulab/kmsg")


def test_blackwell_loads_the_proprietary_module_and_does_not_start(machine: Machine) -> None:
    machine.profile["gpus"][0]["model"] = "b200"
    machine.boot()
    machine.install("580.95.05", "proprietary")
    assert machine.run("modprobe", "nvidia").rc == 0
    assert "requires use of the NVIDIA open kernel modules" in machine.read("run/gpulab/kmsg")
    assert "SimulatedFault: rminit=0000:3b:00.0" in machine.read("proc/driver/nvidia/registry")


def test_module_not_loaded_at_boot_can_be_loaded(machine: Machine) -> None:
    machine.install()
    machine.boot(module_not_loaded=True)
    assert machine.read(VERSION_FILE) == ""
    assert machine.run("modprobe", "nvidia").rc == 0
    assert machine.read(VERSION_FILE)


def test_uvm_missing(machine: Machine) -> None:
    machine.install()
    machine.boot(uvm_missing=True)
    assert not (machine.root / "dev/nvidia-uvm").exists()
    assert machine.run("modprobe", "nvidia_uvm").rc == 0
    assert (machine.root / "dev/nvidia-uvm").exists()


def test_driver_is_not_loaded_by_udev_without_rules(machine: Machine) -> None:
    machine.boot()
    machine.install(udev=False)
    assert machine.run("modprobe", "nvidia").rc == 0
    assert not (machine.root / "dev/nvidia-uvm").exists()


def test_restarted_service_is_no_reboot(machine: Machine) -> None:
    machine.boot()
    first = machine.read("run/gpulab/boot_id")
    assert machine.run("boot").rc == 0
    assert machine.read("run/gpulab/boot_id") == first
    machine.boot()
    assert machine.read("run/gpulab/boot_id") != first


def test_update_initramfs_speaks_as_the_real_one(machine: Machine) -> None:
    machine.boot()
    assert (
        machine.run("update-initramfs", "-u", "-k", "all").out
        == f"update-initramfs: Generating /boot/initrd.img-{KERNEL}\n"
    )
    assert machine.run("update-initramfs").rc == 1
    assert machine.run("update-initramfs", "-d", "-k", KERNEL).rc == 0
    assert not (machine.root / f"boot/initrd.img-{KERNEL}").exists()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"gpus": [{"model": "a1000"}]}, "gpus[0].model 'a1000'"),
        ({"gpus": [{"model": "a100", "pci": "3b"}]}, "gpus[0].pci '3b'"),
        ({"gpus": [], "faults": {"nouveau": True}}, "faults.nouveau=True"),
        ({"gpus": [], "faults": {"secure_boot": "yes"}}, "faults.secure_boot='yes'"),
    ],
)
def test_bad_profile_is_refused(machine: Machine, profile: dict, message: str) -> None:
    machine.profile = profile
    done = machine.run("boot")
    assert done.rc == 1
    assert message in done.err


def test_models_can_be_named_by_device_id(machine: Machine) -> None:
    machine.profile["gpus"] = [{"pci": "0000:af:00.0", "model": "1EB8"}]
    machine.boot()
    assert machine.read("sys/bus/pci/devices/0000:af:00.0/device") == "0x1eb8\n"


def test_machine_without_a_profile_has_no_gpu(machine: Machine) -> None:
    machine.profile = {}
    machine.boot()
    assert not (machine.root / "sys/bus/pci/devices").exists()


def test_host_with_a_driver_of_its_own_is_hidden(machine: Machine) -> None:
    spec = importlib.util.spec_from_loader(
        "hardware", importlib.machinery.SourceFileLoader("hardware", str(machine.program))
    )
    assert spec and spec.loader
    hardware = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hardware)
    devices = "Character devices:\n  1 mem\n195 nvidia-frontend\n510 nvidia-uvm\n\nBlock devices:\n  7 loop\n"
    assert hardware.without_host_driver(devices, 1) == (
        "Character devices:\n  1 mem\n\nBlock devices:\n  7 loop\n"
    )
    modules = "nvidia_uvm 4096 0 - Live 0x0\nvideo 4096 1 nvidia, Live 0x0\nnouveau 4096 0 - Live 0x0\n"
    assert hardware.without_host_driver(modules, 0) == "video 4096 1 nvidia, Live 0x0\n"


def test_real_kernel_tools_leave_the_module_tree_alone(machine: Machine) -> None:
    """For a real driver only the bus is simulated: no module is loaded, no initramfs made."""
    machine.profile["kernel_tools"] = "real"
    machine.install()
    machine.boot()
    assert machine.read("sys/bus/pci/devices/0000:3b:00.0/vendor").strip() == "0x10de"
    assert machine.driver_of() is None
    assert not list((machine.root / "boot").iterdir())


def test_unknown_kernel_tools_are_refused(machine: Machine) -> None:
    """One message that names the value and the file."""
    machine.profile["kernel_tools"] = "fake"
    done = machine.run("boot")
    assert done.rc != 0
    assert "kernel_tools 'fake'" in done.err


# -------------------------------------------------------------- a driver that changes while the machine runs


def hold(machine: Machine, *names: str) -> None:
    """A process that has device files open."""
    table = machine.root / "proc/4711/fd"
    table.mkdir(parents=True)
    for number, name in enumerate(names):
        (table / str(number)).symlink_to(machine.root / "dev" / name)


def test_modules_are_reloaded_with_another_version(machine: Machine) -> None:
    machine.install("580.82.07")
    machine.boot()
    machine.install("580.95.05")
    assert machine.run("modprobe", "-r", "nvidia_uvm", "nvidia_modeset", "nvidia").rc == 0
    assert machine.read(VERSION_FILE) == ""
    assert machine.run("modprobe", "nvidia").rc == 0
    assert machine.read("sys/module/nvidia/version") == "580.95.05\n"
    assert machine.read("sys/module/nvidia_uvm/version") == "580.95.05\n", "udev brings it back"


def test_modprobe_removes_what_nobody_needs_any_more(machine: Machine) -> None:
    machine.install(udev=False)
    machine.boot()
    machine.run("modprobe", "nvidia-uvm")
    assert machine.run("modprobe", "-r", "nvidia_uvm").rc == 0
    assert machine.read(VERSION_FILE) == ""


def test_process_with_an_open_device_keeps_the_module(machine: Machine) -> None:
    machine.install(udev=False)
    machine.boot()
    machine.run("modprobe", "nvidia-uvm")
    hold(machine, "nvidia0", "nvidiactl", "nvidia-uvm")
    done = machine.run("modprobe", "-r", "nvidia_uvm", "nvidia")
    assert (done.rc, done.err) == (
        1,
        "modprobe: FATAL: Module nvidia_uvm is in use.\n"
        "modprobe: FATAL: Module nvidia is in use by: nvidia_uvm.\n",
    )
    assert machine.read(VERSION_FILE)
    (machine.root / "proc/4711/fd/2").unlink()
    assert machine.run("rmmod", "nvidia_uvm").rc == 0
    assert machine.read("sys/module/nvidia/refcnt") == "2\n"
    assert machine.run("rmmod", "nvidia").err == "rmmod: ERROR: Module nvidia is in use\n"


def test_fault_of_one_version_only(machine: Machine) -> None:
    machine.install("580.95.05")
    machine.boot(cuda_error_for_version={"580.95.05": 999})
    assert "SimulatedFault: cuda_init=999\n" in machine.read("proc/driver/nvidia/registry")
    machine.install("580.82.07")
    machine.boot()
    assert machine.read("proc/driver/nvidia/registry") == 'Binary: ""\n'


def test_b200_needs_a_certain_release_of_its_branch(machine: Machine) -> None:
    hardware = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(
            "hardware",
            importlib.machinery.SourceFileLoader("hardware", str(machine.program)),
        )
    )
    hardware.__loader__.exec_module(hardware)
    b200 = {**binaries.load_models()["b200"], "pci": "0000:3b:00.0"}
    assert hardware.judge(b200, 570, "open", "570.86.15")[0] is False
    assert hardware.judge(b200, 570, "open", "570.133.20")[:2] == (True, True)
    assert hardware.judge(b200, 570, "proprietary", "570.195.03")[:2] == (True, False)


# ---------------------------------------------------------------- Debian's names


DEBIAN = "install nvidia modprobe -i nvidia-current $CMDLINE_OPTS\n" + "".join(
    f"install nvidia-{part} modprobe {needs} ; modprobe -i nvidia-current-{part} $CMDLINE_OPTS\n"
    for part, needs in (("modeset", "nvidia"), ("drm", "nvidia-modeset"), ("uvm", "nvidia"))
)
REMOVE = "remove nvidia modprobe -r -i nvidia-drm nvidia-modeset nvidia-peermem nvidia-uvm nvidia\n"


def test_debians_renamed_modules_have_their_usual_names_in_the_kernel(machine: Machine) -> None:
    machine.install("535.274.02", "proprietary", udev=False)
    modules = machine.root / "lib/modules" / KERNEL
    for path in modules.rglob("nvidia*.ko"):
        path.rename(path.with_name(path.name.replace("nvidia", "nvidia-current", 1)))
    dep = modules / "modules.dep"
    dep.write_text(
        dep.read_text().replace("/nvidia.ko", "/nvidia-current.ko").replace("/nvidia-", "/nvidia-current-")
    )
    dep.write_text(
        dep.read_text()
        .replace("current-current", "current")
        .replace("kernel/nvidia-current-5", "kernel/nvidia-5")
    )
    machine.boot()
    done = machine.run("modprobe", "nvidia")
    assert done.err == f"modprobe: FATAL: Module nvidia not found in directory /lib/modules/{KERNEL}\n"
    machine.write("etc/modprobe.d/nvidia.conf", DEBIAN + REMOVE)
    machine.write("etc/modules-load.d/nvidia.conf", "nvidia-drm\n")
    machine.boot()
    assert machine.read("sys/module/nvidia/version") == "535.274.02\n"
    assert sorted(path.name for path in (machine.root / "sys/module").iterdir()) == [
        "nvidia",
        "nvidia_drm",
        "nvidia_modeset",
    ], "modules-load brings nvidia-drm and what it needs; uvm comes with its first user"
    assert machine.run("modprobe", "nvidia-uvm").rc == 0
    assert machine.run("modprobe", "-r", "nvidia").rc == 0, "the remove line names them all"
    assert not list((machine.root / "sys/module").iterdir())
    assert machine.run("modprobe", "nvidia-current").rc == 0
    assert machine.read("sys/module/nvidia/version") == "535.274.02\n"


# ---------------------------------------------------------------- Secure Boot and the owner's key


def test_key_is_trusted_from_the_boot_after_its_enrolment(machine: Machine) -> None:
    certificate = b"SIMULATED certificate of this machine"
    machine.install(signed=False)
    for path in (machine.root / "lib/modules").rglob("*.ko"):
        key_id = hashlib.sha1(certificate).digest()
        path.write_bytes(path.read_bytes() + binaries.signature(b"DKMS module signing key", key_id))
    machine.boot(secure_boot=True)
    done = machine.run("modprobe", "nvidia")
    assert (done.rc, done.err) == (
        1,
        "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service\n",
    )
    assert "Loading of module with unavailable key is rejected" in machine.read("run/gpulab/kmsg")
    (machine.root / "etc/gpulab/mok/new").mkdir(parents=True)
    (machine.root / "etc/gpulab/mok/new/key.der").write_bytes(certificate)
    assert machine.run("mok-manager").rc == 0
    assert machine.run("modprobe", "nvidia").rc == 1, "the firmware tells the kernel at the next boot"
    machine.boot()
    assert machine.read(VERSION_FILE)
    variable = machine.root / "sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
    assert variable.read_bytes() == b"\x06\0\0\0" + certificate


def test_kernel_of_another_name_gets_nouveau_of_its_own(machine: Machine) -> None:
    machine.boot(nouveau_bound=True)
    path = next((machine.root / "lib/modules").rglob("nouveau.ko"))
    assert f"vermagic={KERNEL} SMP".encode() in path.read_bytes()
    assert path.read_bytes().endswith(b"~Module signature appended~\n")


def test_machine_has_a_maker_and_a_serial_number(machine: Machine) -> None:
    machine.boot()
    table = (machine.root / "sys/firmware/dmi/tables/DMI").read_bytes()
    entry = (machine.root / "sys/firmware/dmi/tables/smbios_entry_point").read_bytes()
    assert entry.startswith(b"_SM3_") and len(entry) == 24 and sum(entry) % 256 == 0
    assert int.from_bytes(entry[12:16], "little") == len(table)
    serial = machine.read("sys/class/dmi/id/product_serial").strip()
    assert serial.startswith("SIM") and serial.encode() in table
    assert machine.read("sys/class/dmi/id/product_name") == "GPU node (SIMULATED)\n"
    machine.boot()
    assert machine.read("sys/class/dmi/id/product_serial").strip() == serial, "it is printed on the case"
