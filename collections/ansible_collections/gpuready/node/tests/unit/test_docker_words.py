"""Docker's and the registries' words for a failed fetch, as they really are."""

from __future__ import annotations

import pytest
from gpuready import docker_images

DAEMON = "Error response from daemon: "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (DAEMON + "manifest for r:5000/a/b:1 not found: manifest unknown: manifest unknown", "missing"),
        (DAEMON + "unknown: repository name not known to registry", "missing"),
        (DAEMON + 'failed to resolve reference "r:5000/a/b:1": r:5000/a/b:1: not found', "missing"),
        (
            DAEMON + 'Get "https://r:5999/v2/": dial tcp 10.0.0.5:5999: connect: connection refused',
            "unreachable",
        ),
        (DAEMON + 'Get "https://r/v2/": dial tcp: lookup r on 127.0.0.53:53: no such host', "unreachable"),
        (
            DAEMON + 'Get "https://r/v2/": net/http: request canceled while waiting for connection '
            "(Client.Timeout exceeded while awaiting headers)",
            "unreachable",
        ),
        (DAEMON + "received unexpected HTTP status: 503 Service Unavailable", "unreachable"),
        (DAEMON + 'Get "https://r:5000/v2/": http: server gave HTTP response to HTTPS client', "plain_http"),
        (
            DAEMON + 'Get "https://r/v2/": x509: certificate signed by unknown authority',
            "untrusted",
        ),
        (
            DAEMON + 'Get "https://r/v2/": tls: failed to verify certificate: x509: certificate has expired',
            "untrusted",
        ),
        (
            DAEMON + "pull access denied for a/b, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied",
            "denied",
        ),
        (DAEMON + 'Head "https://r/v2/a/b/manifests/1": unauthorized: authentication required', "denied"),
        (DAEMON + 'Get "https://r/v2/a": no basic auth credentials', "denied"),
        (
            DAEMON + "toomanyrequests: You have reached your pull rate limit. You may increase the limit by "
            "authenticating and upgrading: https://www.docker.com/increase-rate-limit",
            "rate_limited",
        ),
        (
            "failed to register layer: write /usr/lib/libcudnn.so.8: no space left on device",
            "disk_full",
        ),
        (
            DAEMON + "no matching manifest for linux/arm64/v8 in the manifest list entries",
            "wrong_platform",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?",
            "no_docker",
        ),
        ("open /var/lib/docker/tmp/docker-import-1/repositories: invalid tar header", "broken_archive"),
        ("something nobody has seen before", "unknown"),
        ("", "unknown"),
    ],
)
def test_reason_knows_the_usual_words(said, reason):
    assert docker_images.reason(said) == reason


def test_last_words_prefers_the_error():
    assert docker_images.last_words("Using default tag\nError response from daemon: no\nsee --help\n") == (
        "Error response from daemon: no"
    )
    assert docker_images.last_words("one\ntwo\n") == "two"
    assert docker_images.last_words("") == ""


def test_loaded_names_reads_references_and_ids():
    said = "Loaded image: a/b:1\nLoaded image ID: sha256:abc\nother\nLoaded image: r:5000/c:2"
    assert docker_images.loaded_names(said) == ["a/b:1", "sha256:abc", "r:5000/c:2"]
