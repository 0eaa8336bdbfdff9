"""Real hosts for real playbooks: a registry that they reach, a built manifest, and an inventory."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bed.components import Outcome, outcome
from tests.engine.conftest import _missing, base_image, bed
from tests.engine.packages import Package
from tests.fleet.conftest import NAMES, Hosts, Rows, fleet, hosts

__all__ = ["base_image", "bed", "fleet", "hosts"]

CHECKOUT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent
USER, PASSWORD = "tester", "correct-horse"
_HTPASSWD = f"{USER}:$2b$04$UuVzywcLUxP0ep8bXvPW2u.Xfyhfnxoynal1gSTBaN9XD3zraOMri\n"
# What Ansible would fill in, and YAML or a shell would read as something else.
HOSTILE = "{{ 7 * 7 }} {% if %} {# 'one' \"two\" $(three) \\n # é: \U0001f600\nfour"
_WAITING = "while test -e /switch/wait; do sleep 0.2; done\ntest -e /switch/on || exit 3\necho 'performance: 1 runs'\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the engines."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@dataclass(frozen=True)
class Registries:
    """The ports, on every address of this machine, of one registry: for all, and for those with a password."""

    plain: int
    closed: int


@pytest.fixture(scope="session")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registries]:
    """One registry behind two ports."""
    if not shutil.which("docker-registry"):
        _missing("docker-registry is not installed")
    folder = tmp_path_factory.mktemp("registries")
    (folder / "htpasswd").write_text(_HTPASSWD, encoding="utf-8")
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
    with _registry(folder, "plain", "") as plain, _registry(folder, "closed", auth) as closed:
        yield Registries(plain, closed)


@contextmanager
def _registry(folder: Path, name: str, more: str) -> Iterator[int]:
    settings, log = folder / f"{name}.yml", folder / f"{name}.log"
    settings.write_text(
        "version: 0.1\nlog: {accesslog: {disabled: true}}\nhttp: {addr: '0.0.0.0:0', secret: x}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/storage}}}}\n{more}",
        encoding="utf-8",
    )
    with log.open("w") as output:
        process = subprocess.Popen(["docker-registry", "serve", str(settings)], stdout=output, stderr=output)
    try:
        limit = time.monotonic() + 30
        while "listening on" not in (text := log.read_text(encoding="utf-8")):
            assert time.monotonic() < limit, text
            time.sleep(0.05)
        yield int(text.partition("listening on")[2].split('"')[0].strip().rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def built(
    bed: Mapping[str, str], base_image: str, registries: Registries, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what `build` and `export-config` wrote: of both models, and good.json of `good` alone.

    `switched` waits while its host has the file /srv/switch/wait, and fails unless it has /srv/switch/on. The execution
    configuration holds a variable NOTE with HOSTILE.
    """
    if "no_docker" in bed:
        _missing(bed["no_docker"])
    package = Package(tmp_path_factory.mktemp("built") / "package", base_image)
    leaving = "mkdir out && echo kept >out/note.txt\necho 'performance: 12.5 tokens_per_second'\n"
    package.add("good", script=leaving, artifacts=["out/*.txt"])
    package.add("switched", script=_WAITING, timeout=60)
    context = json.dumps({"docker_mounts": {"/switch": "/srv/switch"}, "docker_env_vars": {"NOTE": HOSTILE}})
    address, docker = f"127.0.0.1:{registries.plain}", {"DOCKER_HOST": bed["DOCKER_HOST"]}
    madengine("build", "--registry", address, cwd=package.folder, environment=docker)
    good = ("--tags", "good", "--manifest-output", "good.json")
    madengine("build", "--registry", address, *good, cwd=package.folder, environment=docker)
    madengine("export-config", "--additional-context", context, cwd=package.folder)
    return package.folder


def madengine(*words: str, cwd: Path, environment: Mapping[str, str] | None = None, check: bool = True) -> Outcome:
    """Run `python -m madengine.distributed_cli` of this checkout."""
    line = [sys.executable, "-m", "madengine.distributed_cli", *words]
    return outcome(line, {"PYTHONPATH": str(CHECKOUT), **(environment or {})}, cwd=cwd, check=check)


