# Apache-2.0 (see LICENSE)
"""What a text says about Python, its packages, and the framework: versions, builds, what it found."""

from __future__ import annotations

import ast
import re
from typing import Any

from .reader_base import Reading, command, fetch, on, put, statement, version
from .reader_shell import Command, Place

_FRAMEWORKS = {
    "torch": "pytorch",
    "pytorch": "pytorch",
    "tensorflow": "tensorflow",
    "tensorflow-gpu": "tensorflow",
    "tensorflow-cpu": "tensorflow",
    "tensorflow-intel": "tensorflow",
    "tensorflow-macos": "tensorflow",
    "tf-nightly": "tensorflow",
    "jax": "jax",
    "jaxlib": "jax",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "mxnet": "mxnet",
    "cupy": "cupy",
    "paddlepaddle-gpu": "paddle",
}
_PACKAGE = re.compile(
    r"^(?:torch(?:vision|audio|text)?|pytorch(?:-cuda|-mutex|-gpu)?"
    r"|tensorflow(?:[-_](?:gpu|cpu|intel|macos|metal|base|rocm))?"
    r"|tf[-_]nightly(?:[-_]gpu)?|keras"
    r"|jax(?:lib)?|jax-cuda\S*|onnxruntime(?:[-_]\w+)?|nvidia[-_]\S+|cupy\S*"
    r"|cudatoolkit|cudnn|cuda-\S+|cpuonly|paddlepaddle(?:-gpu)?|triton|mxnet\S*|numpy"
    r"|tensorrt\S*|libcublas)$"
)


def _says(place: Place, **facts: Any) -> None:
    """Facts of the framework in this place."""
    place.framework.update(facts)


def _python(reading: Reading, **facts: Any) -> None:
    """One more word about a Python; what contradicts the last one's words is another Python's."""
    if not reading.pythons or any(
        reading.pythons[-1].get(key, value) != value for key, value in facts.items()
    ):
        if reading.pythons and set(facts) == {"available"}:
            # It has changed its mind: the same one, asked again.
            reading.pythons[-1].update(facts)
            return
        reading.pythons.append({})
    reading.pythons[-1].update(facts)


def _name(place: Place, name: str) -> None:
    place.framework["name"] = name


def _capability(reading: Reading, text: str, name: str | None = None, pci: str | None = None) -> None:
    """A GPU's compute capability, which is the same wherever it was asked."""
    devices = reading.list_at("driver.devices")
    device = None
    for one in devices:
        if (pci and one.get("pci", "").lower() == pci.lower()) or (name and one.get("name") == name):
            device = one
            break
    if device is None and name is None and pci is None and len(devices) == 1:
        device = devices[0]
    if device is None:
        bare = (
            [one for one in devices if "name" not in one and "pci" not in one] if (name or pci) else devices
        )
        device = bare[0] if bare else None
    if device is None and len(devices) == 1 and set(devices[0]) <= {"index", "name"} and pci:
        # Named in passing before; the log knows better.
        device = devices[0]
        device.pop("name", None)
    if device is None:
        device = {"index": len(devices)}
        devices.append(device)
    device["compute_capability"] = text
    if name:
        device.setdefault("name", name)
    if pci:
        device.setdefault("pci", pci)


# --- packages


def _package(reading: Reading, place: Place, name: str, number: str, build: str = "") -> None:
    name = name.lower().replace("_", "-")
    if not _PACKAGE.match(name):
        return
    if name in ("torch", "pytorch", "tensorflow", "tensorflow-gpu", "tensorflow-cpu", "jax", "jaxlib"):
        _python(reading, name=_FRAMEWORKS[name], version=number)
    place.framework.setdefault("packages", {})[name] = number
    if name in _FRAMEWORKS:
        known = place.framework.get("name")
        if known in (None, _FRAMEWORKS[name]) and name not in ("jaxlib", "onnxruntime"):
            _name(place, _FRAMEWORKS[name])
            place.framework["version"] = number.partition("+")[0]
    local = number.partition("+")[2]
    if name in ("torch", "pytorch", "jaxlib"):
        if local == "cpu" or re.search(r"(?:^|_)cpu(?:_|$)", build):
            place.framework["cuda"] = False
        elif re.match(r"^cu\d{2,3}$", local):
            place.framework["cuda"] = local[2:-1] + "." + local[-1]
        elif local.startswith("rocm"):
            place.framework["rocm"] = True
        found = re.search(r"cuda(\d+\.?\d*)", build)
        if found and "." in found.group(1):
            place.framework["cuda"] = found.group(1)
    if name in ("torch", "pytorch") and "cuda" in place.framework and (local or build):
        reading.pythons[-1]["cuda"] = place.framework["cuda"]
    if name in ("tensorflow-cpu", "tensorflow-intel") or (
        name in ("tensorflow", "tensorflow-base") and re.match(r"^(?:cpu|mkl|eigen)_", build)
    ):
        place.framework["cuda"] = False


_PIP_ROW = re.compile(
    r"^(?:\[(?:pip3?|conda)\] | ?\+ )?(?P<name>[A-Za-z][\w.-]*?)(?:=="
    r"|\s{1,60})(?P<version>\d[\w.+!-]*)(?:\s+(?P<rest>\S.*))?$"
)


