"""Building one version, and comparing it with the good one on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from madengine.bisect.options import BisectOptions
from madengine.bisect.state import Version
from madengine.build.options import BuildOptions
from madengine.distributed_orchestrator import DistributedOrchestrator, ThisMachine
from madengine.errors import (
    EXIT_BUILD_FAILED,
    EXIT_DONE,
    EXIT_RUN_FAILED,
    EXIT_WORSE,
    ConfigurationError,
    MadengineError,
    RunError,
)
from madengine.records import Model
from madengine.results.against import BASE, NEW
from madengine.results.compare_options import CompareOptions
from madengine.results.comparison import ComparedSeries, compare_results
from madengine.results.perf_csv import Table
from madengine.results.series import failure_reason
from madengine.run.options import RunOptions

_TABLE = "perf.csv"


class VersionError(MadengineError):
    """A version that can't be compared: it does not build, or does not run."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Trials:
    """How the versions of one model are built and run here."""

    orchestrator: DistributedOrchestrator
    model: Model
    options: BisectOptions
    build: BuildOptions
    run: RunOptions
    here: ThisMachine

    def built(self, version: Version, folder: Path) -> Path:
        """Build a version; return its manifest, in the folder. Raises VersionError where it fails."""
        session = self.orchestrator.session
        build = replace(
            self.build,
            manifest_output=folder / "build_manifest.json",
            summary_output=folder / "build_summary.json",
            is_part=True,
        )
        if self.options.values:
            session = replace(session, build_args={self.options.build_arg: version.name})
        else:
            build = replace(build, commit=version.name)
        outcome = DistributedOrchestrator(session).build_phase(build, self.here.detected, self.here.architecture)
        for failure in outcome.failures:
            raise VersionError(f"build: {failure.error}", EXIT_BUILD_FAILED)
        if len(outcome.images) != 1:
            names = ", ".join(built.image.key for built in outcome.images)
            raise ConfigurationError(
                f"bisect: expected one image of {self.model.name} for this machine, got {names or 'none'}; "
                "choose with gpu_vendor and guest_os of the context"
            )
        return build.manifest_output

    def run_pairs(self, manifests: tuple[Path, Path], folder: Path, pairs: int) -> None:
        """Run good and the version in turn; the rows go to the folder's perf.csv.

        Raises VersionError where the version fails, RunError where good does.
        """
        good, manifest = manifests
        run = replace(
            self.run,
            against=good,
            repeat=pairs,
            output=folder / _TABLE,
            summary_output=folder / "run_summary.json",
            tags=(),
            quiet=True,
            is_part=True,
        )
        code = self.orchestrator.run_phase(manifest, run, gpus=self.here.gpus)
        failures = [row for row in _rows(folder / _TABLE) if failure_reason(row)]
        for row in failures:
            if row.get("side") == BASE:
                raise RunError(f"{self.options.good}: the good version fails: {failure_reason(row)}")
        for row in failures:
            raise VersionError(f"run: {failure_reason(row)}", EXIT_RUN_FAILED)
        if code not in (EXIT_DONE, EXIT_WORSE) and not _rows(folder / _TABLE):
            raise VersionError(f"run: exit code {code}", EXIT_RUN_FAILED)

    def compared(self, folder: Path, min_effect: float) -> Sequence[ComparedSeries]:
        """Compare the runs in a folder, pair by pair; return the series that both sides have."""
        better = self.model.extra.get("better")
        metrics = list(dict.fromkeys(row.get("metric", "") for row in _rows(folder / _TABLE)))
        options = CompareOptions(
            sources=(str(folder / _TABLE),),
            by="side",
            values=(BASE, NEW),
            paired=True,
            min_effect=min_effect,
            clean_only=self.options.clean_only,
            # The entry's word counts after the command line's, and is not in a table.
            lower_is_better=(*self.options.lower_is_better, *self._others(metrics, better == "lower")),
            higher_is_better=(*self.options.higher_is_better, *self._others(metrics, better == "higher")),
        )
        return [one for one in compare_results(options).series if one.is_on_both_sides]

    def _others(self, metrics: Sequence[str], are_so: bool) -> list[str]:
        named = {*self.options.lower_is_better, *self.options.higher_is_better}
        return [metric for metric in metrics if metric not in named] if are_so else []


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with Table(table) as rows:
        return [dict(zip(rows.columns, cells, strict=False)) for cells in rows]
