"""What applying a plan makes of an observed node: a pure stand-in for the roles, dpkg, DKMS and the kernel.

It knows what the real ones do, and nothing of how the planner thinks: that a plan which was applied is empty
the next time is what the tests ask of both together.
"""

from __future__ import annotations

import copy
import fnmatch
from typing import Any

from gpuready import aptpins, owned_files, recipes
from gpuready.catalog import Catalog, Family, PackageSource, load_catalog
from gpuready.driver_options import names
from gpuready.health import build
from gpuready.plan_recipes import base_of
from gpuready.planner import plan
from gpuready.versions import Version, driver_branch, driver_version
from observed_nodes import (
    LIBRARIES,
    TOOLKIT,
    Node,
    daemon_json,
    kernel_version,
    live,
    merge,
    offer,
    source_row,
)

TODAY = "2026-11-23"
# The numbers that a kernel gives to the driver's devices: the second one differs from boot to boot.
MAJORS = {"nvidia": 195, "nvidia-uvm": 511}
RESTARTING = {"docker.daemon_config", "toolkit.runtime", "docker.restart", "docker.service", "docker.install"}


def converge(node: Node, **wishes: Any) -> Node:
    """The node after gpuready has done everything."""
    for _ in range(4):
        todo = plan(node, wishes, load_catalog(), host="node", today=TODAY)
        if todo["status"] == "converged":
            return node
        assert todo["status"] == "changes", todo["conflicts"]
        node = apply(node, todo)
    raise AssertionError([action["id"] for action in todo["actions"]])


def apply(node: Node, plan: Node, hidden: Node | None = None) -> Node:
    """The observation after all the plan's actions have done what they promise.

    `hidden`: candidates that apt sees only when the driver's source is there.
    """
    node = copy.deepcopy(node)
    done = [action["id"] for action in plan["actions"]]
    apt(node, plan, done, hidden)
    if "host.nouveau_off" in done:
        node["host"]["nouveau"].update(blacklisted=True, files=["/etc/modprobe.d/gpuready-nouveau.conf"])
        node["host"]["initramfs"]["stale"] = False
    docker(node, plan, done)
    driver(node, plan, done)
    cdi(node, plan, done)
    venvs(node, plan, done)
    derived_images(node, plan, done)
    workbenches(node, plan, done)
    health(node, plan, done)
    return node


# apt ----------------------------------------------------------------------------------------------------


def apt(node: Node, plan: Node, done: list[str], hidden: Node | None) -> None:
    if "apt.finish_dpkg" in done:
        node["apt"]["dpkg_interrupted"] = False
    if "apt.refresh_lists" in done:
        node["apt"]["lists_age_seconds"] = 1.0
        node["apt"]["candidates"] = node["apt"]["candidates"] or {}
    candidates = node["apt"]["candidates"] or {}
    if "toolkit.source" in done:
        toolkit = plan["container_runtime"]["toolkit"]
        row = source_row(toolkit["repo_url"], "/", [], file=_file("nvidia-container-toolkit"))
        row.update(signed_by="/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg")
        row.update(fingerprints=list(toolkit["repo_key_fingerprint"]))
        node["apt"]["sources"].append(row)
        for name in TOOLKIT:
            candidates.setdefault(name, offer("1.17.8-1", "1.17.7-1"))
    if "docker.source" in done:
        row = source_row("https://download.docker.com/linux/ubuntu", "jammy", ["stable"])
        row.update(file=_file("docker"), signed_by="/usr/share/keyrings/docker.gpg")
        row.update(fingerprints=["9DC858229FC7DD38854AE2D88D81803C0EBFCD88"])
        node["apt"]["sources"].append(row)
        for name in ("docker-ce", "docker-ce-cli", "containerd.io"):
            candidates.setdefault(name, offer("5:28.5.1-1~ubuntu.22.04~jammy"))
    if "driver.source" in done:
        repo = plan["driver"]["repo"]
        row = source_row(repo["uris"][0], repo["suites"][0], repo["components"], file=_file(repo["name"]))
        row.update(suites=repo["suites"])
        row.update(signed_by=repo["signed_by"] or f"/etc/apt/keyrings/{repo['name']}.asc")
        row.update(fingerprints=repo["key_fingerprint"] or None)
        node["apt"]["sources"].append(row)
        merge(candidates, copy.deepcopy(hidden or {}))
    if "driver.pin" in done:
        node["apt"]["driver_pin"] = plan["driver"]["pin"]
    if "driver.upgrade_guard" in done:
        node["apt"]["unattended_upgrades"]["guard_file"] = True
    obey_pin(node)


