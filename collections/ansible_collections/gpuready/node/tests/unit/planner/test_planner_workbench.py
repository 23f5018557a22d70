"""Workbenches: what people may write, what is refused, and what a plan makes of it."""

from __future__ import annotations

import copy
import json
import logging
import shlex
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
from applied import TODAY, converge
from gpuready import workbench_files, workbenches
from gpuready.catalog import load_catalog
from gpuready.planner import plan
from gpuready.wishes import check
from observed_nodes import Node, bare

CATALOG = load_catalog()
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBiA03hMmM6SlW1SP3uKmvp1WSa3Op9U4xMaW610AWP2 alice@desk"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0ucZIyrvoqlD3Ch8fCskmYvejpY5o2c0mZ34YRzDCl two"
# In two pieces: no file of the repository is to look like one.
PRIVATE = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n"
RECIPE = {"name": "tf-notebook", "base": "tensorflow-2.9", "jupyter": True, "ssh": True}
ALICE = {"name": "alice", "authorized_keys": [KEY]}
BOB = {"name": "bob", "jupyter_port": 8889}


def wished(*users: Any, **wishes: Any) -> dict[str, Any]:
    return {"framework_image_recipes": [RECIPE], "gpu_workbench_users": list(users), **wishes}


def planned(node: Node, *users: Any, **wishes: Any) -> Node:
    return plan(node, wished(*users, **wishes), CATALOG, host="node", today=TODAY)


def conflicts(node: Node, *users: Any, **wishes: Any) -> list[str]:
    return [row["id"] for row in planned(node, *users, **wishes)["conflicts"]]


def problem(value: Any, name: str = "gpu_workbench_users") -> str:
    _, problems = check({name: value})
    assert len(problems) == 1 and problems[0].variable == name and problems[0].options
    return problems[0].what


@pytest.fixture(scope="module")
def node() -> Node:
    return converge(bare("20b5", "20b5"), **wished(ALICE, BOB))


# --- what people write ----------------------------------------------------------------------------


def test_user_with_a_name_alone_has_jupyter() -> None:
    wishes, problems = check({"gpu_workbench_users": [{"name": "alice"}]})
    assert problems == []
    assert wishes["gpu_workbench_users"] == [{"name": "alice", **workbenches.DEFAULTS, "ssh_port": None}]


def test_user_with_a_key_has_ssh() -> None:
    wishes, _ = check({"gpu_workbench_users": [ALICE]})
    assert wishes["gpu_workbench_users"][0]["ssh_port"] == 2222


def test_users_share_no_keys_list_and_come_by_name() -> None:
    wishes, _ = check({"gpu_workbench_users": [BOB, {"name": "alice"}]})
    first, second = wishes["gpu_workbench_users"]
    assert (first["name"], second["name"]) == ("alice", "bob")
    assert first["authorized_keys"] is not second["authorized_keys"]
    assert workbenches.DEFAULTS["authorized_keys"] == []


def test_user_that_goes_needs_no_more_than_the_name() -> None:
    wishes, problems = check({"gpu_workbench_users": [{"name": "alice", "state": "absent", "ssh_port": 7}]})
    assert problems == [] and wishes["gpu_workbench_users"][0]["state"] == "absent"


