"""The tasks' folders on nodes that share nothing: a step in each running job fetches them, later a small job does."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.build.image_archives import FOLDER_VARIABLE
from madengine.config.package import template
from madengine.config.values import expected
from madengine.deploy.slurm.attachment import STORED_PREFIX, Attachment
from madengine.deploy.slurm.courier import CONTEXT, ENV_FILE
from madengine.deploy.slurm.job import ArrayTask, log_path
from madengine.deploy.ssh.node import SECRETS
from madengine.errors import CommandError, ConfigurationError
from madengine.files import read_json, write_json
from madengine.programs.slurm import TaskState, attached_step, node_names, small_job

logger = logging.getLogger(__name__)

_RECORD = "node_folders.json"
_RUNNING, _NODE_FAIL = "RUNNING", "NODE_FAIL"
# How long the small job waits that fetches what no step could.
_PATIENCE_SECONDS = 60
# How long a step may go on after its task's end: Slurm ends it, and what came last is unpacked here.
_REST_SECONDS = 600.0
_SHARED = "leave it out, and name a folder that all nodes share with --output-dir"


@dataclass
class NodeFolders:
    """The folders of a run's tasks on their nodes."""

    run_folder: Path
    #: the folder of every node's own
    node_folder: str
    #: options of sbatch that a small job on the same nodes needs
    place: Sequence[str] = ()
    #: files that go to the nodes and that no script holds, by the names that they have there
    private: Mapping[str, Path] = field(default_factory=dict)
    #: how many nodes each task has
    counts: Mapping[int, int] = field(default_factory=dict)
    #: whether the run was submitted by another madengine: a node that had failed may be there again
    is_later: bool = False
    #: the steps of each task: of which node of its job, in the order of their start
    _steps: dict[int, dict[int, list[Attachment]]] = field(default_factory=dict, init=False)
    #: the small jobs of each task that has ended: of which node of its job
    _jobs: dict[int, dict[int, Attachment]] = field(default_factory=dict, init=False)
    _nodes: dict[int, str] = field(default_factory=dict, init=False)
    #: when each task was first seen to have ended
    _ends: dict[int, float] = field(default_factory=dict, init=False)
    _problems: set[str] = field(default_factory=set, init=False)

    @classmethod
    def of_run(cls, run_folder: Path) -> NodeFolders | None:
        """Return those of a run that was submitted earlier; None where its folder is shared.

        Raises ConfigurationError for a record that madengine doesn't write, and where a file is gone that tasks need.
        """
        record = read_json(run_folder / _RECORD, missing={})
        if record == {}:
            return None
        try:
            private = {str(name): Path(path) for name, path in record["private"].items()}
            counts = {int(number): int(count) for number, count in record["counts"].items()}
            place = [str(word) for word in record["place"]]
            folders = cls(run_folder, str(record["node_folder"]), place, private, counts, is_later=True)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise expected(str(run_folder / _RECORD), "what `deploy` writes", record) from None
        for path in private.values():
            if not path.is_file():
                raise ConfigurationError(f"{path}: no such file, and the run's tasks need it")
        return folders

    def write_record(self) -> None:
        """Note what another madengine needs to follow the run."""
        record: Mapping[str, Any] = {
            "node_folder": self.node_folder,
            "place": list(self.place),
            "private": {name: str(path) for name, path in self.private.items()},
            "counts": {str(number): count for number, count in self.counts.items()},
        }
        write_json(self.run_folder / _RECORD, record)

    # --- a task's steps ---

    def attach(self, task: ArrayTask, state: TaskState) -> None:
        """Start a step on each node of a task that runs, unless there is one."""
        if state.state != _RUNNING or not state.own_job:
            return
        self._nodes[task.number] = state.node
        for rank in range(self._count(task)):
            steps = self._steps.setdefault(task.number, {}).setdefault(rank, [])
            if not steps or steps[-1].is_over:
                if steps:
                    self._report(task, steps[-1].problem)
                words = self._words(state)
                steps.append(self._attachment(task, state, rank, attached_step(state.own_job, rank, words)))

    def missing(self, task: ArrayTask, state: TaskState) -> str | None:
        """Return, of a task that has ended, whose files did not come back and why; None while they may still come.

        Steps that fetched nothing are followed by a small job on their node.
        """
        if self._is_carrying(task):
            return None
        ranks = [rank for rank in range(self._count(task)) if not self._is_stored(task, rank)]
        if not ranks:
            return ""
        jobs = self._jobs.setdefault(task.number, {})
        nodes = self._names(state)
        if not nodes:  # it never ran
            return ""
        if state.state == _NODE_FAIL and not self.is_later:
            return f"its files did not come back from {state.node}, which failed"
        for rank in ranks:
            if rank not in jobs and rank < len(nodes):
                logger.info(f"{task.name}: fetching its files from {nodes[rank]} with a small job")
                job = small_job(nodes[rank], _PATIENCE_SECONDS, self.place, self._words(state, "over"))
                jobs[rank] = self._attachment(task, state, rank, job)
        if any(not job.is_over for job in jobs.values()):
            return None
        return "; ".join(_lost(nodes[rank], job) for rank, job in jobs.items() if not job.is_stored)

    def _is_carrying(self, task: ArrayTask) -> bool:
        """Whether a step of a task that has ended is still at work; one that outlives the task by long is ended."""
        ranks = self._steps.get(task.number, {})
        steps = [step for of_rank in ranks.values() for step in of_rank if not step.is_over]
        if time.monotonic() > self._ends.setdefault(task.number, time.monotonic()) + _REST_SECONDS:
            for step in steps:
                step.end()
            return False
        return bool(steps)

    def leave(self) -> None:
        """End all steps; what nodes have stays there."""
        steps = [step for ranks in self._steps.values() for of_rank in ranks.values() for step in of_rank]
        for each in (*steps, *(job for jobs in self._jobs.values() for job in jobs.values())):
            each.end()

    def _report(self, task: ArrayTask, problem: str) -> None:
        """Log once why a step on a running task has failed; there will be another."""
        if problem and problem not in self._problems:
            self._problems.add(problem)
            logger.info(f"{task.name}: {problem}; trying again")

    def _attachment(self, task: ArrayTask, state: TaskState, rank: int, command: Any) -> Attachment:
        return Attachment(
            command=command,
            private=self.private,
            task_folder=task.folder_in(self.run_folder),
            log=log_path(self.run_folder, state.job, task.number),
            rank=str(rank) if self._count(task) > 1 else "",
        )

    def _is_stored(self, task: ArrayTask, rank: int) -> bool:
        """Whether the last attempt that a step has seen is here; without a step, what an earlier madengine says."""
        of_attempts = [step for step in self._steps.get(task.number, {}).get(rank, []) if step.name]
        if of_attempts:
            return of_attempts[-1].is_stored
        return (task.folder_in(self.run_folder) / f"{STORED_PREFIX}{rank}").exists()

    def _count(self, task: ArrayTask) -> int:
        return self.counts.get(task.number, 1)

    def _words(self, state: TaskState, over: str = "") -> list[str]:
        folder = f"{self.node_folder}/madengine-{self.run_folder.name}-{state.job}_{state.number}"
        return ["/bin/bash", "-c", template("slurm/attach.sh"), "attach", folder, over]

    def _names(self, state: TaskState) -> list[str]:
        with suppress(CommandError):
            return node_names(state.node or self._nodes.get(state.number, ""))
        return []