@on(
    "torch",
    "tensorflow",
    "jax",
    "onnxruntime",
    "nvidia-cu",
    "cudatoolkit",
    "cudnn",
    "cpuonly",
    "pytorch-mutex",
    "keras",
    "numpy",
    "nvidia_cu",
    "cuda-",
)
def _pip_row(reading: Reading, number: int, text: str, place: Place) -> None:
    if len(text) > 300 or (text[0] in "|+-#>$EWI " and not re.match(r"^ ?\+ [a-z]", text)):
        return
    match = _PIP_ROW.match(text)
    if not match or not _PACKAGE.match(match.group("name").lower().replace("_", "-")):
        return
    rest = match.group("rest") or ""
    # Prose has words after the version; a list has a build, a channel or a path.
    if rest and not re.match(
        r"^(?:[\w.*]+_\w+|py\w*_\d+|h\w{5,}|\d+|pypi_0|<pip>|/\S+|[A-Z]:\\\S+|pypi"
        r"|conda-forge|nvidia|pytorch\S*|defaults|@ .*|\w+_cpu\S*)\b",
        rest,
    ):
        return
    _package(reading, place, match.group("name"), match.group("version"), rest.split()[0] if rest else "")


@on("Successfully installed ")
def _pip_installed(reading: Reading, number: int, text: str, place: Place) -> None:
    if not text.startswith("Successfully installed "):
        return
    joined = " ".join(
        [text, *(line for line in reading.following(number, 3) if re.match(r"^\s*[a-zA-Z][\w.]*-\d", line))]
    )
    for item in joined.split()[2:200]:
        match = re.match(r"^(?P<name>[A-Za-z][\w.-]*?)-(?P<version>\d[\w.+]*)$", item)
        if match:
            _package(reading, place, match.group("name"), match.group("version"))


@on("Name: ")
def _pip_show(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^Name: ([\w.-]+)$", text)
    following = next(iter(reading.following(number, 1)), "")
    found = re.match(r"^Version: (\d\S*)$", following)
    if match and found:
        _package(reading, place, match.group(1), found.group(1))


# --- collect_env and other reports

_REPORT = re.compile(
    r"^\W{0,4}(?P<key>PyTorch version|CUDA used to build PyTorch"
    r"|ROCM used to build PyTorch|Is CUDA available|CUDA available"
    r"|Nvidia driver version|NVIDIA driver version"
    r"|cuDNN version|Python version|PyTorch version \(GPU\?\)"
    r"|Tensorflow version \(GPU\?\)|TensorFlow version|tensorflow version|CUDA Version"
    r"|Build cuda version"
    r"|Is XPU available|PyTorch|jax|jaxlib|onnxruntime version|ORT version"
    r"|CUDA runtime version|Torch version|torch version|torch"
    r"|GPU models and configuration)\s?:\s*(?P<value>.*?)\s*$"
)


@on(
    "PyTorch version",
    "CUDA used to build PyTorch",
    "ROCM used to build",
    "CUDA available",
    "vidia driver version",
    "VIDIA driver version",
    "ensorFlow version",
    "ensorflow version",
    "orch version",
    "Python version",
)
def _report(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _REPORT.match(text)
    if not match:
        return
    key, value = match.group("key"), match.group("value")
    if key in ("PyTorch version", "Torch version", "torch version", "PyTorch") and value[:1].isdigit():
        _name(place, "pytorch")
        _package(reading, place, "torch", value.split()[0])
    elif key == "PyTorch version (GPU?)":
        found = re.match(r"^(\d\S*)(?: \((True|False)\))?$", value)
        if found:
            _name(place, "pytorch")
            _package(reading, place, "torch", found.group(1))
            if found.group(2):
                _says(place, available=found.group(2) == "True")
    elif key == "Tensorflow version (GPU?)":
        found = re.match(r"^(\d\S*)(?: \((True|False)\))?$", value)
        if found and place.framework.get("name") != "pytorch":
            _package(reading, place, "tensorflow", found.group(1))
            if found.group(2):
                _says(place, available=found.group(2) == "True")
    elif key in ("TensorFlow version", "tensorflow version"):
        found = re.search(r"(?:^|\bv)(\d\.\d+(?:\.\d+)?)", value)
        if found:
            _name(place, "tensorflow")
            _says(place, version=found.group(1))
    elif key == "CUDA used to build PyTorch":
        _name(place, "pytorch")
        if version(value):
            _says(place, cuda=value)
        elif value == "None":
            _says(place, cuda=False)
        elif (
            value == "Could not collect" and "cuda" not in place.framework and place.framework.get("version")
        ):
            # The report's words for None, once it has found a PyTorch at all.
            _says(place, cuda=False)
    elif key == "ROCM used to build PyTorch":
        if version(value):
            _says(place, rocm=True)
    elif key in ("Is CUDA available", "CUDA available") and value in ("True", "False", "Yes", "No"):
        _says(place, available=value in ("True", "Yes"))
    elif key in ("Nvidia driver version", "NVIDIA driver version") and re.match(r"^\d{3}\.\d", value):
        from .reader_host import _loaded

        if reading.platform.get("os") != "windows":
            _loaded(reading, value.split()[0], None)
    elif key in ("Nvidia driver version", "NVIDIA driver version") and value == "Could not collect":
        reading.not_collected = place
    elif key == "Python version":
        found = re.match(r"^(\d\.\d+(?:\.\d+)?)", value)
        if found:
            place.framework.setdefault("python", {})["version"] = found.group(1)


# --- Python at the prompt

_EXPRESSIONS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile("^" + pattern + "$"), key)
    for pattern, key in (
        (r"torch\.cuda\.is_available\(\)", "torch.available"),
        (r"torch\.version\.cuda", "torch.cuda"),
        (r"torch\.(?:__version__|version\.__version__)", "torch.version"),
        (r"torch\.cuda\.device_count\(\)", "torch.count"),
        (r"torch\.cuda\.get_arch_list\(\)", "torch.archs"),
        (r"torch\.cuda\.get_device_name\(.*?\)", "torch.name"),
        (r"torch\.cuda\.get_device_capability\(.*?\)", "torch.capability"),
        (r"torch\.backends\.cudnn\.version\(\)", "torch.cudnn"),
        (r"torch\.version\.hip", "torch.hip"),
        (r"(?:tf|tensorflow)\.(?:__version__|version\.VERSION)", "tf.version"),
        (
            r"(?:len\()?(?:tf|tensorflow)\.config\.(?:experimental\.)?list_physical_devices\(("
            r"?:device_type ?= ?)?[\"']GPU[\"']\)\)?",
            "tf.gpus",
        ),
        (r"(?:tf|tensorflow)\.config\.(?:experimental\.)?list_physical_devices\(\)", "tf.devices"),
        (r"(?:device_lib\.|tf\.config\.)list_(?:local|logical)_devices\(\)", "tf.devices"),
        (r"(?:tf|tensorflow)\.test\.is_gpu_available\(.*?\)", "tf.available"),
        (r"(?:tf|tensorflow)\.test\.is_built_with_cuda\(\)", "tf.built"),
        (r"(?:tf|tensorflow)\.test\.gpu_device_name\(\)", "tf.device_name"),
        (r"(?:tf|tensorflow)\.sysconfig\.get_build_info\(\)", "tf.build"),
        (r"jax\.(?:local_)?devices\(.*?\)", "jax.devices"),
        (r"jax\.default_backend\(\)", "jax.backend"),
        (r"jax\.__version__", "jax.version"),
        (r"(?:ort|onnxruntime)\.get_available_providers\(\)", "ort.providers"),
        (r"(?:ort|onnxruntime)\.get_device\(\)", "ort.device"),
        (r"(?:ort|onnxruntime)\.__version__", "ort.version"),
        (r"sys\.(?:executable|prefix)", "python.executable"),
        (r"sys\.version", "python.version"),
    )
)


