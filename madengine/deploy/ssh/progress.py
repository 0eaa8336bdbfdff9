"""What many hosts do, as it happens: a table that is redrawn on a terminal, else lines with the host's name."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from madengine.config.progress import WAITING, Progress, is_shown, report
from madengine.results.table import printable

logger = logging.getLogger(__name__)

# What a host is told to do, and how its work ends.
_STEPS = ("connecting", "copying", "pulling images", "starting", "stopping")
_ENDS = ("done", "failed", "stopped", "lost")


@dataclass
class Board:
    """The last line of each host; every line is logged where there is no terminal, or one too small."""

    hosts: Sequence[str]
    _lines: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_drawn: bool = False

    def __post_init__(self) -> None:
        for host in self.hosts:
            report(Progress(host, WAITING))
        self._is_live = sys.stderr.isatty() and len(self.hosts) < _size()[1] - 1
        self._width = max(map(len, self.hosts), default=0)

    def tell(self, host: str, line: str) -> None:
        """Show what a host does, or a line of its log."""
        line = printable(line)
        if is_shown():
            report(_progress(host, line))
            return
        with self._lock:
            if not self._is_live:
                logger.info(f"{host}: {line}")
                return
            self._lines[host] = line
            self._draw()

    def _draw(self) -> None:
        width = _size()[0]
        rows = [f"{host:{self._width}}  {self._lines.get(host, 'waiting')}"[: width - 1] for host in self.hosts]
        up = f"\x1b[{len(rows)}F" if self._is_drawn else ""
        # A terminal that was closed doesn't end the work.
        with suppress(OSError):
            sys.stderr.write(up + "".join(f"\x1b[2K{row}\n" for row in rows))
            sys.stderr.flush()
        self._is_drawn = True


def _progress(host: str, line: str) -> Progress:
    """Return what a line says: a step, how it ended (`done`, `failed: …`), or a line of the run's log."""
    state, colon, reason = line.partition(": ")
    if state in _ENDS and (colon or state == line):
        return Progress(host, state, reason, ended=True)
    return Progress(host, line) if line in _STEPS else Progress(host, "running", line)


def _size() -> tuple[int, int]:
    with suppress(OSError, ValueError):
        return os.get_terminal_size(sys.stderr.fileno())
    return (80, 24)
