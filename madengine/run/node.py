"""One run of a manifest's models on this machine: in which order, and where the results are kept as they come."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.config.hooks import Hooks
from madengine.data_sets.mounts import Data
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RUN_FAILED, ConfigurationError, MadengineError, RunError
from madengine.files import write_json
from madengine.machine.environment import environment_id_of, environment_record
from madengine.machine.gpus import eligible_gpus, requested_count, skipped_architecture
from madengine.programs.engine import Docker
from madengine.records import FAILURE, SKIPPED, Gpu, Image, Model, RunResult
from madengine.results.rows import append_rows, result_rows, results_json, results_table, run_summary
from madengine.run.container_setup import Setup
from madengine.run.names import new_run_id
from madengine.run.options import RUNS, RunOptions
from madengine.run.orphans import remove_orphans
from madengine.run.runner import ContainerRunner

logger = logging.getLogger(__name__)


@dataclass
class LocalRun:
    """One run of chosen models on this machine.

    `chosen` are the models with the image of each (None where none is for this machine), `skipped` the
    images that are for others, with the reason. `root` is the model package (None where there is none),
    `data_folder` where data.json is looked for, `credentials` what data and containers get.
    """

    options: RunOptions
    context: Context
    gpus: tuple[Gpu, ...]
    chosen: Sequence[tuple[Model, Image | None]]
    skipped: Sequence[tuple[Image, Model, str]]
    root: Path | None
    data_folder: Path
    environ: Mapping[str, str]
    credentials: Credentials
    show: Callable[[str], None]
    hooks: Hooks = field(default_factory=Hooks)
    run_id: str = field(init=False)
    came: list[RunResult] = field(default_factory=list)
    lost_rows: bool = False
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.run_id = self.options.run_id or new_run_id()

    @property
    def directory(self) -> Path:
        return _directory(self.run_id)

    @cached_property
    def _machine(self) -> dict[str, Any]:
        return environment_record(self.gpus, self._engine_said)

    def carry_out(self, engine: Docker, not_built: Sequence[tuple[Model, str]]) -> int:
        """Run everything, keep every result as it comes; gives the exit code. `not_built` get a row each."""
        began = time.monotonic()
        self._engine_said = f"{engine.name} {engine.version}"
        remove_orphans(engine)
        runner = self._runner(engine)
        try:
            for model, error in not_built:
                self._record(self._unrun(model, None, FAILURE, f"build: {error}"))
            runnable = []
            for model, image in self.chosen:
                reason = self._why_not(model, image)
                if image is None or reason:
                    self._record(self._unrun(model, image, SKIPPED, reason))
                else:
                    runnable.append((model, image))
            if self.options.pack and self.gpus and len(runnable) > 1:
                self._side_by_side(replace(runner, packed=True), runnable)
            else:
                for model, image in runnable:
                    self._run(runner, model, image)
        finally:
            self._conclude(time.monotonic() - began)
        return self._exit_code()

    def show_lines(self, engine: Docker) -> int:
        """Print the pull and run lines of every model that would run."""
        self._engine_said = f"{engine.name} {engine.version}"
        for model, image in self.chosen:
            reason = self._why_not(model, image)
            if image is None or reason:
                logger.info(f"{model.name}: {reason}")
                continue
            for line in self._runner(engine).shell_lines(model, image):
                self.show(programs.redact(line))
        return EXIT_DONE

    def _run(self, runner: ContainerRunner, model: Model, image: Image) -> None:
        logger.info(f"running {model.name} ({image.key})")
        runner.run(model, image)

    def _side_by_side(self, runner: ContainerRunner, runnable: Sequence[tuple[Model, Image]]) -> None:
        """Run models on GPUs of their own, those that need the most first; Ctrl-C ends all of them."""
        candidates = eligible_gpus(self.gpus, self.context.docker_gpus)
        free = len(candidates)
        waiting = sorted(runnable, key=lambda one: -self._needs(one[0], candidates))
        running: dict[Future[None], int] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(waiting))) as pool:
            try:
                while waiting or running:
                    for one in list(waiting):
                        needs = self._needs(one[0], candidates)
                        if needs <= free:
                            waiting.remove(one)
                            running[pool.submit(self._run, runner, *one)] = needs
                            free -= needs
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        free += running.pop(future)
                        future.result()
            except BaseException:
                runner.stopping.set()
                raise

    def _needs(self, model: Model, candidates: Sequence[Gpu]) -> int:
        try:
            return requested_count(model.n_gpus, candidates, self.gpus)
        except RunError:
            return 0  # it fails by itself, with the reason in its row

    def _why_not(self, model: Model, image: Image | None) -> str:
        """Why a model is not run here, empty where it is."""
        if image is None:
            others = sorted({reason for _, other, reason in self.skipped if other == model})
            return "; ".join(others) or "the manifest has no image of it"
        listed = skipped_architecture(model.skip_gpu_arch, self.gpus) if self.options.skip_gpu_arch else ""
        return f"skip_gpu_arch: it is not for {listed}; --disable-skip-gpu-arch runs it all the same" if listed else ""

    def _runner(self, engine: Docker) -> ContainerRunner:
        options = self.options
        data_file = options.data_file or self.data_folder / "data.json"
        if options.data_file and not data_file.is_file():
            raise ConfigurationError(f"{data_file}: no such file; --data-config-file-name names a data.json")
        setup = Setup(
            engine=engine,
            run_id=self.run_id,
            context=self.context,
            gpus=self.gpus,
            credentials=self.credentials,
            root=self.root,
            timeout=options.timeout,
            gpu_mode=options.gpu_mode,
            keep_alive=options.keep_alive,
            hooks=self.hooks,
            describe=self._describes(),
            isolation=options.isolation,
        )
        return ContainerRunner(
            setup=setup,
            directory=self.directory,
            data=Data.load(data_file, self.context.values.get("data", {}), self.credentials),
            done=self._record,
            gpu_wait=options.gpu_wait,
            sample_hz=options.sample_hz,
            environment_id=environment_id_of(self._machine),
            force_mirror_local=options.force_mirror_local,
            keep_model_dir=options.keep_model_dir,
            skip_model_run=options.skip_model_run,
            live=_to_terminal if options.live_output else None,
        )

    def _describes(self) -> bool:
        asked = self.options.describe_environment
        if asked is None:
            asked = self.context.describes_environment
        return True if asked is None else asked

    def _record(self, result: RunResult) -> None:
        with self._one_at_a_time:
            self._keep(replace(result, reason=programs.redact(result.reason)))

    def _keep(self, result: RunResult) -> None:
        self.came.append(result)
        figures = "; ".join(f"{metric.performance} {metric.metric}".strip() for metric in result.metrics)
        logger.info(f"{result.model.name}: {result.status} {result.reason or figures}".rstrip())
        rows = result_rows(result, self.environ)
        try:
            append_rows(self.options.output, rows)
        except MadengineError as error:
            self._save_elsewhere(rows, error)

    def _save_elsewhere(self, rows: list[dict[str, str]], problem: MadengineError) -> None:
        """A row that perf.csv can't take goes beside the log, or at least onto the screen."""
        self.lost_rows = True
        other = self.directory / "perf.csv"
        try:
            append_rows(other, rows)
            logger.info(f"{problem}; the row is in {other}")
        except MadengineError:
            logger.info(f"{problem}; the row: {json.dumps(rows)}")

    def _conclude(self, seconds: float) -> None:
        documents = {
            self.directory / "results.json": results_json(self.run_id, self.came, self._described()),
            self.options.summary_output: run_summary(
                self.came, self.skipped, seconds, socket.gethostname(), str(self.options.output), self.run_id
            ),
        }
        for path, document in documents.items():
            try:
                write_json(path, document)
            except MadengineError as error:
                self.lost_rows = True
                logger.info(str(error))
        if self.came and not self.options.quiet:
            self.show(results_table(self.came))
        for image, _, reason in self.skipped:
            logger.info(f"skipped {image.key}: {reason}")
        if not self.options.quiet:
            summary = "" if self.options.is_part else f"; summary: {self.options.summary_output}"
            logger.info(f"rows: {self.options.output}; logs: {self.directory}{summary}")

    def _exit_code(self) -> int:
        rows = [row for result in self.came for row in result_rows(result, self.environ)]
        if any(row["status"] == FAILURE for row in rows):
            return EXIT_RUN_FAILED
        if self.chosen and all(image is None for _, image in self.chosen):
            logger.info("nothing in this manifest is for this machine")
            return EXIT_RUN_FAILED
        return EXIT_FAILURE if self.lost_rows else EXIT_DONE

    def _unrun(self, model: Model, image: Image | None, status: str, reason: str) -> RunResult:
        return RunResult(
            run_id=self.run_id,
            model=model,
            image=image,
            status=status,
            reason=reason,
            started=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            machine_name=socket.gethostname(),
            gpu_vendor=self.context.gpu_vendor,
            n_gpus=model.n_gpus,
            environment_id=environment_id_of(self._machine),
        )

    def _described(self) -> dict[str, Any]:
        named = {"environment_id": environment_id_of(self._machine), "machine_name": socket.gethostname()}
        return {**named, **self._machine}


def _directory(run_id: str) -> Path:
    return RUNS / run_id


def _to_terminal(chunk: bytes) -> None:
    # Whoever watched may be gone (`2>&1 | head`); the run goes on.
    with suppress(OSError):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
