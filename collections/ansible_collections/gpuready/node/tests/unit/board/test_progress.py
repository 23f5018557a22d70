"""What long steps tell of themselves: on the node, on the way to the controller, and from earlier runs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gpuready import apt_progress, docker_progress, progress, stage_history

# --- the file ---------------------------------------------------------------------------------------------


def files(folder: Path) -> list[dict]:
    return progress.parse("".join(path.read_text() for path in folder.glob("*.json")))


def test_step_has_a_file_for_as_long_as_it_goes_on(tmp_path):
    folder = tmp_path / "run/progress"
    with progress.Step("image_fetch", "bytes", 100, str(folder)) as step:
        step.tell(40, text="tensorflow", force=True)
        (told,) = files(folder)
        assert {**told, "started": 0, "updated": 0} == {
            "step": "image_fetch",
            "done": 40,
            "total": 100,
            "unit": "bytes",
            "started": 0,
            "updated": 0,
            "text": "tensorflow",
        }
        assert told["started"] <= told["updated"] <= time.time()
        # Everybody may read it, whoever writes it.
        assert stat.S_IMODE((folder / "image_fetch.json").stat().st_mode) == 0o644
    assert list(folder.iterdir()) == []


def test_last_step_takes_the_folders_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FOLDER", str(tmp_path / "gpuready/progress"))
    with progress.Step("image_fetch", "bytes") as first:
        with progress.Step("apt", "packages") as second:
            assert sorted(os.listdir(progress.FOLDER)) == ["apt.json", "image_fetch.json"]
            second.tell(1, force=True)
        assert os.listdir(progress.FOLDER) == ["image_fetch.json"]
        first.tell(2, force=True)
    # A node is as it was before.
    assert list(tmp_path.iterdir()) == []


def test_step_is_not_written_more_often_than_anybody_reads(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(progress.Step, "_write", lambda _self, told: written.append(told["done"]))
    step = progress.Step("apt", "packages", 1000, str(tmp_path))
    for done in range(1000):
        step.tell(done)
    assert written == [0]
    step.tell(1000, force=True)
    assert written == [0, 1000]


def test_step_that_cannot_be_told_goes_on(tmp_path):
    (tmp_path / "file").write_text("")
    with progress.Step("apt", "packages", 3, str(tmp_path / "file/below")) as step:
        step.tell(1, force=True)


def test_file_of_a_step_that_was_killed_is_not_read(tmp_path):
    with progress.Step("apt", "packages", 3, str(tmp_path)):
        read = progress.READ.replace(progress.FOLDER, str(tmp_path))
        assert [
            told["step"] for told in progress.parse(subprocess.check_output(read, shell=True, text=True))
        ] == ["apt"]
        os.utime(tmp_path / "apt.json", (time.time() - 100, time.time() - 100))
        assert subprocess.check_output(read, shell=True) == b""
    assert subprocess.run(
        read.replace(str(tmp_path), str(tmp_path / "no")), shell=True, check=False
    ).returncode


def test_lines_that_are_no_progress_are_left_out():
    assert progress.parse('{"step": "b"}\nnoise\n[1]\n{"step": 3}\n{"step": "a"}\n') == [
        {"step": "a"},
        {"step": "b"},
    ]


# --- Docker -----------------------------------------------------------------------------------------------

# As docker 20.10 draws it on a terminal: a line for each layer, drawn again by moving the cursor up to it.
DRAWN = (
    "2.9.0-gpu: Pulling from tensorflow/tensorflow\r\n"
    "\r\n\x1b[1A\x1b[2K\rd5fd17ec1767: Pulling fs layer \r\x1b[1B"
    "\r\n\x1b[1A\x1b[2K\r4f4fb700ef54: Pulling fs layer \r\x1b[1B"
    "\r\n\x1b[1A\x1b[2K\raaaaaaaaaaaa: Already exists \r\x1b[1B"
    "\x1b[3A\x1b[2K\rd5fd17ec1767: Downloading [>                 ]  10.5MB/28.58MB\r\x1b[3B"
)
NEXT = (
    "\x1b[3A\x1b[2K\rd5fd17ec1767: Verifying Checksum \r\x1b[3B"
    "\x1b[3A\x1b[2K\rd5fd17ec1767: Download complete \r\x1b[3B"
    "\x1b[2A\x1b[2K\r4f4fb700ef54: Downloading [=====>   ]  1.5GB/2.5GB\r\x1b[2B"
    "\x1b[3A\x1b[2K\rd5fd17ec1767: Extracting [>   ]  294.9kB/28.58MB\r\x1b[3B"
)
LAST = (
    "\x1b[2A\x1b[2K\r4f4fb700ef54: Download complete \r\x1b[2B"
    "\x1b[3A\x1b[2K\rd5fd17ec1767: Pull complete \r\x1b[3B"
    "\x1b[2A\x1b[2K\r4f4fb700ef54: Extracting [==>  ]  500MB/2.5GB\r\x1b[2B"
)
END = (
    "\x1b[2A\x1b[2K\r4f4fb700ef54: Pull complete \r\x1b[2B"
    "Digest: sha256:5a2c\r\nStatus: Downloaded newer image for tensorflow/tensorflow:2.9.0-gpu\r\n"
)


@pytest.mark.parametrize("piece", [1, 7, 10000])
def test_bytes_of_a_pull_are_read_from_what_docker_draws(piece):
    pull = docker_progress.Pull()

    def feed(text: str) -> None:
        for start in range(0, len(text), piece):
            pull.feed(text[start : start + piece])

    feed(DRAWN)
    # One layer is there already, and of another one the size is not known.
    assert (pull.fetched, pull.size, pull.text) == (10.5e6, None, "0 of 2 layers")
    feed(NEXT)
    assert (pull.fetched, pull.size, pull.complete) == (28.58e6 + 1.5e9, 2.52858e9, False)
    feed(LAST)
    assert (pull.fetched, pull.size, pull.complete) == (2.52858e9, 2.52858e9, True)
    assert pull.unpacked == 28.58e6 + 500e6
    feed(END)
    assert pull.unpacked == pull.size
    assert pull.lines == [
        "2.9.0-gpu: Pulling from tensorflow/tensorflow",
        "Digest: sha256:5a2c",
        "Status: Downloaded newer image for tensorflow/tensorflow:2.9.0-gpu",
    ]


def test_pull_tells_the_bytes_that_come_and_then_those_that_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0)
    step = progress.Step("image_fetch", "bytes", None, str(tmp_path))
    told, pull = docker_progress.Told(step, "tensorflow:2.9.0-gpu"), docker_progress.Pull()
    seen = []
    for text in (DRAWN, NEXT, LAST, END):
        pull.feed(text)
        told(pull)
        seen.append((step.done, step.total, step.text))
    assert seen[0] == (10.5e6, None, "tensorflow:2.9.0-gpu, 0 of 2 layers")
    assert seen[1] == (1.52858e9, 2.52858e9, "tensorflow:2.9.0-gpu, 1 of 2 layers")
    # What was unpacked on the way does not count as the speed of what is left.
    assert seen[2] == (0, 2e9, "unpacking tensorflow:2.9.0-gpu, 1 of 2 layers")
    assert seen[3] == (2e9, 2e9, "unpacking tensorflow:2.9.0-gpu, 2 of 2 layers")


def test_pull_has_a_terminal_and_a_channel_for_complaints(tmp_path):
    program = tmp_path / "docker"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "assert sys.stdout.isatty() and not sys.stdin.isatty()\n"
        f"sys.stdout.write({DRAWN + NEXT!r}); sys.stdout.flush()\n"
        "sys.stderr.write('Error response from daemon: manifest unknown\\n'); sys.exit(3)\n"
    )
    program.chmod(0o755)
    step = progress.Step("image_fetch", "bytes", None, str(tmp_path / "progress"))
    said = docker_progress.pull([str(program)], dict(os.environ), docker_progress.Told(step, "tf"))
    assert said == (
        3,
        "2.9.0-gpu: Pulling from tensorflow/tensorflow",
        "Error response from daemon: manifest unknown\n",
    )
    assert step.done == pytest.approx(1.52858e9)


def test_reading_of_an_archive_is_seen_from_outside(tmp_path):
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"x" * 4096)
    script = f"file = open({str(archive)!r}, 'rb', 0); file.read(1024); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        assert docker_progress.read_of(reader.pid, str(archive)) == 1024
        assert docker_progress.read_of(reader.pid, str(tmp_path / "other")) is None
        reader.kill()


# --- apt and DKMS -----------------------------------------------------------------------------------------


def test_apts_status_is_counted_in_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0)
    step = progress.Step("apt", "packages", 3, str(tmp_path))
    status = apt_progress.Status(step, ["libnvidia-compute-580", "nvidia-utils-580", "nvidia-utils-570"])
    status.line("dlstatus:1:40.5:Retrieving file 1 of 2 (3s remaining)\n")
    assert (step.unit, step.done, step.total) == ("percent", 40.5, 100)
    assert step.text == "Retrieving file 1 of 2 (3s remaining)"
    status.line("pmstatus:dpkg-exec:0:Running dpkg\n")
    assert (step.unit, step.done, step.total) == ("packages", 0, 3)
    for line in (
        "pmstatus:nvidia-utils-570:10:Removing nvidia-utils-570 (amd64)",
        "pmstatus:nvidia-utils-570:12:Removed nvidia-utils-570 (amd64)",
        "pmstatus:libnvidia-compute-580:20:Unpacking libnvidia-compute-580 (amd64)",
        "pmstatus:libnvidia-compute-580:50:Installed libnvidia-compute-580 (amd64)",
        "pmstatus:man-db:55:Running post-installation trigger man-db",
        "nonsense",
        "dlstatus:x:y:z",
    ):
        status.line(line)
    assert step.done == 2
    status.line("pmstatus:nvidia-utils-580:90:Configuring nvidia-utils-580: with a colon (amd64)")
    assert step.done == pytest.approx(2.6) and step.text.endswith("with a colon (amd64)")


def test_apt_tells_through_a_pipe_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FOLDER", str(tmp_path / "run/progress"))
    before = threading.active_count()
    with apt_progress.Apt(["a", "b"]) as told:
        assert told.options == [f"--option=APT::Status-Fd={told.fd}"]
        script = f"printf 'pmstatus:a:50:Installed a\\n' >&{told.fd}"
        subprocess.run(["bash", "-c", script], pass_fds=[told.fd], check=True)
        end = time.monotonic() + 5
        while told._step.done != 1 and time.monotonic() < end:
            time.sleep(0.05)
        assert told._step.done == 1
        assert [told["step"] for told in files(tmp_path / "run/progress")] == ["apt"]
    assert list(tmp_path.iterdir()) == [] and threading.active_count() == before


def test_kernel_module_that_compiles_is_counted_in_files(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0)
    build = tmp_path / "dkms/nvidia/580.95.05/build"
    (build / "nvidia").mkdir(parents=True)
    lists = "NVIDIA_SOURCES ?=\n" + "".join(f"NVIDIA_SOURCES += nvidia/nv-{n}.c\n" for n in range(12))
    (build / "nvidia/nvidia-sources.Kbuild").write_text(lists + "NVIDIA_CFLAGS += -x\n")
    log = build / "make.log"
    log.write_text("DKMS make.log\n" + "  CC [M]  /var/lib/dkms/nvidia/nv.o\n" * 3 + "  LD [M] nv.o\n")
    dkms = apt_progress.Dkms(str(tmp_path / "dkms"), str(tmp_path / "progress"))
    dkms.look()
    (told,) = files(tmp_path / "progress")
    assert (told["step"], told["done"], told["total"], told["unit"]) == ("dkms", 3, 12, "files")
    assert told["text"] == "compiling nvidia 580.95.05"
    # It is over when the log says nothing any more.
    os.utime(log, (time.time() - 100, time.time() - 100))
    dkms.look()
    assert files(tmp_path / "progress") == []


def test_kernel_module_that_was_compiled_before_says_how_much_there_is(tmp_path):
    tree = tmp_path / "dkms/nvidia/580.95.05"
    (tree / "build").mkdir(parents=True)
    (tree / "build/make.log").write_text("  CC [M]  a.o\n")
    former = tree / "5.15.0-100-generic/x86_64/log"
    former.mkdir(parents=True)
    (former / "make.log").write_text("  CC [M]  a.o\n" * 7)
    assert apt_progress.Dkms.whole(str(tree / "build/make.log"), "nvidia", "580.95.05") == 7


# --- earlier runs -----------------------------------------------------------------------------------------


def a_run(artifacts: Path, name: str, **nodes: dict[str, float]) -> None:
    folder = artifacts / name
    folder.mkdir(parents=True)
    (folder / "fleet.json").write_text("{}")
    for host, timings in nodes.items():
        rows = [{"stage": stage, "seconds": seconds} for stage, seconds in timings.items()]
        (folder / f"{host}.json").write_text(json.dumps({"host": host, "timings": rows}))


def test_stage_takes_as_long_as_the_last_time_or_as_the_others(tmp_path):
    a_run(tmp_path, "20261101T000000Z-site", gpu01={"nvidia_driver": 500.0}, gpu02={"nvidia_driver": 90.0})
    a_run(
        tmp_path,
        "20261102T000000Z-site",
        gpu01={"nvidia_driver": 100.0, "observe": 0.4},
        gpu03={"nvidia_driver": 110},
    )
    (tmp_path / "latest").symlink_to("20261102T000000Z-site")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "20261102T000000Z-site/broken.json").write_text("{")
    history = stage_history.History(tmp_path)
    assert history.seconds("gpu01", "nvidia_driver") == 100
    assert history.seconds("new", "nvidia_driver") == 105
    # Nothing was done there: no news of how long it takes when something is.
    assert history.seconds("gpu01", "observe") is None
    assert stage_history.History(tmp_path / "no").seconds("gpu01", "nvidia_driver") is None


def test_only_the_newest_runs_count(tmp_path):
    for day in range(1, 10):
        a_run(tmp_path, f"2026110{day}T000000Z-site", **{f"gpu0{day}": {"verify": float(day * 10)}})
    history = stage_history.History(tmp_path)
    assert history.seconds("gpu09", "verify") == 90
    assert history.seconds("gpu01", "verify") == 70
