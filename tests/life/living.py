"""A node on which the driver's role alone is played: no Docker, no image, some seconds per run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.nodes import Node
from kit.questions import driver_packages, driver_versions
from kit.runs import Player, Run, player

#: The roles that have a say in the driver's life.
DRIVER_ROLES = ("nvidia_driver", "host_reboot")


def driver_actions(plan: dict[str, Any]) -> list[str]:
    """The ids of a plan's actions that are the driver's, the reboot among them."""
    return [action["id"] for action in plan["actions"] if action["role"] in DRIVER_ROLES]


def driver_conflicts(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan's conflicts in the driver, or in the node as a whole."""
    return [conflict for conflict in plan["conflicts"] if conflict["role"] in ("gpuready", *DRIVER_ROLES)]


@dataclass(frozen=True)
class Living:
    """One node, and how to play the driver's role on it."""

    node: Node
    runs: Player

    @classmethod
    def of(cls, node: Node, folder: Path) -> Living:
        """The node, whose runs leave their traces in ``folder``."""
        return cls(node, player(folder, [node]))

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return self.node.name

    def plan(self, **wishes: Any) -> dict[str, Any]:
        """What would be done with these wishes."""
        return self.runs.plan(variables=wishes)

    def observed(self, **wishes: Any) -> dict[str, Any]:
        """What gpuready sees."""
        return self.runs("playbooks/plan.yml", variables=wishes).node(self.name)["gpu_stack"]

    def play(
        self, *, role: str = "nvidia_driver", check: bool = False, cut: int | None = None, **wishes: Any
    ) -> Run:
        """Play one role; whatever comes of it."""
        variables = {"role": role, **wishes}
        return self.runs("playbooks/role.yml", variables=variables, check=check, cut_off_after=cut)

    def converge(self, **wishes: Any) -> Run:
        """Play the driver's role; it must succeed."""
        run = self.play(**wishes)
        assert run.rc == 0, run.output
        return run

    def refuse(self, says: str, **wishes: Any) -> Run:
        """Play the driver's role; it must fail, say so, and leave the node as it was."""
        before = self.node.fingerprint()
        run = self.play(**wishes)
        assert run.rc != 0, run.output
        assert says in run.said, run.output
        assert before.differences(self.node.fingerprint()) == []
        return run

    def reboot_if_planned(self, **wishes: Any) -> Run:
        """Let the role host_reboot do its part."""
        run = self.play(role="host_reboot", **wishes)
        assert run.rc == 0, run.output
        return run

    def is_settled(self, **wishes: Any) -> None:
        """Nothing is left to do, the driver is whole, and another run changes nothing."""
        versions = driver_versions(self.node)
        assert versions.agree, versions
        again = self.converge(**wishes)
        assert driver_actions(again.plan(self.name)) == []
        assert again.changed(self.name) == 0, again.node(self.name)["changed_tasks"]

    def packages(self) -> dict[str, str]:
        """The driver's packages, by dpkg."""
        return driver_packages(self.node)

    def loaded(self) -> str | None:
        """The version of the loaded driver."""
        return driver_versions(self.node).loaded
