"""One run of a manifest's models on this machine: in which order, and on which GPUs."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.config.context import Context
from madengine.config.credentials import Credentials
from madengine.config.entry_keys import refusal
from madengine.config.hooks import Hooks
from madengine.config.nodes import node_count, nodes_by_hand, other_nodes
from madengine.config.progress import WAITING, Progress, report
from madengine.data_sets.mounts import Data
from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_RUN_FAILED, ConfigurationError, RunError
from madengine.machine.environment import environment_id_of, environment_record, named_record
from madengine.machine.gpus import AMD, skipped_architecture, wants_gpus
from madengine.programs.engine import Docker
from madengine.programs.rocm import installed
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, Image, Metric, Model, RunResult
from madengine.results.result_writer import ResultWriter, remove_entries
from madengine.results.rows import result_rows
from madengine.results.table import load_tabulate, results_table
from madengine.run.background import Background
from madengine.run.container_setup import Setup
from madengine.run.inherited import inherited_variables, without_ranks
from madengine.run.joint import joined
from madengine.run.names import new_run_id, run_directory
from madengine.run.options import RunOptions
from madengine.run.orphans import remove_orphans
from madengine.run.rounds import RepeatedModel, Round, rounds
from madengine.run.runner import ContainerRunner
from madengine.run.workspace import lasting_workspace

if TYPE_CHECKING:
    from concurrent.futures import Future

    from madengine.run.peers import Peers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalRun:
    """One run of chosen models on this machine."""

    options: RunOptions
    engine: Docker
    context: Context
    #: All GPUs of this machine.
    gpus: tuple[Gpu, ...]
    #: The models, each with its image; None if it has none for this machine.
    chosen: Sequence[tuple[Model, Image | None]]
    #: The images for other machines, each with the reason.
    skipped: Sequence[tuple[Image, Model, str]]
    #: The model package; None without one.
    root: Path | None
    #: Where data.json is.
    data_folder: Path
    environ: Mapping[str, str]
    #: For data sets and containers.
    credentials: Credentials
    #: Gets what is printed on stdout.
    show: Callable[[str], None]
    hooks: Hooks = field(default_factory=Hooks)
    #: The data sets that the build had providers for.
    provided_data: Sequence[str] = ()
    #: Why this machine's GPUs are unknown; empty if they are known.
    gpu_problem: str = ""
    #: `base` or `new`, if it is run in turn with another one.
    side: str = ""
    #: The other one's, if both write into one.
    shared_writer: ResultWriter | None = None
    #: The other nodes of a run on several; None for a run on one.
    peers: Peers | None = None

    @cached_property
    def run_id(self) -> str:
        return self.options.run_id or new_run_id()

    @property
    def results(self) -> list[RunResult]:
        """The results so far."""
        return self.writer.results

    def run(self, not_built: Sequence[tuple[Model, str]] = ()) -> int:
        """Run everything, write every result as it comes; return the exit code. `not_built` get a row each."""
        started = time.monotonic()
        if not self.options.quiet:
            Background(load_tabulate)
        with Background(lambda: remove_orphans(self.engine)) as sweep:
            runner = self.runner(sweep)
            try:
                for model, error in not_built:
                    self.record(self.not_run(model, None, FAILURE, f"build: {error}"))
                self._run_rounds(runner, self.runnable())
                sweep.result()
            finally:
                self.conclude(time.monotonic() - started)
        return self.exit_code()

    def show_lines(self) -> int:
        """Print the pull and run lines of every model that would run."""
        runner = self.runner(None)
        reasons = [self._failure_reason(model) or self._skip_reason(model, image) for model, image in self.chosen]
        for (model, _), reason in zip(self.chosen, reasons, strict=True):
            if reason:
                logger.info(f"{model.name}: {reason}")
        for number, _ in enumerate(islice(rounds(self.options), self.options.warmup + self.options.least_repeats), 1):
            for (model, image), reason in zip(self.chosen, reasons, strict=True):
                for line in runner.shell_lines(model, image, number) if image and not reason else ():
                    self.show(programs.redact(line))
        return EXIT_DONE

    # --- in which order ---

    def runnable(self) -> list[tuple[Model, Image]]:
        """Return the models that run here, and record the others."""
        runnable = []
        for model, image in self.chosen:
            obstacle = self._obstacle(model, image)
            if self.peers and self._node_count(model) == self.peers.nodes:
                obstacle = self._joint_obstacle(obstacle or self.not_run(model, image, SUCCESS, ""), self.peers)
            if obstacle:
                self.record(obstacle)
            elif image:
                report(Progress(model.name, WAITING))
                runnable.append((model, image))
        return runnable

    def _joint_obstacle(self, result: RunResult, peers: Peers) -> RunResult | None:
        """Return this node's result of a model that can't run on one of the nodes; None where it can on all."""
        joint = joined(result, peers, "the check of ")
        if joint.interrupted:
            raise KeyboardInterrupt
        if not joint.reason:
            return None
        stopped = replace(joint.own, status=FAILURE, reason=f"not started: {joint.reason}")
        return stopped if joint.own.status == SUCCESS else joint.own

    def _obstacle(self, model: Model, image: Image | None) -> RunResult | None:
        """Return the result of a model that can't run here, or isn't to; None for one that runs."""
        if reason := self._failure_reason(model):
            return self.not_run(model, image, FAILURE, reason)
        reason = self._skip_reason(model, image)
        return self.not_run(model, image, SKIPPED, reason) if image is None or reason else None

    def _failure_reason(self, model: Model) -> str:
        """Return why a model can't be run here: what it asks for, or GPUs that are unknown; empty if it can."""
        images = [image for other, image in self.chosen if image and other == model]
        images += [image for image, other, _ in self.skipped if other == model]
        if reason := refusal(model) or self._other_nodes(model):
            return reason
        if not self.gpu_problem or not wants_gpus(model.n_gpus, {image.vendor for image in images}):
            return ""
        return f"unknown GPUs: {self.gpu_problem}; repair the driver, or set the context's gpu_vendor to NONE"

    def _node_count(self, model: Model) -> int:
        return node_count(self.options.nodes, self.context, model, self.environ)

    def _other_nodes(self, model: Model) -> str:
        """Return why a model can't run on as many nodes together as its entry says; empty if it can."""
        if self.options.skip_model_run:
            return ""
        count = self._node_count(model)
        reason = other_nodes(count, self.peers.nodes if self.peers else nodes_by_hand(self.context))
        return f"distributed: nnodes {count}: {reason}" if reason else ""

    def _skip_reason(self, model: Model, image: Image | None) -> str:
        """Return why a model is not run here, empty if it is."""
        if image is None:
            reasons = sorted({reason for _, other, reason in self.skipped if other == model})
            return "; ".join(reasons) or "the manifest has no image of it"
        match = skipped_architecture(model.skip_gpu_arch, self.gpus) if self.options.skip_gpu_arch else ""
        return f"skip_gpu_arch: it is not for {match}; --disable-skip-gpu-arch runs it all the same" if match else ""

    def _run_rounds(self, runner: ContainerRunner, runnable: Sequence[tuple[Model, Image]]) -> None:
        """Run the models in rounds; in each those that have not failed, and whose medians are not stable yet."""
        entries = [RepeatedModel(model, image) for model, image in runnable]
        for turn in rounds(self.options):
            entries = [entry for entry in entries if entry.runs_in(turn, self.options)]
            if not entries:
                return
            self._run_round(runner, entries, turn)
        limit = self.options.until_stable
        for entry in entries:
            if limit is not None and not entry.is_stable(limit):
                logger.warning(
                    f"{entry.model.name}: not stable after {self.options.most_repeats} repeats: the interval of its "
                    f"median is wider than {limit:g} %"
                )

    def _run_round(self, runner: ContainerRunner, entries: Sequence[RepeatedModel], turn: Round) -> None:
        if self.options.pack and self.gpus and len(entries) > 1:
            self._run_side_by_side(replace(runner, packed=True), entries, turn)
            return
        for entry in entries:
            self.run_one(replace(runner, gpus=entry.gpus), entry, turn)

    def run_one(self, runner: ContainerRunner, entry: RepeatedModel, turn: Round) -> None:
        """Run one model in a round."""
        which = "".join(f", {word}" for word in (self.side, turn.name) if word)
        logger.info(f"running {entry.model.name} ({entry.image.key}){which}")
        entry.results.append(runner.run(entry.model, entry.image, turn))

    def _run_side_by_side(self, runner: ContainerRunner, entries: Sequence[RepeatedModel], turn: Round) -> None:
        """Run models on GPUs of their own, those that need the most first; Ctrl-C ends all of them."""
        from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

        setup = runner.setup
        waiting = sorted(((gpu_count(setup, entry.model), entry) for entry in entries), key=lambda item: -item[0])
        free = len(setup.eligible_gpus)
        running: dict[Future[None], int] = {}
        with ThreadPoolExecutor(max_workers=max(1, len(waiting))) as pool:
            try:
                while waiting or running:
                    for item in list(waiting):
                        count, entry = item
                        if count <= free:
                            waiting.remove(item)
                            running[pool.submit(self.run_one, runner, entry, turn)] = count
                            free -= count
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        free += running.pop(future)
                        future.result()
            except BaseException:
                runner.stopping.set()
                raise

    def runner(self, sweep: Background[Any] | None) -> ContainerRunner:
        """Return what runs the models; `sweep` is the removal of orphans."""
        options = self.options
        data_file = options.data_file or self.data_folder / "data.json"
        if options.data_file and not data_file.is_file():
            raise ConfigurationError(f"{data_file}: no such file; --data-config-file-name names a data.json")
        rocm = installed() if any(gpu.vendor == AMD for gpu in self.gpus) else None
        if rocm and rocm.is_elsewhere:
            logger.info(f"ROCm of this machine: {rocm.root} {rocm.version}{' (TheRock)' if rocm.is_therock else ''}")
        inherited = inherited_variables(self.environ)
        if self.peers:
            inherited = without_ranks(inherited)
        if inherited:
            logger.info(f"containers get from this environment: {', '.join(sorted(inherited))}")
        setup = Setup(
            engine=self.engine,
            run_id=self.run_id,
            context=self.context,
            options=options,
            gpus=self.gpus,
            credentials=self.credentials,
            root=self.root,
            hooks=self.hooks,
            inherited=inherited,
            workspace=lasting_workspace(options.workspace or self.context.workspace, run_directory(self.run_id)),
            peers=self.peers,
        )
        return ContainerRunner(
            setup=setup,
            directory=run_directory(self.run_id),
            data=Data.load(data_file, self.context.values.get("data", {}), self.credentials, self.provided_data),
            done=self.record,
            environment_id=self._environment_id,
            side=self.side,
            sweep=sweep,
        )

    # --- what is written ---

    @cached_property
    def writer(self) -> ResultWriter:
        """Where the results go."""
        return self.shared_writer or ResultWriter(
            run_id=self.run_id,
            directory=run_directory(self.run_id),
            output=self.options.output,
            summary_output=self.options.summary_output,
            environ=self.environ,
        )

    @property
    def record_of_machine(self) -> dict[str, Any]:
        """The machine's description in results.json."""
        return named_record(self._machine, socket.gethostname())

    @cached_property
    def _machine(self) -> dict[str, Any]:
        return environment_record(self.gpus, f"{self.engine.name} {self.engine.version}")

    @cached_property
    def _environment_id(self) -> str:
        return environment_id_of(self._machine)

    def record(self, result: RunResult) -> None:
        """Log a result, and write its rows."""
        metrics = tuple(map(_redacted, result.metrics))
        result = replace(result, reason=programs.redact(result.reason), metrics=metrics)
        line = "; ".join(f"{metric.performance} {metric.metric}".strip() for metric in result.metrics)
        # Of several nodes a success may have a reason: another one measures.
        detail = line if result.status == SUCCESS else result.reason or line
        logger.info(f"{result.model.name}: {result.status} {detail}".rstrip())
        report(Progress(result.model.name, result.status, detail, ended=True))
        self.writer.add(result)

    def not_run(self, model: Model, image: Image | None, status: str, reason: str) -> RunResult:
        """Return the result of a model that is not run."""
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
            environment_id=self._environment_id,
            side=self.side,
        )

    def conclude(self, seconds: float, table: Callable[[], str] | None = None) -> None:
        """Write what is written at the end of a run; print the table of its results, or another one."""
        options = self.options
        self.writer.finish(self.record_of_machine, self.skipped, seconds)
        if self._with_rows and not options.quiet:
            self.show((table or self._table)())
        if options.cleanup_perf:
            remove_entries()
        for image, _, reason in self.skipped:
            logger.info(f"skipped {image.key}: {reason}")
        if not options.quiet:
            summary = "" if options.is_part else f"; summary: {options.summary_output}"
            rows = options.output if self._with_rows or not self.results else "the first node writes them"
            logger.info(f"rows: {rows}; logs: {run_directory(self.run_id)}{summary}")

    @property
    def _with_rows(self) -> list[RunResult]:
        """The results that have rows here: of several nodes only the first has them."""
        return [result for result in self.results if not result.rank]

    def _table(self) -> str:
        if not self.options.is_repeated:
            return results_table(self._with_rows)
        from madengine.results.statistics import tables

        return tables(row for result in self.results for row in result_rows(result, self.environ))

    def exit_code(self) -> int:
        """Return the exit code of what has run."""
        if self.writer.has_failure:
            return EXIT_RUN_FAILED
        if self.chosen and all(image is None for _, image in self.chosen):
            logger.info("no image in the manifest matches this machine")
            return EXIT_RUN_FAILED
        return EXIT_DONE if self.writer.complete else EXIT_FAILURE


def _redacted(metric: Metric) -> Metric:
    """Return a metric whose names show no secret; a number is none."""
    extra = {programs.redact(name): programs.redact(cell) for name, cell in metric.extra.items()}
    return replace(metric, metric=programs.redact(metric.metric), model=programs.redact(metric.model), extra=extra)


def gpu_count(setup: Setup, model: Model) -> int:
    """Return how many GPUs a model gets; none if there are not that many."""
    try:
        return setup.gpu_count(model)
    except RunError:
        return 0  # its run fails, with the reason in its row
