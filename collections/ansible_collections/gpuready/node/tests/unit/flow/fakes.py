"""A docker that does as the test says."""

from __future__ import annotations

#: A docker that behaves as the test says, and writes down how it was called.
FAKE_DOCKER = """#!/usr/bin/env python3
import json, os, sys, time
state = os.environ["FAKE_DOCKER"]
with open(os.path.join(state, "calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
with open(os.path.join(state, "behaviour.json")) as stream:
    behaviour = json.load(stream)
if sys.argv[1:3] == ["container", "inspect"]:
    if "container" in behaviour:
        print(json.dumps([behaviour["container"]]))
        sys.exit(0)
    print("Error: No such container: " + sys.argv[3], file=sys.stderr)
    sys.exit(1)
if sys.argv[1] in ("exec", "logs", "ps", "info") or "--entrypoint" in sys.argv:
    said = behaviour.get("script" if sys.argv[1] in ("exec", "run") else sys.argv[1], "")
    sys.stdout.write(said if isinstance(said, str) else said["with" if "--gpus" in sys.argv else "without"])
    sys.exit(0)
if sys.argv[1:3] == ["image", "inspect"]:
    if "image" in behaviour:
        print(json.dumps([behaviour["image"]]))
        sys.exit(0)
    print(behaviour.get("inspect_error", "Error: No such image: " + sys.argv[3]), file=sys.stderr)
    sys.exit(1)
if sys.argv[1] == "run":
    probe = sys.stdin.read()
    with open(os.path.join(state, "probe"), "w") as stream:
        stream.write(probe)
    sys.stdout.write(behaviour.get("stdout", ""))
    sys.stderr.write(behaviour.get("stderr", ""))
    sys.stdout.flush()
    sys.stderr.flush()
    deadline = time.time() + behaviour.get("seconds", 0)
    while time.time() < deadline and not os.path.exists(os.path.join(state, "killed")):
        time.sleep(0.02)
    sys.exit(behaviour.get("rc", 0))
if sys.argv[1] == "kill":
    open(os.path.join(state, "killed"), "w").close()
"""
