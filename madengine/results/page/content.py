"""What a page shows: overview, failures, metrics, history, comparison, and every run."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from madengine.records import FAILURE, SKIPPED, SUCCESS
from madengine.results.change_points import ChangePoint, OtavaDetector
from madengine.results.comparison import Comparison
from madengine.results.comparison_json import as_json
from madengine.results.formats.causes import is_infrastructure
from madengine.results.labels import labels
from madengine.results.origins import Origin
from madengine.results.page.run_files import details, run_folder
from madengine.results.perf_csv import identity
from madengine.results.rows import COLUMNS, Row
from madengine.results.series import SERIES_COLUMNS, is_measured
from madengine.results.statistics import lower_is_better

#: Runs whose log, GPU samples and files are part of the page: the newest.
MOST_RUNS = 500
_MOST_HOST_COLUMNS = 8
_MOST_LINES = 2_000
_MOST_METRICS = 200
# Of change points: the lines and values that are looked at, and the least change in percent.
_LEAST_VALUES, _MOST_VALUES, _MOST_ANALYSED, _LEAST_CHANGE = 6, 500, 200, 2.0
_CHARACTERS = 10_000
_IS_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T")
_NOT_SHOWN = frozenset(("relative_change",))


@dataclass(frozen=True)
class PageResults:
    """The results that a page is made of."""

    rows: Sequence[Row]
    origins: Mapping[tuple[str, ...], Origin[Path]]
    comparison: Comparison | None = None


def overview(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what ran, where, and what failed and why."""
    counts = Counter(row.get("status", "") for row in rows)
    times = sorted(filter(_IS_TIME.match, (row.get("started", "") for row in rows)))
    return {
        "counts": {status: counts[status] for status in (SUCCESS, FAILURE, SKIPPED)},
        "models": len({row.get("model", "") for row in rows}),
        "hosts": _hosts(rows),
        "runs": len({row.get("run_id", "") for row in rows}),
        "first": times[0] if times else "",
        "last": times[-1] if times else "",
        "failures": _failures(rows),
    }


def _hosts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.get("machine_name", "")].append(row)
    return [
        {
            "name": name,
            "gpus": ", ".join(sorted({row.get("gpu_architecture", "") for row in group} - {""})),
            "models": len({row.get("model", "") for row in group}),
            "rows": len(group),
            **{status: sum(row.get("status") == status for row in group) for status in (SUCCESS, FAILURE, SKIPPED)},
        }
        for name, group in sorted(groups.items())
    ]


