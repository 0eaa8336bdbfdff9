"""What the pods of a namespace reported -> rows of perf.csv: from the ConfigMap, else from the pods themselves."""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import io
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from madengine.deploy.kubernetes import attempts
from madengine.deploy.kubernetes.attempts import Attempt
from madengine.deploy.kubernetes.options import RESULTS
from madengine.errors import CommandError
from madengine.files import write_json
from madengine.programs.kubectl import Kubectl
from madengine.records import SUCCESS
from madengine.results.merge import Merged, merge
from madengine.results.perf_csv import append_rows, check_perf_csv
from madengine.results.results_json import SCHEMA_VERSION

logger = logging.getLogger(__name__)

SELECTOR = "app.kubernetes.io/name=madengine"
POLL_SECONDS = 5.0
# An API server that is being upgraded is away for some minutes.
_PATIENCE_SECONDS = 900.0

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Collected:
    """What was found: how many attempts, the merge into perf.csv, the Jobs of which the last one failed, what runs."""

    attempts: int
    merged: Merged
    failed: tuple[str, ...]
    unfinished: tuple[str, ...]


def collected(kubectl: Kubectl, output: Path, results_output: Path, run_id: str, wait: bool) -> Collected:
    """Append to perf.csv what the Jobs of a namespace (of one run, where `run_id` says it) have measured, each once.

    Raises MadengineError where kubectl can't tell, or perf.csv can't be written.
    """
    check_perf_csv(output)
    csv.field_size_limit(sys.maxsize)  # a cell may hold arguments or a reason of any length
    jobs = _jobs(kubectl, run_id)
    if wait:
        jobs = _ended(kubectl, run_id)
    maps = {_name(one): one for one in kubectl.objects("configmaps", SELECTOR)}
    pods = kubectl.objects("pods", SELECTOR)
    found = list(_reported(maps.get(RESULTS, {}), pods, run_id))
    told = {attempt.pod for attempt in found}
    with tempfile.TemporaryDirectory(prefix="madengine-") as scratch:
        asked = attempts.PodInspector(kubectl, maps, Path(scratch))
        mine = {_name(job): job for job in jobs}
        for pod in pods:
            job = attempts.job_of(pod)
            if job in mine and _name(pod) not in told:
                found += asked.of_pod(pod, mine[job])
        have_rows = {attempt.job for attempt in found}
        for one in jobs:
            if _name(one) not in have_rows and condition(one):
                found += asked.of_job(one)
        unfinished = tuple(name for name, job in mine.items() if not condition(job))
        for attempt in found:
            logger.info(f"{attempt.pod or attempt.job}: {attempt.summary} (from {attempt.channel})")
        merged = _merged(_unknown(found, output), Path(scratch) / "found", output, results_output)
    return Collected(len(found), merged, _failed(found), unfinished)


def condition(job: Object) -> Object:
    """The condition that says that a Job has ended; empty where it goes on."""
    for one in (job.get("status") or {}).get("conditions") or ():
        if one.get("type") in ("Complete", "Failed") and one.get("status") == "True":
            found: Object = one
            return found
    return {}


def _jobs(kubectl: Kubectl, run_id: str) -> list[Object]:
    jobs = kubectl.objects("jobs", SELECTOR)
    if not run_id:
        return jobs
    return [job for job in jobs if (job["metadata"].get("annotations") or {}).get("madengine/run-id") == run_id]


def _ended(kubectl: Kubectl, run_id: str) -> list[Object]:
    """The Jobs, once all have ended: each has a deadline of its own, and Ctrl-C ends the waiting."""
    going: list[str] | None = None
    heard = time.monotonic()
    while True:
        try:
            jobs = _jobs(kubectl, run_id)
            heard = time.monotonic()
        except CommandError as error:
            if time.monotonic() - heard > _PATIENCE_SECONDS:
                raise
            logger.info(f"{error}; asking again")
            time.sleep(POLL_SECONDS)
            continue
        still = [_name(job) for job in jobs if not condition(job)]
        if not still:
            return jobs
        if still != going:
            logger.info(
                f"waiting for {len(still)} of {len(jobs)} Jobs: {', '.join(still[:5])}{' …' if len(still) > 5 else ''}"
            )
        going = still
        time.sleep(POLL_SECONDS)


# --- the ConfigMap ---


def _reported(configmap: Object, pods: Iterable[Object], run_id: str) -> Iterator[Attempt]:
    """What the sidecars have put into the ConfigMap."""
    data, binary = configmap.get("data") or {}, configmap.get("binaryData") or {}
    states = {_name(pod): attempts.terminated(pod) for pod in pods}
    for key in sorted(data):
        name = key.removesuffix(".result.json")
        if name == key:
            continue
        try:
            document = json.loads(data[key])
            rows = _rows(data.get(f"{name}.perf.csv"), binary.get(f"{name}.perf.csv.gz"))
            attempt = attempts.from_document(name, document, rows, states.get(name) or {})
        except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, csv.Error, binascii.Error) as error:
            logger.info(f"configmap {RESULTS}: {key} is broken: {error}; asking the pod")
            continue
        if document.get("truncated"):
            logger.info(f"{name}: {document['truncated']}")
        if not run_id or document.get("run_id") == run_id:
            yield attempt


def _rows(table: str | None, packed: str | None) -> list[dict[str, str]]:
    text = table if packed is None else gzip.decompress(base64.b64decode(packed)).decode()
    return [dict(row) for row in csv.DictReader(io.StringIO(text or "", newline=""))]


# --- into perf.csv ---


def _unknown(found: Iterable[Attempt], output: Path) -> list[Attempt]:
    """The attempts that perf.csv has no row of, from whichever channel that came."""
    known = set()
    with suppress(FileNotFoundError), output.open(newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        known = {(row.get("run_id"), attempts.origin(row.get("engine") or "")) for row in csv.DictReader(file)}
    return [
        attempt
        for attempt in found
        if not any((row["run_id"], attempts.origin(row["engine"])) in known for row in attempt.rows)
    ]


def _merged(found: Iterable[Attempt], folder: Path, output: Path, results_output: Path) -> Merged:
    found = list(found)
    folder.mkdir()
    append_rows(folder / "perf.csv", [row for attempt in found for row in attempt.rows])
    runs = [attempt.document for attempt in found if attempt.rows and "results" in attempt.document]
    if runs:
        write_json(folder / "results.json", {"schema_version": SCHEMA_VERSION, "runs": runs})
    merged = merge([folder] if any(folder.iterdir()) else [], output, results_output)
    # A copy of these rows came out of results.json: a name in the scratch folder helps nobody.
    return replace(merged, problems=tuple(problem.replace(f"{folder}/", "") for problem in merged.problems))


def _failed(found: Iterable[Attempt]) -> tuple[str, ...]:
    """The models whose last attempt, of each index of a Job, has a row that is no success."""
    last: dict[tuple[str, Any], Attempt] = {}
    for attempt in sorted(found, key=lambda one: one.started):
        last[attempt.job, attempt.index] = attempt
    return tuple(attempt.job for attempt in last.values() if any(row["status"] != SUCCESS for row in attempt.rows))


def _name(one: Object) -> str:
    name: str = one["metadata"]["name"]
    return name