def obey_pin(node: Node) -> None:
    """Candidates, as apt tells them under the preferences that are there."""
    pin = node["apt"]["driver_pin"]
    if pin is None:
        return
    records = [record for record in pin.split("\n\n") if "Package: " in record]
    for name, entry in (node["apt"]["candidates"] or {}).items():
        possible = []
        for version in entry["versions"]:
            origins = entry["origins"].get(version, [])
            free = [origin for origin in origins if not _kept_out(name, origin, records)]
            if free or version == entry["installed"]:
                possible.append(version)
        entry["candidate"] = max(possible, key=Version) if possible else None


def _kept_out(name: str, origin: str, records: list[str]) -> bool:
    for record in records:
        fields = dict(line.split(": ", 1) for line in record.splitlines() if ": " in line and line[0] != "#")
        label = {"NVIDIA": aptpins.CUDA_LABEL}.get(origin)
        matching = fields["Pin"] in ("release o=" + origin, f"release l={label}")
        if matching and any(fnmatch.fnmatch(name, pattern) for pattern in fields["Package"].split()):
            return int(fields["Pin-Priority"]) < 0
    return False


def _file(name: str) -> str:
    return f"/etc/apt/sources.list.d/{name}.sources"


# the container runtime ----------------------------------------------------------------------------------


def docker(node: Node, plan: Node, done: list[str]) -> None:
    runtime = plan["container_runtime"]
    docker = node["container_runtime"]["docker"]
    toolkit = node["container_runtime"]["toolkit"]
    content = copy.deepcopy(docker["daemon_json"]["content"]) or {}
    if "docker.install" in done:
        row = runtime["docker"]["packages"][0]
        candidates = node["apt"]["candidates"]
        known = candidates.setdefault(row["name"], offer(row["version"] or "20.10.24+dfsg1-1"))
        known["installed"] = row["version"] or known["candidate"]
        plain = known["installed"].split(":")[-1].split("-")[0].split("+")[0]
        docker.update(installed=True, package=row["name"], version=plain)
        node["framework"]["images"] = node["framework"]["images"] or []
    if "toolkit.install" in done:
        version = runtime["toolkit"]["version"] or node["apt"]["candidates"][TOOLKIT[0]]["candidate"]
        toolkit["packages"] = [
            {"name": name, "version": version, "held": False, "status": "installed"} for name in TOOLKIT
        ]
        toolkit["version"] = version.split("-")[0]
        toolkit["binaries"] = {name: f"/usr/bin/{name}" for name in toolkit["binaries"]}
        # The very transaction that brought it may have started dockerd before.
        toolkit["hook_newer_than_dockerd"] = True
        toolkit["hook_on_dockerd_path"] = True
        if Version(toolkit["version"]) >= Version("1.18"):
            toolkit["cdi_refresh"] = {"installed": True, "failed": not node["driver"]["loaded"]}
    if "toolkit.hold" in done:
        for row in toolkit["packages"]:
            row["held"] = True
    if "docker.daemon_config" in done:
        content.update(copy.deepcopy(runtime["docker"]["daemon_config"]))
    if "toolkit.runtime" in done:
        content.setdefault("runtimes", {})["nvidia"] = runtime["toolkit"]["runtime"]
        if runtime["toolkit"]["default_runtime"]:
            content["default-runtime"] = "nvidia"
        if runtime["toolkit"]["cdi"]["feature_flag"]:
            content.setdefault("features", {})["cdi"] = True
    if {"docker.daemon_config", "toolkit.runtime"} & set(done):
        docker["daemon_json"] = daemon_json(content)
    if RESTARTING & set(done):
        docker["service"].update(active=True, enabled=True, pid=411, started_at=1790000000.0)
        docker["live"] = live(docker, content)
        toolkit["hook_newer_than_dockerd"] = False
        toolkit["hook_on_dockerd_path"] = True
    if "image.fetch" in done:
        node["framework"]["images"] = (node["framework"]["images"] or []) + [
            {
                "ref": row["image"],
                "id": "sha256:1",
                "digests": [],
                "size_mib": 3800,
                "env": None,
                "labels": {},
                "architecture": node["host"]["os"]["arch"],
                "containers": [],
            }
            for row in plan["workloads"]
            if not row["present"] and row["pull"]
        ]


