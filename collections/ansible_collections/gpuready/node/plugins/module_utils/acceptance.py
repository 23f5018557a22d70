# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""Is a new node good enough for service? The acceptance record (docs/contracts.md, section 16).

Pure; controller only. What was verified, watched and read goes in; whether that suffices is decided here, by
the limits alone. What nobody could see is never called good.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .secrecy import redact

SCHEMA = 1
ACCEPTED, REJECTED = "accepted", "rejected"
#: Reasons for lowered clocks that are the hardware's own.
HARDWARE_SLOWDOWNS = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
#: What the role's variables say where the inventory is silent.
LIMITS: dict[str, Any] = {
    "rounds": 3,
    "level": "compute",
    "stress_minutes": 0,
    "max_temperature_celsius": 87,
    "refused_throttle_reasons": list(HARDWARE_SLOWDOWNS),
    "min_pcie_width": 0,
    "min_relative_speed_percent": 85,
    "expect": {},
}
#: A busy node is late now and then; who did not look for so long, or for so many turns, saw too little.
GAP_SECONDS, GAP_TURNS = 30.0, 10
#: Beginning and ending a watch takes a moment.
WATCH_SLACK_SECONDS = 5.0
EVIDENCE_LINES = 3

Check = dict[str, Any]


def _check(name: str, ok: bool | None, text: str) -> Check:
    return {"check": name, "ok": ok, "text": text}


