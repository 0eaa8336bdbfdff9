"""Markdown for a merge request or a job summary; names are code, so that nothing in them is markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from madengine.records import FAILURE, SKIPPED, SUCCESS
from madengine.results.comparison_table import code
from madengine.results.formats import Results
from madengine.results.formats.causes import is_infrastructure
from madengine.results.rows import Row
from madengine.results.statistics import ALIGNMENT, HEADERS, metric_tables
from madengine.results.table import markdown_table

#: Characters of a page; GitHub takes 1 MiB of bytes, GitLab 1,000,000 characters.
_LIMIT = 200_000
_MOST_FAILURES = 200
_REASON_WIDTH = 300


def text(report: Results) -> str:
    """Return how the runs ended, what failed and why, and a table for each metric."""
    parts = [f"## Results\n\n{counts(report.rows)}"]
    if report.error:
        parts.append(f"**The command failed:** {code(report.error, _REASON_WIDTH)}")
    parts += [*_failures(report.rows), *_tables(report.rows)]
    return "\n\n".join([*_within_limit(parts)]) + "\n"


def counts(rows: Sequence[Row]) -> str:
    """Return how many rows have which status, on how many hosts, as a sentence."""
    numbers = Counter(row.get("status", "") for row in rows)
    hosts = len({row.get("machine_name", "") for row in rows})
    shown = [f"{numbers[status]} {status}" for status in (SUCCESS, FAILURE, SKIPPED) if numbers[status]]
    where = f" on {hosts} host{'s' * (hosts != 1)}" if rows else ""
    return f"{', '.join(shown) or 'No results'}{where}."


def failure_lines(rows: Iterable[Row]) -> list[tuple[str, str, str, str, str]]:
    """Return cause, model, host, reason and number of the failures that are alike."""
    groups: Counter[tuple[str, str, str, str]] = Counter()
    for row in rows:
        if row.get("status") == FAILURE:
            cause = "infrastructure" if is_infrastructure(row) else "model"
            groups[cause, row.get("model", ""), row.get("machine_name", ""), row.get("reason", "")] += 1
    return [(*group, str(number)) for group, number in sorted(groups.items())]


def _failures(rows: Iterable[Row]) -> Iterable[str]:
    lines = [
        (cause, code(model), code(host), code(reason, _REASON_WIDTH), number)
        for cause, model, host, reason, number in failure_lines(rows)
    ]
    if lines:
        more = f"\n\n… and {len(lines) - _MOST_FAILURES} more" if len(lines) > _MOST_FAILURES else ""
        headers, aligned = ("cause", "model", "host", "reason", "n"), ("left", "left", "left", "left", "right")
        yield f"### Failures\n\n{markdown_table(lines[:_MOST_FAILURES], headers, aligned)}{more}"


def _tables(rows: Sequence[Row]) -> Iterable[str]:
    for metric in metric_tables(rows):
        lines = [(*map(code, cells[:2]), *cells[2:]) for cells in metric.lines]
        title = f"{code(metric.name) or 'Without a metric name'} ({metric.direction} is better)"
        yield f"### {title}\n\n{markdown_table(lines, HEADERS, ALIGNMENT)}"


def _within_limit(parts: Iterable[str]) -> Iterable[str]:
    size, left_out = 0, 0
    for part in parts:
        size += len(part)
        if size <= _LIMIT:
            yield part
        else:
            left_out += 1
    if left_out:
        yield f"… {left_out} tables more don't fit here; perf.csv has all rows."
