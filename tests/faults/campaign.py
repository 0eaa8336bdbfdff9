"""Rounds of faults: a command, a fault at a random moment, the next command, and what must hold after both."""

from __future__ import annotations

import csv
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from madengine.config.manifest import load_manifest
from madengine.errors import MadengineError
from madengine.results.rows import COLUMNS
from tests.bed.components import Engine, Registry, outcome
from tests.engine.packages import Line, Package
from tests.fleet.conftest import Hosts

CHECKOUT = Path(__file__).parents[2]
SECRET = "hunter2-of-the-campaign"
SIGNALS = {"kill -9": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT, "HUP": signal.SIGHUP}
DOCUMENTED = {0, 1, 2, 3, 4, 130}
_SCRIPT = "sleep 0.5\necho 'performance: 5 tokens_per_second'\n"
_ENGINE_COMMANDS = ("build", "push", "pull", "run")
_COMMANDS = (*_ENGINE_COMMANDS, "collect", "run --host", "generate")
# A fault, and the commands that it is tried on.
MATRIX: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(SIGNALS, _COMMANDS),
    "engine killed": _ENGINE_COMMANDS,
    "registry cut": ("build", "push", "pull"),
    "disk full": _COMMANDS,
    "folder removed": _COMMANDS,
    "host killed": ("run --host",),
    "ssh cut": ("run --host",),
}
_MODELS = ("quick", "other")
_MANIFEST = "--manifest-file=build_manifest.json"
_PATIENCE = 20.0


@dataclass
class Daemon:
    """A dockerd that shares nothing with others, and may be killed and started again."""

    data: Path
    run: Path

    @property
    def engine(self) -> Engine:
        """Its docker."""
        return Engine("docker", {"DOCKER_HOST": f"unix://{self.run}/docker.sock", "DOCKER_CONFIG": str(self.data)})

    def start(self) -> None:
        """Start it, with what an earlier one has stored."""
        runtime = CHECKOUT / "tests/bed/runc-lenient"
        shutil.rmtree(self.run, ignore_errors=True)
        self._shell(
            f"start_dockerd {self.data}/store {self.run} --bridge none"
            f" --add-runtime lenient={runtime} --default-runtime lenient"
        )

    def kill(self) -> None:
        """Kill it, as a crash does; its containers live on, unwatched."""
        for name in ("pid", "exec/containerd/containerd.pid"):
            with suppress(OSError, ValueError):
                os.kill(int((self.run / name).read_text()), signal.SIGKILL)

    def end_containers(self) -> None:
        """End the containers of one that was killed, and what watches them: the machine was restarted."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"-namespace\0{self.run.name}\0" in (entry / "cmdline").read_text(errors="replace"):
                    children = (entry / "task" / entry.name / "children").read_text().split()
                    for pid in map(int, (*children, entry.name)):
                        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End it, and remove its folder of sockets."""
        self._shell(f"stop_dockerd {self.data}/store {self.run}; rm -rf {self.run}")
        self.end_containers()

    def _shell(self, script: str) -> None:
        words = ["bash", "-c", f"set -euo pipefail; source {shlex.quote(str(CHECKOUT / 'bin/environment'))}; {script}"]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, start_new_session=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


