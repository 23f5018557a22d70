"""gpu_chain_probe: the script in real shells, its answers as facts, Docker as recorded, nothing left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from gpuready import chain_probe, chain_python, secrecy
from gpuready.chain_probe import MARKER, Answer, Prober

SHELLS = [
    words
    for words in (["dash"], ["bash", "--posix"], ["bash"], ["busybox", "sh"], ["sh"])
    if shutil.which(words[0])
]


def say(*lines: str) -> str:
    return "".join(f"{MARKER} {line}\n" for line in lines)


def python(name: str, answer: Any) -> str:
    return f"{chain_probe.PYTHON_MARKER} {name} {json.dumps(answer)}\n"


# -- the script ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS, ids=["-".join(words) for words in SHELLS])
def test_script_runs_in_any_shell(shell, tmp_path):
    stub = tmp_path / "with space"
    stub.mkdir()
    (stub / "libcuda.so.550.1").write_text("")
    (stub / "libcuda.so.1").symlink_to("libcuda.so.550.1")
    environment = {
        "PATH": os.environ["PATH"],
        "CUDA_VISIBLE_DEVICES": "-1",
        "NVIDIA_VISIBLE_DEVICES": "",
        "LD_LIBRARY_PATH": f"/nowhere::{stub}",
        "SECRET_TOKEN": "hidden",
    }
    answer = subprocess.run(
        [*shell, "-c", chain_probe.SCRIPT, "marker", "print('GPUREADY-PYTHON survey {}')"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stderr == "" and "hidden" not in answer.stdout
    facts = chain_probe.parse(answer.stdout)
    assert facts["ended"] and facts["python"] == {}
    assert facts["env"]["CUDA_VISIBLE_DEVICES"] == "-1" and facts["env"]["NVIDIA_VISIBLE_DEVICES"] == ""
    assert facts["libcuda"]["path"] == str(stub / "libcuda.so.550.1")
    assert facts["libcuda"]["version"] == "550.1"


@pytest.mark.parametrize("shell", SHELLS, ids=["-".join(words) for words in SHELLS])
def test_script_needs_nothing_but_a_shell(shell, tmp_path):
    """An image without ldconfig, python, timeout, readlink: the shell's own words are enough."""
    path = shutil.which(shell[0])
    answer = subprocess.run(
        [str(path), *shell[1:], "-c", chain_probe.SCRIPT, "marker", ""],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    facts = chain_probe.parse(answer.stdout)
    assert facts["ended"] and facts["device_nodes"] is not None
    assert facts["nvidia_smi"] == {"found": False, "ok": None, "error": None, "driver_version": None}
    assert facts["cuda_init"] is None


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("ok", "ok"),
        ("sh: 1: cannot open /dev/nvidia0: Operation not permitted", "denied"),
        ("sh: can't open /dev/nvidia0: Operation not permitted", "denied"),
        ("sh: line 5: /dev/nvidia0: Permission denied", "no_permission"),
        ("sh: 1: cannot open /dev/nvidia0: No such device or address", "no_driver"),
        ("sh: 1: cannot open /dev/nvidia0: No such device", "no_driver"),
        ("sh: 1: cannot open /dev/nvidia0: No such file", "missing"),
        ("sh: 1: cannot open /dev/nvidia0: Device or resource busy", "ok"),
    ],
)
def test_shell_s_words_about_a_device(said, state):
    facts = chain_probe.parse(say("begin", f"device /dev/nvidia0 {said}", "devices"))
    assert facts["device_access"]["/dev/nvidia0"] == state
    assert facts["device_access"]["/dev/nvidia-uvm"] == "missing"
    assert facts["device_nodes"] == ["/dev/nvidia0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a file mode holds nobody back who is root")
def test_root_is_not_refused_by_a_mode(tmp_path):
    assert chain_probe.access("") == "ok"


def test_script_that_was_cut_leaves_the_rest_unknown():
    facts = chain_probe.parse(say("begin", "env CUDA_VISIBLE_DEVICES=0"))
    assert facts["device_nodes"] is None and facts["proc_driver_version"] is None
    assert facts["libcuda"] is None and facts["nvidia_smi"] is None and facts["ended"] is False


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["no_driver"], False),
        (
            ["driver NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"],
            "580.95.05",
        ),
        (["driver NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May"], "470.256.02"),
        ([], None),
    ],
)
def test_driver_as_the_container_sees_it(lines, version):
    assert chain_probe.parse(say("begin", *lines))["proc_driver_version"] == version


