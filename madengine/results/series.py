"""What is compared: the rows of a base and of a new side, as series of rows that measured the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from madengine.errors import ConfigurationError
from madengine.records import SKIPPED, SUCCESS
from madengine.results.database.connection import is_database_url, read_database
from madengine.results.numbers import is_number
from madengine.results.perf_csv import identity
from madengine.results.results_json import Run
from madengine.results.rows import Row
from madengine.results.scan import ScanResult
from madengine.results.table import printable

#: Rows that agree in these columns measured the same; what else may differ is what is compared.
SERIES_COLUMNS = (
    "model", "variant", "args", "training_precision", "n_gpus", "nnodes", "gpu_architecture", "launcher", "metric",
)  # fmt: skip
_SHOWN_VALUES = 5
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Sides:
    """The rows of both sides, by the order of their start, and what they came from."""

    names: tuple[str, str]
    rows: tuple[Sequence[Row], Sequence[Row]]
    runs: Sequence[Run]
    #: What could not be read, one line each.
    problems: Sequence[str]
    #: The column that tells the sides apart, if one does.
    by: str = ""
    #: Rows of one series agree in these columns.
    columns: Sequence[str] = SERIES_COLUMNS


@dataclass(frozen=True)
class Series:
    """What two sides measured of one thing; `key` has a value for each column that its rows agree in."""

    key: Mapping[str, str]
    base: Sequence[Row]
    new: Sequence[Row]


def is_measured(row: Row) -> bool:
    """Return whether a row is a success with a number."""
    return row.get("status") == SUCCESS and is_number(row.get("performance", ""))


def failure_reason(row: Row) -> str:
    """Return why a row has no number; empty where it has one, or was not meant to."""
    if is_measured(row) or row.get("status") == SKIPPED:
        return ""
    if row.get("status") == SUCCESS:
        return f"performance is not a number: {shorten(row.get('performance', '')) or 'empty'}"
    return row.get("reason") or row.get("status") or "no status"


def suspicions(row: Row) -> list[str]:
    """Return what may have disturbed a run, in the words of a message."""
    return [
        text
        for text, is_so in (
            ("foreign processes", row.get("contaminated") == "true" or _is_positive(row.get("foreign_processes", ""))),
            ("throttled", _is_positive(row.get("throttled_percent", ""))),
            ("packed", row.get("packed") == "true"),
        )
        if is_so
    ]


def disturbances(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows that something may have disturbed, by what it was."""
    reasons: dict[str, list[Row]] = {}
    for row in rows:
        for reason in suspicions(row):
            reasons.setdefault(reason, []).append(row)
    return reasons


def count_runs(rows: Iterable[Row]) -> int:
    """Return how many runs these rows are from; several results of one run are not repeats."""
    return len(
        {(*identity(row), row.get("repeat")) if row.get("run_id") else number for number, row in enumerate(rows)}
    )


def series_of(sides: Sides) -> list[Series]:
    """Return the measured rows of both sides as series, in a fixed order; one side of a series may be empty."""
    columns = [column for column in sides.columns if column != sides.by]
    groups: dict[tuple[str, ...], tuple[list[Row], list[Row]]] = {}
    for number, rows in enumerate(sides.rows):
        for row in filter(is_measured, rows):
            key = tuple(row.get(column, "") for column in columns)
            groups.setdefault(key, ([], []))[number].append(row)
    return [Series(dict(zip(columns, key, strict=True)), *groups[key]) for key in sorted(groups)]


