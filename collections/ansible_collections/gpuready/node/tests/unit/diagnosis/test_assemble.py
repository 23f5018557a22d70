"""The facts of a node out of a run, and a diagnosis as findings: with the real knowledge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from applied import converge
from gpuready.catalog import load_catalog
from gpuready.diagnosis import assemble, engine
from gpuready.diagnosis.knowledge import load_knowledge
from observed_nodes import Node, bare

CATALOG = load_catalog()
KNOWLEDGE = load_knowledge()


@pytest.fixture(scope="module")
def whole() -> Node:
    """A node on which everything is in place, and NVML lists its GPU."""
    node = converge(bare("20b5", docker="28.2.2-1"))
    node["driver"]["devices"] = [{"index": 0, "pci": "0000:3b:00.0", "name": "NVIDIA A100 80GB PCIe"}]
    node["driver"]["nvml"].update(source="pynvml", driver_version="580.95.05", cuda_version="13.0")
    return node


def verification(log: str = "", way: str = "gpus", **more: Any) -> Node:
    return {
        "ok": False,
        "workload": "tensorflow-2.9",
        "image": "tensorflow/tensorflow:2.9.0-gpu",
        "launch": {"way": way},
        "gpus_listed": 0,
        "gpus_expected": 1,
        "log": log,
        "findings": [],
        **more,
    }


def ask(node: Mapping[str, Any] | None, *verifications: Node, probe: Any = None, plan: Any = None) -> Node:
    facts = assemble.facts_of(node, plan, verifications, probe, catalog=CATALOG)
    return engine.diagnose(facts, knowledge=KNOWLEDGE, catalog=CATALOG)


def roots(answer: Mapping[str, Any]) -> list[str]:
    return [cause["cause"] for cause in answer["causes"] if cause["standing"] == "root"]


def docker(node: Node) -> Node:
    return node["container_runtime"]["docker"]


def not_loaded(node: Node) -> None:
    node["driver"].update(loaded=None, devices=None, device_nodes=[], device_access={}, majors={})
    node["driver"]["nvml"].update(driver_version=None, cuda_version=None, error="Driver Not Loaded")
    for gpu in node["host"]["gpus"]:
        gpu["driver_bound"] = None


def bound(name: str) -> Callable[[Node], None]:
    def damage(node: Node) -> None:
        not_loaded(node)
        node["host"]["gpus"][0]["driver_bound"] = name
        node["host"]["nouveau"]["loaded"] = name == "nouveau"

    return damage


def no_driver(node: Node) -> None:
    not_loaded(node)
    node["driver"].update(on_disk=None, packages=[])
    node["driver"]["userspace"] = {"version": None, "libcuda": None, "libnvidia_ml": None, "nvidia_smi": None}


def no_gpu(node: Node) -> None:
    not_loaded(node)
    node["host"]["gpus"] = []


def unsigned(node: Node) -> None:
    not_loaded(node)
    node["host"]["secure_boot"] = True
    node["driver"]["on_disk"]["signed"] = False


def mismatch(node: Node) -> None:
    node["driver"]["loaded"]["version"] = "580.82.07"
    node["driver"].update(devices=None)
    node["driver"]["nvml"].update(error="Driver/library version mismatch", driver_version=None)


def no_uvm(node: Node) -> None:
    node["driver"]["device_nodes"].remove("/dev/nvidia-uvm")
    node["driver"]["loaded"]["modules"] = ["nvidia"]


def down(node: Node) -> None:
    docker(node)["live"].update(reachable=False, error="Docker Engine: Connection refused")
    docker(node)["service"].update(active=False, pid=None)


def no_toolkit(node: Node) -> None:
    toolkit = node["container_runtime"]["toolkit"]
    toolkit.update(packages=[], version=None)
    toolkit["binaries"] = dict.fromkeys(toolkit["binaries"])


def no_runtime(node: Node) -> None:
    docker(node)["live"]["runtimes"] = ["runc"]


BROKEN: list[tuple[str, Callable[[Node], None], str, str, str]] = [
    ("no GPU", no_gpu, "gpus", "host", "no-gpu-on-bus"),
    ("nouveau", bound("nouveau"), "gpus", "host", "nouveau-bound"),
    ("vfio", bound("vfio-pci"), "gpus", "host", "vfio-bound"),
    ("no driver", no_driver, "gpus", "host", "driver-not-installed"),
    ("not loaded", not_loaded, "gpus", "host", "module-not-loaded"),
    ("unsigned", unsigned, "gpus", "host", "secure-boot-rejects-module"),
    ("mismatch", mismatch, "gpus", "host", "driver-library-mismatch"),
    ("no uvm", no_uvm, "gpus", "host", "uvm-not-loaded"),
    ("dockerd down", down, "gpus", "container_runtime", "docker-not-running"),
    ("no toolkit", no_toolkit, "gpus", "container_runtime", "toolkit-missing"),
    (
        "hook too new",
        lambda n: n["container_runtime"]["toolkit"].update(hook_newer_than_dockerd=True),
        "gpus",
        "container_runtime",
        "toolkit-unknown-to-dockerd",
    ),
    ("no runtime", no_runtime, "runtime", "container_runtime", "runtime-unknown-to-dockerd"),
    (
        "no spec",
        lambda n: n["container_runtime"]["cdi"].update(specs=[]),
        "cdi",
        "container_runtime",
        "cdi-spec-missing",
    ),
]


@pytest.mark.parametrize(
    ("damage", "way", "layer", "cause"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_failed_verification_has_its_cause_as_first_finding(
    whole: Node, damage: Callable[[Node], None], way: str, layer: str, cause: str
) -> None:
    node = copy.deepcopy(whole)
    damage(node)
    found = assemble.findings(ask(node, verification(way=way)))
    assert (found[0]["layer"], found[0]["cause"]) == (layer, cause)
    assert found[0]["finding"] and found[0]["evidence"] and found[0]["fix"]


def test_whole_node_whose_workload_lists_its_gpus_is_healthy(whole: Node) -> None:
    good = verification(
        ok=True, gpus_listed=1, framework={"name": "tensorflow", "version": "2.9.0", "cuda": "11.2"}
    )
    answer = ask(whole, good)
    assert answer["status"] == "healthy", answer
    assert assemble.findings(answer) == []


def test_log_alone_names_the_cause() -> None:
    """A verification without an observation: the role gpu_verify used alone."""
    log = 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].'
    found = assemble.findings(ask(None, verification(log)))
    assert found and found[0]["layer"] == "container_runtime"


def test_fix_says_first_what_site_yml_does() -> None:
    cause = {
        "site": [{"id": "docker.restart", "reason": "x"}],
        "repair": "safe",
        "fix": ["systemctl restart docker"],
    }
    assert assemble.repairs(cause) == ["run site.yml: it does docker.restart", "systemctl restart docker"]
    assert "with a reboot" in assemble.repairs({**cause, "repair": "reboot"})[0]
    assert assemble.repairs({**cause, "site": None}) == ["systemctl restart docker"]
    assert assemble.repairs({**cause, "site": []}) == ["systemctl restart docker"]


def test_findings_are_in_the_chain_s_order() -> None:
    def cause(name: str, link: str, certain: bool = True) -> Node:
        return {
            "cause": name,
            "link": link,
            "layer": "host",
            "title": name,
            "standing": "root",
            "certain": certain,
            "evidence": [],
            "fix": [],
            "repair": "manual",
            "site": None,
        }

    answer = {
        "chain": [{"link": "bus"}, {"link": "module"}, {"link": "engine"}],
        "causes": [cause("c", "engine"), cause("a", "module", certain=False), cause("b", "module")],
    }
    assert [row["cause"] for row in assemble.findings(answer)] == ["b", "c", "a"]


# -- which container, which verification -----------------------------------------------------------


def looked(**changes: Any) -> Node:
    return {
        "ran": True,
        "image": "tensorflow/tensorflow:2.9.0-gpu",
        "env": {"CUDA_VISIBLE_DEVICES": "0"},
        "requests": {"gpus": True},
        "framework": {
            "place": "container",
            "name": "tensorflow",
            "version": "2.9.0",
            "cuda": "11.2",
            "archs": None,
        },
        "log": "",
        **changes,
    }


def test_failed_verification_is_asked_about_before_a_good_one() -> None:
    good, bad, worse = verification(ok=True), verification(workload="b"), verification(workload="c")
    assert assemble.the_verification([good, bad, worse]) is bad
    assert assemble.the_verification([good]) is good
    assert assemble.the_verification([]) is None


def test_probe_s_container_is_the_one_in_question(whole: Node) -> None:
    probe = {"with_gpu": looked(), "without_gpu": looked(requests={"gpus": False}), "container": None}
    said = verification(framework={"name": "tensorflow", "version": "2.9.1", "archs": ["sm_80"]})
    facts = assemble.facts_of(whole, None, [said], probe, catalog=CATALOG)
    assert facts["container"]["requests"] == {"gpus": True} and "framework" not in facts["container"]
    assert facts["framework"]["version"] == "2.9.1"  # its own word, when it ran
    assert facts["framework"]["archs"] == ["sm_80"] and facts["framework"]["cuda"] == "11.2"
    assert facts["framework"]["available"] is False and facts["framework"]["gpus_listed"] == 0
    assert facts["probes"]["without_gpu"]["requests"] == {"gpus": False}
    assert facts["verification"] == said


def test_somebody_s_container_is_not_judged_by_a_workload(whole: Node) -> None:
    own = looked(name="jupyter", framework={"place": "container", "name": "pytorch", "version": "2.0.1+cpu"})
    probe = {"container": own, "with_gpu": None, "cdi_list": {"ran": True, "devices": []}}
    facts = assemble.facts_of(whole, None, [verification(ok=True)], probe, catalog=CATALOG)
    assert facts["container"]["name"] == "jupyter" and facts["framework"]["name"] == "pytorch"
    assert "verification" not in facts and facts["probes"]["cdi_list"]["devices"] == []


def test_container_that_is_not_there_is_no_fact(whole: Node) -> None:
    probe = {"container": {"missing": True, "unknown": True, "error": "No such container", "names": []}}
    assert "container" not in assemble.facts_of(whole, None, [], probe, catalog=CATALOG)


def test_build_without_cuda_is_taken_at_its_word(whole: Node) -> None:
    said = verification(
        framework={"name": "tensorflow", "version": "2.9.0", "cuda": None, "built_with_cuda": False}
    )
    facts = assemble.facts_of(whole, None, [said], catalog=CATALOG)
    assert facts["framework"]["cuda"] is False


def test_what_the_image_requires_is_held_against_the_node(whole: Node) -> None:
    node = copy.deepcopy(whole)
    image = "tensorflow/tensorflow:2.9.0-gpu"
    for row in node["framework"]["images"]:
        row["env"] = {"NVIDIA_REQUIRE_CUDA": "cuda>=99.0"}
    assert any(row["ref"] == image for row in node["framework"]["images"])
    facts = assemble.facts_of(node, None, [verification()], catalog=CATALOG)
    assert [row["holds"] for row in facts["probes"]["requirements"]] == [False]
    # A container's own environment beats its image's.
    probe = {"with_gpu": looked(env={"NVIDIA_REQUIRE_CUDA": "cuda>=11.2"})}
    facts = assemble.facts_of(node, None, [verification()], probe, catalog=CATALOG)
    assert [row["holds"] for row in facts["probes"]["requirements"]] == [True]


@pytest.mark.parametrize(
    ("virtual", "expected"),
    [
        ("none", {"wsl": False, "virtual_machine": False}),
        ("kvm", {"wsl": False, "virtual_machine": "kvm"}),
        ("wsl", {"wsl": True, "virtual_machine": False}),
        ("docker", {"wsl": False, "virtual_machine": False}),
        (None, {"wsl": None, "virtual_machine": None}),
    ],
)
def test_platform(virtual: str | None, expected: Node) -> None:
    assert assemble.platform_of({"host": {"virtual": virtual}}) == {"os": "linux", **expected}


def test_nothing_is_known_of_nothing() -> None:
    assert assemble.facts_of(None, catalog=CATALOG) == {"probes": {"requirements": []}}
