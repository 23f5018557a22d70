"""The real playbooks, plugins, and the roles gpuready and gpu_verify, in a project without nodes.

What is not real here, and only here: the observation comes from a file instead of a node, the roles that
change a node only write down that they ran, and docker answers as the test says. It shows the flow: which
steps, in which order, how many, and what is said when something is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fakes import FAKE_DOCKER

ROOT = Path(__file__).parents[7]
NODE = Path("collections/ansible_collections/gpuready/node")

#: Reads the host's next recorded observation; the last one stands from then on.
OBSERVER = """
from __future__ import annotations
import json, os
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(
    argument_spec={
        "endpoints": {"type": "list", "elements": "dict"},
        "interpreters": {"type": "list", "elements": "path"},
        "folder": {"type": "str"},
    },
    supports_check_mode=True,
)
folder = os.environ["FLOW_STATE"] + "/" + os.environ["FLOW_HOST"]
if os.path.exists(folder + "/broken"):
    module.fail_json(msg="the package database is locked")
with open(folder + "/observed.json") as stream:
    observations = json.load(stream)
done = len(open(folder + "/asked").readlines()) if os.path.exists(folder + "/asked") else 0
with open(folder + "/asked", "a") as stream:
    stream.write(json.dumps(module.params["endpoints"]) + "\\n")
module.exit_json(changed=False, gpu_stack=observations[min(done, len(observations) - 1)])
"""

#: Writes down that it ran.
STEP = """
- name: Do {role} {entry}
  ansible.builtin.lineinfile:
    path: "{{{{ lookup('ansible.builtin.env', 'FLOW_STATE') }}}}/{{{{ inventory_hostname }}}}/steps"
    line: "{role}.{entry}.{{{{ ansible_facts['gpu_plan'].driver.version | default('-', true) }}}}"
    insertafter: EOF
    create: true
    mode: "0644"
  tags: [{role}]
"""

ENTRIES = {
    "host_prepare": ["main"],
    "nvidia_driver": ["main"],
    "docker_engine": ["main", "source"],
    "nvidia_container_toolkit": ["main", "source", "cdi", "cdi_refresh"],
    "framework_image": ["main", "start", "finish"],
    "host_reboot": ["main"],
}


@dataclass
class Run:
    """What came of a playbook."""

    rc: int
    text: str
    state: Path
    artifacts: Path

    @property
    def fleet(self) -> dict:
        return json.loads((self.artifacts / "latest" / "fleet.json").read_text())

    def node(self, host: str) -> dict:
        return json.loads((self.artifacts / "latest" / f"{host}.json").read_text())

    def steps(self, host: str) -> list[str]:
        path = self.state / host / "steps"
        return path.read_text().split() if path.exists() else []

    def asked(self, host: str) -> list[list[dict]]:
        path = self.state / host / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Project:
    """A folder with the project in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        ignore = shutil.ignore_patterns("__pycache__", "tests")
        shutil.copytree(ROOT / NODE, root / NODE, ignore=ignore)
        shutil.copytree(ROOT / "playbooks", root / "playbooks")
        for role in ("gpuready", "gpu_verify"):
            shutil.copytree(ROOT / "roles" / role, root / "roles" / role)
        shutil.copy(ROOT / "site.yml", root)
        shutil.copy(ROOT / "ansible.cfg", root)
        (root / NODE / "plugins/modules/gpu_stack_info.py").write_text(OBSERVER)
        for role, entries in ENTRIES.items():
            # The real argument specs, so that variable names are checked against the real ones.
            source = ROOT / "roles" / role
            (root / "roles" / role / "tasks").mkdir(parents=True)
            if (source / "meta").is_dir():
                shutil.copytree(source / "meta", root / "roles" / role / "meta")
            if (source / "defaults").is_dir():
                shutil.copytree(source / "defaults", root / "roles" / role / "defaults")
            for entry in entries:
                (root / "roles" / role / "tasks" / f"{entry}.yml").write_text(
                    STEP.format(role=role, entry=entry)
                )

    def inventory(self, hosts: dict[str, dict], **variables) -> None:
        """Hosts with their variables; a host without ``ansible_host`` is this machine."""
        self.hosts = {
            name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": str(self.state / name / "python"),
                "ansible_become": False,
                **host,
            }
            for name, host in hosts.items()
        }
        content = {"gpu_nodes": {"hosts": self.hosts, "vars": variables}}
        (self.root / "hosts.json").write_text(json.dumps(content))
        for name in hosts:
            # The observer and docker must know which of the "nodes" they are on: each has its own python.
            folder = self.state / name
            (folder / "docker").mkdir(parents=True, exist_ok=True)
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "python").write_text(
                f"#!/bin/sh\nexport FLOW_HOST={name} FAKE_DOCKER={folder}/docker PATH={folder}/bin:$PATH\n"
                f'exec {sys.executable} "$@"\n'
            )
            (folder / "bin" / "docker").write_text(FAKE_DOCKER)
            (folder / "python").chmod(0o755)
            (folder / "bin" / "docker").chmod(0o755)
            self.behave(name)

    def behave(self, host: str, **behaviour) -> None:
        """How docker answers on this host; without a word, with one good GPU."""
        gpu = {"device_name": "NVIDIA A100 80GB PCIe", "compute_capability": [8, 0]}
        answer = {
            "framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2", "cudnn": "8"},
            "devices": [{"name": "/physical_device:GPU:0", "device_type": "GPU", "details": gpu}],
            "compute": None,
        }
        good = {
            "image": {"Id": "sha256:1", "RepoDigests": ["r/t@sha256:2"]},
            "stdout": f"GPUREADY-PROBE {json.dumps(answer)}\n",
        }
        (self.state / host / "docker" / "behaviour.json").write_text(json.dumps({**good, **behaviour}))

    def observe(self, host: str, *observations: dict) -> None:
        (self.state / host / "observed.json").write_text(json.dumps(observations))

    def play(self, playbook: str, *arguments: str, **environment: str) -> Run:
        for path in self.state.glob("*/steps"):
            path.unlink()
        for path in self.state.glob("*/asked"):
            path.unlink()
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-playbook"), playbook, "-i", "hosts.json", *arguments],
            cwd=self.root,
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")},
                "ANSIBLE_CONFIG": str(self.root / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(self.root / ".ansible"),
                "ANSIBLE_REMOTE_TEMP": str(self.root / ".ansible"),
                "ANSIBLE_NOCOLOR": "1",
                "FLOW_STATE": str(self.state),
                "PYTHONIOENCODING": "utf-8",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr, self.state, self.root / "artifacts")
