"""The results of many runs and hosts -> one perf.csv and one results.json."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from madengine.files import check_writable
from madengine.files.locks import alone_with
from madengine.results.perf_csv import append_rows, check_perf_csv, missing_in
from madengine.results.results_json import add_runs, known_runs
from madengine.results.rows import Row
from madengine.results.scan import ScanResult


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge."""

    #: All rows of the folders.
    rows: tuple[Row, ...]
    #: How many of them perf.csv didn't have.
    added: int
    #: One line for each thing that could not be read.
    problems: tuple[str, ...]


def merge(folders: Iterable[Path], output: Path, results_output: Path | None = None) -> Merged:
    """Append to the perf.csv `output` the results of these folders that it lacks, each once.

    Looks for results.json and perf.csv files at any depth; `results_output`, unless None, gets the runs in the same
    way. A file that can't be read is skipped, and is a problem of the outcome. Doing it again changes nothing; two
    at once take turns.

    Raises ConfigurationError if `output` or `results_output` can't be added to, before anything is written,
    and MadengineError if one can't be written.
    """
    check_perf_csv(output)
    if results_output:
        check_writable(results_output)
    with alone_with(output, *([results_output] if results_output else [])):
        known = known_runs(results_output)
        scan = ScanResult()
        for folder in folders:
            scan.look_in(folder)
        rows = scan.rows()
        new = missing_in(output, rows)
        append_rows(output, new)
        add_runs(results_output, known, scan.runs)
    return Merged(tuple(rows), len(new), tuple(scan.problems))
