"""Injecting the faults of the table into a lab node, asking for the diagnosis, and undoing them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faulttable import RECORDED, Fault, NodeProfile, Table
from kit import BIN, ROOT
from kit.nodes import Node
from kit.runs import Player, Run

sys.path.insert(0, str(ROOT / "tests" / "lab"))

from gpulab import keys

PRINTED_SECONDS = 90
#: Twice what the slowest container needs.
EXITED_SECONDS = 30

#: NVIDIA's stub of libcuda: every call answers CUDA_ERROR_STUB_LIBRARY.
STUB = """
#define STUB(name) int name(void) { return 34; }
STUB(cuInit) STUB(cuDriverGetVersion) STUB(cuDeviceGetCount) STUB(cuDeviceGet)
#define TEXT(name, text) int name(int code, const char **out) { *out = text; return code != 34; }
TEXT(cuGetErrorName, "CUDA_ERROR_STUB_LIBRARY")
TEXT(cuGetErrorString, "CUDA driver is a stub library")
"""


@dataclass
class Diagnosis:
    """What was answered, and how long it took."""

    answer: dict[str, Any]
    seconds: float
    said: str = ""

    @property
    def causes(self) -> list[dict[str, Any]]:
        """The causes, the root first."""
        return list(self.answer["causes"])

    @property
    def names(self) -> list[str]:
        """Their ids."""
        return [cause["cause"] for cause in self.causes]

    @property
    def roots(self) -> list[str]:
        """The ids of those that are named as faults, and not as an alternative."""
        return [cause["cause"] for cause in self.causes if cause["standing"] == "root"]

    def of(self, cause: str) -> dict[str, Any]:
        """One cause's entry."""
        (found,) = (row for row in self.causes if row["cause"] == cause)
        return found

    def summary(self) -> str:
        """For a failing test: what was said, in short."""
        rows = []
        for row in self.causes:
            follows = [one.get("cause") or one.get("message") for one in row["consequences"]]
            what = f"{row['layer']}/{row['link']}, {row['repair']}, {row['confidence']}"
            rows.append(f"{row['standing']} {row['cause']} ({what}): {row['evidence'][:3]} then {follows}")
        chain = [f"{link['link']}={link['state']}" for link in self.answer["chain"]]
        return "\n".join(
            [
                f"status {self.answer['status']}, first broken: {self.answer['first_broken']}",
                *rows,
                " ".join(chain),
            ]
            + [f"unexplained: {line}" for line in self.answer["unexplained"]]
        )


@dataclass
class Record:
    """One line of the benchmark."""

    kind: str  # single | pair | healthy | repair
    id: str
    expected: list[str]
    named: list[str] = field(default_factory=list)
    first: bool = False
    top_three: bool = False
    repaired: bool | None = None
    seconds: float = 0.0
    engine_seconds: float = 0.0
    recorded: bool = False


class Recorder:
    """Writes the benchmark's lines, if somebody asked for them."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None

    def write(self, record: Record) -> None:
        """Add one line."""
        if self.path:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(record)) + "\n")


def diagnose_text(text: str) -> Diagnosis:
    """What the console says about a text, in a fresh process as a person would start it."""
    started = time.monotonic()
    done = subprocess.run(
        [BIN / "gpuready", "diagnose", "--json", "-"], input=text, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - started
    assert done.returncode in (0, 2, 3), f"{done.returncode}: {done.stdout}{done.stderr}"
    answer = json.loads(done.stdout)
    expected = {"healthy": 0, "cause_found": 2, "unknown": 3}[answer["status"]]
    assert done.returncode == expected, f"{answer['status']} is {expected}, not {done.returncode}"
    return Diagnosis(answer, seconds, text)


def transcript(fault: Fault) -> str:
    """A recorded fault's text."""
    return (RECORDED / fault.transcript).read_text(encoding="utf-8")


