# SPDX-License-Identifier: Apache-2.0
"""Ask the PyTorch of a container or an environment what it sees, and with `--level compute` make it prove it.
`--level stress` keeps all GPUs busy for `--seconds` and compares every result with the first one;
`--memory-mib` is what it may take of each.

Fed to its own `python3 -`, so it depends on nothing but PyTorch (1.8 and newer) and runs on Python 3.6 and
newer. Answers with one line on standard output: the marker, a space, and JSON. Standard error belongs to
PyTorch's own warnings, which are evidence when no GPU is listed.
"""

import json
import platform
import sys
import threading
import time

MARKER = "GPUREADY-PROBE"


def words(error):
    return f"{type(error).__name__}: {str(error)[:2000]}"


def cudnn_version(torch):
    """cuDNN's version, which it tells as a number: 8500 is 8.5.0, 90100 is 9.1.0."""
    try:
        number = torch.backends.cudnn.version()
    except Exception as error:  # the library cannot be loaded: that is no reason not to answer
        sys.stderr.write("cuDNN: " + words(error) + "\n")
        return None
    if not number:
        return None
    base = 10000 if number >= 10000 else 1000
    return f"{number // base}.{number % base // 100}.{number % 100}"


def archs(torch):
    """The build's machine code and PTX; asked below `get_arch_list`, which is silent where no GPU is."""
    ask = getattr(torch._C, "_cuda_getArchFlags", None)
    flags = ask() if ask is not None else None
    return flags.split() if flags else list(torch.cuda.get_arch_list())


def nvml_count(torch):
    """How many GPUs PyTorch's own NVML code counts: without CUDA, in a CPU-only build too."""
    ask = getattr(torch.cuda, "_device_count_nvml", None)
    if ask is None:
        return None
    try:
        count = ask()
    except Exception as error:
        sys.stderr.write("NVML: " + words(error) + "\n")
        return None
    return count if count >= 0 else None


def why_not(torch):
    """PyTorch's own word for not being able to use CUDA."""
    try:
        torch.cuda.init()
        torch.cuda.current_device()
    except Exception as error:
        return words(error)
    return None


def build(torch):
    built = torch.version.cuda is not None
    available = bool(torch.cuda.is_available())
    found = {
        "name": "pytorch",
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": cudnn_version(torch),
        "archs": archs(torch) if built else [],
        "built_with_cuda": built,
        "rocm": getattr(torch.version, "hip", None) is not None,
        "python": platform.python_version(),
        "available": available,
        "device_count": int(torch.cuda.device_count()),
        "nvml_count": nvml_count(torch),
        "error": None if available else why_not(torch),
    }
    if found["error"]:
        sys.stderr.write(found["error"] + "\n")
    return found


def devices(torch, count):
    found = [{"name": "cpu", "device_type": "CPU", "details": {}}]
    for index in range(count):
        try:
            known = torch.cuda.get_device_properties(index)
            details = {
                "device_name": known.name,
                "compute_capability": [known.major, known.minor],
                "memory_mib": known.total_memory // 1048576,
            }
        except Exception as error:  # the device is counted all the same: say why it is not described
            details = {"error": words(error)}
        found.append({"name": f"cuda:{index}", "device_type": "GPU", "details": details})
    return found


def matmul(torch, random):
    return torch.matmul, (random(512, 512), random(512, 512))


def conv(torch, random):
    return torch.nn.functional.conv2d, (random(2, 8, 64, 64), random(16, 8, 3, 3))


def compute(torch, device):
    """Each operation on `device`: where its result lies, how long it took, and whether the CPU agrees."""
    # Else Ampere's 10-bit mantissa differs from the CPU's answer.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    generator = torch.Generator().manual_seed(29)
    results: dict = {}
    for name, operation in (("matmul", matmul), ("conv", conv)):
        result: dict = {"ok": False, "device": None, "seconds": None, "max_error": None, "error": None}
        results[name] = result
        try:
            function, inputs = operation(torch, lambda *shape: torch.randn(*shape, generator=generator))
            expected = function(*inputs)
            there = [item.to(device) for item in inputs]
            function(*there)  # the first call loads libraries and compiles kernels
            torch.cuda.synchronize()
            started = time.time()
            tensor = function(*there)
            torch.cuda.synchronize()
            result["seconds"] = round(time.time() - started, 6)
            result["device"] = str(tensor.device)
            scale = max(1.0, float(expected.abs().max()))
            result["max_error"] = float((tensor.cpu() - expected).abs().max()) / scale
            if result["device"] != device:
                result["error"] = "the result lies on {}, not on {}".format(result["device"], device)
            elif not result["max_error"] < 1e-3:
                result["error"] = "the result differs from the CPU's by {:.3g}".format(result["max_error"])
            result["ok"] = result["error"] is None
        except Exception as error:
            result["error"] = words(error)
    return results


def compute_on_each(torch, devices):
    """The same on several GPUs; the first one's results bear no number."""
    results = {}
    for number, device in enumerate(devices):
        for name, result in compute(torch, device).items():
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


def stress_one(torch, device, seconds, memory_mib, size, row):
    """Keeps one GPU busy. What a sick one computes differs from what it computed before."""
    size, kept = stress_size(memory_mib, size)
    row.update(size=size, results_kept=kept)
    try:
        generator = torch.Generator().manual_seed(29)
        a = (torch.rand(size, size, generator=generator) * 2 - 1).to(device)
        b = (torch.rand(size, size, generator=generator) * 2 - 1).to(device)
        right = torch.matmul(a, b)
        bound = 1e-3 * max(1.0, float(right.abs().max()))
        results = [torch.empty_like(right) for _ in range(kept)]
        place = 0
        started = time.time()
        while time.time() - started < seconds:
            chunk = [(place + step) % kept for step in range(STRESS_CHUNK)]
            for number in chunk:
                torch.matmul(a, b, out=results[number])
            # Not a number is no smaller than the bound, either.
            for number in chunk:
                row["wrong"] += int((~((results[number] - right).abs() <= bound)).sum())
            place = (place + STRESS_CHUNK) % kept
            row["iterations"] += STRESS_CHUNK
        finish(row, time.time() - started)
    except Exception as error:
        row["error"] = words(error)


def finish(row, passed):
    row["seconds"] = round(passed, 3)
    if passed > 0 and row["iterations"]:
        row["iterations_per_second"] = round(row["iterations"] / passed, 3)
        row["tflops"] = round(2.0 * row["size"] ** 3 * row["iterations"] / passed / 1e12, 3)
    if row["wrong"]:
        row["error"] = f"{row['wrong']} numbers differ from what it computed at first"


def stress(torch, devices, seconds, memory_mib, size=STRESS_SIZE):
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
        arguments = (torch, device, seconds, memory_mib, size, row)
        threads.append(threading.Thread(target=stress_one, args=arguments))
    started = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": round(time.time() - started, 3), "gpus": rows}


def probe(level, every_gpu=False, seconds=60.0, memory_mib=4096):
    import torch

    framework = build(torch)
    count = framework["device_count"] if framework["available"] else 0
    found = devices(torch, count)
    answer = {"framework": framework, "devices": found, "compute": None}
    gpus = [f"cuda:{number}" for number in range(count)]
    if level == "compute" and count:
        answer["compute"] = compute_on_each(torch, gpus if every_gpu else gpus[:1])
    if level == "stress" and count:
        names = [str(each["details"].get("device_name") or each["name"]) for each in found[1:]]
        answer["stress"] = stress(
            torch, [(gpus[number], names[number]) for number in range(count)], seconds, memory_mib
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
