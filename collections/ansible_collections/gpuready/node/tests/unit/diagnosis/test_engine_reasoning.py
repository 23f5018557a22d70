"""How causes are weighed: facts before strings, the specific before the generic, roots before the rest."""

from __future__ import annotations

import json

from small_world import alternatives, cause, diagnose, knowledge, message, roots

#: What no fact of a test decides.
SURE = ["test.c", "test.d"]

MESSAGES = [
    message("smi.generic", "no gpu here"),
    message("tf.generic", "nothing to compute on"),
    message("torch.generic", "processor only"),
    message("jax.generic", "falling back"),
    message("dmesg.specific", r"key of (?P<module>\w+) rejected"),
    message("tf.cudnn", r"libcudnn (?P<soname>\S+) is absent"),
    message("tf.noise", "NUMA node is negative", ignorable=True),
]


def test_nothing_known_is_unknown_and_shows_the_lines_that_complain():
    answer = diagnose(knowledge(MESSAGES, []), "all is quiet\nERROR: the sky fell\nERROR: the sky fell\n")
    assert answer["status"] == "unknown"
    assert answer["causes"] == []
    assert answer["unexplained"] == ["ERROR: the sky fell"]


def test_a_message_names_its_cause_with_the_line_and_the_values():
    known = knowledge(
        MESSAGES,
        [
            cause(
                "unsigned",
                title="{module} is unsigned",
                messages={"dmesg.specific": 0.9},
                fix=["sign {module}"],
            )
        ],
    )
    answer = diagnose(known, "[    1.000000] key of nvidia_drm\n  rejected\n")
    (row,) = answer["causes"]
    assert answer["status"] == "cause_found"
    assert (row["cause"], row["title"], row["fix"]) == (
        "unsigned",
        "nvidia_drm is unsigned",
        ["sign nvidia_drm"],
    )
    assert row["evidence"] == ["log: key of nvidia_drm rejected"]
    assert not row["certain"]
    assert answer["first_broken"] == "toolkit"
    assert json.loads(json.dumps(answer)) == answer


def test_a_specific_line_beats_generic_ones_however_many_there_are():
    generic = {"smi.generic": 0.45, "tf.generic": 0.45, "torch.generic": 0.45, "jax.generic": 0.45}
    known = knowledge(
        MESSAGES,
        [cause("common", messages=generic), cause("unsigned", messages={"dmesg.specific": 0.9, **generic})],
    )
    lines = ["no gpu here", "nothing to compute on", "processor only", "falling back"] * 20
    assert roots(diagnose(known, "\n".join(lines)))[0] in ("common", "unsigned")
    assert roots(diagnose(known, "\n".join([*lines, "key of nvidia rejected"]))) == ["unsigned"]


def test_repeating_a_line_does_not_make_it_truer():
    known = knowledge(MESSAGES, [cause("common", messages={"smi.generic": 0.4})])
    once, often = (diagnose(known, "no gpu here\n" * count) for count in (1, 50))
    assert once["causes"][0]["confidence"] == often["causes"][0]["confidence"]


def test_two_messages_on_one_line_are_one_piece_of_evidence():
    messages = [message("a.whole", "no gpu here today"), message("a.part", "gpu here")]
    known = knowledge(messages, [cause("common", messages={"a.whole": 0.6, "a.part": 0.6})])
    assert diagnose(known, "no gpu here today")["causes"][0]["confidence"] == 0.6


def test_a_fact_that_denies_the_condition_beats_every_string():
    known = knowledge(MESSAGES, [cause("unloaded", when={"all": ["test.a"]}, messages={"smi.generic": 0.9})])
    assert roots(diagnose(known, "no gpu here")) == ["unloaded"]
    assert roots(diagnose(known, "no gpu here", a=False)) == []


def test_a_refuting_fact_beats_every_string():
    known = knowledge(MESSAGES, [cause("unloaded", refuted_by=["test.b"], messages={"smi.generic": 0.9})])
    assert roots(diagnose(known, "no gpu here", b=False)) == ["unloaded"]
    assert roots(diagnose(known, "no gpu here", b=True)) == []


def test_an_established_cause_is_certain_and_first_among_those_that_say_the_same():
    known = knowledge(
        MESSAGES,
        [
            cause("missing", messages={"smi.generic": 0.6}),
            cause("stale", when={"all": ["test.a", {"not": "test.b"}]}, messages={"smi.generic": 0.3}),
        ],
    )
    answer = diagnose(known, "no gpu here", a=True, b=False)
    assert roots(answer) == ["stale"]
    assert answer["causes"][0]["certain"]
    assert answer["causes"][0]["evidence"] == ["a is True", "b is False", "log: no gpu here"]


