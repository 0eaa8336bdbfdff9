"""Real hosts for real ssh: three with a dockerd each, and a manifest whose registry is on this machine's loopback."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.engine.conftest import _missing, base_image, bed, registry
from tests.engine.packages import Package, started

__all__ = ["base_image", "bed", "registry"]

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
FLEET = CHECKOUT / "tests/bed/fleet"
NAMES = ("h1", "h2", "h3")
# A broken line is noticed within seconds.
_QUICK = "  ConnectTimeout 3\n  ServerAliveInterval 1\n  ServerAliveCountMax 2\n"
Rows = list[dict[str, str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the engines."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@dataclass(frozen=True)
class Hosts:
    """The hosts h1 to h3, told by their numbers; `address` is that of h1 without its last number."""

    folder: Path
    address: str

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    def run(self, host: int, *words: str, check: bool = True) -> str:
        """Run a command in a host, without ssh; gives its stdout."""
        return self._fleet("run", str(host), *words, check=check).stdout

    def sh(self, host: int, script: str, check: bool = True) -> str:
        """Run a shell script in a host, without ssh; gives its stdout."""
        return self.run(host, "sh", "-c", script, check=check)

    def cut(self, host: int) -> None:
        """Take a host off the network."""
        self._fleet("cut", str(host))

    def heal(self, host: int) -> None:
        """Give a host its network back."""
        self._fleet("heal", str(host))

    def listens(self, host: int, port: int) -> bool:
        """Whether a port of any of the host's addresses is listened on."""
        lines = self.sh(host, "cat /proc/net/tcp /proc/net/tcp6").splitlines()
        return any(f":{port:04X} " in line and " 0A " in line for line in lines)

    def forget_images(self, *hosts: int) -> None:
        """Leave no image on these hosts, so that the next run pulls."""
        for host in hosts:
            self.sh(host, "docker image prune --all --force")

    def name(self, host: int) -> str:
        """What the host calls itself."""
        return self.run(host, "hostname").strip()

    def _fleet(self, *words: str, check: bool = True) -> Outcome:
        return outcome([str(FLEET), *words], {"FLEET_DIR": str(self.folder)}, check=check)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Hosts]:
    """Three hosts, each with a dockerd of its own."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [name for name in ("sshd", "ip", "dockerd") if not shutil.which(name, path=path)]
    if os.geteuid() != 0 or lacking:
        _missing(
            f"the fleet needs root, openssh-server, iproute2 and docker.io; not here: {', '.join(lacking) or 'root'}"
        )
    folder = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))
    environment = {"FLEET_DIR": str(folder), "FLEET_OWNER": str(os.getpid())}
    try:
        outcome([str(FLEET), "up", str(len(NAMES)), "own"], environment)
        with (folder / "ssh_config").open("a", encoding="utf-8") as config:
            config.write(_QUICK)
        inventory = (folder / "inventory.ini").read_text(encoding="utf-8")
        yield Hosts(folder, inventory.partition("ansible_host=")[2].split()[0].rpartition(".")[0])
    finally:
        outcome([str(FLEET), "down"], environment)


@pytest.fixture
def hosts(fleet: Hosts) -> Iterator[Hosts]:
    """The fleet, whole again and without our files after the test."""
    try:
        yield fleet
    finally:
        for number in range(1, len(NAMES) + 1):
            fleet.heal(number)
            fleet.sh(number, "rm -rf /home/fleet/madengine; : >/home/fleet/.bashrc", check=False)


@pytest.fixture(scope="session")
def built(
    bed: Mapping[str, str], base_image: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the manifest of three models: `quick`, `slow` (some seconds), and `bad`, which exits 3."""
    if "no_docker" in bed:
        _missing(bed["no_docker"])
    folder = tmp_path_factory.mktemp("built")
    package = Package(folder / "package", base_image)
    leaving = "mkdir out && echo kept >out/note.txt\necho 'performance: 12.5 tokens_per_second'\n"
    package.add("quick", script=leaving, artifacts=["out/*.txt"])
    package.add("slow", script="sleep 7\necho 'performance: 3 runs'\n")
    package.add("bad", script="exit 3\n")
    address = registry.address.replace("127.0.0.1", "localhost")
    environment = {"DOCKER_HOST": bed["DOCKER_HOST"], "PYTHONPATH": str(CHECKOUT)}
    outcome(_command("build", "--registry", address), environment, cwd=package.folder)
    return package.folder / "build_manifest.json"


