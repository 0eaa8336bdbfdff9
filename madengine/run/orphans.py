"""Orphans: containers whose madengine process has exited without removing them."""

from __future__ import annotations

import logging

from madengine import programs
from madengine.errors import CommandError
from madengine.process import process_has_ended
from madengine.programs.engine import Docker

logger = logging.getLogger(__name__)

#: Holds the process that started the container.
OWNER_LABEL = "madengine.owner"


def remove_orphans(engine: Docker) -> None:
    """Remove the containers of madengine processes that have exited; a container without our label is never touched."""
    for name, labels in engine.containers(OWNER_LABEL):
        if process_has_ended(labels.get(OWNER_LABEL, "")):
            try:
                programs.ask(engine.remove(name))
                logger.info(f"removed orphan {name}: its madengine process has exited")
            except CommandError as error:
                logger.info(f"orphan {name} can't be removed: {error}")
