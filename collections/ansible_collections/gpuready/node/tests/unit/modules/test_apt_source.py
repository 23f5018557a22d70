"""apt_source: one source of ours, nobody's conflicting one, and everything put back afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = str(Path(__file__).resolve().parents[6])
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)

from ansible.module_utils.testing import patch_module_args  # noqa: E402
from ansible_collections.gpuready.node.plugins.module_utils import openpgp  # noqa: E402
from ansible_collections.gpuready.node.plugins.module_utils.aptfiles import Change, Files  # noqa: E402
from ansible_collections.gpuready.node.plugins.modules import apt_source  # noqa: E402

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt to ask it")


def key(letter: bytes) -> tuple[bytes, str]:
    """A public key packet with a user id, and its fingerprint."""
    body = b"\x04\x65\x4b\x67\xde\x16\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01\x01\x07\x40" + letter * 32
    data = b"\x98" + bytes([len(body)]) + body + b"\xb4\x05" + letter * 5
    return data, hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()


KEY_A, PRINT_A = key(b"a")
KEY_B, PRINT_B = key(b"b")
URI = "https://nvidia.example/stable/deb/$(ARCH)"
SOURCE = "/etc/apt/sources.list.d/toolkit.sources"
KEYRING = "/etc/apt/keyrings/toolkit.asc"
PARTS = "/etc/apt/sources.list.d/"


class World:
    """A root of our own and the module's main() in it."""

    def __init__(self, root: Path, capsys: Any, monkeypatch: Any) -> None:
        self.root = root
        self.capsys = capsys
        (root / PARTS.lstrip("/")).mkdir(parents=True)
        monkeypatch.setattr(apt_source, "Files", lambda: Files(str(root)))
        # AnsibleModule collects its warnings for the life of the process.
        self.warnings: list[str] = []
        monkeypatch.setattr(apt_source.AnsibleModule, "warn", lambda _self, text: self.warnings.append(text))
        monkeypatch.setattr(apt_source, "architecture", lambda _module: "amd64")

    def write(self, path: str, text: str | bytes) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def state(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.root.rglob("*")) if path.is_file()}

    def run(self, check: bool = False, diff: bool = False, **params: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "name": "toolkit",
            "uris": [URI],
            "suites": ["/"],
            "key": openpgp.armor(KEY_A),
            "key_fingerprint": [PRINT_A],
            **params,
            "_ansible_check_mode": check,
            "_ansible_diff": diff,
        }
        arguments = {name: value for name, value in arguments.items() if value is not None}
        self.capsys.readouterr()
        with patch_module_args(arguments), pytest.raises(SystemExit):
            apt_source.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result

    def fail(self, **params: Any) -> str:
        """The error's words, after seeing that nothing has changed."""
        before = self.state()
        result = self.run(**params)
        assert result.get("failed") is True, result
        assert self.state() == before
        return str(result["msg"])


@pytest.fixture
def world(tmp_path, capsys, monkeypatch):
    return World(tmp_path / "root", capsys, monkeypatch)


def test_source_is_written_once(world):
    first = world.run(key_fingerprint=[" ".join(PRINT_A[at : at + 4] for at in range(0, 40, 4))])
    assert first["changed"] is True and first["fingerprints"] == [PRINT_A]
    assert (first["file"], first["keyring"]) == (SOURCE, KEYRING)
    assert world.read(SOURCE) == (
        "# Managed by gpuready (apt_source).\n"
        "Types: deb\n"
        "URIs: https://nvidia.example/stable/deb/$(ARCH)\n"
        "Suites: /\n"
        f"Signed-By: {KEYRING}\n"
    )
    assert (world.root / KEYRING.lstrip("/")).stat().st_mode & 0o777 == 0o644
    before = world.state()
    second = world.run()
    assert second["changed"] is False and second["fingerprints"] == [PRINT_A] and world.state() == before


def test_check_mode_says_and_does_not(world):
    before = world.state()
    result = world.run(check=True, diff=True)
    assert result["changed"] is True and world.state() == before
    assert [entry["after_header"] for entry in result["diff"]] == [KEYRING, SOURCE]
    assert "URIs: https://nvidia.example" in result["diff"][1]["after"]


