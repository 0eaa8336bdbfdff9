"""The results of many runs and hosts -> one perf.csv, one results.json, and tables of model × host."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from madengine import __version__, cards, results
from madengine.errors import ConfigurationError, MadengineError
from madengine.files import check_writable, locked, read_json, write_json
from madengine.manifest import Manifest
from madengine.performance import is_number
from madengine.records import FAILURE, SUCCESS, Gpu, GpuCost, Image, Metric, Model, RunResult

Row = Mapping[str, str]
Run = Mapping[str, Any]
_Record = TypeVar("_Record")

# What makes two rows the same measurement: the run, the node, what ran, what was measured; and which attempt it was,
# because nodes that share a name and models that ran twice must not hide one another.
_IDENTITY = ("run_id", "machine_name", "model", "docker_image", "metric", "started", "run_duration", "environment_id")
_NEEDED_COLUMNS = frozenset({"model", "performance", "metric", "status"})

# A metric is better when it is lower if its name, without what it is divided by, has one of these words.
_LOWER_IS_BETTER = frozenset(
    (
        "duration", "elapsed", "itl", "latency", "loss", "microseconds", "milliseconds", "ms", "ns", "runtime", "s",
        "sec", "second", "seconds", "secs", "time", "tpot", "ttft", "us", "walltime",
    )
)  # fmt: skip
_PER = re.compile(r"/|(?<![a-z])per(?![a-z])")
_REASON_WIDTH = 100
_BLOCK = 4 * 2**20  # bytes


@dataclass(frozen=True)
class Merged:
    """What a merge found.

    `rows` are all rows of the folders, `added` counts those that perf.csv didn't have, `problems` holds one line for
    each thing that could not be read.
    """

    rows: tuple[Row, ...]
    added: int
    problems: tuple[str, ...]


def merge(folders: Iterable[Path], output: Path, results_output: Path | None = None) -> Merged:
    """Append to the perf.csv `output` what these folders hold and it doesn't, every result once.

    Looks for results.json and perf.csv files at any depth; `results_output`, where given, gets the runs in the same
    way. What can't be read costs only itself and is a problem of the outcome. Doing it again changes nothing; two
    at once take turns.

    Raises ConfigurationError where `output` or `results_output` can't be added to, before anything is written,
    and MadengineError where one can't be written.
    """
    results.check(output)
    if results_output:
        check_writable(results_output)
    with _alone(output):
        known = _known_runs(results_output)
        found = _Found()
        for folder in folders:
            found.look_in(folder)
        rows = found.rows()
        new = _missing_in(output, rows)
        results.append(output, new)
        _add_runs(results_output, known, found.runs)
    return Merged(tuple(rows), len(new), tuple(found.problems))


def failed_rows(manifest: Manifest, run_id: str, host: str, reason: str) -> list[dict[str, str]]:
    """The perf.csv rows of a host on which nothing could be run: one FAILURE for each model of the manifest.

    They don't say when, so that a failure which is told twice is one row.
    """
    images: list[tuple[Model, list[Image]]] = []
    for image in manifest.images:
        model = manifest.models.get(image.key) or Model(name=image.key, dockerfile=image.dockerfile, scripts="")
        same = next((others for other, others in images if other == model), None)
        if same is None:
            images.append((model, [image]))
        else:
            same.append(image)
    return [row for model, its in images for row in results.rows(_not_run(model, its, run_id, host, reason))]


def note_failure(folder: Path, manifest: Manifest, run_id: str, host: str, reason: str) -> None:
    """Add to the perf.csv of a host's folder a FAILURE for every model of which it has no row of this run.

    Raises MadengineError where it can't be read or written.
    """
    table = folder / "perf.csv"
    found: list[Row] = []
    if table.exists():
        with _Table(table) as cells:
            found = [dict(zip(cells.columns, row, strict=False)) for row in cells]
    mine = [row for row in found if row.get("run_id") == run_id]
    names, digests = ({row.get(column, "") for row in mine} for column in ("model", "image_digest"))
    # A row of several results has a longer name than its model; then it has the digest of what ran.
    ran = {model.name for key, model in manifest.models.items() if model.name in names} | {
        manifest.models[image.key].name
        for image in manifest.images
        if image.key in manifest.models and (image.registry_digest or image.image_id) in digests - {""}
    }
    results.append(table, [row for row in failed_rows(manifest, run_id, host, reason) if row["model"] not in ran])


def _not_run(model: Model, images: Sequence[Image], run_id: str, host: str, reason: str) -> RunResult:
    return RunResult(
        run_id=run_id,
        model=model,
        # Which of several it would have been depends on the host's GPUs, and nobody could ask for them.
        image=images[0] if len(images) == 1 else None,
        status=FAILURE,
        reason=reason or "nothing ran on this host",
        machine_name=host,
        n_gpus=model.n_gpus,
    )


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """One at a time sees what a perf.csv lacks and appends it; the file's own lock is for the append alone."""
    lock = output.with_name(f".{output.name}.collecting")
    with locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


