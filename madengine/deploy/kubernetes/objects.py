"""Jobs and pods of a namespace as typed values; what a cluster returns is checked here."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

from madengine.deploy.kubernetes.names import check_identifier, one_line
from madengine.errors import MadengineError

logger = logging.getLogger(__name__)

#: The annotation of a Job whose results were collected and removed.
PRUNED = "madengine/pruned"
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")
#: How long after its time a pod that is being deleted may take: a kubelet that is there needs seconds.
LOST_SECONDS = 300.0
_REASON_LIMIT = 500
_Typed = TypeVar("_Typed")


@dataclass(frozen=True)
class JobStatus:
    """A Job, or what is left of one."""

    name: str
    namespace: str
    #: The run's name: its annotation, else the Job's uid.
    run_id: str
    #: The name of its input ConfigMap.
    config: str
    started: str = ""
    #: How many pods have to succeed.
    completions: int = 1
    #: Complete or Failed; empty while it is unfinished.
    condition: str = ""
    #: Why it failed, as the Job controller says.
    reason: str = ""
    #: Whether its results were collected and removed.
    pruned: bool = False
    #: Why it has not started: a queue (Kueue) or a user has suspended it.
    suspended: str = ""
    #: Why it will fail once its pods are gone; empty if it will not.
    failing: str = ""
    #: Why its pods will never say how they ended.
    lost: str = ""


@dataclass(frozen=True)
class Ending:
    """How the model's container ended."""

    exit_code: int
    #: The kubelet's word, such as OOMKilled.
    reason: str = ""
    #: The termination message.
    message: str = ""
    started: str = ""
    finished: str = ""
    image_digest: str = ""

    @property
    def out_of_memory(self) -> bool:
        return self.reason == "OOMKilled"

    @property
    def seconds(self) -> float:
        if not (self.started and self.finished):
            return 0.0
        return max(0.0, (_moment(self.finished) - _moment(self.started)).total_seconds())


@dataclass(frozen=True)
class PodStatus:
    """A pod as the cluster describes it."""

    name: str
    job: str
    index: int | None = None
    node: str = ""
    phase: str = ""
    started: str = ""
    ending: Ending | None = None
    #: Why the cluster ended it: evicted, preempted, drained.
    reason: str = ""
    #: Why it doesn't start: a line each.
    blockers: tuple[str, ...] = ()
    #: The termination message of the sidecar: why it couldn't report.
    sidecar_message: str = ""
    #: Whether its model has ended, and its sidecar still runs, which waits for `collect`.
    holds_files: bool = False
    #: When it should have been gone, if it is being deleted.
    deletion: str = ""

    @property
    def ended(self) -> bool:
        return self.ending is not None or self.phase == "Failed"

    def is_lost(self, now: float) -> bool:
        """Whether its node doesn't end it, which is then gone; `now` is in seconds since the epoch."""
        return bool(self.deletion) and not self.ended and _moment(self.deletion).timestamp() + LOST_SECONDS < now


@dataclass(frozen=True)
class ConfigMapData:
    """What a ConfigMap holds: texts, and texts in base64."""

    name: str
    texts: Mapping[str, str]
    binary: Mapping[str, str]
    component: str = ""
    created: str = ""

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each key's value."""
        return {key: len(value.encode()) for key, value in {**self.texts, **self.binary}.items()}


@dataclass(frozen=True)
class Event:
    """A warning of the cluster about an object."""

    kind: str
    name: str
    text: str
    reason: str = ""
    moment: str = ""


def jobs_of(objects: Iterable[Any]) -> list[JobStatus]:
    """Return the Jobs; log one line for each that is invalid."""
    return _each(objects, _job)


def pods_of(objects: Iterable[Any]) -> list[PodStatus]:
    """Return the pods; log one line for each that is invalid."""
    return _each(objects, _pod)


def maps_of(objects: Iterable[Any]) -> list[ConfigMapData]:
    """Return the ConfigMaps; log one line for each that is invalid."""
    return _each(objects, _map)


def events_of(objects: Iterable[Any]) -> list[Event]:
    """Return the events, the latest last."""
    return sorted(map(_event, objects), key=lambda event: event.moment)


def is_unfinished_jobset(item: Any, run_id: str) -> bool:
    """Whether a JobSet is of the run, of any run if `run_id` is empty, and has not ended."""
    members = _list(item, "spec", "replicatedJobs")
    of_member = _text(members[0], "template", "metadata", "annotations", "madengine/run-id") if members else ""
    return run_id in ("", of_member) and not _text(item, "status", "terminalState")


def _each(objects: Iterable[Any], typed: Callable[[Any], _Typed]) -> list[_Typed]:
    values = []
    for item in objects:
        try:
            values.append(typed(item))
        except MadengineError as error:
            logger.info(f"ignored: {one_line(_text(item, 'metadata', 'name'), 80) or 'an object'}: {error}")
    return values


def _job(item: Any) -> JobStatus:
    annotations = _mapping(item, "metadata", "annotations")
    conditions = [one for one in _list(item, "status", "conditions") if _text(one, "status") == "True"]
    ended = _condition(conditions, "Complete", "Failed")
    run_id = annotations.get("madengine/run-id") or _text(item, "metadata", "uid")
    completions = _at(item, "spec", "completions")
    return JobStatus(
        name=check_identifier("name of a Job", _text(item, "metadata", "name")),
        namespace=check_identifier("namespace", _text(item, "metadata", "namespace")),
        run_id=check_identifier("run id", run_id),
        config=_text(annotations, "madengine/config"),
        started=_time(item, "status", "startTime"),
        completions=completions if isinstance(completions, int) else 1,
        condition=_text(ended, "type"),
        reason=_reason(ended),
        pruned=PRUNED in annotations,
        suspended="" if ended else _suspension(item, conditions),
        failing="" if ended else _reason(_condition(conditions, "FailureTarget")),
    )


