"""One pod's attempt at a model: what its sidecar reported, else what the pod, its log or its Job say."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madengine.config.manifest import Manifest, load_manifest
from madengine.deploy.kubernetes.names import one_line
from madengine.deploy.kubernetes.objects import ConfigMapData, JobStatus, PodStatus
from madengine.deploy.kubernetes.pod import Pod, describe_pod
from madengine.deploy.kubernetes.pod_outcome import pod_document, pod_result, pod_rows
from madengine.deploy.kubernetes.remains import Measurement, Remains, parse_report, scan_text
from madengine.deploy.kubernetes.waiting import Watch
from madengine.errors import MadengineError
from madengine.files import parse_json
from madengine.programs.engine_answers import State
from madengine.programs.kubectl import Kubectl
from madengine.records import FAILURE, SUCCESS, RunResult

logger = logging.getLogger(__name__)

MARK = ":::MADENGINE "
_STOPPED = (137, 143)


@dataclass(frozen=True)
class Attempt:
    """A pod's rows and result; a Job that never had a pod is an attempt too."""

    job: str
    pod: str
    index: int | None
    #: Where they come from: configmap, termination message, log or job.
    channel: str
    rows: Sequence[Mapping[str, str]]
    document: Mapping[str, Any] = field(default_factory=dict)
    #: How many pods are one run.
    nodes: int = 1
    #: Rows that did not fit into the ConfigMap.
    omitted: int = 0

    @property
    def run_id(self) -> str:
        return str(self.document.get("run_id", ""))

    @property
    def started(self) -> str:
        return max((row.get("started", "") for row in self.rows), default="")

    @property
    def failed(self) -> bool:
        return any(row["status"] != SUCCESS for row in self.rows)

    @property
    def machine(self) -> str:
        """The name of its node."""
        environment = self.document.get("environment") or {}
        return str(environment.get("machine_name", ""))

    @property
    def summary(self) -> str:
        """Its outcome in one line."""
        outcomes = [_outcome(row) for row in self.rows]
        if self.omitted and not outcomes:
            return f"{self.omitted} rows are lost: they didn't fit into the configmap"
        more = f" (and {len(outcomes) - 1} rows more)" if len(outcomes) > 1 else ""
        return one_line(f"{outcomes[0]}{more}") if outcomes else "done; another pod of its run measures"

    def with_rows(self, cells: Mapping[str, str], fields: Mapping[str, Any]) -> Attempt:
        """Return the attempt with other cells in its rows, and other fields in its results."""
        results = [{**result, **fields} for result in self.document.get("results", ())]
        document = {**self.document, "results": results} if results else self.document
        return replace(self, rows=[{**row, **cells} for row in self.rows], document=document)


def _outcome(row: Mapping[str, str]) -> str:
    measured = f"{row['performance']} {row['metric']}"
    return f"{row['status']} {row['reason'] or measured}".strip()


def job_of(attempt: Attempt, jobs: Mapping[str, JobStatus]) -> JobStatus | None:
    """Return the attempt's Job; None if that is gone, or another run has a Job of this name now."""
    job = jobs.get(attempt.job)
    return job if job and job.run_id == attempt.run_id else None


def origin(engine: str) -> str:
    """Return the pod in a row's `engine`, without the channel of the row."""
    return engine.partition(" (")[0]


def stop_reason(status: PodStatus | None, job: JobStatus | None) -> str:
    """Return why the cluster stopped a pod; empty if it didn't or doesn't say so."""
    if status and status.reason:
        return status.reason
    return job.reason if job and job.reason.startswith("DeadlineExceeded") else ""


