# Apache-2.0 (see LICENSE)
"""The workbenches (role gpu_workbench): what to configure, start and remove, and why."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import owned_files, workbench_files, workbenches
from .draft import Draft, listing
from .requirements import dig
from .wish_words import nearest
from .workbench_names import unit_name

ROLE, LAYER = "gpu_workbench", "application"


def plan_workbench(work: Draft) -> None:
    if any(row["id"] == "wishes.invalid" and row["role"] == ROLE for row in work.conflicts):
        return  # what is wanted is not known: nothing is taken away because of it
    wanted = [user for user in work.wishes["gpu_workbench_users"] if user["state"] == "present"]
    observed = {row["name"]: row for row in work.see("application", "workbenches") or []}
    _refuse_exposure(work, wanted)
    settings = _settings(work)
    rows = []
    for user in wanted:
        recipe = _recipe_of(work, user)
        if recipe is None:
            continue
        gpus = _gpus_of(work, user, settings.launch_way)
        _refuse_too_many_cpus(work, user)
        row = workbench_files.row_of(dict(user, gpus=gpus), recipe["image"], settings)
        _refuse_other_owner(work, row, observed.get(user["name"]))
        rows.append((row, recipe))
    _refuse_taken_ports(work, [row for row, _ in rows], observed)
    names = {user["name"] for user in wanted}
    absent = sorted(name for name in observed if name not in names)
    if rows or absent:
        work.workbench = {
            "bind_address": settings.bind_address,
            "users": [row for row, _ in rows],
            "absent": absent,
        }
    _plan_users(work, rows, observed)
    if absent:
        work.act(
            "workbench.remove",
            "take away the workbench%s of %s" % ("es" if len(absent) > 1 else "", listing(absent)),
            "gpu_workbench_users does not have them any more",
            ["%s has a workbench on the node" % name for name in absent] + ["homes are kept"],
        )


def _settings(work: Draft) -> workbench_files.Settings:
    wishes = work.wishes
    return workbench_files.Settings(
        bind_address=wishes["gpu_workbench_bind_address"],
        auth=wishes["gpu_workbench_auth"],
        secret_bytes=wishes["gpu_workbench_token_length"],
        certificate=wishes["gpu_workbench_tls_certificate"],
        key=wishes["gpu_workbench_tls_key"],
        homes=wishes["gpu_workbench_home_directory"],
        hostname=work.see("host", "hostname") or "workbench",
        launch_way=dig(work.runtime, "launch", "way") or "gpus",
        driver=dig(work.driver, "version") or work.see("driver", "userspace", "version") or "",
    )


# refusals ---------------------------------------------------------------------------------------------------


def _refuse_exposure(work: Draft, wanted: List[Mapping[str, Any]]) -> None:
    wishes = work.wishes
    address = wishes["gpu_workbench_bind_address"]
    certificate, key = wishes["gpu_workbench_tls_certificate"], wishes["gpu_workbench_tls_key"]
    jupyter = [user["name"] for user in wanted if user["jupyter_port"] is not None]
    if bool(certificate) != bool(key):
        there, missing = ("certificate", "key") if certificate else ("key", "certificate")
        work.refuse(
            "workbench.tls_incomplete",
            LAYER,
            ROLE,
            "gpu_workbench_tls_%s is set and gpu_workbench_tls_%s is not" % (there, missing),
            ["TLS needs both"],
            ["set gpu_workbench_tls_%s to a file on the node" % missing, "set neither"],
        )
    elif jupyter and not certificate and not workbenches.is_loopback(address):
        work.refuse(
            "workbench.exposed_without_tls",
            LAYER,
            ROLE,
            "gpu_workbench_bind_address %s opens Jupyter to the network without TLS" % address,
            [
                "whoever reads along gets the token, and with it a shell",
                "Jupyter is wanted for %s" % listing(jupyter),
            ],
            [
                "set gpu_workbench_tls_certificate and gpu_workbench_tls_key to files on the node",
                "set gpu_workbench_bind_address: 127.0.0.1 and reach it with ssh -L",
            ],
        )


def _recipe_of(work: Draft, user: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    """The user's derived image, which has what the user wants of it; or None, and a conflict says why."""
    rows = {row["name"]: row for row in work.recipes}
    declared = [item.get("name") for item in work.wishes["framework_image_recipes"]]
    name = user["recipe"] or work.wishes["gpu_workbench_recipe"]
    if not name and len(declared) == 1:
        name = declared[0]
    if name in rows:
        recipe = rows[name]
        for service, port, word in (
            ("jupyter", "jupyter_port", "Jupyter"),
            ("ssh", "ssh_port", "an SSH server"),
        ):
            if user[port] is not None and not recipe[service]:
                work.refuse(
                    "workbench.recipe_without_%s" % service,
                    LAYER,
                    ROLE,
                    "%s's workbench is to have %s, but the recipe %s does not put it into the image"
                    % (user["name"], word, name),
                    ["%s is %s" % (port, user[port])],
                    [
                        "set %s: true in the recipe %s" % (service, name),
                        "set %s: null for %s" % (port, user["name"]),
                    ],
                )
                return None
        return recipe
    if name in declared:
        return None  # the recipe itself is in conflict, which says more
    if name:
        what = "%s's workbench wants the recipe %r, which framework_image_recipes does not have" % (
            user["name"],
            name,
        )
    else:
        what = "it is not said which image %s's workbench runs" % user["name"]
    work.refuse(
        "workbench.recipe_unknown",
        LAYER,
        ROLE,
        what,
        ["recipes: %s" % (listing([str(item) for item in declared]) or "none")],
        ["set recipe: %s" % near for near in (nearest(name, declared) if declared else [])]
        or [
            "declare a recipe with jupyter: true in framework_image_recipes",
            "name a recipe in gpu_workbench_recipe",
        ],
    )
    return None


