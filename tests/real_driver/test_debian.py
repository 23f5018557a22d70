"""NVIDIA's real packages on Debian, through gpuready's own flow; observation and plan tell the truth."""

from __future__ import annotations

import re
from typing import Any

from kit.runs import Run
from story import INITRAMFS, Story

CORE = ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "libnvidia-ml1")
#: What remains after a removal, and why: packages' own doing that no package takes back.
#: nvpd is the user of nvidia-persistenced, which its postrm keeps; DKMS's signing key may be enrolled by now.
LEFT_BY_PACKAGES = {"nvpd", "/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"}

OWN_SOURCE = "/etc/apt/sources.list.d/owners-choice.sources"


def security_source(story: Story) -> str:
    """NVIDIA's components of the security archive, as an owner would enable them."""
    lines = story.node.sh("cat /etc/apt/sources.list.d/debian.sources").split("\n\n")
    (stanza,) = (text for text in lines if "-security\n" in text)
    return re.sub("(?m)^Components: .*$", "Components: contrib non-free", stanza).strip() + "\n"


def upstream(version: str) -> str:
    """535.261.03 of 535.261.03-1."""
    found = re.match(r"(?:\d+:)?(\d+\.\d+(?:\.\d+)?)", version)
    assert found, version
    return found[1]


def action(document: dict[str, Any], name: str) -> dict[str, Any]:
    """An action of the document's plan."""
    found = {entry["id"]: entry for entry in document["plan"]["actions"]}
    assert name in found, f"no {name} among {list(found)}; {document['plan']['conflicts']}"
    return found[name]


def check_bare(story: Story, *branches: str) -> None:
    """Before: nothing is there, and the plan is Debian's driver, built for the kernel of the next boot."""
    document = story.look()
    stack, plan = document["gpu_stack"], document["plan"]
    assert stack["driver"]["packages"] == []
    assert stack["driver"]["on_disk"] is None
    assert stack["host"]["kernel"]["next_boot"] == story.kernel
    assert stack["host"]["kernel"]["running"] != story.kernel
    assert not plan["conflicts"]
    driver = plan["driver"]
    assert (driver["source"], driver["origin"], driver["install"]) == ("debian", "Debian", "dkms")
    assert driver["branch"] in branches
    assert driver["kernel"] == story.kernel
    assert plan["reboot"]["needed"]
    assert story.kernel in plan["reboot"]["reason"]


def check_installed(story: Story, version: str, flavour: str = "proprietary") -> None:
    """After: every word of the observation is what the node itself says, and only the reboot remains."""
    document = story.look()
    stack, plan = document["gpu_stack"], document["plan"]
    observed = stack["driver"]

    # The node itself: real packages, unharmed, and a module that the compiler made here for Debian's kernel.
    dkms_package = "nvidia-open-kernel-dkms" if flavour == "open" else "nvidia-kernel-dkms"
    packages = (dkms_package, *CORE[1:])
    assert {package: story.version(package) for package in packages} == dict.fromkeys(packages, version)
    # The lab's nodes take no documentation, as slim images do.
    damaged = story.node.sh(f"dpkg --verify {' '.join(packages)}", check=False).splitlines()
    assert [line for line in damaged if " /usr/share/doc/" not in line] == []
    assert int(story.node.sh("stat -L -c %s /usr/lib/x86_64-linux-gnu/libcuda.so.1")) > 10_000_000
    module = story.module(story.kernel)
    assert module["version"] == upstream(version)
    assert module["vermagic"].split()[0] == story.kernel
    assert ": installed" in story.node.sh(f"dkms status -k {story.kernel}")
    assert not story.node.holds("grep -q ^nvidia /proc/modules")
    said = story.node.sh("nvidia-smi; echo rc $?")
    assert "couldn't communicate with the NVIDIA driver" in said
    # Nothing of X, though the archive has it.
    assert "xserver-xorg-core" in story.node.sh("apt-cache madison xserver-xorg-core")
    unwanted = "^(xserver-xorg|libgl1|libx11-6|nvidia-driver|nvidia-settings)(:|$)"
    listed = story.node.sh("dpkg-query -W -f '${Package}\\n'").split()
    assert [package for package in listed if re.match(unwanted, package)] == []

    # What gpuready says about it.
    seen = {package["name"]: package for package in observed["packages"]}
    for package in packages:
        assert (seen[package]["version"], seen[package]["status"]) == (version, "installed")
        assert seen[package]["held"], f"{package} is not held"
    assert observed["loaded"] is None
    assert observed["on_disk"] is None, "no module was built for the kernel that runs"
    on_disk = observed["on_disk_next_boot"]
    assert (on_disk["version"], on_disk["kernel"]) == (upstream(version), story.kernel)
    assert on_disk["flavour"] == flavour
    assert on_disk["path"] == module["filename"]
    assert on_disk["signed"] == bool(module.get("signer"))
    assert observed["userspace"]["version"] == upstream(version)
    assert observed["userspace"]["nvidia_smi"] == "/usr/bin/nvidia-smi"
    # No hardware answers.
    assert not observed["devices"]
    assert observed["nvml"]["error"]
    assert observed["device_nodes"] == []
    (built,) = (row for row in observed["dkms"] if row["kernel"] == story.kernel)
    assert (built["version"], built["status"]) == (upstream(version), "installed")
    assert observed["record"] is not None
    assert set(packages) <= set(observed["record"]["packages"])

    assert not plan["conflicts"]
    assert plan["driver"]["keeps_installed"]
    assert plan["reboot"] == {**plan["reboot"], "needed": True, "allowed": False}
    assert story.kernel in plan["reboot"]["reason"]
    left = [entry["id"] for entry in plan["actions"] if entry["role"] == "nvidia_driver"]
    assert left == [], "what a reboot must come before is left out where none is allowed"


