"""What the tests need on the controller beside Python: a browser, and Prometheus with its promtool.

Chromium comes from the machine's own packages. Prometheus' package would start and enable a server: where the
machine does not have it already, only its programs are taken out and linked into the environment's `bin`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from . import machine, settings
from .errors import LabError
from .shell import output, run

#: command → package; Ubuntu's chromium is a snap, which no test can start as root.
BROWSER = {"debian": ("chromium", "chromium"), "ubuntu": ("chromium-browser", "chromium-browser")}
PROMETHEUS = ("prometheus", "promtool")


def root() -> Path:
    """Where programs lie that are not installed."""
    return settings.home() / "tools"


def ensure(host: machine.Machine) -> list[str]:
    """A line for each tool: where it is."""
    command, package = BROWSER[host.distribution]
    if shutil.which(command) is None:
        machine.install([package])
    lines = [f"{command}: {shutil.which(command)}"]
    missing = [name for name in PROMETHEUS if shutil.which(name) is None]
    if missing:
        unpack("prometheus", root() / "prometheus")
        for name in missing:
            link = settings.REPO / ".venv" / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(root() / "prometheus" / "usr" / "bin" / name)
            lines.append(f"{name}: {link}")
    return lines + [f"{name}: {shutil.which(name)}" for name in PROMETHEUS if name not in missing]


def unpack(package: str, target: Path) -> None:
    """The files of a package of the machine's archive, without installing it."""
    if target.exists():
        return
    folder = target.with_name(f"{target.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    download = ["apt-get", "--quiet", "download", package]
    try:
        run(download, what=f"fetching {package} with apt", cwd=folder)
    except LabError:
        run(["apt-get", "--quiet", "update"], what="apt-get update")
        run(download, what=f"fetching {package} with apt", cwd=folder)
    (deb,) = folder.glob(f"{package}_*.deb")
    run(["dpkg-deb", "--extract", deb, folder])
    deb.unlink()
    version = output([str(folder / "usr" / "bin" / "promtool"), "--version"], what="asking promtool")
    if "promtool" not in version:
        raise LabError(f"the promtool in {package} does not answer: {version}")
    folder.rename(target)
