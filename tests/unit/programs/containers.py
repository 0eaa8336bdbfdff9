"""Containers of engines without a daemon, for the tests of each."""

from __future__ import annotations

import time
from collections.abc import Callable

from madengine import programs
from madengine.programs.engine import Container
from madengine.programs.process_engine import ProcessEngine

DIGEST = "d" * 64
REFERENCE = f"reg.example.com:5000/org/m@sha256:{DIGEST}"


def start(engine: ProcessEngine, *words: str, **more: object) -> None:
    """Start the container m-1 with these words."""
    container = Container("m-1", REFERENCE, words, labels={"a": "b c"}, **more)  # type: ignore[arg-type]
    programs.ask(engine.run(container))


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, and fail where that takes too long."""
    limit = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.02)