def _failures(rows: Iterable[Row]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("status") == FAILURE:
            cause = "infrastructure" if is_infrastructure(row) else "model"
            groups[cause, row.get("reason", "") or "no reason is known"].append(row)
    return [
        {
            "cause": cause,
            "reason": reason,
            "n": len(group),
            "models": sorted({row.get("model", "") for row in group}),
            "hosts": sorted({row.get("machine_name", "") for row in group}),
        }
        for (cause, reason), group in sorted(groups.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    ]


# --- metrics ---


def metrics(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a table for each metric: series by hosts where the hosts are few, else a line for each pair."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if is_measured(row):
            groups[row.get("metric", "")].append(row)
    return [_metric(metric, group) for metric, group in sorted(groups.items())[:_MOST_METRICS]]


def _metric(metric: str, rows: Sequence[Row]) -> dict[str, Any]:
    columns = _distinct_columns(rows)
    groups: dict[tuple[tuple[str, ...], str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(column, "") for column in columns), row.get("machine_name", "")].append(row)
    keys = sorted({key for key, _ in groups})
    names = dict(zip(keys, labels([dict(zip(columns, key, strict=True)) for key in keys]), strict=True))
    hosts = sorted({host for _, host in groups})
    is_lower = lower_is_better(metric)
    cells = {pair: _statistics(group, is_lower) for pair, group in groups.items()}
    if len(hosts) > _MOST_HOST_COLUMNS:
        lines = [{"name": names[key], "host": host, **cells[key, host]} for key, host in sorted(cells)]
    else:
        lines = [{"name": names[key], "cells": [cells.get((key, host)) for host in hosts]} for key in keys]
        for line in lines:
            _add_shares([cell for cell in line["cells"] if cell], is_lower)
    better = "lower" if is_lower else "higher"
    is_matrix = len(hosts) <= _MOST_HOST_COLUMNS
    return {"name": metric, "better": better, "hosts": hosts, "lines": lines, "is_matrix": is_matrix}


def _distinct_columns(rows: Iterable[Row]) -> list[str]:
    """Return what makes series of one metric; a host's name says its GPU, unless it has had several."""
    gpus = {(row.get("machine_name", ""), row.get("gpu_architecture", "")) for row in rows}
    one_each = len(gpus) == len({host for host, _ in gpus})
    return [name for name in SERIES_COLUMNS if not (one_each and name == "gpu_architecture")]


def _statistics(rows: Sequence[Row], is_lower: bool) -> dict[str, Any]:
    values = sorted(float(row["performance"]) for row in rows)
    middle = median(values)
    spread = 100 * (values[-1] - values[0]) / abs(middle) if len(values) > 1 and middle else None
    images = len({row.get("image_digest", "") for row in rows})
    best = values[0 if is_lower else -1]
    return {"n": len(values), "median": middle, "spread": spread, "best": best, "images": images, "share": 0.0}


def _add_shares(cells: Sequence[dict[str, Any]], is_lower: bool) -> None:
    """Note how near each host's median is to the best one."""
    medians = [cell["median"] for cell in cells]
    if min(medians) > 0:
        for cell in cells:
            cell["share"] = min(medians) / cell["median"] if is_lower else cell["median"] / max(medians)


def history(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """Return, by metric, the lines of what was measured more than once, over time; `r` are numbers of rows."""
    columns = [*_distinct_columns(rows), "machine_name"]
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if is_measured(row) and row.get("started"):
            groups[tuple(row.get(column, "") for column in columns)].append(number)
    several = {key: numbers for key, numbers in groups.items() if len({rows[one]["started"] for one in numbers}) > 1}
    keys = [dict(zip(columns, key, strict=True)) for key in several]
    hosts = [key.pop("machine_name") for key in keys]
    metric_names = [key["metric"] for key in keys]
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for metric, name, host, numbers in zip(metric_names, labels(keys), hosts, several.values(), strict=True):
        lines[metric].append({"name": f"{name} · {host}", "r": numbers})
    sorted_lines = {name: sorted(each, key=lambda line: -len(line["r"])) for name, each in lines.items()}
    shown = {name: each[:_MOST_LINES] for name, each in sorted_lines.items()}
    for line, changes in _with_changes(rows, [line for each in shown.values() for line in each]):
        line["changes"] = changes
    return shown


def _with_changes(
    rows: Sequence[Row], lines: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield lines that are long enough, each with its change points; none where Otava isn't installed."""
    long_enough = [line for line in lines if len(line["r"]) >= _LEAST_VALUES][:_MOST_ANALYSED]
    try:
        detector = OtavaDetector() if long_enough else None
    except ImportError:
        return
    for line in long_enough:
        ordered = sorted(line["r"], key=lambda number: rows[number]["started"])[-_MOST_VALUES:]
        values = [float(rows[number]["performance"]) for number in ordered]
        points = detector(values, _LEAST_CHANGE) if detector else []
        yield line, [{"row": ordered[point.index], "text": _percent(point)} for point in points]


def _percent(point: ChangePoint) -> str:
    return "changed" if point.change_percent is None else f"{point.change_percent:+.1f} %"


def comparison(of: Comparison | None) -> dict[str, Any] | None:
    """Return the comparison with the baseline, None without one."""
    if of is None:
        return None
    shown = as_json(of)
    named = labels([one.series.key for one in of.series])
    for one, name in zip(shown["series"], named, strict=True):
        one["name"] = name
    order = {"worse": 0, "better": 1, "unclear": 2, "not enough runs": 3, "same": 4}
    shown["series"].sort(key=lambda one: order.get(one["verdict"], 5))
    return shown


# --- rows and runs ---


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """Return all rows column by column, each cell as the number of its text: most texts are there many times."""
    numbers: dict[str, int] = {"": 0}
    further = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    names = [name for name in (*COLUMNS, *further) if name not in _NOT_SHOWN]
    columns = {
        name: [numbers.setdefault(_short(row.get(name, "")), len(numbers)) for row in rows]
        for name in names
        if any(row.get(name) for row in rows)
    }
    columns["cause"] = [numbers.setdefault(_cause(row), len(numbers)) for row in rows]
    return {"texts": list(numbers), "columns": columns, "count": len(rows)}


def _cause(row: Row) -> str:
    if row.get("status") != FAILURE:
        return ""
    return "infrastructure" if is_infrastructure(row) else "model"


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}…"


def runs(source: PageResults, page_folder: Path) -> tuple[list[int], list[dict[str, Any]]]:
    """Return for each row the number of its run, -1 without one; and what the newest runs with a folder left."""
    of_rows = [source.origins.get(identity(row)) for row in source.rows]
    newest = sorted({id(origin.entry): origin for origin in of_rows if origin}.values(), key=_start, reverse=True)
    folders = ((origin, folder) for origin in newest if (folder := run_folder(origin)))
    shown = list(islice(folders, MOST_RUNS))
    numbers = {id(origin.entry): number for number, (origin, _) in enumerate(shown)}
    of_run = [numbers.get(id(origin.entry), -1) if origin else -1 for origin in of_rows]
    return of_run, [details(origin, folder, page_folder) for origin, folder in shown]


def environments(source: PageResults) -> tuple[list[int], list[Mapping[str, Any]]]:
    """Return for each row the number of the description of its machine, -1 without one; and the descriptions."""
    numbers: dict[str, int] = {}
    described: dict[int, str] = {}
    of_rows = []
    for row in source.rows:
        origin = source.origins.get(identity(row))
        if origin and id(origin.run) not in described:
            machine = {name: value for name, value in origin.run["environment"].items() if value not in (None, "", [])}
            described[id(origin.run)] = json.dumps(machine, sort_keys=True, default=str)
        text = described[id(origin.run)] if origin else ""
        of_rows.append(numbers.setdefault(text, len(numbers)) if text else -1)
    return of_rows, [json.loads(text) for text in numbers]


def _start(origin: Origin[Path]) -> str:
    return origin.result.started
