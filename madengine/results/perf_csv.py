"""A perf.csv: its rows as they are read, which row is which, and what it doesn't have yet."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from madengine.errors import ConfigurationError, MadengineError
from madengine.results.rows import COLUMNS

Row = Mapping[str, str]

# What makes two rows the same measurement: the run, the node, what ran, what was measured; and which attempt it was,
# because nodes that share a name and models that ran twice must not hide one another.
_IDENTITY = ("run_id", "machine_name", "model", "docker_image", "metric", "started", "run_duration", "environment_id")
_NEEDED_COLUMNS = frozenset({"model", "performance", "metric", "status"})
_BLOCK = 4 * 2**20  # bytes


def identity(row: Row) -> tuple[str, ...]:
    """What tells a row from others; a row of an older madengine, without a run id, only all of it."""
    return tuple(row.get(name, "") for name in (_IDENTITY if row.get("run_id") else COLUMNS))


class Table:
    """An open perf.csv: its columns, and the cells of each row as they are read.

    Raises MadengineError, while it is opened or read, where it is no perf.csv or can't be read any further.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Table:
        # A cell may hold a model's arguments or a reason, of any length; the default is 128 KiB.
        csv.field_size_limit(sys.maxsize)
        try:
            self._file = self.path.open(encoding="utf-8-sig", errors="backslashreplace", newline="")
        except OSError as error:
            raise MadengineError(f"{error.filename}: can't be read: {error.strerror}") from None
        self._reader = csv.reader(self._file, strict=True)
        try:
            self.columns = [name.strip() for name in next(iter(self), [])]
            missing = _NEEDED_COLUMNS.difference(self.columns)
            if missing and self.columns:
                raise MadengineError(f"{self.path}: not a perf.csv: it has no column {', '.join(sorted(missing))}")
        except BaseException:
            self._file.close()
            raise
        return self

    def skip_to(self, offset: int) -> None:
        """Go on reading at the row at this offset of the file in bytes; 0 stays at the first."""
        if offset:
            self._file.seek(offset)
            self._reader = csv.reader(self._file, strict=True)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def line(self) -> int:
        return self._reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        try:
            for cells in self._reader:
                if cells:
                    yield cells
        except csv.Error as error:
            raise MadengineError(f"{self.path}:{self.line}: not CSV from here on: {error}") from None
        except OSError as error:
            raise MadengineError(f"{self.path}: can't be read: {error.strerror}") from None


def missing_in(output: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows that a perf.csv doesn't have; it is read once, and taken apart only from where its run ids begin.

    Raises ConfigurationError where it has no run ids, or can't be read to its end.
    """
    if not rows or not output.exists():
        return list(rows)
    try:
        with Table(output) as table:
            if not table.columns:
                return list(rows)
            if "run_id" not in table.columns:
                raise MadengineError(f"{output}: has no column run_id, so nobody knows which results are in it")
            start = _first_of({row.get("run_id", "") for row in rows}, output)
            if start is None:
                return list(rows)
            table.skip_to(start)
            return _without_known(table, rows)
    except MadengineError as error:
        raise ConfigurationError(f"{error}; name another file with --output") from None


def _first_of(run_ids: Iterable[str], path: Path) -> int | None:
    """The offset of a row, 0 if not the first, before which none has one of these run ids; None if none has."""
    if not all(map(re.compile(r"[\w.-]+", re.ASCII).fullmatch, run_ids)):
        return 0
    wanted = [run_id.encode() for run_id in run_ids]
    start = offset = quotes = 0
    with path.open("rb") as file:
        while lines := file.read(_BLOCK) + file.readline():
            if any(run_id in lines for run_id in wanted):
                return start
            offset += len(lines)
            quotes += lines.count(b'"')
            if quotes % 2 == 0:  # else this line's end is inside of a cell
                start = offset
    return None


def _without_known(table: Table, rows: Sequence[Row]) -> list[Row]:
    width, at_run = len(table.columns), table.columns.index("run_id")
    with_id = [name for name in _IDENTITY if name in table.columns]
    without = [name for name in COLUMNS if name in table.columns]
    run_ids = {row.get("run_id", "") for row in rows}
    pick = {name: itemgetter(*map(table.columns.index, names)) for name, names in ((True, with_id), (False, without))}
    known: Counter[tuple[str, ...]] = Counter(
        pick[bool(cells[at_run])](cells) for cells in table if len(cells) == width and cells[at_run] in run_ids
    )
    new = []
    for row in rows:
        key = tuple(row.get(name, "") for name in (with_id if row.get("run_id") else without))
        if known[key]:
            known[key] -= 1
        else:
            new.append(row)
    return new
