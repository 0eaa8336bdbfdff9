"""Temporary logins of an engine at registries, beside the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from madengine import programs
from madengine.errors import CommandError
from madengine.programs import secret_files
from madengine.programs.engine import Docker, explain_engine_error


class HasLogin(Protocol):
    """A user at a registry's host (`docker.io` for Docker Hub)."""

    @property
    def registry(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...


@contextmanager
def logged_in(engine: Docker, logins: Iterable[HasLogin]) -> Iterator[Docker]:
    """Yield the engine with private logins beside the user's own, which are removed when the block ends.

    Raises CommandError if a registry refuses a login.
    """
    logins = list(logins)
    with secret_files.private_folder() as folder:
        environment = engine.login_environment(folder, [login.registry for login in logins])
        private = replace(engine, environment={**engine.environment, **environment})
        for login in logins:
            _log_in(private, login)
        yield private


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
