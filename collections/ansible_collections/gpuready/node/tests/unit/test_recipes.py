"""Recipes as Dockerfiles, the check of what was built, and a build's words."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from gpuready import image_build, recipes

TF = "tensorflow/tensorflow:2.9.0-gpu"


def recipe(**more: Any) -> dict[str, Any]:
    rows, problem = recipes.rule("v", [{"name": "x", "base": "tensorflow-2.9", **more}])
    assert problem is None
    return rows[0]


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


# --- Dockerfile -------------------------------------------------------------------------------------


def test_dockerfile_in_full():
    row = recipe(
        jupyter=True,
        ssh=True,
        apt=["git=1:2.30"],
        pip=["pandas<3"],
        env={"B": "2", "A": "1"},
        commands=["echo hi"],
    )
    assert recipes.dockerfile(row, TF).splitlines()[2:] == [
        f"FROM {TF}",
        "",
        "# The base's own user comes back at the end.",
        "ARG BASE_USER=0",
        "USER 0",
        "COPY Dockerfile apt-install pip-install workbench profile.sh sshd_config /opt/gpuready/",
        "",
        "# Where packages come from, for the time of the build; empty: where the base gets them.",
        "ARG APT_SOURCES",
        "RUN /opt/gpuready/apt-install openssh-server git=1:2.30",
        "COPY sshd_config /etc/ssh/sshd_config",
        "COPY profile.sh /etc/profile.d/gpuready.sh",
        "ARG PIP_INDEX_URL",
        "ARG PIP_TRUSTED_HOST",
        "RUN /opt/gpuready/pip-install 'jupyterlab>=4,<5' 'pandas<3'",
        "",
        'ENV A="1"',
        'ENV B="2"',
        "",
        "RUN echo hi",
        "",
        "USER ${BASE_USER}",
    ]


def test_recipe_that_adds_nothing_installs_nothing():
    names = [name for name, _words in instructions(recipes.dockerfile(recipe(), TF))]
    assert names == ["FROM", "ARG", "USER", "COPY", "USER"] and recipes.parts_of(recipe()) == []


def test_every_file_that_is_copied_is_in_the_context():
    for flags in (
        {"jupyter": True},
        {"ssh": True},
        {"apt": ["git"]},
        {"pip": ["six"]},
        {"jupyter": True, "ssh": True},
        {},
    ):
        row = recipe(**flags)
        text = recipes.dockerfile(row, TF)
        there = {"Dockerfile", *(part.name for part in recipes.parts_of(row))}
        copied = {word for name, words in instructions(text) if name == "COPY" for word in words.split()[:-1]}
        assert copied == there
        programs = {
            words.split()[0].rpartition("/")[2]
            for name, words in instructions(text)
            if name == "RUN" and words.startswith("/opt/gpuready/")
        }
        assert programs <= there


@pytest.mark.parametrize("value", ["plain", "a b", 'say "hi"', "$HOME", "back\\slash", "${X:-y}", "it's", ""])
def test_environment_means_what_is_written(value: str):
    (line,) = [
        words
        for name, words in instructions(recipes.dockerfile(recipe(env={"A": value}), TF))
        if name == "ENV"
    ]
    quoted = line.partition("=")[2]
    assert re.sub(r'\\([\\"$])', r"\1", quoted[1:-1]) == value
    # Nothing that Docker would replace is left bare.
    assert not re.search(r'(?<!\\)(?:\\\\)*[$"]', quoted[1:-1])


@pytest.mark.parametrize(
    "command",
    [
        "set -e\necho a\necho b",
        "cat <<EOF",
        "echo a \\",
        "# nothing",
        "--mount=type=secret,id=x cat x",
        '["echo", "a"]',
    ],
)
def test_command_that_docker_would_misread_becomes_words(command: str):
    row = recipe(commands=[command])
    (words,) = [words for name, words in instructions(recipes.dockerfile(row, TF)) if name == "RUN"]
    assert json.loads(words) == ["/bin/sh", "-ec", command.strip()]


def test_packages_are_words_of_the_shell():
    row = recipe(pip=["pandas<3", "torch-tb>=0.4 ; python_version > '3.8'"])
    (words,) = [words for name, words in instructions(recipes.dockerfile(row, TF)) if name == "RUN"]
    assert shlex.split(words)[1:] == row["pip"]


def test_hash_is_of_all_that_goes_into_the_image():
    row = recipe(jupyter=True)
    text, parts = recipes.dockerfile(row, TF), recipes.parts_of(row)
    digest = recipes.content_hash(text, parts)
    assert digest == recipes.content_hash(text, list(parts))
    assert digest != recipes.content_hash(text + "\n", parts)
    other = [parts[0]._replace(content="x"), *parts[1:]]
    assert digest != recipes.content_hash(text, other)
    assert recipes.image_of("x", digest) == f"gpuready/x:{digest[:12]}"


def test_programs_in_the_image_may_be_run_by_everybody():
    parts = recipes.parts_of(recipe(jupyter=True, ssh=True))
    assert {part.name: part.mode for part in parts} == {
        "apt-install": "0755",
        "pip-install": "0755",
        "workbench": "0755",
        "profile.sh": "0644",
        "sshd_config": "0644",
    }


# --- the check --------------------------------------------------------------------------------------


def answer(**framework: Any) -> dict[str, Any]:
    gpus = framework.pop("gpus", ["NVIDIA A100 80GB PCIe"])
    built = {
        "name": "tensorflow",
        "version": "2.9.0",
        "cuda": "11.2",
        "cudnn": "8",
        "archs": ["sm_75", "compute_80"],
        "built_with_cuda": True,
        **framework,
    }
    devices = [{"device_type": "GPU", "name": "/GPU:0", "details": {"device_name": name}} for name in gpus]
    return {"framework": built, "devices": [{"device_type": "CPU", "name": "/CPU:0"}, *devices]}


def chain(**framework: Any) -> dict[str, Any]:
    return recipes.chain_of(answer(**framework))


def test_same_chain_is_whole():
    assert recipes.broken(chain(), chain()) == []
    assert recipes.checked_word(chain()) == "cuda=11.2 cudnn=8 framework=2.9.0"


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (
            {"cuda": None, "cudnn": None, "archs": [], "built_with_cuda": False, "gpus": []},
            [
                "tensorflow 2.9.0 is a CPU-only build, where the base has CUDA 11.2",
                "it lists no GPU, where the base lists NVIDIA A100 80GB PCIe",
            ],
        ),
        ({"cuda": "11.8"}, ["tensorflow is built for CUDA 11.8, where the base has CUDA 11.2"]),
        ({"version": "2.9.1"}, ["tensorflow is 2.9.1, where the base has 2.9.0"]),
        ({"cudnn": "9"}, ["tensorflow is built for cuDNN 9, where the base has 8"]),
        ({"archs": ["sm_75"]}, ["tensorflow is built for other GPUs, without compute_80"]),
        ({"gpus": []}, ["it lists no GPU, where the base lists NVIDIA A100 80GB PCIe"]),
        ({"name": "torch"}, ["the framework is torch, and was tensorflow"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else ",".join(value),
)
def test_difference_to_the_base_is_named(after: dict[str, Any], said: list[str]):
    assert recipes.broken(chain(), chain(**after)) == said


def test_node_whose_gpu_is_missing_for_both_is_not_the_recipes_fault():
    assert recipes.broken(chain(gpus=[]), chain(gpus=[])) == []


@pytest.mark.parametrize(
    ("framework", "said"),
    [
        ({"name": "torch", "version": "2.5.1+cu124", "cuda": "12.4"}, []),
        (
            {"name": "torch", "version": "2.13.0+cpu", "cuda": None, "built_with_cuda": False},
            [
                "torch 2.13.0+cpu is a CPU-only build, where pytorch-2.5-cu124 is built for CUDA 12.4",
                "torch is 2.13.0+cpu, where pytorch-2.5-cu124 promises 2.5",
            ],
        ),
        (
            {"name": "torch", "version": "2.5.1", "cuda": "12.1"},
            ["torch is built for CUDA 12.1, where pytorch-2.5-cu124 is for CUDA 12.4"],
        ),
    ],
)
def test_wheel_that_came_in_is_held_against_its_promise(framework: dict[str, Any], said: list[str]):
    expect = {"framework_version": "2.5", "cuda": "12.4"}
    assert recipes.unexpected(chain(**framework), expect, "pytorch-2.5-cu124") == said


# --- a build's words --------------------------------------------------------------------------------

LEGACY = """\
Sending build context to Docker daemon  18.9kB
Step 1/9 : FROM tensorflow/tensorflow:2.9.0-gpu
 ---> ba41aec00000