# --- what the folders hold ---


@dataclass
class _Found:
    """The rows and runs that were found, and what could not be read."""

    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _seen: dict[Path, bool] = field(default_factory=dict)
    _best: dict[tuple[str, ...], tuple[bool, list[Row]]] = field(default_factory=dict)

    def look_in(self, folder: Path) -> None:
        """Take in the results.json and perf.csv files at and below a folder."""
        problems = len(self.problems)
        if not folder.is_dir():
            self.problems.append(f"{folder}: no such folder")
            return
        taken = []
        for place, below, names in os.walk(folder, onerror=lambda error: self.problems.append(_told(error))):
            below.sort()
            if "results.json" in names:
                taken.append(self._once(Path(place, "results.json"), self._take_results))
                if taken[-1] and Path(place).parent.name == "runs":
                    below.clear()  # what models leave, under any name
            if "perf.csv" in names:
                taken.append(self._once(Path(place, "perf.csv"), self._take_table))
        if not any(taken) and problems == len(self.problems):
            self.problems.append(f"{folder}: no results here: no results.json of a run and no perf.csv")

    def _once(self, path: Path, take: Callable[[Path], bool]) -> bool:
        """Whether there are results in a file; one that was given twice is read once."""
        real = path.resolve()
        if real not in self._seen:
            self._seen[real] = False
            try:
                self._seen[real] = take(path)
            except MadengineError as error:
                self.problems.append(str(error))
        return self._seen[real]

    def _take_results(self, path: Path) -> bool:
        runs = [_with_host(run, path) for run in _runs_in(path)]
        rows: list[Row] = []
        for run in runs:
            for number, entry in enumerate(run["results"]):
                try:
                    rows += (_as_written(row) for row in results.rows(_result(entry), {}))
                # A file of anybody's making may have anything in any place.
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MadengineError) as error:
                    self.problems.append(f"{path}: results.{number} of run {run['run_id']} is broken: {error}")
        self.runs += runs
        self._take(rows, is_table=False)
        return bool(runs)

    def _take_table(self, path: Path) -> bool:
        rows: list[Row] = []
        try:
            with _Table(path) as table:
                for cells in table:
                    if len(cells) == len(table.columns):
                        named = zip(table.columns, cells, strict=True)
                        rows.append({name: sys.intern(cell) for name, cell in named if cell})
                    else:
                        cut = f"{len(cells)} cells where the header has {len(table.columns)}"
                        self.problems.append(f"{path}:{table.line}: left out: {cut}")
        finally:
            self._take(rows, is_table=True)
        return True

    def _take(self, rows: Iterable[Row], is_table: bool) -> None:
        """Of the copies of a row keep the fullest; a perf.csv also says what the environment of the run said."""
        groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        for row in rows:
            groups[_key(row)].append(row)
        for key, group in groups.items():
            self._best[key] = max(self._best.get(key, (False, [])), (is_table, group), key=_fullness)

    def rows(self) -> list[Row]:
        """Every row once, in an order that does not depend on where they were found."""
        rows = (row for _, group in self._best.values() for row in group)
        return sorted(rows, key=lambda row: (row.get("started", ""), _key(row), sorted(row.items())))


def _key(row: Row) -> tuple[str, ...]:
    """What tells a row from others; a row of an older madengine, without a run id, only all of it."""
    return tuple(row.get(name, "") for name in (_IDENTITY if row.get("run_id") else results.COLUMNS))


def _fullness(copy: tuple[bool, list[Row]]) -> tuple[int, bool, int, list[list[tuple[str, str]]]]:
    is_table, rows = copy
    return len(rows), is_table, sum(map(len, rows)), [sorted(row.items()) for row in rows]


