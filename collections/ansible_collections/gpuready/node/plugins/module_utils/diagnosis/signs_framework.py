# Apache-2.0 (see LICENSE)
"""Signs of the framework and the application: floors, libraries, architectures, the real operation.

What a build needs of the driver, and which GPUs it has code for, comes from the facts where they say it, else
from the catalog. Nothing here is a list of versions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..catalog import Framework
from ..gpu_code import how_it_runs
from ..requirements import capability, chips_named, code_for, limits_of
from ..versions import at_least
from .facts import Facts
from .signs import UNKNOWN, Sign, no, sign, yes

#: Packages that are TensorFlow without CUDA.
_CPU_TENSORFLOW = ("tensorflow-cpu", "intel-tensorflow", "tensorflow-intel", "tensorflow-aarch64")
_GPU_TENSORFLOW = ("tensorflow", "tensorflow-gpu", "tf-nightly", "tf-nightly-gpu", "tensorflow-rocm")
_VERSION = re.compile(r"\d+(?:\.\d+)*")
#: Libraries that belong to cuDNN, and those of the toolkit.
_CUDNN = re.compile(r"cudnn")
_TOOLKIT = re.compile(
    r"(cudart|cublas|cufft|curand|cusolver|cusparse|nvrtc|cupti|nvjitlink|nccl)", re.IGNORECASE
)
_TENSORRT = re.compile(r"nvinfer|tensorrt", re.IGNORECASE)


# --- what the facts say, wherever they say it ---


def version_of(value: Any) -> str | None:
    """The leading number of a version: ``2.0.1+cu118`` is 2.0.1; None for anything else."""
    found = _VERSION.match(str(value)) if value not in (None, False, True) else None
    return found.group() if found else None


def _first(facts: Facts, *paths: str) -> Any:
    for path in paths:
        value = facts.get(path)
        if value is not None:
            return value
    return None


def driver_version(facts: Facts) -> str | None:
    """The version of the driver that runs: the loaded module's, as anybody reports it."""
    for path in (
        "gpu_stack.driver.loaded.version",
        "gpu_stack.driver.nvml.driver_version",
        "container.proc_driver_version",
        "container.nvidia_smi.driver_version",
    ):
        found = version_of(facts.get(path))
        if found:
            return found
    return None


def packages(facts: Facts) -> dict[str, str]:
    """The Python packages, by their normalised names."""
    found = facts.get("framework.packages")
    if not isinstance(found, Mapping):
        return {}
    return {re.sub(r"[-_.]+", "-", str(name)).lower(): str(version) for name, version in found.items()}


def environment(facts: Facts) -> dict[str, str]:
    """The variables of the process that uses the GPU: the container's, else the program's own."""
    return facts.variables("framework.env", "container.env") or {}


def framework_value(facts: Facts, name: str) -> Any:
    """A field of the framework, as it runs or as the verification saw it."""
    return _first(facts, f"framework.{name}", f"verification.framework.{name}")


def _match(facts: Facts, name: Any, version: Any, cuda: Any) -> Framework | None:
    """The catalog's row of a framework's release; of a release in several variants, by its CUDA."""
    number = version_of(version)
    if facts.catalog is None or not name or not number:
        return None
    local = re.search(r"\+cu(\d{2,3})\b", str(version))
    said = "%s.%s" % (local.group(1)[:-1], local.group(1)[-1]) if local else version_of(cuda)
    found = [
        row
        for row in facts.catalog.frameworks.values()
        if row.framework == name
        and _short(row.version) == _short(number)
        and (said is None or _short(row.cuda) == _short(said))
    ]
    return found[0] if len(found) == 1 else None


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])


def row_of(facts: Facts) -> Framework | None:
    """The catalog's row for the build that runs: by framework, version and CUDA, else by the image's name."""
    if facts.catalog is None:
        return None
    rows = facts.catalog.frameworks
    workload = str(facts.get("verification.workload"))
    if workload in rows and facts.get("framework.version") is None:
        return rows[workload]
    name = framework_value(facts, "name")
    found = _match(facts, name, framework_value(facts, "version"), framework_value(facts, "cuda"))
    image = _first(facts, "container.image", "verification.image")
    if found is None and isinstance(image, str) and not framework_value(facts, "version"):
        for row in rows.values():
            if row.image and image.removeprefix("docker.io/") == row.image:
                return row
    return found


def rows_of(facts: Facts) -> list[Framework]:
    """The builds that are asked about: what runs, else what is installed, else the plan's workloads."""
    if facts.catalog is None:
        return []
    found = [row_of(facts)]
    if found == [None]:
        installed = packages(facts)
        cuda = framework_value(facts, "cuda")
        for package, name in (("torch", "pytorch"), ("tensorflow", "tensorflow")):
            found.append(_match(facts, name, installed.get(package), cuda))
    if not any(found) and not framework_value(facts, "name") and facts.get("container") is None:
        # An environment or a recipe is asked about by its own name.
        held = {
            row.get("name"): row.get("workload")
            for path in ("plan.venvs", "plan.recipes")
            for row in facts.rows(path)
        }
        names = [str(held.get(row.get("name")) or row.get("name")) for row in facts.rows("plan.workloads")]
        found = [facts.catalog.frameworks.get(name) for name in names]
    return [row for row in found if row is not None]


def cuda_of(facts: Facts) -> tuple[str | None, str]:
    """The CUDA that the build was made with, and who says so."""
    said = framework_value(facts, "cuda")
    if said is not None:
        return version_of(said), "the build itself says CUDA %s" % said
    row = row_of(facts)
    if row:
        return row.cuda, f"{row.framework} {row.version} is built for CUDA {row.cuda}"
    for path in ("container.env", "framework.env"):
        env = facts.get(path)
        found = version_of(env.get("CUDA_VERSION")) if isinstance(env, Mapping) else None
        if found:
            return ".".join(found.split(".")[:2]), f"the image has CUDA {found} (CUDA_VERSION)"
    return None, ""


