"""The results of many runs and hosts -> one perf.csv, one results.json, and tables of model × host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from madengine.files import check_writable, locked
from madengine.results.failed_hosts import failed_rows, note_failure
from madengine.results.perf_csv import Row, missing_in
from madengine.results.rows import append_rows, check_perf_csv
from madengine.results.run_files import add_runs, known_runs
from madengine.results.scan import ScanResult
from madengine.results.statistics import tables

__all__ = ["Merged", "failed_rows", "merge", "note_failure", "tables"]


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
    check_perf_csv(output)
    if results_output:
        check_writable(results_output)
    with _alone(output):
        known = known_runs(results_output)
        found = ScanResult()
        for folder in folders:
            found.look_in(folder)
        rows = found.rows()
        new = missing_in(output, rows)
        append_rows(output, new)
        add_runs(results_output, known, found.runs)
    return Merged(tuple(rows), len(new), tuple(found.problems))


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """One at a time sees what a perf.csv lacks and appends it; the file's own lock is for the append alone."""
    lock = output.with_name(f".{output.name}.collecting")
    with locked(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
