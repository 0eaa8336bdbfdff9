"""Pushing on real engines and registries: digests, names, passwords, and registries that fail."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

import pytest

from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.engine.packages import (
    Line,
    Package,
    images,
    read_json,
    recording_stand_in,
    registry_digest,
    started,
)

Madengine = Callable[..., Outcome]


@pytest.fixture
def token() -> str:
    """A word that no other test's images have in their names."""
    return f"p{uuid4().hex[:10]}"


@pytest.fixture
def own(tmp_path: Path, base_image: str) -> Package:
    """A model package that the test fills."""
    return Package(tmp_path / "own", base_image)


@pytest.fixture
def opened() -> Iterator[list[Any]]:
    """What the test has opened; it is closed at its end."""
    things: list[Any] = []
    yield things
    for thing in things:
        thing.close()


def written(folder: Path) -> str:
    """Everything that madengine left in a package's folder, as one text."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "credential.json"]
    return "\n".join(path.read_text(errors="replace") for path in files)


def credentials(package: Package, entries: Mapping[str, Any]) -> None:
    path = package.folder / "credential.json"
    path.write_text(json.dumps(entries))
    path.chmod(0o600)


def entry(registry: Registry, password: str = "") -> dict[str, Any]:
    return {registry.address: {"username": registry.user, "password": password or registry.password}}


# --- names and digests ---


def test_an_image_is_pushed_under_its_name_and_under_its_models(
    madengine: Madengine, registry: Registry, own: Package, token: str
) -> None:
    own.add(f"Group/{token}", steps=f"RUN : {token}")
    where = f"{registry.address}/{token}"
    madengine("build", "--registry", where, cwd=own.folder)
    ((key, image),) = images(own.folder).items()
    assert (key, image["registry_image"]) == (f"ci-group_{token}_os", f"{where}/ci-group_{token}_os")
    assert image["registry_digest"] == registry_digest(registry, f"{token}/{key}")
    assert image["registry_digest"] == registry_digest(registry, f"{token}/madengine/group/{token}:latest")


def test_a_model_with_two_images_has_no_latest(
    madengine: Madengine, registry: Registry, own: Package, token: str
) -> None:
    prefix = own.add(token, steps=f"RUN : {token}")
    dockerfile = own.folder / f"docker/{prefix}.os.Dockerfile"
    (own.folder / f"docker/{prefix}.other.Dockerfile").write_text(dockerfile.read_text())
    madengine("build", "--registry", f"{registry.address}/{token}", cwd=own.folder)
    for key, image in images(own.folder).items():
        assert image["registry_digest"] == registry_digest(registry, f"{token}/{key}")
    with pytest.raises(HTTPError, match="404") as refusal:
        registry_digest(registry, f"{token}/madengine/{token}:latest")
    refusal.value.close()


def test_a_pushed_image_runs_from_its_digest(
    madengine: Madengine, engine: Engine, registry: Registry, own: Package, token: str
) -> None:
    own.add(token, script=f"echo {token}\n")
    madengine("build", "--registry", f"{registry.address}/{token}", cwd=own.folder)
    image = images(own.folder)[f"ci-{token}_os"]
    engine("rmi", "--force", image["image_id"])
    pinned = f"{image['registry_image']}@{image['registry_digest']}"
    assert engine("run", "--rm", pinned).stdout == f"{token}\n"


# --- the verb ---


def test_push_pushes_what_was_only_built_and_leaves_what_was_pushed(
    madengine: Madengine, registry: Registry, own: Package, token: str
) -> None:
    own.add(f"{token}-a", steps=f"RUN : {token} a")
    own.add(f"{token}-b", steps=f"RUN : {token} b")
    madengine("build", cwd=own.folder)
    where = f"{registry.address}/{token}"
    first = madengine("push", "--registry", where, cwd=own.folder)
    found = images(own.folder)
    assert {image["registry_digest"] for image in found.values()} == {
        registry_digest(registry, f"{token}/{key}") for key in found
    }
    assert registry_digest(registry, f"{token}/madengine/{token}-a:latest") in first.stdout
    assert read_json(own.folder / "build_manifest.json")["registry"] == where

    again = madengine("push", cwd=own.folder)
    assert again.stderr.count("already pushed as") == 2
    assert images(own.folder) == found


def test_push_needs_a_registry(madengine: Madengine, own: Package, token: str) -> None:
    own.add(token)
    madengine("build", cwd=own.folder)
    ended = madengine("push", cwd=own.folder, check=False)
    assert (ended.code, "say which with --registry" in ended.stderr) == (4, True)


def test_push_of_an_image_that_is_gone_is_one_line(
    madengine: Madengine, engine: Engine, registry: Registry, own: Package, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    madengine("build", cwd=own.folder)
    engine("rmi", "--force", images(own.folder)[f"ci-{token}_os"]["image_id"])
    ended = madengine("push", "--registry", registry.address, cwd=own.folder, check=False)
    assert ended.code == 2
    assert ended.stderr.startswith(f"ci-{token}_os: ")
    assert "Traceback" not in ended.stderr
    assert "registry_digest" not in images(own.folder)[f"ci-{token}_os"]


def test_the_lines_of_a_push_dry_run_push(
    madengine: Madengine, engine: Engine, registry: Registry, own: Package, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    madengine("build", cwd=own.folder)
    before = (own.folder / "build_manifest.json").read_bytes()
    lines = madengine("push", "--registry", f"{registry.address}/{token}", "--dry-run", cwd=own.folder).stdout
    assert (own.folder / "build_manifest.json").read_bytes() == before
    outcome(["sh", "-e"], engine.environment, cwd=own.folder, input=lines)
    assert registry_digest(registry, f"{token}/ci-{token}_os").startswith("sha256:")


# --- passwords ---


def test_a_registry_with_a_password_gets_it_from_credential_json_and_nothing_else_does(
    madengine: Madengine, engine: Engine, tls_registry: Registry, own: Package, tmp_path: Path, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    credentials(own, entry(tls_registry))
    settings = [path for path in Path(engine.environment["DOCKER_CONFIG"]).rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in settings]
    recording = recording_stand_in(tmp_path / "stand-ins", engine.name, os.environ["PATH"])
    ended = madengine("build", "--registry", tls_registry.address, cwd=own.folder, env=recording)

    image = images(own.folder)[f"ci-{token}_os"]
    certificates = engine.environment["SSL_CERT_DIR"]
    assert image["registry_digest"] == registry_digest(tls_registry, f"ci-{token}_os", certificates)
    arguments = (tmp_path / "stand-ins/argv").read_text()
    assert "--password-stdin" in arguments
    pair = base64.b64encode(f"{tls_registry.user}:{tls_registry.password}".encode()).decode()
    for secret in (tls_registry.password, pair):
        assert secret not in ended.stdout + ended.stderr + arguments + written(own.folder)
    assert [path.read_bytes() for path in settings] == before


def test_a_wrong_password_is_one_line_without_it(
    madengine: Madengine, engine: Engine, tls_registry: Registry, own: Package, tmp_path: Path, token: str
) -> None:
    own.add(token)
    credentials(own, entry(tls_registry, "not-the-secret"))
    recording = recording_stand_in(tmp_path / "stand-ins", engine.name, os.environ["PATH"])
    ended = madengine("build", "--registry", tls_registry.address, cwd=own.folder, env=recording, check=False)
    assert ended.code == 1
    (line,) = ended.stderr.splitlines()
    assert f"{tls_registry.address}: login as '{tls_registry.user}' failed" in line
    assert "credential.json" in line
    recorded = (tmp_path / "stand-ins/argv").read_text()
    assert "not-the-secret" not in ended.stdout + ended.stderr + recorded + written(own.folder)


def test_a_login_that_nothing_needs_stops_no_build_and_no_run(
    madengine: Madengine, registry: Registry, tls_registry: Registry, own: Package, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    login = {"username": "me", "password": "not-the-secret"}
    # Docker Hub can't be reached from here; the second entry is half a login.
    for hub in (login, {"username": "me", "repository": "org/repo"}):
        credentials(own, {"dockerhub": hub, **entry(tls_registry, "not-the-secret")})
        built = madengine("build", cwd=own.folder)
        assert "; going on without it" in built.stderr
        assert "not-the-secret" not in built.stderr
    # The image is here: its registry's login isn't needed.
    manifest = read_json(own.folder / "build_manifest.json")
    (image,) = manifest["built_images"].values()
    image |= {"registry_image": f"{tls_registry.address}/x", "gpu_vendor": "NONE"}
    (own.folder / "build_manifest.json").write_text(json.dumps({**manifest, "registry": tls_registry.address}))
    done = madengine("run", "--manifest-file", "build_manifest.json", cwd=own.folder)
    assert f"{tls_registry.address}: login as '{tls_registry.user}' failed" in done.stderr


def test_a_refused_login_explains_the_pull_that_needed_it(
    madengine: Madengine, tls_registry: Registry, own: Package, token: str
) -> None:
    own.add(token)
    path = own.folder / "docker/m0.os.Dockerfile"
    path.write_text(f"# CONTEXT {{}}\nFROM {tls_registry.address}/nothing:{token}\n")
    credentials(own, entry(tls_registry, "not-the-secret"))
    entries = [{"model_name": token, "build_new": False, "registry": tls_registry.address}]
    (own.folder / "batch.json").write_text(json.dumps(entries))
    failed = madengine("build", "--batch-manifest", "batch.json", cwd=own.folder, check=False)
    assert failed.code == 2
    (line,) = (line for line in failed.stderr.splitlines() if "can't be pulled" in line)
    assert f"{tls_registry.address}: login as '{tls_registry.user}' failed" in line
    assert "not-the-secret" not in failed.stderr


def test_a_registry_that_wants_a_password_refuses_a_stranger_at_once_and_push_mends_it_later(
    madengine: Madengine, engine: Engine, tls_registry: Registry, own: Package, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    ended = madengine("build", "--registry", tls_registry.address, cwd=own.folder, check=False)
    assert ended.code == 2
    assert "no basic auth credentials" in ended.stderr or "authentication required" in ended.stderr
    assert "again in" not in ended.stderr
    image = images(own.folder)[f"ci-{token}_os"]
    assert ("registry_digest" in image, image["self_contained"]) == (False, True)
    (failed,) = read_json(own.folder / "build_summary.json")["failed_builds"]
    assert failed["error"].startswith(f"{tls_registry.address}/ci-{token}_os: the push failed")

    credentials(own, entry(tls_registry))
    madengine("push", cwd=own.folder)
    digest = registry_digest(tls_registry, f"ci-{token}_os", engine.environment["SSL_CERT_DIR"])
    assert images(own.folder)[f"ci-{token}_os"]["registry_digest"] == digest


def test_a_credential_json_without_the_registry_does_not_block_the_push(
    madengine: Madengine, registry: Registry, own: Package, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    credentials(own, {"elsewhere.example:5000": {"username": "me", "password": "a-password"}})
    madengine("build", "--registry", registry.address, cwd=own.folder)
    assert images(own.folder)[f"ci-{token}_os"]["registry_digest"] == registry_digest(registry, f"ci-{token}_os")


def test_the_users_own_logins_still_work_beside_ours(
    madengine: Madengine,
    engine: Engine,
    registry: Registry,
    tls_registry: Registry,
    own: Package,
    base_image: str,
    tmp_path: Path,
    token: str,
) -> None:
    home = tmp_path / "home"
    (home / ".docker").mkdir(parents=True)
    pair = base64.b64encode(f"{tls_registry.user}:{tls_registry.password}".encode()).decode()
    config = json.dumps({"auths": {tls_registry.address: {"auth": pair}}})
    (home / ".docker/config.json").write_text(config)
    logins = {"HOME": str(home), "DOCKER_CONFIG": str(home / ".docker"), "REGISTRY_AUTH_FILE": ""}
    base = f"{tls_registry.address}/{token}/base:1"
    engine("tag", base_image, base)
    outcome([engine.name, "push", base], {**engine.environment, **logins})
    engine("rmi", base)

    own.base = base
    own.add(token, steps=f"RUN : {token}")
    credentials(own, {registry.address: {"username": "anybody", "password": "any-password"}})
    madengine("build", "--registry", registry.address, cwd=own.folder, env=logins)
    assert images(own.folder)[f"ci-{token}_os"]["registry_digest"] == registry_digest(registry, f"ci-{token}_os")
    assert (home / ".docker/config.json").read_text() == config
    assert [path.name for path in (home / ".docker").iterdir()] == ["config.json"]


# --- registries that fail ---


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_registry_that_comes_back_meanwhile_gets_the_image(
    engine: Engine, registry: Registry, own: Package, token: str, opened: list[Any]
) -> None:
    port = free_port()
    own.add(token, steps=f"RUN : {token}")
    with started(engine, own.folder, "build", "--registry", f"127.0.0.1:{port}") as process:
        while "again in 1 s" not in (own.folder / "stderr").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        opened.append(Line(registry, port=port))
        assert process.wait(30) == 0
    assert images(own.folder)[f"ci-{token}_os"]["registry_digest"] == registry_digest(registry, f"ci-{token}_os")


# podman tries each time for three seconds itself
@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_registry_that_stays_down_fails_the_build_and_push_mends_it_later(
    madengine: Madengine, registry: Registry, own: Package, token: str, opened: list[Any]
) -> None:
    port = free_port()
    own.add(token, steps=f"RUN : {token}")
    ended = madengine("build", "--registry", f"127.0.0.1:{port}", cwd=own.folder, check=False)
    assert ended.code == 2
    assert [line.rpartition("again in ")[2] for line in ended.stderr.splitlines() if "again in" in line] == [
        *("1 s", "2 s", "4 s")
    ]
    image = images(own.folder)[f"ci-{token}_os"]
    assert ("registry_digest" in image, image["self_contained"]) == (False, True)

    opened.append(Line(registry, port=port))
    madengine("push", cwd=own.folder)
    image = images(own.folder)[f"ci-{token}_os"]
    assert image["registry_digest"] == registry_digest(registry, f"ci-{token}_os")
    assert image["registry_image"] == f"127.0.0.1:{port}/ci-{token}_os"


@pytest.mark.parametrize("after", [0, 20_000], ids=["at the start", "half way through a layer"])
def test_a_push_whose_connection_breaks_off_is_tried_again(
    madengine: Madengine, registry: Registry, own: Package, token: str, opened: list[Any], after: int
) -> None:
    line = Line(registry, cuts=1, after=after)
    opened.append(line)
    own.add(token, steps=f"RUN : {token}; dd if=/dev/urandom of=/large bs=1k count=200")
    madengine("build", "--registry", line.address, cwd=own.folder)
    assert line.cut == 1
    assert images(own.folder)[f"ci-{token}_os"]["registry_digest"] == registry_digest(registry, f"ci-{token}_os")


class Refusal(http.server.BaseHTTPRequestHandler):
    """A registry that lets nobody write."""

    asked = 0

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v2/" else 404, b"{}")

    def do_HEAD(self) -> None:
        self._answer(404, b"")

    def do_POST(self) -> None:
        Refusal.asked += 1
        self._answer(403, b'{"errors": [{"code": "DENIED", "message": "the quota is used up"}]}')

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_registry_that_refuses_is_asked_once(madengine: Madengine, own: Package, token: str) -> None:
    own.add(token, steps=f"RUN : {token}")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"127.0.0.1:{server.server_address[1]}"
        ended = madengine("build", "--registry", where, cwd=own.folder, check=False)
        server.shutdown()
    assert ended.code == 2
    assert "again in" not in ended.stderr
    assert "denied" in ended.stderr
    assert Refusal.asked >= 1
    assert "registry_digest" not in images(own.folder)[f"ci-{token}_os"]


class Gate(http.server.BaseHTTPRequestHandler):
    """A registry where repositories are made by hand, as ECR is: it passes all on but writes to `madengine/…`."""

    protocol_version = "HTTP/1.1"
    behind = ""

    def _pass_on(self) -> None:
        body = self._body()
        writes = self.command in ("POST", "PUT", "PATCH")
        if writes and "/madengine/" in self.path:
            message = "The repository does not exist in the registry with id 123"
            refusal = json.dumps({"errors": [{"code": "NAME_UNKNOWN", "message": message}]}).encode()
            self._answer(404, {"Content-Type": "application/json"}, refusal)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        if writes:
            headers["Content-Length"] = str(len(body))
        with closing(http.client.HTTPConnection(self.behind)) as connection:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            self._answer(answer.status, dict(answer.getheaders()), answer.read())

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), str(len(body)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_registry_that_refuses_the_second_name_gets_the_image(
    madengine: Madengine, registry: Registry, own: Package, token: str
) -> None:
    own.add(token, steps=f"RUN : {token}")
    Gate.behind = registry.address
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"127.0.0.1:{server.server_address[1]}"
        ended = madengine("build", "--registry", where, cwd=own.folder)
        server.shutdown()
    (image,) = images(own.folder).values()
    assert image["registry_image"] == f"{where}/ci-{token}_os"
    assert image["registry_digest"] == registry_digest(registry, f"ci-{token}_os")
    assert f"{where}/madengine/{token}:latest: the push failed" in ended.stderr
    assert "ignored: the image has another name there" in ended.stderr


def test_an_interrupted_push_ends_at_once(
    engine: Engine, madengine: Madengine, own: Package, token: str, opened: list[Any]
) -> None:
    own.add(token, steps=f"RUN : {token}")
    madengine("build", cwd=own.folder)
    before = (own.folder / "build_manifest.json").read_bytes()
    silent = socket.create_server(("127.0.0.1", 0))
    opened.append(silent)
    with started(engine, own.folder, "push", "--registry", f"127.0.0.1:{silent.getsockname()[1]}") as process:
        opened.append(silent.accept()[0])
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
    stderr = (own.folder / "stderr").read_text()
    assert stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in stderr
    assert (own.folder / "build_manifest.json").read_bytes() == before
