"""Which container engines there are, and the one to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from madengine import programs
from madengine.errors import CommandError, EngineError
from madengine.programs.apptainer import Apptainer
from madengine.programs.engine import Docker
from madengine.programs.engine_errors import explain_engine_error
from madengine.programs.nerdctl import Nerdctl
from madengine.programs.podman import Podman
from madengine.programs.pyxis import Pyxis

# By name, in the order of ENGINE_NAMES.
ENGINES: Mapping[str, type[Docker]] = {engine.name: engine for engine in (Docker, Podman, Nerdctl)}
#: Those that run images and build none, which only their name chooses.
RUN_ENGINES: Mapping[str, type[Docker]] = {engine.name: engine for engine in (Apptainer, Pyxis)}
# An engine that takes longer than this to print its version counts as not running.
PROBE_SECONDS = 10.0


def engine_named(name: str) -> Docker:
    """Return the engine of this name, whether it runs here or not; raise EngineError if there is none."""
    known = {**ENGINES, **RUN_ENGINES}
    if name not in known:
        raise EngineError(f"unknown engine {name!r}; expected one of {', '.join(known)}")
    return known[name]()


def find_engine(name: str = "auto") -> Docker:
    """Return the named engine, or the first one that answers, with its version.

    Raises EngineError with the reason for each engine that was tried.
    """
    problems = []
    for engine in [engine_named(candidate) for candidate in (ENGINES if name == "auto" else [name])]:
        try:
            return replace(engine, version=_version(engine))
        except (CommandError, EngineError) as error:
            problems.append((engine, str(error)))
    raise _no_engine(problems, is_auto=name == "auto")


def answering_engines(name: str = "auto") -> list[Docker]:
    """Return the named engine, or every one that answers: a machine's containers may be of any.

    Raises EngineError with the reason for each if none does.
    """
    engines = []
    for candidate in ENGINES if name == "auto" else [name]:
        with suppress(CommandError, EngineError):
            engines.append(find_engine(candidate))
    return engines or [find_engine(name)]


def _no_engine(problems: Sequence[tuple[Docker, str]], is_auto: bool) -> EngineError:
    reasons = "; ".join(problem for _, problem in problems)
    fix = next((engine.access_fix for engine, problem in problems if _is_refused(engine, problem)), "")
    if fix:
        step = f"to get access: {fix}; or use sudo or podman"
    else:
        step = "install podman, or start docker" if is_auto else "install or start it, or choose another with --engine"
    return EngineError(f"{'no container engine answers: ' if is_auto else ''}{reasons}; {step}", fix)


def _is_refused(engine: Docker, problem: str) -> bool:
    return bool(engine.access_fix) and "permission denied" in problem.lower()


def _version(engine: Docker) -> str:
    """Return the version of an engine that answers.

    Raises CommandError if it is not installed, EngineError if it doesn't answer.
    """
    answer = programs.attempt(engine.version_command(), seconds=PROBE_SECONDS)
    if answer.code is None:
        raise EngineError(f"{engine.name}: no answer in {PROBE_SECONDS:g} s")
    if answer.code != 0 or not answer.out.strip():
        raise EngineError(f"{engine.name} doesn't answer: {explain_engine_error(answer.err)}")
    return answer.out.strip()
