# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Judge what a workload answered. Pure; used on the controller, and by the health program on nodes.

The module ``container_gpu_probe`` only runs the container and brings back what it said; whether that is
good enough is decided here, from the answer alone: the plan and the observation are not believed, they
only say how many GPUs there should be.
"""

from __future__ import annotations

import json
from typing import Any

from .gpu_code import how_it_runs
from .passthrough import PASSTHROUGH

SCHEMA = 1
MARKER = "GPUREADY-PROBE"
LOG_LINES = 200
CONTAINER, HOST = "container", "host"
#: How a program on the host gets its GPUs.
ON_HOST = {"way": HOST, "arguments": [], "reason": "an environment on the host has its GPUs"}
#: What each way of giving a container its GPU adds to `docker run`.
LAUNCH_ARGUMENTS = {
    "gpus": ["--gpus", "all"],
    "runtime": ["--runtime=nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=all"],
    "cdi": ["--device", "nvidia.com/gpu=all"],
}


def parse_answer(stdout: str) -> dict[str, Any] | None:
    """The JSON behind the last marker line; an image's banner may stand before it."""
    for line in reversed((stdout or "").splitlines()):
        if line.startswith(MARKER + " "):
            try:
                answer = json.loads(line[len(MARKER) + 1 :])
            except ValueError:
                return None
            return answer if isinstance(answer, dict) else None
    return None


def tail(text: str, lines: int = LOG_LINES) -> str:
    return "\n".join((text or "").rstrip().splitlines()[-lines:])


def expected_gpus(gpu_stack: dict[str, Any] | None) -> int | None:
    """How many GPUs a container should list: those on the bus that are not given to a virtual machine.

    The bus, not the driver, is asked: a GPU that the driver has lost is a finding and no excuse. Null where
    the number cannot be known: nothing was observed, or a GPU is cut into MIG instances (of which CUDA
    enumerates one).
    """
    if not gpu_stack:
        return None
    if any(device.get("mig_mode") for device in (gpu_stack.get("driver") or {}).get("devices") or []):
        return None
    gpus = (gpu_stack.get("host") or {}).get("gpus")
    if gpus is None:
        return None
    return sum(1 for gpu in gpus if gpu.get("driver_bound") not in PASSTHROUGH)


def matches(actual: str | None, wanted: str) -> bool:
    """Whether a version is the wanted one, given to any depth: 2.9.0 is a 2.9, 2.90 is not."""
    return str(actual or "").split(".")[: len(str(wanted).split("."))] == str(wanted).split(".")


def _finding(layer: str, finding: str, evidence: list[str], fix: list[str]) -> dict[str, Any]:
    return {"layer": layer, "finding": finding, "evidence": evidence, "fix": fix}


def _own_findings(
    run: dict[str, Any],
    answer: dict[str, Any] | None,
    verification: dict[str, Any],
    expect: dict[str, Any],
    timeout: int,
) -> list[dict[str, Any]]:
    """What is wrong with the answer itself; why it came to that is the diagnosis' to say."""
    on_host = verification["place"] == HOST
    image = verification["image"]
    subject = "the environment" if on_host else "the container"
    if run.get("missing"):
        if on_host:
            fix = ["site.yml makes the environment"]
            what = f"there is no Python environment {verification['python']} on the node"
        else:
            fix = [f"site.yml brings the image; by hand: docker pull {image}"]
            what = f"the image {image} is not on the node"
        return [_finding("framework", what, [str(run.get("error") or "")], fix)]
    if run.get("timed_out"):
        return [
            _finding(
                "application",
                f"{subject} did not answer within {timeout} s and was ended",
                [tail(run.get("stderr") or "", 3) or "it wrote nothing"],
                ["look for a hung driver (dmesg: Xid, NVRM), or raise gpu_verify_timeout_seconds"],
            )
        ]
    if run.get("error"):
        layer = "framework" if on_host else "container_runtime"
        return [_finding(layer, f"{subject} could not be started", [str(run["error"])], [])]
    exit_code = verification["exit_code"]
    if answer is None:
        said = run.get("stderr") or run.get("stdout") or ""
        evidence = [f"exit code {exit_code}", tail(said, 3)]
        # 125 is docker's own; with 126 and 127 it depends on who speaks.
        dockers_own = not on_host and (
            exit_code == 125 or (exit_code in (126, 127) and "docker: Error response" in said)
        )
        layer = "container_runtime" if dockers_own else "framework"
        what = "docker could not run the container" if dockers_own else "the probe did not answer"
        return [_finding(layer, what, [item for item in evidence if item], [])]
    found = _build_findings(verification, expect)
    listed, expected = verification["gpus_listed"], verification["gpus_expected"]
    if listed == 0:
        framework = verification["framework"] or {}
        evidence = [f"{listed} of {expected} GPUs", str(framework.get("error") or "")]
        if framework.get("nvml_count"):
            evidence.append(f"the driver's NVML counts {framework['nvml_count']} for it")
        found.append(
            _finding("application", "the framework lists no GPU", [item for item in evidence if item], [])
        )
    elif expected is not None and listed != expected:
        where = "the environment's variables" if on_host else "the image"
        found.append(
            _finding(
                "application",
                f"the framework lists {listed} of {expected} GPUs",
                [", ".join(_gpu_names(verification["devices"])) or "none by name"],
                [f"compare nvidia-smi -L with lspci -d 10de:; look for CUDA_VISIBLE_DEVICES in {where}"],
            )
        )
    found += _code_findings(verification)
    for name, result in (verification["compute"] or {}).items():
        if not result.get("ok"):
            found.append(
                _finding(
                    "application",
                    f"{name} failed" if " on GPU " in name else f"{name} on the GPU failed",
                    [str(result.get("error") or "no reason given")],
                    [],
                )
            )
    found += _stress_findings(verification)
    if verification["level"] == "compute" and not verification["compute"] and listed:
        found.append(_finding("framework", "the probe did not compute", ["level compute was asked for"], []))
    if exit_code != 0:
        found.append(
            _finding("framework", f"{subject} ended with exit code {exit_code} after its answer", [], [])
        )
    return found


