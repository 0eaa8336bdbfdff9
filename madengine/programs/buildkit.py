"""Whether an engine's builds can be given secrets, and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from madengine import programs
from madengine.errors import EngineError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# docker's client builds with BuildKit by itself up to the version before this one; from it on it needs buildx.
_BUILDX_SINCE = 23


def environment(name: str, engine: Callable[..., BaseCommand]) -> dict[str, str]:
    """The variables with which the build of the engine of this name takes `--secret`.

    Raises EngineError, saying what to install, where it doesn't.
    """
    if name != "docker":
        return {}
    if programs.attempt(engine("buildx", "version")).code != 0:
        said = programs.attempt(engine("version", "--format={{.Client.Version}}")).out
        version = re.match(r"\s*(\d+)\.", said)
        if not version or int(version[1]) >= _BUILDX_SINCE:
            raise EngineError(
                "docker has no buildx here, so its builds can't be given secrets; install docker-buildx-plugin, "
                "use --engine podman, or --credentials-as-build-args"
            )
    return {"DOCKER_BUILDKIT": "1"}
