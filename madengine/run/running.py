"""What runs on this machine now, by the labels of containers and the locks of GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from madengine.machine.gpu_locks import LockHolder, lock_holders, lock_name
from madengine.machine.gpus import find_gpus
from madengine.programs.engine import Docker
from madengine.programs.engine_answers import LabelledContainer
from madengine.run.names import LOG_SUFFIX
from madengine.run.orphans import GPU_LABEL, LOG_LABEL, MODEL_LABEL, OWNER_LABEL, RUN_LABEL, is_orphan, own_containers

_SECOND = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class RunningModel:
    """A model that runs, or that is about to."""

    model: str
    #: running, orphan (its madengine has exited), kept alive (--keep-alive), or starting (it has only its GPUs yet)
    state: str
    run_id: str = ""
    #: ISO 8601 in UTC, empty if unknown
    since: str = ""
    #: their indices, or else the names of their locks
    gpus: tuple[str, ...] = ()
    #: the file; empty if it is unknown
    log: str = ""
    container: str = ""
    engine: str = ""
    #: of the lock's holder
    user: str = ""

    @property
    def seconds(self) -> int | None:
        """How long it has been running; None if that is unknown."""
        if not self.since:
            return None
        started = datetime.strptime(self.since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        return max(0, round((datetime.now(timezone.utc) - started).total_seconds()))


def running_models(engines: Sequence[Docker]) -> list[RunningModel]:
    """Return what runs, the newest first.

    A GPU whose lock is held and that no container has is one of a model that is starting, or of another user whose
    containers can't be seen. Raises CommandError if an engine doesn't answer.
    """
    containers = [(engine, one) for engine in engines for one in own_containers(engine, RUN_LABEL, running=True)]
    locks = lock_holders()
    names = {name for _, one in containers for name in one.labels.get(GPU_LABEL, "").split()}
    indices = _indices() if names or locks else {}
    by_name = {one.name: _running(engine, one, indices) for engine, one in reversed(containers)}
    return [*sorted(by_name.values(), key=lambda one: one.since, reverse=True), *_starting(locks, names, indices)]


def _running(engine: Docker, container: LabelledContainer, indices: Mapping[str, str]) -> RunningModel:
    labels = container.labels
    state = "orphan" if is_orphan(container) else "running" if OWNER_LABEL in labels else "kept alive"
    return RunningModel(
        model=labels.get(MODEL_LABEL, ""),
        state=state,
        run_id=labels[RUN_LABEL],
        since=_in_utc(container.created),
        gpus=tuple(indices.get(name, name) for name in labels.get(GPU_LABEL, "").split()),
        log=_checked_log(labels.get(LOG_LABEL, ""), labels[RUN_LABEL]),
        container=container.name,
        engine=engine.name,
    )


def _starting(locks: Mapping[str, LockHolder], names: set[str], indices: Mapping[str, str]) -> Iterator[RunningModel]:
    models: dict[tuple[int | None, str, str], list[str]] = {}
    for name, holder in locks.items():
        if name not in names:
            models.setdefault((holder.pid, holder.user, holder.model), []).append(indices.get(name, name))
    for (_, user, model), gpus in models.items():
        yield RunningModel(model, "starting", gpus=tuple(gpus), user=user)


def _indices() -> dict[str, str]:
    return {lock_name(gpu): str(gpu.index) for gpu in find_gpus().items}


def _in_utc(moment: str) -> str:
    match = _SECOND.match(moment)
    if not match:
        return ""
    local = datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
    return local.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _checked_log(label: str, run_id: str) -> str:
    """Return the log that a label names, if it can be one of that run: a model's own options may set any label."""
    path = Path(label)
    is_log = path.is_absolute() and path.name.endswith(LOG_SUFFIX) and path.parent.parent.name == run_id
    return label if is_log and ".." not in path.parts else ""
