"""apt and dpkg: lists, sources, candidates, holds, unattended upgrades, locks."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time

import pytest
from gpuready import aptguard, aptsources
from gpuready.observe import apt, packages
from gpuready.observe.node import ProbeError

KERNEL = "5.15.0-157-generic"


def _lists(machine, age=100.0):
    machine.write("/var/lib/apt/lists/archive.ubuntu.com_ubuntu_dists_jammy_main_binary-amd64_Packages")
    os.utime(machine.root / "var/lib/apt/lists", (machine.now - age, machine.now - age))


# packages ---------------------------------------------------------------------------------------------

DPKG = """\
dpkg\tamd64\t1.21.1ubuntu2.3\tinstall\tinstalled\tok
nvidia-utils-580-server\tamd64\t580.95.05-0ubuntu0.22.04.2\thold\tinstalled\tok
libnvidia-compute-580-server\tamd64\t580.95.05-0ubuntu0.22.04.2\tinstall\tinstalled\tok
nvidia-container-toolkit\tamd64\t1.17.8-1\thold\tinstalled\tok
libnvidia-container1\tamd64\t1.17.8-1\tinstall\tinstalled\tok
nvidia-docker2\tall\t2.13.0-1\tdeinstall\tconfig-files\tok
nvidia-cuda-toolkit\tamd64\t11.5.1-1ubuntu1\tinstall\tinstalled\tok
linux-modules-nvidia-580-server-open-5.15.0-157-generic\tamd64\t5.15.0-157.167\tinstall\thalf-configured\tok
nvidia-dkms-535\tamd64\t535.1\tdeinstall\tconfig-files\tok
nvidia-driver-470\t\t\tunknown\tnot-installed\tok
bash\tamd64\t5.1\thold\tinstalled\tok
truncated line
"""


def test_packages_are_sorted_into_driver_toolkit_and_holds():
    found = packages.parse(DPKG)
    assert [(p["name"], p["status"], p["held"]) for p in packages.driver(found)] == [
        ("nvidia-utils-580-server", "installed", True),
        ("libnvidia-compute-580-server", "installed", False),
        ("linux-modules-nvidia-580-server-open-5.15.0-157-generic", "half-configured", False),
        ("nvidia-dkms-535", "config-files", False),
    ]
    assert [p["name"] for p in packages.toolkit(found)] == [
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "nvidia-docker2",
    ]
    assert packages.holds(found) == ["bash", "nvidia-container-toolkit", "nvidia-utils-580-server"]
    assert packages.unfinished(found) == ["linux-modules-nvidia-580-server-open-5.15.0-157-generic"]
    assert packages.installed(found, "nvidia-dkms-535") is None
    assert packages.installed(found, "dpkg").arch == "amd64"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvidia-smi", True),
        ("nvidia-driver-580-server-open", True),
        ("nvidia-tesla-535-kernel-dkms", True),
        ("nvidia-kernel-common-580-server", True),
        ("nvidia-fabricmanager-580", True),
        ("libcuda1", True),
        ("libcuda1-i386", True),
        ("xserver-xorg-video-nvidia-580-server", True),
        ("linux-objects-nvidia-580-server-open-5.15.0-157-generic", True),
        ("cuda-drivers-580", True),
        ("nvidia-container-toolkit-base", False),
        ("libnvidia-container-tools", False),
        ("nvidia-cuda-toolkit", False),
        ("cuda-toolkit-12-4", False),
        ("nvtop", False),
        ("libcuda1000", False),
        ("libcudadebugger1", True),
        ("libnvcuvid1", True),
        ("libnvidia-ml1", True),
        ("firmware-nvidia-gsp", True),
        ("firmware-nvidia-graphics", False),
        ("nvidia-kernel-open-dkms", True),
        ("nvidia-open-kernel-dkms", True),
        ("nvidia-tesla-470-smi", True),
        ("nvidia-open", True),
        ("nvidia-driver-cuda", True),
        ("nvidia-fs-dkms", False),
        ("libnvidia-ml-dev", False),
        ("nvidia-vaapi-driver", False),
    ],
)
def test_what_belongs_to_the_driver(name, expected):
    assert packages.is_driver(name) is expected


def test_dpkg_s_own_format_is_what_is_parsed():
    answer = subprocess.run(list(packages.COMMAND), capture_output=True, text=True, check=True)
    found = packages.parse(answer.stdout)
    own = packages.installed(found, "dpkg")
    assert own is not None and own.status == "installed" and own.eflag == "ok"


# lists and candidates ---------------------------------------------------------------------------------


def test_no_lists_no_age_and_no_candidates(machine):
    machine.mkdir("/var/lib/apt/lists/partial")
    machine.write("/var/lib/apt/lists/lock")
    assert apt.lists_age(machine.node) is None
    assert apt.candidates(machine.node, [KERNEL]) is None
    assert machine.asked == []


@pytest.mark.parametrize("suffix", ["", ".lz4", ".gz", ".xz"])
def test_lists_may_be_packed(machine, suffix):
    machine.write("/var/lib/apt/lists/x_binary-amd64_Packages" + suffix)
    assert apt.lists_age(machine.node) is not None


def test_age_is_since_the_last_update_not_the_archive_s(machine):
    _lists(machine, age=5000)
    assert apt.lists_age(machine.node) == 5000
    machine.mkdir("/var/lib/apt/lists/partial")
    os.utime(machine.root / "var/lib/apt/lists/partial", (machine.now - 900, machine.now - 900))
    os.utime(machine.root / "var/lib/apt/lists", (machine.now - 5000, machine.now - 5000))
    assert apt.lists_age(machine.node) == 900  # an update that brought nothing new
    stamp = machine.write("/var/lib/apt/periodic/update-success-stamp")
    os.utime(stamp, (machine.now - 60, machine.now - 60))
    assert apt.lists_age(machine.node) == 60
    os.utime(stamp, (machine.now + 60, machine.now + 60))  # a clock that was set back
    assert apt.lists_age(machine.node) == 0


POLICY = """\
apt:
  Installed: 2.4.13
  Candidate: 2.4.14
  Version table:
     2.4.14 500
        500 http://archive.ubuntu.com/ubuntu jammy-updates/main amd64 Packages
 *** 2.4.13 100
        100 /var/lib/dpkg/status
