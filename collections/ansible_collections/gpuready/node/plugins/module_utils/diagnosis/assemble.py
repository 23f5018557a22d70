# Apache-2.0 (see LICENSE)
"""The facts of a node for a diagnosis, out of what a run has of it; and findings out of a diagnosis.

Pure. Used by the action plugins and by ``gpuready diagnose --facts`` on what the report has written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..catalog import Catalog
from . import require

#: What the probe says of a container besides what the contract calls ``container``.
_NOT_CONTAINER = ("framework", "missing", "unknown", "names", "ended")
#: Kinds of machines that are not a machine's own hardware; the others in systemd's list are containers.
_MACHINES = ("kvm", "qemu", "microsoft", "vmware", "oracle", "xen", "parallels", "bhyve", "amazon", "google")


def the_verification(verifications: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The first one that failed, else the last."""
    failed = [row for row in verifications if not row.get("ok")]
    return failed[0] if failed else (verifications[-1] if verifications else None)


def platform_of(gpu_stack: Mapping[str, Any]) -> dict[str, Any]:
    """What an observed node is; one that answers to Ansible's modules is a Linux."""
    virtual = (gpu_stack.get("host") or {}).get("virtual")
    return {
        "os": "linux",
        "wsl": None if virtual is None else virtual == "wsl",
        "virtual_machine": virtual if virtual in _MACHINES else (None if virtual is None else False),
    }


def image_env(gpu_stack: Mapping[str, Any], image: str | None) -> Mapping[str, str]:
    """The environment that an image on the node brings."""
    for row in (gpu_stack.get("framework") or {}).get("images") or []:
        if image and row.get("ref") == image:
            return row.get("env") or {}
    return {}


def _container(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in _NOT_CONTAINER}


def _framework(
    found: Mapping[str, Any] | None, verification: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """What lies in the container or the host's environment, and what it said of itself when it ran."""
    framework = dict(found or {})
    said = (verification or {}).get("framework") or {}
    if said and framework.get("name") in (None, said.get("name")):
        for key in ("name", "version", "cuda", "cudnn", "archs"):
            if said.get(key):
                framework[key] = said[key]
        if said.get("built_with_cuda") is False:
            framework["cuda"] = False
        listed = (verification or {}).get("gpus_listed")
        place = (verification or {}).get("place") or "container"
        framework.update(place=place, gpus_listed=listed, available=bool(listed))
    return framework or None


def facts_of(
    gpu_stack: Mapping[str, Any] | None,
    plan: Mapping[str, Any] | None = None,
    verifications: Sequence[Mapping[str, Any]] = (),
    probe: Mapping[str, Any] | None = None,
    *,
    program: Mapping[str, Any] | None = None,
    catalog: Catalog,
) -> dict[str, Any]:
    """The facts of section 8.

    ``program``: a framework in a program on the host that is asked about (``framework`` of place ``host``).

    ``probe`` is what the module ``gpu_chain_probe`` found. Where it looked into somebody's own container,
    that one is asked about, and the verification of a workload says nothing of it.
    """
    stack = dict(gpu_stack or {})
    found = probe or {}
    own = found.get("container")
    own = own if isinstance(own, Mapping) and not own.get("missing") else None
    verification = None if own else the_verification(verifications)
    facts: dict[str, Any] = {}
    if stack:
        facts.update(gpu_stack=stack, platform=platform_of(stack))
    if plan:
        facts["plan"] = plan
    if verification:
        facts["verification"] = verification
    looked = own or found.get("with_gpu")
    framework = (looked or {}).get("framework")
    if looked:
        facts["container"] = _container(looked)
    on_host = (verification or {}).get("place") == "host"
    framework = framework if own else _framework(None if on_host else framework, verification)
    if program is not None:
        framework = dict(program, place="host")
    if framework:
        facts["framework"] = framework
    env = (looked or {}).get("env")
    if env is None:
        env = {} if on_host else image_env(stack, (verification or {}).get("image") or _image_of(plan))
    probes: dict[str, Any] = {
        name: _container(found[name]) for name in ("with_gpu", "without_gpu") if found.get(name)
    }
    probes.update({name: found[name] for name in ("container_cli", "cdi_list") if found.get(name)})
    info = (found.get("container_cli") or {}).get("output")
    probes["requirements"] = require.requirements(stack, env, catalog, info) if stack else []
    facts["probes"] = probes
    return facts


def _image_of(plan: Mapping[str, Any] | None) -> str | None:
    return next((row.get("image") for row in (plan or {}).get("workloads") or [] if row.get("image")), None)


def findings(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A diagnosis' roots as findings of a verification (section 5), the first broken link first."""
    order = {row["link"]: number for number, row in enumerate(answer.get("chain") or [])}
    roots = [cause for cause in answer["causes"] if cause["standing"] == "root"]
    return [
        {
            "layer": cause["layer"],
            "finding": cause["title"],
            "evidence": list(cause["evidence"]),
            "fix": repairs(cause),
            "cause": cause["cause"],
        }
        for cause in sorted(
            roots, key=lambda cause: (not cause["certain"], order.get(cause["link"], len(order)))
        )
    ]


def repairs(cause: Mapping[str, Any]) -> list[str]:
    """Who repairs it and how: what site.yml does comes first."""
    done = [str(row["id"]) for row in cause.get("site") or []]
    if done:
        reboot = ", with a reboot" if cause["repair"] == "reboot" else ""
        return ["run site.yml: it does %s%s" % (", ".join(done), reboot), *cause["fix"]]
    return list(cause["fix"])
