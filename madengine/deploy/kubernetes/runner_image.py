"""The runner image: python3 and madengine.pyz, built and pushed, and its name by digest."""

from __future__ import annotations

import logging
from pathlib import Path

from madengine import __version__, programs
from madengine.build.build_log import open_log
from madengine.build.push import Pusher
from madengine.config.credentials import registry_name
from madengine.config.package import template
from madengine.deploy.bundle import write_bundle
from madengine.programs.engine import Docker
from madengine.programs.engine_files import in_visible_folder
from madengine.records import Image
from madengine.session import Session

logger = logging.getLogger(__name__)

_BUILD_SECONDS = 3600.0


def push(session: Session, registry: str, base: str) -> str:
    """Build the image on `base`, push it as `<registry>/madengine/runner:<version>`, and give what pins it.

    Raises MadengineError where there is no engine, the build fails, or the registry refuses.
    """
    registry = registry_name(registry)
    credentials = session.credentials()
    name = f"{registry}/madengine/runner:{__version__}"
    with session.engine(credentials, [registry], dry_run=False) as engine:
        image = Image(key="runner", docker_image=name, image_id=_build(engine, name, base))
        with open_log() as log:
            image = Pusher(engine).push(image, [name], log)
    return image.pinned


def _build(engine: Docker, name: str, base: str) -> str:
    """Build the image and return its id."""
    logger.info(f"building {name} on {base}")
    return in_visible_folder(engine.name, lambda scratch: _build_in(scratch, engine, name, base), Path.home())


def _build_in(scratch: Path, engine: Docker, name: str, base: str) -> str:
    context = scratch / "context"
    context.mkdir(mode=0o755)
    write_bundle(context / "madengine.pyz").chmod(0o644)
    dockerfile = scratch / "Dockerfile"
    dockerfile.write_text(template("image/runner.Dockerfile"), encoding="utf-8")
    id_file = scratch / "image_id"
    command = engine.build(
        [name],
        dockerfile,
        context,
        build_args={"BASE_IMAGE": base},
        labels={"madengine.version": __version__},
        id_file=id_file,
        host_network=False,
    )
    programs.ask(command, seconds=_BUILD_SECONDS)
    return id_file.read_text().strip()
