"""Writes binary packages. Everything in them is simulated, and their description says so."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = 1735689600  # every file in a package carries this time, so that builds are repeatable
MAINTAINER = "gpuready lab (SIMULATED) <lab@gpuready.invalid>"


@dataclass
class Deb:
    """A binary package. Everything in it is simulated, and its description says so."""

    name: str
    version: str
    summary: str
    architecture: str = "amd64"
    section: str = "restricted/misc"
    fields: dict[str, str] = field(default_factory=dict)  # Depends, Conflicts, …
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # absolute path: (content, mode)
    links: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)  # postinst, prerm, …
    conffiles: list[str] = field(default_factory=list)

    def add(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        self.files[path] = (content.encode() if isinstance(content, str) else content, mode)

    def write(self, directory: Path) -> Path:
        doc = f"/usr/share/doc/{self.name}/README.simulated"
        self.add(doc, f"{self.name} {self.version}: SIMULATED by gpuready's lab. No NVIDIA code in it.\n")
        control = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": MAINTAINER,
            "Installed-Size": str(sum(len(content) for content, _ in self.files.values()) // 1024 + 1),
            **self.fields,
            "Section": self.section,
            "Priority": "optional",
            "Description": f"{self.summary} (SIMULATED)\n"
            " A stand-in for gpuready's lab, with the name, dependencies and files of the real\n"
            " package. It drives no hardware and contains no NVIDIA software.",
        }
        md5sums = "".join(
            f"{hashlib.md5(content).hexdigest()}  {path[1:]}\n"
            for path, (content, _) in sorted(self.files.items())
        )
        members = {
            "control": "".join(f"{key}: {value}\n" for key, value in control.items() if value),
            "md5sums": md5sums,
        }
        if self.conffiles:
            members["conffiles"] = "".join(path + "\n" for path in self.conffiles)
        members.update({name: text for name, text in self.scripts.items() if name == "triggers"})
        parts = {f"/{name}": (text.encode(), 0o644) for name, text in members.items()}
        parts |= {
            f"/{name}": (text.encode(), 0o755) for name, text in self.scripts.items() if name != "triggers"
        }
        control_tar = _tar(parts, {})
        data_tar = _tar(self.files, self.links)
        target = directory / f"{self.name}_{self.version}_{self.architecture}.deb"
        with target.open("wb") as out:
            out.write(b"!<arch>\n")
            for name, data in (
                ("debian-binary", b"2.0\n"),
                ("control.tar.gz", control_tar),
                ("data.tar.gz", data_tar),
            ):
                out.write(
                    b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), EPOCH, 0, 0, b"100644", len(data))
                )
                out.write(data + b"\n" * (len(data) % 2))
        return target


def _tar(files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        seen = {"."}

        def entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, EPOCH
            info.uname = info.gname = "root"
            return info

        tar.addfile(entry("./", tarfile.DIRTYPE, 0o755))
        for path in sorted(set(files) | set(links)):
            name = "." + path
            parent = os.path.dirname(name)
            for part in [parent[: match.start()] for match in re.finditer("/", parent + "/")]:
                if part not in seen:
                    seen.add(part)
                    tar.addfile(entry(part, tarfile.DIRTYPE, 0o755))
            if path in links:
                info = entry(name, tarfile.SYMTYPE, 0o777)
                info.linkname = links[path]
                tar.addfile(info)
            else:
                content, mode = files[path]
                info = entry(name, tarfile.REGTYPE, mode)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)
