"""What the Python of a container has of frameworks and of CUDA, without importing a framework.

Sent into the container and run by its own Python, whatever its age (2.7, or 3.4 and newer): nothing but the
standard library, and nothing of it that is new. Importing a framework would take seconds and hundreds of MiB,
which count in the container's memory limit; asking it for devices would take GPU memory. So packages are read
from their metadata, a build's CUDA from the file that says it, and of the driver only cuInit is called, which
makes no context.

Answers with lines of a marker and JSON; the second one, which calls into the driver, may be missing.
"""

from __future__ import print_function

import ctypes
import glob
import json
import os
import re
import signal
import sys

MARKER = "GPUREADY-PYTHON"
SECONDS = 20
PACKAGE = re.compile(
    r"^(?:tensorflow|tf[_-]nightly|intel[_-]tensorflow|keras|torch|pytorch|jax|jaxlib|onnxruntime|cupy|mxnet"
    r"|paddlepaddle|numba|nvidia[_-]|triton|xformers|flash[_-]attn|tensorrt|numpy|protobuf|ipykernel|jupyter|notebook)"
)
METADATA = re.compile(r"^(?P<name>.+?)-(?P<version>\d[^-]*?)(?:-py\d.*)?\.(?:dist|egg)-info$")
LIBRARY = re.compile(r"/(lib(?:cuda|cudart|cudnn|cublas|nvidia-ml)\.so(?:\.[\d.]+)?)$")
LOADED = (
    ("tensorflow", re.compile(r"/libtensorflow_framework\.so|/_pywrap_tensorflow_internal\.so")),
    ("pytorch", re.compile(r"/libtorch(?:_cpu|_cuda)?\.so")),
    ("jax", re.compile(r"/jaxlib/(?:xla_extension|_jax)")),
    ("onnxruntime", re.compile(r"/onnxruntime_pybind11_state|/libonnxruntime\.so")),
)
NAMES = re.compile(
    r"^(?:CUDA_\w+|NVIDIA_\w+|LD_LIBRARY_PATH|LD_PRELOAD|TF_\w+|XLA_\w+|JAX_PLATFORM\w*|PYTORCH_\w+|TORCH_\w+"
    r"|CONDA_PREFIX|CONDA_DEFAULT_ENV|VIRTUAL_ENV|HIP_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|NCCL_\w+|OMPI_\w+RANK)$"
)


def read(path):
    try:
        with open(path, "rb") as handle:
            return handle.read(1 << 20).decode("utf-8", "replace")
    except (IOError, OSError):
        return ""


def names_in(path):
    try:
        return os.listdir(path)
    except (IOError, OSError):
        return []


def values_of(path):
    """The names that a generated file of plain assignments makes."""
    text = read(path)
    found = {}  # type: dict
    if text:
        try:
            exec(compile(text, path, "exec"), found)
        except Exception:  # whatever it has become: then nothing is known
            return {}
    return found


def site_packages(prefix):
    patterns = ("lib/python*/site-packages", "lib/python*/dist-packages", "lib64/python*/site-packages")
    found = [path for pattern in patterns for path in sorted(glob.glob(os.path.join(prefix, pattern)))]
    # Debian's Python, which keeps what it brings apart from what a person adds.
    if prefix == "/usr":
        found += glob.glob("/usr/local/lib/python3*/dist-packages") + glob.glob(
            "/usr/lib/python3/dist-packages"
        )
    return found


def packages(folders):
    found = {}  # type: dict
    for folder in folders:
        for name in names_in(folder):
            match = METADATA.match(name)
            if match and PACKAGE.match(match.group("name").lower()):
                found.setdefault(match.group("name").lower().replace("_", "-"), match.group("version"))
    return found


def builds(folders):
    """Framework → what its own files say of the build."""
    found = {}
    for folder in folders:
        made = values_of(os.path.join(folder, "tensorflow/python/platform/build_info.py"))
        # Up to TensorFlow 2.2 the file has plain names and no mapping.
        info = made.get("build_info") or {key: made[key] for key in made if not key.startswith("_")}
        if info and "tensorflow" not in found:
            archs = info.get("cuda_compute_capabilities") or []
            cuda = info.get("cuda_version") or info.get("cuda_version_number")
            cudnn = info.get("cudnn_version") or info.get("cudnn_version_number")
            found["tensorflow"] = {
                "cuda": (str(cuda) if cuda else None) if info.get("is_cuda_build") else False,
                "cudnn": str(cudnn) if cudnn and info.get("is_cuda_build") else None,
                "archs": [str(arch) for arch in archs],
                "rocm": bool(info.get("is_rocm_build")),
            }
        info = values_of(os.path.join(folder, "torch/version.py"))
        if info.get("__version__") and "pytorch" not in found:
            found["pytorch"] = {
                "version": str(info["__version__"]),
                "cuda": str(info["cuda"]) if info.get("cuda") else False,
                "cudnn": None,
                "archs": [],
                "rocm": bool(info.get("hip")),
            }
        info = values_of(os.path.join(folder, "onnxruntime/capi/build_and_package_info.py"))
        if info.get("__version__") and "onnxruntime" not in found:
            cuda = info.get("cuda_version")
            gpu = "gpu" in str(info.get("package_name"))
            found["onnxruntime"] = {
                "version": str(info["__version__"]),
                "cuda": str(cuda) if cuda else (None if gpu else False),
                "cudnn": None,
                "archs": [],
                "rocm": "rocm" in str(info.get("package_name")),
            }
    return found


