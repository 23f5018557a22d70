"""The snapshot of Debian's archives for the real driver."""

from __future__ import annotations

import pytest
from gpulab import realdriver, settings

STANZA = "Package: libnvidia-ml1\nVersion: 1:535.261.03-1\nArchitecture: amd64\n"


def test_package_of_an_index_is_found_among_what_apt_downloaded():
    assert realdriver.deb_name(STANZA) == "libnvidia-ml1_1%3a535.261.03-1_amd64.deb"


@pytest.mark.parametrize("codename", realdriver.RELEASES)
def test_node_begins_without_nvidias_components(codename):
    stanzas = realdriver.sources(codename).strip().split("\n\n")
    assert [f"/{codename}/debian" in stanzas[0], f"/{codename}/debian-security" in stanzas[1]] == [True, True]
    for stanza in stanzas:
        (components,) = (line for line in stanza.splitlines() if line.startswith("Components: "))
        assert not {"contrib", "non-free"} & set(components.split())


def test_every_release_is_an_operating_system_of_the_lab():
    for codename, release in realdriver.RELEASES.items():
        assert settings.OSES[release.os].codename == codename
        assert settings.OSES[release.os].version_id == release.version


def test_versions_come_from_the_snapshot_s_own_index(tmp_path, monkeypatch):
    monkeypatch.setenv("GPULAB_HOME", str(tmp_path))
    index = realdriver.home() / "archive/bookworm/debian/dists/bookworm/non-free/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    index.write_text(STANZA + "\n" + STANZA.replace("libnvidia-ml1", "libnvidia-ml1-x") + "\n")
    assert realdriver.versions("bookworm", "libnvidia-ml1") == {"1:535.261.03-1"}
