"""`compare`: two sides of rows in, a verdict on every series out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from madengine.errors import EXIT_DONE, EXIT_FAILURE, EXIT_WORSE
from madengine.results.compare_options import CompareOptions
from madengine.results.differences import Difference, Environments, differences, environments_of
from madengine.results.directions import Directions
from madengine.results.pairs import pairs_of
from madengine.results.rows import Row
from madengine.results.series import Series, Sides, failure_reason, read_sides, series_of, shorten, suspicions
from madengine.results.verdicts import NOT_ENOUGH, UNCLEAR, WORSE, Judgement, Samples, judge

OneSided = Mapping[tuple[bool, str, str], Sequence[Series]]

#: What is known to differ, by the name of a row's model.
Known = Callable[[str], Sequence[Difference]]

_FAILING = {"worse": {WORSE}, "unclear": {WORSE, UNCLEAR, NOT_ENOUGH}, "never": set[str]()}


class Selection(NamedTuple):
    """The rows of a series that count; in a paired comparison they are row by row."""

    series: Series
    #: Rows of each side that `--clean-only` left out.
    unclean: tuple[int, int]
    #: Rows of each side without a partner in a paired comparison.
    unpaired: tuple[int, int]


@dataclass(frozen=True)
class ComparedSeries:
    """One series, the verdict on it, and what to know beside the verdict."""

    series: Series
    unclean: tuple[int, int]
    unpaired: tuple[int, int]
    judgement: Judgement
    is_lower_better: bool
    differences: Sequence[Difference]
    #: Where the series is on one side only: what the most similar one of the other side has instead.
    nearest: Sequence[Difference]

    @property
    def is_on_both_sides(self) -> bool:
        return bool(self.series.base and self.series.new)

    @property
    def is_only_new(self) -> bool:
        """Whether there never was anything that the new values could be worse than."""
        return not (self.series.base or self.unclean[0] or self.unpaired[0])


@dataclass(frozen=True)
class Failures:
    """Rows of one model that have no number, for one reason."""

    side: str
    model: str
    reason: str
    n: int


@dataclass(frozen=True)
class Comparison:
    """All series of two sides, judged together."""

    sides: Sides
    options: CompareOptions
    series: Sequence[ComparedSeries]
    failures: Sequence[Failures]
    #: What could not be read, and what was ignored; one line each.
    problems: Sequence[str]

    @property
    def tests(self) -> int:
        """The number of series that Holm's adjustment counts."""
        return sum(one.judgement.p_holm is not None for one in self.series)

    def exit_code(self) -> int:
        """Return 5 where something got worse, 1 where nothing was compared or something could not be read."""
        verdicts = {one.judgement.verdict for one in self.series if not one.is_only_new}
        if verdicts & _FAILING[self.options.fail_on]:
            return EXIT_WORSE
        is_compared = any(one.is_on_both_sides for one in self.series)
        return EXIT_DONE if is_compared and not self.sides.problems else EXIT_FAILURE


def no_differences(model: str) -> Sequence[Difference]:
    """Return none, for any model."""
    return ()


def compare_results(options: CompareOptions) -> Comparison:
    """Compare two sources, or two values of a column.

    Raises ConfigurationError where a source can't be read, or options contradict what is in them.
    """
    return compare_sides(read_sides(options.sources, options.by, options.values), options)