@dataclass(frozen=True)
class Rack:
    """A folder with a generated playbook, and an inventory of the hosts as the document has it."""

    folder: Path
    hosts: Hosts
    registries: Registries

    def generate(self, *words: str, check: bool = True) -> Outcome:
        """Write the playbook."""
        return madengine("generate", "ansible", *words, cwd=self.folder, check=check)

    def play(self, *words: str, environment: Mapping[str, str] | None = None, check: bool = True) -> Outcome:
        """Run the playbook with the inventory."""
        line = ["ansible-playbook", "-i", "gpu_inventory", "madengine_distributed.yml", "-e", "madengine_poll=1"]
        return self.run(*line, *words, environment=environment, check=check)

    def run(self, *line: str, environment: Mapping[str, str] | None = None, check: bool = True) -> Outcome:
        """Run a program in the folder; Ansible then asks for nothing and ignores the user's own settings."""
        return outcome([*line], {**self.environment, **(environment or {})}, cwd=self.folder, check=check)

    @contextmanager
    def playing(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A playbook that runs beside the test."""
        line = [
            "ansible-playbook",
            "-i",
            "gpu_inventory",
            "madengine_distributed.yml",
            "-e",
            "madengine_poll=1",
            *words,
        ]
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(
                line, cwd=self.folder, env={**os.environ, **self.environment}, stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)

    @property
    def environment(self) -> dict[str, str]:
        home = self.hosts.folder / "ansible"
        return {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "ANSIBLE_HOME": str(home),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(home / "cp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_TIMEOUT": "5",
            "NO_COLOR": "1",
        }

    def inventory(self, *lines: str, **of_host: str) -> None:
        """Write the inventory: lines more for all hosts, words more for one of them."""
        text = (self.hosts.folder / "inventory.ini").read_text(encoding="utf-8").replace("[fleet", "[gpu_nodes")
        for name, words in of_host.items():
            text = text.replace(f"\n{name} ", f"\n{name} {words} ")
        variables = [
            "madengine_path=/srv/madengine",
            "madengine_keepalive=1",
            f"registry_url={self.hosts.address}.254:{self.registries.plain}",
            *lines,
        ]
        (self.folder / "gpu_inventory").write_text(text + "\n".join(variables) + "\n", encoding="utf-8")

    @property
    def runs(self) -> list[Path]:
        """The folders of results, the oldest first."""
        return sorted((self.folder / "results").glob("*"), key=lambda folder: folder.stat().st_mtime)

    @property
    def rows(self) -> Rows:
        """The merged table."""
        return read(self.folder / "perf.csv")

    def outcomes(self, run: Path) -> list[tuple[str, str, str]]:
        """Host, model and status of the rows of a run; a host that ran nothing has its name in the inventory."""
        names = {self.hosts.name(number): name for number, name in enumerate(NAMES, 1)}
        mine = [row for row in self.rows if row["run_id"] == run.name]
        return sorted(
            (names.get(row["machine_name"], row["machine_name"]), row["model"], row["status"]) for row in mine
        )


def read(table: Path) -> Rows:
    """The rows of a perf.csv."""
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def rack(built: Path, hosts: Hosts, registries: Registries, tmp_path: Path) -> Iterator[Rack]:
    """The playbook of both models' manifest, and an inventory of h1, h2 and h3, on which `switched` fails."""
    if not (PROGRAMS / "ansible-playbook").exists():
        _missing(f"ansible-core is not installed beside {sys.executable}")
    for name in ("build_manifest.json", "good.json", "execution_config.json"):
        shutil.copy(built / name, tmp_path)
    everywhere = range(1, len(NAMES) + 1)
    for number in everywhere:
        hosts.run(number, "mkdir", "-p", "/srv/switch")
    made = Rack(tmp_path, hosts, registries)
    made.generate()
    made.inventory()
    try:
        yield made
    finally:
        for number in everywhere:
            hosts.heal(number)
            hosts.sh(number, "rm -rf /srv/madengine /srv/switch; docker rm -f $(docker ps -aq)", check=False)