@dataclass
class Campaign:
    """What all rounds share."""

    daemon: Daemon
    registry: Registry
    base_image: str
    folder: Path
    seed: str
    hosts: Callable[[], Hosts]
    #: seconds that each command takes undisturbed
    seconds: dict[str, float] = field(default_factory=dict)

    def prepare(self) -> None:
        """Build and push the package once, and run it, for the rounds that start from there."""
        package = Package(self.folder / "package", self.base_image)
        for name in _MODELS:
            package.add(name, script=_SCRIPT, n_gpus="0")
        self.madengine(package.folder, "build", "--registry", self.address)
        self.madengine(package.folder, "run", _MANIFEST)
        self.madengine(package.folder, "export-config")

    @property
    def address(self) -> str:
        """The registry's name, as hosts can reach it through a tunnel too."""
        return self.registry.address.replace("127.0.0.1", "localhost")

    @property
    def environment(self) -> dict[str, str]:
        """What madengine needs beside our own environment."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "CONTAINER"))}
        return {
            **inherited,
            **self.daemon.engine.environment,
            "MADENGINE_ENGINE": "docker",
            "PYTHONPATH": str(CHECKOUT),
            "MAD_SECRETS_TOKEN": SECRET,
        }

    def madengine(self, folder: Path, *words: str) -> None:
        """Run a command that must succeed."""
        environment = {**self.daemon.engine.environment, "MADENGINE_ENGINE": "docker", "PYTHONPATH": str(CHECKOUT)}
        outcome([sys.executable, "-m", "madengine", *words], {**environment, "MAD_SECRETS_TOKEN": SECRET}, folder)


@dataclass
class Round:
    """One round of a campaign, which its seed and number decide."""

    campaign: Campaign
    number: int
    folder: Path

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.campaign.seed} {self.number}")
        pairs = [(fault, command) for fault, commands in MATRIX.items() for command in commands]
        self.fault, self.command = self.random.choice(pairs)
        self.tool = self.random.choice(["ansible", "k8s"])
        self.mark = f"{self.campaign.seed}-{self.number}-{os.getpid()}"
        self.work, self.temporary = self.folder / "work", self.folder / "tmp"
        self.moment = 0.0
        self.events: list[str] = []

    def __str__(self) -> str:
        return f"round {self.number} of seed {self.campaign.seed}: {self.fault} in {self.command}: {self.events}"

    # --- the commands ---

    def prepare(self) -> None:
        """Make the folder that the command works in."""
        for folder in (self.work, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        self._fill()

    def _fill(self) -> None:
        package = self.campaign.folder / "package"
        shutil.copytree(
            package, self.work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("runs", "perf.csv", "*.json")
        )
        shutil.copy(package / "models.json", self.work)
        if self.command in ("build", "push"):
            # A layer that no registry and no cache has.
            (self.work / "scripts/m0/blob").write_bytes(self.random.randbytes(2_000_000))
        else:
            for name in ("build_manifest.json", "execution_config.json"):
                shutil.copy(package / name, self.work)
        if self.command == "push":
            self.campaign.madengine(self.work, "build")
        if self.command == "pull":
            names = [image["image_id"] for image in self._images()]
            self.campaign.daemon.engine("image", "rm", "--force", *names, check=False)
        if self.command == "collect":
            self._leave_results(package)

    def _images(self) -> Iterator[Mapping[str, str]]:
        yield from json.loads((self.work / "build_manifest.json").read_text())["built_images"].values()

    def _leave_results(self, package: Path) -> None:
        (run,) = (package / "runs").iterdir()
        text = (run / "results.json").read_text()
        for number in range(30):
            target = self.work / f"results/r{number}/host/runs/r{number}/results.json"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace(run.name, f"r{number}"))

    def words(self, address: str = "") -> list[str]:
        """The command line."""
        registry = ["--registry", address or self.campaign.address]
        config = [f"--ssh-config={self.campaign.hosts().config}"] if self.command == "run --host" else []
        return {
            "build": ["build", *registry],
            "push": ["push", _MANIFEST, *registry],
            "pull": ["run", _MANIFEST, *(registry if address else [])],
            "run": ["run", _MANIFEST],
            "collect": ["collect", "results"],
            "run --host": ["run", _MANIFEST, "--host=h1,h2", *config],
            "generate": ["generate", self.tool, _MANIFEST],
        }[self.command]

    @contextmanager
    def started(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A madengine beside us."""
        environment = {**self.campaign.environment, "TMPDIR": str(self.temporary), "FAULTS_MARK": self.mark}
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(
                ["env", "--default-signal=INT,TERM,HUP", sys.executable, "-m", "madengine", *words],
                cwd=self.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    # --- the faults ---

    def disturbed(self) -> int:
        """Run the command with its fault; return the exit code."""
        with self._surroundings() as address, self.started(self.words(address)) as process:
            self._wait(process)
            began = time.monotonic()
            self._strike(process)
            try:
                code = process.wait(240)
            except subprocess.TimeoutExpired:
                code = -999
            self.events.append(f"exit code {code} {time.monotonic() - began:.1f} s after it")
        return code

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        typical = self.campaign.seconds.get(self.command, 2.0)
        self.moment = self.random.uniform(0.02, 1.1 * typical)
        self.events.append(f"at {self.moment:.2f} s")
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.moment)
        while process.poll() is None and not _handles_term(process.pid):
            time.sleep(0.005)  # the interpreter itself has not started yet

    @contextmanager
    def _surroundings(self) -> Iterator[str]:
        """What has to be there before the command starts; the value is the registry's address, if it is another."""
        if self.fault == "registry cut":
            line = Line(self.campaign.registry, cuts=self.random.randint(1, 3), after=self.random.randrange(1_000_000))
            try:
                yield line.address
            finally:
                line.close()
        elif self.fault == "disk full":
            with self._small_disk(self.random.choice([self.work, self.temporary])):
                yield ""
        else:
            yield ""

    @contextmanager
    def _small_disk(self, place: Path) -> Iterator[None]:
        """Put what is in a folder on a disk with little room; all of it is back on the large one afterwards."""
        aside, room = self.folder / "aside", self.random.choice([0, 1, 8, 40, 200]) * 1024
        shutil.copytree(place, aside)
        size = sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in place.rglob("*")) + room + 65_536
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
        shutil.copytree(aside, place, dirs_exist_ok=True)
        self.events.append(f"{room} bytes left in {place.name}")
        try:
            yield
        finally:
            shutil.rmtree(aside)
            shutil.copytree(place, aside)
            subprocess.run(["umount", "--lazy", str(place)], check=True)
            shutil.copytree(aside, place, dirs_exist_ok=True)
            shutil.rmtree(aside)

    def _strike(self, process: subprocess.Popen[bytes]) -> None:
        if self.fault in SIGNALS:
            process.send_signal(SIGNALS[self.fault])
        elif self.fault == "engine killed":
            self.campaign.daemon.kill()
        elif self.fault == "folder removed":
            names = ["work", "tmp", "work/runs", "work/results", "work/build_logs"]
            name = self.random.choice(names)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            self.events.append(f"removed {name}")
        elif self.fault == "ssh cut":
            self.campaign.hosts().cut(1)
            self._heal_later()
        elif self.fault == "host killed":
            kill_host(self.campaign.hosts(), 1)
            self._revive_later()

    def _revive_later(self) -> None:
        seconds = self.random.uniform(0.5, 6)
        self.events.append(f"back after {seconds:.1f} s")
        time.sleep(seconds)
        revive_host(self.campaign.hosts(), 1)

    def _heal_later(self) -> None:
        seconds = self.random.uniform(0.5, 6)
        self.events.append(f"healed after {seconds:.1f} s")
        time.sleep(seconds)
        self.campaign.hosts().heal(1)

    def restore(self) -> None:
        """Repair what the fault has broken, but nothing that madengine has to repair itself."""
        if self.fault == "engine killed":
            self.campaign.daemon.kill()
            self.campaign.daemon.end_containers()
            self.campaign.daemon.start()
        if self.fault == "folder removed":
            self.prepare()

    def undisturbed(self) -> int:
        """Run the next command, which is the same one; return its exit code."""
        with self.started(self.words()) as process:
            began = time.monotonic()
            code = process.wait(240)
            self.events.append(f"next command: exit code {code} after {time.monotonic() - began:.1f} s")
        return code

    # --- what must hold ---

    def violations(self, code: int, next_code: int) -> list[str]:
        """Everything that does not hold after the round."""
        return [
            *([] if code in DOCUMENTED or (self.fault == "kill -9" and code == -9) else [f"exit code {code}"]),
            *([] if next_code == 0 else [f"the next command's exit code is {next_code}"]),
            *(["a traceback"] if "Traceback (most recent call last)" in self.output else []),
            *self._files(),
            *self._rows(),
            *self._leftovers(),
            *self._secrets(),
        ]

    def _files(self) -> Iterator[str]:
        for path in self.work.rglob("*.json"):
            if path.name in ("build_manifest.json", "results.json", "run_summary.json", "build_summary.json"):
                try:
                    json.loads(path.read_text())
                    if path.name == "build_manifest.json":
                        load_manifest(path)
                except (ValueError, MadengineError) as error:
                    yield f"{path.relative_to(self.folder)}: {error}"

    def _rows(self) -> Iterator[str]:
        path = self.work / "perf.csv"
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
        if lines and (lines[0] != list(COLUMNS) or any(len(line) != len(COLUMNS) for line in lines)):
            yield "perf.csv is broken"
            return
        keys = [
            tuple(row[name] for name in ("run_id", "model", "machine_name", "docker_image"))
            for row in (dict(zip(COLUMNS, line, strict=True)) for line in lines[1:])
        ]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield f"perf.csv: {keys.count(key)} rows of {key}"
        for run in (self.work / "runs").glob("*/results.json"):
            models = {result["model"]["name"] for result in json.loads(run.read_text())["results"]}
            rows = {key[1] for key in keys if key[0] == run.parent.name}
            if missing := models - rows:
                yield f"perf.csv: no row of {sorted(missing)} of {run.parent.name}"

    def _leftovers(self) -> list[str]:
        """Containers, processes and private folders; what is just ending gets some seconds."""
        deadline = time.monotonic() + _PATIENCE
        while (left := [*self._containers(), *self._processes(), *self._folders()]) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def _containers(self) -> list[str]:
        listed = self.campaign.daemon.engine(
            "ps", "--all", "--filter=label=madengine.run", "--format={{.Names}}"
        ).stdout
        return [f"container {name}" for name in listed.split()]

    def _processes(self) -> Iterator[str]:
        mark = f"FAULTS_MARK={self.mark}\0".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                # A connection that nobody uses any more ends by itself.
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if mark in (entry / "environ").read_bytes() and words and not words.startswith("ssh: "):
                    yield f"process {entry.name}: {words[:100]}"

    def _folders(self) -> Iterator[str]:
        for parent in (self.temporary, self.work / "results", self.work):
            for path in parent.glob("*madengine-private-*") if parent.exists() else ():
                yield f"folder {path.relative_to(self.folder)}"
        for path in self.work.glob(".*"):
            yield f"file {path.relative_to(self.folder)}"

    def _secrets(self) -> Iterator[str]:
        if SECRET in self.output:
            yield "the secret was printed"
        for path in (*self.work.rglob("*"), *self.temporary.rglob("*")):
            with suppress(OSError):
                if path.is_file() and SECRET.encode() in path.read_bytes():
                    yield f"the secret is in {path.relative_to(self.folder)}"


def _handles_term(pid: int) -> bool:
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        mask = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
        return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)
    return False


# --- hosts ---


def kill_host(hosts: Hosts, number: int) -> None:
    """End everything on a host, as a crash does; it keeps its disk."""
    words = hosts.sh(number, "tr '\\0' '\\n' <\"/proc/$(cat /run/docker.pid)/cmdline\"")
    (hosts.folder / f"dockerd-{number}").write_text(words)
    hosts.sh(number, "kill -9 -1", check=False)


def revive_host(hosts: Hosts, number: int) -> None:
    """Start its sshd and its dockerd again, without the containers that it had."""
    words = shlex.join((hosts.folder / f"dockerd-{number}").read_text().splitlines())
    hosts.sh(number, "rm -f /run/docker.pid /run/docker/containerd/*.pid; /usr/sbin/sshd -f /etc/ssh/fleet/sshd_config")
    hosts.sh(number, f"setsid {words} </dev/null >/var/log/dockerd.log 2>&1 &")
    hosts.sh(number, "for n in $(seq 300); do docker version >/dev/null 2>&1 && exit; sleep 0.1; done; exit 1")
