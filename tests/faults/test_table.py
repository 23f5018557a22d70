"""The table itself: whole, in step with the knowledge that it expects, and with the README. Needs no lab."""

from __future__ import annotations

import re

import faulttable
import pytest
from conftest import TABLE

#: What issue 4 names, and the faults that answer it.
ASKED_FOR = {
    "--gpus forgotten": "gpus-forgotten",
    "toolkit not installed": "toolkit-not-installed",
    "installed but dockerd not restarted": "toolkit-unknown-to-dockerd",
    "runtime missing from daemon.json": "runtime-missing",
    "daemon.json broken": "daemon-json-broken",
    "daemon.json empty": "daemon-json-empty",
    "daemon.json with a BOM": "daemon-json-bom",
    "conflicting hosts": "daemon-json-hosts",
    "snap": "docker-snap",
    "rootless": "docker-rootless",
    "Docker not running": "docker-stopped",
    "CDI spec missing": "cdi-missing",
    "CDI spec stale": "cdi-stale",
    "wrong uvm major": "cdi-wrong-uvm",
    "hook removed": "hook-removed",
    "legacy nvidia-docker2": "legacy-nvidia-docker2",
    "Signed-By conflict": "signed-by-conflict",
    "key expired": "key-expired",
    "held packages": "package-held",
    "half-configured packages": "half-configured",
    "driver not installed": "driver-not-installed",
    "driver older than 460.27": "recorded-old-driver",
    "driver older than the image's floor": "driver-below-the-images-floor",
    "module not loaded": "module-unloaded",
    "module for another kernel": "module-for-another-kernel",
    "headers missing": "kernel-headers-missing",
    "DKMS failed": "dkms-build-failed",
    "Secure Boot rejects the module": "secure-boot",
    "nouveau bound": "nouveau-bound",
    "library ≠ module": "library-newer-than-module",
    "open flavour on Volta": "open-modules-on-volta",
    "proprietary on Blackwell": "proprietary-modules-on-blackwell",
    "legacy GPU on a new branch": "legacy-gpu-on-a-new-branch",
    "GPU off the bus": "gpu-off-the-bus",
    "Xid in the log": "xid-gsp",
    "uvm missing": "uvm-missing",
    "device nodes missing": "device-nodes-missing",
    "device nodes not permitted": "device-nodes-forbidden",
    "fabric manager missing": "fabricmanager-removed",
    "fabric manager of another version": "fabricmanager-of-another-version",
    "MIG on without instances": "mig-without-instances",
    "GPU lost after daemon-reload": "gpu-lost-after-daemon-reload",
    "CUDA_VISIBLE_DEVICES empty": "tensorflow-cuda-visible-devices-empty",
    "CUDA_VISIBLE_DEVICES -1": "cuda-visible-devices-minus-one",
    "cuDNN missing": "tensorflow-cudnn-missing",
    "cuDNN older than the build": "recorded-cudnn-older",
    "LD_LIBRARY_PATH overridden": "tensorflow-library-path-overridden",
    "stub libcuda first": "tensorflow-stub-libcuda",
    "CPU-only TF wheel": "recorded-tensorflow-cpu",
    "CPU-only torch wheel": "torch-without-cuda",
    "wheel without the GPU's architecture": "recorded-torch-architecture",
    "compat library on GeForce (804)": "compat-library-on-geforce",
    "disk full while pulling": "disk-full",
    "registry down": "registry-down",
    "registry untrusted": "registry-untrusted",
    "image for another architecture": "image-of-another-architecture",
    "memory exhausted, mistaken for no GPU": "recorded-gpu-memory",
}


def test_every_fault_of_the_issue_is_in_the_table() -> None:
    assert len(TABLE.faults) >= 40
    assert set(ASKED_FOR.values()) - set(TABLE.faults) == set()


def test_there_are_enough_pairs() -> None:
    assert len(TABLE.pairs) >= 30
    assert len({frozenset((one.id, other.id)) for one, other in TABLE.pairs}) == len(TABLE.pairs)
    assert len({fault.id for pair in TABLE.pairs for fault in pair}) >= 25, "the same faults again and again"


def test_what_is_safe_is_repaired_by_a_run() -> None:
    """A fault that a run should repair is in a group, or repaired at once; a transcript has no node."""
    unproven = [
        fault.id
        for fault in TABLE.faults.values()
        if fault.repair != "manual"
        and not (fault.repaired_by_a_run or fault.by_hand or fault.how == "recorded")
    ]
    assert unproven == []


def test_what_is_recorded_says_so() -> None:
    for fault in TABLE.faults.values():
        assert fault.injects.startswith("recorded: ") == (fault.how == "recorded"), fault.id


@pytest.mark.parametrize("fault", TABLE.faults.values(), ids=lambda fault: fault.id)
def test_expected_cause_is_known_with_this_layer_and_repair(fault: faulttable.Fault) -> None:
    from gpuready.diagnosis.knowledge import load_knowledge

    causes = load_knowledge().causes
    assert fault.cause in causes, (
        f"no such cause; near: {[name for name in causes if name[:6] == fault.cause[:6]]}"
    )
    known = causes[fault.cause]
    assert known.layer == fault.layer
    # What repairs it on a node is read from its plan; what nobody but a person repairs, no plan does.
    assert (known.repair == "manual") <= (fault.repair == "manual")
    assert (fault.repair == "manual") <= (known.repair == "manual" or bool(fault.by_hand))


def test_readme_has_the_table() -> None:
    """Write it with ``python tests/faults/faulttable.py``."""
    assert faulttable.README.read_text(encoding="utf-8") == faulttable.readme(TABLE)


def test_scripts_are_sound_shell() -> None:
    import subprocess

    for fault in TABLE.faults.values():
        for text in (fault.inject, fault.then, fault.undo, fault.says):
            script = f"{TABLE.functions}\n{text}"
            done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{fault.id}: {done.stderr}"


def test_ids_are_words() -> None:
    for name in TABLE.faults:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name


ROW = {"id": "a", "injects": "x", "cause": "b", "layer": "host", "repair": "safe", "node": "engine"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": "a"}, "without cause"),
        ({"id": "a", "color": "red"}, "unknown keys: color"),
        ({"cause": "b"}, "a mapping with an id"),
        ({**ROW, "layer": "moon"}, "layer is 'moon'"),
        (ROW, "nothing is injected"),
        ({**ROW, "repair": "manual", "inject": "true", "group": "g"}, "what a person must repair"),
        ({**ROW, "node": "text", "transcript": "no.txt"}, "no transcript"),
    ],
)
def test_bad_rows_are_refused(row: dict[str, str], says: str) -> None:
    with pytest.raises(faulttable.TableError, match=says):
        faulttable._fault(row, TABLE.nodes)
