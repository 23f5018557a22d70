"""What a machine is made of: SMBIOS tables, sysfs, NVML."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpuready.observe import hardware, smbios
from gpuready.observe.node import Node
from hypothesis import given
from hypothesis import strategies as st

MACHINE = uuid.UUID("4c4c4544-0037-4310-8058-b7c04f4a3133")


def structure(kind: int, body: bytes, *texts: str) -> bytes:
    """A structure of the table: header, fields, texts."""
    strings = b"".join(text.encode() + b"\0" for text in texts) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), kind) + body + strings + b"\0"


def dimm(size: int, *texts: str, extended: int = 0, speed: int = 3200) -> bytes:
    """A memory module."""
    body = struct.pack("<HHHHHBBBBBHH", 0, 0, 72, 64, size, 9, 0, 1, 0, 0x1A, 0, speed)
    body += struct.pack("<BBBB", 2, 3, 0, 4) + struct.pack("<BIH", 2, extended, speed - 200)
    return structure(17, body, *texts)


TABLE = b"".join(
    [
        structure(0, struct.pack("<BBHB", 1, 2, 0, 3), "Dell Inc.", "1.13.2", "02/26/2025"),
        structure(
            1,
            struct.pack("<BBBB16sB", 1, 2, 0, 3, MACHINE.bytes_le, 6),
            "Dell Inc.",
            "PowerEdge XE9680",
            " 7CXJ1A3 ",
        ),
        structure(2, struct.pack("<BBBB", 1, 2, 0, 3), "Dell Inc.", "0KHNPF", ".7CXJ1A3.CNFCP0044N00AB."),
        structure(
            3, struct.pack("<BBBBB", 1, 0x17, 0, 2, 3), "Dell Inc.", "7CXJ1A3", "To Be Filled By O.E.M."
        ),
        dimm(0x7FFF, "A1", "Hynix", "0123ABCD", "HMCG94AGBRA179N", extended=65536),
        dimm(0, "A2"),
        dimm(16384, "A3", "Samsung", "00000000", "M321R2GA3BB6"),
        # A second system structure says nothing new; firmware has such.
        structure(1, struct.pack("<BBBB16sB", 1, 2, 0, 3, b"\0" * 16, 6), "other", "other", "other"),
        structure(127, b""),
    ]
)
ENTRY = b"_SM3_\0\x18\x03\x04\0\x01\0" + struct.pack("<IQ", len(TABLE), 0)


def test_tables_tell_the_machine() -> None:
    found = smbios.read(TABLE, ENTRY)
    assert (found["vendor"], found["product"], found["serial"]) == (
        "Dell Inc.",
        "PowerEdge XE9680",
        "7CXJ1A3",
    )
    assert found["uuid"] == str(MACHINE)
    assert found["bios"] == {"vendor": "Dell Inc.", "version": "1.13.2", "date": "02/26/2025"}
    assert found["board"]["serial"] == ".7CXJ1A3.CNFCP0044N00AB."
    assert found["asset_tag"] is None, "its maker's placeholder is no answer"


def test_tables_tell_the_memory_that_is_plugged_in() -> None:
    first, second = smbios.read(TABLE, ENTRY)["memory_modules"]
    assert first == {
        "slot": "A1",
        "size_mib": 65536,
        "speed_mts": 3000,
        "vendor": "Hynix",
        "part_number": "HMCG94AGBRA179N",
        "serial": "0123ABCD",
    }
    assert (second["slot"], second["size_mib"], second["serial"]) == ("A3", 16384, None)


@pytest.mark.parametrize(("size", "mib"), [(0x7FFF, 65536), (0x8400, 1), (4096, 4096), (0xFFFF, None)])
def test_size_of_a_memory_module(size: int, mib: int | None) -> None:
    (device,) = smbios.structures(dimm(size, "A1", extended=65536))
    assert smbios.memory_mib(device) == mib


def test_old_tables_write_the_id_in_another_order() -> None:
    assert smbios.machine_uuid(MACHINE.bytes, 2, 4) == str(MACHINE)
    assert smbios.machine_uuid(MACHINE.bytes_le, 2, 6) == str(MACHINE)
    assert smbios.machine_uuid(b"\xff" * 16, 3, 0) is None
    assert smbios.version(b"_SM_\0\x1f\x02\x08") == (2, 8)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(table: bytes) -> None:
    found = smbios.read(table)
    assert set(found) == set(smbios.read(b""))


@given(st.integers(0, len(TABLE)))
def test_table_that_is_cut_off_tells_what_it_has(end: int) -> None:
    assert smbios.read(TABLE[:end], ENTRY)["vendor"] in (None, "Dell Inc.")


def tree(root: Path, files: dict[str, str | bytes]) -> Node:
    """A machine's files."""
    for path, content in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Node(root=str(root), run=lambda _argv: pytest.fail("no command is needed"))


