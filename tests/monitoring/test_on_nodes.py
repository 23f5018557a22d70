"""On a lab node: is the job on the GPU, the live table, and a real Prometheus on the node's real exporter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit import BIN, LAB, ROOT, prometheus
from kit.nodes import Node, engine_environment, labctl
from kit.runs import Player, environment, player
from test_monitoring import DASHBOARD

sys.path.insert(0, str(ROOT / "tests" / "faults"))

from standin import MIRROR, publish

pytestmark = pytest.mark.lab

IMAGE = "tensorflow/tensorflow:2.9.0-gpu"
WISHES = {
    "framework_image_registry_mirror": MIRROR,
    "docker_engine_daemon_config": {"insecure-registries": [MIRROR.partition("/")[0]]},
    "gpu_health_enabled": True,
    "gpu_health_metrics_interval_seconds": 5,
    # the test's Prometheus runs on the lab's machine
    "gpu_health_node_exporter_bind_address": "0.0.0.0",
}
BUSY = "while True: sum(range(10000))"
#: The machine has other things to do.
SPARING = "--cpus 0.2"
#: A Python and nothing else.
SLIM = "gpulab-registry:5000/gpulab/python-slim:1"
#: What a wheel that was built for the CPU leaves in an image.
CPU_WHEEL = """
mkdir -p /opt/cpu/torch /opt/cpu/torch-2.5.1+cpu.dist-info
printf '__version__ = "2.5.1+cpu"\\ncuda = None\\nhip = None\\n' > /opt/cpu/torch/version.py
touch /opt/cpu/torch/__init__.py
cd /opt/cpu/torch-2.5.1+cpu.dist-info
printf 'Metadata-Version: 2.1\\nName: torch\\nVersion: 2.5.1+cpu\\n' > METADATA
"""
JOBS = f"""
set -e
{CPU_WHEEL}
run() {{ docker run -d "$@" >/dev/null; }}
run --gpus all --name training -v /usr/lib/gpulab/cuda-hold:/hold:ro {IMAGE} python3 /hold --gpu 0 --mib 4096
run {SPARING} --name bare {IMAGE} python3 -c '{BUSY}'
run {SPARING} --gpus all -e CUDA_VISIBLE_DEVICES=-1 --name hidden {IMAGE} python3 -c '{BUSY}'
run --gpus all --name waiting {IMAGE} sleep 100000
run {SPARING} --gpus all --name wheel -v /opt/cpu/torch:/usr/lib/python3/dist-packages/torch:ro \
  -v /opt/cpu/torch-2.5.1+cpu.dist-info:/usr/lib/python3/dist-packages/torch-2.5.1+cpu.dist-info:ro \
  {SLIM} python3 -c '{BUSY}'
