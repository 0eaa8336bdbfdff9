"""`history`: rows in, each series over time out, with its change points and the noise of each host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from madengine.errors import ConfigurationError
from madengine.programs import git
from madengine.results.change_points import INSTALL, ChangePoint, Detector, OtavaDetector
from madengine.results.differences import Difference, Environments, differences, environments_of
from madengine.results.directions import Directions
from madengine.results.history_options import HistoryOptions
from madengine.results.noise import HostNoise, noise_of_hosts
from madengine.results.rows import Row
from madengine.results.series import SERIES_COLUMNS, grouped, read_source, shorten, suspicions
from madengine.results.verdicts import BETTER, WORSE

_SHORTEST_COMMIT = 7


@dataclass(frozen=True)
class Change:
    """A change point, with what was on both sides of it."""

    point: ChangePoint
    verdict: str
    #: Of the values between this change and the one before and after it.
    median: tuple[float, float]
    n: tuple[int, int]
    #: The last run before and the first run after it.
    before: Row
    after: Row
    differences: Sequence[Difference]


@dataclass(frozen=True)
class SeriesHistory:
    """One series in its order."""

    key: Mapping[str, str]
    rows: Sequence[Row]
    is_lower_better: bool
    changes: Sequence[Change]
    noise: Sequence[HostNoise]


@dataclass(frozen=True)
class History:
    """All series of some results."""

    options: HistoryOptions
    series: Sequence[SeriesHistory]
    #: What found the change points; empty where nothing could.
    detector: str
    #: One line each.
    problems: Sequence[str]


def history_of(options: HistoryOptions) -> History:
    """Return the history of the results that the options name.

    Raises ConfigurationError where there are none, or none that they select.
    """
    source = read_source(options.sources)
    detector, problem = _detector()
    rows, problems = _selected(source.rows, options)
    directions, environments = Directions(options, source.runs), environments_of(source.runs)
    columns = (*SERIES_COLUMNS, *(["machine_name"] if options.per_host else []))
    series = []
    for values, of_series in grouped(rows, columns).items():
        key = dict(zip(columns, values, strict=True))
        is_lower = directions.is_lower_better(key["model"], key["metric"])
        changes, noise = _analysed(of_series, detector, options.min_effect, environments, is_lower)
        series.append(SeriesHistory(key, of_series, is_lower, changes, noise))
    if not series:
        raise ConfigurationError("history: no successful row with a number is selected")
    unused = [f"{shorten(metric)}: ignored: no series has this metric" for metric in _unused(directions, series)]
    every = [*source.problems, *directions.problems, *problems, *unused, *([problem] if problem else [])]
    return History(options, series, detector.name if detector else "", every)


def _detector() -> tuple[OtavaDetector | None, str]:
    """Return what finds change points, or why nothing does."""
    try:
        return OtavaDetector(), ""
    except ImportError as error:
        missing = f" ({error})" if error.name != "otava" else ""
        return None, f"no change points: Apache Otava is not installed{missing}; `{INSTALL}`"


def _unused(directions: Directions, series: Sequence[SeriesHistory]) -> list[str]:
    return directions.unused(one.key["metric"] for one in series)


def _analysed(
    rows: Sequence[Row], detector: Detector | None, min_effect: float, environments: Environments, is_lower: bool
) -> tuple[list[Change], list[HostNoise]]:
    """Return the changes of a series, and the noise of its hosts."""
    values = [float(row["performance"]) for row in rows]
    points = detector(values, min_effect) if detector else []
    ends = [0, *(point.index for point in points), len(rows)]
    stretches = [number for number, (start, end) in enumerate(pairwise(ends)) for _ in range(start, end)]
    changes = [
        _change(point, rows, (values[start : point.index], values[point.index : end]), environments, is_lower)
        for point, start, end in zip(points, ends, ends[2:], strict=False)
    ]
    return changes, noise_of_hosts(rows, stretches if detector else None)


def _change(
    point: ChangePoint,
    rows: Sequence[Row],
    values: tuple[Sequence[float], Sequence[float]],
    environments: Environments,
    is_lower: bool,
) -> Change:
    before, after = rows[point.index - 1], rows[point.index]
    medians = median(values[0]), median(values[1])
    return Change(
        point=point,
        verdict=WORSE if (medians[1] > medians[0]) == is_lower else BETTER,
        median=medians,
        n=(len(values[0]), len(values[1])),
        before=before,
        after=after,
        differences=differences([before], [after], environments),
    )


# --- which rows, in which order ---


def _selected(rows: Sequence[Row], options: HistoryOptions) -> tuple[list[Row], list[str]]:
    """Return the rows that the options select, in their order; and what is left out, in lines."""
    unknown = sorted(set(options.models).difference(row.get("model", "") for row in rows))
    if unknown:
        raise ConfigurationError(f"--models: no row of {', '.join(map(shorten, unknown))}")
    chosen = [row for row in rows if not options.models or row.get("model", "") in options.models]
    problems = []
    if options.clean_only:
        clean = [row for row in chosen if not suspicions(row)]
        if len(clean) < len(chosen):
            problems.append(f"left out: {len(chosen) - len(clean)} disturbed runs")
        chosen = clean
    if options.commit_order:
        ordered = _by_commit(chosen, options.commit_order)
        if len(ordered) < len(chosen):
            problems.append(
                f"left out: {len(chosen) - len(ordered)} runs whose git_commit is not in {options.commit_order}"
            )
        chosen = ordered
    return chosen, problems


def _by_commit(rows: Sequence[Row], repository: Path) -> list[Row]:
    """Return the rows of a repository's commits in their order, those of one commit by their start."""
    commits = git.commits(repository)
    places = {commit: place for place, commit in enumerate(commits)}
    placed = [(place, row) for row in rows if (place := _place(row.get("git_commit", ""), places)) is not None]
    return [row for _, row in sorted(placed, key=lambda pair: pair[0])]


def _place(commit: str, places: Mapping[str, int]) -> int | None:
    """Return where a commit is; also one that is abbreviated, if it can mean only one."""
    if commit in places or len(commit) < _SHORTEST_COMMIT:
        return places.get(commit)
    matches = [place for name, place in places.items() if name.startswith(commit)]
    return matches[0] if len(matches) == 1 else None