def gpus_of(facts: Facts) -> list[tuple[str, str]]:
    """(name, compute capability) of every GPU whose capability is known."""
    found: dict[tuple[str, str], None] = {}
    for path in ("gpu_stack.driver.devices", "gpu_stack.host.gpus", "framework.devices"):
        for row in facts.rows(path):
            name, asked = row.get("name"), row.get("compute_capability")
            if not asked and name:
                asked = _capability_by_name(facts, str(name))
            if asked and re.fullmatch(r"\d+\.\d", str(asked)):
                found.setdefault((str(name or "the GPU"), str(asked)))
        if found:
            return list(found)
    for row in facts.rows("verification.devices"):
        details = row.get("details")
        asked = details.get("compute_capability") if isinstance(details, Mapping) else None
        if isinstance(details, Mapping) and isinstance(asked, (list, tuple)) and len(asked) == 2:
            found.setdefault((str(details.get("device_name") or "the GPU"), "%s.%s" % tuple(asked)))
    return list(found)


def _capability_by_name(facts: Facts, name: str) -> str | None:
    """The compute capability of a product by the name that the driver gives it, where all its chips agree."""
    if facts.catalog is None:
        return None
    found = {chip.compute_capability for chip in chips_named(facts.catalog, name)}
    return found.pop() if len(found) == 1 else None


def _newer(one: str, other: str, parts: int) -> bool:
    """Is ``one`` newer than ``other``, looked at to so many parts?"""
    left, right = (".".join(text.split(".")[:parts]) for text in (one, other))
    return left != right and at_least(left, right)


# --- floor ---


def _floor(facts: Facts) -> Sign:
    """Is the driver new enough? Evidence names the floor and who sets it."""
    driver = driver_version(facts)
    cuda, why = cuda_of(facts)
    if facts.catalog is None:
        return UNKNOWN
    spoken = version_of(
        _first(facts, "gpu_stack.driver.nvml.cuda_version", "container.nvidia_smi.cuda_version")
    )
    if not cuda:
        return UNKNOWN
    own = facts.catalog.toolkit_driver(cuda)
    minor = facts.catalog.minor_version_floor(cuda)
    floor = minor.min if minor else own.version if own else None
    if floor is None:
        return UNKNOWN
    if driver is None:
        # The driver's own CUDA version, as nvidia-smi shows it and PyTorch complains of it.
        if spoken and int(spoken.split(".")[0]) < int(cuda.split(".")[0]):
            return no(f"the driver speaks CUDA {spoken}", why)
        return UNKNOWN
    if at_least(driver, floor):
        return yes(f"driver {driver} is at least {floor}", why)
    if facts.get("container.libcuda.kind") == "compat":
        return UNKNOWN
    return no(f"driver {driver}", f"CUDA {cuda} needs {floor} or newer", why)


@sign("floor.driver_below_own_cuda", "the driver is older than the one that the framework's CUDA came with")
def _driver_below_own_cuda(facts: Facts) -> Sign:
    driver, (cuda, why) = driver_version(facts), cuda_of(facts)
    own = facts.catalog.toolkit_driver(cuda) if facts.catalog is not None and cuda else None
    if not driver or own is None:
        return UNKNOWN
    if at_least(driver, own.version):
        return no(f"driver {driver} is at least {own.version}, which CUDA {cuda} came with", why)
    return yes(f"driver {driver}", f"CUDA {cuda} came with driver {own.version}", why)


@sign("floor.compat_library", "the libcuda that the process takes is the forward-compatibility package's")
def _compat_library(facts: Facts) -> Sign:
    kind, path = facts.get("container.libcuda.kind"), facts.get("container.libcuda.path")
    if kind is None:
        return UNKNOWN
    return (
        yes(f"libcuda is {path or 'of cuda-compat'}") if kind == "compat" else no(f"libcuda is the {kind}'s")
    )


@sign("floor.consumer_gpu", "a GPU is of a product line that takes no forward-compatibility libcuda")
def _consumer_gpu(facts: Facts) -> Sign:
    names = [
        str(row.get("name"))
        for path in ("gpu_stack.driver.devices", "gpu_stack.host.gpus")
        for row in facts.rows(path)
        if row.get("name")
    ]
    if not names:
        return UNKNOWN
    consumer = [
        name for name in names if re.search(r"GeForce|\bTITAN\b|\bGTX\b|\bMX\d{3}\b", name, re.IGNORECASE)
    ]
    # Of other names, some take it and some do not: the driver's own answer decides.
    return yes(*dict.fromkeys(consumer)) if consumer else UNKNOWN


def _driver_below_minimum(facts: Facts) -> Sign:
    """Is the driver older than the site's own minimum, or than the plan's workloads and GPUs ask for?"""
    driver = driver_version(facts)
    floors = []
    for row in facts.rows("plan.driver.because"):
        found = re.match(r">=(\d[\d.]*)$", str(row.get("requirement") or ""))
        if found:
            floors.append((found.group(1), "%s asks for %s" % (row.get("subject"), row.get("requirement"))))
    if not driver or not floors:
        return UNKNOWN
    broken = [words for least, words in floors if not at_least(driver, least)]
    return (
        yes(f"driver {driver}", *broken) if broken else no(f"driver {driver} fulfils every floor of the plan")
    )


@sign("link.floor", "the driver is new enough for the image, its CUDA and the GPU")
def _link_floor(facts: Facts) -> Sign:
    refused = [
        "%s: %s" % (row.get("variable"), row.get("why") or row.get("expression"))
        for row in facts.rows("probes.requirements")
        if row.get("holds") is False
    ]
    floor = _floor(facts)
    if floor.state is False:
        return no(*floor.evidence, *refused)
    if refused:
        return no(*refused)
    below = _driver_below_minimum(facts)
    if below.state:
        return no(*below.evidence)
    return floor


# --- libraries ---


@sign("framework.cpu_build", "the framework was built without CUDA")
def _cpu_build(facts: Facts) -> Sign:
    for found in (_torch_cpu_build(facts), _tensorflow_cpu_build(facts)):
        if found.state:
            return found
    cuda, name = framework_value(facts, "cuda"), framework_value(facts, "name")
    if framework_value(facts, "rocm") is True:
        return no("it is a build for AMD's GPUs")
    if cuda is False:
        return yes(f"{name or 'the framework'} was built without CUDA")
    if name == "jax" and re.search(r"\+cpu\b", packages(facts).get("jaxlib", "")):
        return yes(f"jaxlib {packages(facts)['jaxlib']}")
    return no(f"built for CUDA {cuda}") if isinstance(cuda, str) and cuda else UNKNOWN


