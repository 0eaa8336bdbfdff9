"""A million rows into SQLite, over what Python's own sqlite3 takes for a table of the same cells."""

from __future__ import annotations

import csv
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from madengine.results.rows import COLUMNS

CHECKOUT = Path(__file__).parents[2]
_ROWS = 1_000_000


def seconds() -> tuple[float, float]:
    """Return the seconds of an upload, and those of the bare insertion."""
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "perf.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_rows())
        return _upload(Path(scratch)), _bare(Path(scratch))


def _rows() -> Iterator[list[str]]:
    for number in range(_ROWS):
        values = {
            "model": f"model-{number % 50}",
            "metric": "tokens_per_second",
            "performance": str(number),
            "status": "SUCCESS",
            "machine_name": f"node-{number % 16}",
            "run_id": f"run-{number // 1000}",
            "started": f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
            "run_duration": str(number / 1000),
            "image_digest": f"sha256:{number % 50:064}",
        }
        yield [values.get(name, "") for name in COLUMNS]


def _upload(folder: Path) -> float:
    began = time.monotonic()
    words = [sys.executable, "-m", "madengine", "upload", "perf.csv", "--to=sqlite:///results.db"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith(f"1000 runs, {_ROWS} rows ({_ROWS} new)"), done.stdout
    return time.monotonic() - began


def _bare(folder: Path) -> float:
    began = time.monotonic()
    connection = sqlite3.connect(folder / "bare.db")
    connection.execute(f"CREATE TABLE results ({', '.join(COLUMNS)}, PRIMARY KEY (run_id, performance))")
    with (folder / "perf.csv").open(newline="") as file:
        rows = itertools.islice(csv.reader(file), 1, None)
        connection.executemany(f"INSERT INTO results VALUES ({', '.join('?' * len(COLUMNS))})", rows)
    connection.commit()
    connection.close()
    return time.monotonic() - began
