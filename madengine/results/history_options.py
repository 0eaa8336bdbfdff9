"""The options of a history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.option import Group, inherited, option, whole_number
from madengine.errors import ConfigurationError
from madengine.results.compare_options import DirectionOptions, VerdictOptions


@dataclass(frozen=True)
class HistoryOptions(DirectionOptions):
    """Which results, in which order, and how they are printed."""

    sources: tuple[str, ...] = option(
        "sources", default=(), group=Group.SELECTION, metavar="RESULTS", many=True,
        help="each a perf.csv, a results.json, a folder that is searched for them, or a run id",
    )  # fmt: skip
    models: tuple[str, ...] = option(
        "--models", default=(), group=Group.SELECTION, metavar="MODEL", many=True,
        help="the models of the rows (default: all)",
    )  # fmt: skip
    #: None is by the start of the runs.
    commit_order: Path | None = option(
        "--commit-order", default=None, group=Group.SELECTION, parse=Path, metavar="DIR", exists="folder",
        help="order by the commits of this git repository instead of by the start of the runs",
    )  # fmt: skip
    per_host: bool = option(
        "--per-host", default=False, group=Group.SELECTION, help="make a series of its own for each host"
    )
    clean_only: bool = inherited(VerdictOptions, "clean_only", False)
    #: Percent of the values before.
    min_effect: float = inherited(
        VerdictOptions, "min_effect", 2.0, help="smaller changes are no change points (default: 2)"
    )
    last: int = option(
        "--last", default=30, group=Group.OUTPUT, parse=whole_number("runs", 0), metavar="N",
        help="the last runs of each series that the table shows, 0 for all (default: 30)",
    )  # fmt: skip
    json: bool = option("--json", default=False, group=Group.OUTPUT, help="print the history as JSON, complete")

    def __post_init__(self) -> None:
        """Raise ConfigurationError where there is nothing to read."""
        super().__post_init__()
        if not self.sources:
            raise ConfigurationError("history: expected a perf.csv, a results.json, a folder or a run id")
