"""Which engine is used, which subnet, and what is put back afterwards."""

from __future__ import annotations

import pytest
from gpulab import engine, firewall

LINUX = {"OSType": "linux", "SecurityOptions": ["name=seccomp"], "OperatingSystem": "Debian GNU/Linux 12"}


def test_a_plain_local_engine_is_used() -> None:
    assert engine.usable(LINUX, "unix:///var/run/docker.sock") is None


@pytest.mark.parametrize(
    ("facts", "host", "word"),
    [
        (LINUX, "ssh://somewhere", "not on this machine"),
        ({**LINUX, "SecurityOptions": ["name=rootless"]}, "unix:///run/user/1000/docker.sock", "rootless"),
        ({**LINUX, "OperatingSystem": "Docker Desktop"}, "unix:///x", "virtual machine"),
    ],
)
def test_an_engine_that_cannot_carry_nodes_is_left_alone(
    facts: dict[str, object], host: str, word: str
) -> None:
    assert word in (engine.usable(facts, host) or "")


def test_the_first_subnet_without_a_route_is_taken() -> None:
    candidates = ("10.1.0.0/24", "10.2.0.0/24")
    assert engine.free_subnet(candidates, ["default", "192.168.0.0/16"]) == "10.1.0.0/24"
    assert engine.free_subnet(candidates, ["10.1.0.128/25"]) == "10.2.0.0/24"
    assert engine.free_subnet(candidates, ["10.0.0.0/8"]) is None


RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A INPUT -s 192.0.2.1/32 -m comment --comment "not ours" -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -o gpulab0 -j DOCKER
-A FORWARD -i gpulab0 ! -o gpulab0 -j ACCEPT
-A FORWARD -i wg0 -j ACCEPT
-A DOCKER -d 10.213.47.8/32 ! -i gpulab0 -o gpulab0 -p tcp -m tcp --dport 22 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""


def test_only_dockers_chains_and_the_labs_bridge_leave_the_firewall() -> None:
    assert firewall.undo("iptables", "filter", RULES, "gpulab0") == [
        ["iptables", "-t", "filter", "-D", "FORWARD", "-j", "DOCKER-USER"],
        ["iptables", "-t", "filter", "-D", "FORWARD", "-o", "gpulab0", "-j", "DOCKER"],
        ["iptables", "-t", "filter", "-D", "FORWARD", "-i", "gpulab0", "!", "-o", "gpulab0", "-j", "ACCEPT"],
        ["iptables", "-t", "filter", "-F", "DOCKER"],
        ["iptables", "-t", "filter", "-F", "DOCKER-USER"],
        ["iptables", "-t", "filter", "-X", "DOCKER"],
        ["iptables", "-t", "filter", "-X", "DOCKER-USER"],
    ]


def test_the_policy_is_read_from_the_saved_rules() -> None:
    assert firewall.policy(RULES) == "DROP"
    assert firewall.policy("") is None
