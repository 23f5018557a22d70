"""SIMULATED TensorFlow 2.9.0 of gpuready's fault lab: it lists GPUs by libcuda, and does nothing else.

It asks the driver what the real one asks (cuInit, the devices' names and compute capabilities), and says what
the real one says where that fails. The tests that are about TensorFlow itself use the real one.
"""

import ctypes
import os
import socket
import sys
import time
from types import SimpleNamespace

from tensorflow.python.platform.build_info import build_info

__version__ = "2.9.0"
DIAGNOSTICS = "tensorflow/stream_executor/cuda/cuda_diagnostics.cc"
DRIVER = "tensorflow/stream_executor/cuda/cuda_driver.cc"
LOADER = "tensorflow/stream_executor/platform/default/dso_loader.cc"


def _say(level, place, text):
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    sys.stderr.write(f"{stamp}.000000: {level} {place}] {text}\n")


def _error(library, code):
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    if library.cuGetErrorName(code, ctypes.byref(name)) or not name.value:
        return f"UNKNOWN ERROR ({code})"
    library.cuGetErrorString(code, ctypes.byref(text))
    said = (text.value or b"").decode()
    return f"{name.value.decode()}: {said}"


def _diagnose():
    host = socket.gethostname()
    if not os.path.exists("/proc/driver/nvidia/version"):
        text = f"kernel driver does not appear to be running on this host ({host}): "
        _say("I", DIAGNOSTICS + ":156", text + "/proc/driver/nvidia/version does not exist")
        return
    if not os.path.exists("/dev/nvidia0"):
        _say("I", DIAGNOSTICS + ":163", "no NVIDIA GPU device is present: /dev/nvidia0 does not exist")
        return
    _say("I", DIAGNOSTICS + ":169", "retrieving CUDA diagnostic information for host: " + host)
    _say("I", DIAGNOSTICS + ":176", "hostname: " + host)


def _devices():
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        path = os.environ.get("LD_LIBRARY_PATH")
        tail = "; LD_LIBRARY_PATH: " + path if path else ""
        _say(
            "W",
            LOADER + ":64",
            f"Could not load dynamic library 'libcuda.so.1'; dlerror: {error}{tail}",
        )
        _say("W", DRIVER + ":269", "failed call to cuInit: UNKNOWN ERROR (303)")
        _diagnose()
        return []
    code = library.cuInit(0)
    if code:
        _say("E", DRIVER + ":271", "failed call to cuInit: " + _error(library, code))
        _diagnose()
        return []
    count = ctypes.c_int(0)
    library.cuDeviceGetCount(ctypes.byref(count))
    found = []
    for number in range(count.value):
        name, major, minor = ctypes.create_string_buffer(96), ctypes.c_int(0), ctypes.c_int(0)
        library.cuDeviceGetName(name, 96, number)
        library.cuDeviceComputeCapability(ctypes.byref(major), ctypes.byref(minor), number)
        found.append((name.value.decode(), (major.value, minor.value)))
    return found


def list_physical_devices(device_type=None):
    """The CPU and the GPUs."""
    devices = [SimpleNamespace(name="/physical_device:CPU:0", device_type="CPU", details={})]
    for number, (name, capability) in enumerate(_devices()):
        details = {"device_name": name, "compute_capability": capability}
        device = SimpleNamespace(name=f"/physical_device:GPU:{number}", device_type="GPU", details=details)
        devices.append(device)
    return [device for device in devices if device_type in (None, device.device_type)]


config = SimpleNamespace(
    list_physical_devices=list_physical_devices,
    experimental=SimpleNamespace(
        list_physical_devices=list_physical_devices, get_device_details=lambda device: device.details
    ),
)
sysconfig = SimpleNamespace(get_build_info=lambda: build_info)
test = SimpleNamespace(is_built_with_cuda=lambda: build_info["is_cuda_build"])
