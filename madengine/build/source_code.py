"""The code that a model's `url` names: cloned once, at a commit that is recorded."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from madengine import programs
from madengine.build.reproducible_clone import settle
from madengine.config.credentials import FILE, Credentials, model_secrets
from madengine.errors import CommandError, ConfigurationError
from madengine.programs import git, git_lfs, secret_files
from madengine.programs.secret_files import Answers
from madengine.records import Model

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from madengine.data_sets.fetch import Client

_REFUSES_DEPTH = re.compile(r"shallow|depth|unadvertised|not our ref|did not contain", re.IGNORECASE)


@dataclass(frozen=True)
class Checkout:
    """A model's code on this machine, and its commit."""

    folder: Path
    commit: str


@dataclass(frozen=True)
class ModelCode:
    """Clones each repository once, below `folder`; the paths of keys start at `root`."""

    folder: Path
    root: Path
    credentials: Credentials
    client: Client
    #: Of every url; empty is the last one of its default branch.
    commit: str = ""
    _checkouts: dict[tuple[str, str], Checkout] = field(default_factory=dict)
    _locks: dict[tuple[str, str], threading.Lock] = field(default_factory=dict)

    def checkout(self, model: Model) -> Checkout | None:
        """Return the code of a model, None where it has no url.

        Raises ConfigurationError where its credential is missing or the url holds a password, CommandError (without
        secrets) where the clone fails.
        """
        if not model.url:
            return None
        check(model)
        key = (model.url, model.cred)
        with self._locks.setdefault(key, threading.Lock()):
            if key not in self._checkouts:
                self._checkouts[key] = self._cloned(
                    model, self.folder / f"code{len(self._locks)}-{threading.get_ident()}"
                )
            return self._checkouts[key]

    def history(self, model: Model) -> Path:
        """Clone the whole history of a model's url, and return where.

        Raises as `checkout` does.
        """
        check(model)
        target = self.folder / "history"
        with secret_files.unattended(self._answers(model)) as environment:
            self.client.run(git.clone(model.url, target, environment, whole=True), model.url)
        return target

    def _cloned(self, model: Model, target: Path) -> Checkout:
        logger.info(f"{model.name}: cloning {model.url}")
        try:
            with secret_files.unattended(self._answers(model)) as environment:
                _name_settings(model, environment)
                self._clone(model.url, target, environment)
                commit = _commit(target)
                self._complete(target, environment)
            settle(target, self.client)
        except CommandError as error:
            missing = "git is not installed" in str(error)
            raise CommandError(f"{model.url}: {git.INSTALL if missing else error}", error.code) from error
        logger.info(f"{model.name}: {model.url} is at {commit[:12]}")
        return Checkout(target, commit)

    def _clone(self, url: str, target: Path, environment: Mapping[str, str]) -> None:
        if self.commit:
            self._clone_commit(url, target, environment)
        else:
            self._clone_branch(url, target, environment)
        if not (target / ".gitmodules").is_file():
            return
        try:
            self.client.run(git.submodules(target, environment))
        except CommandError:
            # Not every server serves a commit that is no branch's end.
            self.client.run(git.submodules(target, environment, whole=True))

    def _clone_branch(self, url: str, target: Path, environment: Mapping[str, str]) -> None:
        try:
            self.client.run(git.clone(url, target, environment))
        except CommandError as error:
            if not _REFUSES_DEPTH.search(str(error)):
                raise
            self.client.run(git.clone(url, target, environment, whole=True))

    def _clone_commit(self, url: str, target: Path, environment: Mapping[str, str]) -> None:
        try:
            for command in git.fetch_commit(url, target, self.commit, environment):
                self.client.run(command)
        except CommandError:
            shutil.rmtree(target, ignore_errors=True)
            self.client.run(git.clone(url, target, environment, whole=True))
            self.client.run(git.checkout(target, self.commit, environment))

    def _complete(self, clone: Path, environment: Mapping[str, str]) -> None:
        """Fetch the files that git-lfs left as pointers; raise CommandError where they stay so."""
        fix = "install git-lfs here"
        problem = git_lfs.problem(clone, fix)
        if problem and git_lfs.is_installed():
            for command in git_lfs.pull(clone, environment):
                self.client.run(command)
            problem = git_lfs.problem(clone, fix)
        if problem:
            raise CommandError(problem.replace(f"{clone}/", ""))

    def _answers(self, model: Model) -> Answers:
        if not model.cred:
            return Answers()
        model_secrets(self.credentials, model)
        entry = {key.lower(): value for key, value in self.credentials.entries[model.cred].items()}
        parts = urlsplit(model.url)
        host = parts.netloc.rpartition("@")[2]
        key = entry.get("ssh_key_file", "")
        return Answers(
            # Hosts that take a token accept any user name with it.
            username=entry.get("username", "") or ("oauth2" if "token" in entry else ""),
            password=entry.get("password", "") or entry.get("token", ""),
            key=str((self.root / Path(key).expanduser()).absolute()) if key else "",
            ssh_user=entry.get("username", "") if parts.scheme == "ssh" and not parts.username else "",
            prompt_end=f"{host}'" if parts.scheme in ("http", "https") else "",
        )


def _commit(clone: Path) -> str:
    if commit := git.head(clone):
        return commit
    raise CommandError("no commit: the repository is empty, or its HEAD names no branch of it; push one")


def _name_settings(model: Model, environment: Mapping[str, str]) -> None:
    """Log the user's own settings of git that make a difference, and those that are replaced."""
    url = git.effective_url(model.url, environment)
    if url != model.url:
        logger.info(f"{model.name}: {model.url} comes from {_without_login(url)}: insteadOf of git's configuration")
    if "GIT_SSH_COMMAND" in environment and "GIT_SSH_COMMAND" in os.environ:
        logger.info(f"{model.name}: GIT_SSH_COMMAND: ignored: {FILE} has the login of {model.url}")


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    programs.hide([parts.password or ""])
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.scheme else url


def check(model: Model) -> None:
    """Raise ConfigurationError where a model's url holds a password: it would be in the image and the manifest."""
    try:
        password = urlsplit(model.url).password
    except ValueError as error:
        raise ConfigurationError(f"url of {model.name!r}: {str(error).lower()}") from error
    if password:
        raise ConfigurationError(
            f"url of {model.name!r}: holds a password; put it into {FILE} and set cred to its entry"
        )


def shell_lines(model: Model, target: str) -> Iterator[str]:
    """Yield the clone as lines for a POSIX shell, where git asks for the login."""
    if model.url:
        yield programs.shell_line(git.clone(model.url, Path(target), {}))
        yield programs.shell_line(git.submodules(Path(target), {}))
