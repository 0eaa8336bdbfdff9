"""One node as the controller sees it: examined, shipped to, run on, followed through broken lines, fetched from."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from madengine import programs
from madengine.config.package import own_file
from madengine.deploy.ssh import node
from madengine.engine_names import ENGINE_NAMES
from madengine.errors import CommandError, MadengineError, RunError
from madengine.programs import Answer, ssh

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

OLDEST_PYTHON = (3, 10)
# What a run writes beside its images; with less it ends in the middle.
LITTLE_DISK = 64 * 2**20
# How long a node gets to end its containers after it was asked to.
STOP_SECONDS = 90
_EXAMINE_SECONDS = 120.0
_FIRST_TRIES = 4
# Exchanging keys keeps a processor of this machine busy, and a gateway turns away whom it finds waiting behind ten
# others (sshd's MaxStartups). Many at once would end no sooner, but the first nodes start later.
_CONNECTING = threading.Semaphore(min(8, 2 * (os.cpu_count() or 1)))
# Hosts that are down must not keep the others waiting.
_TURN_SECONDS = 2.0
_LONGEST_PAUSE = 15.0
_LONGEST_ATTEMPT = 60.0
# Some logins greet whoever comes, before the archive.
_GREETING_BYTES = 1 << 16
# The order's words follow; `-I`, so that nothing in the folder or the home takes the place of our modules.
_BOOT = (
    "import os, sys; os.chdir(sys.argv[1]); sys.path.insert(0, os.path.abspath(sys.argv[2])); "
    "from madengine.fleet import node; sys.exit(node.main(sys.argv[3:]))"
)


class LostError(MadengineError):
    """A node that can't be reached any more; what was started there may go on."""


class StoppedError(MadengineError):
    """Somebody pressed Ctrl-C meanwhile."""


@dataclass(frozen=True)
class Settings:
    """Where a node keeps things and what runs them; `patience` is how long a lost node is tried, in seconds."""

    folder: str = "madengine"
    python: str = "python3"
    patience: float = 600.0


