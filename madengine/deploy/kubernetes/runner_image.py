"""The runner image: python3 and madengine.pyz, built and pushed, and its name by digest."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from madengine import __version__, programs
from madengine.build.builder import DockerBuilder
from madengine.config.context import Context
from madengine.config.credentials import Credentials, load_credentials, registry_login, registry_name, secret_values
from madengine.config.package import template
from madengine.deploy.bundle import write_bundle
from madengine.programs.engine import Docker, find_engine, repository
from madengine.programs.engine_logins import logged_in
from madengine.records import Image

logger = logging.getLogger(__name__)

_BUILD_SECONDS = 3600.0


def push(registry: str, base: str, engine_name: str, root: Path, environ: Mapping[str, str]) -> str:
    """Build the image on `base`, push it as `<registry>/madengine/runner:<version>`, and return its pinned name.

    Raises MadengineError if there is no engine, the build fails, or the registry refuses the push.
    """
    registry = registry_name(registry)
    credentials = load_credentials(root, environ)
    programs.hide(secret_values(credentials))
    engine = find_engine(engine_name)
    name = f"{registry}/madengine/runner:{__version__}"
    login = registry_login(credentials, registry)
    with logged_in(engine, [login]) if login else nullcontext(engine) as private:
        _build(private, name, base)
        return _push(private, name, root, credentials, registry)


def _build(engine: Docker, name: str, base: str) -> None:
    logger.info(f"building {name} on {base}")
    with tempfile.TemporaryDirectory(prefix="madengine-") as scratch:
        context = Path(scratch) / "context"
        context.mkdir(mode=0o755)
        write_bundle(context / "madengine.pyz").chmod(0o644)
        dockerfile = Path(scratch) / "Dockerfile"
        dockerfile.write_text(template("image/runner.Dockerfile"), encoding="utf-8")
        command = engine.build(
            [name], dockerfile, context, build_args={"BASE_IMAGE": base}, labels={"madengine.version": __version__}
        )
        programs.ask(command, seconds=_BUILD_SECONDS)


def _push(engine: Docker, name: str, root: Path, credentials: Credentials, registry: str) -> str:
    builder = DockerBuilder(engine, root, Context(), credentials, registry)
    with open(os.devnull, "w") as log:
        image = builder.push(Image(key="runner", docker_image=name), [name], log)
    return f"{repository(name)}@{image.registry_digest}"