def _dig(value: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _listed(items: Iterable[Any]) -> str:
    return ", ".join(str(item) for item in items)


def _plural(number: int | float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _gpu_name(gpu: Mapping[str, Any]) -> str:
    place = gpu.get("index") if gpu.get("index") is not None else gpu.get("pci")
    return f"GPU {place}"


def _on_bus(hardware: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The GPUs that have an address. One that NVML only remembers has none any more."""
    return [gpu for gpu in _dig(hardware, "gpus") or [] if gpu.get("pci")]


# --- what was seen, judged ----------------------------------------------------------------------------------


def _earlier(failure: Mapping[str, Any] | None) -> list[Check]:
    """A node that did not come as far as to be verified."""
    if not failure:
        return []
    stage = failure.get("stage")
    said = " ".join(str(failure.get("message") or "no reason was given").split())
    return [_check("stage", False, f"{stage}: {said}" if stage else said)]


def _as_ordered(hardware: Mapping[str, Any] | None, expect: Mapping[str, Any]) -> list[Check]:
    """Is it the machine that was ordered?"""
    found = []
    gpus = _on_bus(hardware)
    wanted = int(expect.get("gpus") or 0)
    if wanted:
        text = f"{len(gpus)} of the {wanted} GPUs that were ordered are on the bus"
        found.append(_check("ordered_gpus", len(gpus) == wanted, text))
    model = expect.get("gpu_model")
    if model:
        others = sorted({str(gpu.get("name")) for gpu in gpus if gpu.get("name") != model})
        text = f"every GPU is the {model} that was ordered"
        if others or not gpus:
            text = f"{model} was ordered, and there is {_listed(others) or 'no GPU'}"
        found.append(_check("ordered_model", bool(gpus) and not others, text))
    serial = expect.get("serial")
    if serial:
        actual = _dig(hardware, "serial")
        same = actual is not None and actual.casefold() == str(serial).strip().casefold()
        text = f"the machine's serial number is {actual or 'not told by its firmware'}"
        found.append(_check("ordered_serial", same, text if same else f"{text}; {serial} was ordered"))
    memory = int(expect.get("memory_mib") or 0)
    if memory:
        modules = _dig(hardware, "memory_modules") or []
        # What the kernel has is less than what is plugged in.
        total = sum(int(module["size_mib"]) for module in modules) or _dig(hardware, "memory_mib")
        text = f"{'an unknown number of' if total is None else total} MiB of memory"
        enough = total is not None and total >= memory
        found.append(_check("ordered_memory", enough, f"{text}; {memory} MiB were ordered"))
    return found


def _links(hardware: Mapping[str, Any] | None, least: int) -> list[Check]:
    """PCI Express: a card that does not sit right has a narrow link."""
    narrow, poor = [], []
    for gpu in _dig(hardware, "gpus") or []:
        width, most = _dig(gpu, "pcie", "width"), _dig(gpu, "pcie", "max_width")
        if width and least and width < least:
            poor.append(f"{_gpu_name(gpu)} has {width} lanes")
        elif width and most and width < most:
            narrow.append(f"{_gpu_name(gpu)} uses {width} of its {most} PCI Express lanes")
    if least:
        text = f"every link has the {least} lanes that gpu_acceptance_min_pcie_width asks for"
        if poor:
            text = f"{_listed(poor)}; gpu_acceptance_min_pcie_width asks for {least}"
        known = any(_dig(gpu, "pcie", "width") for gpu in _dig(hardware, "gpus") or [])
        return [
            _check("pcie", not poor if known else None, text if known else "no GPU tells its link's width")
        ]
    # A slot may have fewer lanes by its maker's design: worth knowing, no reason to refuse.
    return [_check("pcie", None, _listed(narrow))] if narrow else []


def round_of(verification: Mapping[str, Any], number: int) -> dict[str, Any]:
    """One verification as the record tells it."""
    return {
        "workload": verification.get("workload"),
        "round": number,
        "ok": bool(verification.get("ok")),
        "level": verification.get("level"),
        "gpus_listed": verification.get("gpus_listed"),
        "gpus_expected": verification.get("gpus_expected"),
        "seconds": verification.get("seconds"),
        "compute": verification.get("compute"),
        "findings": [
            {key: finding.get(key) for key in ("layer", "finding", "evidence", "fix", "cause")}
            for finding in verification.get("findings") or []
        ],
    }


def rounds_of(verifications: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The verifications in their order; the n-th of a workload is its n-th round."""
    counted: dict[Any, int] = {}
    rounds = []
    for verification in verifications:
        workload = verification.get("workload")
        counted[workload] = counted.get(workload, 0) + 1
        rounds.append(round_of(verification, counted[workload]))
    return rounds


def _own_finding(findings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the answer itself lacks; causes by a diagnosis stand before it, and in the record's own."""
    own = [finding for finding in findings if not finding.get("cause")]
    return next(iter(own or findings), {})


def _rounds(rounds: Sequence[Mapping[str, Any]], limits: Mapping[str, Any]) -> list[Check]:
    found = []
    wanted = int(limits["rounds"])
    for workload in dict.fromkeys(each["workload"] for each in rounds):
        own = [each for each in rounds if each["workload"] == workload]
        good = [each for each in own if each["ok"]]
        for each in own:
            if each["ok"]:
                continue
            first = _own_finding(each["findings"])
            evidence = [str(line) for line in first.get("evidence") or [] if line][:EVIDENCE_LINES]
            said = first.get("finding") or "it is not good, and nothing says why"
            found.append(
                _check(
                    "verification",
                    False,
                    f"verification {each['round']} of {len(own)} of {workload}: {said}"
                    + (f" ({'; '.join(' '.join(line.split()) for line in evidence)})" if evidence else ""),
                )
            )
        if len(own) < wanted:
            found.append(
                _check("verification", False, f"{workload} was verified {len(own)} of {wanted} times")
            )
        if good:
            least = min(int(each["gpus_listed"] or 0) for each in good)
            expected = good[-1]["gpus_expected"]
            of = f" of {expected}" if expected is not None else ""
            noun = "GPU" if (expected if expected is not None else least) == 1 else "GPUs"
            what = (
                "listed and computed on"
                if all(each["level"] == "compute" for each in good)
                else "listed (and only listed)"
            )
            text = f"{len(good)} of {len(own)} verifications of {workload} {what} {least}{of} {noun}"
            found.append(_check("verification", len(good) == len(own) or None, text))
    if not rounds:
        found.append(_check("verification", False, "no workload was verified"))
    return found


def stress_of(verification: Mapping[str, Any] | None, minutes: float) -> dict[str, Any] | None:
    """The stress as the record tells it; null where none was asked for."""
    if not minutes:
        return None
    told = _dig(verification, "stress") or {}
    gpus = list(told.get("gpus") or [])
    speeds = [gpu["iterations_per_second"] for gpu in gpus if gpu.get("iterations_per_second")]
    findings = list(_dig(verification, "findings") or [])
    error = None
    if verification is None:
        error = "it was not run"
    elif not verification.get("ok"):
        first = _own_finding(findings)
        error = str(first.get("finding") or "it did not end well, and nothing says why")
        evidence = [str(line) for line in first.get("evidence") or [] if line][:EVIDENCE_LINES]
        error += f" ({'; '.join(evidence)})" if evidence else ""
    return {
        "minutes": minutes,
        "ok": error is None,
        "workload": _dig(verification, "workload"),
        "seconds": told.get("seconds"),
        "iterations_per_second": round(sum(speeds), 2) if speeds else None,
        "gpus": gpus,
        "error": error,
    }


def _stress(
    stress: Mapping[str, Any] | None, hardware: Mapping[str, Any] | None, limits: Mapping[str, Any]
) -> list[Check]:
    if stress is None:
        return [_check("stress", None, "no stress was asked for (gpu_acceptance_stress_minutes is 0)")]
    what = f"{_plural(stress['minutes'], 'minute')} of load by {stress['workload'] or 'the first workload'}"
    if stress["error"]:
        return [_check("stress", False, f"{what}: {stress['error']}")]
    found = [
        _check(
            "stress",
            True,
            f"{what} on {_plural(len(stress['gpus']), 'GPU')}, every result right: "
            f"{stress['iterations_per_second'] or 0:g} matrix products a second",
        )
    ]
    # Of GPUs of one model, a slow one is a sick one.
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for gpu in stress["gpus"]:
        by_model.setdefault(str(gpu.get("name")), []).append(gpu)
    least = float(limits["min_relative_speed_percent"])
    slow = []
    for model, gpus in by_model.items():
        speeds = [float(gpu.get("iterations_per_second") or 0) for gpu in gpus]
        fastest = max(speeds)
        for gpu, speed in zip(gpus, speeds, strict=True):
            if len(gpus) > 1 and fastest and speed < fastest * least / 100:
                slow.append(
                    f"GPU {gpu.get('index')} did {speed / fastest:.0%} of what the fastest {model} did"
                )
    if any(len(gpus) > 1 for gpus in by_model.values()):
        text = _listed(slow) or f"GPUs of one model differ by less than {100 - least:g} % in speed"
        found.append(_check("relative_speed", not slow, text))
    return found


def _watched(
    watch: Mapping[str, Any] | None,
    problem: str | None,
    hardware: Mapping[str, Any] | None,
    at_least: float,
    limits: Mapping[str, Any],
) -> list[Check]:
    """What the GPUs did meanwhile."""
    if watch is None:
        return [_check("watch", False, f"nobody watched the GPUs: {problem or 'no watch was begun'}")]
    found = []
    gpus = list(watch.get("gpus") or [])
    looks, seconds = int(watch.get("samples") or 0), float(watch.get("seconds") or 0)
    gap = float(watch.get("longest_gap_seconds") or 0)
    gap_allowed = max(GAP_SECONDS, GAP_TURNS * float(watch.get("interval_seconds") or 1))
    text = f"the GPUs were watched for {seconds:.0f} s with {_plural(looks, 'look')}"
    if problem:
        text, ok = f"{text}, and then {problem}", False
    elif not looks:
        text, ok = f"NVML did not answer while the GPUs were to be watched: {watch.get('error')}", False
    elif watch.get("failures"):
        text, ok = (
            f"{text}; {_plural(watch['failures'], 'time')} NVML did not answer: {watch.get('error')}",
            False,
        )
    elif gap > gap_allowed:
        text, ok = f"{text}, but for {gap:.0f} s nobody looked", False
    elif seconds + WATCH_SLACK_SECONDS < at_least:
        text, ok = f"{text}, and the burn-in took {at_least:.0f} s", False
    else:
        ok = True
    found.append(_check("watch", ok, text))
    if not looks:
        return found

    present = len(_on_bus(hardware))
    lost = [f"{_gpu_name(gpu)}: {gpu['lost']}" for gpu in gpus if gpu.get("lost")]
    if present > len(gpus):
        lost.append(f"the driver lists {len(gpus)} of the {present} GPUs on the bus")
    if not gpus:
        return [*found, _check("lost", False, _listed(lost) or "the driver lists no GPU")]
    found.append(_check("lost", not lost, _listed(lost) or "every GPU answered to the end"))
    # One that was lost from the beginning has told nothing, and that is said above.
    gpus = [gpu for gpu in gpus if gpu.get("samples") or not gpu.get("lost")]
    if gpus:
        found += _temperature(gpus, float(limits["max_temperature_celsius"]))
        found += _throttling(gpus, list(limits["refused_throttle_reasons"]))
        found += _memory_errors(gpus)
    xids = watch.get("xids")
    if xids is None:
        found.append(
            _check(
                "xid",
                False,
                "the kernel's log cannot be read, so that nobody knows whether the driver wrote errors",
            )
        )
    elif xids:
        number = int(watch.get("xid_count") or len(xids))
        quoted = _listed(str(each.get("line") or f"Xid {each.get('xid')}") for each in xids[:EVIDENCE_LINES])
        found.append(_check("xid", False, f"the driver wrote {_plural(number, 'Xid error')}: {quoted}"))
    else:
        found.append(_check("xid", True, "no Xid error came up"))
    return found


def _temperature(gpus: Sequence[Mapping[str, Any]], most: float) -> list[Check]:
    hottest = [(gpu, _dig(gpu, "temperature_c", "max")) for gpu in gpus]
    hot = [
        f"{_gpu_name(gpu)} came to {heat:g} °C" for gpu, heat in hottest if heat is not None and heat > most
    ]
    known = [heat for _gpu, heat in hottest if heat is not None]
    if hot:
        return [_check("temperature", False, f"{_listed(hot)}; {most:g} °C are allowed")]
    if len(known) < len(gpus):
        return [
            _check(
                "temperature",
                None,
                f"{len(gpus) - len(known)} of {len(gpus)} GPUs do not tell their temperature",
            )
        ]
    return [
        _check("temperature", True, f"no GPU became hotter than {max(known):g} °C; {most:g} °C are allowed")
    ]


def _throttling(gpus: Sequence[Mapping[str, Any]], refused: Sequence[str]) -> list[Check]:
    bad: list[str] = []
    other: list[str] = []
    for gpu in gpus:
        for reason, seconds in (gpu.get("throttled") or {}).items():
            words = f"{_gpu_name(gpu)} was slowed down for {seconds:g} s ({reason})"
            (bad if reason in refused else other).append(words)
    silent = sum(1 for gpu in gpus if gpu.get("throttled") is None)
    if bad:
        return [_check("throttling", False, _listed(bad))]
    if silent:
        return [
            _check(
                "throttling", None, f"{silent} of {len(gpus)} GPUs do not tell why their clocks are lowered"
            )
        ]
    if other:
        return [_check("throttling", True, f"no slow-down that is refused; {_listed(other)}")]
    return [_check("throttling", True, "no GPU was slowed down by its hardware")]


def _memory_errors(gpus: Sequence[Mapping[str, Any]]) -> list[Check]:
    found = []
    bad, corrected, silent = [], [], 0
    for gpu in gpus:
        number = gpu.get("ecc_uncorrected")
        if number is None:
            silent += 1
        elif number:
            came = _dig(gpu, "ecc_new", "uncorrected")
            words = f"{_gpu_name(gpu)} has {_plural(number, 'uncorrected memory error')}"
            words += " since the driver was loaded" + (f", {came} of them during the burn-in" if came else "")
            bad.append(words)
        if gpu.get("ecc_corrected"):
            corrected.append(f"{_gpu_name(gpu)}: {_plural(gpu['ecc_corrected'], 'corrected error')}")
    if bad:
        found.append(_check("ecc", False, _listed(bad)))
    elif silent:
        found.append(_check("ecc", None, f"{silent} of {len(gpus)} GPUs do not count memory errors (no ECC)"))
    else:
        found.append(_check("ecc", True, "no uncorrected memory error"))
    if corrected:
        found.append(_check("ecc_corrected", None, _listed(corrected)))
    rows, known, old = [], 0, []
    for gpu in gpus:
        remapped = gpu.get("remapped_rows")
        if remapped is None:
            continue
        known += 1
        name = _gpu_name(gpu)
        if remapped.get("failed"):
            rows.append(f"{name} has a row of memory that could not be replaced: it is to go back")
        if remapped.get("pending"):
            rows.append(f"{name} has a row of memory that waits for a reset to be replaced")
        if remapped.get("new"):
            rows.append(f"{name} replaced {_plural(remapped['new'], 'row')} of memory during the burn-in")
        elif remapped.get("uncorrected"):
            old.append(f"{name} had replaced {_plural(remapped['uncorrected'], 'row')} of memory before")
    if rows:
        found.append(_check("remapped_rows", False, _listed(rows)))
    elif known:
        text = "no row of memory had to be replaced"
        found.append(_check("remapped_rows", None if old else True, _listed(old) or text))
    return found


# --- the record ---------------------------------------------------------------------------------------------


def software_of(
    gpu_stack: Mapping[str, Any] | None, verifications: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What runs on it."""
    loaded = _dig(gpu_stack, "driver", "loaded") or {}
    images: dict[str, dict[str, Any]] = {}
    environments: dict[str, dict[str, Any]] = {}
    for verification in verifications:
        framework = verification.get("framework") or {}
        if verification.get("image"):
            images[str(verification["image"])] = {
                "ref": verification["image"],
                "id": verification.get("image_id"),
                "digest": verification.get("digest"),
            }
        elif verification.get("python"):
            environments[str(verification["python"])] = {
                "python": verification["python"],
                "framework": framework.get("name"),
                "version": framework.get("version"),
            }
    return {
        "os": _dig(gpu_stack, "host", "os", "pretty_name"),
        "kernel": _dig(gpu_stack, "host", "kernel", "running"),
        "driver": {"version": loaded.get("version"), "flavour": loaded.get("flavour")},
        "docker": _dig(gpu_stack, "container_runtime", "docker", "version"),
        "toolkit": _dig(gpu_stack, "container_runtime", "toolkit", "version"),
        "images": list(images.values()),
        "environments": list(environments.values()),
    }


def canonical(record: Mapping[str, Any]) -> bytes:
    """The record as the digest sees it: without the digest, keys in order, no blanks."""
    told = {key: value for key, value in record.items() if key != "digest"}
    return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def digest(record: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(canonical(record)).hexdigest()


def is_genuine(record: Mapping[str, Any]) -> bool:
    """Whether the record is as it was written. It is no signature: who changes both is not found."""
    return record.get("digest") == digest(record)


def judge(
    *,
    host: str,
    address: str | None,
    simulated: bool,
    limits: Mapping[str, Any] | None = None,
    hardware: Mapping[str, Any] | None,
    host_key: Mapping[str, Any] | None,
    gpu_stack: Mapping[str, Any] | None,
    verifications: Sequence[Mapping[str, Any]],
    stress: Mapping[str, Any] | None,
    watch: Mapping[str, Any] | None,
    watch_problem: str | None,
    failure: Mapping[str, Any] | None,
    diagnosis: Mapping[str, Any] | None,
    started: str,
    finished: str,
    seconds: float,
    signed_by: str,
    timings: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The record.

    :param stress: the verification of level stress, where one was asked for.
    :param failure: ``{stage, message}`` of what ended it before, if anything did.
    """
    limits = {**LIMITS, **(limits or {})}
    verifications = [dict(each) for each in verifications]
    rounds = rounds_of(verifications)
    under_load = stress_of(stress, float(limits["stress_minutes"]))
    checks = _earlier(failure)
    checks += _as_ordered(hardware, limits["expect"])
    # A node that failed on its way was neither verified nor watched; that is no news of its own.
    came_to_it = bool(rounds or watch or not failure)
    if came_to_it:
        burnt = sum(
            float(each.get("seconds") or 0) for each in [*verifications, *([stress] if stress else [])]
        )
        checks += _rounds(rounds, limits)
        checks += _stress(under_load, hardware, limits)
        checks += _watched(watch, watch_problem, hardware, burnt, limits)
    checks += _links(hardware, int(limits["min_pcie_width"]))
    bad = [check["text"] for check in checks if check["ok"] is False]
    verdict = REJECTED if bad else ACCEPTED
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "host": host,
        "address": address,
        "simulated": simulated,
        "verdict": verdict,
        "because": bad or [check["text"] for check in checks],
        "started": started,
        "finished": finished,
        "seconds": round(seconds, 1),
        "signed_by": signed_by,
        "host_key": {
            "fingerprints": list(_dig(host_key, "fingerprints") or []),
            "trust": _dig(host_key, "trust"),
        },
        "hardware": dict(hardware) if hardware is not None else None,
        "software": software_of(gpu_stack, [*verifications, *([stress] if stress else [])]),
        "limits": limits,
        "checks": checks,
        "rounds": rounds,
        "stress": under_load,
        "watch": dict(watch) if watch is not None else None,
        "timings": [dict(each) for each in timings],
        "diagnosis": dict(diagnosis) if diagnosis and verdict == REJECTED else None,
    }
    record = redact(record)
    return {**record, "digest": digest(record)}


# --- for people ---------------------------------------------------------------------------------------------

_MARKS = {True: "+", False: "x", None: "-"}


def text(record: Mapping[str, Any]) -> str:
    """The record as people read and print it."""
    where = f" ({record['address']})" if record.get("address") and record["address"] != record["host"] else ""
    lines = [f"ACCEPTANCE RECORD  {record['host']}{where}", ""]
    lines.append(f"{record['verdict'].upper()}, {record['finished']}, signed by {record['signed_by']}")
    if record.get("simulated"):
        lines.append("The inventory calls this node's GPUs SIMULATED: nothing here is about real hardware.")
    lines.append("")
    lines += [f"  {_MARKS[check['ok']]} {check['text']}" for check in record.get("checks") or []]
    for title, body in (
        ("Hardware", _hardware_text(record.get("hardware") or {})),
        ("Software", _software_text(record.get("software") or {})),
        ("Burn-in", _burn_in_text(record)),
        ("Watched", _watch_text(record.get("watch"))),
        ("Diagnosis", diagnosis_text(record.get("diagnosis"))),
        (
            "Timings",
            [f"{each.get('stage')}: {_seconds(each.get('seconds'))}" for each in record.get("timings") or []],
        ),
    ):
        if body:
            lines += ["", title, *(f"  {line}" for line in body)]
    trust = _dig(record, "host_key", "trust")
    keys = _dig(record, "host_key", "fingerprints") or []
    told = {
        "pinned": "was known before the first login",
        "known": "was known to this controller",
        "accepted_unseen": "was ACCEPTED UNSEEN",
    }.get(str(trust), "is not told how it was trusted")
    lines += [
        "",
        f"SSH host key {told}" + (f": {_listed(keys)}" if keys else ""),
        f"Digest {record['digest']}",
    ]
    return "\n".join(lines) + "\n"


def _seconds(value: Any) -> str:
    if value is None:
        return "? s"
    number = float(value)
    return f"{number:.1f} s" if number < 60 else f"{int(number) // 60} min {int(number) % 60} s"


def _or(*values: Any) -> str:
    return " ".join(str(value) for value in values if value not in (None, "")) or "not told"


def _hardware_text(hardware: Mapping[str, Any]) -> list[str]:
    if not hardware:
        return []
    cpu = hardware.get("cpu") or {}
    bios = hardware.get("bios") or {}
    lines = [
        _or(hardware.get("vendor"), hardware.get("product"))
        + f", serial number {_or(hardware.get('serial'))}",
        f"firmware {_or(bios.get('version'), bios.get('date'))}; "
        f"{cpu.get('sockets') or '?'} x {_or(cpu.get('model'))}, {cpu.get('cores') or '?'} cores; "
        f"{hardware.get('memory_mib') or '?'} MiB of memory",
    ]
    for gpu in hardware.get("gpus") or []:
        link = gpu.get("pcie") or {}
        lines.append(
            f"{_gpu_name(gpu)}  {_or(gpu.get('name'))}  {gpu.get('pci')}  "
            f"serial number {_or(gpu.get('serial'))}, part {_or(gpu.get('part_number'))}, "
            f"VBIOS {_or(gpu.get('vbios'))}, "
            f"PCI Express {link.get('max_generation') or '?'} x{link.get('width') or '?'}"
            + (f": {gpu['error']}" if gpu.get("error") else "")
        )
    for nic in hardware.get("nics") or []:
        speed = f"{nic['speed_mbps']} Mbit/s" if nic.get("speed_mbps") else "no link"
        lines.append(f"{nic.get('name')}  {_or(nic.get('mac'))}  {speed}")
    for disk in hardware.get("disks") or []:
        lines.append(
            f"{disk.get('name')}  {_or(disk.get('model'))}, serial number {_or(disk.get('serial'))}, "
            f"{disk.get('size_mib')} MiB"
        )
    return lines


def _software_text(software: Mapping[str, Any]) -> list[str]:
    driver = software.get("driver") or {}
    lines = [
        f"{_or(software.get('os'))}, kernel {_or(software.get('kernel'))}",
        f"driver {_or(driver.get('version'), driver.get('flavour'))}, Docker {_or(software.get('docker'))}, "
        f"container toolkit {_or(software.get('toolkit'))}",
    ]
    lines += [
        f"{image['ref']}  {_or(image.get('digest') or image.get('id'))}"
        for image in software.get("images") or []
    ]
    for environment in software.get("environments") or []:
        lines.append(
            f"{environment['python']}  {_or(environment.get('framework'), environment.get('version'))}"
        )
    return lines


def _burn_in_text(record: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{each['workload']}, round {each['round']}: {'good' if each['ok'] else 'BAD'}, {each['level']}, "
        f"{each['gpus_listed']} of {'?' if each['gpus_expected'] is None else each['gpus_expected']} GPUs, "
        f"{_seconds(each['seconds'])}"
        for each in record.get("rounds") or []
    ]
    stress = record.get("stress")
    if stress:
        lines.append(
            f"stress, {stress['minutes']:g} min: {'good' if stress['ok'] else 'BAD: ' + str(stress['error'])}"
        )
        for gpu in stress.get("gpus") or []:
            lines.append(
                f"  GPU {gpu.get('index')}: {gpu.get('iterations_per_second') or 0:g} products "
                f"of {gpu.get('size')} x {gpu.get('size')} a second ({gpu.get('tflops') or 0:g} TFLOP/s), "
                f"{_plural(int(gpu.get('wrong') or 0), 'wrong number')}"
            )
    return lines


def _watch_text(watch: Mapping[str, Any] | None) -> list[str]:
    if not watch:
        return []
    lines = [f"{watch.get('samples')} looks in {_seconds(watch.get('seconds'))}"]
    for gpu in watch.get("gpus") or []:
        parts = []
        for key, unit in (("temperature_c", "°C"), ("power_watts", "W"), ("utilization_percent", "% busy")):
            values = gpu.get(key)
            parts.append(f"{values['max']:g} {unit} (mean {values['mean']:g})" if values else f"? {unit}")
        ecc = gpu.get("ecc_uncorrected")
        parts.append("no ECC" if ecc is None else f"{_plural(ecc, 'uncorrected error')}")
        if gpu.get("lost"):
            parts.append(f"LOST: {gpu['lost']}")
        lines.append(f"GPU {gpu.get('index')}: {_listed(parts)}")
    lines += [str(each.get("line")) for each in watch.get("xids") or []]
    return lines


def diagnosis_text(diagnosis: Mapping[str, Any] | None) -> list[str]:
    lines = []
    for cause in (diagnosis or {}).get("causes") or []:
        if cause.get("standing") not in (None, "root"):
            continue
        lines.append(f"{cause.get('layer')}: {cause.get('title')} ({cause.get('cause')})")
        lines += [f"  because {line}" for line in (cause.get("evidence") or [])[:EVIDENCE_LINES]]
        fixes = [cause["fix"]] if isinstance(cause.get("fix"), str) else cause.get("fix") or []
        lines += [f"  fix: {line}" for line in fixes]
    if diagnosis and not lines:
        lines.append("no known cause; what is above is all that is known")
    return lines
