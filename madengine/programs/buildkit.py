"""BuildKit: in whose builder Docker builds, and whether its builds take secrets and named contexts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from madengine import programs
from madengine.errors import EngineError
from madengine.programs.login_files import docker_home, read_logins

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# What else a builder's output, and so an image's digest or our reading of the log, would depend on.
_OWN = {"BUILDKIT_PROGRESS": "plain", "BUILDX_GIT_LABELS": "false", "BUILDX_METADATA_PROVENANCE": "disabled"}
# Docker's client builds with BuildKit by itself up to the version before this one; from it on it needs buildx.
_BUILDX_SINCE = 23


def build_environment(docker: Callable[..., BaseCommand], has_secrets: bool, has_contexts: bool) -> dict[str, str]:
    """Return the variables with which Docker's build takes `--secret` and `--build-context`, where it needs them.

    Raises EngineError with what to install if it takes them not at all.
    """
    # A provenance attestation would make the pushed digest that of an index, not of the image.
    plain = {**own_builder(os.environ), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
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


def own_builder(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make Docker build in its own daemon, where the user has chosen otherwise.

    A builder of its own (`docker buildx create`) has neither the images that are here nor puts its own there.
    """
    own = {name: value for name, value in _OWN.items() if name in environ}
    is_chosen = "BUILDX_BUILDER" in environ or (docker_home() / "buildx/current").is_file()
    return {**own, **({"BUILDX_BUILDER": _context(environ)} if is_chosen else {})}


def _context(environ: Mapping[str, str]) -> str:
    """Return the name of Docker's context, which is that of the daemon's own builder."""
    if environ.get("DOCKER_HOST"):
        return "default"
    current = read_logins(docker_home() / "config.json").get("currentContext")
    return environ.get("DOCKER_CONTEXT") or (current if isinstance(current, str) else "") or "default"