@sign("framework.torch_cpu_build", "the PyTorch was built without CUDA")
def _torch_cpu_build(facts: Facts) -> Sign:
    return _without_cuda(facts, "pytorch", packages(facts).get("torch"))


@sign("framework.tensorflow_cpu_build", "the TensorFlow was built without CUDA")
def _tensorflow_cpu_build(facts: Facts) -> Sign:
    found = _cpu_tensorflow(facts)
    if found.state and _concerns(facts, "tensorflow"):
        return found
    return _without_cuda(facts, "tensorflow", packages(facts).get("tensorflow"))


def _concerns(facts: Facts, name: str) -> bool:
    """Is it this framework that is asked about? What merely lies beside it is nobody's fault."""
    told = framework_value(facts, "name")
    return told in (None, name) or (not facts.observed and _lists_gpu(facts).state is False)


def _without_cuda(facts: Facts, name: str, installed: str | None) -> Sign:
    cuda, rocm = framework_value(facts, "cuda"), framework_value(facts, "rocm")
    version = str(framework_value(facts, "version") or "")
    if framework_value(facts, "name") == name:
        if rocm is True:
            return no("it is a build for AMD's GPUs")
        if cuda is False or re.search(r"[+-]cpu\b", version):
            return yes(f"{name} {installed or version}: built without CUDA".replace("  ", " "))
        if cuda or "+cu" in version:
            return no(f"built for CUDA {cuda}" if cuda else f"{name} {version}")
    if installed and "+cpu" in installed and _concerns(facts, name):
        return yes(f"{name} {installed}")
    return no(f"{name} {installed}") if installed and "+cu" in installed else UNKNOWN


@sign("framework.cpu_tensorflow", "the TensorFlow that is installed is a package without CUDA")
def _cpu_tensorflow(facts: Facts) -> Sign:
    found = packages(facts)
    without = [f"{name} {found[name]}" for name in _CPU_TENSORFLOW if name in found]
    # On Windows and aarch64, `tensorflow` brings the named one itself.
    whole = [name for name in ("tensorflow-gpu", "tf-nightly-gpu") if name in found]
    if without and not whole and ("tensorflow" not in found or "tensorflow-intel" in found):
        return yes(*without)
    return no(*whole) if whole else UNKNOWN


@sign("framework.tensorflow_without_wheels", "TensorFlow came by pip, and none of its CUDA wheels with it")
def _tensorflow_without_wheels(facts: Facts) -> Sign:
    found = packages(facts)
    version = version_of(found.get("tensorflow") or found.get("tf-nightly"))
    if version is None or len(found) < 2:
        return UNKNOWN
    wheels = [name for name in found if name.startswith("nvidia-") and re.search(r"-cu\d\d$", name)]
    if wheels:
        return no(*wheels[:3])
    if any(name.startswith(("cudnn", "cudatoolkit", "cuda-")) for name in found):
        return no("conda brings CUDA")
    # A list that names only what was grepped for proves nothing.
    return yes(f"tensorflow {version}, no nvidia-* wheel in the list") if len(found) >= 5 else UNKNOWN


@sign("framework.tensorflow_with_extra", "it is a TensorFlow that brings CUDA as an extra: [and-cuda]")
def _tensorflow_with_extra(facts: Facts) -> Sign:
    version = version_of(framework_value(facts, "version")) if _is_tensorflow(facts).state else None
    version = version or version_of(packages(facts).get("tensorflow"))
    if not version:
        return UNKNOWN
    # The extra came with 2.14 (tensorflow's release notes).
    return Sign(at_least(version, "2.14"), (f"TensorFlow {version}",))


@sign("framework.tensorflow_before_extra", "it is a TensorFlow that takes CUDA from the system")
def _tensorflow_before_extra(facts: Facts) -> Sign:
    found = _tensorflow_with_extra(facts)
    return UNKNOWN if found.state is None else Sign(not found.state, found.evidence)


@sign(
    "framework.tensorflow_blind_to_wheels", "it is TensorFlow 2.16.1, which does not look for its CUDA wheels"
)
def _tensorflow_blind_to_wheels(facts: Facts) -> Sign:
    found = _tensorflow_with_extra(facts)
    if found.state is None:
        return UNKNOWN
    # tensorflow/tensorflow#63362: mended in the releases after it.
    return yes(*found.evidence) if found.evidence == ("TensorFlow 2.16.1",) else no(*found.evidence)


@sign("framework.installed_with_extra", "TensorFlow was installed with its CUDA wheels: [and-cuda]")
def _installed_with_extra(facts: Facts) -> Sign:
    found = packages(facts)
    wheels = [name for name in found if re.match(r"nvidia-cudnn-cu\d\d$", name)]
    if "tensorflow" in found and "torch" not in found and wheels:
        return yes(*(f"{name} {found[name]}" for name in wheels))
    lines = [str(row.get("line")) for row in facts.rows("commands")]
    return next((yes(line) for line in lines if "[and-cuda]" in line), UNKNOWN)


@sign("framework.native_windows", "the program runs on Windows itself and not in WSL")
def _native_windows(facts: Facts) -> Sign:
    system, wsl = facts.get("platform.os"), facts.get("platform.wsl")
    if wsl is True:
        return no("it runs in WSL")
    if system is None:
        return UNKNOWN
    return yes("the system is Windows") if system == "windows" else no(f"the system is {system}")


@sign("framework.mac", "the program runs on a Mac")
def _mac(facts: Facts) -> Sign:
    system = facts.get("platform.os")
    if system is None:
        return UNKNOWN
    return (
        yes("the system is macOS") if system in ("darwin", "macos", "mac") else no(f"the system is {system}")
    )


@sign("framework.observed", "the framework was observed on a node, and not read out of a text")
def _observed(facts: Facts) -> Sign:
    # A text tells that a library is missing, but not for certain to whom.
    return UNKNOWN if not facts.observed else yes("observed on the node")


