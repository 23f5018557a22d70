"""Putting images into the lab's registry without an engine: layers stream from tar, uncompressed.

A lab's registry is read over a bridge on the same machine: compressing 3.6 GB and expanding it on every node
would cost minutes and save nothing. OCI allows plain tar layers; Docker 20.10 and newer pull them.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import urllib.parse
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import settings
from .errors import LabError
from .rootfs import digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
CHUNK = 1 << 20
#: Big files go into layers of their own up to this size, so that a pull works on several at once.
LAYER_BYTES = 700 << 20
BIG_FILE = 30 << 20


@dataclass
class Layer:
    """Some paths of a directory, relative to it."""

    root: Path
    paths: list[str]
    size: int = 0
    digest: str = ""
    comment: str = ""


@dataclass
class Image:
    """An image to be pushed."""

    reference: str
    layers: list[Layer]
    env: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ("/bin/bash",)
    labels: Mapping[str, str] = field(default_factory=dict)


def split_reference(reference: str) -> tuple[str, str]:
    """repository and tag."""
    repository, _, tag = reference.rpartition(":")
    return repository, tag


def partition(sizes: Mapping[str, int], limit: int = LAYER_BYTES, big: int = BIG_FILE) -> list[list[str]]:
    """All small files together, then the big ones in groups of about `limit` bytes; the order is stable."""
    small = sorted(path for path, size in sizes.items() if size < big)
    groups: list[tuple[int, list[str]]] = []
    for size, path in sorted(
        ((size, path) for path, size in sizes.items() if size >= big), key=lambda item: (-item[0], item[1])
    ):
        for index, (used, group) in enumerate(groups):
            if used + size <= limit:
                group.append(path)
                groups[index] = (used + size, group)
                break
        else:
            groups.append((size, [path]))
    return [small, *(sorted(group) for _, group in groups)]


def with_parents(paths: Iterable[str]) -> list[str]:
    """The paths with every directory above them: a layer must restate the directories it adds to."""
    everything: set[str] = set()
    for path in paths:
        everything.add(path)
        everything.update(str(parent) for parent in Path(path).parents if str(parent) != ".")
    return sorted(everything)


def tree_layers(root: Path, comment: str) -> list[Layer]:
    """A directory as layers."""
    sizes: dict[str, int] = {}
    for path in root.rglob("*"):
        state = path.lstat()
        sizes[str(path.relative_to(root))] = 0 if path.is_symlink() or not path.is_file() else state.st_size
    groups = partition(sizes)
    return [Layer(root, with_parents(group), comment=comment) for group in groups if group]


class Registry:
    """A client for the few calls that pushing needs."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 5000

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on its own connection."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=300)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        except OSError as error:
            raise LabError(
                f"the lab's registry does not answer on {self.host}:{self.port}: {error}"
            ) from error
        finally:
            connection.close()

    def expect(
        self, wanted: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """One request that must succeed; its headers."""
        status, answer, text = self.call(method, path, body, headers)
        if status != wanted:
            raise LabError(
                f"the lab's registry answers {status} to {method} {path.partition('?')[0]}: "
                f"{text[:300].decode(errors='replace')}"
            )
        return answer

    def label(self, reference: str, name: str) -> str | None:
        """A label of an image in the registry; None when the image is not there."""
        repository, tag = split_reference(reference)
        status, _, text = self.call("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST})
        if status != 200:
            return None
        config = json.loads(text)["config"]["digest"]
        status, _, text = self.call("GET", f"/v2/{repository}/blobs/{config}")
        return json.loads(text).get("config", {}).get("Labels", {}).get(name) if status == 200 else None

    def upload_stream(self, repository: str, layer: Layer) -> None:
        """Send a layer while its digest is being computed."""
        location = self.expect(
            202, "POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"}
        )["location"]
        command = [
            "tar",
            "--create",
            "--numeric-owner",
            "--no-recursion",
            "--format=posix",
            "--pax-option=delete=atime,delete=ctime",
            "--directory",
            str(layer.root),
            "--null",
            "--files-from=-",
        ]
        total = hashlib.sha256()

        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as tar:
            assert tar.stdin and tar.stdout and tar.stderr
            names = b"".join(path.encode() + b"\0" for path in layer.paths)
            with ThreadPoolExecutor(1) as feeder:
                fed = feeder.submit(_feed, tar.stdin, names)

                def chunks() -> Iterable[bytes]:
                    assert tar.stdout
                    while chunk := tar.stdout.read(CHUNK):
                        total.update(chunk)
                        layer.size += len(chunk)
                        yield chunk

                layer.size = 0
                answer = self.expect(
                    202, "PATCH", _path(location), chunks(), {"Content-Type": "application/octet-stream"}
                )
                fed.result()
            errors = tar.stderr.read().decode(errors="replace")
            if tar.wait():
                raise LabError(f"packing a layer of {repository}: {errors}")
        layer.digest = f"sha256:{total.hexdigest()}"
        self.finish(repository, answer["location"], layer.digest)

    def upload(self, repository: str, data: bytes) -> str:
        """Send a small blob."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        location = self.expect(
            202, "POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"}
        )["location"]
        path = _path(location)
        separator = "&" if "?" in path else "?"
        self.expect(
            201,
            "PUT",
            f"{path}{separator}digest={digest}",
            data,
            {"Content-Type": "application/octet-stream"},
        )
        return digest

    def finish(self, repository: str, location: str, digest: str) -> None:
        """Close an upload under its digest."""
        path = _path(location)
        separator = "&" if "?" in path else "?"
        self.expect(201, "PUT", f"{path}{separator}digest={digest}", headers={"Content-Length": "0"})

    def copy(
        self,
        source: str,
        target: str,
        *,
        tree: Path | None = None,
        comment: str = "",
        env: Iterable[str] = (),
    ) -> None:
        """An image under another name, with a layer and variables on top where they are given.

        What is the same is not sent: the registry mounts the source's blobs.
        """
        from_, tag = split_reference(source)
        to, target_tag = split_reference(target)
        status, _, text = self.call("GET", f"/v2/{from_}/manifests/{tag}", headers={"Accept": MANIFEST})
        if status != 200:
            raise LabError(
                f"the lab's registry has no {source} (it answers {status}): run `make lab-up` first"
            )
        manifest = json.loads(text)
        for blob in [manifest["config"], *manifest["layers"]]:
            mount = f"/v2/{to}/blobs/uploads/?mount={blob['digest']}&from={from_}"
            self.expect(201, "POST", mount, headers={"Content-Length": "0"})
        if tree is not None:
            status, _, config_text = self.call("GET", f"/v2/{from_}/blobs/{manifest['config']['digest']}")
            config = json.loads(config_text)
            # The same files make the same image, whoever makes it again beside its users.
            for path in [tree, *tree.rglob("*")]:
                os.utime(path, (0, 0), follow_symlinks=False)
            for layer in tree_layers(tree, comment):
                self.upload_stream(to, layer)
                config["rootfs"]["diff_ids"].append(layer.digest)
                config.setdefault("history", []).append({"created_by": f"gpulab: {layer.comment}"})
                manifest["layers"].append({"mediaType": LAYER, "digest": layer.digest, "size": layer.size})
            config["config"].setdefault("Env", []).extend(env)
            data = json.dumps(config).encode()
            digest = self.upload(to, data)
            manifest["config"] = {"mediaType": CONFIG, "digest": digest, "size": len(data)}
            text = json.dumps(manifest).encode()
        self.expect(
            201, "PUT", f"/v2/{to}/manifests/{target_tag}", text, {"Content-Type": manifest_type(manifest)}
        )

    def push(self, image: Image) -> int:
        """Send an image; returns its size in bytes."""
        repository, tag = split_reference(image.reference)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self.upload_stream, repository, layer) for layer in image.layers]:
                done.result()
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2022-05-16T00:00:00Z",
            "config": {
                "Env": [f"{name}={value}" for name, value in image.env.items()],
                "Cmd": list(image.command),
                "Labels": dict(image.labels),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in image.layers]},
            "history": [
                {"created": "2022-05-16T00:00:00Z", "created_by": f"gpulab: {layer.comment}"}
                for layer in image.layers
            ],
        }
        data = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.upload(repository, data), "size": len(data)},
            "layers": [
                {"mediaType": LAYER, "digest": layer.digest, "size": layer.size} for layer in image.layers
            ],
        }
        self.expect(
            201,
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            json.dumps(manifest).encode(),
            {"Content-Type": MANIFEST},
        )
        return sum(layer.size for layer in image.layers)


def manifest_type(manifest: Mapping[str, Any]) -> str:
    """What a manifest says that it is."""
    return str(manifest.get("mediaType", MANIFEST))


def _feed(sink: Any, data: bytes) -> None:
    with sink:
        sink.write(data)


def _path(location: str) -> str:
    parts = urllib.parse.urlsplit(location)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def image_labels(digest: str) -> dict[str, str]:
    """Labels of every image that the lab pushes."""
    return {
        settings.LABEL: "1",
        settings.LABEL_HASH: digest,
        "org.opencontainers.image.description": f"gpuready lab image {digest_of(digest)[:8]}",
    }
