"""The results of a namespace's pods -> rows of perf.csv: from the ConfigMap, else from the pods themselves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from madengine import programs
from madengine.deploy.kubernetes import SELECTOR
from madengine.deploy.kubernetes.attempts import Attempt, PodInspector, job_of, origin
from madengine.deploy.kubernetes.delivery import LIMIT
from madengine.deploy.kubernetes.fetching import Fetcher
from madengine.deploy.kubernetes.objects import PRUNED, ConfigMapData, JobStatus, PodStatus, maps_of, pods_of
from madengine.deploy.kubernetes.options import LOGS, RESULTS
from madengine.deploy.kubernetes.ranks import join_ranks
from madengine.deploy.kubernetes.reports import Reports, read_reports
from madengine.deploy.kubernetes.waiting import Watch, is_lost, lost
from madengine.files import csv_rows, write_json
from madengine.process import private_folder
from madengine.programs.kubectl import Kubectl
from madengine.results.merge import Merged, merge
from madengine.results.perf_csv import append_rows, check_perf_csv
from madengine.results.results_json import SCHEMA_VERSION

logger = logging.getLogger(__name__)

_KEYS = ("perf.csv", "result.json", "log")
_MIN_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class Collected:
    """What was collected."""

    attempts: int
    merged: Merged
    #: The Jobs whose last attempt failed, and those that are unfinished.
    failed: tuple[str, ...]
    unfinished: tuple[str, ...]
    #: The pods whose reports in the ConfigMap are in perf.csv now, and the Jobs that have ended and are in it.
    pods: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()


def collect_results(kubectl: Kubectl, output: Path, results_output: Path, run_id: str, wait: bool) -> Collected:
    """Append to perf.csv what the Jobs of a namespace have measured, each result once; of one run, if `run_id` is set.

    What can't be read costs only itself, and is a problem of the outcome. Raises MadengineError if kubectl fails, or
    perf.csv can't be written.
    """
    check_perf_csv(output)
    fetcher = Fetcher(kubectl, output.absolute().parent)
    watch = Watch(kubectl, run_id, on_look=fetcher.fetch)
    jobs = {job.name: job for job in (watch.wait() if wait else watch.jobs())}
    maps = {data.name: data for data in maps_of(kubectl.objects("configmaps", SELECTOR))}
    pods = {status.name: status for status in pods_of(kubectl.objects("pods", SELECTOR))}
    jobs = {name: _ended_if_lost(job, pods.values()) for name, job in jobs.items()}
    watch.look(jobs.values(), pods.values())
    results = maps.get(RESULTS, ConfigMapData(RESULTS, {}, {}))
    reports = read_reports(results, pods, jobs, run_id)
    with private_folder() as scratch:
        inspector = PodInspector(kubectl, maps, Path(scratch), watch)
        attempts, problems = _attempts(reports, jobs, pods, inspector)
        attempts = join_ranks([*attempts, *_of_silent_jobs(attempts, jobs, inspector, watch)], jobs)
        for attempt in attempts:
            logger.info(f"{attempt.pod or attempt.job}: {attempt.summary} (from {attempt.channel})")
        _log_shortage(results, reports)
        merged = _merge(_unknown(attempts, output), Path(scratch) / "collected", output, results_output)
    removable = _removable(reports, attempts, jobs)
    return Collected(
        attempts=len(attempts),
        merged=replace(merged, problems=(*problems, *_of_files(fetcher), *merged.problems)),
        failed=_failed(attempts),
        unfinished=tuple(job.name for job in jobs.values() if not job.condition),
        pods=tuple(report.pod for report in removable),
        jobs=tuple(sorted({job.name for one in attempts if (job := job_of(one, jobs)) and job.condition})),
    )


def _of_files(fetcher: Fetcher) -> list[str]:
    return [f"{pod}: {problem}" for pod, problem in fetcher.problems.items()]


def _ended_if_lost(job: JobStatus, pods: Iterable[PodStatus]) -> JobStatus:
    """Return a Job that only pods on lost nodes keep from ending as one that has failed."""
    pods = list(pods)
    if job.condition or not is_lost(job, pods):
        return job
    where = next(lost(pod) for pod in pods if pod.job == job.name and not pod.ended)
    return replace(job, condition="Failed", reason=f"{job.failing}; {where}", lost=where)


def _attempts(
    reports: Reports, jobs: Mapping[str, JobStatus], pods: Mapping[str, PodStatus], inspector: PodInspector
) -> tuple[list[Attempt], list[str]]:
    """Return an attempt for each pod that says anything, and a line for each whose results are lost."""
    partial = {attempt.pod: attempt for attempt in reports.attempts if attempt.omitted}
    attempts = {attempt.pod: attempt for attempt in reports.attempts if not attempt.omitted}
    for status in pods.values():
        # What is pruned was collected, and its input may be gone.
        if status.job in jobs and status.name not in attempts and not jobs[status.job].pruned:
            attempt = inspector.of_pod(status, jobs[status.job])
            least = len(partial[status.name].rows) if status.name in partial else 0
            if attempt and len(attempt.rows) >= least:
                attempts[status.name] = attempt
    problems = []
    for name, attempt in partial.items():
        if name not in attempts:
            attempts[name] = attempt
            problems.append(f"{name}: {attempt.omitted} rows are lost: they didn't fit into configmap {RESULTS}")
    for name, problem in reports.problems.items():
        reason = f"invalid report in configmap {RESULTS}: {problem}"
        logger.info(f"{name}: {reason}")
        if name not in attempts:
            job = _incomplete_job(name, jobs, attempts.values())
            lost = inspector.of_job(job, reason, name) if job else None
            if lost:
                attempts[name] = lost
            elif not inspector.watch.run_id:
                problems.append(f"{name}: {reason}")
    return [*attempts.values()], problems


def _incomplete_job(pod: str, jobs: Mapping[str, JobStatus], attempts: Iterable[Attempt]) -> JobStatus | None:
    """Return the Job that has ended with fewer attempts than it needs, if this may be one of its pods."""
    job = max(
        (job for job in jobs.values() if pod.startswith(f"{job.name}-")), key=lambda job: len(job.name), default=None
    )
    if job is None or not job.condition:
        return None
    count = sum((attempt.job, attempt.run_id) == (job.name, job.run_id) for attempt in attempts)
    return job if count < job.completions else None


def _of_silent_jobs(
    attempts: Iterable[Attempt], jobs: Mapping[str, JobStatus], inspector: PodInspector, watch: Watch
) -> list[Attempt]:
    """Return an attempt for each Job that has ended and has none."""
    heard = {(attempt.job, attempt.run_id) for attempt in attempts}
    silent = [job for job in jobs.values() if job.condition and not job.pruned and (job.name, job.run_id) not in heard]
    watch.look_back(job for job in silent if not job.lost)
    failures = (
        inspector.of_job(job, f"lost: {job.lost}; {job.reason.partition('; ')[0]}" if job.lost else "")
        for job in silent
    )
    return [attempt for attempt in failures if attempt]


def _log_shortage(results: ConfigMapData, reports: Reports) -> None:
    """Say what fills the ConfigMap, and how to empty it, if reports don't fit into it."""
    sizes = results.sizes
    total = sum(sizes.values())
    if total < LIMIT * 0.9 and not any(attempt.omitted for attempt in reports.attempts):
        return
    logger.info(
        f"configmap {RESULTS} is full: {total} of {LIMIT} bytes, of {len(reports.attempts)} pods; empty it with "
        "`madengine collect --kubernetes --prune`"
    )


