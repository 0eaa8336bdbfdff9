"""Real torchrun and gloo: on two hosts over ssh and under Slurm, and twice at once on one machine."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bed.components import Engine, outcome
from tests.bed.gpu_stand_ins import NvidiaNode, without_gpu_flags
from tests.engine.packages import started
from tests.fleet.conftest import CHECKOUT, Cluster, Controller, Hosts, Rows

# 0 + 1 + 2 + 3
OF_FOUR = {
    "status": "SUCCESS", "reason": "", "performance": "6", "metric": "sum_of_ranks", "launcher": "torchrun",
    "nnodes": "2", "aggregation": "rank 0",
}  # fmt: skip


def logs(results: Path) -> list[str]:
    return [log.read_text(encoding="utf-8") for log in sorted(results.glob("**/*.run.live.log"))]


def test_two_hosts_reduce_together_over_ssh(controller: Controller, hosts: Hosts) -> None:
    ended = controller("run", "--host=h1,h2", "--nodes=2", "--tags=together", check=False)
    assert ended.code == 0, (ended.stderr, logs(controller.results))
    [row] = controller.rows
    expected = {**OF_FOUR, "gpus_per_node": "0", "n_gpus": "0", "machine_name": f"{hosts.name(1)},{hosts.name(2)}"}
    assert {name: row[name] for name in expected} == expected
    first, second = logs(controller.results)
    assert {"rank 0 of 4", "rank 1 of 4"} <= {*first.splitlines()}
    assert {"rank 2 of 4", "rank 3 of 4"} <= {*second.splitlines()}
    assert "performance:" not in second
    assert "h2: together: SUCCESS\n" in ended.stderr


def test_a_rank_that_raises_ends_the_others_and_is_the_reason(controller: Controller, hosts: Hosts) -> None:
    began = time.monotonic()
    ended = controller("run", "--host=h1,h2", "--nodes=2", "--tags=dies", check=False)
    assert ended.code == 3, (ended.stderr, logs(controller.results))
    assert time.monotonic() - began < 60, "gloo's own limit is half an hour"
    [row] = controller.rows
    raised = "exit code 1; [rank3]: ValueError: the loss is not a number"
    expected = {"status": "FAILURE", "reason": f"rank 1 ({hosts.name(2)}): {raised}", "exit_code": "1"}
    assert {name: row[name] for name in expected} == expected
    for host in (1, 2):
        assert not hosts.run(host, "docker", "ps", "--all", "--quiet")


def test_two_nodes_of_slurm_reduce_together_on_their_gpus(cluster: Cluster) -> None:
    path = cluster.folder / "build_manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for key, model in manifest["built_models"].items():
        # As many processes as GPUs.
        model.update(n_gpus="2", distributed={"launcher": "torchrun"})
        manifest["built_images"][key]["gpu_vendor"] = "NVIDIA"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    docker = cluster.hosts.sh(1, "command -v docker").strip()
    programs = {"nvidia-smi": NvidiaNode(count=4).nvidia_smi(), "docker": without_gpu_flags(docker)}
    words = ("run", "--manifest-file=build_manifest.json", "--target=slurm", "--tags=together", "--run-id=r1")
    with cluster.stand_ins(programs, 1, 2, 3):
        ended = cluster(*words, "--nodes=2", check=False)
    assert ended.code == 0, (ended.stderr, logs(cluster.folder / "results"))
    [row] = cluster.rows
    expected = {**OF_FOUR, "gpus_per_node": "2", "n_gpus": "4", "deployment_type": "slurm"}
    assert {name: row[name] for name in expected} == expected
    assert len({*row["machine_name"].split(",")}) == 2


def test_two_runs_on_one_machine_do_not_meet(built: Path, bed: Mapping[str, str], tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    context = json.dumps({"docker_mounts": {"/meeting": str(meeting)}, "env_vars": {"MEETING": "/meeting"}})
    words = ("run", "--manifest-file=build_manifest.json", "--tags=alone", "--additional-context", context)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(built, folder)
    engine = Engine("docker", {"DOCKER_HOST": bed["DOCKER_HOST"], "PYTHONPATH": str(CHECKOUT)})
    with started(engine, folders[0], *words) as other:
        line = [sys.executable, "-m", "madengine.distributed_cli", *words]
        ended = outcome(line, engine.environment, folders[1], check=False)
        assert ended.code == 0, (ended.stderr, logs(folders[1]))
        assert other.wait(60) == 0, (folders[0] / "stderr").read_text(encoding="utf-8")
    ports = [file.name for file in meeting.iterdir()]
    assert len(ports) == 2
    assert "29500" not in ports
    for folder in folders:
        [row] = rows_in(folder)
        expected = {"performance": "1", "launcher": "torchrun", "nnodes": "1", "aggregation": ""}
        assert {name: row[name] for name in expected} == expected


def rows_in(folder: Path) -> Rows:
    with (folder / "perf.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
