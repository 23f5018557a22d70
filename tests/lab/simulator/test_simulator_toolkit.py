"""The container toolkit stand-in, as far as it goes without a container."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from toolkit import packages

VERSIONS = ("1.17.8", "1.18.2")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin-1.17.8/ and bin-1.18.2/ with the programs under their real names."""
    base = tmp_path_factory.mktemp("toolkit")
    names = {
        "ctk": "nvidia-ctk",
        "cli": "nvidia-container-cli",
        "runtime": "nvidia-container-runtime",
        "hook": "nvidia-container-runtime-hook",
        "cdi_hook": "nvidia-cdi-hook",
    }
    for version in VERSIONS:
        directory = base / f"bin-{version}"
        directory.mkdir()
        for source, name in names.items():
            (directory / name).write_bytes(packages.program(source, version, packages.COMMITS[version]))
    return base


@pytest.fixture(scope="module")
def common() -> ModuleType:
    """The shared part as a module."""
    return load("common")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"toolkit.{name}", packages.HERE / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    programs: Path, name: str, *arguments: Any, version: str = "1.18.2", stdin: str = "", **env: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-IS", programs / f"bin-{version}" / name, *map(str, arguments)],
        env={**os.environ, **env},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_are_printed_as_the_real_tools_do(programs: Path, version: str) -> None:
    text = run(programs, "nvidia-ctk", "--version", version=version).stdout
    assert text == f"NVIDIA Container Toolkit CLI version {version}\ncommit: {packages.COMMITS[version]}\n"
    assert run(programs, "nvidia-container-cli", "--version", version=version).stdout.startswith(
        f"cli-version: {version}\nlib-version: {version}\n"
    )


def test_configure_creates_daemon_json(programs: Path, tmp_path: Path) -> None:
    target = tmp_path / "etc/docker/daemon.json"
    done = run(programs, "nvidia-ctk", "runtime", "configure", "--runtime=docker", "--config", target)
    assert done.returncode == 0, done.stderr
    assert target.read_text() == (
        '{\n    "runtimes": {\n        "nvidia": {\n            "args": [],\n'
        '            "path": "nvidia-container-runtime"\n        }\n    }\n}'
    )
    assert "It is recommended that docker daemon be restarted." in done.stderr


def test_configure_keeps_what_is_there(programs: Path, tmp_path: Path) -> None:
    target = tmp_path / "daemon.json"
    target.write_text(
        '{"log-opts": {"max-size": "10m"}, "runtimes": {"kata": {"path": "kata"}}, '
        '"features": {"buildkit": true}}'
    )
    done = run(
        programs,
        "nvidia-ctk",
        "runtime",
        "configure",
        f"--config={target}",
        "--set-as-default",
        "--cdi.enabled",
        "--nvidia-runtime-name",
        "gpu",
        "--nvidia-runtime-path=/opt/nvidia-container-runtime",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text()) == {
        "log-opts": {"max-size": "10m"},
        "default-runtime": "gpu",
        "features": {"buildkit": True, "cdi": True},
        "runtimes": {"kata": {"path": "kata"}, "gpu": {"args": [], "path": "/opt/nvidia-container-runtime"}},
    }


def test_configure_dry_run_changes_nothing(programs: Path, tmp_path: Path) -> None:
    target = tmp_path / "daemon.json"
    done = run(programs, "nvidia-ctk", "runtime", "configure", "--dry-run", "--config", target)
    assert json.loads(done.stdout)["runtimes"]["nvidia"]
    assert not target.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": }', ""])
def test_configure_refuses_a_broken_daemon_json(programs: Path, tmp_path: Path, text: str) -> None:
    target = tmp_path / "daemon.json"
    target.write_text(text)
    done = run(programs, "nvidia-ctk", "runtime", "configure", "--config", target)
    assert done.returncode == 1
    assert "unable to load config for runtime docker" in done.stderr
    assert target.read_text() == text


def test_configure_refuses_unknown_options(programs: Path) -> None:
    done = run(programs, "nvidia-ctk", "runtime", "configure", "--runtme=docker")
    assert done.returncode == 1
    assert "flag provided but not defined: -runtme" in done.stderr
    assert (
        "unrecognized runtime 'podman'"
        in run(programs, "nvidia-ctk", "runtime", "configure", "--runtime=podman").stderr
    )