# --- into perf.csv ---


def _unknown(attempts: Iterable[Attempt], output: Path) -> list[Attempt]:
    """Return the attempts that perf.csv has no row of, from any channel."""
    known = set()
    with suppress(FileNotFoundError), output.open(newline="", encoding="utf-8-sig", errors="backslashreplace") as file:
        known = {(row.get("run_id"), origin(row.get("engine") or "")) for row in csv_rows(file)}
    return [
        attempt
        for attempt in attempts
        if not any((row["run_id"], origin(row["engine"])) in known for row in attempt.rows)
    ]


def _merge(attempts: Iterable[Attempt], folder: Path, output: Path, results_output: Path) -> Merged:
    attempts = [attempt for attempt in attempts if attempt.rows]
    folder.mkdir()
    append_rows(folder / "perf.csv", [row for attempt in attempts for row in attempt.rows])
    runs = [attempt.document for attempt in attempts if "results" in attempt.document]
    if runs:
        write_json(folder / "results.json", {"schema_version": SCHEMA_VERSION, "runs": runs})
    merged = merge([folder] if any(folder.iterdir()) else [], output, results_output)
    # The rows came out of results.json: a path in the temporary folder helps no one.
    return replace(merged, problems=tuple(problem.replace(f"{folder}/", "") for problem in merged.problems))


