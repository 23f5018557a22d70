"""The driver's whole life in plans: sources and origins, kernels, reload or reboot, and the services."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from applied import TODAY, apply, converge
from gpuready import aptpins
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from gpuready.render import render
from observed_nodes import KERNEL, Node, archive, bare, become, kernel_version, merge, offer, source_row

CATALOG = load_catalog()
LATER = "5.15.0-160-generic"
DEBIAN_KERNEL = "6.1.0-40-amd64"
JOB = {"pid": 4711, "name": "python3", "files": ["/dev/nvidia0"], "service": None}
DAEMON = {"pid": 811, "name": "nvidia-persiste", "files": ["/dev/nvidia0"], "service": "nvidia-persistenced"}
CUDA_KEY = "EB693B3035CD5710E231E123A4B469963BF863CC"


def planned(node: Node, **wishes: Any) -> dict[str, Any]:
    return plan(node, wishes, CATALOG, host="node1", today=TODAY)


def ids(result: dict[str, Any]) -> list[str]:
    return [action["id"] for action in result["actions"]]


def action(result: dict[str, Any], identifier: str) -> dict[str, Any]:
    return next(row for row in result["actions"] if row["id"] == identifier)


def conflicts(result: dict[str, Any]) -> list[str]:
    return [row["id"] for row in result["conflicts"]]


def cuda(node: Node, versions: dict[int, list[str]]) -> Node:
    """The candidates of NVIDIA's repository for this node's system."""
    system = node["host"]["os"]
    source = CATALOG.package_source("cuda_repo", system["id"], system["version_id"])
    assert source is not None
    return archive(source, versions)


def cuda_row() -> Node:
    address = "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64"
    keyring = "/usr/share/keyrings/cuda-archive-keyring.gpg"
    return source_row(address, "/", [], signed_by=keyring, fingerprints=[CUDA_KEY])


def debian(release: str = "12") -> tuple[Node, Node]:
    """(a bare Debian node, what its archive's other components have)."""
    node = become(bare("20b5"), CATALOG, "debian", release)
    node["host"]["kernel"].update(running=DEBIAN_KERNEL, next_boot=DEBIAN_KERNEL, installed=[DEBIAN_KERNEL])
    node["apt"]["candidates"][f"linux-headers-{DEBIAN_KERNEL}"] = offer("6.1.1", origin="Debian")
    source = CATALOG.package_source("debian", "debian", release)
    assert source is not None
    version = {"12": {535: ["535.261.03-1~deb12u1"]}, "13": {550: ["550.163.01-2"]}}[release]
    return node, archive(source, version)


@pytest.fixture(scope="module")
def whole() -> Node:
    return converge(bare("20b5"))


# Sources and origins --------------------------------------------------------------------------------------


def test_debian_node_gets_the_components_of_its_own_archive() -> None:
    node, hidden = debian()
    result = planned(node)
    assert ids(result).index("driver.source") < ids(result).index("driver.install")
    assert result["driver"]["repo"] == {
        "name": "nvidia-driver",
        "uris": node["apt"]["sources"][0]["uris"],
        "suites": ["bookworm"],
        "components": ["contrib", "non-free", "non-free-firmware"],
        "key_url": None,
        "key_fingerprint": [],
        "signed_by": "/usr/share/keyrings/debian-archive-keyring.gpg",
    }
    assert (result["driver"]["source"], result["driver"]["origin"]) == ("debian", "Debian")
    assert result["driver"]["pin"] is None and "driver.pin" not in ids(result)
    assert any(
        "the driver's source is new" in line for line in action(result, "apt.refresh_lists")["evidence"]
    )
    for _ in range(2):
        node = apply(node, planned(node), hidden)
    result = planned(node)
    assert (result["status"], result["driver"]["repo"]) == ("converged", None)
    names = {row["name"] for row in node["driver"]["packages"]}
    assert {"nvidia-smi", "libcuda1", "nvidia-persistenced"} <= names
    assert node["driver"]["persistenced"]["active"]
    held = {row["name"] for row in node["driver"]["packages"] if row["held"]}
    assert {"nvidia-smi", "libcuda1"} <= held and "nvidia-persistenced" not in held


def test_debian_components_may_come_from_several_entries_and_aliases() -> None:
    node, _ = debian()
    base = node["apt"]["sources"][0]
    node["apt"]["sources"] = [
        {**base, "suites": ["stable"], "components": ["main"]},
        {**base, "suites": ["stable-updates"], "components": ["main"]},
        {**base, "suites": ["stable"], "components": ["contrib"]},
        {**base, "suites": ["stable"], "components": ["non-free"], "enabled": False},
        {**base, "uris": ["http://security.example/debian-security"], "suites": ["stable-security"]},
    ]
    repo = planned(node)["driver"]["repo"]
    assert repo["suites"] == ["stable", "stable-updates"]
    assert repo["components"] == ["non-free", "non-free-firmware"]


def test_cuda_repo_comes_with_its_pinned_key_and_keeps_ubuntu_out() -> None:
    node = bare("20b5")
    hidden = cuda(node, {580: ["580.126.09-1", "580.95.05-1"], 590: ["590.48.01-1"]})
    merge(hidden, {name: offer("1.18.0-1", origin="NVIDIA") for name in CATALOG.toolkit.packages})
    result = planned(node, nvidia_driver_source="cuda_repo")
    driver = result["driver"]
    assert driver["repo"]["uris"] == [
        "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64"
    ]
    assert driver["repo"]["key_url"].endswith("/ubuntu2204/x86_64/3bf863cc.pub")
    assert driver["repo"]["key_fingerprint"] == [CUDA_KEY]
    assert {"driver.source", "driver.pin", "apt.refresh_lists"} <= set(ids(result))
    assert aptpins.blocked(driver["pin"]) == ["Ubuntu"] and "nvidia-container-toolkit" in driver["pin"]
    assert {row["version"] for row in driver["packages"]} == {None}
    for _ in range(2):
        node = apply(node, planned(node, nvidia_driver_source="cuda_repo"), hidden)
    result = planned(node, nvidia_driver_source="cuda_repo")
    assert (result["status"], result["driver"]["version"]) == ("converged", "580.126.09")
    assert result["container_runtime"]["toolkit"]["version"] == "1.17.8-1"
    # Somebody takes the pinning away, or the source: what was asked for by name is put back.
    broken = copy.deepcopy(node)
    broken["apt"]["driver_pin"] = None
    broken["apt"]["sources"] = [row for row in broken["apt"]["sources"] if "cuda" not in row["uris"][0]]
    result = planned(broken, nvidia_driver_source="cuda_repo")
    assert ids(result) == ["driver.source", "driver.pin"]


def test_repository_of_ones_own_is_taken_as_it_is() -> None:
    mirror = "http://mirror.example/cuda/$(DISTRO)/$(ARCH)"
    wishes = {"nvidia_driver_source": "cuda_repo", "nvidia_driver_repo_url": mirror}
    repo = planned(bare("20b5"), **wishes)["driver"]["repo"]
    assert repo["uris"] == ["http://mirror.example/cuda/ubuntu2204/x86_64"]
    result = planned(bare("20b5"), nvidia_driver_source="cuda_repo", nvidia_driver_repo_url="")
    assert "driver.source" not in ids(result) and result["driver"]["repo"] is None


def test_ubuntus_driver_is_kept_from_being_mixed_with_nvidias(whole: Node) -> None:
    node = copy.deepcopy(whole)
    assert planned(node)["driver"]["pin"] is None
    node["apt"]["sources"].append(cuda_row())
    shared = {"libnvidia-compute-580-server": offer("580.126.09-1", origin="NVIDIA")}
    merge(node["apt"]["candidates"], shared)
    result = planned(node)
    assert ids(result) == ["driver.pin"] and aptpins.blocked(result["driver"]["pin"]) == ["NVIDIA"]
    assert "packages of NVIDIA" in result["actions"][0]["summary"]
    node = apply(node, result)
    assert node["apt"]["candidates"]["libnvidia-compute-580-server"]["candidate"].startswith("580.95.05")
    # What is kept out may be gone from apt's view: the file stays.
    del node["apt"]["candidates"]["libnvidia-compute-580-server"]["origins"]["580.126.09-1"]
    assert planned(node)["status"] == "converged"
    node["apt"]["driver_pin"] += "# by hand\n"
    assert ids(planned(node)) == ["driver.pin"]


def test_switch_of_the_origin_names_what_goes_and_where_back_to(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["apt"]["sources"].append(cuda_row())
    merge(node["apt"]["candidates"], cuda(node, {580: ["580.126.09-1"], 590: ["590.48.01-1"]}))
    assert planned(node)["driver"]["source"] == "ubuntu"  # auto stays
    node["driver"].update(processes=[DAEMON])
    node["driver"]["loaded"]["users"] = 2
    result = planned(node, nvidia_driver_source="cuda_repo", nvidia_driver_branch="580")
    driver = result["driver"]
    assert (driver["change"], driver["origin"], driver["version"]) == ("switch", "NVIDIA", "580.126.09")
    assert "nvidia-utils-580-server" in driver["replaces"]
    assert not set(driver["replaces"]) & {row["name"] for row in driver["packages"]}
    assert (driver["previous"]["source"], driver["previous"]["version"]) == ("ubuntu", "580.95.05")
    assert {"driver.pin", "driver.install", "driver.hold", "driver.reload"} <= set(ids(result))
    assert action(result, "driver.reload")["restarts"] == ["nvidia-persistenced"]
    text = " ".join(render(result).split())
    assert "switch from 580.95.05 open of ubuntu" in text and "loaded anew" in text


def test_rest_of_a_driver_from_elsewhere_is_replaced_though_it_is_not_whole() -> None:
    node, hidden = debian()
    merge(node["apt"]["candidates"], hidden)
    for name in ("nvidia-driver-cuda", "libcuda1", "nvidia-kernel-support"):
        row = {"name": name, "version": "580.126.09-1", "held": False, "status": "installed"}
        node["driver"]["packages"].append(row)
    driver = planned(node, nvidia_driver_branch="535")["driver"]
    assert (driver["origin"], driver["version"]) == ("Debian", "535.261.03")
    # What Debian has too comes in its version; what only NVIDIA has must go.
    assert driver["replaces"] == ["nvidia-driver-cuda"]


def test_packages_that_only_look_like_a_driver_are_not_replaced(whole: Node) -> None:
    node = copy.deepcopy(whole)
    merge(node["apt"]["candidates"], cuda(node, {590: ["590.48.01-1"]}))
    node["apt"]["sources"].append(cuda_row())
    for name in (f"linux-signatures-nvidia-{KERNEL}", f"linux-modules-nvidia-fs-{KERNEL}", "nvidia-prime"):
        row = {"name": name, "version": "5.15.0-157.167", "held": False, "status": "installed"}
        node["driver"]["packages"].append(row)
    replaces = planned(node, nvidia_driver_source="cuda_repo")["driver"]["replaces"]
    assert f"linux-modules-nvidia-580-server-open-{KERNEL}" in replaces
    assert not [name for name in replaces if "signatures" in name or "-fs-" in name or "prime" in name]


# Kernels ---------------------------------------------------------------------------------------------------


def metapackage(kernel: str) -> Node:
    return offer(kernel_version(kernel), kernel=kernel)


def test_metapackage_brings_a_kernel_and_the_reboot_into_it() -> None:
    """Nothing for the running kernel: the flavour's metapackage is for a newer one."""
    node = bare("20b5")
    for name in list(node["apt"]["candidates"]):
        if KERNEL in name:
            del node["apt"]["candidates"][name]
    name = "linux-modules-nvidia-580-server-open"
    node["apt"]["candidates"][f"{name}-generic"] = metapackage(LATER)
    node["apt"]["candidates"][f"{name}-{LATER}"] = offer(kernel_version(LATER))
    result = planned(node)
    assert (result["driver"]["install"], result["driver"]["kernel"]) == ("metapackage", LATER)
    assert result["reboot"] == {
        "needed": True,
        "key": f"kernel:{LATER}",
        "reason": f"the driver's modules are made for kernel {LATER}, not for the running one",
        "allowed": True,
    }
    assert "driver.load" not in ids(result) and ids(result)[-1] == "host.reboot"
    assert f"{name}-generic" not in result["driver"]["holds"]
    assert f"{name}-{LATER}" in result["driver"]["holds"]
    assert f"for kernel {LATER}, which the node boots next" in " ".join(render(result).split())
    node = apply(node, result)
    assert node["host"]["kernel"]["running"] == LATER and node["driver"]["loaded"]
    assert planned(node)["status"] == "converged"


def test_reboot_that_is_not_allowed_lists_nothing_that_cannot_be_done() -> None:
    node = bare("1eb8")
    node["host"]["nouveau"]["loaded"] = True
    node["host"]["gpus"][0]["driver_bound"] = "nouveau"
    result = planned(node, host_reboot_allowed=False)
    assert not {"driver.load", "driver.reload", "host.reboot"} & set(ids(result))
    node = apply(node, result)
    result = planned(node, host_reboot_allowed=False)
    assert ids(result) == [] and result["status"] == "changes"
    assert result["reboot"]["key"] == "nouveau" and any("yourself" in note for note in result["notes"])


def with_lost_next_boot(whole: Node) -> Node:
    node = copy.deepcopy(whole)
    node["host"]["kernel"].update(next_boot=LATER, installed=[KERNEL, LATER])
    return node


def test_next_boot_without_a_module_is_a_loud_note_and_with_a_reboot_a_conflict(whole: Node) -> None:
    node = with_lost_next_boot(whole)
    result = planned(node)
    assert result["status"] == "converged"
    assert any(note.startswith("CAUTION") and LATER in note for note in result["notes"])
    node["driver"]["loaded"].update(version="580.65.06", users=1)
    node["driver"]["processes"] = [JOB]
    result = planned(node)
    assert conflicts(result) == ["driver.next_boot_without_module"]
    row = result["conflicts"][0]
    assert LATER in row["what"] and any(f"linux-image-{LATER}" in way for way in row["options"])
    assert any(f"make {KERNEL}" in way for way in row["options"])
    assert not any("nvidia_driver_branch" in way for way in row["options"])
    node["apt"]["candidates"][f"linux-modules-nvidia-535-server-open-{LATER}"] = offer("1")
    row = planned(node)["conflicts"][0]
    assert any('nvidia_driver_branch: "535"' in way for way in row["options"])


def test_next_boot_that_can_have_its_module_gets_it_before_the_reboot(whole: Node) -> None:
    node = with_lost_next_boot(whole)
    name = f"linux-modules-nvidia-580-server-open-{LATER}"
    node["apt"]["candidates"][name] = offer(kernel_version(LATER))
    result = planned(node)
    assert ids(result) == ["driver.install", "driver.hold"] and result["driver"]["change"] == "complete"
    assert LATER in result["actions"][0]["reason"] and result["driver"]["previous"] is None
    node = apply(node, result)
    assert node["driver"]["on_disk_next_boot"] and planned(node)["status"] == "converged"


# Reload or reboot ------------------------------------------------------------------------------------------


def mismatched(whole: Node, **driver: Any) -> Node:
    node = copy.deepcopy(whole)
    node["driver"]["loaded"]["version"] = "580.65.06"
    node["driver"].update(driver)
    return node


def test_mismatch_is_loaded_anew_when_only_the_drivers_services_use_it(whole: Node) -> None:
    node = mismatched(whole, processes=[DAEMON])
    node["driver"]["loaded"]["users"] = 3
    result = planned(node)
    assert ids(result) == ["driver.reload"] and not result["reboot"]["needed"]
    assert planned(apply(node, result))["status"] == "converged"


BLOCKED: list[tuple[str, dict[str, Any], Any]] = [
    ("a job", {"processes": [DAEMON, JOB]}, "process 4711 (python3)"),
    ("unknown processes", {"processes": None}, "cannot be told"),
    ("tried and failed", {"reload_failed": "the modules stayed in use"}, "stayed in use"),
]


@pytest.mark.parametrize(("driver", "says"), [row[1:] for row in BLOCKED], ids=[row[0] for row in BLOCKED])
def test_mismatch_in_use_needs_the_reboot(whole: Node, driver: dict[str, Any], says: str) -> None:
    result = planned(mismatched(whole, **driver))
    assert ids(result) == ["host.reboot"]
    assert result["reboot"]["key"] == "driver:580.65.06->580.95.05"
    assert any("no reload" in line and says in line for line in result["actions"][0]["evidence"])


@pytest.mark.parametrize(("users", "says"), [(None, "cannot be told"), (2, "2 users that are no process")])
def test_modules_in_use_by_nobody_that_is_seen_need_the_reboot(
    whole: Node, users: int | None, says: str
) -> None:
    node = mismatched(whole)
    node["driver"]["loaded"]["users"] = users
    result = planned(node)
    assert ids(result) == ["host.reboot"] and says in " ".join(result["actions"][0]["evidence"])


def test_containers_and_the_wish_forbid_the_reload(whole: Node) -> None:
    node = mismatched(whole)
    assert ids(planned(node, nvidia_driver_reload_allowed=False)) == ["host.reboot"]
    node["container_runtime"]["gpu_containers"] = [{"id": "1", "name": "train", "image": "mine:1"}]
    result = planned(node)
    assert ids(result) == ["host.reboot"]
    assert any("no reload: container train (mine:1)" in line for line in result["actions"][0]["evidence"])


def test_stale_initramfs_behind_an_existing_blacklist_is_rebuilt(whole: Node) -> None:
    node = copy.deepcopy(whole)
    node["host"]["initramfs"]["stale"] = True
    result = planned(node)
    assert ids(result) == ["host.nouveau_off"] and "initramfs" in result["actions"][0]["evidence"][0]
    node["host"]["initramfs"]["stale"] = None
    assert planned(node)["status"] == "converged"


# Services and CDI ------------------------------------------------------------------------------------------


def test_fabric_manager_is_the_drivers_own_version() -> None:
    node = bare("20b2")
    node["host"]["nvswitches"] = [{"pci": "0000:05:00.0", "vendor_id": "10de", "device_id": "1af1"}]
    result = planned(node)
    assert "driver.fabricmanager" in ids(result)
    assert "580.95.05" in action(result, "driver.fabricmanager")["summary"]
    node = apply(node, result)
    assert node["driver"]["fabricmanager"]["version"] == "580.95.05"
    assert planned(node)["status"] == "converged"
    node["driver"]["fabricmanager"].update(active=False)
    assert ids(planned(node)) == ["driver.fabricmanager"]
    node["host"]["nvswitches"] = []
    assert planned(node)["status"] == "converged"


def test_toolkits_own_cdi_service_writes_the_specification() -> None:
    node = bare("20b5", docker="28.2.2-0ubuntu1")
    node["apt"]["candidates"].update({name: offer("1.18.1-1") for name in CATALOG.toolkit.packages})
    result = planned(node)
    assert "toolkit.cdi_refresh" in ids(result) and "toolkit.cdi" not in ids(result)
    assert result["container_runtime"]["toolkit"]["cdi"]["spec"] == "/var/run/cdi/nvidia.yaml"
    node = apply(node, result)
    assert [spec["path"] for spec in node["container_runtime"]["cdi"]["specs"]] == [
        "/var/run/cdi/nvidia.yaml"
    ]
    assert planned(node)["status"] == "converged"
    node["container_runtime"]["toolkit"]["cdi_refresh"]["failed"] = True
    assert ids(planned(node)) == ["toolkit.cdi_refresh"]


def test_rejected_version_is_not_chosen_again_unless_pinned() -> None:
    node = bare("20b5")
    why = {
        "version": "580.95.05",
        "package_version": None,
        "at": "2026-11-23T00:00:00Z",
        "why": "no GPU listed",
    }
    node["driver"]["record"] = {"rejected": [why]}
    result = planned(node)
    assert result["driver"]["version"] == "535.274.02"
    assert "rejected" in [row["rule"] for row in result["driver"]["because"]]
    assert "580.95.05" in render(result)
    assert planned(node, nvidia_driver_version="580.95.05")["driver"]["version"] == "580.95.05"


def test_dockers_repository_is_the_systems_own() -> None:
    node, _ = debian()
    result = planned(node, docker_engine_source="docker_ce")
    assert conflicts(result) == ["docker.repo_of_another_system"]
    way = "set docker_engine_repo_url: https://download.docker.com/linux/debian"
    assert way in result["conflicts"][0]["options"]
    address = "https://download.docker.com/linux/debian"
    assert conflicts(planned(node, docker_engine_source="docker_ce", docker_engine_repo_url=address)) == []
