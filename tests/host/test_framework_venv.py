"""Python environments on the host: their own Python imports the framework, which sees every GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from gpuready.catalog import Framework, load_catalog
from gpuready.venvs import DIRECTORY
from kit.questions import gpus_on_the_bus

pytestmark = pytest.mark.framework_venv
ASK = (
    "import json, torch; print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available(), "
    "[torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())], torch.cuda.get_arch_list()]))"
)


def environments(wished: Callable[[str, Any], Any]) -> list[tuple[str, dict[str, Any], Framework]]:
    """(path, as declared, its workload) of every environment that the inventory declares."""
    folder = wished("framework_venv_directory", DIRECTORY)
    found = []
    for row in wished("framework_venv_environments", []):
        workload = load_catalog().framework(row["workload"])
        assert workload is not None
        found.append((f"{folder}/{row['name']}", row, workload))
    if not found:
        pytest.skip("this inventory declares no environments")
    return found


def test_framework_of_every_environment_sees_every_gpu(host: Any, wished: Callable[[str, Any], Any]) -> None:
    gpus = len(gpus_on_the_bus(host))
    for path, _, workload in environments(wished):
        result = host.run(f"{path}/bin/python -c '{ASK}'")
        assert result.rc == 0, result.stderr
        version, cuda, available, names, archs = json.loads(result.stdout.splitlines()[-1])
        assert version.split("+")[0] == workload.version
        assert (cuda, available, len(names)) == (workload.cuda, True, gpus), result.stderr
        assert archs, "the build names no architecture"


def test_environment_is_a_link_to_one_complete_build(host: Any, wished: Callable[[str, Any], Any]) -> None:
    for path, row, _ in environments(wished):
        assert host.file(path).is_symlink
        build = host.check_output(f"readlink -f {path}")
        assert build.startswith(f"{path}@")
        stamp = json.loads(host.file(f"{path}/gpuready.json").content_string)
        assert stamp["name"] == row["name"] and stamp["hash"].startswith(build.split("@")[1][:12])
        assert host.check_output(f"ls -d {path}@*").splitlines() == [build]


def test_environment_belongs_to_its_owner_alone(host: Any, wished: Callable[[str, Any], Any]) -> None:
    for path, row, _ in environments(wished):
        owner = row.get("owner", "root")
        assert host.check_output(f"stat -L -c %U {path}") == owner
        assert host.check_output(f"find {path}/ ! -user {owner} -o ! -type l -perm /022 | head -3") == ""


def test_environment_is_consistent_for_pip(host: Any, wished: Callable[[str, Any], Any]) -> None:
    for path, _, _ in environments(wished):
        assert host.run(f"{path}/bin/python -m pip --disable-pip-version-check check").rc == 0
