# Apache-2.0 (see LICENSE)
"""The container runtime's part of the plan: Docker, daemon.json, NVIDIA's toolkit, CDI and the launch."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import daemon_config, driver_options
from .draft import Draft, gpu_containers, listing, lists_are_old
from .plain import plain_copy
from .plan_sources import CUDA_ORIGIN, source_faults
from .requirements import dig
from .versions import at_least, matches, newest, upstream


def plan_runtime(work: Draft) -> None:
    wishes, facts = work.wishes, work.catalog.toolkit
    docker = work.see("container_runtime", "docker") or {}
    _plan_docker(work, docker)
    packages, version = _plan_toolkit(work)
    version_text, known_from = _docker_version(work)
    cdi = _decide_cdi(work, version_text, known_from)
    runtime = {"path": facts.runtime["path"], "args": list(facts.runtime["args"])}
    _plan_daemon(work, docker, cdi, runtime)
    launch = _decide_launch(work, version_text, cdi)
    if not _effective_spec(work) and _will_refresh(work, version):
        cdi["spec"] = facts.cdi_refresh_spec
    wish = wishes["docker_engine_version"]
    work.runtime = {
        "docker": {
            "source": wishes["docker_engine_source"],
            "packages": [
                {"name": name, "version": _exact(work, name, wish) if wish else None}
                for name in docker_packages(work)
            ],
            "daemon_config": plain_copy(wishes["docker_engine_daemon_config"]),
        },
        "toolkit": {
            "version": version,
            "packages": packages,
            "reinstall": _toolkit_reinstall(work),
            "repo_url": wishes["nvidia_container_toolkit_repo_url"],
            "repo_key_url": wishes["nvidia_container_toolkit_repo_key_url"],
            "repo_key_fingerprint": list(wishes["nvidia_container_toolkit_repo_key_fingerprint"]),
            "runtime": runtime,
            "default_runtime": wishes["nvidia_container_toolkit_default_runtime"],
            "cdi": cdi,
        },
        "launch": launch,
    }


def _docker_version(work: Draft) -> Tuple[Optional[str], str]:
    """The upstream version of the Docker that will be there, and where it is known from."""
    docker = work.see("container_runtime", "docker") or {}
    if docker.get("installed") and "docker.install" not in work.actions:
        return docker.get("version"), "installed"
    name = docker_packages(work)[0]
    wish = work.wishes["docker_engine_version"]
    if wish:
        return upstream(wish), "docker_engine_version"
    candidate = driver_options.candidate_of(work.observed, name)
    if candidate:
        return upstream(candidate), "apt's candidate"
    return docker.get("version"), "not known before apt has lists"


def docker_packages(work: Draft) -> Tuple[str, ...]:
    facts, source = work.catalog.docker, work.wishes["docker_engine_source"]
    return facts.docker_ce_packages if source == "docker_ce" else facts.distro_packages


def _exact(work: Draft, name: str, wish: str) -> Optional[str]:
    """The full package version that a wished version means, if apt knows it."""
    fitting = [
        version for version in driver_options.versions_of(work.observed, name) if matches(version, wish)
    ]
    # containerd.io has versions of its own, which no wish for Docker's can name.
    return newest(fitting)


def _plan_docker(work: Draft, docker: Mapping[str, Any]) -> None:
    wishes = work.wishes
    source, wish = wishes["docker_engine_source"], wishes["docker_engine_version"]
    names = docker_packages(work)
    package = docker.get("package")
    if docker.get("rootless"):
        work.refuse(
            "docker.rootless",
            "container_runtime",
            "docker_engine",
            "dockerd runs rootless on %s" % work.host,
            ["a rootless dockerd reads another daemon.json and cannot use the hook as it is set up here"],
            ["stop it (dockerd-rootless-setuptool.sh uninstall) and let gpuready install the system's"],
        )
        return
    if docker.get("snap") and not package:
        work.refuse(
            "docker.snap",
            "container_runtime",
            "docker_engine",
            "Docker on %s comes from a snap" % work.host,
            ["a snap's dockerd sees neither the GPU hook nor /etc/docker/daemon.json"],
            ["remove it (snap remove docker; its images and volumes go with it) and run again"],
        )
        return
    if source == "docker_ce":
        _check_docker_url(work)
        faults = source_faults(
            work,
            wishes["docker_engine_repo_url"],
            work.see("host", "os", "codename"),
            wishes["docker_engine_repo_key_fingerprint"],
        )
        if faults:
            work.act(
                "docker.source",
                "add Docker's own apt source, with its key pinned",
                "docker_engine_source is docker_ce",
                faults,
            )
        if package and package not in names:
            work.refuse(
                "docker.other_package",
                "container_runtime",
                "docker_engine",
                "docker_engine_source is 'docker_ce', but %s is installed from the distribution" % package,
                [
                    "replacing it would stop every container of the node (%s running)"
                    % (dig(docker, "live", "containers_running") or 0)
                ],
                ["set docker_engine_source: distro to keep it", "remove %s yourself and run again" % package],
            )
            return
    elif package and package not in names:
        work.note(
            "%s %s is installed and kept: docker_engine_source says where Docker would come from"
            % (package, docker.get("version"))
        )
    if wish and not _check_docker_pin(work, wish, package or names[0]):
        return
    if not docker.get("installed"):
        candidate = driver_options.candidate_of(work.observed, names[0])
        work.act(
            "docker.install",
            "install %s" % " ".join([*names, wish or candidate or ""]).rstrip(),
            "Docker is not installed",
            ["no dockerd was found"],
        )
    elif wish and docker.get("version") and not _docker_fits(work, docker, wish):
        work.act(
            "docker.install",
            "install %s %s" % (package or names[0], wish),
            "docker_engine_version asks for %s" % wish,
            ["installed: %s" % docker["version"], *gpu_containers(work)],
            restarts=["docker"],
        )
    service = docker.get("service") or {}
    live = docker.get("live") or {}
    broken_config = dig(docker, "daemon_json", "valid") is False
    if not docker.get("installed"):
        work.act(
            "docker.service",
            "enable and start Docker",
            "containers need a running dockerd, after a reboot too",
            ["Docker is not installed yet"],
        )
    else:
        lacking = [word for word in ("enabled", "active") if service.get(word) is False]
        if not lacking and live.get("reachable") is False:
            lacking = ["answering (%s)" % live.get("error")]
        if lacking and not broken_config:
            work.act(
                "docker.service",
                "enable and start Docker",
                "containers need a running dockerd, after a reboot too",
                ["docker.service is not %s" % " and not ".join(lacking)],
            )


def _check_docker_url(work: Draft) -> None:
    """Docker has one repository per system; the default is Ubuntu's."""
    url, os_id = work.wishes["docker_engine_repo_url"], work.see("host", "os", "id")
    for other in ("ubuntu", "debian"):
        if other != os_id and url.rstrip("/").endswith("/linux/" + other):
            right = url.rstrip("/")[: -len(other)] + str(os_id)
            work.refuse(
                "docker.repo_of_another_system",
                "container_runtime",
                "docker_engine",
                "docker_engine_repo_url is %s, but %s runs %s"
                % (url, work.host, work.see("host", "os", "pretty_name")),
                ["Docker builds its packages for each system, in a repository of its own"],
                ["set docker_engine_repo_url: %s" % right, "set docker_engine_source: distro"],
            )


