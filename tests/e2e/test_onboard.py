"""From an address and a password to an accepted node, with one command; and what becomes of the others.

The nodes are as a data centre hands them over: one user with a password, no key, in no inventory. The
tests build on
each other in the order in which they stand here.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kit import LAB, ROOT
from kit.nodes import Node, down_all, up_all
from kit.runs import Run, play

OURS = os.getpid()
USER = "dc"
#: As a data centre leaves a machine: sshd takes passwords, and keys only where users have them.
HANDED_OVER = """set -e
userdel --remove ansible 2>/dev/null || true
rm -f /etc/sudoers.d/ansible /etc/ssh/gpulab_authorized_keys
useradd --create-home --shell /bin/bash dc
chpasswd
echo 'dc ALL=(ALL:ALL) ALL' > /etc/sudoers.d/50-datacentre
cat > /etc/ssh/sshd_config.d/05-datacentre.conf <<END
PasswordAuthentication yes
AuthorizedKeysFile .ssh/authorized_keys
END
systemctl reload ssh.service
"""
QUESTION = r"\[yes, names of nodes, or no\]"
INVENTORY = """\
# The site's nodes. Whoever adds one tells the others.
all:
  children:
    gpu_nodes:
      children:
        a100:   # the big ones
          hosts: {}
      vars:
        ansible_user: ubuntu          # cloud images
