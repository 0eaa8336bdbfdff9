"""One manifest on every target: the same rows, whatever runs it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ansible.conftest import Rack, Registries
from tests.bed.components import Engine, Registry, outcome
from tests.engine.packages import Package
from tests.fleet.conftest import CHECKOUT, NAMES, Cluster, Hosts, Rows, _command
from tests.k8s.conftest import Built, docker, python_image, server
from tests.k8s.conftest import Cluster as KubernetesCluster
from tests.k8s.kubelet import running

__all__ = ["docker", "python_image", "server"]

# What says where and when a model ran, and what else each target knows of its nodes.
OF_THE_TARGET = {
    "machine_name", "deployment_type", "launcher", "engine", "attempt",  # where
    "started", "test_duration", "run_duration", "run_id",  # when
    "docker_image", "image_digest",  # by a registry's digest, or by the image's id
    "environment_id", "gpu_architecture", "foreign_processes", "contaminated",
}  # fmt: skip
MODELS = ("good", "fails", "late", "large", "several")
_LARGE = "x=$(head -c 200000000 /dev/zero | tr '\\0' x)\necho performance: 1 tokens\n"
_SEVERAL = "printf 'model,performance,metric\\na,1.5,tokens\\nb,2.5,ms\\n' >results.csv\n"
# The stand-in cluster runs one pod after another, so that the ranks can't wait for each other.
_PAIR = 'echo "performance: 1${NODE_RANK}.5 tokens_per_second"\n'
OUTCOMES = [
    ("fails", "", "", "FAILURE", "exit code 3", "3"),
    ("good", "12.5", "tokens_per_second", "SUCCESS", "", "0"),
    ("large", "", "", "FAILURE", "out of memory: the kernel killed it", "137"),
    ("late", "", "", "FAILURE", "timeout: the script ran longer than 2 s", "124"),
    ("several_a", "1.5", "tokens", "SUCCESS", "", "0"),
    ("several_b", "2.5", "ms", "SUCCESS", "", "0"),
]
Run = Callable[..., Rows]


@dataclass(frozen=True)
class Bench:
    """The manifest, whose images every host has, in a folder of each target's own."""

    package: Path
    runner_image: str
    hosts: Hosts
    docker: Engine
    folder: Path

    def place(self, folder: Path, by_id: bool = False) -> Path:
        """Put the manifest there; `by_id` it names no registry, so that nodes use the images that they have."""
        folder.mkdir(parents=True, exist_ok=True)
        manifest = json.loads((self.package / "build_manifest.json").read_text(encoding="utf-8"))
        if by_id:
            manifest["registry"] = None
            for image in manifest["built_images"].values():
                image.update(registry_image=None, registry_digest=None)
        (folder / "build_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return folder

    def madengine(self, folder: Path, *words: str, **environment: str) -> Rows:
        """Run madengine on this machine; give the rows that it has added."""
        engine = {**self.docker.environment, "PYTHONPATH": str(CHECKOUT), **environment}
        outcome(_command(*words), engine, folder, check=False)
        return rows_in(folder)


def rows_in(folder: Path) -> Rows:
    with (folder / "perf.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def bench(
    fleet: Hosts,
    docker: Engine,
    base_image: str,
    python_image: str,
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Bench:
    folder = tmp_path_factory.mktemp("conformance")
    package = Package(folder / "package", base_image)
    no_gpus: dict[str, Any] = {"n_gpus": "0"}
    package.add("good", script="echo 'performance: 12.5 tokens_per_second'\n", **no_gpus)
    package.add("fails", script="exit 3\n", **no_gpus)
    package.add("late", script="sleep 60\n", timeout=2, **no_gpus)
    package.add("large", script=_LARGE, additional_docker_run_options="--memory=48m", **no_gpus)
    package.add("several", script=_SEVERAL, multiple_results="results.csv", **no_gpus)
    package.add("pair", script=_PAIR, distributed={"launcher": "torchrun", "nnodes": 2}, **no_gpus)
    address = registry.address.replace("127.0.0.1", "localhost")
    environment = {**docker.environment, "PYTHONPATH": str(CHECKOUT)}
    outcome(_command("build", "--registry", address), environment, package.folder)
    outcome(_command("export-config"), environment, package.folder)
    pushed = outcome(
        _command("runner-image", "--registry", address, "--base", python_image), environment, package.folder
    )
    manifest = json.loads((package.folder / "build_manifest.json").read_text(encoding="utf-8"))
    ids = [image["image_id"] for image in manifest["built_images"].values()]
    archive = fleet.folder / "shared/conformance.tar"
    docker("save", "--output", str(archive), *ids)
    for number in range(1, len(NAMES) + 1):
        fleet.run(number, "docker", "load", "--quiet", "--input", f"/shared/{archive.name}")
    return Bench(package.folder, pushed.stdout.strip(), fleet, docker, folder)


@pytest.fixture
def kubernetes(bench: Bench, server: Any, tmp_path: Path) -> Iterator[KubernetesCluster]:
    folder = bench.place(tmp_path / "k8s")
    with running(server, bench.docker, tmp_path / f"node-{tmp_path.name[-24:]}") as kubelet:
        yield KubernetesCluster(folder, server, kubelet, Built(bench.package, bench.runner_image))


@pytest.fixture
def runs(bench: Bench, slurm: Hosts, kubernetes: KubernetesCluster, tmp_path: Path) -> Iterator[Mapping[str, Run]]:
    """What runs models on each target; gives their rows."""
    shared = Path(tempfile.mkdtemp(prefix="slurm-", dir=slurm.folder / "shared"))
    shared.chmod(0o755)

    def local(*tags: str) -> Rows:
        folder = bench.place(tmp_path / "local", by_id=True)
        return bench.madengine(folder, "run", "--manifest-file=build_manifest.json", "--tags", *tags)

    def ssh(*tags: str, hosts: str = "h1") -> Rows:
        folder = bench.place(tmp_path / f"ssh-{len(tags)}", by_id=True)
        config = f"--ssh-config={bench.hosts.config}"
        return bench.madengine(folder, "run", f"--host={hosts}", config, "--tags", *tags)

    def ansible(*tags: str) -> Rows:
        folder = bench.place(tmp_path / "ansible", by_id=True)
        shutil.copy(bench.package / "execution_config.json", folder)
        manifest = json.loads((folder / "build_manifest.json").read_text(encoding="utf-8"))
        for part in ("built_images", "built_models"):
            manifest[part] = {
                key: entry for key, entry in manifest[part].items() if manifest["built_models"][key]["name"] in tags
            }
        (folder / "build_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        rack = Rack(folder, bench.hosts, Registries(0, 0))
        rack.generate()
        rack.inventory()
        inventory = (folder / "gpu_inventory").read_text(encoding="utf-8")
        (folder / "gpu_inventory").write_text(re.sub("registry_url=.*\n", "", inventory), encoding="utf-8")
        rack.play("--limit=h1", check=False)
        return rows_in(folder)

    def by_slurm(*tags: str) -> Rows:
        bench.place(shared, by_id=True)
        cluster = Cluster(slurm, shared)
        cluster("deploy", "--target=slurm", "--manifest-file=build_manifest.json", "--tags", *tags, check=False)
        return cluster.rows

    def by_kubernetes(*tags: str) -> Rows:
        kubernetes.generate("--memory=48Mi", "--tags", *tags)
        kubernetes.apply()
        kubernetes.collect(check=False)
        return kubernetes.rows

    yield {"local": local, "ssh": ssh, "ansible": ansible, "slurm": by_slurm, "kubernetes": by_kubernetes}
    for number in range(1, len(NAMES) + 1):
        bench.hosts.sh(number, "rm -rf /home/fleet/madengine /srv/madengine", check=False)


def compared(rows: Rows) -> list[dict[str, str]]:
    """The rows without what the target decides, in one order."""
    cells = [{name: cell for name, cell in row.items() if name not in OF_THE_TARGET} for row in rows]
    return sorted(cells, key=lambda row: row["model"])


def test_the_rows_are_the_same_on_every_target(runs: Mapping[str, Run]) -> None:
    with ThreadPoolExecutor(len(runs)) as pool:
        futures = {name: pool.submit(run, *MODELS) for name, run in runs.items()}
    results = {name: compared(future.result()) for name, future in futures.items()}
    columns = ("model", "performance", "metric", "status", "reason", "exit_code")
    assert [tuple(row[column] for column in columns) for row in results["local"]] == OUTCOMES
    for name, rows in results.items():
        assert rows == results["local"], name


def test_two_nodes_have_the_same_row_too(runs: Mapping[str, Run]) -> None:
    results = {name: runs[name]("pair") for name in ("slurm", "kubernetes")}
    results["ssh"] = runs["ssh"]("pair", hosts="h1,h2")
    [row] = results["ssh"]
    expected = {"status": "SUCCESS", "performance": "22", "aggregation": "sum", "nnodes": "2", "launcher": "torchrun"}
    assert expected.items() <= row.items()
    for name, rows in results.items():
        assert compared(rows) == compared(results["ssh"]), name
