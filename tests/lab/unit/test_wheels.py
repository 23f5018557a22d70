"""The Python indexes: what a stand-in is packed into, and what pip finds."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from gpulab import machine, settings, wheels
from gpulab.errors import LabError


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two stand-ins: one of PyPI's, and one of a CUDA tag that needs it."""
    cuda = tmp_path / "stand-ins/whl/cu124/big_torch-2.5.1+cu124"
    small = tmp_path / "stand-ins/pypi/Small.Thing-1.0"
    for tree, name in ((cuda, "torch"), (small, "small")):
        (tree / name).mkdir(parents=True)
        (tree / name / "__init__.py").write_text(f"name = {name!r}\n")
    (cuda / "METADATA").write_text("Requires-Dist: small-thing>=1\nRequires-Python: >=3.8\n")
    (cuda / "SCRIPTS").write_text("torchrun = torch:run\n")
    (cuda / "torch" / "__pycache__").mkdir()
    (cuda / "torch" / "__pycache__" / "x.pyc").write_text("no matter")
    return tmp_path / "stand-ins"


@pytest.fixture
def index(sources: Path, tmp_path: Path) -> Path:
    """The indexes of the two, as the mirror lays them out."""
    root = tmp_path / "served"
    for stand_in in wheels.stand_ins(sources):
        stand_in.write(root / stand_in.index / "-")
    assert sum(wheels.write_index(folder.parent) for folder in sorted(root.rglob("-/"))) == 2
    return root


@pytest.fixture
def url(index: Path) -> Iterator[str]:
    """A web server before them."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(index)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_stand_in_is_a_whole_wheel_and_says_that_it_is_simulated(index: Path) -> None:
    wheel = index / "whl/cu124/-/big_torch-2.5.1+cu124-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = "big_torch-2.5.1+cu124.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        record = archive.read(f"{info}/RECORD").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    assert "torch/__init__.py" in names
    assert not [name for name in names if "pycache" in name or name in ("METADATA", "SCRIPTS")]
    assert "Version: 2.5.1+cu124\n" in metadata and "Requires-Dist: small-thing>=1\n" in metadata
    assert "(SIMULATED)" in metadata
    assert scripts == "[console_scripts]\ntorchrun = torch:run\n"
    assert {line.split(",")[0] for line in record.splitlines()} == set(names)


def test_the_same_tree_gives_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    digests = set()
    for number in (1, 2):
        stand_in = wheels.stand_ins(sources)[0]
        stand_in.write(tmp_path / str(number))
        digests.add(hashlib.sha256((tmp_path / str(number) / stand_in.filename).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["torch", "torch-1-py3", "torch-1-py3-none"])
def test_a_directory_that_names_no_wheel_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="a stand-in is named <name>-<version>"):
        _ = wheels.StandIn(tmp_path / name, wheels.PYPI).filename


def test_the_tags_of_a_wheel_are_those_of_its_directory(tmp_path: Path) -> None:
    tree = tmp_path / "torch-2.5.1+cu124-cp311-cp311-linux_x86_64"
    (tree / "torch").mkdir(parents=True)
    stand_in = wheels.StandIn(tree, "whl/cu124")
    assert stand_in.filename == "torch-2.5.1+cu124-cp311-cp311-linux_x86_64.whl"
    stand_in.write(tmp_path)
    with zipfile.ZipFile(tmp_path / stand_in.filename) as archive:
        wheel = archive.read("torch-2.5.1+cu124.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in wheel and "Tag: cp311-cp311-linux_x86_64" in wheel


def test_pip_installs_from_both_indexes(url: str, tmp_path: Path) -> None:
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--isolated"]
    options = ["--index-url", f"{url}/whl/cu124/", "--extra-index-url", f"{url}/pypi/simple/"]
    done = subprocess.run(
        [*command, *options, "--target", target, "big-torch"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (target / "torch/__init__.py").is_file()
    assert (target / "small/__init__.py").is_file(), "what it needs came from the other index"


def test_pip_says_that_there_is_no_such_version(url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--isolated"]
    done = subprocess.run(
        [*command, "--index-url", f"{url}/whl/cu124/", "--target", tmp_path / "site", "big-torch==9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "No matching distribution found for big-torch==9" in done.stderr


def test_pages_name_hashes_and_the_wheels_metadata(index: Path) -> None:
    page = (index / "whl/cu124/big-torch/index.html").read_text()
    wheel = index / "whl/cu124/-/big_torch-2.5.1+cu124-py3-none-any.whl"
    assert (
        f"../-/big_torch-2.5.1%2Bcu124-py3-none-any.whl#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        in page
    )
    assert 'data-requires-python="&gt;=3.8"' in page
    assert (
        wheel.with_name(wheel.name + ".metadata")
        .read_text()
        .startswith("Metadata-Version: 2.1\nName: big_torch\n")
    )
    # The first name of the attribute led pip 23.0 to reject names with an underscore.
    assert "data-core-metadata=" in page and "data-dist-info-metadata" not in page
    assert '<a href="small-thing/">small-thing</a>' in (index / "pypi/simple/index.html").read_text()


def test_a_zip_without_metadata_is_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/__init__.py", "")
    with pytest.raises(LabError, match="it is no wheel"):
        wheels.metadata_of(path)


@pytest.mark.parametrize("distribution", ["debian", "ubuntu"])
def test_every_lock_pins_each_of_its_wheels(distribution: str) -> None:
    for lock in wheels.locks(machine.Machine(distribution, "")):
        lines = [line for line in lock.requirements.read_text().splitlines() if line and line[0] != "#"]
        assert lines, lock
        assert all(line.count("==") == 1 for line in lines), lock
    assert {lock.index for lock in wheels.locks(machine.Machine(distribution, ""))} == {
        wheels.PYPI,
        "whl/cpu",
    }


def test_wheels_for_another_python_are_asked_for_by_platform() -> None:
    options = wheels.target_options("3.9", 17)
    assert "--python-version=3.9" in options and "--abi=cp39" in options
    assert "--platform=manylinux_2_17_x86_64" in options and "--platform=manylinux_2_18_x86_64" not in options


def test_what_is_fetched_once_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPULAB_HOME", str(tmp_path))
    lock = wheels.Lock("jupyter", "3.9", 31, wheels.PYPI)
    calls: list[list[str]] = []

    def fake(command: list[str], **_: object) -> None:
        calls.append([str(word) for word in command])
        (lock.cache / "x-1-py3-none-any.whl").write_text("")

    monkeypatch.setattr(wheels, "run", fake)
    assert wheels.fetch(lock) == "1 wheels"
    assert wheels.fetch(lock) == "reused"
    assert len(calls) == 1
    assert str(settings.SOURCE / "wheels/locks/jupyter-3.9.txt") in calls[0]


def test_pytorchs_own_index_is_asked_only_where_the_machines_has_no_cpu_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPULAB_HOME", str(tmp_path))
    calls: list[str] = []

    def fake(command: list[str], **_: object) -> None:
        calls.append(json.dumps([str(word) for word in command]))
        if wheels.PYTORCH_INDEX not in calls[-1]:
            raise LabError("no matching distribution")

    monkeypatch.setattr(wheels, "run", fake)
    wheels.fetch(wheels.Lock("torch", "3.11", 36, "whl/cpu"))
    assert len(calls) == 2
    with pytest.raises(LabError):
        wheels.fetch(wheels.Lock("jupyter", "3.9", 31, wheels.PYPI))
    assert len(calls) == 3, "JupyterLab is on every index"
