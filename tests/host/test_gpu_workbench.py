"""Workbenches as their users meet them: a browser and an SSH client here, and everybody else who is refused.

What is asked is what the node says that it offers (``workbench.json``), so that the same tests hold for a
workbench behind a tunnel with a token and for one in the network with TLS and a password.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT, browser, workbench
from kit.questions import gpus_on_the_bus

pytestmark = pytest.mark.gpu_workbench

#: Without these a stranger could read, run or open something.
CLOSED = ("/api/contents", "/api/kernels", "/api/sessions", "/api/terminals", "/files/", "/api/kernelspecs")
CELL = "import tensorflow as tf\ntf.config.list_physical_devices('GPU')"
WRONG = "A" * 43
HAS_TENSORFLOW = "python3 -c \"import importlib.util as i; raise SystemExit(not i.find_spec('tensorflow'))\""


@dataclass
class Bench:
    """One user's workbench, and how it is reached from here."""

    user: str
    said: dict[str, Any]
    gpus: int
    framework: bool
    address: str = "127.0.0.1"
    jupyter_port: int | None = None
    door: workbench.Door | None = None
    secret: str = field(default="", repr=False)

    @property
    def base(self) -> str:
        """Jupyter's address, as seen from here."""
        return f"{'https' if self.said['jupyter']['tls'] else 'http'}://{self.address}:{self.jupyter_port}"

    def enter(self, lab: browser.Lab) -> None:
        """Open JupyterLab as this workbench's user is told to."""
        if self.said["auth"] == "token":
            lab.open(self.secret)
        else:
            lab.visit()
            lab.log_in(self.secret)
            lab.ready()


@pytest.fixture(scope="module")
def variables(host: Any) -> dict[str, Any]:
    """How Ansible reaches the node."""
    return host.ansible.get_variables()


@pytest.fixture(scope="module")
def benches(
    host: Any, variables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Bench]]:
    """Every workbench of the node, with tunnels to those that listen on its loopback only."""
    users = workbench.users(host)
    if not users:
        pytest.skip("there is no workbench on this node")
    all_gpus = len(gpus_on_the_bus(host))
    ssh = workbench.ssh_words(variables)
    folder = tmp_path_factory.mktemp("known_hosts")
    with contextlib.ExitStack() as stack:
        found = []
        for user in users:
            said = workbench.description(host, user)
            bench = Bench(
                user,
                said,
                all_gpus if said["gpus"] == "all" else len(said["gpus"]),
                framework=host.run(f"docker exec gpuready-workbench-{user} {HAS_TENSORFLOW}").rc == 0,
            )
            for service in filter(None, (said["jupyter"], said["ssh"])):
                bench.address, port = reach(host, variables, stack, ssh, service)
                if service is said["jupyter"]:
                    bench.jupyter_port = port
                    bench.secret = workbench.secret(host, user, said["auth"])
                else:
                    known = folder / user
                    known.write_text(workbench.host_key_lines(host, user), encoding="utf-8")
                    bench.door = workbench.Door(user, port, known, bench.address)
            found.append(bench)
        yield found


def reach(
    host: Any, variables: dict[str, Any], stack: contextlib.ExitStack, ssh: list[str], service: dict[str, Any]
) -> tuple[str, int]:
    """Address and port from here: through a tunnel, or in the network."""
    if service["address"] in ("127.0.0.1", "::1"):
        return "127.0.0.1", stack.enter_context(browser.tunnel(ssh, service["port"]))
    address = str(variables.get("ansible_host") or variables["inventory_hostname"])
    if service["address"] not in ("0.0.0.0", "::"):
        address = service["address"]
    elif address in ("127.0.0.1", "::1", "localhost"):
        # This machine reaches the node's SSH by a port of its own, and the rest by the node's address.
        seen = host.check_output("ip -4 -o addr show scope global").splitlines()
        own = [
            line.split()[3] for line in seen if not line.split()[1].startswith(("docker", "br-", "gpuready-"))
        ]
        address = own[0].partition("/")[0]
    return address, int(service["port"])


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    with browser.chromium() as started:
        yield started


@pytest.fixture
def window(chromium: Any, host: Any) -> Iterator[Callable[[Bench], browser.Lab]]:
    """Opens windows without any memory; they are closed after the test."""
    pictures = ROOT / "artifacts" / "pictures" / host.check_output("hostname")
    with contextlib.ExitStack() as stack:

        def opened(bench: Bench) -> browser.Lab:
            # Who issued the certificate is for a test of its own.
            return stack.enter_context(
                browser.jupyter(chromium, bench.base, pictures=pictures, certificate_errors=True)
            )

        yield opened


def jupyters(benches: list[Bench]) -> list[Bench]:
    found = [bench for bench in benches if bench.said["jupyter"]]
    return found or pytest.skip("no workbench of this node has Jupyter")


def doors(benches: list[Bench]) -> list[tuple[Bench, workbench.Door]]:
    found = [(bench, bench.door) for bench in benches if bench.door]
    return found or pytest.skip("no workbench of this node has SSH")


