# Copyright: gpuready contributors
# SPDX-License-Identifier: Apache-2.0
"""What several modules say of themselves in the same words."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes; a module names those that hold for it."""

    READ_ONLY = r"""
options: {}
attributes:
  check_mode:
    description: Reads only, so that it answers the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing, so that there is no difference to show.
    support: none
"""

    PART_ON_CONTROLLER = r"""
options: {}
attributes:
  action:
    description: It is an action plugin; part of it runs on the controller.
    support: full
"""

    ON_CONTROLLER = r"""
options: {}
attributes:
  action:
    description: It is an action plugin, all of which runs on the controller.
    support: full
"""

    LINUX = r"""
options: {}
attributes:
  platform:
    description: Where it works.
    support: full
    platforms: Linux
"""
