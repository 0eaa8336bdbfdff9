"""A table on the terminal of what models, images and hosts are doing, drawn by rich where that is installed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine.config.progress import WAITING, Progress, listening

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

# A command that takes less than this is not worth a table, nor the time to import what draws it.
_QUIET_SECONDS = 0.7
_DRAW_SECONDS = 0.25
# Columns that stay free at the right: the terminal itself writes ^C there, which must not begin another line.
_SPARE = 3
# Widths of the terminal from which there is room for more than name, state and time.
_WITH_DETAIL = 60
_STYLES = {
    "SUCCESS": "green", "done": "green", "built": "green", "SKIPPED": "yellow", "stopped": "yellow", WAITING: "dim",
    "FAILURE": "bold red", "failed": "bold red", "lost": "bold red",
}  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """The newest progress of one thing, and when it began and ended."""

    progress: Progress
    began: float | None = None
    ended: float | None = None


class LiveView:
    """Collects progress, and draws it from its own thread once the command has taken a while."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._live: Live | None = None

    def take(self, progress: Progress) -> None:
        """Take in a progress; the first one starts the drawing."""
        with self._lock:
            before = self._lines.get(progress.name, _Line(Progress(progress.name)))
            self._lines[progress.name] = _after(before, progress, time.monotonic())
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._draw, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the drawing, and leave the terminal as it was; what is reported later is not drawn."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def print(self, text: str) -> bool:
        """Print lines above the table; return whether there is one."""
        live = self._live
        if live is None:
            return False
        from rich.text import Text

        live.console.print(Text(text), soft_wrap=True)
        return True

    def _draw(self) -> None:
        if self._stopping.wait(_QUIET_SECONDS):
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, highlight=False)
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        try:
            with live:
                self._live = live
                while True:
                    live.update(self._table(console), refresh=True)
                    if self._stopping.wait(_DRAW_SECONDS):
                        return
        except OSError:  # the terminal was closed; that doesn't end the work
            return
        finally:
            self._live = None

    def _table(self, console: Console) -> RenderableType:
        from rich.constrain import Constrain
        from rich.table import Table
        from rich.text import Text

        width, height = console.size
        with self._lock:
            lines = list(self._lines.values())
        grid = Table.grid(padding=(0, 2), expand=width >= _WITH_DETAIL)
        for name in ("name", "state", "time"):
            grid.add_column(no_wrap=True, overflow="ellipsis", min_width=8 if name == "name" else None)
        if width >= _WITH_DETAIL:
            grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        shown = _most_important(lines, max(1, height - 3))
        for line in shown:
            cells = [_name(line.progress), _state(line.progress.state), Text(_time(line, time.monotonic()))]
            grid.add_row(*cells, *([Text(_printable(line.progress.detail))] if width >= _WITH_DETAIL else []))
        if len(shown) < len(lines):
            grid.add_row(Text(f"… {len(lines) - len(shown)} more", style="dim"))
        return Constrain(grid, width - _SPARE)


def _after(before: _Line, progress: Progress, now: float) -> _Line:
    old = before.progress
    merged = replace(
        progress,
        state=progress.state or old.state or WAITING,
        detail=progress.detail or ("" if progress.state not in ("", old.state) else old.detail),
        log=progress.log or old.log,
        limit=progress.limit or (old.limit if progress.state in ("", old.state) else 0.0),
    )
    if merged.state == WAITING:
        return _Line(merged)
    is_again = before.ended is not None and not progress.ended and bool(progress.state)
    began = now if before.began is None or is_again else before.began
    return _Line(merged, began, now if progress.ended else None if is_again else before.ended)


def _most_important(lines: list[_Line], count: int) -> list[_Line]:
    """Return what fits: first what goes on, then what has ended, the newest first, then what waits."""
    active = [line for line in lines if line.began is not None and line.ended is None]
    ended = sorted((line for line in lines if line.ended is not None), key=lambda line: -(line.ended or 0.0))
    waiting = [line for line in lines if line.began is None]
    chosen = [*active, *ended, *waiting][:count]
    return [line for line in lines if line in chosen]


def _name(progress: Progress) -> Text:
    """Return the name, as a link to the log."""
    from rich.style import Style
    from rich.text import Text

    link = Path(progress.log).absolute().as_uri() if progress.log else None
    return Text(_printable(progress.name), style=Style(link=link))


def _state(state: str) -> Text:
    from rich.text import Text

    return Text(_printable(state), style=_STYLES.get(state, "cyan"))


def _time(line: _Line, now: float) -> str:
    if line.began is None:
        return ""
    seconds = (line.ended or now) - line.began
    limit = f" / {_clock(line.progress.limit)}" if line.progress.limit and line.ended is None else ""
    return f"{_clock(seconds)}{limit}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:500])


def _is_useful(values: Mapping[str, Any]) -> bool:
    """Return whether a table may be drawn: on a terminal, where nothing else is to appear there."""
    writes_itself = any(values.get(name) for name in ("live_output", "dry_run", "quiet", "verbosity"))
    is_plain = values.get("log_format") != "text" or os.environ.get("CI") or os.environ.get("TERM") in (None, "dumb")
    return not writes_itself and not is_plain and sys.stderr.isatty() and find_spec("rich") is not None


@contextmanager
def live_view(values: Mapping[str, Any]) -> Iterator[LiveView | None]:
    """Show what is reported while the block runs; nothing where no terminal wants it, or without rich."""
    if not _is_useful(values):
        yield None
        return
    view = LiveView()
    with listening(view.take):
        try:
            yield view
        finally:
            view.stop()
