"""The node that probes read: links stay inside a recorded tree, failures stay where they happen."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from gpuready.observe.node import (
    DockerError,
    Jobs,
    MissingTool,
    Node,
    ProbeError,
    _system_docker_get,
    _system_run,
    error_text,
    natural_key,
)


def test_absolute_links_stay_inside_the_tree(machine):
    machine.write("/usr/lib/real.so.1.2", "library")
    machine.link("/lib", "/usr/lib")
    machine.link("/usr/lib/name.so", "real.so.1.2")
    assert machine.node.real("/lib/name.so") == "/usr/lib/real.so.1.2"
    assert machine.node.text("/lib/name.so") == "library"


def test_link_out_of_the_tree_cannot_climb(machine):
    machine.link("/etc/passwd", "../../../../../../../../etc/shadow")
    assert machine.node.real("/etc/passwd") == "/etc/shadow"
    assert machine.node.text("/etc/passwd") is None


def test_link_in_a_circle_is_an_error_and_no_hang(machine):
    machine.link("/a", "b")
    machine.link("/b", "a")
    with pytest.raises(OSError, match="symbolic links"):
        machine.node.text("/a")


def test_missing_things_are_null_or_empty(machine):
    machine.write("/file")
    node = machine.node
    assert node.text("/nowhere/file") is None
    assert node.text("/file/below") is None
    assert node.listdir("/nowhere") == []
    assert node.stat("/nowhere") is None
    assert node.readlink("/file") is None


def test_directory_in_a_file_s_place_is_a_problem_of_its_probe_only(machine):
    machine.mkdir("/etc/os-release")
    node = machine.node
    assert node.attempt("host.os", lambda: node.text("/etc/os-release"), "unknown") == "unknown"
    assert node.problems == [{"probe": "host.os", "error": node.problems[0]["error"]}]
    assert "Is a directory" in node.problems[0]["error"]


def test_which_wants_an_executable_file(machine):
    machine.write("/usr/bin/tool", "", 0o644)
    assert machine.node.which("tool") is None
    machine.mkdir("/usr/local/bin/tool")
    machine.program("/usr/sbin/tool")
    assert machine.node.which("tool") == "/usr/sbin/tool"


def test_files_of_proc_are_read_in_pieces():
    # /proc/sys answers ENOMEM to a reader who offers megabytes.
    assert Node().text("/proc/sys/kernel/osrelease")


def test_command_runs_in_the_c_locale_and_knows_sbin(monkeypatch):
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("PATH", "/nowhere")
    result = _system_run(["sh", "-c", "echo $LC_ALL:$LANGUAGE:$PATH"], 5)
    assert result.out.startswith("C::") and "/usr/sbin" in result.out


def test_missing_and_hanging_commands_say_so():
    with pytest.raises(MissingTool, match="gpuready-nonsense is not installed"):
        _system_run(["gpuready-nonsense"], 5)
    with pytest.raises(ProbeError, match=r"sleep 30 did not answer in 0\.1 s"):
        _system_run(["sleep", "30"], 0.1)


def test_output_that_is_not_utf8_is_no_error():
    assert "\ufffd" in _system_run(["printf", r"\377"], 5).out


def test_failing_command_is_quoted(machine):
    machine.answer("apt-config dump", err="E: Syntax error /etc/apt/apt.conf.d/x:1\n", rc=100)
    with pytest.raises(ProbeError, match=r"apt-config dump: E: Syntax error /etc/apt/apt\.conf\.d/x:1"):
        machine.node.output(["apt-config", "dump"])


def test_jobs_run_side_by_side_and_hand_on_errors(machine):
    jobs = Jobs(machine.node)
    barrier = threading.Barrier(2, timeout=5)
    jobs.start("one", barrier.wait)
    jobs.start("two", barrier.wait)
    jobs.start("bad", lambda: 1 / 0)
    assert {jobs.result("one", 5), jobs.result("two", 5)} == {0, 1}
    with pytest.raises(ZeroDivisionError):
        jobs.result("bad", 5)


def test_job_that_hangs_is_given_up(machine):
    jobs = Jobs(machine.node)
    jobs.start("stuck", lambda: time.sleep(3))
    with pytest.raises(ProbeError, match=r"no answer after 0.05 s"):
        jobs.result("stuck", 0.05)


def test_kernels_are_ordered_by_number():
    names = ["5.15.0-157-generic", "6.8.0-40-generic", "5.15.0-99-generic", "5.15.0-99-lowlatency"]
    assert sorted(names, key=natural_key) == [names[2], names[3], names[0], names[1]]


def _serve(path, answer):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)

    def work():
        connection, _ = server.accept()
        connection.recv(65536)
        if answer is not None:
            connection.sendall(answer)
            connection.close()
        else:
            time.sleep(1)
            connection.close()

    threading.Thread(target=work, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "timed out"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{"a"', "without JSON"),
        (b"garbage\r\n\r\n", "BadStatusLine"),
        (b'HTTP/1.1 500 x\r\nContent-Length: 21\r\n\r\n{"message": "broken"}', "broken"),
    ],
)
def test_engine_that_answers_badly_is_an_error_in_one_line(tmp_path, answer, message):
    server = _serve(tmp_path / "s", answer)
    with pytest.raises(DockerError, match=message):
        _system_docker_get(str(tmp_path / "s"), "/info", 0.3)
    server.close()


def test_engine_is_asked_over_its_socket(tmp_path):
    server = _serve(tmp_path / "s", b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}')
    assert _system_docker_get(str(tmp_path / "s"), "/info", 2) == {"a": 1}
    server.close()
    with pytest.raises(DockerError, match="Connection refused"):
        _system_docker_get(str(tmp_path / "s"), "/info", 2)
    with pytest.raises(DockerError, match="No such file or directory"):
        _system_docker_get(str(tmp_path / "none"), "/info", 2)


def test_errors_read_as_people_write_them():
    assert error_text(PermissionError(13, "Permission denied", "/etc/x")) == "Permission denied: /etc/x"
    assert error_text(ProbeError("said")) == "said"
    assert error_text(ValueError("bad")) == "ValueError: bad"