def test_without_tables_the_kernels_copy_is_read(tmp_path: Path) -> None:
    node = tree(
        tmp_path,
        {
            "/sys/class/dmi/id/sys_vendor": "QEMU\n",
            "/sys/class/dmi/id/product_name": "Standard PC (Q35 + ICH9, 2009)\n",
            "/sys/class/dmi/id/product_serial": "Not Specified\n",
            "/sys/class/dmi/id/bios_version": "1.16.2\n",
        },
    )
    found = hardware.machine(node)
    assert (found["vendor"], found["serial"]) == ("QEMU", None)
    assert found["bios"]["version"] == "1.16.2"


def test_machine_with_a_device_tree_is_known_by_it(tmp_path: Path) -> None:
    node = tree(tmp_path, {"/sys/firmware/devicetree/base/model": b"NVIDIA Jetson AGX Orin\0"})
    assert hardware.machine(node)["product"] == "NVIDIA Jetson AGX Orin"


def test_a_machine_that_tells_nothing_is_null_and_no_error(tmp_path: Path) -> None:
    node = tree(tmp_path, {})
    found = hardware.hardware(node)
    assert found["vendor"] is None and found["cpu"] == dict.fromkeys(hardware.CPU_FIELDS)
    assert (found["gpus"], found["nics"], found["disks"]) == ([], [], [])
    assert node.problems == []


def test_processors_network_and_disks(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 9654 96-Core Processor\n"
    }
    for number, (socket, core) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1), (1, 0), (1, 1)]):
        base = f"/sys/devices/system/cpu/cpu{number}/topology"
        files[f"{base}/physical_package_id"], files[f"{base}/core_id"] = f"{socket}\n", f"{core}\n"
    files.update(
        {
            "/sys/class/net/ens1f0/address": "3c:ec:ef:00:00:01\n",
            "/sys/class/net/ens1f0/speed": "25000\n",
            "/sys/class/net/ens1f0/device/vendor": "0x15b3\n",
            "/sys/class/net/ens1f1/address": "3c:ec:ef:00:00:02\n",
            "/sys/class/net/ens1f1/speed": "-1\n",
            "/sys/class/net/ens1f1/device/vendor": "0x15b3\n",
            "/sys/class/net/docker0/address": "02:42:00:00:00:00\n",
            "/sys/class/infiniband/mlx5_0/node_guid": "946d:ae03:0012:3456\n",
            "/sys/class/infiniband/mlx5_0/ports/1/state": "4: ACTIVE\n",
            "/sys/class/infiniband/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
            "/sys/block/nvme0n1/size": "7501476528\n",
            "/sys/block/nvme0n1/device/model": "SAMSUNG MZQL23T8HCLS-00A07             \n",
            "/sys/block/nvme0n1/device/serial": "S64HNE0R000001      \n",
            "/sys/block/loop0/size": "8\n",
            "/sys/block/sr0/size": "2097151\n",
        }
    )
    found = hardware.hardware(tree(tmp_path, files))
    assert found["cpu"] == {
        "model": "AMD EPYC 9654 96-Core Processor",
        "sockets": 2,
        "cores": 4,
        "threads": 8,
    }
    assert [(nic["name"], nic["speed_mbps"]) for nic in found["nics"]] == [
        ("ens1f0", 25000),
        ("ens1f1", None),
    ]
    assert found["infiniband"] == [
        {
            "name": "mlx5_0",
            "port": 1,
            "guid": "946d:ae03:0012:3456",
            "state": "active",
            "rate": "400 Gb/sec (4X NDR)",
        }
    ]
    assert found["disks"] == [
        {
            "name": "nvme0n1",
            "model": "SAMSUNG MZQL23T8HCLS-00A07",
            "serial": "S64HNE0R000001",
            "size_mib": 3662830,
        }
    ]


