"""Acceptance: the record says what the machine is, and the burn-in leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpuready import acceptance
from kit.questions import gpus_on_the_bus

pytestmark = pytest.mark.gpu_acceptance
Wished = Callable[[str, Any], Any]


@pytest.fixture(scope="module")
def record(host: Any, wished: Wished) -> dict[str, Any]:
    """The node's last record."""
    folder = wished("gpu_acceptance_inventory_directory", "")
    folder = (
        folder or host.ansible("ansible.builtin.debug", "var=inventory_dir", check=False)["inventory_dir"]
    )
    path = Path(str(folder)) / "acceptance" / f"{host.backend.host}.json"
    if not path.is_file():
        pytest.skip(f"{host.backend.host} has no acceptance record in {path.parent}")
    return json.loads(path.read_text(encoding="utf-8"))


def test_record_is_as_it_was_written(record: dict[str, Any]) -> None:
    assert acceptance.is_genuine(record)


def test_node_was_accepted_with_all_its_gpus(host: Any, record: dict[str, Any]) -> None:
    assert record["verdict"] == "accepted", record["because"]
    number = len(gpus_on_the_bus(host))
    assert [gpu["pci"] for gpu in record["hardware"]["gpus"]] == sorted(gpus_on_the_bus(host))
    assert {each["gpus_listed"] for each in record["rounds"]} == {number}
    assert len(record["watch"]["gpus"]) == number


def test_rounds_are_as_many_as_the_inventory_wants(record: dict[str, Any], wished: Wished) -> None:
    assert max(each["round"] for each in record["rounds"]) == int(wished("gpu_acceptance_rounds", 3))


def test_serial_numbers_are_the_machines(host: Any, record: dict[str, Any]) -> None:
    told = host.check_output("nvidia-smi --query-gpu=uuid,serial,vbios_version --format=csv,noheader")
    theirs = [tuple(field.strip() for field in line.split(",")) for line in told.splitlines()]
    ours = [(gpu["uuid"], gpu["serial"], gpu["vbios"]) for gpu in record["hardware"]["gpus"]]
    # What a GPU does not tell is [N/A] there.
    assert ours == [tuple(None if word.startswith("[") else word for word in row) for row in theirs]


def test_software_is_what_runs(host: Any, record: dict[str, Any]) -> None:
    assert record["software"]["driver"]["version"] in host.file("/proc/driver/nvidia/version").content_string
    assert record["software"]["kernel"] == host.check_output("uname -r")
    for image in record["software"]["images"]:
        assert image["id"] == host.check_output(
            "docker image inspect --format '{{{{.Id}}}}' {}".format(image["ref"])
        )


def test_burn_in_left_nothing_on_the_node(host: Any) -> None:
    assert not host.file("/run/gpuready/watch/acceptance").exists
    assert host.check_output("docker ps --all --quiet --filter label=gpuready.probe=true") == ""
