"""A sidecar's report -> the ConfigMap of the results, in the space that it has."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madengine.deploy.kubernetes.api import REFUSALS, TOO_LARGE, ConfigMap, Refused
from madengine.files import parse_json
from madengine.results.rows import COLUMNS

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
    log: bytes = b""
    log_size: int = 0
    #: Rows of multiple_results that the sidecar has no memory for.
    omitted: int = 0


@dataclass(frozen=True)
class Stored:
    """What a ConfigMap holds of other pods: its size in bytes, and the logs in it, the oldest first."""

    size: int
    logs: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Patch:
    """A merge patch, and what it leaves out for want of space."""

    content: Mapping[str, Any]
    omitted: int = 0
    #: Logs of other pods that it removes.
    removed: tuple[str, ...] = ()


def deliver(target: ConfigMap, pod: str, report: Report, share: int, patience: float = PATIENCE_SECONDS) -> str:
    """Put a report into the ConfigMap; return why that failed or is incomplete, else an empty string.

    Errors of a busy or restarting server are retried, and what it finds too large gets smaller.
    """
    deadline = time.monotonic() + patience
    pause, refusals = 0.5, 0
    while True:
        try:
            stored = stored_by_others(target.read(), pod)
            patch = fit(pod, report, stored, share)
            target.merge(patch.content)
            return _shortage(target, patch, stored, len(report.rows) + report.omitted)
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


def _shortage(target: ConfigMap, patch: Patch, stored: Stored, rows: int) -> str:
    if not patch.omitted:
        return ""
    return (
        f"{patch.omitted} of {rows} rows don't fit into configmap {target.name}: other pods use {stored.size} of "
        f"{LIMIT} bytes; empty it with `madengine collect --kubernetes --prune`"
    )


def stored_by_others(values: Mapping[str, str], pod: str) -> Stored:
    """Return what the ConfigMap holds of other pods."""
    others = {key: len(value.encode()) for key, value in values.items() if not key.startswith(f"{pod}.")}
    logs = [key for key in others if key.endswith(".log")]
    logs.sort(key=lambda key: _started(values.get(f"{key.removesuffix('.log')}.result.json", "")))
    return Stored(sum(others.values()), [(key, others[key]) for key in logs])


def _started(document: str) -> str:
    try:
        return str(parse_json(document)["results"][0]["started"])
    except (ValueError, LookupError, TypeError):
        return ""


def fit(pod: str, report: Report, stored: Stored, share: int) -> Patch:
    """Return the patch in the space that is left: the log shrinks first, then the result, then rows are left out.

    Before that, logs of other pods go, the oldest first.
    """
    needed = _needed(report)
    free, removed = LIMIT - stored.size, []
    for key, size in stored.logs:
        if free >= min(needed, share):
            break
        free += size
        removed.append(key)
    keys, binary, omitted = _values(report, min(share, free))
    data: dict[str, str | None] = {f"{pod}.{name}": keys.get(name) for name in ("perf.csv", "result.json", "log")}
    content = {
        "data": {**dict.fromkeys(removed), **data},
        "binaryData": {f"{pod}.perf.csv.gz": binary},
    }
    return Patch(content, omitted, tuple(removed))


def _needed(report: Report) -> int:
    """Return the bytes of all rows and of the short result."""
    rows = table(report.rows)
    return min(len(rows), len(_packed(rows))) + len(_json(_short(report.document))) + 300


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
    result = _json(document)
    space -= (len(rows) if packed is None else len(packed)) + len(result)
    keys = {
        "perf.csv": None if packed is not None else rows.decode("utf-8", "backslashreplace"),
        "result.json": result.decode("utf-8", "backslashreplace"),
        "log": _shortened_log(report, space),
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


def _shortened_log(report: Report, space: int) -> str | None:
    tail = report.log[-max(0, space - 300) :] if space > 1000 else b""
    text = tail.decode("utf-8", "replace")
    while len(text.encode()) > max(0, space - 300):  # a byte that is not UTF-8 takes three
        text = text[len(text) // 2 + 1 :]
    if not text:
        return None
    missing = report.log_size - len(tail)
    return f"[{missing} bytes before this are left out; `kubectl logs` has more]\n{text}" if missing else text


def table(rows: Sequence[Mapping[str, str]]) -> bytes:
    """Return the rows as a perf.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row.get(column, "") for column in COLUMNS] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
