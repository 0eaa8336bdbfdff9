"""rsync over ssh: what a path of another machine is, and a copy of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# Seconds after which a silent peer is given up.
_SILENT_SECONDS = 60
# Exit codes of network errors: protocol, socket, timeouts, ssh's own.
BROKEN = (10, 12, 30, 35, 255)
INSTALL = "rsync is not installed here; apt-get install rsync openssh-client"


def listing(host: str, path: str, environment: Mapping[str, str]) -> BaseCommand:
    """Print a line for the path; it begins with `d` for a folder, with `-` for a file."""
    # Without a slash at the end only a folder itself is listed.
    return _rsync(["--list-only"], host, path.rstrip("/") or "/", environment)


def copy(host: str, path: str, target: Path, environment: Mapping[str, str]) -> BaseCommand:
    """Copy a file, or a folder's content (if `path` ends in a slash), into a local folder; other files there stay."""
    return _rsync(["--archive", "--no-owner", "--no-group", "--partial"], host, path, environment, f"{target}/")


def _rsync(options: list[str], host: str, path: str, environment: Mapping[str, str], *target: str) -> BaseCommand:
    return programs.program(
        "rsync",
        *options,
        "--protect-args",
        f"--timeout={_SILENT_SECONDS}",
        f"--rsh={environment.get('GIT_SSH', 'ssh')}",
        "--",
        f"{host}:{path}",
        *target,
        env=environment,
    )