def _build_findings(verification: dict[str, Any], expect: dict[str, Any]) -> list[dict[str, Any]]:
    """Is it the build that was promised?"""
    framework = verification["framework"] or {}
    on_host = verification["place"] == HOST
    workload = verification["workload"] or verification["image"] or verification["python"]
    name = framework.get("name") or "the framework"
    holder = "the environment" if on_host else "the image"
    if on_host:
        where = str(verification["python"])
        fix = "run site.yml: it makes the environment anew; the index may serve another build"
    else:
        where = f"image id {verification['image_id']}"
        fix = "docker image rm it on the node and run site.yml; the mirror may serve another one"
    found = []
    if framework.get("built_with_cuda") is False and not framework.get("rocm"):
        # A CPU-only build has no CUDA to be compared.
        evidence = [where, f"{name} {framework.get('version')} says that it was built without CUDA"]
        what = f"{holder} holds a CPU-only {name}, which can use no GPU"
        found.append(_finding("framework", what, evidence, [fix]))
        expect = {key: value for key, value in expect.items() if key != "cuda"}
    for key, label in (("framework_version", "version"), ("cuda", "cuda")):
        wanted = expect.get(key)
        if wanted and not matches(framework.get(label), str(wanted)):
            subject = (
                f"{name} {framework.get('version')}" if label == "version" else f"CUDA {framework.get(label)}"
            )
            what = f"{holder} holds {subject}, where {workload} promises {wanted}"
            found.append(_finding("framework", what, [where], [fix]))
    return found


def _code_findings(verification: dict[str, Any]) -> list[dict[str, Any]]:
    """GPUs that the wheel has no code for: PyTorch lists them all the same, and fails at the first use."""
    framework = verification["framework"] or {}
    archs = framework.get("archs")
    if framework.get("name") != "pytorch" or not archs:
        return []
    without = {}
    for device in verification["devices"]:
        details = device.get("details") or {}
        numbers = details.get("compute_capability")
        if isinstance(numbers, list) and len(numbers) == 2:
            capability = "%s.%s" % tuple(numbers)
            if how_it_runs([str(arch) for arch in archs], capability)[0] == "none":
                without[str(details.get("device_name") or device.get("name"))] = capability
    if not without:
        return []
    names = ", ".join(f"{name} (compute capability {number})" for name, number in without.items())
    return [
        _finding(
            "framework",
            f"this {framework['name']} has no code for {names}",
            ["it was built for " + ", ".join(map(str, archs))],
            ["choose a workload whose wheel has it (gpuready matrix shows which)"],
        )
    ]


