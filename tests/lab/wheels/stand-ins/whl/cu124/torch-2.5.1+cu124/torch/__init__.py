"""SIMULATED PyTorch: what a program asks a CUDA build about its GPUs, answered by the driver's own libraries.

A stand-in of a gpuready lab for gigabytes of wheels. It knows the GPUs that libcuda and NVML of this machine
know, with the real one's rules and words where they do not do; it computes nothing.
"""

from . import _C, backends, cuda, version
from .version import __version__

__all__ = ["_C", "__version__", "backends", "cuda", "version"]
