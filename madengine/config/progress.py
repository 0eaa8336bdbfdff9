"""What models, images and hosts are doing now, for a view of it on the terminal; nobody has to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WAITING = "waiting"


@dataclass(frozen=True)
class Progress:
    """One thing and what it is doing; empty fields leave what was reported before."""

    name: str
    #: a word such as building, pulling, running, or how it ended
    state: str = ""
    #: the newest line about it, of any origin
    detail: str = ""
    #: file with all of them
    log: str = ""
    #: seconds that the state may last; 0 is unknown
    limit: float = 0.0
    #: whether this was the last of it
    ended: bool = False


_listeners: list[Callable[[Progress], None]] = []


def report(progress: Progress) -> None:
    """Hand a progress to the view, if there is one; may be called by any thread."""
    for listener in _listeners:
        listener(progress)


def is_shown() -> bool:
    """Return whether there is a view, so that nothing else draws on the terminal."""
    return bool(_listeners)


@contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Let `listener` get what is reported until the block ends."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
