"""The reports of sidecars in the ConfigMap of the results -> attempts."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from madengine.deploy.kubernetes.attempts import Attempt, job_of, stop_reason
from madengine.deploy.kubernetes.names import check_identifier, one_line
from madengine.deploy.kubernetes.objects import ConfigMapData, JobStatus, PodStatus
from madengine.deploy.kubernetes.pod_outcome import OUT_OF_MEMORY
from madengine.errors import MadengineError
from madengine.files import csv_reader, parse_json
from madengine.records import FAILURE, SKIPPED, SUCCESS
from madengine.results.numbers import is_number

_TABLE_LIMIT = 64 * 2**20  # bytes
_COUNT_LIMIT = 1_000_000
_NEEDED = ("model", "performance", "metric", "status", "reason", "engine", "run_id")


@dataclass
class Reports:
    """The attempts in a ConfigMap, and why others can't be read, by their pods."""

    attempts: list[Attempt] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def read_reports(
    results: ConfigMapData, pods: Mapping[str, PodStatus], jobs: Mapping[str, JobStatus], run_id: str
) -> Reports:
    """Return the reports of a run, or of all runs if `run_id` is empty."""
    reports = Reports()
    for key in sorted(results.texts):
        name = key.removesuffix(".result.json")
        if name == key:
            continue
        try:
            attempt = _attempt(check_identifier("name of a pod", name), results)
        except (MadengineError, ValueError, csv.Error, binascii.Error, zlib.error) as error:
            reports.problems[name] = one_line(str(error))
            continue
        if not run_id or attempt.run_id == run_id:
            reports.attempts.append(_completed(attempt, pods.get(name), job_of(attempt, jobs)))
    return reports


def _attempt(name: str, results: ConfigMapData) -> Attempt:
    document = parse_json(results.texts[f"{name}.result.json"])
    if not isinstance(document, dict):
        raise ValueError(f"result: expected an object, got {document!r:.40}")
    if "results" in document:
        _check_run(document)
    pod = document.get("pod")
    if not isinstance(pod, dict):
        raise ValueError(f"pod: expected an object, got {pod!r:.40}")
    rows = _rows(results.texts.get(f"{name}.perf.csv"), results.binary.get(f"{name}.perf.csv.gz"))
    nodes = pod.get("nodes", rows[0].get("nnodes") if rows else 1)
    return Attempt(
        job=check_identifier("name of a Job", pod.get("job")),
        pod=name,
        index=None if pod.get("index") is None else _count("index", pod["index"]),
        channel="configmap",
        rows=[{**row, "engine": f"{row['engine']} (configmap)"} for row in rows],
        document=document,
        nodes=_count("nodes", int(nodes) if isinstance(nodes, str) and nodes.isdecimal() else nodes),
        omitted=_omitted(document),
    )


def _check_run(document: Mapping[str, Any]) -> None:
    """Check that the document is a run as results.json has it: one that is not would cost all others."""
    check_identifier("run id", document.get("run_id"))
    if not isinstance(document.get("environment"), dict):
        raise ValueError("environment: expected an object")
    results = document["results"]
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise ValueError("results: expected a list of objects")


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _COUNT_LIMIT:
        raise ValueError(f"{name}: expected a number from 0 to {_COUNT_LIMIT}, got {value!r:.40}")
    return value


def _omitted(document: Mapping[str, Any]) -> int:
    """Return how many rows are left out; older sidecars say it in words."""
    number, _, words = str(document.get("truncated", "")).partition(" ")
    if "rows_omitted" in document:
        return _count("rows_omitted", document["rows_omitted"])
    return int(number) if words.endswith("rows are left out") and number.isdecimal() and len(number) < 10 else 0


def _rows(plain: str | None, packed: str | None) -> list[dict[str, str]]:
    text = plain if packed is None else _unpack(packed)
    reader = csv_reader(io.StringIO(text or "", newline=""))
    columns = next(reader, [])
    if missing := [name for name in _NEEDED if name not in columns and columns]:
        raise ValueError(f"perf.csv: no column {missing[0]}")
    return [_row(columns, cells, reader.line_num) for cells in reader if cells]


def _unpack(packed: str) -> str:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    content = unpacker.decompress(base64.b64decode(packed, validate=True), _TABLE_LIMIT)
    if not unpacker.eof:
        raise ValueError(f"perf.csv.gz: incomplete, or more than {_TABLE_LIMIT} bytes")
    return content.decode()


def _row(columns: list[str], cells: list[str], line: int) -> dict[str, str]:
    if len(cells) != len(columns):
        raise ValueError(f"perf.csv: line {line}: expected {len(columns)} cells, got {len(cells)}")
    row = dict(zip(columns, cells, strict=True))
    if row["status"] not in (SUCCESS, FAILURE, SKIPPED):
        raise ValueError(f"perf.csv: line {line}: unknown status {row['status']!r:.40}")
    if row["status"] == SUCCESS and not is_number(row["performance"]):
        raise ValueError(f"perf.csv: line {line}: performance {row['performance']!r:.40} is not a number")
    return row


def _completed(attempt: Attempt, status: PodStatus | None, job: JobStatus | None) -> Attempt:
    """Return the attempt with what only the cluster knows: who killed or stopped it, and the digest that ran."""
    cells: dict[str, str] = {}
    reason = attempt.rows[0]["reason"] if attempt.rows else ""
    ending = status.ending if status else None
    if reason.startswith("killed before its script") and ending and ending.out_of_memory:
        cells = {"reason": OUT_OF_MEMORY}
    elif reason.startswith(("stopped before its script", "killed before its script")) and (
        why := stop_reason(status, job)
    ):
        cells = {"reason": f"stopped: {why}"}
    if ending and ending.image_digest and attempt.rows and not attempt.rows[0].get("image_digest"):
        cells["image_digest"] = ending.image_digest
    if ending and cells.get("reason"):
        code = ending.exit_code
        return attempt.with_rows({**cells, "exit_code": str(code)}, {**cells, "exit_code": code})
    return attempt.with_rows(cells, cells) if cells else attempt