nvidia-utils-580-server:
  Installed: (none)
  Candidate: 580.95.05-0ubuntu0.22.04.2
  Version table:
     580.95.05-0ubuntu0.22.04.2 500
        500 http://archive.ubuntu.com/ubuntu jammy-updates/restricted amd64 Packages
        500 http://security.ubuntu.com/ubuntu jammy-security/restricted amd64 Packages
     580.65.06-0ubuntu0.22.04.1 500
        500 http://other.example jammy/restricted amd64 Packages
       -1 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64  Packages
        500 http://archive.ubuntu.com/ubuntu jammy-updates/restricted amd64 Packages
libnvidia-gl-580-server:i386:
  Installed: (none)
  Candidate: 580.95.05-0ubuntu0.22.04.2
  Version table:
     580.95.05-0ubuntu0.22.04.2 500
        500 http://archive.ubuntu.com/ubuntu jammy-updates/restricted i386 Packages
nvidia-driver-binary:
  Installed: (none)
  Candidate: (none)
  Version table:
docker.io:
  Installed: 20.10.24-1
  Candidate: (none)
  Package pin: 20.10.24-1
  Version table:
 *** 20.10.24-1 -1
        100 /var/lib/dpkg/status
"""


INDEXES = """\
Package files:
 100 /var/lib/dpkg/status
     release a=now
 600 https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64  Packages
     release o=NVIDIA,l=NVIDIA CUDA,c=
     origin developer.download.nvidia.com
 500 http://security.ubuntu.com/ubuntu jammy-security/restricted amd64 Packages
     release v=22.04,o=Ubuntu,a=jammy-security,n=jammy,l=Ubuntu,c=restricted,b=amd64
     origin security.ubuntu.com
 500 http://archive.ubuntu.com/ubuntu jammy-updates/restricted amd64 Packages
     release v=22.04,o=Ubuntu,a=jammy-updates,n=jammy,l=Ubuntu,c=restricted,b=amd64
     origin archive.ubuntu.com
 500 http://archive.ubuntu.com/ubuntu jammy-updates/main amd64 Packages
     release v=22.04,o=Ubuntu,a=jammy-updates,n=jammy,l=Ubuntu,c=main,b=amd64
     origin archive.ubuntu.com
 500 http://other.example jammy/restricted amd64 Packages
     release a=jammy,c=restricted,b=amd64
     origin other.example
