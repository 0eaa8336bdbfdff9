"""The options of a comparison."""

from __future__ import annotations

from dataclasses import dataclass

from madengine.config.option import Group, number, option
from madengine.errors import ConfigurationError


@dataclass(frozen=True)
class DirectionOptions:
    """Whether lower or higher is better, where the metric's name is wrong about it."""

    lower_is_better: tuple[str, ...] = option(
        "--lower-is-better", default=(), group=Group.SELECTION, metavar="METRIC", many=True,
        help="metrics that are better when they are lower (default: by the metric's name)",
    )  # fmt: skip
    higher_is_better: tuple[str, ...] = option(
        "--higher-is-better", default=(), group=Group.SELECTION, metavar="METRIC", many=True,
        help="metrics that are better when they are higher",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Raise ConfigurationError for a metric that is both."""
        for metric in set(self.lower_is_better).intersection(self.higher_is_better):
            raise ConfigurationError(f"{metric}: named by both --lower-is-better and --higher-is-better; choose one")


@dataclass(frozen=True)
class VerdictOptions(DirectionOptions):
    """What counts as a change, and how verdicts are printed."""

    clean_only: bool = option(
        "--clean-only", default=False, group=Group.SELECTION,
        help="leave out runs with foreign processes on their GPUs, throttled or packed ones",
    )  # fmt: skip
    #: Percent of the base median.
    min_effect: float = option(
        "--min-effect", default=2.0, group=Group.SELECTION, parse=number("percent", 0, 1000), metavar="PERCENT",
        help="smaller changes count as the same (default: 2)",
    )  # fmt: skip
    fail_on: str = option(
        "--fail-on", default="worse", group=Group.OUTPUT, choices=("worse", "unclear", "never"),
        help="exit with 5 if something got worse, or also if something is undecided (default: worse)",
    )  # fmt: skip
    json: bool = option("--json", default=False, group=Group.OUTPUT, help="print the comparison as JSON")


@dataclass(frozen=True)
class CompareOptions(VerdictOptions):
    """What is compared."""

    sources: tuple[str, ...] = option(
        "sources", default=(), group=Group.SELECTION, metavar="RESULTS", many=True,
        help="BASE and NEW: each a perf.csv, a results.json, a folder that is searched for them, a run id, or the URL "
        "of a database (see upload), with #RUN_ID at its end for one run",
    )  # fmt: skip
    by: str = option(
        "--by", default="", group=Group.SELECTION, metavar="COLUMN",
        help="compare two values of this column instead of two files; the earlier one is the base",
    )  # fmt: skip
    values: tuple[str, ...] = option(
        "--values", default=(), group=Group.SELECTION, metavar="VALUE", many=True,
        help="the base value and the new value of --by, or how they begin, where it has more than two",
    )  # fmt: skip
    paired: bool = option(
        "--paired", default=False, group=Group.SELECTION,
        help="compare run by run: those of the same pair or repeat (column), else in order of their start",
    )  # fmt: skip
    # Not of a run: its --markdown names the file of a report.
    markdown: bool = option(
        "--markdown", default=False, group=Group.OUTPUT, help="print a Markdown table, for a merge request"
    )

    def __post_init__(self) -> None:
        """Raise ConfigurationError for options that contradict one another."""
        if self.by and not self.sources:
            raise ConfigurationError("compare --by: expected a perf.csv, a results.json, a folder or a run id")
        if not self.by and len(self.sources) != 2:
            raise ConfigurationError(
                f"compare: expected BASE and NEW, got {len(self.sources)} names; "
                "name two, or compare two values of a column with --by"
            )
        if self.values and (not self.by or len(self.values) != 2):
            raise ConfigurationError("--values: expected two values of the column that --by names")
        if self.json and self.markdown:
            raise ConfigurationError("--json: can't be combined with --markdown")
        super().__post_init__()