def _condition(conditions: Iterable[Any], *kinds: str) -> Any:
    return next((one for one in conditions if _text(one, "type") in kinds), None)


def _suspension(item: Any, conditions: Iterable[Any]) -> str:
    if _at(item, "spec", "suspend") is not True:
        return ""
    queue = _text(item, "metadata", "labels", "kueue.x-k8s.io/queue-name")
    details = _reason(_condition(conditions, "Suspended"))
    return f"waits in queue {one_line(queue, 80)} for capacity" if queue else f"suspended{details and f': {details}'}"


def _pod(item: Any) -> PodStatus:
    labels, annotations = _mapping(item, "metadata", "labels"), _mapping(item, "metadata", "annotations")
    index = _text(annotations, "batch.kubernetes.io/job-completion-index")
    containers = [*_list(item, "status", "initContainerStatuses"), *_list(item, "status", "containerStatuses")]
    return PodStatus(
        name=check_identifier("name of a pod", _text(item, "metadata", "name")),
        job=_text(labels, "batch.kubernetes.io/job-name") or _text(labels, "job-name"),
        index=int(index) if re.fullmatch("[0-9]{1,6}", index) else None,
        node=_text(item, "spec", "nodeName"),
        phase=_text(item, "status", "phase"),
        started=_time(item, "status", "startTime"),
        ending=_ending(_named(containers, "model")),
        reason=_reason(_mapping(item, "status")) or _disruption(item),
        blockers=tuple(_blockers(item, containers)),
        sidecar_message=one_line(_text(_named(containers, "report"), "state", "terminated", "message")),
        holds_files="madengine/artifacts-wait" in annotations
        and bool(_ending(_named(containers, "model")) and _mapping(_named(containers, "report"), "state", "running")),
        deletion=_time(item, "metadata", "deletionTimestamp"),
    )


def _map(item: Any) -> ConfigMapData:
    return ConfigMapData(
        name=check_identifier("name of a ConfigMap", _text(item, "metadata", "name")),
        texts={key: value for key, value in _mapping(item, "data").items() if isinstance(value, str)},
        binary={key: value for key, value in _mapping(item, "binaryData").items() if isinstance(value, str)},
        component=_text(item, "metadata", "labels", "app.kubernetes.io/component"),
        created=_time(item, "metadata", "creationTimestamp"),
    )


def _event(item: Any) -> Event:
    return Event(
        kind=_text(item, "involvedObject", "kind"),
        name=_text(item, "involvedObject", "name"),
        # Each attempt to create a pod has another name for it.
        text=re.sub(r'pods "[^"]*"', "pods", _reason(item)),
        reason=_text(item, "reason"),
        moment=_time(item, "lastTimestamp") or _time(item, "eventTime") or _time(item, "metadata", "creationTimestamp"),
    )


def _named(containers: Iterable[Any], name: str) -> Any:
    return next((container for container in containers if _text(container, "name") == name), None)


def _ending(container: Any) -> Ending | None:
    ended = _mapping(container, "state", "terminated")
    if not ended:
        return None
    code = ended.get("exitCode", 0)
    if isinstance(code, bool) or not isinstance(code, int) or abs(code) >= 2**31:
        raise MadengineError(f"invalid exit code {code!r:.40}")
    digest = _DIGEST.search(_text(container, "imageID"))
    return Ending(
        exit_code=code,
        reason=one_line(_text(ended, "reason"), _REASON_LIMIT),
        message=_text(ended, "message"),
        started=_time(ended, "startedAt"),
        finished=_time(ended, "finishedAt"),
        image_digest=digest[1] if digest else "",
    )


def _disruption(item: Any) -> str:
    for condition in _list(item, "status", "conditions"):
        if _text(condition, "type") == "DisruptionTarget" and _text(condition, "status") == "True":
            return _reason(condition)
    return ""


def _blockers(item: Any, containers: Iterable[Any]) -> Iterable[str]:
    for condition in _list(item, "status", "conditions"):
        if _text(condition, "type") == "PodScheduled" and _text(condition, "status") == "False":
            yield _reason(condition)
    for container in containers:
        waiting = _mapping(container, "state", "waiting")
        if _text(waiting, "reason") not in ("", "PodInitializing", "ContainerCreating"):
            yield one_line(f"container {_text(container, 'name')}: {_reason(waiting)}", _REASON_LIMIT)


def _reason(item: Any) -> str:
    """Return `reason: message` of a status or a condition."""
    return one_line(": ".join(filter(None, (_text(item, "reason"), _text(item, "message")))), _REASON_LIMIT)


def _time(item: Any, *path: str) -> str:
    text = _text(item, *path)
    try:
        _moment(text)
    except ValueError:
        return ""
    return text


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _at(item: Any, *path: str) -> Any:
    for key in path:
        item = item.get(key) if isinstance(item, Mapping) else None
    return item


def _text(item: Any, *path: str) -> str:
    value = _at(item, *path)
    return value if isinstance(value, str) else ""


def _mapping(item: Any, *path: str) -> Mapping[str, Any]:
    value = _at(item, *path)
    return value if isinstance(value, Mapping) else {}


def _list(item: Any, *path: str) -> list[Any]:
    value = _at(item, *path)
    return value if isinstance(value, list) else []
