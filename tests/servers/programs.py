"""Servers on loopback as models' data and code come from: HTTP that breaks off, git over TLS, S3, and who asks them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# What a leak would show: one for each kind of secret.
CANARIES = {
    "cred": "canary-cred-7Qx1",
    "secrets": "canary-secrets-8Zk2",
    "secrets_file": "canary-secretsfile-4Ts9",
    "s3": "canarys3key5Vb3",
    "nas": "canary-nas-6Lm4",
    "web": "canary-web-9Np5",
}


def free_port(below: int = 65536) -> int:
    """A port of 127.0.0.1 that nobody has."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port: int = server.getsockname()[1]
        if port < below:
            return port


@dataclass
class Web:
    """An HTTP server of one file, which breaks each of its first `cuts` answers off half way.

    It sends no more than the first `stuck_at` bytes, and then nothing, unless that is 0.
    """

    content: bytes
    cuts: int = 0
    password: str = ""
    etag: str = '"one"'
    stuck_at: int = 0
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def served(self) -> Iterator[str]:
        """The file's address."""
        with _serving(_handler(self._answer), None) as address:
            yield f"http://{address}/sets/numbers.bin"

    def _answer(self, asked: BaseHTTPRequestHandler) -> None:
        if not _knows(asked, self.password):
            return
        self.asked.append(asked.headers.get("Range", ""))
        start = int(asked.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        if asked.headers.get("If-Range", self.etag) != self.etag:
            start = 0
        asked.send_response(206 if start else 200)
        asked.send_header("ETag", self.etag)
        asked.send_header("Content-Length", str(len(self.content) - start))
        if start:
            asked.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        asked.end_headers()
        rest = self.content[start:]
        if self.cuts:
            self.cuts -= 1
            rest = rest[: len(rest) // 2]
        if self.stuck_at:
            asked.wfile.write(rest[: self.stuck_at])
            asked.rfile.read()  # until who asked is gone
            return
        asked.wfile.write(rest)
        asked.close_connection = True


@contextmanager
def cut_line(host: str, port: int, after: int) -> Iterator[tuple[int, list[int]]]:
    """A port of 127.0.0.1 that hands on to another, and breaks the first connection that brings so many bytes.

    Gives it with a list of the bytes that each connection brought.
    """
    passed: list[int] = []
    ends: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(called: Callable[..., None], *words: Any) -> None:
        threads.append(threading.Thread(target=called, args=words, daemon=True))
        threads[-1].start()

    def serve() -> None:
        with suppress(OSError):
            while True:
                caller = server.accept()[0]
                answerer = socket.create_connection((host, port))
                ends.extend((caller, answerer))
                passed.append(0)
                start(pump, caller, answerer, None)
                start(pump, answerer, caller, len(passed) - 1)

    def pump(source: socket.socket, target: socket.socket, counted: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                if counted is not None:
                    was_whole = max(passed) <= after
                    passed[counted] += len(data)
                    if was_whole and passed[counted] > after:
                        break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as server:
        start(serve)
        try:
            yield server.getsockname()[1], passed
        finally:
            for end in (server, *ends):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for end in ends:
                end.close()


@dataclass(frozen=True)
class GitServer:
    """`git http-backend` behind TLS and a password; repositories are made below `folder`."""

    folder: Path
    address: str = ""

    def repository(self, name: str, files: dict[str, str], submodule: str = "") -> str:
        """Make a repository, with another of this server as the submodule `part`.

        Returns:
            str: its commit.
        """
        work = self.folder / f"{name}-work"
        work.mkdir()
        _git(work, "init", "--quiet", "--initial-branch=main")
        for path, text in files.items():
            (work / path).write_text(text)
        _git(work, "add", "--all")
        _git(work, "commit", "--quiet", "-m", "one")
        if submodule:
            words = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"]
            _git(work, *words, str(self.folder / f"{submodule}.git"), "part")
            _git(work, "config", "--file", ".gitmodules", "submodule.part.url", f"../{submodule}.git")
            _git(work, "commit", "--quiet", "--all", "-m", "two")
        _git(work, "clone", "--quiet", "--bare", str(work), str(self.folder / f"{name}.git"))
        return _git(work, "rev-parse", "HEAD").strip()

    def go_on(self, name: str) -> None:
        """Let a repository's branch move on by a commit, with a tag."""
        work = self.folder / f"{name}-work"
        _git(work, "commit", "--quiet", "--allow-empty", "-m", "later")
        _git(work, "tag", "later")
        _git(work, "push", "--quiet", str(self.folder / f"{name}.git"), "main", "later")

    def pack_anew(self, name: str, window: int) -> None:
        """Pack a repository in another way, as servers do now and then."""
        _git(self.folder / f"{name}.git", "repack", "-a", "-d", "-F", "--quiet", f"--window={window}")


@contextmanager
def git_server(folder: Path, certificate: Path, key: Path, password: str) -> Iterator[GitServer]:
    """A GitServer whose user is ann."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(asked: BaseHTTPRequestHandler) -> None:
        if _knows(asked, password):
            _backend(asked, folder)

    with _serving(_handler(answer), context) as address:
        yield GitServer(folder, address)


@contextmanager
def s3_server(folder: Path, user: str, password: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """An S3 server that checks signatures and holds files (by bucket and path); gives its endpoint."""
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    one = {"name": "tester", "credentials": [{"accessKey": user, "secretKey": password}], "actions": actions}
    settings = folder / "s3.json"
    settings.write_text(json.dumps({"identities": [one]}))
    port = free_port()
    words = [shutil.which("weed") or "weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    # Two more listeners would be on ports of their own choice, and it would tell its makers about itself.
    words += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    words += ["-s3", f"-s3.port={port}", f"-s3.config={settings}", "-master.volumeSizeLimitMB=16", "-volume.max=20"]
    # Each has a second port 10,000 above.
    filer = free_port(55000)
    words += [f"-{name}.port={free_port(55000)}" for name in ("master", "volume")] + [f"-filer.port={filer}"]
    words += [f"-s3.port.grpc={free_port()}", "-s3.port.iceberg=0"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(lambda: server.poll() is not None or _answers(port), 40)
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        _put(filer, files)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def _put(filer: int, files: Mapping[str, bytes]) -> None:
    """Write files of buckets, by the server's other door, which asks for no key."""
    for name, content in files.items():
        asked = urllib.request.Request(f"http://127.0.0.1:{filer}/buckets/{name}", content, method="PUT")
        limit = time.monotonic() + 30
        while True:  # the volumes come up after the server
            try:
                urllib.request.urlopen(asked, timeout=10).close()
                break
            except OSError as error:
                assert time.monotonic() < limit, error
                time.sleep(0.2)


def recorders(folder: Path, names: list[str], first: str = "") -> Path:
    """Programs of these names that note their words in folder/argv and then become the real ones.

    Real ones in `first` go before those on PATH.
    """
    folder.mkdir()
    for name in names:
        real = shutil.which(name, path=f"{first}:{os.environ['PATH']}" if first else None)
        assert real, f"{name} is not installed; bin/test installs it"
        note = f"{{ printf '%s\\n' '{name}' \"$@\"; }} >>'{folder}/argv'"
        (folder / name).write_text(f"#!/bin/sh\n{note}\nexec '{real}' \"$@\"\n")
        (folder / name).chmod(0o755)
    return folder


def leaks(texts: dict[str, str], folders: list[Path], secrets: dict[str, str]) -> list[str]:
    """Where a secret is found, as it is or in base64, in named texts and in all files of folders."""
    found = []
    for name, secret in secrets.items():
        forms = [secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")]
        found += [f"{name}: {where}" for where, text in texts.items() if any(form in text.encode() for form in forms)]
        for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
            if any(form in path.read_bytes() for form in forms):
                found.append(f"{name}: {path}")
    return found


def _git(folder: Path, *words: str) -> str:
    who = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "t"}
    who |= {"GIT_CONFIG_KEY_1": "user.email", "GIT_CONFIG_VALUE_1": "t@example.com"}
    ended = subprocess.run(["git", *words], cwd=folder, env={**os.environ, **who}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _knows(asked: BaseHTTPRequestHandler, password: str) -> bool:
    pair = base64.b64encode(f"ann:{password}".encode()).decode()
    if not password or asked.headers.get("Authorization") == f"Basic {pair}":
        return True
    asked.send_response(401)
    asked.send_header("WWW-Authenticate", 'Basic realm="t"')
    asked.send_header("Content-Length", "0")
    asked.end_headers()
    return False


def _backend(asked: BaseHTTPRequestHandler, folder: Path) -> None:
    path, _, query = asked.path.partition("?")
    body = asked.rfile.read(int(asked.headers.get("Content-Length") or 0))
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": asked.command,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": asked.headers.get("Content-Type", ""),
        "HTTP_CONTENT_ENCODING": asked.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": asked.headers.get("Git-Protocol", ""),
        "CONTENT_LENGTH": str(len(body)),
        "REMOTE_USER": "ann",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    said = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True).stdout
    head, _, content = said.partition(b"\r\n\r\n")
    lines = [line.partition(": ") for line in head.decode().splitlines()]
    fields = {name: value for name, _, value in lines}
    asked.send_response(int(fields.pop("Status", "200").split()[0]))
    for name, value in fields.items():
        asked.send_header(name, value)
    asked.send_header("Content-Length", str(len(content)))
    asked.end_headers()
    asked.wfile.write(content)


def _handler(answer: Callable[[BaseHTTPRequestHandler], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with suppress(ConnectionError):
                answer(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wait_for(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something holds; fail where it doesn't in time."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.1)


def command(*words: str) -> list[str]:
    """madengine's command line."""
    return [sys.executable, "-m", "madengine.distributed_cli", *words]
