"""The rows and the outcomes of many hosts, for the user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from madengine.deploy.ssh.host_result import HostOutcome, host_rows, host_summary
from madengine.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED
from madengine.files import write_json
from madengine.results.rows import Row
from madengine.results.statistics import tables
from madengine.results.table import text_table

logger = logging.getLogger(__name__)

Show = Callable[[str], None]


def conclude(
    outcomes: Sequence[HostOutcome],
    output: Path,
    summary_output: Path,
    show: Show,
    interrupted: bool,
    quiet: bool,
    tables_of: Callable[[Sequence[Row]], str] = tables,
) -> int:
    """Write the summary of a run on many hosts, show its tables, and return the exit code."""
    folders = [Path(outcome.folder) for outcome in outcomes if outcome.folder]
    write_json(summary_output, host_summary(outcomes))
    rows = rows_of(outcomes)
    if rows and not quiet:
        show(tables_of(rows))
        show("")
    if not quiet:
        show_outcomes(outcomes, show)
    results = ", ".join(sorted({str(folder.parent) for folder in folders})) or "none"
    logger.info(f"rows: {output}; results: {results}; summary: {summary_output}")
    return exit_code(outcomes, interrupted, EXIT_RUN_FAILED)


def rows_of(outcomes: Sequence[HostOutcome]) -> list[Row]:
    """Return the rows of all hosts; `pair` says which belong together where two manifests ran in turn."""
    folders = [Path(outcome.folder) for outcome in outcomes if outcome.folder]
    # Several hosts may have one name.
    return [
        {**row, "pair": f"{folder.name} {row['repeat']}"} if row.get("side") else row
        for folder in folders
        for row in host_rows(folder)
    ]


def show_outcomes(outcomes: Sequence[HostOutcome], show: Show) -> None:
    """Show a table with a line for each host."""
    lines = [outcome.line for outcome in outcomes]
    show(text_table(lines, ["host", "", "rows", "seconds", "reason"]))


def exit_code(outcomes: Sequence[HostOutcome], interrupted: bool, failure: int) -> int:
    """Return the exit code; `failure` is that of a host on which something failed."""
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_DONE if all(outcome.is_good for outcome in outcomes) else failure
