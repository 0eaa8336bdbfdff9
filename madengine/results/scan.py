"""The results in the folders of many runs and hosts, each once."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from madengine.errors import MadengineError
from madengine.process import is_private_folder
from madengine.results.origins import Origin, as_written, origins_of_result
from madengine.results.perf_csv import Table, identity
from madengine.results.results_json import Run, result_of, runs_in, with_host
from madengine.results.rows import Row, result_rows


@dataclass
class ScanResult:
    """The rows and runs of the folders, and what could not be read."""

    runs: list[Run] = field(default_factory=list)
    #: What rows were made of, by their identity, with the path of its results.json; None if nobody asks.
    origins: dict[tuple[str, ...], Origin[Path]] | None = None
    problems: list[str] = field(default_factory=list)
    #: each run with the folder of its results.json
    folders: list[tuple[Run, Path]] = field(default_factory=list)
    _seen: dict[Path, bool] = field(default_factory=dict)
    _best: dict[tuple[str, ...], tuple[bool, list[Row]]] = field(default_factory=dict)

    def look_in(self, folder: Path) -> None:
        """Read the results.json and perf.csv files at and below a folder."""
        problems = len(self.problems)
        if not folder.is_dir():
            self.problems.append(f"{folder}: no such folder")
            return
        have_results = []
        for parent, below, names in os.walk(folder, onerror=lambda error: self.problems.append(_read_problem(error))):
            below[:] = sorted(name for name in below if not is_private_folder(name))
            if _is_workspace(Path(parent), names):
                below.clear()
                continue
            if "results.json" in names:
                have_results.append(self._once(Path(parent, "results.json"), self._take_results))
                if have_results[-1] and Path(parent).parent.name == "runs":
                    below.clear()  # what models leave, under any name
            if "perf.csv" in names:
                have_results.append(self._once(Path(parent, "perf.csv"), self._take_table))
        if not any(have_results) and problems == len(self.problems):
            self.problems.append(f"{folder}: no results here: no results.json of a run and no perf.csv")

    def take_file(self, path: Path) -> None:
        """Take in one file: a results.json where its name ends so, else a perf.csv of any name."""
        self._once(path, self._take_results if path.suffix == ".json" else self._take_table)

    def take_runs(self, rows: Iterable[Row], runs: Iterable[Run]) -> None:
        """Take in rows and runs that were read elsewhere."""
        self.runs += runs
        self._take(rows, is_table=True)

    def _once(self, path: Path, take: Callable[[Path], bool]) -> bool:
        """Return whether a file holds results; one that is met twice is read once."""
        real = path.resolve()
        if real not in self._seen:
            self._seen[real] = False
            try:
                if not path.is_file():  # a pipe would wait for a writer
                    raise MadengineError(f"{path}: not a regular file")
                self._seen[real] = take(path)
            except MadengineError as error:
                self.problems.append(str(error))
        return self._seen[real]

    def _take_results(self, path: Path) -> bool:
        runs = [with_host(run, path) for run in runs_in(path)]
        rows: list[Row] = []
        for run in runs:
            for number, entry in enumerate(run["results"]):
                try:
                    result = result_of(entry)
                    rows_of_result = [as_written(row) for row in result_rows(result, {})]
                    rows += rows_of_result
                    if self.origins is not None:
                        self.origins.update(origins_of_result(result, rows_of_result, run, entry, path))
                # The file may be another program's, with anything anywhere.
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MadengineError) as error:
                    self.problems.append(f"{path}: results.{number} of run {run['run_id']} is broken: {error}")
        self.runs += runs
        self.folders += ((run, path.parent) for run in runs)
        self._take(rows, is_table=False)
        return bool(runs)

    def _take_table(self, path: Path) -> bool:
        rows: list[Row] = []
        try:
            with Table(path) as table:
                for cells in table:
                    if len(cells) == len(table.columns):
                        named = zip(table.columns, cells, strict=True)
                        rows.append({name: sys.intern(cell) for name, cell in named if cell})
                    else:
                        cut = f"expected {len(table.columns)} cells as in the header, got {len(cells)}"
                        self.problems.append(f"{path}:{table.line}: ignored: {cut}")
        finally:
            self._take(rows, is_table=True)
        return True

    def _take(self, rows: Iterable[Row], is_table: bool) -> None:
        """Keep the fullest copy of a row; one of a perf.csv also has what the environment of the run set."""
        groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        for row in rows:
            groups[identity(row)].append(row)
        for key, group in groups.items():
            self._best[key] = max(self._best.get(key, (False, [])), (is_table, group), key=_fullness)

    def rows(self) -> list[Row]:
        """Return every row once, in an order that does not depend on where they are."""
        rows = (row for _, group in self._best.values() for row in group)
        return sorted(rows, key=lambda row: (row.get("started", ""), identity(row), sorted(row.items())))


def _is_workspace(folder: Path, names: Iterable[str]) -> bool:
    """Return whether a folder is a model's workspace in a run's: what models leave is no result, under any name."""
    return folder.parent.parent.name == "runs" and any(name.endswith(".run.live.log") for name in names)


def _fullness(copy: tuple[bool, list[Row]]) -> tuple[int, int, bool, int, list[list[tuple[str, str]]]]:
    is_table, rows = copy
    # A perf.csv with the columns of an older madengine has no variants.
    variants = sum("variant" in row for row in rows)
    return len(rows), variants, is_table, sum(map(len, rows)), [sorted(row.items()) for row in rows]


def _read_problem(error: OSError) -> str:
    return f"{error.filename}: can't be read: {error.strerror}"
