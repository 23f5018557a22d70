# Apache-2.0 (see LICENSE)
"""What an image requires of the machine (``NVIDIA_REQUIRE_*``), evaluated off the host.

NVIDIA's legacy hook hands these expressions to ``nvidia-container-cli --require``, which refuses the
container when one does not hold for every GPU in it; nobody looks at them under CDI. The grammar is
libnvidia-container's (``src/cli/dsl.c``): alternatives are separated by spaces, the conditions of one
alternative by commas, and all variables have to hold. Conditions compare ``cuda``, ``driver``, ``arch``
(numbers) or ``brand`` (names).

Every answer is true, false or unknown: an expression is only refused on what is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..catalog import Catalog, driver_line

PREFIX = "NVIDIA_REQUIRE_"
#: Jetson's own kind of requirement; nobody asks for it on a server.
_JETPACK = "NVIDIA_REQUIRE_JETPACK"
_CONDITION = re.compile(r"^(?P<subject>[a-z]+)(?P<comparison>>=|<=|!=|=|<|>)(?P<value>[\w.-]+)$", re.I)
_NUMBERS = re.compile(r"^\d+(?:\.\d+)*")
_BRAND = re.compile(r"^Brand:\s+(\w+)\s*$", re.M)
_TRUE = ("1", "t", "true")
#: An image of CUDA 9 or older has this alone, and the hook makes a condition of it.
LEGACY = "CUDA_VERSION"

#: NVML's brands by a GPU's name. It has changed its mind (an A100 was a Tesla, a GeForce RTX a GeForce):
#: where the name does not decide, the brand is one of several.
_BRANDS = (
    (re.compile(r"\btesla\b", re.I), ("tesla",)),
    (re.compile(r"\bgeforce\b.*\brtx\b", re.I), ("geforcertx", "geforce")),
    (re.compile(r"\bgeforce\b", re.I), ("geforce",)),
    (re.compile(r"\bquadro\b.*\brtx\b", re.I), ("quadrortx", "quadro")),
    (re.compile(r"\bquadro\b", re.I), ("quadro",)),
    (re.compile(r"\btitan\b.*\brtx\b", re.I), ("titanrtx", "titan")),
    (re.compile(r"\btitan\b", re.I), ("titan",)),
    (re.compile(r"\bnvs\b", re.I), ("nvs",)),
    (re.compile(r"\bgrid\b", re.I), ("grid", "nvidiavgaming", "vapps", "vpc", "vcs", "vws", "cloudgaming")),
    (re.compile(r"\brtx\b", re.I), ("nvidiartx", "quadrortx", "quadro")),
    # Data center GPUs without another name: A100, H100, L4, B200, GB200 …
    (re.compile(r"\b(?:GB|GH|[ABHLKPVT])\d{1,3}[A-Z]?\b"), ("nvidia", "tesla")),
)


class Machine(NamedTuple):
    """What the conditions are held against; None is unknown."""

    driver: str | None
    cuda: str | None
    brands: tuple[str, ...] | None
    arch: str | None


class Verdict(NamedTuple):
    """Whether it holds, and the condition that decided."""

    holds: bool | None
    why: str


def numbers(version: str) -> tuple[int, ...] | None:
    """``11.2`` → (11, 2, 0): compared by three numbers, as libnvidia-container does."""
    match = _NUMBERS.match(version or "")
    if not match:
        return None
    found = [int(part) for part in match.group(0).split(".")][:3]
    return tuple(found + [0] * (3 - len(found)))


def _compare(left: Any, comparison: str, right: Any) -> bool:
    return {
        "=": left == right,
        "!=": left != right,
        ">=": left >= right,
        "<=": left <= right,
        ">": left > right,
        "<": left < right,
    }[comparison]


_NEGATED = {"=": "is not", "!=": "is", ">=": "<", "<=": ">", ">": "<=", "<": ">="}


def condition(text: str, machine: Machine) -> Verdict:
    """One condition: ``cuda>=11.2``, ``brand=tesla``."""
    match = _CONDITION.match(text)
    if not match:
        return Verdict(None, f"{text} is no condition")
    subject, comparison, wanted = (
        match.group("subject").lower(),
        match.group("comparison"),
        match.group("value"),
    )
    if subject == "brand":
        if comparison not in ("=", "!="):
            return Verdict(None, f"{text} is no condition")
        if not machine.brands:
            return Verdict(None, f"{text}: the GPU's brand is not known")
        is_it = wanted.lower() in machine.brands
        if is_it and len(machine.brands) > 1:
            return Verdict(None, f"{text}: the GPU's brand is one of {', '.join(machine.brands)}")
        holds = is_it == (comparison == "=")
        return Verdict(holds, f"brand {machine.brands[0]} {'is' if is_it else 'is not'} {wanted}")
    if subject not in ("cuda", "driver", "arch"):
        return Verdict(None, f"{text}: nobody knows {subject}")
    actual = {"cuda": machine.cuda, "driver": machine.driver, "arch": machine.arch}[subject]
    left, right = numbers(actual or ""), numbers(wanted)
    if left is None or right is None:
        return Verdict(None, f"{text}: the machine's {subject} is not known")
    holds = _compare(left, comparison, right)
    return Verdict(holds, f"{subject} {actual} {comparison if holds else _NEGATED[comparison]} {wanted}")


def _all(verdicts: Sequence[Verdict]) -> Verdict:
    """Kleene's and; what decides is what is false, else what is unknown."""
    for state in (False, None):
        for verdict in verdicts:
            if verdict.holds is state:
                return verdict
    return verdicts[0] if verdicts else Verdict(True, "nothing is required")