@dataclass
class PodInspector:
    """Asks pods and Jobs, and the input ConfigMaps that describe them."""

    kubectl: Kubectl
    maps: Mapping[str, ConfigMapData]
    #: A folder for temporary files.
    scratch: Path
    watch: Watch
    _manifests: dict[str, Manifest] = field(default_factory=dict)

    def of_pod(self, status: PodStatus, job: JobStatus) -> Attempt | None:
        """Return the attempt of a pod that has ended; None while it runs, or if nothing describes it."""
        pod = self._describe(job, status) if status.ended else None
        if pod is None:
            return None
        if status.sidecar_message:
            logger.info(f"{pod.name}: {status.sidecar_message}")
        message = status.ending.message if status.ending else ""
        remains, channel = self._remains(pod, message)
        ending, state, reason = status.ending, None, status.reason or "the pod failed before its container started"
        if ending:
            # FallbackToLogsOnError: what is no report of entry.sh is the end of the log.
            last = "" if message.startswith("{") else one_line(message.strip().rpartition("\n")[2])
            state = State(ending.exit_code, ending.out_of_memory, last, False)
            reason = last if last.startswith("entry.sh: ") else ""
            stopped = (ending.exit_code in _STOPPED and not ending.out_of_memory) or remains.entry.get("stopped")
            why = stop_reason(status, job)
            reason = f"stopped: {why}" if stopped and why else reason
        result = pod_result(
            pod,
            remains,
            state,
            reason,
            started=(ending.started if ending else "") or status.started,
            run_duration=ending.seconds if ending else 0.0,
            image_digest=pod.image.registry_digest or (ending.image_digest if ending else ""),
        )
        return _attempt(pod, result, channel)

    def of_job(self, job: JobStatus, reason: str = "", name: str = "") -> Attempt | None:
        """Return the failed attempt of a Job that has ended without a pod that says how, or of a pod that is gone."""
        pod = self._describe(job, PodStatus(name or job.name, job.name))
        if pod is None:
            return None
        blocker = self.watch.blockers.get(job.name)
        details = "; ".join(filter(None, (blocker, job.reason))) or "the Job has no reason"
        result = RunResult(
            run_id=pod.run_id,
            model=pod.model,
            image=pod.image,
            status=FAILURE,
            reason=reason or f"{'never started' if blocker else 'none of its pods is left'}: {details}",
            n_gpus=str(pod.gpus),
            engine=f"kubernetes {pod.namespace}/{pod.name}",
            image_digest=pod.image.registry_digest,
            git_commit=pod.image.git_commit,
            started=job.started,
            repeat=pod.repeat,
        )
        return _attempt(pod, result, "job")

    def _describe(self, job: JobStatus, status: PodStatus) -> Pod | None:
        """Return what is known of a pod; None, with one line that says why, if that is not enough."""
        try:
            return describe_pod(
                self._manifest(job.config),
                self.maps[job.config].texts.get("jobs.json", "") if job.config in self.maps else "",
                job.name,
                namespace=job.namespace,
                name=status.name,
                run_id=job.run_id,
                node=status.node,
                index=status.index,
            )
        except MadengineError as error:
            logger.info(f"{status.name}: {one_line(str(error), 400)}")
            return None

    def _manifest(self, config: str) -> Manifest:
        if config not in self._manifests:
            if config not in self.maps:
                raise MadengineError(f"configmap {one_line(config, 80)}, which describes it, is gone")
            path = self.scratch / "manifest.json"
            text = self.maps[config].texts.get("manifest.json", "")
            path.write_text(text, encoding="utf-8", errors="replace")
            try:
                parse_json(text)  # deep nesting would break the readers of its rows
                self._manifests[config] = load_manifest(path)
            except (MadengineError, ValueError) as error:
                raise MadengineError(f"configmap {config}: {str(error).replace(f'{path}: ', '')}") from None
        return self._manifests[config]

    def _remains(self, pod: Pod, message: str) -> tuple[Remains, str]:
        """Return what a pod left, by its termination message, else by its log, and which of them it was."""
        remains, complete = _parse(message, pod)
        patterns = bool(pod.log_errors.patterns)
        if complete and not patterns:
            return remains, "termination message"
        log = self._log(pod)
        if log is None:
            return _without_log(remains, complete, pod), "termination message"
        marked = [line.removeprefix(MARK) for line in log if line.startswith(MARK)]
        output = "\n".join(line for line in log if not line.startswith(MARK))
        if not complete:
            remains, complete = _parse(_last_report(marked) or message, pod)
        if not complete:
            remains = _without_report(remains, output, pod)
        log_error = pod.log_errors.first_in(io.BytesIO(output.encode("utf-8", "replace")))
        return replace(remains, log_error=log_error or _unchecked(remains, output, patterns)), "log"

    def _log(self, pod: Pod) -> list[str] | None:
        path = self.scratch / "log"
        if not self.kubectl.keep_log(pod.name, "model", path):
            return None
        return path.read_text(encoding="utf-8", errors="replace").split("\n")


def _attempt(pod: Pod, result: RunResult, channel: str) -> Attempt:
    rows, document = pod_rows(pod, result, channel), pod_document(pod, result, {})
    return Attempt(pod.job, pod.name, pod.index, channel, rows, document, pod.nodes)


def _parse(text: str, pod: Pod) -> tuple[Remains, bool]:
    """Return what a report says, and whether it is complete."""
    if not text.startswith('{"exit_code":'):
        return Remains(), False
    try:
        return parse_report(text, pod)
    except ValueError as error:
        return Remains(problem=f"invalid report of its end: {one_line(str(error))}"), False


def _last_report(lines: Sequence[str]) -> str:
    starts = [number for number, line in enumerate(lines) if line.startswith('{"exit_code":')]
    return "\n".join(lines[starts[-1] :]) if starts else ""


def _without_log(remains: Remains, complete: bool, pod: Pod) -> Remains:
    if not complete and remains.entry:
        problem = "its results are unknown: the termination message is cut off, and its log is gone"
        return replace(remains, measurement=Measurement(problem=problem))
    unchecked = "log_error_patterns: not checked, its log is gone" if remains.entry and pod.log_errors.patterns else ""
    return replace(remains, log_error=unchecked)


def _without_report(remains: Remains, output: str, pod: Pod) -> Remains:
    """Return the remains with what the log alone says of the results."""
    if not pod.model.multiple_results:
        return replace(remains, measurement=scan_text(output, pod))
    problem = "its results are unknown: the termination message is cut off, and the log has no complete report"
    return replace(remains, measurement=Measurement(problem=problem))


def _unchecked(remains: Remains, output: str, patterns: bool) -> str:
    """Return the reason for patterns that were not looked for in all of the log: kubelets rotate it away."""
    size = remains.entry.get("log_bytes", 0)
    have = len(output.encode("utf-8", "replace"))
    if not patterns or have >= size:
        return ""
    return (
        f"log_error_patterns: not checked, the log has {have} of {size} bytes, the kubelet rotated the rest away; use "
        "--results configmap"
    )
