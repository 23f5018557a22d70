# Apache-2.0 (see LICENSE)
"""Where a workbench is on its node, and by which names: for the plan, the observation and the node itself.

Runs on nodes too: Python 3.8.
"""

from __future__ import annotations

FOLDER = "/etc/gpuready/workbench"
# Jupyter gets a password's digest; the password itself lies where no container looks.
PASSWORDS = FOLDER + "-passwords"
UNITS = "/etc/systemd/system"
PREFIX, SUFFIX = "gpuready-workbench-", ".service"
LABEL_USER = "io.gpuready.workbench"
LABEL_CONFIG = "io.gpuready.config"
HOST_KEYS = ("ed25519", "ecdsa", "rsa")
# Homes that gpuready makes get ids of their own from here on.
FIRST_UID = 20000


def container_name(user: str) -> str:
    return PREFIX + user


def unit_name(user: str) -> str:
    """
    >>> unit_name("alice")
    'gpuready-workbench-alice.service'
    """
    return PREFIX + user + SUFFIX
