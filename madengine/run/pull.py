"""The exact image that a manifest names, made present on this machine."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from madengine import programs
from madengine.build.image_archives import FOLDER_VARIABLE, archive_of
from madengine.config.progress import Progress, report
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
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    #: Of the model that the image is for, for a view of its progress.
    name: str = ""

    def present(self, image: Image) -> tuple[str, str]:
        """Make sure that the manifest's image is on this machine; return what to run, and its digest.

        One that isn't comes from its archive in the shared folder, else from its registry. Raises RunError if it can't.
        """
        if name := image.pinned:
            if not self.engine.images(name):
                if self._is_here_by_archive(image):
                    return image.image_id, image.registry_digest
                self._pull(name)
            return self.engine.full_name(name), image.registry_digest
        if image.image_id:
            self._load_by_id(image)
            return image.image_id, image.image_id
        return self._unpinned(image)

    def pull_missing(self, name: str) -> None:
        """Pull a name, unless it has an image here. Raises RunError if it can't be pulled."""
        if not self.engine.images(name):
            self._pull(name)

    def _is_here_by_archive(self, image: Image) -> bool:
        """Whether an archive has brought exactly this image, now or earlier; its registry needn't be reached then."""
        archive = archive_of(image, self.environ)
        if not (image.image_id and archive and archive.is_file()):
            return False
        return bool(self.engine.images(image.image_id) or (self._load(image) and self.engine.images(image.image_id)))

    def _load_by_id(self, image: Image) -> None:
        if self.engine.images(image.image_id):
            return
        name = f"{image.docker_image} ({image.image_id[:19]})"
        archive = self._load(image)
        if not archive:
            raise RunError(
                f"{name} is not on this machine and was never pushed; build with --registry, or with "
                f"{FOLDER_VARIABLE}=FOLDER, or run where it was built"
            )
        if not self.engine.images(image.image_id):
            raise RunError(f"{archive}: holds another image than {name}; build again, or remove it")

    def _unpinned(self, image: Image) -> tuple[str, str]:
        """Return an older or hand-written manifest's image, which has only a name; the name's id here is its digest."""
        name = image.registry_image or image.docker_image
        if image.registry_image:
            self._pull(name)
        elif not self.engine.images(name) and not self._load(image) and "/" in name:
            # A name without an organization or a registry is one that a build gave.
            self._pull(name)
        matches = self.engine.images(name)
        if not matches:
            raise RunError(
                f"{name}: no such image on this machine, and the manifest names no registry for it; build it, or set "
                f"{FOLDER_VARIABLE} to the folder of its archive"
            )
        return str(matches[0]["Id"]), str(matches[0]["Id"])

    def _load(self, image: Image) -> Path | None:
        """Load an image's archive; return its path, None if there is none. Raises RunError for a broken one."""
        archive = archive_of(image, self.environ)
        if archive is None or not archive.is_file():
            return None
        logger.info(f"loading {archive}")
        lines: list[str] = []
        if code := programs.stream(self.engine.load(archive), partial(self._add_line, lines)):
            raise RunError(f"{archive}: {explain_engine_error(''.join(lines[-20:])) or f'exit code {code}'}")
        return archive

    def _pull(self, reference: str) -> None:
        pause = PULL_PAUSE_SECONDS
        for attempt in range(1, PULL_ATTEMPTS + 1):
            logger.info(f"pulling {reference}")
            report(Progress(self.name, "pulling", reference))
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
        if line.strip():
            report(Progress(self.name, detail=_pull_detail(lines)))
        if self.stopping.is_set():
            raise KeyboardInterrupt


def _pull_detail(lines: list[str]) -> str:
    """Return how many layers are here, as far as the engine's lines say it, else its last line."""
    begun = {line.partition(":")[0] for line in lines if ": Pulling fs layer" in line}
    done = {line.partition(":")[0] for line in lines if ": Pull complete" in line or ": Already exists" in line}
    return f"{len(done)} of {len(begun | done)} layers" if begun or done else lines[-1].strip()