@pytest.mark.parametrize(
    ("user", "what"),
    [
        ("alice", "must be a mapping"),
        ({}, "[0].name is None"),
        ({"name": "Alice"}, "[0].name is 'Alice'"),
        ({"name": "a" * 32}, "[0].name is"),
        ({"name": "root"}, "account of the images"),
        ({"name": "alice", "jupiter_port": 1}, "'jupiter_port', which a workbench does not know"),
        ({"name": "alice", "jupyter_port": 0}, "[0] (alice).jupyter_port is 0"),
        ({"name": "alice", "jupyter_port": "http"}, "jupyter_port is 'http'"),
        ({"name": "alice", "jupyter_port": True}, "jupyter_port is True"),
        ({"name": "alice", "jupyter_port": None}, "neither Jupyter nor SSH"),
        ({"name": "alice", "ssh_port": 2222}, "no authorized_keys, so nobody could log in"),
        ({"name": "alice", "authorized_keys": ["ssh-ed25519 AAAA nonsense"]}, "which is no public key"),
        ({"name": "alice", "authorized_keys": [KEY[:-20]]}, "which is no public key"),
        ({"name": "alice", "authorized_keys": [KEY.replace("ssh-ed25519", "ssh-rsa")]}, "no public key"),
        ({"name": "alice", "authorized_keys": ["/home/a/k.pub"]}, "names the file /home/a/k.pub"),
        ({"name": "alice", "authorized_keys": [7]}, "holds 7"),
        ({"name": "alice", "memory": "16 gigs"}, "memory is '16 gigs'"),
        ({"name": "alice", "shm_size": "0"}, "shm_size is '0'"),
        ({"name": "alice", "cpus": "many"}, "cpus is 'many'"),
        ({"name": "alice", "cpus": 0}, "cpus is 0"),
        ({"name": "alice", "uid": 0}, "there is no root in a workbench"),
        ({"name": "alice", "gpus": ["A100"]}, "gpus holds 'A100'"),
        ({"name": "alice", "recipe": 7}, "recipe is 7"),
        ({"name": "alice", "state": "gone"}, "state is 'gone'"),
    ],
)
def test_wrong_user_is_one_problem_that_names_the_place(user: Any, what: str) -> None:
    assert what in problem([user])


def test_private_key_is_refused_and_not_shown() -> None:
    secret = PRIVATE + "b3BlbnNzaC1rZXk\n"
    said = problem([{"name": "alice", "authorized_keys": [secret]}])
    assert "private key" in said and "b3Bl" not in said


def test_two_users_do_not_share_a_port() -> None:
    _, problems = check({"gpu_workbench_users": [{"name": "alice"}, {"name": "bob"}, {"name": "carol"}]})
    assert "[1] (bob).jupyter_port is 8888, which is alice's jupyter_port" in problems[0].what
    assert problems[0].options == ["set jupyter_port: 8889"]
    assert "ssh_port is 8888" in problem([{"name": "alice", "authorized_keys": [KEY], "ssh_port": 8888}])


def test_one_user_twice_is_refused() -> None:
    assert "names alice twice" in problem([{"name": "alice"}, {"name": "alice", "jupyter_port": 9}])


@pytest.mark.parametrize("value", [15, 0, "long", True, 4096])
def test_token_that_can_be_guessed_is_refused(value: Any) -> None:
    assert "16 to 256" in problem(value, "gpu_workbench_token_length")


@pytest.mark.parametrize("value", ["localhost", "", "10.0.0", 8])
def test_bind_address_is_an_address(value: Any) -> None:
    assert "must be an IP address" in problem(value, "gpu_workbench_bind_address")


@pytest.mark.parametrize("value", ["homes", "/srv/my homes", "/srv/../etc", "/srv/h,ro", 7])
def test_home_directory_is_a_plain_path(value: Any) -> None:
    assert "must be an absolute path" in problem(value, "gpu_workbench_home_directory")


def test_key_with_options_is_a_key() -> None:
    line = 'from="10.0.0.0/8",no-pty ' + KEY
    wishes, problems = check({"gpu_workbench_users": [{"name": "alice", "authorized_keys": line}]})
    assert problems == [] and wishes["gpu_workbench_users"][0]["authorized_keys"] == [line]


# --- keys in files of the controller --------------------------------------------------------------


def test_key_files_are_read_by_the_front_door() -> None:
    files = {"/k/alice.pub": f"# mine\n{KEY}\n\n{OTHER_KEY}\n"}
    users = workbenches.read_key_files(
        [{"name": "alice", "authorized_keys": "/k/alice.pub"}], files.__getitem__
    )
    assert users == [{"name": "alice", "authorized_keys": [KEY, OTHER_KEY]}]
    assert workbenches.read_key_files("nonsense", files.__getitem__) == "nonsense"


