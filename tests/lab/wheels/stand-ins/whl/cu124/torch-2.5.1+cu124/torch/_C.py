"""SIMULATED: the build's architectures, and CUDA's runtime as far as it counts and describes GPUs."""

import ctypes

from . import version

_INSUFFICIENT, _NO_DEVICE = 35, 100
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


def _cuda_getArchFlags():
    return version.archs if version.cuda else None


def _driver():
    """libcuda, initialised; where it cannot be, PyTorch's own words (c10/cuda/CUDAFunctions.cpp)."""
    if version.cuda is None:
        raise AssertionError("Torch not compiled with CUDA enabled")
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise RuntimeError(
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a"
            " driver from http://www.nvidia.com/Download/index.aspx"
        ) from None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    # Minor-version compatibility: any driver of the same CUDA family does.
    if number.value // 1000 < int(version.cuda.split(".")[0]):
        raise RuntimeError(
            f"The NVIDIA driver on your system is too old (found version {number.value}). Please update your"
            " GPU driver by downloading and installing a new version from the URL:"
            " http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install"
            " a PyTorch version that has been compiled with your version of the CUDA driver."
        )
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        raise RuntimeError("No CUDA GPUs are available")
    if code:
        raise RuntimeError(
            f"CUDA unknown error - this may be due to an incorrectly set up environment (cuInit: {code})"
        )
    return library


def count():
    found = ctypes.c_int()
    code = _driver().cuDeviceGetCount(ctypes.byref(found))
    return 0 if code else found.value


def describe(index):
    library = _driver()
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    if library.cuDeviceGet(ctypes.byref(device), index):
        raise RuntimeError("CUDA error: invalid device ordinal")
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        number = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    return name.value.decode(), memory.value, numbers