def test_what_follows_is_a_consequence_and_no_further_cause():
    known = knowledge(
        MESSAGES,
        [
            cause("unsigned", link="secure_boot", messages={"dmesg.specific": 0.9}, explains=["unloaded"]),
            cause("unloaded", link="module", messages={"smi.generic": 0.8}, explains=["tf.generic"]),
        ],
    )
    answer = diagnose(known, "no gpu here\nnothing to compute on\nkey of nvidia rejected")
    assert roots(answer) == ["unsigned"]
    follows = [row.get("cause") or row.get("message") for row in answer["causes"][0]["consequences"]]
    assert set(follows) == {"unloaded", "smi.generic", "tf.generic"}
    assert answer["unexplained"] == []


def test_what_lies_behind_a_certain_cause_is_named_where_it_has_evidence_of_its_own():
    known = knowledge(
        MESSAGES,
        [
            cause("unsigned", link="secure_boot", messages={"dmesg.specific": 0.9}, explains=["unloaded"]),
            cause("unloaded", link="module", when="test.a", messages={"smi.generic": 0.8}),
        ],
    )
    assert roots(diagnose(known, "no gpu here", a=True)) == ["unloaded"]
    assert roots(diagnose(known, "key of nvidia rejected", a=True)) == ["unsigned"]


def test_the_same_evidence_does_not_dig_deeper():
    known = knowledge(
        MESSAGES,
        [
            cause("unsigned", link="secure_boot", messages={"smi.generic": 0.5}, explains=["unloaded"]),
            cause("unloaded", link="module", messages={"smi.generic": 0.8}),
        ],
    )
    answer = diagnose(known, "no gpu here")
    assert roots(answer) == ["unloaded"]
    assert alternatives(answer) == ["unsigned"]


def test_causes_that_explain_each_other_come_to_the_earlier_link():
    known = knowledge(
        MESSAGES,
        [
            cause("late", link="image", when="test.a", explains=["early"]),
            cause("early", link="bus", when="test.b", explains=["late"]),
        ],
    )
    assert roots(diagnose(known, a=True, b=True)) == ["early"]


def test_independent_faults_are_both_named_the_earlier_link_first():
    known = knowledge(
        MESSAGES,
        [
            cause("no-cudnn", link="libraries", messages={"tf.cudnn": 0.9}),
            cause("unsigned", link="secure_boot", messages={"dmesg.specific": 0.85}),
        ],
    )
    assert roots(diagnose(known, "libcudnn .so.8 is absent\nkey of nvidia rejected")) == [
        "unsigned",
        "no-cudnn",
    ]


def test_independent_facts_are_all_named():
    known = knowledge(
        MESSAGES,
        [cause("one", link="engine", when="test.a"), cause("two", link="packages", when="test.b")],
    )
    answer = diagnose(known, a=True, b=True)
    assert roots(answer) == ["two", "one"]
    assert answer["first_broken"] == "packages"


def test_a_weak_leftover_is_no_further_fault():
    known = knowledge(
        MESSAGES,
        [
            cause("unsigned", messages={"dmesg.specific": 0.9}),
            cause("vague", messages={"tf.generic": 0.35}),
        ],
    )
    answer = diagnose(known, "key of nvidia rejected\nerror: nothing to compute on")
    assert roots(answer) == ["unsigned"]
    assert alternatives(answer) == ["vague"]
    assert answer["unexplained"] == ["error: nothing to compute on"]


def test_ties_go_to_the_earlier_link():
    known = knowledge(
        MESSAGES,
        [
            cause("later", link="operation", messages={"tf.generic": 0.5}),
            cause("sooner", link="bus", messages={"tf.generic": 0.5}),
        ],
    )
    answer = diagnose(known, "nothing to compute on")
    assert roots(answer) == ["sooner"]
    assert alternatives(answer) == ["later"]


def test_supporting_signs_shift_the_odds():
    known = knowledge(
        MESSAGES,
        [
            cause("snap", messages={"tf.generic": 0.4}, supports={"test.a": 10}),
            cause("plain", messages={"tf.generic": 0.5}, supports={"test.a": 0.2}),
        ],
    )
    assert roots(diagnose(known, "nothing to compute on")) == ["plain"]
    assert roots(diagnose(known, "nothing to compute on", a=True)) == ["snap"]


def test_noise_is_named_as_such_and_is_neither_unknown_nor_evidence():
    answer = diagnose(knowledge(MESSAGES, []), "failed: NUMA node is negative")
    assert answer["unexplained"] == []
    assert answer["ignored"] == [{"message": "tf.noise", "line": "failed: NUMA node is negative"}]


def test_too_little_evidence_is_unknown_with_the_candidates():
    known = knowledge(MESSAGES, [cause("perhaps", messages={"tf.generic": 0.2})])
    answer = diagnose(known, "nothing to compute on")
    assert answer["status"] == "unknown"
    assert alternatives(answer) == ["perhaps"]


