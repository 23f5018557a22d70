"""What was read in the sources stands in the catalog: golden values, copied here once and not computed.

They come from the project's collection of compatibility facts (rows of basis `read`, October 2026) and from
what was read in the archives in November 2026. A value that changes here must have changed in its source.
"""

from __future__ import annotations

import pytest
from gpuready.catalog import find_gpu, load_catalog

CATALOG = load_catalog()

# TensorFlow's table of tested GPU builds: release, Python, compiler, cuDNN, CUDA.
TENSORFLOW = """
2.21  3.10-3.13  Clang 18.1.8  9.3  12.5
2.20  3.9-3.13   Clang 18.1.8  9.3  12.5
2.19  3.9-3.12   Clang 18.1.8  9.3  12.5
2.18  3.9-3.12   Clang 17.0.6  9.3  12.5
2.17  3.9-3.12   Clang 17.0.6  8.9  12.3
2.16  3.9-3.12   Clang 17.0.6  8.9  12.3
2.15  3.9-3.11   Clang 16.0.0  8.9  12.2
2.14  3.9-3.11   Clang 16.0.0  8.7  11.8
2.13  3.8-3.11   Clang 16.0.0  8.6  11.8
2.12  3.8-3.11   GCC 9.3.1     8.6  11.8
2.11  3.7-3.10   GCC 9.3.1     8.1  11.2
2.10  3.7-3.10   GCC 9.3.1     8.1  11.2
2.9   3.7-3.10   GCC 9.3.1     8.1  11.2
2.8   3.7-3.10   GCC 7.3.1     8.1  11.2
2.7   3.7-3.9    GCC 7.3.1     8.1  11.2
2.6   3.6-3.9    GCC 7.3.1     8.1  11.2
2.5   3.6-3.9    GCC 7.3.1     8.1  11.2
2.4   3.6-3.8    GCC 7.3.1     8.0  11.0
"""

# The driver that each CUDA release came with (Linux x86_64).
CUDA = """
13.3 610.43.02   13.2.2 595.71.05  13.2.1 595.58.03  13.2.0 595.45.04  13.1.1 590.48.01  13.1.0 590.44.01
13.0.2 580.95.05 13.0.1 580.82.07  13.0.0 580.65.06  12.9.1 575.57.08  12.9.0 575.51.03  12.8.1 570.124.06
12.8.0 570.26    12.6.3 560.35.05  12.6.2 560.35.03  12.6.1 560.35.03  12.6.0 560.28.03  12.5.1 555.42.06
12.5.0 555.42.02 12.4.1 550.54.15  12.4.0 550.54.14  12.3.1 545.23.08  12.3.0 545.23.06  12.2.2 535.104.05
12.2.1 535.86.09 12.2.0 535.54.03  12.1 530.30.02    12.0.1 525.85.12  12.0.0 525.60.13  11.8.0 520.61.05
11.7.1 515.48.07 11.7.0 515.43.04  11.6.1 510.47.03  11.6.0 510.39.01  11.5 495.29.05    11.4.3 470.82.01
11.4.1 470.57.02 11.4.0 470.42.01  11.3 465.19.01    11.2.2 460.32.03  11.2.1 460.32.03  11.2.0 460.27.03
11.1.1 455.32    11.1.0 455.23     11.0.3 450.51.06  11.0.2 450.51.05  10.2 440.33       10.1 418.39
10.0 410.48
"""

# Wheels: release, variants, what plain pip brings, Python.
PYTORCH = """
1.12  cu102 cu113 cu116              cu102  3.7-3.10
1.13  cu116 cu117                    cu117  3.7-3.10
2.0   cu117 cu118                    cu117  3.8-3.11
2.1   cu118 cu121                    cu121  3.8-3.11
2.2   cu118 cu121                    cu121  3.8-3.12
2.3   cu118 cu121                    cu121  3.8-3.12
2.4   cu118 cu121 cu124              cu121  3.8-3.12
2.5   cu118 cu121 cu124              cu124  3.9-3.13
2.6   cu118 cu124 cu126              cu124  3.9-3.13
2.7   cu118 cu126 cu128              cu126  3.9-3.13
2.8   cu126 cu128 cu129              cu128  3.9-3.13
2.9   cu126 cu128 cu129 cu130        cu128  3.10-3.14
2.10  cu126 cu128 cu129 cu130        cu128  3.10-3.14
2.11  cu126 cu128 cu129 cu130        cu130  3.10-3.14
2.12  cu126 cu129 cu130 cu132        cu130  3.10-3.14
2.13  cu126 cu129 cu130 cu132        cu130  3.10-3.14
"""