Pinned packages:
     docker.io -> 20.10.24-1 with priority 1001
"""


def test_policy_is_read_in_full():
    found = apt.with_origins(apt.parse_policy(POLICY), apt.parse_index_origins(INDEXES))
    assert found == {
        "apt": {
            "candidate": "2.4.14",
            "installed": "2.4.13",
            "versions": ["2.4.14", "2.4.13"],
            "origins": {"2.4.14": ["Ubuntu"], "2.4.13": []},
            "kernel": None,
        },
        "nvidia-utils-580-server": {
            "candidate": "580.95.05-0ubuntu0.22.04.2",
            "installed": None,
            "versions": ["580.95.05-0ubuntu0.22.04.2", "580.65.06-0ubuntu0.22.04.1"],
            "origins": {
                "580.95.05-0ubuntu0.22.04.2": ["Ubuntu"],
                "580.65.06-0ubuntu0.22.04.1": ["NVIDIA", "Ubuntu"],
            },
            "kernel": None,
        },
        "docker.io": {
            "candidate": None,
            "installed": "20.10.24-1",
            "versions": ["20.10.24-1"],
            "origins": {"20.10.24-1": []},
            "kernel": None,
        },
    }


def test_origins_are_empty_where_nobody_knows_them():
    found = apt.with_origins(apt.parse_policy(POLICY), None)
    assert found["nvidia-utils-580-server"]["origins"]["580.95.05-0ubuntu0.22.04.2"] == []
    assert apt.with_origins(None, {}) is None


# What `apt-cache showpkg` says, cut down: it lists every file and everybody who depends on the package too.
SHOWPKG = """\
Package: linux-headers-generic
Versions:@
5.15.0.160.160 (/var/lib/apt/lists/u_dists_jammy-updates_main_binary-amd64_Packages)
 Description Language:@
                 File: /var/lib/apt/lists/u_dists_jammy-updates_main_binary-amd64_Packages
                  MD5: 9e9c0c3a

Reverse Depends:@
  linux-generic,linux-headers-generic 5.15.0.160.160
Dependencies:@
5.15.0.160.160 - linux-headers-5.15.0-160-generic (0 (null))@
5.15.0.157.157 - linux-headers-5.15.0-157-generic (0 (null))@
Provides:@
5.15.0.160.160 -@
Reverse Provides:@
Package: linux-modules-nvidia-580-server-open-generic
Versions:@
Reverse Depends:@
  nvidia-headless-no-dkms-580-server-open,linux-modules-nvidia-580-server-open-generic