def _gpus_of(work: Draft, user: Mapping[str, Any], way: str) -> Any:
    """The GPUs that the user gets, by index for CDI; a GPU that the node does not have is refused."""
    if user["gpus"] == "all":
        return "all"
    devices = work.see("driver", "devices")
    indexes = {str(index) for index in range(len(work.gpus))}
    by_uuid = {str(device.get("uuid")): str(device.get("index")) for device in devices or []}
    found = []
    for item in user["gpus"]:
        known = item in indexes if item.isdigit() else item in by_uuid or devices is None
        if not known:
            work.refuse(
                "workbench.gpu_unknown",
                LAYER,
                ROLE,
                "%s's workbench is to have the GPU %s, which %s does not have"
                % (user["name"], item, work.host),
                [
                    "GPU %s: %s" % (index, uuid)
                    for uuid, index in sorted(by_uuid.items(), key=lambda pair: pair[1])
                ]
                or ["it has %d GPU%s" % (len(indexes), "" if len(indexes) == 1 else "s")],
                ["set gpus: [%s] or gpus: all for %s" % (min(indexes or ["0"]), user["name"])],
            )
        found.append(by_uuid.get(item, item) if way == "cdi" else item)
    return found


def _refuse_too_many_cpus(work: Draft, user: Mapping[str, Any]) -> None:
    """Docker starts no container with more processors than there are."""
    there = work.see("container_runtime", "docker", "live", "cpus")
    if user["cpus"] is None or there is None or float(user["cpus"]) <= there:
        return
    work.refuse(
        "workbench.too_many_cpus",
        LAYER,
        ROLE,
        "%s's workbench is to have %s processors, and %s has %d"
        % (user["name"], user["cpus"], work.host, there),
        ["Docker starts no such container"],
        ['set cpus: "%d" or less for %s' % (there, user["name"]), "leave cpus out"],
    )


def _refuse_taken_ports(
    work: Draft, rows: List[Dict[str, Any]], observed: Mapping[str, Mapping[str, Any]]
) -> None:
    """A port that somebody else listens on. What our own workbenches hold is ours to give away."""
    own = {port for row in observed.values() for port in dig(row, "container", "ports") or []}
    for row in rows:
        for service in ("jupyter", "ssh"):
            place = row[service]
            if place is None or place["port"] in own:
                continue
            for listener in work.see("application", "listening") or []:
                if listener["port"] == place["port"] and _same(listener["address"], place["address"]):
                    work.refuse(
                        "workbench.port_taken",
                        LAYER,
                        ROLE,
                        "port %d of %s, %s_port of %s's workbench, is taken"
                        % (place["port"], work.host, service, row["name"]),
                        [
                            "%s listens on %s:%d"
                            % (
                                _who(listener),
                                workbench_files.bracketed(listener["address"]),
                                listener["port"],
                            )
                        ],
                        [
                            "set another %s_port for %s" % (service, row["name"]),
                            "stop %s on the node" % (listener["process"] or "what listens there"),
                        ],
                    )
                    break


def _refuse_other_owner(work: Draft, row: Mapping[str, Any], seen: Optional[Mapping[str, Any]]) -> None:
    """A home keeps its owner; giving it to somebody else is nothing to do in passing."""
    home = (seen or {}).get("home") or {}
    if row["uid"] is None or home.get("path") != row["home"] or home.get("uid") in (None, row["uid"]):
        return
    work.refuse(
        "workbench.home_owner",
        LAYER,
        ROLE,
        "%s's workbench is to run as %d, but its home belongs to %d" % (row["name"], row["uid"], home["uid"]),
        ["%s belongs to %d on %s" % (row["home"], home["uid"], work.host)],
        [
            "on the node: systemctl stop %s && chown -R %d:%d %s"
            % (row["unit"], row["uid"], row["uid"], row["home"]),
            "leave uid out for %s" % row["name"],
        ],
    )


