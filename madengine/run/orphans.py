"""Who started a container: a process that can be told dead or alive, so that only orphans are removed."""

from __future__ import annotations

import logging

from madengine import programs
from madengine.errors import CommandError
from madengine.process import process_has_ended
from madengine.programs.engine import Docker

logger = logging.getLogger(__name__)

OWNER_LABEL = "madengine.owner"


def remove_orphans(engine: Docker) -> None:
    """Remove the containers of a madengine that was killed; nothing without our label is touched."""
    for name, labels in engine.containers(OWNER_LABEL):
        if process_has_ended(labels.get(OWNER_LABEL, "")):
            try:
                programs.ask(engine.remove(name))
                logger.info(f"removed {name}: the madengine that started it is gone")
            except CommandError as error:
                logger.info(f"{name} is left over and can't be removed: {error}")