def test_config_is_written_and_set_in_place(programs: Path, tmp_path: Path, common: ModuleType) -> None:
    target = tmp_path / "config.toml"
    assert run(programs, "nvidia-ctk", "config", "--config-file", target, "--in-place").returncode == 0
    text = target.read_text()
    assert "#no-cgroups = false\n" in text and 'mode = "auto"\n' in text and "load-kmods = true\n" in text
    done = run(
        programs,
        "nvidia-ctk",
        "config",
        "--config-file",
        target,
        "--in-place",
        "--set",
        "nvidia-container-cli.no-cgroups",
        "--set",
        "nvidia-container-runtime.mode=cdi",
    )
    assert done.returncode == 0, done.stderr
    tables = common.parse_toml(target.read_text())
    assert tables["nvidia-container-cli"]["no-cgroups"] is True
    assert tables["nvidia-container-runtime"]["mode"] == "cdi"
    # Written again by a package upgrade, it keeps what was set.
    assert (
        run(programs, "nvidia-ctk", "--quiet", "config", f"--config-file={target}", "--in-place").returncode
        == 0
    )
    assert common.parse_toml(target.read_text()) == tables
    assert (
        "undefined field"
        in run(programs, "nvidia-ctk", "config", "--config-file", target, "--set", "no.such=1").stderr
    )


def test_generate_and_info_without_a_driver_name_the_cause(programs: Path) -> None:
    env = {"LD_LIBRARY_PATH": ""}
    done = run(programs, "nvidia-ctk", "cdi", "generate", **env)
    assert done.returncode == 1
    assert "failed to generate CDI spec: failed to create device CDI specs: " in done.stderr
    done = run(programs, "nvidia-container-cli", "-k", "info", **env)
    assert done.returncode == 1
    assert done.stderr.startswith("nvidia-container-cli: initialization error: ")


SPEC = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}},
        {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}, {"path": "/dev/zero"}]}},
    ],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/full"}],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": "/usr/bin/nvidia-cdi-hook",
                "args": ["nvidia-cdi-hook", "create-symlinks", "--link", "libcuda.so.1::/usr/lib/libcuda.so"],
            }
        ],
        "mounts": [
            {
                "hostPath": "/usr/bin/env",
                "containerPath": "/usr/bin/env",
                "options": ["ro", "nosuid", "nodev", "bind"],
            }
        ],
    },
}


def test_cdi_is_read_as_it_is_written(common: ModuleType) -> None:
    text = "---\n" + "\n".join(common.to_yaml(SPEC)) + "\n"
    assert (
        '    - name: "0"\n      containerEdits:\n        deviceNodes:\n            - path: /dev/null\n'
        in text
    )
    assert common.parse_cdi(text) == SPEC
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text) == SPEC, "another YAML parser agrees"
    assert common.parse_cdi(yaml.safe_dump(SPEC)) == SPEC
    assert common.parse_cdi(json.dumps(SPEC)) == SPEC


