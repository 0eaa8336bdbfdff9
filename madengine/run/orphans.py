"""Orphans: containers whose madengine process has exited without removing them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from madengine import programs
from madengine.errors import CommandError
from madengine.process import process_has_ended
from madengine.programs.engine import Docker

logger = logging.getLogger(__name__)

#: Holds the process that started the container.
OWNER_LABEL = "madengine.owner"


#: Names the GPUs that the container uses, separated by blanks.
GPU_LABEL = "madengine.gpus"


def remove_orphans(engine: Docker) -> list[Mapping[str, str]]:
    """Remove the containers of madengine processes that have exited; a container without our label is never touched.

    Return the labels of the others.
    """
    others = []
    for name, labels in engine.containers(OWNER_LABEL):
        if not _is_ours(name, labels):
            continue
        if not process_has_ended(labels.get(OWNER_LABEL, "")):
            others.append(labels)
            continue
        try:
            programs.ask(engine.remove(name))
            logger.info(f"removed orphan {name}: its madengine process has exited")
        except CommandError as error:
            logger.info(f"orphan {name} can't be removed: {error}")
    return others


def _is_ours(name: str, labels: Mapping[str, str]) -> bool:
    """Whether we started a container: one of an image that was committed from ours inherits our labels."""
    run_id = labels.get("madengine.run")
    return run_id is None or name.startswith(f"madengine-{run_id}-")


def gpu_users(engine: Docker) -> dict[str, str]:
    """Return the running containers of any madengine by the names of the GPUs that they use.

    One that runs in a container of its own (CI) has the engine in common with us, but not the folder of the locks.
    Orphans are removed before.
    """
    if not any(GPU_LABEL in labels for labels in remove_orphans(engine)):
        return {}
    containers = engine.containers(GPU_LABEL, running=True)
    return {
        gpu: f"the container {name}"
        for name, labels in containers
        if _is_ours(name, labels)
        for gpu in labels[GPU_LABEL].split()
    }
