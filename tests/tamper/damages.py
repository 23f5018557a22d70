"""What is damaged behind gpuready's back, in groups, and how a group's rows are played."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kit.fingerprint import Fingerprint
from kit.nodes import Node
from kit.runs import Player, action_ids, conflict_ids


@dataclass(frozen=True)
class Damage:
    """One change behind gpuready's back, and the actions with which the plan must answer.

    `shows` are the actions that this damage adds to the plan; `may` are those that may come along because the
    damage takes more with it than its own artefact.
    """

    name: str
    command: str
    shows: frozenset[str]
    may: frozenset[str] = frozenset()


def damage(name: str, command: str, *shows: str, may: tuple[str, ...] = ()) -> Damage:
    """Write a damage down in one line."""
    return Damage(name, command, frozenset(shows), frozenset(may))


#: Each group is repaired by one run. Within a group no damage hides another.
Groups = Mapping[str, tuple[Damage, ...]]


@dataclass(frozen=True)
class Step:
    """One row of the test: a damage to be seen, or (without one) the group's repair."""

    group: str
    damage: Damage | None = None

    @property
    def name(self) -> str:
        """The row's name in pytest's output."""
        return f"{self.group}-{self.damage.name if self.damage else 'repaired'}"


def steps(groups: Groups) -> Iterator[Step]:
    """Every group's damages, then its repair."""
    for group, damages in groups.items():
        yield from (Step(group, one) for one in damages)
        yield Step(group)


def shown(groups: Groups) -> set[str]:
    """Every action that some damage brings about."""
    return {action for damages in groups.values() for one in damages for action in one.shows}


class State:
    """What the rows hand on: how the sound node looked, and what was planned last."""

    def __init__(self, node: Node, play: Player, lasting: Callable[[Node], Fingerprint]) -> None:
        assert action_ids(play.plan()) == [], "it begins with a converged node"
        self.node, self.play, self._lasting = node, play, lasting
        self.sound = lasting(node)
        self.boot_id = node.boot_id()
        self.planned: set[str] = set()

    def see(self, damage: Damage) -> None:
        """Do the damage; the plan must show it, and no less of the damages before."""
        self.node.sh(damage.command)
        plan = self.play.plan()
        found = set(action_ids(plan))
        new, vanished = found - self.planned, self.planned - found
        self.planned = found
        assert conflict_ids(plan) == []
        assert damage.shows <= new, plan["actions"]
        assert new - damage.shows <= damage.may, plan["actions"]
        assert vanished == set(), plan["actions"]

    def repair(self) -> None:
        """A run must bring everything back, without a reboot."""
        self.planned = set()
        run = self.play("playbooks/provision.yml")
        assert run.rc == 0, run.output
        assert action_ids(self.play.plan()) == []
        differences = self.sound.differences(self._lasting(self.node))
        assert not differences, "\n".join(str(line) for line in differences)
        assert self.node.boot_id() == self.boot_id, "no damage here needs a reboot"