@sign("framework.is_tensorflow", "the framework is TensorFlow")
def _is_tensorflow(facts: Facts) -> Sign:
    return _is_framework(facts, "tensorflow")


@sign("framework.is_torch", "the framework is PyTorch")
def _is_torch(facts: Facts) -> Sign:
    return _is_framework(facts, "pytorch")


@sign("framework.is_jax", "the framework is JAX")
def _is_jax(facts: Facts) -> Sign:
    return _is_framework(facts, "jax")


@sign("framework.is_onnxruntime", "the framework is ONNX Runtime")
def _is_onnxruntime(facts: Facts) -> Sign:
    return _is_framework(facts, "onnxruntime")


def _is_framework(facts: Facts, wanted: str) -> Sign:
    name = framework_value(facts, "name")
    if not name:
        return UNKNOWN
    if name == wanted:
        return yes(f"it is {name}")
    # A text may speak of several frameworks, and the reader tells one.
    return UNKNOWN if not facts.observed else no(f"it is {name}")


@sign("framework.no_windows_gpu", "it is a TensorFlow of 2.11 or later, which has no GPU on Windows itself")
def _no_windows_gpu(facts: Facts) -> Sign:
    windows = _native_windows(facts)
    if windows.state is not True:
        return windows
    if framework_value(facts, "name") not in (None, "tensorflow"):
        return UNKNOWN if not facts.observed else no("it is not TensorFlow")
    found = packages(facts)
    version = version_of(framework_value(facts, "version")) or version_of(found.get("tensorflow"))
    if "tensorflow-intel" in found:
        return yes(f"tensorflow-intel {found['tensorflow-intel']} on Windows")
    if not version:
        return UNKNOWN
    # The last release with CUDA for Windows was 2.10 (tensorflow.org/install/pip).
    words = f"TensorFlow {version} on Windows"
    return yes(words) if at_least(version, "2.11") else no(words)


@sign("framework.rocm", "the framework is built for AMD's GPUs")
def _rocm(facts: Facts) -> Sign:
    said = framework_value(facts, "rocm")
    found = packages(facts)
    amd = [
        f"{n} {v}"
        for n, v in found.items()
        if "+rocm" in v or n == "tensorflow-rocm" or n == "onnxruntime-rocm"
    ]
    if said is True or amd:
        return yes(*(amd or ["the build says ROCm"]))
    return no("the build says it is not for ROCm") if said is False else UNKNOWN


@sign("framework.image_without_gpu", "the container's image is TensorFlow's own without -gpu in its tag")
def _image_without_gpu(facts: Facts) -> Sign:
    image = facts.get("container.image")
    if not isinstance(image, str):
        return UNKNOWN
    name, _colon, tag = image.removeprefix("docker.io/").partition(":")
    if "@" in image or not (name == "tensorflow/tensorflow" or name.endswith("/tensorflow/tensorflow")):
        return no(f"the image is {image}")
    return no(f"the image is {image}") if "gpu" in tag else yes(f"the image is {image}")


@sign("framework.two_onnxruntimes", "onnxruntime and onnxruntime-gpu are installed over each other")
def _two_onnxruntimes(facts: Facts) -> Sign:
    found = packages(facts)
    if "onnxruntime" in found and "onnxruntime-gpu" in found:
        return yes(f"onnxruntime {found['onnxruntime']}", f"onnxruntime-gpu {found['onnxruntime-gpu']}")
    return no(*(n for n in found if n.startswith("onnxruntime"))) if found else UNKNOWN


@sign("framework.onnxruntime_without_gpu", "onnxruntime is installed, and onnxruntime-gpu is not")
def _onnxruntime_without_gpu(facts: Facts) -> Sign:
    found = packages(facts)
    if "onnxruntime" not in found:
        return no("onnxruntime-gpu is installed") if "onnxruntime-gpu" in found else UNKNOWN
    return (
        no("both are installed") if "onnxruntime-gpu" in found else yes(f"onnxruntime {found['onnxruntime']}")
    )


@sign("framework.jax_without_cuda", "jaxlib is installed without its plugin for CUDA")
def _jax_without_cuda(facts: Facts) -> Sign:
    found = packages(facts)
    version = found.get("jaxlib")
    if not version:
        return UNKNOWN
    plugin = [f"{n} {v}" for n, v in found.items() if re.match(r"jax-cuda\d+", n)]
    if plugin or "+cuda" in version:
        return no(*(plugin or [f"jaxlib {version}"]))
    return yes(f"jaxlib {version}, no jax-cuda* plugin") if len(found) >= 3 else UNKNOWN


@sign("framework.jax_plugin_differs", "jaxlib and the CUDA plugin are of two releases")
def _jax_plugin_differs(facts: Facts) -> Sign:
    found = packages(facts)
    own = version_of(found.get("jaxlib"))
    plugins = {n: version_of(v) for n, v in found.items() if re.match(r"jax-cuda\d+-(plugin|pjrt)$", n)}
    if not own or not plugins:
        return UNKNOWN
    # jaxlib takes a plugin of its very own release only.
    other = [f"{n} {v}" for n, v in plugins.items() if v and v != own]
    return yes(f"jaxlib {own}", *other) if other else no(f"jaxlib {own}", *plugins)


@sign("libraries.missing", "the framework could not load one of its CUDA libraries")
def _missing(facts: Facts) -> Sign:
    found = facts.get("framework.libraries_missing")
    if found is None:
        return UNKNOWN
    needed = [
        str(name) for name in found if not _TENSORRT.search(str(name)) and "libcuda.so" not in str(name)
    ]
    if needed:
        return yes(*needed)
    return UNKNOWN if not facts.observed else no("no library was reported as missing")


@sign("libraries.all_found", "every CUDA library that the framework wants was found")
def _all_found(facts: Facts) -> Sign:
    found = _missing(facts)
    return UNKNOWN if found.state is None else Sign(not found.state, found.evidence)


@sign("libraries.only_cudnn_missing", "cuDNN is missing, and every other CUDA library was found")
def _only_cudnn_missing(facts: Facts) -> Sign:
    found = _missing(facts)
    if found.state is not True:
        return found
    others = [name for name in found.evidence if not _CUDNN.search(name)]
    return no(*others) if others else found


