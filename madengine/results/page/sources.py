"""From the files that a report names to its rows, and to the runs that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from madengine.process import RESULTS
from madengine.results.compare_options import CompareOptions
from madengine.results.comparison import compare_sides
from madengine.results.page.content import PageResults
from madengine.results.perf_csv import identity
from madengine.results.rows import Row
from madengine.results.scan import ScanResult
from madengine.results.series import against_baseline


def read_sources(files: Sequence[Path], baseline: str = "") -> tuple[PageResults, list[str]]:
    """Return the results of files and folders, and a line for each thing that can't be read.

    The run folders beside a perf.csv say more of its rows. Raises ConfigurationError for a baseline without rows.
    """
    scan = ScanResult(origins={})
    for path in files:
        (scan.look_in if path.is_dir() else scan.take_file)(path)
    rows, problems = scan.rows(), list(scan.problems)
    known = {identity(row) for row in rows}
    for folder in _run_folders(files, rows):
        scan.look_in(folder)
    # What the folders have beside the rows' own results was not asked for.
    rows = [row for row in scan.rows() if identity(row) in known]
    origins = scan.origins or {}
    if not baseline:
        return PageResults(rows, origins), problems
    options = CompareOptions(sources=(baseline, "this report"))
    comparison = compare_sides(against_baseline(baseline, rows, scan.runs), options)
    return PageResults(rows, origins, comparison), [*problems, *comparison.problems]


def _run_folders(files: Iterable[Path], rows: Iterable[Row]) -> list[Path]:
    """Return the folders of the rows' runs that are beside the files: those of this machine, and of hosts."""
    run_ids = sorted({row.get("run_id", "") for row in rows})
    # A run id may be anything in a file of others.
    names = [run_id for run_id in run_ids if run_id and "/" not in run_id and run_id not in (".", "..")]
    parents = dict.fromkeys(path.parent for path in files if path.is_file())
    folders = [parent / kind / name for parent in parents for kind in ("runs", RESULTS) for name in names]
    return [folder for folder in folders if _is_folder(folder)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