def _lost(node: str, job: Attachment) -> str:
    return f"its files did not come back from {node}{f' ({job.problem})' if job.problem else ''}"


def private_files(run_folder: Path, has_context: bool, env_file: Path | None) -> dict[str, Path]:
    """Return the files that go to a run's nodes and that no script holds, by the names that they have there."""
    files = {name: Path.cwd() / name for name in SECRETS if (Path.cwd() / name).is_file()}
    if files:
        logger.info(f"{', '.join(files)}: copied to the nodes of each task (mode 600), and removed after it")
    if has_context:
        files[CONTEXT] = run_folder / CONTEXT
    if env_file:
        files[ENV_FILE] = env_file
    return files


def refuse_shared(tasks: Sequence[ArrayTask], workspace: str, environ: Mapping[str, str]) -> None:
    """Raise ConfigurationError for tasks that need a folder of this machine."""
    folders = {"--workspace": workspace, FOLDER_VARIABLE: environ.get(FOLDER_VARIABLE, "").strip()}
    for name, folder in folders.items():
        if folder:
            raise ConfigurationError(f"--node-folder: {name} {folder}: nodes have no such folder; leave one out")
    for task in tasks:
        if task.shape.is_on_host:
            raise ConfigurationError(
                f"--node-folder: {task.name}: its script runs in the model package on the node; {_SHARED}"
            )
        for image in task.manifest.images:
            if not image.self_contained:
                raise ConfigurationError(f"--node-folder: {image.key}: its image doesn't carry its scripts; {_SHARED}")
