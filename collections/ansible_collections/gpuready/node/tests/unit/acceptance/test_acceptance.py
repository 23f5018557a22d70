"""Who is accepted, and why not."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from gpuready import acceptance
from hypothesis import given
from hypothesis import strategies as st

A100 = "NVIDIA A100 80GB PCIe"


def gpu(index: int, **changes: Any) -> dict[str, Any]:
    """One GPU of the watch, at work and well."""
    return {
        "index": index,
        "name": A100,
        "uuid": f"GPU-{index}",
        "pci": f"0000:{0x3B + index:02x}:00.0",
        "samples": 61,
        "temperature_c": {"max": 71.0, "mean": 64.0},
        "power_watts": {"max": 291.0, "mean": 270.0},
        "utilization_percent": {"max": 100.0, "mean": 97.0},
        "ecc_uncorrected": 0,
        "ecc_corrected": 0,
        "ecc_new": {"uncorrected": 0, "corrected": 0},
        "throttled": {},
        "remapped_rows": {"corrected": 0, "uncorrected": 0, "pending": False, "failed": False, "new": 0},
        "lost": None,
        **changes,
    }


def board(index: int, **changes: Any) -> dict[str, Any]:
    """One GPU of the hardware."""
    return {
        "index": index,
        "pci": f"0000:{0x3B + index:02x}:00.0",
        "name": A100,
        "uuid": f"GPU-{index}",
        "serial": f"13226211{index}",
        "part_number": "900-21001-0020-000",
        "vbios": "92.00.A0.00.05",
        "memory_total_mib": 81920,
        "pcie": {"generation": 4, "width": 16, "max_generation": 4, "max_width": 16},
        "error": None,
        **changes,
    }


def verification(number: int = 2, **changes: Any) -> dict[str, Any]:
    """One that listed and computed."""
    return {
        "workload": "tensorflow-2.9",
        "ok": True,
        "level": "compute",
        "image": "tensorflow/tensorflow:2.9.0-gpu",
        "image_id": "sha256:1",
        "digest": "tensorflow/tensorflow@sha256:2",
        "python": None,
        "gpus_listed": number,
        "gpus_expected": 2,
        "seconds": 9.0,
        "compute": {"matmul": {"ok": True, "device": "/GPU:0", "seconds": 0.001}},
        "stress": None,
        "framework": {"name": "tensorflow", "version": "2.9.0"},
        "findings": [],
        **changes,
    }


def loaded(*speeds: float, **changes: Any) -> dict[str, Any]:
    """A verification of level stress."""
    rows = [
        {
            "index": index,
            "name": A100,
            "size": 8192,
            "iterations": 1000,
            "iterations_per_second": speed,
            "tflops": 19.0,
            "wrong": 0,
            "error": None,
        }
        for index, speed in enumerate(speeds)
    ]
    return verification(level="stress", compute=None, stress={"seconds": 600.2, "gpus": rows}, **changes)


def node(**changes: Any) -> dict[str, Any]:
    """What is known of a node that is as it should be."""
    return {
        "host": "gpu17",
        "address": "10.0.0.17",
        "simulated": False,
        "limits": {},
        "hardware": {
            "vendor": "Supermicro",
            "product": "SYS-420GP-TNR",
            "serial": "S4123",
            "memory_mib": 515600,
            "memory_modules": [{"slot": "A1", "size_mib": 262144}, {"slot": "A2", "size_mib": 262144}],
            "gpus": [board(0), board(1)],
        },
        "host_key": {"fingerprints": ["SHA256:abc"], "trust": "pinned"},
        "gpu_stack": {
            "host": {
                "os": {"pretty_name": "Ubuntu 22.04.5 LTS"},
                "kernel": {"running": "5.15.0-157-generic"},
            },
            "driver": {"loaded": {"version": "580.95.05", "flavour": "open"}},
            "container_runtime": {"docker": {"version": "28.5.1"}, "toolkit": {"version": "1.18.2"}},
        },
        "verifications": [verification() for _ in range(3)],
        "stress": None,
        "watch": {
            "seconds": 61.0,
            "interval_seconds": 1.0,
            "longest_gap_seconds": 1.2,
            "samples": 61,
            "failures": 0,
            "error": None,
            "gpus": [gpu(0), gpu(1)],
            "xids": [],
            "xid_count": 0,
            "ended": "told",
        },
        "watch_problem": None,
        "failure": None,
        "diagnosis": {"status": "cause_found", "causes": []},
        "started": "2026-11-23T16:40:00+00:00",
        "finished": "2026-11-23T16:52:00+00:00",
        "seconds": 720.0,
        "signed_by": "alice@controller",
        "timings": [{"stage": "burn_in", "seconds": 27.0}],
        **changes,
    }


def watched(*gpus: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A node whose watch saw something else."""
    told = node()["watch"]
    return node(watch={**told, **({"gpus": list(gpus)} if gpus else {}), **changes})


