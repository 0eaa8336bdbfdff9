"""Results as a table for the terminal or a CI log."""

from __future__ import annotations

from collections.abc import Sequence

from madengine.records import Metric, RunResult
from madengine.results.numbers import is_number
from madengine.results.rows import metric_outcomes, row_model, variant

_REASON_WIDTH = 60


def load_tabulate() -> None:
    """Import what `results_table` needs; it takes longer than the table."""
    import tabulate  # noqa: F401


def results_table(results: Sequence[RunResult]) -> str:
    """Return a table with a line for each row of perf.csv; values stay text exactly as they are."""
    from tabulate import tabulate

    lines = [
        [printable(cell) for cell in _table_cells(result, *outcome)]
        for result in results
        for outcome in metric_outcomes(result)
    ]
    return tabulate(
        lines,
        headers=["model", "image", "status", "performance", "metric", "seconds", "reason"],
        colalign=("left", "left", "left", "right", "left", "right", "left") if lines else None,
        disable_numparse=True,
    )


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
