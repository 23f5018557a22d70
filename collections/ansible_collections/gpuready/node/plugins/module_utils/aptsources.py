"""apt's sources: reading both formats, and telling which entries speak of the same repository.

Shared by `gpu_stack_info`, which reports them, and `apt_source`, which manages one.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

LIST_FILE = "/etc/apt/sources.list"
PARTS = "/etc/apt/sources.list.d"
# The names that apt reads in a parts directory (apt.conf(5)): others are left alone.
_PART_NAME = re.compile(r"^[A-Za-z0-9_.-]+\.(list|sources)$")
_ONE_LINE = re.compile(
    r"^(?P<type>deb|deb-src)(?:\s+\[(?P<options>[^\]]*)\])?\s+(?P<uri>cdrom:\[[^\]]*\]\S*|\S+)\s+(?P<rest>\S.*)$"
)
EMBEDDED = "embedded"


class Entry(NamedTuple):
    """One entry and the lines (from 0, the end excluded) that it covers in its file."""

    format: str
    enabled: bool
    types: List[str]
    uris: List[str]
    suites: List[str]
    components: List[str]
    architectures: List[str]
    signed_by: Optional[str]
    start: int
    end: int

    def facts(self, path: str) -> Dict[str, Any]:
        return {
            "file": path,
            "format": self.format,
            "enabled": self.enabled,
            "types": self.types,
            "uris": self.uris,
            "suites": self.suites,
            "components": self.components,
            "architectures": self.architectures,
            "signed_by": EMBEDDED if self.signed_by and "BEGIN PGP" in self.signed_by else self.signed_by,
        }


def is_part(name: str) -> bool:
    return bool(_PART_NAME.match(name))


def file_format(path: str) -> str:
    return "deb822" if path.endswith(".sources") else "one-line"


def parse(path: str, text: str) -> List[Entry]:
    """The entries of one file, in its order."""
    return parse_deb822(text) if file_format(path) == "deb822" else parse_one_line(text)


def _options(text: str) -> Dict[str, List[str]]:
    options: Dict[str, List[str]] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if equals:
            options[key.rstrip("+-").lower()] = [item for item in value.split(",") if item]
    return options


def parse_one_line(text: str) -> List[Entry]:
    """`deb [options] uri suite components`; a commented entry counts as disabled."""
    entries = []
    for number, line in enumerate(text.splitlines()):
        body = line.strip()
        enabled = True
        if body.startswith("#"):
            body, enabled = body.lstrip("#").strip(), False
        body = body.split("#", 1)[0].strip()
        match = _ONE_LINE.match(body)
        # A remark that happens to begin with "deb" is no entry: an entry's URI has a scheme.
        if not match or not re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:", match.group("uri")):
            continue
        options = _options(match.group("options") or "")
        rest = match.group("rest").split()
        signed_by = options.get("signed-by")
        entries.append(
            Entry(
                "one-line",
                enabled,
                [match.group("type")],
                [match.group("uri")],
                rest[:1],
                rest[1:],
                options.get("arch", []),
                ",".join(signed_by) if signed_by else None,
                number,
                number + 1,
            )
        )
    return entries


def stanzas(text: str) -> List[Tuple[int, int, Dict[str, str]]]:
    """deb822 paragraphs: first line, line after the last, lower-case field → value."""
    found: List[Tuple[int, int, Dict[str, str]]] = []
    fields: Dict[str, str] = {}
    start = end = 0
    key = None
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            if fields:
                found.append((start, end, fields))
            fields, key = {}, None
            continue
        if line.startswith("#"):
            continue
        if line[:1] in " \t":
            if key is not None:
                fields[key] += "\n" + line.strip()
                end = number + 1
            continue
        name, colon, value = line.partition(":")
        if not colon:
            continue
        if not fields:
            start = number
        key = name.strip().lower()
        fields[key] = value.strip()
        end = number + 1
    if fields:
        found.append((start, end, fields))
    return found


def parse_deb822(text: str) -> List[Entry]:
    entries = []
    for start, end, fields in stanzas(text):
        if "uris" not in fields:
            continue
        entries.append(
            Entry(
                "deb822",
                fields.get("enabled", "yes").strip().lower()
                not in ("no", "false", "without", "off", "disable", "0"),
                fields.get("types", "").split(),
                fields["uris"].split(),
                fields.get("suites", "").split(),
                fields.get("components", "").split(),
                fields.get("architectures", "").split(),
                fields.get("signed-by") or None,
                start,
                end,
            )
        )
    return entries


def normalise_uri(uri: str, arch: str) -> str:
    """One spelling per repository: apt compares Signed-By between sources of the same site and path.

    http and https of one host are the same archive to people, though not to apt; the caller wants both.
    """
    text = uri.strip().replace("$(ARCH)", arch).replace("$ARCH", arch)
    scheme, colon, rest = text.partition(":")
    if not colon:
        return text.rstrip("/")
    scheme = scheme.lower()
    scheme = scheme.split("+")[-1]  # tor+https, mirror+https
    if scheme in ("http", "https"):
        scheme = "http(s)"
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        site = host.rpartition("@")[2]
        site = site.lower()
        for default in (":80", ":443"):
            if site.endswith(default):
                site = site[: -len(default)]
        path = re.sub(r"/{2,}", "/", slash + path)
        rest = "//" + site + path
    return (scheme + ":" + rest).rstrip("/")


def normalise_suite(suite: str, arch: str) -> str:
    """An exact path (flat repository) ends in a slash, and may say $(ARCH)."""
    return suite.replace("$(ARCH)", arch).replace("$ARCH", arch)


def keyrings(signed_by: Optional[str]) -> List[str]:
    """The files that Signed-By names (it may also hold fingerprints, or a key itself)."""
    if not signed_by or "BEGIN PGP" in signed_by:
        return []
    return [word for word in re.split(r"[\s,]+", signed_by) if word.startswith("/")]


# telling repositories apart, and taking one out of a file --------------------------------------------


class Repository(NamedTuple):
    """What one source offers: every URI with every suite, in one spelling each."""

    uris: List[str]
    suites: List[str]

    @classmethod
    def of(cls, uris: List[str], suites: List[str], arch: str) -> "Repository":
        return cls(
            [normalise_uri(uri, arch) for uri in uris], [normalise_suite(suite, arch) for suite in suites]
        )

    def has(self, uri: str, suite: str) -> bool:
        return uri in self.uris and suite in self.suites


class Overlap(NamedTuple):
    """An enabled entry that offers something of a repository, and what is left of it without that."""

    entry: Entry
    rest: List[Tuple[List[str], List[str]]]  # (URIs, suites) of what stays, as the file spells them


def overlap(entry: Entry, repository: Repository, arch: str) -> Optional[Overlap]:
    """Null when the entry is disabled or has nothing to do with the repository."""
    if not entry.enabled:
        return None
    rest: List[Tuple[List[str], List[str]]] = []
    hit = False
    for uri in entry.uris:
        suites = [
            suite
            for suite in entry.suites
            if not repository.has(normalise_uri(uri, arch), normalise_suite(suite, arch))
        ]
        hit = hit or len(suites) < len(entry.suites)
        if not suites:
            continue
        if rest and rest[-1][1] == suites:
            rest[-1][0].append(uri)
        else:
            rest.append(([uri], suites))
    return Overlap(entry, rest) if hit else None


def overlaps(path: str, text: str, repository: Repository, arch: str) -> List[Overlap]:
    found = (overlap(entry, repository, arch) for entry in parse(path, text))
    return [item for item in found if item is not None]


def _without_fields(lines: List[str], names: Tuple[str, ...]) -> List[str]:
    """A deb822 paragraph without some fields and their continuation lines."""
    kept: List[str] = []
    dropping = False
    for line in lines:
        if line[:1] in " \t":
            if dropping:
                continue
        elif not line.startswith("#"):
            dropping = line.partition(":")[0].strip().lower() in names
            if dropping:
                continue
        kept.append(line)
    return kept


def disable(path: str, text: str, found: List[Overlap], name: str) -> str:
    """The file's text without those entries; whatever else it holds stays as it is."""
    lines = text.splitlines()
    mark = "# Disabled by gpuready: %s is managed in its own source." % name
    for item in sorted(found, key=lambda item: item.entry.start, reverse=True):
        entry = item.entry
        block = lines[entry.start : entry.end]
        if entry.format == "one-line":
            # One URI and one suite: nothing can be left of it.
            new = [mark, "# " + block[0].lstrip()]
        elif not item.rest:
            new = [mark, *_without_fields(block, ("enabled",)), "Enabled: no"]
        else:
            new = []
            for uris, suites in item.rest:
                kept = _without_fields(block, ("uris", "suites"))
                where = next((at for at, line in enumerate(kept) if line.lower().startswith("types:")), -1)
                kept[where + 1 : where + 1] = ["URIs: " + " ".join(uris), "Suites: " + " ".join(suites)]
                new += [*([""] if new else []), *kept]
            new.insert(0, mark)
        lines[entry.start : entry.end] = new
    return "\n".join(lines) + "\n" if lines else ""


def render(
    types: List[str],
    uris: List[str],
    suites: List[str],
    components: List[str],
    architectures: List[str],
    keyring: str,
) -> str:
    """The deb822 source that `apt_source` writes."""
    fields = [
        ("Types", types),
        ("URIs", uris),
        ("Suites", suites),
        ("Components", components),
        ("Architectures", architectures),
        ("Signed-By", [keyring] if keyring else []),
    ]
    lines = ["# Managed by gpuready (apt_source)."]
    lines += ["%s: %s" % (field, " ".join(values)) for field, values in fields if values]
    return "\n".join(lines) + "\n"
