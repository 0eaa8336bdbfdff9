"""Whether an engine's builds can be given secrets, and what it takes."""

from __future__ import annotations

import re

from madengine import programs
from madengine.errors import EngineError
from madengine.programs.engine import Docker

# docker's client builds with BuildKit by itself up to the version before this one; from it on it needs buildx.
_BUILDX_SINCE = 23


def environment(engine: Docker) -> dict[str, str]:
    """The variables with which the engine's build takes `--secret`.

    Raises EngineError, saying what to install, where it doesn't.
    """
    if engine.name != "docker":
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