def test_cdi_list_shows_devices_and_broken_files(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidia.json").write_text(json.dumps(SPEC))
    (tmp_path / "broken.yaml").write_text("kind: nvidia.com/gpu\n")
    done = run(programs, "nvidia-ctk", "cdi", "list", "--spec-dir", tmp_path)
    assert done.stdout == "nvidia.com/gpu=0\nnvidia.com/gpu=all\n"
    assert "Found 2 CDI devices" in done.stderr
    assert f"{tmp_path}/broken.yaml" in done.stderr


def bundle(directory: Path, *env: str) -> Path:
    """An OCI bundle with a configuration as containerd writes it."""
    config = {
        "ociVersion": "1.0.2",
        "process": {"env": ["PATH=/usr/bin", *env], "args": ["sh"]},
        "root": {"path": str(directory / "rootfs")},
        "mounts": [],
        "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}},
    }
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def fake_runc(tmp_path: Path) -> str:
    """A PATH whose runc prints how it was called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "runc").write_text('#!/bin/sh\necho "runc $*"\n')
    (directory / "runc").chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_runtime_in_legacy_mode_adds_the_prestart_hook(programs: Path, tmp_path: Path) -> None:
    path = fake_runc(tmp_path)
    target = bundle(tmp_path / "bundle", "NVIDIA_VISIBLE_DEVICES=all")
    for _ in range(2):  # the hook is added once
        done = run(
            programs,
            "nvidia-container-runtime",
            "--root",
            "/run/x",
            "create",
            "--bundle",
            target,
            "id",
            version="1.17.8",
            PATH=path,
        )
        assert done.stdout == f"runc --root /run/x create --bundle {target} id\n"
    hooks = json.loads((target / "config.json").read_text())["hooks"]["prestart"]
    assert [hook["args"] for hook in hooks] == [["nvidia-container-runtime-hook", "prestart"]]


def test_runtime_leaves_other_commands_and_containers_alone(programs: Path, tmp_path: Path) -> None:
    path = fake_runc(tmp_path)
    target = bundle(tmp_path / "bundle")
    before = (target / "config.json").read_text()
    assert run(programs, "nvidia-container-runtime", "delete", "id", PATH=path).stdout == "runc delete id\n"
    assert (
        run(programs, "nvidia-container-runtime", "create", "--bundle", target, "id", PATH=path).returncode
        == 0
    )
    assert (target / "config.json").read_text() == before


def test_runtime_without_a_driver_fails_and_logs_as_containerd_reads_it(
    programs: Path, tmp_path: Path
) -> None:
    path = fake_runc(tmp_path)
    target = bundle(tmp_path / "bundle", "NVIDIA_VISIBLE_DEVICES=all")
    log = tmp_path / "log.json"
    done = run(
        programs,
        "nvidia-container-runtime",
        "--log",
        log,
        "--log-format",
        "json",
        "create",
        "--bundle",
        target,
        "id",
        PATH=path,
        LD_LIBRARY_PATH="",
    )
    assert done.returncode == 1
    entry = json.loads(log.read_text())
    assert entry["level"] == "error"
    assert entry["msg"].startswith("failed to create NVIDIA Container Runtime: ")


def test_runtime_injects_cdi_devices(programs: Path, tmp_path: Path, common: ModuleType) -> None:
    config = json.loads((bundle(tmp_path / "bundle") / "config.json").read_text())
    common.apply_edits(config, SPEC["containerEdits"])
    common.apply_edits(config, SPEC["devices"][1]["containerEdits"])  # type: ignore[index]
    assert config["process"]["env"][-1] == "NVIDIA_VISIBLE_DEVICES=void"
    assert [node["path"] for node in config["linux"]["devices"]] == ["/dev/full", "/dev/null", "/dev/zero"]
    assert {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"} in config["linux"][
        "resources"
    ]["devices"]
    assert config["mounts"][0]["destination"] == "/usr/bin/env"
    assert config["hooks"]["createContainer"][0]["path"] == "/usr/bin/nvidia-cdi-hook"


def test_hook_ignores_containers_that_ask_for_no_gpu(programs: Path, tmp_path: Path) -> None:
    for number, env in enumerate(([], ["NVIDIA_VISIBLE_DEVICES="], ["NVIDIA_VISIBLE_DEVICES=void"])):
        target = bundle(tmp_path / str(number), *env)
        done = run(
            programs,
            "nvidia-container-runtime-hook",
            "prestart",
            stdin=json.dumps({"pid": 1, "bundle": str(target)}),
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert run(programs, "nvidia-container-runtime-hook").returncode == 2
    assert run(programs, "nvidia-container-runtime-hook", "poststop").returncode == 0


@pytest.mark.parametrize(
    ("env", "devices"),
    [
        ({}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ["all"]),
        ({"NVIDIA_VISIBLE_DEVICES": "0, 1"}, ["0", "1"]),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, ["none"]),
        ({"CUDA_VERSION": "9.0"}, ["all"]),
        ({"CUDA_VERSION": "11.2", "NVIDIA_REQUIRE_CUDA": "cuda>=11.2"}, None),
    ],
)
def test_images_ask_for_devices_through_their_environment(
    common: ModuleType, env: dict[str, str], devices: list[str] | None
) -> None:
    assert common.visible_devices(env) == devices


# What the TensorFlow 2.9 image asks for.
REQUIREMENT = (
    "cuda>=11.2 brand=tesla,driver>=418,driver<419 brand=tesla,driver>=440,driver<441 driver>=450,driver<451"
)


@pytest.mark.parametrize(
    ("version", "cuda", "satisfied"),
    [
        ("580.95.05", "13.0", True),
        ("460.32.03", "11.2", True),
        ("455.32.00", "11.1", False),
        ("450.80.02", "11.0", True),
        ("418.87.00", "10.1", True),
    ],
)
def test_requirements_of_the_tensorflow_image(version: str, cuda: str, satisfied: bool) -> None:
    source = (
        (packages.HERE / "cli.py").read_text().replace("from .common import", "from toolkit.common import")
    )
    module: dict[str, Any] = {"__name__": "cli"}
    exec(compile(source.replace("sys.exit(main())", ""), "cli.py", "exec"), module)
    gpu = {"arch": "8.0", "brand": "Tesla"}
    if satisfied:
        module["check_requirement"](REQUIREMENT, {"version": version, "cuda": cuda}, gpu)
        return
    with pytest.raises(
        Exception, match=r"unsatisfied condition: cuda>=11\.2, please update your driver to a newer version"
    ):
        module["check_requirement"](REQUIREMENT, {"version": version, "cuda": cuda}, gpu)


def test_links_in_a_container_do_not_lead_out_of_it(common: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "lib").symlink_to("/usr")
    (tmp_path / "usr/evil").symlink_to("../../../../etc")
    assert common.inside(str(tmp_path), "/lib/x86") == str(tmp_path / "usr/x86")
    assert common.inside(str(tmp_path), "/usr/evil/passwd") == str(tmp_path / "etc/passwd")