@pytest.fixture(scope="module")
def key(host: Any, variables: dict[str, Any], benches: list[Bench]) -> Path:
    """A private key of this machine that opens a workbench: the one that opens the node, where it does."""
    path = workbench.private_key(variables) or Path("~/.ssh/id_ed25519").expanduser()
    done = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=False)
    public = " ".join(done.stdout.split()[:2])
    for bench, _door in doors(benches):
        keys = host.file(f"{workbench.FOLDER}/{bench.user}/authorized_keys").content_string
        if not public or public not in keys:
            pytest.skip(f"no key of this machine opens {bench.user}'s workbench")
    return path


# --- the browser -------------------------------------------------------------------------------------


def test_page_without_the_secret_is_a_login_page(
    benches: list[Bench], window: Callable[[Bench], browser.Lab]
) -> None:
    for bench in jupyters(benches):
        lab = window(bench)
        lab.visit()
        assert lab.refuses, lab.page.url
        lab.picture(f"{bench.user}-refused")
        for path in CLOSED:
            assert lab.page.request.get(lab.base + path).status == 403 or path == "/files/", path
            asked = lab.page.request.get(lab.base + path, max_redirects=0).status
            assert asked in (302, 403, 404), (path, asked)
        # Neither an empty secret nor a wrong one nor the address with a wrong one lets anybody in.
        lab.log_in("")
        assert lab.refuses
        lab.log_in(WRONG)
        assert lab.refuses
        for wrong in (WRONG, ""):
            lab.visit("/lab", token=wrong)
            assert lab.refuses


def test_browser_runs_a_cell_that_lists_the_gpus(
    benches: list[Bench], window: Callable[[Bench], browser.Lab]
) -> None:
    for bench in jupyters(benches):
        lab = window(bench)
        bench.enter(lab)
        lab.new_notebook()
        if bench.framework:
            shown = lab.run(CELL)
            assert shown.count("PhysicalDevice(") == bench.gpus, shown
            assert "device_type='GPU'" in shown or not bench.gpus
        else:
            assert lab.run(workbench.COUNT_GPUS) == str(bench.gpus)
        lab.picture(f"{bench.user}-gpus")
        assert lab.run("import os; print(os.getuid() == 0, os.environ['USER'])") == f"False {bench.user}"
        lab.close_notebook()


def test_secret_opens_no_other_workbench(
    benches: list[Bench], window: Callable[[Bench], browser.Lab]
) -> None:
    found = jupyters(benches)
    if len(found) < 2:
        pytest.skip("there is one workbench only")
    for bench, other in zip(found, [*found[1:], found[0]], strict=True):
        lab = window(bench)
        lab.visit("/lab", token=other.secret)
        assert lab.refuses
        lab.log_in(other.secret)
        assert lab.refuses


def test_certificate_is_the_nodes_own(host: Any, benches: list[Bench]) -> None:
    found = [bench for bench in jupyters(benches) if bench.said["jupyter"]["tls"]]
    if not found:
        pytest.skip("Jupyter is not in the network here")
    for bench in found:
        wanted = host.check_output(f"openssl x509 -in {bench.said['tls']['certificate']} -outform PEM")
        shown = ssl.get_server_certificate((bench.address, bench.jupyter_port or 0))
        assert shown.split() == wanted.split()


# --- SSH ---------------------------------------------------------------------------------------------


def test_ssh_with_the_key_lists_the_gpus(benches: list[Bench], key: Path) -> None:
    for bench, door in doors(benches):
        if bench.framework:
            done = door.run(f'python3 -c "{workbench.LIST_GPUS}"', key=key)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("PhysicalDevice(") == bench.gpus, done.stdout + done.stderr
        else:
            done = door.run("python3 -", key=key, stdin=workbench.COUNT_GPUS)
            assert done.stdout.strip() == str(bench.gpus), done.stderr
        # A login shell has the image's own PATH as well.
        who = door.run("bash -lc 'id -un; id -u; command -v python3; echo $HOME'", key=key).stdout.split()
        assert who[0] == bench.user and who[1] != "0" and who[3] == f"/home/{bench.user}", who