@sign("libraries.toolkit_missing", "libraries of the CUDA toolkit are missing")
def _toolkit_missing(facts: Facts) -> Sign:
    found = _missing(facts)
    if found.state is not True:
        return found
    toolkit = [name for name in found.evidence if _TOOLKIT.search(name) and not _CUDNN.search(name)]
    if toolkit:
        return yes(*toolkit)
    return UNKNOWN if not facts.observed else no(*found.evidence)


def _cudnn_version(value: Any) -> str | None:
    """cuDNN's version; as a number, too: 8204 is 8.2.4, and 90100 is 9.1.0."""
    found = version_of(value)
    if found and found.isdigit() and len(found) >= 4:
        number, base = int(found), 10000 if len(found) > 4 else 1000
        return "%d.%d.%d" % (number // base, number % base // 100, number % 100)
    return found


@sign("libraries.cudnn_too_old", "the cuDNN that was loaded is older than the one of the build")
def _cudnn_too_old(facts: Facts) -> Sign:
    loaded = _cudnn_version(facts.get("framework.cudnn_loaded"))
    built = _cudnn_version(framework_value(facts, "cudnn"))
    if not loaded or not built:
        return UNKNOWN
    words = (f"cuDNN loaded: {loaded}", f"built with: {built}")
    parts = min(2, len(loaded.split(".")), len(built.split(".")))
    # Another major release does not fit either, be it newer.
    if _newer(built, loaded, parts) or loaded.split(".")[0] != built.split(".")[0]:
        return yes(*words)
    # Who complains in a text has his reasons: old releases wanted the very minor version.
    return UNKNOWN if not facts.observed else no(*words)


@sign("libraries.path_overridden", "LD_LIBRARY_PATH was replaced: directories that the image sets are gone")
def _path_overridden(facts: Facts) -> Sign:
    own = facts.get("container.env")
    mine = own.get("LD_LIBRARY_PATH") if isinstance(own, Mapping) else None
    if not isinstance(mine, str):
        return UNKNOWN
    ref = str(_first(facts, "container.image", "verification.image"))
    images = {str(row.get("ref")): row.get("env") for row in facts.rows("gpu_stack.framework.images")}
    theirs = facts.get("container.image_env") or images.get(ref)
    wanted = str(theirs.get("LD_LIBRARY_PATH") or "") if isinstance(theirs, Mapping) else ""
    if wanted:
        has = {part.rstrip("/") for part in mine.split(":") if part}
        gone = [part for part in wanted.split(":") if part and part.rstrip("/") not in has]
        if gone:
            return yes(f"LD_LIBRARY_PATH={mine}", f"the image sets {wanted}", "gone: " + ", ".join(gone))
        return no(f"LD_LIBRARY_PATH={mine}")
    if theirs is None and _known_image(facts, ref) and not re.search(r"/usr/local/(cuda|nvidia)|\$", mine):
        return yes(f"LD_LIBRARY_PATH={mine}", f"{ref} sets one of its own, which leads to CUDA's libraries")
    return UNKNOWN


def _known_image(facts: Facts, ref: str) -> bool:
    """Is it of the same name as one of the catalog's images, and one with CUDA?"""
    name, _colon, tag = ref.removeprefix("docker.io/").partition(":")
    rows = facts.catalog.frameworks.values() if facts.catalog is not None else ()
    return "gpu" in tag and any(row.image and row.image.partition(":")[0] == name for row in rows)


@sign("libraries.path_set", "LD_LIBRARY_PATH is set for the process")
def _path_set(facts: Facts) -> Sign:
    env = environment(facts)
    if not env:
        return UNKNOWN
    found = env.get("LD_LIBRARY_PATH")
    return yes(f"LD_LIBRARY_PATH={found}") if found else no("LD_LIBRARY_PATH is not among the variables")


@sign(
    "libraries.wheels_disagree",
    "nvidia-* wheels of two CUDA major versions, or of another PyTorch's, lie in one environment",
)
def _wheels_disagree(facts: Facts) -> Sign:
    found = packages(facts)
    majors: dict[str, list[str]] = {}
    for name in found:
        made = re.match(r"nvidia-(cudnn|cublas|cuda-runtime)-cu(\d\d)$", name)
        if made:
            majors.setdefault(made.group(1), []).append(made.group(2))
    if not majors:
        return UNKNOWN
    twice = [
        f"nvidia-{part}-cu{major}" for part, which in majors.items() if len(which) > 1 for major in which
    ]
    # Two frameworks may rightly bring a CUDA each; but they share the directory nvidia/cudnn.
    cudnn = [words for words in twice if "cudnn" in words]
    if cudnn:
        return yes(*(f"{name} {found[name]}" for name in cudnn))
    built = version_of(framework_value(facts, "cudnn"))
    have = next((version_of(v) for n, v in found.items() if re.match(r"nvidia-cudnn-cu\d\d$", n)), None)
    if built and have and _newer(built, have, 2):
        return yes(f"nvidia-cudnn {have}", f"the framework was built with cuDNN {built}")
    return no(*(f"nvidia-{part}-cu{which[0]}" for part, which in majors.items()))


@sign(
    "libraries.host_cuda_other_major",
    "the CUDA that the system has is of another major version than the framework's",
)
def _host_cuda_other_major(facts: Facts) -> Sign:
    loaded = version_of(facts.get("framework.cuda_loaded"))
    cuda, why = cuda_of(facts)
    if not loaded or not cuda:
        return UNKNOWN
    words = (f"CUDA loaded: {loaded}", why)
    return yes(*words) if loaded.split(".")[0] != cuda.split(".")[0] else no(*words)


@sign("link.libraries", "the framework has its CUDA libraries, in versions that fit")
def _link_libraries(facts: Facts) -> Sign:
    for found in (_cpu_build(facts), _rocm(facts), _missing(facts), _cudnn_too_old(facts)):
        if found.state:
            return no(*found.evidence)
    if _no_windows_gpu(facts).state:
        return no(*_no_windows_gpu(facts).evidence)
    listed, found = _lists_gpu(facts), _all_found(facts)
    if listed.state:
        return yes(*listed.evidence)
    return yes("every library that was looked for was found") if found.state else UNKNOWN


# --- architectures ---


class _Code(NamedTuple):
    """How a build runs on a GPU."""

    gpu: str
    capability: str
    how: str  # native | jit | none
    arch: str | None
    archs: tuple[str, ...]
    who: str

    @property
    def words(self) -> str:
        return f"{self.gpu} is of compute capability {self.capability}"

    @property
    def numbers(self) -> list[tuple[int, int]]:
        return [(int(arch.rpartition("_")[2][:-1]), int(arch[-1])) for arch in self.archs]


def _code(facts: Facts) -> list[_Code]:
    """Every GPU with every build that is asked about, where the build's architectures are known."""
    builds: list[tuple[tuple[str, ...], str]] = []
    said = framework_value(facts, "archs")
    if isinstance(said, (list, tuple)):
        # Feature-specific code (sm_90a) runs on its own capability; to the comparison it is that number.
        found = [re.fullmatch(r"((?:sm|compute)_\d{2,3})[a-z]?", str(arch)) for arch in said]
        named = tuple(match.group(1) for match in found if match)
        if named:
            builds.append((named, "the build itself names " + ", ".join(map(str, said))))
    if not builds:
        builds = [
            (row.archs, f"{row.name} has {', '.join(row.archs)}") for row in rows_of(facts) if row.archs
        ]
    rows = []
    for archs, who in builds:
        for gpu, asked in gpus_of(facts):
            how, arch = how_it_runs(archs, asked)
            rows.append(_Code(gpu, asked, how, arch, archs, who))
    return rows


@sign("architectures.none_for_gpu", "the build has no code that one of the GPUs can run")
def _none_for_gpu(facts: Facts) -> Sign:
    rows = _code(facts)
    if not rows:
        return UNKNOWN
    bad = [row for row in rows if row.how == "none"]
    if bad:
        return yes(*dict.fromkeys(row.words for row in bad), bad[0].who)
    return no(*(f"{row.gpu} ({row.capability}) runs {row.arch}" for row in rows))


@sign("architectures.covered", "the build has code for every GPU")
def _covered(facts: Facts) -> Sign:
    found = _none_for_gpu(facts)
    return UNKNOWN if found.state is None else Sign(not found.state, found.evidence)


@sign("architectures.gpu_too_new", "a GPU is newer than anything that the build has code for")
def _gpu_too_new(facts: Facts) -> Sign:
    limits = _limits(facts)
    outgrown = [words for support, words in limits if support == "none"]
    if outgrown:
        return yes(*outgrown)
    rows = _code(facts)
    new = [row for row in rows if row.how == "none" and capability(row.capability) > max(row.numbers)]
    if new:
        return yes(*dict.fromkeys(row.words for row in new), new[0].who)
    # Where its libraries do not know the GPU, PTX that could be compiled is no promise.
    return no("no GPU is newer than the build") if rows and not limits else UNKNOWN


@sign("architectures.gpu_too_old", "a GPU is older than anything that the build has code for")
def _gpu_too_old(facts: Facts) -> Sign:
    rows = _code(facts)
    if not rows:
        return UNKNOWN
    old = [row for row in rows if row.how == "none" and capability(row.capability) < max(row.numbers)]
    if old:
        return yes(*dict.fromkeys(row.words for row in old), old[0].who)
    return no("no GPU is older than the build")


def _limits(facts: Facts) -> list[tuple[str, str]]:
    """(list | none, words) where the catalog says that a build's own libraries do not know a GPU."""
    return [
        (limit.support, f"{name} is of compute capability {asked}: {limit.text}")
        for row in rows_of(facts)
        for name, asked in gpus_of(facts)
        for limit in limits_of(row, asked)
    ]


@sign(
    "architectures.listed_only",
    "the framework lists the GPU, but its own libraries do not know this generation",
)
def _listed_only(facts: Facts) -> Sign:
    if not rows_of(facts) or not gpus_of(facts):
        return UNKNOWN
    found = [words for support, words in _limits(facts) if support == "list"]
    return yes(*found) if found else no("nothing is said against it on this GPU")


@sign("architectures.compiled_by_driver", "the build has no machine code for a GPU: the driver compiles it")
def _compiled_by_driver(facts: Facts) -> Sign:
    rows = _code(facts)
    if not rows:
        return UNKNOWN
    words = [f"{row.gpu} ({row.capability}) runs {row.arch}" for row in rows if row.how == "jit"]
    return yes(*words) if words else no(*(f"{row.gpu} ({row.capability}) runs {row.arch}" for row in rows))


@sign("architectures.lately_dropped", "a GPU is older than what the newest builds have code for")
def _lately_dropped(facts: Facts) -> Sign:
    gpus = gpus_of(facts)
    if facts.catalog is None or not gpus:
        return UNKNOWN
    newest: dict[str, Framework] = {}
    for row in facts.catalog.frameworks.values():
        if row.archs and (
            row.framework not in newest or at_least(row.version, newest[row.framework].version)
        ):
            newest[row.framework] = row
    old = [
        f"{name} ({asked})"
        for name, asked in gpus
        if any(code_for(row, asked)[0] == "none" for row in newest.values())
    ]
    return yes(*old) if old else no(*(f"{name} ({asked})" for name, asked in gpus))


@sign("architectures.blackwell", "a GPU is of a generation that CUDA 12.8 was the first to know")
def _blackwell(facts: Facts) -> Sign:
    gpus = gpus_of(facts)
    if not gpus:
        return UNKNOWN
    new = [f"{name} ({asked})" for name, asked in gpus if capability(asked) >= (10, 0)]
    return yes(*new) if new else no(*(f"{name} ({asked})" for name, asked in gpus))


@sign("link.architectures", "the framework has code for this GPU")
def _link_architectures(facts: Facts) -> Sign:
    new, none = _gpu_too_new(facts), _none_for_gpu(facts)
    for found in (new, none):
        if found.state:
            return no(*found.evidence)
    return yes(*none.evidence) if none.state is False else UNKNOWN


# --- the request, as the application makes it ---


def _cuda_visible(facts: Facts) -> str | None:
    return environment(facts).get("CUDA_VISIBLE_DEVICES")


@sign("env.gpus_hidden", "CUDA_VISIBLE_DEVICES hides every GPU")
def _gpus_hidden(facts: Facts) -> Sign:
    value = _cuda_visible(facts)
    if value is None:
        return UNKNOWN
    first = _first_of(value)
    words = f"CUDA_VISIBLE_DEVICES={value!r}"
    if first.isdigit() or first.startswith(("GPU-", "MIG-")):
        return no(words)
    if re.search(r"[$%{}<>]|\.\.\.", first):
        # A variable or a placeholder, whose value nobody tells.
        return UNKNOWN
    if first in ("", "-1"):
        return yes(words)
    return yes(words, "this is neither a number nor an identity, so the list ends before its first GPU")


def _first_of(value: str) -> str:
    """The first of a list of GPUs: where it is wrong, CUDA takes none."""
    return value.split(",")[0].strip().strip("'\"").strip()


def _devices_given(facts: Facts) -> int | None:
    """How many GPUs the process can have at most; None where nobody says."""
    requests = facts.get("container.requests")
    if isinstance(requests, Mapping):
        ids = requests.get("device_ids")
        if isinstance(ids, (list, tuple)) and ids and "all" not in ids:
            return len(ids)
        count = requests.get("count")
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    devices = facts.get("gpu_stack.driver.devices")
    # In a text, only nvidia-smi names all of them; a framework names those that it was shown.
    whole = facts.observed or facts.get("gpu_stack.driver.nvml.source")
    return len(devices) if whole and isinstance(devices, (list, tuple)) and devices else None


@sign("env.visible_devices_unclear", "CUDA_VISIBLE_DEVICES comes from a variable, whose value nobody tells")
def _visible_devices_unclear(facts: Facts) -> Sign:
    value = _cuda_visible(facts)
    if value is None:
        return UNKNOWN
    words = f"CUDA_VISIBLE_DEVICES={value}"
    return yes(words) if re.match(r"\$|%\w|\{", _first_of(value)) else no(words)


@sign("env.scheduler_gave_none", "a job scheduler wrote into CUDA_VISIBLE_DEVICES that the job has no GPU")
def _scheduler_gave_none(facts: Facts) -> Sign:
    value = _cuda_visible(facts)
    if value is None:
        return UNKNOWN
    words = f"CUDA_VISIBLE_DEVICES={value}"
    # Slurm's own word; an empty value may be anybody's.
    return yes(words) if _first_of(value).lower() == "nodevfiles" else UNKNOWN


@sign("env.index_out_of_range", "CUDA_VISIBLE_DEVICES begins with a GPU number that is not there")
def _index_out_of_range(facts: Facts) -> Sign:
    value, count = _cuda_visible(facts), _devices_given(facts)
    if value is None:
        return UNKNOWN
    first = _first_of(value)
    if not first.isdigit():
        return no(f"CUDA_VISIBLE_DEVICES={value!r} begins with no number")
    if count is None:
        return UNKNOWN
    if _lists_gpu(facts).state:
        return no("the framework lists a GPU")
    words = (f"CUDA_VISIBLE_DEVICES={value}", f"{count} GPU{'' if count == 1 else 's'}, numbered from 0")
    return yes(*words) if int(first) >= count else no(*words)


@sign("env.index_positive", "CUDA_VISIBLE_DEVICES begins with another number than 0")
def _index_positive(facts: Facts) -> Sign:
    value = _cuda_visible(facts)
    if value is None:
        return UNKNOWN
    first = _first_of(value)
    words = f"CUDA_VISIBLE_DEVICES={value}"
    return yes(words) if first.isdigit() and int(first) > 0 else no(words)


@sign("env.uuid_unknown", "CUDA_VISIBLE_DEVICES names a GPU by an identity that no GPU here has")
def _uuid_unknown(facts: Facts) -> Sign:
    value = _cuda_visible(facts)
    first = _first_of(value or "")
    if value is None or not first.startswith(("GPU-", "MIG-")):
        return UNKNOWN if value is None else no(f"CUDA_VISIBLE_DEVICES={value!r} names no identity")
    known = [str(row.get("uuid")) for row in facts.rows("gpu_stack.driver.devices") if row.get("uuid")]
    if not known or first.startswith("MIG-"):
        return UNKNOWN
    # CUDA takes an unambiguous beginning, too.
    words = (f"CUDA_VISIBLE_DEVICES={value}", "here: " + ", ".join(known))
    return no(*words) if any(uuid.lower().startswith(first.lower()) for uuid in known) else yes(*words)


@sign("env.stubs_on_path", "LD_LIBRARY_PATH leads to the toolkit's stub libraries")
def _stubs_on_path(facts: Facts) -> Sign:
    return _on_path(facts, "/stubs")


@sign("env.compat_on_path", "LD_LIBRARY_PATH leads to the forward-compatibility libcuda")
def _compat_on_path(facts: Facts) -> Sign:
    return _on_path(facts, "/compat")


def _on_path(facts: Facts, part: str) -> Sign:
    env = environment(facts)
    if "LD_LIBRARY_PATH" not in env and "LD_PRELOAD" not in env:
        return UNKNOWN
    value = env.get("LD_LIBRARY_PATH", "") + ":" + env.get("LD_PRELOAD", "")
    words = f"LD_LIBRARY_PATH={env.get('LD_LIBRARY_PATH', '')}"
    return yes(words) if part in value else no(words)


@sign("env.platform_forbids", "a variable tells the framework to use the processor (JAX_PLATFORMS=cpu)")
def _platform_forbids(facts: Facts) -> Sign:
    env = environment(facts)
    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "PJRT_DEVICE", "ACCELERATE_USE_CPU", "USE_CPU"):
        if name.startswith("JAX") and framework_value(facts, "name") not in (None, "jax"):
            continue
        value = env.get(name, "").lower()
        if value in ("cpu", "true", "1") and not (name.startswith("JAX") and value != "cpu"):
            return yes(f"{name}={env[name]}")
    return no("none of these variables is set") if env else UNKNOWN


