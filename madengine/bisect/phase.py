"""A bisection from its options to its outcome; it goes on where an earlier one with the same options ended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from madengine.bisect.options import BisectOptions
from madengine.bisect.search import BAD, GOOD, SKIPPED, next_version, steps_left
from madengine.bisect.state import BisectState, Step, Version, load_state, save_state
from madengine.bisect.trial import Trials, VersionError
from madengine.bisect.versions import selected_model, versions_between
from madengine.build.options import BuildOptions
from madengine.distributed_orchestrator import DistributedOrchestrator
from madengine.errors import EXIT_BUILD_FAILED, BuildError, MadengineError, RunError
from madengine.files.locks import alone_with
from madengine.results.comparison import ComparedSeries, metric_of
from madengine.results.comparison_json import series_json
from madengine.results.table import printable
from madengine.results.verdicts import BETTER, SAME, WORSE
from madengine.run.options import RunOptions

logger = logging.getLogger(__name__)

Choose = Callable[[Sequence[ComparedSeries]], ComparedSeries]


def bisect(
    orchestrator: DistributedOrchestrator, options: BisectOptions, build: BuildOptions, run: RunOptions
) -> BisectState:
    """Find the first bad version; return the state in which no version is left to try.

    Raises MadengineError where good or bad can't be built or run, or bad is not worse than good.
    """
    model = selected_model(orchestrator.session, build.tags, build.ignore_deprecated)
    question = {
        "model": model.name,
        "args": model.args,
        **{name: getattr(options, name) for name in ("good", "bad", "build_arg", "metric", "min_effect")},
        "values": list(options.values),
    }
    options.directory.mkdir(parents=True, exist_ok=True)
    path = options.directory / "state.json"
    with alone_with(path):
        state = load_state(path, question)
        if state is None:
            versions = versions_between(orchestrator.session, model, options)
            state = BisectState(question, versions, {0: Step(GOOD)})
            save_state(path, state)
        trials = Trials(orchestrator, model, options, build, run, orchestrator.this_machine(run.nodes))
        return _Bisection(trials, path, state).run()


@dataclass
class _Bisection:
    trials: Trials
    path: Path
    state: BisectState

    def run(self) -> BisectState:
        """Try versions until none is left, and write the state after each."""
        last = len(self.state.versions) - 1
        if last not in self.state.steps:
            self._keep(self._with_bad(last))
        while (number := next_version(self.state.verdicts)) is not None:
            left = steps_left(self.state.verdicts)
            logger.info(f"bisect: {_name(self.state.versions[number])}: about {left} steps left")
            self._keep(self.state.with_step(number, self._step(number)))
        return self.state

    def _keep(self, state: BisectState) -> None:
        self.state = state
        save_state(self.path, state)

    def _with_bad(self, number: int) -> BisectState:
        """Return the state with the bad version compared, which says what decides from here on."""
        version, good = self.state.versions[number], self._good
        try:
            one = self._compared(number, good, self.trials.options.min_effect, self._worst)
        except VersionError as error:
            raise _at_an_end(version, "bad", error) from None
        judgement = one.judgement
        if judgement.verdict != WORSE:
            change = "" if judgement.change_percent is None else f" ({judgement.change_percent:+.2f} %)"
            raise MadengineError(
                f"{printable(version.name)} is not worse than {printable(self.state.versions[0].name)}: "
                f"{judgement.verdict}{change} in {metric_of(one.series)}; nothing to bisect, or more runs are needed: "
                "--pairs, --most-pairs"
            )
        percent = judgement.change_percent
        threshold = self.trials.options.min_effect if percent is None else abs(percent) / 2
        state = replace(self.state, series=dict(one.series.key), threshold=threshold)
        return state.with_step(number, Step(BAD, evidence=series_json(one)))

    def _step(self, number: int) -> Step:
        """Compare a version with the good one; one that can't be compared is skipped."""
        version, good = self.state.versions[number], self._good
        try:
            one = self._compared(number, good, self.state.threshold, self._decisive)
        except VersionError as error:
            logger.info(f"bisect: {_name(version)}: skipped: {error}")
            return Step(SKIPPED, str(error))
        verdict = {WORSE: BAD, SAME: GOOD, BETTER: GOOD}.get(one.judgement.verdict, SKIPPED)
        reason = f"{one.judgement.verdict} after {one.judgement.n[1]} runs" if verdict == SKIPPED else ""
        logger.info(f"bisect: {_name(version)}: {verdict}{': ' if reason else ''}{reason}")
        return Step(verdict, reason, series_json(one))

    def _compared(self, number: int, good: Path, min_effect: float, choose: Choose) -> ComparedSeries:
        """Build a version and run pairs with good until the series that counts is decided, or there are too many."""
        folder = self.path.parent / f"{number:04}"
        # Of a step that was broken off: its runs are of another day.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        manifest = self.trials.built(self.state.versions[number], folder)
        most, n, pairs = self.trials.options.most_pairs, 0, self.trials.options.pairs
        while True:
            pairs = min(pairs, most - n)
            self.trials.run_pairs((good, manifest), folder, pairs)
            n += pairs
            judgement = (one := choose(self.trials.compared(folder, min_effect))).judgement
            if judgement.verdict in (WORSE, SAME, BETTER) or n >= most:
                return one
            pairs = max(1, *(judgement.more_runs or (n,)))

    @cached_property
    def _good(self) -> Path:
        """The manifest of the good version."""
        folder = self.path.parent / "good"
        folder.mkdir(exist_ok=True)
        version = self.state.versions[0]
        try:
            return self.trials.built(version, folder)
        except VersionError as error:
            raise _at_an_end(version, "good", error) from None

    def _worst(self, series: Sequence[ComparedSeries]) -> ComparedSeries:
        """Return what is worse by most; else what is undecided."""
        metric = self.trials.options.metric
        chosen = [one for one in series if not metric or metric_of(one.series) == metric]
        if not chosen:
            raise RunError(f"bisect: no metric {metric} in both versions" if metric else "bisect: no common metric")
        order = {WORSE: 2, SAME: 0, BETTER: 0}
        return max(
            chosen, key=lambda one: (order.get(one.judgement.verdict, 1), abs(one.judgement.change_percent or 0.0))
        )

    def _decisive(self, series: Sequence[ComparedSeries]) -> ComparedSeries:
        for one in series:
            if one.series.key == self.state.series:
                return one
        raise VersionError(f"run: it has no {self.state.series.get('metric')}", RunError.exit_code)


def _at_an_end(version: Version, kind: str, error: VersionError) -> MadengineError:
    """Return the error of a version without which nothing can be bisected."""
    category = BuildError if error.exit_code == EXIT_BUILD_FAILED else RunError
    return category(f"{version.name}: the {kind} version fails: {error}")


def _name(version: Version) -> str:
    return printable(" ".join(filter(None, (version.name[:40], version.title))))
