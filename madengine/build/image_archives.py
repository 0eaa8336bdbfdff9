"""Images as files of a folder that machines share, for nodes that reach no registry: MAD_DOCKER_BUILDS."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from madengine import programs
from madengine.errors import BuildError
from madengine.programs.engine import Docker
from madengine.records import Image

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "MAD_DOCKER_BUILDS"


def archive_of(image: Image, environ: Mapping[str, str]) -> Path | None:
    """Return where an image's archive is, or would be; None without the folder."""
    folder = environ.get(FOLDER_VARIABLE, "").strip()
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", image.docker_image)
    return Path(folder).expanduser().absolute() / f"{name}.tar" if folder else None


def save_archives(engine: Docker, images: Sequence[Image], environ: Mapping[str, str]) -> None:
    """Write the images into the folder, if there is one, each file whole. Raises BuildError where one can't be."""
    for image in images:
        if archive := archive_of(image, environ):
            _save(engine, image, archive)


def _save(engine: Docker, image: Image, archive: Path) -> None:
    part = archive.with_name(f".{archive.name}.part")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        # Engines refuse to write over a file.
        part.unlink(missing_ok=True)
        answer = programs.attempt(engine.save(_source(engine, image), part), seconds=None)
        if answer.code != 0:
            raise BuildError(f"{archive}: {image.docker_image} could not be saved: {answer.last_line}")
        part.chmod(0o644)
        part.replace(archive)
    except OSError as error:
        raise BuildError(f"{archive}: {error.strerror}; {FOLDER_VARIABLE} names a folder to write to") from None
    finally:
        with suppress(OSError):
            part.unlink()
    logger.info(f"{image.key}: saved as {archive}")


def _source(engine: Docker, image: Image) -> str:
    """Return the image's name, which its archive then has too; its id where another image has the name now."""
    records = engine.images(image.docker_image)
    is_same = not image.image_id or (records and records[0]["Id"] == image.image_id)
    return image.docker_image if is_same else image.image_id