docker run --name ended {IMAGE} sh -c 'exit 3' || true
pkill -u ansible -f "while True" || true
CUDA_VISIBLE_DEVICES=-1 setsid nohup runuser -u ansible -- nice -n 19 python3 -c '{BUSY}' >/dev/null 2>&1 &
"""


@dataclass
class Watched:
    """A node that gpuready watches, and jobs on it."""

    node: Node
    play: Player

    def usage(self, **asked: Any) -> tuple[int, str]:
        """How playbooks/usage.yml ends, and what it says."""
        run = self.play("playbooks/usage.yml", variables={"usage_window_seconds": 2, **asked})
        return run.rc, run.said

    @property
    def exporter(self) -> str:
        """The address of its node_exporter, in the lab's own network."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        done = subprocess.run(
            ["docker", "inspect", "-f", form, self.node.name],
            env=engine_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return f"{done.stdout.strip()}:9100"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A provisioned node with two GPUs and a job of every kind."""
    name = os.environ.get("GPUREADY_MONITORED_NODE")
    publish()
    node = Node.existing(name) if name else Node.up(f"gpulab-monitored-{os.getpid()}", gpus="a100,t4")
    try:
        play = player(tmp_path_factory.mktemp("runs"), [node], {node.name: WISHES})
        if not name:
            run = play("site.yml")
            assert run.rc == 0, run.output
        node.sh("docker rm -f training bare hidden waiting wheel ended >/dev/null 2>&1; true")
        node.sh(JOBS)
        yield Watched(node, play)
    finally:
        if not name:
            labctl("node-down", node.name, check=False)


@pytest.fixture
def computing(watched: Watched) -> Iterator[None]:
    """The first GPU computes."""
    busy = {"0000:3b:00.0": {"utilization_percent": 93, "temperature_c": 61, "power_watts": 241}}
    watched.node.fault(f"metrics={json.dumps(busy)}")
    yield
    watched.node.fault("metrics=null")


def test_job_that_computes_is_on_the_gpu(watched: Watched, computing: None) -> None:
    code, said = watched.usage(container="training")
    assert code == 0, said
    assert "container training computes on the GPU" in said
    assert "1 process of type C on GPU 0 (NVIDIA A100 80GB PCIe)" in said and "93 % on average" in said
    assert "(simulated)" in said


def test_job_that_rests_holds_the_gpu(watched: Watched) -> None:
    code, said = watched.usage(container="training")
    assert code == 0 and "holds the GPU, and does not compute on it at the moment" in said


@pytest.mark.parametrize(
    ("container", "title", "why"),
    [
        ("bare", "computes on the CPU", "the container was started without asking for a GPU"),
        ("hidden", "computes on the CPU", "CUDA_VISIBLE_DEVICES hides every GPU from the program"),
        ("wheel", "computes on the CPU", "CPU"),
        ("waiting", "does nothing at the moment, and holds no GPU", "it has a GPU and could use it"),
        ("ended", "does not run", "the container ended with exit code 3"),
    ],
)
def test_job_that_is_not_on_the_gpu_fails_with_the_reason(
    watched: Watched, container: str, title: str, why: str
) -> None:
    code, said = watched.usage(container=container)
    assert code == 2
    assert title in said and why in said, said
    if container == "wheel":
        assert "2.5.1+cpu" in said


def test_process_on_the_host_is_looked_into(watched: Watched) -> None:
    pid = int(watched.node.sh("pgrep -u ansible -f '[w]hile True' | tail -1"))
    code, said = watched.usage(pid=pid)
    assert code == 2 and f"process {pid} (python3) computes on the CPU" in said, said
    assert "CUDA_VISIBLE_DEVICES hides every GPU from the program" in said


def test_process_in_a_container_is_one_job(watched: Watched, computing: None) -> None:
    pid = int(watched.node.sh("docker inspect -f '{{.State.Pid}}' training"))
    code, said = watched.usage(pid=pid)
    assert code == 0 and f"process {pid} (python3) in container training computes on the GPU" in said


def test_looking_changes_nothing(watched: Watched) -> None:
    run = watched.play("playbooks/usage.yml", variables={"container": "waiting", "usage_window_seconds": 0})
    assert run.changed(watched.node.name) == 0
    assert (
        watched.node.sh("ls /tmp/ansible* /root/.ansible/tmp 2>/dev/null | head -1", check=False).strip()
        == ""
    )


# -- the live table ----------------------------------------------------------------------------------------


def watch(watched: Watched, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (inventory,) = (path for path in watched.play.inventories if path != LAB)
    command = [
        str(BIN / "gpuready"),
        "watch",
        "-i",
        str(LAB),
        "-i",
        str(inventory),
        "--limit",
        watched.node.name,
    ]
    return subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, env=environment(folder), cwd=ROOT
    )


def test_table_shows_who_computes(watched: Watched, computing: None, tmp_path: Path) -> None:
    done = watch(watched, tmp_path, "--once")
    assert done.returncode == 0, done.stderr
    row, job = done.stdout.splitlines()[1:3]
    assert f"{watched.node.name} (simulated)" in row and "93 %" in row and "computing" in row
    assert " C python3 " in job and "container training" in job and "GPU 93 %" in job
    assert "1 node, 2 GPUs, 1 computing, 0 held but idle" in done.stdout


def test_watching_leaves_nothing_on_the_node(watched: Watched, tmp_path: Path) -> None:
    seen = json.loads(watch(watched, tmp_path, "--once", "--json").stdout)[watched.node.name]
    assert seen["root"] and seen["processes"][0]["container"]["name"] == "training"
    assert watched.node.sh("pgrep -f [g]puready_watch", check=False) == ""


def test_playbook_prints_the_same_table(watched: Watched, computing: None) -> None:
    run = watched.play("playbooks/watch.yml")
    assert run.rc == 0, run.output
    assert "container training" in run.said and "93 %" in run.said and "1 computing" in run.said


# -- Prometheus --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[prometheus.Prometheus]:
    """A Prometheus that scrapes the node's own node_exporter."""
    with prometheus.running(
        tmp_path_factory.mktemp("prometheus"), {"gpu-nodes": [watched.exporter]}
    ) as found:
        found.wait(lambda: found.query("gpuready_node_info"), "the node's metrics")
        yield found


def test_prometheus_shows_what_the_gpu_does(
    watched: Watched, server: prometheus.Prometheus, computing: None
) -> None:
    server.wait(lambda: server.query('gpuready_gpu_utilization_ratio{gpu="0"} == 0.93'), "a GPU at 93 %")
    (job,) = server.query("gpuready_gpu_process_memory_bytes")
    assert job["metric"]["type"] == "C" and job["metric"]["container"] == "training"
    assert server.value("gpuready_gpus_found") == server.value("gpuready_gpus_expected") == 2


def test_every_panel_has_data_from_a_real_node(server: prometheus.Prometheus) -> None:
    """But those of errors: a healthy GPU that never had one has no such counter."""
    queries = prometheus.dashboard_queries(DASHBOARD, {"node": ".*", "gpu": ".*"})
    server.wait(lambda: server.query(queries["Errors/A"]), "two scrapes")
    empty = {title for title, expression in queries.items() if not server.query(expression)}
    # Whether a workload was verified by the node itself depends on its timer.
    assert empty <= {"Errors/B", "Verified/A", "Verified/B", "Verified/C"}


def test_no_alert_in_health_and_the_right_one_in_trouble(
    watched: Watched, server: prometheus.Prometheus
) -> None:
    def alerts() -> set[str]:
        return {alert["labels"]["alertname"] for alert in server.ask("alerts")["alerts"]}

    quiet = {"GpuHeldIdle"}  # pending: `training` rests
    server.wait(lambda: alerts() <= quiet, "silence")
    watched.node.fault(
        'metrics={"throttled": ["sw_thermal_slowdown"], "temperature_c": 93, "ecc_uncorrected": 2}'
    )
    try:
        server.wait(lambda: {"GpuSlowedByHeat", "GpuMemoryErrors"} <= alerts(), "heat and memory errors")
        page = server.page("consoles/gpuready.html")
        assert "slowed: sw thermal slowdown" in page and "GpuMemoryErrors" in page
    finally:
        watched.node.fault("metrics=null")


def test_example_scrapes_what_the_role_sets_up() -> None:
    example = yaml.safe_load((ROOT / "monitoring/prometheus/scrape.example.yml").read_text(encoding="utf-8"))
    job = next(job for job in example["scrape_configs"] if job["job_name"] == "gpu-nodes")
    assert all(target.endswith(":9100") for row in job["static_configs"] for target in row["targets"])
