"""Results as a table for the terminal or a CI log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from madengine.records import Metric, RunResult
from madengine.results.numbers import is_number
from madengine.results.rows import metric_outcomes, row_model, variant

_REASON_WIDTH = 60
# A narrower terminal breaks most lines of a table.
_LEAST_WIDTH = 60


def load_tabulate() -> None:
    """Import what `text_table` needs; it takes longer than the table."""
    import tabulate  # noqa: F401


def text_table(lines: Sequence[Sequence[str]], headers: Sequence[str], alignment: Sequence[str] = ()) -> str:
    """Return cells as a table, or one below the other where a narrow terminal would break its lines.

    `alignment` is left or right for each column; all are left by default.
    """
    from tabulate import tabulate

    text = tabulate(lines, headers, colalign=alignment if lines and alignment else None, disable_numparse=True)
    width = _terminal_width()
    if not lines or width >= _LEAST_WIDTH or max(map(len, text.splitlines())) <= width:
        return text
    return "\n\n".join("\n".join(_stacked(line, headers, width)) for line in lines)


def markdown_table(lines: Sequence[Sequence[str]], headers: Sequence[str], alignment: Sequence[str]) -> str:
    """Return cells, which are Markdown, as a table for GitHub and GitLab."""
    from tabulate import tabulate

    return tabulate(lines, headers, "pipe", colalign=alignment, disable_numparse=True)


def _terminal_width() -> float:
    """Characters of a line on stdout; infinite where that is no terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or float("inf")
    except (OSError, ValueError):
        return float("inf")


def _stacked(line: Sequence[str], headers: Sequence[str], width: float) -> Iterator[str]:
    import textwrap

    margin = max(map(len, headers)) + 2
    for header, cell in zip(headers, line, strict=True):
        if cell:
            yield from textwrap.wrap(
                f"{header:<{margin}}{cell}", max(int(width), margin + 1), subsequent_indent=" " * margin
            )


def results_table(results: Sequence[RunResult]) -> str:
    """Return a table with a line for each row of perf.csv; values stay text exactly as they are."""
    lines = [
        [printable(cell) for cell in _table_cells(result, *outcome)]
        for result in results
        for outcome in metric_outcomes(result)
    ]
    headers = ["model", "image", "status", "performance", "metric", "seconds", "reason"]
    return text_table(lines, headers, ("left", "left", "left", "right", "left", "right", "left"))


def _table_cells(result: RunResult, metric: Metric, status: str, reason: str) -> list[str]:
    return [
        " ".join(filter(None, (row_model(result, metric), variant(metric)))),
        result.image.docker_image if result.image else "",
        status,
        metric.performance if is_number(metric.performance) else "",
        metric.metric,
        f"{result.run_duration:.1f}",
        reason if len(reason) <= _REASON_WIDTH else f"{reason[: _REASON_WIDTH - 1]}…",
    ]


def printable(cell: str) -> str:
    """Return a cell that stays on its line and holds no control characters for the terminal."""
    return "".join(character if character.isprintable() else " " for character in cell)
