# SPDX-License-Identifier: Apache-2.0
"""Ask the TensorFlow 2.x of a container what it sees, and with `--level compute` make it prove it.

Fed to the container's own `python3 -`, so it depends on nothing but TensorFlow and runs on Python 3.6 and
newer. Answers with one line on standard output: the marker, a space, and JSON. Standard error belongs to
TensorFlow's own log, which is evidence when no GPU is listed.
"""

import json
import platform
import sys
import time

MARKER = "GPUREADY-PROBE"


def physical_devices(tf):
    config = tf.config
    listed = getattr(config, "list_physical_devices", None) or config.experimental.list_physical_devices
    details_of = getattr(config.experimental, "get_device_details", None)
    devices = []
    for device in listed():
        details = {}
        if details_of is not None:
            try:
                details = details_of(device)
            except Exception as error:  # the device is listed all the same: say why it is not described
                details = {"error": f"{type(error).__name__}: {error}"}
        devices.append(
            {
                "name": device.name,
                "device_type": device.device_type,
                "details": {
                    str(key): list(value) if isinstance(value, tuple) else value
                    for key, value in details.items()
                },
            }
        )
    return devices


def build(tf):
    info = {}
    get_build_info = getattr(tf.sysconfig, "get_build_info", None)
    if get_build_info is not None:
        info = dict(get_build_info())
    return {
        "name": "tensorflow",
        "version": tf.__version__,
        "cuda": info.get("cuda_version"),
        "cudnn": info.get("cudnn_version"),
        "archs": list(info.get("cuda_compute_capabilities") or []),
        "built_with_cuda": bool(tf.test.is_built_with_cuda()),
        "python": platform.python_version(),
    }


def matmul(tf, random):
    a, b = tf.constant(random(512, 512)), tf.constant(random(512, 512))
    return lambda: tf.linalg.matmul(a, b)


def conv(tf, random):
    image, kernel = tf.constant(random(2, 64, 64, 8)), tf.constant(random(3, 3, 8, 16))
    return lambda: tf.nn.conv2d(image, kernel, strides=1, padding="SAME")


def compute(tf, device):
    """Each operation on `device`: where its result lies, how long it took, and whether the CPU agrees."""
    import numpy

    def numbers():
        """A source of the same numbers each time it is made, whatever the device."""
        generator = numpy.random.RandomState(29)
        return lambda *shape: generator.standard_normal(shape).astype("float32")

    tf.config.set_soft_device_placement(False)
    exact = getattr(tf.config.experimental, "enable_tensor_float_32_execution", None)
    if exact is not None:
        exact(False)  # else Ampere's 10-bit mantissa differs from the CPU's answer
    results = {}
    for name, operation in (("matmul", matmul), ("conv", conv)):
        result = {"ok": False, "device": None, "seconds": None, "max_error": None, "error": None}
        results[name] = result
        try:
            with tf.device("/CPU:0"):
                on_cpu = operation(tf, numbers())
                expected = on_cpu().numpy()
            with tf.device(device):
                on_device = operation(tf, numbers())
                on_device().numpy()  # the first call loads libraries and compiles kernels
                started = time.time()
                tensor = on_device()
                actual = tensor.numpy()
                result["seconds"] = round(time.time() - started, 6)
            result["device"] = tensor.device
            scale = max(1.0, float(abs(expected).max()))
            result["max_error"] = float(abs(actual - expected).max()) / scale
            placed = tensor.device.upper().endswith(device.strip("/").upper())
            if not placed:
                result["error"] = f"the result lies on {tensor.device}, not on {device}"
            elif not result["max_error"] < 1e-3:
                result["error"] = f"the result differs from the CPU's by {result['max_error']:.3g}"
            result["ok"] = result["error"] is None
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {str(error)[:2000]}"
    return results


def probe(level):
    import tensorflow as tf

    devices = physical_devices(tf)
    answer = {"framework": build(tf), "devices": devices, "compute": None}
    if level == "compute" and any(device["device_type"] == "GPU" for device in devices):
        for device in tf.config.experimental.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)  # others may be using this GPU
        answer["compute"] = compute(tf, "/GPU:0")
    return answer


def main(arguments):
    level = arguments[arguments.index("--level") + 1] if "--level" in arguments else "list"
    answer = probe(level)
    # An entry point may have printed a banner: start a line of our own.
    sys.stdout.write(f"\n{MARKER} {json.dumps(answer, sort_keys=True, default=str)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
