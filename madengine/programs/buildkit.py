"""BuildKit: whether Docker's builds can be given secrets, and how."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from madengine import programs
from madengine.errors import EngineError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# Docker's client builds with BuildKit by itself up to the version before this one; from it on it needs buildx.
_BUILDX_SINCE = 23


def build_secret_environment(docker: Callable[..., BaseCommand]) -> dict[str, str]:
    """Return the variables with which Docker's build takes `--secret`.

    Raises EngineError with what to install if it doesn't.
    """
    if programs.attempt(docker("buildx", "version")).code != 0:
        output = programs.attempt(docker("version", "--format={{.Client.Version}}")).out
        version = re.match(r"\s*(\d+)\.", output)
        if not version or int(version[1]) >= _BUILDX_SINCE:
            raise EngineError(
                "docker has no buildx here, which builds with secrets need; install docker-buildx-plugin, "
                "use --engine podman, or --credentials-as-build-args"
            )
    return {"DOCKER_BUILDKIT": "1"}