def _check_docker_pin(work: Draft, wish: str, name: str) -> bool:
    docker = work.see("container_runtime", "docker") or {}
    if docker.get("installed") and _docker_fits(work, docker, wish):
        return True
    offered = driver_options.versions_of(work.observed, name)
    # Before the source or the lists are there nothing can be checked; the plan after them does it.
    if not offered and ("docker.source" in work.actions or not driver_options.has_lists(work.observed)):
        return True
    if any(matches(version, wish) for version in offered):
        return True
    work.refuse(
        "docker.version_missing",
        "container_runtime",
        "docker_engine",
        "docker_engine_version is %r, which apt cannot install as %s" % (wish, name),
        ["apt offers: %s" % (listing(offered, 8) or "nothing")],
        ['set docker_engine_version: "%s"' % upstream(version) for version in offered[:2]]
        + ['set docker_engine_version: ""'],
    )
    return False


def _docker_fits(work: Draft, docker: Mapping[str, Any], wish: str) -> bool:
    full = dig(work.see("apt", "candidates"), str(docker.get("package")), "installed")
    return docker.get("version") == upstream(wish) if not full else matches(full, wish)


def _plan_toolkit(work: Draft) -> Tuple[List[Dict[str, Any]], Optional[str]]:
    """The toolkit's source, packages and holds; returns (packages, version)."""
    wishes, facts = work.wishes, work.catalog.toolkit
    url, wish = wishes["nvidia_container_toolkit_repo_url"], wishes["nvidia_container_toolkit_version"]
    pinned = wishes["nvidia_container_toolkit_repo_key_fingerprint"]
    faults = source_faults(work, url, "/", pinned) if url else []
    if faults:
        work.act(
            "toolkit.source",
            "add the apt source of the container toolkit, with its key pinned",
            "the toolkit's packages come from their own repository",
            faults,
        )
    rows = {
        row["name"]: row
        for row in work.see("container_runtime", "toolkit", "packages") or []
        if row.get("status", "installed") == "installed"
    }
    legacy = [name for name in facts.legacy_packages if name in rows]
    if legacy:
        work.note(
            "%s is installed: the container toolkit has taken its place, it can be removed" % listing(legacy)
        )
    installed = {name: rows[name]["version"] for name in facts.packages if name in rows}
    versions = set(installed.values())
    offered = driver_options.versions_of(work.observed, facts.packages[0])
    for name in facts.packages[1:]:
        others = driver_options.versions_of(work.observed, name)
        offered = [version for version in offered if version in others]
    if not wish:
        offered = _not_kept_out(work, facts.packages[0], offered)
    whole = len(installed) == len(facts.packages) and len(versions) == 1
    current = next(iter(versions)) if whole else None
    if current and (not wish or matches(current, wish)):
        version: Optional[str] = current
        gone = _toolkit_gone(work)
        if gone:
            work.act(
                "toolkit.install",
                "install the container toolkit's files again",
                "the toolkit's packages are installed, but their files are not all there",
                ["missing: %s" % listing(gone)],
            )
    else:
        fitting = [v for v in offered if not wish or matches(v, wish)]
        version = newest(fitting)
        if wish and not fitting and offered and "toolkit.source" not in work.actions:
            work.refuse(
                "toolkit.version_missing",
                "container_runtime",
                "nvidia_container_toolkit",
                "nvidia_container_toolkit_version is %r, which apt cannot install" % wish,
                ["apt offers the four packages at: %s" % listing(offered, 8)],
                ['set nvidia_container_toolkit_version: "%s"' % upstream(v) for v in offered[:2]]
                + ['set nvidia_container_toolkit_version: ""'],
            )
        missing = [name for name in facts.packages if name not in installed]
        if missing:
            reason, evidence = "the container toolkit is not installed", ["missing: %s" % listing(missing)]
            if installed:
                reason = "the container toolkit is not complete"
        elif len(versions) > 1:
            reason = "the four packages of the toolkit work only at one version"
            evidence = ["%s %s" % item for item in installed.items()]
        else:
            reason, evidence = (
                "nvidia_container_toolkit_version asks for %s" % wish,
                ["installed: %s" % current],
            )
        work.act(
            "toolkit.install",
            "install the container toolkit%s" % (" " + version if version else ""),
            reason,
            evidence,
        )
    loose = [name for name in facts.packages if name in rows and not rows[name].get("held")]
    if "toolkit.install" in work.actions and not whole:
        work.act(
            "toolkit.hold",
            "hold the container toolkit's packages",
            "the four packages move together or not at all",
            ["to be installed in this run"],
        )
    elif loose:
        work.act(
            "toolkit.hold",
            "hold %s" % listing(loose),
            "the four packages move together or not at all",
            ["not held: %s" % listing(loose)],
        )
    refreshed = lists_are_old(work) and "toolkit.install" in work.actions and not wish
    packages = [{"name": name, "version": None if refreshed else version} for name in facts.packages]
    return packages, version


