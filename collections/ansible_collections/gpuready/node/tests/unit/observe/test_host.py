"""System, kernels, Secure Boot, PCI devices, nouveau."""

from __future__ import annotations

import pytest
from gpuready.observe import host, nouveau, pci
from gpuready.observe.node import ProbeError

EFI = "/sys/firmware/efi/efivars/{}-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'ID=ubuntu\nVERSION_ID="22.04"\nVERSION_CODENAME=jammy\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            ("ubuntu", "22.04", "jammy"),
        ),
        (
            "# remark\n\nID=debian\nVERSION_ID='12'\nVERSION_CODENAME=bookworm\r\n",
            ("debian", "12", "bookworm"),
        ),
        ('ID=ubuntu\nVERSION_ID="20.04\nUBUNTU_CODENAME=focal\n', ("ubuntu", "20.04", "focal")),
        ("PRETTY_NAME=x\n", (None, None, None)),
    ],
)
def test_os_release_is_read_as_a_shell_would(machine, text, expected):
    machine.write("/usr/lib/os-release", text)
    machine.link("/etc/os-release", "../usr/lib/os-release")
    found = host.os_release(machine.node)
    assert (found["id"], found["version_id"], found["codename"]) == expected


def test_missing_os_release_is_an_error(machine):
    with pytest.raises(ProbeError, match="os-release"):
        host.os_release(machine.node)


def test_next_boot_is_the_newest_kernel_in_boot(machine):
    for name in (
        "vmlinuz-5.15.0-99-generic",
        "vmlinuz-5.15.0-157-generic",
        "vmlinuz-5.15.0-157-generic.efi.signed",
        "vmlinuz-5.15.0-200-generic.dpkg-new",
        "vmlinuz-5.15.0-300-generic.old",
        "config-6.8.0-1-generic",
    ):
        machine.write("/boot/" + name)
    machine.link("/boot/vmlinuz", "vmlinuz-5.15.0-99-generic")
    machine.link("/boot/vmlinuz-9.9.9-1-gone", "nowhere")
    machine.write("/proc/sys/kernel/osrelease", "5.15.0-99-generic\n")
    found = host.kernel(machine.node)
    assert found["next_boot"] == "5.15.0-157-generic"
    assert found["installed"] == ["5.15.0-99-generic", "5.15.0-157-generic"]
    assert found["running"] == "5.15.0-99-generic"


def test_container_without_boot_has_no_next_kernel(machine):
    assert host.kernel(machine.node)["next_boot"] is None


def test_headers_count_only_when_they_can_build(machine):
    machine.write("/usr/src/linux-headers-5.15.0-157-generic/Makefile")
    machine.link("/lib/modules/5.15.0-157-generic/build", "/usr/src/linux-headers-5.15.0-157-generic")
    machine.link("/lib/modules/5.15.0-99-generic/build", "/usr/src/linux-headers-5.15.0-99-generic")
    machine.write("/usr/src/linux-headers-5.15.0-157/Makefile")  # the shared half
    machine.write("/usr/src/linux-headers-6.1.0-50-common/Makefile")
    machine.mkdir("/usr/src/linux-headers-6.1.0-49-cloud-amd64")
    machine.write("/usr/src/linux-headers-6.1.0-50-cloud-amd64/Makefile")
    assert host.kernels_with_headers(machine.node) == ["5.15.0-157-generic", "6.1.0-50-cloud-amd64"]


@pytest.mark.parametrize(
    ("secure", "setup", "expected"),
    [
        (b"\x06\0\0\0\x01", b"\x06\0\0\0\x00", True),
        (b"\x06\0\0\0\x00", b"\x06\0\0\0\x00", False),
        (b"\x06\0\0\0\x01", b"\x06\0\0\0\x01", False),  # setup mode: nothing is enforced
        (b"\x06\0\0\0\x01", None, True),
        (b"\x06\0", None, None),
        (None, None, None),
    ],
)
def test_secure_boot_reads_the_byte_after_the_attributes(machine, secure, setup, expected):
    machine.mkdir("/sys/firmware/efi/efivars")
    if secure is not None:
        machine.write(EFI.format("SecureBoot"), secure)
    if setup is not None:
        machine.write(EFI.format("SetupMode"), setup)
    assert host.secure_boot(machine.node) is expected


def test_machine_without_efi_has_no_secure_boot(machine):
    assert host.secure_boot(machine.node) is False


def test_unmounted_efivars_are_unknown_and_reported(machine):
    machine.mkdir("/sys/firmware/efi")
    node = machine.node
    assert host.secure_boot(node) is None
    assert node.problems[0]["probe"] == "host.secure_boot"


