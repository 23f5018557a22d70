"""Docker as installed, as configured and as it runs; the toolkit in dockerd's eyes; images and containers."""

from __future__ import annotations

import time

import pytest
from gpuready.observe import docker, packages, systemd, toolkit
from gpuready.observe.node import DockerError, Result

HZ = 100


def _process(
    machine, pid=411, argv=("/usr/bin/dockerd", "-H", "fd://"), environ="LANG=C\0", started_ago=100.0
):
    """A dockerd that started so many seconds ago."""
    uptime = 1000.0
    ticks = int((uptime - started_ago) * HZ)
    machine.write("/proc/uptime", f"{uptime} 99.0\n")
    machine.write(f"/proc/{pid}/comm", "dockerd\n")
    machine.write(f"/proc/{pid}/cmdline", "\0".join(argv) + "\0")
    machine.write(f"/proc/{pid}/environ", environ)
    machine.write(f"/proc/{pid}/stat", f"{pid} (docker d) x) S 1 " + "0 " * 17 + f"{ticks} 0 0\n")
    return pid


@pytest.fixture(autouse=True)
def _ticks(monkeypatch):
    monkeypatch.setattr(docker.os, "sysconf", lambda _name: HZ)


def test_start_time_is_told_to_a_fraction_of_a_second(machine):
    _process(machine, started_ago=12.5)
    assert docker.started_at(machine.node, 411) == pytest.approx(machine.now - 12.5, abs=0.02)
    assert docker.started_at(machine.node, 999) is None


def test_dockerd_is_found_by_systemd_s_word_or_its_pid_file(machine):
    _process(machine, 411)
    assert docker.find_process(machine.node, {"MainPID": "411"}).pid == 411
    assert docker.find_process(machine.node, {"MainPID": "0"}) is None
    assert docker.find_process(machine.node, None) is None
    machine.write("/run/docker.pid", "411\n")
    assert docker.find_process(machine.node, None).pid == 411
    machine.write("/proc/411/comm", "sshd\n")  # a stale pid file
    assert docker.find_process(machine.node, None) is None


def test_environment_gives_the_path_or_systemd_s_default(machine):
    _process(machine, environ="A=B\0PATH=/opt/bin:/bin\0")
    assert docker.find_process(machine.node, {"MainPID": "411"}).path == "/opt/bin:/bin"
    _process(machine, environ="A=B\0")
    assert docker.find_process(machine.node, {"MainPID": "411"}).path == docker.SYSTEMD_PATH


def test_unreadable_environment_leaves_the_path_unknown(machine, unreadable):
    _process(machine)
    unreadable("/proc/411/environ")
    node = machine.node
    process = docker.find_process(node, {"MainPID": "411"})
    assert process.path is None
    assert node.problems == [
        {"probe": "container_runtime.docker", "error": "Permission denied: /proc/411/environ"}
    ]
    assert toolkit.hook(node, process) == {"hook_on_dockerd_path": None, "hook_newer_than_dockerd": None}


EXEC_START = (
    "{ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd -H fd:// --config-file=/opt/d.json ;"
    " ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }"
)


@pytest.mark.parametrize(
    ("argv", "unit", "expected"),
    [
        (("dockerd",), {}, "/etc/docker/daemon.json"),
        (("dockerd", "--config-file", "/opt/a b.json"), {}, "/opt/a b.json"),
        (("dockerd", "--config-file=/opt/c.json"), {"ExecStart": EXEC_START}, "/opt/c.json"),
        (None, {"ExecStart": EXEC_START}, "/opt/d.json"),
        (None, {"ExecStart": ""}, "/etc/docker/daemon.json"),
    ],
)
def test_daemon_json_s_path_is_dockerd_s_own(machine, argv, unit, expected):
    process = None
    if argv:
        _process(machine, argv=argv)
        process = docker.find_process(machine.node, {"MainPID": "411"})
    found = docker.daemon_json(machine.node, docker.command_line(process, unit), snap=False)
    assert found["path"] == expected and found["exists"] is False and found["valid"] is None


def test_snap_keeps_daemon_json_elsewhere(machine):
    machine.write(docker.SNAP_CONFIG, "{}")
    assert docker.daemon_json(machine.node, [], snap=True)["exists"] is True
    assert docker.daemon_json(machine.node, [], snap=False)["exists"] is False


