"""Containers of madengine by their labels: those of processes that have exited, and those that use GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from madengine import programs
from madengine.errors import CommandError
from madengine.process import process_has_ended
from madengine.programs.engine import Docker
from madengine.programs.engine_answers import LabelledContainer

logger = logging.getLogger(__name__)

#: Holds the process that started the container.
OWNER_LABEL = "madengine.owner"
RUN_LABEL = "madengine.run"
MODEL_LABEL = "madengine.model"
#: Names the file that the container's log is written to.
LOG_LABEL = "madengine.log"
#: Names the GPUs that the container uses, separated by blanks.
GPU_LABEL = "madengine.gpus"


def remove_orphans(engine: Docker) -> list[Mapping[str, str]]:
    """Remove the containers of madengine processes that have exited; a container without our label is never touched.

    Return the labels of the others.
    """
    others = []
    for container in own_containers(engine, OWNER_LABEL):
        if not is_orphan(container):
            others.append(container.labels)
            continue
        try:
            programs.ask(engine.remove(container.name))
            logger.info(f"removed orphan {container.name}: its madengine process has exited")
        except CommandError as error:
            logger.info(f"orphan {container.name} can't be removed: {error}")
    return others


def own_containers(
    engine: Docker, label: str, running: bool = False, sizes: bool = False
) -> Iterator[LabelledContainer]:
    """Yield the containers with the label that a madengine started."""
    for container in engine.containers(label, running, sizes):
        # One of an image that was committed from ours inherits our labels, not our name.
        run_id = container.labels.get(RUN_LABEL)
        if run_id is None or container.name.startswith(f"madengine-{run_id}-"):
            yield container


def is_orphan(container: LabelledContainer) -> bool:
    """Return whether the process that started the container has exited; one that stays on purpose names none."""
    return process_has_ended(container.labels.get(OWNER_LABEL, ""))


def gpu_users(engine: Docker) -> dict[str, str]:
    """Return the running containers of any madengine by the names of the GPUs that they use.

    One that runs in a container of its own (CI) has the engine in common with us, but not the folder of the locks.
    Orphans are removed before.
    """
    if not any(GPU_LABEL in labels for labels in remove_orphans(engine)):
        return {}
    return {
        gpu: f"the container {container.name}"
        for container in own_containers(engine, GPU_LABEL, running=True)
        for gpu in container.labels[GPU_LABEL].split()
    }
