"""What a task prints, shown as its log grows on the shared folder."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from madengine.errors import MadengineError
from madengine.files import open_untrusted
from madengine.run.live_output import LiveOutput

# Models may print anything, and at once.
_LOG_BYTES = 1 << 50
_STEP_BYTES = 1 << 20


@dataclass
class LogTail:
    """The end of a task's log that has not been shown yet."""

    path: Path
    #: before each line, of several tasks; empty for one
    name: str = ""
    _offset: int = 0
    _rest: bytes = b""
    _output: LiveOutput = field(default_factory=LiveOutput)

    def show(self, is_last: bool = False) -> None:
        """Write the new lines to stderr; a line that has no end yet waits for it, unless it is the last."""
        while part := self._read():
            *lines, self._rest = (self._rest + part).split(b"\n")
            self._write(lines)
        if is_last and self._rest:
            self._write([self._rest])
            self._rest = b""

    def _write(self, lines: list[bytes]) -> None:
        before = f"{self.name} | ".encode() if self.name else b""
        self._output(b"".join(before + line + b"\n" for line in lines))

    def _read(self) -> bytes:
        with suppress(OSError, MadengineError), open_untrusted(self.path.parent, self.path.name, _LOG_BYTES) as file:
            file.seek(self._offset, os.SEEK_SET)
            part = file.read(_STEP_BYTES)
            self._offset += len(part)
            return part
        return b""