Dependencies:@
5.15.0-160.170 - x (3 1) linux-modules-nvidia-580-server-open-5.15.0-160-generic (5 5.15.0-160.170)@
Provides:@
""".replace("@", " ")  # it ends lines with a blank
NAMES = f"""\
bash
cuda-drivers-580
docker.io
firmware-nvidia-gsp
libcuda1
libnvidia-compute-580-server
libnvidia-container1
libnvidia-ml-dev
linux-generic
linux-headers-5.15.0-160-generic
linux-headers-5.15.0-25-generic
linux-headers-{KERNEL}
linux-headers-aws
linux-headers-generic
linux-headers-generic-hwe-22.04
linux-image-{KERNEL}
linux-image-generic
linux-image-unsigned-{KERNEL}
linux-modules-nvidia-580-server-open-5.15.0-160-generic
linux-modules-nvidia-580-server-open-5.15.0-25-generic
linux-modules-nvidia-580-server-open-{KERNEL}
linux-modules-nvidia-580-server-open-aws
linux-modules-nvidia-580-server-open-generic
nvidia-container-toolkit
nvidia-cuda-toolkit
nvidia-kernel-dkms
nvidia-open
nvidia-smi
nvidia-tesla-470-kernel-dkms
nvidia-utils-580-server
xserver-xorg-video-nvidia-580
"""


def test_candidates_are_asked_for_by_the_names_that_apt_knows(machine):
    _lists(machine)
    machine.answer("apt-cache pkgnames", NAMES)
    machine.answer("apt-cache showpkg", SHOWPKG)
    policy = POLICY + (
        "linux-headers-generic:\n  Installed: 5.15.0.157.157\n  Candidate: 5.15.0.160.160\n  Version table:\n"
        "     5.15.0.160.160 500\n *** 5.15.0.157.157 100\n        100 /var/lib/dpkg/status\n"
    )
    machine.answer("apt-cache policy", policy, err="N: Unable to locate package docker-ce\n")
    found = apt.candidates(machine.node, [KERNEL])
    assert sorted(found) == ["docker.io", "linux-headers-generic", "nvidia-utils-580-server"]
    assert found["linux-headers-generic"]["kernel"] == "5.15.0-160-generic"
    assert found["docker.io"]["kernel"] is None
    metapackages = [
        "linux-headers-generic",
        "linux-headers-generic-hwe-22.04",
        "linux-image-generic",
        "linux-modules-nvidia-580-server-open-generic",
    ]
    assert machine.asked[1] == ["apt-cache", "showpkg", *metapackages]
    assert len(machine.asked) == 3
    assert set(machine.asked[2][2:]) - set(apt.NAMES) == {
        *metapackages[1:],
        "cuda-drivers-580",
        "firmware-nvidia-gsp",
        "libcuda1",
        "libnvidia-compute-580-server",
        "libnvidia-container1",
        "nvidia-container-toolkit",
        "nvidia-kernel-dkms",
        "nvidia-open",
        "nvidia-smi",
        "nvidia-tesla-470-kernel-dkms",
        "nvidia-utils-580-server",
        # the node's kernel, and the one that the metapackages are for
        "linux-headers-5.15.0-160-generic",
        "linux-modules-nvidia-580-server-open-5.15.0-160-generic",
        f"linux-headers-{KERNEL}",
        f"linux-image-{KERNEL}",
        f"linux-image-unsigned-{KERNEL}",
        f"linux-modules-nvidia-580-server-open-{KERNEL}",
    }


def test_metapackages_without_an_answer_cost_their_kernels_only(machine):
    _lists(machine)
    machine.answer("apt-cache pkgnames", NAMES)
    machine.answer("apt-cache showpkg", err="E: broken", rc=100)
    machine.answer("apt-cache policy", POLICY)
    node = machine.node
    assert apt.candidates(node, [KERNEL])["docker.io"]["installed"] == "20.10.24-1"
    assert node.problems == [{"probe": "apt.candidates", "error": "apt-cache showpkg: E: broken"}]


@pytest.mark.parametrize(
    ("kernel", "flavour"),
    [
        ("5.15.0-157-generic", "generic"),
        ("6.8.0-1024-aws", "aws"),
        ("6.8.0-85-generic-64k", "generic-64k"),
        ("6.1.0-50-cloud-amd64", "cloud-amd64"),
        ("6.1.0-0.deb11.21-amd64", "amd64"),
        ("6.12.107+deb13-cloud-amd64", "cloud-amd64"),
        ("6.18.44-fc-v657", "fc-v657"),
        ("6.18.44", None),
    ],
)
def test_flavour_of_a_kernel(kernel, flavour):
    assert apt.flavour_of(kernel) == flavour


def test_metapackages_are_those_of_the_node_s_flavours():
    known = "\n".join(
        [
            "linux-headers-amd64",
            "linux-headers-cloud-amd64",
            "linux-headers-6.1.0-50-cloud-amd64",
            "linux-headers-6.1.0-50-common",
            "linux-image-cloud-amd64",
            "linux-image-cloud-amd64-dbg",
        ]
    )
    assert apt.metapackages(known, ["6.1.0-50-cloud-amd64"]) == [
        "linux-headers-cloud-amd64",
        "linux-image-cloud-amd64",
    ]
    # A kernel that the archive has nothing for: whatever metapackages there are.
    assert "linux-headers-amd64" in apt.metapackages(known, ["6.18.44-own"])
    assert apt.metapackages("bash\n", ["6.18.44-own"]) == []
    hwe = "linux-image-generic-hwe-24.04\nlinux-image-generic-hwe-24.04-edge\nlinux-image-generic-6.14\n"
    assert len(apt.metapackages(hwe, [KERNEL])) == 3


@pytest.mark.skipif(not os.path.exists("/usr/bin/apt-cache"), reason="needs apt")
def test_apt_s_own_words_are_what_is_parsed():
    """This machine's apt, with an archive of one metapackage, made here."""
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        lists = os.path.join(folder, "lists")
        os.makedirs(os.path.join(lists, "partial"))
        os.makedirs(os.path.join(folder, "archives", "partial"))
        base = os.path.join(lists, "archive.example_ubuntu_dists_jammy")
        with open(base + "_Release", "w", encoding="utf-8") as out:
            out.write("Origin: Ubuntu, and Friends\nSuite: jammy\nComponents: main\nArchitectures: amd64\n")
        with open(base + "_main_binary-amd64_Packages", "w", encoding="utf-8") as out:
            out.write(
                "Package: apt\nVersion: 1\nArchitecture: amd64\nFilename: a.deb\nSize: 1\n\n"
                "Package: linux-headers-generic\nVersion: 5.15.0.160.160\nArchitecture: amd64\n"
                "Depends: linux-headers-5.15.0-160-generic (= 5.15.0-160.170) | other, bash\n"
                "Filename: b.deb\nSize: 1\n\n"
            )
        for name, text in (
            ("sources.list", "deb [trusted=yes arch=amd64] http://archive.example/ubuntu jammy main\n"),
            ("status", ""),
            (
                "apt.conf",
                f'Dir::State "{folder}"; Dir::State::lists "{lists}/"; Dir::State::status "{folder}/status";'
                f'Dir::Cache "{folder}"; Dir::Etc "{folder}"; Dir::Etc::parts "-";\n'
                'APT::Architecture "amd64"; APT::Architectures {"amd64";}; Acquire::Languages "none";\n',
            ),
        ):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
                out.write(text)
        environment = {"LC_ALL": "C", "APT_CONFIG": os.path.join(folder, "apt.conf"), "PATH": "/usr/bin:/bin"}
        for name, arguments in (
            ("names", ["pkgnames"]),
            ("showpkg", ["showpkg", "linux-headers-generic"]),
            ("policy", ["policy", "apt", "linux-headers-generic", "unknown-package"]),
            ("indexes", ["policy"]),
        ):
            answer = subprocess.run(
                ["apt-cache", *arguments], capture_output=True, text=True, check=False, env=environment
            )
            assert answer.returncode == 0, answer.stderr
            answers[name] = answer.stdout
    assert "linux-headers-generic" in answers["names"].split()
    assert apt.parse_dependencies(answers["showpkg"])["linux-headers-generic"]["5.15.0.160.160"][0] == (
        "linux-headers-5.15.0-160-generic"
    )
    found = apt.with_origins(apt.parse_policy(answers["policy"]), apt.parse_index_origins(answers["indexes"]))
    assert sorted(found) == ["apt", "linux-headers-generic"]
    assert found["linux-headers-generic"]["origins"] == {"5.15.0.160.160": ["Ubuntu, and Friends"]}


