"""Under a real Slurm whose nodes share no folder with each other, nor with the host that submits."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bed.components import outcome
from tests.fleet.conftest import CHECKOUT, FLEET, Cluster, Hosts, _command, until
from tests.fleet.test_slurm import copy_model

HOME = "/var/tmp/submitting"
NODES = "/var/tmp"
DEPLOY = ("deploy", "--target=slurm", "--manifest-file=build_manifest.json", f"--node-folder={NODES}", "--run-id=r1")


@pytest.fixture
def alone(cluster: Cluster) -> Iterator[Cluster]:
    """The manifest in a folder that only h1 has."""
    yield cluster
    for number in (1, 2, 3):
        cluster.hosts.sh(number, f"rm -rf {HOME} {NODES}/madengine-*")


def command(*words: str) -> str:
    """The script that runs madengine in h1's own folder."""
    line = shlex.join(["env", f"PYTHONPATH={CHECKOUT}", *_command(*words)])
    return f"cd {HOME} && echo $$ >pid && exec {line}"


def bring(cluster: Cluster) -> None:
    cluster.hosts.sh(1, f"mkdir -p {HOME} && cp -r {cluster.inside}/. {HOME}")


def bring_back(cluster: Cluster) -> None:
    """Copy what h1's own folder has to where the test sees it."""
    cluster.hosts.sh(1, f"cp -r {HOME}/. {cluster.inside}")


def folders(hosts: Hosts) -> list[str]:
    """The tasks' folders that nodes still have."""
    return [line for number in (1, 2, 3) for line in hosts.sh(number, f"ls {NODES}").split() if "madengine" in line]


def test_what_tasks_need_travels_and_results_come_back(alone: Cluster) -> None:
    path = alone.folder / "build_manifest.json"
    content = json.loads(path.read_text())
    (quick,) = (key for key, entry in content["built_models"].items() if entry["name"] == "quick")
    for key, entry in list(content["built_models"].items()):
        if entry["name"] == "slow":
            content["built_images"][key] = content["built_images"][quick]
            content["built_models"][key] = {**content["built_models"][quick], "name": "both", "slurm": {"nodes": 2}}
    content["deployment_config"] = {"env_file": "site.sh", "env_vars": {"WHERE": "${SITE}"}}
    path.write_text(json.dumps(content))
    (alone.folder / "site.sh").write_text("SITE=basement\n")
    (alone.folder / "credential.json").write_text("{}")
    (alone.folder / "context.json").write_text(
        json.dumps({"docker_env_vars": {"TOKEN": "correct-horse"}, "encapsulate_script": "env | sort; "})
    )
    bring(alone)
    words = ("--live-output", f"--exclude={alone.hosts.name(1)}", "--additional-context-file=context.json")
    done = outcome([str(FLEET), "run", "1", "sh", "-c", command(*DEPLOY, *words)],
                   {"FLEET_DIR": str(alone.hosts.folder)}, check=False)  # fmt: skip
    bring_back(alone)
    assert done.code == 3, done.stderr
    assert sorted((row["model"], row["status"], row["reason"], row["nnodes"]) for row in alone.rows) == [
        ("bad", "FAILURE", "exit code 3", "1"),
        ("both", "SUCCESS", "", "2"),
        ("quick", "SUCCESS", "", "1"),
    ]
    assert "WHERE=basement" in done.stderr
    assert re.search(r"both \(\d+_2\): completed", done.stderr)
    assert "correct-horse" not in "".join(file.read_text() for file in (alone.folder / "results/r1").glob("*.sh"))
    run = alone.folder / "results/r1"
    assert [note.read_text() for note in run.glob("*-quick/*/runs/r1/quick/**/note.txt")] == ["kept\n"]
    logs = [log.read_text() for log in run.glob("*-both/*/runs/r1/both/*.run.live.log")]
    assert len(logs) == 2
    assert all("TOKEN=correct-horse" in log for log in logs)
    assert len([log for log in run.glob("slurm-*.log") if log.stat().st_size]) == 3
    assert folders(alone.hosts) == []


@contextmanager
def started_on_h1(cluster: Cluster, output: Path, *words: str) -> Iterator[None]:
    """A madengine in h1's own folder, beside the test."""
    with output.open("wb") as file:
        line = [str(FLEET), "run", "1", "sh", "-c", command(*words)]
        environment = {**os.environ, "FLEET_DIR": str(cluster.hosts.folder)}
        process = subprocess.Popen(line, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def test_what_is_left_on_the_nodes_is_fetched_later(alone: Cluster, tmp_path: Path) -> None:
    copy_model(alone, "quick", "m0", "m1")
    bring(alone)
    context = json.dumps({"encapsulate_script": "sleep 4;"})
    with started_on_h1(alone, tmp_path / "output", *DEPLOY, "--additional-context", context):
        until(lambda: len(alone.containers().split()) == 2, 60, (tmp_path / "output").read_text)
        alone.hosts.sh(1, f"kill -9 $(cat {HOME}/pid)")
    job = alone.hosts.run(1, "squeue", "--noheader", "--array", "--format=%F_%K").split()[0].partition("_")[0]
    alone.hosts.run(1, "scancel", "--signal=KILL", "--batch", f"{job}_0")
    done = outcome([str(FLEET), "run", "1", "sh", "-c", command("fetch", "--target=slurm", "--run-id=r1")],
                   {"FLEET_DIR": str(alone.hosts.folder)}, check=False)  # fmt: skip
    bring_back(alone)
    assert done.code == 3, done.stderr
    first, second = sorted(alone.rows, key=lambda row: row["model"])
    assert (first["status"], second["status"]) == ("FAILURE", "SUCCESS")
    assert f"Slurm job {job}_0: " in first["reason"]
    assert "its log ends with: " in first["reason"]
    assert folders(alone.hosts) == []
