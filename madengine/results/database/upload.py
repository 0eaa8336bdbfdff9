"""Results into an SQL database: what it has already stays, and a run appears with all of its rows or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import OperationalError

from madengine.errors import MadengineError
from madengine.results.database.schema import (
    ENVIRONMENTS,
    KEY_CHARACTERS,
    KEYS,
    MACHINES,
    NUMBERS,
    RESULTS,
    RUNS,
    SAMPLES,
    SERIES,
    prepare,
)
from madengine.results.gpu_series import read_series
from madengine.results.numbers import is_number
from madengine.results.perf_csv import identity
from madengine.results.results_json import Run
from madengine.results.rows import COLUMNS, Row
from madengine.results.scan import ScanResult
from madengine.results.series import is_measured

_BATCH_ROWS = 2000
# Attempts at a run, where the database breaks off one of two transactions that wait for one another.
_ATTEMPTS = 5
_BIGGEST_INTEGER = 2**31 - 1

Values = dict[str, Any]


@dataclass(frozen=True)
class Uploaded:
    """What an upload has sent, and how much of it the database did not have."""

    runs: int
    rows: int
    new_rows: int
    samples: int


@dataclass
class _RunParts:
    """Everything of one run."""

    run_id: str
    #: each with its id; their values take more memory, and are made when they are sent
    rows: list[tuple[str, Row]] = field(default_factory=list)
    machines: dict[str, Values] = field(default_factory=dict)
    environments: dict[str, Values] = field(default_factory=dict)
    series: dict[str, Values] = field(default_factory=dict)
    #: by the id of their series; read when they are sent
    samples: dict[str, Callable[[], Iterator[Values]]] = field(default_factory=dict)
    version: str = ""

    @property
    def started(self) -> str:
        return _short(min((row["started"] for _, row in self.rows if row.get("started")), default=""))


def upload(scan: ScanResult, engine: Engine, now: datetime | None = None) -> Uploaded:
    """Send all rows, runs, environments and GPU samples of a scan; each run is one transaction.

    Two uploaders may send the same at once. Raises ConfigurationError if the database is of a later madengine, and
    SQLAlchemyError for what it refuses.
    """
    prepare(engine)
    uploaded = (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
    before = _count(engine)
    rows = samples = 0
    parts = _parts(scan)
    for part in parts:
        samples += _again_if_broken_off(engine, lambda connection, part=part: _send(connection, part, uploaded))  # type: ignore[misc]
        rows += len(part.rows)
    return Uploaded(len(parts), rows, _count(engine) - before, samples)


# --- what is sent ---


def _parts(scan: ScanResult) -> list[_RunParts]:
    parts: dict[str, _RunParts] = {}
    counts: Counter[str] = Counter()
    for row in scan.rows():
        key = _digest(*identity(row))
        counts[key] += 1
        # Rows that agree in all that makes them a measurement are told apart by their number.
        row_id = key if counts[key] == 1 else _digest(key, str(counts[key]))
        _part(parts, row.get("run_id", "")).rows.append((row_id, row))
    for run, folder in scan.folders:
        _add_run(_part(parts, run["run_id"]), run, folder)
    return [parts[run_id] for run_id in sorted(parts)]


def _part(parts: dict[str, _RunParts], run_id: str) -> _RunParts:
    key = _short(run_id)
    return parts.setdefault(key, _RunParts(key))


def _add_run(part: _RunParts, run: Run, folder: Path) -> None:
    environment = run["environment"]
    names = {name: _short(str(environment.get(name) or "")) for name in ("machine_name", "environment_id")}
    part.version = part.version or _short(str(run.get("madengine_version") or ""))
    part.machines[_digest(part.run_id, *names.values())] = {"run_id": part.run_id, **names}
    part.environments[names["environment_id"]] = _environment_values(environment)
    for entry in run["results"]:
        directory = str(entry.get("directory") or "") if isinstance(entry, Mapping) else ""
        if directory:
            identifier = _digest(part.run_id, names["machine_name"], directory)
            model = entry.get("model")
            name = str(model.get("name") or "") if isinstance(model, Mapping) else ""
            part.series[identifier] = {
                "run_id": part.run_id,
                "machine_name": names["machine_name"],
                "model": _short(name),
                "directory": _text(directory),
            }
            part.samples[identifier] = lambda folder=folder, entry=entry: _sample_values(folder, entry)  # type: ignore[misc]


def _row_values(row: Row) -> Values:
    extra = {name: cell for name, cell in row.items() if name not in COLUMNS}
    return {
        "value": float(row["performance"]) if is_measured(row) else None,
        **{name: _cell(name, row.get(name, "")) for name in COLUMNS},
        "extra": json.dumps(extra) if extra else None,
    }


def _cell(name: str, cell: str) -> str | float | None:
    if name in KEYS:
        return _short(cell)
    if name in NUMBERS:
        return float(cell) if is_number(cell) else None
    return _text(cell)


def _environment_values(environment: Mapping[str, Any]) -> Values:
    gpus = environment.get("gpus")
    devices = [gpu for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
    first = devices[0] if devices else {}
    return {
        **{name: _text(str(environment.get(name) or "")) for name in ("os", "kernel", "cpu", "engine")},
        "gpu": _text(str(first.get("name") or "")),
        "driver": _text(str(first.get("driver") or "")),
        "gpus": len(devices),
        "memory_mib": _integer(environment.get("memory_mib")),
        "document": json.dumps({name: value for name, value in environment.items() if name != "machine_name"}),
    }


def _sample_values(folder: Path, entry: Mapping[str, Any]) -> Iterator[Values]:
    for sample in read_series(folder, entry):
        gpu, throttled = _integer(sample["gpu"]), sample["throttled"]
        if gpu is not None:
            yield {**sample, "gpu": gpu, "throttled": None if throttled is None else int(bool(throttled))}


def _integer(value: object) -> int | None:
    is_one = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) if is_one and abs(value) <= _BIGGEST_INTEGER else None  # type: ignore[call-overload,arg-type]


def _text(cell: str) -> str:
    """Return a text that every database takes: PostgreSQL has no null character, UTF-8 no half characters."""
    return cell.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "backslashreplace").decode()


def _short(cell: str) -> str:
    return _text(cell)[:KEY_CHARACTERS]


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


# --- sending ---


def _send(connection: Connection, part: _RunParts, uploaded: str) -> int:
    """Send a run in one transaction; return the number of its samples."""
    run = {"run_id": part.run_id, "started": part.started, "madengine_version": part.version, "uploaded": uploaded}
    _insert(connection, RUNS, [run])
    _insert(connection, ENVIRONMENTS, _with_id("environment_id", part.environments))
    _insert(connection, MACHINES, _with_id("id", part.machines))
    # In one order for all uploaders, so that none waits for another that waits for it.
    rows = sorted(part.rows, key=lambda item: item[0])
    _insert(connection, RESULTS, ({"id": identifier, **_row_values(row)} for identifier, row in rows))
    series = _with_id("id", part.series)
    _insert(connection, SERIES, series)
    return sum(_send_samples(connection, str(one["id"]), part) for one in series)


def _send_samples(connection: Connection, identifier: str, part: _RunParts) -> int:
    return _insert(connection, SAMPLES, ({"series_id": identifier, **one} for one in part.samples[identifier]()))


def _with_id(column: str, values: Mapping[str, Values]) -> Sequence[Values]:
    return [{column: key, **values[key]} for key in sorted(values)]


def _insert(connection: Connection, table: Table, values: Iterable[Values]) -> int:
    """Add the rows whose keys the table does not have; return how many were sent."""
    pending, sent = iter(values), 0
    statement = _insert_statement(connection.dialect.name, table)
    while batch := list(islice(pending, _BATCH_ROWS)):
        connection.execute(statement, batch)
        sent += len(batch)
    return sent


def _insert_statement(dialect: str, table: Table) -> Any:
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    key = next(iter(table.primary_key.columns))
    # INSERT IGNORE would also accept what does not fit.
    return mysql.insert(table).on_duplicate_key_update({key.name: key})


def _again_if_broken_off(engine: Engine, send: Callable[[Connection], int]) -> int:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return send(connection)
        except OperationalError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(0.1 * attempt)
    raise MadengineError("the database breaks off every transaction")


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(RESULTS)).scalar_one()
