"""Health: the node watches itself, and Prometheus gets what it sees."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from kit.questions import gpus_on_the_bus
from prometheus_client.parser import text_string_to_metric_families
from workloads import images_of

pytestmark = pytest.mark.gpu_health

DIRECTORY = "/var/lib/prometheus/node-exporter"
PROGRAM = "/usr/local/lib/gpuready/gpuready-health.pyz"
UNITS = ("gpuready-health-check.timer", "gpuready-health-verify.timer", "gpuready-health-packages.path")
#: A node that has only just come up verifies itself two minutes after that, and may have other work to do.
FIRST_VERIFICATION_SECONDS = 300
Wished = Callable[[str, Any], Any]
Samples = dict[str, list[tuple[dict[str, str], float]]]


# Of the whole module, so that it is asked before what else is read of the node.
@pytest.fixture(autouse=True, scope="module")
def watched(wished: Wished) -> None:
    if not wished("gpu_health_enabled", False):
        pytest.skip("this inventory does not want its nodes watched")


@pytest.fixture(scope="module")
def textfile(wished: Wished) -> str:
    if wished("gpu_health_exporter", "textfile") == "none":
        pytest.skip("this inventory wants no metrics")
    return wished("gpu_health_textfile_directory", DIRECTORY) + "/gpuready.prom"


def parsed(text: str) -> Samples:
    """Everything that Prometheus' own parser reads, by name."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture(scope="module")
def metrics(host: Any, textfile: str) -> Samples:
    return parsed(host.file(textfile).content_string)


def one(metrics: Samples, name: str) -> float:
    ((labels, value),) = metrics[name]
    assert labels == {}
    return value


@pytest.mark.parametrize("unit", UNITS)
def test_unit_runs_now_and_after_a_boot(host: Any, wished: Wished, unit: str) -> None:
    if "packages" in unit and not wished("gpu_health_verify_on_package_change_enabled", True):
        pytest.skip("not wanted")
    assert host.service(unit).is_enabled
    assert host.service(unit).is_running


def test_metrics_are_written_all_the_time(host: Any, wished: Wished, textfile: str) -> None:
    every = wished("gpu_health_metrics_interval_seconds", 15)
    assert host.service("gpuready-health-metrics.service").is_enabled
    age = int(host.check_output("date +%s")) - int(host.check_output(f"stat -c %Y {textfile}"))
    assert age <= 3 * every


def test_metrics_are_prometheus_own_format(metrics: Samples) -> None:
    strange = [name for name in metrics if not name.startswith("gpuready_")]
    assert strange == []
    assert one(metrics, "gpuready_nvml_up") == 1


def test_every_gpu_is_found_and_named(host: Any, metrics: Samples) -> None:
    number = len(gpus_on_the_bus(host))
    assert one(metrics, "gpuready_gpus_found") == number
    told = host.check_output(
        "nvidia-smi --query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits"
    )
    rows = [tuple(field.strip() for field in line.split(",")) for line in told.splitlines()]
    ours = sorted(
        (labels["gpu"], labels["uuid"], labels["name"], str(int(value / 1024**2)))
        for labels, value in metrics["gpuready_gpu_memory_total_bytes"]
    )
    assert ours == sorted(rows)


def test_temperature_and_power_are_believable(metrics: Samples) -> None:
    for name, low, high in (("temperature_celsius", 0, 110), ("power_watts", 0, 2000)):
        for _labels, value in metrics[f"gpuready_gpu_{name}"]:
            assert low < value < high


def test_driver_is_the_loaded_one(host: Any, metrics: Samples) -> None:
    ((labels, value),) = metrics["gpuready_driver_info"]
    assert value == 1
    assert labels["version"] in host.file("/proc/driver/nvidia/version").content_string


def test_node_is_as_planned(metrics: Samples) -> None:
    drifted = [labels["what"] for labels, value in metrics["gpuready_drift"] if value]
    assert drifted == []
    assert len(metrics["gpuready_drift"]) >= 10
    assert one(metrics, "gpuready_check_ok") == 1


def test_workloads_were_verified_by_the_node_itself(host: Any, textfile: str, wished: Wished) -> None:
    wanted = set(images_of(wished("gpuready_workloads", None)))
    deadline = time.monotonic() + FIRST_VERIFICATION_SECONDS
    while True:
        metrics = parsed(host.file(textfile).content_string)
        verified = {labels["workload"]: value for labels, value in metrics.get("gpuready_verify_ok", [])}
        if wanted <= set(verified) or time.monotonic() > deadline:
            break
        time.sleep(3)
    assert wanted <= set(verified)
    assert set(verified.values()) == {1.0}
    for _labels, at in metrics["gpuready_verify_timestamp_seconds"]:
        assert 0 <= time.time() - at < 2 * 86400


def test_node_exporter_publishes_them(host: Any, wished: Wished, textfile: str) -> None:
    """Every sample of the file comes out of node_exporter, which refuses a file that is not right."""
    if not wished("gpu_health_node_exporter_install_allowed", True):
        pytest.skip("the site's own node_exporter listens where it likes")
    script = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9100/metrics').read().decode())"
    served = parsed(host.check_output(f'/usr/bin/python3 -c "{script}"'))
    assert one(served, "node_textfile_scrape_error") == 0
    address = wished("gpu_health_node_exporter_bind_address", "127.0.0.1")
    assert [found for found in host.socket.get_listening_sockets() if found.endswith(":9100")] == [
        f"tcp://{address}:9100"
    ]
    published = {name for name in served if name.startswith("gpuready_")}
    assert published == set(parsed(host.file(textfile).content_string))


def test_nobody_but_root_decides_what_runs(host: Any) -> None:
    for path in (PROGRAM, "/usr/local/lib/gpuready/pynvml.py", "/etc/gpuready/health/health.json"):
        found = host.file(path)
        assert found.user == "root", path
        assert not found.mode & 0o022, path


def test_no_unit_of_ours_has_failed(host: Any) -> None:
    result = host.run("systemctl list-units --state=failed --plain --no-legend 'gpuready-*'")
    assert result.stdout.strip() == ""