def _not_kept_out(work: Draft, name: str, offered: List[str]) -> List[str]:
    """The versions that the driver's preferences leave: the CUDA repository has the toolkit, too."""
    pin = (work.driver or {}).get("pin") or ""
    if " %s " % name not in pin.replace("\n", " "):
        return offered
    origins = work.see("apt", "candidates", name, "origins") or {}
    return [v for v in offered if origins.get(v) != [CUDA_ORIGIN]] or offered


def _toolkit_gone(work: Draft) -> List[str]:
    found = work.see("container_runtime", "toolkit", "binaries")
    if not found:
        return []
    return [name for name in work.catalog.toolkit.binaries if name in found and found[name] is None]


def _toolkit_reinstall(work: Draft) -> List[str]:
    """Packages whose files are missing although dpkg calls them installed."""
    rows = work.see("container_runtime", "toolkit", "packages") or []
    have = {row["name"] for row in rows if row.get("status", "installed") == "installed"}
    return [name for name in work.catalog.toolkit.packages if name in have] if _toolkit_gone(work) else []


def _decide_cdi(work: Draft, version: Optional[str], known_from: str) -> Dict[str, Any]:
    facts, wish = work.catalog.docker, work.wishes["nvidia_container_toolkit_cdi"]
    spec = _effective_spec(work)
    cdi = {
        "enabled": False,
        "feature_flag": False,
        "spec": (spec or {}).get("path") or work.catalog.toolkit.cdi_spec,
        "reason": "",
    }
    short = ".".join(version.split(".")[:2]) if version else None
    switched_off = dig(work.see("container_runtime", "docker", "daemon_json", "features"), "cdi") is False
    if wish == "disabled":
        cdi["reason"] = "nvidia_container_toolkit_cdi is disabled"
    elif version is None:
        cdi["reason"] = "Docker's version is %s" % known_from
    elif not at_least(version, facts.cdi_feature_since):
        cdi["reason"] = "Docker %s has no CDI" % short
        if wish == "enabled":
            work.refuse(
                "toolkit.cdi_unsupported",
                "container_runtime",
                "nvidia_container_toolkit",
                "nvidia_container_toolkit_cdi is 'enabled', but Docker %s has no CDI" % version,
                ["CDI came with Docker %s (%s: %s)" % (facts.cdi_feature_since, known_from, version)],
                [
                    "set nvidia_container_toolkit_cdi: auto",
                    "use a newer Docker (docker_engine_source: docker_ce)",
                ],
            )
    elif dig(work.wishes["docker_engine_daemon_config"], "features", "cdi") is False:
        cdi["reason"] = "docker_engine_daemon_config switches features.cdi off"
        if wish == "enabled":
            work.refuse(
                "toolkit.cdi_contradiction",
                "container_runtime",
                "nvidia_container_toolkit",
                "nvidia_container_toolkit_cdi is 'enabled', but docker_engine_daemon_config "
                "sets features.cdi to false",
                [],
                [
                    "take features.cdi out of docker_engine_daemon_config",
                    "set nvidia_container_toolkit_cdi: disabled",
                ],
            )
    elif switched_off and wish == "auto":
        cdi["reason"] = "daemon.json switches features.cdi off"
    elif not at_least(version, facts.cdi_default_since):
        cdi.update(enabled=True, feature_flag=True, reason="Docker %s has CDI behind features.cdi" % short)
    else:
        # Asked for by name, it is switched on again where somebody has switched it off.
        cdi.update(enabled=True, feature_flag=switched_off, reason="Docker %s has CDI by default" % short)
    return cdi


