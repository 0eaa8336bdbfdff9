"""What a sidecar says of its pod: rows, result and the end of the log, in the room that the ConfigMap has."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from madengine.config.manifest import load_manifest
from madengine.deploy.kubernetes.api import ACCOUNT, REFUSALS, TOO_LARGE, ConfigMap, Refused
from madengine.deploy.kubernetes.pod import LOG, describe_pod, pod_document, pod_result, pod_rows
from madengine.machine.environment import environment_id_of, environment_record
from madengine.results.rows import COLUMNS

CONFIG = Path("/config")
WORKSPACE = Path("/myworkspace")
TERMINATION_MESSAGE = Path("/dev/termination-log")
# A ConfigMap holds 1 MiB; some of it is left to whoever looks after it.
LIMIT = 900 * 1024
LOG_TAIL = 16 * 1024
MESSAGE_LIMIT = 4096
# Less than terminationGracePeriodSeconds.
PATIENCE_SECONDS = 90.0
_LOOK_SECONDS = 0.5


def main(ended: threading.Event) -> int:
    """Wait for the end of the pod's model, which `ended` or its entry.json tells, and report it."""
    environ = os.environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    namespace, name = environ["POD_NAMESPACE"], environ["POD_NAME"]
    target = ConfigMap(server, namespace, environ["MADENGINE_RESULTS"], ACCOUNT)
    began = datetime.now(timezone.utc)
    while not ended.wait(_LOOK_SECONDS) and not (WORKSPACE / "entry.json").exists():
        pass
    report = build_report(environ, WORKSPACE, CONFIG, began)
    problem = delivered(target, name, report, LIMIT // max(1, int(environ.get("MADENGINE_PODS", "1"))))
    _note(report, problem)
    # Started anew by the kubelet, it would only say the same again.
    ended.wait(60)
    return 1 if problem else 0


@dataclass(frozen=True)
class Report:
    """What is said of a pod: its perf.csv rows, its result as a results.json, and the end of its log."""

    rows: Sequence[Mapping[str, str]]
    document: Mapping[str, Any]
    log: bytes = b""
    log_size: int = 0


def build_report(environ: Mapping[str, str], workspace: Path, config: Path, began: datetime) -> Report:
    """What came of the pod that `environ` describes; `began` is when this sidecar was started."""
    if _is_runner(_text(config / "jobs.json"), environ["MADENGINE_JOB"]):
        return _of_runner(environ, workspace)
    index = environ.get("JOB_COMPLETION_INDEX", "")
    it = describe_pod(
        load_manifest(config / "manifest.json"),
        _text(config / "jobs.json"),
        environ["MADENGINE_JOB"],
        namespace=environ["POD_NAMESPACE"],
        name=environ["POD_NAME"],
        run_id=environ.get("MADENGINE_RUN_ID", ""),
        node=environ.get("NODE_NAME", ""),
        index=int(index) if index.isdigit() else None,
    )
    started, seconds = _times(workspace, began)
    came = pod_result(it, workspace, started=started, run_duration=seconds)
    machine = {**environment_record(came.gpus, "kubernetes"), "os": ""}  # this image's says nothing of the node
    identifier = environment_id_of(machine)
    came = replace(came, environment_id=identifier)
    document = pod_document(it, came, {"environment_id": identifier, **machine})
    return Report(pod_rows(it, came), document, *_tail(workspace / LOG))


def delivered(target: ConfigMap, pod: str, report: Report, share: int, patience: float = PATIENCE_SECONDS) -> str:
    """Put a report into the ConfigMap; gives the problem where that was not to be had in time, else nothing.

    What a busy or restarting server answers is tried again, and what it finds too large gets smaller.
    """
    deadline = time.monotonic() + patience
    pause, refusals = 0.5, 0
    while True:
        try:
            room = min(share, LIMIT - target.size_without(f"{pod}."))
            target.merge(fitted(pod, report, room))
            return ""
        except (Refused, OSError) as error:
            problem, code = str(error), getattr(error, "code", 0)
        print(f"report: {problem}", file=sys.stderr, flush=True)  # noqa: T201
        if code in TOO_LARGE:
            share = min(share, LIMIT) // 2
            if share > 256:
                continue
        # Roles may come a moment later than the pod; a right that is missing for longer stays missing.
        refusals += code in REFUSALS
        if refusals > 4 or share <= 256 or time.monotonic() + pause > deadline:
            return problem
        time.sleep(pause * random.uniform(0.7, 1.3))
        pause = min(pause * 2, 10.0)


def fitted(pod: str, report: Report, room: int) -> dict[str, Any]:
    """The merge patch of a report in so many bytes: first the log shrinks, then the result, then rows are left out."""
    table, document = _table(report.rows), dict(report.document)
    keys: dict[str, str | None] = {f"{pod}.{name}": None for name in ("perf.csv", "result.json", "log")}
    binary: dict[str, str | None] = {f"{pod}.perf.csv.gz": None}
    whole = _json(document)
    if len(table) + len(whole) > room:
        for entry in document.get("results", ()):
            entry = {**entry, "metrics": entry.get("metrics", ())[:1]}
            document["results"] = [entry]
        document["truncated"] = "of the result only the first metric is kept"
        whole = _json(document)
    if len(table) + len(whole) > room:
        packed, left_out = _packed(report.rows, room - len(whole) - 200)
        binary[f"{pod}.perf.csv.gz"] = packed
        if left_out:
            document["truncated"] = f"{left_out} of {len(report.rows)} rows are left out"
            whole = _json(document)
        room -= len(packed)
    else:
        keys[f"{pod}.perf.csv"] = table.decode("utf-8", "backslashreplace")
        room -= len(table)
    keys[f"{pod}.result.json"] = whole.decode("utf-8", "backslashreplace")
    keys[f"{pod}.log"] = _shortened(report, room - len(whole))
    return {"data": keys, "binaryData": binary}


def _packed(rows: Sequence[Mapping[str, str]], room: int) -> tuple[str, int]:
    """As many rows as there is room for, compressed, and how many are left out."""
    import base64

    count = len(rows)
    while True:
        text = base64.b64encode(gzip.compress(_table(rows[:count]), mtime=0)).decode()
        if len(text) <= room or not count:
            return text, len(rows) - count
        count = count * 3 // 4


def _shortened(report: Report, room: int) -> str | None:
    tail = report.log[-max(0, min(room - 300, LOG_TAIL)) :] if room > 1000 else b""
    text = tail.decode("utf-8", "replace")
    while len(text.encode()) > max(0, room - 300):  # what is no UTF-8 takes three bytes each
        text = text[len(text) // 2 + 1 :]
    if not text:
        return None
    left = report.log_size - len(tail)
    return f"[{left} bytes before this are left out; `kubectl logs` has more]\n{text}" if left else text


def _is_runner(jobs: str, job: str) -> bool:
    with suppress(ValueError, KeyError, TypeError):
        return bool(json.loads(jobs)[job].get("mode") == "runner")
    return False


def _of_runner(environ: Mapping[str, str], workspace: Path) -> Report:
    """What `madengine run` left in the workspace of a pod that runs a whole manifest."""
    rows: list[dict[str, str]] = []
    with suppress(OSError, csv.Error), (workspace / "perf.csv").open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    job = {"job": environ["MADENGINE_JOB"], "index": None}
    pod = {"namespace": environ["POD_NAMESPACE"], "name": environ["POD_NAME"], **job}
    for path in workspace.glob("runs/*/results.json"):
        with suppress(OSError, ValueError):
            return Report(rows, {**json.loads(path.read_text(encoding="utf-8")), "pod": pod})
    return Report(rows, {"pod": pod, "problem": "" if rows else "madengine left no perf.csv; see the pod's log"})


def _times(workspace: Path, began: datetime) -> tuple[str, float]:
    """When the model's container began, by the first thing that entry.sh writes, and for how long it ran."""
    start = began.timestamp()
    with suppress(OSError):
        start = (workspace / ".gpus").stat().st_mtime
    end = time.time()
    with suppress(OSError):
        end = (workspace / "entry.json").stat().st_mtime
    moment = datetime.fromtimestamp(start, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ"), max(0.0, end - start)


def _tail(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL))
            return file.read(), size
    except OSError:
        return b"", 0


def _note(report: Report, problem: str) -> None:
    """Where the ConfigMap could not be had, the rows stay with the pod, as far as they fit."""
    if not problem:
        print(f"report: {len(report.rows)} rows reported", flush=True)  # noqa: T201
        return
    text = _table(report.rows).decode("utf-8", "backslashreplace")
    print(text, flush=True)  # noqa: T201
    with suppress(OSError):
        TERMINATION_MESSAGE.write_text(f"not reported: {problem}"[:MESSAGE_LIMIT], encoding="utf-8")


def _table(rows: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row.get(column, "") for column in COLUMNS] for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