def test_ssh_takes_keys_only(benches: list[Bench], key: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    for bench, door in doors(benches):
        assert door.methods() == ["publickey"]
        assert door.methods("root") == ["publickey"]
        for method in ("password", "keyboard-interactive"):
            refusal = door.refusal(f"PreferredAuthentications={method}", "NumberOfPasswordPrompts=1")
            assert "Permission denied (publickey)" in refusal, refusal
        assert "Permission denied" in door.refusal(key=stranger)
        # Root stays out, with the right key, too.
        for name in ("root", "nobody", f"{bench.user}x"):
            assert "Permission denied" in door.refusal(user=name, key=key), name


# --- the node ----------------------------------------------------------------------------------------


def test_services_listen_where_they_should_and_nowhere_else(host: Any, benches: list[Bench]) -> None:
    for bench in benches:
        for service in filter(None, (bench.said["jupyter"], bench.said["ssh"])):
            heard = host.check_output(f"ss -Hltn sport = :{service['port']}").splitlines()
            assert {line.split()[3].rpartition(":")[0].strip("[]") for line in heard} == {service["address"]}


def test_neighbours_of_the_node_do_not_reach_what_listens_on_its_loopback(
    host: Any, benches: list[Bench]
) -> None:
    """Docker before 28 lets them, by a route to the container's own address."""
    for bench in benches:
        name = f"gpuready-workbench-{bench.user}"
        option = "com.docker.network.bridge.name"
        bridge = host.check_output(
            f"docker network inspect --format '{{{{index .Options \"{option}\"}}}}' {name}"
        )
        assert host.interface(bridge).exists
        # As the node's own kernel has it; a workbench that is open to the network has no such rule.
        rule = f"-o {bridge} ! -i {bridge} -m conntrack --ctstate NEW -j DROP"
        service = bench.said["jupyter"] or bench.said["ssh"]
        guarded = service["address"] in ("127.0.0.1", "::1")
        assert (host.run(f"iptables -w -C DOCKER-USER {rule}").rc == 0) is guarded


def test_secrets_are_roots_alone_and_nowhere_else(host: Any, benches: list[Bench]) -> None:
    for bench in benches:
        folder = f"{workbench.FOLDER}/{bench.user}"
        secret = "-name token -o -name password_hash -o -name tls.key -o -name 'ssh_host_*_key'"
        for path in host.check_output(
            f"find {folder} {secret}; find {workbench.PASSWORDS} -type f 2>/dev/null || true"
        ).split():
            file = host.file(path)
            assert (file.user, file.group, file.mode) == ("root", "root", 0o600), path
        if not bench.secret:
            continue
        assert len(bench.secret) >= 22
        # Where processes, containers and everybody's files tell of themselves; the node looks for it itself.
        place = f"{folder}/token" if bench.said["auth"] == "token" else f"{workbench.PASSWORDS}/{bench.user}"
        name = f"gpuready-workbench-{bench.user}"
        told = (
            f"docker inspect {name}; systemctl cat {name}; docker logs {name} 2>&1; "
            "journalctl --no-pager -o cat; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; "
            "find /etc /var/lib/gpuready /var/log /run -type f -perm /044 -exec cat {} + 2>/dev/null"
        )
        assert host.check_output(f"({told}) | grep -a -c -F -f {place} || true") == "0"
        # The look finds what is there.
        assert host.check_output(f"cat {place} | grep -a -c -F -f {place}") == "1"


def test_container_has_no_right_too_many(host: Any, benches: list[Bench]) -> None:
    for bench in benches:
        name = f"gpuready-workbench-{bench.user}"
        (seen,) = json.loads(host.check_output(f"docker inspect {name}"))
        settings = seen["HostConfig"]
        assert settings["Privileged"] is False
        assert settings["CapDrop"] == ["ALL"]
        assert {right.removeprefix("CAP_") for right in settings["CapAdd"]} <= {"CHOWN", "SETUID", "SETGID"}
        assert any(option.startswith("no-new-privileges") for option in settings["SecurityOpt"])
        assert settings["NetworkMode"] not in ("host", "bridge", "default")
        assert (settings["PidMode"], settings["IpcMode"]) in (("", "private"), ("", ""))
        assert settings["PidsLimit"] > 0
        sources = {mount.get("Source"): mount["RW"] for mount in seen["Mounts"] if mount["Type"] == "bind"}
        assert sources == {f"{workbench.FOLDER}/{bench.user}": False, bench.said["home"]: True}
        # No process in it is root's, and none could become it.
        owners = set(host.check_output(f"docker top {name} -eo pid,uid").split()[3::2])
        assert owners == {str(host.file(bench.said["home"]).uid)}
        assert re.search(r"^CapPrm:\s*0+$", status_of(host, name), re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s*1$", status_of(host, name), re.MULTILINE)


def status_of(host: Any, container: str) -> str:
    """What the kernel says of the container's first process."""
    pid = host.check_output("docker inspect --format '{{.State.Pid}}' " + container)
    return host.file(f"/proc/{pid}/status").content_string


def test_home_is_the_users_alone(host: Any, benches: list[Bench]) -> None:
    for bench in benches:
        home = host.file(bench.said["home"])
        assert home.is_directory and home.mode & 0o077 == 0 and home.uid != 0
        # It is nobody's who may log in on the node.
        assert host.run(f"getent passwd {home.uid}").rc == 2


def test_unit_runs_and_comes_back_by_itself(host: Any, benches: list[Bench]) -> None:
    for bench in benches:
        unit = host.service(f"gpuready-workbench-{bench.user}")
        assert unit.is_running and unit.is_enabled
        assert unit.systemd_properties["Restart"] in ("always", "on-failure")