def _failed(attempts: Iterable[Attempt]) -> tuple[str, ...]:
    """Return the Jobs of which the last attempt, of any index, failed."""
    last: dict[tuple[str, Any], Attempt] = {}
    for attempt in sorted(attempts, key=lambda one: one.started):
        last[attempt.job, attempt.index] = attempt
    return tuple(attempt.job for attempt in last.values() if attempt.failed)


# --- emptying the ConfigMap ---


def _removable(reports: Reports, attempts: Iterable[Attempt], jobs: Mapping[str, JobStatus]) -> list[Attempt]:
    """Return the reports that are not needed any more; those of several nodes are, until their Job has ended."""
    joined = {attempt.pod for attempt in attempts}
    return [
        report
        for report in reports.attempts
        if report.pod in joined or (report.nodes > 1 and ((job := job_of(report, jobs)) is None or job.condition))
    ]


def prune(kubectl: Kubectl, collected: Collected) -> list[str]:
    """Remove from the cluster what `collected` has brought into perf.csv; return a line for each removal.

    These are the reports and logs in the ConfigMaps, and the input ConfigMaps of Jobs that are gone or collected.
    """
    maps = {data.name: data for data in maps_of(kubectl.objects("configmaps", SELECTOR))}
    lines = []
    if collected.jobs:
        programs.ask(kubectl("annotate", "jobs", "--overwrite", *collected.jobs, f"{PRUNED}=true"))
    if collected.pods:
        keys = {f"{pod}.{name}" for pod in collected.pods for name in (*_KEYS, f"{_KEYS[0]}.gz")}
        _remove_keys(kubectl, RESULTS, keys)
        logs = maps.get(LOGS, ConfigMapData(LOGS, {}, {})).texts
        if old := {key for key in logs for pod in collected.pods if key.endswith(f".{pod}.log")}:
            _remove_keys(kubectl, LOGS, old)
        lines.append(f"configmap {RESULTS}: removed the reports of {len(collected.pods)} pods")
    if unused := _unused(maps.values(), Watch(kubectl).jobs()):
        programs.ask(kubectl("delete", "configmap", "--ignore-not-found", *unused))
        lines += [f"removed configmap {name}" for name in unused]
    return lines


def _remove_keys(kubectl: Kubectl, name: str, keys: Iterable[str]) -> None:
    nothing = dict.fromkeys(sorted(keys))
    words = ("patch", "configmap", name, "--type=merge", "--patch-file=/dev/stdin")
    programs.ask(kubectl(*words), stdin=json.dumps({"data": nothing, "binaryData": nothing}))


def _unused(maps: Iterable[ConfigMapData], jobs: Iterable[JobStatus]) -> list[str]:
    """Return the input ConfigMaps that no Job needs any more: it is gone, or has ended and is collected."""
    jobs = list(jobs)
    in_use = {job.config for job in jobs if not (job.condition and job.pruned)}
    collected = {job.config for job in jobs} - in_use
    latest = (datetime.now(timezone.utc) - _MIN_AGE).strftime("%Y-%m-%dT%H:%M:%SZ")
    # A new one may be applied a moment before its Jobs.
    return [
        data.name
        for data in maps
        if data.component == "input"
        and data.name not in in_use
        and (data.name in collected or (data.created and data.created < latest))
    ]