@pytest.mark.parametrize("line", TENSORFLOW.strip().splitlines())
def test_tensorflow_builds(line: str) -> None:
    release, python, compiler, cudnn, cuda = [part.strip() for part in line.split("  ") if part.strip()]
    framework = CATALOG.frameworks["tensorflow-" + release]
    found = (framework.wheel_python, framework.compiler, framework.cudnn, framework.cuda)
    assert found == (python, compiler, cudnn, cuda)
    assert framework.expect["cuda"] == cuda and framework.image == (
        f"tensorflow/tensorflow:{framework.version}-gpu"
    )


@pytest.mark.parametrize(
    ("release", "archs"),
    [
        ("2.8", "sm_35 sm_50 sm_60 sm_70 sm_75 compute_80"),
        ("2.9", "sm_35 sm_50 sm_60 sm_70 sm_75 compute_80"),
        ("2.14", "sm_35 sm_50 sm_60 sm_70 sm_75 compute_80"),
        ("2.19", "sm_60 sm_70 sm_80 sm_89 compute_90"),
        ("2.20", "sm_60 sm_70 sm_80 sm_89 compute_90"),
        # Not known; H100 was still "not built with 9.0" on 2.15rc0.
        ("2.15", None),
        ("2.18", None),
    ],
)
def test_tensorflow_architectures(release: str, archs: str | None) -> None:
    assert CATALOG.frameworks["tensorflow-" + release].archs == (tuple(archs.split()) if archs else None)


def test_image_of_tensorflow_2_9() -> None:
    framework = CATALOG.frameworks["tensorflow-2.9"]
    assert (framework.image, framework.python) == ("tensorflow/tensorflow:2.9.0-gpu", "3.8")
    limits = {limit.since: limit.support for limit in framework.gpu_limits}
    assert limits == {"9.0": "list", "10.0": "none"}


def test_cuda_came_with_these_drivers() -> None:
    words = CUDA.split()
    golden = dict(zip(words[::2], words[1::2], strict=True))
    found = {cuda: fact.version for cuda, fact in CATALOG.cuda_toolkit.items() if not fact.preview}
    assert found == golden
    assert CATALOG.cuda_toolkit["13.4"].version == "616.00" and "12.7" not in CATALOG.cuda_toolkit


@pytest.mark.parametrize(
    ("cuda", "floor"),
    [
        ("11.1", "450.80.02"),
        ("11.8", "450.80.02"),
        ("12.0", "525.60.13"),
        ("12.9", "525.60.13"),
        ("13.0", "580.65.06"),
        ("13.2", "580.65.06"),
        # Before the promise: 11.0 and everything older want the driver they came with.
        ("11.0", None),
        ("10.2", None),
    ],
)
def test_minor_version_floors(cuda: str, floor: str | None) -> None:
    rule = CATALOG.minor_version_floor(cuda)
    assert (rule.min if rule else None) == floor


@pytest.mark.parametrize(("cuda", "driver"), [("11.0", "450.51.05"), ("10.2", "440.33"), ("10.0", "410.48")])
def test_what_older_cuda_wants(cuda: str, driver: str) -> None:
    fact = CATALOG.toolkit_driver(cuda)
    assert fact and fact.version == driver


