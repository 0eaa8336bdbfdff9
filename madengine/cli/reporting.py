"""Report files and what GitHub shows, for every command that has results, wherever its models run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.cli.terminal import print_error
from madengine.errors import EXIT_DONE, EXIT_FAILURE, MadengineError

if TYPE_CHECKING:
    from madengine.results.formats import Results
    from madengine.results.results_json import Run
    from madengine.results.rows import Row

logger = logging.getLogger(__name__)

Values = Mapping[str, Any]


@dataclass
class ReportRows:
    """The rows of a command's report; those that perf.csv got meanwhile, unless the command sets others."""

    #: the perf.csv
    output: Path
    #: of the rows; empty if several runs may have some
    run_id: str = ""
    rows: Sequence[Row] | None = None
    _start: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Note where the rows of the command will begin."""
        try:
            with self.output.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 1))
                # After a row that was cut off, the next one doesn't begin where the file ends now.
                self._start = size if file.read(1) == b"\n" else 0
        except OSError:
            self._start = 0

    def added(self) -> list[Row]:
        """Return the rows that perf.csv got meanwhile."""
        from madengine.results.perf_csv import Table

        if not self.output.is_file():
            return []
        with Table(self.output) as table:
            table.skip_to(self._start)
            width = len(table.columns)
            rows: list[Row] = [dict(zip(table.columns, cells, strict=True)) for cells in table if len(cells) == width]
        # A table of an older madengine, which has no such column, is continued in its own layout.
        has_ids = self.run_id and "run_id" in table.columns
        return [row for row in rows if row["run_id"] == self.run_id] if has_ids else rows


def reported(verb: Callable[[Values, ReportRows], int]) -> Callable[[Values], int]:
    """Return the command with its report files written at its end, however it ends."""

    def run(values: Values) -> int:
        from madengine.results.formats.options import is_github_job, requested

        files = requested(values)
        is_wanted = files or values.get("madengine2_files") or is_github_job(os.environ)
        if values.get("dry_run") or not is_wanted:
            return verb(values, ReportRows(_table(values)))
        from madengine.files import check_writable

        check_writable(*files)
        values = _with_run_id(values)
        rows, error, code = ReportRows(_table(values), values.get("run_id", "")), "", EXIT_DONE
        try:
            code = verb(values, rows)
        except (MadengineError, OSError, KeyboardInterrupt) as problem:
            error = "interrupted" if isinstance(problem, KeyboardInterrupt) else str(problem)
            raise
        finally:
            is_complete = _publish(rows, error, values)
        return code or (EXIT_DONE if is_complete else EXIT_FAILURE)

    return run


def new_rows(verb: Callable[[Values], int]) -> Callable[[Values], int]:
    """Return the command with reports of the rows that it adds to perf.csv."""
    return reported(lambda values, rows: verb(values))


def _publish(rows: ReportRows, error: str, values: Values) -> bool:
    from madengine.results.formats.options import requested
    from madengine.results.formats.publish import publish

    results = _results(rows, error, values)
    complete = publish(results, requested(values), os.environ, print_error)
    if values.get("madengine2_files"):
        complete = _update_files_of_2(results, values) and complete
    return complete


def _results(rows: ReportRows, error: str, values: Values) -> Results:
    from madengine import programs
    from madengine.results.formats import Results

    added: list[Row] = []
    try:
        added = rows.added()
    except MadengineError as problem:
        error = error or str(problem)
    if rows.run_id and added and "run_id" not in added[0]:
        added = _fuller(added, rows.run_id, values)
    runs = _runs_of(added, values) if values.get("madengine2_files") else []
    return Results(added if rows.rows is None else rows.rows, added, runs, programs.redact(error))


def _fuller(added: list[Row], run_id: str, values: Values) -> list[Row]:
    """Return the rows of a run as its results.json has them, with reasons that an older table has no column for."""
    from madengine.results.scan import ScanResult

    scan = ScanResult()
    for path in filter(Path.is_file, _result_files({run_id}, values)):
        scan.take_file(path)
    rows = [row for row in scan.rows() if row.get("run_id") == run_id]
    return rows if len(rows) >= len(added) else added


def _update_files_of_2(results: Results, values: Values) -> bool:
    from madengine.results.formats.madengine2 import update
    from madengine.results.formats.model_configs import ModelConfigs
    from madengine.session import open_session

    root = open_session(dict(os.environ), Path.cwd(), may_be_starter=False).root
    try:
        update(results, ModelConfigs(root), Path.cwd(), with_entries=not values.get("cleanup_perf"))
    except MadengineError as error:
        logger.warning(f"--madengine2-files: {error}")
        return False
    return True


def _runs_of(rows: Sequence[Row], values: Values) -> list[Run]:
    """Return what the results.json files of the rows' runs hold; one that can't be read explains nothing."""
    from madengine.results.results_json import runs_in

    runs: list[Run] = []
    for path, is_local in _result_files({row.get("run_id", "") for row in rows} - {""}, values).items():
        try:
            runs += ({**run, "is_local": is_local} for run in (runs_in(path) if path.is_file() else ()))
        except MadengineError as error:
            logger.info(str(error))
    return runs


def _result_files(run_ids: Iterable[str], values: Values) -> dict[Path, bool]:
    """Return where the runs' results.json files may be, each with whether this machine's own run wrote it."""
    from madengine.process import RESULTS
    from madengine.run.names import run_directory

    here = [run_directory(run_id) / "results.json" for run_id in run_ids]
    bases = {RESULTS, values.get("output_dir") or RESULTS}
    elsewhere = [base / run_id / "results.json" for base in bases for run_id in run_ids]
    if isinstance(merged := values.get("results"), Path):
        elsewhere.append(merged)
    elsewhere.append(_table(values).with_name("results.json"))
    return {**dict.fromkeys(elsewhere, False), **dict.fromkeys(here, True)}


def _with_run_id(values: Values) -> Values:
    """Return the values with the id of the run that begins, by which its rows are told from others'."""
    begins_run = "manifest_output" in values and "run_id" in values
    if not begins_run or values["run_id"] or values.get("target") == "ansible":
        return values
    from madengine.run.names import new_run_id

    return {**values, "run_id": new_run_id()}


def _table(values: Values) -> Path:
    """Return the perf.csv that the command adds to; Ansible's is beside its playbook."""
    if values.get("target") == "ansible":
        playbook: Path = values.get("playbook") or Path()  # without one it is in this folder
        return playbook.parent / "perf.csv"
    output: Path = values.get("output") or Path("perf.csv")
    return output