@dataclass
class FaultLab:
    """One node, and what may be done to it."""

    profile: NodeProfile
    table: Table
    node: Node
    runs: Player
    image: str

    # ------------------------------------------------------------ injecting

    def script(self, text: str, fault: Fault | None = None, *, check: bool = True) -> str:
        """Run a script of the table on the node."""
        head = f"CONTAINER={fault.container_name}\n" if fault and fault.container else ""
        return self.node.sh(f"{self.table.functions}\n{head}{text}", check=check)

    def inject(self, fault: Fault) -> None:
        """Break it."""
        if fault.keys:
            self.node.write("/root/expired.asc", expired_key(fault.keys))
        if fault.stub:
            self._put_stub()
        if fault.inject:
            self.script(fault.inject, fault)
        if fault.hardware:
            self.node.fault(*(f"{name}={json.dumps(value)}" for name, value in fault.hardware.items()))
        if fault.reboot:
            self.node.reboot()
        if fault.container:
            self._start(fault)
        if fault.then:
            self.script(fault.then, fault)

    def _start(self, fault: Fault) -> None:
        name = fault.container_name
        words = f"{fault.options} {fault.container}".replace("{image}", self.image).strip()
        # What does not start is what some of them are about.
        self.node.sh(f"docker rm -f {name} >/dev/null 2>&1; docker run -d --name {name} {words}", check=False)
        if fault.wait == "printed":
            self.node.wait(
                lambda: "]" in self.node.sh(f"docker logs {name} 2>/dev/null"), "print", PRINTED_SECONDS
            )
        if fault.wait == "exited":
            over = f"[ $(docker inspect -f '{{{{.State.Running}}}}' {name}) = false ]"
            self.node.wait(lambda: self.node.holds(over), "end", EXITED_SECONDS)

    def undo(self, fault: Fault) -> None:
        """Take it back by hand."""
        if fault.container:
            self.node.sh(f"docker rm -f {fault.container_name} >/dev/null 2>&1 || true")
        if fault.hardware:
            self.node.fault(*(f"{name}=null" for name in fault.hardware))
        if fault.reboot_after:
            self.node.reboot()
        if fault.undo:
            self.script(fault.undo, fault)

    def undo_all(self, faults: Sequence[Fault]) -> None:
        """Take several back, the last one first; what cannot be taken back does not keep the others."""
        failed: list[str] = []
        for fault in reversed(faults):
            try:
                self.undo(fault)
            except RuntimeError as error:
                failed.append(f"{fault.id}: {error}")
        assert not failed, failed
        if self.profile.converged:
            assert self.is_whole(), f"undoing {', '.join(fault.id for fault in faults)} has left something"

    def tidy(self, faults: Iterable[Fault]) -> None:
        """Remove what a repair by a run leaves: the containers, and what the table's scripts kept."""
        for fault in faults:
            if fault.container:
                self.node.sh(f"docker rm -f {fault.container_name} >/dev/null 2>&1 || true")
        self.node.sh("rm -rf /root/fault-*")

    def _put_stub(self) -> None:
        """Compile the stub here, where the lab's compiler is, and put it on the node."""
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "libcuda.so"
            subprocess.run(
                [
                    "gcc",
                    "-shared",
                    "-fPIC",
                    "-x",
                    "c",
                    "-",
                    "-o",
                    library,
                    "-Wl,-soname,libcuda.so.1",
                    "-nostdlib",
                ],
                input=STUB,
                text=True,
                check=True,
            )
            packed = base64.b64encode(library.read_bytes()).decode()
        self.node.sh(
            "mkdir -p /root/fault-stubs && base64 -d > /root/fault-stubs/libcuda.so.1 "
            "&& ln -sf libcuda.so.1 /root/fault-stubs/libcuda.so",
            stdin=packed,
        )

    # ------------------------------------------------------------ asking

    def diagnose(self, *faults: Fault) -> Diagnosis:
        """What the diagnosis says about the node, or about the container of one of the faults."""
        texts = [fault for fault in faults if fault.how == "text"]
        if texts:
            return diagnose_text(self.node.sh(texts[0].says))
        variables = self.wishes(*faults)
        names = [fault.container_name for fault in faults if fault.container]
        if names:
            variables["container"] = names[0]
        run = self.runs("playbooks/diagnose.yml", variables=variables)
        return self.read(run)

    def read(self, run: Run) -> Diagnosis:
        """The diagnosis in a run's report."""
        try:
            answer = run.node(self.node.name)["diagnosis"]
        except (FileNotFoundError, KeyError) as error:
            raise AssertionError(f"no diagnosis in the report ({error}): {run.output}") from error
        assert answer, run.output
        return Diagnosis(answer, run.seconds, run.output)

    @staticmethod
    def wishes(*faults: Fault) -> dict[str, Any]:
        """The wishes that the faults need."""
        return {name: value for fault in faults for name, value in fault.wishes.items()}

    def provision(self, variables: dict[str, Any] | None = None) -> Run:
        """Let gpuready do its main job, verification included; it must succeed."""
        run = self.runs("site.yml", variables=variables or {})
        assert run.rc == 0, run.output
        return run

    def is_whole(self) -> bool:
        """Whether the GPU is there on the node and in a container: the undoing has undone."""
        return self.node.holds("nvidia-smi -L | grep -q UUID && docker info | grep -q nvidia")


def expired_key(archive: str) -> str:
    """An archive's own public key, as if its owner had once given it an end."""
    home = keys.gpg_home(archive)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "gpg"
        subprocess.run(["cp", "-a", home, copy], check=True)
        command = ["gpg", "--homedir", str(copy), "--batch", "--no-tty", "--quiet"]
        fingerprint = (copy / "fingerprint").read_text(encoding="utf-8").strip()
        # As if its owner had said right after making it that it ends a minute later.
        made = subprocess.run(
            [*command, "--with-colons", "--list-keys"], capture_output=True, text=True, check=True
        ).stdout
        created = int(next(line.split(":")[5] for line in made.splitlines() if line.startswith("pub:")))
        subprocess.run(
            [
                *command, "--pinentry-mode", "loopback", "--passphrase", "",
                "--faked-system-time", str(created + 1), "--quick-set-expire", fingerprint, "seconds=60",
            ],
            check=True,
        )  # fmt: skip
        done = subprocess.run(
            [*command, "--armor", "--export", fingerprint], capture_output=True, text=True, check=True
        )
        subprocess.run(["gpgconf", "--homedir", str(copy), "--kill", "gpg-agent"], check=False)
        return done.stdout