def test_only_pinned_keys_are_written(world):
    both = openpgp.armor(KEY_A + KEY_B)
    result = world.run(key=both, key_fingerprint=[PRINT_B])
    assert result["fingerprints"] == [PRINT_B]
    held = openpgp.keys((world.root / KEYRING.lstrip("/")).read_bytes())
    assert [entry.fingerprint for entry in held] == [PRINT_B]


def test_rotation_accepts_the_old_and_the_new_key(world):
    world.run(key=openpgp.armor(KEY_A), key_fingerprint=[PRINT_A, PRINT_B])
    result = world.run(key=openpgp.armor(KEY_B), key_fingerprint=[PRINT_A, PRINT_B])
    assert result["changed"] is True and result["fingerprints"] == [PRINT_B]


def test_binary_keyring_is_written_binary(world):
    world.run(keyring="/usr/share/keyrings/toolkit.gpg")
    assert (world.root / "usr/share/keyrings/toolkit.gpg").read_bytes() == KEY_A


def test_all_fields_are_rendered(world):
    world.run(
        types=["deb", "deb-src"],
        uris=["https://a.example/ubuntu", "https://b.example/ubuntu"],
        suites=["jammy", "jammy-updates"],
        components=["stable", "test"],
        architectures=["amd64", "arm64"],
    )
    assert world.read(SOURCE).splitlines()[1:] == [
        "Types: deb deb-src",
        "URIs: https://a.example/ubuntu https://b.example/ubuntu",
        "Suites: jammy jammy-updates",
        "Components: stable test",
        "Architectures: amd64 arm64",
        f"Signed-By: {KEYRING}",
    ]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            {"key_fingerprint": [PRINT_B]},
            [PRINT_B, PRINT_A, "the parameter key", "key_fingerprint", "Nothing was"],
        ),
        ({"key_fingerprint": ["DDCAE044F796ECB0"]}, ["DDCAE044F796ECB0", "key ID", "key_fingerprint"]),
        ({"key_fingerprint": []}, ["key_fingerprint is empty"]),
        ({"key": None}, ["key or key_url"]),
        ({"key": "<html>"}, ["not an OpenPGP key", "<html>"]),
        ({"key": openpgp.armor(KEY_A)[:-30]}, ["cut"]),
        ({"uris": []}, ["uris is empty"]),
        ({"uris": ["nvidia.example/deb"]}, ["nvidia.example/deb", "not a URI"]),
        ({"suites": []}, ["suites is empty"]),
        ({"suites": ["jammy"]}, ["components is empty", "jammy"]),
        ({"suites": ["/"], "components": ["main"]}, ["exact path", "components"]),
        ({"suites": ["a b"]}, ["suites holds 'a b'"]),
        ({"name": "my source"}, ["name is 'my source'"]),
        ({"name": "../../etc/passwd"}, ["name is '../../etc/passwd'"]),
        ({"keyring": "/etc/apt/keyrings/x.pub"}, [".asc"]),
        ({"key_url": "https://x.example/", "key": openpgp.armor(KEY_A)}, ["mutually exclusive"]),
    ],
)
def test_bad_input_is_one_clear_error_and_no_change(world, params, words):
    message = world.fail(**params)
    for word in words:
        assert word in message


# fetching ---------------------------------------------------------------------------------------------


class Server:
    def __init__(self) -> None:
        outer = self
        self.answer: tuple[int, bytes] = (200, openpgp.armor(KEY_A + KEY_B).encode())
        self.requests = 0
        self.delay = 0.0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                time.sleep(outer.delay)
                status, body = outer.answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/gpgkey"


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_key_is_fetched_once(world, server):
    assert world.run(key=None, key_url=server.url)["changed"] is True
    assert world.run(key=None, key_url=server.url)["changed"] is False
    assert server.requests == 1
    assert world.run(key=None, key_url=server.url, key_refresh_enabled=True)["changed"] is False
    assert server.requests == 2


