"""Data from elsewhere in a folder here: fetched once, completely, verified, and resumed after a break."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from madengine import programs
from madengine.config.progress import Progress, is_shown, report
from madengine.errors import CommandError, MadengineError, RunError
from madengine.files import human_size, read_json, write_json
from madengine.files.locks import locked
from madengine.process import remove

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# How often the progress of a fetch is logged without a terminal.
_LOG_SECONDS = 60.0
_ERROR_LINES = 40
_CHUNK_BYTES = 1 << 20
_CAUSE = re.compile(r"no such|denied|refused|resolve|verification failed|no space", re.IGNORECASE)
_ERROR = re.compile(r"error|fatal|failed", re.IGNORECASE)


class Source(Protocol):
    """One provider of one data set, which fetches it."""

    @property
    def provider(self) -> str:
        """The provider's name in data.json."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What identifies these data, without a secret: it is written beside them."""

    def fetch(self, target: Path, client: Client) -> None:
        """Fetch the data into an existing folder; what an earlier fetch left in it is used.

        Raises RunError or CommandError with the reason where the fetch fails.
        """

    def shell_lines(self, target: Path) -> Iterator[str]:
        """Yield the fetch as lines for a POSIX shell, without secrets."""


@dataclass(frozen=True)
class FetchResult:
    """Data that are here."""

    #: In bytes; -1 is unknown.
    size: int
    #: How long the fetch took now.
    seconds: float


@dataclass(frozen=True)
class Client:
    """Runs the programs that fetch."""

    #: Set at Ctrl-C; ends the fetches of other threads.
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, command: BaseCommand, problem: str = "") -> list[str]:
        """Run a program to its end, and return the last lines that it printed.

        Raises CommandError (`problem`, then its error line) where it fails.
        """
        lines: deque[str] = deque(maxlen=_ERROR_LINES)
        with self._may_be_stopped():
            code = programs.stream(command, lines.append)
        if self.stopping.is_set():
            raise KeyboardInterrupt
        if code != 0:
            reason = _error_line([line.strip() for line in lines if line.strip()]) or f"exit code {code}"
            raise CommandError(f"{problem}: {reason}" if problem else reason, code)
        return list(lines)

    def run_resuming(self, command: BaseCommand, target: Path, broken: Container[int | None]) -> None:
        """Run a program that resumes a fetch; again after a network error (exit codes `broken`) that left more data."""
        while True:
            before = size(target)
            try:
                self.run(command)
                return
            except CommandError as error:
                if error.code not in broken or size(target) <= before:
                    raise
                logger.info(f"{error}; resuming from {human_size(size(target))}")

    def wait(self, seconds: float) -> None:
        """Pause. Raises KeyboardInterrupt where `stopping` is set meanwhile."""
        if self.stopping.wait(seconds):
            raise KeyboardInterrupt

    @contextmanager
    def _may_be_stopped(self) -> Iterator[None]:
        """End the program of this thread when `stopping` is set."""
        thread, done = threading.get_ident(), threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                if self.stopping.is_set():
                    programs.end_programs_of(thread, programs.GRACE_SECONDS)
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def fetch(name: str, source: Source, target: Path, sha256: Any, client: Client) -> FetchResult:
    """Fetch a data set into `target`, unless an earlier fetch has completed it.

    Raises MadengineError with the reason where the fetch fails, or the data don't match `sha256`.
    """
    is_announced = False

    def waiting() -> None:
        nonlocal is_announced
        if not is_announced:
            logger.info(f"data {name}: waiting for another fetch of it")
            is_announced = True
        client.wait(0.1)

    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(_beside(target, "lock"), waiting):
            if (complete_size := _complete_size(source, target, sha256)) is not None:
                logger.info(f"data {name}: {human_size(complete_size)} in {target}, by an earlier fetch")
                return FetchResult(complete_size, 0.0)
            return _fetch(name, source, target, sha256, client)
    except OSError as error:
        raise RunError(f"{error.filename or target}: {error.strerror or error}") from error


def is_complete(source: Source, target: Path, sha256: Any) -> bool:
    """Whether an earlier fetch has completed these data."""
    try:
        return _complete_size(source, target, sha256) is not None
    except MadengineError:
        return False


