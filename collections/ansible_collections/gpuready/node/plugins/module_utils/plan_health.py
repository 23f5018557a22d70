# Apache-2.0 (see LICENSE)
"""Monitoring and continuous verification (role gpu_health): what to set up, and why."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, List, Optional

from . import owned_files
from .draft import Draft
from .health import build
from .verification import LAUNCH_ARGUMENTS, expected_gpus

FOLDER = "/etc/gpuready/health"
CONFIG = FOLDER + "/health.json"
UNITS = "/etc/systemd/system/"
PREFIX = "gpuready-health-"
METRICS = PREFIX + "metrics.service"
CHECK = PREFIX + "check"
VERIFY = PREFIX + "verify"
PACKAGES = PREFIX + "packages"
EXPORTER_PACKAGE = "prometheus-node-exporter"
EXPORTER_UNIT = EXPORTER_PACKAGE + ".service"
EXPORTER_PORT = 9100
DROP_IN = UNITS + EXPORTER_UNIT + ".d/gpuready.conf"
TEXTFILE = "gpuready.prom"
RUN = "/usr/bin/python3 -IB " + build.PROGRAM
# How long a verification after a package's change waits for dpkg to be done.
PACKAGE_WAIT_SECONDS = 900


def plan_health(work: Draft) -> None:
    if not work.wishes["gpu_health_enabled"]:
        _plan_removal(work)
        return
    _find_conflicts(work)
    wanted = _files(work)
    digests = build.digests()
    units = _units(work)
    own = [row["path"] for row in wanted]
    surplus = owned_files.surplus(work.see("application", "files"), FOLDER, own)
    surplus += [path for path in _own_units(work) if path not in own]
    packages = health_packages(work)
    work.health = {
        "summary": _summary(work),
        "program": [
            {"path": path, "sha256": digests[path], "mode": build.MODES[path]} for path in sorted(digests)
        ],
        "files": wanted,
        "surplus": surplus,
        "units": units,
        "exporter_unit": EXPORTER_UNIT if _exporter_is_ours(work) else None,
        "packages": packages,
        "textfile": _textfile(work),
        "exporter": work.wishes["gpu_health_exporter"],
    }
    if work.conflicting("health."):
        return
    if packages:
        work.act(
            "health.packages",
            "install %s" % ", ".join(packages),
            "Prometheus gets the node's metrics from node_exporter, which reads gpuready's from a file",
            ["no node_exporter is installed or runs"],
        )
    changed = _configure(work, wanted, surplus)
    _start(work, units, changed)


def _configure(work: Draft, wanted: List[Dict[str, Any]], surplus: List[str]) -> bool:
    evidence = owned_files.wrong(work.see("application", "files"), wanted)
    evidence += ["%s is not wanted any more" % path for path in surplus]
    observed = work.see("application", "files") or {}
    for path, digest in sorted(build.digests().items()):
        have = observed.get(path)
        if have is None:
            evidence.append("%s is missing" % path)
        elif have["sha256"] != digest or have["link"] is not None:
            evidence.append("%s is another one than gpuready's" % path)
        elif have["mode"] != build.MODES[path] or have["owner"] != "root":
            evidence.append("%s has mode %s and belongs to %s" % (path, have["mode"], have["owner"]))
    if evidence:
        work.act(
            "health.configure",
            "set up the node's own checks: %s" % _summary(work),
            "the node is to notice by itself when its GPUs do not work any more, or are not as planned",
            evidence,
        )
    return bool(evidence)


def _start(work: Draft, units: List[str], changed: bool) -> None:
    seen = work.see("application", "units") or {}
    evidence = []
    for name in units:
        state = seen.get(name)
        if state is None:
            evidence.append("%s is not there" % name)
        elif not state["enabled"] or not state["active"]:
            words = [
                word
                for word, holds in (("enabled", state["enabled"]), ("active", state["active"]))
                if not holds
            ]
            evidence.append("%s is not %s" % (name, " and not ".join(words)))
    if evidence:
        work.act(
            "health.start",
            "enable and start %s" % ", ".join(units),
            "what is not started finds nothing out",
            evidence,
        )


def _plan_removal(work: Draft) -> None:
    observed = work.see("application", "files") or {}
    there = owned_files.surplus(observed, FOLDER, []) + _own_units(work)
    there += [path for path in (build.PROGRAM, build.BINDINGS) if path in observed]
    if there:
        work.act(
            "health.remove",
            "remove monitoring and continuous verification",
            "gpu_health_enabled is false",
            ["%s is there" % path for path in there],
        )


def _own_units(work: Draft) -> List[str]:
    """Unit files of this role on the node, links included."""
    observed = work.see("application", "files") or {}
    return sorted(path for path in observed if path.startswith(UNITS + PREFIX) or path == DROP_IN)


# --- what can be known to fail ----------------------------------------------------------------------------


def _find_conflicts(work: Draft) -> None:
    if build.BINDINGS not in build.digests():
        work.refuse(
            "health.bindings_missing",
            "application",
            "gpu_health",
            "the controller has no NVML bindings for Python to put on %s" % work.host,
            ["gpu_health reads NVML through nvidia-ml-py (pynvml.py), which is not installed beside Ansible"],
            ["install nvidia-ml-py where Ansible runs (make env does)", "set gpu_health_enabled: false"],
        )
    if _textfile(work) is None:
        return
    exporter = work.see("application", "health", "node_exporter") or {}
    directory = work.wishes["gpu_health_textfile_directory"]
    reads = exporter.get("directory")
    if reads and reads.rstrip("/") != directory:
        work.refuse(
            "health.textfile_directory",
            "application",
            "gpu_health",
            "node_exporter on %s reads %s, but the metrics would be written to %s"
            % (work.host, reads, directory),
            ["its command line says %s=%s" % ("--collector.textfile.directory", reads)],
            ["set gpu_health_textfile_directory: %s" % reads.rstrip("/")],
        )
    elif work.see("application", "health", "textfile_directory") is False and not health_packages(work):
        why = (
            "node_exporter is there, but this directory is not"
            if exporter.get("installed")
            else "no node_exporter is there, and gpu_health_node_exporter_install_allowed is false"
        )
        work.refuse(
            "health.textfile_directory",
            "application",
            "gpu_health",
            "the directory %s (gpu_health_textfile_directory) does not exist on %s" % (directory, work.host),
            [why],
            [
                "set gpu_health_textfile_directory to the directory that node_exporter reads "
                "(its option --collector.textfile.directory)",
                "create it, and let node_exporter read it",
                "set gpu_health_exporter: none",
            ],
        )


def health_packages(work: Draft) -> List[str]:
    """What is to be installed: the distribution's node_exporter, where there is none at all."""
    exporter = work.see("application", "health", "node_exporter") or {}
    wanted = (
        _textfile(work) is not None
        and work.wishes["gpu_health_node_exporter_install_allowed"]
        and exporter.get("installed") is False
    )
    return [EXPORTER_PACKAGE] if wanted else []


