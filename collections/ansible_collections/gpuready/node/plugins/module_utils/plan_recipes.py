# Apache-2.0 (see LICENSE)
"""The derived images (role framework_image, `framework_image_recipes`): what to build, and why."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from . import recipes, wheels
from .catalog import Framework
from .draft import Draft, listing
from .plan_framework import plain_reference, pull_reference
from .wish_words import nearest

ROLE = "framework_image"
VARIABLE = "framework_image_recipes"
#: gpuready's own containers: a workbench that runs from an image which nobody wants any more gets another.
WORKBENCH = "gpuready-workbench-"


def describe_recipes(work: Draft) -> None:
    """The rows of `workloads` and `recipes`, of an impossible node too; what is present comes later."""
    registry = work.wishes["framework_image_push_registry"].split("://", 1)[-1].rstrip("/")
    fleet = work.wishes["framework_image_build"] == "fleet"
    for wish in work.wishes[VARIABLE]:
        resolved = _resolve(work, wish)
        if resolved is None:
            continue
        base, workload, comes_in = resolved
        image = base.image if base else wish["base"]
        assert image is not None
        index_url = wheels.index_url(work.wishes["framework_venv_index_url"], workload) if comes_in else None
        needed = wheels.requirements(workload, index_url) if index_url else []
        text = recipes.dockerfile(wish, image, needed)
        parts = recipes.parts_of(wish, comes_in)
        digest = recipes.content_hash(text, parts)
        own = recipes.image_of(wish["name"], digest)
        shared = "%s/%s" % (registry, own) if fleet and registry else None
        work.recipes.append(
            {
                "name": wish["name"],
                "image": own,
                "base": {
                    "workload": base.name if base else None,
                    "image": image,
                    "pull": None if base else _pull(work, image),
                },
                "workload": workload.name,
                "wheel": needed,
                "wheel_index_url": wheels.without_login(index_url) if index_url else None,
                "hash": digest,
                "dockerfile": text,
                "parts": [part.name for part in parts],
                "present": False,
                "base_changed": False,
                "jupyter": wish["jupyter"],
                "ssh": wish["ssh"],
                "push": shared,
                "pull": shared,
            }
        )
        work.workload_rows.append(
            {
                "name": wish["name"],
                "image": own,
                "pull": None,
                "probe": workload.probe,
                "image_size_mib": None,
                "present": False,
                "expect": dict(workload.expect),
                "recipe": wish["name"],
            }
        )


def _pull(work: Draft, image: str) -> str:
    """A base that says itself which registry it is from comes from there."""
    first, slash, _rest = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return pull_reference(image, work.wishes["framework_image_registry_mirror"])


def _resolve(work: Draft, wish: Mapping[str, Any]) -> Optional[Tuple[Optional[Framework], Framework, bool]]:
    """(the base's workload if it is one, what the image holds in the end, whether that comes in)."""
    where = "%s: %s" % (VARIABLE, wish["name"])
    if work.catalog.framework(wish["name"]) is not None:
        work.refuse(
            "framework.name_taken",
            "framework",
            ROLE,
            "the recipe %s has the name of a workload, and results would be mixed up" % wish["name"],
            ["%s: name: %s" % (VARIABLE, wish["name"])],
            ["give the recipe another name"],
        )
        return None
    base = work.catalog.framework(wish["base"]) if recipes.is_workload_like(wish["base"]) else None
    workload = work.catalog.framework(wish["workload"]) if wish["workload"] else base
    if (base is None and recipes.is_workload_like(wish["base"])) or (wish["workload"] and workload is None):
        return None  # choose_workloads has said so
    if base is not None and base.image is None:
        work.refuse(
            "framework.recipe_base_without_image",
            "framework",
            ROLE,
            "the recipe %s builds on %s, which is a wheel and no image" % (wish["name"], base.name),
            ["%s: base: %s" % (where, wish["base"])],
            ["set workload: %s, and as base the image that it goes into" % base.name],
        )
        return None
    if workload is None:
        work.refuse(
            "framework.recipe_without_workload",
            "framework",
            ROLE,
            "the recipe %s builds on the image %s, and does not say what is in it"
            % (wish["name"], wish["base"]),
            ["after the build the framework is asked for its GPUs: gpuready must know which one"],
            ["set its workload to what the image holds, or to a wheel that comes in (pytorch-2.5-cu124)"],
        )
        return None
    comes_in = workload is not base and workload.wheel is not None
    if base is not None and workload is not base and not comes_in:
        known = [row.name for row in work.catalog.frameworks.values() if row.wheel is not None]
        work.refuse(
            "framework.no_wheel",
            "framework",
            ROLE,
            "the recipe %s wants %s in %s, which gpuready knows as an image and not as a wheel"
            % (wish["name"], workload.name, base.name),
            ["%s: workload: %s" % (where, wish["workload"])],
            ["use one of the wheels: %s" % ", ".join(nearest("pytorch-2", known, 3)), "leave workload out"],
        )
        return None
    return base, workload, comes_in


def plan_recipes(work: Draft) -> None:
    images = work.see("framework", "images")
    present = {row["image"]: _look(work, row, images) for row in work.recipes}
    for workload in work.workload_rows:
        if workload.get("recipe"):
            workload["present"] = not present[workload["image"]]
    for row in work.recipes:
        _check_wheel(work, row)
    wanted = [row for row in work.recipes if present[row["image"]]]
    if wanted:
        _build(work, wanted, [line for row in wanted for line in present[row["image"]]])
    _prune(work, images)


def _look(work: Draft, row: Dict[str, Any], images: Optional[List[Dict[str, Any]]]) -> List[str]:
    """Why this image is to be built, a line each; nothing where it is as it should be."""
    have = next((image for image in images or [] if image["ref"] == row["image"]), None)
    if have is None:
        evidence = ["%s is not on the node" % row["image"]]
        if images is None and work.see("container_runtime", "docker", "installed"):
            evidence.append("dockerd could not be asked for its images")
        return evidence
    labels = have.get("labels")
    if labels is None:  # it is there, and what it says of itself could not be read
        row["present"] = True
        return []
    evidence = []
    if labels.get(recipes.HASH) != row["hash"]:
        evidence.append("%s was made from another recipe" % row["image"])
    if not labels.get(recipes.CHECKED):
        evidence.append("%s has not passed the check after its build" % row["image"])
    base = base_of(images, row["base"]["image"])
    built_from = labels.get(recipes.BASE)
    if base is not None and built_from != base["id"]:
        row["base_changed"] = True
        evidence.append(
            "%s was built from %s, and %s is now %s"
            % (row["image"], _short(built_from), row["base"]["image"], _short(base["id"]))
        )
    row["present"] = not evidence
    return evidence


def base_of(images: Optional[List[Dict[str, Any]]], reference: str) -> Optional[Dict[str, Any]]:
    """The base's image as it is on the node."""
    wanted = plain_reference(reference)
    for image in images or []:
        if wanted in (plain_reference(image["ref"]), *(plain_reference(d) for d in image["digests"])):
            return image
    return None


def _short(identifier: Optional[str]) -> str:
    return (
        (identifier or "an unknown image").replace("sha256:", "")[:12] if identifier else "an unknown image"
    )


def _check_wheel(work: Draft, row: Mapping[str, Any]) -> None:
    """Wheel and index agree; the driver's part is the resolver's."""
    if not row["wheel_index_url"]:
        return
    if "@" in urlsplit(work.wishes["framework_venv_index_url"]).netloc:
        work.refuse(
            "framework.index_login",
            "framework",
            ROLE,
            "the recipe %s gets its wheel from %s with a login, which would stay in the image's history"
            % (row["name"], row["wheel_index_url"]),
            ["framework_venv_index_url holds a user or a password"],
            ["name an index that the node may read without one (a mirror in the site's own network)"],
        )
    base = work.catalog.framework(row["base"]["workload"]) if row["base"]["workload"] else None
    for found in wheels.disagreements(
        work.catalog.frameworks[row["workload"]],
        index_url=row["wheel_index_url"],
        python=base.python if base else None,
        subject="the recipe %s" % row["name"],
        alternatives=tuple(work.catalog.frameworks.values()),
    ):
        work.refuse(found.id, "framework", ROLE, found.what, found.because, found.options)


def _build(work: Draft, wanted: List[Dict[str, Any]], evidence: List[str]) -> None:
    shared = work.wishes["framework_image_build"] == "fleet"
    if shared and not work.wishes["framework_image_push_registry"]:
        work.refuse(
            "framework.push_registry_missing",
            "framework",
            ROLE,
            "framework_image_build is fleet, and no registry is named that the images go to",
            ["one node builds, and the others get the image from a registry"],
            ["set framework_image_push_registry: HOST:PORT", "set framework_image_build: node"],
        )
    what = ["%s from %s" % (row["image"], row["base"]["image"]) for row in wanted]
    work.act(
        "image.build",
        ("get or build %s" if shared else "build %s") % listing(what),
        "the recipe is to be on the node, as an image that was checked against its base",
        evidence,
    )


def _prune(work: Draft, images: Optional[List[Dict[str, Any]]]) -> None:
    """gpuready's images that no recipe wants, once no container but workbenches, which move on, uses them."""
    wanted = {name for row in work.recipes for name in (row["image"], row["push"], row["pull"])}
    evidence = [
        "the former %s goes when %s has moved on to the new one" % (row["image"], listing(row["users"]))
        for row in _replaced(work, images)
    ]
    for image in images or []:
        name = (image.get("labels") or {}).get(recipes.RECIPE)
        if not name or image["ref"] in wanted:
            continue
        users = image.get("containers")
        others = [user for user in users or [] if not user.startswith(WORKBENCH)]
        if others:
            work.note(
                "%s is not wanted any more, but used by %s: it goes when that has been removed"
                % (image["ref"], listing(others))
            )
        elif users is not None:
            work.surplus_images.append(image["ref"])
            evidence.append("no recipe wants %s (made from %s)" % (image["ref"], name))
    if evidence:
        what = listing(work.surplus_images) or "former images"
        work.act("image.prune", "remove %s" % what, "they only take up disk", evidence)


def _replaced(work: Draft, images: Optional[List[Dict[str, Any]]]) -> List[Dict[str, Any]]:
    """Images that a build takes the name from while a workbench runs from them."""
    taken = {row["image"] for row in work.recipes if row["base_changed"]}
    return [
        {"image": image["ref"], "users": image["containers"]}
        for image in images or []
        if image["ref"] in taken and image.get("containers")
    ]