def _meaning(expression: str) -> str | None:
    expression = expression.strip().rstrip(";")
    expression = (
        re.sub(r"^\w+ ?= ?", "", expression) if re.match(r"^\w+ ?= ?(?!=)", expression) else expression
    )
    for pattern, key in _EXPRESSIONS:
        if pattern.match(expression):
            return key
    return None


def _arguments(code: str) -> list[str]:
    """The expressions that a statement prints."""
    code = code.strip()
    match = re.match(r"^print ?\((?P<inside>.*)\)$", code)
    if not match:
        return [code]
    parts, depth, start, quote = [], 0, 0, ""
    inside = match.group("inside")
    for index, letter in enumerate(inside):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(inside[start:index].strip())
            start = index + 1
    return [*parts, inside[start:].strip()]


_NOISE = re.compile(
    r"^(?:[IWE] \S+:\d+\]|[IWE]\d{4}|WARNING|/\S+\.py:\d+: |\S+Warning:|\s{2,}\S"
    r"|To enable the following|Skipping registering|Python \d|\[GCC|Type \"help\""
    r"|Your kernel|coreClock|pciBusID|Num GPUs)"
)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return text.strip()


def _result(reading: Reading, place: Place, key: str, text: str) -> None:
    """What an expression came out as."""
    text = re.sub(r"^Out\[\d+\]: ?", "", text.strip())
    if not text or len(text) > 3000:
        return
    value = _value(text)
    what, _, which = key.partition(".")
    name = {"torch": "pytorch", "tf": "tensorflow", "jax": "jax", "ort": "onnxruntime"}.get(what)
    facts: dict[str, Any] = {}
    if which in ("available", "built") and isinstance(value, bool):
        if which == "available":
            facts["available"] = value
        elif value is False:
            facts["cuda"] = False
    elif key == "torch.cuda":
        if value is None:
            facts["cuda"] = False
        elif version(str(value)):
            facts["cuda"] = str(value)
    elif which == "version" and name and re.match(r"^v?\d+\.\d+", str(value)) and len(str(value)) < 40:
        package = {"pytorch": "torch"}.get(name, name)
        _name(place, name)
        _package(reading, place, package, str(value).lstrip("v"))
        facts["version"] = str(value).lstrip("v").partition("+")[0]
    elif key == "torch.count" and isinstance(value, int):
        facts["gpus_listed"] = value
        if value == 0:
            facts["available"] = False
    elif key == "torch.archs" and isinstance(value, list):
        facts["archs"] = [str(item) for item in value]
    elif key == "torch.capability" and isinstance(value, tuple) and len(value) == 2:
        _capability(reading, "%s.%s" % value)
    elif key == "torch.name" and re.match(r"^[A-Z][\w .-]{3,60}$", str(value)):
        devices = reading.list_at("driver.devices")
        if not devices:
            devices.append({"index": 0, "name": str(value)})
    elif key == "torch.cudnn" and isinstance(value, int) and value > 1000:
        facts["cudnn_loaded"] = cudnn_version(value)
    elif key == "torch.hip" and value is not None and version(str(value)):
        facts["rocm"] = True
    elif key == "tf.gpus":
        if isinstance(value, int) and not isinstance(value, bool):
            facts["gpus_listed"] = value
        elif value == []:
            facts["gpus_listed"] = 0
        elif text.startswith("[PhysicalDevice("):
            facts["gpus_listed"] = text.count("device_type='GPU'")
        if "gpus_listed" in facts:
            facts["available"] = facts["gpus_listed"] > 0
    elif key == "tf.devices" and ("CPU:0" in text or "GPU:0" in text) and text.startswith("["):
        if text.endswith("]"):
            facts["gpus_listed"] = len(set(re.findall(r"(?:physical_)?device:GPU:(\d+)", text)))
            facts["available"] = facts["gpus_listed"] > 0
    elif key == "tf.device_name" and value in ("", "/device:GPU:0"):
        facts["available"] = bool(value)
    elif key == "tf.build":
        _build_info(place, text)
    elif key == "jax.devices":
        if re.search(r"Cpu", text) and "uda" not in text and "Gpu" not in text:
            facts.update(available=False, gpus_listed=0)
        elif re.search(r"(?:Cuda|Gpu)Device\(", text):
            facts.update(available=True, gpus_listed=len(re.findall(r"(?:Cuda|Gpu)Device\(", text)))
    elif key == "jax.backend" and value in ("cpu", "gpu", "cuda"):
        facts["available"] = value != "cpu"
    elif key == "ort.providers" and isinstance(value, list):
        facts["providers"] = [str(item) for item in value]
        facts["available"] = "CUDAExecutionProvider" in value
        if "CUDAExecutionProvider" not in value:
            facts["cuda"] = False
    elif key == "ort.device" and value in ("CPU", "GPU"):
        if value == "CPU":
            facts["cuda"] = False
    elif key == "python.executable" and str(value).startswith("/"):
        place.framework.setdefault("python", {})["executable"] = str(value)
        _python(reading, executable=str(value))
        return
    elif key == "python.version":
        found = re.match(r"^(\d\.\d+\.\d+)", str(value))
        if found:
            place.framework.setdefault("python", {})["version"] = found.group(1)
        return
    if facts and name:
        _name(place, name)
        _says(place, **facts)
        told = {key: facts[key] for key in ("available", "cuda") if key in facts}
        if told and (not reading.pythons or reading.pythons[-1].get("name", name) == name):
            _python(reading, **told)
        if facts.get("available") is False:
            place.failing = True