def test_key_of_another_repository_is_fetched_anew(world, server):
    """The keyring in place holds a pinned key, but the source moves to where another one signs."""
    world.run(key=None, key_url=server.url)
    server.answer = (200, KEY_B)
    moved = {"key": None, "key_url": server.url, "uris": ["http://elsewhere.example/debian"]}
    assert PRINT_B in world.fail(**moved)
    assert world.run(**moved, key_fingerprint=[PRINT_A, PRINT_B])["changed"] is True
    assert [entry.fingerprint for entry in openpgp.keys(world.read(KEYRING).encode())] == [PRINT_B]
    assert world.run(**moved, key_fingerprint=[PRINT_A, PRINT_B])["changed"] is False


def test_key_that_was_changed_in_place_is_fetched_when_the_new_fingerprint_is_pinned(world, server):
    world.run(key=None, key_url=server.url)
    server.answer = (200, KEY_B)
    assert world.run(key=None, key_url=server.url, key_fingerprint=[PRINT_B])["changed"] is True
    assert [entry.fingerprint for entry in openpgp.keys(world.read(KEYRING).encode())] == [PRINT_B]


@pytest.mark.parametrize(
    "damage",
    [b"", b"<html>", openpgp.armor(KEY_A)[:-30].encode(), KEY_B, openpgp.armor(KEY_A + KEY_B).encode()],
)
def test_keyring_that_was_tampered_with_is_made_anew(world, server, damage):
    world.run(key=None, key_url=server.url)
    world.write(KEYRING, damage)
    result = world.run(key=None, key_url=server.url)
    assert result["changed"] is True
    assert [entry.fingerprint for entry in openpgp.keys(world.read(KEYRING).encode())] == [PRINT_A]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b"gone"), "404"),
        ((200, b"<!DOCTYPE html>"), "it begins: <!DOCTYPE html>"),
        ((200, b""), "it is empty"),
        ((200, openpgp.armor(KEY_B).encode()), f"expected {PRINT_A}, found {PRINT_B}"),
    ],
)
def test_url_without_the_key_is_named(world, server, answer, words):
    server.answer = answer
    message = world.fail(key=None, key_url=server.url)
    assert words in message and server.url in message


def test_server_that_is_slow_or_gone_is_named(world, server):
    server.delay = 2
    assert "timed out" in world.fail(key=None, key_url=server.url, timeout_seconds=1)
    assert "Connection refused" in world.fail(key=None, key_url="http://127.0.0.1:1/key")


# other sources ----------------------------------------------------------------------------------------

OLD_LIST = """\
# NVIDIA, by hand
deb [signed-by=/usr/share/keyrings/nv.gpg] http://nvidia.example/stable/deb/$(ARCH) /
deb [arch=amd64] https://other.example/x stable main
#deb https://nvidia.example/experimental/deb/$(ARCH) /
"""
MIXED = """\
Types: deb
URIs: https://other.example/y
Suites: stable
Components: main

# ours, with a friend
Types: deb
URIs: https://nvidia.example/stable/deb/amd64/
 https://friend.example/deb
Suites: /
Signed-By: /usr/share/keyrings/nv.gpg
"""


def test_other_sources_of_the_repository_are_disabled_entry_by_entry(world):
    world.write(PARTS + "nvidia.list", OLD_LIST)
    world.write(PARTS + "mixed.sources", MIXED)
    world.write(PARTS + "nvidia.list.save", OLD_LIST)
    result = world.run()
    assert [entry["file"] for entry in result["disabled"]] == [PARTS + "mixed.sources", PARTS + "nvidia.list"]
    assert world.read(PARTS + "nvidia.list").splitlines() == [
        "# NVIDIA, by hand",
        "# Disabled by gpuready: toolkit is managed in its own source.",
        "# deb [signed-by=/usr/share/keyrings/nv.gpg] http://nvidia.example/stable/deb/$(ARCH) /",
        "deb [arch=amd64] https://other.example/x stable main",
        "#deb https://nvidia.example/experimental/deb/$(ARCH) /",
    ]
    mixed = world.read(PARTS + "mixed.sources")
    assert "nvidia.example" not in mixed.replace("# Disabled", "")
    assert "URIs: https://friend.example/deb\nSuites: /\n" in mixed and "https://other.example/y" in mixed
    assert world.read(PARTS + "nvidia.list.save") == OLD_LIST
    before = world.state()
    second = world.run()
    assert second["changed"] is False and second["disabled"] == [] and world.state() == before


