"""Docker's options of a model entry, as engines without a daemon have them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from madengine.errors import RunError

# What such a container has by itself, or no engine without a daemon can limit; each takes a value, or none.
_WITH_VALUE = frozenset(
    ("--ipc", "--network", "--net", "--shm-size", "--ulimit", "--group-add", "--cap-add", "--security-opt", "--device",
     "--pid", "--uts")
)  # fmt: skip
_ALONE = frozenset(("--privileged", "--init", "--rm"))
# Those that engines' own `devices` return.
_FLAGS = frozenset(("--rocm", "--nv"))
_VOLUME = ("-v", "--volume")
_VARIABLE = ("-e", "--env")


@dataclass
class Translated:
    """What an engine without a daemon is started with, and what it needs none for."""

    flags: list[str] = field(default_factory=list)
    #: As in docker's `--volume`.
    volumes: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    #: Options without an effect.
    ignored: list[str] = field(default_factory=list)


def translated(options: Iterable[str], engine: str) -> Translated:
    """Return docker's options taken apart. Raises RunError for one that the engine (a name) can't honour."""
    result, words = Translated(), iter(options)
    for word in words:
        name, has_value, value = word.partition("=")
        if word in _FLAGS:
            result.flags.append(word)
        elif name in _ALONE:
            result.ignored.append(name)
        elif name in (*_WITH_VALUE, *_VOLUME, *_VARIABLE):
            _take(result, name, value if has_value else _next(words, name))
        else:
            raise RunError(f"additional_docker_run_options: {word}: {engine} has no such option; use docker or podman")
    return result


def _take(result: Translated, name: str, value: str) -> None:
    if name in _VOLUME:
        result.volumes.append(value)
    elif name in _VARIABLE:
        key, has_value, text = value.partition("=")
        result.environment[key] = text if has_value else os.environ.get(key, "")
    else:
        result.ignored.append(name)


def _next(words: Iterator[str], name: str) -> str:
    value = next(words, None)
    if value is None:
        raise RunError(f"additional_docker_run_options: {name}: expected a value")
    return value