def _effective_spec(work: Draft) -> Optional[Mapping[str, Any]]:
    """The CDI specification for GPUs that counts: /var/run/cdi goes before /etc/cdi."""
    specs = [
        spec
        for spec in work.see("container_runtime", "cdi", "specs") or []
        if spec.get("kind") == work.catalog.toolkit.cdi_kind
    ]

    def weight(spec: Mapping[str, Any]) -> Tuple[bool, str]:
        path = str(spec.get("path"))
        return path.startswith(("/var/run/", "/run/")), path

    return max(specs, key=weight) if specs else None


def _plan_daemon(
    work: Draft, docker: Mapping[str, Any], cdi: Mapping[str, Any], runtime: Mapping[str, Any]
) -> None:
    """daemon.json and what dockerd really runs with."""
    facts, wishes = work.catalog.toolkit, work.wishes
    file = docker.get("daemon_json") or {}
    path = file.get("path") or "/etc/docker/daemon.json"
    asked: Dict[str, Any] = wishes["docker_engine_daemon_config"]
    ours: Dict[str, Any] = {"runtimes": {facts.runtime["name"]: runtime}}
    if wishes["nvidia_container_toolkit_default_runtime"]:
        ours["default-runtime"] = facts.runtime["name"]
    if cdi["feature_flag"]:
        ours["features"] = {"cdi": True}
    for problem in daemon_config.problems(asked) if asked else ():
        work.refuse(
            "docker.daemon_config_invalid",
            "container_runtime",
            "docker_engine",
            "docker_engine_daemon_config: %s" % problem,
            ["dockerd would not start with it"],
            ["correct docker_engine_daemon_config"],
        )
    for item in daemon_config.conflicts(asked, ours) if asked else ():
        work.refuse(
            "docker.daemon_config_contradiction",
            "container_runtime",
            "docker_engine",
            "docker_engine_daemon_config sets %s to %s, but the container toolkit needs %s"
            % (item["path"], json.dumps(item["current"]), json.dumps(item["wanted"])),
            [],
            ["take %s out of docker_engine_daemon_config" % item["path"]],
        )
    if file.get("exists") and file.get("valid") is not True:
        work.refuse(
            "docker.daemon_json_invalid",
            "container_runtime",
            "docker_engine",
            "%s on %s cannot be used: %s" % (path, work.host, file.get("error")),
            ["gpuready merges into the file and never throws away what it cannot read"],
            [
                "correct the file by hand (python3 -m json.tool %s names the place)" % path,
                "move it away if nothing in it is wanted",
            ],
        )
        return
    content = file.get("content") or {}
    before = len(work.conflicts)
    # CDI that is asked for by name may overwrite what the node says; `auto` never gets here, see _decide_cdi.
    overrule = ["features.cdi"] if wishes["nvidia_container_toolkit_cdi"] == "enabled" else []
    asked_consent = wishes["docker_engine_daemon_config_replace"]
    for wanted, consent, role, variable in (
        (asked, asked_consent, "docker_engine", "docker_engine_daemon_config"),
        (ours, overrule, "nvidia_container_toolkit", ""),
    ):
        for item in daemon_config.conflicts(content, wanted, consent) if content and wanted else ():
            _refuse_setting(work, item, role, variable, path)
    if len(work.conflicts) > before:
        return
    if asked and not daemon_config.satisfied(content, asked):
        restarts, hit = _restart_for(work, docker, content, asked, consent=asked_consent)
        work.act(
            "docker.daemon_config",
            "merge docker_engine_daemon_config into %s" % path,
            "dockerd is to run with these settings",
            ["not in the file: %s" % listing(_lacking(content, asked)), *hit],
            restarts=restarts,
        )
    if not daemon_config.satisfied(content, ours):
        lacking = _lacking(content, ours)
        reason = "docker run --runtime=%s needs the runtime in daemon.json" % facts.runtime["name"]
        if lacking == ["features.cdi"]:
            reason = "this Docker has CDI only with features.cdi"
        restarts, hit = _restart_for(work, docker, content, ours, consent=overrule)
        work.act(
            "toolkit.runtime",
            "merge the %s runtime into %s" % (facts.runtime["name"], path),
            reason,
            ["not in the file: %s" % listing(lacking), *hit],
            restarts=restarts,
        )
    _plan_restart(work, docker, ours, asked, cdi)


