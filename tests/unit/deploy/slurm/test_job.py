"""The scripts that sbatch gets: one for all tasks that ask for the same."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from madengine.config.context import Context
from madengine.config.manifest import Manifest
from madengine.deploy.slurm.job import ArrayTask, JobSetting, tasks_of, write_scripts
from madengine.deploy.slurm.settings import SlurmSettings
from madengine.errors import ConfigurationError
from madengine.records import Image, Model


def tasks(entries: dict[str, dict[str, Any]], **values: Any) -> list[ArrayTask]:
    images = tuple(Image(name, name, gpu_vendor="AMD") for name in entries)
    models = {name: Model(name, "d", "s", n_gpus="2", extra=extra) for name, extra in entries.items()}
    return tasks_of(Manifest(images, models), SlurmSettings(values, Context()))


def scripts(folder: Path, all_tasks: list[ArrayTask], **values: Any) -> dict[str, list[str]]:
    options = SlurmSettings(values, Context()).of_run
    written = write_scripts(all_tasks, JobSetting("r1", options, folder, folder, ("run", "a b"), {"X": "it's"}))
    for path, _ in written:
        subprocess.run(["bash", "-n", str(path)], check=True)
    return {path.name: path.read_text().splitlines() for path, _ in written}


def test_tasks_that_ask_for_the_same_share_a_script(tmp_path: Path) -> None:
    two, multi = {"slurm": {"nodes": 2}}, {"distributed": {"launcher": "slurm_multi", "nnodes": 3}}
    entries: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": two, "d": {"slurm": {"time": "1:00:00"}}, "e": multi}
    written = scripts(tmp_path, tasks(entries), max_running=1)
    assert list(written) == ["job-2-gpus.sh", "job-2-gpus-2-nodes.sh", "job-2-gpus-2.sh", "job-2-gpus-3-nodes.sh"]
    assert {"#SBATCH --array=0,1%1", "#SBATCH --nodes=1", "#SBATCH --no-requeue"} <= {*written["job-2-gpus.sh"]}
    together = written["job-2-gpus-2-nodes.sh"]
    lines = ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "nodes=2", "words=(run 'a b' --nodes=2)")
    assert {*lines, "export X='it'\"'\"'s'", "script=job-2-gpus-2-nodes.sh"} <= {*together}
    assert "#SBATCH --time=1:00:00" in written["job-2-gpus-2.sh"]
    # The script of this one uses the other nodes itself.
    assert {"#SBATCH --nodes=3", "nodes=1", "words=(run 'a b')"} <= {*written["job-2-gpus-3-nodes.sh"]}


def test_one_job_asks_for_one_thing() -> None:
    with pytest.raises(ConfigurationError, match="--one-job: model entries ask Slurm for different things"):
        tasks({"a": {}, "b": {"slurm": {"qos": "high"}}}, one_job=True)


@pytest.mark.parametrize(("option", "nodes"), [(0, 3), (2, 2)])
def test_the_option_wins(option: int, nodes: int) -> None:
    [task] = tasks({"a": {"distributed": {"nnodes": 3}}}, nodes=option)
    assert task.shape.nodes == nodes
