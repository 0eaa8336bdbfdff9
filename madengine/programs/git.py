"""git: a clone as small as the server allows, its submodules, its commit, and the files that git keeps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

INSTALL = "git is not installed here; apt-get install git"
_DEPTH = ("--depth=1",)
# A server that sends almost nothing for a minute is given up.
_PATIENCE = {"GIT_HTTP_LOW_SPEED_LIMIT": "100", "GIT_HTTP_LOW_SPEED_TIME": "60"}


def clone(url: str, target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the default branch: only its last commit, or its whole history."""
    return _git(environment, "clone", "--quiet", *(["--single-branch"] if whole else _DEPTH), "--", url, str(target))


def submodules(target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the submodules of a clone, recursively, each at its recorded commit."""
    words = ["submodule", "--quiet", "update", "--init", "--recursive", *([] if whole else _DEPTH)]
    return _git(environment, "-C", str(target), *words)


def folders(target: Path) -> Iterator[Path]:
    """Yield the git folder of a clone, then those of its submodules, recursively."""
    yield target / ".git"
    for head in sorted((target / ".git/modules").rglob("HEAD")):
        if (head.parent / "objects").is_dir():
            yield head.parent


def forget_branches(folder: Path) -> None:
    """Delete all refs of a git folder except tags in the history of its commit; raise CommandError on failure."""
    refs, tags = (
        programs.ask(_at(folder, "for-each-ref", "--format=%(refname)", *words)).split()
        for words in ([], ["--merged=HEAD", "refs/tags"])
    )
    lines = "".join(f"delete {name}\n" for name in refs if name not in tags)
    programs.ask(_at(folder, "update-ref", "--no-deref", "--stdin"), stdin=lines)


def is_one_commit(folder: Path) -> bool:
    """Whether a git folder has no history but its commit; raise CommandError on failure."""
    return programs.ask(_at(folder, "rev-list", "--count", "--max-count=2", "HEAD")).strip() == "1"


def repack(folder: Path) -> BaseCommand:
    """Put the objects of a git folder into one reproducible pack: compressed here, without deltas."""
    return _at(folder, "repack", "-a", "-d", "-F", "--window=0", "--quiet")


def new_index(folder: Path) -> BaseCommand:
    """Write the index of a git folder's commit, without the files' times, which the next `git status` adds."""
    return _at(folder, "read-tree", "HEAD")


def head(target: Path) -> str:
    """Return the commit that a clone is at; raise CommandError if there is none."""
    return programs.ask(_git({}, "-C", str(target), "rev-parse", "--verify", "HEAD")).strip()


def _at(folder: Path, *words: str) -> BaseCommand:
    return _git({}, f"--git-dir={folder}", *words)


def _git(environment: Mapping[str, str], *words: str) -> BaseCommand:
    # The user's own helpers would store our password.
    no_helper = ["-c", "credential.helper="] if environment.get("MADENGINE_ANSWER") else []
    return programs.program("git", *no_helper, *words, env={**_PATIENCE, **environment} if environment else None)