def derived_images(node: Node, plan: Node, done: list[str]) -> None:
    images = node["framework"]["images"]
    if "image.build" in done:
        for row in plan["recipes"]:
            if row["present"]:
                continue
            if base_of(images, row["base"]["image"]) is None:
                images.append(image_row(row["base"]["image"], "sha256:base", node, {}))
            base = base_of(images, row["base"]["image"])
            assert base is not None
            labels = {
                recipes.RECIPE: row["name"],
                recipes.HASH: row["hash"],
                recipes.BASE: base["id"],
                recipes.CHECKED: "cuda=11.2 cudnn=8 framework=2.9.0",
            }
            images[:] = [image for image in images if image["ref"] != row["image"]]
            images.append(image_row(row["image"], "sha256:" + row["hash"], node, labels))
    if "image.prune" in done:
        images[:] = [image for image in images if image["ref"] not in plan["surplus_images"]]


def image_row(ref: str, identifier: str, node: Node, labels: dict[str, str]) -> Node:
    return {
        "ref": ref,
        "id": identifier,
        "digests": [],
        "size_mib": 3800,
        "env": None,
        "labels": labels,
        "architecture": node["host"]["os"]["arch"],
        "containers": [],
    }


def cdi(node: Node, plan: Node, done: list[str]) -> None:
    path = plan["container_runtime"]["toolkit"]["cdi"]["spec"] if plan["container_runtime"] else ""
    if "toolkit.cdi_refresh" in done:
        node["container_runtime"]["toolkit"]["cdi_refresh"] = {"installed": True, "failed": False}
        path = "/var/run/cdi/nvidia.yaml"
    if {"toolkit.cdi", "toolkit.cdi_refresh"} & set(done) and node["driver"]["loaded"]:
        spec = {"path": path, "kind": "nvidia.com/gpu", "devices": ["0", "all"], "stale": False}
        spec.update(driver_version=node["driver"]["userspace"]["version"], missing_paths=[])
        spec.update(error=None, cdi_version="0.5.0")
        spec.update(device_nodes=list(node["driver"]["device_nodes"]), wrong_devices=[])
        specs = node["container_runtime"]["cdi"]["specs"]
        node["container_runtime"]["cdi"]["specs"] = [s for s in specs if s["path"] != path] + [spec]


# who works there -----------------------------------------------------------------------------------------


def workbenches(node: Node, plan: Node, done: list[str]) -> None:
    wanted = plan["workbench"]
    files, seen = (
        node["application"]["files"],
        {row["name"]: row for row in node["application"]["workbenches"]},
    )
    if "workbench.remove" in done:
        for name in wanted["absent"]:
            del seen[name]
            for path in [path for path in files if _is_of_workbench(path, name)]:
                del files[path]
    for row in wanted["users"] if "workbench.configure" in done else []:
        for path in [path for path in files if path.startswith(row["folder"] + "/")]:
            del files[path]
        for file in row["files"]:
            files[file["path"]] = owned_file(file["mode"], owned_files.sha256_of(file["content"]))
        bench = seen.setdefault(row["name"], {"name": row["name"], "container": None})
        bench.setdefault("unit", {"active": False, "enabled": False, "result": "success"})
        token = {"auth": row["auth"], "exists": True, "mode": "0600", "uid": 0, "length": 43}
        bench.update(token=token if row["auth"] else None, host_keys=row["ssh"] is not None)
        bench.update(certificate_current=True if row["tls"] else None)
        bench.update(home={"exists": True, "path": row["home"], "uid": row["uid"] or 20000})
    for row in wanted["users"] if "workbench.start" in done else []:
        image = next(image for image in node["framework"]["images"] if image["ref"] == row["image"])
        ports = sorted(port for port in (row["jupyter_port"], row["ssh_port"]) if port)
        seen[row["name"]].update(
            unit={"active": True, "enabled": True, "result": "success"},
            container={
                "id": "c0ffee",
                "running": True,
                "image": row["image"],
                "image_id": image["id"],
                "config": row["config"],
                "ports": ports,
                "restarts": 0,
                "started_at": "2026-11-23T09:59:03Z",
            },
        )
    if wanted:
        node["application"]["workbenches"] = [seen[name] for name in sorted(seen)]


