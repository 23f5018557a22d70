"""System, kernels, Secure Boot, PCI devices, nouveau."""

from __future__ import annotations

import os
import time

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


def test_debian_s_headers_need_their_shared_half_and_kbuild(machine):
    tree, common = "/usr/src/linux-headers-6.1.0-50-cloud-amd64", "/usr/src/linux-headers-6.1.0-50-common"
    machine.write(tree + "/Makefile", f"include {common}/Makefile\n")
    machine.link(tree + "/scripts", "../../lib/linux-kbuild-6.1/scripts")
    machine.link("/lib/modules/6.1.0-50-cloud-amd64/build", tree)
    assert host.kernels_with_headers(machine.node) == []
    machine.write(common + "/Makefile")
    assert host.kernels_with_headers(machine.node) == []
    machine.mkdir("/usr/lib/linux-kbuild-6.1/scripts")
    assert host.kernels_with_headers(machine.node) == ["6.1.0-50-cloud-amd64"]


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
    assert host.initramfs(machine.node, "5.15.0-157-generic", []) == {
        "present": True,
        "tool": "/usr/sbin/update-initramfs",
        "stale": False,
    }
    missing = host.initramfs(machine.node, "5.15.0-158-generic", [])
    assert missing["present"] is False and missing["stale"] is None
    assert host.initramfs(machine.node, None, [])["present"] is None
    assert host.initramfs(machine.node, "5.15.0-157-generic", None)["stale"] is None


def test_initramfs_is_stale_when_the_blacklist_is_newer(machine):
    """A package's file has its build's time: when it came to the node is what counts."""
    kernel, blacklist = "5.15.0-157-generic", "/etc/modprobe.d/nouveau.conf"
    image = machine.write("/boot/initrd.img-" + kernel)
    time.sleep(0.02)
    os.utime(machine.write(blacklist, "blacklist nouveau\n"), (1000, 1000))
    assert host.initramfs(machine.node, kernel, ["/proc/cmdline", blacklist])["stale"] is True
    assert host.initramfs(machine.node, kernel, ["/proc/cmdline"])["stale"] is False
    assert host.initramfs(machine.node, kernel, ["/etc/modprobe.d/gone.conf"])["stale"] is False
    time.sleep(0.02)
    image.write_text("made anew")
    assert host.initramfs(machine.node, kernel, [blacklist])["stale"] is False
    # Debian leads there by links, which its alternatives set later.
    time.sleep(0.02)
    machine.link("/etc/modprobe.d/linked.conf", "nouveau.conf")
    assert host.initramfs(machine.node, kernel, ["/etc/modprobe.d/linked.conf"])["stale"] is True


SHIM, DKMS_KEY = "/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub"


@pytest.mark.parametrize(
    ("system", "files", "expected"),
    [
        ("ubuntu", [SHIM, DKMS_KEY], SHIM),
        ("debian", [SHIM, DKMS_KEY], DKMS_KEY),
        ("debian", [SHIM], SHIM),
        ("ubuntu", [], None),
        (None, [DKMS_KEY], DKMS_KEY),
    ],
)
def test_mok_key_is_the_one_that_dkms_signs_with(machine, system, files, expected):
    for path in files:
        machine.write(path, b"\x30\x82")
    assert host.mok(machine.node, system, False) == {"key": expected, "enrolled": None}
    assert machine.asked == []


def test_mok_key_may_be_set_in_dkms_s_own_configuration(machine):
    machine.write(DKMS_KEY, b"x")
    machine.write("/srv/key.der", b"x")
    machine.write("/etc/dkms/framework.conf", "# mok_certificate=/no\nmok_certificate=/gone.der\n")
    machine.write("/etc/dkms/framework.conf.d/site.conf", 'mok_certificate="/srv/key.der"\n')
    assert host.mok_key(machine.node, "debian") == "/srv/key.der"


@pytest.mark.parametrize(
    ("said", "rc", "expected"),
    [
        (f"{SHIM} is already enrolled\n", 1, True),
        (f"{SHIM} is already in db\n", 1, True),
        (f"{SHIM} is already in the built-in trusted keyring\n", 1, True),
        (f"{SHIM} is already in MokListX\n", 1, False),
        (f"{SHIM} is not enrolled\n", 0, False),
        (f"{SHIM} is already in the enrollment request\n", 1, False),
    ],
)
@pytest.mark.parametrize("secure_boot", [True, None])
def test_mokutil_is_asked_unless_secure_boot_is_off(machine, said, rc, expected, secure_boot):
    machine.write(SHIM, b"x")
    machine.answer("mokutil --test-key " + SHIM, said, rc=rc)
    assert host.mok(machine.node, "ubuntu", secure_boot) == {"key": SHIM, "enrolled": expected}


def test_mokutil_that_cannot_tell_is_quoted(machine):
    machine.write(SHIM, b"x")
    machine.answer("mokutil", err="EFI variables are not supported on this system\n", rc=255)
    node = machine.node
    assert host.mok(node, "ubuntu", True) == {"key": SHIM, "enrolled": None}
    assert node.problems[0]["probe"] == "host.mok" and "EFI variables" in node.problems[0]["error"]


def test_without_mokutil_the_firmware_s_list_is_searched(machine):
    machine.write(SHIM, b"certificate")
    node = machine.node
    assert host.mok(node, "ubuntu", True)["enrolled"] is None
    assert node.problems == [{"probe": "host.mok", "error": "mokutil is not installed"}]
    machine.write(host.MOK_LIST, b"\x06\0\0\0header another")
    assert host.mok(machine.node, "ubuntu", True)["enrolled"] is False
    machine.write(host.MOK_LIST, b"\x06\0\0\0header certificate another")
    assert host.mok(machine.node, "ubuntu", True)["enrolled"] is True


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
