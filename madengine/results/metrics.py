"""Log lines -> metrics."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path, PurePath

from madengine.errors import RunError
from madengine.files import csv_reader, open_untrusted
from madengine.records import Metric
from madengine.results.numbers import NUMBER, is_number

LINE_LIMIT = 2048  # bytes of one line, after its marker, that are looked at
_SIZE_LIMIT = 256 * 10**6  # bytes of a multiple_results, all of whose rows are held in memory

_VALUE = re.compile(rf"\s*({NUMBER})(?![0-9.])")
# `1,234`, `1 234`, `12 / 100` and `12 - 15` each hold more than one number: none of them is read as the first.
_MORE_DIGITS = re.compile(rf",[0-9]|\s[0-9]{{3}}(?![0-9])|[\s,/-]*{NUMBER}(?![^\s,])")
# A unit may touch its number, but `12k`, `0xFF` and `2nd` are other numbers than 12, 0 and 2.
_UNIT = r"(?!(?i:x|(?:st|nd|rd|th)\b))(?:s|%|[A-Za-z]{2}[A-Za-z_]*)(?:/\S*)?(?![^\s,])"
_NAME = re.compile(rf"(?:\s*,?\s*/[A-Za-z]+(?:\s*,\s*|\s+)|\s*,\s*|\s+|(?=/[A-Za-z])|(?={_UNIT}))(?P<name>[^\s,]+)")
# The error of a measurement, between its value and its unit.
_ERROR = re.compile(rf"\s*\(?\s*(?:±|\+/?-)\s*{NUMBER}(?![0-9.])(?:%(?=\s+[^\s,]))?\s*\)?")
# What makes a value another number, or one of several: `e3`, `x 10^3`, `of 100`, `k tokens/s`, `million`, `– 15`.
_UNCLEAR = re.compile(
    r"\s*(?:[eEdD][+-]?[0-9]+(?!\w)|[xX]\s*[+-]?[0-9]|(?:to|of|out of|or|and|vs\.?)\s+[+-]?\.?[0-9]"
    r"|[0-9.]+[²³¹⁰-⁹]|[kKMGT]\s+[^\W\d]|(?i:thousand|million|billion|trillion)\b|[^\w\s]*[*×·÷^±\ufffd]|[^\w\s,%]+\s*[0-9])"
)
_SAMPLES = re.compile(rf"['\"\s:=]+({NUMBER})(?![\w.%]|,[0-9])")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*[mK]|\x1b\(B")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_QUOTES = "'\"`"
# What may come between a marker and a word before it that it then is a part of: `kv_cache_`, `cache-`, `gpu.`.
_PART_OF_PATH = re.compile(r"\w[-./]?\Z")
_PART_OF_WORD = re.compile(r"\w-?\Z")
_BEFORE = 64  # bytes before a marker that are looked at
# A carriage return overwrites nothing by itself, and neither do colours.
_RETURNS = re.compile(rb"(?:\r|\x1b\[[0-9;:]{0,32}m|\x1b\(B)*")
_BEGINS_COLOUR = re.compile(rb"(?:\x1b(?:\(|\[[0-9;:]{0,32})?)?\Z")


class MetricScan:
    """Finds a model's metric in its log while the log is being written, in a few KB of memory.

    The first valid line `performance: <number> <metric>` counts; where there is none, the first
    `train_samples_per_second` with a number does (metric `samples_per_second`). Both count as words of their own, and
    of a line that is rewritten with carriage returns only its last state counts.
    """

    def __init__(self, after: bytes = b"") -> None:
        """Ignore everything up to a line that ends in `after`, unless that is empty."""
        self._after = after + b"\n" if after else b""
        self._before = b""
        self._performance = _Search(b"performance:", _PART_OF_PATH, _performance)
        self._samples = _Search(b"train_samples_per_second", _PART_OF_WORD, _samples_per_second)
        self._finished = False

    def feed(self, chunk: bytes) -> None:
        """Take the log's next bytes; they may be split anywhere."""
        if self._after:
            text = self._before + chunk
            _, mark, chunk = text.partition(self._after)
            if not mark:
                self._before = text[-len(self._after) :]
                return
            self._after = b""
        if self._performance.metric is None:
            self._performance.feed(chunk)
            self._samples.feed(chunk)

    def finish(self) -> None:
        """Say that the log has ended: its last line may have no newline."""
        self._performance.finish()
        self._samples.finish()
        self._finished = True

    @property
    def metric(self) -> Metric | None:
        """The metric so far; the fallback only after finish()."""
        return self._performance.metric or (self._samples.metric if self._finished else None)

    @property
    def problem(self) -> str:
        """Why there is no metric, in one line; empty where there is one."""
        if self.metric:
            return ""
        if self._performance.refused is None:
            return 'no line "performance: <number> <metric>" in the log'
        return f"performance: '{_offender(self._performance.refused)}' is not a number"