def test_apt_with_broken_sources_is_quoted(machine):
    _lists(machine)
    message = "E: Conflicting values set for option Signed-By regarding source https://x/ /: a != b\n"
    machine.answer("apt-cache", "", err=message, rc=100)
    with pytest.raises(ProbeError, match="Conflicting values set for option Signed-By"):
        apt.candidates(machine.node, [])


# sources ----------------------------------------------------------------------------------------------

DEB822 = """\
# Ubuntu sources

Types: deb deb-src
URIs: http://archive.ubuntu.com/ubuntu
 http://mirror.example/ubuntu
Suites: jammy jammy-updates
# a remark inside
Components: main restricted
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Enabled: no
Types: deb
URIs: https://old.example/
Suites: /
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd
 -----END PGP PUBLIC KEY BLOCK-----

X-Remark: no source at all
"""


def test_deb822_sources(machine):
    found = aptsources.parse("/etc/apt/sources.list.d/ubuntu.sources", DEB822)
    assert [(entry.enabled, entry.uris, entry.suites, entry.components) for entry in found] == [
        (
            True,
            ["http://archive.ubuntu.com/ubuntu", "http://mirror.example/ubuntu"],
            ["jammy", "jammy-updates"],
            ["main", "restricted"],
        ),
        (False, ["https://old.example/"], ["/"], []),
    ]
    assert (found[0].start, found[0].end) == (2, 9)
    assert found[1].facts("x")["signed_by"] == "embedded"


