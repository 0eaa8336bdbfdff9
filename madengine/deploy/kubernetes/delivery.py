"""A sidecar's report -> the ConfigMap of the results, in the space that it has."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import random
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madengine.deploy.kubernetes.api import NOT_FOUND, REFUSALS, TOO_LARGE, ConfigMap, Refused
from madengine.results.rows import columns_for

#: bytes; a ConfigMap holds 1 MiB, and its maintainers need some
LIMIT = 900 * 1024
# Less than terminationGracePeriodSeconds.
PATIENCE_SECONDS = 90.0
_LEAST_SHARE = 256


@dataclass(frozen=True)
class Report:
    """The report of a pod: its perf.csv rows, its result as a results.json, and the end of its log."""

    rows: Sequence[Mapping[str, str]]
    document: Mapping[str, Any]
    #: the end of the log, and the bytes of all of it
    log: str = ""
    log_size: int = 0
    #: Rows of multiple_results that the sidecar has no memory for.
    omitted: int = 0


@dataclass(frozen=True)
class Patch:
    """A merge patch, and how many rows it leaves out for want of space."""

    content: Mapping[str, Any]
    omitted: int = 0


def deliver(target: ConfigMap, pod: str, report: Report, share: int, patience: float = PATIENCE_SECONDS) -> str:
    """Put a report into the ConfigMap; return why that failed or is incomplete, else an empty string.

    Errors of a busy or restarting server are retried, and what it finds too large gets smaller.
    """
    deadline = time.monotonic() + patience
    pause, refusals = 0.5, 0
    while True:
        try:
            others = stored_by_others(_values_of(target), pod)
            patch = fit(pod, report, others, share)
            target.merge(patch.content)
            return _shortage(target, patch, others, len(report.rows) + report.omitted)
        except (Refused, OSError, ValueError) as error:
            problem, code = str(error), getattr(error, "code", 0)
        print(f"report: {problem}", file=sys.stderr, flush=True)  # noqa: T201
        if code in TOO_LARGE:
            share = min(share, LIMIT) // 2
            if share > _LEAST_SHARE:
                continue
        # Roles may arrive a moment after the pod; a right that is missing for longer stays missing.
        refusals += code in REFUSALS
        if refusals > 4 or share <= _LEAST_SHARE or time.monotonic() + pause > deadline:
            return problem
        time.sleep(pause * random.uniform(0.7, 1.3))
        pause = min(pause * 2, 10.0)


def deliver_log(target: ConfigMap, pod: str, report: Report, started: str) -> str:
    """Put the end of a log into the ConfigMap of the logs, in place of the oldest ones; return why that failed.

    Its key begins with `started`, so that the keys are in the order of time.
    """
    if not report.log:
        return ""
    text = shortened_log(report)
    key = f"{re.sub('[^0-9TZ]', '', started)}.{pod}.log"
    try:
        sizes = {name: len(value.encode()) for name, value in _values_of(target).items() if name != key}
        oldest, excess = sorted(sizes), sum(sizes.values()) + len(text.encode()) - LIMIT
        removed: dict[str, None] = {}
        while excess > 0 and oldest:
            removed[oldest[0]] = None
            excess -= sizes[oldest.pop(0)]
        target.merge({"data": {**removed, key: text}, "binaryData": removed})
    except (Refused, OSError, ValueError) as error:
        return str(error)
    return ""


def _values_of(target: ConfigMap) -> Mapping[str, str]:
    """Return what a ConfigMap holds, after it is made if there is none."""
    try:
        return target.read()
    except Refused as error:
        if error.code != NOT_FOUND:
            raise
    target.create()
    return {}


def _shortage(target: ConfigMap, patch: Patch, others: int, rows: int) -> str:
    if not patch.omitted:
        return ""
    return (
        f"{patch.omitted} of {rows} rows don't fit into configmap {target.name}: other pods use {others} of "
        f"{LIMIT} bytes; empty it with `madengine collect --kubernetes --prune`"
    )


def stored_by_others(values: Mapping[str, str], pod: str) -> int:
    """Return the bytes that the ConfigMap holds of other pods."""
    return sum(len(value.encode()) for key, value in values.items() if not key.startswith(f"{pod}."))


def fit(pod: str, report: Report, others: int, share: int) -> Patch:
    """Return the patch in the space that is left: the result shrinks first, then rows are left out."""
    keys, binary, omitted = _values(report, min(share, LIMIT - others))
    data = {f"{pod}.{name}": keys.get(name) for name in ("perf.csv", "result.json")}
    return Patch({"data": data, "binaryData": {f"{pod}.perf.csv.gz": binary}}, omitted)


def _values(report: Report, space: int) -> tuple[dict[str, str | None], str | None, int]:
    """Return the values by name, the packed table if the plain one is too large, and how many rows are left out."""
    rows, document = table(report.rows), dict(report.document)
    omitted, packed = report.omitted, None
    if len(rows) + len(_json(document)) > space:
        document = _short(document)
    if len(rows) + len(_json(document)) > space:
        packed, left_out = _pack(report.rows, space - len(_json(document)) - 200)
        omitted += left_out
    if omitted:
        document["rows_omitted"] = omitted
        document["truncated"] = f"{omitted} of {len(report.rows) + report.omitted} rows are left out"
    keys = {
        "perf.csv": None if packed is not None else rows.decode("utf-8", "backslashreplace"),
        "result.json": _json(document).decode("utf-8", "backslashreplace"),
    }
    return keys, packed, omitted


def _short(document: Mapping[str, Any]) -> dict[str, Any]:
    short = dict(document)
    for result in document.get("results", ())[:1]:
        short["results"] = [{**result, "metrics": result.get("metrics", ())[:1]}]
        short["truncated"] = "of the result only the first metric is kept"
    return short


def _pack(rows: Sequence[Mapping[str, str]], space: int) -> tuple[str, int]:
    """Return as many rows as fit, compressed, and how many are left out."""
    count = len(rows)
    while True:
        text = _packed(table(rows[:count]))
        if len(text) <= space or not count:
            return text, len(rows) - count
        count = count * 3 // 4


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def shortened_log(report: Report) -> str:
    """Return the end of a log, with a line that says what is missing before it."""
    missing = report.log_size - len(report.log.encode())
    note = f"[{missing} bytes before this are left out; `kubectl logs` has more]\n" if missing > 0 else ""
    return note + report.log


def table(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return the rows as a perf.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = columns_for(rows)
    writer.writerow(columns)
    writer.writerows([row.get(column, "") for column in columns] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
