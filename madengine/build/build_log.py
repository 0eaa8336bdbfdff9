"""Where the output of an image's builds and pushes goes: its log file, and live to the user."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from madengine import programs
from madengine.config.progress import Progress, report
from madengine.errors import BuildError
from madengine.programs.image_references import canonical_name

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

logger = logging.getLogger(__name__)

_SHOWN_LINES = 20
# BuildKit's line of a stage's first step, where it asked a registry for the image.
_BASE = re.compile(r"#\d+ \[[^\]]*\] FROM (?P<name>\S+)@(?P<digest>sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class BuildLog:
    """Runs commands and keeps their output in a file."""

    path: Path
    file: TextIO
    #: The user sees each line as it comes.
    is_live: bool = False
    #: Of the image that the lines are about, for a view of them; empty for none.
    name: str = ""

    def run(self, command: BaseCommand, problem: str) -> str:
        """Run a command and return its last line that isn't empty.

        Raises BuildError (`problem`, then that line) where it fails, or the log can't be written.
        """
        last = ""

        def line_seen(line: str) -> None:
            nonlocal last
            last = line.strip() or last
            self.file.write(line)
            if self.name and line.strip():
                report(Progress(self.name, detail=line.strip()))
            if self.is_live:
                logger.info(line.rstrip("\n"))

        try:
            self.file.write(f"$ {programs.redact(programs.shell_line(command))}\n")
            code = programs.stream(command, line_seen)
            self.file.flush()
        except OSError as error:
            raise _not_writable(self.path, error) from error
        if code != 0:
            raise BuildError(f"{problem}: {last or f'exit code {code}'}")
        return last


@contextmanager
def open_log(path: Path = Path(os.devnull), is_live: bool = False, name: str = "") -> Iterator[BuildLog]:
    """Open a new log, its folder made if missing; without a path its lines are kept nowhere.

    Raises BuildError where it can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", errors="replace", buffering=1)
    except OSError as error:
        raise _not_writable(path, error) from error
    with file:
        yield BuildLog(path, file, is_live, name)


def base_digest(path: Path, name: str) -> str:
    """Return the digest that BuildKit says it got for the base image of that name; empty if the log has none."""
    canonical = canonical_name(name)
    with suppress(OSError), path.open(errors="replace") as lines:
        for line in lines:
            base = _BASE.match(line)
            if base and canonical_name(base["name"]) == canonical:
                return base["digest"]
    return ""


def show_end(path: Path) -> None:
    """Show the last lines of a log, where there is one."""
    with suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        logger.info("\n".join([*(f"  | {line}" for line in lines), f"  the whole log: {path}"]))


def _not_writable(path: Path, error: OSError) -> BuildError:
    return BuildError(f"{path}: can't be written: {error.strerror}")
