"""CDI specifications, with and without PyYAML."""

from __future__ import annotations

import builtins
import json

import pytest
import yaml
from gpuready.observe import cdi, miniyaml
from gpuready.observe.node import ProbeError
from hypothesis import given
from hypothesis import strategies as st

# As nvidia-ctk 1.17 writes it.
SPEC = """\
---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidia-uvm
  - hostPath: /dev/nvidiactl
    path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - ../libnvidia-allocator.so.1::/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so
    env:
    - NVIDIA_CTK_DEBUG=false
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05
    hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05
    options:
    - ro
    - nosuid
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
kind: nvidia.com/gpu
"""
PATHS = (
    "/dev/nvidia-uvm",
    "/dev/nvidiactl",
    "/dev/nvidia0",
    "/usr/bin/nvidia-cdi-hook",
    "/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05",
)


@pytest.fixture(params=["PyYAML", "no PyYAML"])
def parser(request, monkeypatch):
    if request.param == "no PyYAML":
        real = builtins.__import__

        def without_yaml(name, *arguments, **options):
            if name == "yaml":
                raise ImportError("No module named 'yaml'")
            return real(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", without_yaml)
    return request.param


def _specs(machine, version="580.95.05"):
    node = machine.node
    return cdi.specs(node, version, list(cdi.DIRECTORIES)), node.problems


def test_spec_that_fits_the_driver(machine, parser):
    machine.write("/etc/cdi/nvidia.yaml", SPEC)
    for path in PATHS:
        machine.write(path)
    assert _specs(machine) == (
        [
            {
                "path": "/etc/cdi/nvidia.yaml",
                "error": None,
                "cdi_version": "0.5.0",
                "kind": "nvidia.com/gpu",
                "devices": ["0", "all"],
                "driver_version": "580.95.05",
                "stale": False,
                "missing_paths": [],
                "device_nodes": ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"],
                "wrong_devices": [],
            }
        ],
        [],
    )


def test_spec_of_another_driver_is_stale(machine, parser):
    machine.write("/etc/cdi/nvidia.yaml", SPEC)
    for path in PATHS:
        machine.write(path)
    assert _specs(machine, "580.105.08")[0][0]["stale"] is True
    assert _specs(machine, None)[0][0]["stale"] is False  # nothing to compare with


def test_spec_with_paths_that_are_gone_is_stale(machine, parser):
    machine.write("/etc/cdi/nvidia.yaml", SPEC)
    for path in PATHS[:-1]:
        machine.write(path)
    found = _specs(machine)[0][0]
    assert found["stale"] is True and found["missing_paths"] == [PATHS[-1]]


def test_json_spec_and_other_files(machine, parser):
    machine.link("/var/run", "/run")
    machine.write("/run/cdi/nvidia.json", json.dumps({"kind": "nvidia.com/gpu", "devices": [{"name": "0"}]}))
    machine.write("/etc/cdi/README", "no spec")
    machine.link("/etc/cdi/again.json", "/run/cdi/nvidia.json")
    found, problems = _specs(machine)
    assert [(spec["path"], spec["stale"]) for spec in found] == [
        ("/etc/cdi/again.json", False)
    ] and problems == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.json", "{"), ("x.yaml", "a: [1\nb: ]: {"), ("y.yaml", "just a text"), ("empty.yaml", "")],
)
def test_broken_spec_is_listed_as_unknown_and_reported(machine, parser, name, text):
    machine.write("/etc/cdi/" + name, text)
    found, problems = _specs(machine)
    assert found[0]["path"] == "/etc/cdi/" + name and found[0]["stale"] is None
    assert problems[0]["probe"] == "container_runtime.cdi" and name in problems[0]["error"]


@pytest.mark.parametrize(
    "content",
    [
        {"devices": None, "containerEdits": None},
        {
            "devices": [
                "text",
                {"name": 0, "containerEdits": {"mounts": [None, {"hostPath": 5}], "hooks": "x"}},
            ]
        },
        {"kind": "k", "containerEdits": {"deviceNodes": {"path": "/dev/x"}}},
    ],
)
def test_odd_contents_are_survived(machine, content):
    machine.write("/etc/cdi/odd.json", json.dumps(content))
    found, problems = _specs(machine)
    assert found[0]["stale"] is False and problems == []


def test_small_parser_reads_nvidia_ctk_s_yaml_as_pyyaml_does():
    assert miniyaml.parse(SPEC) == yaml.safe_load(SPEC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a remark\n",
        "a: 1\nb: -2\nc: 1.5\nd: true\ne: ~\nf:\n",
        "a: 'it''s'\nb: \"x\\ty\"\nc: x#y\nd: x # remark\n",
        "- a\n-\n  b: 1\n  c:\n  - 1\n  - 2\n- - x\n  - y\n",
        "a: [ro, nosuid, 'x']\nb: []\nc: {}\n",
        "a:\n    b:\n        c: deep\n    d: back\ne: top\n",
        "\"quoted key\": 1\n'other: key': 2\n",
        '- name: "0"\n  edits:\n    list:\n    - path: /a\n      mode: rw\n    - path: /b\n- name: all\n',
        "url: http://host:80/x\nargs:\n- --link\n- a::b\n",
        "---\nx: 1\n...\n",
    ],
)
def test_small_parser_agrees_with_pyyaml(text):
    assert miniyaml.parse(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &anchor 1\nb: *anchor\n",
        "a: |\n  text\n",
        "a: !!str 1\n",
        "a:\n\t- b\n",
        "a: 1\n---\nb: 2\n",
        "a: [1,\n  2]\n",
        "a: {b: 1}\n",
        "a: 1\n   b: 2\n",
        'a: "open\n',
    ],
)
def test_small_parser_refuses_what_it_does_not_know(text):
    with pytest.raises(miniyaml.YamlError, match="line "):
        miniyaml.parse(text)


_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1000, 1000),
    st.text(alphabet="abcXYZ0123456789/._-:=+ @,'\"#[]{}", max_size=20),
)
_tree = st.recursive(
    _leaf,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(alphabet="abcdefghij", min_size=1, max_size=6), _tree, max_size=5))
def test_small_parser_is_right_or_refuses(content):
    text = yaml.safe_dump(content, default_flow_style=False, width=1000)
    try:
        found = miniyaml.parse(text)
    except miniyaml.YamlError:
        return
    assert found == yaml.safe_load(text)


def test_error_of_a_yaml_file_names_it(machine, parser):
    with pytest.raises(ProbeError, match=r"/etc/cdi/x\.yaml"):
        cdi.load("/etc/cdi/x.yaml", "a: [1\n")