def _is_of_workbench(path: str, name: str) -> bool:
    return f"/workbench/{name}/" in path or path.endswith(f"/gpuready-workbench-{name}.service")


# what watches the node ----------------------------------------------------------------------------------


def health(node: Node, plan: Node, done: list[str]) -> None:
    files, units = node["application"]["files"], node["application"]["units"]
    wanted = plan["health"]
    if "health.packages" in done:
        node["apt"]["candidates"].setdefault("prometheus-node-exporter", offer("1.3.1-1"))
        state = node["application"]["health"]
        state["node_exporter"].update(installed=True, package=True, ours=True, active=True)
        state["textfile_directory"] = True
    if "health.configure" in done:
        for path in wanted["surplus"]:
            files.pop(path, None)
            units.pop(path.rpartition("/")[2], None)
        for row in wanted["files"]:
            files[row["path"]] = owned_file(row["mode"], owned_files.sha256_of(row["content"]))
        for row in wanted["program"]:
            files[row["path"]] = owned_file(row["mode"], row["sha256"])
    if {"health.configure", "health.start"} & set(done):
        for name in wanted["units"]:
            units[name] = {"active": True, "enabled": True, "sub_state": "running", "result": "success"}
    if "health.remove" in done:
        for path in [path for path in files if "/gpuready-health" in path or "/gpuready/health/" in path]:
            del files[path]
        files.pop(build.BINDINGS, None)
        files.pop("/etc/systemd/system/prometheus-node-exporter.service.d/gpuready.conf", None)
        node["application"]["health"]["node_exporter"].update(installed=False, package=False, ours=False)
        for name in [name for name in units if name.startswith("gpuready-health-")]:
            del units[name]


def owned_file(mode: str, digest: str) -> Node:
    return {"sha256": digest, "mode": mode, "owner": "root", "link": None}


# environments -------------------------------------------------------------------------------------------


def venvs(node: Node, plan: Node, done: list[str]) -> None:
    framework = node["framework"]
    if "venv.packages" in done:
        needed = {name for row in plan["venvs"] for name in row["needs"]}
        for python in framework["pythons"]:
            python["venv"] = python["venv"] or f"python{python['version']}-venv" in needed
    if "venv.install" in done:
        for row in plan["venvs"]:
            if not row["present"]:
                assert next(p["venv"] for p in framework["pythons"] if p["path"] == row["python"])
                rows = [other for other in framework["venvs"] if other["path"] != row["path"]]
                framework["venvs"] = [*rows, venv_row(row)]
    if "venv.remove" in done:
        gone = {path for row in plan["venvs_absent"] for path in [row["path"], *row["builds"]]}
        for row in framework["venvs"]:
            row["former"] = [former for former in row["former"] if former["path"] not in gone]
        framework["venvs"] = [row for row in framework["venvs"] if row["path"] not in gone]


def venv_row(row: Node) -> Node:
    """What is observed of an environment that the role has made."""
    names = [requirement.partition("==")[::2] for requirement in row["requirements"]]
    packages = {name.lower(): version or "1.0" for name, version in names}
    packages["nvidia-cudnn-cu12"] = "9.1.0.70"
    stamp = {key: row[key] for key in ("name", "workload", "hash", "python_version", "requirements")}
    return {
        "name": row["name"],
        "path": row["path"],
        "target": row["build"],
        "foreign": False,
        "complete": True,
        "stamp": {**stamp, "packages": dict(packages)},
        "python": f"{row['python_version']}.4",
        "owner": row["owner"],
        "packages": packages,
        "former": [],
        "used_by": [],
        "size_mib": None,
    }


