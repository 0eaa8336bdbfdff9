"""One pod's try at a model, and what the pod, its log or its Job tell of it where the ConfigMap doesn't."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from madengine.config.manifest import load_manifest
from madengine.deploy.kubernetes.pod import (
    KILLED,
    LOG,
    OUT_OF_MEMORY,
    Pod,
    describe_pod,
    pod_document,
    pod_result,
    pod_rows,
    unpack_report,
)
from madengine.errors import MadengineError
from madengine.programs.engine import State
from madengine.programs.kubectl import Kubectl
from madengine.records import FAILURE, RunResult

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]
MARK = ":::MADENGINE "
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Attempt:
    """A pod's rows and result, and the channel that told them; a Job that never had a pod is an attempt too."""

    job: str
    pod: str
    index: int | None
    channel: str
    rows: Sequence[Mapping[str, str]]
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def started(self) -> str:
        return max((row.get("started", "") for row in self.rows), default="")

    @property
    def summary(self) -> str:
        """Its outcome in one line."""
        outcomes = [f"{row['status']} {row['reason'] or _figure(row)}".strip() for row in self.rows]
        more = f" (and {len(outcomes) - 1} rows more)" if len(outcomes) > 1 else ""
        return f"{outcomes[0]}{more}" if outcomes else "done; another pod of its run measures"


def _figure(row: Mapping[str, str]) -> str:
    return f"{row['performance']} {row['metric']}"


def origin(engine: str) -> str:
    """The pod in a row's `engine`, without the channel that the row came from."""
    return engine.partition(" (")[0]


def job_of(pod: Object) -> str:
    labels = pod["metadata"].get("labels") or {}
    name: str = labels.get("batch.kubernetes.io/job-name") or labels.get("job-name") or ""
    return name


def terminated(pod: Object) -> Object:
    """How the model's container ended, with its imageID; empty where it has not, or nobody knows."""
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        if one.get("name") == "model":
            ended = (one.get("state") or {}).get("terminated") or {}
            return {**ended, "imageID": one.get("imageID", "")} if ended else {}
    return {}


def from_document(pod: str, document: Mapping[str, Any], rows: Sequence[dict[str, str]], ended: Object) -> Attempt:
    """An attempt as its sidecar has reported it; the kubelet knows of memory what a sidecar can only guess."""
    where = document.get("pod") or {}
    known = {"reason": OUT_OF_MEMORY, "exit_code": "137"} if ended.get("reason") == "OOMKilled" else {}
    digest = _DIGEST.search(ended.get("imageID", ""))
    told = [
        {
            **row,
            **(known if row["reason"] == KILLED else {}),
            "image_digest": row["image_digest"] or (digest[1] if digest else ""),
            "engine": f"{row['engine']} (configmap)",
        }
        for row in rows
    ]
    return Attempt(where.get("job", ""), pod, where.get("index"), "configmap", told, document)