def remove_fetched(target: Path) -> None:
    """Remove a data set that was fetched, and what is beside it. Raise OSError if it stays, or is being fetched."""
    lock = _beside(target, "lock")

    def refuse() -> None:
        raise BlockingIOError(errno.EBUSY, "being fetched", str(target))

    with locked(lock, refuse):
        # First: a folder that is half removed must not look complete.
        _beside(target, "json").unlink(missing_ok=True)
        remove(target)
        lock.unlink(missing_ok=True)


def check(folder: Path, sha256: Any) -> None:
    """Verify files with data.json's hash of the only file, or its hashes by relative path.

    Raises RunError, naming the file, where one differs.
    """
    if not sha256:
        return
    hashes = dict(sha256) if isinstance(sha256, Mapping) else {_only_file(folder): sha256}
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path}: no such file, and sha256 names it")
        digest = _sha256(path)
        if digest != str(expected).lower():
            raise RunError(f"{path}: expected sha256 {expected}, got {digest}")


def size(folder: Path, limit: int = sys.maxsize) -> int:
    """Return the bytes of the files below a folder; -1 where it has more than `limit` entries."""
    total, folders = 0, [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                limit -= 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
        if limit < 0:
            return -1
    return total


def _fetch(name: str, source: Source, target: Path, sha256: Any, client: Client) -> FetchResult:
    record = _beside(target, "json")
    started = time.monotonic()
    if partial_size := size(target):
        logger.info(f"data {name}: resuming from {human_size(partial_size)} in {target}")
    with _progress(f"data {name} from {source.provider}", target):
        source.fetch(target, client)
    try:
        check(target, sha256)
    except RunError:
        if isinstance(sha256, str):
            (target / _only_file(target)).unlink()
        raise
    result = FetchResult(size(target), round(time.monotonic() - started, 3))
    write_json(record, {"data": name, "source": dict(source.identity), "sha256": sha256 or "", "size": result.size})
    logger.info(f"data {name}: {human_size(result.size)} from {source.provider} in {result.seconds:.1f} s, in {target}")
    return result


def _complete_size(source: Source, target: Path, sha256: Any) -> int | None:
    """Return the size of the data where an earlier fetch has completed them, else None.

    Raises RunError where the folder holds other data.
    """
    record = read_json(_beside(target, "json"), RunError, missing={})
    if not record or not target.is_dir():
        return None
    if record.get("source") != dict(source.identity):
        raise RunError(f"{target} holds data of another source ({record.get('source')}); move or remove it")
    return int(record["size"]) if record.get("sha256") == (sha256 or "") else None


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _error_line(lines: list[str]) -> str:
    """Return the line that best explains a program's failure."""
    for pattern in (_CAUSE, _ERROR):
        matches = [line for line in lines if pattern.search(line) and not re.match(r"rsync (error|warning): ", line)]
        if matches:
            return matches[-1]
    return (lines or [""])[-1]


def _only_file(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) != 1:
        raise RunError(f"{folder}: one sha256 for {len(files)} files; write {{file: hash}}")
    return str(files[0].relative_to(folder))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _progress(what: str, target: Path) -> Iterator[None]:
    """Show the progress: on a terminal in one line that changes, in a log once a minute."""
    done, is_terminal = threading.Event(), sys.stderr.isatty()
    logger.info(f"{what}: fetching")

    def show() -> None:
        started, pause, first_size = time.monotonic(), 1.0 if is_terminal else _LOG_SECONDS, size(target)
        while not done.wait(pause):
            now = time.monotonic()
            current_size = size(target)
            rate = human_size(max(0, round((current_size - first_size) / (now - started))))
            line = f"{what}: {human_size(current_size)}, {rate}/s"
            _draw(what, line) if is_terminal else logger.info(line)
            # Counting many files takes too long to be done every second.
            pause = max(pause, 10 * (time.monotonic() - now))
        if is_terminal:
            _draw(what, "")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _draw(what: str, line: str) -> None:
    if is_shown():
        report(Progress(what, "fetching" if line else "done", line.removeprefix(f"{what}: "), ended=not line))
        return
    with suppress(OSError):
        sys.stderr.write(f"\r\x1b[2K{line[:100]}")
        sys.stderr.flush()


def identity_hash(identity: Mapping[str, str]) -> str:
    """Return a short name for a source, for a folder that no other source shares."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
