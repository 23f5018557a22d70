# Apache-2.0 (see LICENSE)
"""The plan for people: plain text for a terminal of 80 columns and more."""

from __future__ import annotations

import textwrap
from typing import Any, Dict, List, Mapping, Sequence

WIDTH = 100
LAYER_TITLES = {
    "host": "Host",
    "container_runtime": "Container runtime",
    "framework": "Framework",
    "application": "Application",
}
STATUS_WORDS = {"converged": "nothing to do", "changes": "changes", "conflict": "CONFLICT"}


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> List[str]:
    return textwrap.wrap(
        " ".join(str(text).split()),
        width=width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def _gpus(plan: Mapping[str, Any]) -> str:
    counts: Dict[str, int] = {}
    for gpu in plan.get("gpus") or []:
        name = gpu.get("name") or "unknown GPU 10de:%s" % gpu.get("device_id")
        arch = gpu.get("arch")
        label = "%s (%s)" % (name, arch) if arch else name
        counts[label] = counts.get(label, 0) + 1
    words = ["%d x %s" % (count, label) if count > 1 else label for label, count in counts.items()]
    return ", ".join(words) or "no NVIDIA GPU"


def _head(plan: Mapping[str, Any], width: int) -> List[str]:
    status = STATUS_WORDS[plan["status"]]
    if plan["status"] == "changes":
        count = len(plan["actions"])
        status = "%d change%s" % (count, "" if count == 1 else "s") if count else "waits for a reboot"
    title = "%s: %s%s" % (plan["host"], status, " (simulated node)" if plan.get("simulated") else "")
    lines = [title, "=" * min(len(title), width)]
    system = plan.get("os") or {}
    parts = [system.get("pretty_name"), "kernel %s" % system["kernel"] if system.get("kernel") else None]
    if system.get("secure_boot"):
        parts.append("Secure Boot on")
    parts.append(_gpus(plan))
    lines += _wrap(" | ".join(part for part in parts if part), width, "  ", "  ")
    workloads = [row["name"] for row in plan.get("workloads") or []]
    workloads += ["%s (no image: the driver only)" % name for name in plan.get("driver_only") or []]
    if workloads:
        lines += _wrap("for %s" % ", ".join(workloads), width, "  ", "  ")
    return lines


CHANGE_WORDS = {
    "install": "to be installed",
    "complete": "to be completed",
    "upgrade": "upgrade from %s",
    "downgrade": "DOWNGRADE from %s",
    "switch": "switch from %s",
}


def _driver_words(plan: Mapping[str, Any], driver: Mapping[str, Any]) -> str:
    """The driver in one line: what, how, from where, for which kernel, and what that is to the one there."""
    words = [
        driver["version"] or "branch %s" % driver["branch"],
        "%s modules" % driver["flavour"],
        driver["install"],
        "from %s" % driver["source"],
    ]
    kernel = driver.get("kernel")
    if kernel and kernel != (plan.get("os") or {}).get("kernel", kernel):
        words.append("for kernel %s, which the node boots next" % kernel)
    if driver["keeps_installed"]:
        state = "kept"
    else:
        state = CHANGE_WORDS.get(driver.get("change") or "", "chosen")
        if "%s" in state:
            previous = driver.get("previous")
            state %= (
                "%s %s of %s" % (previous["version"], previous["flavour"], previous["source"])
                if previous
                else "what is installed"
            )
    return "%s (%s)" % (", ".join(words), state)


def _driver(plan: Mapping[str, Any], width: int) -> List[str]:
    driver = plan.get("driver")
    if not driver:
        return []
    lines = ["", *_labelled("Driver", _driver_words(plan, driver), width)]
    rows = driver["because"]
    broad = max((len(row["requirement"]) for row in rows), default=0)
    for row in rows:
        mark = "   \N{LEFTWARDS ARROW} this bound" if row["bound"] else ""
        first = "  %-*s  " % (broad, row["requirement"])
        wrapped = _wrap("%s: %s%s" % (row["subject"], row["text"], mark), width, first, " " * len(first))
        lines += wrapped
    return lines


def _actions(plan: Mapping[str, Any], width: int) -> List[str]:
    lines: List[str] = []
    for layer, title in LAYER_TITLES.items():
        chosen = [action for action in plan["actions"] if action["layer"] == layer]
        if not chosen:
            continue
        lines += ["", title]
        for action in chosen:
            first = "  %-21s " % action["id"]
            lines += _wrap(action["summary"], width, first, " " * len(first))
            lines += _wrap("because %s" % action["reason"], width, " " * 26, " " * 26)
            for line in action["evidence"]:
                lines += _wrap("- %s" % line, width, " " * 26, " " * 28)
    return lines


def _effects(plan: Mapping[str, Any], width: int) -> List[str]:
    if plan["status"] == "converged":
        return []
    lines = [""]
    restarts = list(dict.fromkeys(name for action in plan["actions"] for name in action["restarts"]))
    lines += _labelled("Restarts", ", ".join(restarts) or "nothing", width)
    reboot = plan["reboot"]
    if not reboot["needed"]:
        reloads = any(action["id"] == "driver.reload" for action in plan["actions"])
        text = "not needed: the driver's modules are loaded anew" if reloads else "not needed"
    elif reboot["allowed"]:
        text = "yes, because %s" % reboot["reason"]
    else:
        text = "needed, because %s, but host_reboot_allowed is false" % reboot["reason"]
    return lines + _labelled("Reboot", text, width)


def _labelled(label: str, text: str, width: int) -> List[str]:
    return _wrap(text, width, "%-9s " % (label + ":"), " " * 10)


def _conflicts(plan: Mapping[str, Any], width: int) -> List[str]:
    lines: List[str] = []
    for row in plan["conflicts"]:
        lines += [""]
        lines += _wrap("%s (%s)" % (row["what"], row["id"]), width, "! ", "  ")
        for text in row["because"]:
            lines += _wrap("because %s" % text, width, "    ", "            ")
        for text in row["options"]:
            lines += _wrap("-> %s" % text, width, "    ", "       ")
    return lines


def _runtime(plan: Mapping[str, Any], width: int) -> List[str]:
    runtime = plan.get("container_runtime")
    if not runtime:
        return []
    launch, cdi = runtime["launch"], runtime["toolkit"]["cdi"]
    lines = [""]
    lines += _labelled("Launch", "%s (%s)" % (launch["way"], launch["reason"]), width)
    lines += _labelled("CDI", "%s (%s)" % ("on" if cdi["enabled"] else "off", cdi["reason"]), width)
    return lines


def _recipe(row: Mapping[str, Any]) -> str:
    base = row.get("base") or {}
    words = ["%s, on %s" % (row["image"], base.get("workload") or base.get("image"))]
    if row.get("workload") and row["workload"] != base.get("workload"):
        words.append("with %s" % row["workload"])
    words += ["with %s" % what for what, key in (("JupyterLab", "jupyter"), ("SSH", "ssh")) if row.get(key)]
    if row.get("pull"):
        words.append("fetched as %s" % row["pull"])
    elif row.get("push"):
        words.append("shared as %s" % row["push"])
    return "%s = %s" % (row["name"], ", ".join(words))


def _venv(row: Mapping[str, Any]) -> str:
    return "%s = %s in %s (%s, %s)" % (
        row["name"],
        row["workload"],
        row["path"],
        row["python"],
        row["index_url"],
    )


def _place(address: str, port: Any) -> str:
    return "[%s]:%s" % (address, port) if ":" in address else "%s:%s" % (address, port)


def _bench(row: Mapping[str, Any], address: str) -> str:
    words = [row["image"]]
    for what, key in (("Jupyter", "jupyter_port"), ("SSH", "ssh_port")):
        if row.get(key):
            words.append("%s at %s" % (what, _place(address, row[key])))
    gpus = row.get("gpus", "all")
    words.append("all GPUs" if gpus == "all" else "GPU %s" % ", ".join(map(str, gpus)) if gpus else "no GPU")
    return "%s = %s" % (row["name"], ", ".join(words))


def _above_the_driver(plan: Mapping[str, Any], width: int) -> List[str]:
    """What stands on the node's GPUs: derived images, environments, workbenches, monitoring."""
    workbench, health = plan.get("workbench") or {}, plan.get("health") or {}
    address = workbench.get("bind_address") or "127.0.0.1"
    groups = (
        ("Images", [_recipe(row) for row in plan.get("recipes") or []]),
        ("Python", [_venv(row) for row in plan.get("venvs") or []]),
        ("Benches", [_bench(row, address) for row in workbench.get("users") or []]),
        ("Health", [health["summary"]] if health.get("summary") else []),
    )
    lines: List[str] = []
    for label, rows in groups:
        for number, text in enumerate(rows):
            lines += _labelled(label, text, width) if not number else _wrap(text, width, " " * 10, " " * 12)
    return lines


def render(plan: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """The whole plan of one node as text."""
    lines = _head(plan, width)
    lines += _conflicts(plan, width)
    lines += _driver(plan, width)
    lines += _runtime(plan, width)
    lines += _above_the_driver(plan, width)
    if not plan["conflicts"]:
        lines += _actions(plan, width)
        lines += _effects(plan, width)
    elif plan["actions"]:
        waiting = ", ".join(action["id"] for action in plan["actions"])
        lines += ["", *_wrap("Nothing is changed while there is a conflict; then: %s" % waiting, width)]
    if plan["notes"]:
        lines += ["", "Notes"]
        for note in plan["notes"]:
            lines += _wrap(note, width, "  - ", "    ")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def render_driver(answer: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """The answer of `gpuready resolve`."""
    lines = ["%s on %s" % (_gpus(answer), answer["os_name"])]
    lines += _wrap("for %s" % (", ".join(answer["workloads"]) or "no workload"), width)
    lines += _conflicts(answer, width)
    lines += _driver(answer, width)
    for note in answer["notes"]:
        lines += _wrap(note, width, "  - ", "    ")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def one_line(texts: Sequence[str]) -> str:
    """Several sentences as one line."""
    return "; ".join(" ".join(text.split()) for text in texts)