def grouped(rows: Iterable[Row], columns: Sequence[str] = SERIES_COLUMNS) -> dict[tuple[str, ...], list[Row]]:
    """Return the measured rows by what they have in these columns, in a fixed order."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in filter(is_measured, rows):
        groups.setdefault(tuple(row.get(column, "") for column in columns), []).append(row)
    return {key: groups[key] for key in sorted(groups)}


# --- where rows come from ---


class ResultSource(NamedTuple):
    """The rows of some files and folders by the order of their start, and the runs of their results.json."""

    rows: Sequence[Row]
    runs: Sequence[Run]
    #: What could not be read, one line each.
    problems: Sequence[str]


def read_source(names: Sequence[str]) -> ResultSource:
    """Read tables, documents, folders and runs as one. Raises ConfigurationError where there are no rows."""
    scan = _scan(names)
    return ResultSource(_rows(scan), scan.runs, scan.problems)


def read_sides(sources: Sequence[str], by: str = "", values: Sequence[str] = ()) -> Sides:
    """Read two sources; or, with `by`, split the rows of all sources by two values of this column.

    Raises ConfigurationError where a source has no rows, or the column not two values.
    """
    if by:
        scan = _scan(sources)
        rows = _rows(scan)
        names = _two_values(rows, by, values)
        base, new = ([row for row in rows if row.get(by, "") == name] for name in names)
        return Sides(names, (base, new), scan.runs, scan.problems, by)
    scans = [_scan([source]) for source in sources]
    base, new = map(_rows, scans)
    problems = [problem for scan in scans for problem in scan.problems]
    if overlap := _overlap(base, new):
        problems.append(f"{overlap} rows are in both {sources[0]} and {sources[1]}: they say nothing about a change")
    return Sides((sources[0], sources[1]), (base, new), [run for scan in scans for run in scan.runs], problems)


def against_baseline(baseline: str, rows: Iterable[Row], runs: Sequence[Run]) -> Sides:
    """Return the rows of a source as the base, and these rows as what is new.

    Raises ConfigurationError where the source has no rows.
    """
    scan = _scan([baseline])
    base, new = _rows(scan), [_stripped(row) for row in rows]
    problems = list(scan.problems)
    if overlap := _overlap(base, new):
        problems.append(f"{overlap} rows are also in {baseline}: they say nothing about a change")
    return Sides((baseline, "this report"), (base, new), [*scan.runs, *runs], problems)


def _scan(sources: Sequence[str]) -> ScanResult:
    scan = ScanResult()
    for source in sources:
        if is_database_url(source):
            scan.take_runs(*read_database(source))
        else:
            path = _path_of(source)
            (scan.look_in if path.is_dir() else scan.take_file)(path)
    if not scan.rows():
        names = ", ".join(map(shorten, sources))
        raise ConfigurationError(shorten(scan.problems[0]) if scan.problems else f"{names}: no rows of results in it")
    return scan


def _path_of(source: str) -> Path:
    """The file or folder of this name, else the folder of the run with this id."""
    candidates = [Path(source), *(Path(folder, source) for folder in ("runs", "results") if "/" not in source)]
    for path in candidates:
        with suppress(OSError, ValueError):
            path.stat()
            return path
    raise ConfigurationError(
        f"{shorten(source)}: no such file, folder or run id (in runs/ and results/); "
        "expected a perf.csv, a results.json, a folder or a run id"
    )


def _rows(scan: ScanResult) -> list[Row]:
    """The rows with their cells as madengine writes them: older versions have blanks after the commas."""
    return [_stripped(row) for row in scan.rows()]


def _stripped(row: Row) -> dict[str, str]:
    return {name: cell.strip() for name, cell in row.items()}


def _overlap(base: Iterable[Row], new: Iterable[Row]) -> int:
    known = {identity(row) for row in base if row.get("run_id")}
    return sum(identity(row) in known for row in new if row.get("run_id"))


def _two_values(rows: Sequence[Row], column: str, selection: Sequence[str]) -> tuple[str, str]:
    values = list(dict.fromkeys(row.get(column, "") for row in rows if is_measured(row)))
    if values in ([], [""]):
        raise ConfigurationError(f"--by {shorten(column)}: no successful row has a value in this column")
    if selection:
        base, new = (_value_like(values, column, text) for text in selection)
        return base, new
    if len(values) != 2:
        raise ConfigurationError(
            f"--by {shorten(column)}: expected two values, got {_list_of(values)}; choose two with --values"
        )
    # Of two manifests in turn, chance decides which runs first.
    return (values[0], values[1]) if set(values) != {"base", "new"} else ("base", "new")


def _value_like(values: Sequence[str], column: str, text: str) -> str:
    matches = [value for value in values if value == text] or [value for value in values if value.startswith(text)]
    if len(matches) != 1:
        raise ConfigurationError(
            f"--values: {shorten(text)}: expected one value of {shorten(column)}, got {_list_of(matches)}; "
            f"it has {_list_of(values)}"
        )
    return matches[0]


def _list_of(values: Sequence[str]) -> str:
    shown = ", ".join(shorten(short_digest(value)) or "(empty)" for value in values[:_SHOWN_VALUES])
    more = f", … ({len(values)} values)" if len(values) > _SHOWN_VALUES else ""
    return f"{shown}{more}" if values else "none"


def short_digest(text: str) -> str:
    """Return a text with its digests cut to what tells them apart."""
    return re.sub("(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1…", text)


def shorten(text: str) -> str:
    """Return a text of any origin as a part of one line, printable and not too long."""
    return printable(text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…")


def _is_positive(text: str) -> bool:
    return is_number(text) and float(text) > 0