class _Search:
    """Looks for the first line with a marker whose rest `read` accepts."""

    def __init__(self, marker: bytes, part_of: re.Pattern[str], read: Callable[[str], Metric | None]) -> None:
        self.metric: Metric | None = None
        self.refused: str | None = None
        self._marker = marker
        self._part_of = part_of
        self._read = read
        # What is still to be searched, from `_start` on, and a little of what comes before it.
        self._rest = b""
        self._start = 0
        # What follows the markers of a line up to a carriage return, until it is known whether that is overwritten.
        self._state: list[bytes] = []

    def feed(self, chunk: bytes, last: bool = False) -> None:
        if self.metric or (not self._state and self._nothing_new(chunk)):
            return
        buffer = self._rest + chunk
        start: int | None = self._start
        while start is not None and not self.metric:
            start = self._end_state(buffer, start, last) if self._state else self._advance(buffer, start, last)

    def finish(self) -> None:
        self.feed(b"", last=True)
        self._rest = b""

    def _advance(self, buffer: bytes, start: int, last: bool) -> int | None:
        """Take the next marker; return where to search then, None if the log has to grow first."""
        at = buffer.find(self._marker, start)
        if at < 0:
            self._keep(buffer, max(start, len(buffer) - len(self._marker) + 1))
            return None
        after = at + len(self._marker)
        if self._is_part(buffer, at):
            return after
        end = _line_end(buffer, after, last)
        if end is None:
            self._keep(buffer, at)
            return None
        if buffer[end : end + 1] == b"\r":
            self._state = [buffer[place:end] for place in self._places(buffer, at, end)]
            return end
        self._take(buffer[after:end])
        return after

    def _places(self, buffer: bytes, start: int, end: int) -> Iterator[int]:
        """Yield where the markers of a part of the buffer end."""
        while (at := buffer.find(self._marker, start, end)) >= 0:
            start = at + len(self._marker)
            if not self._is_part(buffer, at):
                yield start

    def _end_state(self, buffer: bytes, start: int, last: bool) -> int | None:
        """Take a state of a line unless something overwrites it; return and arguments as of `_advance`."""
        returns = _RETURNS.match(buffer, start)
        end = returns.end() if returns else start
        if not last and _BEGINS_COLOUR.match(buffer, end):
            self._keep(buffer, end)
            return None
        texts, self._state = self._state, []
        if buffer[end : end + 1] in (b"\n", b""):
            for text in texts:
                self._take(text)
        return end

    def _keep(self, buffer: bytes, start: int) -> None:
        self._rest = buffer[max(0, start - _BEFORE) :]
        self._start = min(start, _BEFORE)

    def _is_part(self, buffer: bytes, at: int) -> bool:
        """Return whether the marker there is only a part of a word."""
        before = buffer[max(0, at - _BEFORE) : at].decode("utf-8", "replace")
        return bool(self._part_of.search(_COLOUR.sub("", before)))

    def _nothing_new(self, chunk: bytes) -> bool:
        """Skip a chunk without a marker, and without copying it, which is most of a large log."""
        part = len(self._marker) - 1
        if self._marker in self._rest[self._start :] + chunk[:part] or self._marker in chunk:
            return False
        keep = part + _BEFORE
        self._rest = (self._rest + chunk[-keep:])[-keep:]
        self._start = max(0, len(self._rest) - part)
        return True

    def _take(self, line: bytes) -> None:
        if self.metric:
            return
        text = _plain(line)
        self.metric = self._read(text)
        if self.metric is None:
            self.refused = text


