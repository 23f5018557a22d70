"""Pasted text is made plain: what surrounds the words goes, the words stay."""

from __future__ import annotations

import time

import pytest
from gpuready.diagnosis.reader_text import clean, normalise
from hypothesis import given
from hypothesis import strategies as st

SAID = "E tensorflow/stream_executor/cuda/cuda_driver.cc:271] failed call to cuInit: CUDA_ERROR_NO_DEVICE"


@pytest.mark.parametrize(
    "pasted",
    [
        f"2022-05-01 10:00:00.123456: {SAID}",
        f"> 2022-05-01 10:00:00.123456: {SAID}",
        f"> > {SAID}",
        f"    2022-05-01 10:00:00.123456: {SAID}",
        f"`{SAID}`",
        f"**{SAID}**",
        f"```\n{SAID}\n```",
        f"\x1b[31m{SAID}\x1b[0m",
        f"[0;31m{SAID}[0m",
        f"web-1  | {SAID}",
        f"2024-05-01T10:00:00.123456789Z stderr F {SAID}",
        f"2024-05-01T10:00:00.1234567Z {SAID}",
        f"[2024-05-01T10:00:00.123Z] {SAID}",
        f"Nov 23 09:18:26 node-7 python3[8123]: {SAID}",
        f"[1,0]<stderr>:{SAID}",
        f"(Worker pid=812, ip=192.0.2.7) {SAID}",
        f"[rank0]: {SAID}",
        f"#14 12.34 {SAID}",
        f"10:00:00.123 {SAID}",
        f"<pre><code>{SAID}</code></pre>",
        f"50%|#####     | 1/2\r100%|##########| 2/2\r{SAID}",
        f"{SAID}\r",
        SAID.replace("CUDA_ERROR", "CUDA\\_ERROR"),
    ],
)
def test_what_surrounds_a_line_goes(pasted: str) -> None:
    assert SAID in normalise(pasted).split("\n")


@pytest.mark.parametrize(
    ("pasted", "plain"),
    [
        ("docker run \u2014gpus all x", "docker run --gpus all x"),
        ("could not select device driver \u201c\u201d", 'could not select device driver ""'),
        ("Can\u2019t open display", "Can't open display"),
        ("&lt;module&gt; &amp;&amp; &quot;x&quot;", '<module> && "x"'),
        ("[   12.345678] NVRM: API mismatch", "NVRM: API mismatch"),
        ("[Tue May  2 10:00:00 2023] NVRM: Xid", "NVRM: Xid"),
        ("Nov 23 09:18:26 host kernel: [   12.345678] NVRM: x", "NVRM: x"),
        ("kern  :err   : [Tue May  2 10:00:00 2023] NVRM: x", "NVRM: x"),
        ("E0501 10:00:00.123456       1 main.go:123] no", "E main.go:123] no"),
        ("E0000 00:00:1723456789.123456    1234 cuda_dnn.cc:8310] no", "E cuda_dnn.cc:8310] no"),
        ('time="2024-05-01T10:00:00Z" level=error msg="driver \\"\\" no"', 'level=error msg="driver "" no"'),
        ("a\x00b\ufeffc", "abc"),
        ("\u2502 error \u2502", "| error |"),
    ],
)
def test_a_line_in_plain_words(pasted: str, plain: str) -> None:
    assert normalise(pasted) == plain


def test_a_hook_s_output_in_one_line_becomes_lines_again() -> None:
    text = (
        r"error running hook #0: exit status 1, stderr: legacy\nnvidia-container-cli: "
        r"initialization error: nvml"
    )
    assert normalise(text).split("\n")[1] == "nvidia-container-cli: initialization error: nvml"


def test_a_windows_path_is_not_cut() -> None:
    assert "C:\\nvidia" in normalise("in C:\\nvidia\\bin")


@pytest.mark.parametrize(
    "line",
    [
        "|   0  Tesla T4            Off  | 00000000:00:1E.0 Off |                    0 |",
        "3b:00.0 3D controller: NVIDIA Corporation GA100",
        "0000:3b:00.0 3D controller: NVIDIA Corporation GA100",
        ">>> import torch",
        "root@3f2a1b4c5d6e:/# nvidia-smi",
        "[root@node ~]# nvidia-smi",
        '  File "<stdin>", line 1, in <module>',
        "GPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)",
        "  - driver: nvidia",
        "$ docker run --rm x",
    ],
)
def test_what_looks_like_a_prefix_stays(line: str) -> None:
    assert normalise(line) == line


def test_the_terminal_s_cuts_are_mended() -> None:
    line = "x" * 60 + " nvidia-container-cli: initialization error: driver not loaded: unknown"
    cut = "\n".join([line[:80], line[80:], "next line"])
    assert normalise(cut).split("\n") == [line, "next line"]


def test_lines_that_were_wrapped_by_words_stay_apart() -> None:
    text = "x" * 71 + " was not\nfound but\nbye"
    assert normalise(text) == text


def test_lines_of_a_table_are_not_joined() -> None:
    table = "+" + "-" * 77 + "+\n|" + "a" * 77 + "|\n|" + "b" * 77 + "|"
    assert normalise(table) == table


def test_the_driver_s_sentences_are_joined() -> None:
    text = """[ 1843.308145] NVRM: The NVIDIA GPU 0000:b3:00.0
               NVRM: (PCI ID: 10de:26b5) installed in this system has
               NVRM: fallen off the bus and is not responding to commands.
[ 1843.439669] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.158.01"""
    assert normalise(text).split("\n") == [
        "NVRM: The NVIDIA GPU 0000:b3:00.0 (PCI ID: 10de:26b5) installed in this system "
        "has fallen off the bus"
        " and is not responding to commands.",
        "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  570.158.01",
    ]


def test_a_name_before_a_bar_is_a_prefix_only_of_several_lines() -> None:
    assert normalise("name | value") == "name | value"
    assert normalise("app  | one\napp  | two") == "one\ntwo"


def test_who_wrote_a_line_is_kept() -> None:
    lines = clean("Nov 23 09:18:26 h kernel: NVRM: x\nNov 23 09:18:26 h dockerd[4]: y\nweb-1  | z\nplain")
    assert [line.origin for line in lines] == ["kernel", "dockerd", "container", ""]


@given(st.text(max_size=400))
def test_any_text_can_be_made_plain(text: str) -> None:
    assert isinstance(normalise(text), str)


@pytest.mark.parametrize(
    "piece",
    [
        "a\n",
        "[",
        "[\n",
        " ",
        "\r",
        "50%|a\r",
        "> ",
        "`",
        "&",
        "<",
        "\x1b[",
        "a@",
        "((",
        "NVRM: a\n",
        "name | a\n",
        "1:",
        "\\n",
        "**a",
    ],
)
def test_a_megabyte_takes_no_time(piece: str) -> None:
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    started = time.process_time()
    normalise(text)
    # Linear: half a megabyte takes half of it; the bound leaves room for a busy machine.
    assert time.process_time() - started < 2.5