def judge(known: dict[str, Any]) -> dict[str, Any]:
    return acceptance.judge(**known)


def rejected(known: dict[str, Any]) -> list[str]:
    record = judge(known)
    assert record["verdict"] == "rejected", record["because"]
    return record["because"]


def accepted(known: dict[str, Any]) -> list[str]:
    record = judge(known)
    assert record["verdict"] == "accepted", record["because"]
    return record["because"]


def test_good_node_is_accepted_with_reasons() -> None:
    record = judge(node())
    assert record["verdict"] == "accepted"
    assert "3 of 3 verifications of tensorflow-2.9 listed and computed on 2 of 2 GPUs" in record["because"]
    assert "no Xid error came up" in record["because"]
    assert record["diagnosis"] is None, "a good node has none"
    assert record["software"]["images"] == [
        {
            "ref": "tensorflow/tensorflow:2.9.0-gpu",
            "id": "sha256:1",
            "digest": "tensorflow/tensorflow@sha256:2",
        }
    ]
    assert [each["round"] for each in record["rounds"]] == [1, 2, 3]
    assert json.loads(json.dumps(record)) == record


def test_one_bad_round_rejects() -> None:
    finding = {
        "layer": "application",
        "finding": "the framework lists 1 of 2 GPUs",
        "evidence": ["NVIDIA A100 80GB PCIe"],
        "fix": [],
    }
    rounds = [verification(), verification(1, ok=False, findings=[finding]), verification()]
    (why,) = rejected(node(verifications=rounds))
    assert why == (
        "verification 2 of 3 of tensorflow-2.9: the framework lists 1 of 2 GPUs (NVIDIA A100 80GB PCIe)"
    )


def test_fewer_rounds_than_asked_reject() -> None:
    assert rejected(node(verifications=[verification()])) == ["tensorflow-2.9 was verified 1 of 3 times"]
    assert "no workload was verified" in rejected(node(verifications=[]))


def test_a_node_that_only_listed_is_told_so() -> None:
    rounds = [verification(level="list", compute=None) for _ in range(3)]
    because = accepted(node(verifications=rounds, limits={"level": "list"}))
    assert "3 of 3 verifications of tensorflow-2.9 listed (and only listed) 2 of 2 GPUs" in because


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"temperature_c": {"max": 91.0, "mean": 80.0}}, "GPU 1 came to 91 °C; 87 °C are allowed"),
        (
            {"ecc_uncorrected": 2, "ecc_new": {"uncorrected": 1, "corrected": 0}},
            "GPU 1 has 2 uncorrected memory errors since the driver was loaded, 1 of them during the burn-in",
        ),
        (
            {"throttled": {"hw_thermal_slowdown": 12.0}},
            "GPU 1 was slowed down for 12 s (hw_thermal_slowdown)",
        ),
        (
            {"remapped_rows": {"corrected": 0, "uncorrected": 1, "pending": True, "failed": False, "new": 1}},
            "GPU 1 has a row of memory that waits for a reset to be replaced, "
            "GPU 1 replaced 1 row of memory during the burn-in",
        ),
        (
            {"remapped_rows": {"corrected": 0, "uncorrected": 9, "pending": False, "failed": True, "new": 0}},
            "GPU 1 has a row of memory that could not be replaced: it is to go back",
        ),
        ({"lost": "GPU is lost"}, "GPU 1: GPU is lost"),
    ],
)
def test_what_a_gpu_does_rejects(seen: dict[str, Any], why: str) -> None:
    assert rejected(watched(gpu(0), gpu(1, **seen))) == [why]


def test_what_is_usual_or_old_does_not_reject() -> None:
    before = {"corrected": 1, "uncorrected": 1, "pending": False, "failed": False, "new": 0}
    because = accepted(
        watched(gpu(0, throttled={"sw_power_cap": 50.0}), gpu(1, remapped_rows=before, ecc_corrected=3))
    )
    assert "no slow-down that is refused; GPU 0 was slowed down for 50 s (sw_power_cap)" in because
    assert "GPU 1 had replaced 1 row of memory before" in because
    assert "GPU 1: 3 corrected errors" in because


def test_a_stricter_site_refuses_more() -> None:
    known = watched(gpu(0), gpu(1, throttled={"sw_thermal_slowdown": 3.0}))
    accepted(known)
    known["limits"] = {"refused_throttle_reasons": ["sw_thermal_slowdown"], "max_temperature_celsius": 60}
    assert rejected(known) == [
        "GPU 0 came to 71 °C, GPU 1 came to 71 °C; 60 °C are allowed",
        "GPU 1 was slowed down for 3 s (sw_thermal_slowdown)",
    ]