@sign("env.colab", "the program runs in Google Colab")
def _colab(facts: Facts) -> Sign:
    said = facts.get("platform.colab")
    return UNKNOWN if said is None else Sign(bool(said), ("it is Colab",) if said else ())


# --- memory, sharing, the operation ---


@sign("memory.nearly_full", "a GPU's memory is nearly full")
def _nearly_full(facts: Facts) -> Sign:
    known = False
    for row in facts.rows("gpu_stack.driver.devices"):
        total, used = row.get("memory_total_mib"), row.get("memory_used_mib")
        if isinstance(total, (int, float)) and isinstance(used, (int, float)) and total:
            known = True
            if used / total > 0.85:
                return yes("%s: %d of %d MiB in use" % (row.get("name") or "GPU", used, total))
    return no("no GPU's memory is over 85 % full") if known else UNKNOWN


@sign("memory.held_by_others", "other processes hold the GPU")
def _held_by_others(facts: Facts) -> Sign:
    rows = facts.get("gpu_stack.driver.processes")
    if rows is None:
        return UNKNOWN
    users = [row for row in facts.rows("gpu_stack.driver.processes") if not row.get("service")]
    return (
        yes(*("%s (pid %s)" % (row.get("name"), row.get("pid")) for row in users))
        if users
        else no("nobody does")
    )