# the driver ---------------------------------------------------------------------------------------------


def driver(node: Node, plan: Node, done: list[str]) -> None:
    chosen = plan["driver"]
    state = node["driver"]
    if "driver.install" in done:
        install(node, chosen, load_catalog())
    if "driver.hold" in done:
        for row in state["packages"]:
            row["held"] = row["held"] or row["name"] in chosen["holds"]
    if {"driver.load", "driver.reload"} & set(done):
        load(node)
    rebooting = "host.reboot" in done
    for action, key in (("driver.persistenced", "persistenced"), ("driver.fabricmanager", "fabricmanager")):
        if action in done:
            state[key].update(enabled=True, active=bool(state["loaded"]) and not rebooting)
    if rebooting:
        reboot(node)


def family_of(source: PackageSource, branch: int, packages: list[str]) -> Family:
    """The family whose names these packages carry."""

    def known(family: Family) -> int:
        patterns = [*family.closure, *family.dkms, *family.dkms_open, *family.precompiled]
        both = [name for f in ("open", "proprietary") for name in names(patterns, branch, family, f)]
        return len(set(both) & set(packages))

    return max((family for family in source.families if family.names(branch)), key=known)


def install(node: Node, chosen: Node, catalog: Catalog) -> None:
    """dpkg after an install of the driver: the named packages and what they depend on."""
    system, kernel = node["host"]["os"], node["host"]["kernel"]
    candidates = node["apt"]["candidates"] or {}
    source = catalog.package_source(chosen["source"], system["id"], system["version_id"])
    assert source is not None
    branch = int(chosen["branch"])
    wanted = {row["name"]: row["version"] for row in chosen["packages"]}
    for name, version in wanted.items():
        offered = (candidates.get(name) or {}).get("versions", [])
        assert version in offered or (version is None and offered), f"apt has no {name}={version}"
    family = family_of(source, branch, list(wanted))
    dkms = chosen["install"] == "dkms"
    driven = candidates.get(names([family.version_package], branch, family)[0], {})
    package_version = chosen["package_version"] or next(
        (v for v in driven.get("versions", []) if driver_branch(v) == branch), f"{branch}.1.1-1"
    )
    module = family.dkms_module_package(chosen["flavour"] == "open")
    patterns = [*family.needs, family.library_package, family.version_package, *([module] if dkms else [])]
    depended = names([pattern for pattern in patterns if pattern], branch, family, chosen["flavour"])
    for name in depended:
        # What only the built module needs comes with it alone.
        source_only = "kernel-source" in name and not dkms
        if name in candidates and name not in wanted and not source_only:
            offered = candidates[name]["versions"]
            wanted[name] = package_version if package_version in offered else candidates[name]["candidate"]
    for name in list(wanted):
        brought = (candidates.get(name) or {}).get("kernel")
        if brought and name.startswith("linux-modules-nvidia-"):
            line = brought.rsplit("-", 1)[-1]
            wanted[name[: -len(line)] + brought] = kernel_version(brought)
            kernel["installed"] = sorted({*kernel["installed"], brought}, key=Version)
        elif brought and name.startswith("linux-headers-"):
            wanted["linux-headers-" + brought] = kernel_version(brought)
    rows = {row["name"]: row for row in node["driver"]["packages"]}
    for name, version in wanted.items():
        version = version or (candidates.get(name) or {}).get("candidate") or package_version
        if name.startswith("linux-headers-"):
            kernel["headers"] = sorted({*kernel["headers"], name[len("linux-headers-") :]})
            kernel["headers"] = [found for found in kernel["headers"] if found[0].isdigit()]
        else:
            held = rows.get(name, {}).get("held", False)
            rows[name] = {"name": name, "version": version, "held": held, "status": "installed"}
        if name in candidates:
            candidates[name]["installed"] = version
    for name in chosen["replaces"]:
        assert name not in wanted, f"{name} is to be installed and replaced"
        rows.pop(name, None)
        if name in candidates:
            candidates[name]["installed"] = None
    node["driver"]["packages"] = list(rows.values())
    kernel["next_boot"] = max(kernel["installed"], key=Version)
    version = driver_version(package_version)
    node["driver"]["userspace"] = {
        "version": version,
        "libcuda": f"{LIBRARIES}/libcuda.so.{version}",
        "libnvidia_ml": f"{LIBRARIES}/libnvidia-ml.so.{version}",
        "nvidia_smi": "/usr/bin/nvidia-smi",
    }
    modules_on_disk(node, chosen["flavour"], dkms)
    node["driver"]["persistenced"]["installed"] = any(
        name == "nvidia-persistenced" or name.startswith("nvidia-compute-utils") for name in rows
    )
    manager = next((row for name, row in rows.items() if name.startswith("nvidia-fabricmanager")), None)
    if manager:
        node["driver"]["fabricmanager"].update(installed=True, version=driver_version(manager["version"]))