@dataclass(frozen=True)
class Cluster:
    """Slurm on the hosts: madengine is called on h1, in a folder that all of them share."""

    hosts: Hosts
    folder: Path

    @property
    def inside(self) -> str:
        """The folder as the hosts have it."""
        return f"/shared/{self.folder.name}"

    def __call__(self, *words: str, check: bool = True) -> Outcome:
        """Run madengine on h1."""
        return outcome(self.command(*words), {"FLEET_DIR": str(self.hosts.folder)}, check=check)

    def run_with(self, environment: Mapping[str, str], *words: str, check: bool = True) -> Outcome:
        """Run madengine on h1 with variables of its own."""
        return outcome(self.command(*words, **environment), {"FLEET_DIR": str(self.hosts.folder)}, check=check)

    def command(self, *words: str, **environment: str) -> list[str]:
        """The words that run madengine on h1."""
        settings = [f"{name}={value}" for name, value in {"PYTHONPATH": str(CHECKOUT), **environment}.items()]
        script = f"cd {self.inside} && trap : INT; {shlex.join(['env', *settings, *_command(*words)])}"
        return [str(FLEET), "run", "1", "sh", "-c", script]

    @property
    def rows(self) -> Rows:
        """The table of the submitting host."""
        with (self.folder / "perf.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @contextmanager
    def stand_ins(self, scripts: Mapping[str, str], *hosts: int) -> Iterator[None]:
        """Put programs before those of the hosts' login shells."""
        folder = self.folder / "stand-ins"
        folder.mkdir()
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{script}\n")
            (folder / name).chmod(0o755)
        profile = "/etc/profile.d/stand-ins.sh"
        for host in hosts:
            self.hosts.sh(host, f"echo 'PATH={self.inside}/stand-ins:$PATH' >{profile}")
        try:
            yield
        finally:
            for host in hosts:
                self.hosts.sh(host, f"rm {profile}")

    def containers(self) -> str:
        """The ids of the containers that run on the hosts."""
        return "".join(self.hosts.run(number, "docker", "ps", "--quiet") for number in range(1, len(NAMES) + 1))


@pytest.fixture(scope="session")
def slurm(fleet: Hosts, built: Path, bed: Mapping[str, str]) -> Hosts:
    """A real Slurm on the hosts, each with the images."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name, path=path)]
    if lacking:
        _missing(f"Slurm's tests need slurm-wlm and munge; not here: {', '.join(lacking)}")
    outcome([str(CHECKOUT / "tests/bed/slurm"), "up", str(fleet.folder), str(len(NAMES))], {"PATH": path})
    ids = [image["image_id"] for image in json.loads(built.read_text())["built_images"].values()]
    archive = fleet.folder / "shared/images.tar"
    outcome(["docker", "save", "--output", str(archive), *ids], {"DOCKER_HOST": bed["DOCKER_HOST"]})
    return fleet


@pytest.fixture
def cluster(slurm: Hosts, built: Path) -> Iterator[Cluster]:
    """A shared folder of the test's own with the manifest, whose images the nodes have."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=slurm.folder / "shared"))
    folder.chmod(0o755)
    manifest = json.loads(built.read_text())
    for image in manifest["built_images"].values():
        image.update(registry_image=None, registry_digest=None)
    # Other tests leave none on their hosts.
    ids = " ".join(image["image_id"] for image in manifest["built_images"].values())
    for number in range(1, len(NAMES) + 1):
        load = "docker load --quiet --input /shared/images.tar"
        slurm.sh(number, f"docker image inspect {ids} >/dev/null 2>&1 || {load}")
    (folder / "build_manifest.json").write_text(json.dumps({**manifest, "registry": None}))
    yield Cluster(slurm, folder)
    slurm.run(1, "scancel", "--user=root", check=False)


@dataclass(frozen=True)
class Controller:
    """This machine's side: a folder with the manifest, and madengine with the fleet's ssh config."""

    folder: Path
    hosts: Hosts
    engine: Engine

    def __call__(self, *words: str, check: bool = True, path: Path | None = None) -> Outcome:
        """Run madengine; the ssh config goes with every verb."""
        config = f"--ssh-config={path or self.hosts.config}"
        return outcome(
            _command(*words, config), {**self.engine.environment, "PYTHONPATH": str(CHECKOUT)}, self.folder, check=check
        )

    @contextmanager
    def beside(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A madengine that runs beside the test."""
        with started(self.engine, self.folder, *words, f"--ssh-config={self.hosts.config}") as process:
            yield process

    @property
    def output(self) -> str:
        """What the one beside the test has printed so far."""
        return (self.folder / "stderr").read_text(encoding="utf-8") + (self.folder / "stdout").read_text(
            encoding="utf-8"
        )

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until the one beside the test has printed something."""
        until(lambda: text in self.output, seconds, lambda: f"{text!r} was not printed: {self.output}")

    @property
    def rows(self) -> Rows:
        """The local table."""
        with (self.folder / "perf.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def outcomes(self, *columns: str) -> list[tuple[str, ...]]:
        """Some columns of the local table, sorted."""
        return sorted(tuple(row[column] for column in columns) for row in self.rows)

    @property
    def results(self) -> Path:
        """The folder of the newest run's results."""
        return max((self.folder / "results").iterdir(), key=lambda path: path.name)


@pytest.fixture
def controller(built: Path, hosts: Hosts, bed: Mapping[str, str], tmp_path: Path) -> Controller:
    """A folder of the test's own with the manifest; its docker is the machine that builds."""
    shutil.copy(built, tmp_path)
    return Controller(tmp_path, hosts, Engine("docker", {"DOCKER_HOST": bed["DOCKER_HOST"]}))


def until(is_so: Callable[[], bool], seconds: float, complaint: Callable[[], str]) -> None:
    """Wait until something is so, and fail where that takes too long."""
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, complaint()
        time.sleep(0.05)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "madengine.distributed_cli", *words]


def counted(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str, str]]:
    """Which rows there are: host, model and status."""
    return sorted((row["machine_name"], row["model"], row["status"]) for row in rows)
