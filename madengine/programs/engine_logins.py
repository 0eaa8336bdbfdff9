"""Temporary logins of an engine at registries, beside the user's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from madengine import programs
from madengine.errors import CommandError
from madengine.process import private_folder
from madengine.programs.engine import Docker
from madengine.programs.engine_errors import explain_engine_error

logger = logging.getLogger(__name__)

# The refused logins by registry.
_refused: dict[str, str] = {}


class HasLogin(Protocol):
    """A user at a registry's host (`docker.io` for Docker Hub)."""

    @property
    def registry(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


@contextmanager
def logged_in(engine: Docker, logins: Iterable[HasLogin], may_fail: Iterable[HasLogin] = ()) -> Iterator[Docker]:
    """Yield the engine with private logins beside the user's own, which are removed when the block ends.

    Raises CommandError if a registry refuses a login; at those of `may_fail` that is a warning, and `refused_login`
    names it until the block ends.
    """
    logins, optional = list(logins), list(may_fail)
    with _private_settings(engine, [login.registry for login in (*logins, *optional)]) as private:
        for login in logins:
            _log_in(private, login)
        for login in optional:
            try:
                _log_in(private, login)
            except CommandError as error:
                logger.warning(f"{error}; going on without it")
                _refused[login.registry] = str(error)
        try:
            yield private
        finally:
            _refused.clear()


@contextmanager
def _private_settings(engine: Docker, registries: Sequence[str]) -> Iterator[Docker]:
    """Yield the engine with settings of its own, in the home folder if it has a /tmp of its own."""
    with ExitStack() as stack:
        for parent in (None, Path.home()):
            folder = stack.enter_context(private_folder(parent))
            environment = engine.login_environment(folder, registries)
            if parent or engine.sees(folder):
                break
        yield replace(engine, environment={**engine.environment, **environment})


def refused_login(name: str) -> str:
    """Return what may explain why an image's registry refuses it, after a semicolon; empty if the login worked."""
    host, slash, _ = name.partition("/")
    registry = host if slash and (host == "localhost" or "." in host or ":" in host) else "docker.io"
    return f"; {_refused[registry]}" if registry in _refused else ""


def _log_in(engine: Docker, login: HasLogin) -> None:
    answer = programs.attempt(engine.login(login.registry, login.username), stdin=login.password)
    if answer.code != 0:
        output = programs.redact(answer.err or answer.out)
        reason = explain_engine_error(output) if answer.code is not None else "no answer"
        raise CommandError(
            f"{login.registry}: login as {login.username!r} failed: {reason}; "
            "check that the registry answers, and the login in credential.json or MAD_DOCKERHUB_*",
            answer.code,
            output,
        )