@sign("memory.shm_small", "the container's /dev/shm has Docker's default size")
def _shm_small(facts: Facts) -> Sign:
    size = facts.get("container.shm_size_mib")
    if size is None:
        return UNKNOWN
    return yes(f"/dev/shm: {size} MiB") if size <= 64 else no(f"/dev/shm: {size} MiB")


@sign("framework.lists_gpu", "the framework lists a GPU")
def _lists_gpu(facts: Facts) -> Sign:
    available, listed = facts.get("framework.available"), facts.get("framework.gpus_listed")
    if listed is None and available is None:
        listed = facts.get("verification.gpus_listed")
    if isinstance(listed, int) and not isinstance(listed, bool):
        return yes(f"{listed} GPU{'' if listed == 1 else 's'} listed") if listed else no("no GPU is listed")
    if available is None:
        return UNKNOWN
    return (
        yes("the framework says that a GPU is available")
        if available
        else no("the framework says that none is")
    )


@sign("link.operation", "the framework lists the GPUs and computes on them")
def _link_operation(facts: Facts) -> Sign:
    verified = facts.get("verification.ok")
    compute = facts.get("verification.compute")
    if isinstance(compute, Mapping):
        failed = [
            "%s: %s" % (name, row.get("error") or "failed")
            for name, row in compute.items()
            if isinstance(row, Mapping) and row.get("ok") is False
        ]
        if failed:
            return no(*failed)
    expected, listed = facts.get("verification.gpus_expected"), facts.get("verification.gpus_listed")
    if verified is True:
        return yes("%s lists %s of %s GPUs" % (facts.get("verification.workload"), listed, expected))
    if verified is False:
        if isinstance(expected, int) and isinstance(listed, int) and listed < expected:
            return no("%s lists %d of %d GPUs" % (facts.get("verification.workload"), listed, expected))
        return no("the verification of %s failed" % (facts.get("verification.workload") or "the workload"))
    return _lists_gpu(facts)


