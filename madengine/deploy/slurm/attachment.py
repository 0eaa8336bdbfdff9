"""A step on a node that shares nothing with this machine, seen from here: private files go there, results come back."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from madengine import programs
from madengine.deploy.slurm.courier import ARCHIVE, END, LOG, MOST_PART_BYTES, NAME, STORED
from madengine.deploy.ssh.archive import pack_to_bytes
from madengine.deploy.ssh.transfer import LimitedFile, UnusableError, archive_for, is_unpacked
from madengine.errors import MadengineError
from madengine.files import write_whole
from madengine.programs.slurm import STEP_END

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

#: before the number of a node in its job: the file that says that its files are here
STORED_PREFIX = ".stored-"
_HEADER = re.compile(rb"([NLAE])(\d{1,7})\n")
_HEADER_BYTES = 16
# A node's name, and the number of the attempt, as the task's script makes a folder's name of them.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


@dataclass(eq=False)
class Attachment:
    """One step, in a thread of its own, from its start until the files are here or it has failed."""

    command: BaseCommand
    #: the private files, by the names that they have on the node
    private: Mapping[str, Path]
    #: of the task on this machine; it gets a folder with the node's name
    task_folder: Path
    #: where what the task prints goes; None of another node than the first
    log: Path | None
    #: the number of the node in the job, empty where there is one
    rank: str = ""
    #: the folder's name, once the node has said it
    name: str = field(default="", init=False)
    is_stored: bool = field(default=False, init=False)
    #: why it has failed
    problem: str = field(default="", init=False)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        """End the step; what the node has stays there."""
        if self._thread.is_alive():
            programs.end_programs_of(self._thread.ident, grace=1)
            self._thread.join(5)

    def _run(self) -> None:
        try:
            with tempfile.TemporaryFile() as errors:
                with programs.conversation(self.command, errors) as (to_node, from_node):
                    self._carry(to_node, from_node)
                if not self.is_stored:
                    self.problem = self.problem or _last_line(errors)
        except (MadengineError, OSError) as error:
            self.problem = str(error)

    def _carry(self, to_node: IO[bytes], from_node: IO[bytes]) -> None:
        with suppress(BrokenPipeError):
            to_node.write(pack_to_bytes(self.private.items()))
            to_node.flush()
        if not self._receives_name(from_node):
            return
        target = self.task_folder / self.name
        with archive_for(target) as archive:
            with archive.open("wb") as file:
                is_whole = self._receive(from_node, LimitedFile(file))
            self.is_stored = is_whole and is_unpacked(archive, target)
        if is_whole and not self.is_stored:
            self.problem = "the archive of its files is broken"
        self._note_rank()
        if self.is_stored:
            # The node has nothing any more, of which another madengine has to know.
            write_whole(self.task_folder / f"{STORED_PREFIX}{self.rank or 0}", f"{self.name}\n")
            with suppress(BrokenPipeError):
                to_node.write(STORED)
                to_node.flush()
            # The node removes its folder before it ends.
            from_node.read()

    def _receives_name(self, stream: IO[bytes]) -> bool:
        kind, content = _part(stream)
        if kind != NAME:
            return False
        name = content.decode(errors="replace")
        if not _NAME.fullmatch(name):
            raise UnusableError(f"the node calls its folder {name[:100]!r}: refused")
        # An attempt that never ends properly has a folder too, and so a row.
        (self.task_folder / name).mkdir(parents=True, exist_ok=True)
        self.name = name
        self._note_rank()
        return True

    def _note_rank(self) -> None:
        if self.rank:
            write_whole(self.task_folder / self.name / "rank", f"{self.rank}\n")

    def _receive(self, stream: IO[bytes], archive: LimitedFile) -> bool:
        """Write the log and the archive; return whether the end has come."""
        with _log_file(self.log if self.rank in ("", "0") else None, self.name) as log:
            limited = LimitedFile(log)
            while True:
                kind, content = _part(stream)
                if kind == LOG:
                    limited.write(content)
                    log.flush()
                elif kind == ARCHIVE:
                    archive.write(content)
                else:
                    return kind == END


def _part(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """Return the next part's kind and content; nothing where there is none. Raises UnusableError for other bytes."""
    line = stream.readline(_HEADER_BYTES)
    header = _HEADER.fullmatch(line)
    if not header:
        if line.endswith(b"\n") or len(line) == _HEADER_BYTES:
            raise UnusableError(f"the node sends {line!r}: refused")
        return b"", b""
    size = int(header[2])
    if size > MOST_PART_BYTES:
        raise UnusableError(f"the node sends a part of {size} bytes: refused")
    content = stream.read(size)
    return (header[1], content) if len(content) == size else (b"", b"")


def _log_file(path: Path | None, name: str) -> IO[bytes]:
    """Open a task's log: a step sends all that its attempt has printed, whatever an earlier step has sent of it."""
    if path is None:
        return tempfile.TemporaryFile()
    start = path.with_name(f".{path.name}.{name}.start")
    if not start.exists():
        size = path.stat().st_size if path.exists() else 0
        write_whole(start, str(size))
    file = path.open("ab")
    file.truncate(int(start.read_text(encoding="utf-8")))
    return file


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = [line.strip() for line in file.read(MOST_PART_BYTES).decode(errors="replace").splitlines() if line.strip()]
    own = [line for line in lines if not STEP_END.match(line)]
    return programs.redact((own or lines or [""])[-1])
