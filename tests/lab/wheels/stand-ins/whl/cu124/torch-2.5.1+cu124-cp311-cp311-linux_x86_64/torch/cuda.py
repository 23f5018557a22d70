"""GPUs as libcuda names them."""

import collections
import ctypes
import os

ARCHS = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
Properties = collections.namedtuple("Properties", "name major minor total_memory")


class _Driver:
    """libcuda, asked once."""

    def __init__(self):
        self.error = None
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            self.error = (
                "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
                "installed a driver from http://www.nvidia.com/Download/index.aspx"
            )
            return
        code = self.library.cuInit(0)
        if code == 100:
            self.error = "No CUDA GPUs are available"
        elif code:
            self.error = f"CUDA driver initialization failed, error {code}"

    def number(self, call, *arguments):
        """The integer that a call of libcuda answers with."""
        value = ctypes.c_int()
        code = getattr(self.library, call)(ctypes.byref(value), *arguments)
        if code:
            raise RuntimeError(f"CUDA error {code} in {call}")
        return value.value


_driver = None


def _asked():
    global _driver
    if _driver is None:
        _driver = _Driver()
    return _driver


def init():
    if _asked().error:
        raise RuntimeError(_asked().error)


def device_count():
    return 0 if _asked().error else _asked().number("cuDeviceGetCount")


def is_available():
    return device_count() > 0


def current_device():
    init()
    return 0


def get_arch_list():
    return list(ARCHS) if is_available() else []


def get_device_properties(index):
    init()
    driver = _asked()
    device = driver.number("cuDeviceGet", index)
    name = ctypes.create_string_buffer(256)
    driver.library.cuDeviceGetName(name, 256, device)
    memory = ctypes.c_size_t()
    driver.library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    major, minor = (driver.number("cuDeviceGetAttribute", item, device) for item in (75, 76))
    return Properties(name.value.decode(), major, minor, memory.value)


def get_device_name(index=0):
    return get_device_properties(index).name


def get_device_capability(index=0):
    known = get_device_properties(index)
    return known.major, known.minor


def _device_count_nvml():
    """How many NVML counts, less what CUDA_VISIBLE_DEVICES leaves out; -1 where it cannot be asked."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return -1
    count = ctypes.c_int()
    if library.nvmlInit() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return -1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count.value if visible is None else len([item for item in visible.split(",") if item.strip()])
