"""What is planted in facts and logs is not in the bundle; what support needs is."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from gpuready import cli
from gpuready.diagnosis import bundle
from gpuready.diagnosis.redaction import Redactor
from hypothesis import given
from hypothesis import strategies as st

CREATED = "2026-11-23T10:00:00Z"
PEM = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ"
SECRET_KEY = "PRIVATE " + "KEY-----"
KEY = f"-----BEGIN OPENSSH {SECRET_KEY}\n{PEM}\nAAAAAAAA\n-----END OPENSSH {SECRET_KEY}"
# In two pieces, so that nobody's scanner takes them for real ones.
HF, GITHUB, GITLAB = (
    "hf" + "_abcdefghijklmnopqrstuvwxyz",
    "gh" + "p_0123456789abcdefghijABCDEF",
    "gl" + "pat-abcdefghij01234",
)
NGC, OPENAI, AWS = (
    "nv" + "api-Zx81kdjf92kdkfjDKFJ20fk",
    "sk" + "-proj-abcdefghijklmnop1234",
    "AK" + "IAIOSFODNN7EXAMPLE",
)
AWS_SECRET = "wJalrXUtnFEMIK7MDENGb" + "PxRfiCYEXAMPLEKEY"
JWT = "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123"
# Each is written into the document or the log below, and must be nowhere in the archive.
PLANTED = [
    *(HF, GITHUB, GITLAB, NGC, OPENAI, AWS, AWS_SECRET, JWT, PEM),
    "hunter2",
    "geheim99",
    "Pa55phrase with blanks",
    "YWxpY2U6aHVudGVyMg==",
    "9f86d081884c7d659a2feaa0c55ad015",
    "aLongerSecretCookieValue",
    "registrytoken123",
    "aliceliddell",
    "bobbuilder",
    "carol.danvers",
    "wonderland@example.com",
    "Some.Body+gpu@corp.example.de",
    "10.20.30.41",
    "192.168.178.55",
    "172.31.4.9",
    "fe80::1ff:fe23:4567:890a",
    "2001:db8:85a3::8a2e:370:7334",
    "52:54:00:ab:cd:ef",
    "0c-42-a1-5f-00-99",
    "trainbox7",
    "storage01.intern.corp",
    "registry.team.acme.com",
    "ip-10-20-30-41",
    "proxy.acme.lan",
    "1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10",
    "1324419012345",
    "e734ad61-21cf-425c-9514-fefcfcb859df",
    "AAAAC3NzaC1lZDI1NTE5AAAAIG",
]
REFUSED = (
    'Get \\"https://bobbuilder:geheim99@registry.team.acme.com:5000/v2/\\": dial tcp 192.168.178.55:5000'
)
LOG = f"""\
Nov 23 09:18:26 trainbox7 dockerd[411]: Attempting login as aliceliddell from 10.20.30.41 (52:54:00:ab:cd:ef)
time="2026-11-23T09:49:11Z" level=error msg="Handler for POST /v1.41/images returned: {REFUSED}"
aliceliddell@trainbox7:~/work$ docker login -u aliceliddell -p hunter2 registry.team.acme.com:5000
aliceliddell@trainbox7:~/work$ export HF_TOKEN={HF} AWS_SECRET_ACCESS_KEY={AWS_SECRET}
aliceliddell@trainbox7:~/work$ git clone https://{GITHUB}@example.com/acme/models
Authorization: Basic YWxpY2U6aHVudGVyMg==
Cookie: session=aLongerSecretCookieValue; theme=dark
password: "Pa55phrase with blanks"
http://127.0.0.1:8888/lab?token=9f86d081884c7d659a2feaa0c55ad015
jwt {JWT} and {NGC} and {GITLAB}
aws {AWS} {OPENAI}
ssh carol.danvers@storage01.intern.corp
File "/home/aliceliddell/.venv/lib/python3.11/site-packages/torch/cuda/__init__.py", line 310
C:\\Users\\bobbuilder\\models
uid=1000(aliceliddell) gid=1000(aliceliddell)
mail wonderland@example.com, Some.Body+gpu@corp.example.de
eth0 inet 172.31.4.9/20 inet6 fe80::1ff:fe23:4567:890a 2001:db8:85a3::8a2e:370:7334 ether 0c-42-a1-5f-00-99
http_proxy=http://proxy.acme.lan:3128 on ip-10-20-30-41.eu-central-1.compute.internal
GPU 0: Tesla T4 (UUID: GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10)
    Serial Number                         : 1324419012345
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG aliceliddell@trainbox7
{KEY}
NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.
libcudnn8 8.9.7.29-1+cuda12.2
"""


def document() -> dict[str, Any]:
    return {
        "schema": 1,
        "run": "20261123T100000Z-diagnose",
        "host": "trainbox7",
        "simulated": True,
        "status": "failed",
        "error": "Failed to connect to the host via ssh: carol.danvers@10.20.30.41: Permission denied",
        "layers": {"host": {"ok": False, "detail": "trainbox7 has no driver"}},
        "gpu_stack": {
            "schema": 1,
            "host": {
                "hostname": "trainbox7",
                "boot_id": "e734ad61-21cf-425c-9514-fefcfcb859df",
                "gpus": [{"pci": "0000:3b:00.0", "subsystem_id": "10de:1533", "serial": 1324419012345}],
                "kernel_log": {
                    "source": "dmesg",
                    "lines": ["[   12.345678] NVRM: loading NVIDIA UNIX 580.95.05", "trainbox7 is up"],
                },
            },
            "driver": {
                "loaded": {"version": "580.95.05"},
                "devices": [{"uuid": "GPU-1c8a7a5c-2a1c-8d0d-05ac-1f0a6f7b9c10", "name": "Tesla T4"}],
            },
            "container_runtime": {
                "docker": {
                    "daemon_json": {
                        "content": {
                            "insecure-registries": ["registry.team.acme.com:5000", "192.168.178.55:5000"],
                            "proxies": {"http-proxy": "http://bobbuilder:geheim99@proxy.acme.lan:3128"},
                            "auths": {
                                "registry.team.acme.com": {
                                    "auth": "YWxpY2U6aHVudGVyMg==",
                                    "identitytoken": "registrytoken123",
                                }
                            },
                        }
                    },
                    "log": [
                        "-----BEGIN RSA " + SECRET_KEY,
                        PEM,
                        "-----END RSA " + SECRET_KEY,
                        "level=error msg=boom",
                    ],
                }
            },
            "apt": {"candidates": {"libcudnn8": {"candidate": "8.9.7.29-1+cuda12.2"}}},
        },
        "plan": {
            "status": "changes",
            "actions": [{"id": "driver.install", "summary": "install it on trainbox7"}],
        },
        "verification": [
            {
                "workload": "tensorflow-2.9",
                "ok": False,
                "log": "user aliceliddell: cuInit failed",
                "framework": {"cudnn": "8.9.7.29"},
            }
        ],
        "diagnosis": {
            "schema": 1,
            "host": "trainbox7",
            "simulated": True,
            "status": "cause_found",
            "first_broken": "module",
            "chain": [
                {
                    "link": "module",
                    "layer": "host",
                    "state": False,
                    "evidence": ["nothing is loaded on trainbox7"],
                }
            ],
            "causes": [],
            "unexplained": ["/home/aliceliddell/run.sh: 10.20.30.41 refused"],
            "ignored": [],
            "seconds": 0.02,
        },
        "container": {
            "name": "jupyter",
            "env": {"CUDA_VISIBLE_DEVICES": "-1", "HF_TOKEN": HF, "NB_USER": "aliceliddell"},
        },
    }


def packed(**options: Any) -> dict[str, str]:
    return bundle.files(document(), logs={"journal": LOG}, created=CREATED, **options)


def test_every_planted_secret_was_really_planted() -> None:
    everything = json.dumps(document()) + LOG
    assert [word for word in PLANTED if word not in everything] == []


@pytest.mark.parametrize("planted", PLANTED)
def test_what_was_planted_is_gone(planted: str) -> None:
    for name, text in packed().items():
        assert planted.lower() not in text.lower(), name
        assert planted.lower() not in name.lower()


def test_what_support_needs_is_there() -> None:
    contents = packed()
    assert set(contents) >= {
        "README.txt",
        "manifest.json",
        "diagnosis.txt",
        "diagnosis.json",
        "facts.json",
        "plan.json",
        "verification.json",
        "run.json",
        "logs/kernel.log",
        "logs/dockerd.log",
        "logs/journal.log",
        "logs/verification-1-tensorflow-2.9.log",
    }
    facts = json.loads(contents["facts.json"])
    assert facts["gpu_stack"]["driver"]["loaded"]["version"] == "580.95.05"
    assert facts["gpu_stack"]["host"]["gpus"][0]["pci"] == "0000:3b:00.0"
    assert facts["gpu_stack"]["apt"]["candidates"]["libcudnn8"]["candidate"] == "8.9.7.29-1+cuda12.2"
    assert facts["container"]["env"]["CUDA_VISIBLE_DEVICES"] == "-1"
    assert json.loads(contents["verification.json"])[0]["framework"]["cudnn"] == "8.9.7.29"
    log = contents["logs/journal.log"]
    for kept in (
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
        "libcudnn8 8.9.7.29-1+cuda12.2",
        "/lib/python3.11/site-packages/torch/cuda/__init__.py",
        "http://127.0.0.1:8888/lab",
        "example.com/acme/models",
        "Tesla T4",
    ):
        assert kept in log


def test_a_pseudonym_is_the_same_everywhere() -> None:
    contents = packed()
    facts, log = json.loads(contents["facts.json"]), contents["logs/journal.log"]
    assert json.loads(contents["manifest.json"])["host"] == facts["gpu_stack"]["host"]["hostname"]
    user = log.partition("/home/")[2].partition("/")[0]
    assert user.startswith("user-")
    assert facts["container"]["env"]["NB_USER"] == user
    assert f"user {user}: cuInit failed" in contents["logs/verification-1-tensorflow-2.9.log"]
    digest = facts["gpu_stack"]["driver"]["devices"][0]["uuid"]
    assert digest.startswith("GPU-") and digest in log
    # Of another node's bundle, too: a card that was moved is known again.
    other = bundle.files({**document(), "host": "other"}, created=CREATED)
    assert json.loads(other["facts.json"])["gpu_stack"]["driver"]["devices"][0]["uuid"] == digest


def test_names_of_machines_stay_on_request_and_nothing_else() -> None:
    contents = packed(keep_hosts=True)
    assert json.loads(contents["manifest.json"])["host"] == "trainbox7"
    assert "trainbox7" in contents["logs/journal.log"]
    assert "names of machines were kept" in contents["README.txt"]
    machines = {
        "trainbox7",
        "storage01.intern.corp",
        "registry.team.acme.com",
        "ip-10-20-30-41",
        "proxy.acme.lan",
    }
    for planted in set(PLANTED) - machines:
        for name, text in contents.items():
            assert planted.lower() not in text.lower(), name


def test_redacting_twice_changes_nothing_more() -> None:
    for name, text in packed().items():
        if name.startswith("logs/"):
            assert Redactor().text(text) == text, name


@pytest.mark.parametrize(
    "kept",
    [
        "0000:3b:00.0 3D controller [0302]: NVIDIA Corporation [10de:20b5]",
        "00000000:3B:00.0 Off | 12:34:56 up 3 days",
        "std::vector<int>::push_back and a::b::c()",
        "nvidia-cudnn-cu12         8.9.2.26",
        "TensorRT version: 10.0.1.6",
        "libnvidia-ml.so.580.95.05 5:28.5.1-1~ubuntu.22.04~jammy",
        "tensorflow/tensorflow@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "container 3f2a1b4c5d6e exited",
        "_ZN10tensorflow8functor24ScatterFunctorIN5Eigen9GpuDeviceE",
        "nvidia.com/gpu=all docker.io/library/ubuntu ghcr.io/a/b k8s.io/api",
        "listening on 127.0.0.1:5000 and ::1",
        "linux-modules-nvidia-580-server-5.15.0-157-generic",
        "tokenizers 0.15.2, passed 3 tests, author of keyboard",
        "root@3f2a1b4c5d6e:/# nvidia-smi",
        "crw-rw-rw- 1 root video 195, 0 /dev/nvidia0",
        "CUDA_VISIBLE_DEVICES=0,1 LD_LIBRARY_PATH=/usr/local/cuda/lib64",
        "/usr/local/lib/python3.10/dist-packages/tensorflow/python/framework/ops.py",
    ],
)
def test_what_only_looks_private_stays(kept: str) -> None:
    redactor = Redactor()
    redactor.learn(kept)
    assert redactor.text(kept) == kept


def test_an_address_s_first_word_is_no_machine_s_name() -> None:
    redactor = Redactor()
    text = "pull from https://registry.acme.com/v2/: the registry says no, registry.acme.com is down"
    redactor.learn(text)
    assert redactor.text(text) == "pull from https://host-1/v2/: the registry says no, host-1 is down"


def test_a_name_that_is_a_word_goes_out_of_paths_only() -> None:
    redactor = Redactor()
    text = "/home/gpu/run.sh: no gpu found"
    redactor.learn(text)
    assert redactor.text(text) == "/home/user-1/run.sh: no gpu found"


@given(st.text(max_size=300))
def test_any_text_can_be_redacted(text: str) -> None:
    redactor = Redactor(hosts=("node-a",))
    redactor.learn(text)
    once = redactor.text(text)
    assert "node-a" not in once or "node-a" not in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    )
)
def test_any_facts_can_be_packed(value: Any) -> None:
    contents = bundle.files({"host": "a-node", "gpu_stack": {"x": value}}, created=CREATED)
    json.loads(contents["manifest.json"])


def test_the_archive_is_one_folder_readable_by_its_owner_alone(tmp_path: Path) -> None:
    contents = packed()
    path = bundle.write(str(tmp_path / "new"), "a", "folder", contents, 1_790_000_000)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path / "new") == ["a.tar.gz"]
    with tarfile.open(path) as tar:
        assert sorted(tar.getnames()) == sorted(f"folder/{name}" for name in contents)
        assert all(member.mode == 0o600 and member.isfile() for member in tar)
        assert tar.extractfile("folder/README.txt").read().decode() == contents["README.txt"]  # type: ignore[union-attr]
    assert bundle.archive(contents, "f", 1) == bundle.archive(contents, "f", 1)
    # Not in the headers or the compressed stream's name either.
    with tarfile.open(fileobj=io.BytesIO(bundle.archive(contents, "f", 1))) as tar:
        assert all(member.uname == "" and member.uid == 0 for member in tar)


# --- gpuready bundle


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "fleet.json").write_text("{}")
    for name in ("trainbox7", "other9"):
        (run / f"{name}.json").write_text(json.dumps({**document(), "host": name}))
    return run


def test_the_command_makes_one_archive_per_node(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = artifacts.parent / "out"
    log = artifacts.parent / "my.log"
    log.write_text(LOG)
    assert cli.main(["bundle", str(artifacts), "--output", str(output), "--log", str(log)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert len(paths) == 2 and all(path.is_file() for path in paths)
    assert not any("trainbox7" in path.name for path in paths)
    for path in paths:
        with tarfile.open(path) as tar:
            texts = {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]
        assert any(name.endswith("logs/my.log") for name in texts)
        assert not any(planted in text for planted in PLANTED for text in texts.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere"),
        (["{run}", "--host", "x"], "--host x: not in"),
        (["{run}/fleet.json"], "not a node's report"),
        (["{run}", "--log", "missing.log"], "missing.log"),
        (["{run}", "--output", "{run}/fleet.json"], "--output"),
    ],
)
def test_a_bad_question_gets_one_line(
    artifacts: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(["bundle", *(word.replace("{run}", str(artifacts)) for word in arguments)]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