def _line_end(buffer: bytes, start: int, last: bool) -> int | None:
    """Return the end of the line, or of this state of it, that begins at `start`; None while it is missing.

    A line beyond the limit loses its last word, for half a number is another number.
    """
    limit = start + LINE_LIMIT
    end = buffer.find(b"\n", start, limit)
    carriage_return = buffer.find(b"\r", start, limit if end < 0 else end)
    end = end if carriage_return < 0 else carriage_return
    if end >= 0:
        return end
    if len(buffer) >= limit:
        return max(start, buffer.rfind(b" ", start, limit), buffer.rfind(b"\t", start, limit))
    return len(buffer) if last else None


def _plain(line: bytes) -> str:
    """Return the line as text, without colours; other control bytes become blanks, so that they join no digits."""
    text = line.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return _CONTROL.sub(" ", _COLOUR.sub("", text))


def _performance(text: str) -> Metric | None:
    """Return the metric in what follows `performance:` on its line; None if its value is not one number."""
    value = _VALUE.match(text)
    if not value or not is_number(value[1]):
        return None
    rest = text[value.end() :]
    if error := _ERROR.match(rest):
        rest = rest[error.end() :]
    if not rest.strip(_QUOTES + ", \t"):
        return Metric(value[1], "")
    name = None if _MORE_DIGITS.match(rest) or _UNCLEAR.match(rest) else _NAME.match(rest)
    return Metric(value[1], name["name"].strip(_QUOTES)) if name else None


def _samples_per_second(text: str) -> Metric | None:
    value = _SAMPLES.match(text)
    return Metric(value[1], "samples_per_second") if value and is_number(value[1]) else None


def _offender(text: str) -> str:
    """Return the part of a refused line to show: its first word, or more of it if that word alone is a number."""
    words = text.split()
    shown = " ".join(words) if words and is_number(words[0].rstrip(",")) else "".join(words[:1])
    return shown if len(shown) <= 40 else f"{shown[:39]}…"


def read_multiple_results(folder: Path, name: str | PurePath) -> tuple[Metric, ...]:
    """Read a model's multiple_results below its workspace: a CSV whose header has model, performance and metric.

    A row whose performance is not a number keeps its Metric, with performance "".
    Raises RunError (with the file and the column or line) if the file can't be read as that.
    """
    path = folder / name
    try:
        with (
            open_untrusted(folder, name, _SIZE_LIMIT) as file,
            TextIOWrapper(file, "utf-8-sig", newline="") as lines,
        ):
            metrics = tuple(parse_multiple_results(lines, path))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; the script must write it (multiple_results)") from None
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: not a CSV file in UTF-8: {error}; see multiple_results in models.json") from error
    if not metrics:
        raise RunError(f"{path}: no row below its header; the script must write one for each result")
    return metrics


def parse_multiple_results(lines: Iterable[str], path: Path) -> Iterator[Metric]:
    """Yield the metric of each row. Raises RunError, csv.Error, and what the lines raise."""
    reader = csv_reader(lines, skipinitialspace=True)
    header = _header(path, next(reader, []))
    for cells in reader:
        row = [cell.strip() for cell in cells]
        if any(row):
            if any(row[len(header) :]):
                raise RunError(
                    f"{path}: line {reader.line_num}: expected {len(header)} cells, got {len(row)}; "
                    "quote a cell that holds a comma"
                )
            yield _result(dict(zip(header, row + [""] * len(header), strict=False)))


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not any(header):
        raise RunError(f"{path}: empty; the script must write the columns model, performance, metric")
    for column in ("model", "performance", "metric"):
        if header.count(column) != 1:
            problem = "no" if column not in header else "more than one"
            raise RunError(f"{path}: {problem} column '{column}'; its columns are {', '.join(header)}")
    return header


def _result(row: dict[str, str]) -> Metric:
    performance = row["performance"]
    known = ("model", "performance", "metric", "")
    return Metric(
        performance=performance if is_number(performance) else "",
        metric=row["metric"],
        model=row["model"],
        extra={name: cell for name, cell in row.items() if name not in known},
    )