@pytest.mark.parametrize("word", ["no", "No", "false", "0", "off", "without", "disable"])
def test_deb822_ways_to_say_no(word):
    text = f"Types: deb\nURIs: http://x/\nSuites: /\nEnabled: {word}\n"
    assert aptsources.parse_deb822(text)[0].enabled is False


KEYRINGS = "/usr/share/keyrings/a.gpg,/usr/share/keyrings/b.gpg"
ONE_LINE = f"""\
# See http://help.ubuntu.com/community/UpgradeNotes
deb http://archive.ubuntu.com/ubuntu jammy main restricted # inline remark
  deb-src\t[arch=amd64,arm64 signed-by={KEYRINGS}] https://x.example/deb/$(ARCH) /
# deb http://security.ubuntu.com/ubuntu jammy-security main
#deb cdrom:[Ubuntu 22.04 LTS _Jammy Jellyfish_]/ jammy main
# deb packages are described elsewhere today
deb [ trusted=yes ] file:/srv/repo ./
nonsense
deb
"""


def test_one_line_sources():
    found = aptsources.parse("/etc/apt/sources.list", ONE_LINE)
    assert [
        (e.enabled, e.types, e.uris, e.suites, e.components, e.architectures, e.signed_by) for e in found
    ] == [
        (True, ["deb"], ["http://archive.ubuntu.com/ubuntu"], ["jammy"], ["main", "restricted"], [], None),
        (
            True,
            ["deb-src"],
            ["https://x.example/deb/$(ARCH)"],
            ["/"],
            [],
            ["amd64", "arm64"],
            KEYRINGS,
        ),
        (False, ["deb"], ["http://security.ubuntu.com/ubuntu"], ["jammy-security"], ["main"], [], None),
        (False, ["deb"], ["cdrom:[Ubuntu 22.04 LTS _Jammy Jellyfish_]/"], ["jammy"], ["main"], [], None),
        (True, ["deb"], ["file:/srv/repo"], ["./"], [], [], None),
    ]


def test_files_that_apt_ignores_are_ignored(machine):
    line = "deb http://x.example/ stable main\n"
    for name in ("good.list", "bad.list.save", "bad name.list", "x.sources.gpuready-disabled", "noext"):
        machine.write("/etc/apt/sources.list.d/" + name, line)
    machine.write("/etc/apt/sources.list", line)
    assert [source["file"] for source in apt.sources(machine.node)] == [
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d/good.list",
    ]


def test_unreadable_source_does_not_hide_the_others(machine, unreadable):
    machine.write("/etc/apt/sources.list.d/a.list", "deb http://a.example/ stable main\n")
    machine.write("/etc/apt/sources.list.d/b.list", "deb http://b.example/ stable main\n")
    unreadable("/a.list")
    node = machine.node
    assert [source["uris"] for source in apt.sources(node)] == [["http://b.example/"]]
    assert node.problems[0]["probe"] == "apt.sources"