@pytest.mark.parametrize(
    ("branch", "kind", "end", "cuda"),
    [
        (418, "long_term", "2022-03", "10.1"),
        (440, "new_feature", "2020-11", "10.2"),
        (450, "long_term", "2023-07", "11.0"),
        (455, "developer", "past", "11.1"),
        (460, "production", "2022-01", "11.2"),
        (470, "long_term", "2024-09", "11.4"),
        (535, "long_term", "2026-06", "12.2"),
        (570, "production", "2026-02", "12.8"),
        (580, "long_term", "2028-06", "13.0"),
        (595, "production", "2027-03", "13.2"),
        (610, "new_feature", "2026-08", "13.3"),
    ],
)
def test_driver_branches(branch: int, kind: str, end: str, cuda: str) -> None:
    row = CATALOG.branches[branch]
    assert (row.kind, row.end_of_life, row.max_cuda) == (kind, end, cuda)


def test_no_branch_is_missing() -> None:
    assert list(CATALOG.branches) == [
        *(390, 410, 418, 440, 450, 455, 460, 465, 470, 495, 510, 515, 520, 525, 530, 535, 545, 550, 555, 560),
        *(565, 570, 575, 580, 590, 595, 610, 615),
    ]
    assert (CATALOG.open_first, CATALOG.open_default, CATALOG.open_only) == (515, 560, 615)


@pytest.mark.parametrize(
    ("arch", "first", "last", "modules", "capabilities"),
    [
        ("fermi", None, 390, "impossible", "2.0 2.1"),
        ("kepler", None, 470, "impossible", "3.0 3.5 3.7"),
        ("maxwell", None, 580, "impossible", "5.0 5.2 5.3"),
        ("pascal", None, 580, "impossible", "6.0 6.1 6.2"),
        ("volta", None, 580, "impossible", "7.0 7.2"),
        ("turing", 410, None, "optional", "7.5"),
        ("ampere", 450, None, "optional", "8.0 8.6 8.7"),
        ("ada", 520, None, "optional", "8.9"),
        ("hopper", 525, None, "optional", "9.0"),
        ("blackwell", 570, None, "required", "10.0 10.3 12.0 12.1"),
    ],
)
def test_architectures(
    arch: str, first: int | None, last: int | None, modules: str, capabilities: str
) -> None:
    row = CATALOG.architectures[arch]
    assert (row.first_branch, row.last_branch, row.open_modules) == (first, last, modules)
    assert row.compute_capabilities == tuple(capabilities.split())


@pytest.mark.parametrize(
    ("gpu", "minimum"),
    [
        ("B200", "570.133.20"),
        ("HGX B200", "570.133.20"),
        ("RTX PRO 6000 Blackwell Server Edition", "575.57.08"),
        ("GH200 120GB", None),
    ],
)
def test_products_that_want_more(gpu: str, minimum: str | None) -> None:
    from gpuready.catalog import annotate, product_of

    row = annotate({"host": {"gpus": find_gpu(gpu, CATALOG)[:1]}}, CATALOG)["host"]["gpus"][0]
    product = product_of(row, CATALOG)
    assert product and (product.min_version, product.open_modules) == (minimum, "required")


@pytest.mark.parametrize("line", PYTORCH.strip().splitlines())
def test_pytorch_wheels(line: str) -> None:
    release, *variants, default, python = line.split()
    prefix = f"pytorch-{release}-"
    rows = {name[len(prefix) :]: row for name, row in CATALOG.frameworks.items() if name.startswith(prefix)}
    assert list(rows) == variants
    assert [variant for variant, row in rows.items() if row.aliases] == [default]
    for variant, row in rows.items():
        assert row.cuda == f"{variant[2:-1]}.{variant[-1]}" and row.image is None
        assert row.wheel_python == python


TO_86 = "37 50 60 70 75 80 86"
TO_90 = "50 60 70 75 80 86 90"
TO_120 = "75 80 86 90 100 120"