def _who(listener: Mapping[str, Any]) -> str:
    if listener["process"] is None:
        return "somebody"
    return "%s (process %s)" % (listener["process"], listener["pid"])


def _same(one: str, other: str) -> bool:
    """Do two addresses get in each other's way?"""
    everywhere = ("0.0.0.0", "::")
    return one == other or one in everywhere or other in everywhere


# what is to be done -----------------------------------------------------------------------------------------


def _plan_users(
    work: Draft,
    rows: List[Tuple[Dict[str, Any], Mapping[str, Any]]],
    observed: Mapping[str, Mapping[str, Any]],
) -> None:
    files = work.see("application", "files")
    configure: Dict[str, List[str]] = {}
    start: Dict[str, List[str]] = {}
    for row, recipe in rows:
        seen = observed.get(row["name"])
        wrong = owned_files.wrong(files, row["files"]) + _wrong_secrets(row, seen) + _surplus(row, files)
        if wrong:
            configure[row["name"]] = wrong
        why = _why_start(work, row, recipe, seen)
        if why:
            start[row["name"]] = why
    if configure:
        work.act(
            "workbench.configure",
            "write what the workbench%s of %s need%s"
            % (
                "es" if len(configure) > 1 else "",
                listing(sorted(configure)),
                "" if len(configure) > 1 else "s",
            ),
            "the node does not have it as it is declared",
            _evidence(configure),
        )
    if start:
        work.act(
            "workbench.start",
            "start the workbench%s of %s" % ("es" if len(start) > 1 else "", listing(sorted(start))),
            "it is to run, and with what is declared",
            _evidence(start),
            restarts=sorted(
                unit_name(name) for name in start if dig(observed.get(name) or {}, "container", "running")
            ),
        )


def _evidence(found: Mapping[str, List[str]]) -> List[str]:
    """A line per user where everything is new, else all there is to see."""
    lines = []
    for name in sorted(found):
        if len(found[name]) > 4:
            lines.append("%s: %s, and %d more" % (name, found[name][0], len(found[name]) - 1))
        else:
            lines += ["%s: %s" % (name, line) for line in found[name]]
    return lines


def _wrong_secrets(row: Mapping[str, Any], seen: Optional[Mapping[str, Any]]) -> List[str]:
    """What of the files that only the node knows is missing or unsafe."""
    if seen is None:
        return ["there is no home %s" % row["home"]]
    found = []
    if not dig(seen, "home", "exists") or dig(seen, "home", "path") != row["home"]:
        found.append("there is no home %s" % row["home"])
    if row["jupyter"] is not None:
        token = seen.get("token") or {}
        if token.get("auth") != row["auth"] or not token.get("exists"):
            found.append("there is no %s for Jupyter" % row["auth"])
        elif token["mode"] != "0600" or token["uid"] != 0:
            found.append("the %s has mode %s, and is not root's alone" % (row["auth"], token["mode"]))
        elif (token["length"] or 0) < letters(row["secret_bytes"]):
            found.append(
                "the %s has %d letters, %d are wanted"
                % (row["auth"], token["length"] or 0, letters(row["secret_bytes"]))
            )
    if row["ssh"] is not None and not seen.get("host_keys"):
        found.append("the SSH server has no host keys")
    if row["tls"] is not None and seen.get("certificate_current") is not True:
        found.append("the certificate is not %s" % row["tls"]["certificate"])
    return found


def letters(count: int) -> int:
    """How long a URL-safe token of so many bytes is.

    >>> letters(32), letters(16)
    (43, 22)
    """
    return (count * 8 + 5) // 6


def _surplus(row: Mapping[str, Any], files: Optional[Mapping[str, Any]]) -> List[str]:
    wanted = [file["path"] for file in row["files"]] + workbench_files.secrets_of(row)
    return ["%s is left over" % path for path in owned_files.surplus(files, row["folder"], wanted)]


def _why_start(
    work: Draft, row: Mapping[str, Any], recipe: Mapping[str, Any], seen: Optional[Mapping[str, Any]]
) -> List[str]:
    unit = (seen or {}).get("unit") or {}
    container = (seen or {}).get("container") or {}
    found = []
    if not unit.get("enabled"):
        found.append("%s is not enabled" % row["unit"])
    if not unit.get("active") or not container.get("running"):
        found.append("it does not run")
        return found
    if container["config"] != row["config"]:
        found.append("it runs with another configuration")
    elif not recipe.get("present") or recipe.get("base_changed"):
        found.append("its image is built anew")
    else:
        image = _image_id(work, row["image"])
        if image is not None and image != container["image_id"]:
            found.append("it runs with an older image of the name %s" % row["image"])
    return found


def _image_id(work: Draft, reference: str) -> Optional[str]:
    for image in work.see("framework", "images") or []:
        if image.get("ref") == reference:
            return str(image["id"])
    return None
