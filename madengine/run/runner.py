"""Image in, RunResult out: one model in one container."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.build import payload, source_code
from madengine.build.source_code import Checkout, ModelCode
from madengine.config import artifacts
from madengine.config.hooks import HOOKS_FOLDER, SCRIPT_MARK
from madengine.config.log_errors import log_errors, unconfigured_errors
from madengine.config.progress import Progress, is_shown, report
from madengine.data_sets.fetch import Client
from madengine.data_sets.mounts import Data, Provided
from madengine.errors import MadengineError, RunError
from madengine.files import write_whole
from madengine.files.locks import in_use
from madengine.machine import telemetry
from madengine.machine.gpu_locks import locked_gpus
from madengine.machine.gpu_profiles import write_gpu_profiles
from madengine.machine.gpus import foreign_processes
from madengine.machine.strangers import watched
from madengine.programs.engine import Container
from madengine.programs.slurm import own_allocation
from madengine.records import (
    FAILURE,
    SERIES_FILE,
    SKIPPED,
    SUCCESS,
    Artifact,
    Gpu,
    GpuProcess,
    Image,
    Model,
    RunResult,
)
from madengine.results.metrics import MetricScan
from madengine.results.table import printable
from madengine.run.background import Background
from madengine.run.container_run import ContainerExit, ContainerRun
from madengine.run.container_setup import HOSTFILE, Setup
from madengine.run.host_script import HostScript
from madengine.run.joint import joined, round_of
from madengine.run.live_output import LastLine, LiveOutput
from madengine.run.names import log_name, new_folder, slug
from madengine.run.orphans import GPU_LABEL, OWNER_LABEL, gpu_users
from madengine.run.outcome import (
    log_default_errors,
    run_outcome,
    script_start,
    tidy_workspace,
    unless_log_errors,
    with_artifacts,
    with_exception,
)
from madengine.run.pull import Puller
from madengine.run.rounds import ONCE, Round

logger = logging.getLogger(__name__)

_SHOWN_LOG_LINES = 20


@dataclass(frozen=True)
class ContainerRunner:
    """Runs models one by one, in containers of one `setup`, on this machine."""

    setup: Setup
    #: The run's folder; each model gets a folder in it.
    directory: Path
    data: Data
    #: Gets every result, also that of a run which Ctrl-C broke off, before the interruption is passed on.
    done: Callable[[RunResult], None]
    #: Other models run on this machine meanwhile.
    packed: bool = False
    environment_id: str = ""
    #: The GPUs that an earlier run of the model had, if this one is to have the same.
    gpus: tuple[Gpu, ...] = ()
    #: `base` or `new`, if two manifests run in turn.
    side: str = ""
    #: The removal of orphans, which has to end before a container starts.
    sweep: Background[Any] | None = None
    #: Breaks off the runs of other threads.
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, model: Model, image: Image, turn: Round = ONCE) -> RunResult:
        """Run one model; a failure of any kind is a result with a reason, not an error.

        Of a run on several nodes the joint result is returned.
        """
        model = self._with_args(model)
        result, interrupted = self._attempted(self._initial_result(model, image, turn), image)
        of_run = result
        if self.setup.peers and self.setup.is_joint(model):
            joint = joined(result, self.setup.peers)
            result, of_run = joint.own, joint.of_run
            interrupted |= joint.interrupted
        with programs.uninterrupted():
            self.done(result)
        if interrupted:
            raise KeyboardInterrupt
        return of_run

    def _attempted(self, result: RunResult, image: Image) -> tuple[RunResult, bool]:
        """Return the result of a run, of any kind, and whether it was interrupted."""
        try:
            return self._run(result, image), False
        except _Interrupted as interruption:
            return interruption.result, True
        except Exception as error:
            return replace(result, reason=_reason(error)), False
        except KeyboardInterrupt:
            return replace(result, reason="interrupted"), True

    def _initial_result(self, model: Model, image: Image, turn: Round) -> RunResult:
        setup = self.setup
        return RunResult(
            run_id=setup.run_id,
            model=model,
            image=image,
            status=FAILURE,
            started=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            machine_name=socket.gethostname(),
            gpu_vendor=setup.context.gpu_vendor,
            gpu_architecture=setup.gpus[0].architecture if setup.gpus else "",
            n_gpus=model.n_gpus,
            engine=f"{setup.engine.name} {setup.engine.version}",
            packed=self.packed,
            environment_id=self.environment_id,
            repeat=turn.number,
            is_warmup=turn.is_warmup,
            side=self.side,
        )

    def _run(self, result: RunResult, image: Image) -> RunResult:
        model, skipped = result.model, self.setup.options.skip_model_run
        if self.setup.requires_pinned_image and not image.pinned:
            raise RunError(
                f"--require-pinned-image: the manifest has no registry digest of {image.key}; build with --registry"
            )
        launcher = self.setup.context.launch_of(model, os.environ).launcher
        if launcher and launcher.on_host:
            return self._run_on_host(result, image)
        reference, digest = Puller(self.setup.engine, self.stopping, name=model.name).present(image)
        self.setup.secrets_of(model, image)  # raises if one is missing, before data are fetched
        report(Progress(model.name, "preparing"))
        provided = Provided() if skipped else self._provided(model)
        workspace = new_folder(self.directory, model.name)
        result = replace(
            result,
            image_digest=digest,
            directory=str(workspace),
            log_file=str(workspace / log_name(model, image)),
            dataname=provided.dataname,
            data_provider_type=provided.data_provider_type,
            data_size=provided.data_size,
            data_download_duration=provided.data_download_duration,
        )
        if skipped:
            return replace(result, status=SKIPPED, reason="--skip-model-run")
        try:
            with in_use(*provided.folders):
                return self._run_on_gpus(result, image, reference, provided)
        except _Interrupted:
            raise
        except Exception as error:
            return replace(result, reason=_reason(error))

    def _run_on_host(self, result: RunResult, image: Image) -> RunResult:
        """Run a script that starts containers itself."""
        workspace = new_folder(self.directory, result.model.name)
        log = workspace / log_name(result.model, image)
        digest = image.registry_digest or image.image_id
        result = replace(result, directory=str(workspace), log_file=str(log), image_digest=digest)
        if self.setup.options.skip_model_run:
            return replace(result, status=SKIPPED, reason="--skip-model-run")
        script = HostScript(self.setup, result.model, image, self.stopping, own_allocation(os.environ))
        with _run_errors(self.directory):
            return script.run(result)

    def _provided(self, model: Model) -> Provided:
        return self.data.mounts(model, self.setup.mirror, Client(self.stopping))

    def _run_on_gpus(self, result: RunResult, image: Image, reference: str, provided: Provided) -> RunResult:
        setup, model = self.setup, result.model
        code = self._code(model, image)
        result = replace(result, git_commit=code.commit if code else image.git_commit)
        count = setup.gpu_count(model)
        if self.sweep:
            self.sweep.result()
        report(Progress(model.name, "waiting for GPUs" if count else "starting"))
        wait, users = setup.options.gpu_wait, partial(gpu_users, setup.engine)
        with locked_gpus(self.gpus or setup.eligible_gpus, count, model.name, wait, self.stopping, users) as gpus:
            launch = setup.launch(model)
            name = launch.launcher.name if launch.launcher else ""
            nodes = setup.nodes(model)
            result = replace(result, gpus=gpus, n_gpus=str(count), nnodes=nodes, launcher=name)
            if launch.hostfile:
                write_whole(Path(result.directory) / HOSTFILE, launch.hosts(count))
            result = replace(result, foreign_processes=self._foreign(gpus))
            container = self._container(result, image, reference, provided, code)
            with in_use(*setup.workspace.folders(model, Path(result.directory).resolve())):
                return self._contained(result, container)

    def _foreign(self, gpus: tuple[Gpu, ...]) -> int | None:
        count = foreign_processes(gpus)
        if count:
            others = "1 process of others uses" if count == 1 else f"{count} processes of others use"
            logger.info(f"{others} GPUs of this run: its measurements are distorted")
        return count

    def _code(self, model: Model, image: Image) -> Checkout | None:
        """Clone the code of a model's url unless the image carries it: older versions cloned it at every run."""
        if image.self_contained:
            return None
        setup = self.setup
        client = Client(self.stopping)
        code = ModelCode(self.directory / "payload", setup.root or Path(), setup.credentials, client)
        return code.checkout(model)

    def _container(
        self, result: RunResult, image: Image, reference: str, provided: Provided, code: Checkout | None
    ) -> Container:
        """Write what the container is to find, and return it."""
        setup, model, local = self.setup, result.model, None
        if not image.self_contained:
            local = new_folder(self.directory / "payload", model.name)
            payload.write(setup.local_payload(model, code), local)
            if code:
                shutil.rmtree(code.folder)
        if setup.hooks:
            folder = Path(result.directory) / HOOKS_FOLDER
            folder.mkdir()
            payload.write(setup.hooks_payload(), folder)
        setup.workspace.prepare(model, Path(result.directory).resolve())
        return setup.container(model, image, reference, Path(result.log_file), provided, local, result.gpus)

    def _with_args(self, model: Model) -> Model:
        """Return the model with the arguments that it runs with, which its row then has too."""
        return model if self.setup.context.model_args is None else replace(model, args=self.setup.context.model_args)

    # --- a dry run ---

    def shell_lines(self, model: Model, image: Image, number: int = 1) -> Iterator[str]:
        """Yield what `run` starts for a model, as lines for a POSIX shell; the log is then in the model's folder.

        `number` counts the model's runs.
        """
        model = self._with_args(model)
        provided, fetching = self.data.planned(model, self.setup.mirror)
        name = image.pinned
        workspace = self.directory / f"{slug(model.name)}{f'_{number}' if number > 1 else ''}"
        yield f"# {' '.join(model.name.split())} ({image.key})"
        if name or image.registry_image:
            yield programs.shell_line(self.setup.engine.pull(name or image.registry_image))
        yield from fetching
        yield shlex.join(["mkdir", "-p", str(workspace)])
        local = None
        if not image.self_contained:
            local = self.directory / "payload" / workspace.name
            yield from payload.shell_lines(self.setup.local_payload(model), str(local))
            yield from source_code.shell_lines(model, f"{local}/code")
            yield from payload.mode_lines(str(local))
        if self.setup.hooks:
            yield from payload.shell_lines(self.setup.hooks_payload(), str(workspace / HOOKS_FOLDER))
        yield from self.setup.workspace.shell_lines(model, workspace)
        yield from self._container_lines(model, image, workspace / log_name(model, image), provided, local)

    def _container_lines(
        self, model: Model, image: Image, log: Path, provided: Provided, local: Path | None
    ) -> Iterator[str]:
        setup = self.setup
        reference = setup.engine.full_name(image.pinned) or image.reference
        gpus = tuple(setup.eligible_gpus[: setup.gpu_count(model)])
        container = setup.container(model, image, reference, log, provided, local, gpus)
        # The pasted lines remove the container; to a later madengine it must not look like an orphan.
        labels = {name: value for name, value in container.labels.items() if name not in (OWNER_LABEL, GPU_LABEL)}
        yield programs.shell_line(setup.engine.run(replace(container, labels=labels)))
        yield programs.shell_line(setup.engine.wait(container.name))
        yield programs.shell_line(setup.engine.remove(container.name))
        yield shlex.join(["cat", str(log)])

    # --- the container's life ---

    def _contained(self, result: RunResult, container: Container) -> RunResult:
        """Start the container, follow it to its end and remove it; return the outcome."""
        rate = self.setup.options.sample_hz
        # Opened before anything can run: the script may put a link to a file of this machine in the log's place.
        with _run_errors(self.directory), open(result.log_file, "x+b", buffering=0) as log:
            series = Path(result.directory) / SERIES_FILE
            with (
                telemetry.sampled(result.gpus, self.setup.gpus, series, 1.0 / rate) as cost,
                watched(result.gpus) as watch,
            ):
                outcome, interrupted = self._followed(result, container, log, watch.begin)
            outcome = _with_strangers(replace(outcome, cost=cost()), watch.strangers)
            outcome = replace(outcome, artifacts=(*outcome.artifacts, *self._profiles(result)))
            if outcome.status == FAILURE:
                logger.info(_last_lines(log))
        if interrupted:
            raise _Interrupted(outcome)
        return outcome

    def _profiles(self, result: RunResult) -> tuple[Artifact, ...]:
        hooks = self.setup.hooks
        return write_gpu_profiles(Path(result.directory), SERIES_FILE, hooks.series, result.gpus, hooks.environment)

    def _followed(
        self, result: RunResult, container: Container, log: FileIO, begin: Callable[[str], None]
    ) -> tuple[RunResult, bool]:
        """Run the container, and call `begin` with its id; return the outcome, and whether it was interrupted."""
        setup = self.setup
        # Metrics before the script, of a warm-up say, don't count.
        scan = MetricScan(SCRIPT_MARK.encode() if setup.hooks.pre_scripts else b"")
        peers = setup.peers if setup.is_joint(result.model) else None
        container_run = ContainerRun(
            engine=setup.engine,
            container=container,
            log=log,
            scan=scan,
            patience=setup.patience(result.model),
            keep_alive=setup.options.keep_alive,
            live=LiveOutput() if setup.options.live_output else LastLine(result.model.name) if is_shown() else None,
            stopping=self.stopping,
            secrets=setup.hidden_values(result.model),
            begin=begin,
            stop_reason=(lambda: peers.stop_reason) if peers else None,
        )
        patterns = artifacts.patterns_for(result.model, setup.context, setup.hooks.artifacts)
        with setup.workspace.used(result.model, Path(result.directory), patterns) as bring_results:
            if peers:
                peers.start(round_of(result))
            started = time.monotonic()
            report(Progress(result.model.name, "running", log=result.log_file, limit=setup.limit(result.model)))
            container_exit = container_run.run()
            result = replace(result, run_duration=time.monotonic() - started)
            container_exit = container_exit._replace(reason=container_exit.reason or bring_results())
        outcome = self._outcome(result, container_exit, scan, log)
        if container_exit.stays:
            logger.info(_how_to_enter(setup.engine.name, container.name))
        return outcome, container_exit.interrupted

    def _outcome(self, result: RunResult, container_exit: ContainerExit, scan: MetricScan, log: FileIO) -> RunResult:
        """Return the outcome of a container, with its artifacts, and tidy its workspace."""
        setup, model = self.setup, result.model
        limit, hooked = setup.limit(model), bool(setup.hooks)
        outcome = run_outcome(
            result,
            container_exit.state,
            scan,
            container_exit.reason,
            limit,
            container_exit.engine_output,
            hooked,
            setup.is_joint(model),
        )
        outcome = with_exception(outcome, log)
        outcome = unless_log_errors(outcome, log_errors(model.extra, setup.context.values), log)
        log_default_errors(outcome, unconfigured_errors(model.extra, setup.context.values), log)
        keeps = setup.options.keep_model_dir or setup.options.keep_alive
        tidies = not keeps and outcome.status == SUCCESS
        patterns = artifacts.patterns_for(model, setup.context, setup.hooks.artifacts)
        if setup.hooks.wrapper:
            workspace = Path(result.directory)
            started = script_start(workspace)
            patterns += artifacts.tool_outputs(workspace, payload.model_directory(model), started)
        outcome = with_artifacts(outcome, patterns, tidies)
        if not setup.options.keep_alive:
            tidy_workspace(outcome, with_model_directory=tidies)
        return outcome


