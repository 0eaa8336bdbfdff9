"""The log of a model: of the one that runs now, else of the newest run in the current folder."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from madengine import programs
from madengine.errors import RunError
from madengine.files import open_untrusted
from madengine.programs.engine import Docker
from madengine.run.names import LOG_SUFFIX, slug
from madengine.run.running import RunningModel

# Where runs are: of this machine, and those that were brought back from hosts.
_PLACES = ("runs/{run_id}/{model}*/*{suffix}", "results/*/*/runs/{run_id}/{model}*/*{suffix}")
_POLL_SECONDS = 0.2
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelLog:
    """A log, and who writes to it."""

    path: Path
    #: None if the model has ended
    running: RunningModel | None = None

    def open(self) -> IO[bytes]:
        """Open the file; a script may have put a link in its place. Raises OSError."""
        folder = self.path.parent.parent
        return open_untrusted(folder, self.path.relative_to(folder), sys.maxsize)


def find_log(model: str, run_id: str, running: Sequence[RunningModel]) -> ModelLog:
    """Return the log of the model that runs, the newest first, else of its newest run; of `run_id`, if that is not "".

    Raises RunError, with the models that have one, if there is none.
    """
    for one in running:
        if one.model == model and one.log and run_id in ("", one.run_id):
            return ModelLog(Path(one.log), one)
    logs = [path for path in _logs(slug(model), run_id) if _is_of(path, model)]
    if not logs:
        names = {one.model for one in running} | {path.parent.name for path in _logs("", run_id)}
        known = ", ".join(sorted(names)[:20]) or "none"
        where = f" in run {run_id}" if run_id else ""
        raise RunError(f"{model}: no log of it here{where}, running or below {Path.cwd()}/runs; there are: {known}")
    return ModelLog(max(logs, key=lambda path: path.stat().st_mtime))


def copy_log(log: ModelLog, engines: Sequence[Docker], follow: bool, write: Callable[[bytes], None]) -> None:
    """Hand on the log, and with `follow` what is added until the model ends or nobody reads our stdout any more.

    Raises OSError if the log can't be read.
    """
    with log.open() as file:
        if not (follow and log.running):
            _copy(file, write)
            return
        engine = next(engine for engine in engines if engine.name == log.running.engine)
        with programs.background(engine.wait(log.running.container)) as waiter:
            while True:
                has_ended = waiter.poll() is not None  # before reading: then all of the log is there
                _copy(file, write)
                if has_ended or _reader_has_left():
                    return
                programs.pause(waiter, _POLL_SECONDS)


def _copy(file: IO[bytes], write: Callable[[bytes], None]) -> None:
    while chunk := file.read(_CHUNK_BYTES):
        write(chunk)


def _reader_has_left() -> bool:
    """Return whether the other end of our stdout is closed, which a write would only see with the next line."""
    with suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def _logs(model: str, run_id: str) -> Iterator[Path]:
    for place in _PLACES:
        yield from Path().glob(place.format(run_id=run_id or "*", model=model, suffix=LOG_SUFFIX))


def _is_of(path: Path, model: str) -> bool:
    """Whether a log is of the model itself, and not of one whose name only begins alike."""
    folder, name = path.parent.name, slug(model)
    return folder == name or folder.removeprefix(f"{name}_").isdigit()
