"""Everything at once: the example inventory on a node of its own, from bare to bare again.

The tests build on each other in the order in which they stand here, as a node's life does. What each part
does by itself is for molecule; here it is whether they live together and whether nothing of them is left.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit import ROOT
from kit.fingerprint import Fingerprint
from kit.nodes import Node
from kit.runs import Player, Run, inventory_file

WORKBENCH = ROOT / "inventories" / "workbench"
# In form a public key, and nobody's.
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAI" + 43 * "A"


@dataclass
class Life:
    """The node, how to play on it, and what the tests tell each other."""

    node: Node
    play: Player
    bare: Fingerprint
    seen: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """A bare node with the example's wishes; GPUREADY_E2E_WORKBENCH names one that is there and stays."""
    standing = os.environ.get("GPUREADY_E2E_WORKBENCH")
    node = Node.existing(standing) if standing else Node.up(f"e2e-workbench-{os.getpid()}")
    folder = tmp_path_factory.mktemp("workbench")
    play = Player(folder, (WORKBENCH, inventory_file(folder / "nodes.json", [node])), (node.name,))
    yield Life(node, play, node.fingerprint())
    if not standing:
        node.down()


def user(**changes: Any) -> dict[str, Any]:
    """A workbench's user whose wishes are right but for the changes."""
    return {
        "name": "alice",
        "recipe": "tf-notebook",
        "jupyter_port": 8888,
        "ssh_port": 2222,
        "authorized_keys": [f"ssh-ed25519 {KEY} alice"],
        **changes,
    }


def test_plan_says_all_that_is_to_come(life: Life) -> None:
    run = life.play("playbooks/plan.yml")
    assert run.rc == 0, run.output
    assert {
        "driver.install",
        "image.fetch",
        "image.build",
        "venv.install",
        "workbench.configure",
        "workbench.start",
        "health.configure",
        "health.start",
    } <= set(run.actions(life.node.name))
    for words in ("tf-notebook", "research", "alice", "bob", "127.0.0.1:8888", "127.0.0.1:2222"):
        assert words in run.output


def test_check_mode_with_everything_wanted_fails_nothing_and_changes_nothing(life: Life) -> None:
    run = life.play("site.yml", check=True)
    assert run.rc == 0, run.output
    assert run.node(life.node.name)["status"] == "planned"
    assert life.bare.differences(life.node.fingerprint()) == []