def _restart_for(
    work: Draft,
    docker: Mapping[str, Any],
    content: Dict[str, Any],
    wanted: Dict[str, Any],
    consent: Sequence[str],
) -> Tuple[List[str], List[str]]:
    """(what restarts, which containers that hits) when dockerd is to take over a change of daemon.json."""
    if not dig(docker, "live", "reachable"):
        return [], []
    after = daemon_config.merge(content, wanted, consent)
    hook_is_new = "toolkit.install" in work.actions or dig(
        work.see("container_runtime", "toolkit"), "hook_newer_than_dockerd"
    )
    if daemon_config.reload_suffices(content, after) and not hook_is_new:
        return [], ["dockerd takes it over by a reload; no container notices"]
    return ["docker"], _containers_hit(work, docker)


def _containers_hit(work: Draft, docker: Mapping[str, Any]) -> List[str]:
    """What a restart of Docker does to the running GPU containers."""
    containers = gpu_containers(work)
    if containers and dig(docker, "live", "live_restore"):
        return ["running containers survive the restart: live-restore is on"]
    return containers


def _refuse_setting(work: Draft, item: Mapping[str, Any], role: str, variable: str, path: str) -> None:
    key, current, wanted = item["path"], json.dumps(item["current"]), json.dumps(item["wanted"])
    if variable:
        who = "%s asks for %s" % (variable, wanted)
        options = [
            "take %s out of %s" % (key, variable),
            "name it in %s_replace, to overwrite the node's value" % variable,
            "take it out of %s on the node" % path,
        ]
    else:
        who = "the container toolkit needs %s" % wanted
        options = ["take %s out of %s on the node, or set it to %s" % (key, path, wanted)]
    work.refuse(
        "docker.setting_differs",
        "container_runtime",
        role,
        "%s on %s sets %s to %s, but %s" % (path, work.host, key, current, who),
        ["gpuready never overwrites what somebody else has set"],
        options,
    )