def _stress_findings(verification: dict[str, Any]) -> list[dict[str, Any]]:
    """What went wrong under load."""
    if verification["level"] != "stress" or not verification["gpus_listed"]:
        return []
    gpus = list((verification["stress"] or {}).get("gpus") or [])
    if not gpus:
        return [
            _finding("framework", "the probe put no load on the GPUs", ["level stress was asked for"], [])
        ]
    found = []
    for gpu in gpus:
        if gpu.get("error") or not gpu.get("iterations"):
            evidence = str(gpu.get("error") or "it did not finish a single product")
            found.append(_finding("application", f"GPU {gpu.get('index')} failed under load", [evidence], []))
    if len(gpus) < verification["gpus_listed"]:
        what = f"{len(gpus)} of the {verification['gpus_listed']} GPUs that are listed got any load"
        found.append(_finding("framework", what, [], []))
    return found


def _gpu_names(devices: list[dict[str, Any]]) -> list[str]:
    return [
        str((device.get("details") or {}).get("device_name") or device.get("name"))
        for device in devices
        if device.get("device_type") == "GPU"
    ]


def judge(
    run: dict[str, Any],
    *,
    host: str,
    simulated: bool,
    workload: str,
    image: str | None,
    level: str,
    launch: dict[str, Any],
    expect: dict[str, Any] | None,
    gpus_expected: int | None,
    timeout: int,
    python: str | None = None,
) -> dict[str, Any]:
    """The ``verification`` of one workload, from what the module brought back (``run``).

    With ``python`` it is an environment's on the host, else an image's.
    """
    answer = parse_answer(run.get("stdout") or "")
    devices = list((answer or {}).get("devices") or [])
    verification: dict[str, Any] = {
        "schema": SCHEMA,
        "host": host,
        "simulated": simulated,
        "workload": workload,
        "place": HOST if python else CONTAINER,
        "python": python,
        "image": image,
        "image_id": run.get("image_id"),
        "digest": next(iter(run.get("digests") or []), None),
        "level": level,
        "launch": launch,
        "ok": False,
        "gpus_expected": gpus_expected,
        "gpus_listed": sum(1 for device in devices if device.get("device_type") == "GPU"),
        "devices": devices,
        "framework": (answer or {}).get("framework"),
        "compute": (answer or {}).get("compute"),
        "stress": (answer or {}).get("stress"),
        "seconds": run.get("seconds"),
        "exit_code": run.get("exit_code"),
        "timed_out": bool(run.get("timed_out")),
        "command": run.get("command"),
        "log": tail(run.get("stderr") or ""),
        "findings": [],
    }
    verification["findings"] = _own_findings(run, answer, verification, expect or {}, timeout)
    verification["ok"] = not verification["findings"]
    return verification


def verdict_text(verification: dict[str, Any], *, log_lines: int = 15) -> str:
    """One readable message: the verdict, what broke first, and the end of the workload's own log."""
    on_host = verification.get("place") == HOST
    name = verification["workload"] or verification["image"] or verification["python"]
    way = verification["launch"].get("way")
    seconds = f", {verification['seconds']:.1f} s" if verification["seconds"] else ""
    framework = verification["framework"] or {}
    if verification["ok"]:
        cuda = f" with CUDA {framework['cuda']}" if framework.get("cuda") else ""
        gpus = ", ".join(_gpu_names(verification["devices"]))
        archs = f"; code for {' '.join(framework['archs'])}" if _tells_code(framework) else ""
        return (
            f"{name}: {framework.get('name')} {framework.get('version')}{cuda} lists "
            f"{verification['gpus_listed']} GPU ({gpus}){archs}; {verification['level']}, {way}{seconds}"
        )
    where = "on the host" if on_host else "in the container"
    lines = [f"{name} does not have its GPU {where} ({verification['level']}, {way}{seconds})."]
    if framework.get("name") == "pytorch":
        lines.append(
            f"torch {framework.get('version')}: version.cuda {framework.get('cuda')}, "
            f"is_available {framework.get('available')}, device_count {framework.get('device_count')}, "
            f"architectures {' '.join(framework.get('archs') or []) or 'none'}"
        )
    for n, finding in enumerate(verification["findings"], 1):
        lines.append(f"{n}. {finding['layer']}: {finding['finding']}")
        lines += [
            f"   {line}" for item in finding.get("evidence") or [] if item for line in str(item).splitlines()
        ]
        lines += [f"   fix: {item}" for item in finding.get("fix") or [] if item]
    log = tail(verification["log"], log_lines).splitlines()
    shown = "\n".join(lines)
    if any(line.strip() not in shown for line in log):
        lines.append("Its log ends with:" if on_host else "The container's log ends with:")
        lines += [f"   {line}" for line in log]
    return "\n".join(lines)


def _tells_code(framework: dict[str, Any]) -> bool:
    return framework.get("name") == "pytorch" and bool(framework.get("archs"))