def test_fingerprints_of_a_keyring(machine):
    body = (
        b"\x04"
        + b"\x65\x4b\x67\xde"
        + b"\x16"
        + b"\x09\x2b\x06\x01\x04\x01\xda\x47\x0f\x01"
        + b"\x01\x07\x40"
        + b"k" * 32
    )
    packet = b"\x98" + bytes([len(body)]) + body
    expected = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()
    machine.write("/etc/apt/keyrings/x.gpg", packet)
    machine.write("/etc/apt/keyrings/bad.asc", "<html>not found</html>")
    armored = [
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
        ".",
        base64.b64encode(packet).decode(),
        "-----END PGP PUBLIC KEY BLOCK-----",
    ]
    machine.write(
        "/etc/apt/sources.list.d/x.sources",
        "".join(
            f"Types: deb\nURIs: http://{name}.example/\nSuites: /\n{signed}\n\n"
            for name, signed in (
                ("file", "Signed-By: /etc/apt/keyrings/x.gpg"),
                ("inside", "Signed-By:\n " + "\n ".join(armored)),
                ("gone", "Signed-By: /etc/apt/keyrings/gone.gpg"),
                ("bad", "Signed-By: /etc/apt/keyrings/bad.asc"),
                ("print", "Signed-By: " + expected),
                ("none", "X: y"),
            )
        ),
    )
    node = machine.node
    found = {source["uris"][0][7:].split(".")[0]: source["fingerprints"] for source in apt.sources(node)}
    assert found == {
        "file": [expected],
        "inside": [expected],
        "gone": None,
        "bad": None,
        "print": None,
        "none": None,
    }
    assert [problem["error"] for problem in node.problems] == [
        "keyring /etc/apt/keyrings/bad.asc: it is not an OpenPGP key; it begins: <html>not found</html>"
    ]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("https://x.example/deb/$(ARCH)", "https://x.example/deb/amd64/", True),
        ("http://x.example/deb", "https://x.example/deb", True),
        ("HTTPS://X.Example:443/deb/", "https://x.example/deb", True),
        ("https://user:secret@x.example/deb", "https://x.example/deb", True),
        ("https://x.example//deb", "https://x.example/deb", True),
        ("tor+https://x.example/deb", "https://x.example/deb", True),
        ("https://x.example/Deb", "https://x.example/deb", False),
        ("https://x.example:8443/deb", "https://x.example/deb", False),
        ("https://x.example/deb", "https://x.example/deb2", False),
        ("file:/srv/x", "https://srv/x", False),
    ],
)
def test_spellings_of_one_repository(left, right, same):
    assert (aptsources.normalise_uri(left, "amd64") == aptsources.normalise_uri(right, "amd64")) is same


# unattended upgrades, dpkg's state, locks -------------------------------------------------------------

CONFIG = """\
APT "";
APT::Architecture "amd64";
APT::Periodic "";
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade "";
Unattended-Upgrade::Package-Blacklist "";
Unattended-Upgrade::Package-Blacklist:: "^nvidia-";
Unattended-Upgrade::Package-Blacklist:: "libc6$";
"""
INSTALLED = packages.parse("unattended-upgrades\tall\t2.8\tinstall\tinstalled\tok\n")


@pytest.mark.parametrize(
    ("config", "found", "enabled"),
    [
        (CONFIG, INSTALLED, True),
        (CONFIG.replace('Unattended-Upgrade "1"', 'Unattended-Upgrade "0"'), INSTALLED, False),
        (CONFIG + 'APT::Periodic::Enable "0";\n', INSTALLED, False),
        (CONFIG, [], False),
        ("", INSTALLED, False),
        (CONFIG, None, None),
    ],
)
def test_unattended_upgrades_run(machine, config, found, enabled):
    machine.answer("apt-config dump", config)
    assert apt.unattended_upgrades(machine.node, found)["enabled"] is enabled


def test_blacklist_and_guard_file(machine):
    machine.answer("apt-config dump", CONFIG)
    facts = apt.unattended_upgrades(machine.node, INSTALLED)
    assert facts["blacklist"] == ["^nvidia-", "libc6$"] and facts["guard_file"] is False
    guard = machine.write(aptguard.PATH, aptguard.content())
    assert apt.guard_file(machine.node) is True
    guard.write_text(aptguard.content() + "\n")  # tampered with
    assert apt.guard_file(machine.node) is False


