# Apache-2.0 (see LICENSE)
"""GPUs that are not this node's to use. Runs on nodes too: Python 3.8."""

from __future__ import annotations

# Drivers that give a GPU to a virtual machine.
PASSTHROUGH = ("vfio-pci", "pci-stub", "xen-pciback")
