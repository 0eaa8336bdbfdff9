"""Rows as tables for the terminal: of each metric what every model measured on every host, and what failed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from statistics import median
from typing import NamedTuple

from madengine.records import FAILURE, SUCCESS
from madengine.results.labels import labels
from madengine.results.numbers import is_number
from madengine.results.rank_tests import median_cut
from madengine.results.rows import Row
from madengine.results.series import SERIES_COLUMNS, short_digest
from madengine.results.table import printable, text_table

# A metric is better when it is lower if its name, without what it is divided by, has one of these words.
_LOWER_IS_BETTER = frozenset(
    (
        "cer", "duration", "elapsed", "error", "errors", "hour", "hours", "itl", "latency", "loss", "mae",
        "microseconds", "milliseconds", "minute", "minutes", "ms", "mse", "ns", "perplexity", "ppl", "rmse", "runtime",
        "s", "sec", "second", "seconds", "secs", "time", "tpot", "ttft", "us", "walltime", "wer",
    )
)  # fmt: skip
_PER = re.compile(r"/|(?<![a-z])per(?![a-z])")
_REASON_WIDTH = 100
#: Those of a MetricTable; the interval is that of the median.
HEADERS = ("model", "host", "n", "median", "95 % interval", "spread %", "best")
ALIGNMENT = ("left", "left", "right", "right", "right", "right", "right")
# What rows of one median have in common, beside the host: several images are not one distribution.
_COLUMNS = (*SERIES_COLUMNS, "side", "docker_image", "image_digest")


class MetricTable(NamedTuple):
    """What every model measured of a metric on every host."""

    name: str
    #: `higher` or `lower`, whichever is better
    direction: str
    #: A cell for each of HEADERS.
    lines: list[list[str]]


def tables(rows: Iterable[Row]) -> str:
    """Return tables for the terminal: of each metric n, median, interval, spread and best of a series; the failures.

    A line is what one model measured on one host with one image and the same arguments. The spread is (largest -
    smallest) / median in percent. A median of two middle values is computed exactly, every other number is as the
    model printed it.
    """
    rows = list(rows)
    parts = []
    for metric in metric_tables(rows):
        title = f"{printable(metric.name) or 'without a metric name'} ({metric.direction} is better)"
        parts.append(f"{title}\n\n{text_table(metric.lines, HEADERS, ALIGNMENT)}")
    if failed := _failures(rows):
        headers = ["failed host", "model", "n", "reason"]
        parts.append(text_table(failed, headers, ("left", "left", "right", "left")))
    return "\n\n".join(parts)


def metric_tables(rows: Iterable[Row]) -> list[MetricTable]:
    """Return a table for each metric that has been measured, by its name."""
    rows_by_metric: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("status") == SUCCESS and is_number(row.get("performance", "")):
            rows_by_metric[row.get("metric", "")].append(row)
    return [_metric_table(metric, rows_of_metric) for metric, rows_of_metric in sorted(rows_by_metric.items())]


def _metric_table(metric: str, rows: Sequence[Row]) -> MetricTable:
    lower = lower_is_better(metric)
    return MetricTable(metric, "lower" if lower else "higher", _metric_lines(rows, lower))


def median_width(values: Sequence[float]) -> float | None:
    """Return the width of the median's 95 % interval in percent of the median; None where there is none."""
    cut = median_cut(len(values))
    if cut is None:
        return None
    ordered, middle = sorted(values), median(values)
    width = ordered[-1 - cut] - ordered[cut]
    if not middle:
        return None if width else 0.0
    return width / abs(middle) * 100


def lower_is_better(metric: str) -> bool:
    """Return whether a metric is a time or a loss by its name (`step_time_ms`, `s/epoch`), not a rate."""
    quantity = _PER.split(metric.lower())[0]
    return not _LOWER_IS_BETTER.isdisjoint(re.findall(r"[a-z]+", quantity))


def _metric_lines(rows: Sequence[Row], lower: bool) -> list[list[str]]:
    groups: dict[tuple[tuple[str, ...], str], list[str]] = defaultdict(list)
    for row in rows:
        key = tuple(row.get(column, "") for column in _COLUMNS)
        groups[key, row.get("machine_name", "")].append(row["performance"])
    names = labels([_short_key(key) for key, _ in sorted(groups)])
    return [
        [printable(name), printable(host), *_statistics(values, lower)]
        for name, ((_, host), values) in zip(names, sorted(groups.items()), strict=True)
    ]


def _short_key(key: Sequence[str]) -> dict[str, str]:
    return {column: short_digest(value) for column, value in zip(_COLUMNS, key, strict=True)}


def _statistics(values: Sequence[str], lower: bool) -> tuple[str, ...]:
    ordered = sorted(values, key=lambda text: (Decimal(text), text))
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    middle = (Decimal(low) + Decimal(high)) / 2
    spread = ""
    if len(ordered) > 1 and middle:
        spread = f"{(Decimal(ordered[-1]) - Decimal(ordered[0])) / abs(middle) * 100:.1f}"
    shown = low if Decimal(low) == Decimal(high) else str(middle)
    cut = median_cut(len(ordered))
    interval = "" if cut is None else f"{ordered[cut]} … {ordered[-1 - cut]}"
    return str(len(ordered)), shown, interval, spread, ordered[0 if lower else -1]


def _failures(rows: Iterable[Row]) -> list[list[str]]:
    counts = Counter(
        (row.get("machine_name", ""), row.get("model", ""), row.get("reason", ""))
        for row in rows
        if row.get("status") == FAILURE
    )
    return [
        [printable(host), printable(model), str(number), printable(_short(reason))]
        for (host, model, reason), number in sorted(counts.items())
    ]


def _short(reason: str) -> str:
    return reason if len(reason) <= _REASON_WIDTH else f"{reason[: _REASON_WIDTH - 1]}…"