"""


@dataclass
class Site:
    """A site of its own with new nodes, and what the tests tell each other."""

    folder: Path
    nodes: dict[str, Node]
    password: str
    mute: int
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def inventory(self) -> Path:
        return self.folder / "site" / "hosts.yml"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "site" / "known_hosts"

    def hosts(self) -> dict[str, Any]:
        """The inventory as Ansible reads it, without the lab."""
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-inventory", "-i", self.inventory, "--list"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        return json.loads(done.stdout)

    def group(self, name: str) -> list[str]:
        return self.hosts().get(name, {}).get("hosts", [])

    def fingerprint(self, name: str) -> str:
        """What the data centre's papers say of a node, read on the node itself."""
        return self.nodes[name].sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]

    def papers(self, *names: str, **changes: str) -> Path:
        """The data centre's list of some nodes."""
        path = self.folder / "papers.csv"
        columns = ["name", "address", "port", "host_key", "bootstrap_user", "bootstrap_password"]
        columns += ["var:framework_image_registry_mirror"]
        small = "gpulab-registry:5000/standin"
        with path.open("w", encoding="utf-8", newline="") as sink:
            table = csv.DictWriter(sink, columns)
            table.writeheader()
            for name in names:
                known = name in self.nodes
                row = {
                    "name": name,
                    "address": "127.0.0.1",
                    "port": self.nodes[name].connection["port"] if known else self.mute,
                    "host_key": self.fingerprint(name) if known else "",
                    "bootstrap_user": USER,
                    "bootstrap_password": self.password,
                    # One node proves it with the real TensorFlow.
                    "var:framework_image_registry_mirror": "" if name == "good" else small,
                }
                table.writerow({**row, **changes})
        path.chmod(0o600)
        return path

    def onboard(
        self, *names: str, approve: bool | None = True, papers: dict[str, str] | None = None, **more: Any
    ) -> Run:
        """The one command."""
        variables: dict[str, Any] = {"csv": str(self.papers(*names, **(papers or {})))}
        variables.update({} if approve is None else {"approve": approve})
        variables.update(more.pop("variables", {}))
        return play(
            "playbooks/onboard.yml",
            self.folder,
            inventories=(LAB, self.inventory),
            variables=variables,
            **more,
        )

    def record(self, name: str) -> dict[str, Any]:
        """The acceptance record that the site keeps."""
        return json.loads((self.inventory.parent / "acceptance" / f"{name}.json").read_text(encoding="utf-8"))


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server.getsockname()[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three machines from the data centre: good, faulty, without a GPU. And an address that is silent."""
    subprocess.run([sys.executable, ROOT / "molecule/shared/standin_image.py"], check=True)
    gpus = {"good": "a100", "faulty": "a100", "bare": ""}
    made = up_all([{"name": f"e2e-{name}-{OURS}", "gpus": models} for name, models in gpus.items()])
    try:
        with silence() as mute:
            folder = tmp_path_factory.mktemp("onboard")
            yield handed_over(
                Site(folder, dict(zip(gpus, made, strict=True)), secrets.token_urlsafe(12), mute)
            )
    finally:
        down_all(made)


def handed_over(site: Site) -> Site:
    """The nodes as the data centre leaves them, and a site that knows nothing of them yet."""
    for node in site.nodes.values():
        node.sh(HANDED_OVER, stdin=f"{USER}:{site.password}\n")
    site.seen["handed over"] = site.nodes["faulty"].fingerprint().lasting()
    site.nodes["faulty"].fault("mig_without_instances=true")
    folder = site.inventory.parent
    (folder / "group_vars").mkdir(parents=True)
    site.inventory.write_text(INVENTORY, encoding="utf-8")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    options = {
        "UserKnownHostsFile": site.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
    }
    variables = {
        "ansible_ssh_private_key_file": str(folder / "key"),
        "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
        "gpu_acceptance_level": "list",  # the lab's GPUs cannot compute
        "gpu_acceptance_rounds": 2,
    }
    (folder / "group_vars" / "gpu_nodes.json").write_text(json.dumps(variables), encoding="utf-8")
    return site


@contextlib.contextmanager
def overheard(secret: str) -> Iterator[list[str]]:
    """Who has a secret in its arguments or environment meanwhile; the lab's nodes are processes of this "
    "machine, too."""
    found: list[str] = []
    over = threading.Event()

    def listen() -> None:
        needle = secret.encode()
        while not over.wait(0.05):
            for folder in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        if needle in (text := (folder / name).read_bytes()):
                            found.append(f"{name}: {text[:200]!r}")

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def error(run: Run, name: str) -> str:
    """What the report says of a node that failed, in one line."""
    return " ".join(str(run.node(name)["error"]).split()) if (run.report / "latest").exists() else run.said


# --- what is refused, on a node that stays as it was
# ---------------------------------------------------------------

#: Name → (preparation on the node, changes of the papers, words of the one error).
REFUSED: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "host_key_that_nobody_knows": (
        "",
        {"host_key": ""},
        ("nobody knows the host key", "SHA256:", "host_key_accepted"),
    ),
    "host_key_that_is_another": (
        "",
        {"host_key": "SHA256:" + 43 * "A"},
        ("shows another host key", "SHA256:" + 43 * "A", "Nothing was told to it"),
    ),
    "password_that_is_wrong": ("", {"bootstrap_password": "wrong"}, ("refuses the password of dc",)),
    "password_that_has_expired": ("chage --lastday 0 dc", {}, ("the password of dc has expired",)),
    "user_that_may_not_become_root": (
        "rm /etc/sudoers.d/50-datacentre",
        {},
        ("dc cannot become root", "has no sudo"),
    ),
    "system_that_is_none": (
        "sed -i 's/^ID=.*/ID=rocky/; s/^PRETTY_NAME=.*/PRETTY_NAME=\"Rocky Linux 9.4\"/' /usr/lib/os-release",
        {},
        ("Rocky Linux 9.4", "only Ubuntu and Debian"),
    ),
    "machine_without_a_gpu": ("", {}, ("no NVIDIA GPU",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_node_that_cannot_be_onboarded_is_refused_before_any_change(site: Site, name: str) -> None:
    preparation, papers, words = REFUSED[name]
    node, inventory = site.nodes["bare"], site.inventory.read_bytes()
    kept = "/etc/shadow /etc/sudoers.d/50-datacentre /usr/lib/os-release"
    node.sh(f"mkdir -p /root/kept && cp -a --parents {kept} /root/kept; {preparation}")
    before = node.fingerprint()
    try:
        run = site.onboard("bare", papers=papers)
        assert run.rc != 0, run.output
        said = error(run, "bare")
        assert [word for word in words if word not in said] == [], run.output
        assert before.differences(node.fingerprint()) == []
        assert site.inventory.read_bytes() == inventory
    finally:
        node.sh("cp -a /root/kept/. /; rm -r /root/kept")


def test_inventory_that_cannot_be_parsed_is_not_touched(site: Site) -> None:
    sound = site.inventory.read_text(encoding="utf-8")
    site.inventory.write_text(f"{sound}  oh: [no\n", encoding="utf-8")
    try:
        run = site.onboard("bare")
        assert run.rc != 0
        assert str(site.inventory) in run.output
        assert site.inventory.read_text(encoding="utf-8") == f"{sound}  oh: [no\n"
    finally:
        site.inventory.write_text(sound, encoding="utf-8")


# --- the way into service
# --------------------------------------------------------------------------------------------


def test_plan_is_shown_and_nothing_is_provisioned_without_approval(site: Site) -> None:
    """Somebody says no; the access is set up already, as the next run finds."""
    with overheard(site.password) as found:
        run = site.onboard("good", approve=None, answers={QUESTION: "no"})
    assert found == []
    assert run.rc != 0
    assert "was not approved" in error(run, "good")
    for words in ("driver.install", "image.fetch", "a100"):
        assert words in run.output
    assert site.group("gpu_nodes") == [] and site.group("gpu_quarantine") == []
    assert not site.nodes["good"].holds("command -v docker")
    assert site.nodes["good"].holds("id gpuready && sudo -l -U gpuready | grep NOPASSWD")


def test_password_opens_the_node_no_more(site: Site) -> None:
    node = site.nodes["good"]
    done = subprocess.run(
        [
            *("ssh", "-F", "/dev/null", "-o", f"UserKnownHostsFile={site.known_hosts}"),
            *("-o", "BatchMode=yes", "-o", "PreferredAuthentications=none"),
            *("-p", str(node.connection["port"]), f"{USER}@127.0.0.1", "true"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Permission denied (publickey)." in done.stderr
    assert node.sh(f"passwd --status {USER}").split()[1] == "L"


def test_onboarding_that_is_cut_off_leaves_the_node_in_quarantine(site: Site) -> None:
    # Into the inventory, and three changes of the provisioning.
    run = site.onboard("good", cut_off_after=5)
    assert run.rc != 0
    assert site.group("gpu_quarantine") == ["good"]
    assert site.group("gpu_nodes") == []


def test_several_at_once_each_at_its_own_pace(site: Site) -> None:
    """One goes on where it was cut off, one is faulty, one has no GPU, and one does not answer at all."""
    with overheard(site.password) as found:
        run = site.onboard("mute", "good", "faulty", "bare", approve=True)
    site.seen["run"] = run
    assert found == []
    assert run.rc != 0
    assert not run.failed("good"), run.output
    assert run.node("good")["status"] == "verified"
    assert "was not reached" in error(run, "mute")
    assert "no NVIDIA GPU" in error(run, "bare")
    # The silent one was still waited for when others had long gone on.
    given_up, went_on = run.output.index("was not reached"), run.output.index("Find out who can log in")
    assert went_on < given_up


def test_accepted_node_is_in_its_group_and_the_rest_of_the_inventory_as_it_was(site: Site) -> None:
    hosts = site.hosts()
    assert hosts["a100"]["hosts"] == ["good"]
    variables = hosts["_meta"]["hostvars"]["good"]
    assert variables["ansible_user"] == "gpuready"
    text = site.inventory.read_text(encoding="utf-8")
    for line in INVENTORY.splitlines():
        assert line in text or line.strip() == "hosts: {}", line


def test_accepted_node_has_its_record(site: Site) -> None:
    record = site.record("good")
    assert record["verdict"] == "accepted"
    assert record["host_key"] == {"fingerprints": [site.fingerprint("good")], "trust": "pinned"}
    assert record["simulated"] is True
    assert [gpu["name"] for gpu in record["hardware"]["gpus"]] == ["NVIDIA A100 80GB PCIe"]
    assert record["software"]["driver"]["version"] and record["software"]["images"][0]["digest"]
    assert len(record["rounds"]) == 2 and all(row["ok"] for row in record["rounds"])
    assert {"access", "provision", "verify"} <= {row["stage"] for row in record["timings"]}
    assert record["signed_by"]
    written = site.seen["run"].report / "latest" / "acceptance" / "good.json"
    assert json.loads(written.read_text(encoding="utf-8"))["digest"] == record["digest"]


def test_faulty_node_stays_in_quarantine_with_the_right_diagnosis(site: Site) -> None:
    assert site.group("gpu_quarantine") == ["faulty"]
    record = site.record("faulty")
    assert record["verdict"] == "rejected"
    causes = [cause["cause"] for cause in record["diagnosis"]["causes"]]
    assert causes[:1] == ["mig-without-instances"], record["diagnosis"]


def test_nodes_that_were_refused_are_in_no_inventory(site: Site) -> None:
    assert {"bare", "mute"} & set(site.hosts()["_meta"]["hostvars"]) == set()


def test_inventory_as_it_is_now_leads_to_a_converged_node(site: Site) -> None:
    run = play("playbooks/plan.yml", site.folder, inventories=(LAB, site.inventory), limit=("good",))
    assert run.rc == 0, run.output
    assert run.plan("good")["status"] == "converged"


def test_once_more_does_nothing_to_a_node_in_service(site: Site) -> None:
    before = site.inventory.read_bytes()
    run = site.onboard("good")
    assert run.rc == 0, run.output
    assert "is in service already" in run.said
    assert run.changed("good") == 0
    assert site.inventory.read_bytes() == before


def test_host_key_that_has_changed_is_refused(site: Site, tmp_path: Path) -> None:
    """The faulty node comes back from repair, installed anew, and nobody has said what its key is now."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    port = site.nodes["faulty"].connection["port"]
    known = site.known_hosts.read_text(encoding="utf-8")
    other = " ".join((tmp_path / "key.pub").read_text(encoding="utf-8").split()[:2])
    site.known_hosts.write_text(
        re.sub(rf"(?m)^\[127\.0\.0\.1\]:{port} .*$", f"[127.0.0.1]:{port} {other}", known), encoding="utf-8"
    )
    run = site.onboard("faulty", papers={"host_key": ""})
    assert run.rc != 0
    said = error(run, "faulty")
    assert "has changed" in said and site.fingerprint("faulty") in said
    site.known_hosts.write_text(known, encoding="utf-8")


def test_repaired_node_comes_into_service_with_the_same_command(site: Site) -> None:
    site.nodes["faulty"].fault("--clear")
    # Without the password, which nobody needs any more.
    run = site.onboard("faulty", approve=False, papers={"bootstrap_password": ""})
    assert run.rc == 0, run.output
    assert site.group("gpu_quarantine") == []
    assert site.hosts()["a100"]["hosts"] == ["good", "faulty"]
    assert site.record("faulty")["verdict"] == "accepted"


# --- the way out -------------------------------------------------------------------------------------------


def offboard(site: Site, name: str, **variables: Any) -> Run:
    """The other one command."""
    return play(
        "playbooks/offboard.yml",
        site.folder,
        inventories=(LAB, site.inventory),
        variables={"node": name, **variables},
    )


def test_offboarded_node_is_as_the_data_centre_handed_it_over(site: Site) -> None:
    node, port = site.nodes["faulty"], site.nodes["faulty"].connection["port"]
    run = offboard(site, "faulty", images=True)
    assert run.rc == 0, run.output
    assert site.seen["handed over"].differences(node.fingerprint().lasting()) == []
    assert not node.holds("id gpuready")
    assert node.sh(f"passwd --status {USER}").split()[1] == "P"
    hosts = site.hosts()
    assert hosts["a100"]["hosts"] == ["good"] and "faulty" not in hosts["_meta"]["hostvars"]
    assert f"]:{port} " not in site.known_hosts.read_text(encoding="utf-8")
    # What was found when it came stays on file.
    assert site.record("faulty")["verdict"] == "accepted"


def test_password_is_nowhere(site: Site) -> None:
    """Neither in what the runs left here nor on the nodes. The papers are the site's own."""
    written = [path for path in site.folder.rglob("*") if path.is_file() and path.name != "papers.csv"]
    assert written
    needle = site.password.encode()
    assert [path for path in written if needle in path.read_bytes()] == []
    for name in ("good", "faulty"):
        shown = site.nodes[name].sh(
            "{ cat /var/log/*.log /var/log/apt/* /home/*/.* /root/.* /var/lib/gpuready/*; "
            "journalctl --no-pager; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; } 2>/dev/null "
            "| LC_ALL=C tr -c '[:print:]' '\\n'",
            check=False,
        )
        assert site.password not in shown, name


def test_dead_node_is_taken_out_of_the_inventory_alone(site: Site) -> None:
    site.nodes["good"].sh("systemctl stop ssh.service")
    before = site.inventory.read_bytes()
    run = offboard(site, "good")
    assert run.rc != 0 and "-e reachable=false" in error(run, "good"), run.output
    assert site.inventory.read_bytes() == before
    run = offboard(site, "good", reachable=False)
    assert run.rc == 0, run.output
    assert "good" not in site.hosts()["_meta"]["hostvars"]
