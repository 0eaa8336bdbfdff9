"""bash, which sources a user's file of variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from madengine import programs
from madengine.errors import ConfigurationError

#: what a shell sets by itself
_OF_SHELL = frozenset(("_", "SHLVL", "PWD", "OLDPWD", "BASH_FUNC", "BASHOPTS", "SHELLOPTS"))
# What the file prints is for the user; the variables come after it, each with a NUL at its end.
_CODE = 'set -a; . "$1" >&2 || exit; exec env -0'
_SECONDS = 120.0


def sourced(file: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a shell file changes, all of its assignments exported.

    Raises ConfigurationError where the file fails, or takes longer than two minutes.
    """
    command = programs.program("bash", "-c", _CODE, "bash", str(file.absolute()))
    answer = programs.attempt(command, seconds=_SECONDS)
    if answer.code != 0:
        reason = f"takes longer than {_SECONDS:g} s" if answer.code is None else answer.last_line
        raise ConfigurationError(f"env_file {file}: {reason or f'exit code {answer.code}'}")
    pairs = (entry.partition("=")[::2] for entry in answer.out.split("\0") if "=" in entry)
    return {name: value for name, value in pairs if name not in _OF_SHELL and environ.get(name) != value}