#: Name → (wishes, what the error must name). Each is refused in the plan, on the node as it is.
REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "key_that_is_private": (
        {"gpu_workbench_users": [user(authorized_keys=["-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc"])]},
        ("gpu_workbench_users", "alice", "private key"),
    ),
    "key_file_that_is_missing": (
        {"gpu_workbench_users": [user(authorized_keys=["/nowhere/id_ed25519.pub"])]},
        ("gpu_workbench_users", "alice", "/nowhere/id_ed25519.pub"),
    ),
    "ssh_without_a_key": ({"gpu_workbench_users": [user(authorized_keys=[])]}, ("alice", "authorized_keys")),
    "recipe_that_is_not_declared": (
        {"gpu_workbench_users": [user(recipe="tf-notebok")]},
        ("alice", "tf-notebok", "tf-notebook"),
    ),
    "port_twice": (
        {"gpu_workbench_users": [user(), user(name="bob", ssh_port=None, authorized_keys=[])]},
        ("8888", "alice", "bob"),
    ),
    "exposed_without_tls": ({"gpu_workbench_bind_address": "0.0.0.0"}, ("0.0.0.0", "gpu_workbench_tls")),
    "token_too_short": ({"gpu_workbench_token_length": 8}, ("gpu_workbench_token_length", "8", "16")),
    "gpu_that_is_not_there": ({"gpu_workbench_users": [user(gpus=[7])]}, ("alice", "7")),
    "recipe_on_an_unknown_base": (
        {"framework_image_recipes": [{"name": "tf-notebook", "base": "tensorflow-2.99"}]},
        ("framework_image_recipes", "tensorflow-2.99"),
    ),
    "environment_of_an_unknown_workload": (
        {"framework_venv_environments": [{"name": "research", "workload": "pytorch-9.9-cu124"}]},
        ("framework_venv_environments", "pytorch-9.9-cu124"),
    ),
    "index_for_another_cuda": (
        {"framework_venv_index_url": "https://download.pytorch.org/whl/cu118"},
        ("cu118", "cu124"),
    ),
    "misspelt_field_of_a_user": (
        {"gpu_workbench_users": [{**user(), "jupiter_port": 8888}]},
        ("gpu_workbench_users", "jupiter_port", "jupyter_port"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wish_that_cannot_be_met_is_refused_in_the_plan(life: Life, name: str) -> None:
    """All through plan.yml: provision.yml refuses by the same plan, before its first change."""
    wishes, words = REFUSED[name]
    run = life.play("playbooks/plan.yml", variables=wishes)
    assert run.rc != 0, run.output
    error = " ".join(str(run.node(life.node.name)["error"]).split())
    assert [word for word in words if word not in error] == [], error


def test_refusals_changed_nothing(life: Life) -> None:
    run = life.play("site.yml", variables=REFUSED["exposed_without_tls"][0])
    assert run.rc != 0
    assert run.node(life.node.name)["status"] == "conflict"
    assert life.bare.differences(life.node.fingerprint()) == []


def test_site_brings_all_of_it_to_a_bare_node(life: Life) -> None:
    run = life.play("site.yml")
    assert run.rc == 0, run.output
    document = run.node(life.node.name)
    assert document["status"] == "verified"
    assert {layer["ok"] for layer in document["layers"].values()} == {True}
    verified = {row["workload"]: row for row in document["verification"]}
    assert set(verified) == {"tensorflow-2.9", "tf-notebook", "research"}
    assert all(row["ok"] and row["simulated"] for row in verified.values())
    base, derived, venv = (verified[name] for name in ("tensorflow-2.9", "tf-notebook", "research"))
    # The derivation took nothing away from the framework.
    assert derived["framework"] == base["framework"]
    assert derived["devices"] == base["devices"]
    assert venv["place"] == "host"
    assert venv["framework"]["name"] == "pytorch"
    assert "2 workbenches, watched" in document["layers"]["application"]["version"]
    # One for Docker and the toolkit, one for the driver, one for what environments and monitoring need.
    assert document["apt_transactions"] <= 4


def test_artifacts_and_output_hold_no_token(life: Life) -> None:
    tokens = life.node.sh("cat /etc/gpuready/workbench/*/token").split()
    assert len(tokens) == 2 and all(len(token) >= 32 for token in tokens)
    life.seen["tokens"] = tokens
    written = [path for path in life.play.folder.rglob("*") if path.is_file()]
    assert written
    for path in written:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert [path.name for token in tokens if token in text] == []
    # Nor does the node itself show it to whoever may look.
    shown = life.node.sh(
        "docker inspect gpuready-workbench-alice gpuready-workbench-bob; "
        "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'; "
        "journalctl --no-pager; systemctl cat 'gpuready-*'",
        check=False,
    )
    assert [token for token in tokens if token in shown] == []


def test_second_run_changes_nothing(life: Life) -> None:
    run = life.play("site.yml")
    assert run.rc == 0, run.output
    document = run.node(life.node.name)
    assert run.changed(life.node.name) == 0, document["changed_tasks"]
    assert document["status"] == "verified"
    # One observation, and one probe per workload.
    assert document["module_executions"] <= 4
    assert life.play.plan()["actions"] == []


def test_check_mode_on_the_finished_node_reports_no_change(life: Life) -> None:
    run = life.play("site.yml", check=True)
    assert run.rc == 0, run.output
    assert run.changed(life.node.name) == 0


@pytest.mark.parametrize("role", ["framework_image", "framework_venv", "gpu_workbench", "gpu_health"])
def test_role_alone_changes_nothing_on_the_finished_node(life: Life, role: str) -> None:
    run = life.play("playbooks/role.yml", variables={"role": role})
    assert run.rc == 0, run.output
    assert run.changed(life.node.name) == 0, run.node(life.node.name)["changed_tasks"]


def status_of(node: Node, port: int, token: str = "") -> str:
    """The status with which a workbench's Jupyter answers on the node itself."""
    query = f"?token={token}" if token else ""
    return node.sh(
        f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 20 'http://127.0.0.1:{port}/api/contents{query}'",
        check=False,
    ).strip()


def answering(node: Node, tokens: list[str]) -> None:
    """Both users have their Jupyter, with their own token and with no other."""
    for port in (8888, 8889):
        node.wait(
            lambda port=port: status_of(node, port, tokens[port - 8888]) == "200", f"answer at {port}", 90
        )
    assert status_of(node, 8888) == "403"
    assert status_of(node, 8888, tokens[1]) == "403"


def test_workbenches_answer_their_users_and_nobody_else(life: Life) -> None:
    answering(life.node, life.seen["tokens"])
    # Only the node itself is listened on.
    heard = life.node.sh("ss -Hltn '( sport = :8888 or sport = :8889 or sport = :2222 )'")
    assert {line.split()[3].rpartition(":")[0] for line in heard.splitlines()} == {"127.0.0.1"}
    life.seen["host_keys"] = life.node.sh("ssh-keyscan -p 2222 127.0.0.1 2>/dev/null | sort")
    assert "ssh-ed25519" in life.seen["host_keys"]
    # What a user leaves at home.
    life.node.sh(
        "docker exec --user alice gpuready-workbench-alice sh -c 'echo mine > /home/alice/thesis.txt'"
    )


def test_access_is_shown_on_demand(life: Life) -> None:
    run = life.play("playbooks/workbench_access.yml")
    assert run.rc == 0, run.output
    for token in life.seen["tokens"]:
        assert token in run.output
    assert "8888" in run.output and "2222" in run.output


def test_port_that_somebody_else_has_is_refused_and_the_others_go_on(life: Life) -> None:
    life.node.sh("systemd-run --unit=squatter python3 -m http.server --bind 127.0.0.1 9999")
    try:
        life.node.wait(lambda: life.node.holds("ss -Hltn 'sport = :9999' | grep -q ."), "listen at 9999", 20)
        run = life.play(
            "site.yml",
            variables={"gpu_workbench_users": [user(), user(name="dave", jupyter_port=9999, ssh_port=None)]},
        )
        assert run.rc != 0
        assert run.node(life.node.name)["status"] == "conflict"
        error = run.node(life.node.name)["error"]
        assert "9999" in error and "dave" in error and "python3" in error, error
        assert status_of(life.node, 8888, life.seen["tokens"][0]) == "200"
    finally:
        life.node.sh("systemctl stop squatter")


def metrics(node: Node) -> dict[str, float]:
    """The node's metrics as Prometheus would read them, by name with labels."""
    text = node.sh("cat /var/lib/prometheus/node-exporter/gpuready.prom")
    rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _space, value in rows}


def labelled(found: dict[str, float], name: str) -> list[float]:
    return [value for key, value in found.items() if key.partition("{")[0] == name]


def test_node_measures_itself(life: Life) -> None:
    found = metrics(life.node)
    assert labelled(found, "gpuready_gpus_found") == labelled(found, "gpuready_gpus_expected") == [1.0]
    assert labelled(found, "gpuready_nvml_up") == [1.0]
    life.node.sh("systemctl start gpuready-health-check.service")
    life.node.wait(lambda: labelled(metrics(life.node), "gpuready_check_ok") == [1.0], "check itself", 60)
    assert max(labelled(metrics(life.node), "gpuready_drift"), default=0.0) == 0.0


def test_watch_shows_the_node(life: Life) -> None:
    run = life.play("playbooks/watch.yml")
    assert run.rc == 0, run.output
    assert life.node.name in run.output
    assert "A100" in run.output


def test_everything_survives_a_reboot(life: Life) -> None:
    before = time.time()
    life.node.reboot()
    answering(life.node, life.seen["tokens"])
    assert life.node.sh("ssh-keyscan -p 2222 127.0.0.1 2>/dev/null | sort") == life.seen["host_keys"]
    assert life.node.sh("cat /srv/gpuready/home/alice/thesis.txt") == "mine\n"

    # The containers are verified after every boot, by the node itself.
    def verified() -> bool:
        stamps = {
            key: value for key, value in metrics(life.node).items() if "verify_timestamp_seconds" in key
        }
        return len(stamps) >= 3 and min(stamps.values()) > before

    life.node.wait(verified, "verify itself after its boot", 300)
    assert set(labelled(metrics(life.node), "gpuready_verify_ok")) == {1.0}
    run = life.play("site.yml")
    assert run.rc == 0, run.output
    assert run.changed(life.node.name) == 0, run.node(life.node.name)["changed_tasks"]


def test_container_without_a_gpu_is_found_out(life: Life) -> None:
    life.node.sh(
        "docker run -d --rm --name job tensorflow/tensorflow:2.9.0-gpu python3 -c 'while True: pass'"
    )
    try:
        run = life.play("playbooks/usage.yml", variables={"container": "job"})
        assert run.rc == 2, run.output
        assert "on_cpu" in run.output or "on the CPU" in run.said
    finally:
        life.node.sh("docker rm -f job")


def test_recipe_that_changed_is_built_anew_and_the_workbench_follows(life: Life) -> None:
    example = json.loads(json.dumps(life.play.plan()["recipes"]))
    # What is installed stays the same, so that the build takes it from its cache.
    recipe = {
        "name": "tf-notebook",
        "base": "tensorflow-2.9",
        "jupyter": True,
        "ssh": True,
        "apt": ["git"],
        "pip": ["pandas<3"],
        "env": {"A": "1"},
    }
    wishes = {"framework_image_recipes": [recipe]}
    planned = life.play("playbooks/plan.yml", variables=wishes)
    assert {"image.build", "workbench.start"} <= set(planned.actions(life.node.name))
    run = life.play("site.yml", variables=wishes)
    assert run.rc == 0, run.output
    assert life.node.sh("docker exec gpuready-workbench-alice printenv A") == "1\n"
    assert life.node.sh("cat /srv/gpuready/home/alice/thesis.txt") == "mine\n"
    answering(life.node, life.seen["tokens"])
    # The former image is nobody's any more.
    assert life.node.sh(f"docker image ls -q {example[0]['image']}") == ""


def test_removal_takes_everything_but_the_homes(life: Life) -> None:
    run = life.play("playbooks/remove.yml", variables={"images": True})
    assert run.rc == 0, run.output
    assert life.node.sh("cat /srv/gpuready/home/alice/thesis.txt") == "mine\n"
    assert life.node.sh("ls /etc/systemd/system | grep gpuready || true") == ""


def test_homes_go_on_demand_and_nothing_is_left(life: Life) -> None:
    run = life.play("playbooks/remove.yml", variables={"images": True, "homes": True})
    assert run.rc == 0, run.output
    assert life.bare.lasting().differences(life.node.fingerprint().lasting()) == []


def test_removing_again_changes_nothing(life: Life) -> None:
    run: Run = life.play("playbooks/remove.yml", variables={"images": True, "homes": True})
    assert run.rc == 0, run.output
    assert run.changed(life.node.name) == 0, run.node(life.node.name)["changed_tasks"]
