"""Logins at registries that an engine has for a while, beside the user's own ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

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
    """The engine with private logins beside the user's own ones; they are gone when the block ends.

    Raises CommandError where a registry refuses the login.
    """
    logins = list(logins)
    with secret_files.private_folder() as folder:
        environment = _private_logins(engine.name, folder, [login.registry for login in logins])
        private = replace(engine, environment={**engine.environment, **environment})
        for login in logins:
            _log_in(private, login)
        yield private


def _log_in(engine: Docker, login: HasLogin) -> None:
    answer = programs.attempt(engine.login(login.registry, login.username), stdin=login.password)
    if answer.code != 0:
        output = programs.redact(answer.err or answer.out)
        said = explain_engine_error(output) if answer.code is not None else "it doesn't answer"
        raise CommandError(
            f"{login.registry}: the login as {login.username!r} failed: {said}; "
            "see that the registry answers, and what credential.json or MAD_DOCKERHUB_* say",
            answer.code,
            output,
        )


def _private_logins(engine: str, folder: Path, registries: Sequence[str]) -> dict[str, str]:
    """The user's own logins in a file of ours, as the environment variable that makes the engine use it.

    Those registries are kept from the user's credential helpers, where our logins would stay.
    """
    if engine == "podman":
        target, variable = folder / "auth.json", {"REGISTRY_AUTH_FILE": str(folder / "auth.json")}
        content = _podman_logins()
    else:
        home = _docker_home()
        target, variable = folder / "config.json", {"DOCKER_CONFIG": str(folder)}
        content = _json_object(home / "config.json")
        for name in ("cli-plugins", "contexts", "buildx"):
            if (home / name).exists():
                (folder / name).symlink_to((home / name).resolve())
    helpers = dict(content.get("credHelpers") or {})
    for registry in registries:
        helpers.pop(registry, None)
        if engine != "podman":
            # An empty name means none, also where a helper is set for all registries.
            helpers["https://index.docker.io/v1/" if registry == "docker.io" else registry] = ""
    target.touch(mode=0o600)
    target.write_text(json.dumps({**content, "credHelpers": helpers}))
    return variable


def _podman_logins() -> dict[str, Any]:
    """What podman would look through by itself; a file that is named by REGISTRY_AUTH_FILE it takes alone."""
    named = os.environ.get("REGISTRY_AUTH_FILE")
    default = "/run/containers/0" if os.geteuid() == 0 else f"/run/user/{os.geteuid()}/containers"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    own = Path(runtime, "containers") if runtime else Path(default)
    paths = [own / "auth.json", settings / "containers/auth.json", _docker_home() / "config.json"]
    found = [_json_object(path) for path in ([Path(named)] if named else paths)]
    return {
        key: {name: value for content in reversed(found) for name, value in (content.get(key) or {}).items()}
        for key in ("auths", "credHelpers")
    }


def _docker_home() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _json_object(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing, unreadable or broken, which is not ours to mend."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}