def test_xids_reject_and_are_quoted() -> None:
    line = "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
    xids = [{"xid": 79, "pci": "0000:3b:00.0", "line": line}]
    assert rejected(watched(xids=xids, xid_count=1)) == [f"the driver wrote 1 Xid error: {line}"]
    (why,) = rejected(watched(xids=None))
    assert "cannot be read" in why


def test_what_gpus_do_not_tell_is_told_and_rejects_nobody() -> None:
    silent = {"ecc_uncorrected": None, "ecc_corrected": None, "remapped_rows": None, "throttled": None}
    record = judge(watched(gpu(0, **silent), gpu(1, **silent, temperature_c=None)))
    assert record["verdict"] == "accepted"
    unknown = [check["text"] for check in record["checks"] if check["ok"] is None]
    assert "2 of 2 GPUs do not count memory errors (no ECC)" in unknown
    assert "1 of 2 GPUs do not tell their temperature" in unknown


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (node(watch=None, watch_problem="there was no watch"), "nobody watched the GPUs: there was no watch"),
        (node(watch_problem="the watch died after 12 s"), "and then the watch died after 12 s"),
        (watched(samples=0, error="Driver/library version mismatch"), "Driver/library version mismatch"),
        (watched(longest_gap_seconds=31.0), "but for 31 s nobody looked"),
        (watched(seconds=5.0, samples=5), "and the burn-in took 27 s"),
        (watched(failures=2, error="Unknown Error"), "2 times NVML did not answer: Unknown Error"),
        (watched(gpu(0)), "the driver lists 1 of the 2 GPUs on the bus"),
    ],
)
def test_a_watch_that_did_not_see_all_rejects(known: dict[str, Any], why: str) -> None:
    assert why in " | ".join(rejected(known))


@pytest.mark.parametrize(
    ("ordered", "why"),
    [
        ({"gpus": 8}, "2 of the 8 GPUs that were ordered are on the bus"),
        ({"gpu_model": "NVIDIA H100 PCIe"}, f"NVIDIA H100 PCIe was ordered, and there is {A100}"),
        ({"serial": "S9999"}, "the machine's serial number is S4123; S9999 was ordered"),
        ({"memory_mib": 1048576}, "524288 MiB of memory; 1048576 MiB were ordered"),
    ],
)
def test_another_machine_than_ordered_is_rejected(ordered: dict[str, Any], why: str) -> None:
    assert rejected(node(limits={"expect": ordered})) == [why]


def test_gpu_that_the_driver_only_remembers_is_not_on_the_bus() -> None:
    known = watched(gpu(0), gpu(1, samples=0, temperature_c=None, ecc_uncorrected=None, lost="GPU is lost"))
    known["hardware"]["gpus"][1] = board(1, pci=None, name=None, uuid=None, error="GPU is lost")
    known["limits"] = {"expect": {"gpus": 2}}
    assert rejected(known) == ["1 of the 2 GPUs that were ordered are on the bus", "GPU 1: GPU is lost"]
    told = [check["text"] for check in judge(known)["checks"]]
    assert "no uncorrected memory error" in told, "of the other one"


def test_reason_is_what_the_answer_lacks_and_not_an_older_cause() -> None:
    cause = {"layer": "host", "finding": "the GPU's memory has errors", "cause": "gpu-memory-errors"}
    own = {"layer": "application", "finding": "the framework lists 1 of 2 GPUs", "cause": None}
    rounds = [verification(1, ok=False, findings=[cause, own])] * 3
    assert rejected(node(verifications=rounds))[0] == (
        "verification 1 of 3 of tensorflow-2.9: the framework lists 1 of 2 GPUs"
    )


def test_the_machine_that_was_ordered_is_accepted() -> None:
    ordered = {"gpus": 2, "gpu_model": A100, "serial": "s4123", "memory_mib": 524288}
    assert "every GPU is the NVIDIA A100 80GB PCIe that was ordered" in accepted(
        node(limits={"expect": ordered})
    )


def test_narrow_link_is_mentioned_and_rejects_when_asked() -> None:
    known = node()
    known["hardware"]["gpus"][1] = board(
        1, pcie={"generation": 4, "width": 4, "max_generation": 4, "max_width": 16}
    )
    assert "GPU 1 uses 4 of its 16 PCI Express lanes" in accepted(known)
    known["limits"] = {"min_pcie_width": 8}
    assert rejected(known) == ["GPU 1 has 4 lanes; gpu_acceptance_min_pcie_width asks for 8"]


# -- under load ------------------------------------------------------------------------------------------


def test_load_on_all_gpus_is_a_reason() -> None:
    known = watched(seconds=640.0, samples=640)
    known.update(limits={"stress_minutes": 10}, stress=loaded(410.0, 400.0))
    record = judge(known)
    assert record["verdict"] == "accepted"
    assert (
        "10 minutes of load by tensorflow-2.9 on 2 GPUs, every result right: 810 matrix products a second"
        in record["because"]
    )
    assert record["stress"]["iterations_per_second"] == 810.0