@pytest.mark.parametrize(
    ("names", "archs"),
    [
        ("1.12-cu113 1.12-cu116 1.13-cu116 1.13-cu117 2.0-cu117", TO_86),
        ("2.0-cu118 2.1-cu118 2.2-cu118 2.3-cu118 2.4-cu118 2.5-cu118", TO_86 + " 90"),
        ("2.1-cu121 2.2-cu121 2.3-cu121 2.4-cu121 2.4-cu124 2.5-cu121 2.5-cu124", TO_90),
        ("2.6-cu126 2.7-cu126 2.8-cu126 2.9-cu126 2.10-cu126 2.11-cu126 2.12-cu126 2.13-cu126", TO_90),
        ("2.8-cu128 2.9-cu128 2.10-cu128", "70 " + TO_120),
        ("2.8-cu129 2.9-cu129 2.10-cu129", "70 " + TO_120 + " +"),
        ("2.11-cu128", TO_120),
        ("2.11-cu129", TO_120 + " +"),
        ("2.9-cu130 2.10-cu130 2.11-cu130 2.12-cu130 2.12-cu132 2.13-cu130 2.13-cu132", TO_120 + " +"),
    ],
)
def test_pytorch_architectures(names: str, archs: str) -> None:
    golden = tuple("compute_120" if arch == "+" else "sm_" + arch for arch in archs.split())
    for name in names.split():
        assert CATALOG.frameworks["pytorch-" + name].archs == golden, name


@pytest.mark.parametrize(
    ("name", "cudnn"),
    [
        ("1.12-cu116", "8.3.2"),
        ("1.13-cu117", "8.5.0.96"),
        ("2.0-cu117", "8.5.0.96"),
        ("2.0-cu118", "8.7"),
        ("2.3-cu121", "8.9.2"),
        ("2.4-cu124", "9.1.0.70"),
        ("2.6-cu124", "9.1.0.70"),
        ("2.6-cu126", "9.5.1.17"),
        ("2.7-cu118", "9.1.0.70"),
        ("2.7-cu128", "9.7.1.26"),
        ("2.8-cu129", "9.10.2.21"),
        ("2.9-cu128", "9.10.2.21"),
        ("2.10-cu128", "9.10.2.21"),
        ("2.12-cu130", "9.20.0.48"),
        ("2.13-cu130", "9.20.0.48"),
        ("2.9-cu130", "9.13.0.50"),
        ("2.10-cu130", "9.15.1.9"),
        ("2.11-cu130", "9.19.0.56"),
        ("2.11-cu126", "9.10.2.21"),
    ],
)
def test_pytorch_cudnn(name: str, cudnn: str) -> None:
    assert CATALOG.frameworks["pytorch-" + name].cudnn == cudnn


@pytest.mark.parametrize(
    ("source", "os_id", "release", "family", "branches"),
    [
        ("ubuntu", "ubuntu", "20.04", "server", {418, 450, 470, 510, 515}),
        ("ubuntu", "ubuntu", "22.04", "server", {418, 450, 470, 515, 525, 580, 595}),
        # 535 was there until its end of life; now its packages are empty.
        ("ubuntu", "ubuntu", "24.04", "server", {470, 570, 580, 590}),
        ("ubuntu", "ubuntu", "24.04", "desktop", {595}),
        ("ubuntu", "ubuntu", "26.04", "server", {580, 595}),
        ("ubuntu", "ubuntu", "26.04", "desktop", {580, 595, 610}),
        ("debian", "debian", "11", "current", {470, 535}),
        ("debian", "debian", "12", "current", {535}),
        ("debian", "debian", "12", "tesla", {470, 535}),
        ("debian", "debian", "13", "current", {550}),
        ("debian", "debian", "13", "tesla", {535}),
        ("cuda_repo", "ubuntu", "24.04", "plain", {590, 595, 610}),
        ("cuda_repo", "ubuntu", "24.04", "branch-580", {580}),
    ],
)
def test_what_releases_offer(source: str, os_id: str, release: str, family: str, branches: set[int]) -> None:
    row = CATALOG.package_source(source, os_id, release)
    assert row and set(row.offers[release][family]) == branches


