"""The command `gpuready`, and the text it prints."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpuready.cli import BAD_QUESTION, CHANGES, CONFLICT, OK, main
from observed_nodes import FIXTURES

BARE = str(FIXTURES / "a100-jammy-bare.json")
CONVERGED = str(FIXTURES / "a100-jammy-converged.json")
NO_GPU = str(FIXTURES / "no-gpu-jammy-bare.json")
DAY = ["--today", "2026-11-23"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(("path", "code"), [(CONVERGED, OK), (BARE, CHANGES), (NO_GPU, CONFLICT)])
def test_plan_exit_codes(capsys: Any, path: str, code: int) -> None:
    result, out, err = run(capsys, "plan", "--facts", path, *DAY)
    assert result == code and out and err == ""


def test_plan_as_json(capsys: Any) -> None:
    code, out, _ = run(capsys, "plan", "--facts", BARE, "--json", "--host", "n1", *DAY)
    plan = json.loads(out)
    assert code == CHANGES and plan["host"] == "n1" and plan["driver"]["branch"] == "580"


def test_plan_of_several_nodes_takes_the_worst_code(capsys: Any) -> None:
    code, out, _ = run(capsys, "plan", "--facts", BARE, "--facts", NO_GPU, "--json", *DAY)
    assert code == CONFLICT and [plan["status"] for plan in json.loads(out)] == ["changes", "conflict"]


def test_plan_takes_artifacts_lists_and_mappings(capsys: Any, tmp_path: Path) -> None:
    stack = json.loads(Path(CONVERGED).read_text(encoding="utf-8"))
    shapes: list[Any] = [{"schema": 1, "host": "a", "gpu_stack": stack}, [stack], {"a": stack}]
    for shape in shapes:
        file = tmp_path / "facts.json"
        file.write_text(json.dumps(shape), encoding="utf-8")
        code, out, _ = run(capsys, "plan", "--facts", str(file), "--json", *DAY)
        assert code == OK
        assert json.loads(out)["host"] == ("a" if isinstance(shape, dict) else "a100-jammy-converged")


def test_plan_reads_standard_input(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(CONVERGED).read_bytes())))
    assert run(capsys, "plan", "--facts", "-", *DAY)[0] == OK


def test_wishes_from_file_and_line(capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "wishes.yml"
    file.write_text("nvidia_driver_branch: 535\ngpuready_workloads: [tensorflow-2.14]\n", encoding="utf-8")
    arguments = ["plan", "--facts", BARE, "--wishes", str(file), "--json", *DAY]
    plan = json.loads(run(capsys, *arguments)[1])
    assert plan["driver"]["branch"] == "535" and plan["workloads"][0]["name"] == "tensorflow-2.14"
    plan = json.loads(run(capsys, *arguments, "--wish", "nvidia_driver_branch=580")[1])
    assert plan["driver"]["branch"] == "580"
    wish = "docker_engine_daemon_config={mtu: 1400}"
    plan = json.loads(run(capsys, *arguments, "--wish", wish)[1])
    assert plan["container_runtime"]["docker"]["daemon_config"] == {"mtu": 1400}
    plan = json.loads(
        run(capsys, *arguments, "--wish", "gpuready_workloads=tensorflow-2.9,tensorflow-2.8")[1]
    )
    assert [row["name"] for row in plan["workloads"]] == ["tensorflow-2.9", "tensorflow-2.8"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "--facts", "/nowhere.json"], "/nowhere.json: No such file"),
        (["plan", "--facts", __file__], "not JSON"),
        (
            ["plan", "--facts", BARE, "--wish", "nvidia_driver_brnach=580"],
            "did you mean nvidia_driver_branch?",
        ),
        (["plan", "--facts", BARE, "--wish", "nvidia_driver_branch"], "VARIABLE=VALUE"),
        (
            ["plan", "--facts", BARE, "--wish", "nvidia_driver_flavour=opne"],
            "set nvidia_driver_flavour: open",
        ),
        (["plan", "--facts", BARE, "--wish", "docker_engine_daemon_config={"], "docker_engine_daemon_config"),
        (["plan", "--facts", BARE, "--wishes", BARE + "x"], "No such file"),
        (["plan", "--facts", BARE, "--today", "soon"], "YYYY-MM-DD"),
        (["plan"], "--facts"),
        (["resolve", "--gpu", "A1000000"], "nearest: A10"),
        (["resolve", "--gpu", "H1OO"], "nearest: H100"),
        (
            ["resolve", "--gpu", "A100,RTX4090"],
            "--gpu RTX4090: no GPU of that name in pci.ids (nearest: RTX 4090",
        ),
        (["resolve", "--gpu", "A100:0"], "--gpu A100:0: write it as NAME or NAME:COUNT"),
        (["resolve", "--gpu", "A100:many"], "--gpu A100:many: write it as NAME or NAME:COUNT"),
        (["resolve", "--gpu", ","], "--gpu: names no GPU"),
        (["resolve"], "--gpu"),
        (["resolve", "--gpu", "A100", "--os", "windows"], "ubuntu-22.04"),
        (["resolve", "--gpu", "A100", "--os", "ubunto-24.04"], "(nearest: ubuntu-24.04"),
        (["resolve", "--gpu", "A100", "--os", "debian-14"], "(nearest: debian-1"),
        (["resolve", "--gpu", "A100", "--source", "cudarepo"], "no source of drivers (nearest: cuda_repo"),
        (
            ["resolve", "--gpu", "A100", "--os", "debian-11", "--source", "cuda_repo"],
            "--source cuda_repo: has no drivers for debian-11 (it covers ubuntu-20.04",
        ),
        (
            ["resolve", "--gpu", "A100", "--source", "debian"],
            "--source debian: has no drivers for ubuntu-22.04",
        ),
        (["resolve", "--gpu", "A100", "--nvswitch", "-1"], "--nvswitch -1: must be 0 or more"),
        (["resolve", "--gpu", "A100", "--workloads", "tensorflow-2.99"], "nearest: tensorflow-2.9"),
        (
            ["resolve", "--gpu", "A100", "--workloads", "tensorflow-2.9,pytorch-2.5-cu125"],
            "--workloads pytorch-2.5-cu125: not known (nearest: pytorch-2.5-cu12",
        ),
        (["matrix", "--check", "/nowhere.md"], "/nowhere.md: No such file"),
        (["matrix", "--write", "/nowhere/matrix.md"], "/nowhere/matrix.md: No such file"),
        (["pln"], "invalid choice: 'pln'"),
        (["catalog", "chk"], "check"),
    ],
)
def test_bad_questions_get_one_line(capsys: Any, arguments: list[str], says: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == BAD_QUESTION and out == ""
    assert err.startswith("gpuready: ") and err.count("\n") == 1 and says in err


def test_wishes_file_must_be_a_mapping(capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "wishes.yml"
    for text, says in (("- a\n", "must be a mapping"), ("a: [", "not YAML")):
        file.write_text(text, encoding="utf-8")
        code, _, err = run(capsys, "plan", "--facts", BARE, "--wishes", str(file))
        assert code == BAD_QUESTION and says in err


def test_resolve_answers_without_a_node(capsys: Any) -> None:
    code, out, _ = run(
        capsys, "resolve", "--gpu", "A100", "--os", "ubuntu-22.04", "--workloads", "tensorflow-2.9", *DAY
    )
    assert code == OK
    assert "branch 580, open modules" in out and "← this bound" in out and "tensorflow-2.9" in out
    code, out, _ = run(capsys, "resolve", "--gpu", "T4", "--gpu", "v100", "--json", *DAY)
    answer = json.loads(out)
    assert [gpu["arch"] for gpu in answer["gpus"]] == ["turing", "volta"]
    assert answer["driver"]["flavour"] == "proprietary" and answer["conflicts"] == []


def resolved(capsys: Any, *arguments: str) -> tuple[int, Any]:
    code, out, err = run(capsys, "resolve", *arguments, "--json", *DAY)
    assert err == ""
    return code, json.loads(out)


def test_resolve_counts_and_mixes_gpus(capsys: Any) -> None:
    code, found = resolved(
        capsys, "--gpu", "V100:2,T4", "--os", "ubuntu-24.04", "--workloads", "pytorch-2.5,tensorflow-2.9"
    )
    assert code == OK and [gpu["arch"] for gpu in found["gpus"]] == ["volta", "volta", "turing"]
    assert len({gpu["pci"] for gpu in found["gpus"]}) == 3
    assert found["workloads"] == ["pytorch-2.5-cu124", "tensorflow-2.9"]
    assert (found["driver"]["branch"], found["driver"]["flavour"]) == ("580", "proprietary")
    rejected = found["rejected"][0]
    assert (rejected["branch"], rejected["flavour"]) == ("580", "open")
    assert [fail["rule"] for fail in rejected["fails"]] == ["open-impossible"]


def test_resolve_names_the_rejected_options(capsys: Any) -> None:
    arguments = ["--gpu", "V100", "--os", "ubuntu-24.04", "--workloads", "pytorch-2.5"]
    _, out, _ = run(capsys, "resolve", *arguments, *DAY)
    assert "Rejected, though preferred otherwise:\n  580  open        fails proprietary modules" in out
    _, out, _ = run(capsys, "resolve", "--gpu", "T4", "--os", "ubuntu-24.04", *DAY)
    assert "Rejected" not in out


@pytest.mark.parametrize(
    ("system", "source", "branch", "origin", "install"),
    [
        ("ubuntu-24.04", "auto", "580", "Ubuntu", "precompiled"),
        ("ubuntu-26.04", "ubuntu", "580", "Ubuntu", "precompiled"),
        ("ubuntu-24.04", "cuda_repo", "580", "NVIDIA", "dkms"),
        ("debian-12", "auto", "535", "Debian", "dkms"),
        ("debian-13", "cuda_repo", "580", "NVIDIA", "dkms"),
    ],
)
def test_resolve_per_source(
    capsys: Any, system: str, source: str, branch: str, origin: str, install: str
) -> None:
    arguments = ["--gpu", "A100", "--os", system, "--source", source, "--workloads", "pytorch-2.5"]
    code, found = resolved(capsys, *arguments)
    driver = found["driver"]
    assert code == OK and found["conflicts"] == []
    assert (driver["branch"], driver["origin"], driver["install"]) == (branch, origin, install)


def test_resolve_with_secure_boot_nvswitches_and_a_kernel(capsys: Any) -> None:
    arguments = ["--gpu", "A100:8", "--workloads", "pytorch-2.5", "--secure-boot", "--nvswitch", "6"]
    code, found = resolved(capsys, *arguments, "--os", "debian-12")
    assert code == CONFLICT and (found["nvswitches"], found["secure_boot"]) == (6, True)
    what = " ".join(row["what"] for row in found["conflicts"])
    assert "Secure Boot" in what and "fabric manager" in what
    assert all(row["options"] for row in found["conflicts"])
    kernel = "5.15.0-157-generic"
    code, found = resolved(capsys, *arguments, "--os", "ubuntu-22.04", "--kernel", kernel)
    names = [package["name"] for package in found["driver"]["packages"]]
    assert code == OK and found["kernel"] == kernel
    assert "linux-modules-nvidia-580-server-open-" + kernel in names and "nvidia-fabricmanager-580" in names


def test_resolve_takes_wishes(capsys: Any) -> None:
    wish = ["--wish", "nvidia_driver_branch=570", "--wish", "nvidia_driver_flavour=open"]
    code, found = resolved(capsys, "--gpu", "A100", "--os", "ubuntu-24.04", *wish)
    assert code == OK and (found["driver"]["branch"], found["driver"]["flavour"]) == ("570", "open")
    code, found = resolved(capsys, "--gpu", "A100", "--wish", "nvidia_driver_source=cuda_repo")
    assert code == OK and found["driver"]["source"] == "cuda_repo"
    wish = ["--wish", "nvidia_driver_branch=535"]
    code, found = resolved(
        capsys, "--gpu", "B200", "--os", "ubuntu-24.04", "--workloads", "pytorch-2.8", *wish
    )
    assert code == CONFLICT and found["driver"] is None and found["rejected"]


def test_resolve_shows_of_each_branch_what_comes_nearest(capsys: Any) -> None:
    arguments = ["--gpu", "K80", "--os", "ubuntu-26.04", "--workloads", "tensorflow-2.9"]
    code, found = resolved(capsys, *arguments)
    assert code == CONFLICT and found["driver"] is None and found["chain"] is None
    rows = [(row["branch"], row["flavour"], len(row["fails"])) for row in found["rejected"]]
    assert rows == [("580", "proprietary", 1), ("595", "proprietary", 1), ("610", "proprietary", 1)]


def test_resolve_blames_no_driver_for_the_wheel(capsys: Any) -> None:
    arguments = ["--gpu", "V100", "--os", "ubuntu-24.04", "--workloads", "pytorch-2.13"]
    code, found = resolved(capsys, *arguments)
    assert code == CONFLICT and found["rejected"] == []
    assert [row["id"] for row in found["conflicts"]] == ["framework.gpu_unsupported"]


def test_resolve_gives_the_reasons_in_one_line(capsys: Any) -> None:
    _, found = resolved(capsys, "--gpu", "H100", "--os", "ubuntu-24.04", "--workloads", "pytorch-2.11-cu130")
    assert found["chain"].startswith("580-server-open: pytorch-2.11-cu130 needs >=580.65.06")
    assert found["chain"].count("this bound") == 1


def test_resolve_of_a_pci_id(capsys: Any) -> None:
    code, found = resolved(capsys, "--gpu", "20b5", "--os", "ubuntu-24.04")
    assert code == OK and found["gpus"][0]["name"] == "A100 PCIe 80GB"


def test_catalog_list(capsys: Any) -> None:
    code, out, _ = run(capsys, "catalog", "list")
    assert code == OK and "tensorflow/tensorflow:2.9.0-gpu" in out
    assert "(also: pytorch-2.5)" in out and "debian-13" in out and "615" in out


def test_resolve_shows_the_contradiction(capsys: Any) -> None:
    code, out, _ = run(
        capsys, "resolve", "--gpu", "V100", "--gpu", "B200", "--workloads", "tensorflow-2.20", *DAY
    )
    assert code == CONFLICT and "no driver can fulfil" in out and "->" in out


def test_catalog_check(capsys: Any) -> None:
    code, out, _ = run(capsys, "catalog", "check")
    assert code == OK and "all rows are sound" in out


def test_command_and_module_are_the_same() -> None:
    for command in (["-m", "gpuready"], ["-c", "from gpuready.cli import main; raise SystemExit(main())"]):
        done = subprocess.run(
            [sys.executable, *command, "plan", "--facts", NO_GPU], capture_output=True, text=True, check=False
        )
        assert done.returncode == CONFLICT and "no NVIDIA GPU" in done.stdout


def test_no_line_is_wider_than_the_terminal(capsys: Any) -> None:
    for path in sorted(FIXTURES.glob("*.json")):
        _, out, _ = run(capsys, "plan", "--facts", str(path), *DAY)
        assert max(map(len, out.splitlines())) <= 100, path.name
        assert not any(line != line.rstrip() for line in out.splitlines())


def test_converged_plan_says_nothing_to_do(capsys: Any) -> None:
    _, out, _ = run(capsys, "plan", "--facts", CONVERGED, *DAY)
    assert out.splitlines()[0].endswith(": nothing to do") and "Restarts" not in out


def test_forbidden_reboot_is_on_the_first_line(capsys: Any) -> None:
    path = str(FIXTURES / "a100-jammy-reboot-pending.json")
    code, out, _ = run(capsys, "plan", "--facts", path, "--wish", "host_reboot_allowed=false", *DAY)
    assert code == CHANGES and "waits for a reboot" in out.splitlines()[0]
    assert "host_reboot_allowed is false" in out