def _missing(path: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", path)


@pytest.mark.parametrize(
    ("path", "read", "what"),
    [
        ("/k/alice.pub", _missing, "cannot be read on the controller: No such file"),
        ("keys/alice.pub", _missing, "no absolute path"),
        ("/k/id", lambda _path: PRIVATE + "MII", "is a private key"),
        ("/k/alice.pub", lambda _path: "\n", "holds no key"),
        ("/k/alice.pub", lambda _path: "hello world", "no public key: hello world"),
        ("/k/alice.pub", lambda _path: b"\xff".decode(), "is no text"),
    ],
)
def test_bad_key_file_is_named(path: str, read: Callable[[str], str], what: str) -> None:
    with pytest.raises(workbenches.KeyFileError) as caught:
        workbenches.read_key_files([{"name": "alice", "authorized_keys": [path]}], read)
    assert what in str(caught.value) and "gpu_workbench_users[0] (alice).authorized_keys" in str(caught.value)
    assert "MII" not in str(caught.value)


# --- conflicts ------------------------------------------------------------------------------------


def test_open_address_needs_a_certificate(node: Node) -> None:
    assert conflicts(node, ALICE, gpu_workbench_bind_address="0.0.0.0") == ["workbench.exposed_without_tls"]
    with_tls = {"gpu_workbench_tls_certificate": "/c.pem", "gpu_workbench_tls_key": "/k.pem"}
    assert conflicts(node, ALICE, gpu_workbench_bind_address="0.0.0.0", **with_tls) == []
    half = {"gpu_workbench_tls_certificate": "/c.pem"}
    assert conflicts(node, ALICE, gpu_workbench_bind_address="0.0.0.0", **half) == [
        "workbench.tls_incomplete"
    ]
    ssh_only = {**ALICE, "jupyter_port": None}
    assert conflicts(node, ssh_only, gpu_workbench_bind_address="0.0.0.0") == []


def test_recipe_must_be_there_and_have_what_is_wanted(node: Node) -> None:
    assert conflicts(node, {**ALICE, "recipe": "tf-notebok"}) == ["workbench.recipe_unknown"]
    row = planned(node, {**ALICE, "recipe": "tf-notebok"})["conflicts"][0]
    assert row["options"] == ["set recipe: tf-notebook"]
    assert conflicts(node, ALICE, framework_image_recipes=[]) == ["workbench.recipe_unknown"]
    no_ssh = [{**RECIPE, "ssh": False}]
    assert conflicts(node, ALICE, framework_image_recipes=no_ssh) == ["workbench.recipe_without_ssh"]
    no_jupyter = [{**RECIPE, "jupyter": False}]
    assert conflicts(node, ALICE, framework_image_recipes=no_jupyter) == ["workbench.recipe_without_jupyter"]


def test_several_recipes_need_a_choice(node: Node) -> None:
    two = [RECIPE, {**RECIPE, "name": "other"}]
    assert conflicts(node, ALICE, framework_image_recipes=two) == ["workbench.recipe_unknown"]
    assert conflicts(node, ALICE, framework_image_recipes=two, gpu_workbench_recipe="other") == []


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_taken_port_names_who_has_it(node: Node, address: str) -> None:
    node = copy.deepcopy(node)
    node["application"]["workbenches"] = []
    listener = {"address": address, "port": 8888, "process": "jupyter-lab", "pid": 77}
    node["application"]["listening"] = [listener]
    (row,) = planned(node, ALICE)["conflicts"]
    assert row["id"] == "workbench.port_taken" and "port 8888" in row["what"]
    assert "jupyter-lab (process 77)" in row["because"][0]
    listener["address"] = "192.0.2.7"
    assert conflicts(node, ALICE) == []


def test_own_ports_are_not_taken_and_may_move(node: Node) -> None:
    node = copy.deepcopy(node)
    node["application"]["listening"] = [
        {"address": "127.0.0.1", "port": port, "process": "docker-proxy", "pid": 7}
        for port in (8888, 8889, 2222)
    ]
    assert conflicts(node, ALICE, BOB) == []
    assert conflicts(node, {**ALICE, "jupyter_port": 8889}, {**BOB, "jupyter_port": 8888}) == []


UUID = "GPU-11111111-2222"


def with_devices(node: Node) -> Node:
    node = copy.deepcopy(node)
    node["driver"]["devices"] = [{"index": 0, "uuid": "GPU-00000000-2222"}, {"index": 1, "uuid": UUID}]
    return node


def test_gpu_that_is_not_there_is_refused(node: Node) -> None:
    assert conflicts(node, {**ALICE, "gpus": [UUID]}) == []  # NVML was not asked: unknown
    node, uuid = with_devices(node), UUID
    assert conflicts(node, {**ALICE, "gpus": [0, 1]}) == []
    assert conflicts(node, {**ALICE, "gpus": [uuid]}) == []
    assert conflicts(node, {**ALICE, "gpus": [2]}) == ["workbench.gpu_unknown"]
    assert conflicts(node, {**ALICE, "gpus": ["GPU-00000000-dead"]}) == ["workbench.gpu_unknown"]


def test_more_processors_than_there_are_is_refused(node: Node) -> None:
    assert conflicts(node, {**ALICE, "cpus": "16"}) == []
    assert conflicts(node, {**ALICE, "cpus": "16.5"}) == ["workbench.too_many_cpus"]


def test_home_keeps_its_owner(node: Node) -> None:
    assert conflicts(node, {**ALICE, "uid": 20000}, BOB) == []
    (row,) = planned(node, {**ALICE, "uid": 1234}, BOB)["conflicts"]
    assert row["id"] == "workbench.home_owner" and "chown -R 1234:1234" in row["options"][0]


def test_users_that_cannot_be_read_take_nobodys_workbench_away(node: Node) -> None:
    result = planned(node, {"name": "ALICE"})
    assert [row["id"] for row in result["conflicts"]] == ["wishes.invalid"]
    assert not any(action["id"].startswith("workbench.") for action in result["actions"])


# --- what is planned ------------------------------------------------------------------------------


def test_bare_node_gets_everything_in_one_plan() -> None:
    result = planned(bare("20b5"), ALICE)
    ids = [action["id"] for action in result["actions"]]
    assert ids.index("image.build") < ids.index("workbench.configure") < ids.index("workbench.start")
    json.dumps(result)


def test_nobody_wanted_and_nobody_there_is_no_part_of_the_plan() -> None:
    result = plan(converge(bare("20b5")), {}, CATALOG, host="node", today=TODAY)
    assert result["workbench"] is None and result["status"] == "converged"


def test_converged_node_needs_nothing(node: Node) -> None:
    assert planned(node, ALICE, BOB)["status"] == "converged"


def test_another_key_configures_and_restarts_nothing(node: Node) -> None:
    result = planned(node, {**ALICE, "authorized_keys": [KEY, OTHER_KEY]}, BOB)
    assert [action["id"] for action in result["actions"]] == ["workbench.configure"]
    assert result["actions"][0]["restarts"] == []


@pytest.mark.parametrize(
    "change",
    [{"memory": "8g"}, {"gpus": [0]}, {"jupyter_port": 9000}, {"authorized_keys": [], "ssh_port": None}],
)
def test_another_configuration_starts_anew_this_one_alone(node: Node, change: dict[str, Any]) -> None:
    result = planned(node, {**ALICE, **change}, BOB)
    assert [action["id"] for action in result["actions"]] == ["workbench.configure", "workbench.start"]
    assert result["actions"][1]["restarts"] == ["gpuready-workbench-alice.service"]
    assert not any("bob" in line for action in result["actions"] for line in action["evidence"])


def test_another_driver_starts_anew(node: Node) -> None:
    """Its libraries were mounted into the container when that started, and are gone now."""
    result = planned(node, ALICE, BOB, nvidia_driver_branch="535")
    ids = [action["id"] for action in result["actions"]]
    assert "driver.install" in ids and ids[-2:] == ["workbench.configure", "workbench.start"]


def test_ssh_switched_off_leaves_its_files_over_but_not_the_host_keys(node: Node) -> None:
    node = copy.deepcopy(node)
    private = "/etc/gpuready/workbench/alice/ssh_host_keys/ssh_host_rsa_key"
    node["application"]["files"][private] = {"sha256": None, "mode": "0600", "owner": "root", "link": None}
    evidence = planned(node, {"name": "alice"}, BOB)["actions"][0]["evidence"]
    assert any("sshd_config is left over" in line for line in evidence)
    assert not any("ssh_host" in line for line in evidence)


@pytest.mark.parametrize("users", [[BOB], [{**ALICE, "state": "absent"}, BOB]])
def test_user_that_is_not_declared_loses_the_workbench(node: Node, users: list[Any]) -> None:
    result = planned(node, *users)
    assert [action["id"] for action in result["actions"]] == ["workbench.remove"]
    assert result["workbench"]["absent"] == ["alice"]
    assert "homes are kept" in result["actions"][0]["evidence"]


def test_certificate_that_was_renewed_is_copied(node: Node) -> None:
    tls = {"gpu_workbench_tls_certificate": "/c.pem", "gpu_workbench_tls_key": "/k.pem"}
    node = converge(copy.deepcopy(node), **wished(ALICE, BOB, **tls))
    node["application"]["workbenches"][0]["certificate_current"] = False
    result = planned(node, ALICE, BOB, **tls)
    assert [action["id"] for action in result["actions"]] == ["workbench.configure"]


def test_password_needs_another_secret(node: Node) -> None:
    result = planned(node, ALICE, BOB, gpu_workbench_auth="password")
    assert any("no password for Jupyter" in line for line in result["actions"][0]["evidence"])


# --- how Docker starts it -------------------------------------------------------------------------


def row_of(node: Node, user: dict[str, Any], **wishes: Any) -> Node:
    return planned(node, user, **wishes)["workbench"]["users"][0]


def unit_of(row: Node) -> str:
    return next(file["content"] for file in row["files"] if file["path"].endswith(".service"))


def command_of(row: Node) -> list[str]:
    unit = unit_of(row).replace("\\\n", "")
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.partition("=")[2])


