"""daemon.json as data: what dockerd refuses is refused, what users wrote survives, all can be undone."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from gpuready import daemon_config
from hypothesis import assume, given
from hypothesis import strategies as st

NVIDIA = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}

# -- strategies ------------------------------------------------------------------------------------

scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=6))
names = st.sampled_from(["a", "b", "c", "log-driver", "debug", "x.y", "features", "data-root"])
set_lists = st.lists(
    st.sampled_from(["one", "two", "k=1", "k=2", "m=1"]),
    min_size=1,
    max_size=4,
    # a configuration that contradicts itself is not ours to resolve
    unique_by=lambda item: item.split("=")[0],
)
values = st.recursive(
    st.one_of(scalars, st.lists(scalars, min_size=1, max_size=3)),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
    max_leaves=6,
)
runtimes = st.dictionaries(
    st.sampled_from(["nvidia", "runsc", "kata"]),
    st.fixed_dictionaries(
        {
            "path": st.sampled_from(
                ["nvidia-container-runtime", "/usr/bin/nvidia-container-runtime", "/opt/runsc"]
            )
        },
        optional={"args": st.lists(st.sampled_from(["--debug"]), max_size=1)},
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    config = draw(st.dictionaries(names, values, max_size=4))
    for key in draw(
        st.lists(
            st.sampled_from(["labels", "insecure-registries", "dns", "exec-opts"]), max_size=2, unique=True
        )
    ):
        config[key] = draw(set_lists)
    if draw(st.booleans()):
        config["runtimes"] = draw(runtimes)
    return config


def leaves(config: Any, path: tuple = ()) -> list[tuple[tuple, Any]]:
    if isinstance(config, dict) and config and not (len(path) == 2 and path[0] == "runtimes"):
        return [leaf for key, value in config.items() for leaf in leaves(value, (*path, key))]
    return [(path, config)]


def lookup(config: Any, path: tuple) -> Any:
    for key in path:
        config = config[key]
    return config


def mergeable(current: dict, wanted: dict) -> None:
    assume(not daemon_config.conflicts(current, wanted))


# -- properties ------------------------------------------------------------------------------------


@given(configs(), configs())
def test_merge_keeps_every_user_value_and_holds_every_wish(current, wanted):
    mergeable(current, wanted)
    merged = daemon_config.merge(current, wanted)
    for path, value in leaves(current):
        kept = lookup(merged, path)
        if len(path) == 1 and path[0] in daemon_config.SET_LISTS:
            assert kept[: len(value)] == value, "the user's entries stay, and stay first"
        elif value != {}:
            assert daemon_config.equal(kept, value)
    for path, value in leaves(wanted):
        held = lookup(merged, path)
        if len(path) == 1 and path[0] in daemon_config.SET_LISTS:
            assert all(item in held for item in value)
        elif len(path) == 2 and path[0] == "runtimes":
            assert daemon_config.same_runtime(held, value)
        elif value != {}:
            assert daemon_config.equal(held, value)


@given(configs(), configs())
def test_merge_is_idempotent_and_leaves_its_arguments_alone(current, wanted):
    mergeable(current, wanted)
    copies = copy.deepcopy((current, wanted))
    merged = daemon_config.merge(current, wanted)
    assert (current, wanted) == copies
    assert daemon_config.equal(daemon_config.merge(merged, wanted), merged)
    assert daemon_config.satisfied(merged, wanted)
    assert not daemon_config.conflicts(merged, wanted)


@given(configs(), configs())
def test_conflicts_and_merge_agree(current, wanted):
    found = daemon_config.conflicts(current, wanted)
    if found:
        with pytest.raises(daemon_config.MergeConflict) as error:
            daemon_config.merge(current, wanted)
        assert error.value.conflicts == found
        # Consent to exactly what was named is enough.
        merged = daemon_config.merge(current, wanted, [item["path"] for item in found])
        assert daemon_config.satisfied(merged, wanted)
    else:
        daemon_config.merge(current, wanted)


@given(configs(), configs())
def test_unmerge_gives_the_original_back(current, wanted):
    mergeable(current, wanted)
    # A value that both hold cannot be told apart afterwards; everything else can.
    ours = {path for path, _value in leaves(wanted)}
    theirs = {path for path, _value in leaves(current)}
    lists = {path for path in ours & theirs if len(path) == 1 and path[0] in daemon_config.SET_LISTS}
    assume(not (ours & theirs) - lists)
    assume(all(not set(map(str, current[p[0]])) & set(map(str, wanted[p[0]])) for p in lists))
    assert daemon_config.equal(daemon_config.unmerge(daemon_config.merge(current, wanted), wanted), current)


@given(configs(), configs())
def test_unmerge_of_what_was_added_gives_the_original_back(current, wanted):
    mergeable(current, wanted)
    merged = daemon_config.merge(current, wanted)
    part = daemon_config.added(current, wanted)
    back = daemon_config.unmerge(merged, part)
    assert daemon_config.equal(back, current)
    assert daemon_config.equal(daemon_config.merge(current, part), merged)


@given(configs(), configs())
def test_unmerge_never_touches_what_differs(current, wanted):
    rest = daemon_config.unmerge(current, wanted)
    for path, value in leaves(rest):
        if path and not (len(path) == 1 and path[0] in daemon_config.SET_LISTS):
            assert daemon_config.equal(lookup(current, path), value)
    assert daemon_config.equal(daemon_config.unmerge(rest, wanted), rest)


@given(configs(), st.sampled_from([None, 2, 4, "\t", ""]), st.booleans())
def test_render_reads_back_and_keeps_the_users_layout(config, indent, newline):
    text = json.dumps(config, indent=indent, ensure_ascii=False) + ("\n" if newline else "")
    rendered = daemon_config.render(config, text.encode())
    assert daemon_config.equal(daemon_config.parse(rendered), config)
    assert list(daemon_config.parse(rendered)) == list(config)
    if config:
        assert rendered.decode() == text


@given(st.binary(max_size=40))
def test_parse_answers_or_raises_its_own_error(data):
    try:
        assert isinstance(daemon_config.parse(data), dict)
    except daemon_config.DaemonConfigError as error:
        assert error.line is None or error.line >= 1
        assert error.column is None or error.column >= 1


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason", "line", "column"),
    [
        (b'{\n  "debug": true,\n}\n', "not valid JSON", 3, 1),
        (b'{\n  "debug": yes\n}', "not valid JSON", 2, 12),
        (b"{'debug': true}", "not valid JSON", 1, 2),
        (b'// comment\n{"debug": true}', "not valid JSON", 1, 1),
        (b'\xef\xbb\xbf{"debug": true}', "byte order mark", 1, 1),
        (b"\xff\xfe{\x00}\x00", "byte order mark", 1, 1),
        (b'{\n "a": "\xe9"}', "not UTF-8", 2, 8),
        (b'[{"debug": true}]', "a list where", 1, 1),
        (b'\n "debug"', "a string where", 2, 2),
        (b"null", "null where", 1, 1),
        (b'{"mtu": NaN}', "NaN is not JSON", 1, 9),
        (b'{"dns": ["1.1.1.1"],\n "dns": ["8.8.8.8"]}', '"dns" appears twice', 2, 2),
        (b'{"debug": true} x', "not valid JSON", 1, 17),
        (b'{"debug": true', "not valid JSON", 1, 15),
    ],
)
def test_parse_names_what_is_wrong_and_where(data, reason, line, column):
    with pytest.raises(daemon_config.DaemonConfigError) as error:
        daemon_config.parse(data)
    assert reason in str(error.value)
    # Python's own versions put the column of a trailing comma differently; the line is the same but for that.
    assert (error.value.line, error.value.column) == (line, column) or "trailing comma" in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\n", b"  \n\t", b"{}", "{}", b"{ }\n"])
def test_parse_takes_an_empty_file_as_an_empty_configuration(data):
    assert daemon_config.parse(data) == {}


# -- runtimes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "same"),
    [
        ({"path": "nvidia-container-runtime"}, True),
        ({"path": "/usr/bin/nvidia-container-runtime", "runtimeArgs": []}, True),
        ({"path": "nvidia-container-runtime", "args": None}, True),
        ({"path": "/usr/local/nvidia/toolkit/nvidia-container-runtime"}, False),
        ({"path": "nvidia-container-runtime", "args": ["--debug"]}, False),
        ({"path": "nvidia-container-runtime", "options": {"x": 1}}, False),
        ({"path": "runc"}, False),
        ({}, False),
        ("nvidia-container-runtime", False),
        (None, False),
    ],
)
def test_same_runtime_tells_the_same_program_from_another(entry, same):
    current = {"runtimes": {"nvidia": entry}}
    assert daemon_config.same_runtime(entry, NVIDIA["runtimes"]["nvidia"]) is same
    assert daemon_config.satisfied(current, NVIDIA) is same
    if same:
        assert daemon_config.merge(current, NVIDIA) == current, "the user's spelling stays"
    else:
        (found,) = daemon_config.conflicts(current, NVIDIA)
        assert found["path"] == "runtimes.nvidia"
        assert found["current"] == entry


# -- conflicts -------------------------------------------------------------------------------------


def test_conflicts_are_all_named_with_both_values():
    current = {"log-driver": "json-file", "labels": ["rack=1"], "log-opts": {"max-size": "10m"}, "debug": 1}
    wanted = {"log-driver": "journald", "labels": ["rack=2"], "log-opts": {"max-size": "50m"}, "debug": True}
    with pytest.raises(daemon_config.MergeConflict) as error:
        daemon_config.merge(current, wanted)
    assert [item["path"] for item in error.value.conflicts] == [
        "log-driver",
        "labels",
        "log-opts.max-size",
        "debug",
    ]
    assert 'log-driver is "json-file" in the file, but "journald" is wanted' in str(error.value)
    assert daemon_config.merge(current, wanted, ["log-driver", "labels", "log-opts", "debug"]) == wanted


def test_a_list_that_is_no_set_is_one_value():
    assert daemon_config.conflicts({"shim-order": ["a"]}, {"shim-order": ["a", "b"]})
    assert daemon_config.merge({"dns": ["9.9.9.9"]}, {"dns": ["1.1.1.1", "9.9.9.9"]}) == {
        "dns": ["9.9.9.9", "1.1.1.1"]
    }


# -- taking away -----------------------------------------------------------------------------------


def test_without_follows_dotted_paths_through_keys_with_dots():
    config = {
        "runtimes": {"io.containerd.runsc.v1": {"path": "x"}, "nvidia": {"path": "y"}},
        "features": {"cdi": True},
        "debug": True,
    }
    assert daemon_config.without(
        config, ["runtimes.io.containerd.runsc.v1", "features.cdi", "not.there"]
    ) == {
        "runtimes": {"nvidia": {"path": "y"}},
        "debug": True,
    }
    assert daemon_config.without(config, ["runtimes", "debug"]) == {"features": {"cdi": True}}


# -- checking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"debug": "true"}, 'debug is "true", but dockerd wants true or false'),
        ({"log-opts": {"max-file": 3}}, "log-opts.max-file is 3, but dockerd wants a string"),
        ({"insecure-registries": "registry:5000"}, "wants a list of strings"),
        ({"mtu": "1500"}, "mtu is"),
        ({"shutdown-timeout": True}, "wants a whole number"),
        ({"data-root": 1}, "wants a string"),
        ({"default-address-pools": ["10.0.0.0/8"]}, "a list of objects"),
        ({"features": {"cdi": "yes"}}, "features.cdi"),
        ({"features": []}, "features is []"),
        ({"runtimes": []}, "runtimes is []"),
        ({"runtimes": {"runc": {"path": "runc"}}}, "keeps the name runc for itself"),
        ({"runtimes": {"nvidia": "x"}}, 'runtimes.nvidia is "x"'),
        ({"runtimes": {"nvidia": {"path": " "}}}, "names no program"),
        ({"runtimes": {"nvidia": {"path": "x", "args": "--debug"}}}, "wants a list of strings"),
        ({"default-runtime": "nvidia"}, "runtimes has no such entry"),
    ],
)
def test_problems_names_what_dockerd_would_refuse(config, complaint):
    (found,) = daemon_config.problems(config)
    assert complaint in found


def test_problems_is_silent_on_a_rich_valid_configuration():
    assert not daemon_config.problems(
        {
            **NVIDIA,
            "default-runtime": "nvidia",
            "log-driver": "json-file",
            "log-opts": {"max-size": "100m", "max-file": "3"},
            "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}],
            "live-restore": True,
            "features": {"cdi": True},
            "max-concurrent-downloads": 6,
            "something-new": {"a": [1, 2]},
        }
    )
    assert not daemon_config.problems({"default-runtime": "io.containerd.runsc.v1"})
    assert not daemon_config.problems({"runtimes": {"crun": {"runtimeType": "io.containerd.runc.v2"}}})


# -- applying --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "suffices"),
    [
        ({}, NVIDIA, True),
        ({"debug": True}, {"debug": False}, True),
        ({"insecure-registries": ["a"]}, {"insecure-registries": ["a", "b"]}, True),
        ({"insecure-registries": ["a", "b"]}, {"insecure-registries": ["a"]}, False),
        (NVIDIA, {}, False),
        ({"runtimes": {"x": {"path": "x"}, **NVIDIA["runtimes"]}}, NVIDIA, False),
        ({}, {"features": {"cdi": True}}, False),
        ({}, {"data-root": "/srv/docker"}, False),
        ({"data-root": "/srv/docker"}, {"data-root": "/srv/docker"}, True),
    ],
)
def test_reload_suffices_only_where_dockerd_takes_it_over(before, after, suffices):
    assert daemon_config.reload_suffices(before, after) is suffices


INFO = {
    "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
    "DefaultRuntime": "runc",
    "LiveRestoreEnabled": False,
    "RegistryConfig": {
        "IndexConfigs": {"registry:5000": {"Secure": False}, "docker.io": {"Secure": True}},
        "InsecureRegistryCIDRs": ["127.0.0.0/8"],
        "Mirrors": ["https://mirror.example/"],
    },
}


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (NVIDIA, []),
        ({"runtimes": {"kata": {"path": "kata"}}}, ["runtimes.kata"]),
        ({"runtimes": {"nvidia": {"path": "/opt/x"}}}, ["runtimes.nvidia"]),
        ({"default-runtime": "nvidia"}, ["default-runtime"]),
        ({"default-runtime": "runc"}, []),
        ({"live-restore": True}, ["live-restore"]),
        ({"insecure-registries": ["registry:5000", "http://registry:5000", "10.0.0.0/8"]}, []),
        ({"insecure-registries": ["other:5000"]}, ["insecure-registries: other:5000"]),
        ({"registry-mirrors": ["https://mirror.example"]}, []),
        ({"registry-mirrors": ["https://other.example"]}, ["registry-mirrors: https://other.example"]),
        ({"data-root": "/srv"}, []),
    ],
)
def test_not_live_compares_with_what_dockerd_says(config, missing):
    assert daemon_config.not_live(config, INFO) == missing


def test_not_live_believes_an_engine_that_shows_no_path():
    assert (
        daemon_config.not_live(NVIDIA, {"Runtimes": {"nvidia": {"runtimeType": "io.containerd.runc.v2"}}})
        == []
    )


# -- writing ---------------------------------------------------------------------------------------


def test_render_writes_a_new_file_readably():
    assert daemon_config.render({"debug": True}) == b'{\n    "debug": true\n}\n'


def test_render_keeps_windows_line_ends_and_a_compact_line():
    assert (
        daemon_config.render({"a": 1, "b": 2}, b'{\r\n  "a": 1\r\n}\r\n')
        == b'{\r\n  "a": 1,\r\n  "b": 2\r\n}\r\n'
    )
    assert daemon_config.render({"a": 1, "b": 2}, b'{"a":1}') == b'{"a":1,"b":2}'
