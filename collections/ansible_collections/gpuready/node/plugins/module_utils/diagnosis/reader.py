# Apache-2.0 (see LICENSE)
"""What a person pasted, read into the same facts that a node's observation has (contract: section 8).

Only what the text states becomes a fact. "There is none" is ``False`` (or an empty list) and never a filler;
what is not said is absent. What was seen in a container and what on the host are kept apart.
"""

from __future__ import annotations

from typing import Any

from . import reader_framework, reader_host, reader_runtime
from .reader_base import Reading, fetch, put
from .reader_shell import CONTAINER, Place, Transcript
from .reader_text import Line, clean, normalise

__all__ = ["normalise", "read"]

_CONTAINER_FACTS = ("nvidia_smi", "libcuda", "proc_driver_version", "device_nodes", "exit_code", "oom_killed")


def read(text: str) -> dict[str, Any]:
    """The facts that the text states. Never raises on rubbish.

    >>> read("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC 2021")
    {'gpu_stack': {'driver': {'loaded': {'version': '470.57.02', 'flavour': 'proprietary'}}}}
    """
    transcript = Transcript(_few(clean(text)))
    reading = Reading(transcript)
    reading.run()
    reader_runtime.json_facts(reading)
    reader_runtime.yaml_facts(reading)
    reader_host.kernel_log(reading)
    return _facts(reading)


def _few(lines: list[Line]) -> list[Line]:
    """Long logs say the same again and again; what stands there twenty times says no more than that."""
    if len(lines) < 3000:
        return lines
    seen: dict[str, int] = {}
    kept = []
    for line in lines:
        count = seen[line.text] = seen.get(line.text, 0) + 1
        if count <= 20:
            kept.append(line)
    return kept


def _facts(reading: Reading) -> dict[str, Any]:
    transcript = reading.transcript
    facts: dict[str, Any] = {}
    for number, place in enumerate(transcript.places):
        place.last = max(place.last, number)
    if reading.platform.get("wsl") and isinstance(reading.stack.get("driver"), dict):
        # There the module is Windows's business.
        for key in ("loaded", "on_disk", "device_nodes", "userspace"):
            reading.stack["driver"].pop(key, None)
    if reading.windows_lines and reading.platform.get("os") is None and not reading.platform.get("wsl"):
        reading.platform["os"] = "windows"
    if reading.platform.get("wsl"):
        reading.platform["os"] = "linux"
    if reading.platform.get("os") in ("windows", "darwin") and isinstance(reading.stack.get("driver"), dict):
        for key in ("loaded", "on_disk", "device_nodes"):
            reading.stack["driver"].pop(key, None)
    for name, value in list(reading.stack.items()):
        if value == {}:
            del reading.stack[name]
    container = _container(reading)
    if container is not None:
        facts["container"] = dict(container.container)
        if container.env:
            facts["container"]["env"] = dict(container.env)
    framework = _framework(transcript, container)
    reader_framework.mentioned(reading, framework)
    if reading.stack:
        facts = {"gpu_stack": reading.stack, **facts}
    silent = reading.not_collected
    if silent is not None and framework.get("available") is False and framework.get("cuda"):
        # PyTorch's report asks nvidia-smi: it is not there, or fails.
        error = "collect_env: nvidia-smi gives no answer"
        if silent.inside and "container" in facts:
            facts["container"].setdefault("nvidia_smi", {"ok": False, "error": error, "driver_version": None})
        elif not silent.inside and _unheard(reading):
            nvml = {"source": "nvidia-smi", "driver_version": None, "cuda_version": None, "error": error}
            put(facts.setdefault("gpu_stack", {}), "driver.nvml", nvml)
    if len(reading.pythons) > 1:
        framework["pythons"] = reading.pythons
        failing = [one for one in reading.pythons if one.get("available") is False and one.get("name")]
        if (
            failing
            and framework.get("available") is not False
            and framework.get("name") in (None, failing[-1]["name"])
        ):
            # The one that is asked about is the one that fails.
            one = failing[-1]
            framework.update({key: one[key] for key in ("name", "available", "cuda") if key in one})
            if one.get("version"):
                framework["version"] = str(one["version"]).partition("+")[0]
            if one.get("executable"):
                framework["python"] = {"executable": one["executable"]}
    if framework:
        facts["framework"] = framework
    if transcript.commands:
        facts["commands"] = [
            {"line": typed.text, "program": typed.program, "exit_code": None}
            for typed in transcript.commands[:200]
        ]
    if reading.platform:
        facts["platform"] = reading.platform
    if reading.probes:
        facts["probes"] = reading.probes
    return facts


def _unheard(reading: Reading) -> bool:
    """Has nvidia-smi said nothing at all, neither a table nor an error?"""
    return fetch(reading.stack, "driver.nvml") is None and not fetch(reading.stack, "driver.loaded")


def _container(reading: Reading) -> Place | None:
    """The container that the text is about: the last that failed, else the last one."""
    known = [place for place in reading.transcript.containers if place.container or place.env]
    trials = [place for place in known if place.trial and (place.container.get("nvidia_smi") or {}).get("ok")]
    if trials:
        # `docker run --gpus all … nvidia-smi` that works: a trial, and not what the person asks about.
        trial = trials[-1].container
        reading.probes["with_gpu"] = {"ran": True, "exit_code": 0, **trial}
        known = [place for place in known if place not in trials]
    if not known:
        return None
    failing = [place for place in known if place.failing]
    chosen = max(failing or known, key=lambda place: place.last)
    # What a container's own lines leave open may stand in the file that started it.
    for other in known:
        if (
            other is not chosen
            and not other.failing
            and (other.container.get("compose") and chosen.container.get("compose") is not False)
        ):
            for key, value in other.container.items():
                if key not in _CONTAINER_FACTS:
                    chosen.container.setdefault(key, value)
            for key, value in other.env.items():
                chosen.env.setdefault(key, value)
    return chosen


def _framework(transcript: Transcript, container: Place | None) -> dict[str, Any]:
    """The framework that is asked about: the one that failed last, else the last that was named."""
    places = [transcript.unknown, transcript.host, transcript.windows, *transcript.containers]
    known = [place for place in places if place.framework or (place.env and place.kind != CONTAINER)]
    if not known:
        return {}
    failing = [place for place in known if place.failing and place.framework]
    chosen = max(failing or known, key=lambda place: (bool(place.framework), place is container, place.last))
    found = dict(chosen.framework)
    kind = {"container": "container", "host": "host", "windows": "host"}.get(chosen.kind)
    if kind:
        found = {"place": kind, **found}
    if chosen.kind != CONTAINER:
        env = dict(chosen.env)
        if env:
            found["env"] = env
    return found
