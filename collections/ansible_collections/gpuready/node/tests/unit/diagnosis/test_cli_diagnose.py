"""`gpuready diagnose`: what it reads, what it says, its exit codes, and how fast it is."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
from gpuready import cli
from gpuready.diagnosis import knowledge as knowledge_module
from gpuready.diagnosis.chain import LINKS
from small_world import cause, knowledge, message

KNOWN = knowledge(
    [message("a.broken", "bridge (?P<name>[a-z]+) collapsed")],
    [
        cause("collapsed", title="the bridge {name} is down", messages={"a.broken": 0.9}),
        cause("established", link="engine", when="test.a", repair="safe", actions=["docker.restart"]),
    ],
)


@pytest.fixture(autouse=True)
def small_knowledge(monkeypatch):
    monkeypatch.setattr(knowledge_module, "load_knowledge", lambda **_options: KNOWN)


def ask(monkeypatch, capsys, *arguments, text: str | bytes | None = None):
    if text is not None:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    code = cli.main(["diagnose", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_cause_found_is_two_and_one_screen(monkeypatch, capsys):
    code, out, err = ask(monkeypatch, capsys, text="the bridge\nbridge alpha collapsed\n")
    assert (code, err) == (cli.CAUSE_FOUND, "")
    assert "1. Host: the bridge alpha is down (90%; collapsed)" in out
    assert "bridge alpha collapsed" in out
    assert len(out.splitlines()) <= 24
    assert max(map(len, out.splitlines())) <= 100


def test_nothing_known_is_three(monkeypatch, capsys):
    code, out, _err = ask(monkeypatch, capsys, text="ERROR: what is this\n")
    assert code == cli.UNKNOWN
    assert "No known cause" in out
    assert "ERROR: what is this" in out


def test_a_file_a_dash_and_the_standard_input_are_read_alike(monkeypatch, capsys, tmp_path):
    text = "bridge alpha collapsed\n"
    path = tmp_path / "log.txt"
    path.write_text(text)
    codes = [
        ask(monkeypatch, capsys, str(path))[0],
        ask(monkeypatch, capsys, "-", text=text)[0],
        ask(monkeypatch, capsys, text=text)[0],
    ]
    assert codes == [cli.CAUSE_FOUND] * 3


def test_several_files_are_one_machine(monkeypatch, capsys, tmp_path):
    (tmp_path / "one.log").write_text("all is well")
    (tmp_path / "two.log").write_text("bridge alpha collapsed")
    code, out, _err = ask(monkeypatch, capsys, str(tmp_path / "one.log"), str(tmp_path / "two.log"))
    assert code == cli.CAUSE_FOUND
    assert "two.log: bridge alpha collapsed" in out


def test_the_unknown_is_told_what_would_help(monkeypatch, capsys):
    _code, out, _err = ask(monkeypatch, capsys, text="ERROR: what is this\n")
    assert "lspci -nnk -d 10de:" in out


@pytest.mark.parametrize(
    "data",
    [
        "bridge alpha collapsed".encode("utf-16"),
        b"\xef\xbb\xbfbridge alpha collapsed",
        b"\xff\x80\x00 junk\r\nbridge alpha collapsed\r\n",
        b"\x1b[31mbridge \x1b[0malpha collapsed\n",
    ],
    ids=["utf-16", "bom", "junk", "colours"],
)
def test_any_bytes_are_read(monkeypatch, capsys, data):
    assert ask(monkeypatch, capsys, text=data)[0] == cli.CAUSE_FOUND


def test_json_is_the_contracts(monkeypatch, capsys):
    code, out, _err = ask(monkeypatch, capsys, "--json", text="bridge alpha collapsed")
    answer = json.loads(out)
    assert code == cli.CAUSE_FOUND
    assert set(answer) == {
        *(
            "schema",
            "host",
            "simulated",
            "status",
            "first_broken",
            "chain",
            "causes",
            "unexplained",
            "ignored",
        ),
        *("problems", "seconds"),
    }
    assert [row["link"] for row in answer["chain"]] == [link.name for link in LINKS]
    assert set(answer["causes"][0]) == {
        *("host", "layer", "link", "cause", "title", "confidence", "certain", "standing", "evidence"),
        *("distinguish", "check", "fix", "repair", "site", "consequences", "see"),
    }


def facts(tmp_path, data):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(data))
    return str(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda node: node,
        lambda node: [node, {"host": "other", "framework": {"name": "jax"}}],
        lambda node: {"gpu1": {name: part for name, part in node.items() if name != "host"}},
    ],
    ids=["one", "list", "by host"],
)
def test_facts_from_a_file(monkeypatch, capsys, tmp_path, wrap):
    node = {"host": "gpu1", "framework": {"packages": {"a": True}}, "plan": {"actions": []}}
    code, out, _err = ask(monkeypatch, capsys, "--facts", facts(tmp_path, wrap(node)))
    assert code == cli.CAUSE_FOUND
    assert "gpu1: cause found" in out
    assert "(certain; established)" in out


def test_an_observation_alone_is_facts(monkeypatch, capsys, tmp_path):
    path = facts(tmp_path, {"schema": 1, "host": {"hostname": "gpu1"}, "driver": {"loaded": None}})
    _code, out, _err = ask(monkeypatch, capsys, "--facts", path)
    assert out.startswith("gpu1: ")


def test_facts_beat_the_log_that_comes_with_them(monkeypatch, capsys, tmp_path):
    path = facts(tmp_path, {"host": "gpu1", "framework": {"packages": {"a": True}}})
    _code, out, _err = ask(monkeypatch, capsys, "-", "--facts", path, "--json", text="bridge alpha collapsed")
    assert {row["cause"] for row in json.loads(out)["causes"]} == {"established", "collapsed"}


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (["/does/not/exist"], None, ["/does/not/exist", "No such file"]),
        ([], "  \n", ["standard input", "nothing in it"]),
        (["--facts", "BROKEN"], None, ["not JSON"]),
        (["--facts", "EMPTY"], None, ["no facts in it"]),
        (["--page", "b"], None, ["unrecognized arguments", "--help"]),
    ],
)
def test_a_bad_question_is_one_line_and_exit_code_one(monkeypatch, capsys, tmp_path, arguments, text, words):
    (tmp_path / "BROKEN").write_text("{")
    (tmp_path / "EMPTY").write_text('{"schema": 1}')
    monkeypatch.chdir(tmp_path)
    code, out, err = ask(monkeypatch, capsys, *arguments, text=text)
    assert (code, out) == (cli.BAD_QUESTION, "")
    assert err.startswith("gpuready: ")
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words)


def test_a_terminal_without_the_symbols_gets_plain_ones(monkeypatch, capsys):
    class Plain(io.StringIO):
        encoding = "ascii"  # type: ignore[assignment]

    out = Plain()
    monkeypatch.setattr(sys, "stdout", out)
    ask(monkeypatch, capsys, text="bridge alpha collapsed")
    assert "toolkit x" in out.getvalue()
    assert out.getvalue().isascii()


def cpu_seconds(text: bytes) -> float:
    """What a cold process costs, without what other processes make it wait."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "gpuready", "diagnose", "--json"],
        input=text,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


PASTED = b"""$ docker run --rm --gpus all nvidia/cuda:12.4.1-base-ubuntu22.04 nvidia-smi
docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].
"""


def test_an_answer_takes_less_than_a_second():
    assert min(cpu_seconds(PASTED) for _ in range(2)) < 1


@pytest.mark.parametrize("kind", ["training", "kernel", "one line", "apt"])
def test_so_does_one_from_a_megabyte(kind):
    line = {
        "training": b"2026-11-02 10:11:12.%06d: I tensorflow/core/common_runtime/gpu.cc:%d] step %d loss\n",
        "kernel": b"[%5d.123456] NVRM: GPU 0000:%02d:00.0: RmInitAdapter failed! (0x26:0x56:%d)\n",
        "one line": b"nvidia error %d failed driver %d cuda %d ",
        "apt": b"Get:%d http://example.org/ubuntu jammy/main amd64 libnvidia-compute-%d all 1.%d [12 kB]\n",
    }[kind]
    rows = b"".join(
        line % (number, number % 97, number) for number in range(1_000_000 // len(line % (1, 1, 1)))
    )
    assert min(cpu_seconds(rows + b"\n" + PASTED) for _ in range(2)) < 1
