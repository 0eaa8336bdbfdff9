"""The exact image that a manifest names, made present on this machine."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial

from madengine import programs
from madengine.errors import RunError
from madengine.programs.engine import Docker
from madengine.programs.engine_errors import explain_engine_error, is_transport
from madengine.programs.engine_logins import refused_login
from madengine.records import Image

logger = logging.getLogger(__name__)

PULL_ATTEMPTS = 4
PULL_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Puller:
    """Pulls with one engine, until `stopping` is set."""

    engine: Docker
    stopping: threading.Event

    def present(self, image: Image) -> tuple[str, str]:
        """Make sure that the manifest's image is on this machine; return what to run, and its digest.

        Raises RunError if it isn't and can't be pulled.
        """
        if name := image.pinned:
            if not self.engine.images(name):
                self._pull(name)
            return self.engine.full_name(name), image.registry_digest
        if image.image_id:
            if not self.engine.images(image.image_id):
                raise RunError(
                    f"{image.docker_image} ({image.image_id[:19]}) is not on this machine and was never pushed; "
                    "build with --registry, or run where it was built"
                )
            return image.image_id, image.image_id
        return self._unpinned(image)

    def _unpinned(self, image: Image) -> tuple[str, str]:
        """Pull an older manifest's image, which has only a name; the id that the name has here is its digest."""
        name = image.registry_image or image.docker_image
        if image.registry_image:
            self._pull(name)
        matches = self.engine.images(name)
        if not matches:
            raise RunError(f"{name}: no such image on this machine, and the manifest names no registry for it")
        return str(matches[0]["Id"]), str(matches[0]["Id"])

    def _pull(self, reference: str) -> None:
        pause = PULL_PAUSE_SECONDS
        for attempt in range(1, PULL_ATTEMPTS + 1):
            logger.info(f"pulling {reference}")
            lines: list[str] = []
            code = programs.stream(self.engine.pull(reference), partial(self._add_line, lines))
            if code == 0:
                return
            problem = explain_engine_error("".join(lines[-20:]))
            if attempt == PULL_ATTEMPTS or not is_transport(problem):
                raise RunError(f"pull {reference}: {problem or f'exit code {code}'}{refused_login(reference)}")
            logger.info(f"pull {reference}: {problem}; retry in {pause:g} s")
            if self.stopping.wait(pause):
                raise KeyboardInterrupt
            pause *= 2

    def _add_line(self, lines: list[str], line: str) -> None:
        lines.append(line)
        if self.stopping.is_set():
            raise KeyboardInterrupt
