"""The report's documents and texts, from recorded results."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gpuready import report


def gpu_stack(**changes):
    stack = {
        "host": {"gpus": [{"device_id": "20b5", "name": "GA100 [A100 PCIe 80GB]", "driver_bound": "nvidia"}]},
        "driver": {
            "loaded": {"version": "580.95.05", "flavour": "open"},
            "devices": [{"name": "NVIDIA A100 80GB PCIe", "mig_mode": False}],
        },
        "container_runtime": {"docker": {"version": "20.10.24"}, "toolkit": {"version": "1.17.8"}},
    }
    return {**stack, **changes}


def plan(status="converged", actions=(), conflicts=(), **changes):
    return {
        "status": status,
        "simulated": True,
        "workloads": [{"name": "tensorflow-2.9", "image": "tensorflow/tensorflow:2.9.0-gpu"}],
        "driver": {"version": "580.95.05", "branch": "580", "flavour": "open"},
        "actions": list(actions),
        "conflicts": list(conflicts),
        "reboot": {"needed": False, "reason": None, "allowed": True},
        **changes,
    }


def action(identity, layer):
    return {"id": identity, "layer": layer, "summary": f"do {identity}"}


def verification(ok=True, **changes):
    return {
        "ok": ok,
        "framework": {"name": "tensorflow", "version": "2.9.0", "cuda": "11.2"},
        "gpus_listed": 1 if ok else 0,
        "gpus_expected": 1,
        "level": "list",
        "launch": {"way": "gpus"},
        "seconds": 3.42,
        "findings": [],
        **changes,
    }


def record(**changes):
    return {"host": "n1", "simulated": True, "gpu_stack": gpu_stack(), "plan": plan(), **changes}


REBOOT = {"needed": True, "reason": "nouveau holds the GPU", "allowed": False}


@pytest.mark.parametrize(
    ("given", "planning", "status"),
    [
        (record(), False, "provisioned"),
        (record(), True, "planned"),
        (record(verification=[verification()]), False, "verified"),
        (record(verification=[verification(), verification(ok=False)]), False, "failed"),
        (record(verification=[verification(ok=False)], failed=True), False, "failed"),
        (record(plan=plan("changes", [action("driver.install", "host")])), False, "planned"),
        (record(plan=plan("conflict"), failed=True), False, "conflict"),
        (record(plan=plan("conflict")), True, "conflict"),
        (record(plan=plan("conflict"), failed=True, verification=[verification(ok=False)]), False, "failed"),
        (record(plan=None, gpu_stack=None, failed=True), False, "failed"),
        (record(unreachable=True, plan=None), False, "unreachable"),
        (record(unreachable=True, failed=True), False, "unreachable"),
        (
            record(plan=plan("changes", [action("host.reboot", "host")], reboot=REBOOT), failed=True),
            False,
            "reboot_pending",
        ),
        (
            record(plan=plan("changes", [action("host.reboot", "host")], reboot=REBOOT)),
            False,
            "reboot_pending",
        ),
        # It failed long before the reboot: that is no pending reboot.
        (
            record(
                plan=plan(
                    "changes",
                    [action("docker.install", "container_runtime"), action("host.reboot", "host")],
                    reboot=REBOOT,
                ),
                failed=True,
            ),
            False,
            "failed",
        ),
    ],
)
def test_status_follows_from_what_happened(given, planning, status):
    assert report.node_status(given, planning=planning) == status


def cause(name, layer="container_runtime", standing="root"):
    return {"cause": name, "title": f"the {name}", "layer": layer, "standing": standing, "certain": True}


def diagnosis(status="cause_found", *causes):
    return {"schema": 1, "status": status, "causes": list(causes)}


FOUND = diagnosis("cause_found", cause("toolkit-missing"), cause("xid-error", "host"))


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (record(diagnosed=True, diagnosis=diagnosis("healthy")), "healthy"),
        (record(diagnosed=True, diagnosis=FOUND, failed=True), "cause_found"),
        (record(diagnosed=True, diagnosis=diagnosis("unknown"), failed=True), "unknown"),
        # Healthy, and then something else in the run failed.
        (record(diagnosed=True, diagnosis=diagnosis("healthy"), failed=True), "failed"),
        # A failed verification has a diagnosis, and stays a failure.
        (record(diagnosis=FOUND, failed=True, verification=[verification(ok=False)]), "failed"),
        (record(diagnosed=True, diagnosis=FOUND, unreachable=True), "unreachable"),
    ],
)
def test_status_of_a_diagnosing_run_is_the_answer(given, status):
    assert report.node_status(given) == status
    assert status in report.STATUSES
    assert (status in report.BAD_STATUSES) is (status != "healthy")


def test_root_cause_is_named_in_verdict_layer_and_fleet():
    given = record(diagnosed=True, diagnosis=FOUND, failed=True, error="x")
    node = report.node_document(given, "r")
    assert node["layers"]["container_runtime"]["findings"] == ["the toolkit-missing"]
    assert node["layers"]["container_runtime"]["ok"] is False and node["layers"]["host"]["ok"] is False
    lines = [line for line, _status in report.table([node], unicode=False)]
    assert lines[1].endswith("CAUSE FOUND (simulated): toolkit-missing and 1 more")
    fleet = report.fleet_document(
        [node], run="r", playbook="diagnose.yml", started="", finished="", seconds=1
    )
    assert fleet["nodes"]["n1"]["causes"] == ["toolkit-missing", "xid-error"] and fleet["ok"] is False


def test_alternatives_are_no_causes():
    given = record(diagnosed=True, diagnosis=diagnosis("unknown", cause("a", standing="alternative")))
    assert report.root_causes(given) == []
    assert report.layer_verdicts(given)["container_runtime"]["ok"] is True


def test_cause_that_is_a_finding_already_is_said_once():
    row = {"layer": "host", "finding": "the xid-error", "evidence": [], "fix": [], "cause": "xid-error"}
    given = record(
        diagnosis=diagnosis("cause_found", cause("xid-error", "host")),
        verification=[verification(ok=False, findings=[row])],
        failed=True,
    )
    assert report.layer_verdicts(given)["host"]["findings"] == ["the xid-error"]


def test_what_a_diagnosis_rests_on_is_kept_without_passwords():
    facts = {"container": {"env": {"API_TOKEN": "x", "CUDA_VERSION": "11"}}, "probes": {}, "verification": {}}
    node = report.node_document(record(diagnosed=True, diagnosis=FOUND, facts=facts), "r")
    assert node["container"] == {"env": {"API_TOKEN": "***", "CUDA_VERSION": "11"}}
    assert "probes" not in node and node["verification"] == []
    assert "container" not in report.node_document(record(), "r")
    assert report.node_document(record(), "r")["diagnosis"] is None


def _driver(version, flavour="open"):
    return {"version": version, "flavour": flavour}


ARROW = report.ARROW
NEWER = plan("changes", [action("driver.install", "host")], driver=_driver("590.48.01"))


def test_a_node_whose_former_driver_is_back_is_rolled_back():
    back = {"from": "595.71.05", "to": "580.95.05", "why": "0 of 1 GPUs", "verification": []}
    given = record(rolled_back=back, failed=True, verification=[verification()])
    assert report.node_status(given) == "rolled_back"
    assert report.node_document(given, "r")["rolled_back"] == back
    assert "rolled_back" in report.BAD_STATUSES and "rolled_back" in report.STATUSES
    # The next run would try another one: that is not where the node is.
    given = {**given, "plan": NEWER, "reloads": 2}
    assert report.driver_change(given) is None
    assert report.layer_verdicts(given)["host"]["version"] == (
        "A100 80GB PCIe, driver 580.95.05 open (back from 595.71.05, reloaded 2 times)"
    )
    # It was gone back to, but is not loaded: that is only a failure.
    assert report.node_status(record(rolled_back={**back, "to": "535.1"}, failed=True)) == "failed"
    # By hand, which is no failure.
    assert report.node_status(record(rolled_back=back)) == "provisioned"


@pytest.mark.parametrize(
    ("given", "change", "text"),
    [
        (record(), None, "driver 580.95.05 open"),
        (record(driver_before=_driver("580.95.05")), None, "driver 580.95.05 open"),
        (
            record(driver_before=_driver("535.247.01"), reloads=1),
            {"from": "535.247.01", "to": "580.95.05"},
            f"driver 535.247.01 {ARROW} 580.95.05 open (reloaded)",
        ),
        (
            record(driver_before=_driver("580.95.05", "proprietary"), reboots=1),
            {"from": "580.95.05 proprietary", "to": "580.95.05 open"},
            f"driver 580.95.05 proprietary {ARROW} 580.95.05 open (rebooted)",
        ),
        (record(reloads=2), None, "driver 580.95.05 open (reloaded 2 times)"),
        (
            record(plan=NEWER),
            {"from": "580.95.05", "to": "590.48.01"},
            f"driver 580.95.05 {ARROW} 590.48.01 open",
        ),
    ],
)
def test_change_of_the_driver_is_shown(given, change, text):
    assert report.driver_change(given) == change
    assert report.layer_verdicts(given)["host"]["version"] == f"A100 80GB PCIe, {text}"
    node = report.node_document(given, "r")
    assert node["driver_change"] == change
    ascii_text = "\n".join(line for line, _ in report.table([node], unicode=False))
    assert text.replace(ARROW, "->") in ascii_text


def test_what_will_not_last_is_told_below_the_table():
    stack = gpu_stack()
    stack["host"]["kernel"] = {"running": "5.15.0-157-generic", "next_boot": "5.15.0-160-generic"}
    stack["driver"]["on_disk"] = {"version": "580.95.05"}
    node = report.node_document(record(gpu_stack=stack, verification=[verification()]), "r")
    assert node["status"] == "verified" and node["layers"]["host"]["ok"] is True
    told = "n1: the kernel of the next boot, 5.15.0-160-generic, has no driver"
    assert report.notices([node]) == [told]
    assert told in report.report_text([node], fleet_of([node]))


def test_layers_of_a_verified_node_are_good_and_have_versions():
    layers = report.layer_verdicts(record(verification=[verification()]))
    assert {layer: item["ok"] for layer, item in layers.items()} == dict.fromkeys(report.LAYERS, True)
    assert layers["host"]["version"] == "A100 80GB PCIe, driver 580.95.05 open"
    assert layers["container_runtime"]["version"] == "docker 20.10.24, toolkit 1.17.8"
    assert layers["framework"]["version"] == "tensorflow 2.9.0, CUDA 11.2"
    assert layers["application"]["version"] == "1/1 GPU (list, gpus, 3.4 s)"


def application(**changes):
    """The stack with what stands on the GPUs: `workbenches`, `health`."""
    return gpu_stack(application={"workbenches": [], "health": None, **changes})


def bench(name, running=True):
    return {"name": name, "container": {"running": running} if running is not None else None}


@pytest.mark.parametrize(
    ("verifications", "stack", "version"),
    [
        ([], application(), None),
        (
            [verification()],
            application(workbenches=[bench("alice")]),
            "1/1 GPU (list, gpus, 3.4 s), 1 workbench",
        ),
        (
            [verification(), verification(launch=None, seconds=1.0)],
            application(
                workbenches=[bench("alice"), bench("bob", False)],
                health={"program": "a1", "last_check": {"ok": True}, "last_verify": [{"ok": True}]},
            ),
            "2/2 workloads, 1/1 GPU (list, gpus, 4.4 s), 1/2 workbenches, watched",
        ),
        (
            [verification(), verification(ok=False)],
            application(health={"program": "a1", "last_check": {"ok": False}, "last_verify": None}),
            "1/2 workloads, 1/1 GPU and 0/1 GPU (list, gpus, 6.8 s), watched: not well",
        ),
        ([], application(workbenches=[bench("alice", None)], health={"program": None}), "0/1 workbench"),
    ],
)
def test_application_says_what_stands_on_the_gpus(verifications, stack, version):
    layers = report.layer_verdicts(record(gpu_stack=stack, verification=verifications))
    assert layers["application"]["version"] == version


def test_environment_on_the_host_is_named_before_it_was_verified():
    rows = [{"name": "research", "image": None, "venv": "/opt/gpuready/venvs/research"}]
    layers = report.layer_verdicts(record(plan=plan(workloads=rows)))
    assert layers["framework"]["version"] == "research"


def test_layer_with_actions_names_them_and_the_planned_driver():
    bare = gpu_stack(driver={"loaded": None, "devices": None}, container_runtime=None)
    layers = report.layer_verdicts(
        record(gpu_stack=bare, plan=plan("changes", [action("driver.install", "host")]))
    )
    assert layers["host"]["ok"] is False
    assert layers["host"]["actions"] == ["driver.install"]
    assert layers["host"]["version"] == "GA100 [A100 PCIe 80GB], driver 580.95.05 open"
    assert layers["application"]["ok"] is None
    assert layers["application"]["detail"] == "not verified in this run"


def test_layers_behind_a_conflict_are_unknown():
    conflict = {"id": "host.no_gpu", "layer": "host", "what": "no NVIDIA GPU on the bus"}
    layers = report.layer_verdicts(record(plan=plan("conflict", conflicts=[conflict])))
    assert layers["host"] == {
        "ok": False,
        "state": "bad",
        "version": "A100 80GB PCIe, driver 580.95.05 open",
        "detail": "no NVIDIA GPU on the bus",
        "actions": [],
        "findings": [],
        "warnings": [],
    }
    assert layers["container_runtime"]["ok"] is None


def test_finding_marks_its_layer_although_the_plan_is_empty():
    bad = verification(ok=False, findings=[{"layer": "framework", "finding": "libcudart is missing"}])
    layers = report.layer_verdicts(record(verification=[bad], failed=True))
    assert layers["framework"]["ok"] is False
    assert layers["framework"]["detail"] == "libcudart is missing"
    assert layers["application"]["ok"] is False
    assert layers["host"]["ok"] is True


def test_unreachable_node_has_a_whole_document():
    document = report.node_document(
        {"host": "n9", "unreachable": True, "error": "timed out", "plan": None, "gpu_stack": None}, "r"
    )
    assert document["status"] == "unreachable"
    assert {item["ok"] for item in document["layers"].values()} == {None}
    json.dumps(document)


def test_documents_carry_no_passwords():
    stack = gpu_stack()
    stack["container_runtime"]["docker"]["daemon_json"] = {
        "content": {
            "proxies": {"https-proxy": "http://me:hunter2@proxy:3128"},
            "registry-auth": "hunter2",
            "authorization-plugins": ["x"],
        }
    }
    text = json.dumps(
        report.node_document(record(gpu_stack=stack, error="GET http://u:hunter2@h/ failed"), "r")
    )
    assert "hunter2" not in text
    assert "http://***@proxy:3128" in text
    assert "authorization-plugins" in text


def fleet_of(nodes):
    return report.fleet_document(
        nodes, run="r", playbook="site.yml", started="a", finished="b", seconds=12.345, check_mode=False
    )


def test_fleet_counts_and_judges_all_nodes():
    nodes = [
        report.node_document(record(host="a", verification=[verification()], changed_tasks=["x", "y"]), "r"),
        report.node_document(record(host="b", failed=True, error="broken"), "r"),
    ]
    fleet = fleet_of(nodes)
    assert fleet["totals"] == {"verified": 1, "failed": 1}
    assert fleet["ok"] is False
    assert fleet["simulated"] is True
    assert fleet["nodes"]["b"]["error"] == "broken"
    assert report.summary(fleet) == "2 nodes: 1 verified, 1 failed; 2 changed tasks; 12.3 s"


def test_table_is_aligned_and_says_simulated():
    nodes = [
        report.node_document(record(host="gpulab-a100", verification=[verification()]), "r"),
        report.node_document({"host": "b", "unreachable": True, "plan": None, "gpu_stack": None}, "r"),
    ]
    lines = [line for line, _status in report.table(nodes)]
    assert lines[0].split() == ["NODE", "HOST", "CONTAINER", "RUNTIME", "FRAMEWORK", "APPLICATION", "VERDICT"]
    assert lines[1].endswith("VERIFIED (simulated)")
    assert lines[2].endswith("UNREACHABLE")
    column = lines[0].index("VERDICT")
    assert lines[1].index("VERIFIED") == lines[2].index("UNREACHABLE") == column
    assert "\N{HEAVY CHECK MARK} A100 80GB PCIe, driver 580.95.05 open" in lines[1]


def test_table_without_unicode_is_ascii():
    lines = report.table(
        [report.node_document(record(host="n\N{LATIN SMALL LETTER O WITH STROKE}d"), "r")], unicode=False
    )
    assert all(line.isascii() for line, _status in lines)
    assert "+ docker 20.10.24" in lines[1][0]


def test_table_becomes_blocks_on_a_narrow_terminal():
    lines = [line for line, _ in report.table([report.node_document(record(), "r")], columns=60)]
    assert lines[0] == "n1  PROVISIONED (simulated)"
    assert lines[1].startswith("  host               \N{HEAVY CHECK MARK} A100")
    assert max(len(line) for line in lines) <= 60


def test_a_document_from_before_states_is_read_as_it_was_meant():
    rows = [
        ({"ok": True}, "ok"),
        ({"ok": None}, "unknown"),
        ({"ok": False, "actions": ["driver.install"], "findings": []}, "todo"),
        ({"ok": False, "actions": ["driver.load"], "findings": ["x"]}, "bad"),
        ({"ok": False, "state": "bad", "actions": ["driver.load"], "findings": []}, "bad"),
        (None, "unknown"),
    ]
    assert [report.layer_state(layer) for layer, _state in rows] == [state for _layer, state in rows]


def test_pending_layer_has_its_own_mark():
    node = report.node_document(
        record(plan=plan("changes", [action("driver.install", "host")])), "r", planning=True
    )
    assert "\N{RIGHTWARDS ARROW} A100" in report.table([node])[1][0]
    assert "\N{HEAVY BALLOT X}" not in report.table([node])[1][0]


def test_layer_with_a_finding_is_broken_and_not_merely_pending():
    bad = verification(ok=False, findings=[{"layer": "host", "finding": "the driver is not loaded"}])
    waiting = plan("changes", [action("driver.load", "host")])
    node = report.node_document(record(plan=waiting, verification=[bad], failed=True), "r")
    assert "\N{HEAVY BALLOT X} A100" in report.table([node])[1][0]


def test_problems_tell_the_cause():
    nodes = [
        report.node_document(record(host="a", failed=True, error="Install: no candidate\nfor x"), "r"),
        report.node_document(record(host="b"), "r"),
        report.node_document(
            record(host="c", plan=plan("changes", [action("host.reboot", "host")], reboot=REBOOT)), "r"
        ),
    ]
    text = "\n".join(line for line, _status in report.problems(nodes))
    assert "a: failed\n    Install: no candidate\n    for x" in text
    assert "c: reboot pending\n    reboot needed: nouveau holds the GPU" in text
    assert "b:" not in text


def test_run_name_is_sortable_and_safe():
    now = datetime(2026, 11, 23, 2, 3, 4, tzinfo=UTC)
    assert report.run_name(now, "playbooks/site.yml") == "20261123T020304Z-site"
    assert report.run_name(now, "/x/my play book.yaml") == "20261123T020304Z-my-play-book"


def test_write_run_leaves_files_and_moves_latest(tmp_path: Path):
    root = tmp_path / "artifacts"
    node = report.node_document(record(host="../evil"), "r1")
    first = report.write_run(root, "r1", [node], fleet_of([node]), "text\n")
    second = report.write_run(root, "r1", [node], fleet_of([node]), "text\n")
    assert first != second
    assert (root / "latest").readlink() == Path(second.name)
    assert sorted(path.name for path in second.iterdir()) == [
        ".._evil.json",
        "fleet.csv",
        "fleet.json",
        "junit.xml",
        "report.html",
        "report.txt",
    ]
    assert json.loads((second / "fleet.json").read_text())["run"] == second.name
    assert json.loads((second / ".._evil.json").read_text())["host"] == "../evil"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_write_run_into_a_file_is_an_os_error(tmp_path: Path):
    (tmp_path / "artifacts").write_text("not a folder")
    with pytest.raises(OSError, match="artifacts"):
        report.write_run(tmp_path / "artifacts", "r", [], fleet_of([]), "")


def checked(at, *rows):
    """A stack whose node looked at itself."""
    last = {"at": at, "ok": not rows, "errors": [], "drift": list(rows)}
    return application(health={"program": "a1", "last_check": last, "last_verify": None})


def test_drift_is_what_differed_when_the_run_began():
    row = {"layer": "host", "what": "driver_loaded", "expected": "580.95.05", "found": "580.82.07"}
    hold = {**action("driver.hold", "host"), "evidence": ["libcuda1 is not held", "nor is nvidia-smi"]}
    first = plan("changes", [hold, action("docker.restart", "container_runtime")])
    then = plan("changes", [action("docker.restart", "container_runtime"), action("toolkit.cdi", "host")])
    given = record(
        first_plan=first,
        first_gpu_stack=report.glimpse(checked(1, row)),
        observations=2,
        plan=then,
        gpu_stack=checked(2),
    )
    rows = report.node_document(given, "r")["drift"]
    assert [(one["source"], one["what"], one["remains"]) for one in rows] == [
        ("plan", "driver.hold", False),
        ("plan", "docker.restart", True),
        ("check", "driver_loaded", False),
    ]
    assert rows[0]["expected"] == "do driver.hold"
    assert rows[0]["found"] == "libcuda1 is not held; nor is nvidia-smi"
    assert rows[2]["expected"] == "580.95.05" and rows[2]["found"] == "580.82.07"


def test_drift_of_a_check_that_was_not_made_again_is_unknown():
    row = {"layer": "host", "what": "driver_loaded", "expected": "2", "found": "1"}
    once = record(gpu_stack=checked(1, row))
    assert [one["remains"] for one in report.drift(once)] == [True]
    again = record(gpu_stack=checked(1, row), first_gpu_stack=report.glimpse(checked(1, row)), observations=2)
    assert [one["remains"] for one in report.drift(again)] == [None]


def test_drift_behind_a_conflict_may_remain_or_not():
    given = record(first_plan=plan("changes", [action("driver.hold", "host")]), plan=plan("conflict"))
    assert report.drift(given)[0]["remains"] is None


@pytest.mark.parametrize(
    ("stack", "managed"),
    [
        (None, None),
        (gpu_stack(), False),
        (gpu_stack(driver={"record": {"packages": []}}), True),
        (checked(1), True),
    ],
)
def test_node_that_gpuready_was_on_before_is_told_from_a_new_one(stack, managed):
    assert report.managed_before(stack) is managed
    assert report.managed_before(report.glimpse(stack)) is managed


def test_drivers_of_the_fleet_are_counted_from_the_newest():
    def node(host, version):
        stack = gpu_stack(driver={"loaded": {"version": version, "flavour": "open"} if version else None})
        return report.node_document(record(host=host, gpu_stack=stack), "r")

    nodes = [node("a", "580.95.05"), node("b", "580.100.1"), node("c", None), node("d", "580.95.05")]
    nodes.append(report.lost_node("e", "r", "its worker is gone", address="10.0.0.9"))
    spread = report.driver_spread(nodes)
    assert list(spread.items()) == [("580.100.1", ["b"]), ("580.95.05", ["a", "d"]), ("none", ["c"])]
    assert nodes[-1]["status"] == "unreachable" and nodes[-1]["address"] == "10.0.0.9"
    assert nodes[-1]["error"] == "its worker is gone"


def test_slow_tasks_are_the_longest():
    tasks = [("quick", "observe", 0.4), ("pull", "framework_image", 81.239), ("install", "nvidia_driver", 99)]
    assert report.slow_tasks(tasks) == [
        {"task": "install", "stage": "nvidia_driver", "seconds": 99},
        {"task": "pull", "stage": "framework_image", "seconds": 81.24},
    ]


def slice_of(root, run, hosts, **metadata):
    """A run's folder with these hosts: ``{host: record}``."""
    nodes = [report.node_document({**given, "host": host}, run) for host, given in hosts.items()]
    told = {"run": run, "playbook": "site.yml", "started": "", "finished": "", "seconds": 1.0, **metadata}
    fleet = report.fleet_document(nodes, **told)
    return report.write_run(root, run, nodes, fleet, "text\n")