LDCONFIG = "library \tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1"
DEFAULT = "by_default /usr/lib/x86_64-linux-gnu/libcuda.so.1 /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05"


@pytest.mark.parametrize(
    ("out", "libcuda"),
    [
        (say("begin", "ldconfig", "end"), False),
        (say("begin"), None),
        (
            say("begin", LDCONFIG, "ldconfig", DEFAULT, "end"),
            {
                "path": "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",
                "version": "580.95.05",
                "kind": "driver",
            },
        ),
        (
            say(
                "begin",
                LDCONFIG,
                "on_path /usr/local/cuda/lib64/stubs/libcuda.so",
            ),
            {"path": "/usr/local/cuda/lib64/stubs/libcuda.so", "version": None, "kind": "stub"},
        ),
        # What dlopen really took beats what the shell guesses.
        (
            say("begin", LDCONFIG, DEFAULT)
            + python("cuda", {"path": "/usr/local/cuda-12.4/compat/libcuda.so.550.54.15", "code": 804}),
            {
                "path": "/usr/local/cuda-12.4/compat/libcuda.so.550.54.15",
                "version": "550.54.15",
                "kind": "compat",
            },
        ),
        (
            say("begin", LDCONFIG) + python("cuda", {"path": None, "error": "libcuda.so.1: cannot open"}),
            {"path": "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "version": None, "kind": "driver"},
        ),
        (say("begin", "end") + python("cuda", {"path": None, "error": "cannot open"}), False),
    ],
)
def test_libcuda_that_the_loader_takes(out, libcuda):
    assert chain_probe.parse(out)["libcuda"] == libcuda


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["smi 0", "smi_line 580.95.05, NVIDIA A100", "smi_line 580.95.05, NVIDIA A100"],
            {"found": True, "ok": True, "error": None, "driver_version": "580.95.05", "gpus": 2},
        ),
        (
            ["smi 255", "smi_line Failed to initialize NVML: Unknown Error"],
            {
                "found": True,
                "ok": False,
                "error": "Failed to initialize NVML: Unknown Error",
                "driver_version": None,
                "gpus": None,
            },
        ),
        (
            ["smi 0", "smi_line No devices were found"],
            {
                "found": True,
                "ok": False,
                "error": "No devices were found",
                "driver_version": None,
                "gpus": None,
            },
        ),
        (
            ["smi 124", "smi_line "],
            {
                "found": True,
                "ok": False,
                "error": "exit status 124",
                "driver_version": None,
                "gpus": None,
            },
        ),
    ],
)
def test_nvidia_smi(lines, expected):
    assert chain_probe.parse(say("begin", *lines))["nvidia_smi"] == expected


def test_cuinit_s_code_becomes_words_that_programs_use():
    out = say("begin") + python(
        "cuda", {"path": "/x/libcuda.so.1", "code": 100, "name": "CUDA_ERROR_NO_DEVICE", "api": "13.0"}
    )
    found = chain_probe.parse(out)["cuda_init"]
    assert found["error"] == "failed call to cuInit: CUDA_ERROR_NO_DEVICE" and found["code"] == 100


def test_rubbish_is_no_crash():
    for text in ("", MARKER, MARKER + " \n", "GPUREADY-PYTHON x {", "GPUREADY-PYTHON\n", "\x00" * 9):
        chain_probe.parse(text)


# -- Python in the container -----------------------------------------------------------------------


def site(root: Path, *names: str, **files: str) -> Path:
    folder = root / "lib/python3.9/site-packages"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.dist-info").mkdir()
    for path, text in files.items():
        target = folder / path.replace("__", "/")
        target = target.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


def test_packages_are_read_without_importing_them(tmp_path):
    folder = site(
        tmp_path, "torch-2.0.1+cpu", "nvidia_cudnn_cu11-8.5.0.96", "requests-2.1", "tensorflow-2.9.0"
    )
    assert chain_python.packages([str(folder)]) == {
        "torch": "2.0.1+cpu",
        "nvidia-cudnn-cu11": "8.5.0.96",
        "tensorflow": "2.9.0",
    }