def test_slow_gpu_of_the_same_model_rejects() -> None:
    known = watched(seconds=640.0, samples=640)
    known.update(limits={"stress_minutes": 10}, stress=loaded(410.0, 205.0))
    assert rejected(known) == [f"GPU 1 did 50% of what the fastest {A100} did"]
    known["limits"]["min_relative_speed_percent"] = 40
    accepted(known)


def test_load_that_failed_or_did_not_come_rejects() -> None:
    known = watched(seconds=640.0, samples=640)
    known.update(limits={"stress_minutes": 10})
    assert rejected(known) == ["10 minutes of load by the first workload: it was not run"]
    finding = {
        "finding": "GPU 1 failed under load",
        "evidence": ["3 numbers differ from what it computed at first"],
    }
    known["stress"] = loaded(410.0, 400.0, ok=False, findings=[finding])
    assert rejected(known) == [
        "10 minutes of load by tensorflow-2.9: GPU 1 failed under load "
        "(3 numbers differ from what it computed at first)"
    ]


# -- the record ------------------------------------------------------------------------------------------


def test_node_that_failed_before_has_a_record_with_that_reason_alone() -> None:
    failure = {"stage": "provision", "message": "the driver\n could not be installed"}
    record = judge(node(failure=failure, verifications=[], watch=None, hardware=None, gpu_stack=None))
    assert record["verdict"] == "rejected"
    assert record["because"] == ["provision: the driver could not be installed"]
    assert record["diagnosis"] == {"status": "cause_found", "causes": []}
    assert record["hardware"] is None
    assert "REJECTED" in acceptance.text(record)


def test_digest_tells_whether_somebody_changed_the_record() -> None:
    record = judge(node())
    assert record["digest"].startswith("sha256:") and acceptance.is_genuine(record)
    again = json.loads(json.dumps(record, indent=4))
    assert acceptance.is_genuine(again), "how it is written down does not matter"
    again["hardware"]["serial"] = "S9999"
    assert not acceptance.is_genuine(again)


def test_the_same_facts_give_the_same_record() -> None:
    assert judge(node()) == judge(copy.deepcopy(node()))


def test_passwords_are_no_part_of_it() -> None:
    failure = {"stage": "image", "message": "pull http://user:hunter2@mirror/x failed"}
    record = judge(node(failure=failure))
    assert "hunter2" not in json.dumps(record) + acceptance.text(record)


def test_simulated_is_said_at_once() -> None:
    assert "SIMULATED" in acceptance.text(judge(node(simulated=True))).split("Hardware")[0]


def test_text_tells_everything_that_counts() -> None:
    told = acceptance.text(judge(node()))
    for word in (
        "ACCEPTED",
        "alice@controller",
        "S4123",
        "132262110",
        "900-21001-0020-000",
        "580.95.05 open",
        "tensorflow/tensorflow@sha256:2",
        "71 °C (mean 64)",
        "SHA256:abc",
        "was known before the first login",
    ):
        assert word in told
    assert max(len(line) for line in told.splitlines()) < 200


GPUS = st.builds(
    gpu,
    st.integers(0, 7),
    temperature_c=st.none() | st.fixed_dictionaries({"max": st.floats(0, 120), "mean": st.floats(0, 120)}),
    samples=st.integers(0, 60),
    ecc_uncorrected=st.none() | st.integers(0, 3),
    throttled=st.none() | st.dictionaries(st.sampled_from(["hw_slowdown", "sw_power_cap"]), st.floats(0, 9)),
    lost=st.none() | st.just("GPU is lost"),
    remapped_rows=st.none(),
)


@given(
    st.lists(GPUS, max_size=4),
    st.none() | st.just([]) | st.just([{"xid": 13, "line": "Xid 13"}]),
    st.booleans(),
)
def test_accepted_means_that_nothing_speaks_against_it(
    gpus: list[dict[str, Any]], xids: Any, watches: bool
) -> None:
    known = node()
    known["watch"] = {**known["watch"], "gpus": gpus, "xids": xids} if watches else None
    record = judge(known)
    bad = [check for check in record["checks"] if check["ok"] is False]
    assert (record["verdict"] == "accepted") == (not bad)
    assert record["because"] and all(record["because"])
    if record["verdict"] == "accepted":
        assert xids == [] and len(gpus) >= 2
        assert not any(each["lost"] or each["ecc_uncorrected"] for each in gpus)
        assert all((each["temperature_c"] or {"max": 0})["max"] <= 87 for each in gpus)
    assert acceptance.is_genuine(record)
    assert acceptance.text(record)