def test_messages_within_the_facts_count_and_those_of_the_run_without_a_gpu_do_not():
    known = knowledge(MESSAGES, [cause("unsigned", messages={"dmesg.specific": 0.9})])
    line = "[    2.100000] key of nvidia rejected"
    seen = {"gpu_stack": {"host": {"kernel_log": {"source": "dmesg", "lines": ["a line", line]}}}}
    assert diagnose(known, facts=seen)["causes"][0]["evidence"] == ["kernel log: key of nvidia rejected"]
    assert roots(diagnose(known, facts={"probes": {"with_gpu": {"log": line}}})) == ["unsigned"]
    assert roots(diagnose(known, facts={"probes": {"without_gpu": {"log": line}}})) == []


def test_the_plan_says_what_site_yml_repairs():
    known = knowledge(
        MESSAGES, [cause("one", when="test.a", repair="safe", actions=["docker.restart", "toolkit.runtime"])]
    )
    assert diagnose(known, a=True)["causes"][0]["site"] is None
    plan = {
        "actions": [{"id": "docker.restart", "reason": "it is older"}, {"id": "driver.load", "reason": "no"}]
    }
    answer = diagnose(known, facts={"plan": plan}, a=True)
    assert answer["causes"][0]["site"] == [{"id": "docker.restart", "reason": "it is older"}]
    assert answer["causes"][0]["repair"] == "safe"


def test_who_repairs_is_what_the_plan_says_of_this_node():
    """Safe is exactly what site.yml does here, and reboot what it does with one."""
    known = knowledge(
        MESSAGES,
        [cause("one", when="test.a", repair="safe", actions=["driver.reload", "host.reboot"])],
    )

    def repair(*actions, **plan):
        rows = [{"id": name, "reason": ""} for name in actions]
        return diagnose(known, facts={"plan": {"actions": rows, **plan}}, a=True)["causes"][0]["repair"]

    assert repair("driver.reload") == "safe"
    assert repair("host.reboot") == "reboot"
    assert repair("docker.restart") == "manual"
    assert repair("driver.reload", conflicts=[{"id": "apt.broken"}]) == "manual"


def test_values_that_are_not_known_keep_their_name_or_take_the_fallback():
    known = knowledge(
        MESSAGES,
        [
            cause(
                "one",
                when="test.a",
                messages={"dmesg.specific": 0.5},
                fix=[
                    "modprobe {module}",
                    "apt install linux-headers-{gpu_stack.host.kernel.running|$(uname -r)}",
                    "docker info --format '{{.Runtimes}}' ${HOME}",
                ],
            )
        ],
    )
    assert diagnose(known, a=True)["causes"][0]["fix"] == [
        "modprobe <module>",
        "apt install linux-headers-$(uname -r)",
        "docker info --format '{{.Runtimes}}' ${HOME}",
    ]
    host = {"gpu_stack": {"host": {"kernel": {"running": "6.8.0-1-generic"}}}}
    fix = diagnose(known, "key of drm rejected", host, a=True)["causes"][0]["fix"]
    assert fix[:2] == ["modprobe drm", "apt install linux-headers-6.8.0-1-generic"]


def test_a_sign_that_breaks_is_unknown_and_said(monkeypatch):
    from gpuready.diagnosis import signs

    def breaks(_facts):
        raise KeyError("oops")

    monkeypatch.setitem(signs.SIGNS, "test.a", signs.Definition("test.a", "breaks", breaks))
    known = knowledge(MESSAGES, [cause("one", when="test.a"), cause("two", when="test.b")])
    answer = diagnose(known, b=True)
    assert roots(answer) == ["two"]
    assert answer["problems"] == [{"sign": "test.a", "error": "KeyError: 'oops'"}]


def test_in_a_text_what_explains_a_message_comes_before_what_only_its_values_say():
    known = knowledge(
        MESSAGES,
        [
            cause("by-the-way", link="bus", when="test.a"),
            cause("asked-about", link="libraries", when="test.b", messages={"tf.cudnn": 0.9}),
        ],
    )
    text = "libcudnn .so.8 is absent"
    assert roots(diagnose(known, text, a=True, b=True)) == ["asked-about", "by-the-way"]
    node = {"gpu_stack": {"schema": 1}}
    assert roots(diagnose(known, text, node, a=True, b=True)) == ["by-the-way", "asked-about"]


def test_of_a_long_line_the_part_is_shown_that_matters():
    known = knowledge(MESSAGES, [cause("unsigned", messages={"dmesg.specific": 0.9})])
    line = "prefix " * 60 + "key of nvidia rejected" + " suffix" * 60
    (evidence,) = diagnose(known, line)["causes"][0]["evidence"]
    assert "key of nvidia rejected" in evidence
    assert len(evidence) < 230


