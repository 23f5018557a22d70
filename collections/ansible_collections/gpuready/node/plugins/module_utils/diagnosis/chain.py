# Apache-2.0 (see LICENSE)
"""The chain from the PCI bus to a real operation on the GPU: what has to hold, in this order."""

from __future__ import annotations

from typing import NamedTuple


class Link(NamedTuple):
    """One link: its name (its sign is ``link.<name>``), its layer, and what it asks."""

    name: str
    layer: str
    asks: str


LINKS = (
    Link("bus", "host", "is a GPU on the PCI bus"),
    Link("packages", "host", "can apt and dpkg install what is needed"),
    Link("binding", "host", "is the GPU free for NVIDIA's driver"),
    Link("secure_boot", "host", "may the module be loaded"),
    Link("module", "host", "is the driver installed for this kernel, and loaded"),
    Link("versions", "host", "are module and libraries of one version"),
    Link("nvml", "host", "does the driver answer and list every GPU"),
    Link("fabric", "host", "are the NVSwitches set up"),
    Link("device_nodes", "host", "are the device files there, with nvidia-uvm"),
    Link("engine", "container_runtime", "does Docker run, with a configuration that holds"),
    Link("toolkit", "container_runtime", "can the engine bring a GPU into a container"),
    Link("image", "framework", "is the image there, and for this machine"),
    Link("request", "application", "was a GPU asked for, and allowed to be seen"),
    Link("libcuda", "container_runtime", "does the container have the driver's libraries and devices"),
    Link("floor", "framework", "is the driver new enough for the image, its CUDA and the GPU"),
    Link("libraries", "framework", "has the framework its CUDA libraries, in versions that fit"),
    Link("architectures", "framework", "has the framework code for this GPU"),
    Link("operation", "application", "does the framework list the GPUs and compute on them"),
)