class _Interrupted(Exception):
    """Ctrl-C while a container ran; it is removed, and this is its result."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.model.name)
        self.result = result


def _with_strangers(result: RunResult, strangers: tuple[GpuProcess, ...] | None) -> RunResult:
    """Return the result with the processes of others on its GPUs; None if nobody can tell them."""
    if strangers and not result.foreign_processes:
        names = ", ".join(f"{printable(one.name) or 'process'} ({one.pid})" for one in strangers)
        logger.info(f"others used GPUs of this run while it ran, so its measurements are distorted: {names}")
    is_unknown = strangers is None or result.foreign_processes is None or not result.gpus
    is_contaminated = bool(strangers or result.foreign_processes)
    return replace(
        result, strangers=strangers or (), contaminated=None if is_unknown and not is_contaminated else is_contaminated
    )


def _reason(error: Exception) -> str:
    """Return the reason of a failure; an unexpected error is named with its kind and its place."""
    if isinstance(error, MadengineError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    logger.debug("unexpected error", exc_info=error)
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    return f"unexpected error: {type(error).__name__}: {' '.join(str(error).split())}{place}; -v shows its traceback"


@contextmanager
def _run_errors(directory: Path) -> Iterator[None]:
    """Raise RunError, the run's reason, for the system's errors in its folder (a full disk, a read-only one)."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{directory}: {error.strerror or error}") from error


def _last_lines(log: FileIO) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 16_384))
    lines = log.read().splitlines()[-_SHOWN_LOG_LINES:]
    shown = [f"  | {line.decode(errors='replace')[:300]}" for line in lines]
    return "\n".join([*shown, f"  the whole log: {log.name}"])


def _how_to_enter(engine: str, name: str) -> str:
    return f"the container stays: `{engine} exec -it {name} sh` enters it, `{engine} rm --force {name}` removes it"