def check_nothing_more(story: Story, **wishes: Any) -> None:
    """A second run changes nothing."""
    run = story.apply("run the role again", **wishes)
    assert run.rc == 0, run.output
    assert run.changed(story.node.name) == 0, run.output


def check_removed(story: Story, run: Run) -> None:
    """After a removal the node is as it was."""
    assert run.rc == 0, run.output
    # Real initramfs images carry times: what is in them is compared instead.
    before, after = (
        story.before.lasting(but=["initramfs"]),
        story.node.fingerprint().lasting(but=["initramfs"]),
    )
    assert before.differences(after) == []
    left = set(story.node.sh(INITRAMFS).splitlines()) ^ set(story.initramfs_before.splitlines())
    assert left == set()
    assert story.node.sh("systemctl --failed --plain --no-legend") == story.failed_units_before
    assert story.module(story.kernel) == {}
    users = {line.split(":")[0] for line in story.node.sh("getent passwd").splitlines()}
    assert users - LEFT_BY_PACKAGES == users - {"nvpd"}
    assert (
        set(story.node.sh("[ ! -e /var/lib/dkms ] || find /var/lib/dkms -type f").split()) <= LEFT_BY_PACKAGES
    )


# --- Debian 12 ----------------------------------------------------------------------------------------------


def test_bookworm_plans_a_build_for_the_next_boot(bookworm: Story) -> None:
    check_bare(bookworm, "535")


def test_bookworm_builds_the_releases_own_version(bookworm: Story) -> None:
    oldest = bookworm.offered("nvidia-smi")[-1]
    run = bookworm.apply(f"install {oldest} (DKMS builds)", nvidia_driver_version=oldest)
    assert run.rc == 0, run.output
    bookworm.wishes["nvidia_driver_version"] = oldest
    check_installed(bookworm, oldest)
    check_nothing_more(bookworm)


def test_bookworm_upgrades_to_the_security_teams_version(bookworm: Story) -> None:
    newest, oldest = (bookworm.offered("nvidia-smi")[index] for index in (0, -1))
    assert newest != oldest, "Debian's security archive has no driver any more: drop this test"
    # gpuready enables the archive's components; those of the security archive are the owner's choice.
    bookworm.node.write(OWN_SOURCE, security_source(bookworm))
    bookworm.node.sh("apt-get --quiet update")
    plan = bookworm.look()["plan"]
    assert plan["driver"]["keeps_installed"], "what is installed suits: it stays"
    plan = bookworm.look(nvidia_driver_version=newest)["plan"]
    assert (plan["driver"]["change"], plan["driver"]["package_version"]) == ("upgrade", newest)
    run = bookworm.apply(f"upgrade to {newest} (DKMS builds)", nvidia_driver_version=newest)
    assert run.rc == 0, run.output
    bookworm.wishes["nvidia_driver_version"] = newest
    check_installed(bookworm, newest)
    record = bookworm.look()["gpu_stack"]["driver"]["record"]
    assert record["previous"]["version"] == upstream(oldest)
    assert record["original"] is None
    # The old module is gone: DKMS keeps one version.
    assert upstream(oldest) not in bookworm.node.sh("dkms status")


