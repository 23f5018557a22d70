"""What can go wrong with an environment on a node: refused in time, or named; and the former one goes on."""

from __future__ import annotations

from typing import Any

import pytest
from kit import fingerprint
from kit.runs import Player, Run

VENVS = "/opt/gpuready/venvs"
RESEARCH = {"name": "research", "workload": "pytorch-2.5-cu124"}
SHARED = {"name": "shared", "workload": "pytorch-2.5", "packages": ["typing-extensions"], "owner": "ansible"}
#: CPU-only builds under a CUDA build's name, as a careless mirror may have them.
MISLABELLED = "http://gpulab-mirror/whl/cu121/"
REAL_CPU = "http://gpulab-mirror/whl/cpu/"


def version(host: Any, name: str = "research") -> str:
    """The framework's version, told by the environment itself."""
    return host.check_output(f"{VENVS}/{name}/bin/python -c 'import torch; print(torch.__version__)'")


def role(host: Any, site: Player, **variables: Any) -> Run:
    """The role alone, with other variables than the scenario's."""
    return site(
        "playbooks/role.yml", limit=[host.backend.host], variables={"role": "framework_venv", **variables}
    )


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"framework_venv_index_url": "http://gpulab-mirror/whl/cpu/"},
            ["pytorch-2.5-cu124", "whl/cpu/", "CPUs only", "framework_venv_index_url", "$(TAG)"],
        ),
        (
            {"framework_venv_environments": [{"name": "research", "workload": "pytorch-1.12-cu113"}]},
            ["pytorch-1.12-cu113", "3.7 to 3.10", "3.11"],
        ),
    ],
    ids=["index of CPU wheels", "Python without a wheel"],
)
def test_what_cannot_work_is_refused_before_anything_changes(
    host: Any, site: Player, variables: dict[str, Any], says: list[str]
) -> None:
    before = fingerprint.take(host.check_output)
    run = role(host, site, **variables)
    assert run.rc != 0, run.output
    assert [word for word in says if word not in run.said] == [], run.output
    assert run.changed(host.backend.host) == 0
    assert before.differences(fingerprint.take(host.check_output)) == []


@pytest.mark.parametrize(
    ("environments", "says"),
    [
        ([{**RESEARCH, "packages": ["no-package-of-that-name"]}], ["no-package-of-that-name", "such wheel"]),
        ([{"name": "research", "workload": "pytorch-2.5-cu121"}], ["CPU-only wheel", MISLABELLED]),
        ([{**RESEARCH, "owner": "nobody-knows"}], ["no user nobody-knows", "framework_venv_environments"]),
    ],
    ids=["package that no index has", "CPU-only wheel under a CUDA name", "owner that is not there"],
)
def test_what_shows_while_it_is_made_leaves_the_former_environment(
    host: Any, site: Player, environments: list[dict[str, Any]], says: list[str]
) -> None:
    before = host.check_output(f"ls -l --time-style=full-iso {VENVS}")
    run = role(host, site, framework_venv_environments=[*environments, SHARED])
    assert run.rc != 0, run.output
    assert [word for word in says if word not in run.said] == [], run.output
    assert host.check_output(f"ls -l --time-style=full-iso {VENVS}") == before
    assert version(host) == "2.5.1+cu124"


def test_real_pytorch_counts_the_gpus_by_nvml_and_is_named_as_cpu_only(host: Any, site: Player) -> None:
    """The real 2.13 build for CPUs, which a user's pip put into the place of the CUDA build."""
    node = host.backend.host
    install = f"-m pip install -q --no-cache-dir --trusted-host gpulab-mirror --index-url {REAL_CPU}"
    host.check_output(f"{VENVS}/research/bin/python {install} torch==2.13.0+cpu")
    assert version(host) == "2.13.0+cpu"

    run = site("playbooks/verify.yml", limit=[node])
    assert run.rc != 0
    found = {row["workload"]: row for row in run.node(node)["verification"]}
    framework = found["research"]["framework"]
    assert (framework["built_with_cuda"], framework["cuda"], framework["available"]) == (False, None, False)
    assert framework["nvml_count"] == found["research"]["gpus_expected"] == 1
    assert "torch-cpu-build" in [finding.get("cause") for finding in found["research"]["findings"]]
    assert "CPU-only" in run.said
    assert found["shared"]["ok"], found["shared"]["findings"]

    plan = site.plan(node)
    assert [action["id"] for action in plan["actions"] if action["role"] == "framework_venv"] == [
        "venv.install"
    ]
    run = role(host, site)
    assert run.rc == 0, run.output
    assert version(host) == "2.5.1+cu124"
    assert host.check_output(f"ls -d {VENVS}/research@* | wc -l") == "1"


def test_environment_that_is_not_declared_any_more_goes_when_nobody_uses_it(host: Any, site: Player) -> None:
    sleep = f"{VENVS}/shared/bin/python -c 'import time; time.sleep(300)'"
    host.check_output(f"{sleep} </dev/null >/dev/null 2>&1 & echo $! >/tmp/user")
    run = role(host, site, framework_venv_environments=[RESEARCH])
    assert run.rc == 0 and run.changed(host.backend.host) == 0, run.output
    assert host.file(f"{VENVS}/shared").exists
    notes = run.plan(host.backend.host)["notes"]
    assert any(f"{VENVS}/shared@" in note and "it goes when that has ended" in note for note in notes), notes
    run = role(host, site, entry_point="remove")
    assert run.rc != 0 and "end these processes" in run.said, run.output
    host.check_output("kill $(cat /tmp/user); rm /tmp/user")
    run = role(host, site, framework_venv_environments=[RESEARCH])
    assert run.rc == 0, run.output
    assert not host.file(f"{VENVS}/shared").exists
    assert host.check_output(f"ls {VENVS} | grep -c shared; true") == "0"
    assert role(host, site).rc == 0
