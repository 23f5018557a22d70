"""Which nodes a request means, and all that can be wrong with one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gpuready.hostnames import MOST, HostnameError, expand, names_of
from gpuready.onboarding import (
    Candidate,
    Known,
    RequestError,
    Site,
    bootstrap_password,
    complaint,
    fingerprint,
    listed,
    requested,
    words,
)
from hypothesis import given
from hypothesis import strategies as st

SPECS = {
    "host_reboot": {
        "host_reboot_allowed": {"type": "bool"},
        "host_reboot_max": {"type": "int"},
        "host_reboot_share": {"type": "float"},
    },
    "gpuready": {"gpuready_workloads": {"type": "list"}},
    "docker_engine": {"docker_engine_daemon_config": {"type": "dict"}},
    "nvidia_driver": {
        "nvidia_driver_branch": {"type": "str"},
        "nvidia_driver_flavour": {"type": "str", "choices": ["auto", "open"]},
    },
}
SITE = Site(
    hosts={
        "gpu01": Known("gpu01", "10.0.0.1", None, "member"),
        "gpu02": Known("gpu02", "10.0.0.2", 2222, "quarantine"),
        "gpu03": Known("gpu03", "gpu03.example", None, "new"),
        "nat1": Known("nat1", "192.0.2.1", 2201, "member"),
        "nat2": Known("nat2", "192.0.2.1", 2202, "member"),
        "six": Known("six", "2001:db8::6", None, "member"),
    },
    groups=["all", "gpu_nodes", "a100", "gpu_quarantine", "racks"],
    specs=SPECS,
)


def taken(node, site=SITE):
    good, bad = requested(node, site)
    assert bad == []
    return [(one.name, one.address, one.port, one.state) for one in good]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("10.0.0.17", [("10.0.0.17", "10.0.0.17", None, "new")]),
        ("10.0.0.17:2222", [("10.0.0.17", "10.0.0.17", 2222, "new")]),
        ("gpu17=10.0.0.17", [("gpu17", "10.0.0.17", None, "new")]),
        ("gpu17=10.0.0.17:22", [("gpu17", "10.0.0.17", 22, "new")]),
        ("Node.Example.org", [("node.example.org", "node.example.org", None, "new")]),
        ("10.0.0.[8:10]", [(f"10.0.0.{n}", f"10.0.0.{n}", None, "new") for n in (8, 9, 10)]),
        ("10.0.0.[8:12:2]:23", [(f"10.0.0.{n}", f"10.0.0.{n}", 23, "new") for n in (8, 10, 12)]),
        ("n[08:09]=10.0.0.[8:9]", [("n08", "10.0.0.8", None, "new"), ("n09", "10.0.0.9", None, "new")]),
        ("n[a:b].x", [("na.x", "na.x", None, "new"), ("nb.x", "nb.x", None, "new")]),
        ("2001:DB8::17", [("2001-db8--17", "2001:db8::17", None, "new")]),
        ("[2001:db8::17]:2200", [("2001-db8--17", "2001:db8::17", 2200, "new")]),
        ("v6=[2001:db8::17]", [("v6", "2001:db8::17", None, "new")]),
        ("gpu01", [("gpu01", "10.0.0.1", None, "member")]),
        ("10.0.0.2", [("gpu02", "10.0.0.2", 2222, "quarantine")]),
        ("gpu02=10.0.0.2:2222", [("gpu02", "10.0.0.2", 2222, "quarantine")]),
        ("10.0.0.2:22", [("10.0.0.2", "10.0.0.2", 22, "new")]),
        ("GPU03.example", [("gpu03", "gpu03.example", None, "new")]),
        ("192.0.2.1:2202", [("nat2", "192.0.2.1", 2202, "member")]),
        ("192.0.2.1:2203", [("192.0.2.1", "192.0.2.1", 2203, "new")]),
        ("2001:db8:0::6", [("six", "2001:db8::6", None, "member")]),
        ("gpu01,10.0.0.1, gpu01", [("gpu01", "10.0.0.1", None, "member")]),
        ("a=10.1.0.1:1,b=10.1.0.1:2", [("a", "10.1.0.1", 1, "new"), ("b", "10.1.0.1", 2, "new")]),
        (
            ["10.1.0.1", "x=10.1.0.2 y=10.1.0.3"],
            [
                ("10.1.0.1", "10.1.0.1", None, "new"),
                ("x", "10.1.0.2", None, "new"),
                ("y", "10.1.0.3", None, "new"),
            ],
        ),
    ],
)
def test_what_is_meant(node, expected):
    assert taken(node) == expected


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ("10.0.0.300", "'10.0.0.300' is no IP address"),
        ("10.0.0", "'10.0.0' is no IP address"),
        ("-oProxyCommand=x", "cannot be a host's name"),
        ("a;b", "'a;b' is neither an IP address nor a host name"),
        ("224.0.0.1", "is the address of no single host"),
        ("0.0.0.0", "is the address of no single host"),
        ("10.0.0.1:0", "port '0' is no number from 1 to 65535"),
        ("10.0.0.1:ssh", "port 'ssh' is no number"),
        ("10.0.0.0/24", "give a range, such as 10.0.0.[1:254]"),
        ("10.0.0.1-9", "a range is written 10.0.0.[1:9]"),
        ("10.0.0.1-10.0.0.9", "a range is written 10.0.0.[1:9]"),
        ("10.0.0.[9:1]", "the range ends (1) before it begins (9)"),
        ("10.0.0.[1:99999999]", f"more than {MOST} hosts"),
        ("10.[0:255].[0:255].1", f"more than {MOST} hosts"),
        ("10.0.0.[1:]", "with both ends"),
        ("10.0.0.[1:9:0]", "is no number from 1"),
        ("10.0.0.[1:x]", "from number to number, or from letter to letter"),
        ("n[01:100]", "of the same length"),
        ("10.0.0.[1:9", "a bracket is left open"),
        ("=10.0.0.9", "there is no name before the ="),
        ("a[1:2]=10.0.0.[5:7]", "2 names for 3 addresses"),
        ("a_=10.0.0.9", None),
        ("all=10.0.0.9", "means something else to Ansible"),
        ("a b=c d=10.0.0.9=x", "cannot be a host's name"),
        ("gpu01=10.0.0.9", "the name gpu01 is taken: the inventory has it at 10.0.0.1"),
        ("gpu01=10.0.0.1:23", "the inventory reaches gpu01 at port 22, not 23"),
        ("gpu02:22", "the inventory reaches gpu02 at port 2222, not 22"),
        ("new=10.0.0.1", "the address 10.0.0.1 is taken: the inventory has it as gpu01"),
        ("192.0.2.1", "several hosts there: nat1 (port 2201), nat2 (port 2202); say which one"),
        ("x=10.1.0.1,x=10.1.0.2", "the name x is there twice"),
        ("x=10.1.0.1,y=10.1.0.1:22", "the address 10.1.0.1 is there twice, also as y"),
    ],
)
def test_what_cannot_be(node, problem):
    good, bad = requested(node, SITE)
    if problem is None:
        assert bad == [] and good
    else:
        assert any(problem in one.problem for one in bad), bad


def test_all_that_is_wrong_is_told_at_once_and_the_rest_is_kept():
    good, bad = requested("10.0.0.300,10.0.0.17,gpu01=10.9.9.9", SITE)
    assert [one.name for one in good] == ["10.0.0.17"]
    text = complaint(good, bad, "node")
    assert text.startswith("node: 2 of 3 nodes cannot be taken, and nothing was changed:\n")
    assert text.count("\n  ") == 2 and text.endswith("or take the other 1 with -e skip_bad_rows=true.")


def test_who_is_to_go_must_be_there():
    site = replace(SITE, existing_only=True)
    assert taken("gpu0[1:2]", site) == [
        ("gpu01", "10.0.0.1", None, "member"),
        ("gpu02", "10.0.0.2", 2222, "quarantine"),
    ]
    good, bad = requested("gpu01,gpu1,10.0.0.77", site)
    assert [one.name for one in good] == ["gpu01"]
    assert [one.problem for one in bad] == [
        "the inventory has no such node; did you mean gpu01?",
        "the inventory has no such node",
    ]


def test_node_that_is_no_request():
    with pytest.raises(RequestError, match="give a name, an address"):
        words({"a": 1})
    assert words(None) == words("") == words([]) == [] and words(17) == ["17"]


@given(st.text(alphabet="ag01[]:.,=- /", max_size=30))
def test_any_word_has_an_answer(text):
    good, bad = requested(text, SITE)
    assert bool(good or bad) == bool(words(text))
    assert len({(one.address, one.port or 22) for one in good}) == len(good)


@given(st.text(alphabet="ab01[]:.", max_size=20))
def test_ranges_are_expanded_as_ansible_does(text):
    from ansible.errors import AnsibleError
    from ansible.plugins.inventory import expand_hostname_range

    try:
        found = expand(text)
    except HostnameError:
        return
    if "[" not in text:
        assert found == [text]
        return
    try:
        assert found == expand_hostname_range(text)
    except (AnsibleError, ValueError):
        raise AssertionError(f"Ansible refuses {text!r}") from None


def test_key_of_an_inventory_with_a_port_or_a_range():
    assert list(names_of("gpu[1:2]:2222")) == ["gpu1", "gpu2"]
    assert list(names_of("2001:db8::1")) == ["2001:db8::1"]
    assert list(names_of("gpu1")) == ["gpu1"]


# --- CSV ----------------------------------------------------------------------------------------------------

KEY = "SHA256:cJ6AyISHokEeHuTfufIqhhSS0gxHZRUMDHlKvXD4FHw"
FULL = (
    "Name,address,port,groups,host_key,bootstrap_user,bootstrap_password,var:host_reboot_allowed,var:rack\r\n"
    f'gpu17,10.0.0.17,2222,"a100, racks",{KEY},ubuntu,"hu,sh ",no,7\r\n'
    "\r\n"
    "gpu18,10.0.0.18,,,ssh-ed25519 AAAA,,,,\r\n"
)


def test_csv_is_read_with_types():
    good, bad = listed("\ufeff" + FULL, SITE)
    assert bad == []
    assert good[0] == Candidate(
        name="gpu17",
        address="10.0.0.17",
        port=2222,
        groups=("a100", "racks"),
        host_key=KEY,
        variables={"host_reboot_allowed": False, "rack": "7"},
        bootstrap_user="ubuntu",
        bootstrap_password_given=True,
        row=2,
    )
    assert good[1] == Candidate(name="gpu18", address="10.0.0.18", host_key=KEY, row=4)


def test_password_is_read_by_its_own_way_only():
    good, _bad = listed(FULL, SITE)
    assert "hu,sh" not in repr(good) and "hu,sh" not in repr([one.document() for one in good])
    assert bootstrap_password(FULL, "gpu17") == "hu,sh "
    assert bootstrap_password(FULL, "gpu18") == bootstrap_password(FULL, "nobody") == ""


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(delimiter):
    good, bad = listed(f"name{delimiter}address\ngpu17{delimiter}10.0.0.17\n", SITE)
    assert bad == [] and good[0].name == "gpu17"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty; its first line names the columns: name, address"),
        ("\n\n", "it is empty"),
        ("name,address,adress\n", "unknown column 'adress': did you mean address?"),
        ("name,address,rack\n", "unknown column 'rack': a host variable is a column var:rack"),
        ("name,name,address\n", "the column name is there twice"),
        ("name,port\n", "there is no column address; it has name, port"),
        ("gpu17,10.0.0.17\n", "unknown column 'gpu17'"),
        ("name,address,var:host_reboot_alowed\nx,10.1.1.1,1\n", "did you mean host_reboot_allowed?"),
        (
            "name,address,var:ansible_connection\nx,10.1.1.1,local\n",
            "how a node is reached stands in the columns",
        ),
        ("name,address,var:db_password\nx,10.1.1.1,y\n", "a secret does not belong into the inventory"),
        ("name,address,var:two words\nx,10.1.1.1,y\n", "cannot be a variable's name"),
        ('name,address\n"x,10.1.1.1\n', "it is no CSV at line 2"),
        ("name,address\n\0", "there is a NUL byte"),
    ],
)
def test_csv_that_is_none(text, words):
    with pytest.raises(RequestError) as refused:
        listed(text, SITE)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("header", "row", "problem"),
    [
        ("", "x", "it has 1 cells, and the header has 2"),
        ("", ",10.1.1.1", "there is no name"),
        ("", "x,", "there is no address"),
        ("", "x y,10.1.1.1", "name: 'x y' cannot be a host's name"),
        ("", "x,10.1.1", "address: '10.1.1' is no IP address"),
        ("", "gpu01,10.1.1.1", "the name gpu01 is taken"),
        ("port", "x,10.1.1.1,22x", "port: port '22x' is no number"),
        ("groups", "x,10.1.1.1,a10", "groups: there is no group a10: did you mean a100?"),
        (
            "groups",
            "x,10.1.1.1,zzz",
            "groups: there is no group zzz: the inventory has gpu_nodes, a100, racks",
        ),
        ("groups", "x,10.1.1.1,gpu_quarantine", "a node comes out of gpu_quarantine by being accepted"),
        ("host_key", "x,10.1.1.1,SHA256:short", "is no fingerprint"),
        ("host_key", "x,10.1.1.1," + ":".join(["aa"] * 16), "an MD5 fingerprint proves nothing"),
        ("bootstrap_user", "x,10.1.1.1,-oProxy", "is no user's name"),
        ("bootstrap_password", 'x,10.1.1.1,"secret\nline"', "a line break cannot be part of a password"),
        ("var:host_reboot_allowed", "x,10.1.1.1,maybe", "'maybe' is neither true nor false"),
        ("var:host_reboot_max", "x,10.1.1.1,one", "'one' is no whole number"),
        ("var:host_reboot_share", "x,10.1.1.1,one", "'one' is no number"),
        ("var:nvidia_driver_flavour", "x,10.1.1.1,closed", "'closed' is none of auto, open"),
        ("var:docker_engine_daemon_config", "x,10.1.1.1,[a]", "is no mapping"),
        (
            "var:rack",
            "x,10.1.1.1,{{ lookup('pipe'; 'id') }}",
            "a template (braces) would be run on this machine",
        ),
    ],
)
def test_rows_that_are_bad(header, row, problem):
    text = f"name,address{',' + header if header else ''}\n{row}\ngood,10.2.2.2{',' if header else ''}\n"
    good, bad = listed(text, SITE)
    assert [one.name for one in good] == ["good"]
    assert len(bad) == 1 and problem in bad[0].problem and bad[0].row == 2
    assert "secret" not in str(bad[0])


def test_row_numbers_are_those_of_the_file_and_all_problems_of_a_row_are_told():
    text = 'name,address,port,var:note\n"a",10.1.1.1,,"two\nlines"\nb,10.1.1.300,x,\nb2,10.1.1.1,,\n'
    _good, bad = listed(text, SITE)
    assert [(one.row, one.problem.partition(":")[0]) for one in bad] == [
        (2, "the address 10.1.1.1 is there twice, also as b2 (line 5)"),
        (4, "address"),
        (4, "port"),
        (5, "the address 10.1.1.1 is there twice, also as a (line 2)"),
    ]


def test_shifted_cells_never_show_a_password():
    text = "name,bootstrap_password,address\ngpu17,extra,hush-hush,10.0.0.17\ngpu18,hush-hush\n"
    good, bad = listed(text, SITE)
    assert good == [] and "hush" not in complaint(good, bad, "csv")


def test_typed_values():
    names = ("gpuready_workloads", "host_reboot_max", "docker_engine_daemon_config", "nvidia_driver_branch")
    header = ",".join(["name", "address", *(f"var:{name}" for name in names)])
    text = f'{header}\nx,10.1.1.1,"a, b",2,"{{log-driver: journald}}",580\ny,10.1.1.2,[a],,,\n'
    good, bad = listed(text, SITE)
    assert bad == []
    assert good[0].variables == {
        "gpuready_workloads": ["a", "b"],
        "host_reboot_max": 2,
        "docker_engine_daemon_config": {"log-driver": "journald"},
        "nvidia_driver_branch": "580",
    }
    assert good[1].variables == {"gpuready_workloads": ["a"]}


def test_fingerprint_of_a_key_with_a_comment():
    assert fingerprint("ssh-ed25519 AAAA root@gpu17") == KEY


@given(st.text(max_size=200))
def test_any_csv_has_an_answer(text):
    for tried in (text, "name,address\n" + text):
        try:
            listed(tried, SITE)
        except RequestError:
            continue
