"""Two madengines that run a manifest's models together, each as on a node of its own, with a stand-in for docker."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madengine.config.manifest import Manifest, save_manifest
from madengine.errors import EXIT_CONFIGURATION, EXIT_INTERRUPTED, EXIT_RUN_FAILED
from madengine.programs.preflight import free_port
from madengine.records import Image, Model
from madengine.run.seat import Seat
from tests.conftest import StandIns

CHECKOUT = Path(__file__).parents[3]
ID = "sha256:" + "1" * 64
# Each node notes its containers in its own folder. `fails` names one whose container ends with 7 at once; the others
# then take long.
DOCKER = """
case $1 in
run)
    while [ $# -gt 0 ]; do
        case $1 in
            --network=host) network=host ;;
            type=bind,source=*,target=/myworkspace) to=${1#*source=} to=${to%,target=*} ;;
            MADENGINE_LOG=*) log=${1##*/} ;;
            NODE_RANK=*|MASTER_PORT=*|MAD_MULTI_NODE_RUNNER=*) echo "$1" >>variables ;;
        esac
        shift
    done
    echo "$to" >place; echo "$to/$log" >log; echo "start ${network-}" >>events ;;
wait)
    code=0
    if [ -e fails ]; then code=7; elif [ -e ../0/fails ] || [ -e ../1/fails ]; then sleep 60; fi
    cat performance >>"$(cat log)"
    printf '{"exit_code": %s, "started": 1.0, "ended": 2.5, "log_complete": true}' $code >"$(cat place)/entry.json"
    echo 0 ;;
