# Apache-2.0 (see LICENSE)
"""Takes out of facts and logs what is nobody's business: secrets, people, addresses, names of machines.

Secrets become ``***``. What has to stay recognisable becomes a pseudonym that is the same throughout a bundle
(``user-1``, ``host-2``, ``ip-3``); serials and UUIDs become a digest, the same in every bundle, so that a GPU
can be followed. Whoever is in doubt is taken out: a version that looks like an address is the lesser loss.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..secrecy import GONE, NAME, is_secret_key, redact, without_secrets

# --- secrets

_QUOTED = r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"',;&)}\]]+)"
_SECRET_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(?i)((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:[a-z]+\s+)?[^\s\"',]+"),
        r"\1" + GONE,
    ),
    (re.compile(r"(?im)\b((?:set-)?cookie:[ \t]*).+$"), r"\1" + GONE),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), r"\1" + GONE),
    # NAME_TOKEN=value, "password": "value", --api-key value
    (
        re.compile(
            r"(?i)("
            + NAME
            + r"[\"']?\s*(?:=>|[=:])\s*)(?!//)"
            + _QUOTED
        ),
        r"\1" + GONE,
    ),
    (re.compile(r"\b([A-Z][A-Z0-9_]*_(?:KEY|PASS|PWD|CREDS|CREDENTIALS)=)" + _QUOTED), r"\1" + GONE),
    (re.compile(r"(?i)(\s--?(?:[a-z0-9]+-)*" + NAME + r"\s+)(?!-)" + _QUOTED), r"\1" + GONE),
    (
        re.compile(r"(?im)(\b(?:docker|podman|nerdctl|helm registry)\s+login\b[^\n]*?\s-p[ =]?)" + _QUOTED),
        r"\1" + GONE,
    ),
    (re.compile(r"(?i)(\bsshpass\s+-p\s*)" + _QUOTED), r"\1" + GONE),
    (re.compile(r"(?i)(\bcurl\b[^\n]*?\s(?:-u|--user)\s+)" + _QUOTED), r"\1" + GONE),
    (re.compile(r"(?i)(\bmachine\s+\S+\s+login\s+)\S+(\s+password\s+)\S+"), r"\1" + GONE + r"\2" + GONE),
    (re.compile(r"(?i)(\bpassword\s+(?:is|was)\s+)\S+"), r"\1" + GONE),
    # In addresses: whoever logs in, and what the query carries.
    (re.compile(r"(?<=://)[^/\s@\"'<>]+(?=@)"), GONE),
    (
        re.compile(r"(?i)([?&](?:[a-z0-9]+[-_])*(?:token|key|sig|signature|auth|password|pass|secret"
            r"|credential|code|session)=)[^&\s\"'<>]+"),
        r"\1" + GONE,
    ),
    (re.compile(r"\b((?:ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-\S+"
        r"|sk-ssh-\S+)\s+)AAAA[\w+/=]+(?:[ \t]+\S+@\S+)?"), r"\1" + GONE),
)  # fmt: skip
_PEM = re.compile(
    r"-----BEGIN (?P<what>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END (?P=what)-----|\Z)", re.DOTALL
)
# Long, and of all kinds of characters: nothing that a driver or an engine prints looks so.
_BLOB = re.compile(
    r"(?<![\w/.+=:-])(?=[\w+/-]*[a-z])(?=[\w+/-]*[A-Z])(?=[\w+/-]*\d)[\w+-][\w+/-]{38,"
    r"}={0,2}(?![\w/.-])"
)

# --- people, machines, addresses

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])")
_HOME = re.compile(
    r"(?P<before>(?:/home/|/Users/|/export/home/|/var/home/|\\Users\\|\\\\Users\\\\"
    r"|/mnt/[a-z]/Users/|/cygdrive/[a-z]/Users/|(?<![\w.+~-])~(?=[a-z])))"
    r"(?P<name>[A-Za-z0-9_][\w.@-]{0,63})"
)
_PROMPT = re.compile(
    r"(?m)(?P<user>(?<![\w@/.+-])[A-Za-z_][\w.-]{0,40})@(?P<host>[A-Za-z0-9][\w.-]{0,8"
    r"0})(?=[:~ ][^@\n]{0,120}?[$#%])"
)
_USER_VARIABLE = re.compile(
    r"\b(?P<before>(?:USER|LOGNAME|SUDO_USER|USERNAME|NB_USER|ansible_user"
    r"|user)[\"']?(?:=|: )[\"']?)(?P<name>[A-Za-z_][\w.-]{0,63})(?![\w(])"
)
_UID = re.compile(r"(?P<before>\b[ug]id=\d+\()(?P<name>[\w.-]+)(?=\))")
_SYSLOG_HOST = re.compile(
    r"(?m)^(?P<before>(?:<\d+>)?(?:[A-Z][a-z]{2}\s+\d{1,2} \d\d:\d\d:\d\d(?:\.\d+)?"
    r"|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)?) )"
    r"(?P<name>[A-Za-z0-9][\w.-]{0,80})(?= [\w./()@:-]+(?:\[\d+\])?: )"
)
_HOST_NAMED = re.compile(
    r"(?P<before>\b(?:[Hh]ostname|HOSTNAME|information for host|nodename"
    r"|[Ss]tatic hostname)[\"']?\s?(?:=|:)\s?[\"']?|on this host \(|^ Name: )"
    r"(?P<name>[A-Za-z0-9][\w.-]{0,80})",
    re.MULTILINE,
)
_URL_HOST = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]{1,12}://(?:[^/\s@\"'<>]*@)?)(?P<name>[A-Za-z0-9][A"
    r"-Za-z0-9.-]*[A-Za-z0-9])"
)
_REFERENCE_HOST = re.compile(
    r"(?<![\w./@:-])(?P<name>(?:[a-z0-9-]+\.)+(?:com|net|org|io|dev|cloud|ai|app|edu"
    r"|gov|int|local|lan|internal|corp|intra|home|intranet|private|test"
    r"|eu|de|fr|uk|us|ca|ch|at|nl|se|no|dk|fi|jp|cn|kr|in|au|br|ru|it|es|pl|cz"
    r"|be)(?=(?::\d+)?/|:\d{2,5}\b)|[a-z][a-z0-9-]*(?=:\d{4,5}/[a-z]))"
)
_INNER_HOST = re.compile(
    r"(?<![\w.@/-])(?P<name>(?:[A-Za-z0-9-]+\.)+(?:local|lan|internal|corp|intra|home"
    r"|intranet|private|localdomain))(?![\w-]|\.\w)"
)
_CLOUD_HOST = re.compile(r"\b(?P<name>ip-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3})(?P<rest>(?:\.[a-z0-9-]+)*)\b")
_LOGGED_IN = re.compile(
    r"(?P<before>\b(?:ssh|scp|sftp|rsync)\s(?:-\S+\s)*)(?P<user>[A-Za-z_][\w.-]*)@(?P<"
    r"host>[\w.-]+)"
)
_PUBLIC = re.compile(
    r"(?:^|\.)(?:docker\.(?:io|com)|nvcr\.io|ghcr\.io|gcr\.io|quay\.io"
    r"|mcr\.microsoft\.com|registry\.k8s\.io|k8s\.io|nvidia\.com|github\.com|gitlab\.com"
    r"|githubusercontent\.com|github\.io|ubuntu\.com|launchpad\.net"
    r"|launchpadcontent\.net|debian\.org|pypi\.org|pythonhosted\.org|python\.org"
    r"|pytorch\.org|tensorflow\.org"
    r"|anaconda\.(?:com|org)|conda\.io|huggingface\.co|kernel\.org|microsoft\.com"
    r"|googleapis\.com|google\.com|kubernetes\.io|freedesktop\.org|opencontainers\.org"
    r"|mozilla\.org|example|invalid|example\.(?:com|org|net)|localhost|readthedocs\.io"
    r"|nixos\.org|archlinux\.org|fedoraproject\.org|redhat\.com|suse\.com|opensuse\.org)$"
)
_IPV4 = re.compile(r"(?<![\w.])(?P<ip>\d{1,3}(?:\.\d{1,3}){3})(?![\w])(?!\.\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?P<ip>[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3})("
    r"?P<zone>%\w+)?(?![\w:])"
)
_MAC = re.compile(
    r"(?<![\w:-])[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5}"
    r"|(?::[0-9A-Fa-f]{2}){7}|(?::[0-9A-Fa-f]{2}){19})(?![\w:-])"
)
_LIBRARY = re.compile(
    r"(?:cudnn|cublas|cufft|curand|cusolver|cusparse|nvrtc|nvjitlink|nccl|tensorrt"
    r"|nvinfer|npp|nvjpeg|cufile|cupti|cuda[\w-]*|nvtx|driver|nvidia-[\w-]+"
    r"|version)[\w.+-]*(?:\s{1,40}|[ :=_-]{1,3}|==)?[vV]?$",
    re.IGNORECASE,
)
_PACKAGE_END = re.compile(r"-\d+(?:[+~]|\.|\b(?!\.))|[+~]\w*(?:cuda|ubuntu|deb|cu\d)")
_UUID = re.compile(
    r"(?P<kind>(?:MIG-GPU-|GPU-|MIG-)?)(?P<uuid>[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA"
    r"-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})(?![\w-])"
)
_SERIAL = re.compile(
    r"(?P<before>\b(?:(?:GPU|board|system|chassis|product"
    r"|baseboard)[ _-]?)?serial(?:[ _-]?(?:number|no\.?|num))?[\"']?\s*[:=#]\s*[\"']?)"
    r"(?P<serial>[A-Za-z0-9][\w./-]{3,})",
    re.IGNORECASE,
)
_MACHINE_ID = re.compile(
    r"(?P<before>\b(?:machine|boot|product|system)[ _-]?(?:id"
    r"|uuid)[\"']?\s*[:=]\s*[\"']?)(?P<serial>[0-9a-f]{32})\b",
    re.IGNORECASE,
)
_SERIAL_KEY = re.compile(
    r"(?:^|[_-])(?:serial(?:_?number)?|machine_?id|asset_?tag|board_?id)$", re.IGNORECASE
)
_VERSION_KEY = re.compile(
    r"version|candidate|installed|release|cudnn|cuda|packages|versions|sha256|digest", re.IGNORECASE
)
_EMPTY = frozenset(("n/a", "none", "null", "unknown", "[n/a]", "0", "default", "not", "to"))

# Names that are nobody's.
_ACCOUNTS = frozenset(
    [
        "root",
        "nobody",
        "daemon",
        "bin",
        "sys",
        "sync",
        "man",
        "mail",
        "news",
        "proxy",
        "backup",
        "list",
        "irc",
        "games",
        "lp",
        "uucp",
        "www-data",
        "syslog",
        "messagebus",
        "sshd",
        "systemd",
        "ubuntu",
        "debian",
        "user",
        "users",
        "docker",
        "nvidia",
        "tensorflow",
        "jovyan",
        "ec2-user",
        "centos",
        "fedora",
        "admin",
        "administrator",
        "public",
        "default",
        "shared",
        "linuxbrew",
        "vagrant",
        "opc",
        "azureuser",
        "gke",
        "containerd",
        "video",
        "render",
        "staff",
        "adm",
        "sudo",
        "nvidia-persistenced",
        "_apt",
        "runner",
        "git",
    ]
)
# Words that a technical text needs: as somebody's name they are taken out of paths and prompts only.
_WORDS = frozenset(
    [
        "gpu",
        "cuda",
        "data",
        "test",
        "tests",
        "app",
        "apps",
        "dev",
        "build",
        "train",
        "model",
        "models",
        "work",
        "home",
        "local",
        "python",
        "torch",
        "jupyter",
        "ml",
        "ai",
        "server",
        "node",
        "host",
        "node0",
        "master",
        "worker",
        "workstation",
        "localhost",
        "nvidia",
        "driver",
        "kernel",
        "image",
        "container",
        "engine",
        "true",
        "false",
        "none",
        "null",
        "error",
        "device",
        "devices",
        "name",
        "path",
        "file",
        "version",
    ]
)


class Redactor:
    """Takes it out of one bundle: feed everything to :meth:`learn`, then :meth:`value` or :meth:`text`."""

    def __init__(
        self, *, keep_hosts: bool = False, hosts: Iterable[str] = (), users: Iterable[str] = ()
    ) -> None:
        self.keep_hosts = keep_hosts
        self.counts: Counter[str] = Counter()
        self._pseudonyms: dict[str, dict[str, str]] = {}
        self._digests: dict[str, str] = {}
        self._users: dict[str, re.Pattern[str]] = {}
        self._hosts: dict[str, re.Pattern[str]] = {}
        for name in hosts:
            self._host(name)
        for name in users:
            self._user(name)

    # --- pseudonyms

    def _pseudonym(self, kind: str, value: str) -> str:
        known = self._pseudonyms.setdefault(kind, {})
        if value not in known:
            known[value] = "%s-%d" % (kind, len(known) + 1)
        self.counts[kind] += 1
        return known[value]

    def _digest(self, value: str, *, guessable: bool) -> str:
        """The same everywhere. A serial has too few digits for a plain hash: trying them all must be dear."""
        if value not in self._digests:
            data = value.lower().encode()
            if guessable:
                self._digests[value] = hashlib.pbkdf2_hmac("sha256", data, b"gpuready bundle", 60_000).hex()[
                    :12
                ]
            else:
                self._digests[value] = hashlib.sha256(b"gpuready bundle " + data).hexdigest()[:12]
        self.counts["serial"] += 1
        return self._digests[value]

    def _known(self, kind: str, name: str, _match: re.Match[str]) -> str:
        return self._pseudonym(kind, name)

    def _is_mine(self, name: str) -> bool:
        """Is it a pseudonym already?"""
        return bool(re.match(r"^(?:user|host|ip|mac|email)-\d+$", name))

    def _user(self, name: str) -> str:
        if name.lower() in _ACCOUNTS or self._is_mine(name) or name in _EMPTY:
            return name
        if len(name) > 2 and name.lower() not in _WORDS and not name.isdigit() and name not in self._users:
            self._users[name] = re.compile(r"(?<![\w-])%s(?![\w-])" % re.escape(name))
        return self._pseudonym("user", name)

    def _host(self, name: str, full: bool = False) -> str:
        """Its pseudonym. `full`: out of an address, whose first word alone (registry) is no name."""
        name = name.rstrip(".")
        if self.keep_hosts or not name or self._is_mine(name) or self._is_mine(name.partition(".")[0]):
            return name
        if _PUBLIC.search(name) or re.match(r"^(?:[0-9a-f]{12}|[0-9a-f]{64}|localhost|[\d.:]+)$", name):
            return name
        short = name.partition(".")[0]
        if full and "." in name and short not in self._hosts:
            whole = r"(?<![\w.-])%s(?![\w-]|\.\w)" % re.escape(name)
            self._hosts.setdefault(name, re.compile(whole))
            return self._pseudonym("host", name)
        if (
            len(short) > 2
            and short.lower() not in _WORDS
            and not short.isdigit()
            and short not in self._hosts
        ):
            whole = r"(?<![\w.-])%s(?:\.[A-Za-z][\w-]*)*(?![\w-])" % re.escape(short)
            self._hosts[short] = re.compile(whole)
        return self._pseudonym("host", short)

    # --- what names there are

    def learn(self, value: Any) -> None:
        """Note the names of people and machines: they are taken out also where nothing marks them as such."""
        if isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(item, str) and str(key) in (
                    "hostname",
                    "inventory_hostname",
                    "nodename",
                    "fqdn",
                ):
                    self._host(item)
                self.learn(item)
                if isinstance(key, str):
                    self.learn(key)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.learn(item)
        elif isinstance(value, str) and len(value) > 3:
            for match in _HOME.finditer(value):
                self._user(match.group("name"))
            for match in _USER_VARIABLE.finditer(value):
                self._user(match.group("name"))
            for match in _UID.finditer(value):
                self._user(match.group("name"))
            for pattern in (_PROMPT, _LOGGED_IN):
                for match in pattern.finditer(value):
                    self._user(match.group("user"))
                    self._host(match.group("host"))
            for pattern in (_SYSLOG_HOST, _HOST_NAMED, _CLOUD_HOST):
                for match in pattern.finditer(value):
                    self._host(match.group("name"))
            for pattern in (_URL_HOST, _REFERENCE_HOST, _INNER_HOST):
                for match in pattern.finditer(value):
                    self._host(match.group("name"), full=True)
        # Learning is not taking out.
        self.counts.clear()

    # --- taking out

    def value(self, value: Any, key: str = "") -> Any:
        """The same value, redacted; the keys of mappings, too."""
        return self._value(redact(value), key, False)

    def _value(self, value: Any, key: str, secret: bool) -> Any:
        if isinstance(value, Mapping):
            return {
                self.text(name, key="key") if isinstance(name, str) else name: self._value(
                    item, str(name), secret or self._is_secret(str(name), item)
                )
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            if value and all(isinstance(item, str) for item in value) and not secret:
                return self._lines(list(value), key)
            return [self._value(item, key, secret) for item in value]
        if isinstance(value, str):
            if secret and value:
                self.counts["secret"] += value != GONE
                return GONE
            if (
                _SERIAL_KEY.search(key)
                and value.lower() not in _EMPTY
                and not re.match(r"^[0-9a-f]{12}$", value)
            ):
                return self._digest(value, guessable=True)
            return self.text(value, key=key)
        if isinstance(value, int) and not isinstance(value, bool) and _SERIAL_KEY.search(key) and value > 999:
            return self._digest(str(value), guessable=True)
        return value

    @staticmethod
    def _is_secret(key: str, value: Any) -> bool:
        if isinstance(value, (bool, int, float)) or value is None:
            return False
        return is_secret_key(key)

    def _lines(self, items: list[str], key: str) -> list[str]:
        """Lines of a log: a private key runs over several of them."""
        inside = ""
        result = []
        for item in items:
            begins = re.search(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----", item)
            if inside or (begins and "-----END" not in item):
                self.counts["secret"] += not inside
                if begins and not inside:
                    inside = begins.group(1)
                if "-----END " + inside in item:
                    inside = ""
                result.append(GONE)
            else:
                result.append(self.text(item, key=key))
        return result

    def text(self, text: str, key: str = "") -> str:
        """The same text, redacted."""
        if len(text) < 3:
            return text
        text = self._sub(_UUID, text, lambda m: m["kind"] + self._digest(m["uuid"], guessable=False))
        text = self._secrets(text)
        if "@" in text:
            text = self._sub(
                _PROMPT, text, lambda m: "%s@%s" % (self._user(m["user"]), self._host(m["host"]))
            )
            text = self._sub(
                _LOGGED_IN,
                text,
                lambda m: "%s%s@%s" % (m["before"], self._user(m["user"]), self._host(m["host"])),
            )
            text = self._sub(_EMAIL, text, lambda m: self._email(m.group()))
        text = self._sub(_SERIAL, text, self._serial)
        text = self._sub(_MACHINE_ID, text, self._serial)
        if ":" in text or "-" in text:
            text = self._sub(
                _MAC, text, lambda m: self._pseudonym("mac", m.group().lower().replace("-", ":"))
            )
        if text.count(":") > 1:
            text = self._sub(_IPV6, text, self._ipv6)
        if text.count(".") > 2:
            text = self._sub(_IPV4, text, lambda m: self._ipv4(m, key))
        if "/" in text or "\\" in text:
            text = self._sub(_HOME, text, lambda m: m["before"] + self._user(m["name"]))
        text = self._sub(_USER_VARIABLE, text, lambda m: m["before"] + self._user(m["name"]))
        text = self._sub(_UID, text, lambda m: m["before"] + self._user(m["name"]))
        if not self.keep_hosts:
            text = self._host_names(text)
        for name, pattern in self._users.items():
            if name in text:
                text = self._sub(pattern, text, functools.partial(self._known, "user", name))
        return text

    @staticmethod
    def _sub(pattern: re.Pattern[str], text: str, replace: Callable[[re.Match[str]], str]) -> str:
        return pattern.sub(replace, text)

    def _secrets(self, text: str) -> str:
        before = text
        if "-----BEGIN" in text:
            text = _PEM.sub(GONE, text)
        for pattern, replacement in _SECRET_RULES:
            text = pattern.sub(replacement, text)
        text = without_secrets(text)
        text = _BLOB.sub(self._blob, text)
        if text != before:
            self.counts["secret"] += max(1, text.count(GONE) - before.count(GONE))
        return text

    @staticmethod
    def _blob(match: re.Match[str]) -> str:
        """Base64 of words (a registry's auth, for one), random letters; not a symbol's or a file's name."""
        blob = match.group()
        if blob.startswith("_Z"):
            # A C++ symbol out of a backtrace.
            return blob
        if (
            "_" in blob
            and re.match(r"^[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+$", blob)
            and max(map(len, blob.split("_"))) < 20
        ):
            return blob
        if (
            re.match(r"^(?:[A-Za-z]+[-/+]?\d{0,6}[-/+]?)+$", blob)
            and not _is_base64(blob)
            and blob.count("/") > 1
        ):
            return blob
        return GONE

    def _email(self, address: str) -> str:
        if re.match(r"^(?:git|noreply)@", address) or address.endswith(
            (".service", ".socket", ".target", ".device")
        ):
            return address
        return self._pseudonym("email", address.lower())

    def _serial(self, match: re.Match[str]) -> str:
        serial = match.group("serial")
        if serial.lower() in _EMPTY or re.match(r"^[0-9a-f]{12}$", serial) or serial == GONE:
            return match.group()
        return match.group("before") + self._digest(serial, guessable=True)

    def _ipv4(self, match: re.Match[str], key: str) -> str:
        address = match.group("ip")
        parts = address.split(".")
        if any(int(part) > 255 or (len(part) > 1 and part[0] == "0") for part in parts):
            return address
        if parts[0] in ("127", "0") or address == "255.255.255.255":
            return address
        if key and _VERSION_KEY.search(key):
            return address
        before, after = (
            match.string[max(0, match.start() - 60) : match.start()],
            match.string[match.end() : match.end() + 24],
        )
        if _LIBRARY.search(before) or before.endswith("==") or _PACKAGE_END.match(after):
            return address
        return self._pseudonym("ip", address)

    def _ipv6(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.IPv6Address(match.group("ip"))
        except ValueError:
            return match.group()
        if address.is_loopback or address.is_unspecified:
            return match.group()
        return self._pseudonym("ip", address.compressed)

    def _host_names(self, text: str) -> str:
        def named(match: re.Match[str]) -> str:
            before = match.groupdict().get("before") or ""
            return before + self._host(match.group("name"))

        def addressed(match: re.Match[str]) -> str:
            before = match.groupdict().get("before") or ""
            return before + self._host(match.group("name"), full=True)

        if "://" in text:
            text = _URL_HOST.sub(addressed, text)
        if "/" in text or ":" in text:
            text = _REFERENCE_HOST.sub(addressed, text)
        if "." in text:
            text = _INNER_HOST.sub(addressed, text)
        if "ip-" in text:
            text = _CLOUD_HOST.sub(lambda match: self._host(match.group("name")), text)
        text = _SYSLOG_HOST.sub(named, text)
        text = _HOST_NAMED.sub(named, text)
        for name, pattern in self._hosts.items():
            if name in text:
                text = self._sub(pattern, text, functools.partial(self._known, "host", name))
        return text


def _is_base64(text: str) -> bool:
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return all(31 < byte < 127 for byte in decoded)