def test_bookworm_provisions_all_but_the_reboot(bookworm: Story) -> None:
    run = bookworm.run("provision the rest", "playbooks/provision.yml")
    assert run.rc != 0, "a reboot that is not allowed is no success"
    document = run.node(bookworm.node.name)
    assert document["status"] == "reboot_pending", document["error"]
    assert "host_reboot_allowed" in document["error"]
    assert bookworm.node.holds("docker info")
    assert bookworm.version("docker.io")


def test_bookworm_says_after_the_reboot_that_the_module_does_not_load(bookworm: Story) -> None:
    bookworm.node.reboot()
    bookworm.node.sh("systemctl reset-failed")
    document = bookworm.look()
    host, driver = document["gpu_stack"]["host"], document["gpu_stack"]["driver"]
    assert host["kernel"]["running"] == bookworm.kernel
    assert driver["on_disk"]["kernel"] == bookworm.kernel
    assert driver["loaded"] is None
    assert not document["plan"]["reboot"]["needed"]
    action(document, "driver.load")
    # The real modprobe, the real module, and a kernel that will not have it: the node may not load modules.
    run = bookworm.apply("load the module, in vain")
    assert run.rc != 0
    # The second: this machine's kernel takes no modules at all.
    refusal = "could not insert 'nvidia_current': (Operation not permitted|Function not implemented)"
    assert re.search(refusal, run.said), run.output
    assert "Remove that line" not in run.said, "Debian's own modprobe configuration is not to blame"
    assert bookworm.look()["gpu_stack"]["driver"]["loaded"] is None


def test_bookworm_is_as_it_was_after_the_removal(bookworm: Story) -> None:
    bookworm.node.sh(f"rm -f {OWN_SOURCE}")
    check_removed(bookworm, bookworm.run("remove everything", "playbooks/remove.yml", images=True))


# --- Debian 11 ----------------------------------------------------------------------------------------------


def test_bullseye_plans_a_build_for_the_next_boot(bullseye: Story) -> None:
    # By the catalog, as long as apt does not know: the security archive has 535.
    check_bare(bullseye, "470", "535")


def test_bullseye_builds_470(bullseye: Story) -> None:
    run = bullseye.apply("install (DKMS builds)")
    assert run.rc == 0, run.output
    (version,) = bullseye.offered("nvidia-smi")
    check_installed(bullseye, version)
    check_nothing_more(bullseye)


def test_bullseye_is_as_it_was_after_the_removal(bullseye: Story) -> None:
    check_removed(bullseye, bullseye.apply("remove", "remove"))


# --- Debian 13 ----------------------------------------------------------------------------------------------


def test_trixie_plans_a_build_for_the_next_boot(trixie: Story) -> None:
    check_bare(trixie, "550")


def test_trixie_tells_whether_the_open_module_was_built(trixie: Story) -> None:
    """550.163.01-2 does not compile for 6.12.117, the security archive's kernel; that may be repaired."""
    trixie.wishes["nvidia_driver_flavour"] = "open"
    run = trixie.apply("install open modules (DKMS tries)")
    if trixie.module(trixie.kernel):
        assert run.rc == 0, run.output
        check_installed(trixie, trixie.offered("nvidia-smi")[0], flavour="open")
        return
    assert run.rc != 0
    assert "/make.log: " in run.said and " error: " in run.said, "the compiler's own words are missing"
    assert "DKMS" in run.said
    document = trixie.look()
    observed, plan = document["gpu_stack"]["driver"], document["plan"]
    status = {package["name"]: package["status"] for package in observed["packages"]}
    assert status["nvidia-open-kernel-dkms"] == "half-configured"
    assert observed["on_disk_next_boot"] is None
    assert [row["status"] for row in observed["dkms"]] == ["added"]
    assert plan["status"] != "converged"


def test_trixie_is_as_it_was_after_the_removal(trixie: Story) -> None:
    check_removed(trixie, trixie.apply("remove", "remove"))