def test_container_gets_no_more_than_it_needs(node: Node) -> None:
    words = command_of(row_of(node, {**ALICE, "memory": "4g", "cpus": 2}))
    assert words[:2] == ["/usr/bin/docker", "run"]
    for word in (
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pull=never",
        "--memory=4g",
        "--cpus=2",
    ):
        assert word in words
    assert {word for word in words if word.startswith("--cap-add")} == {
        "--cap-add=CHOWN",
        "--cap-add=SETGID",
        "--cap-add=SETUID",
    }
    published = [word for word in words if word.startswith("--publish")]
    assert published == ["--publish=127.0.0.1:8888:8888/tcp", "--publish=127.0.0.1:2222:2222/tcp"]
    assert [word for word in words if "/etc/gpuready" in word and "source=" in word] == [
        "--mount=type=bind,source=/etc/gpuready/workbench/alice,target=/etc/gpuready/workbench,readonly"
    ]
    assert not any(word.startswith(("--privileged", "-v", "--volume", "--pid=", "--ipc")) for word in words)
    assert "--network=gpuready-workbench-alice" in words
    assert words[-2:] == ["jupyter", "ssh"]


def test_configuration_hash_is_on_the_container_and_follows_what_it_covers(node: Node) -> None:
    first = row_of(node, ALICE)
    assert "--label=io.gpuready.config=" + first["config"] in command_of(first)
    assert row_of(node, {**ALICE, "authorized_keys": [OTHER_KEY]})["config"] == first["config"]
    assert row_of(node, {**ALICE, "shm_size": "2g"})["config"] != first["config"]
    assert row_of(node, ALICE, gpu_workbench_auth="password")["config"] != first["config"]