def test_slices_merge_into_the_run_that_one_would_have_been(tmp_path: Path):
    good, bad = record(verification=[verification()]), record(failed=True, error="broken")
    when = {"started": "2026-11-23T10:00:00+00:00", "finished": "2026-11-23T10:01:00+00:00"}
    later = {"started": "2026-11-23T10:00:10+00:00", "finished": "2026-11-23T10:03:00+00:00"}
    one = slice_of(tmp_path / "1", "20261123T100000Z-site", {"c": good, "a": bad}, **when)
    two = slice_of(tmp_path / "2", "20261123T100010Z-site", {"b": good}, **later, not_run=["d", "a"])
    whole = slice_of(
        tmp_path / "3",
        "20261123T100000Z-site",
        {"a": bad, "b": good, "c": good},
        **{**when, "finished": later["finished"], "seconds": 180, "not_run": ["d"]},
    )
    nodes, fleet = report.merge([two, one])
    expected_nodes, expected = report.load_run(whole)
    assert nodes == expected_nodes and fleet == expected
    assert fleet["not_run"] == ["d"] and fleet["ok"] is False


def test_node_in_two_slices_is_as_the_later_one_found_it(tmp_path: Path):
    one = slice_of(tmp_path / "1", "r1", {"a": record(failed=True, error="x")}, finished="1")
    two = slice_of(tmp_path / "2", "r2", {"a": record(verification=[verification()])}, finished="2")
    lost = report.lost_node("z", "r", "worker w2 is gone")
    nodes, fleet = report.merge([two, one], run="both", lost=[lost])
    assert [(node["host"], node["status"], node["run"]) for node in nodes] == [
        ("a", "verified", "both"),
        ("z", "unreachable", "both"),
    ]
    assert fleet["totals"] == {"verified": 1, "unreachable": 1} and fleet["run"] == "both"


