"""A stand-in for PyTorch's CUDA build in the lab: it computes nothing.

What it says of GPUs comes from the node's libcuda, as the real one's does; what it says of itself (version, CUDA,
cuDNN, architectures) is what the real torch 2.5.1+cu124 says.
"""

from . import backends, cuda, version

__version__ = version.__version__


class _C:
    """The part of the compiled module that tells about the build."""

    @staticmethod
    def _cuda_getArchFlags():
        return " ".join(cuda.ARCHS)