Step 2/9 : ARG BASE_USER=root
 ---> Running in 0123456789ab
Removing intermediate container 0123456789ab
 ---> 3f2a9c0d1e4b
{said}
The command '/bin/sh -c {command}' returned a non-zero code: {code}
"""
BUILDKIT = """\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s
#7 [3/5] RUN {command}
{said}
#7 ERROR: {failure}
------
ERROR: failed to solve: {failure}
"""
FAILURE = 'process "/bin/sh -c {command}" did not complete successfully: exit code: {code}'
BUILDKIT = BUILDKIT.replace("{failure}", FAILURE)
APT = "/opt/gpuready/apt-install nosuchpackage"
PIP = "/opt/gpuready/pip-install 'nosuchthing'"
FAILURES = [
    (APT, 100, "E: Unable to locate package nosuchpackage", "no_package", "have no package nosuchpackage"),
    (APT, 100, "E: Version '9' for 'git' was not found", "no_package", "no version 9 of git"),
    (APT, 100, "E: Package 'ntp' has no installation candidate", "no_package", "no package ntp"),
    (
        APT,
        100,
        "W: GPG error: http://d/ubuntu x InRelease: The following signatures couldn't be verified because "
        "the public key is not available: NO_PUBKEY A4B469963BF863CC",
        "apt_unsigned",
        "NO_PUBKEY A4B469963BF863CC",
    ),
    (
        APT,
        100,
        "E: Failed to fetch http://m/dists/x/InRelease  Could not resolve 'm'",
        "apt_unreachable",
        "Could not resolve 'm'",
    ),
    (
        APT,
        100,
        "E: The repository 'http://m bullseye Release' does not have a Release file.",
        "apt_unreachable",
        "does not have a Release file",
    ),
    (
        PIP,
        1,
        "ERROR: Could not find a version that satisfies the requirement nosuchthing (from versions: none)\n"
        "ERROR: No matching distribution found for nosuchthing",
        "no_distribution",
        "the index has no nosuchthing for this image's Python",
    ),
    (
        PIP,
        1,
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Failed to "
        "establish a new connection: [Errno -2] Name or service not known')': /simple/x/\n"
        "ERROR: No matching distribution found for nosuchthing",
        "pip_unreachable",
        "pip cannot reach the index",
    ),
    (
        PIP,
        1,
        "ERROR: Cannot install tensorflow==2.8.0 because these package versions have conflicting "
        "dependencies.\n"
        "The conflict is caused by:\n    The user requested tensorflow==2.8.0\n"
        "    The user requested (constraint) tensorflow==2.9.0",
        "framework_pinned",
        "(tensorflow==2.9.0)",
    ),
    (
        PIP,
        1,
        "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.",
        "pip_conflict",
        "Cannot install a==1 and b==2",
    ),
    (
        PIP,
        1,
        "WARNING: The repository located at mirror is not a trusted or secure host and is being ignored.",
        "pip_untrusted",
        "the index at mirror",
    ),
    ("false", 1, "some words", "command_failed", "`false` failed with exit code 1"),
    ("dd if=x", 1, "dd: write error: No space left on device", "disk_full", "the disk is full"),
]


OLD_BUILDKIT = """\
#6 [3/4] RUN {command}
{said}
#6 ERROR: executor failed running [/bin/sh -c {command}]: exit code: {code}
------
 > [3/4] RUN {command}:
------
executor failed running [/bin/sh -c {command}]: exit code: {code}
"""


@pytest.mark.parametrize("builder", [LEGACY, BUILDKIT, OLD_BUILDKIT], ids=["legacy", "buildkit", "20.10"])
@pytest.mark.parametrize(("command", "code", "said", "word", "what"), FAILURES, ids=[f[3] for f in FAILURES])
def test_failed_build_is_named(builder: str, command: str, code: int, said: str, word: str, what: str):
    if builder is not LEGACY:
        said = "\n".join(f"#7 1.234 {line}" for line in said.splitlines())
    printed = builder.format(command=command, code=code, said=said)
    found = image_build.reason(printed)
    assert found.word == word and what in found.what
    end = image_build.last_lines(printed)
    assert "#7 1.234" not in end and "Removing intermediate" not in end


def test_cache_and_steps_of_the_old_builder():
    printed = LEGACY.format(command="x", code=1, said=" ---> Using cache\n ---> 4f2a9c0d1e4b")
    assert image_build.used_cache(printed) and not image_build.used_cache(LEGACY)
    assert image_build.used_cache("#5 [2/3] RUN a\n#5 CACHED\n")
    assert image_build.intermediate_images(printed) == ["4f2a9c0d1e4b", "3f2a9c0d1e4b", "ba41aec00000"]


def test_silent_probe_is_explained_by_pythons_own_words():
    said = 'Traceback (most recent call last):\n  File "<stdin>"\nImportError: numpy.core is gone\n\nbye\n'
    assert image_build.why_silent(said) == "ImportError: numpy.core is gone"
    assert image_build.why_silent("only this\n") == "only this" and image_build.why_silent("") is None


def test_no_secret_is_repeated():
    printed = LEGACY.format(command="false", code=1, said="curl https://bob:hunter2@site/x?token=abcdef")
    assert "hunter2" not in image_build.last_lines(printed) and "abcdef" not in image_build.last_lines(
        printed
    )
