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
from planner_nodes import FIXTURES

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
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path(CONVERGED).read_text(encoding="utf-8")))
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
        (["resolve", "--gpu", "A100", "--os", "windows"], "ubuntu-22.04"),
        (["resolve", "--gpu", "A100", "--os", "debian-12"], "covered: ubuntu-20.04"),
        (["resolve", "--gpu", "A100", "--workloads", "tensorflow-2.99"], "nearest: tensorflow-2.9"),
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
