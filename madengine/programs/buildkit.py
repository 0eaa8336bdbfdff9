"""BuildKit: whether Docker's builds can be given secrets and named contexts, and how."""

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


def build_environment(docker: Callable[..., BaseCommand], has_secrets: bool, has_contexts: bool) -> dict[str, str]:
    """Return the variables with which Docker's build takes `--secret` and `--build-context`, where it needs them.

    Raises EngineError with what to install if it takes them not at all.
    """
    # A provenance attestation would make the pushed digest that of an index, not of the image.
    plain = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    if not has_secrets and not has_contexts:
        return plain
    has_buildx = programs.attempt(docker("buildx", "version")).code == 0
    output = programs.attempt(docker("version", "--format={{.Client.Version}}")).out
    version = re.match(r"\s*(\d+)\.", output)
    is_recent = not version or int(version[1]) >= _BUILDX_SINCE
    if has_contexts and not (has_buildx and is_recent):
        raise EngineError(
            f"docker {output.strip()}{'' if has_buildx else ' without buildx'} takes no named contexts, as COPY "
            f"--from=tools needs; install docker {_BUILDX_SINCE} or later with docker-buildx-plugin, or use "
            "--engine podman"
        )
    if not has_buildx and is_recent:
        raise EngineError(
            "docker has no buildx here, which builds with secrets need; install docker-buildx-plugin, "
            "use --engine podman, or --credentials-as-build-args"
        )
    return {**plain, "DOCKER_BUILDKIT": "1"}
