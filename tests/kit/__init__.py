"""One kit for every suite that plays on nodes: nodes, runs, fingerprints, and questions to a node.

========================  ==================================================================
:mod:`kit.nodes`          the lab's nodes: make, reach, break, reboot, cut the power
:mod:`kit.runs`           a playbook's run through ansible-runner, and its report
:mod:`kit.fingerprint`    a node's state in a form that two moments can be compared by
:mod:`kit.questions`      what several tests ask a node
:mod:`kit.fixtures`       fixtures for suites that reach nodes by testinfra
========================  ==================================================================

pytest finds it by ``pythonpath`` in ``pyproject.toml``; programs put ``tests/`` on their path.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Programs of this environment: ansible-playbook, …
BIN = Path(sys.executable).parent
#: The lab's inventory; its group variables count for other inventories that are named beside it.
LAB = ROOT / "inventories" / "lab"
