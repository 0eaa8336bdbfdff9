"""Report files and what GitHub shows, for every command that has results, wherever its models run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.cli.terminal import print_error
from madengine.errors import EXIT_DONE, EXIT_FAILURE, MadengineError

if TYPE_CHECKING:
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

    def all(self) -> Sequence[Row]:
        """Return the rows."""
        return self._new_rows() if self.rows is None else self.rows

    def _new_rows(self) -> list[Row]:
        from madengine.results.perf_csv import Table

        if not self.output.is_file():
            return []
        with Table(self.output) as table:
            table.skip_to(self._start)
            rows = [dict(zip(table.columns, cells, strict=True)) for cells in table if len(cells) == len(table.columns)]
        return [row for row in rows if row.get("run_id") == self.run_id or not self.run_id]


def reported(verb: Callable[[Values, ReportRows], int]) -> Callable[[Values], int]:
    """Return the command with its report files written at its end, however it ends."""

    def run(values: Values) -> int:
        from madengine.results.formats.options import is_github_job, requested

        files = requested(values)
        if values.get("dry_run") or not (files or is_github_job(os.environ)):
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


def _publish(report_rows: ReportRows, error: str, values: Values) -> bool:
    from madengine import programs
    from madengine.results.formats import Results
    from madengine.results.formats.options import requested
    from madengine.results.formats.publish import publish

    try:
        rows = report_rows.all()
    except MadengineError as problem:
        rows, error = (), error or str(problem)
    return publish(Results(rows, programs.redact(error)), requested(values), os.environ, print_error)


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
        playbook: Path = values["playbook"]
        return playbook.parent / "perf.csv"
    output: Path = values.get("output") or Path("perf.csv")
    return output