def test_what_people_say_about_an_error_is_no_error():
    lines = ["I get an error when I start it", "my GPU is not found", "$ dmesg | grep -i error", "errors: 0"]
    lines += [
        'level=info msg="stopped" error="<nil>"',
        "I cuda.cc:12] unknown errors may follow",
        "INFO: error log",
    ]
    text = "\n".join([*lines, "ERROR: it broke"])
    assert diagnose(knowledge(MESSAGES, []), text)["unexplained"] == ["ERROR: it broke"]


def test_what_the_reader_took_out_of_a_text_is_no_second_text():
    known = knowledge(MESSAGES, [cause("unsigned", messages={"dmesg.specific": 0.9})])
    line = "key of nvidia rejected"
    facts = {"gpu_stack": {"host": {"kernel_log": {"lines": [line]}}}}
    assert diagnose(known, f"first\n{line}\nlast", facts)["causes"][0]["evidence"] == [f"log: {line}"]


def test_what_follows_speaks_for_a_cause_where_the_facts_nearly_decide():
    known = knowledge(
        MESSAGES,
        [
            cause("not-asked", link="request", explains=["tf.generic"], messages={}, when={"all": SURE}),
            cause("unloaded", link="module", messages={"tf.generic": 0.45}),
        ],
    )
    assert roots(diagnose(known, "nothing to compute on")) == ["unloaded"]
    hinted = knowledge(
        MESSAGES,
        [
            cause(
                "not-asked",
                link="request",
                explains=["tf.generic"],
                when={"all": SURE},
                supports={"test.a": 30},
            ),
            cause("unloaded", link="module", messages={"tf.generic": 0.45}),
        ],
    )
    assert roots(diagnose(hinted, "nothing to compute on", a=True)) == ["not-asked"]
    assert roots(diagnose(hinted, "all is well", a=True)) == []


def test_the_surer_root_comes_first_unless_they_are_about_equally_sure():
    def first(early, late):
        known = knowledge(
            MESSAGES,
            [
                cause("early", link="bus", messages={"dmesg.specific": early}),
                cause("late", link="libraries", messages={"tf.cudnn": late}),
            ],
        )
        return roots(diagnose(known, "key of nvidia rejected\nlibcudnn .so.8 is absent"))

    assert first(0.55, 0.9) == ["late", "early"]
    assert first(0.6, 0.7) == ["late", "early"]
    assert first(0.82, 0.9) == ["early", "late"]
    assert first(0.55, 0.6) == ["early", "late"]


def test_what_announces_or_follows_an_explained_error_is_explained_too():
    known = knowledge(MESSAGES, [cause("unsigned", messages={"dmesg.specific": 0.9})])
    lines = [
        "error one",
        "error two",
        "Encountered errors:",
        "key of nvidia rejected",
        "error: exit 1",
        "error three",
    ]
    assert diagnose(known, "\n".join(lines))["unexplained"] == ["error one", "error three"]


def test_healthy_needs_a_proof():
    known = knowledge(MESSAGES, [])
    works = {"gpus_listed": 1, "available": True, "name": "tensorflow"}
    listed = {
        "devices": [{"index": 0, "name": "Tesla T4"}],
        "loaded": {"version": "580.95.05", "modules": ["nvidia", "nvidia_uvm"]},
        "nvml": {"error": None, "driver_version": "580.95.05"},
    }
    assert diagnose(known, "all is well")["status"] == "unknown"
    assert diagnose(known, facts={"gpu_stack": {"driver": listed}})["status"] == "healthy"
    assert diagnose(known, "ERROR: boom", {"gpu_stack": {"driver": listed}})["status"] == "unknown"
    assert diagnose(known, "ERROR: boom", {"framework": works})["status"] == "healthy"
    assert (
        diagnose(known, facts={"framework": {**works, "gpus_listed": 0, "available": False}})["status"]
        == "unknown"
    )


def test_a_link_that_looks_whole_is_broken_where_a_root_sits():
    known = knowledge(MESSAGES, [cause("unsigned", link="nvml", messages={"dmesg.specific": 0.9})])
    driver = {
        "devices": [{"index": 0, "name": "Tesla T4"}],
        "loaded": {"version": "580.95.05", "modules": ["nvidia", "nvidia_uvm"]},
        "nvml": {"error": None, "driver_version": "580.95.05"},
    }
    facts = {"gpu_stack": {"driver": driver}}
    assert diagnose(known, "all is well", facts)["first_broken"] is None
    assert diagnose(known, "key of nvidia rejected", facts)["first_broken"] == "nvml"