@dataclass(frozen=True)
class PodInspector:
    """Asks pods and Jobs; `maps` are the namespace's ConfigMaps of ours, `scratch` a folder for what they tell."""

    kubectl: Kubectl
    maps: Mapping[str, Object]
    scratch: Path

    def of_pod(self, pod: Object, job: Object) -> Iterator[Attempt]:
        """What a pod that has ended tells by its termination message, else by its log; nothing while it runs."""
        ended, status = terminated(pod), pod.get("status") or {}
        if not ended and status.get("phase") != "Failed":
            return
        it = self._pod(job, pod)
        if it is None:
            return
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        message = str(ended.get("message") or "")
        channel = "termination message"
        if not unpack_report(message, folder, it.model) or it.log_errors.patterns:
            whole = self._ask_log(it, folder)
            channel = whole or channel
            if it.log_errors.patterns and not whole:
                logger.info(f"{it.name}: its log is gone, and nobody knows whether log_error_patterns were in it")
        state = None
        reason = ": ".join(filter(None, (str(status.get("reason") or ""), str(status.get("message") or ""))))
        if ended:
            # FallbackToLogsOnError: what is no report of entry.sh are the last lines of the log.
            last = message.strip().rpartition("\n")[2] if not message.startswith("{") else ""
            state = State(int(ended.get("exitCode", 0)), ended.get("reason") == "OOMKilled", last, False)
            reason = last if last.startswith("entry.sh: ") else ""
        digest = _DIGEST.search(str(ended.get("imageID", "")))
        came = pod_result(
            it,
            folder,
            state,
            reason or ("" if state else "the pod failed before its container started"),
            started=str(ended.get("startedAt") or status.get("startTime") or ""),
            run_duration=_seconds(ended),
            image_digest=it.image.registry_digest or (digest[1] if digest else ""),
        )
        yield self._attempt(it, came, channel)

    def of_job(self, job: Object) -> Iterator[Attempt]:
        """A Job that has ended and left no pod that tells anything: a failure with the Job's own reason."""
        it = self._pod(job, None)
        if it is None:
            return
        conditions = (job.get("status") or {}).get("conditions") or ()
        ended: Object = next((one for one in conditions if one.get("type") in ("Failed", "Complete")), {})
        reason = ": ".join(filter(None, (str(ended.get("reason") or ""), str(ended.get("message") or ""))))
        came = RunResult(
            run_id=it.run_id,
            model=it.model,
            image=it.image,
            status=FAILURE,
            reason=f"its pods are gone, and left nothing: {reason or 'the Job says nothing'}",
            n_gpus=str(it.gpus),
            engine=f"kubernetes {it.namespace}/{it.name}",
            image_digest=it.image.registry_digest,
            git_commit=it.image.git_commit,
            started=str((job.get("status") or {}).get("startTime") or ""),
        )
        yield self._attempt(it, came, "job")

    def _attempt(self, it: Pod, came: RunResult, channel: str) -> Attempt:
        return Attempt(it.job, it.name, it.index, channel, pod_rows(it, came, channel), pod_document(it, came, {}))

    def _pod(self, job: Object, pod: Object | None) -> Pod | None:
        """What is known of a pod, or of a Job without one; None, with a word of why, where that is not enough."""
        metadata = job["metadata"]
        notes = metadata.get("annotations") or {}
        config = (self.maps.get(str(notes.get("madengine/config")), {})).get("data") or {}
        path = self.scratch / f"{metadata['uid']}.json"
        path.write_text(str(config.get("manifest.json", "")), encoding="utf-8")
        about = (pod or job)["metadata"]
        index = str((about.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", ""))
        try:
            return describe_pod(
                load_manifest(path),
                str(config.get("jobs.json", "")),
                metadata["name"],
                namespace=metadata["namespace"],
                name=about["name"],
                run_id=str(notes.get("madengine/run-id") or metadata["uid"]),
                node=str(((pod or {}).get("spec") or {}).get("nodeName") or ""),
                index=int(index) if index.isdigit() else None,
            )
        except MadengineError as error:
            said = str(error).replace(str(path), f"configmap {notes.get('madengine/config')}")
            logger.info(f"{about['name']}: nobody knows what it ran: {said}")
            return None

    def _ask_log(self, it: Pod, folder: Path) -> str:
        """Take what entry.sh reported, and the metric, out of the pod's log; gives the channel's name if it has one."""
        path, asked = folder / LOG, folder / "asked"
        if not self.kubectl.keep_log(it.name, "model", asked):
            return ""
        asked.replace(path)
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        marked = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
        starts = [number for number, line in enumerate(marked) if line.startswith('{"exit_code":')]
        if starts:
            unpack_report("\n".join(marked[starts[-1] :]), folder, it.model)
            if it.model.multiple_results:
                # What entry.sh repeats there is no output of the model's.
                text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(MARK))
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return "log"


def _seconds(ended: Object) -> float:
    try:
        times = [datetime.fromisoformat(str(ended[key]).replace("Z", "+00:00")) for key in ("startedAt", "finishedAt")]
    except (KeyError, ValueError):
        return 0.0
    return max(0.0, (times[1] - times[0]).total_seconds())
