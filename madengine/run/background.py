"""A call beside the main thread: questions to the engine that don't depend on each other, imports while it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from madengine.programs import GRACE_SECONDS, end_programs_of

_T = TypeVar("_T")


class Background(Generic[_T]):
    """A call that starts at once in a thread of its own; at the end of a `with` its programs are ended."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._values: list[_T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Background[_T]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            end_programs_of(self._thread.ident, GRACE_SECONDS)

    def result(self) -> _T:
        """Wait for the call; return its value, or raise its error."""
        self._thread.join()
        if self._error:
            raise self._error
        return self._values[0]

    def _run(self) -> None:
        try:
            self._values.append(self._call())
        except BaseException as error:  # raised where the result is needed
            self._error = error
