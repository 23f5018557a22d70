# Apache-2.0 (see LICENSE)
"""The live table: GPUs of many nodes and who computes on them, as nvidia-smi shows one node. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COLOURS = {"dim": "2", "bold": "1", "green": "32", "yellow": "33", "red": "31", "cyan": "36"}
BAR = 10
FULL, EMPTY = "█", "░"
ASCII_FULL, ASCII_EMPTY = "#", "."
#: From these on, a person should look.
HOT_CELSIUS = 85
CROWDED = 0.95
#: A GPU that was seen below this share of its time is not in use.
BUSY_PERCENT = 1
COLUMNS = ("NODE", "GPU", "NAME", "USE", "MEMORY", "TEMP", "POWER", "CLOCK", "STATE")
NARROW = 100
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Paint:
    """Colours and bars, as far as the terminal has them."""

    def __init__(self, colour: bool = False, unicode: bool = True) -> None:
        self.colour = colour
        self.full, self.empty = (FULL, EMPTY) if unicode else (ASCII_FULL, ASCII_EMPTY)
        self.branch = "└" if unicode else "`-"
        self.degree = "°C" if unicode else "C"

    def __call__(self, text: str, *names: str) -> str:
        codes = ";".join(COLOURS[name] for name in names if name)
        return f"\x1b[{codes}m{text}\x1b[0m" if self.colour and codes else text

    def bar(self, share: float) -> str:
        filled = max(0, min(BAR, round(share * BAR)))
        # Something is not nothing, and not quite full is not full.
        if share > 0 and filled == 0:
            filled = 1
        if share < 1 and filled == BAR:
            filled = BAR - 1
        return self.full * filled + self.empty * (BAR - filled)


def plain(text: object) -> str:
    """A name from a node, without what would steer the terminal."""
    return _CONTROL.sub("?", str(text))


def width_of(text: str) -> int:
    return len(_ESCAPE.sub("", text))


def _pad(text: str, width: int, right: bool = False) -> str:
    gap = " " * max(0, width - width_of(text))
    return gap + text if right else text + gap


def _value(spread: Any) -> float | None:
    """One look has numbers, many have mean and max."""
    return spread.get("mean") if isinstance(spread, Mapping) else spread


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f}"


def short_name(name: str | None) -> str:
    return re.sub(r"^(?:NVIDIA|Quadro)\s+(?=\S)", "", plain(name or "?"))


def _state(gpu: Mapping[str, Any], processes: Sequence[Mapping[str, Any]], silent: bool, paint: Paint) -> str:
    if gpu.get("error"):
        return paint(plain(gpu["error"]), "red", "bold")
    notes = []
    computing = [row for row in processes if "C" in str(row.get("type") or "").split("+")]
    use = _value(gpu.get("utilization")) if gpu.get("utilization") else gpu.get("utilization_percent")
    if use is not None and use >= BUSY_PERCENT:
        notes.append(paint("computing", "green"))
    elif computing:
        notes.append(paint("held, idle", "yellow"))
    elif silent:
        notes.append(paint("its processes are not told", "dim"))
    else:
        notes.append(paint("free", "dim"))
    slowed = sorted(
        name for name, on in (gpu.get("throttled") or {}).items() if on and name != "sw_power_cap"
    )
    if slowed:
        notes.append(paint("slowed: " + ", ".join(slowed), "red"))
    elif (gpu.get("throttled") or {}).get("sw_power_cap"):
        notes.append(paint("at its power limit", "yellow"))
    if (gpu.get("ecc") or {}).get("uncorrected"):
        notes.append(paint(f"{gpu['ecc']['uncorrected']} uncorrected ECC errors", "red", "bold"))
    if (gpu.get("remapped_rows") or {}).get("failed"):
        notes.append(paint("row remapping failed", "red", "bold"))
    if gpu.get("mig_mode"):
        notes.append("MIG")
    return ", ".join(notes)


def _cells(
    gpu: Mapping[str, Any], processes: Sequence[Mapping[str, Any]], silent: bool, paint: Paint
) -> list[str]:
    use = _value(gpu.get("utilization")) if gpu.get("utilization") else gpu.get("utilization_percent")
    used, total = gpu.get("memory_used_mib"), gpu.get("memory_total_mib")
    heat, watts, limit = gpu.get("temperature_c"), gpu.get("power_watts"), gpu.get("power_limit_watts")
    memory = "-"
    if used is not None and total:
        memory = f"{_gib(used)}/{_gib(total)} GiB"
        if used / total >= CROWDED:
            memory = paint(memory, "yellow")
    busy = use is not None and use >= BUSY_PERCENT
    bar = "-" if use is None else f"{paint(paint.bar(use / 100), 'green' if busy else 'dim')} {use:3.0f} %"
    power = "-" if watts is None else f"{watts:.0f}/{limit:.0f} W" if limit else f"{watts:.0f} W"
    clock = gpu.get("clock_sm_mhz")
    degrees = "-" if heat is None else f"{heat} {paint.degree}"
    return [
        str(gpu.get("index")),
        short_name(gpu.get("name")),
        bar,
        memory,
        paint(degrees, "red") if heat is not None and heat >= HOT_CELSIUS else degrees,
        power,
        "-" if clock is None else f"{clock} MHz",
        _state(gpu, processes, silent, paint),
    ]


def _process(row: Mapping[str, Any], paint: Paint) -> str:
    """`└ 4711 C python3  38.9 GiB  GPU 91 %  CPU 103 %  container training, user root`"""
    words = [f"{row['pid']}", paint(str(row.get("type") or "?"), "cyan"), plain(row.get("name") or "(ended)")]
    parts = [" ".join(words)]
    memory, share, cpu = row.get("memory_mib"), _value(row.get("sm_percent")), _value(row.get("cpu_percent"))
    parts.append("memory ?" if memory is None else f"{memory} MiB")
    if share is not None:
        parts.append(f"GPU {share:.0f} %")
    if cpu is not None:
        parts.append(f"CPU {cpu:.0f} %")
    container = row.get("container") or {}
    if container:
        parts.append("container " + plain(container.get("name") or str(container.get("id") or "?")[:12]))
    if row.get("user"):
        parts.append(plain(row["user"]))
    return f"{paint.branch} " + "  ".join(parts)


def _summary(nodes: Mapping[str, Mapping[str, Any]]) -> str:
    gpus = [gpu for look in nodes.values() for gpu in look.get("gpus") or []]
    busy = held = 0
    for look in nodes.values():
        for gpu in look.get("gpus") or []:
            use = _value(gpu.get("utilization")) if gpu.get("utilization") else gpu.get("utilization_percent")
            if use is not None and use >= BUSY_PERCENT:
                busy += 1
            elif any(row.get("gpu") == gpu.get("index") for row in look.get("processes") or []):
                held += 1
    dark = sum(1 for look in nodes.values() if look.get("unreachable"))
    said = [
        f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}",
        f"{len(gpus)} GPU{'s' if len(gpus) != 1 else ''}",
        f"{busy} computing",
        f"{held} held but idle",
    ]
    return ", ".join(said + ([f"{dark} not reached"] if dark else []))


def table(
    nodes: Mapping[str, Mapping[str, Any]],
    *,
    colour: bool = False,
    unicode: bool = True,
    columns: int | None = None,
    lines: int | None = None,
    simulated: Sequence[str] = (),
) -> list[str]:
    """``nodes``: a look each (usage_sample), ``{unreachable: why}``, or ``{}`` for one not heard yet."""
    paint = Paint(colour, unicode)
    narrow = columns is not None and columns < NARROW
    rows: list[tuple[list[str], list[str]]] = []  # cells, lines below
    for name in nodes:
        look = nodes[name]
        title = plain(name) + (" (simulated)" if name in simulated or look.get("simulated") else "")
        if look.get("unreachable"):
            rows.append(([title, paint("not reached: " + plain(look["unreachable"]), "red")], []))
        elif look.get("error"):
            rows.append(([title, paint("NVML: " + plain(look["error"]), "red")], []))
        elif not look:
            rows.append(([title, paint("…" if unicode else "...", "dim")], []))
        elif not look.get("gpus"):
            rows.append(([title, paint("no GPU", "yellow")], []))
        for number, gpu in enumerate(
            [] if look.get("error") or look.get("unreachable") else look.get("gpus") or []
        ):
            index = gpu.get("index")
            mine = [row for row in look.get("processes") or [] if row.get("gpu") == index]
            mine.sort(key=lambda row: (-(row.get("memory_mib") or 0), row["pid"]))
            cells = _cells(gpu, mine, index in (look.get("silent_gpus") or []), paint)
            rows.append(([title if number == 0 else "", *cells], [_process(row, paint) for row in mine]))
    drop = {6, 7} if narrow else set()
    header = [name for at, name in enumerate(COLUMNS) if at not in drop]
    full = [
        [cell for at, cell in enumerate(cells) if at not in drop] if len(cells) == len(COLUMNS) else cells
        for cells, _below in rows
    ]
    widths = [
        max([len(title), *(width_of(cells[at]) for cells in full if len(cells) == len(header))])
        for at, title in enumerate(header)
    ]
    widths[0] = max([widths[0], *(width_of(cells[0]) for cells in full)])
    text = [
        _clip(
            "  ".join(_pad(paint(name, "bold"), width) for name, width in zip(header, widths, strict=True)),
            columns,
        )
    ]
    for cells, (_all, below) in zip(full, rows, strict=True):
        if len(cells) == len(header):
            line = "  ".join(
                _pad(cell, width, at == 1) for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
        else:
            line = _pad(cells[0], widths[0]) + "  " + "  ".join(cells[1:])
        text.append(_clip(line.rstrip(), columns))
        indent = " " * (widths[0] + 2)
        text += [_clip(indent + row, columns) for row in below]
    if lines is not None and len(text) + 2 > lines:
        hidden = len(text) - (lines - 3)
        text = [
            *text[: max(1, lines - 3)],
            paint(f"… {hidden} more lines: a higher window, or --once", "dim"),
        ]
    return [*text, "", _summary(nodes)]


def _clip(line: str, columns: int | None) -> str:
    """Cut to the terminal's width; colours take no room and are closed."""
    if columns is None or width_of(line) <= columns:
        return line
    kept, seen, at = [], 0, 0
    while at < len(line) and seen < columns:
        escape = _ESCAPE.match(line, at)
        if escape:
            kept.append(escape.group())
            at = escape.end()
            continue
        kept.append(line[at])
        seen += 1
        at += 1
    return "".join(kept) + ("\x1b[0m" if "\x1b" in line else "")
