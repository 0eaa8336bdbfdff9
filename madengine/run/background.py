"""A call beside the main thread: questions to the engine that don't depend on each other, imports while it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Background(Generic[_T]):
    """A call that starts at once in a thread of its own."""

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._values: list[_T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

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