def _as_written(row: Row) -> Row:
    """A row as a perf.csv gives it back."""
    return {name: cell.encode("utf-8", "backslashreplace").decode() for name, cell in row.items() if cell}


def _told(error: OSError) -> str:
    return f"{error.filename}: can't be read: {error.strerror}"


class _Table:
    """An open perf.csv: its columns, and the cells of each row as they are read.

    Raises MadengineError, while it is opened or read, where it is no perf.csv or can't be read any further.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Table:
        # A cell may hold a model's arguments or a reason, of any length; the default is 128 KiB.
        csv.field_size_limit(sys.maxsize)
        try:
            self._file = self.path.open(encoding="utf-8-sig", errors="backslashreplace", newline="")
        except OSError as error:
            raise MadengineError(_told(error)) from None
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


# --- results.json ---


def _runs_in(path: Path) -> list[Run]:
    """The runs of a results.json, of one run or of many; none where it is another program's file.

    Raises MadengineError where it is broken or of a later madengine.
    """
    found = read_json(path, MadengineError)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(version, int):
        return []
    if version != results.SCHEMA_VERSION:
        raise MadengineError(
            f"{path}: schema_version {version} is not of madengine {__version__}, which reads "
            f"{results.SCHEMA_VERSION}; update madengine here"
        )
    runs = found.get("runs", [found])
    if not isinstance(runs, list) or not all(map(_is_run, runs)):
        raise MadengineError(f"{path}: not the results of a run: run_id, environment or results is missing or broken")
    return runs


def _is_run(value: Any) -> bool:
    kinds = {"run_id": str, "environment": dict, "results": list}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def _with_host(run: Run, path: Path) -> Run:
    """The run with the name that the controller has for its host, from a path like `<run id>/<host>/…`."""
    parts = path.absolute().parts
    after = (parts[at + 1] for at, part in enumerate(parts[:-2]) if part == run["run_id"])
    host = next(after, run.get("host", ""))
    return run if host in ("", run["environment"].get("machine_name")) else {**run, "host": host}


def _model(card: Mapping[str, Any]) -> Model:
    """The card of a result; of a model that could not be built it may name no Dockerfile and no script."""
    filled = {name: "unknown" for name in ("dockerfile", "scripts") if card.get(name) == ""}
    model = cards.model({**card, **filled}, "model")
    return replace(model, dockerfile="" if "dockerfile" in filled else model.dockerfile)


def _result(entry: Mapping[str, Any]) -> RunResult:
    """The RunResult that an entry of results.json was made of, as far as its rows need it."""
    given = {
        **entry,
        "model": _model(entry["model"]),
        "image": _record(Image, entry["image"]) if entry.get("image") else None,
        "metrics": tuple(_record(Metric, metric) for metric in entry["metrics"]),
        "gpus": tuple(_record(Gpu, gpu) for gpu in entry.get("gpus", ())),
        "cost": _record(GpuCost, entry["cost"]) if entry.get("cost") else None,
    }
    return _record(RunResult, given)


def _record(kind: Callable[..., _Record], given: Mapping[str, Any]) -> _Record:
    """A record of what it knows of the given fields; a newer madengine may have written more."""
    names = (one.name for one in fields(kind))  # type: ignore[arg-type]
    return kind(**{name: given[name] for name in names if name in given})


def _known_runs(path: Path | None) -> list[Run]:
    """The runs that a merged results.json already has. Raises ConfigurationError where it is something else."""
    if path is None or not os.path.lexists(path):
        return []
    try:
        runs = _runs_in(path)
    except MadengineError as error:
        raise ConfigurationError(f"{error}; or name another file with --results") from None
    if "runs" not in read_json(path):
        raise ConfigurationError(f"{path}: is not a collection of runs; name another file with --results")
    return runs


def _add_runs(path: Path | None, known: list[Run], runs: Iterable[Run]) -> None:
    every = _each_once([*known, *runs])
    if path is None or every == known:
        return
    write_json(path, {"schema_version": results.SCHEMA_VERSION, "madengine_version": __version__, "runs": every})


def _each_once(runs: Iterable[Run]) -> list[Run]:
    """The parts of each run and machine put together; the outcome is the same in any order, and if done again."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        machine = run["environment"]
        groups[run["run_id"], str(machine.get("machine_name")), str(machine.get("environment_id"))].append(run)
    return [_joined(groups[key]) for key in sorted(groups)]