def _exporter_is_ours(work: Draft) -> bool:
    """A node_exporter of the site's own listens where the site says, the one that gpuready brings as here."""
    exporter = work.see("application", "health", "node_exporter") or {}
    return bool(exporter.get("ours")) or bool(health_packages(work))


# --- what is wanted ---------------------------------------------------------------------------------------


def _textfile(work: Draft) -> Optional[str]:
    if work.wishes["gpu_health_exporter"] == "none":
        return None
    return "%s/%s" % (work.wishes["gpu_health_textfile_directory"], TEXTFILE)


def _units(work: Draft) -> List[str]:
    units = [CHECK + ".timer", VERIFY + ".timer"]
    if _textfile(work) is not None:
        units.insert(0, METRICS)
    if work.wishes["gpu_health_verify_on_package_change_enabled"]:
        units.append(PACKAGES + ".path")
    return units


def _time(work: Draft) -> str:
    """Nodes that all verify in the same minute would ask the same registry and disks at once."""
    wish = work.wishes["gpu_health_verify_time"]
    if wish:
        return str(wish)
    minute = int(hashlib.sha256(work.host.encode("utf-8")).hexdigest()[:8], 16) % 180
    return "%02d:%02d" % (2 + minute // 60, minute % 60)


def _duration(seconds: int) -> str:
    """
    >>> _duration(300), _duration(15), _duration(7200)
    ('5 min', '15 s', '2 h')
    """
    for size, word in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return "%d %s" % (seconds // size, word)
    return "%d s" % seconds


def _summary(work: Draft) -> str:
    wishes = work.wishes
    parts = ["check every %s" % _duration(wishes["gpu_health_check_interval_seconds"])]
    parts.append("verification daily at %s and after every boot" % _time(work))
    if wishes["gpu_health_verify_on_package_change_enabled"]:
        parts[-1] += " and change of a package"
    if _textfile(work) is not None:
        every = _duration(wishes["gpu_health_metrics_interval_seconds"])
        parts.insert(0, "metrics every %s for node_exporter" % every)
    return ", ".join(parts)


def _files(work: Draft) -> List[Dict[str, Any]]:
    config = json.dumps(_config(work), indent=1, sort_keys=True) + "\n"
    files = [owned_files.row(CONFIG, config)]
    files += [owned_files.row(UNITS + name, content) for name, content in sorted(_unit_files(work).items())]
    if _exporter_is_ours(work):
        files.append(owned_files.row(DROP_IN, _drop_in(work.wishes["gpu_health_node_exporter_bind_address"])))
    return files


def _drop_in(address: str) -> str:
    place = "[%s]" % address if ":" in address else address
    return (
        _HEAD
        + "[Service]\nExecStart=\n"
        + "ExecStart=/usr/bin/%s --web.listen-address=%s:%d $ARGS\n"
        % (EXPORTER_PACKAGE, place, EXPORTER_PORT)
    )


def _config(work: Draft) -> Dict[str, Any]:
    """The node's own copy of what was planned."""
    wishes = work.wishes
    way = ((work.runtime or {}).get("launch") or {}).get("way") or "gpus"
    launch = {"way": way, "arguments": LAUNCH_ARGUMENTS[way], "reason": "planned"}
    return {
        "schema": 1,
        "host": work.host,
        "simulated": wishes["gpuready_simulated"],
        "textfile": _textfile(work),
        "gpu_metrics": wishes["gpu_health_exporter"] != "dcgm",
        "package_wait_seconds": PACKAGE_WAIT_SECONDS,
        "package_quiet_seconds": wishes["gpu_health_verify_package_delay_seconds"],
        "expected": _expected(work),
        "workloads": [
            {
                "workload": row["name"],
                "image": row["image"],
                "python": "%s/bin/python" % row["venv"] if row.get("venv") else None,
                "probe": row["probe"],
                "level": wishes["gpu_health_verify_level"],
                "launch": launch,
                "expect": row["expect"],
                "timeout_seconds": wishes["gpu_health_verify_timeout_seconds"],
            }
            for row in work.workload_rows
            if row.get("image") or row.get("venv")
        ],
    }


def _expected(work: Draft) -> Dict[str, Any]:
    """What of the plan can be seen on the node. What the plan does not know yet is left out, and comes with
    the plan after the installation."""
    runtime = work.runtime or {}
    toolkit = runtime.get("toolkit") or {}
    cdi = toolkit.get("cdi") or {}
    return {
        "gpus": expected_gpus(dict(work.observed)),
        "driver": _expected_driver(work),
        "docker": {"runtime": "nvidia" if toolkit.get("runtime") else None},
        "toolkit": {
            "packages": {row["name"]: row["version"] for row in toolkit.get("packages") or []},
            "cdi": bool(cdi.get("enabled")),
        },
        # Which of its versions is the right one, the last verification on the node says.
        "images": [row["image"] for row in work.workload_rows if row.get("image")],
        "venvs": [{"name": row["name"], "path": row["path"], "hash": row.get("hash")} for row in work.venvs],
        "units": sorted(row["unit"] for row in (work.workbench or {}).get("users") or []),
    }


def _expected_driver(work: Draft) -> Optional[Dict[str, Any]]:
    driver = work.driver
    if driver is None:
        return None
    # The fabric manager's own row says more than its package could.
    packages = {
        row["name"]: row["version"] for row in driver["packages"] if "fabricmanager" not in row["name"]
    }
    installed = {row["name"] for row in work.see("driver", "packages") or [] if row["status"] == "installed"}
    holds = [
        name
        for name in driver["holds"]
        if name in packages or (name in installed and "fabricmanager" not in name)
    ]
    return {
        "version": driver["version"],
        "flavour": driver["flavour"],
        "packages": packages,
        "holds": holds if work.wishes["nvidia_driver_hold_enabled"] else [],
        "persistenced": work.wishes["nvidia_driver_persistenced_enabled"],
    }


def _unit_files(work: Draft) -> Dict[str, str]:
    wishes = work.wishes
    check, metrics = (wishes["gpu_health_%s_interval_seconds" % name] for name in ("check", "metrics"))
    files = {
        CHECK + ".service": _service(
            "Is this node's GPU stack still as planned?", "check", timeout="5min", quiet=True
        ),
        CHECK + ".timer": _timer(
            "Check this node's GPU stack", ["OnActiveSec=1min", "OnUnitActiveSec=%ds" % check]
        ),
        VERIFY + ".service": _service(
            "Do this node's workloads see their GPUs?",
            "verify --reason=timer",
            timeout="infinity",  # each workload has its own limit
            after="docker.service",
        ),
        VERIFY + ".timer": _timer(
            "Verify this node's workloads",
            ["OnBootSec=2min", "OnCalendar=*-*-* %s:00" % _time(work)],
        ),
    }
    if _textfile(work) is not None:
        files[METRICS] = _metrics_service(metrics, wishes["gpu_health_textfile_directory"])
    if wishes["gpu_health_verify_on_package_change_enabled"]:
        files[PACKAGES + ".service"] = _service(
            "Verify this node's workloads after a change of the driver, Docker or the container toolkit",
            "verify --if-packages-changed --reason=packages",
            timeout="infinity",
            after="docker.service",
        )
        files[PACKAGES + ".path"] = (
            _HEAD
            + "[Unit]\nDescription=Notice changes of packages that GPUs depend on\n\n"
            + "[Path]\nPathChanged=/var/lib/dpkg/status\n\n[Install]\nWantedBy=paths.target\n"
        )
    return files


_HEAD = "# Managed by gpuready (role gpu_health); run site.yml to change it.\n"
_CONFINED = (
    "ProtectSystem=strict\nProtectHome=read-only\nPrivateTmp=true\nNoNewPrivileges=true\n"
    "RuntimeDirectory=gpuready-health\nRuntimeDirectoryPreserve=yes\n"
)


def _service(what: str, verb: str, *, timeout: str, after: str = "", quiet: bool = False) -> str:
    lines = ["[Unit]", "Description=%s" % what]
    lines += ["After=%s" % after] if after else []
    lines += [
        "",
        "[Service]",
        "Type=oneshot",
        "ExecStart=%s %s" % (RUN, verb),
        "TimeoutStartSec=%s" % timeout,
    ]
    # systemd's own "Starting …" and "Finished …", every few minutes, would bury what matters.
    lines += ["LogLevelMax=notice"] if quiet else []
    return _HEAD + "\n".join(lines) + "\n" + _CONFINED + "StateDirectory=gpuready/health\n"


def _metrics_service(every: int, directory: str) -> str:
    return (
        _HEAD
        + "[Unit]\nDescription=Write this node's GPU metrics for node_exporter\n\n"
        + "[Service]\nType=notify\nExecStart=%s metrics --every=%d\n" % (RUN, every)
        # A driver that hangs lets nobody go: then at least systemd tells of it.
        + "WatchdogSec=%d\nRestart=always\nRestartSec=10\n" % max(60, every * 4)
        + _CONFINED
        + "ReadWritePaths=-%s\n" % directory
        + "\n[Install]\nWantedBy=multi-user.target\n"
    )


def _timer(what: str, when: List[str]) -> str:
    return (
        _HEAD
        + "[Unit]\nDescription=%s\n\n[Timer]\n%s\nAccuracySec=1s\n\n[Install]\nWantedBy=timers.target\n"
        % (
            what,
            "\n".join(when),
        )
    )
