"""Data that is elsewhere becomes a folder here: once, whole, checked, and taken up again where it broke off."""

from __future__ import annotations

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
from madengine.errors import CommandError, MadengineError, RunError
from madengine.files import human_size, locked, read_json, write_json

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# A log without a terminal hears of a fetch so often.
_LOG_SECONDS = 60.0
_KEPT_LINES = 40
_HASHED = 1 << 20
_CAUSE = re.compile(r"no such|denied|refused|resolve|verification failed|no space", re.IGNORECASE)
_TELLING = re.compile(r"error|fatal|failed", re.IGNORECASE)


class Source(Protocol):
    """Where data can be fetched from: one provider of one data set."""

    @property
    def provider(self) -> str:
        """The provider's name in data.json."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What tells these data from others, without a secret: it is kept beside them."""

    def fetch(self, target: Path, client: Client) -> None:
        """Bring the data into a folder that is there; what an earlier fetch left in it is used.

        Raises RunError or CommandError with the reason where that doesn't work.
        """

    def shell_lines(self, target: Path) -> Iterator[str]:
        """The same as lines for a POSIX shell, without secrets."""


@dataclass(frozen=True)
class Fetched:
    """Data that are here: their size in bytes, and the seconds that it took now to bring them."""

    size: int
    seconds: float


@dataclass(frozen=True)
class Client:
    """Runs the programs that fetch; `say` takes lines for people, `stopping` ends the fetches of other threads."""

    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, command: BaseCommand, problem: str = "") -> list[str]:
        """Run a program to its end; gives the last lines that it printed.

        Raises CommandError (`problem`, then what it said) where it fails.
        """
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        with self._may_be_stopped():
            code = programs.stream(command, lines.append)
        if self.stopping.is_set():
            raise KeyboardInterrupt
        if code != 0:
            said = [line.strip() for line in lines if line.strip()]
            what = f"{problem}: " if problem else ""
            raise CommandError(f"{what}{_telling(said) or f'exit code {code}'}", code)
        return list(lines)

    def run_on(self, command: BaseCommand, target: Path, broken: Container[int | None]) -> None:
        """Run a program that takes up what is there; again while a broken line has brought at least something."""
        while True:
            before = size(target)
            try:
                self.run(command)
                return
            except CommandError as error:
                if error.code not in broken or size(target) <= before:
                    raise
                logger.info(f"{error}; going on from {human_size(size(target))}")

    def wait(self, seconds: float) -> None:
        """Pause, unless somebody stops us."""
        if self.stopping.wait(seconds):
            raise KeyboardInterrupt

    @contextmanager
    def _may_be_stopped(self) -> Iterator[None]:
        """End what this thread runs when another one says so."""
        me, done = threading.get_ident(), threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                if self.stopping.is_set():
                    programs.end_programs_of(me, programs.GRACE_SECONDS)
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def fetched(name: str, source: Source, target: Path, sha256: Any, client: Client) -> Fetched:
    """Make sure that a data set is in `target`; who finds it complete there from an earlier fetch takes it as it is.

    Raises MadengineError with the reason where it can't be had, or isn't what `sha256` says.
    """
    told = False

    def waiting() -> None:
        nonlocal told
        if not told:
            logger.info(f"data {name}: waiting for another fetch of it")
            told = True
        client.wait(0.1)

    try:
        target.mkdir(parents=True, exist_ok=True)
        with locked(_beside(target, "lock"), waiting):
            if (known := _complete(source, target, sha256)) is not None:
                logger.info(f"data {name}: {human_size(known)} are in {target} since an earlier fetch")
                return Fetched(known, 0.0)
            return _fetch(name, source, target, sha256, client)
    except OSError as error:
        raise RunError(f"{error.filename or target}: {error.strerror or error}") from error


def is_complete(source: Source, target: Path, sha256: Any) -> bool:
    """Whether an earlier fetch has brought these very data."""
    try:
        return _complete(source, target, sha256) is not None
    except MadengineError:
        return False


def check(folder: Path, sha256: Any) -> None:
    """Compare files with what data.json says of them: one hash for the only file, or one each by relative path.

    Raises RunError, naming the file, where they differ.
    """
    if not sha256:
        return
    expected = dict(sha256) if isinstance(sha256, Mapping) else {_only_file(folder): sha256}
    for name, wanted in expected.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path}: no such file, and sha256 names it")
        found = _sha256(path)
        if found != str(wanted).lower():
            raise RunError(f"{path}: its sha256 is {found}, not {wanted}")


def size(folder: Path, most: int = sys.maxsize) -> int:
    """The bytes of the files below a folder; -1 where there are more than `most` entries."""
    total, folders = 0, [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                most -= 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
        if most < 0:
            return -1
    return total


def _fetch(name: str, source: Source, target: Path, sha256: Any, client: Client) -> Fetched:
    record = _beside(target, "json")
    began = time.monotonic()
    if present := size(target):
        logger.info(f"data {name}: {human_size(present)} are in {target} already, the rest follows")
    with _progress(f"data {name} from {source.provider}", target):
        source.fetch(target, client)
    try:
        check(target, sha256)
    except RunError:
        if isinstance(sha256, str):
            (target / _only_file(target)).unlink()
        raise
    came = Fetched(size(target), round(time.monotonic() - began, 3))
    write_json(record, {"data": name, "source": dict(source.identity), "sha256": sha256 or "", "size": came.size})
    logger.info(f"data {name}: {human_size(came.size)} from {source.provider} in {came.seconds:.1f} s, in {target}")
    return came


def _complete(source: Source, target: Path, sha256: Any) -> int | None:
    """The size of the data where an earlier fetch has brought all of them.

    Raises RunError where the folder holds other data.
    """
    record = read_json(_beside(target, "json"), RunError, missing={})
    if not record or not target.is_dir():
        return None
    if record.get("source") != dict(source.identity):
        raise RunError(f"{target} holds data of another source ({record.get('source')}); move it away, or remove it")
    return int(record["size"]) if record.get("sha256") == (sha256 or "") else None


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _telling(lines: list[str]) -> str:
    """The line that tells most of what a program said before it failed."""
    for telling in (_CAUSE, _TELLING):
        found = [line for line in lines if telling.search(line) and not re.match(r"rsync (error|warning): ", line)]
        if found:
            return found[-1]
    return (lines or [""])[-1]


def _only_file(folder: Path) -> str:
    found = [path for path in folder.rglob("*") if path.is_file()]
    if len(found) != 1:
        raise RunError(f"{folder}: holds {len(found)} files; write sha256 as {{file: hash}}")
    return str(found[0].relative_to(folder))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _progress(what: str, target: Path) -> Iterator[None]:
    """Tell how much has come: on a terminal in one line that changes, in a log once a minute."""
    done, live = threading.Event(), sys.stderr.isatty()
    logger.info(f"{what}: fetching")

    def tell() -> None:
        began, pause, before = time.monotonic(), 1.0 if live else _LOG_SECONDS, size(target)
        while not done.wait(pause):
            asked = time.monotonic()
            came = size(target)
            rate = human_size(max(0, round((came - before) / (asked - began))))
            line = f"{what}: {human_size(came)}, {rate}/s"
            _draw(line) if live else logger.info(line)
            # To count many files takes longer than it is worth every second.
            pause = max(pause, 10 * (time.monotonic() - asked))
        if live:
            _draw("")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _draw(line: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"\r\x1b[2K{line[:100]}")
        sys.stderr.flush()


def described(identity: Mapping[str, str]) -> str:
    """A short name for a source, for a folder that no other source shares."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