@sign("framework.lists_none", "the framework lists no GPU at all")
def _lists_none(facts: Facts) -> Sign:
    found = _lists_gpu(facts)
    return UNKNOWN if found.state is None else Sign(not found.state, found.evidence)


@sign("operation.succeeded", "a workload listed its GPUs and, where that was asked for, computed on them")
def _operation_succeeded(facts: Facts) -> Sign:
    return _link_operation(facts)


@sign("operation.proven", "the node's workload works, and nobody asks about another container")
def _operation_proven(facts: Facts) -> Sign:
    # What else the node's logs tell of is somebody else's, or over.
    if facts.get("verification.ok") is True and facts.get("container") is None:
        return yes("%s lists its GPUs" % (facts.get("verification.workload") or "the workload"))
    return UNKNOWN


@sign("gpu.compute_mode_restricted", "a GPU's compute mode takes one process only, or none")
def _compute_mode_restricted(facts: Facts) -> Sign:
    modes = [
        (str(row.get("name") or "GPU"), str(row.get("compute_mode")))
        for row in facts.rows("gpu_stack.driver.devices")
        if row.get("compute_mode")
    ]
    restricted = [
        f"{name}: {mode}" for name, mode in modes if re.search(r"exclu|e\. ?process|prohib", mode, re.I)
    ]
    if restricted:
        return yes(*restricted)
    return no(*(f"{name}: {mode}" for name, mode in modes)) if modes else UNKNOWN


@sign("framework.two_pythons", "the same framework is there in two Pythons, and not the same of it")
def _two_pythons(facts: Facts) -> Sign:
    rows = facts.rows("framework.pythons")
    if len(rows) < 2:
        return UNKNOWN
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(str(row.get("name")), []).append(row)
    for name, found in by_name.items():
        for good, bad in itertools.permutations(found, 2):
            differ = any(
                good.get(key) and bad.get(key) and good[key] != bad[key] for key in ("executable", "version")
            )
            if differ and _better(good, bad):
                words = [
                    "%s: %s %s, %s"
                    % (row.get("executable") or "a Python", name, row.get("version") or "", what)
                    for row, what in ((good, "with the GPU"), (bad, "without it"))
                ]
                return yes(*words)
    return UNKNOWN


def _better(good: Mapping[str, Any], bad: Mapping[str, Any]) -> bool:
    """Does one Python see the GPU and the other not; or has one a build with CUDA, and what runs has none?"""
    if good.get("available") is True and bad.get("available") is False:
        return True
    # A probe finds what is installed and imports nothing: a kernel or process that runs is what is used.
    return bool(good.get("cuda")) and bad.get("cuda") is False and bad.get("source") in ("kernel", "process")


@sign("memory.container_killed", "the kernel killed the container for its memory")
def _container_killed(facts: Facts) -> Sign:
    killed = facts.get("container.oom_killed")
    if killed is None:
        return UNKNOWN
    limit = facts.get("container.memory_limit_mib")
    if not killed:
        return no("it was not killed for its memory")
    return yes("OOMKilled", *([f"its limit: {limit} MiB"] if limit else []))