@dataclass
class RemoteNode:
    """One node; `tell` takes the lines of its log and what happens to its connection.

    Once `stopping` is set, whatever waits ends with StoppedError.
    """

    connection: ssh.Connection
    settings: Settings
    tell: Callable[[str], None]
    stopping: threading.Event

    @property
    def folder(self) -> str:
        """The folder on the node, as seen from the user's home there; `%h` in it is the host's name."""
        named = self.settings.folder.replace("%h", self.connection.host.folder)
        return named.removeprefix("~/").rstrip("/") or "/"

    def examine(
        self,
        incoming: str,
        files: Mapping[str, str],
        ports: Sequence[int],
        engine: str = "auto",
        images: Sequence[str] = (),
    ) -> Mapping[str, Any]:
        """Open the connection and look whether the node is fit, and has `images`; `incoming` is made there.

        What the node's folder has of `files` (by name, with the SHA-256 of each) is taken over into `incoming`; the
        answer's `has` names it.

        Raises RunError with the reason where it isn't reached, or not fit.
        """
        wanted = ",".join(f"{name}={digest}" for name, digest in files.items())
        engines = ",".join(ENGINE_NAMES) if engine == "auto" else engine
        words = ("-", self.folder, f"{self.folder}/{incoming}", wanted, ",".join(map(str, ports)), engines, *images)
        answer = self._opened(self.connection(self.settings.python, *words), _preflight())
        found = _last_json(answer.out)
        if found is None:
            raise RunError(f"{self.settings.python}: {answer.last_line}; --remote-python names another")
        version = str(found["python"])
        if tuple(map(int, version.split(".")[:2])) < OLDEST_PYTHON:
            raise RunError(
                f"{self.settings.python} is {version}; madengine needs 3.10 or newer: --remote-python names another"
            )
        if found.get("problem"):
            raise RunError(str(found["problem"]))
        if found["free_bytes"] < LITTLE_DISK:
            raise RunError(f"{self.folder}: {found['free_bytes'] // 2**20} MiB free there; make room, or --remote-path")
        return found

    def _opened(self, command: BaseCommand, stdin: str) -> Answer:
        for tries in range(1, _FIRST_TRIES + 1):
            with _turn_to_connect():
                answer = programs.attempt(command, seconds=_EXAMINE_SECONDS, stdin=stdin)
            if not ssh.is_broken(answer):
                return answer
            if tries == _FIRST_TRIES or not ssh.may_pass(answer):
                break
            # Many at once through one gateway: it turns some away for a moment.
            self.stopping.wait(tries)
        raise RunError(ssh.explain(answer))

    def copy(self, sources: Sequence[Path], incoming: str) -> None:
        """Copy files there, if there are any. Raises RunError where that fails for another reason than the line."""
        if not sources:
            return
        command = self.connection.copy(sources, f"{self.folder}/{incoming}")
        answer = self._persist(lambda: programs.attempt(command, seconds=None))
        if answer.code != 0:
            raise RunError(f"scp: {answer.last_line}")

    def accept(self, incoming: str) -> None:
        """Put what was copied into the node's folder."""
        self._ask("accept", incoming, bundle=f"{incoming}/{node.BUNDLE}")

    def pull(self, run_id: str, ports: Sequence[int], words: Sequence[str]) -> bool:
        """Pull the images through tunnels to this machine's registry; whether all came.

        Where not all came, the tunnels stay, so that the run meets the same errors and reports them.
        """
        answer = self._persist(lambda: self._pulled(run_id, ports, words))
        if answer.code == 0:
            for port in ports:
                programs.attempt(self.connection.close_tunnel(port))
        return answer.code == 0

    def _pulled(self, run_id: str, ports: Sequence[int], words: Sequence[str]) -> Answer:
        answer = programs.attempt(self.connection("true"))
        for port in ports if answer.code == 0 else ():
            answer = programs.attempt(self.connection.tunnel(port))
            if answer.code != 0:
                return answer
        if answer.code != 0:
            return answer
        return programs.attempt(self._order("pull", run_id, *words, bundle=_bundle(run_id)), seconds=None)

    def run(self, run_id: str, environ: Mapping[str, str], words: Sequence[str], target: Path) -> bool:
        """Start a run and follow it to its end; may be called for one that was started before.

        Whether its files have come into the folder `target` at once; where not, `fetch` says why.
        Raises RunError where it can't be started, LostError where the node isn't reached for too long.
        """
        settings = [f"{name}={value}" for name, value in environ.items()]
        return self._follow(run_id, target, lambda seen: ("run", run_id, str(seen), *settings, "--", *words))

    def follow(self, run_id: str, target: Path) -> bool:
        """Follow a run that was started before, as `run` does. Raises RunError where there is none of this name."""
        try:
            return self._follow(run_id, target, lambda seen: ("follow", run_id, str(seen)))
        except RunError as error:
            if "No module named" not in str(error):
                raise
            raise RunError(f"{self.folder}: no run {run_id} was started there over ssh") from None

    def _follow(self, run_id: str, target: Path, order: Callable[[int], Sequence[str]]) -> bool:
        seen = 0
        other: list[str] = []

        def line_seen(line: str) -> None:
            nonlocal seen
            if line.startswith(node.MARK):
                seen += line.endswith("\n")
                self.tell(line[1:].rstrip())
            else:
                other.append(line)

        def once() -> Answer:
            other.clear()
            before = seen
            with archive.open("wb") as file:
                command = self._order(*order(seen), bundle=_bundle(run_id))
                answer = ssh.follow(command, line_seen, node.ARCHIVE_MARK, file)
            return Answer(answer.code, "contact" if seen > before else "", "".join(other) + answer.err)

        with _archive_for(target) as archive:
            answer = self._persist(once)
            if answer.code != 0 and not archive.stat().st_size:
                raise RunError(answer.last_line)
            return answer.code == 0 and _is_kept(archive, target)

    def stop(self, run_id: str) -> bool:
        """Ask the node to end a run as on Ctrl-C; whether it did."""
        order = self._order("stop", run_id, str(STOP_SECONDS), bundle=_bundle(run_id))
        return programs.attempt(order, seconds=STOP_SECONDS + 30).code == 0

    def newest(self) -> str:
        """The run that was started last. Raises RunError where there is none, or the node isn't reached."""
        answer = self._opened(self._order("newest", bundle=node.BUNDLE), "")
        if answer.code != 0:
            is_bare = "No module named" in answer.err or "No such file" in answer.err
            raise RunError(f"{self.folder}: no run was started there over ssh" if is_bare else answer.last_line)
        return answer.out.strip().rsplit("\n", 1)[-1]

    def fetch(self, run_id: str, target: Path) -> None:
        """Bring a run's files into the folder `target`, which then has nothing else in it.

        Raises RunError where there is no such run, LostError where the node isn't reached for too long.
        """
        order = self._order("pack", run_id, bundle=_bundle(run_id))
        with _archive_for(target) as archive:
            answer = self._persist(lambda: _received(order, archive))
            if answer.code != 0 or not _is_kept(archive, target):
                raise RunError(f"run {run_id} can't be fetched from {self.folder}: exit code {answer.code}")

    def doctor(self, words: Sequence[str]) -> Answer:
        """Let the node's own doctor look at it."""
        return programs.attempt(
            self.connection(self.settings.python, f"{self.folder}/{node.BUNDLE}", "doctor", *words), seconds=300
        )

    def hang_up(self) -> None:
        """Close the connection, where there is one."""
        if self.connection.is_open:
            programs.attempt(self.connection.close(), seconds=10)

    def _ask(self, *words: str, bundle: str) -> None:
        answer = self._persist(lambda: programs.attempt(self._order(*words, bundle=bundle)))
        if answer.code != 0:
            raise RunError(answer.last_line)

    def _order(self, *words: str, bundle: str) -> BaseCommand:
        return self.connection(self.settings.python, "-I", "-c", _BOOT, self.folder, bundle, *words)

    def _persist(self, attempt: Callable[[], Answer]) -> Answer:
        """The answer, however often the connection breaks meanwhile.

        Raises LostError where the node wasn't reached for `patience` seconds.
        """
        lost, pause = 0.0, 0.5
        while True:
            began = time.monotonic()
            answer = self._unless_stopped(attempt)
            if not ssh.is_broken(answer):
                return answer
            now = time.monotonic()
            # No attempt to connect takes so long: there was a connection.
            if not lost or answer.out or now - began > _LONGEST_ATTEMPT:
                lost, pause = now, 0.5
            if now - lost >= self.settings.patience:
                raise LostError(ssh.explain(answer))
            self.tell(f"connection lost: {ssh.explain(answer)}; again in {pause:g} s")
            self.stopping.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _unless_stopped(self, attempt: Callable[[], Answer]) -> Answer:
        try:
            answer = attempt()
        except CommandError:
            if not self.stopping.is_set():
                raise
            raise StoppedError("interrupted") from None
        if self.stopping.is_set():
            raise StoppedError("interrupted")
        return answer


