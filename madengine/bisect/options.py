"""The options of a bisection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from madengine.config.option import Group, inherited, option, whole_number
from madengine.errors import ConfigurationError
from madengine.results.compare_options import DirectionOptions, VerdictOptions


@dataclass(frozen=True)
class BisectOptions(DirectionOptions):
    """Between which versions, what decides, and where the state is."""

    good: str = option(
        "--good", default="", group=Group.SELECTION, metavar="VERSION",
        help="a version that is as it should be: a commit, tag or branch of the model's url, or one of --values",
    )  # fmt: skip
    bad: str = option(
        "--bad", default="", group=Group.SELECTION, metavar="VERSION", help="a later version that is worse"
    )
    build_arg: str = option(
        "--build-arg", default="", group=Group.SELECTION, metavar="NAME",
        help="the build argument whose --values are the versions (default: commits of the model's url)",
    )  # fmt: skip
    values: tuple[str, ...] = option(
        "--values", default=(), group=Group.SELECTION, metavar="VALUE", many=True,
        help="values of --build-arg in their order, good and bad among them",
    )  # fmt: skip
    metric: str = option(
        "--metric", default="", group=Group.SELECTION, metavar="METRIC",
        help="the metric that decides (default: the one that is worse by most)",
    )  # fmt: skip
    pairs: int = option(
        "--pairs", default=8, group=Group.RUN, parse=whole_number("pairs", 1, 1000), metavar="N",
        help="runs of good and of a version that are compared first, in pairs (default: 8)",
    )  # fmt: skip
    clean_only: bool = inherited(VerdictOptions, "clean_only", False)
    #: Percent of good's median.
    min_effect: float = inherited(
        VerdictOptions, "min_effect", 2.0, help="bad has to be worse by this much (default: 2)"
    )
    most_pairs: int = option(
        "--most-pairs", default=40, group=Group.RUN, parse=whole_number("pairs", 1, 1000), metavar="N",
        help="runs of good and of a version, in pairs, after which it is skipped if still unclear (default: 40)",
    )  # fmt: skip
    directory: Path = option(
        "--directory", default=Path("bisect"), group=Group.OUTPUT, parse=Path, metavar="DIR",
        help="state, manifests and rows; the same command goes on from there (default: bisect)",
    )  # fmt: skip
    json: bool = option("--json", default=False, group=Group.OUTPUT, help="print the outcome as JSON")

    def __post_init__(self) -> None:
        """Raise ConfigurationError for options that are missing or contradict one another."""
        super().__post_init__()
        if not (self.good and self.bad):
            raise ConfigurationError(
                "bisect: name a version that is as it should be with --good, a worse one with --bad"
            )
        if bool(self.build_arg) != bool(self.values):
            raise ConfigurationError("bisect: --build-arg and --values: expected both, or commits of the model's url")
        for value in (self.good, self.bad) if self.values else ():
            if self.values.count(value) != 1:
                raise ConfigurationError(f"--values: expected {value!r} once among them, got {' '.join(self.values)}")
        if self.values and self.values.index(self.good) >= self.values.index(self.bad):
            raise ConfigurationError(f"--values: expected {self.good} before {self.bad}: from good to bad")
