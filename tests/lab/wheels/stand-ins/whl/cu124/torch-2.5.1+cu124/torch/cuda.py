"""SIMULATED torch.cuda: as many of its functions as tell about GPUs."""

import ctypes
import types
import warnings

from . import _C


def _device_count_nvml():
    """As the real one: NVML's own count, without CUDA; -1 where it cannot be asked."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return -1
    found = ctypes.c_int(-1)
    if library.nvmlInit() or library.nvmlDeviceGetCount_v2(ctypes.byref(found)):
        return -1
    return found.value


def is_available():
    return device_count() > 0


def device_count():
    try:
        return _C.count()
    except AssertionError:
        return 0
    except RuntimeError as error:
        warnings.warn(f"CUDA initialization: {error}", stacklevel=2)
        return 0


def init():
    _C.count()


def current_device():
    if not _C.count():
        raise RuntimeError("No CUDA GPUs are available")
    return 0


def get_arch_list():
    return (_C._cuda_getArchFlags() or "").split() if is_available() else []


def get_device_name(index=0):
    return get_device_properties(index).name


def get_device_capability(index=0):
    found = get_device_properties(index)
    return found.major, found.minor


def get_device_properties(index=0):
    name, memory, (major, minor) = _C.describe(index)
    return types.SimpleNamespace(name=name, total_memory=memory, major=major, minor=minor)