class Refused(Exception):
    """NVML's own error."""


class Library:
    """NVML with an A100 that tells all and a second GPU that is lost."""

    NVMLError = Refused

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index == 1:
            raise Refused("GPU is lost")
        return "handle"

    def nvmlDeviceGetPciInfo(self, _handle: str) -> Any:
        return SimpleNamespace(busId=b"00000000:3B:00.0")

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:
        return SimpleNamespace(total=80 * 1024**3)

    def nvmlDeviceGetVbiosVersion(self, _handle: str) -> str:
        raise Refused("Not Supported")

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetName": "NVIDIA A100 80GB PCIe",
            "nvmlDeviceGetUUID": b"GPU-1",
            "nvmlDeviceGetSerial": "1322621149674",
            "nvmlDeviceGetBoardPartNumber": "900-21001-0020-000",
            "nvmlDeviceGetCurrPcieLinkGeneration": 1,
            "nvmlDeviceGetCurrPcieLinkWidth": 16,
            "nvmlDeviceGetMaxPcieLinkGeneration": 4,
            "nvmlDeviceGetMaxPcieLinkWidth": 16,
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda _handle: answers[name]


def on_bus(address: str) -> dict[str, str | bytes]:
    base = f"/sys/bus/pci/devices/{address}"
    return {
        f"{base}/vendor": "0x10de\n",
        f"{base}/device": "0x20b5\n",
        f"{base}/class": "0x030200\n",
        f"{base}/current_link_width": "8\n",
        f"{base}/max_link_width": "16\n",
        f"{base}/current_link_speed": "16.0 GT/s PCIe\n",
        f"{base}/max_link_speed": "Unknown\n",
    }


def test_gpus_are_the_drivers_and_those_that_only_the_bus_has(tmp_path: Path) -> None:
    node = tree(tmp_path, {**on_bus("0000:3b:00.0"), **on_bus("0000:86:00.0")})
    library = Library()
    first, lost, other = hardware.gpus(node, library)
    assert library.open == 0, "who holds NVML keeps a driver from being replaced"
    assert (first["pci"], first["uuid"], first["serial"]) == ("0000:3b:00.0", "GPU-1", "1322621149674")
    assert (first["part_number"], first["vbios"], first["memory_total_mib"]) == (
        "900-21001-0020-000",
        None,
        81920,
    )
    assert first["pcie"] == {"generation": 1, "width": 16, "max_generation": 4, "max_width": 16}
    assert (lost["index"], lost["error"]) == (1, "GPU is lost")
    assert (other["index"], other["pci"], other["name"]) == (None, "0000:86:00.0", None)
    assert other["pcie"] == {"generation": 4, "width": 8, "max_generation": None, "max_width": 16}
    assert node.problems == [{"probe": "hardware.nvml", "error": "GPU 1: GPU is lost"}]


def test_every_question_is_pynvmls() -> None:
    """A misspelt one would look like a GPU that does not tell."""
    pynvml = pytest.importorskip("pynvml")
    source = Path(hardware.__file__).read_text(encoding="utf-8")
    asked = set(re.findall(r"\b(nvml(?:Device|Init|Shutdown)\w*)", source))
    assert len(asked) > 10
    assert [name for name in asked if not hasattr(pynvml, name)] == []


def test_host_keys_are_told_by_their_fingerprints(tmp_path: Path) -> None:
    blob = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + b"k" * 32
    line = b"ssh-ed25519 " + base64.b64encode(blob) + b" root@gpu17\n"
    node = tree(
        tmp_path, {"/etc/ssh/ssh_host_ed25519_key.pub": line, "/etc/ssh/ssh_host_rsa_key.pub": "broken\n"}
    )
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert hardware.host_keys(node) == [f"SHA256:{digest}"]