def test_initramfs_of_the_next_kernel(machine):
    machine.program("/usr/sbin/update-initramfs")
    machine.write("/boot/initrd.img-5.15.0-157-generic")
    assert host.initramfs(machine.node, "5.15.0-157-generic") == {
        "present": True,
        "tool": "/usr/sbin/update-initramfs",
    }
    assert host.initramfs(machine.node, "5.15.0-158-generic")["present"] is False
    assert host.initramfs(machine.node, None)["present"] is None


def _a100(machine, **changes):
    files = {
        "vendor": "0x10de",
        "device": "0x20B5",
        "class": "0x030200",
        "subsystem_vendor": "0x10de",
        "subsystem_device": "0x1533",
    }
    machine.pci("0000:3b:00.0", **{**files, **changes})


def test_gpus_are_nvidia_s_display_and_3d_controllers(machine):
    _a100(machine, driver="nouveau")
    machine.pci("0000:00:02.0", vendor="0x8086", device="0x9a49", **{"class": "0x030000"})
    machine.pci("0000:3b:00.1", vendor="0x10de", device="0x1aef", **{"class": "0x040300"})  # its sound device
    machine.pci("0000:af:00.0", vendor="0x10de", device="0x1af1", **{"class": "0x068000"})
    machine.pci("0000:bb:00.0", vendor="0x10de", device="0x1eb8", **{"class": "0x030000"})
    found = pci.nvidia_devices(machine.node)
    assert pci.gpus(found) == [
        {
            "pci": "0000:3b:00.0",
            "vendor_id": "10de",
            "device_id": "20b5",
            "subsystem_id": "10de:1533",
            "class": "030200",
            "driver_bound": "nouveau",
            "name": None,
            "chip": None,
            "arch": None,
        },
        {
            "pci": "0000:bb:00.0",
            "vendor_id": "10de",
            "device_id": "1eb8",
            "subsystem_id": None,
            "class": "030000",
            "driver_bound": None,
            "name": None,
            "chip": None,
            "arch": None,
        },
    ]
    assert pci.nvswitches(found) == [{"pci": "0000:af:00.0", "vendor_id": "10de", "device_id": "1af1"}]


def test_machine_without_pci_has_no_gpu(machine):
    assert pci.gpus(pci.nvidia_devices(machine.node)) == []


@pytest.mark.parametrize(
    ("text", "blocked"),
    [
        ("blacklist nouveau\n", True),
        ("  blacklist   nouveau # no\n", False),  # modprobe knows no remark after a value
        ("# blacklist nouveau\n", False),
        ("blacklist nouveau_x\n", False),
        ("blacklist \\\n nouveau\n", True),
        ("install nouveau /bin/false\n", True),
        ("install nouveau /usr/bin/true\n", True),
        ("install nouveau /sbin/modprobe --ignore-install nouveau\n", False),
        ("options nouveau modeset=0\n", True),
        ("options nouveau debug=1 modeset=0\n", True),
        ("options nouveau modeset=1\n", False),
        ("alias nouveau off\n", False),
        ("", False),
    ],
)
def test_modprobe_configuration_that_keeps_nouveau_away(text, blocked):
    assert nouveau.blocks_nouveau(text) is blocked


def test_file_of_the_same_name_in_etc_masks_the_packaged_one(machine):
    machine.write("/lib/modprobe.d/nvidia.conf", "blacklist nouveau\n")
    machine.write("/etc/modprobe.d/nvidia.conf", "# emptied by the owner\n")
    machine.write("/etc/modprobe.d/readme.txt", "blacklist nouveau\n")
    assert nouveau.nouveau(machine.node) == {"loaded": False, "blacklisted": False, "files": []}


def test_nouveau_loaded_although_blacklisted(machine):
    machine.mkdir("/sys/module/nouveau")
    machine.link("/lib", "usr/lib")
    machine.write(
        "/usr/lib/modprobe.d/nvidia-graphics-drivers.conf", "blacklist nouveau\nblacklist lbm-nouveau\n"
    )
    machine.write("/etc/modprobe.d/gpuready.conf", "blacklist nouveau\n")
    found = nouveau.nouveau(machine.node)
    assert found["loaded"] and found["blacklisted"]
    assert found["files"] == [
        "/etc/modprobe.d/gpuready.conf",
        "/usr/lib/modprobe.d/nvidia-graphics-drivers.conf",
    ]


@pytest.mark.parametrize(
    ("cmdline", "blocked"),
    [
        ("ro quiet modprobe.blacklist=nouveau", True),
        ("modprobe.blacklist=floppy,nouveau,pcspkr ro", True),
        ("nouveau.modeset=0", True),
        ("module_blacklist=nouveau", True),
        ("nouveau.modeset=1 blacklist=nouveau", False),
        ("modprobe.blacklist=nouveaux", False),
    ],
)
def test_kernel_command_line_counts(machine, cmdline, blocked):
    machine.write("/proc/cmdline", f"BOOT_IMAGE=/vmlinuz {cmdline}\n")
    assert nouveau.nouveau(machine.node)["blacklisted"] is blocked
