"""PostgreSQL and MariaDB servers of the test's own, on loopback, with their data in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "canary p@ss:word/1"


@dataclass(frozen=True)
class Server:
    """A running server with the database `results` and the user `me`."""

    name: str
    port: int

    @property
    def url(self) -> str:
        return f"{self.name}://me@127.0.0.1:{self.port}/results"


@pytest.fixture(scope="session", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    starting = {"postgresql": _postgresql, "mariadb": _mariadb}[request.param]
    with tempfile.TemporaryDirectory(prefix="database-", dir="/tmp") as folder, starting(Path(folder)) as server:
        yield server


@contextmanager
def _postgresql(folder: Path) -> Iterator[Server]:
    programs = max(map(str, Path("/usr/lib/postgresql").glob("*/bin")), default="")
    _need("postgresql", f"{programs}/initdb")
    port = _free_port()
    # PostgreSQL refuses to run as root.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    owner = {"user": user.pw_uid, "group": user.pw_gid} if user else {}
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    words = [f"--pgdata={folder}/data", "--username=me", "--auth=scram-sha-256", f"--pwfile={folder}/password"]
    _run([f"{programs}/initdb", *words, "--encoding=UTF8", "--locale=C", "--no-sync"], **owner)
    command = [f"{programs}/postgres", "-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    with _started([*command, "-F"], port, **owner):
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        _run([f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "me", "results"], env=environment)
        yield Server("postgresql", port)


@contextmanager
def _mariadb(folder: Path) -> Iterator[Server]:
    program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin") or ""
    _need("mariadb-server", program)
    port = _free_port()
    user = pwd.getpwuid(os.geteuid()).pw_name
    words = ["--no-defaults", f"--datadir={folder}/data", f"--user={user}"]
    _run(["mariadb-install-db", *words, "--skip-test-db", "--auth-root-authentication-method=normal"])
    setup = folder / "setup.sql"
    # One statement a line; without an entry for localhost, an anonymous user of it would come first.
    users = [
        f"CREATE USER me@{host} IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON results.* TO me@{host};"
        for host in ("localhost", "'%'")
    ]
    statements = ["CREATE DATABASE results;", "FLUSH PRIVILEGES;", *"\n".join(users).replace("; ", ";\n").splitlines()]
    setup.write_text("\n".join([*statements, ""]))
    more = [f"--socket={folder}/socket", f"--port={port}", "--bind-address=127.0.0.1", f"--init-file={setup}"]
    with _started([program, *words, *more, f"--pid-file={folder}/pid", "--skip-log-bin"], port):
        yield Server("mariadb", port)


@contextmanager
def _started(command: Sequence[str], port: int, **how: int) -> Iterator[None]:
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(command, stdout=log, stderr=log, **how)  # type: ignore[call-overload]
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        limit = time.monotonic() + 60
        while not _listens(port):
            log.seek(0)
            assert process.poll() is None and time.monotonic() < limit, log.read().decode()
            time.sleep(0.05)
        yield


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _run(words: Sequence[str], **how: object) -> None:
    done = subprocess.run(words, capture_output=True, text=True, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr


def _need(package: str, program: str) -> None:
    if not (program and Path(program).exists()):
        pytest.fail(f"{package} is not installed; `bin/test databases` installs it")
