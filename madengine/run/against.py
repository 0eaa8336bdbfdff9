"""Two manifests on this machine, run in turn on the same GPUs: the strongest comparison that a noisy machine allows."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from madengine import programs
from madengine.errors import EXIT_DONE
from madengine.records import FAILURE, SKIPPED, Gpu, Model
from madengine.results.against import BASE, NEW, InTurn, Pair, verdict_code
from madengine.results.comparison import Comparison
from madengine.results.comparison_table import render
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from madengine.run.background import Background
from madengine.run.node import LocalRun, gpu_count
from madengine.run.orphans import remove_orphans
from madengine.run.rounds import RepeatedModel, Round, rounds
from madengine.run.runner import ContainerRunner

logger = logging.getLogger(__name__)

Side = tuple[LocalRun, ContainerRunner, RepeatedModel]


@dataclass
class AgainstRun:
    """The runs of an old manifest, the base, and of a new one, in turn; what they measured is compared pair by pair."""

    base: LocalRun
    new: LocalRun
    #: What the two manifests are called.
    names: tuple[str, str]
    _order: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._seed = self.new.options.with_seed().seed
        self._order = random.Random(self._seed)
        self.new = replace(self.new, side=NEW)
        self.base = replace(self.base, side=BASE, shared_writer=self.new.writer)

    def run(self, not_built: Sequence[tuple[Model, str]] = ()) -> int:
        """Run the pairs of models in rounds; return 5 if something got worse. `not_built` get a row each."""
        self._log_plan()
        started = time.monotonic()
        new = self.new
        with Background(lambda: remove_orphans(new.engine)) as sweep:
            try:
                for model, error in not_built:
                    new.record(new.not_run(model, None, FAILURE, f"build: {error}"))
                self._run_rounds(sweep)
                sweep.result()
            finally:
                table = None if new.options.skip_model_run else lambda: render(self._comparison)
                new.conclude(time.monotonic() - started, table)
        return self._exit_code()

    def show_lines(self) -> int:
        """Print the lines of every run, in the order of this seed."""
        self._log_plan()
        numbers: Counter[str] = Counter()
        pairs = self._sides(self._in_turn.pairs, None)
        for turn in rounds(self.new.options):
            for sides in pairs:
                for run, runner, entry in self._in_random_order(sides):
                    numbers[entry.model.name] += 1
                    run.show(f"# {run.side}{f', {turn.name}' if turn.name else ''}")
                    for line in runner.shell_lines(entry.model, entry.image, numbers[entry.model.name]):
                        run.show(programs.redact(line))
        return EXIT_DONE

    # --- what is compared ---

    @cached_property
    def _in_turn(self) -> InTurn:
        base, new = ([(model, image) for model, image in run.chosen if image] for run in (self.base, self.new))
        return InTurn.of(self.names, (base, new), (self.base.context.values, self.new.context.values))

    def _log_plan(self) -> None:
        """Name every difference before anything runs."""
        for line in self._in_turn.lines(self._seed):
            logger.info(line)

    # --- in turn ---

    def _run_rounds(self, sweep: Background[Any]) -> None:
        options = self.new.options
        pairs = self._sides(self._runnable_pairs(), sweep)
        for turn in rounds(options):
            for sides in pairs:
                if all(entry.runs_in(turn, options) for _, _, entry in sides):
                    self._run_pair(sides, turn)

    def _run_pair(self, sides: Sequence[Side], turn: Round) -> None:
        """Run both sides of a pair on the same GPUs, in a random order."""
        for run, runner, entry in self._in_random_order(sides):
            run.run_one(replace(runner, gpus=_gpus(sides, entry.model, runner)), entry, turn)

    def _in_random_order(self, sides: Sequence[Side]) -> list[Side]:
        return self._order.sample(list(sides), len(sides))

    def _runnable_pairs(self) -> list[Pair]:
        """Return the pairs of which both sides run here, and record the models that don't run."""
        base, new = self.base.runnable(), self.new.runnable()
        pairs = [pair for pair in self._in_turn.pairs if pair.base in base and pair.new in new]
        for run, runnable, partners in (
            (self.base, base, [pair.base for pair in pairs]),
            (self.new, new, [pair.new for pair in pairs]),
        ):
            for model, image in runnable:
                if (model, image) not in partners:
                    run.record(run.not_run(model, image, SKIPPED, "--against: the other manifest has no run of it"))
        return pairs

    def _sides(self, pairs: Sequence[Pair], sweep: Background[Any] | None) -> list[list[Side]]:
        runs = [(run, run.runner(sweep)) for run in (self.base, self.new)]
        return [
            [(run, runner, RepeatedModel(*side)) for (run, runner), side in zip(runs, pair, strict=True)]
            for pair in pairs
        ]

    # --- the verdict ---

    @cached_property
    def _comparison(self) -> Comparison:
        new = self.new
        rows = [row for result in new.results for row in result_rows(result, new.environ)]
        document = results_json(new.run_id, new.results, new.record_of_machine)
        return self._in_turn.comparison(rows, [document], new.options)

    def _exit_code(self) -> int:
        code = self.new.exit_code()
        if self.new.options.skip_model_run:
            return code
        return verdict_code(self._comparison, code)


def _gpus(sides: Sequence[Side], model: Model, runner: ContainerRunner) -> tuple[Gpu, ...]:
    """Return the GPUs that the pair had before; none, which is any, before its first run or if they are too few."""
    count = gpu_count(runner.setup, model)
    return next((entry.gpus for _, _, entry in sides if len(entry.gpus) >= count), ())
