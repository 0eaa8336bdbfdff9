"""git: a clone as small as the server allows, its submodules, its commit, and what it keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

INSTALL = "git is not installed here; apt-get install git"
_DEPTH = ("--depth=1",)
# A server that sends next to nothing for a minute is given up.
_PATIENCE = {"GIT_HTTP_LOW_SPEED_LIMIT": "100", "GIT_HTTP_LOW_SPEED_TIME": "60"}


def clone(url: str, target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the default branch: its last commit alone, or its whole history."""
    return _git(environment, "clone", "--quiet", *(["--single-branch"] if whole else _DEPTH), "--", url, str(target))


def submodules(target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the submodules of a clone, and theirs, each at the commit that is recorded for it."""
    words = ["submodule", "--quiet", "update", "--init", "--recursive", *([] if whole else _DEPTH)]
    return _git(environment, "-C", str(target), *words)


def folders(target: Path) -> Iterator[Path]:
    """Where a clone keeps what git knows, then where its submodules do, and theirs."""
    yield target / ".git"
    for head in sorted((target / ".git/modules").rglob("HEAD")):
        if (head.parent / "objects").is_dir():
            yield head.parent


def forget_branches(folder: Path) -> None:
    """Drop all refs of a git folder but the tags in the history of its commit. Raises CommandError."""
    every, kept = (
        programs.ask(_at(folder, "for-each-ref", "--format=%(refname)", *words)).split()
        for words in ([], ["--merged=HEAD", "refs/tags"])
    )
    lines = "".join(f"delete {name}\n" for name in every if name not in kept)
    programs.ask(_at(folder, "update-ref", "--no-deref", "--stdin"), stdin=lines)


def is_one_commit(folder: Path) -> bool:
    """Whether a git folder has no history but its commit. Raises CommandError."""
    return programs.ask(_at(folder, "rev-list", "--count", "--max-count=2", "HEAD")).strip() == "1"


def repack(folder: Path) -> BaseCommand:
    """Put the objects of a git folder into one pack, the same for the same objects: compressed here, without deltas."""
    return _at(folder, "repack", "-a", "-d", "-F", "--window=0", "--quiet")


def new_index(folder: Path) -> BaseCommand:
    """Write the index of a git folder's commit; what the files' times are, the next `git status` finds out."""
    return _at(folder, "read-tree", "HEAD")


def head(target: Path) -> str:
    """The commit that a clone is at. Raises CommandError where it is at none."""
    return programs.ask(_git({}, "-C", str(target), "rev-parse", "--verify", "HEAD")).strip()


def _at(folder: Path, *words: str) -> BaseCommand:
    return _git({}, f"--git-dir={folder}", *words)


def _git(environment: Mapping[str, str], *words: str) -> BaseCommand:
    # The user's own helpers would keep a password that is only lent.
    lent = ["-c", "credential.helper="] if environment.get("MADENGINE_ANSWER") else []
    return programs.program("git", *lent, *words, env={**_PATIENCE, **environment} if environment else None)
