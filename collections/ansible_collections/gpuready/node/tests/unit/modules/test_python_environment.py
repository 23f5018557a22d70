"""Environments are complete before they are used; whatever goes wrong, the former one goes on.

The index is a folder with wheels made here; venv and pip are this machine's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import python_environment  # noqa: E402

PYTHON = os.path.realpath(sys.executable)
HASH = "0123456789abcdef"


class Index:
    """A package index in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = folder.as_uri()
        self.folder.mkdir(parents=True)

    def wheel(self, name: str, version: str, files: dict[str, str] | None = None) -> None:
        info = f"{name}-{version}.dist-info"
        content = {
            **(files or {f"{name}/__init__.py": ""}),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        rows = []
        for path, text in content.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text.encode())}")
        content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
        place = self.folder / name
        place.mkdir(exist_ok=True)
        with zipfile.ZipFile(place / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            for path, text in content.items():
                archive.writestr(path, text)
        links = [f'<a href="{file.name}">{file.name}</a>' for file in sorted(place.glob("*.whl"))]
        (place / "index.html").write_text("<html><body>" + "\n".join(links) + "</body></html>")

    def torch(self, version: str, cuda: str | None) -> None:
        said = repr(cuda) if cuda else "None"
        text = f"from typing import Optional\n__version__ = {version!r}\ncuda: Optional[str] = {said}\n"
        self.wheel("torch", version, {"torch/__init__.py": "", "torch/version.py": text})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index(tmp_path_factory.mktemp("index") / "whl" / "cu124")
    made.torch("2.5.1+cu124", "12.4")
    made.torch("2.6.0+cu124", "12.4")
    made.torch("2.7.0+cu124", None)
    made.wheel("tools", "1.0")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "venvs"


@pytest.fixture
def call(folder: Path, index: Index, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(version: str = "2.5.1", *more: str, digest: str = HASH, **arguments: Any) -> dict[str, Any]:
        requirements = [f"torch=={version}+cu124", *more]
        path = str(folder / "research")
        arguments = {
            "path": path,
            "build": f"{path}@{digest[:12]}",
            "python": PYTHON,
            "requirements": requirements,
            "cuda": "12.4",
            "index_url": index.url,
            "extra_index_url": index.url,
            "stamp": {"hash": digest, "workload": "pytorch"},
            "_ansible_check_mode": arguments.pop("check", False),
            **arguments,
        }
        capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            python_environment.main()
        return json.loads(capsys.readouterr().out)

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def imported(folder: Path) -> str:
    done = subprocess.run(
        [folder / "research" / "bin" / "python", "-c", "import torch.version as v; print(v.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_life_of_an_environment(folder: Path, call: Any) -> None:
    """Made, left alone, repaired, changed, and every failure on the way leaves the one that works."""
    result = call(check=True)
    assert result["changed"] and names(folder) == []

    # What an interrupted run left is begun anew.
    (folder / "research@0123456789ab" / "half").mkdir(parents=True)
    result = call("2.5.1", "tools")
    assert result["changed"] and result["packages"]["torch"] == "2.5.1+cu124", result
    assert names(folder) == ["research", "research@0123456789ab"]
    assert imported(folder) == "2.5.1+cu124"
    stamp = json.loads((folder / "research" / "gpuready.json").read_text())
    assert stamp["hash"] == HASH and stamp["packages"]["tools"] == "1.0" and "installed_at" in stamp
    assert not [name for name in (".tmp", "half") if (folder / "research" / name).exists()]
    assert not call("2.5.1", "tools")["changed"]

    other = "f" * 16
    for arguments, reason, said in (
        ({"version": "9.9.9"}, "missing", "torch==9.9.9"),
        ({"version": "2.7.0"}, "cpu_only", "CPU-only"),
        ({"owner": "nobody-of-that-name"}, "owner", "nobody-of-that-name"),
        ({"python": "/nowhere/python3"}, "python", "/nowhere/python3"),
    ):
        result = call(digest=other, **arguments)
        assert result.get("failed") and result["reason"] == reason, result
        assert said in result["msg"]
        assert names(folder) == ["research", "research@0123456789ab"], arguments
        assert imported(folder) == "2.5.1+cu124"
    # What a user's pip swapped is made anew, beside the one that is there.
    site = next((folder / "research" / "lib").glob("python3*/site-packages"))
    (site / "torch-2.5.1+cu124.dist-info").rename(site / "torch-2.5.1+cpu.dist-info")
    result = call("2.5.1", "tools")
    assert result["changed"] and result["build"].endswith("@0123456789ab-2")
    assert names(folder) == ["research", "research@0123456789ab-2"]

    # Another version, while a process runs out of the former one.
    process = subprocess.Popen(
        [folder / "research@0123456789ab-2" / "bin" / "python", "-c", "input()"], stdin=subprocess.PIPE
    )
    try:
        time.sleep(0.3)
        result = call("2.6.0", digest=other)
        assert result["kept"] == [str(folder / "research@0123456789ab-2")] and result["removed"] == []
        assert imported(folder) == "2.6.0+cu124"
        gone = {"state": "absent", "builds": result["kept"], "path": None}
        result = call(**gone)
        assert result["reason"] == "in_use" and str(process.pid) in result["msg"]
    finally:
        process.communicate(b"\n")
    assert call(**gone)["removed"] == gone["builds"]

    result = call(
        state="absent",
        builds=[str(folder / f"research@{'f' * 12}")],
        folders=[str(folder), str(folder.parent)],
    )
    assert result["changed"] and not folder.exists()
    assert not call(state="absent", builds=[], path=None)["changed"]


@pytest.mark.parametrize(
    ("said", "cuda"),
    [
        ("cuda = '11.7'\ngit_version = 'x'", "11.7"),
        ("from typing import Optional\ncuda: Optional[str] = '12.4'\nhip: Optional[str] = None", "12.4"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None", ""),
        ("debug = False", None),
        (None, None),
    ],
)
def test_cuda_of_a_wheel_is_read_without_importing_it(
    tmp_path: Path, said: str | None, cuda: str | None
) -> None:
    (tmp_path / "torch").mkdir()
    if said is not None:
        (tmp_path / "torch" / "version.py").write_text(said)
    assert python_environment.wheel_cuda(str(tmp_path), "torch") == cuda


def test_what_somebody_else_made_is_left_alone(folder: Path, call: Any) -> None:
    (folder / "research").mkdir(parents=True)
    result = call()
    assert result["reason"] == "foreign" and names(folder) == ["research"]
    result = call(state="absent", builds=["/etc"], path=None)
    assert result["failed"] and "/etc is no build" in result["msg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_environment_belongs_to_its_owner(folder: Path, call: Any) -> None:
    assert call(owner="nobody")["changed"]
    owners = {path.lstat().st_uid for path in (folder / "research@0123456789ab").rglob("*")}
    assert owners == {65534} and (folder / "research").lstat().st_uid == 0
    assert not call(owner="nobody")["changed"]


def test_login_is_in_no_argument_and_no_result(
    folder: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, argv: Any, **more: Any) -> None:
            seen.append((argv, more["env"]))
            if argv[1:3] != ["-m", "venv"]:  # pip's own environment does here
                super().__init__([PYTHON, *argv[1:]], **more)
            else:
                super().__init__(["mkdir", "-p", argv[3] + "/bin"], **more)

    monkeypatch.setattr(python_environment.subprocess, "Popen", Popen)
    result = call(index_url="http://127.0.0.1:9/whl/cu124", index_login="bob:s3:cr@t", extra_index_url=None)
    assert result["reason"] == "unreachable"
    assert "s3" not in json.dumps(result)
    assert not any("s3" in word for argv, _ in seen for word in argv)
    assert any(env.get("PIP_INDEX_URL") == "http://bob:s3%3Acr%40t@127.0.0.1:9/whl/cu124" for _, env in seen)


def test_reasons_are_read_off_pips_words() -> None:
    for reason, text in (
        (
            "disk_full",
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        ),
        ("untrusted", "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]"),
        ("denied", "ERROR: HTTP error 403 while getting http://x"),
        ("conflict", "ERROR: ResolutionImpossible: for help visit"),
        ("missing", "ERROR: No matching distribution found for torch==9"),
        (
            "unreachable",
            "Failed to establish a new connection\nERROR: No matching distribution found for torch",
        ),
        ("unknown", "Segmentation fault"),
    ):
        assert python_environment.reason_of(text) == reason
