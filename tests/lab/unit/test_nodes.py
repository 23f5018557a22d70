"""Names, ports, hardware and identity of nodes."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from gpulab import mirror, nodes, settings
from gpulab.errors import LabError


def test_a_name_gets_the_labs_prefix_once() -> None:
    assert nodes.full_name("dev1") == "gpulab-dev1"
    assert nodes.full_name("gpulab-dev1") == "gpulab-dev1"


@pytest.mark.parametrize("name", ["Dev", "a_b", "x" * 60, "a.b", "ends-"])
def test_a_name_that_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot be a host name"):
        nodes.full_name(name)


@pytest.mark.parametrize("name", ["mirror", "gpulab-registry"])
def test_a_services_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="own services"):
        nodes.full_name(name)


def test_an_unknown_os_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        LabError,
        match=r"unknown operating system 'ubuntu-21\.10' \(--os\): the lab has ubuntu-20\.04, ubuntu-22\.04",
    ):
        nodes.lookup_os("ubuntu-21.10")


def test_a_taken_port_is_refused_unless_it_is_a_preference() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LabError, match=rf"port 127\.0\.0\.1:{port} is taken"):
            nodes.pick_port(port, [])
        assert nodes.pick_port(port, [], any_port=True) in settings.PORTS


def test_a_free_port_avoids_the_default_nodes_and_the_taken_ones() -> None:
    reserved = {node.port for node in settings.DEFAULT_NODES}
    first = nodes.pick_port(None, [])
    assert first not in reserved
    assert nodes.pick_port(None, [first]) != first


def test_gpus_become_a_profile_with_an_address_each() -> None:
    profile = nodes.hardware_profile("ubuntu-22.04", ["a100", "t4"], None)
    assert profile["gpus"] == [
        {"pci": "0000:3b:00.0", "model": "a100"},
        {"pci": "0000:4b:00.0", "model": "t4"},
    ]
    assert profile["faults"] == {}


def test_no_gpu_is_possible() -> None:
    assert nodes.hardware_profile("ubuntu-22.04", [""], None)["gpus"] == []


def test_an_unknown_gpu_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"unknown GPU model 'a101' \(--gpus\): the simulator has a10, a100"):
        nodes.hardware_profile("ubuntu-22.04", ["a101"], None)


@pytest.mark.parametrize(
    ("text", "word"), [("{", "not valid JSON"), ("[]", "must hold a JSON object, not a list")]
)
def test_a_bad_profile_is_refused_with_its_place(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(LabError, match=word):
        nodes.hardware_profile("ubuntu-22.04", [], path)
    with pytest.raises(LabError, match="no hardware profile"):
        nodes.hardware_profile("ubuntu-22.04", [], tmp_path / "none.json")


def test_faults_are_read_as_json_and_as_words() -> None:
    assert nodes.parse_faults(["gpu_off_bus=true", "nvml_error=15", "mode=slow", "old=null"]) == {
        "gpu_off_bus": True,
        "nvml_error": 15,
        "mode": "slow",
        "old": None,
    }


@pytest.mark.parametrize("pair", ["gpu_off_bus", "=true", "Gpu=1"])
def test_a_fault_that_is_not_key_value_is_refused(pair: str) -> None:
    with pytest.raises(LabError, match="is not key=value"):
        nodes.parse_faults([pair])


@pytest.mark.parametrize("key", list(settings.OSES))
def test_a_stand_in_says_what_it_plays(key: str) -> None:
    os_ = settings.OSES[key]
    for suite in set(os_.made_of.values()) - {os_.codename}:
        files = nodes.identity_files(os_, suite)
        release = files["usr/lib/os-release"]
        assert isinstance(release, tuple)
        assert f'VERSION_ID="{os_.version_id}"' in release[1].decode()
        assert f"VERSION_CODENAME={os_.codename}" in release[1].decode()
        assert f"\nID={os_.distribution}\n" in release[1].decode()
    # The real thing needs no disguise.
    assert nodes.identity_files(os_, os_.codename) == {}


def test_debian_nodes_start_without_nvidias_components() -> None:
    text = nodes.apt_sources(settings.OSES["debian-12"])
    assert text.count("Components: main\n") == 2
    assert "URIs: http://gpulab-mirror/debian-security\nSuites: bookworm-security\n" in text
    assert "Components: main restricted universe multiverse\n" in nodes.apt_sources(
        settings.OSES["ubuntu-24.04"]
    )


def test_nvswitches_are_part_of_the_hardware() -> None:
    assert nodes.hardware_profile("ubuntu-22.04", ["h100", "h100"], None, nvswitches=1)["nvswitches"] == 1
    assert "nvswitches" not in nodes.hardware_profile("ubuntu-22.04", ["h100"], None)


def test_default_nodes_differ_and_their_gpus_are_known() -> None:
    known = json.loads((settings.SIMULATOR / "models.json").read_text())
    assert len({node.port for node in settings.DEFAULT_NODES}) == len(settings.DEFAULT_NODES) >= 2
    assert len({node.gpus for node in settings.DEFAULT_NODES}) == len(settings.DEFAULT_NODES)
    for node in settings.DEFAULT_NODES:
        assert node.os in settings.OSES
        assert set(node.gpus) <= set(known)


def test_too_few_inotify_instances_are_named() -> None:
    assert nodes.inotify_hint("nothing of the kind") == ""
    hint = nodes.inotify_hint("systemd[1]: Failed to create inotify watch: Too many open files")
    assert "fs.inotify.max_user_instances" in hint


@pytest.mark.parametrize("key", ["ubuntu-22.04", "debian-11"])
def test_a_node_has_its_archive_and_the_archives_key_from_the_mirror(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without it would boot well and have nothing to install from."""
    monkeypatch.setenv("GPULAB_HOME", str(tmp_path))
    os_ = settings.OSES[key]
    served = mirror.root() / "one"
    served.mkdir(parents=True)
    (served.parent / "current").symlink_to("one")
    (served / f"{os_.distribution}-keyring.gpg").write_bytes(b"a key")
    for name in ("host_key", "user_key"):
        file = tmp_path / name
        file.write_text("x")
        file.with_suffix(".pub").write_text("x")
        monkeypatch.setattr(nodes.keys, name, lambda *_, file=file: file)
    files = nodes.node_files("gpulab-x", os_, "bookworm", {"gpus": []})
    assert files[nodes.archive_keyring(os_).lstrip("/")] == (0o644, b"a key")
    source = files[f"etc/apt/sources.list.d/{os_.distribution}.sources"]
    assert f"URIs: http://gpulab-mirror/{os_.distribution}\n".encode() in source[1]
    assert f"Suites: {os_.codename}\n".encode() in source[1]