def test_removing_puts_everything_back(world):
    world.write(PARTS + "nvidia.list", OLD_LIST)
    world.write(PARTS + "mixed.sources", MIXED)
    world.write("/etc/apt/sources.list", "deb https://NVIDIA.example:443//stable/deb/amd64 /\n")
    before = world.state()
    world.run()
    assert world.read("/etc/apt/sources.list").startswith("# Disabled by gpuready")
    check = world.run(state="absent", check=True, diff=True)
    assert check["changed"] is True and len(check["diff"]) == 5
    result = world.run(state="absent")
    assert result["changed"] is True and len(result["restored"]) == 3
    assert world.state() == before
    assert world.run(state="absent")["changed"] is False


def test_file_that_its_owner_changed_since_stays(world):
    world.write(PARTS + "nvidia.list", OLD_LIST)
    world.run()
    world.write(PARTS + "nvidia.list", "deb https://new.example/ stable main\n")
    result = world.run(state="absent")
    assert world.read(PARTS + "nvidia.list") == "deb https://new.example/ stable main\n"
    assert result["restored"] == [] and "nvidia.list has changed since" in str(world.warnings)
    assert not (world.root / SOURCE.lstrip("/")).exists()
    # Its former text is still there, for people.
    kept = world.root / "var/backups/gpuready/apt_source/toolkit/001-nvidia.list"
    assert kept.read_text() == OLD_LIST
    assert world.run(state="absent")["changed"] is False


def test_conflict_that_comes_back_is_disabled_again(world):
    world.write(PARTS + "nvidia.list", OLD_LIST)
    world.run()
    world.write(PARTS + "nvidia.list", OLD_LIST + "# and more\n")
    assert len(world.run()["disabled"]) == 1
    world.run(state="absent")
    assert world.read(PARTS + "nvidia.list") == OLD_LIST + "# and more\n"


def test_somebody_else_s_file_in_our_place_comes_back(world):
    world.write(SOURCE, "Types: deb\nURIs: https://elsewhere.example/\nSuites: /\n")
    world.write(KEYRING, openpgp.armor(KEY_B))
    before = world.state()
    world.run()
    assert "elsewhere" not in world.read(SOURCE)
    world.run(state="absent")
    assert world.state() == before


def test_removing_what_was_never_there_touches_nothing(world):
    world.write(SOURCE, "Types: deb\nURIs: https://elsewhere.example/\nSuites: /\n")
    world.write(KEYRING, openpgp.armor(KEY_B))
    result = world.run(state="absent")
    assert result["changed"] is False and "not written by apt_source" in str(world.warnings)


@pytest.mark.parametrize(
    ("line", "disabled"),
    [
        ("deb https://nvidia.example/stable/deb/amd64 /", True),
        ("deb [signed-by=/other.gpg] https://nvidia.example/stable/deb/amd64/ /", True),
        ("deb http://nvidia.example/stable/deb/$(ARCH) /", True),
        ("deb https://nvidia.example/stable/deb/amd64 ./sub/", False),
        ("deb https://nvidia.example/stable/deb/arm64 /", False),
        ("deb https://nvidia.example/experimental/deb/amd64 /", False),
        ("# deb https://nvidia.example/stable/deb/amd64 /", False),
        ("deb-src https://nvidia.example/stable/deb/amd64 /", True),  # apt compares its key as well
        (f"deb-src [signed-by={KEYRING}] https://nvidia.example/stable/deb/amd64 /", False),
    ],
)
def test_what_is_the_same_repository(world, line, disabled):
    world.write(PARTS + "x.list", line + "\n")
    assert bool(world.run()["disabled"]) is disabled


def test_suites_of_another_kind_stay(world):
    world.write(
        PARTS + "docker.sources",
        "Types: deb\nURIs: https://d.example/ubuntu https://e.example/ubuntu\n"
        "Suites: jammy noble\nComponents: stable\nEnabled: yes\n",
    )
    world.run(uris=["https://d.example/ubuntu"], suites=["jammy"], components=["stable"])
    lines = world.read(PARTS + "docker.sources").splitlines()
    assert lines == [
        "# Disabled by gpuready: toolkit is managed in its own source.",
        "Types: deb",
        "URIs: https://d.example/ubuntu",
        "Suites: noble",
        "Components: stable",
        "Enabled: yes",
        "",
        "Types: deb",
        "URIs: https://e.example/ubuntu",
        "Suites: jammy noble",
        "Components: stable",
        "Enabled: yes",
    ]


