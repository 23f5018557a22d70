"""The data files: sound as shipped, and every mistake named by file, row and field."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpuready import catalog as module
from gpuready.catalog import (
    CatalogError,
    annotate,
    build,
    data_directory,
    extract_pci_ids,
    find_gpu,
    load_catalog,
    parse_pci_ids,
)

DATA = Path(data_directory())
PCI_IDS = (DATA / "pci.ids").read_text(encoding="utf-8")
# Enough for the data files to be read, and quick.
FEW_PCI_IDS = "10de  NVIDIA Corporation\n" + "".join(
    f"\t{device}  x\n" for device in load_catalog().shown.values()
)


@pytest.fixture(scope="module")
def parsed() -> dict[str, Any]:
    return {name: yaml.safe_load((DATA / name).read_text(encoding="utf-8")) for name in module.FILES}


@pytest.fixture
def data(parsed: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(parsed)


def rows_with_source(value: Any) -> list[dict[str, Any]]:
    found = []
    if isinstance(value, dict):
        if "basis" in value:
            found.append(value)
        for item in value.values():
            found += rows_with_source(item)
    elif isinstance(value, list):
        for item in value:
            found += rows_with_source(item)
    return found


def test_shipped_data_is_sound() -> None:
    catalog = load_catalog()
    assert "tensorflow-2.9" in catalog.frameworks
    assert set(range(470, 600)) & set(catalog.branches) >= {470, 525, 535, 550, 570, 580, 590, 595}


def test_every_row_names_a_known_source(data: dict[str, Any]) -> None:
    known = {name for file in data.values() for name in file["sources"]}
    rows = rows_with_source(data)
    assert len(rows) > 100
    assert {row["source"] for row in rows} <= known
    used = {row[key] for row in rows for key in row if key == "source" or key.endswith("_source") if row[key]}
    used |= {data["runtime.yml"]["toolkit"]["packages_source"]}
    assert known <= used, f"nobody cites {sorted(known - used)}"


def test_catalog_is_immutable() -> None:
    catalog = load_catalog()
    framework = catalog.frameworks["tensorflow-2.9"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        framework.cuda = "12.0"  # type: ignore[misc]
    with pytest.raises(TypeError):
        catalog.frameworks["x"] = framework  # type: ignore[index]


def test_loading_again_costs_nothing() -> None:
    assert load_catalog() is load_catalog()


MISTAKES = [
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].pop("image"),
        r"frameworks row 1 \(tensorflow-2.9\): field image: is missing",
    ),
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].update(image="tensorflow"),
        r"field image: 'tensorflow' names no tag",
    ),
    ("frameworks.yml", lambda d: d["frameworks"][0].update(cuda=11.2), r"field cuda: must be str, not 11.2"),
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].update(cuda="99.9"),
        r"field cuda: drivers.yml has no cuda_toolkit row for 99.9",
    ),
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].update(archs=["sm80"]),
        r"field archs: 'sm80' is neither",
    ),
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].update(basis="rumour"),
        r"field basis: 'rumour' is none of read",
    ),
    (
        "frameworks.yml",
        lambda d: d["frameworks"].append(d["frameworks"][0]),
        r"field name: tensorflow-2.9 is there twice",
    ),
    (
        "drivers.yml",
        lambda d: d["branches"][0].update(branch="418"),
        r"branches row 1 \(418\): field branch: must be int",
    ),
    (
        "drivers.yml",
        lambda d: d["branches"][0].update(end_of_life="soon"),
        r"field end_of_life: 'soon' is neither YYYY-MM nor past",
    ),
    ("drivers.yml", lambda d: d["branches"][0].update(kind="LTS"), r"field kind: 'LTS' is none of long_term"),
    ("drivers.yml", lambda d: d.update(schema=2), r"top level: field schema: is 2; this gpuready reads 1"),
    ("drivers.yml", lambda d: d["cuda_toolkit"][0].update(min="new"), r"field min: 'new' is not a version"),
    (
        "gpus.yml",
        lambda d: d["chips"][0].update(arch="volcano"),
        r"chips row 1 \(GF100\): field arch: 'volcano' is none of",
    ),
    ("gpus.yml", lambda d: d["chips"][0].update(compute_capability="9.9"), r"9.9 is not one of fermi's"),
    (
        "gpus.yml",
        lambda d: d["architectures"].append("x"),
        r"architectures row 11: must be a mapping, not 'x'",
    ),
    ("runtime.yml", lambda d: d.pop("docker"), r"runtime.yml: top level: field docker: is missing"),
    (
        "runtime.yml",
        lambda d: d["docker"]["cdi_default_since"].pop("checked"),
        r"cdi_default_since: field checked: is missing",
    ),
    (
        "frameworks.yml",
        lambda d: d["wheels"][0].update(default="cu99"),
        r"wheels row 1 \(1.12\): field default: cu99 is none of its variants cu102",
    ),
    (
        "frameworks.yml",
        lambda d: d["wheels"][0]["variants"].update(rocm6={"archs": "torch-cu11", "cudnn": None}),
        r"field variants: 'rocm6' is no CUDA variant",
    ),
    (
        "frameworks.yml",
        lambda d: d["wheels"][0]["variants"]["cu116"].update(archs="torch-cu99"),
        r"variants cu116: field archs: 'torch-cu99' is none of",
    ),
    (
        "frameworks.yml",
        lambda d: d["wheels"][0]["variants"]["cu116"].pop("cudnn"),
        r"variants cu116: field cudnn: is missing",
    ),
    (
        "frameworks.yml",
        lambda d: d["wheels"][0].pop("python_basis"),
        r"wheels row 1 \(1.12\): field python_basis: is missing",
    ),
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].update(aliases=["pytorch-2.5"]),
        r"pytorch-2.5 names both tensorflow-2.9 and pytorch-2.5-cu124",
    ),
    (
        "frameworks.yml",
        lambda d: d["frameworks"][0].update(archs_source=None),
        r"field archs: archs_source and archs_basis must say",
    ),
    (
        "drivers.yml",
        lambda d: d["open_modules"]["only_from"].update(branch=616),
        r"only_from: field branch: 616 has no row in branches",
    ),
    (
        "gpus.yml",
        lambda d: d["architectures"][1].update(last_branch=471),
        r"\(kepler\): field last_branch: 471 has no row in drivers.yml's branches",
    ),
    (
        "gpus.yml",
        lambda d: d["shown"][0].update(device_id="ffff"),
        r"field device_id: ffff is not in pci.ids",
    ),
    # The sources of drivers.
    ("drivers.yml", lambda d: source(d).pop("origin"), r"package_sources row 1 \(ubuntu\): field origin"),
    ("drivers.yml", lambda d: source(d).update(colour="red"), r"field colour: is not known here"),
    ("drivers.yml", lambda d: family(d).update(colour="red"), r"field colour: is not known here"),
    (
        "drivers.yml",
        lambda d: source(d)["components"].update({"25.10": ["restricted"]}),
        r"field components: '25.10' is no release of this source",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["arch_names"].update(riscv64="riscv64"),
        r"field arch_names: 'riscv64' is no architecture of this source",
    ),
    (
        "drivers.yml",
        lambda d: d["package_sources"].append(copy.deepcopy(source(d))),
        r"field releases: ubuntu 18.04 has two sources named ubuntu",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["families"].append(copy.deepcopy(family(d))),
        r"families row 3 \(server\): field family: server is there twice",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["families"].append(dict(copy.deepcopy(family(d)), family="other")),
        r"families row 3 \(other\): field first_branch: overlaps with the family server",
    ),
    (
        "drivers.yml",
        lambda d: source(d, 2)["families"][2].update(last_branch=580),
        r"families row 3 \(branch\): field first_branch: overlaps with the family branch-580",
    ),
    (
        "drivers.yml",
        lambda d: family(d).update(version_package="nvidia-utils-{number}"),
        r"field version_package: 'nvidia-utils-\{number\}' holds the unknown placeholder \{number\}",
    ),
    ("drivers.yml", lambda d: family(d).update(branched=False), r"field branched: does not agree with"),
    (
        "drivers.yml",
        lambda d: source(d)["families"][1].update(like="desktop"),
        r"field like: 'desktop' is no family above this one",
    ),
    ("drivers.yml", lambda d: family(d).update(precompiled=[]), r"field precompiled: must be there exactly"),
    ("drivers.yml", lambda d: family(d).update(dkms_module=None), r"field dkms_module: must be there"),
    (
        "drivers.yml",
        lambda d: family(d, 1).update(dkms=[], dkms_open=[], dkms_module=None, dkms_module_open=None),
        r"field dkms: neither precompiled nor DKMS packages",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["transitional"][1].update(branch=570),
        r"transitional row 2 \(24.04\): field branch: 570 stands among the offers, too",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["transitional"][1].update(family="laptop"),
        r"transitional row 2 \(24.04\): field family: 'laptop' is none of desktop, server",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["offers"][0].update(release="17.10"),
        r"offers row 1 \(17.10\): field release: '17.10' is none of 18.04",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["offers"][0]["families"].update(laptop=[580]),
        r"field families: 'laptop' is no family of this source",
    ),
    (
        "drivers.yml",
        lambda d: source(d)["offers"][0]["families"].update(server=[581]),
        r"field offers: 18.04: branch 581 has no row in branches",
    ),
    (
        "drivers.yml",
        lambda d: source(d, 1)["offers"][0]["families"].update(tesla=[418]),
        r"field families: tesla does not name branch 418",
    ),
]


def source(data: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return data["package_sources"][number]


def family(data: dict[str, Any], number: int = 0) -> dict[str, Any]:
    return source(data, number)["families"][0]


def citing_rows(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all rows that name a source."""
    found = []
    if isinstance(value, dict):
        if "source" in value and "basis" in value:
            found.append(where)
        for key, item in value.items():
            found += citing_rows(item, (*where, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            found += citing_rows(item, (*where, number))
    return found


@pytest.mark.parametrize("file", module.FILES)
def test_every_kind_of_row_must_say_who_and_when(data: dict[str, Any], file: str) -> None:
    """One row of each kind loses its source, its basis, its freshness, or cites what is not listed."""
    kinds = {}
    for where in citing_rows(data[file]):
        kinds.setdefault(tuple(part for part in where if not isinstance(part, int)), where)
    assert kinds
    for where in kinds.values():
        for field, value, says in (
            ("source", None, "field source: is missing"),
            ("basis", None, "field basis: is missing"),
            ("checked", None, "field checked: is missing"),
            ("checked", "lately", "field checked: 'lately' is no month"),
            ("checked", "2026-13", "field checked: '2026-13' is no month"),
            ("source", "hearsay", "field source: 'hearsay' is none of sources"),
            ("basis", "rumour", "field basis: 'rumour' is none of"),
            ("colour", "red", "field colour: is not known here"),
        ):
            spoilt = copy.deepcopy(data)
            row: Any = spoilt[file]
            for part in where:
                row = row[part]
            if value is None:
                row.pop(field)
            else:
                row[field] = value
            with pytest.raises(CatalogError) as caught:
                build(spoilt, FEW_PCI_IDS)
            assert says in str(caught.value), (where, field, value)
            assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(("file", "spoil", "message"), MISTAKES, ids=[m[2][:50] for m in MISTAKES])
def test_mistakes_are_named(data: dict[str, Any], file: str, spoil: Any, message: str) -> None:
    spoilt = copy.deepcopy(data)
    spoil(spoilt[file])
    with pytest.raises(CatalogError, match=message) as caught:
        build(spoilt, FEW_PCI_IDS)
    assert str(caught.value).startswith(f"{file}:")
    assert "\n" not in str(caught.value)


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    for path in DATA.iterdir():
        if path.suffix in (".yml", ".ids"):
            (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "gpus.yml").write_text("a: [1\n", encoding="utf-8")
    with pytest.raises(CatalogError, match=r"^gpus.yml: is not YAML: .*line 2"):
        load_catalog(str(tmp_path))
    (tmp_path / "gpus.yml").unlink()
    with pytest.raises(CatalogError, match=r"gpus.yml: cannot be read"):
        load_catalog(str(tmp_path))


@pytest.mark.parametrize(
    ("device", "name", "chip", "arch", "capability"),
    [
        ("20b5", "A100 PCIe 80GB", "GA100", "ampere", "8.0"),
        ("1eb8", "Tesla T4", "TU104", "turing", "7.5"),
        ("1db4", "Tesla V100 PCIe 16GB", "GV100", "volta", "7.0"),
        ("102d", "Tesla K80", "GK210", "kepler", "3.7"),
        ("15f7", "Tesla P100 PCIe 12GB", "GP100", "pascal", "6.0"),
        ("1b38", "Tesla P40", "GP102", "pascal", "6.1"),
        ("2236", "A10", "GA102", "ampere", "8.6"),
        ("26b5", "L40", "AD102", "ada", "8.9"),
        ("2330", "H100 SXM5 80GB", "GH100", "hopper", "9.0"),
        ("2901", "B200", "GB100", "blackwell", "10.0"),
        ("2b85", "GeForce RTX 5090", "GB202", "blackwell", "12.0"),
        ("ffff", None, None, None, None),
    ],
)
def test_annotate_names_the_gpu(device: str, name: Any, chip: Any, arch: Any, capability: Any) -> None:
    before = {"host": {"gpus": [{"pci": "0000:3b:00.0", "device_id": device}]}}
    original = copy.deepcopy(before)
    gpu = annotate(before, load_catalog())["host"]["gpus"][0]
    assert (gpu["name"], gpu["chip"], gpu["arch"], gpu["compute_capability"]) == (
        name,
        chip,
        arch,
        capability,
    )
    assert before == original


def test_annotate_is_idempotent() -> None:
    once = annotate({"host": {"gpus": [{"device_id": "20b5"}]}}, load_catalog())
    assert annotate(once, load_catalog()) == once


def test_nvml_tells_what_the_list_does_not_know() -> None:
    node = {
        "host": {"gpus": [{"pci": "0000:3b:00.0", "device_id": "ffff"}]},
        "driver": {"devices": [{"pci": "00000000:3B:00.0", "compute_capability": "9.0"}]},
    }
    gpu = annotate(node, load_catalog())["host"]["gpus"][0]
    assert gpu["arch"] == "hopper" and gpu["name"] is None


def test_a_node_without_facts_stays_without() -> None:
    assert annotate({}, load_catalog()) == {}
    assert annotate({"host": {"gpus": None}}, load_catalog())["host"]["gpus"] == []


def test_find_gpu_prefers_the_plain_name() -> None:
    catalog = load_catalog()
    best = annotate({"host": {"gpus": find_gpu("A100", catalog)[:1]}}, catalog)["host"]["gpus"][0]
    assert best["chip"] == "GA100" and "NVSwitch" not in best["name"]
    assert find_gpu("20b5", catalog)[0]["device_id"] == "20b5"
    assert find_gpu("no such thing", catalog) == []


def test_cuda_floors() -> None:
    catalog = load_catalog()
    assert catalog.toolkit_driver("11.2").version == "460.27.03"  # type: ignore[union-attr]
    assert catalog.toolkit_driver("11.2.1").version == "460.32.03"  # type: ignore[union-attr]
    assert catalog.toolkit_driver("9.9") is None
    assert catalog.minor_version_floor("11.2").min == "450.80.02"  # type: ignore[union-attr]
    assert catalog.minor_version_floor("11.0") is None
    assert catalog.minor_version_floor("10.2") is None


def test_a_preview_decides_nothing() -> None:
    catalog = load_catalog()
    assert catalog.cuda_toolkit["13.4"].preview and catalog.toolkit_driver("13.4") is None


def test_aliases_are_what_plain_pip_brings() -> None:
    catalog = load_catalog()
    found = catalog.framework("pytorch-2.5")
    assert found is catalog.frameworks["pytorch-2.5-cu124"] and found.image is None
    assert catalog.framework("pytorch-2.99") is None
    assert {"pytorch-2.5", "pytorch-2.5-cu124", "tensorflow-2.9"} <= set(catalog.workload_names())


@pytest.mark.parametrize(
    ("name", "os_id", "release", "found"),
    [
        ("auto", "ubuntu", "22.04", ("ubuntu", "Ubuntu")),
        ("auto", "debian", "12", ("debian", "Debian")),
        ("cuda_repo", "ubuntu", "24.04", ("cuda_repo", "NVIDIA")),
        ("cuda_repo", "debian", "13", ("cuda_repo", "NVIDIA")),
        ("cuda_repo", "debian", "11", None),
        ("debian", "ubuntu", "22.04", None),
        ("auto", "ubuntu", "25.10", None),
        ("auto", "rocky", "9", None),
        ("auto", None, None, None),
    ],
)
def test_package_source_by_name_and_release(name: str, os_id: Any, release: Any, found: Any) -> None:
    source = load_catalog().package_source(name, os_id, release)
    assert (source and (source.name, source.origin)) == found


def test_own_archive_comes_first() -> None:
    catalog = load_catalog()
    assert [row.name for row in catalog.sources_for("debian", "12")] == ["debian", "cuda_repo"]
    assert [row.name for row in catalog.sources_for("ubuntu", "18.04")] == ["ubuntu"]


def test_families_name_their_branches() -> None:
    cuda = load_catalog().package_source("cuda_repo", "ubuntu", "24.04")
    assert cuda is not None
    names = {branch: [row.family for row in cuda.family_of(branch)] for branch in (570, 575, 580, 590, 615)}
    assert names == {570: ["branch"], 575: ["branch"], 580: ["branch-580"], 590: ["plain"], 615: ["plain"]}
    # The fabric manager lost its branch one branch before the driver did.
    assert [row.nvswitch for row in cuda.families] == [
        "nvidia-fabricmanager",
        "nvidia-fabricmanager",
        "nvidia-fabricmanager-{branch}",
    ]


def test_no_x_in_what_is_installed() -> None:
    """A headless node: nothing of X, GL or video among what an install names."""
    for source in load_catalog().package_sources:
        for row in source.families:
            named = [*row.precompiled, *row.dkms, *row.dkms_open, *row.needs, *row.extras]
            assert not [name for name in named if re.search(r"xserver|-gl-|fbc1|nvidia-driver(-\{|$)", name)]
            assert set(row.extras) <= {"nvidia-persistenced"}


def test_branch_support_ends_with_its_month() -> None:
    branch = load_catalog().branches[580]
    assert branch.supported_on("2028-06-30") is True
    assert branch.supported_on("2028-07-01") is False
    assert load_catalog().branches[495].supported_on("2020-01-01") is False


def test_pci_ids_extract_keeps_header_and_vendor() -> None:
    text = (
        "#\tVersion: 2026.01.01\n#\tThis file can be distributed under GPL or BSD.\n\n# Vendors, devices\n"
        "0001  Other\n\t20b5  Wrong [x]\n"
        "10de  NVIDIA Corporation\n\t20b5  GA100 [A100]\n\t\t10de 1533  Board\n"
        "\t2330  GH100[H100]\n10df  Next\n\t0001  No\n"
    )
    extract = extract_pci_ids(text)
    ids, version = parse_pci_ids(extract)
    assert ids == {"20b5": "GA100 [A100]", "2330": "GH100 [H100]"} and version == "2026.01.01"
    assert "distributed under" in extract and "1533" not in extract
    assert extract_pci_ids(extract).count("10de  NVIDIA") == 1


def test_pci_ids_without_nvidia_is_an_error() -> None:
    with pytest.raises(CatalogError, match="10de"):
        parse_pci_ids("0001  Other\n\t0001  x\n")


def test_shipped_pci_ids_carry_their_licence() -> None:
    assert "3-clause BSD" in PCI_IDS and re.search(r"Version: 20\d\d", PCI_IDS)


def test_command_checks_and_refreshes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    assert module.main(["--check"]) == 0
    assert "all rows are sound" in capsys.readouterr().out
    for path in DATA.iterdir():
        if path.suffix in (".yml", ".ids"):
            (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(module, "data_directory", lambda: str(tmp_path))
    assert module.main(["--refresh-pci-ids", str(DATA / "pci.ids")]) == 0
    assert parse_pci_ids((tmp_path / "pci.ids").read_text(encoding="utf-8")) == parse_pci_ids(PCI_IDS)
    assert module.main(["--refresh-pci-ids", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "archs", "capabilities"),
    [
        ("NVIDIA A100 80GB PCIe", {"ampere"}, {"8.0"}),
        ("GA100 [A100 PCIe 80GB] (rev a1)", {"ampere"}, {"8.0"}),
        ("Tesla T4", {"turing"}, {"7.5"}),
        ("NVIDIA H100 80GB HBM3", {"hopper"}, {"9.0"}),
        ("NVIDIA GeForce RTX 3090", {"ampere"}, {"8.6"}),
        ("NVIDIA Corporation Device", set(), set()),
        ("", set(), set()),
    ],
)
def test_a_gpu_of_which_only_the_name_is_known(name: str, archs: set[str], capabilities: set[str]) -> None:
    found = module.chips_named(name, load_catalog())
    assert {chip.arch for chip in found} == archs
    assert {chip.compute_capability for chip in found} == capabilities