def expression(text: str, machine: Machine) -> Verdict:
    """One variable's value for one GPU."""
    alternatives = [
        _all([condition(part, machine) for part in alternative.split(",") if part])
        for alternative in text.split()
    ]
    if not alternatives:
        return Verdict(True, "nothing is required")
    for state in (True, None):
        for verdict in alternatives:
            if verdict.holds is state:
                return verdict
    others = len(alternatives) - 1
    more = f", and no other of {others} alternative{'s' if others > 1 else ''} holds" if others else ""
    return Verdict(False, alternatives[0].why + more)


def brands_of(name: str | None) -> tuple[str, ...] | None:
    """The brands that NVML may call a GPU of this name; None when nobody can tell.

    >>> brands_of("NVIDIA GeForce RTX 3090")
    ('geforcertx', 'geforce')
    """
    for pattern, brands in _BRANDS:
        if name and pattern.search(name):
            return brands
    return None


def cuda_of(driver: str | None, catalog: Catalog | None) -> str | None:
    """The newest CUDA that a driver speaks, by its branch.

    A branch's first releases may speak an older one (there are none among those that are packaged).
    """
    if not driver or catalog is None:
        return None
    line = driver_line(driver, catalog)
    return line.max_cuda if line is not None else None


def machines(
    driver: str | None, cuda: str | None, gpus: Iterable[Mapping[str, Any]], catalog: Catalog | None
) -> list[Machine]:
    """One machine per GPU, since a requirement has to hold for each of them."""
    speaks = cuda or cuda_of(driver, catalog)
    found = [
        Machine(
            driver,
            speaks,
            (str(gpu["brand"]).lower(),) if gpu.get("brand") else brands_of(gpu.get("name")),
            gpu.get("compute_capability"),
        )
        for gpu in gpus
    ]
    return found or [Machine(driver, speaks, None, None)]


def is_disabled(env: Mapping[str, str]) -> bool:
    return str(env.get("NVIDIA_DISABLE_REQUIRE") or "").strip().lower() in _TRUE


def expressions(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that require something, with what they say."""
    found = {
        name: str(value)
        for name, value in sorted(env.items())
        if name.startswith(PREFIX) and name != _JETPACK and str(value).strip()
    }
    version = numbers(str(env.get(LEGACY) or ""))
    if version and "NVIDIA_REQUIRE_CUDA" not in env:
        found[LEGACY] = f"cuda>={version[0]}.{version[1]}"
    return found


def evaluate(env: Mapping[str, str], held_against: Sequence[Machine]) -> list[dict[str, Any]]:
    """A row per variable: ``{variable, expression, holds, why, disabled}``.

    ``disabled``: the container says that nobody is to look (NVIDIA_DISABLE_REQUIRE). What does not hold then
    is not refused, but may fail later all the same.
    """
    rows = []
    for variable, text in expressions(env).items():
        verdict = _all([expression(text, machine) for machine in held_against])
        rows.append(
            {
                "variable": variable,
                "expression": text,
                "holds": verdict.holds,
                "why": verdict.why,
                "disabled": is_disabled(env),
            }
        )
    return rows


def requirements(
    gpu_stack: Mapping[str, Any], env: Mapping[str, str], catalog: Catalog, cli_info: str | None = None
) -> list[dict[str, Any]]:
    """What an image's or a container's environment requires, held against an observed node.

    Against the driver that is loaded, and where none is, against the one on the disk. ``cli_info``: what
    ``nvidia-container-cli info`` says, who knows the brands himself.
    """
    driver = gpu_stack.get("driver") or {}
    nvml = driver.get("nvml") or {}
    loaded = driver.get("loaded") or driver.get("on_disk") or {}
    version = loaded.get("version") or nvml.get("driver_version")
    cuda = nvml.get("cuda_version")
    gpus = driver.get("devices") or (gpu_stack.get("host") or {}).get("gpus") or []
    brands = _BRAND.findall(cli_info or "")
    if len(brands) == len(gpus):
        gpus = [{**gpu, "brand": brand} for gpu, brand in zip(gpus, brands, strict=True)]
    return evaluate(env, machines(version, cuda, gpus, catalog))
