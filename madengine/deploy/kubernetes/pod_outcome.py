"""A pod's remains -> its result, and its perf.csv rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from madengine.build.payload import WORKSPACE
from madengine.deploy.kubernetes.pod import Pod
from madengine.deploy.kubernetes.remains import LOG, Remains
from madengine.programs.engine_answers import State
from madengine.records import FAILURE, SUCCESS, RunResult
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from madengine.run.outcome import exit_reason, why_failed

NEVER_STARTED = "the image's entry.sh never started"
STOPPED = "stopped before its script ended: evicted, deleted, or past the Job's deadline"
KILLED = "killed before its script ended, without a warning: usually out of memory"
OUT_OF_MEMORY = "out of memory: the kernel killed it"
_OLD_ENTRY = "the image's entry.sh is of an older madengine, which ran no hooks and no tools; build the image again"
_SIGKILL, _SIGTERM = 137, 143
_DEPLOYED = {"MAD_DEPLOYMENT_TYPE": "kubernetes"}


def pod_result(pod: Pod, remains: Remains, state: State | None = None, reason: str = "", **known: Any) -> RunResult:
    """Return the result of a pod.

    `state` is the end of its container, if the cluster knows that; a `reason` comes before what the remains say;
    `known` are further fields of the result.
    """
    code, reason = _judge(pod, remains, state, reason)
    result = RunResult(
        run_id=pod.run_id,
        model=pod.model,
        image=pod.image,
        status=FAILURE if reason else SUCCESS,
        reason=reason or ("" if remains.measurement.metrics else remains.measurement.problem),
        metrics=remains.measurement.metrics,
        exit_code=code,
        test_duration=round(max(0.0, remains.entry.get("ended", 0.0) - remains.entry.get("started", 0.0)), 3),
        machine_name=pod.node,
        gpu_vendor=remains.gpus[0].vendor if remains.gpus else pod.image.gpu_vendor,
        gpu_architecture=remains.gpus[0].architecture if remains.gpus else "",
        n_gpus=str(pod.gpus),
        engine=f"kubernetes {pod.namespace}/{pod.name}",
        image_digest=pod.image.registry_digest,
        git_commit=pod.image.git_commit,
        dataname=pod.dataname,
        data_provider_type=pod.data_provider_type,
        directory=WORKSPACE,
        log_file=f"{WORKSPACE}/{LOG}",
        gpus=remains.gpus,
        repeat=pod.repeat,
    )
    return replace(result, **known)


def _judge(pod: Pod, remains: Remains, state: State | None, reason: str) -> tuple[int | None, str]:
    """Return the exit code of a pod's script, and why it failed; empty if it didn't."""
    entry = remains.entry
    code = entry.get("exit_code", state.exit_code if state else None)
    if not entry and not state:
        code, unfinished = _unfinished(remains)
        reason = reason or unfinished
    elif entry and _is_stopped(remains) and not entry.get("timed_out"):
        # A script that had to stop has not succeeded, whatever its exit code.
        code, reason = code or _SIGTERM, reason or STOPPED
    reason = reason or remains.problem or why_failed(entry, state, code, pod.timeout, "")
    if code and remains.exception and reason == exit_reason(code):
        reason += f"; {remains.exception}"
    if not reason and pod.hooked and "failed_hook" not in entry:
        reason = _OLD_ENTRY
    # Of several nodes any may measure.
    reason = reason or ("" if pod.nodes > 1 else remains.measurement.problem) or remains.log_error
    if reason and remains.disk_full:
        reason += "; the disk of the workspace is full"
    elif reason and entry.get("log_complete") is False:
        reason += "; the log is incomplete"
    return code, reason


def _is_stopped(remains: Remains) -> bool:
    return remains.stopped or bool(remains.entry.get("stopped"))


def _unfinished(remains: Remains) -> tuple[int | None, str]:
    """Return the exit code and the reason of a pod without an entry.json."""
    if remains.problem:
        return None, remains.problem
    if not remains.started:
        return None, NEVER_STARTED
    return (_SIGTERM, STOPPED) if remains.stopped else (_SIGKILL, KILLED)


def pod_rows(pod: Pod, result: RunResult, channel: str = "") -> list[dict[str, str]]:
    """Return the perf.csv rows of a pod; of several nodes the first measures, the others have a row if they fail."""
    if pod.is_worker and result.status == SUCCESS:
        return []
    cells = {
        "n_gpus": str(pod.gpus * pod.nodes),
        "nnodes": str(pod.nodes),
        "gpus_per_node": str(pod.gpus),
        "engine": f"{result.engine} ({channel})" if channel else result.engine,
    }
    if pod.nodes > 1:  # the figures of one pod would pass for those of all
        result = replace(result, cost=None)
    return [{**row, **cells} for row in result_rows(result, {**_DEPLOYED, "MAD_LAUNCHER": pod.launcher})]


def pod_document(pod: Pod, result: RunResult, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result as a results.json, with the pod; `machine` describes its node."""
    where = {"namespace": pod.namespace, "name": pod.name, "job": pod.job, "index": pod.index, "nodes": pod.nodes}
    return {**results_json(pod.run_id, [result], {"machine_name": pod.node, **machine}), "pod": where}