def test_whole_stanza_is_switched_off(world):
    world.write(
        PARTS + "x.sources",
        f"Enabled: yes\nTypes: deb\nURIs: {URI}\nSuites: /\nSigned-By:\n -----BEGIN\n .\n",
    )
    world.run()
    text = world.read(PARTS + "x.sources")
    assert text.endswith("Enabled: no\n") and "Enabled: yes" not in text and " -----BEGIN\n .\n" in text


def test_remarks_in_latin_1_survive(world):
    data = b"# gr\xfc\xdfe\ndeb https://nvidia.example/stable/deb/amd64 /\n"
    world.write(PARTS + "x.list", data)
    world.run()
    assert (world.root / PARTS.lstrip("/") / "x.list").read_bytes().startswith(b"# gr\xfc\xdfe\n")


def test_result_that_apt_would_refuse_is_not_written(world, monkeypatch):
    monkeypatch.setattr(apt_source, "ask_apt", lambda _m, _f, changes: "E: Malformed" if changes else None)
    message = world.fail()
    assert "apt would refuse" in message and message.endswith("E: Malformed")


@needs_apt
def test_apt_that_was_broken_before_is_a_warning(world):
    world.write(
        PARTS + "a.list",
        "deb [signed-by=/a.gpg] https://z.example/ /\ndeb [signed-by=/b.gpg] https://z.example/ /\n",
    )
    result = world.run()
    assert result["changed"] is True
    assert "Conflicting values set for option Signed-By" in str(world.warnings)


@needs_apt
def test_conflicting_keys_are_repaired(world):
    """What makes apt refuse everything (the commonest complaint there is) works afterwards."""
    world.write(PARTS + "a.list", "deb [signed-by=/a.gpg] https://nvidia.example/stable/deb/amd64 /\n")
    world.write(PARTS + "b.list", "deb [signed-by=/b.gpg] https://nvidia.example/stable/deb/$(ARCH)/ /\n")
    result = world.run()
    assert len(result["disabled"]) == 2
    assert world.warnings == []


def test_files_change_together_or_not_at_all(tmp_path):
    files = Files(str(tmp_path))
    files.write("/a", b"old")
    (tmp_path / "c").mkdir()
    with pytest.raises(OSError):
        files.apply(
            [
                Change("/a", b"old", b"new", False),
                Change("/b", None, b"new", False),
                Change("/c", None, b"x", False),
            ]
        )
    assert (tmp_path / "a").read_bytes() == b"old" and not (tmp_path / "b").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_writing_keeps_mode_and_link(tmp_path):
    files = Files(str(tmp_path))
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    files.write("/link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


OWN = "/etc/apt/sources.list.d/debian.sources"
OWN_TEXT = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main\n"
MORE: dict[str, Any] = {
    "uris": ["http://mirror.example/debian"],
    "suites": ["bookworm"],
    "components": ["contrib", "non-free"],
    "key": None,
    "key_fingerprint": [],
}


@pytest.mark.parametrize("signed_by", ["/usr/share/keyrings/archive.gpg", ""])
def test_more_components_of_the_node_s_own_archive_leave_its_source_alone(world, signed_by):
    own = OWN_TEXT + (f"Signed-By: {signed_by}\n" if signed_by else "")
    world.write(OWN, own)
    result = world.run(**MORE, signed_by=signed_by)
    assert result["changed"] is True and result["disabled"] == []
    assert world.read(OWN) == own
    assert (f"Signed-By: {signed_by}\n" in world.read(SOURCE)) is bool(signed_by)
    assert not (world.root / KEYRING.lstrip("/")).exists()
    assert world.run(**MORE, signed_by=signed_by)["changed"] is False
    assert world.run(state="absent")["changed"] is True
    assert world.state() == {str(world.root / OWN.lstrip("/")): own.encode()}


def test_key_in_signed_by_is_refused(world):
    assert "a key is given with key" in world.fail(**MORE, signed_by="-----BEGIN PGP PUBLIC KEY BLOCK-----")