def modules_on_disk(node: Node, flavour: str, dkms: bool) -> None:
    kernel, rows = node["host"]["kernel"], [row["name"] for row in node["driver"]["packages"]]
    later = kernel["next_boot"] if kernel["next_boot"] != kernel["running"] else None

    def module(of: str | None) -> Node | None:
        made = any(name.startswith("linux-modules-nvidia-") and name.endswith(str(of)) for name in rows)
        if not of or not (of in kernel["headers"] if dkms else made):
            return None
        return {
            "version": node["driver"]["userspace"]["version"],
            "flavour": flavour,
            "kernel": of,
            "path": f"/lib/modules/{of}/kernel/nvidia.ko",
            "signed": not dkms,
        }

    node["driver"]["on_disk"] = module(kernel["running"])
    node["driver"]["on_disk_next_boot"] = module(later)


def load(node: Node) -> None:
    on_disk = node["driver"]["on_disk"]
    assert on_disk, "there is no module for the running kernel to be loaded"
    assert not node["host"]["nouveau"]["loaded"], "nouveau holds the GPU"
    flavour, version = on_disk["flavour"], on_disk["version"]
    modules = ["nvidia", "nvidia_uvm"]
    node["driver"]["loaded"] = {"version": version, "flavour": flavour, "modules": modules, "users": 0}
    numbered = [f"/dev/nvidia{n}" for n in range(len(node["host"]["gpus"]))]
    numbers = {path: f"{MAJORS['nvidia']}:{minor}" for minor, path in enumerate(numbered)}
    numbers.update(
        {"/dev/nvidiactl": f"{MAJORS['nvidia']}:255", "/dev/nvidia-uvm": f"{MAJORS['nvidia-uvm']}:0"}
    )
    node["driver"].update(device_nodes=list(numbers), majors=dict(MAJORS))
    node["driver"]["device_access"] = {
        path: {"mode": "0666", "owner": "root:root", "device": number} for path, number in numbers.items()
    }
    for row in node["host"]["gpus"]:
        row["driver_bound"] = "nvidia"


def reboot(node: Node) -> None:
    host, state = node["host"], node["driver"]
    if host["kernel"]["next_boot"] != host["kernel"]["running"]:
        host["kernel"]["running"] = host["kernel"]["next_boot"]
        state.update(on_disk=state["on_disk_next_boot"], on_disk_next_boot=None)
    host["nouveau"]["loaded"] = not host["nouveau"]["blacklisted"] or host["initramfs"]["stale"]
    state.update(processes=[], loaded=None, device_nodes=[], device_access={}, majors={})
    node["container_runtime"]["gpu_containers"] = []
    for row in host["gpus"]:
        row["driver_bound"] = None
    if state["on_disk"] and not host["nouveau"]["loaded"]:
        load(node)
    for key in ("persistenced", "fabricmanager"):
        if state[key]["enabled"]:
            state[key]["active"] = bool(state["loaded"])
