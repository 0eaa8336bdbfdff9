"""A model whose script is the test's own: one image for all tests, and for each run a manifest of its own."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tests.bed.components import Engine, Outcome, Registry, outcome

CHECKOUT = Path(__file__).parents[2]
# What a script adds to count as a success.
METRIC = "echo performance: 1 tokens_per_second"

# Arguments that a shell, a CSV reader or a careless `format` would each spoil in their own way.
ODD_ARGUMENTS = (
    "two words",
    "it's",
    'say "hi"',
    "$HOME ${PATH} $(touch canary)",
    "`touch canary`",
    "line one\nline two",
    "naïve Ω 模型",
    "a,b;c|d&e>canary",
    "back\\slash \\n",
    "*",
    "",
    "--tags",
)

_FILES = {
    "docker/any.ubuntu.cpu.Dockerfile": "# CONTEXT {}\nFROM [base]\n",
    "docker/odd.ubuntu.cpu.Dockerfile": "# CONTEXT {}\nFROM [base]\n",
    "docker/bashless.ubuntu.cpu.Dockerfile": "# CONTEXT {}\nFROM [base]\nRUN rm /bin/bash\n",
    "docker/shless.ubuntu.cpu.Dockerfile": "# CONTEXT {}\nFROM scratch\nLABEL shell=none\n",
    "scripts/any/run.sh": 'eval "$1"\n',
    "scripts/any/stale.csv": "model,performance,metric\nold,999,tokens\n",
    "scripts/odd/run.sh": f'for word in "$@"; do printf "%s\\0" "$word"; done >/myworkspace/words\n{METRIC}\n',
}


class Done(NamedTuple):
    """A command that has ended and what it left in its folder."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of perf.csv."""
        with (self.folder / "perf.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def row(self) -> dict[str, str]:
        """The only row of perf.csv."""
        (row,) = self.rows
        return row

    @property
    def reason(self) -> str:
        """Why the only row is a failure."""
        assert self.row["status"] == "FAILURE", self.row
        return self.row["reason"]

    @property
    def results(self) -> list[dict[str, Any]]:
        """The results of results.json."""
        found: list[dict[str, Any]] = json.loads(self.directory.joinpath("results.json").read_text())["results"]
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The run summary."""
        found: dict[str, Any] = json.loads((self.folder / "run_summary.json").read_text())
        return found

    @property
    def directory(self) -> Path:
        """The folder of the only run."""
        (directory,) = (self.folder / "runs").iterdir()
        return directory

    @property
    def workspace(self) -> Path:
        """The folder of the only model of the only run."""
        (workspace,) = (path for path in self.directory.iterdir() if path.is_dir() and path.name != "payload")
        return workspace

    @property
    def log(self) -> bytes:
        """The log of the only model."""
        (log,) = self.workspace.glob("*.run.live.log")
        return log.read_bytes()


@dataclass(frozen=True)
class Trial:
    """Runs scripts as models, with one engine, in one folder."""

    engine: Engine
    folder: Path
    built: Mapping[str, Any] = field(repr=False)

    def manifest(
        self,
        name: str = "any",
        card: Mapping[str, Any] | None = None,
        image: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        """Write a manifest with the one model; `card`, `image` and `more` replace keys, None takes one away."""
        key = f"ci-{name}_ubuntu_cpu"
        content = {
            **self.built,
            "built_images": {key: _changed(self.built["built_images"][key], image or {})},
            "built_models": {key: _changed(self.built["built_models"][key], card or {})},
        }
        path = self.folder / "build_manifest.json"
        path.write_text(json.dumps(_changed(content, more)), encoding="utf-8")
        return path

    def run(self, script: str, *options: str, env: Mapping[str, str] | None = None, **manifest: Any) -> Done:
        """Run a bash script as the model and wait for its end."""
        words = self.words(script, *options, **manifest)
        return self.done(*outcome(words, self.environment(env), cwd=self.folder, check=False))

    def run_manifest(self, path: Path, *options: str, env: Mapping[str, str] | None = None) -> Done:
        """Run a manifest as it is."""
        words = [*self.program, "run", "--manifest-file", str(path), *options]
        return self.done(*outcome(words, self.environment(env), cwd=self.folder, check=False))

    def start(self, script: str, *options: str, env: Mapping[str, str] | None = None, **manifest: Any) -> Started:
        """Start a bash script as the model; gives madengine when the script has said `started` in its log."""
        words = self.words(script, *options, **manifest)
        with (self.folder / "stdout").open("wb") as stdout, (self.folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                words, env=self.whole(env), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        started = Started(self, process)
        wait_for(lambda: started.has_started or process.poll() is not None, 60)
        assert process.poll() is None, (self.folder / "stderr").read_text()
        return started

    def words(self, script: str, *options: str, context: Mapping[str, Any] | None = None, **manifest: Any) -> list[str]:
        """The command line that runs a script as the model."""
        path = self.manifest(**manifest)
        asked = json.dumps({"model_args": shlex.quote(script), **(context or {})})
        return [*self.program, "run", "--manifest-file", str(path), "--additional-context", asked, *options]

    @property
    def program(self) -> list[str]:
        return [sys.executable, "-m", "madengine.distributed_cli"]

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What madengine needs beside our own environment."""
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        return {**self.engine.environment, "MADENGINE_ENGINE": self.engine.name, "PYTHONPATH": path, **(more or {})}

    def whole(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**os.environ, **self.environment(more)}

    def done(self, code: int, stdout: str, stderr: str) -> Done:
        return Done(code, stdout, stderr, self.folder)

    def containers(self, run_id: str = "") -> list[str]:
        """The names of the containers of a run, of this folder's only run by default."""
        run_id = run_id or next((self.folder / "runs").iterdir()).name
        listed = self.engine("ps", "--all", f"--filter=label=madengine.run={run_id}", "--format={{.Names}}")
        return listed.stdout.split()


@dataclass
class Started:
    """A madengine that runs a model."""

    trial: Trial
    process: subprocess.Popen[bytes]

    @property
    def has_started(self) -> bool:
        return any(b"started" in log.read_bytes() for log in self.trial.folder.glob("runs/*/*/*.run.live.log"))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = 60) -> Done:
        """Wait for its end."""
        code = self.process.wait(seconds)
        texts = [(self.trial.folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        return self.trial.done(code, *texts)

    @cached_property
    def container(self) -> str:
        (name,) = self.trial.containers()
        return name


def trial(engine: Engine, base_image: str, registry: Registry, tmp_path: Path, basetemp: Path) -> Trial:
    """A Trial in a folder below `tmp_path`; the images are built once in a session of tests."""
    folder = tmp_path / "work"
    folder.mkdir()
    shared = basetemp.parent if "PYTEST_XDIST_WORKER" in os.environ else basetemp
    package = shared / f"trial-{engine.name}"
    with (shared / f"trial-{engine.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (package / "built.json").exists():
            _write_package(package, base_image)
            _build(package, engine, registry)
            (package / "build_manifest.json").rename(package / "built.json")
    return Trial(engine, folder, json.loads((package / "built.json").read_text()))


def wait_for(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds; fail where it doesn't in time."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"not within {seconds} s"
        time.sleep(0.02)


def _write_package(package: Path, base_image: str) -> None:
    for name, text in _FILES.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("[base]", base_image))
    cards = [
        {"name": name, "dockerfile": f"docker/{name}", "scripts": "scripts/any", "n_gpus": "0", "tags": ["trial"]}
        for name in ("any", "bashless", "shless")
    ]
    odd = {"dockerfile": "docker/odd", "scripts": "scripts/odd", "args": shlex.join(ODD_ARGUMENTS)}
    cards.append({**cards[0], "name": "odd", **odd})
    (package / "models.json").write_text(json.dumps(cards))


def _build(package: Path, engine: Engine, registry: Registry) -> Outcome:
    words = [sys.executable, "-m", "madengine.distributed_cli", "build", "--registry", registry.address]
    environment = {**engine.environment, "MADENGINE_ENGINE": engine.name, "PYTHONPATH": str(CHECKOUT)}
    return outcome(words, environment, cwd=package)


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**values, **changes}
    return {key: value for key, value in merged.items() if value is not None}
