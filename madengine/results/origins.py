"""From a row back to the result that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from madengine.errors import MadengineError
from madengine.records import Metric, RunResult
from madengine.results.perf_csv import identity
from madengine.results.results_json import Run, result_of
from madengine.results.rows import Row, metric_outcomes, result_rows

Place = TypeVar("Place")


class Origin(NamedTuple, Generic[Place]):
    """What a row was made of."""

    result: RunResult
    metric: Metric
    run: Run
    #: the result as it is in results.json
    entry: Mapping[str, Any]
    #: what the caller knows of the results.json
    place: Place


def origins_of(runs: Iterable[tuple[Run, Place]]) -> Iterator[tuple[tuple[str, ...], Origin[Place]]]:
    """Yield the identity of each row of these runs with its origin; a result that is broken has none."""
    for run, place in runs:
        for entry in run["results"]:
            try:
                result = result_of(entry)
                rows = [as_written(row) for row in result_rows(result, {})]
            # What a node has written may be anything.
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MadengineError):
                continue
            yield from origins_of_result(result, rows, run, entry, place)


def origins_of_result(
    result: RunResult, rows: Sequence[Row], run: Run, entry: Mapping[str, Any], place: Place
) -> Iterator[tuple[tuple[str, ...], Origin[Place]]]:
    """Yield the identity of each of a result's rows with its origin."""
    for row, (metric, _, _) in zip(rows, metric_outcomes(result), strict=True):
        yield identity(row), Origin(result, metric, run, entry, place)


def as_written(row: Row) -> Row:
    """Return a row as it is read back from a perf.csv."""
    return {name: cell.encode("utf-8", "backslashreplace").decode() for name, cell in row.items() if cell}