@pytest.mark.parametrize(
    ("data", "line_and_column"),
    [
        (b'{"a": 1,}', "line 1, column"),
        (b'{\n  "runtimes": {\n    "nvidia": {"path": "x"\n', "line 4, column 1"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\xff\xfe{\0}\0", "byte order mark"),
        (b'{"a": "\xff"}', "line 1, column 8"),
        (b'{\n"a": NaN}', "NaN"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"text"', "object"),
        (b"// remark\n{}", "line 1, column 1"),
        (b"{} {}", "line 1, column 4"),
        (b"{'a': 1}", "line 1, column 2"),
    ],
)
def test_daemon_json_that_dockerd_refuses_is_located(machine, data, line_and_column):
    machine.write("/etc/docker/daemon.json", data)
    found = docker.daemon_json(machine.node, [], snap=False)
    assert found["valid"] is False and found["content"] is None
    assert line_and_column in found["error"]
    assert len(found["sha256"]) == 64 and found["runtimes"] == {}


def test_daemon_json_that_is_right(machine):
    machine.write(
        "/etc/docker/daemon.json",
        '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}},'
        ' "default-runtime": "nvidia", "features": {"cdi": true}, "log-driver": "json-file"}\n',
    )
    found = docker.daemon_json(machine.node, [], snap=False)
    assert found["valid"] is True and found["error"] is None
    assert found["runtimes"] == {"nvidia": {"path": "nvidia-container-runtime", "args": []}}
    assert (found["default_runtime"], found["features"]) == ("nvidia", {"cdi": True})
    assert found["content"]["log-driver"] == "json-file"


@pytest.mark.parametrize("data", [b"", b"  \n"])
def test_empty_daemon_json_is_an_empty_object(machine, data):
    machine.write("/etc/docker/daemon.json", data)
    assert docker.daemon_json(machine.node, [], snap=False)["content"] == {}


def test_wrong_types_inside_are_nobody_s_crash(machine):
    machine.write(
        "/etc/docker/daemon.json", '{"runtimes": [], "features": null, "default-runtime": 1, "hosts": "x"}'
    )
    found = docker.daemon_json(machine.node, [], snap=False)
    assert (found["runtimes"], found["features"], found["default_runtime"]) == ({}, {}, None)
    assert docker.find_socket(machine.node, [], found["content"]) == docker.SOCKET


def test_unreadable_daemon_json_is_there_but_unknown(machine, unreadable):
    machine.write("/etc/docker/daemon.json", "{}")
    unreadable("/etc/docker/daemon.json")
    node = machine.node
    found = docker.daemon_json(node, [], snap=False)
    assert found["exists"] and found["valid"] is None and "Permission denied" in found["error"]
    assert node.problems[0]["probe"] == "container_runtime.docker.daemon_json"


@pytest.mark.parametrize(
    ("argv", "content", "files", "expected"),
    [
        (["dockerd", "-H", "fd://"], None, ["/var/run/docker.sock"], "/var/run/docker.sock"),
        (["dockerd", "-H", "tcp://127.0.0.1:2375", "--host=unix:///run/d.sock"], None, [], "/run/d.sock"),
        (["dockerd"], {"hosts": ["tcp://0.0.0.0:2376", "unix:///srv/d.sock"]}, [], "/srv/d.sock"),
        ([], None, ["/run/user/1000/docker.sock"], "/run/user/1000/docker.sock"),
        ([], None, ["/run/user/1000/docker.sock", "/var/run/docker.sock"], "/var/run/docker.sock"),
        ([], None, [], "/var/run/docker.sock"),
    ],
)
def test_socket_is_where_dockerd_listens(machine, argv, content, files, expected):
    for path in files:
        machine.write(path)
    assert docker.find_socket(machine.node, argv, content) == expected


INFO = {
    "ServerVersion": "28.2.2",
    "Runtimes": {
        "runc": {"path": "runc"},
        "io.containerd.runc.v2": {},
        "nvidia": {"path": "nvidia-container-runtime"},
    },
    "DefaultRuntime": "runc",
    "DockerRootDir": "/srv/docker",
    "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
    "RegistryConfig": {
        "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"],
        "IndexConfigs": {
            "docker.io": {"Name": "docker.io", "Secure": True},
            "gpulab-registry:5000": {"Name": "gpulab-registry:5000", "Secure": False},
        },
        "Mirrors": ["http://mirror:5000/"],
    },
    "LiveRestoreEnabled": False,
    "ContainersRunning": 3,
    "NCPU": 8,
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
}


def test_live_is_what_dockerd_runs_with(machine):
    machine.api["/info"] = INFO
    live, _info = docker.ask(machine.node, docker.SOCKET)
    assert live == {
        "reachable": True,
        "error": None,
        "server_version": "28.2.2",
        "runtimes": ["io.containerd.runc.v2", "nvidia", "runc"],
        "default_runtime": "runc",
        "root_dir": "/srv/docker",
        "cdi_spec_dirs": ["/etc/cdi", "/var/run/cdi"],
        "cgroup_version": "2",
        "cgroup_driver": "systemd",
        "insecure_registries": ["127.0.0.0/8", "::1/128", "gpulab-registry:5000"],
        "registry_mirrors": ["http://mirror:5000/"],
        "live_restore": False,
        "containers_running": 3,
        "cpus": 8,
        "security_options": ["name=seccomp,profile=builtin", "name=rootless"],
    }


def test_old_engine_says_less(machine):
    machine.api["/info"] = {"ServerVersion": "18.09.1", "Runtimes": None, "RegistryConfig": None}
    live, _info = docker.ask(machine.node, docker.SOCKET)
    assert live["reachable"] and live["runtimes"] == [] and live["cdi_spec_dirs"] is None


def test_engine_that_is_down_is_no_guess(machine):
    live, info = docker.ask(machine.node, docker.SOCKET)
    assert live["reachable"] is False and "No such file or directory" in live["error"] and info == {}
    assert {value for key, value in live.items() if key not in ("reachable", "error")} == {None}


def test_images_with_their_names_digests_and_environment(machine):
    machine.api["/images/json"] = [
        {
            "Id": "sha256:aa",
            "RepoTags": ["tf:2.9", "reg:5000/tf:2.9"],
            "RepoDigests": ["tf@sha256:1"],
            "Size": 3984588800,
        },
        {"Id": "sha256:bb", "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"], "Size": 1},
        {"Id": "sha256:cc", "RepoTags": None, "RepoDigests": ["x@sha256:2"], "Size": 0},
        {"Id": "sha256:dd", "RepoTags": ["gone:1"], "RepoDigests": None, "Size": 1048576},
    ]
    machine.api["/images/sha256%3Aaa/json"] = {
        "Config": {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=11.2 brand=tesla,driver>=418", "API_TOKEN=x"]}
    }
    machine.api["/images/sha256%3Acc/json"] = {"Config": None}
    machine.api["/containers/json?all=1"] = [
        {"Id": "c2", "Names": ["/train"], "ImageID": "sha256:aa"},
        {"Id": "c1", "Names": ["/alice"], "ImageID": "sha256:aa"},
    ]
    node = machine.node
    found = docker.images(node, docker.SOCKET)
    assert [(image["ref"], image["size_mib"]) for image in found] == [
        ("gone:1", 1),
        ("reg:5000/tf:2.9", 3800),
        ("tf:2.9", 3800),
        ("x@sha256:2", 0),
    ]
    assert found[2]["env"] == {"NVIDIA_REQUIRE_CUDA": "cuda>=11.2 brand=tesla,driver>=418"}
    assert found[0]["env"] is None and found[3]["env"] == {}
    assert node.problems[0]["probe"] == "framework.images"
    assert [image["containers"] for image in found] == [[], ["alice", "train"], ["alice", "train"], []]


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"HostConfig": {"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]}}, True),
        ({"HostConfig": {"DeviceRequests": [{"Driver": "nvidia", "Capabilities": None}]}}, True),
        ({"HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]}}, True),
        ({"HostConfig": {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/net=0"]}]}}, False),
        ({"HostConfig": {"Runtime": "nvidia"}, "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]}}, True),
        ({"HostConfig": {"Runtime": "nvidia"}, "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=void"]}}, False),
        ({"HostConfig": {"Runtime": "nvidia"}, "Config": {"Env": None}}, False),
        ({"HostConfig": {"Runtime": "runc"}, "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]}}, False),
        ({"HostConfig": {"Devices": [{"PathOnHost": "/dev/nvidia0"}]}}, True),
        ({"HostConfig": {"Devices": [{"PathOnHost": "/dev/fuse"}], "DeviceRequests": None}}, False),
        ({}, False),
    ],
)
def test_container_that_holds_a_gpu(container, expected):
    assert docker.holds_gpu(container) is expected


def test_engine_that_stops_answering_ends_the_listing(machine):
    machine.api["/images/json"] = [{"Id": "a", "RepoTags": ["a:1"]}, {"Id": "b", "RepoTags": ["b:1"]}]
    machine.api["/images/a/json"] = DockerError("Docker Engine at x: timed out")
    machine.api["/containers/json?all=1"] = []
    machine.api["/containers/json"] = [{"Id": "a"}]
    machine.api["/containers/a/json"] = DockerError("Docker Engine at x: timed out")
    for question in (docker.images, docker.gpu_containers):
        with pytest.raises(DockerError, match="timed out"):
            question(machine.node, docker.SOCKET)


def test_gpu_containers_survive_one_that_ends_meanwhile(machine):
    machine.api["/containers/json"] = [{"Id": "aa"}, {"Id": "bb"}, {"Id": "cc"}]
    machine.api["/containers/aa/json"] = {
        "Name": "/train",
        "Config": {"Image": "tf:2.9"},
        "HostConfig": {"DeviceRequests": [{"Capabilities": [["gpu"]]}]},
    }
    machine.api["/containers/bb/json"] = DockerError("Docker Engine at x: No such container: bb")
    machine.api["/containers/cc/json"] = {"Name": "/web", "HostConfig": {}}
    node = machine.node
    assert docker.gpu_containers(node, docker.SOCKET) == [
        {"id": "aa", "name": "train", "image": "tf:2.9", "labels": {}}
    ]
    assert node.problems == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20.10.24+dfsg1-1+deb12u1+b6", "20.10.24"),
        ("5:27.3.1-1~ubuntu.22.04~jammy", "27.3.1"),
        ("28.2.2-0ubuntu1~22.04.1", "28.2.2"),
        ("Docker version 27.3.1, build ce12230", "27.3.1"),
        ("", None),
        (None, None),
    ],
)
def test_upstream_version(text, expected):
    assert docker.version_of(text) == expected


def test_packages_of_docker_prefer_the_installed_one():
    found = packages.parse(
        "docker.io\tamd64\t20.10.24-1\tdeinstall\tconfig-files\tok\n"
        "docker-ce\tamd64\t5:27.3.1-1~ubuntu\tinstall\tinstalled\tok\n"
    )
    assert docker.package(found).name == "docker-ce"
    assert docker.package(found[:1]) is None


@pytest.mark.parametrize(
    "place", ["/snap/bin/docker", "/snap/docker/current/x", "/var/lib/snapd/snaps/docker_2915.snap"]
)
def test_snap_is_recognised(machine, place):
    assert docker.is_snap(machine.node) is False
    machine.write(place)
    assert docker.is_snap(machine.node) is True


def test_systemd_s_answer_about_several_units():
    found = systemd.parse(
        "Id=docker.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=411\n"
        f"ExecStart={EXEC_START}\n\nId=nvidia-persistenced.service\nLoadState=not-found\nActiveState=inactive\nMainPID=0\n"
    )
    assert found["docker.service"]["MainPID"] == "411"
    assert found["nvidia-persistenced.service"]["LoadState"] == "not-found"
    assert "argv[]=/usr/bin/dockerd -H" in found["docker.service"]["ExecStart"]


# the toolkit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80a9b9d0db00d9b1d73c0128c8962c55f4d\n",
            "1.17.8",
        ),
        ("NVIDIA Container Toolkit CLI version 1.18.0-rc.1\n", "1.18.0-rc.1"),
        ("nonsense", None),
    ],
)
def test_toolkit_version(text, expected):
    assert toolkit.parse_version(text) == expected


def test_toolkit_that_is_not_there_is_not_asked(machine):
    assert toolkit.version(machine.node) is None and machine.asked == []


def _hook(machine, started_ago, path="PATH=/usr/sbin:/usr/bin\0"):
    _process(machine, started_ago=started_ago, environ=path)
    machine.program("/usr/bin/nvidia-container-runtime-hook")
    node = machine.node
    return toolkit.hook(node, docker.find_process(node, {"MainPID": "411"}))


def test_hook_that_came_after_dockerd_is_not_known_to_it(machine):
    machine.now = time.time()
    assert _hook(machine, 100) == {"hook_on_dockerd_path": True, "hook_newer_than_dockerd": True}


def test_hook_that_was_there_is_known(machine):
    machine.now = time.time() + 200  # dockerd starts a hundred seconds from now
    assert _hook(machine, 100) == {"hook_on_dockerd_path": True, "hook_newer_than_dockerd": False}


def test_hook_elsewhere_is_not_on_dockerd_s_path(machine):
    assert _hook(machine, 100, "PATH=/sbin:/opt/bin\0") == {
        "hook_on_dockerd_path": False,
        "hook_newer_than_dockerd": False,
    }


def test_no_dockerd_no_answer(machine):
    assert toolkit.hook(machine.node, None) == {"hook_on_dockerd_path": None, "hook_newer_than_dockerd": None}


def _log(machine, *entries):
    lines = []
    for age, action in entries:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(machine.now - age))
        old = "<none>" if action == "install" else "1.17.7-1"
        lines.append(f"{stamp} {action} nvidia-container-toolkit:amd64 {old} 1.17.8-1")
        lines.append(f"{stamp} status installed nvidia-container-toolkit:amd64 1.17.8-1")
    machine.write("/var/log/dpkg.log", "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("entries", "newer"),
    [
        ([(5000, "install"), (50, "upgrade")], False),
        ([(50, "install")], True),
        ([(80, "install"), (50, "upgrade")], True),
        ([(5000, "install")], True),
        ([], True),
    ],
)
def test_upgrade_of_the_toolkit_is_no_reason_to_restart_dockerd(machine, entries, newer):
    machine.now = time.time() + 1
    _log(machine, *entries)
    assert _hook(machine, 100)["hook_newer_than_dockerd"] is newer


def test_result_quotes_the_command_s_own_words():
    assert Result(1, "", "").message == "exit status 1"
    assert Result(1, "out\n", "").message == "out"
