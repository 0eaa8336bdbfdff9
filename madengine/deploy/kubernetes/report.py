"""What a sidecar reports of its pod: rows, result and the end of the log."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from madengine.config.manifest import load_manifest
from madengine.deploy.kubernetes.api import ACCOUNT, ConfigMap
from madengine.deploy.kubernetes.delivery import LIMIT, Report, deliver, deliver_log, table
from madengine.deploy.kubernetes.gpu_figures import GpuFigures
from madengine.deploy.kubernetes.gpu_notes import noted_gpus
from madengine.deploy.kubernetes.masking import HIDDEN, hidden_values, masked, masked_document, masked_row
from madengine.deploy.kubernetes.pod import Pod, describe_pod
from madengine.deploy.kubernetes.pod_files import CLAIM, bring_files, wait_until_fetched
from madengine.deploy.kubernetes.pod_outcome import pod_document, pod_result, pod_rows
from madengine.deploy.kubernetes.remains import ROWS_LIMIT, log_tail, note, read_workspace
from madengine.errors import MadengineError
from madengine.files import csv_rows, open_untrusted, parse_json, read_untrusted, untrusted_folder
from madengine.machine.environment import environment_id_of, environment_record, named_record
from madengine.records import Artifact

CONFIG = Path("/config")
WORKSPACE = Path("/myworkspace")
TERMINATION_MESSAGE = Path("/dev/termination-log")
#: characters of a log that are reported; before that, more of it is read, which may begin with the rest of a secret
LOG_TAIL = 16 * 1024
LOG_READ = 2 * LOG_TAIL
MESSAGE_LIMIT = 4096
# In bytes, for what `madengine run` leaves in a runner's pod.
_TABLE_LIMIT = 64 * 2**20
_RESULTS_LIMIT = 8 * 2**20
_POLL_SECONDS = 0.5


def main(ended: threading.Event) -> int:
    """Wait for the end of the pod's model, signalled by `ended` or by its entry.json, and report it."""
    environ = os.environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    name = environ["POD_NAME"]
    target = ConfigMap(server, environ["POD_NAMESPACE"], environ["MADENGINE_RESULTS"], ACCOUNT)
    share = LIMIT // max(1, int(environ.get("MADENGINE_PODS", "1")))
    began = datetime.now(timezone.utc)
    secrets: tuple[str, ...] = ()
    try:
        secrets = hidden_values(HIDDEN)
        figures = gpu_figures(environ, WORKSPACE, CONFIG)
        while not ended.wait(_POLL_SECONDS) and not os.path.lexists(WORKSPACE / "entry.json"):
            if figures:
                figures.start_once_noted()
        report = hidden(build_report(environ, WORKSPACE, CONFIG, began, figures), secrets)
        problem = deliver(target, name, report, share)
    except (MadengineError, OSError) as error:
        report, problem = Report((), {}), str(error)
    _note(report, problem)
    logs = replace(target, name=environ.get("MADENGINE_LOGS", "madengine-logs"))
    if log_problem := deliver_log(logs, name, report, began.strftime("%Y%m%dT%H%M%SZ")):
        print(f"report: the log: {log_problem}", flush=True)  # noqa: T201
    _bring_home(environ, report, lambda whole: deliver(target, name, hidden(whole, secrets), share))
    # If the kubelet started it again, it would only report the same.
    ended.wait(60)
    return 1 if problem else 0


def _bring_home(environ: Mapping[str, str], report: Report, deliver_again: Callable[[Report], str]) -> None:
    """Bring the files home that the pod's facts name, report their sizes, and wait until they are fetched."""
    if not report.document.get("results"):
        return
    try:
        jobs = _jobs(CONFIG)
        if _is_runner(jobs, environ["MADENGINE_JOB"]):
            return
        pod = _pod(environ, jobs, CONFIG)
        claim = CLAIM if CLAIM.is_dir() else None
        files = bring_files(pod, WORKSPACE, noted_gpus(note(WORKSPACE, ".gpus"), on_node=True), claim)
    except (MadengineError, OSError) as error:
        print(f"report: files: {error}", flush=True)  # noqa: T201
        return
    if files:
        where = f"{pod.run_id}/{pod.name} of the claim" if claim else "pod"
        if problem := deliver_again(with_files(report, files, where)):
            print(f"report: files: {problem}", flush=True)  # noqa: T201
        seconds = float(environ.get("MADENGINE_ARTIFACTS_WAIT", "0"))
        if seconds and not wait_until_fetched(WORKSPACE, seconds):
            print(f"report: nobody fetched {len(files)} files within {seconds:.0f} s", flush=True)  # noqa: T201


def with_files(report: Report, files: Sequence[Artifact], where: str) -> Report:
    """Return the report with the run's files, and where they are."""
    [result, *others] = report.document["results"]
    named = {**result, "artifacts": [asdict(file) for file in files]}
    pod = {**report.document["pod"], "artifacts": where}
    return replace(report, document={**report.document, "pod": pod, "results": [named, *others]})


def _jobs(config: Path) -> str:
    return (config / "jobs.json").read_text(encoding="utf-8")


def gpu_figures(environ: Mapping[str, str], workspace: Path, config: Path) -> GpuFigures | None:
    """Return what samples the pod's GPUs; None for a runner, which does that itself."""
    jobs = _jobs(config)
    if _is_runner(jobs, environ["MADENGINE_JOB"]):
        return None
    return GpuFigures(_pod(environ, jobs, config), workspace, environ)