def test_no_secret_is_in_the_plan(node: Node) -> None:
    for file in row_of(node, ALICE, gpu_workbench_auth="password")["files"]:
        assert file["mode"] == "0644"
        assert not file["path"].endswith(("token", "password_hash", "tls.key"))


@pytest.mark.parametrize(
    ("way", "gpus", "expected"),
    [
        ("gpus", "all", ["--gpus=all"]),
        ("gpus", ["1"], ['--gpus="device=1"']),
        ("runtime", ["0", "1"], ["--runtime=nvidia", "--env=NVIDIA_VISIBLE_DEVICES=0,1"]),
        ("cdi", "all", ["--device=nvidia.com/gpu=all"]),
        ("cdi", [], ["--env=NVIDIA_VISIBLE_DEVICES=void"]),
    ],
)
def test_gpus_are_handed_in_as_the_plan_launches(way: str, gpus: Any, expected: list[str]) -> None:
    assert workbench_files.gpu_words(gpus, way) == expected


def test_cdi_names_gpus_by_index(node: Node) -> None:
    node = with_devices(node)
    assert row_of(node, {**ALICE, "gpus": [UUID]})["gpus"] == [UUID]
    node["container_runtime"]["docker"]["live"]["server_version"] = "28.5.1"
    cdi = {"gpu_verify_launch": "cdi", "nvidia_container_toolkit_cdi": "enabled"}
    row = row_of(node, {**ALICE, "gpus": [UUID]}, **cdi)
    assert row["gpus"] == ["1"] and "--device=nvidia.com/gpu=1" in command_of(row)