def compare_sides(sides: Sides, options: CompareOptions, known: Known = no_differences) -> Comparison:
    """Compare the rows of two sides; `known` returns what is known to differ for a model, beside what rows tell."""
    directions = Directions(options, sides.runs)
    selections = [_select(series, options) for series in series_of(sides)]
    every = [selection.series for selection in selections]
    samples = [_samples(series, directions, options.paired) for series in every]
    judgements = judge(samples, options.min_effect)
    environments, one_sided = environments_of(sides.runs), _one_sided(every)
    compared = [
        ComparedSeries(
            *selection,
            judgement=judgement,
            is_lower_better=sample.is_lower_better,
            differences=_differences(selection.series, environments, sides, known),
            nearest=_nearest(selection.series, one_sided),
        )
        for selection, sample, judgement in zip(selections, samples, judgements, strict=True)
    ]
    unused = directions.unused(metric_of(series) for series in every)
    ignored = [f"{shorten(metric)}: ignored: no series has this metric" for metric in unused]
    if not any(one.is_on_both_sides for one in compared):
        ignored.append("compare: no series has results on both sides")
    return Comparison(sides, options, compared, _failures(sides), [*sides.problems, *directions.problems, *ignored])


def _select(series: Series, options: CompareOptions) -> Selection:
    """Leave out the rows that don't count by the options; what is left of a paired series is in pairs."""
    unclean = unpaired = (0, 0)
    if options.clean_only:
        clean = replace(series, base=_clean(series.base), new=_clean(series.new))
        unclean, series = _fewer(series, clean), clean
    if options.paired and series.base and series.new:
        pairs = pairs_of(series.base, series.new)
        paired = replace(series, base=[before for before, _ in pairs], new=[after for _, after in pairs])
        unpaired, series = _fewer(series, paired), paired
    return Selection(series, unclean, unpaired)


def _clean(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not suspicions(row)]


def _fewer(all_rows: Series, rows: Series) -> tuple[int, int]:
    return len(all_rows.base) - len(rows.base), len(all_rows.new) - len(rows.new)


def _samples(series: Series, directions: Directions, is_paired: bool) -> Samples:
    return Samples(
        base=tuple(float(row["performance"]) for row in series.base),
        new=tuple(float(row["performance"]) for row in series.new),
        is_lower_better=directions.is_lower_better(_value_of(series, "model"), metric_of(series)),
        is_paired=is_paired and bool(series.base and series.new),
    )


def _differences(series: Series, environments: Environments, sides: Sides, known: Known) -> Sequence[Difference]:
    if not (series.base and series.new):
        return ()
    in_rows = differences(series.base, series.new, environments, {*sides.columns, sides.by})
    names = {one.column for one in in_rows}
    return [*in_rows, *(one for one in known(_value_of(series, "model")) if one.column not in names)]


def _one_sided(every: Sequence[Series]) -> OneSided:
    """The series that are on one side only, by the side, model and metric."""
    groups: dict[tuple[bool, str, str], list[Series]] = defaultdict(list)
    for series in every:
        if not (series.base and series.new):
            groups[bool(series.base), _value_of(series, "model"), metric_of(series)].append(series)
    return groups


def _nearest(series: Series, one_sided: OneSided) -> Sequence[Difference]:
    """Where this series is on one side only: its differences from the most similar one that is on the other only."""
    if series.base and series.new:
        return ()
    others = one_sided.get((not series.base, _value_of(series, "model"), metric_of(series)), ())
    return min((_key_differences(series, other) for other in others), key=len, default=())


def _key_differences(series: Series, other: Series) -> Sequence[Difference]:
    """The columns that make two series out of rows of one side each."""
    base, new = (series, other) if series.base else (other, series)
    return [
        Difference(column, (value,), (new.key[column],))
        for column, value in base.key.items()
        if value != new.key[column]
    ]


def _value_of(series: Series, column: str) -> str:
    """The value of a column in the key, or of the first row where the column is what is compared."""
    rows = [*series.base, *series.new]
    return series.key[column] if column in series.key else (rows[0].get(column, "") if rows else "")


def metric_of(series: Series) -> str:
    """Return the metric of a series."""
    return _value_of(series, "metric")


def _failures(sides: Sides) -> list[Failures]:
    counts = Counter(
        (side, row.get("model", ""), reason)
        for side, rows in zip(("base", "new"), sides.rows, strict=True)
        for row in rows
        if (reason := failure_reason(row))
    )
    return [Failures(*key, n) for key, n in sorted(counts.items())]