@contextmanager
def _turn_to_connect() -> Iterator[None]:
    has_turn = _CONNECTING.acquire(timeout=_TURN_SECONDS)
    try:
        yield
    finally:
        if has_turn:
            _CONNECTING.release()


def _bundle(run_id: str) -> str:
    return f"{node.RUNS}/{run_id}/{node.BUNDLE}"


def _preflight() -> str:
    return own_file("programs/preflight.py").decode()


def _last_json(text: str) -> dict[str, Any] | None:
    """The last line that is a JSON object; before it may be what a login prints."""
    for line in reversed(text.splitlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return None


@contextmanager
def _archive_for(target: Path) -> Iterator[Path]:
    """A file for what comes, beside the folder that it is to become; it goes at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder) / "archive"


def _is_kept(archive: Path, target: Path) -> bool:
    """Make the folder of an archive's files; an archive that isn't whole makes none."""
    part = archive.with_name("part")
    try:
        with archive.open("rb") as file:
            _unpack(file, part)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile):
        return False
    _replace(part, target)
    return True


def _received(order: BaseCommand, archive: Path) -> Answer:
    with archive.open("wb") as file:
        return Answer(ssh.receive(order, file), "", "")


def _unpack(archive: IO[bytes], target: Path) -> None:
    """Write the regular files of an archive; a name that leads elsewhere is none that our node writes."""
    target.mkdir()
    before, mark, _ = archive.read(_GREETING_BYTES).partition(node.ARCHIVE_MARK)
    archive.seek(len(before) + len(mark))
    with gzip.GzipFile(fileobj=archive) as packed, tarfile.open(fileobj=packed, mode="r|") as members:
        for member in members:
            name = PurePosixPath(member.name)
            source = members.extractfile(member) if member.isfile() else None
            if source is None or name.is_absolute() or ".." in name.parts:
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(source, file)
        while packed.read(_GREETING_BYTES):  # to its end, where the checksum is
            pass


def _replace(part: Path, target: Path) -> None:
    """Put a folder where one may be already."""
    if target.exists():
        target.rename(part.with_name("old"))
    part.rename(target)