def prefix_of(executable):
    """bin/python's folder above, of a virtual environment too."""
    return os.path.dirname(os.path.dirname(executable))


def environment_of(prefix):
    if os.path.isdir(os.path.join(prefix, "conda-meta")):
        return "conda"
    return "venv" if os.path.isfile(os.path.join(prefix, "pyvenv.cfg")) else None


def version_of(prefix):
    for folder in site_packages(prefix):
        match = re.search(r"/python(\d+\.\d+)/", folder)
        if match:
            return match.group(1)
    return None


def base_of(prefix):
    """Where a virtual environment's Python comes from, if it may use that one's packages."""
    text = read(os.path.join(prefix, "pyvenv.cfg"))
    home = re.search(r"^home\s*=\s*(.+?)/bin\s*$", text, re.M)
    return (
        home.group(1) if home and re.search(r"^include-system-site-packages\s*=\s*true", text, re.M) else None
    )


def describe(executable, source, folders=None):
    prefix = prefix_of(executable)
    if folders is None:
        folders = site_packages(prefix)
        base = base_of(prefix)
        folders += site_packages(base) if base else []
    return {
        "executable": executable,
        "version": version_of(prefix),
        "environment": environment_of(prefix),
        "source": source,
        "packages": packages(folders),
        "builds": builds(folders),
    }


def kernels():
    """Python's path → the name of the Jupyter kernel that uses it."""
    places = ["/usr/share/jupyter", "/usr/local/share/jupyter", os.path.join(sys.prefix, "share/jupyter")]
    places += glob.glob("/opt/*/share/jupyter") + glob.glob("/opt/*/envs/*/share/jupyter")
    places += [os.path.expanduser("~/.local/share/jupyter")]
    found = {}  # type: dict
    for place in places:
        for path in sorted(glob.glob(os.path.join(place, "kernels/*/kernel.json"))):
            try:
                content = json.loads(read(path))
                program = content["argv"][0]
            except (ValueError, KeyError, IndexError, TypeError):
                continue
            if "python" in os.path.basename(program):
                found.setdefault(program, str(content.get("display_name") or path))
    return found


def program_of(pid, words):
    """The Python that a process was started as: its first word names a virtual environment, exe does not."""
    try:
        exe = os.readlink("/proc/%s/exe" % pid).replace(" (deleted)", "")
    except (IOError, OSError):
        return None
    if not os.path.basename(exe).startswith("python"):
        return None
    first = words[0] if words else ""
    return first if first.startswith("/") and os.path.basename(first).startswith("python") else exe


def processes():
    """The container's running Pythons: what they have loaded, and with what environment."""
    found = []  # type: list
    for pid in sorted((name for name in names_in("/proc") if name.isdigit()), key=int):
        if int(pid) == os.getpid() or len(found) >= 20:
            continue
        words = [word for word in read("/proc/%s/cmdline" % pid).split("\0") if word]
        program = program_of(pid, words)
        if program is None:
            continue
        maps = read("/proc/%s/maps" % pid)
        paths = sorted(set(re.findall(r"(/\S+)$", maps, re.M)))
        libraries = {}  # type: dict
        for path in paths:
            match = LIBRARY.search(path)
            if match:
                libraries.setdefault(match.group(1).split(".so")[0], path)
        environ = {}
        for pair in read("/proc/%s/environ" % pid).split("\0"):
            name, equals, value = pair.partition("=")
            if equals and NAMES.match(name):
                environ[name] = value
        found.append(
            {
                "pid": int(pid),
                "executable": program,
                "kernel": any("ipykernel" in word for word in words),
                "frameworks": [name for name, pattern in LOADED if any(map(pattern.search, paths))],
                "libraries": libraries,
                "environ": environ,
            }
        )
    return found