def build_report(
    environ: Mapping[str, str], workspace: Path, config: Path, began: datetime, figures: GpuFigures | None = None
) -> Report:
    """Return the report of the pod that `environ` describes; `began` is when this sidecar started."""
    jobs = _jobs(config)
    if _is_runner(jobs, environ["MADENGINE_JOB"]):
        return _of_runner(environ, workspace)
    pod = _pod(environ, jobs, config)
    cost = figures.stop() if figures else None
    if figures and figures.problem:
        print(f"report: GPU telemetry incomplete: {figures.problem}", flush=True)  # noqa: T201
    started, seconds = _times(workspace, began)
    remains = read_workspace(workspace, pod)
    result = pod_result(pod, remains, started=started, run_duration=seconds, cost=cost)
    machine = {**environment_record(result.gpus, "kubernetes"), "os": ""}  # this image's is not the node's
    result = replace(result, environment_id=environment_id_of(machine))
    document = pod_document(pod, result, named_record(machine))
    log, size = log_tail(workspace, LOG_READ)
    return Report(pod_rows(pod, result), document, log.decode("utf-8", "replace"), size, remains.measurement.omitted)


def _pod(environ: Mapping[str, str], jobs: str, config: Path) -> Pod:
    index = environ.get("JOB_COMPLETION_INDEX", "")
    return describe_pod(
        load_manifest(config / "manifest.json"),
        jobs,
        environ["MADENGINE_JOB"],
        namespace=environ["POD_NAMESPACE"],
        name=environ["POD_NAME"],
        run_id=environ.get("MADENGINE_RUN_ID", ""),
        node=environ.get("NODE_NAME", ""),
        index=int(index) if index.isdigit() else None,
    )


def hidden(report: Report, secrets: Sequence[str]) -> Report:
    """Return the report without secrets, and its log at its length."""
    if secrets:
        rows = [masked_row(row, secrets) for row in report.rows]
        report = replace(report, rows=rows, document=masked_document(report.document, secrets))
    return replace(report, log=masked(report.log, secrets)[-LOG_TAIL:])


def _is_runner(jobs: str, job: str) -> bool:
    with suppress(ValueError, KeyError, TypeError):
        return bool(json.loads(jobs)[job].get("mode") == "runner")
    return False


def _of_runner(environ: Mapping[str, str], workspace: Path) -> Report:
    """Return what `madengine run` left in the workspace of a pod that runs a whole manifest.

    Its machine is the node: the container's hostname is the pod's name.
    """
    pod, node = environ["POD_NAME"], environ.get("NODE_NAME", "")
    rows, omitted = _runner_rows(workspace)
    where = {"namespace": environ["POD_NAMESPACE"], "name": pod, "job": environ["MADENGINE_JOB"], "index": None}
    document = _runner_document(workspace) or {
        "problem": "" if rows else "madengine left no perf.csv; see the pod's log"
    }
    renamed = [{**row, "machine_name": node} if node and row.get("machine_name") == pod else row for row in rows]
    return Report(renamed, {**_with_machine(document, pod, node), "pod": where}, omitted=omitted)


def _runner_rows(workspace: Path) -> tuple[list[dict[str, str]], int]:
    rows: list[dict[str, str]] = []
    omitted = 0
    with (
        suppress(OSError, ValueError, csv.Error),
        open_untrusted(workspace, "perf.csv", _TABLE_LIMIT) as file,
        TextIOWrapper(file, "utf-8", newline="") as text,
    ):
        for row in csv_rows(text):
            if len(rows) < ROWS_LIMIT:
                rows.append({name: cell for name, cell in row.items() if isinstance(name, str) and cell})
            else:
                omitted += 1
    return rows, omitted


def _runner_document(workspace: Path) -> dict[str, Any]:
    names: list[str] = []
    with suppress(OSError), untrusted_folder(workspace, "runs") as folder, os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        with suppress(OSError, ValueError):
            document = parse_json(
                read_untrusted(workspace, Path("runs", name, "results.json"), _RESULTS_LIMIT).decode()
            )
            if _is_run(document):
                return dict(document)
    return {}


def _is_run(document: Any) -> bool:
    results = document.get("results") if isinstance(document, dict) else None
    return (
        isinstance(results, list)
        and isinstance(document.get("environment"), dict)
        and all(isinstance(result, dict) and isinstance(result.get("metrics"), list) for result in results)
    )


def _with_machine(document: Mapping[str, Any], hostname: str, node: str) -> dict[str, Any]:
    def renamed(value: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**value, "machine_name": node} if value.get("machine_name") == hostname else value

    if not node or "results" not in document:
        return dict(document)
    results = [renamed(result) for result in document["results"]]
    return {**document, "environment": renamed(document["environment"]), "results": results}


def _times(workspace: Path, began: datetime) -> tuple[str, float]:
    """Return when the model's container began, by the first file that entry.sh writes, and its duration."""
    start, end = began.timestamp(), time.time()
    with suppress(OSError):
        start = (workspace / ".gpus").lstat().st_mtime
    with suppress(OSError):
        end = (workspace / "entry.json").lstat().st_mtime
    with suppress(OverflowError, ValueError):
        moment = datetime.fromtimestamp(start, timezone.utc)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ"), max(0.0, end - start)
    return began.strftime("%Y-%m-%dT%H:%M:%SZ"), 0.0


def _note(report: Report, problem: str) -> None:
    """Print the rows that the ConfigMap doesn't have, and say so in the termination message."""
    if not problem:
        print(f"report: {len(report.rows)} rows reported", flush=True)  # noqa: T201
        return
    print(table(report.rows).decode("utf-8", "backslashreplace"), flush=True)  # noqa: T201
    with suppress(OSError):
        TERMINATION_MESSAGE.write_text(f"not reported: {problem}"[:MESSAGE_LIMIT], encoding="utf-8")
