"""perf.csv: rows are appended under a lock, and read back; which rows it has already."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path

from madengine.errors import ConfigurationError, MadengineError
from madengine.files import csv_reader, csv_rows, sync, write_whole
from madengine.files.locks import locked
from madengine.records import SUCCESS
from madengine.results.rows import COLUMNS, Row, columns_for

# What makes two rows the same measurement: the run, the node, what ran, what was measured; and which attempt it was,
# because nodes that share a name and models that ran twice must not hide one another.
_IDENTITY = ("run_id", "machine_name", "model", "docker_image", "metric", "started", "run_duration", "environment_id")
_NEEDED_COLUMNS = frozenset({"model", "performance", "metric", "status"})
_HEADER_LIMIT = 64 * 1024  # bytes
_BLOCK = 4 * 2**20  # bytes
_TAIL = 4096  # bytes


# --- appending ---


def check_perf_csv(path: Path) -> None:
    """Do, before anything runs, all that appending to a perf.csv needs but the rows; a missing directory is made.

    Raises ConfigurationError if the file has an unknown header or can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not os.path.lexists(path)
        if not is_new and path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        with locked(path) as handle:
            _columns(path, handle)
            sync(handle)
            if is_new and os.fstat(handle).st_size == 0:
                path.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: can't be written: {error.strerror or error}; name another file with --output"
        ) from error


def append_rows(path: Path, rows: Iterable[Row], may_widen: bool = False) -> bool:
    """Append rows to a perf.csv, all of them or none, under its lock; return whether they are the first in it.

    A new file gets a header with the further columns of the rows. An existing file's own columns decide, by name,
    which cells are written, unless it `may_widen`: then it gets the columns that it lacks. Of a file of any length only
    the header and the end are read, unless that was cut off: an open cell is closed, so that the rows are seen.

    Raises ConfigurationError if its header is unknown, MadengineError if it can't be written; both
    leave it as it was.
    """
    pending = list(rows)
    if not pending:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if may_widen:
            _widen(path, pending)
        with locked(path) as handle:
            is_new = os.fstat(handle).st_size == 0
            columns = columns_for(pending) if is_new else _columns(path, handle)
            lines = [_line([row.get(column, "") for column in columns]) for row in pending]
            # Names may hold characters that UTF-8 can't; they must not make the file unreadable or lose the row.
            _write(handle, (_opening(handle, columns) + "".join(lines)).encode("utf-8", "backslashreplace"))
            return is_new
    except OSError as error:
        raise MadengineError(
            f"{path}: can't be written: {error.strerror or error}; free some space or name another file with --output"
        ) from error


def _widen(path: Path, rows: Sequence[Row]) -> None:
    """Give a perf.csv the columns that it lacks for these rows; the file is replaced as a whole."""
    with locked(path) as handle:
        columns = _columns(path, handle)
        wider = columns_for(rows, columns)
        if os.fstat(handle).st_size == 0 or len(wider) == len(columns) or path.is_symlink():
            return
        try:
            with open(os.dup(handle), encoding="utf-8", newline="") as file:
                file.seek(0)
                table = list(csv_reader(file))
        except (csv.Error, UnicodeDecodeError):
            return  # a row is cut off, and what is wrong with it stays to be seen
        more = [""] * (len(wider) - len(columns))
        lines = [_line(cells + more if len(cells) == len(columns) else cells) for cells in table[1:] if cells]
        write_whole(path, "".join([_line(wider), *lines]))


def _columns(path: Path, handle: int) -> Sequence[str]:
    """Return the columns of an open perf.csv, COLUMNS if it is empty. Raises ConfigurationError for another header."""
    if os.fstat(handle).st_size == 0:
        return COLUMNS
    line = os.pread(handle, _HEADER_LIMIT, 0).partition(b"\n")[0]
    columns = _cells(line) if len(line) < _HEADER_LIMIT else []
    if not _NEEDED_COLUMNS.issubset(columns):
        missing = ", ".join(sorted(_NEEDED_COLUMNS.difference(columns)))
        raise ConfigurationError(
            f"{path}: not a perf.csv: its first line has no column {missing}; name another file with --output"
        )
    return columns


def _cells(header: bytes) -> list[str]:
    """Return a header's names, none if it is not CSV in UTF-8. Older madengine writes blanks after the commas."""
    try:
        cells = next(csv_reader([header.decode("utf-8-sig")], strict=False, skipinitialspace=True), [])
    except (UnicodeDecodeError, csv.Error):
        return []
    return [cell.strip() for cell in cells]


