"""Hashes, layers, packages: what decides whether something is built, and how it is put together."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from gpulab import images, lab, mirror, registry, rootfs, settings, simulator
from hypothesis import given
from hypothesis import strategies as st


def test_a_recipes_hash_follows_its_content() -> None:
    recipe = rootfs.Recipe(suite="bookworm", packages=("python3",))
    assert recipe.digest() == rootfs.Recipe(suite="bookworm", packages=("python3",)).digest()
    assert recipe.digest() != replace(recipe, packages=("python3", "curl")).digest()
    assert recipe.digest() != replace(recipe, suite="trixie").digest()


def test_a_trees_hash_follows_names_modes_links_and_contents(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("a")
    seen = {rootfs.digest_tree(tmp_path)}
    script.write_text("b")
    seen.add(rootfs.digest_tree(tmp_path))
    script.chmod(0o755)
    seen.add(rootfs.digest_tree(tmp_path))
    (tmp_path / "link").symlink_to("script")
    seen.add(rootfs.digest_tree(tmp_path))
    assert len(seen) == 4


def test_two_checkouts_of_the_same_commit_have_the_same_hash(tmp_path: Path) -> None:
    """What git does not keep must not count: empty directories, other permissions, what tools leave."""
    for name in ("one", "two"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "file").write_text("x")
    two = tmp_path / "two"
    for directory in ("usr/sbin", "__pycache__", ".pytest_cache"):
        (two / directory).mkdir(parents=True)
    (two / "__pycache__" / "x.pyc").write_text("no matter")
    (two / ".pytest_cache" / "state").write_text("no matter")
    (two / "etc" / "file").chmod(0o600)
    (two / "etc").chmod(0o700)
    assert rootfs.digest_tree(tmp_path / "one") == rootfs.digest_tree(two)
    (two / "etc" / ".hidden").write_text("a file of the node")
    assert rootfs.digest_tree(tmp_path / "one") != rootfs.digest_tree(two)


def test_an_overlay_belongs_to_root_and_later_trees_win(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc" / "file").write_text(name)
    data = rootfs.overlay(
        [tmp_path / "one", tmp_path / "two"], {"etc/key": (0o600, b"k"), "etc/link": "file"}
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        last = {member.name: member for member in archive.getmembers()}
        assert all((member.uid, member.gid) == (0, 0) for member in archive.getmembers())
        content = archive.extractfile(last["etc/file"])
        assert content is not None
        assert content.read() == b"two"
    assert last["etc/key"].mode == 0o600
    assert last["etc/link"].linkname == "file"


def test_scrubbing_leaves_no_archive_identity_or_cache_behind(tmp_path: Path) -> None:
    import subprocess

    for name in (
        "etc/apt/sources.list.d/x.sources",
        "etc/ssh/ssh_host_rsa_key",
        "var/lib/apt/lists/y",
        "etc/machine-id",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    subprocess.run(["sh", "-c", rootfs.SCRUB, "hook", str(tmp_path)], check=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["etc/machine-id"]
    assert (tmp_path / "etc/machine-id").read_text() == ""


@given(st.dictionaries(st.text("abc/", min_size=1), st.integers(0, 2000)))
def test_layers_hold_every_file_once_and_respect_the_limit(sizes: dict[str, int]) -> None:
    groups = registry.partition(sizes, limit=1000, big=100)
    assert sorted(path for group in groups for path in group) == sorted(sizes)
    for group in groups[1:]:
        assert sum(sizes[path] for path in group) <= 1000 or len(group) == 1
        assert all(sizes[path] >= 100 for path in group)


def test_a_layer_restates_the_directories_above_its_files() -> None:
    assert registry.with_parents(["usr/lib/a.so"]) == ["usr", "usr/lib", "usr/lib/a.so"]


def test_a_reference_is_split_at_its_tag() -> None:
    assert registry.split_reference(settings.TF_IMAGE) == ("tensorflow/tensorflow", "2.9.0-gpu")


def test_the_tensorflow_image_names_what_the_official_one_does() -> None:
    assert images.TF_ENV["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert images.TF_ENV["NVIDIA_REQUIRE_CUDA"].startswith("cuda>=11.2 ")
    pinned = dict(
        line.split("==") for line in images.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")
    )
    assert pinned["tensorflow"] == "2.9.0"
    assert pinned["nvidia-cudnn-cu11"].startswith("8.")


@pytest.mark.parametrize(
    ("package", "path", "target"),
    [
        ("docker.io", "usr/bin/docker", "docker-ce-cli"),
        ("docker.io", "usr/sbin/dockerd", "docker-ce"),
        ("docker.io", "usr/lib/systemd/system/docker.socket", "docker-ce"),
        ("docker.io", "etc/default/docker", None),
        ("docker.io", "usr/share/doc/docker.io/copyright", None),
        ("docker-cli", "usr/bin/docker", "docker-ce-cli"),
        ("runc", "usr/sbin/runc", "containerd.io"),
        ("containerd", "lib/systemd/system/containerd.service", "containerd.io"),
        ("tini", "usr/bin/tini-static", "docker-ce"),
    ],
)
def test_files_go_where_dockers_own_packages_have_them(package: str, path: str, target: str | None) -> None:
    assert mirror.ce_package(package, path) == target


def test_versions_and_dependencies_read_like_dockers() -> None:
    assert (
        mirror.ce_version("docker-ce", "20.10.24+dfsg1-1+deb12u1", "jammy")
        == "5:20.10.24-1~ubuntu.22.04~jammy"
    )
    assert mirror.ce_version("containerd.io", "1.6.20~ds1-1", "noble") == "1.6.20-1"
    assert mirror.ce_version("docker-ce", "26.1.5", "trixie") == "5:26.1.5-1~debian.13~trixie"
    depends = mirror.ce_depends(
        ["libc6 (>= 2.34), containerd (>= 1.4~), runc (>= 1), tini, iptables"], "docker-ce"
    )
    assert (
        depends
        == "containerd.io (>= 1.4.1), docker-ce-cli, adduser, init-system-helpers, libc6 (>= 2.34), iptables"
    )


def test_cleaning_takes_only_what_the_lab_made(tmp_path: Path) -> None:
    (tmp_path / "docker" / "overlay2").mkdir(parents=True)
    (tmp_path / "keys").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    assert lab.remove_owned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").unlink()
    lab.remove_owned(tmp_path)
    assert not tmp_path.exists()


def test_docker_io_takes_the_client_in_as_ubuntu_has_it() -> None:
    text = (
        "Package: docker.io\nVersion: 26.1.5+dfsg1-9\nConflicts: docker-ce\n"
        "Recommends: git, docker-cli, xz-utils\nDescription: x\n more\n"
    )
    joined = mirror.join_control(text)
    assert joined.startswith("Package: docker.io\n")
    assert "Version: 26.1.5+dfsg1-9+gpulab1\n" in joined
    assert "Recommends: git, xz-utils\n" in joined
    assert "Conflicts: docker-ce, docker-cli\n" in joined
    assert "Provides: docker-cli\n" in joined
    assert joined.endswith("Description: x\n more\n")


def test_mounts_are_found_from_the_top_down() -> None:
    mountinfo = "".join(
        f"{number} 1 0:1 / {point} rw - ext4 /dev/vda rw\n"
        for number, point in enumerate(["/", "/lab/docker", "/lab/docker/overlay2/a", "/lab/docker2", "/lab"])
    )
    assert lab.mounts_below(Path("/lab/docker"), mountinfo) == ["/lab/docker/overlay2/a", "/lab/docker"]


def test_the_latest_suite_has_the_newest_version_of_each_package_only() -> None:
    def stanza(name: str, version: str) -> str:
        return f"Package: {name}\nVersion: {version}\nFilename: pool/{name}_{version}.deb\n"

    index = "\n".join(
        [
            stanza("a", "580.82.07-0ubuntu1"),
            stanza("a", "580.95.05-0ubuntu1"),
            stanza("b", "1~rc1"),
            stanza("b", "1"),
        ]
    )
    assert [text.splitlines()[:2] for text in mirror.newest_stanzas(index)] == [
        ["Package: a", "Version: 580.95.05-0ubuntu1"],
        ["Package: b", "Version: 1"],
    ]


def test_archives_offer_every_release_that_a_node_can_be() -> None:
    releases = simulator.releases()
    for os_ in settings.OSES.values():
        release = releases[os_.codename]
        assert release["os"] == os_.distribution
        assert release["kernels"]["running"].endswith(release["flavour"])