def wanted(known):
    """The libraries that a TensorFlow opens by name, for the CUDA that it was built for."""
    build = known.get("tensorflow") or {}
    cuda, cudnn = build.get("cuda"), build.get("cudnn")
    if not cuda or not cudnn:
        return []
    major = cuda.split(".")[0]
    if major == "11":
        numbers = {"cudart": "11.0", "cublas": "11", "cufft": "10", "cusolver": "11", "cusparse": "11"}
    elif major == "12":
        numbers = {"cudart": "12", "cublas": "12", "cufft": "11", "cusolver": "11", "cusparse": "12"}
    elif major == "10":
        short = ".".join(cuda.split(".")[:2])
        others = "10" if short != "10.0" else "10.0"
        numbers = {"cudart": short, "cublas": others, "cufft": others, "cusolver": others, "cusparse": others}
    else:
        return []
    numbers["cudnn"] = cudnn.split(".")[0]
    return ["lib%s.so.%s" % pair for pair in sorted(numbers.items())]


def knows_wheels(version):
    """Whether this TensorFlow looks into NVIDIA's wheels by itself; 2.13 and older must be led there."""
    match = re.match(r"(\d+)\.(\d+)", version or "")
    return match is None or (int(match.group(1)), int(match.group(2))) >= (2, 14)


def search_path(folders, environ, wheels):
    """Where the loader looks, and where wheels keep what they bring, if the framework looks there."""
    places = [place for place in environ.get("LD_LIBRARY_PATH", "").split(":") if place]
    for folder in folders if wheels else []:
        places += sorted(glob.glob(os.path.join(folder, "nvidia/*/lib")))
        places += sorted(glob.glob(os.path.join(folder, "nvidia/lib")))
        places += [os.path.join(folder, "tensorflow")]
    configured = ["/etc/ld.so.conf"]
    configured += sorted(glob.glob("/etc/ld.so.conf.d/*.conf"))
    places += re.findall(r"^\s*(/\S+)", "\n".join(read(path) for path in configured), re.M)
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib/x86_64-linux-gnu"):
        places.append(folder)
    places += ["/usr/lib64", "/lib64", "/usr/lib", "/lib", os.path.join(sys.prefix, "lib")]
    return places


def look_up(names, places):
    """Library → its real path where the loader would find it first, or null."""
    found = {}
    for name in names:
        path = next((os.path.join(p, name) for p in places if os.path.exists(os.path.join(p, name))), None)
        found[name] = os.path.realpath(path) if path else None
    return found


def survey():
    own = sys.executable or "python"
    folders = [path for path in sys.path if path and os.path.isdir(path)]
    pythons = [describe(own, "path", folders)]
    pythons[0]["version"] = ".".join(str(part) for part in sys.version_info[:3])
    if pythons[0]["environment"] is None and hasattr(sys, "real_prefix"):
        pythons[0]["environment"] = "venv"
    running = processes()
    display = kernels()
    known = {own, os.path.realpath(own)}
    more = [(row["executable"], "process") for row in running] + [
        (path, "kernel") for path in sorted(display)
    ]
    for executable, source in more:
        if executable not in known and len(pythons) < 8:
            known.add(executable)
            pythons.append(describe(executable, source))
    for row in pythons:
        row["kernel"] = display.get(row["executable"])
    # The libraries of the Python whose framework runs, else of the first one with a TensorFlow.
    using = [row["executable"] for row in running if "tensorflow" in row["frameworks"]]
    chosen = [row for row in pythons if "tensorflow" in row["builds"]]
    chosen = [row for row in chosen if row["executable"] in using] or chosen[:1]
    libraries = {}
    if chosen:
        inside = folders if chosen[0] is pythons[0] else site_packages(prefix_of(chosen[0]["executable"]))
        environ = dict(os.environ)
        for row in running:
            if row["executable"] == chosen[0]["executable"]:
                environ.update(row["environ"])
        wheels = knows_wheels((chosen[0].get("packages") or {}).get("tensorflow"))
        libraries = look_up(wanted(chosen[0]["builds"]), search_path(inside, environ, wheels))
    return {"pythons": pythons, "processes": running, "libraries": libraries}


def cuda():
    """What dlopen takes for libcuda, and what cuInit says of it."""
    answer = {"path": None, "error": None, "code": None, "name": None, "api": None, "devices": None}  # type: dict
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        answer["error"] = str(error)
        return answer
    for line in read("/proc/self/maps").splitlines():
        path = line.partition("/")[2]
        if "libcuda.so" in path:
            answer["path"] = "/" + path
            break
    code = library.cuInit(0)
    answer["code"] = code
    text = ctypes.c_char_p()
    try:
        library.cuGetErrorName(code, ctypes.byref(text))
        answer["name"] = (text.value or b"").decode("ascii", "replace") or None
    except AttributeError:
        pass
    number = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(number)) == 0:
        answer["api"] = "%d.%d" % (number.value // 1000, number.value % 1000 // 10)
    if code == 0 and library.cuDeviceGetCount(ctypes.byref(number)) == 0:
        answer["devices"] = number.value
    return answer


def main():
    # The default action ends this process: one that waits for a broken driver is not left behind.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    for name, question in (("survey", survey), ("cuda", cuda)):
        print("%s %s %s" % (MARKER, name, json.dumps(question(), sort_keys=True)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