def cudnn_version(number: int) -> str:
    """8902 -> 8.9.2, 90100 -> 9.1.0."""
    if number >= 90000:
        return "%d.%d.%d" % (number // 10000, number // 100 % 100, number % 100)
    return "%d.%d.%d" % (number // 1000, number // 100 % 10, number % 100)


def _build_info(place: Place, text: str) -> None:
    _name(place, "tensorflow")
    cuda = re.search(r"'cuda_version'[,:] '(\d+\.\d+)", text)
    cudnn = re.search(r"'cudnn_version'[,:] '(?:cudnn64_)?(\d+(?:\.\d+)?)", text)
    built = re.search(r"'is_cuda_build'[,:] (True|False)", text)
    if cuda:
        _says(place, cuda=cuda.group(1))
    if cudnn:
        _says(place, cudnn=cudnn.group(1))
    if built and built.group(1) == "False":
        _says(place, cuda=False)
    archs = re.search(r"'cuda_compute_capabilities'[,:] \[([^\]]*)\]", text)
    if archs:
        _says(place, archs=re.findall(r"'([\w.]+)'", archs.group(1)))


@statement
def _python_statement(reading: Reading, code: str, output: list[str], place: Place) -> None:
    """`>>> torch.cuda.is_available()` and the line below it."""
    script = re.match(r"^os\.environ\[[\"'](?P<name>[A-Z_]+)[\"']\] ?= ?[\"'](?P<value>[^\"']*)[\"']", code)
    if script:
        reading.environ(script.group("name"), script.group("value"), place)
    lines = [line for line in output if line.strip() and not _NOISE.match(line)]
    if not lines or lines[0].startswith("Traceback"):
        return
    parts = [
        part.strip() for part in re.split(r"[;\n]", code) if not re.match(r"^\s*(?:import |from |$)", part)
    ]
    prints = [part for part in parts if part.startswith("print")]
    if len(prints) > 1 and len(lines) >= len(prints):
        for part, line in zip(prints, lines, strict=False):
            asked = _arguments(part)
            _results(reading, place, [key for key in map(_meaning, asked) if key], [line], len(asked))
        return
    asked = [argument for part in parts for argument in _arguments(part)]
    keys = [key for key in map(_meaning, asked) if key]
    if keys:
        _results(reading, place, keys, lines, len(asked))


_CODE = re.compile(
    r"^\s*(?:import |from \w+ import|print ?\(|\w+ = |#|os\.environ|with |if |(?:torch"
    r"|tf|tensorflow|jax|ort|onnxruntime|sys)\.)"
)
_LITERAL = re.compile(
    r"^\s*(?:Out\[\d+\]: ?)?(?:(?:True|False|None|\d[\w.+]*)(?:[ ,]+(?:True|False|None"
    r"|\d[\w.+]*))*|\[.*\]|'[^']*')\s*$"
)
_LABEL = re.compile(
    r"^\W*(?:and |this |it )?(?:the )?(?:output|result|returns?|prints?|gives?|gets?"
    r"|shows?|out)\b.{0,30}$",
    re.IGNORECASE,
)


@on("torch.", "tf.", "tensorflow.", "jax.", "get_available_providers", "get_device()")
def _listing(reading: Reading, number: int, text: str, place: Place) -> None:
    """Code in a block of its own, and its output below, or in a comment beside it."""
    if len(text) > 300 or text[0] in ">I!$" or not _CODE.match(text):
        return
    code, _, comment = text.partition("#")
    said = re.match(
        r"^\s*(?:->|=>|returns?|prints?|output:?|:)?\s*(True|False|None|\[\]|\d[\w.+]*"
        r"|true|false)\b",
        comment,
    )
    keys = [key for key in map(_meaning, _arguments(code)) if key]
    if said:
        if len(keys) == 1:
            _result(reading, place, keys[0], said.group(1).replace("true", "True").replace("false", "False"))
        return
    below = [line for line in reading.following(number, 8) if line.strip()]
    if not keys or not below or _CODE.match(below[0]):
        return
    above = []
    for line in reversed(reading.texts[max(0, number - 12) : number]):
        if line.strip() and not _CODE.match(line):
            break
        if line.strip():
            above.append(line.partition("#")[0].strip())
    printed = [
        [key for key in map(_meaning, _arguments(line)) if key] for line in reversed(above) if "print" in line
    ]
    while below and _LABEL.match(below[0]):
        below.pop(0)
    answers = [line for line in below if not _NOISE.match(line)]
    statements = [*printed, keys]
    literal = []
    for line in answers:
        if not _LITERAL.match(line):
            break
        literal.append(line)
    if len(literal) == len(statements):
        for one, line in zip(statements, literal, strict=True):
            if one:
                _results(reading, place, one, [line], len(one))


def _results(reading: Reading, place: Place, keys: list[str], lines: list[str], asked: int) -> None:
    if len(keys) == 1 and asked == 1:
        text = lines[0]
        if text.startswith("[") and not text.endswith("]"):
            text = " ".join(lines[:40]).partition("]")[0] + "]"
        _result(reading, place, keys[0], text)
        return
    if asked == len(keys):
        values = lines[0].split()
        if len(values) == len(keys):
            for key, value in zip(keys, values, strict=True):
                _result(reading, place, key, value)


@command(
    "python",
    "python3",
    "python3.8",
    "python3.9",
    "python3.10",
    "python3.11",
    "python3.12",
    "docker",
    "podman",
    "kubectl",
    "nvidia-docker",
    "conda",
    "singularity",
    "apptainer",
)
def _python_c(reading: Reading, typed: Command, output: list[str]) -> None:
    """`python -c "import torch; print(torch.cuda.is_available())"`, here or in a container."""
    place = typed.output_in
    if "-c" not in typed.words:
        return
    code = typed.words[typed.words.index("-c") + 1 :][:1]
    if not code:
        return
    if not re.search(r"\bimport (?:torch|tensorflow|jax|onnxruntime)|from tensorflow", code[0]):
        inner = re.search(r"python[\d.]* -c [\"']?(.*?)[\"']?$", code[0])
        if not inner:
            return
        code = [inner.group(1)]
    printed = [
        part
        for statement in re.split(r"[;\n]", code[0])
        if "print" in statement
        for part in [statement.strip()]
    ]
    lines = [line for line in output if line.strip() and not _NOISE.match(line)]
    for line_index, call in enumerate(printed):
        arguments = _arguments(call)
        keys = [key for key in map(_meaning, arguments) if key]
        left = lines[line_index:] if len(printed) > 1 else lines
        if keys and left and not left[0].startswith("Traceback"):
            if len(printed) == 1 and len(keys) == 1 and len(arguments) == 1:
                plausible = [
                    line
                    for line in left
                    if re.match(r"^(?:True|False|None|\[.*\]?|\d[\w.+]*)$", line.strip())
                ]
                left = plausible or left
            _results(reading, place, keys, left, len(arguments))


_LOGGED = re.compile(r"^[IWEF] \S+:\d+\]")


def _spoken_of(reading: Reading, name: str, capability: str | None = None) -> None:
    """A GPU that somebody says to have: it is in the machine, and no program has listed it yet."""
    if fetch(reading.stack, "host.gpus") is not None or fetch(reading.stack, "driver.devices"):
        return
    found = {"name": re.sub(r"^nvidia ", "", name, flags=re.IGNORECASE), "vendor_id": "10de"}
    if capability:
        found["compute_capability"] = capability
    put(reading.stack, "host.gpus", [found])


_MENTION = re.compile(
    r"\b(?P<name>tensorflow(?:[-_ ]gpu)?|tf|py ?torch|torch|jax)"
    r"(?:(?:[-_ ](?:gpu|version|installed|is|was)){0,3}(?:\s?(?:==?|:|-)\s?|\s)?)"
    r"v?(?P<version>[0-2]\.\d{1,2}(?:\.\d{1,2})?)(?![\d.]*\w)",
    re.IGNORECASE,
)


@on(
    "ensorflow",
    "ensorFlow",
    "ENSORFLOW",
    "tf ",
    "TF ",
    "tf2",
    "TF2",
    "tf=",
    "orch ",
    "orch:",
    "orch=",
    "orch-",
)
def _mention(reading: Reading, number: int, text: str, place: Place) -> None:
    """A version in somebody's own words; it counts only if no other version of it is spoken of."""
    if len(text) > 1000 or text.startswith("  File ") or _LOGGED.match(text):
        return
    for match in _MENTION.finditer(text):
        word = match.group("name").lower()
        name = "tensorflow" if word[:2] in ("te", "tf") else "jax" if word == "jax" else "pytorch"
        if name == "pytorch" and match.group("version").startswith("0"):
            continue
        reading.mentions.setdefault(name, set()).add(match.group("version"))


_ASKED = re.compile(
    r"^(?:#{2,5} (?P<what>Tensor[Ff]low [Vv]ersion|Python [Vv]ersion|GPU [Mm]odel(?: and [Mm]emory)?)\s*"
    r"|\W{0,3}(?P<named>TensorFlow version|GPU model and memory)\b(?: \([^()]*\))?\s*:\s*(?P<value>\S.*))$"
)
_GPU_NAME = re.compile(
    r"^\W*(?:\d ?x ?)?(?P<name>(?:NVIDIA |Nvidia |GeForce |Tesla |Quadro |RTX |GTX "
    r"|A100|V100|T4|H100)[\w ]{0,24}?)"
    r"(?:,|\(|/| \d+ ?G|$| with| and)"
)


@on("ensorFlow", "ensorflow", "GPU ", "Python")
def _template(reading: Reading, number: int, text: str, place: Place) -> None:
    """GitHub's issue forms: a heading, a blank line, the answer."""
    match = _ASKED.match(text)
    if not match:
        return
    value = match.group("value") or next((line for line in reading.following(number, 3) if line), "")
    what = (match.group("what") or match.group("named")).lower()
    if what.startswith("tensorflow"):
        found = re.match(
            r"^\W*(?:v|tf ?|tensorflow ?)?(\d\.\d{1,2}(?:\.\d{1,2})?)(?:\W|$|rc)", value, re.IGNORECASE
        )
        if found:
            _name(place, "tensorflow")
            _says(place, version=found.group(1))
    elif what.startswith("python"):
        found = re.match(r"^\W*(?:python ?)?(3\.\d{1,2}(?:\.\d{1,2})?)", value, re.IGNORECASE)
        if found:
            place.framework.setdefault("python", {})["version"] = found.group(1)
    else:
        found = _GPU_NAME.match(value)
        if found and re.search(r"\d", found.group("name")):
            _spoken_of(reading, found.group("name").strip())


def mentioned(reading: Reading, framework: dict[str, Any]) -> None:
    """What was only mentioned, where nothing better is known."""
    names = sorted(reading.mentions.pop("gpu", set()), key=len)
    longest = names[-1].lower().replace(" ", "") if names else ""
    if names and all(name.lower().replace(" ", "") in longest for name in names):
        _spoken_of(reading, names[-1])
    if framework.get("version"):
        return
    named = framework.get("name")
    candidates = {name: versions for name, versions in reading.mentions.items() if named in (None, name)}
    if len(candidates) == 1:
        name, versions = next(iter(candidates.items()))
        longest = max(versions, key=len)
        if all(longest == one or longest.startswith(one + ".") for one in versions):
            framework["name"] = name
            framework["version"] = longest


@on(
    "Num GPUs Available",
    "Num GPUs available",
    "GPU available: ",
    "CUDA available: ",
    "cuda.is_available(): ",
    "GPU Available: ",
)
def _printed(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.match(r"^\W{0,3}Num GPUs [Aa]vailable:?\s+(\d+)\s*$", text)
    if match:
        _name(place, "tensorflow")
        _says(place, gpus_listed=int(match.group(1)), available=int(match.group(1)) > 0)
        return
    match = re.match(r"^\W{0,3}(?:torch\.)?cuda\.is_available\(\):? +(True|False)\s*$", text)
    if match:
        _name(place, "pytorch")
        _says(place, available=match.group(1) == "True")


@on("OrderedDict([('cpu_compiler'", "'cuda_compute_capabilities'", "'is_cuda_build'")
def _build_info_line(reading: Reading, number: int, text: str, place: Place) -> None:
    _build_info(place, " ".join([text, *reading.following(number, 6)]))


# --- TensorFlow's log

_DLOPEN = re.compile(r"Could not load dynamic library '(?P<library>[^']+)'")


@on("Could not load dynamic library")
def _dlopen(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _DLOPEN.search(text)
    if not match:
        return
    _name(place, "tensorflow")
    library = match.group("library")
    if library.endswith(".dll"):
        reading.platform["os"] = "windows"
    if library.startswith(("libcuda.so", "nvcuda")):
        if place.inside:
            place.container["libcuda"] = False
            place.failing = True
        elif place.kind == "host" and reading.concerns_host(place):
            put(reading.stack, "driver.userspace.libcuda", False)
        return
    if library.startswith(("libnvinfer", "nvinfer")):
        # TensorRT: its absence never keeps TensorFlow from the GPU.
        return
    missing = place.framework.setdefault("libraries_missing", [])
    if library not in missing:
        missing.append(library)
    place.failing = True


@on("Successfully opened dynamic library")
def _dlopened(reading: Reading, number: int, text: str, place: Place) -> None:
    match = re.search(
        r"Successfully opened dynamic library (?P<library>(?:lib)?(?P<what>cudart|cudnn"
        r"|cuda|nvcuda)(?:64_)?\S*)",
        text,
    )
    if not match:
        return
    _name(place, "tensorflow")
    library = match.group("library")
    missing = place.framework.get("libraries_missing")
    if missing and library in missing:
        missing.remove(library)
    found = re.match(r"^libcudart\.so\.(\d+\.\d+)", library)
    if found:
        _says(place, cuda_loaded=found.group(1))


_TF_DEVICE = re.compile(
    r"Created (?:TensorFlow )?device \(?/(?:job:localhost"
    r"|device:GPU).*?name: (?P<name>[^,]+), pci bus id: (?P<pci>[0-9a-fA-F:.]+), "
    r"compute capability: (?P<capability>\d+\.\d)"
)
_TF_FOUND = re.compile(
    r"^\s*(?:pciBusID: (?P<pci>[0-9a-fA-F:.]+) )?name: (?P<name>.+?) "
    r"(?:computeCapability: |major: )(?P<capability>\d+(?:\.\d| minor: \d))"
)


@on("Found GPU", "Minimum and Maximum cuda capability", "_CudaDeviceProperties(name=")
def _torch_capability(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *(line.strip() for line in reading.following(number, 2))])
    match = re.search(
        r"Found GPU\d+ (?P<name>.{3,60}?) which is of (?:cuda|compute) capability (?P<capability>\d+\.\d)",
        joined,
    )
    if match is None:
        match = re.search(
            r"_CudaDeviceProperties\(name='(?P<name>[^']+)', major=(?P<major>\d+), minor=(?P<minor>\d)", text
        )
        if match:
            _name(place, "pytorch")
            _capability(reading, match.group("major") + "." + match.group("minor"), match.group("name"))
    elif "Found GPU" in text:
        _name(place, "pytorch")
        _capability(reading, match.group("capability"), match.group("name"))
    supported = re.search(
        r"Minimum and Maximum cuda capability supported by this version of PyTorch is "
        r"\((\d+)\.(\d)\) - \((\d+)\.(\d)\)",
        joined,
    )
    if supported and "Minimum and Maximum" in text:
        low, high = supported.group(1) + supported.group(2), supported.group(3) + supported.group(4)
        _says(place, archs=["sm_" + low, "sm_" + high])


@on("compatible with compute capability ")
def _tf_capability(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = re.search(
        r"not built with CUDA kernel binaries compatible with compute capability (\d+\.\d)", joined
    )
    if match:
        _name(place, "tensorflow")
        _capability(reading, match.group(1))


_LISTED = re.compile(
    r"^\s{0,4}(?:[-*] )?(?P<what>GPU|Graphics card|Driver|NVIDIA [Dd]river"
    r"|Nvidia [Dd]river|GPU [Dd]river|PyTorch|Pytorch|pytorch|TensorFlow|Tensorflow)"
    r"(?: [Vv]ersion)?\s?[:=]\s{0,4}(?P<value>\S.{0,100})$"
)


@on(
    "GPU: ",
    "GPU : ",
    "river: ",
    "river version: ",
    "river Version: ",
    "orch: ",
    "ensorFlow: ",
    "ensorflow: ",
    "card: ",
)
def _listed(reading: Reading, number: int, text: str, place: Place) -> None:
    """`- GPU: GeForce GTX 1050`, `- Driver: 550.163.01`: how people sum up their system."""
    match = _LISTED.match(text)
    if not match:
        return
    what, value = match.group("what").lower(), match.group("value").strip()
    if what in ("gpu", "graphics card"):
        found = _PRODUCT.search(value)
        capability = re.search(r"(?:compute capability|CC|sm)[ _=:]{0,2}(\d{1,2}\.\d)", value)
        if found:
            _spoken_of(reading, found.group(0).strip(), capability.group(1) if capability else None)
    elif "driver" in what:
        found = re.match(r"^v?(\d{3}\.\d{1,3}(?:\.\d{1,2})?)\b", value)
        if found and not fetch(reading.stack, "driver.loaded") and not fetch(reading.stack, "driver.nvml"):
            put(reading.stack, "driver.nvml.driver_version", found.group(1))
    else:
        found = re.match(r"^v?(\d\.\d{1,2}(?:\.\d{1,2})?(?:\+\w+)?)\b", value)
        if found:
            _package(reading, place, "torch" if "torch" in what else "tensorflow", found.group(1))


_PRODUCT = re.compile(
    r"\b(?:NVIDIA |Nvidia )?(?:GeForce |Geforce |Tesla |tesla |Quadro )?(?:(?:RTX|GTX"
    r"|GT|MX) ?A?\d{3,4}(?:M|m)?(?: ?(?:Ti|SUPER|Super|Max-Q|Laptop))*"
    r"|(?:Tesla |tesla |NVIDIA |Nvidia )(?:K|M|P|V|T|A|L|H)\d{1,3}S?|(?:A100|H100|H200"
    r"|V100|B200|GH200|L40S|P100|K80|M40|A6000)(?:-\w+)*)\b"
)


@on(
    "GTX",
    "RTX",
    "GeForce",
    "Tesla ",
    "tesla ",
    "Quadro",
    "A100",
    "H100",
    "V100",
    "K80",
    "GT 7",
    "B200",
    "P100",
)
def _product(reading: Reading, number: int, text: str, place: Place) -> None:
    """A GPU in somebody's own words; it counts only if no other is spoken of, and none was listed."""
    if len(text) > 1000 or text.lstrip()[:1] == "|":
        return
    for match in _PRODUCT.finditer(text):
        name = re.sub(r"^(?:nvidia )", "", match.group(0).strip(), flags=re.IGNORECASE)
        reading.mentions.setdefault("gpu", set()).add(name)


@on("compute capability: ", "computeCapability: ", " minor: ")
def _tf_device(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)]) if "Created" in text else text
    match = _TF_DEVICE.search(joined)
    if match:
        _capability(
            reading, match.group("capability"), match.group("name").strip(), match.group("pci").lower()
        )
        _name(place, "tensorflow")
        _says(place, available=True)
        if place.framework.get("gpus_listed") == 0:
            place.framework["gpus_listed"] = 1
        return
    match = _TF_FOUND.match(text)
    if match:
        capability = match.group("capability").replace(" minor: ", ".")
        _capability(
            reading, capability, match.group("name").strip(), (match.group("pci") or "").lower() or None
        )


@on("libcuda reported version is", "kernel reported version is", "does not match DSO version")
def _tf_versions(reading: Reading, number: int, text: str, place: Place) -> None:
    from .reader_host import _loaded

    match = re.search(
        r"kernel version (?P<kernel>\d{3}[\d.]*\d) does not match DSO version (?P<dso>\d{3}[\d.]*\d)", text
    )
    kernel = match.group("kernel") if match else None
    library = match.group("dso") if match else None
    found = re.search(r"libcuda reported version is: (\d{3}[\d.]*\d)", text)
    if found:
        library = found.group(1)
    found = re.search(r"kernel reported version is: (\d{3}[\d.]*\d)", text)
    if found:
        kernel = found.group(1)
    if kernel:
        _loaded(reading, kernel, None)
    if library:
        if place.inside:
            place.container["libcuda"] = {"path": None, "version": library, "kind": "driver"}
        elif place.kind == "host":
            put(reading.stack, "driver.userspace.version", library)
    _name(place, "tensorflow")


@on("/proc/driver/nvidia/version does not exist", "no NVIDIA GPU device is present: /dev/nvidia0")
def _tf_diagnosis(reading: Reading, number: int, text: str, place: Place) -> None:
    _name(place, "tensorflow")
    place.failing = True


@on(
    "failed call to cuInit",
    "Cannot dlopen some GPU libraries",
    "Could not find cuda drivers",
    "GPU will not be used",
    "TF-TRT Warning",
)
def _tf_named(reading: Reading, number: int, text: str, place: Place) -> None:
    _name(place, "tensorflow")
    if "failed call" in text or "Cannot dlopen" in text:
        place.failing = True


@on("Loaded runtime CuDNN library:", "Loaded cuDNN version")
def _tf_cudnn(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = re.search(
        r"Loaded runtime CuDNN library: (?P<loaded>\d+(?:\.\d+)+"
        r"|\d{4,}).{0,40}? but source was compiled with:? (?P<built>\d+(?:\.\d+)+|\d{4,})",
        joined,
    )
    if match:
        loaded, built = (
            cudnn_version(int(one)) if one.isdigit() else one
            for one in (match.group("loaded"), match.group("built"))
        )
        _says(place, cudnn_loaded=loaded, cudnn=built)
        place.failing = True
        return
    match = re.search(r"Loaded cuDNN version (\d{4,})", text)
    if match:
        _says(place, cudnn_loaded=cudnn_version(int(match.group(1))))


# --- PyTorch's, JAX's and others' sentences


@on("Torch not compiled with CUDA enabled")
def _torch_cpu(reading: Reading, number: int, text: str, place: Place) -> None:
    if re.search(r"(?:AssertionError|RuntimeError)\W+Torch not compiled with CUDA enabled", text):
        _name(place, "pytorch")
        _says(place, cuda=False, available=False)
        place.failing = True


@on("driver on your system is too old")
def _torch_old(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 1)])
    match = re.search(r"too old \(found version (\d{4,5})\)", joined)
    if match:
        number_found = int(match.group(1))
        _name(place, "pytorch")
        _says(place, available=False)
        put(
            reading.stack,
            "driver.nvml.cuda_version",
            "%d.%d" % (number_found // 1000, number_found % 1000 // 10),
        )
        place.failing = True


@on("with CUDA capability sm_")
def _torch_arch(reading: Reading, number: int, text: str, place: Place) -> None:
    joined = " ".join([text, *reading.following(number, 4)])
    match = re.search(
        r"(?P<name>(?:NVIDIA |Tesla |GeForce |Quadro |A100"
        r"|H100)[\w .+-]*?) with CUDA capability sm_(?P<sm>\d{2,3})[a-z]? is not compatible",
        joined,
    )
    if match:
        sm = match.group("sm")
        _capability(reading, sm[:-1] + "." + sm[-1], match.group("name").strip())
        _name(place, "pytorch")
        place.failing = True
    supports = re.search(
        r"supports CUDA capabilities (?P<archs>(?:(?:sm|compute)_\d+[a-z]?[\s,.]*)+)", joined
    )
    if supports:
        _says(place, archs=re.findall(r"(?:sm|compute)_\d+[a-z]?", supports.group("archs")))


@on("falling back to CPU", "CUDA-enabled jaxlib is not installed")
def _jax_cpu(reading: Reading, number: int, text: str, place: Place) -> None:
    if "No GPU/TPU found" in text or "jaxlib" in text:
        _name(place, "jax")
        _says(place, available=False)
        place.failing = True
        if "CUDA-enabled jaxlib is not installed" in text:
            _says(place, cuda=False)


_SHARED = re.compile(
    r"(?:ImportError|OSError|Failed to load library\S*"
    r"|error while loading shared libraries|ValueError"
    r"|dlerror)\W.{0,200}?(?P<library>lib(?:cudnn|cublas|cudart|cufft|curand|cusolver"
    r"|cusparse|nvrtc|nccl|nvJitLink|cupti)\w*\.so[\d.]*): "
    r"cannot open shared object file"
)


@on("cannot open shared object file")
def _shared_object(reading: Reading, number: int, text: str, place: Place) -> None:
    if "Could not load dynamic library" in text:
        return
    match = _SHARED.search(text)
    if match:
        missing = place.framework.setdefault("libraries_missing", [])
        if match.group("library") not in missing:
            missing.append(match.group("library"))
        place.failing = True


@on(
    "import torch",
    "import tensorflow",
    "torch/cuda/__init__.py",
    "import jax",
    "/onnxruntime/",
    "torch.cuda.",
)
def _framework_named(reading: Reading, number: int, text: str, place: Place) -> None:
    if place.framework.get("name"):
        return
    match = re.match(r"^(?:>>> ?|In \[\d+\]: ?|\s*)import (torch|tensorflow|jax)\b", text)
    traced = re.search(
        r"site-packages/(torch|tensorflow|jax|onnxruntime)/|dist-packages/(torch"
        r"|tensorflow|jax|onnxruntime)/",
        text,
    )
    name = match.group(1) if match else (traced.group(1) or traced.group(2)) if traced else None
    if name:
        _name(place, _FRAMEWORKS[name])


@on("Traceback (most recent call last)")
def _traceback(reading: Reading, number: int, text: str, place: Place) -> None:
    place.failing = True


_PYTHON_PATH = re.compile(r"File \"(?P<prefix>(?:/[^/\"]+)*?)/lib/python(?P<version>\d\.\d+)/")


@on("/lib/python")
def _python_path(reading: Reading, number: int, text: str, place: Place) -> None:
    match = _PYTHON_PATH.search(text)
    if not match:
        return
    python = place.framework.setdefault("python", {})
    python.setdefault("version", match.group("version"))
    prefix = match.group("prefix")
    if re.search(r"/(?:mini|ana|mamba)?(?:conda|forge)\d?(?:/envs/|$)", prefix):
        python.setdefault("environment", "conda")
    elif re.search(r"/\.?(?:v?env|virtualenvs/[^/]+)$", prefix):
        python.setdefault("environment", "venv")
