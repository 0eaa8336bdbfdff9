"""git: a clone as small as the server allows, its submodules, its commit, and the files that git keeps of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from madengine import programs

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

INSTALL = "git is not installed here; apt-get install git"
_DEPTH = ("--depth=1",)
# A commit gives the same files and the same clone, whatever the user's own settings are.
_SETTINGS = (
    "core.autocrlf=false", "core.eol=lf", "core.attributesFile=/dev/null", "core.hooksPath=/dev/null",
    "core.symlinks=true", "core.sparseCheckout=false", "core.sharedRepository=false", "core.fsmonitor=false",
    "core.compression=-1", "clone.defaultRemoteName=origin", "fetch.writeCommitGraph=false", "gc.auto=0",
)  # fmt: skip
# No template of the user's, no attributes of the machine's; messages in English, for we read them.
_ENVIRONMENT = {"GIT_TEMPLATE_DIR": "", "GIT_ATTR_NOSYSTEM": "1", "LC_ALL": "C", "LANGUAGE": ""}
# For what needs no network, and so none of the user's settings.
_ISOLATED = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_CONFIG_COUNT": "0",
    "GIT_CONFIG_PARAMETERS": "",
}  # fmt: skip
# They name another repository, as a git hook that calls us sets them (`git rev-parse --local-env-vars`), or change
# what a clone holds.
_LOCAL_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CEILING_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DEFAULT_HASH",
    "GIT_DEFAULT_REF_FORMAT", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE",
    "GIT_INDEX_VERSION", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE", "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
)  # fmt: skip
# A server that sends almost nothing for a minute is given up.
_PATIENCE = {"GIT_HTTP_LOW_SPEED_LIMIT": "100", "GIT_HTTP_LOW_SPEED_TIME": "60"}


def clone(url: str, target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the default branch: only its last commit, or its whole history."""
    return git(environment, "clone", "--quiet", *(["--single-branch"] if whole else _DEPTH), "--", url, str(target))


def submodules(target: Path, environment: Mapping[str, str], *, whole: bool = False) -> BaseCommand:
    """Clone the submodules of a clone, recursively, each at its recorded commit."""
    words = ["submodule", "--quiet", "update", "--init", "--recursive", *([] if whole else _DEPTH)]
    return git(environment, "-C", str(target), *words)


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
    """Return the commit that a clone is at; empty if its repository has no commit. Raise CommandError on failure."""
    answer = programs.attempt(git(_ISOLATED, "-C", str(target), "rev-parse", "--verify", "--quiet", "HEAD"))
    return answer.out.strip()


def fetch_commit(url: str, target: Path, commit: str, environment: Mapping[str, str]) -> Iterator[BaseCommand]:
    """Yield what makes a clone of one commit alone, as far as the server gives one that is no branch's end."""
    yield git(environment, "init", "--quiet", "--", str(target))
    at_target = ("-C", str(target))
    yield git(environment, *at_target, "remote", "add", "--", "origin", url)
    yield git(environment, *at_target, "fetch", "--quiet", *_DEPTH, "--no-tags", "origin", commit)
    yield checkout(target, commit, environment)


def checkout(target: Path, commit: str, environment: Mapping[str, str]) -> BaseCommand:
    """Put a commit's files into a clone of the whole history."""
    return git(environment, "-C", str(target), "checkout", "--quiet", "--detach", commit)


def commit_of(target: Path, name: str) -> str:
    """Return the commit that a name means in a clone: a tag, a branch, (the begin of) a commit; empty for none."""
    for candidate in (name, f"origin/{name}"):
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{candidate}^{{commit}}")
        answer = programs.attempt(git(_ISOLATED, "-C", str(target), *words))
        if answer.code == 0:
            return answer.out.strip()
    return ""


def main_line(target: Path, start: str, end: str) -> list[tuple[str, str]] | None:
    """Return the commits after `start` up to `end` by first parents, each with its subject.

    None where `end` has no such `start` before it. Raises CommandError on failure.
    """
    if programs.attempt(git(_ISOLATED, "-C", str(target), "merge-base", "--is-ancestor", start, end)).code != 0:
        return None
    words = ("log", "--first-parent", "--reverse", "--no-show-signature", "--format=%H %s", f"{start}..{end}")
    lines = programs.ask(git(_ISOLATED, "-C", str(target), *words)).splitlines()
    return [(commit, subject) for commit, _, subject in (line.partition(" ") for line in lines)]


def subject_of(target: Path, commit: str) -> str:
    """Return the first line of a commit's message; raise CommandError on failure."""
    words = ("log", "--max-count=1", "--no-show-signature", "--format=%s", commit)
    return programs.ask(git(_ISOLATED, "-C", str(target), *words)).strip()


def commits(repository: Path) -> list[str]:
    """Return the commits of a repository of the user's, each after its parents; raise CommandError on failure."""
    words = ("-C", str(repository), "rev-list", "--topo-order", "--reverse", "--all", "HEAD")
    return programs.ask(git({}, *words)).split()


def effective_url(url: str, environment: Mapping[str, str]) -> str:
    """Return what the user's settings (`url.<base>.insteadOf`) make of a url."""
    return programs.ask(git(environment, "ls-remote", "--get-url", "--", url)).strip()


def _at(folder: Path, *words: str) -> BaseCommand:
    return git(_ISOLATED, f"--git-dir={folder}", *words)


def git(environment: Mapping[str, str], *words: str) -> BaseCommand:
    # The user's own helpers would store our password.
    no_helper = ["-c", "credential.helper="] if environment.get("MADENGINE_ANSWER") else []
    settings = [word for setting in _SETTINGS for word in ("-c", setting)]
    other_repository = [word for name in _LOCAL_VARIABLES if name in os.environ for word in ("-u", name)]
    name, *before = [*(["env", *other_repository] if other_repository else []), "git"]
    variables = {**_ENVIRONMENT, **(_PATIENCE if environment else {}), **environment}
    return programs.program(name, *before, *settings, *no_helper, *words, env=variables)
