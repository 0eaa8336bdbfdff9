"""The registry, and the clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from time import time

import pytest

from madengine.doctor import registry
from madengine.doctor.check import FAILED, OK, Check
from tests.unit.doctor.conftest import PUSHED, Engine, checks, written

REGISTRY = "localhost:1"
CURL = "curl -v http://localhost:1/v2/_catalog; check that it runs, and that its port is open (ufw status)"


@pytest.mark.parametrize(
    "error",
    [
        "Error response from daemon: manifest for localhost:1/madengine/doctor:none not found: manifest unknown: "
        "manifest unknown",
        "Error: initializing source docker://localhost:1/madengine/doctor:none: reading manifest none in "
        "localhost:1/madengine/doctor: manifest unknown: manifest unknown",
        "Error response from daemon: name unknown: repository name not known to registry",
        'time="2026" level=fatal msg="x"\nlocalhost:1/madengine/doctor:none: not found',
    ],
)
def test_a_registry_that_does_not_know_what_can_not_be_there_is_reached(engine: Engine, error: str) -> None:
    engine.add(pull=f"echo '{error}' >&2; exit 1")
    assert checks(REGISTRY)["registry"] == Check("registry", OK, "localhost:1 answers and grants access")
    assert "docker pull localhost:1/madengine/doctor:none" in engine.stand_ins.calls()


@pytest.mark.parametrize(
    ("error", "reason", "fix"),
    [
        (
            'Error response from daemon: Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: '
            "connection refused",
            'Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
            CURL,
        ),
        (
            "Error response from daemon: read tcp 127.0.0.1:49730->127.0.0.1:1: read: connection reset by peer",
            "read tcp 127.0.0.1:49730->127.0.0.1:1: read: connection reset by peer",
            CURL,
        ),
        (
            'Error response from daemon: Get "https://hub/v2/": dial tcp: lookup hub on 10.0.0.1:53: no such host',
            'Get "https://hub/v2/": dial tcp: lookup hub on 10.0.0.1:53: no such host',
            CURL,
        ),
        (
            'Error response from daemon: Get "https://localhost:1/v2/": x509: certificate signed by unknown authority',
            'Get "https://localhost:1/v2/": x509: certificate signed by unknown authority',
            CURL,
        ),
        ("Error response from daemon: error parsing HTTP 404 response body: 404 page not found",
         "error parsing HTTP 404 response body: 404 page not found", CURL),
        (
            'Error response from daemon: Head "http://localhost:1/v2/x/manifests/none": no basic auth credentials',
            'Head "http://localhost:1/v2/x/manifests/none": no basic auth credentials',
            "docker login localhost:1",
        ),
        (
            "Error response from daemon: unauthorized: authentication required",
            "unauthorized: authentication required",
            "docker login localhost:1",
        ),
        (
            "Error response from daemon: pull access denied for x, repository does not exist or may require docker "
            "login: denied: requested access to the resource is denied",
            "pull access denied for x, repository does not exist or may require docker "
            "login: denied: requested access to the resource is denied",
            "docker login localhost:1",
        ),
    ],
)  # fmt: skip
def test_a_registry_that_is_down_or_shut_comes_with_what_to_try(
    engine: Engine, error: str, reason: str, fix: str
) -> None:
    engine.add(pull=f"echo '{error}' >&2; exit 1")
    assert checks(REGISTRY)["registry"] == Check("registry", FAILED, f"localhost:1: {reason}", fix)


def test_a_registry_that_never_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY_SECONDS", 0.3)
    engine.add(pull="exec sleep 30")
    assert checks(REGISTRY)["registry"] == Check("registry", FAILED, "localhost:1: no answer", CURL)


def test_the_registry_is_by_default_that_of_the_manifest(engine: Engine) -> None:
    written(PUSHED)
    assert checks()["registry"].result == "localhost:5999 answers and grants access"


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """A registry on loopback whose clock is so many seconds off, and its answer's code."""
    off, code = request.param

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(code)
            self.send_header("Date", formatdate(time() + off, usegmt=True) if off is not None else "yesterday")
            self.end_headers()

        def log_message(self, format: str, *words: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("served", "status"),
    [((0, 200), OK), ((0, 401), OK), ((300, 200), FAILED), ((-300, 401), FAILED)],
    indirect=["served"],
)
def test_the_clock_is_compared_with_the_registrys(engine: Engine, served: str, status: str) -> None:
    clock = checks(served)["clock"]
    assert clock.status == status
    assert clock.fix == ("timedatectl set-ntp true" if status == FAILED else "")


@pytest.mark.parametrize("served", [(None, 200)], indirect=True)
def test_a_clock_that_says_nothing_is_no_error(engine: Engine, served: str) -> None:
    results = checks(served)
    assert results["registry"].status == OK
    assert "clock" not in results
