"""Image in, RunResult out: one model, one container, whatever happens to it."""

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
from io import FileIO
from pathlib import Path

from madengine import programs
from madengine.build import payload, source_code
from madengine.build.source_code import Checkout, ModelCode
from madengine.config import artifacts, launchers
from madengine.config.hooks import HOOKS_FOLDER, SCRIPT_MARK
from madengine.config.log_errors import log_errors
from madengine.data_sets.fetch import Client
from madengine.data_sets.mounts import Data, Provided
from madengine.errors import MadengineError, RunError
from madengine.machine import telemetry
from madengine.machine.gpu_locks import locked_gpus
from madengine.machine.gpus import eligible_gpus, foreign_processes, requested_count
from madengine.programs.engine import Container, pinned
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, Image, Model, RunResult
from madengine.results.metrics import MetricScan
from madengine.run.container_run import ContainerRun
from madengine.run.container_setup import Setup
from madengine.run.names import log_name, new_folder, slug
from madengine.run.orphans import OWNER_LABEL, remove_orphans
from madengine.run.outcome import SERIES_FILE, run_outcome, tidy_workspace, unless_log_errors, with_artifacts
from madengine.run.pull import Puller

logger = logging.getLogger(__name__)

_SHOWN_LOG_LINES = 20


@dataclass(frozen=True)
class ContainerRunner:
    """Runs models one by one, in containers of one `setup`, on this machine.

    Everything of a run goes below `directory`, a folder a model. A run holds as many GPUs as its card asks for,
    waits `gpu_wait` seconds for them, and samples them `sample_hz` times a second. `done` gets every result, also
    that of a run which Ctrl-C broke off, before the interruption is passed on; `stopping` breaks off the runs of
    other threads. `live` gets what the containers write, as they write it.
    """

    setup: Setup
    directory: Path
    data: Data
    done: Callable[[RunResult], None]
    gpu_wait: float = 0.0
    sample_hz: float = 1.0
    packed: bool = False
    environment_id: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    force_mirror_local: str = ""
    keep_model_dir: bool = False
    skip_model_run: bool = False
    live: Callable[[bytes], None] | None = None

    def run(self, model: Model, image: Image) -> None:
        """Run one model; a failure is a result with a reason, not an error."""
        model = self._with_args(model)
        result, interrupted = self._nothing_yet(model, image), False
        try:
            result = self._run(result, model, image)
        except MadengineError as error:
            result = replace(result, reason=str(error))
        except _Interrupted as stopped:
            result, interrupted = stopped.result, True
        except KeyboardInterrupt:
            result, interrupted = replace(result, reason="interrupted"), True
        with programs.uninterrupted():
            self.done(result)
        if interrupted:
            raise KeyboardInterrupt

    def _nothing_yet(self, model: Model, image: Image) -> RunResult:
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
        )

    def _run(self, result: RunResult, model: Model, image: Image) -> RunResult:
        reference, digest = Puller(self.setup.engine, self.stopping).present(image)
        self.setup.secrets_of(model, image)
        provided = Provided()
        if not self.skip_model_run:
            provided = self.data.mounts(model, self.force_mirror_local, Client(self.stopping))
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
        if self.skip_model_run:
            return replace(result, status=SKIPPED, reason="--skip-model-run")
        try:
            code = self._code(model, image)
            result = replace(result, git_commit=code.commit if code else image.git_commit)
            candidates = eligible_gpus(self.setup.gpus, self.setup.context.docker_gpus)
            count = requested_count(model.n_gpus, candidates, self.setup.gpus)
            with locked_gpus(candidates, count, model.name, self.gpu_wait, self.stopping) as gpus:
                if gpus:
                    # One who held them and was killed meanwhile has left a container on them.
                    remove_orphans(self.setup.engine)
                nodes = int(launchers.arguments(self.setup.context.multi_node_args)["NNODES"])
                result = replace(result, gpus=gpus, n_gpus=str(count), nnodes=nodes)
                result = replace(result, foreign_processes=self._foreign(gpus))
                return self._contained(result, self._prepared(model, image, reference, result, provided, code))
        except MadengineError as error:
            return replace(result, reason=str(error))

    def _foreign(self, gpus: tuple[Gpu, ...]) -> int | None:
        count = foreign_processes(gpus)
        if count:
            others = "1 process of others uses" if count == 1 else f"{count} processes of others use"
            logger.info(f"{others} GPUs of this run: its figures are of what is left")
        return count

    def _code(self, model: Model, image: Image) -> Checkout | None:
        """What a card's url names, where the image doesn't carry it: older versions cloned it at every run."""
        if image.self_contained:
            return None
        setup = self.setup
        client = Client(self.stopping)
        code = ModelCode(self.directory / "payload", setup.root or Path(), setup.credentials, client)
        return code.checkout(model)

    def _prepared(
        self,
        model: Model,
        image: Image,
        reference: str,
        result: RunResult,
        provided: Provided,
        code: Checkout | None,
    ) -> Container:
        local = None
        if not image.self_contained:
            local = new_folder(self.directory / "payload", model.name)
            payload.write(self.setup.local_payload(model, code), local)
            if code:
                shutil.rmtree(code.folder)
        if self.setup.hooks:
            folder = Path(result.directory) / HOOKS_FOLDER
            folder.mkdir()
            payload.write(self.setup.hooks_payload(), folder)
        return self.setup.container(model, image, reference, Path(result.log_file), provided, local, result.gpus)

    def shell_lines(self, model: Model, image: Image) -> Iterator[str]:
        """What `run` starts for a model, as lines for a POSIX shell; the log is then in the model's folder."""
        model = self._with_args(model)
        provided, fetching = self.data.planned(model, self.force_mirror_local)
        name = pinned(image)
        workspace = self.directory / slug(model.name)
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
        if self.setup.hooks:
            yield from payload.shell_lines(self.setup.hooks_payload(), str(workspace / HOOKS_FOLDER))
        log = workspace / log_name(model, image)
        reference = self.setup.engine.full_name(name) or image.image_id or image.registry_image or image.docker_image
        candidates = eligible_gpus(self.setup.gpus, self.setup.context.docker_gpus)
        gpus = tuple(candidates[: requested_count(model.n_gpus, candidates, self.setup.gpus)])
        container = self.setup.container(model, image, reference, log, provided, local, gpus)
        # Whoever pastes the lines removes the container; to a later madengine it must not look like an orphan.
        labels = {name: value for name, value in container.labels.items() if name != OWNER_LABEL}
        yield programs.shell_line(self.setup.engine.run(replace(container, labels=labels)))
        yield programs.shell_line(self.setup.engine.wait(container.name))
        yield programs.shell_line(self.setup.engine.remove(container.name))
        yield shlex.join(["cat", str(log)])

    def _with_args(self, model: Model) -> Model:
        """The model with the arguments that it runs with, which its row then has too."""
        return model if self.setup.context.model_args is None else replace(model, args=self.setup.context.model_args)

    # --- its life ---

    def _contained(self, result: RunResult, container: Container) -> RunResult:
        """Start the container, follow it to its end, remove it, and say what came of it."""
        # Opened before anything can run: the script may put a link to a file of this machine in the log's place.
        with _run_folder_is_ours(self.directory), open(result.log_file, "x+b", buffering=0) as log:
            series = Path(result.directory) / SERIES_FILE
            with telemetry.sampled(result.gpus, self.setup.gpus, series, 1.0 / self.sample_hz) as cost:
                outcome, interrupted = self._lived(result, container, log)
            outcome = replace(outcome, cost=cost())
            if outcome.status == FAILURE:
                logger.info(_last_lines(log))
        if interrupted:
            raise _Interrupted(outcome)
        return outcome

    def _lived(self, result: RunResult, container: Container, log: FileIO) -> tuple[RunResult, bool]:
        """The container's life: what came of it, and whether somebody broke it off."""
        setup, model = self.setup, result.model
        # A warm-up before the script is no measurement.
        scan = MetricScan(SCRIPT_MARK.encode() if setup.hooks.pre_scripts else b"")
        began = time.monotonic()
        ending = ContainerRun(
            engine=setup.engine,
            container=container,
            log=log,
            scan=scan,
            patience=setup.patience(model),
            keep_alive=setup.keep_alive,
            live=self.live,
            stopping=self.stopping,
        ).run()
        result = replace(result, run_duration=time.monotonic() - began)
        limit, hooked = setup.limit(model), bool(setup.hooks)
        outcome = run_outcome(result, ending.state, scan, ending.reason, limit, ending.said, hooked)
        outcome = unless_log_errors(outcome, log_errors(model.extra, setup.context.values), log)
        tidies = not (self.keep_model_dir or setup.keep_alive) and outcome.status == SUCCESS
        patterns = artifacts.patterns_for(model, setup.context, setup.hooks.artifacts)
        outcome = with_artifacts(outcome, patterns, tidies)
        if not setup.keep_alive:
            tidy_workspace(outcome, with_model_directory=tidies)
        if ending.stays:
            logger.info(_how_to_enter(setup.engine.name, container.name))
        return outcome, ending.interrupted


class _Interrupted(Exception):
    """Ctrl-C came while a container ran; it is gone, and this is its result."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.model.name)
        self.result = result


@contextmanager
def _run_folder_is_ours(directory: Path) -> Iterator[None]:
    """Turn the system's refusals (a full disk, a read-only one) into the run's reason."""
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
