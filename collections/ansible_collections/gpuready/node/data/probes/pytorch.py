# SPDX-License-Identifier: Apache-2.0
"""Ask the PyTorch of a container or an environment what it sees, and with `--level compute` make it prove it.

Fed to its own `python3 -`, so it depends on nothing but PyTorch (1.8 and newer) and runs on Python 3.6 and
newer. Answers with one line on standard output: the marker, a space, and JSON. Standard error belongs to
PyTorch's own warnings, which are evidence when no GPU is listed.
"""

import json
import platform
import sys
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


def probe(level):
    import torch

    framework = build(torch)
    count = framework["device_count"] if framework["available"] else 0
    answer = {"framework": framework, "devices": devices(torch, count), "compute": None}
    if level == "compute" and count:
        answer["compute"] = compute(torch, "cuda:0")
    return answer


def main(arguments):
    level = arguments[arguments.index("--level") + 1] if "--level" in arguments else "list"
    answer = probe(level)
    # An entry point may have printed a banner: start a line of our own.
    sys.stdout.write(f"\n{MARKER} {json.dumps(answer, sort_keys=True, default=str)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
