"""Who started a container: a process that can be told dead or alive, so that only orphans are removed."""

from __future__ import annotations

from collections.abc import Callable

from madengine import programs
from madengine.errors import CommandError
from madengine.process import process_has_ended
from madengine.programs.engine import Docker

OWNER_LABEL = "madengine.owner"


def remove_orphans(engine: Docker, say: Callable[[str], None]) -> None:
    """Remove the containers of a madengine that was killed; nothing without our label is touched."""
    for name, labels in engine.containers(OWNER_LABEL):
        if process_has_ended(labels.get(OWNER_LABEL, "")):
            try:
                programs.ask(engine.remove(name))
                say(f"removed {name}: the madengine that started it is gone")
            except CommandError as error:
                say(f"{name} is left over and can't be removed: {error}")
