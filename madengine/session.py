"""Where a phase works: its model package, what the user said, and the engine with its logins."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madengine.config.context import Context, load_context
from madengine.config.credentials import Credentials, load_credentials, registry_login
from madengine.config.package import lists_models, package_root
from madengine.programs.engine import Docker, find_engine
from madengine.programs.engine_logins import logged_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a command works: the model package, the user's context and the engine.

    `root` is where credential.json and data.json are looked for even where it `has_package` no models.
    """

    root: Path
    has_package: bool = True
    context_file: Path | None = None
    context_text: str | None = None
    engine: str = "auto"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True)
class Workplace:
    """A place to work at; `say` takes lines for people, `show` what a program may read."""

    place: Place
    show: Callable[[str], None]

    def context(self, detected: Mapping[str, Any], manifest: Mapping[str, Any]) -> Context:
        """What the user, the manifest and this machine say together."""
        return load_context(detected, manifest, self.place.context_file, self.place.context_text)

    def credentials(self, names: Iterable[str] = ()) -> Credentials:
        """The logins, and the credentials of these names; from here on no output shows them."""
        found = load_credentials(self.place.root, self.place.environ, filter(None, names))
        for warning in found.warnings:
            logger.info(warning)
        return found

    @contextmanager
    def engine(self, credentials: Credentials, registries: Sequence[str], dry_run: bool) -> Iterator[Docker]:
        """The engine, logged in where credentials are known for a registry; the login is private and temporary."""
        found = (registry_login(credentials, registry) for registry in registries)
        logins = dict.fromkeys(login for login in found if login)
        engine = find_engine(self.place.engine)
        if self.place.engine == "auto":
            logger.info(f"engine: {engine.name} {engine.version}")
        if dry_run or not logins:
            yield engine
            return
        with logged_in(engine, logins) as private:
            yield private


def package_place(environ: Mapping[str, str], cwd: Path, may_be_starter: bool, **more: Any) -> tuple[Place, str]:
    """The place of a command, and what to tell the user where the bundled starter package stands in.

    Raises ConfigurationError where MODEL_DIR lists no models.
    """
    if not may_be_starter and not environ.get("MODEL_DIR") and not lists_models(cwd):
        return Place(cwd, has_package=False, environ=environ, **more), ""
    root, message = package_root(environ, cwd)
    return Place(root, environ=environ, **more), message