@pytest.mark.parametrize(
    ("name", "blocked"),
    [
        ("nvidia-utils-580-server", True),
        ("nvidia-driver-580-open", True),
        ("nvidia-kernel-common-580-server", True),
        ("nvidia-headless-no-dkms-580-server-open", True),
        ("nvidia-dkms-580-server", True),
        ("nvidia-firmware-580-server-580.95.05", True),
        ("nvidia-fabricmanager-580", True),
        ("nvidia-persistenced", True),
        ("nvidia-smi", True),
        ("nvidia-open-kernel-dkms", True),
        ("nvidia-tesla-535-driver", True),
        ("nvidia-opencl-icd", True),
        ("nvidia-vdpau-driver", True),
        ("nvidia-cuda-mps", True),
        ("libnvidia-compute-580-server", True),
        ("libnvidia-ml1", True),
        ("libcuda1", True),
        ("linux-modules-nvidia-580-server-open-generic", False),
        ("linux-signatures-nvidia-5.15.0-157-generic", False),
        ("xserver-xorg-video-nvidia-580", True),
        ("cuda-drivers-580", True),
        ("nvidia-container-toolkit-base", True),
        ("libnvidia-container1", True),
        ("nvidia-cuda-toolkit", False),
        ("nvidia-cudnn", False),
        ("nvidia-prime", False),
        ("cuda-toolkit-12-4", False),
        ("linux-image-generic", False),
        ("linux-modules-5.15.0-157-generic", False),
        ("docker.io", False),
        ("libc6", False),
        ("python3-nvidia-ml-py", False),
    ],
)
def test_guard_names_nvidia_s_driver_and_toolkit_only(name, blocked):
    # unattended-upgrades matches at the start of the name.
    assert any(re.match(pattern, name) for pattern in aptguard.PATTERNS) is blocked


@pytest.mark.skipif(not os.path.exists("/usr/bin/apt-config"), reason="needs apt")
def test_guard_is_read_by_apt_as_it_is_meant(tmp_path):
    guard = tmp_path / "guard"
    guard.write_text(aptguard.content())
    answer = subprocess.run(
        ["apt-config", "-c", str(guard), "dump"], capture_output=True, text=True, check=True
    )
    assert apt.parse_config(answer.stdout)["unattended-upgrade::package-blacklist"][
        -len(aptguard.PATTERNS) :
    ] == (aptguard.PATTERNS)


@pytest.mark.parametrize(
    ("journal", "dpkg", "locked", "expected"),
    [
        ([], "a\tamd64\t1\tinstall\tinstalled\tok\n", False, False),
        (["0001"], "", False, True),
        (["tmp.i"], "", False, False),
        ([], "a\tamd64\t1\tinstall\thalf-configured\tok\n", False, True),
        ([], "a\tamd64\t1\tinstall\tunpacked\tok\n", False, True),
        ([], "a\tamd64\t1\tinstall\tinstalled\treinstreq\n", False, True),
        ([], "a\tamd64\t1\tinstall\ttriggers-pending\tok\n", False, False),
        (["0001"], "", True, None),  # somebody is at work
        (["0001"], "", None, None),
    ],
)
def test_dpkg_that_was_interrupted(machine, journal, dpkg, locked, expected):
    machine.mkdir("/var/lib/dpkg/updates")
    for name in journal:
        machine.write("/var/lib/dpkg/updates/" + name)
    assert apt.interrupted(machine.node, packages.parse(dpkg), locked) is expected


HOLDER = """\
import fcntl, sys, time
handle = open(sys.argv[1], "r+")
fcntl.lockf(handle, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(30)
"""


def test_lock_is_seen_and_never_taken(machine):
    assert apt.lock_holder(machine.node) is None  # no such file
    lock = machine.write(apt.LOCK)
    assert apt.lock_holder(machine.node) is None
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        assert apt.lock_holder(machine.node) == process.pid
    finally:
        process.kill()
        process.wait()
    with open(lock, "r+") as handle:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0)


def test_node_without_apt_says_so(machine):
    with pytest.raises(ProbeError, match="no apt"):
        apt.facts(machine.node, None, lambda: None, lambda: None, list)


@pytest.mark.parametrize(("written", "known"), [(6000, True), (4000, False), (-10, True)])
def test_lists_do_not_count_for_a_source_that_came_after_them(machine, written, known):
    """As a run leaves them that was cut off; a clock that went wrong is no reason to fetch for ever."""
    _lists(machine, age=5000)
    machine.write("/etc/apt/sources.list.d/new.sources", "")
    at = machine.now - written
    os.utime(machine.root / "etc/apt/sources.list.d/new.sources", (at, at))
    assert (apt.lists_age(machine.node) is not None) is known
