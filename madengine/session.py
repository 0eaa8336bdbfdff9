"""A session: the model package, the user's settings, and the engine with its logins."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from madengine.config.context import Context, load_context
from madengine.config.context_keys import as_flag
from madengine.config.credentials import Credentials, Login, load_credentials, registry_login
from madengine.config.package import lists_models, package_root
from madengine.errors import ConfigurationError
from madengine.programs import halt, uninterrupted
from madengine.programs.engine import Docker
from madengine.programs.engine_finder import find_engine
from madengine.programs.engine_logins import logged_in
from madengine.programs.rocm import choose

logger = logging.getLogger(__name__)

#: the names of the variables that the context's `env_file` has changed here, with commas; set where it was sourced
SOURCED = "MADENGINE_SOURCED"


def _ignore(line: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Session:
    """The environment of one command; a phase is a function of it."""

    #: The model package; also where credential.json and data.json are looked for without one.
    root: Path
    #: Takes the lines for stdout, which another program may read.
    show: Callable[[str], None] = _ignore
    has_package: bool = True
    context_file: Path | None = None
    context_text: str | None = None
    #: `auto`, or the engine to use.
    engine_name: str = "auto"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    #: Build arguments beside those of the context, which they replace.
    build_args: Mapping[str, str] = field(default_factory=dict)
    #: Whether models run on this machine wherever the context says that they do.
    here: bool = False

    def context(self, detected: Mapping[str, Any], manifest_context: Mapping[str, Any]) -> Context:
        """Merge what was detected, the manifest's context and the user's, which wins."""
        context = load_context(detected, manifest_context, self.context_file, self.context_text)
        if self.build_args:
            values = {**context.values, "docker_build_arg": {**context.docker_build_arg, **self.build_args}}
            context = replace(context, values=values)
        if self.environ.get(SOURCED):
            context = replace(context, values={**context.values, "env_file": None})
        if as_flag(context.values.get("debug")):
            logging.getLogger("madengine").setLevel(logging.DEBUG)
        return context.here if self.here else context

    def choose_rocm(self) -> None:
        """Use the ROCm that the user's context names, if it names one; else the one that is found."""
        choose(str(self.context({}, {}).values.get("MAD_ROCM_PATH") or ""))

    def credentials(self, names: Iterable[str] = ()) -> Credentials:
        """Load the logins and the credentials of these names, and keep them out of all output from here on."""
        credentials = load_credentials(self.root, self.environ, filter(None, names))
        for warning in credentials.warnings:
            logger.info(warning)
        return credentials

    @contextmanager
    def engine_search(self) -> Iterator[None]:
        """Look for the engine while the block does what takes as long; `engine` has it at once afterwards."""
        # Imports plumbum: two threads that import at once only hold each other up.
        Docker()("version")
        # The outer one counts from the search's start on: the interpreter would wait for its thread.
        with _halted_by_interrupt():
            search = self._search
            try:
                with _halted_by_interrupt():
                    yield
            finally:
                wait([search])

    @contextmanager
    def engine(
        self, credentials: Credentials, registries: Sequence[str], dry_run: bool, may_fail: Sequence[str] = ()
    ) -> Iterator[Docker]:
        """Find the engine and log in, privately and until the block ends, where a registry has a login.

        At the registries of `may_fail` a refused login is a warning: what is pulled from there may be here already.
        Raises EngineError where no engine answers, and CommandError where another login is refused.
        """
        with _halted_by_interrupt():
            engine = self._search.result()
        if self.engine_name == "auto":
            logger.info(f"engine: {engine.name} {engine.version}")
        engine.log_caller_settings(self.environ)
        logins = dict.fromkeys(filter(None, (registry_login(credentials, registry) for registry in registries)))
        optional = dict.fromkeys(filter(None, (_login_if_whole(credentials, registry) for registry in may_fail)))
        if dry_run or self.environ.get("MAD_SKIP_DOCKER_LOGIN") == "1" or not {**logins, **optional}:
            yield engine
            return
        with logged_in(engine, logins, [login for login in optional if login not in logins]) as private:
            yield private

    @cached_property
    def _search(self) -> Future[Docker]:
        # Ctrl-C in the middle of it would leave a thread that waits for work for ever.
        with uninterrupted():
            pool = ThreadPoolExecutor(max_workers=1)
            search = pool.submit(find_engine, self.engine_name)
            pool.shutdown(wait=False)
        return search


def _login_if_whole(credentials: Credentials, registry: str) -> Login | None:
    try:
        return registry_login(credentials, registry)
    except ConfigurationError as error:
        logger.warning(f"{error}; going on without it")
        return None


@contextmanager
def _halted_by_interrupt() -> Iterator[None]:
    """End the programs of all threads at Ctrl-C, which only the main thread notices.

    GeneratorExit comes instead where Ctrl-C hit the entering of a `with` whose block then never began.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        halt()
        raise


def open_session(environ: Mapping[str, str], cwd: Path, may_be_starter: bool, **more: Any) -> Session:
    """Open a session in the model package of MODEL_DIR or `cwd`, else in the bundled starter where it may stand in.

    Raises ConfigurationError where MODEL_DIR lists no models.
    """
    if not may_be_starter and not environ.get("MODEL_DIR") and not lists_models(cwd):
        return Session(cwd, has_package=False, environ=environ, **more)
    root, message = package_root(environ, cwd)
    if message:
        logger.info(message)
    return Session(root, environ=environ, **more)