BUILD_INFO = """\
import collections
build_info = collections.OrderedDict([('cuda_compute_capabilities', ['sm_35', 'compute_80']),
  ('cuda_version', '11.2'), ('cudnn_version', '8'), ('is_cuda_build', True), ('is_rocm_build', False)])
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"tensorflow__python__platform__build_info": BUILD_INFO},
            {
                "tensorflow": {
                    "cuda": "11.2",
                    "cudnn": "8",
                    "archs": ["sm_35", "compute_80"],
                    "rocm": False,
                }
            },
        ),
        (
            {"tensorflow__python__platform__build_info": "build_info = {'is_cuda_build': False}\n"},
            {"tensorflow": {"cuda": False, "cudnn": None, "archs": [], "rocm": False}},
        ),
        (
            {
                "tensorflow__python__platform__build_info": "is_rocm_build = False\nis_cuda_build = True\n"
                "cuda_version_number = '10.1'\ncudnn_version_number = '7'\n"
            },
            {"tensorflow": {"cuda": "10.1", "cudnn": "7", "archs": [], "rocm": False}},
        ),
        (
            {"torch__version": "__version__ = '2.0.1+cpu'\ncuda = None\nhip = None\n"},
            {"pytorch": {"version": "2.0.1+cpu", "cuda": False, "cudnn": None, "archs": [], "rocm": False}},
        ),
        (
            {
                "torch__version": "from typing import Optional\n__version__ = '2.4.0+cu121'\n"
                "cuda: Optional[str] = '12.1'\nhip: Optional[str] = None\n"
            },
            {
                "pytorch": {
                    "version": "2.4.0+cu121",
                    "cuda": "12.1",
                    "cudnn": None,
                    "archs": [],
                    "rocm": False,
                }
            },
        ),
        (
            {
                "onnxruntime__capi__build_and_package_info": "package_name = 'onnxruntime-gpu'\n"
                "__version__ = '1.18.0'\ncuda_version = '12.2'\n"
            },
            {
                "onnxruntime": {
                    "version": "1.18.0",
                    "cuda": "12.2",
                    "cudnn": None,
                    "archs": [],
                    "rocm": False,
                }
            },
        ),
        ({"torch__version": "this is no Python"}, {}),
        ({"torch__version": "raise SystemError('x')"}, {}),
    ],
)
def test_build_is_read_from_its_own_file(tmp_path, files, expected):
    assert chain_python.builds([str(site(tmp_path, **files))]) == expected


def test_libraries_are_looked_for_where_the_loader_does(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    (second / "libcudnn.so.8.1.0").write_text("")
    (second / "libcudnn.so.8").symlink_to("libcudnn.so.8.1.0")
    known = {"tensorflow": {"cuda": "11.2", "cudnn": "8"}}
    names = chain_python.wanted(known)
    assert "libcudart.so.11.0" in names and "libcudnn.so.8" in names
    found = chain_python.look_up(names, [str(first), str(second)])
    assert found["libcudnn.so.8"] == str(second / "libcudnn.so.8.1.0") and found["libcudart.so.11.0"] is None
    wheel = site(tmp_path) / "nvidia/cudnn/lib"
    wheel.mkdir(parents=True)
    assert str(wheel) in chain_python.search_path([str(site(tmp_path))], {}, True)
    assert str(wheel) not in chain_python.search_path([str(site(tmp_path))], {}, False)
    assert [chain_python.knows_wheels(text) for text in ("2.9.0", "2.13.1", "2.14.0", "2.21.0", None)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_survey_of_this_very_python():
    """As it is sent: through -c, on its own."""
    answer = subprocess.run(
        [sys.executable, "-c", chain_probe.python_text()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    facts = chain_probe.parse(say("begin") + answer.stdout)
    own = facts["python"]["pythons"][0]
    assert own["executable"] == sys.executable and own["environment"] == "venv"
    assert own["version"].startswith(".".join(map(str, sys.version_info[:2])))
    assert facts["cuda_init"] is not None


def test_sent_python_is_old_python():
    """It has to run in images of 2016: no f-strings, no annotations, and only old modules."""
    import ast

    tree = ast.parse(chain_probe.python_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {"ctypes", "glob", "json", "os", "re", "signal", "sys"}
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Starred, ast.Nonlocal)
    for node in ast.walk(tree):
        assert not isinstance(node, new), ast.dump(node)
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            assert node.returns is None and not arguments.kwonlyargs and not arguments.posonlyargs
            assert all(argument.annotation is None for argument in arguments.args)


def survey(*pythons: dict[str, Any], processes: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    return {"pythons": list(pythons), "processes": list(processes), **more}


def one(executable: str, *, kernel: str | None = None, **packages: str) -> dict[str, Any]:
    return {
        "executable": executable,
        "version": "3.9",
        "environment": "conda" if "conda" in executable else None,
        "kernel": kernel,
        "source": "path",
        "packages": {name.replace("_", "-"): version for name, version in packages.items()},
        "builds": {},
    }


def test_framework_that_runs_is_the_one_in_question():
    system = one("/usr/bin/python3", torch="2.0.1+cpu")
    conda = one("/opt/conda/envs/a/bin/python", kernel="a", torch="2.3.0", tensorflow="2.9.0")
    running = {
        "executable": conda["executable"],
        "frameworks": ["pytorch"],
        "kernel": True,
        "libraries": {"libcudnn": "/opt/x/libcudnn.so.8.9.2", "libcudart": "/opt/x/libcudart.so.12.1.105"},
    }
    found = chain_probe.framework_facts(survey(system, conda, processes=[running]))
    assert found is not None
    assert (found["name"], found["version"]) == ("pytorch", "2.3.0")
    assert found["python"] == {
        "version": "3.9",
        "executable": "/opt/conda/envs/a/bin/python",
        "environment": "conda",
        "kernel": "a",
    }
    assert found["cudnn_loaded"] == "8.9.2" and found["cuda_loaded"] == "12.1.105"
    assert [(row["executable"], row["name"]) for row in found["pythons"]] == [
        ("/usr/bin/python3", "pytorch"),
        ("/opt/conda/envs/a/bin/python", "tensorflow"),
        ("/opt/conda/envs/a/bin/python", "pytorch"),
    ]


@pytest.mark.parametrize(
    ("packages", "name", "cuda"),
    [
        ({"tensorflow_cpu": "2.9.0"}, "tensorflow", None),
        ({"jax": "0.4.30", "jaxlib": "0.4.30", "jax_cuda12_plugin": "0.4.30"}, "jax", "12"),
        ({"jaxlib": "0.3.25+cuda11.cudnn82"}, "jax", "11"),
        ({"onnxruntime_gpu": "1.18.0"}, "onnxruntime", None),
        ({"numpy": "1.0"}, None, None),
    ],
)
def test_framework_by_its_packages(packages, name, cuda):
    found = chain_probe.framework_facts(survey(one("/usr/bin/python3", **packages)))
    assert found is not None and (found["name"], found["cuda"]) == (name, cuda)


def test_no_python_is_no_framework():
    assert chain_probe.framework_facts(None) is None
    assert chain_probe.framework_facts(survey()) is None
    assert chain_probe.framework_facts(survey(one("/usr/bin/python3"))) is None


def test_libraries_that_are_nowhere_are_missing():
    row = one("/usr/bin/python3", tensorflow="2.9.0")
    row["builds"] = {"tensorflow": {"cuda": "11.2", "cudnn": "8", "archs": ["sm_80"], "rocm": False}}
    looked = {"libcudnn.so.8": None, "libcudart.so.11.0": "/x/libcudart.so.11.2.152"}
    found = chain_probe.framework_facts(survey(row, libraries=looked))
    assert found is not None
    assert found["libraries_missing"] == ["libcudnn.so.8"] and found["archs"] == ["sm_80"]
    assert found["cuda"] == "11.2" and found["cudnn"] == "8" and found["cudnn_loaded"] is None


# -- docker ----------------------------------------------------------------------------------------

IMAGE = {
    "Id": "sha256:aa",
    "Architecture": "amd64",
    "Config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=11.2", "API_TOKEN=x", "CUDA_VERSION=11.2.2"]},
}


def container(**changes: Any) -> dict[str, Any]:
    found = {
        "Id": "c0ffee",
        "Name": "/jupyter",
        "Image": "sha256:aa",
        "State": {
            "Running": True,
            "ExitCode": 0,
            "OOMKilled": False,
            "Error": "",
            "StartedAt": "2026-11-23T09:00:00Z",
        },
        "Config": {
            "Image": "tensorflow/tensorflow:2.9.0-gpu",
            "Env": ["CUDA_VISIBLE_DEVICES=-1", "JUPYTER_TOKEN=secret"],
            "Labels": {},
        },
        "HostConfig": {
            "Runtime": "runc",
            "DeviceRequests": None,
            "Devices": [],
            "Memory": 2 << 30,
            "ShmSize": 64 << 20,
        },
    }
    for key, value in changes.items():
        found[key].update(value)
    return found


class Docker:
    """Answers as docker would; remembers what it was asked."""

    def __init__(self, *, script: Answer | None = None, inspected: dict[str, Any] | None = None) -> None:
        self.script = script or Answer(0, say("begin", "end"), "")
        self.inspected = inspected
        self.asked: list[list[str]] = []
        self.image = IMAGE
        self.logs = ""
        self.ended: list[str] = []

    def __call__(self, argv: Sequence[str], timeout: float) -> Answer:
        words = list(argv)
        self.asked.append(words)
        if words[1:3] == ["image", "inspect"]:
            if words[3] == "gone":
                return Answer(1, "[]\n", "Error: No such image: gone\n")
            return Answer(0, json.dumps([self.image]), "")
        if words[1:3] == ["container", "inspect"]:
            if self.inspected is None:
                return Answer(1, "[]\n", "Error: No such container: x\n")
            return Answer(0, json.dumps([self.inspected]), "")
        if words[1] in ("run", "exec"):
            return self.script
        if words[1] == "logs":
            return Answer(0, "", self.logs)
        if words[1] == "info" and words[0] == "docker":
            return Answer(0, "runc\n", "")
        if words[1] == "ps":
            return Answer(0, "a\nb\n", "")
        if words[0] == "/usr/bin/nvidia-ctk":
            return Answer(
                0, "nvidia.com/gpu=0\nnvidia.com/gpu=all\n", 'level=info msg="Found 2 CDI devices"\n'
            )
        if words[0] == "/usr/bin/nvidia-container-cli":
            return Answer(
                1, "", "nvidia-container-cli: initialization error: nvml error: driver not loaded\n"
            )
        return Answer(0, "", "")

    @property
    def prober(self) -> Prober:
        tools: dict[str, str | None] = {
            "nvidia-container-cli": "/usr/bin/nvidia-container-cli",
            "nvidia-ctk": "/usr/bin/nvidia-ctk",
        }

        def end(marker: str) -> list[int]:
            self.ended.append(marker)
            return []

        return Prober("docker", tools, timeout=5, runner=self, end=end, python="print()")

    def verbs(self) -> list[str]:
        return [words[1] for words in self.asked if words[0] == "docker"]


def test_image_is_run_with_and_without_its_gpu():
    docker = Docker()
    found = chain_probe.probe(docker.prober, image="tf", launch=["--gpus", "all"])
    runs = [words for words in docker.asked if words[1:2] == ["run"]]
    assert len(runs) == 2 and sum("--gpus" in words for words in runs) == 1
    for words in runs:
        assert words[words.index("--pull") + 1] == "never" and "--rm" in words
        assert words[words.index("--network") + 1] == "none"
        assert words[words.index("--entrypoint") + 1] == "sh"
    assert found["with_gpu"]["requests"]["gpus"] is True
    assert found["without_gpu"]["requests"]["gpus"] is False
    assert found["with_gpu"]["env"] == {"NVIDIA_REQUIRE_CUDA": "cuda>=11.2", "CUDA_VERSION": "11.2.2"}
    assert found["with_gpu"]["architecture"] == "amd64" and found["container"] is None
    assert found["cdi_list"]["devices"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]
    assert found["container_cli"]["rc"] == 1 and "driver not loaded" in found["container_cli"]["output"]
    assert found["problems"] == []
    assert "-k" not in [word for words in docker.asked for word in words]  # it would load modules


def test_run_that_docker_refuses_is_an_error_in_docker_s_words():
    said = (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\n'
    )
    found = Docker(script=Answer(125, "", said)).prober.image("tf", ["--gpus", "all"])
    assert found["ran"] is False and found["exit_code"] == 125
    assert found["error"].startswith("docker: Error response") and found["device_nodes"] is None


def test_image_without_a_shell_is_no_fault_of_the_node():
    said = (
        "docker: Error response from daemon: failed to create task for container: OCI runtime create failed: "
        'exec: "sh": executable file not found in $PATH: unknown.\n'
    )
    found = Docker(script=Answer(127, "", said)).prober.image("distroless")
    assert (found["ran"], found["probed"], found["error"], found["log"]) == (False, False, None, "")
    assert "executable file not found" in found["probe_error"]


def test_container_that_starts_again_and_again_does_not_run():
    docker = Docker(inspected=container(State={"Running": True, "Restarting": True, "ExitCode": 1}))
    found = docker.prober.container("jupyter")
    assert found["running"] is False and found["exit_code"] == 1 and "exec" not in docker.verbs()


def test_image_that_is_not_there_is_not_pulled():
    docker = Docker()
    found = docker.prober.image("gone")
    assert found["ran"] is False and "No such image" in found["error"] and docker.verbs() == ["image"]


def test_container_of_ours_that_hangs_is_removed():
    docker = Docker(script=Answer(None, say("begin"), ""))
    found = docker.prober.image("tf")
    assert found["timed_out"] is True and found["ran"] is True
    name = next(words for words in docker.asked if words[1] == "run")
    assert ["docker", "rm", "--force", name[name.index("--name") + 1]] in docker.asked


def test_somebody_s_container_is_explained():
    docker = Docker(
        inspected=container(),
        script=Answer(
            0, say("begin", "env CUDA_VISIBLE_DEVICES=-1", "devices", "no_driver", "ldconfig", "end"), ""
        ),
    )
    docker.logs = (
        "http://127.0.0.1:8888/?token=0123456789abcdef loaded on cuda\nnothing to see\n"
        "2022 E cuda_driver.cc:271] failed call to cuInit: CUDA_ERROR_NO_DEVICE\n"
    )
    found = chain_probe.probe(docker.prober, container="jupyter")["container"]
    assert found["name"] == "jupyter" and found["running"] is True and found["probed"] is True
    assert found["requests"]["gpus"] is False and found["requests"]["runtime"] is None
    assert found["env"] == {"CUDA_VISIBLE_DEVICES": "-1"}
    assert found["device_nodes"] == [] and found["libcuda"] is False and found["proc_driver_version"] is False
    assert found["memory_limit_mib"] == 2048 and found["shm_size_mib"] == 64
    assert found["architecture"] == "amd64"
    assert "0123456789abcdef" not in found["log"] and "token=***" in found["log"]
    assert "nothing to see" not in found["log"] and "failed call to cuInit" in found["log"]
    assert set(docker.verbs()) <= {"container", "image", "logs", "exec", "info", "ps"}


def test_ended_container_is_not_entered():
    docker = Docker(inspected=container(State={"Running": False, "ExitCode": 137, "OOMKilled": True}))
    found = docker.prober.container("jupyter")
    assert (found["running"], found["exit_code"], found["oom_killed"]) == (False, 137, True)
    assert "exec" not in docker.verbs()


def test_container_that_is_not_there_names_the_others():
    found = Docker().prober.container("x")
    assert found["missing"] is True and found["names"] == ["a", "b"]


def test_container_without_a_shell_is_explained_by_how_it_was_made():
    said = 'OCI runtime exec failed: exec failed: exec: "sh": executable file not found in $PATH'
    found = Docker(inspected=container(), script=Answer(126, said, "")).prober.container("jupyter")
    assert found["probed"] is False and "executable file not found" in found["probe_error"]
    assert found["requests"]["gpus"] is False


def test_hanging_script_in_somebody_s_container_is_ended_by_its_mark():
    docker = Docker(inspected=container(), script=Answer(None, say("begin", "devices"), ""))
    found = docker.prober.container("jupyter")
    assert found["probed"] is True and len(docker.ended) == 1
    marker = docker.ended[0]
    assert any(marker in words for words in docker.asked if words[1] == "exec")


def test_running_program_s_own_environment_and_library_count():
    row = {
        "executable": "/usr/bin/python3",
        "frameworks": ["tensorflow"],
        "kernel": False,
        "environ": {"CUDA_VISIBLE_DEVICES": "", "HOME": "/root"},
        "libraries": {"libcuda": "/usr/local/cuda/compat/libcuda.so.550.54.15"},
    }
    told = survey(one("/usr/bin/python3", tensorflow="2.9.0"), processes=[row])
    script = say("begin", "env CUDA_VISIBLE_DEVICES=0", "devices", "end") + python("survey", told)
    found = Docker(inspected=container(), script=Answer(0, script, "")).prober.container("jupyter")
    assert found["env"]["CUDA_VISIBLE_DEVICES"] == "" and "HOME" not in found["env"]
    assert found["libcuda"]["kind"] == "compat" and found["framework"]["name"] == "tensorflow"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]}, (True, -1, None, [])),
        (
            {
                "DeviceRequests": [
                    {"Driver": "nvidia", "Count": 0, "DeviceIDs": ["1"], "Capabilities": [["gpu"]]}
                ]
            },
            (True, None, ["1"], []),
        ),
        (
            {
                "DeviceRequests": [
                    {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"], "Capabilities": None}
                ]
            },
            (False, None, None, ["nvidia.com/gpu=all"]),
        ),
        ({"DeviceRequests": [{"Driver": "other", "Capabilities": [["tpu"]]}]}, (False, None, None, [])),
        ({}, (False, None, None, [])),
    ],
)
def test_requests(host, expected):
    found = chain_probe.requests_of({"HostConfig": host})
    assert (found["gpus"], found["count"], found["device_ids"], found["cdi_devices"]) == expected


def test_compose_is_known_by_its_label():
    found = chain_probe.container_facts(container(Config={"Labels": {"com.docker.compose.project": "a"}}))
    assert found["compose"] is True


def test_runtime_other_than_the_engine_s_default_is_named():
    made = container(HostConfig={"Runtime": "nvidia"})
    assert chain_probe.container_facts(made, "runc")["requests"]["runtime"] == "nvidia"
    assert chain_probe.container_facts(made, "nvidia")["requests"]["runtime"] is None


def test_node_without_docker():
    prober = Prober(None, {}, runner=lambda argv, timeout: Answer(0, "", ""), python="")
    found = chain_probe.probe(prober, container="x", image="tf")
    assert found["container"]["missing"] is True and found["with_gpu"]["ran"] is False
    assert found["container_cli"]["ran"] is False and found["cdi_list"]["ran"] is False


def test_probe_that_fails_does_not_take_the_others_with_it():
    docker = Docker(inspected=container())
    docker.inspected = {"State": "odd"}
    found = chain_probe.probe(docker.prober, container="x", image="tf")
    assert [row["probe"] for row in found["problems"]] == ["container"]
    assert found["with_gpu"]["ran"] is True


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("http://h:8888/lab?token=abc123&x=1", "http://h:8888/lab?token=***&x=1"),
        ("password: hunter2 end", "password: *** end"),
        ('{"api_key": "k1"}', '{"api_key": "***"}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("https://me:pw@host/x", "https://***@host/x"),
        ("key hf_abcdefghijklmnopqrstuvwxyz0", "key ***"),
        ("CUDA error: out of memory", "CUDA error: out of memory"),
    ],
)
def test_secrets_of_a_log(line, shown):
    assert secrecy.without_secrets(line) == shown


# -- time limits, for real -------------------------------------------------------------------------


def test_program_that_hangs_is_ended():
    begun = time.monotonic()
    answer = chain_probe.run(["sleep", "60"], 0.3)
    assert answer.rc is None and time.monotonic() - begun < 5


def test_marked_processes_are_ended_with_what_they_started():
    marker = f"gpuready-test-{os.getpid()}"
    shell = subprocess.Popen(["sh", "-c", "sleep 100 & sleep 100; :", marker], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            listed = subprocess.run(
                ["ps", "--ppid", str(shell.pid), "-o", "pid="], capture_output=True, text=True, check=False
            ).stdout.split()
            if len(listed) == 2:
                break
            time.sleep(0.05)
        ended = chain_probe.end_marked(marker)
        assert set(ended) == {shell.pid, *map(int, listed)}
        assert shell.wait(5) == -signal.SIGKILL
    finally:
        if shell.poll() is None:
            shell.kill()
            shell.wait()


def test_nobody_is_ended_without_the_mark():
    assert chain_probe.end_marked("gpuready-nobody-has-this") == []


def test_script_names_every_variable_that_matters_only():
    for name in chain_probe.NAMES.split():
        assert chain_probe.ENVIRONMENT.match(name), name
        assert re.fullmatch(r"[A-Z_0-9]+", name)