def _joined(runs: Sequence[Run]) -> Run:
    keys = sorted({key for run in runs for key in run} - {"results"})
    entries = {_canonical(entry): entry for run in runs for entry in run["results"]}
    return {
        **{key: min((run[key] for run in runs if key in run), key=_canonical) for key in keys},
        "results": [entries[text] for text in sorted(entries)],
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


# --- perf.csv ---


def _missing_in(output: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows that a perf.csv doesn't have; it is read once, and taken apart only from where its run ids begin.

    Raises ConfigurationError where it has no run ids, or can't be read to its end.
    """
    if not rows or not output.exists():
        return list(rows)
    try:
        with _Table(output) as table:
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


def _without_known(table: _Table, rows: Sequence[Row]) -> list[Row]:
    width, at_run = len(table.columns), table.columns.index("run_id")
    with_id = [name for name in _IDENTITY if name in table.columns]
    without = [name for name in results.COLUMNS if name in table.columns]
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


# --- tables ---


def tables(rows: Iterable[Row]) -> str:
    """For the terminal: of each metric n, median, spread and best by model and host; then what failed, and why.

    The spread is (largest - smallest) / median in percent. A median of two middle values is computed exactly, every
    other number is as the model printed it.
    """
    from tabulate import tabulate

    rows = list(rows)
    measured: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("status") == SUCCESS and is_number(row.get("performance", "")):
            measured[row.get("metric", "")].append(row)
    parts = []
    for metric in sorted(measured):
        headers = ["model", "host", "n", "median", "spread %", "best"]
        aligned = ("left", "left", "right", "right", "right", "right")
        lines = _figures(measured[metric], lower_is_better(metric))
        direction = "lower" if lower_is_better(metric) else "higher"
        title = f"{results.printable(metric) or 'without a metric name'} ({direction} is better)"
        parts.append(f"{title}\n\n{tabulate(lines, headers, colalign=aligned, disable_numparse=True)}")
    if failed := _failures(rows):
        headers = ["failed host", "model", "n", "reason"]
        parts.append(tabulate(failed, headers, colalign=("left", "left", "right", "left"), disable_numparse=True))
    return "\n\n".join(parts)


def lower_is_better(metric: str) -> bool:
    """Whether a metric's name says a time or a loss (`step_time_ms`, `s/epoch`), not a rate (`tokens_per_second`)."""
    counted = _PER.split(metric.lower())[0]
    return not _LOWER_IS_BETTER.isdisjoint(re.findall(r"[a-z]+", counted))


def _figures(rows: Sequence[Row], lower: bool) -> list[list[str]]:
    images: dict[str, set[str]] = defaultdict(set)
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in rows:
        model, image = row.get("model", ""), row.get("docker_image", "").rpartition("/")[2]
        images[model].add(image)
        groups[model, image, row.get("machine_name", "")].append(row["performance"])
    lines = []
    for (model, image, host), values in sorted(groups.items()):
        # What two images of a model measured is not one distribution.
        name = f"{model} ({image})" if len(images[model]) > 1 else model
        lines.append([results.printable(name), results.printable(host), *_statistics(values, lower)])
    return lines


def _statistics(values: Sequence[str], lower: bool) -> tuple[str, str, str, str]:
    ordered = sorted(values, key=lambda text: (Decimal(text), text))
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    median = (Decimal(low) + Decimal(high)) / 2
    spread = ""
    if len(ordered) > 1 and median:
        spread = f"{(Decimal(ordered[-1]) - Decimal(ordered[0])) / abs(median) * 100:.1f}"
    shown = low if Decimal(low) == Decimal(high) else str(median)
    return str(len(ordered)), shown, spread, ordered[0 if lower else -1]


def _failures(rows: Iterable[Row]) -> list[list[str]]:
    counted = Counter(
        (row.get("machine_name", ""), row.get("model", ""), row.get("reason", ""))
        for row in rows
        if row.get("status") == FAILURE
    )
    return [
        [results.printable(host), results.printable(model), str(number), results.printable(_short(reason))]
        for (host, model, reason), number in sorted(counted.items())
    ]


def _short(reason: str) -> str:
    return reason if len(reason) <= _REASON_WIDTH else f"{reason[: _REASON_WIDTH - 1]}…"