def _opening(handle: int, columns: Sequence[str]) -> str:
    """Return what comes before the rows: the header of an empty file, or what the last row lacks if it was cut off."""
    size = os.fstat(handle).st_size
    if size == 0:
        return _line(columns)
    if not _ends_with_whole_rows(handle, size, len(columns)) and _ends_inside_a_cell(handle):
        return '"\n'
    return "" if os.pread(handle, 1, size - 1) == b"\n" else "\n"


def _ends_with_whole_rows(handle: int, size: int, width: int) -> bool:
    """Return whether the end of a file has no quotes, or reads as rows of `width` cells."""
    start = max(0, size - _HEADER_LIMIT)
    tail = os.pread(handle, size - start, start)
    if b'"' not in tail:
        return True
    _, newline, tail = tail[-_TAIL:].partition(b"\n")
    try:
        rows = list(csv_reader(io.StringIO(tail.decode("utf-8", "replace"), newline="")))
    except csv.Error:
        return False
    return bool(newline and rows) and all(len(cells) == width for cells in rows)


def _ends_inside_a_cell(handle: int) -> bool:
    """Return whether a row that is appended would be a part of the last cell, whose quotes are open."""
    with open(os.dup(handle), encoding="utf-8", errors="replace", newline="") as file:
        file.seek(0)
        try:
            for _ in csv_reader(file):
                pass
        except csv.Error as error:
            return "end of data" in str(error)
    return False


def _line(cells: Sequence[str]) -> str:
    # The writer quotes only line breaks that are in its own terminator, so that one has both kinds.
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2] + "\n"


def _write(handle: int, content: bytes) -> None:
    """Append all of the content, or leave the file as it was."""
    size = os.fstat(handle).st_size
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
        sync(handle)
    except BaseException:
        os.ftruncate(handle, size)
        raise


# --- reading ---


class Table:
    """An open perf.csv: its columns, and the cells of each row as they are read.

    Raises MadengineError, when it is opened or read, if it is not a perf.csv or can't be read any further.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Table:
        try:
            self._file = self.path.open(encoding="utf-8-sig", errors="backslashreplace", newline="")
        except OSError as error:
            raise MadengineError(f"{error.filename}: can't be read: {error.strerror}") from None
        self._reader = csv_reader(self._file)
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
        """Continue with the row at this offset of the file in bytes; 0 stays at the first."""
        if offset:
            self._file.seek(offset)
            self._reader = csv_reader(self._file)

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


def succeeded_models(path: Path) -> set[str]:
    """Return the digests of the images that have a run in a perf.csv of which every row is a success.

    An image carries its model and arguments, so its digest says what ran. A missing file has none.
    Raises ConfigurationError if the file can't be read.
    """
    outcomes: dict[tuple[str, str], set[str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv_rows(file):
                key = (row.get("image_digest") or "", row.get("run_id") or "")
                outcomes.setdefault(key, set()).add(row.get("status") or "")
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path}: can't be read as a perf.csv: {error}") from error
    return {digest for (digest, _), statuses in outcomes.items() if digest and statuses == {SUCCESS}}


# --- which rows it has ---


def identity(row: Row) -> tuple[str, ...]:
    """Return what distinguishes a row from others; for a row of an older madengine, without a run id, all of it."""
    return tuple(row.get(name, "") for name in (_IDENTITY if row.get("run_id") else COLUMNS))


def missing_in(output: Path, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a perf.csv lacks; it is read once, and parsed only from where their run ids begin.

    Raises ConfigurationError if it has no run ids, or can't be read to its end.
    """
    if not rows or not output.exists():
        return list(rows)
    try:
        with Table(output) as table:
            if not table.columns:
                return list(rows)
            if "run_id" not in table.columns:
                raise MadengineError(f"{output}: has no column run_id, so its results can't be identified")
            start = _offset_of_first({row.get("run_id", "") for row in rows}, output)
            if start is None:
                return list(rows)
            table.skip_to(start)
            return _without_known(table, rows)
    except MadengineError as error:
        raise ConfigurationError(f"{error}; name another file with --output") from None


def _offset_of_first(run_ids: Iterable[str], path: Path) -> int | None:
    """Return the offset of a row before which none has one of these run ids, 0 for the first; None if none has."""
    if not all(map(re.compile(r"[\w.-]+", re.ASCII).fullmatch, run_ids)):
        return 0
    patterns = [run_id.encode() for run_id in run_ids]
    start = offset = quotes = 0
    with path.open("rb") as file:
        while lines := file.read(_BLOCK) + file.readline():
            if any(pattern in lines for pattern in patterns):
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
