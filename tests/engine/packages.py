"""Model packages and registries as the build tests need them: small models, and what a registry says over HTTP."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bed.components import Engine, Registry

CHECKOUT = Path(__file__).parents[2]
MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


class Package:
    """A model package in a folder of its own; every model starts from the same local base image."""

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.base = base
        self._cards: list[dict[str, Any]] = []
        folder.mkdir(parents=True)

    def add(
        self,
        name: str,
        steps: str = "",
        script: str = "echo 'performance: 1 runs'\n",
        header: str = "# CONTEXT {}",
        **card: Any,
    ) -> str:
        """Add a model with one Dockerfile (`header`, `FROM base`, `steps`) and one script.

        Returns:
            str: the prefix of its Dockerfile and the name of its folder of scripts.
        """
        prefix = f"m{len(self._cards)}"
        self._write(f"docker/{prefix}.os.Dockerfile", f"{header}\nFROM {self.base}\n{steps}\n")
        self._write(f"scripts/{prefix}/run.sh", script)
        self._cards.append({"name": name, "dockerfile": f"docker/{prefix}", "scripts": f"scripts/{prefix}", **card})
        self._write("models.json", json.dumps(self._cards))
        return prefix

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def images(folder: Path) -> dict[str, dict[str, Any]]:
    """The built_images of the manifest in a folder."""
    found: dict[str, dict[str, Any]] = read_json(folder / "build_manifest.json")["built_images"]
    return found


def registry_digest(registry: Registry, name: str, certificates: str = "") -> str:
    """The digest that the registry itself gives for `name[:tag]`, asked over HTTP."""
    path, _, tag = name.removeprefix(f"{registry.address}/").partition(":")
    headers = {"Accept": MANIFESTS}
    context = None
    if registry.user:
        pair = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
        context = ssl.create_default_context(capath=certificates.partition(":")[0])
        for file in Path(certificates.partition(":")[0]).glob("*.pem"):
            context.load_verify_locations(file)
    scheme = "https" if registry.user else "http"
    url = f"{scheme}://{registry.address}/v2/{path}/manifests/{tag or 'latest'}"
    request = urllib.request.Request(url, headers=headers, method="HEAD")
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:
        return str(answer.headers["Docker-Content-Digest"])


@contextmanager
def started(
    engine: Engine, cwd: Path, *words: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A madengine that runs beside the test, in a session of its own, with its streams in files of `cwd`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "CONTAINER"))}
    environment = {**inherited, **engine.environment, "MADENGINE_ENGINE": engine.name, "PYTHONPATH": str(CHECKOUT)}
    environment.update(env or {})
    with (cwd / "stdout").open("w") as out, (cwd / "stderr").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "madengine.distributed_cli", *words],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def recording_stand_in(folder: Path, program: str, path: str) -> Mapping[str, str]:
    """A program of that name that notes its arguments in folder/argv and then becomes the real one; gives the PATH."""
    folder.mkdir()
    stand_in = folder / program
    real = next(str(Path(where) / program) for where in path.split(":") if (Path(where) / program).is_file())
    stand_in.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>'{folder}/argv'\nexec '{real}' \"$@\"\n")
    stand_in.chmod(0o755)
    return {"PATH": f"{folder}:{path}"}


class Meeting:
    """A TCP port where callers are held until `parties` of them are there; `most` is how many there were at once."""

    def __init__(self, parties: int) -> None:
        self.parties = parties
        self.most = 0
        self._waiting: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Let everybody go."""
        self._server.close()
        for caller in self._waiting:
            caller.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._waiting.append(self._server.accept()[0])
                self.most = max(self.most, len(self._waiting))
                if len(self._waiting) == self.parties:
                    for caller in self._waiting:
                        caller.close()
                    self._waiting.clear()


class Line:
    """A TCP port that hands on to a registry; the first `cuts` connections break off after `after` bytes."""

    def __init__(self, registry: Registry, cuts: int = 0, after: int = 0, port: int = 0) -> None:
        host, _, number = registry.address.partition(":")
        self._registry = (host, int(number))
        self._after = after
        self._lock = threading.Lock()
        self._cuts = cuts
        self.cut = 0
        self._server = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller = self._server.accept()[0]
                answerer = socket.create_connection(self._registry)
                for source, target, counted in ((caller, answerer, True), (answerer, caller, False)):
                    threading.Thread(target=self._pump, args=(source, target, counted), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        seen = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                seen += len(data)
                if counted and seen > self._after and self._may_cut():
                    for end in (source, target):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _may_cut(self) -> bool:
        with self._lock:
            if self.cut == self._cuts:
                return False
            self.cut += 1
            return True
