# SPDX-License-Identifier: Apache-2.0
"""Ask the TensorFlow 2.x of a container what it sees, and with `--level compute` make it prove it.
`--level stress` keeps all GPUs busy for `--seconds` and compares every result with the first one;
`--memory-mib` is what it may take of each.

Fed to the container's own `python3 -`, so it depends on nothing but TensorFlow and runs on Python 3.6 and
newer. Answers with one line on standard output: the marker, a space, and JSON. Standard error belongs to
TensorFlow's own log, which is evidence when no GPU is listed.
"""

import json
import platform
import sys
import threading
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


def compute_on_each(tf, devices):
    """The same on several GPUs; the first one's results bear no number."""
    results = {}
    for number, device in enumerate(devices):
        for name, result in compute(tf, device).items():
            results[name if number == 0 else f"{name} on GPU {number}"] = result
    return results


# A product of such matrices keeps every GPU busy for milliseconds, and the three of them take 768 MiB.
STRESS_SIZE = 8192
# Between two looks at the clock.
STRESS_CHUNK = 4


def stress_size(memory_mib, size=STRESS_SIZE):
    """(rows of a matrix, number of results that are kept): what fits into half of the memory."""
    # Two factors, the right result, and twice as much again for comparing.
    while size > 256 and size * size * 4 // 1048576 * (6 + STRESS_CHUNK) > memory_mib // 2:
        size //= 2
    one = max(1.0, size * size * 4 / 1048576.0)
    return size, max(STRESS_CHUNK, int(memory_mib / 2 / one) - 6)


def stress_one(tf, device, seconds, memory_mib, size, row):
    """Keeps one GPU busy. What a sick one computes differs from what it computed before."""
    size, kept = stress_size(memory_mib, size)
    row.update(size=size, results_kept=kept)
    try:
        with tf.device(device):
            a = tf.random.stateless_uniform((size, size), seed=(29, 1), minval=-1.0, maxval=1.0)
            b = tf.random.stateless_uniform((size, size), seed=(29, 2), minval=-1.0, maxval=1.0)
            right = tf.linalg.matmul(a, b)
            bound = 1e-3 * max(1.0, float(tf.reduce_max(tf.abs(right)).numpy()))
            results = [None] * kept
            place = 0
            started = time.time()
            while time.time() - started < seconds:
                chunk = [(place + step) % kept for step in range(STRESS_CHUNK)]
                for number in chunk:
                    results[number] = tf.linalg.matmul(a, b)
                # Not a number is no smaller than the bound, either.
                for number in chunk:
                    same = tf.abs(results[number] - right) <= bound
                    row["wrong"] += int(tf.math.count_nonzero(tf.logical_not(same)).numpy())
                place = (place + STRESS_CHUNK) % kept
                row["iterations"] += STRESS_CHUNK
            finish(row, time.time() - started)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:2000]}"


def finish(row, passed):
    row["seconds"] = round(passed, 3)
    if passed > 0 and row["iterations"]:
        row["iterations_per_second"] = round(row["iterations"] / passed, 3)
        row["tflops"] = round(2.0 * row["size"] ** 3 * row["iterations"] / passed / 1e12, 3)
    if row["wrong"]:
        row["error"] = f"{row['wrong']} numbers differ from what it computed at first"


def stress(tf, devices, seconds, memory_mib, size=STRESS_SIZE):
    """All devices at the same time, each in a thread of its own: `{seconds, gpus: [...]}`."""
    rows, threads = [], []
    for index, (device, name) in enumerate(devices):
        row = {
            "index": index,
            "device": device,
            "name": name,
            "size": None,
            "results_kept": None,
            "iterations": 0,
        }
        row.update(seconds=None, iterations_per_second=None, tflops=None, wrong=0, error=None)
        rows.append(row)
        threads.append(threading.Thread(target=stress_one, args=(tf, device, seconds, memory_mib, size, row)))
    started = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": round(time.time() - started, 3), "gpus": rows}


def probe(level, every_gpu=False, seconds=60.0, memory_mib=4096):
    import tensorflow as tf

    devices = physical_devices(tf)
    answer = {"framework": build(tf), "devices": devices, "compute": None}
    gpus = [device for device in devices if device["device_type"] == "GPU"]
    if level == "list" or not gpus:
        return answer
    for device in tf.config.experimental.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)  # others may be using this GPU
    logical = [f"/GPU:{number}" for number in range(len(gpus))]
    if level == "compute":
        answer["compute"] = compute_on_each(tf, logical if every_gpu else logical[:1])
    if level == "stress":
        tf.config.set_soft_device_placement(False)
        names = [str((gpu["details"] or {}).get("device_name") or gpu["name"]) for gpu in gpus]
        answer["stress"] = stress(
            tf, [(logical[number], names[number]) for number in range(len(gpus))], seconds, memory_mib
        )
    return answer


def main(arguments):
    def told(option, otherwise):
        return arguments[arguments.index(option) + 1] if option in arguments else otherwise

    answer = probe(
        told("--level", "list"),
        "--every-gpu" in arguments,
        float(told("--seconds", "60")),
        int(told("--memory-mib", "4096")),
    )
    # An entry point may have printed a banner: start a line of our own.
    sys.stdout.write(f"\n{MARKER} {json.dumps(answer, sort_keys=True, default=str)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