def test_unit_survives_systemds_own_quoting(node: Node) -> None:
    """What looks like a variable or a specifier to systemd is none."""
    assert workbench_files._systemd_word('--gpus="device=0"') == '"--gpus=\\"device=0\\""'
    assert workbench_files._systemd_word("50%$x") == "50%%$$x"
    text = unit_of(row_of(node, ALICE))
    assert (
        "Restart=always" in text
        and "WantedBy=multi-user.target" in text
        and "Requires=docker.service" in text
    )


def test_neighbours_are_kept_out_of_a_workbench_on_the_loopback(node: Node) -> None:
    """Docker before 28 lets them in by the container's own address."""
    rule = workbench_files.guard_rule("alice")
    assert "iptables -w -I DOCKER-USER " + rule in unit_of(row_of(node, ALICE))
    tls = {"gpu_workbench_tls_certificate": "/c.pem", "gpu_workbench_tls_key": "/k.pem"}
    opened = unit_of(row_of(node, ALICE, gpu_workbench_bind_address="0.0.0.0", **tls))
    assert "-I DOCKER-USER" not in opened and "-D DOCKER-USER " + rule in opened
    bridges = {workbench_files.bridge_name(name) for name in ("alice", "bob", "a" * 31)}
    assert len(bridges) == 3 and all(len(name) <= 15 for name in bridges)


def test_no_token_reaches_jupyters_log() -> None:
    """A link that is opened at another server arrives in its log, in the address and as the referer."""
    text = workbench_files.jupyter_config("token", tls=False)
    said = "403 POST /login?next=%2Flab%3Ftoken%3Dgeheim referer=http://x/lab?token=geheim"
    factory = logging.getLogRecordFactory()
    try:
        exec(compile(text, "jupyter_server_config.py", "exec"), {"c": MagicMock()})
        record = logging.getLogRecordFactory()("x", logging.WARNING, "f", 1, said, (), None)
    finally:
        logging.setLogRecordFactory(factory)
    assert "geheim" not in record.getMessage() and "403 POST /login" in record.getMessage()


def test_ipv6_address_is_published_in_brackets(node: Node) -> None:
    words = command_of(row_of(node, ALICE, gpu_workbench_bind_address="::1"))
    assert "--publish=[::1]:8888:8888/tcp" in words


def test_jupyter_config_is_python_and_keeps_passwords_strong(node: Node) -> None:
    for auth in ("token", "password"):
        text = workbench_files.jupyter_config(auth, tls=True)
        compile(text, "jupyter_server_config.py", "exec")
        assert "allow_password_change = False" in text and "/run/gpuready/tls.key" in text


def test_sshd_config_lets_only_keys_in() -> None:
    text = workbench_files.sshd_config()
    for line in (
        "AuthenticationMethods publickey",
        "PasswordAuthentication no",
        "PermitRootLogin no",
        "UsePAM no",
    ):
        assert line in text.splitlines()
