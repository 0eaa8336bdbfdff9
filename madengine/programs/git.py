"""git: a clone as small as the server allows, its submodules, and the commit that it is at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

INSTALL = "git is not installed here; apt-get install git"
# A server that sends next to nothing for a minute is given up.
_PATIENCE = {"GIT_HTTP_LOW_SPEED_LIMIT": "100", "GIT_HTTP_LOW_SPEED_TIME": "60"}


def clone(url: str, target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the default branch: its last commit alone, or the whole history."""
    return _git(environment, "clone", "--quiet", *_depth(whole), "--", url, str(target))


def submodules(target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the submodules of a clone, and theirs, each at the commit that is recorded for it."""
    words = ["submodule", "--quiet", "update", "--init", "--recursive", *_depth(whole)]
    return _git(environment, "-C", str(target), *words)


def head(target: Path) -> str:
    """The commit that a clone is at. Raises CommandError where it is at none."""
    return programs.ask(_git({}, "-C", str(target), "rev-parse", "--verify", "HEAD")).strip()


def _depth(whole: bool) -> list[str]:
    return [] if whole else ["--depth=1"]


def _git(environment: Mapping[str, str], *words: str) -> BaseCommand:
    # The user's own helpers would keep a password that is only lent.
    lent = ["-c", "credential.helper="] if environment.get("MADENGINE_ANSWER") else []
    return programs.program("git", *lent, *words, env={**_PATIENCE, **environment} if environment else None)
