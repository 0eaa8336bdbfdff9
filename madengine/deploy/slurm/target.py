"""A Slurm cluster as a target."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from madengine import programs
from madengine.build.image_archives import FOLDER_VARIABLE
from madengine.config.common_options import ContextOptions, EngineOptions
from madengine.config.context import Context
from madengine.config.context_keys import JOB_FLAGS, is_off
from madengine.config.ignored_keys import ignored_keys
from madengine.config.manifest import load_manifest
from madengine.config.option import from_options, refuse_on_hosts, words_for_hosts
from madengine.deploy.bundle import write_bundle
from madengine.deploy.names import checked_run_id
from madengine.deploy.slurm.courier import CONTEXT, ENV_FILE
from madengine.deploy.slurm.job import (
    BUNDLE,
    RECORD,
    ArrayTask,
    JobSetting,
    log_path,
    read_task,
    submitted_jobs,
    tasks_of,
    write_scripts,
    write_task,
)
from madengine.deploy.slurm.log_tail import LogTail
from madengine.deploy.slurm.node_folders import NodeFolders, private_files, refuse_shared
from madengine.deploy.slurm.options import SlurmOptions, word
from madengine.deploy.slurm.settings import SlurmSettings, place_words, refuse_launched_nodes
from madengine.deploy.slurm.task_results import TaskOutcome, task_outcome
from madengine.deploy.slurm.watch import TaskWatch
from madengine.deploy.target import CALLER_VARIABLES, Prepared
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RUN_FAILED, CommandError, ConfigurationError, MadengineError
from madengine.files import check_writable, write_json
from madengine.programs.process_engine import IMAGE_FOLDER_VARIABLE
from madengine.programs.slurm import SUBMIT, TaskState, cancel, note_line, submit, submit_line
from madengine.results.merge import merge
from madengine.results.perf_csv import check_perf_csv
from madengine.results.rows import Row
from madengine.results.statistics import tables
from madengine.run.names import new_run_id
from madengine.run.options import RunOptions
from madengine.run.selection import selected_images, with_gpu_count
from madengine.session import Session

logger = logging.getLogger(__name__)

_POLL_SECONDS = (1.0, 10.0)
_CANCEL_SECONDS = 120.0
_BRINGS = ", and brings to those that begin later what they need: start it before"


@dataclass
class SlurmTarget:
    """Job arrays, submitted from a machine that has sbatch; a folder that all nodes share carries files both ways."""

    OPTIONS: ClassVar[tuple[type, ...]] = (RunOptions, ContextOptions, EngineOptions, SlurmOptions)

    settings: SlurmSettings
    run_id: str
    output: Path
    show: Callable[[str], None]
    #: what is new in this run; empty where one is only collected
    manifest_file: Path | None = None
    context: Context = field(default_factory=Context)
    tags: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    #: the user's own context
    of_user: Mapping[str, Any] = field(default_factory=dict)
    #: what bash reads before each run, if anything
    env_file: Path | None = None
    workspace: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: the model package, for images that don't carry their scripts; None without one
    package: Path | None = None
    #: whether what the tasks print is shown
    is_live: bool = False
    #: where the nodes share nothing
    _node_folders: NodeFolders | None = field(default=None, init=False)
    _tails: dict[int, LogTail] = field(default_factory=dict, init=False)
    _tasks: dict[int, ArrayTask] = field(default_factory=dict, init=False)
    _scripts: list[tuple[Path, list[ArrayTask]]] = field(default_factory=list, init=False)
    #: the job of each task, once it is submitted
    _jobs: dict[int, int] = field(default_factory=dict, init=False)
    _outcomes: dict[int, TaskOutcome] = field(default_factory=dict, init=False)
    _watch: TaskWatch = field(default_factory=TaskWatch, init=False)
    _rows: list[Row] = field(default_factory=list, init=False)
    _problems: list[str] = field(default_factory=list, init=False)
    #: whether the jobs go on without this madengine
    _left: bool = field(default=False, init=False)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], manifest_file: Path, session: Session) -> SlurmTarget:
        """Return the target for a manifest, out of the parsed options and the context's `slurm` object.

        Raises ConfigurationError for what a node of Slurm can't be asked for.
        """
        classes = (RunOptions, ContextOptions, EngineOptions)
        refuse_on_hosts(classes, values)
        if values["against"]:
            raise ConfigurationError(
                "--against: not an option of --target slurm, whose jobs may run on different nodes; run `madengine run "
                "--target local --against` in a job of your own"
            )
        from_options(RunOptions, {**values, "run_id": ""})  # raises for what no node would accept
        of_user = session.context({}, {})
        if of_user.docker_gpus.strip():
            raise ConfigurationError(
                f"context: docker_gpus: {of_user.docker_gpus} is unsupported: Slurm chooses the GPUs; use "
                "--gpus-per-node"
            )
        of_manifest = load_manifest(manifest_file).context if manifest_file.exists() else {}
        context = session.context({}, of_manifest)
        # Nodes source it, where the run's folder is another one.
        env_file = _beside(manifest_file, context.values.get("env_file"))
        context = replace(context, values={**context.values, "env_file": None})
        refuse_launched_nodes(context)
        # A task's own folder is new each time: what lasts is relative to the one where it is submitted.
        workspace = _absolute(values["workspace"] or context.workspace)
        # The context may hold tokens: it goes in a private file, not on a command line.
        of_nodes = {**values, "tags": (), "nodes": 0, "workspace": workspace, "additional_context": None}
        settings = SlurmSettings(values, context)
        return cls(
            settings=settings,
            context=context,
            run_id=values["run_id"] or new_run_id(),
            output=values["output"],
            show=session.show,
            manifest_file=manifest_file,
            tags=values["tags"],
            words=words_for_hosts(classes, of_nodes),
            of_user=of_user.values,
            env_file=env_file,
            workspace=workspace,
            environ=session.environ,
            is_live=bool(values["live_output"]),
            package=session.root.absolute() if session.has_package else None,
        )

    @classmethod
    def of_run(cls, run_id: str, output_dir: Path, output: Path, show: Callable[[str], None]) -> SlurmTarget:
        """Return the target of a run that was submitted earlier, to follow and collect it.

        Raises ConfigurationError where the folder has no such run.
        """
        target = cls(SlurmSettings({"output_dir": output_dir}, Context()), checked_run_id(run_id), output, show)
        for name, job in submitted_jobs(target.run_folder).items():
            task = read_task(target.run_folder / Path(name).name)
            target._tasks[task.number] = task
            target._jobs[task.number] = job
        target._node_folders = NodeFolders.of_run(target.run_folder)
        return target

    @cached_property
    def options(self) -> SlurmOptions:
        """What is the same for all jobs."""
        return self.settings.of_run

    @property
    def run_folder(self) -> Path:
        """The run's folder, by the path that nodes use too."""
        return Path.cwd() / self.options.output_dir / self.run_id

    def check(self) -> None:
        """Raise ConfigurationError where Slurm isn't installed, can't do what is asked, or rows can't be written."""
        if not programs.installed_path(SUBMIT):
            raise ConfigurationError(
                f"{SUBMIT} is not installed: run this on a machine that submits to Slurm, or use --target local"
            )
        self.settings.of_model(None)  # raises for what no job can be asked for
        if self.options.node_folder:
            refuse_shared((), self.workspace, self.environ)
        check_perf_csv(self.output)
        try:
            word(str(self.run_folder))
        except ArgumentTypeError as error:
            raise ConfigurationError(f"--output-dir: {error}") from None
        if self.manifest_file and (self.run_folder / RECORD).exists():
            raise ConfigurationError(f"{self.run_folder}: holds an earlier run; use another --run-id")
        check_writable(self.run_folder / RECORD)

    def prepare(self) -> Prepared:
        """Write the run's folder: a manifest for each task, the bundle, a script for each array."""
        if self.manifest_file is None:
            return Prepared()
        manifest = selected_images(load_manifest(self.manifest_file), self.tags, self.manifest_file)
        if not manifest.images:
            raise ConfigurationError(f"{self.manifest_file}: has no images; `madengine build` again")
        tasks = tasks_of(with_gpu_count(manifest, self.context), self.settings)
        self._tasks = {task.number: task for task in tasks}
        if self.options.node_folder:
            refuse_shared(tasks, self.workspace, self.environ)
        for task in tasks:
            write_task(task, self.run_folder)
        if of_nodes := self._context_of_nodes:
            write_json(self.run_folder / CONTEXT, of_nodes, mode=0o600)
        if self.options.node_folder:
            private = private_files(self.run_folder, bool(self._context_of_nodes), self.env_file)
            place = place_words(self.settings.of_model(None).options)
            counts = {task.number: task.shape.nodes for task in tasks}
            self._node_folders = NodeFolders(self.run_folder, self.options.node_folder, place, private, counts)
            self._node_folders.write_record()
        bundle = () if self._node_folders else (write_bundle(self.run_folder / BUNDLE),)
        self._scripts = write_scripts(tasks, self._setting())
        paths = tuple(path for path, _ in self._scripts)
        gpus = manifest.context.get("docker_gpus")
        of_gpus = [f"docker_gpus {gpus} of the manifest ignored: Slurm chooses the GPUs"] if gpus else []
        warnings = (*of_gpus, *ignored_keys(self.context, [*manifest.models.values()], honoured=JOB_FLAGS))
        if self._node_folders:
            return Prepared(paths, warnings, (*map(note_line, paths), self._fetch_line))
        collect = shlex.join(["madengine", "collect", f"--output={self.output}", str(self.run_folder)])
        return Prepared((*paths, *bundle), warnings, (*map(submit_line, paths), collect))

    @property
    def _context_of_nodes(self) -> Mapping[str, Any]:
        """The user's context as nodes have it: what bash reads first is at a path of theirs."""
        if not self.env_file:
            return self.of_user
        # Beside the folder of the task's manifest.
        return {**self.of_user, "env_file": f"../{ENV_FILE}" if self.options.node_folder else str(self.env_file)}

    def start(self) -> None:
        """Submit the arrays, and note their numbers, by which `fetch` finds them; all of them, or none."""
        try:
            for path, tasks in self._scripts:
                self._submit(path, tasks)
        except MadengineError:
            if self._jobs and not is_off(self.context.values.get("cleanup_on_failure")):
                self._cancel("not all jobs could be submitted")
            elif self._jobs:
                self._leave()
            raise
        logger.info(f"run {self.run_id}; results: {self.run_folder}")

    def _submit(self, path: Path, tasks: Sequence[ArrayTask]) -> None:
        # A job whose number is lost could be neither followed nor cancelled.
        with programs.uninterrupted():
            job = submit(path)
            self._jobs.update({task.number: job for task in tasks})
        logger.info(f"Slurm job {job}: {len(tasks)} task{'s' * (len(tasks) != 1)}")
        names = {self._tasks[number].folder_in(self.run_folder).name: job for number, job in self._jobs.items()}
        write_json(self.run_folder / RECORD, {"jobs": names})

    def follow(self) -> None:
        """Wait until all tasks have ended, and add the rows of each as it ends; `monitor: false` leaves them."""
        if is_off(self.context.values.get("monitor")):
            self._leave()
            return
        least, most = _POLL_SECONDS
        started = time.monotonic()
        while self._open_tasks():
            self._look()
            if self._open_tasks():
                self._show_output()
                is_close = self.is_live or self._node_folders
                time.sleep(least if is_close else min(max((time.monotonic() - started) / 10, least), most))

    def _show_output(self) -> None:
        """Show what the tasks have printed since the last time."""
        for number, job in self._jobs.items() if self.is_live else ():
            name = self._tasks[number].name if len(self._jobs) > 1 else ""
            tail = self._tails.setdefault(number, LogTail(log_path(self.run_folder, job, number), name))
            tail.show(is_last=number in self._outcomes)

    def stop(self) -> None:
        """Cancel the jobs, unless the user wants them to go on, and wait for their rows."""
        jobs = sorted(set(self._jobs.values()))
        if not jobs:
            return
        if not _asks_to_cancel(jobs):
            self._leave()
            return
        self._cancel("interrupted")

    def _leave(self) -> None:
        self._left = True
        waits = self._node_folders and self._node_folders.private
        logger.info(f"the jobs go on; `{self._fetch_line}` collects them{_BRINGS if waits else ''}")

    def _cancel(self, why: str) -> None:
        """Cancel the jobs, and wait for their rows; where Slurm doesn't take that, say how to do it later."""
        jobs = " ".join(map(str, sorted(set(self._jobs.values()))))
        logger.info(f"{why}: cancelling Slurm job {jobs}")
        try:
            cancel(self._jobs.values())
        except CommandError as error:
            self._problems.append(f"{error}; the jobs go on: `scancel {jobs}` ends them, `{self._fetch_line}` collects")
            return
        deadline = time.monotonic() + _CANCEL_SECONDS
        while self._open_tasks() and time.monotonic() < deadline:
            self._look()
            time.sleep(_POLL_SECONDS[0])

    @property
    def _fetch_line(self) -> str:
        """The line that collects this run later."""
        places = {"--output-dir": self.options.output_dir, "--output": self.output}
        default = {"--output-dir": Path("results"), "--output": Path("perf.csv")}
        words = [f"{flag}={path}" for flag, path in places.items() if path != default[flag]]
        return shlex.join(["madengine", "fetch", "--target=slurm", f"--run-id={self.run_id}", *words])

    def collect(self) -> int:
        """Show the rows of the tasks that have ended; return the exit code."""
        self._show_output()
        if self._node_folders:
            self._node_folders.leave()
        if self._rows:
            self.show(tables(self._rows))
        for problem in dict.fromkeys(self._problems):
            logger.info(problem)
        failed = [outcome for outcome in self._outcomes.values() if outcome.problem]
        for outcome in failed:
            logger.info(outcome.problem)
        if self._outcomes:
            logger.info(f"rows: {self.output}; results: {self.run_folder}")
        if not (self._outcomes or self._left) or self._problems or (self._open_tasks() and not self._left):
            return EXIT_FAILURE
        return EXIT_RUN_FAILED if any(outcome.has_failed for outcome in self._outcomes.values()) else EXIT_DONE

    # --- tasks ---

    def _setting(self) -> JobSetting:
        folder, is_shared = self.run_folder, self._node_folders is None
        context = [f"--additional-context-file={folder / CONTEXT}"] if is_shared and self._context_of_nodes else []
        return JobSetting(
            run_id=self.run_id,
            options=self.options,
            run_folder=folder,
            submit_folder=Path.cwd(),
            words=("run", "--target=local", f"--run-id={self.run_id}", *self.words, *context),
            environ={**self._job_environ, **(self._shared_folders if is_shared else {})},
            has_private_files=bool(self._node_folders and self._node_folders.private),
        )

    @property
    def _shared_folders(self) -> Mapping[str, str]:
        """The variables of folders that nodes have by the same path: of images' archives, and of the model package."""
        archives = self.environ.get(FOLDER_VARIABLE, "").strip()
        images = self.environ.get(IMAGE_FOLDER_VARIABLE, "").strip() or str(self.run_folder.parent / "sif")
        needs_package = any(
            task.shape.is_on_host or not image.self_contained
            for task in self._tasks.values()
            for image in task.manifest.images
        )
        return {
            IMAGE_FOLDER_VARIABLE: _absolute(images),
            **({FOLDER_VARIABLE: _absolute(archives)} if archives else {}),
            **({"MODEL_DIR": str(self.package)} if self.package and needs_package else {}),
        }

    @property
    def _job_environ(self) -> Mapping[str, str]:
        caller = {name: self.environ[name] for name in CALLER_VARIABLES if self.environ.get(name)}
        return {"MAD_DEPLOYMENT_TYPE": "slurm", **caller}

    def _open_tasks(self) -> list[int]:
        return [number for number in self._jobs if number not in self._outcomes]

    def _look(self) -> None:
        """Note what Slurm says of the open tasks."""
        jobs = {number: self._jobs[number] for number in self._open_tasks()}
        for state in self._watch.look(jobs, {number: self._tasks[number].name for number in jobs}):
            self._note(state)

    def _note(self, state: TaskState) -> None:
        """Add the rows of a task that has ended."""
        task = self._tasks[state.number]
        lost = None
        if self._node_folders:
            self._node_folders.attach(task, state)
            lost = self._node_folders.missing(task, state) if state.has_ended else None
        if state.has_ended and (lost is not None or not self._node_folders):
            self._end(task, state, lost)

    def _end(self, task: ArrayTask, state: TaskState, lost: str | None) -> None:
        """Add the rows of a task that has ended, and whose files are here or `lost`."""
        try:
            self._outcomes[task.number] = task_outcome(task, self.run_folder, state, self._job_environ, lost)
            merged = merge([task.folder_in(self.run_folder)], self.output, self.run_folder / "results.json")
        except MadengineError as error:
            # Such as a full disk: the other tasks are worth following.
            self._outcomes[task.number] = TaskOutcome(has_failed=True)
            self._problems.append(f"{task.name}: {error}; then `{self._fetch_line}` adds the rows")
            return
        self._rows.extend(merged.rows)
        self._problems.extend(merged.problems)


def _beside(manifest_file: Path, name: Any) -> Path | None:
    """Return the path of the file of variables, None without one. Raises ConfigurationError where it is missing."""
    path = (manifest_file.parent / str(name)).absolute() if name else None
    if path and not path.is_file():
        raise ConfigurationError(f"env_file {name}: no such file: {path}")
    return path


def _absolute(folder: str) -> str:
    return str(Path(folder).expanduser().absolute()) if folder else ""


def _asks_to_cancel(jobs: Iterable[int]) -> bool:
    """Return whether the user of a terminal wants the jobs cancelled; without one nobody would collect them."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    # Another signal is an answer too; while madengine stops, it isn't heard.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        sys.stderr.write(f"cancel Slurm job {', '.join(map(str, jobs))}? [Y/n] ")
        sys.stderr.flush()
        return not sys.stdin.readline().strip().lower().startswith("n")
    except KeyboardInterrupt:
        return True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