@pytest.mark.parametrize(
    ("source", "os_id", "release", "branch", "is_open", "named"),
    [
        ("ubuntu", "ubuntu", "24.04", 580, True, "nvidia-headless-580-server-open nvidia-utils-580-server"),
        ("debian", "debian", "12", 535, False, "nvidia-kernel-dkms nvidia-smi libcuda1 libnvidia-ml1"),
        ("debian", "debian", "12", 535, True, "nvidia-open-kernel-dkms nvidia-smi libcuda1"),
        ("debian", "debian", "11", 418, False, "nvidia-tesla-418-kernel-dkms libnvidia-tesla-418-cuda1"),
        ("debian", "debian", "11", 390, False, "nvidia-legacy-390xx-kernel-dkms nvidia-legacy-390xx-smi"),
        ("cuda_repo", "ubuntu", "24.04", 580, True, "nvidia-headless-580-open nvidia-utils-580"),
        ("cuda_repo", "ubuntu", "24.04", 595, True, "nvidia-dkms-open libnvidia-compute"),
        ("cuda_repo", "ubuntu", "24.04", 595, False, "nvidia-dkms libnvidia-compute"),
        ("cuda_repo", "debian", "13", 595, True, "nvidia-kernel-open-dkms nvidia-driver-cuda"),
        ("cuda_repo", "debian", "13", 580, False, "nvidia-kernel-dkms nvidia-driver-cuda"),
    ],
)
def test_package_names(source: str, os_id: str, release: str, branch: int, is_open: bool, named: str) -> None:
    row = CATALOG.package_source(source, os_id, release)
    assert row
    offered = row.offers[release]
    family = next(f for f in row.family_of(branch) if branch in offered.get(f.family, ()))
    words = {"branch": branch, "family": family.suffix, "open": "-open" if is_open else ""}
    found = [pattern.format(**words) for pattern in family.dkms_packages(is_open)]
    assert set(named.split()) <= set(found)
    module = family.dkms_module_package(is_open)
    assert module and module.format(**words)


@pytest.mark.parametrize(
    ("release", "version", "empty"),
    [
        ("22.04", "535.309.01-0ubuntu0.22.04.1", False),
        ("22.04", "535.309.01-0ubuntu0.22.04.2", True),
        ("24.04", "535.274.02-0ubuntu0.24.04.1", False),
        ("24.04", "535.309.01-0ubuntu0.24.04.2", True),
        ("20.04", "535.309.01-0ubuntu0.24.04.2", False),
    ],
)
def test_ubuntus_535_server_ends_in_empty_packages(release: str, version: str, empty: bool) -> None:
    source = CATALOG.sources_named("ubuntu")[0]
    server, desktop = source.families
    assert source.leads_elsewhere(release, server, 535, version) is empty
    assert not source.leads_elsewhere(release, desktop, 535, version)
    assert not source.leads_elsewhere(release, server, 580, version)


def test_ubuntu_signed_modules() -> None:
    family = CATALOG.sources_named("ubuntu")[0].families[0]
    words = {"branch": 580, "family": "-server", "open": "-open", "kernel": "6.8.0-85-generic"}
    assert family.kernel_modules and family.kernel_metapackage
    assert family.kernel_modules.format(**words) == ("linux-modules-nvidia-580-server-open-6.8.0-85-generic")
    assert family.kernel_metapackage.format(**words, kernel_flavour="generic-hwe-24.04") == (
        "linux-modules-nvidia-580-server-open-generic-hwe-24.04"
    )
    assert family.nvswitch == "nvidia-fabricmanager-{branch}"


def test_archives_call_themselves_so() -> None:
    assert {(row.name, row.os): row.origin for row in CATALOG.package_sources} == {
        ("ubuntu", "ubuntu"): "Ubuntu",
        ("debian", "debian"): "Debian",
        ("cuda_repo", "ubuntu"): "NVIDIA",
        ("cuda_repo", "debian"): "NVIDIA",
    }
    cuda = CATALOG.package_source("cuda_repo", "ubuntu", "22.04")
    assert cuda and cuda.distro["22.04"] == "ubuntu2204" and cuda.arch_names["amd64"] == "x86_64"
    debian = CATALOG.package_source("debian", "debian", "12")
    assert debian and debian.components["12"] == ("contrib", "non-free", "non-free-firmware")


def test_runtime_facts() -> None:
    assert CATALOG.docker.cdi_default_since == "28.2.0"
    assert CATALOG.docker.gpus_uses_cdi_since == "29.2.0"
    assert CATALOG.toolkit.packages == (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
        "libnvidia-container1",
    )