stop) echo stop >>events; kill $(cat waits) ;;
rm) echo rm >>events ;;
image) echo '[{"Id": "IMAGE"}]' ;;
container) echo '{"Status": "exited", "ExitCode": 0}' ;;
version) echo 27.5.1 ;;
info) echo '{}' ;;
esac
"""
PRINTED = ("performance: 10 tokens_per_second\n", "performance: 12.5 tokens_per_second\n")


class Pair:
    """Two nodes."""

    def __init__(self, folder: Path, stand_ins: StandIns) -> None:
        stand_ins.add("docker", DOCKER.replace("IMAGE", ID).replace("sleep 60", "echo $$ >waits; exec sleep 60"))
        self.folders = [folder / "0", folder / "1"]
        self.port = free_port()
        self.models: list[Model] = []
        for rank, node in enumerate(self.folders):
            node.mkdir()
            (node / "performance").write_text(PRINTED[rank])
        self.add("together", nnodes=2)

    def add(self, name: str, **distributed: Any) -> None:
        """Add a model to the manifest."""
        self.models.append(Model(name, f"docker/{name}", f"scripts/{name}", extra={"distributed": distributed}))

    def start(self, rank: int, *words: str) -> subprocess.Popen[str]:
        images = tuple(Image(f"ci-{model.name}", model.name, image_id=ID, self_contained=True) for model in self.models)
        models = {image.key: model for image, model in zip(images, self.models, strict=True)}
        save_manifest(Manifest(images, models), self.folders[rank] / "build_manifest.json")
        line = [sys.executable, "-m", "madengine.distributed_cli", "run", "--manifest-file=build_manifest.json"]
        seat = Seat(2, rank, "127.0.0.1", self.port, "key").environ
        context = "--additional-context={'gpu_vendor': 'NONE'}"
        return subprocess.Popen(
            [*line, "--engine=docker", "--run-id=r1", context, *words],
            env={**os.environ, **seat, "PYTHONPATH": str(CHECKOUT)},
            cwd=self.folders[rank],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *words: str) -> tuple[list[int], list[str]]:
        """Run both to their ends; return their exit codes and messages."""
        return ended([self.start(rank, *words) for rank in (0, 1)])

    def rows(self, rank: int = 0) -> list[Mapping[str, str]]:
        path = self.folders[rank] / "perf.csv"
        return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []

    def events(self, rank: int) -> list[str]:
        path = self.folders[rank] / "events"
        return path.read_text().splitlines() if path.exists() else []


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    messages = [process.communicate(timeout=60)[1] for process in processes]
    return [process.returncode for process in processes], messages


def cells(row: Mapping[str, str], *columns: str) -> list[str]:
    return [row[column] for column in columns]


@pytest.fixture
def pair(tmp_path: Path, stand_ins: StandIns) -> Pair:
    return Pair(tmp_path, stand_ins)


def test_a_model_runs_on_both_and_has_one_row_beside_those_that_each_runs_alone(pair: Pair) -> None:
    pair.add("alone")
    codes, messages = pair.run()
    assert codes == [0, 0], messages
    columns = ("model", "status", "performance", "aggregation", "nnodes")
    assert [cells(row, *columns) for row in pair.rows(0)] == [
        ["together", "SUCCESS", "22.5", "sum", "2"],
        ["alone", "SUCCESS", "10", "", "1"],
    ]
    assert [cells(row, *columns) for row in pair.rows(1)] == [["alone", "SUCCESS", "12.5", "", "1"]]
    assert pair.events(0) == pair.events(1) == ["start host", "rm", "start ", "rm"]
    variables = [(folder / "variables").read_text().splitlines() for folder in pair.folders]
    assert ["NODE_RANK=0" in variables[0], "NODE_RANK=1" in variables[1]] == [True, True]
    assert len({line for lines in variables for line in lines if line.startswith("MASTER_PORT=")}) == 1
    results = json.loads((pair.folders[0] / "runs/r1/results.json").read_text())["results"]
    assert [part["metrics"][0]["performance"] for part in results[0]["parts"]] == ["10", "12.5"]
    summary = json.loads((pair.folders[1] / "run_summary.json").read_text())
    assert [run["model_name"] for run in summary["successful_runs"]] == ["alone"]


def test_repeats_go_on_together(pair: Pair) -> None:
    codes, messages = pair.run("--repeat=2", "--warmup=1")
    assert codes == [0, 0], messages
    assert [cells(row, "repeat", "performance") for row in pair.rows()] == [["1", "22.5"], ["2", "22.5"]]
    assert pair.events(1).count("start host") == 3


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_stops_the_other(pair: Pair, rank: int) -> None:
    (pair.folders[rank] / "fails").touch()
    began = time.monotonic()
    codes, messages = pair.run("--repeat=2")
    assert (codes, time.monotonic() - began < 30) == ([EXIT_RUN_FAILED] * 2, True), messages
    [row] = pair.rows()
    assert cells(row, "status", "exit_code", "performance") == ["FAILURE", "7", ""]
    assert row["reason"].startswith(f"rank {rank} (")
    assert row["reason"].endswith("): exit code 7")
    assert "stop" in pair.events(1 - rank)
    assert pair.rows(1) == []


def test_a_model_that_can_not_run_starts_on_no_node(pair: Pair) -> None:
    [model] = pair.models
    pair.models = [replace(model, n_gpus="1")]
    codes, messages = pair.run()
    assert codes == [EXIT_RUN_FAILED] * 2, messages
    [row] = pair.rows()
    assert re.match(r"rank [01] \(.*\): too many GPUs requested: n_gpus is 1", row["reason"]), row["reason"]
    assert pair.events(0) == pair.events(1) == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_node_that_is_gone_ends_the_other_and_is_the_reason(pair: Pair, end: signal.Signals) -> None:
    for folder in pair.folders:
        (folder / "performance").unlink()
        os.mkfifo(folder / "performance")  # its container waits for ever
    processes = [pair.start(0), pair.start(1)]
    deadline = time.monotonic() + 30
    while not (pair.events(0) and pair.events(1)) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(end)
    codes, messages = ended(processes)
    expected = -signal.SIGKILL if end == signal.SIGKILL else EXIT_INTERRUPTED
    assert codes == [EXIT_RUN_FAILED, expected], messages
    [row] = pair.rows()
    reason = "its madengine ended" if end == signal.SIGKILL else "interrupted"
    assert (row["status"], row["reason"].rpartition(": ")[2]) == ("FAILURE", reason)
    assert row["reason"].startswith("rank 1 (")
    assert pair.events(0)[-1] == "rm"


def test_other_nodes_than_there_are_are_refused(pair: Pair) -> None:
    codes, messages = pair.run("--nodes=3")
    assert codes == [EXIT_CONFIGURATION] * 2
    assert "--nodes 3: this run is on 2" in messages[0]