def test_files_are_made_anew_and_runs_are_joined_by_hand(tmp_path: Path, capsys):
    good = record(verification=[verification()])
    one = slice_of(tmp_path / "1", "r1", {"a": good}, started="1", finished="1")
    two = slice_of(tmp_path / "2", "r2", {"b": good}, started="2", finished="2")
    written = (one / "report.html").read_text()
    for name in ("report.html", "junit.xml", "fleet.csv"):
        (one / name).unlink()
    assert report.main([str(one)]) == 0
    assert (one / "report.html").read_text() == written
    assert (one / "junit.xml").exists() and (one / "fleet.csv").exists()
    assert report.main([str(one), str(two), "--into", str(tmp_path / "all"), "--run", "both"]) == 0
    joined = tmp_path / "all" / "both"
    assert capsys.readouterr().out.splitlines() == [f"{one}/report.html", f"{joined}/report.html"]
    assert [node["host"] for node in report.load_run(joined)[0]] == ["a", "b"]
    assert report.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        report.main([str(one), str(two)])


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}'])
def test_what_is_no_report_is_refused(tmp_path: Path, content):
    (tmp_path / "fleet.json").write_text(content)
    with pytest.raises(ValueError, match=r"fleet\.json is no"):
        report.load_run(tmp_path)
    with pytest.raises(ValueError, match="nothing to merge"):
        report.merge([])
