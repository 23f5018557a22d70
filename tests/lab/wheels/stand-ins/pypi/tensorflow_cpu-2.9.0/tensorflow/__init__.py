"""SIMULATED tensorflow-cpu 2.9.0: installed over TensorFlow, as the real one is, it leaves a CPU build."""

from types import SimpleNamespace

__version__ = "2.9.0"


def list_physical_devices(device_type=None):
    """The CPU."""
    devices = [SimpleNamespace(name="/physical_device:CPU:0", device_type="CPU")]
    return [device for device in devices if device_type in (None, device.device_type)]


config = SimpleNamespace(
    list_physical_devices=list_physical_devices,
    experimental=SimpleNamespace(get_device_details=lambda device: {}),
)
sysconfig = SimpleNamespace(get_build_info=lambda: {"is_cuda_build": False, "is_rocm_build": False})
test = SimpleNamespace(is_built_with_cuda=lambda: False)
