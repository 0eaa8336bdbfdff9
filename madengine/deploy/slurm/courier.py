"""The node's end of a task where nodes share nothing: its end, and the step that carries its files.

What the step writes to its stdout are parts, each after a line with its kind and its size in bytes.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from madengine.deploy.ssh.archive import ArchiveError, pack, unpack
from madengine.deploy.ssh.node import ARCHIVE_MARK
from madengine.errors import EXIT_DONE, EXIT_FAILURE
from madengine.files import untrusted_tree, write_whole
from madengine.process import own_process_id, process_has_ended

#: what the submitting madengine sends once the files are safely there
STORED = b"stored\n"
#: kinds of parts: the name of the results' folder, what the task has printed, the archive, the end
NAME, LOG, ARCHIVE, END = b"N", b"L", b"A", b"E"
#: files of the task's folder that only their owner may read
CONTEXT, ENV_FILE = "context.json", "env_file.sh"
PRIVATE = (CONTEXT, ENV_FILE, "credential.json", "data.json")
MOST_PART_BYTES = 1 << 18
_EXIT_CODE, _WORK, _COURIER, _FETCHED = "exit_code", "work", "courier", "fetched"
# How long a task that has ended waits for a step to come, and for one that is there. GPUs are held meanwhile.
_ATTACH_SECONDS = 30.0
_SERVE_SECONDS = 900.0
_ANSWER_SECONDS = 120.0
_POLL_SECONDS = 0.1
_FOLDER = re.compile(r"_(\d+)(-attempt-\d+)?$")


def main(words: Sequence[str]) -> int:
    """Do one thing in a task's folder, and return the exit code."""
    what, folder, *rest = words
    if what == "work":
        return _work(Path(folder), rest)
    if what == "end":
        return _end(Path(folder), int(rest[0]))
    try:
        return _serve(Path(folder), is_over=rest == ["over"])
    except (OSError, ArchiveError) as error:
        # The other end has gone, and may come again; or the disk is full.
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_FAILURE


def _work(folder: Path, words: Sequence[str]) -> int:
    """Run madengine with these words, in place of the batch script's shell, which Slurm tells to end."""
    import runpy

    write_whole(folder / _WORK, own_process_id())
    bundle = folder / "madengine.pyz"
    sys.argv = [str(bundle), *words]
    code = EXIT_DONE
    try:
        runpy.run_path(str(bundle), run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_FAILURE if end.code else EXIT_DONE
    return _end(folder, code)


def _end(folder: Path, code: int) -> int:
    """Mark a task's end, and wait while its files are being fetched."""
    # At the time limit Slurm ends what still waits by KILL.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not a second time for the shell around the nodes' own.
    with suppress(FileNotFoundError, FileExistsError):
        with (folder / _EXIT_CODE).open("x", encoding="utf-8") as mark:
            mark.write(f"{code}\n")
        _await_step(folder)
    return code


def _await_step(folder: Path) -> None:
    started = time.monotonic()
    while folder.exists() and not (folder / _FETCHED).exists():
        limit = _SERVE_SECONDS if _is_attached(folder) else _ATTACH_SECONDS
        if time.monotonic() > started + limit:
            return
        time.sleep(_POLL_SECONDS)


def _is_attached(folder: Path) -> bool:
    with suppress(OSError):
        return not process_has_ended((folder / _COURIER).read_text(encoding="utf-8"))
    return False


def _serve(folder: Path, is_over: bool) -> int:
    """Take the private files, then send what the task prints until it has ended, and its files; remove the folder.

    `is_over` is whether the task's job has ended.
    """
    # A job that is cancelled tells all its steps to end, and waits for them.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_whole(folder / _COURIER, own_process_id())
    unpack(sys.stdin.buffer, folder, PRIVATE, may_replace=True)
    (folder / "arrived").touch()
    results = _results(folder)
    _send(NAME, results.name.encode())
    if not _follow_log(folder, is_over):
        return EXIT_FAILURE
    with io.BufferedWriter(_Parts(), MOST_PART_BYTES) as parts:
        parts.write(ARCHIVE_MARK)
        with gzip.GzipFile(fileobj=parts, mode="wb", compresslevel=1) as stream:
            pack(_files(results), stream)
    _send(END, b"")
    if not select.select([sys.stdin], [], [], _ANSWER_SECONDS)[0] or sys.stdin.buffer.readline() != STORED:
        return EXIT_FAILURE
    (folder / _FETCHED).touch()
    shutil.rmtree(folder, ignore_errors=True)
    return EXIT_DONE


def _results(folder: Path) -> Path:
    """Return where the batch script has madengine work, which may not be there yet."""
    parts = _FOLDER.search(folder.name)
    number, again = (parts[1], parts[2] or "") if parts else ("", "")
    task = next(folder.glob(f"{number}-*"), folder / "task")
    return task / f"{os.uname().nodename}{again}"


def _follow_log(folder: Path, is_over: bool) -> bool:
    """Send what the first node's log gets until the task has ended here; whether somebody still reads."""
    position = 0
    while True:
        has_ended = is_over or _has_ended(folder)  # before reading: then all of the log is there
        with suppress(FileNotFoundError), (folder / "log").open("rb") as log:
            log.seek(position)
            while part := log.read(MOST_PART_BYTES):
                position += len(part)
                _send(LOG, part)
        if has_ended:
            return True
        # Nothing is sent to us until the end, unless nobody is there any more.
        if select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            return False


def _has_ended(folder: Path) -> bool:
    if (folder / _EXIT_CODE).exists():
        return True
    with suppress(FileNotFoundError):
        return process_has_ended((folder / _WORK).read_text(encoding="utf-8"))
    return False


def _files(results: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each file that comes back, our own first: models may leave any number."""
    names: list[PurePath] = []
    with suppress(TimeoutError):
        names += (path for path, status in untrusted_tree(results) if stat.S_ISREG(status.st_mode))
    yield from ((str(name), results / name) for name in sorted(names, key=lambda name: (len(name.parts) > 1, name)))


class _Parts(io.RawIOBase):
    """The archive's way out, a part for each write."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        _send(ARCHIVE, bytes(content[:MOST_PART_BYTES]))
        return min(len(content), MOST_PART_BYTES)


def _send(kind: bytes, content: bytes) -> None:
    sys.stdout.buffer.write(b"%s%d\n%s" % (kind, len(content), content))
    sys.stdout.buffer.flush()
