"""docs/matrix.md: made from the catalog, and as the catalog is now."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpuready import matrix
from gpuready.catalog import load_catalog
from gpuready.cli import CHANGES, OK, main

CATALOG = load_catalog()
DOCS = next(
    parent / "docs" for parent in Path(__file__).resolve().parents if (parent / "docs/matrix.md").is_file()
)


@pytest.fixture(scope="module")
def text() -> str:
    return matrix.page(CATALOG)


def test_page_is_up_to_date(text: str) -> None:
    page = (DOCS / "matrix.md").read_text(encoding="utf-8")
    assert page == text, "docs/matrix.md is out of date: gpuready matrix --write docs/matrix.md"


def test_page_is_of_the_catalogs_day(text: str) -> None:
    assert f"as of {CATALOG.checked}" in text


def section(text: str, gpu: str) -> str:
    return text.split(f"\n## {gpu}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("gpu", list(CATALOG.shown))
def test_every_gpu_has_a_section_with_every_workload(text: str, gpu: str) -> None:
    found = section(text, gpu)
    rows = [line for line in found.splitlines() if line.startswith(("| ", "- "))]
    assert f"]({'#' + gpu.lower().replace(' ', '-')}) |" in text
    named = " ".join(rows)
    for name in ("tensorflow", "pytorch"):
        assert name in named
    # Each release stands in some row, alone or within a range.
    assert "2.13" in named and ("2.4" in named or "2.3" in named)


def test_known_cells(text: str) -> None:
    overview = text.split("## At a glance")[1].split("\n## ")[0]
    rows = {
        line.split("]")[0][3:]: [cell.strip() for cell in line.split("|")[2:-1]]
        for line in overview.splitlines()
    }
    by_gpu = {
        gpu: dict(zip(matrix.OVERVIEW, cells, strict=True))
        for gpu, cells in rows.items()
        if gpu in CATALOG.shown
    }
    assert by_gpu["A100"]["tensorflow-2.9"] == "580 open"
    assert by_gpu["Tesla V100"]["tensorflow-2.9"] == "580 proprietary"
    assert by_gpu["Tesla V100"]["pytorch-2.13"] == matrix.NEVER
    assert by_gpu["Tesla K80"]["tensorflow-2.9"] == "470 proprietary\N{DAGGER}"
    assert by_gpu["H100"]["tensorflow-2.9"] == "580 open\N{DOUBLE DAGGER}"
    assert by_gpu["B200"]["tensorflow-2.9"] == matrix.NEVER
    assert by_gpu["B200"]["pytorch-2.8"] == "580 open"


def test_sections_say_why(text: str) -> None:
    ampere = section(text, "A100")
    assert "460.27.03 (the driver compiles the wheel's PTX)" in ampere
    assert "525.60.13 (CUDA's minor-version rule)" in ampere
    kepler = section(text, "Tesla K80")
    assert "470 is the last branch" in kepler and "the wheel has no code for this GPU" in kepler
    assert "needs a driver from 535.54.03 on" in kepler
    assert "TensorFlow 2.9 is years older than this GPU" in section(text, "B200")
    # Debian 12 has nothing for Blackwell; NVIDIA's repository has.
    assert (
        "none (`cuda_repo`: 580 open): Ubuntu 20.04" in text
        or "none (`cuda_repo`: 580 open): Debian 12" in text
    )


def test_workloads_in_few_words() -> None:
    frameworks = CATALOG.frameworks
    names = ["tensorflow-2.9", "tensorflow-2.10", "tensorflow-2.11", "tensorflow-2.4", "pytorch-2.8-cu126"]
    names += ["pytorch-2.8-cu128", "pytorch-2.9-cu126", "pytorch-2.9-cu128", "pytorch-2.13-cu126"]
    dash = "\N{EN DASH}"
    assert matrix.workload_words([frameworks[name] for name in names], CATALOG) == (
        f"tensorflow 2.4, 2.9{dash}2.11; pytorch 2.8{dash}2.9 (cu126, cu128), 2.13 (cu126)"
    )


def test_command_writes_and_checks(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "page", lambda catalog: text)
    file = tmp_path / "matrix.md"
    assert main(["matrix", "--write", str(file)]) == OK and file.read_text(encoding="utf-8") == text
    assert main(["matrix", "--check", str(file)]) == OK
    file.write_text(text + "more\n", encoding="utf-8")
    assert main(["matrix", "--check", str(file)]) == CHANGES
    assert "out of date" in capsys.readouterr().out
    assert main(["matrix"]) == OK and capsys.readouterr().out == text