def _lacking(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> List[str]:
    """Dotted names of what is not in daemon.json yet."""
    found = []
    for key, value in wanted.items():
        if daemon_config.satisfied(dict(content), {key: value}):
            continue
        if isinstance(value, dict) and value:
            found += [
                "%s.%s" % (key, inner)
                for inner in value
                if not daemon_config.satisfied(dict(content), {key: {inner: value[inner]}})
            ]
        else:
            found.append(key)
    return found


def _plan_restart(
    work: Draft,
    docker: Mapping[str, Any],
    ours: Mapping[str, Any],
    asked: Mapping[str, Any],
    cdi: Mapping[str, Any],
) -> None:
    """dockerd runs, but not with what is on disk."""
    if "toolkit.runtime" in work.actions:
        return  # whoever merges the runtime restarts dockerd where a reload is not enough
    live = docker.get("live") or {}
    stale = []
    if live.get("reachable") or "docker.install" in work.actions:
        if "toolkit.install" in work.actions:
            stale.append("dockerd looks for the toolkit's hook when it starts; it is installed in this run")
        elif dig(work.see("container_runtime", "toolkit"), "hook_newer_than_dockerd"):
            stale.append("the toolkit's hook appeared after dockerd was started")
    if live.get("reachable"):
        managed = ours if "docker.daemon_config" in work.actions else {**asked, **ours}
        stale += [
            "%s is in daemon.json, but dockerd runs without it" % name for name in _not_live(live, managed)
        ]
        if cdi["enabled"] and not live.get("cdi_spec_dirs"):
            stale.append("dockerd runs without CDI")
    if stale:
        work.act(
            "docker.restart",
            "restart Docker",
            "dockerd does not run with what is on disk",
            [*stale, *_containers_hit(work, docker)],
            restarts=["docker"],
        )


def _not_live(live: Mapping[str, Any], managed: Mapping[str, Any]) -> List[str]:
    """What of the settings that gpuready manages dockerd does not show, as far as it shows them."""
    found = []
    shown = live.get("runtimes")
    if shown is not None:
        found += ["runtimes.%s" % name for name in managed.get("runtimes") or {} if name not in shown]
    default = managed.get("default-runtime")
    if default and live.get("default_runtime") not in (None, default):
        found.append("default-runtime")
    if managed.get("live-restore") is not None and live.get("live_restore") not in (
        None,
        managed["live-restore"],
    ):
        found.append("live-restore")
    for key, where in (
        ("insecure-registries", "insecure_registries"),
        ("registry-mirrors", "registry_mirrors"),
    ):
        known = live.get(where)
        if known is None:
            continue
        plain = {_plain_registry(item) for item in known}
        # dockerd writes a network in its own way (10.1.2.3/8 -> 10.0.0.0/8): it cannot be compared.
        wanted = [item for item in managed.get(key) or [] if not _is_network(item)]
        found += ["%s: %s" % (key, item) for item in wanted if _plain_registry(item) not in plain]
    return found


def _is_network(text: str) -> bool:
    _address, slash, bits = text.partition("/")
    return bool(slash) and bits.isdigit()


def _plain_registry(text: str) -> str:
    return text.strip().rstrip("/").lower()


def _decide_launch(work: Draft, version: Optional[str], cdi: Mapping[str, Any]) -> Dict[str, Any]:
    """How a container gets its GPU; `auto` follows what this Docker and toolkit really do."""
    wish, since = work.wishes["gpu_verify_launch"], work.catalog.docker.gpus_uses_cdi_since
    if wish == "cdi" and not cdi["enabled"] and version is not None:
        work.refuse(
            "toolkit.launch_cdi",
            "container_runtime",
            "nvidia_container_toolkit",
            "gpu_verify_launch is 'cdi', but there is no CDI here: %s" % cdi["reason"],
            [],
            [
                "set gpu_verify_launch: auto",
                "set nvidia_container_toolkit_cdi: auto"
                if work.wishes["nvidia_container_toolkit_cdi"] == "disabled"
                else "use a newer Docker",
            ],
        )
    if wish != "auto":
        return {"way": wish, "reason": "gpu_verify_launch asks for it"}
    toolkit = work.see("container_runtime", "toolkit") or {}
    installed = (toolkit.get("binaries") or {}).get("nvidia-container-runtime-hook")
    if version and at_least(version, since):
        if cdi["enabled"]:
            return {"way": "gpus", "reason": "Docker %s turns --gpus into CDI devices" % version}
        return {
            "way": "gpus",
            "reason": "Docker %s without CDI falls back to the toolkit's hook for --gpus" % version,
        }
    if (
        installed
        and toolkit.get("hook_on_dockerd_path") is False
        and not toolkit.get("hook_newer_than_dockerd")
        and "toolkit.install" not in work.actions
    ):
        return {
            "way": "runtime",
            "reason": "%s is not on dockerd's PATH, which --gpus needs; daemon.json names the runtime"
            % installed,
        }
    return {
        "way": "gpus",
        "reason": "Docker %s runs the toolkit's hook for --gpus" % (version or "(version not known yet)"),
    }


def plan_cdi(work: Draft) -> None:
    """The specification of the GPUs, by the toolkit's own service where there is one."""
    cdi = dig(work.runtime, "toolkit", "cdi")
    if not cdi or work.driver is None:
        return
    state = work.see("container_runtime", "toolkit", "cdi_refresh") or {}
    serviced = _will_refresh(work, dig(work.runtime, "toolkit", "version"))
    wrong = _spec_fault(work) if cdi["enabled"] else None
    failed = []
    if state.get("failed"):
        failed.append("nvidia-cdi-refresh.service has failed: without a driver there was nothing to describe")
    elif serviced and not state.get("installed") and not work.see("driver", "loaded"):
        failed.append("nvidia-cdi-refresh.service comes before the driver is loaded, and fails until then")
    if not wrong and not failed:
        return
    if work.reboot and not work.wishes["host_reboot_allowed"]:
        work.note("the CDI specification describes the loaded driver: it is written after the reboot")
    elif serviced:
        reason, evidence = wrong or ("a failed service leaves systemd degraded", [])
        work.act(
            "toolkit.cdi_refresh",
            "let the toolkit's own service write the CDI specification %s"
            % work.catalog.toolkit.cdi_refresh_spec,
            reason,
            [*evidence, *failed],
        )
    elif wrong:
        work.act("toolkit.cdi", "write the CDI specification %s" % cdi["spec"], *wrong)


def _will_refresh(work: Draft, version: Optional[str]) -> bool:
    """Has the toolkit, or will it have, its own service that writes the CDI specification?"""
    if work.see("container_runtime", "toolkit", "cdi_refresh", "installed"):
        return True
    return bool(
        "toolkit.install" in work.actions
        and version
        and at_least(upstream(version), work.catalog.toolkit.cdi_refresh_since)
    )


def _spec_fault(work: Draft) -> Optional[Tuple[str, List[str]]]:
    """(reason, evidence) when the specification that counts is missing or not this driver's."""
    spec = _effective_spec(work)
    target = work.driver["version"] if work.driver else None
    if spec is None:
        return (
            "Docker's CDI needs a specification of this node's GPUs",
            ["no CDI specification of %s" % work.catalog.toolkit.cdi_kind],
        )
    if spec.get("stale"):
        evidence = ["%s was made for driver %s" % (spec.get("path"), spec.get("driver_version"))]
        evidence += [
            "it names %s, which is not there" % path for path in (spec.get("missing_paths") or [])[:4]
        ]
        return "the CDI specification no longer fits the driver", evidence
    if spec.get("driver_version") and target and spec["driver_version"] != target:
        return (
            "the CDI specification was made for another driver",
            ["%s was made for driver %s, planned is %s" % (spec.get("path"), spec["driver_version"], target)],
        )
    return None
