"""A container's log on the terminal, as it grows: colours pass, what else would control the terminal is only shown."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from madengine.config.progress import Progress, report

# Line breaks, tabs, carriage returns and null characters stay; control characters beyond ASCII are two bytes.
_CONTROL = re.compile(rb"(\x1b\[[0-9;:]{0,32}m)|[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_LINE_BYTES = 2000
_UNFINISHED = re.compile(rb"(\x1b(\[[0-9;:]{0,32})?|\xc2)\Z")


class LiveOutput:
    """Writes the log's chunks, which may be split anywhere, to stderr."""

    def __init__(self) -> None:
        self._rest = b""

    def __call__(self, chunk: bytes) -> None:
        """Write a chunk; a reader that has left (`2>&1 | head`) doesn't end the run."""
        text = self.harmless(chunk)
        with suppress(OSError):
            sys.stderr.buffer.write(text)
            sys.stderr.buffer.flush()

    def harmless(self, chunk: bytes) -> bytes:
        """Return what may be written of the log so far; the beginning of a sequence follows with a later chunk."""
        text = self._rest + chunk
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        self._rest = text[end:]
        return _CONTROL.sub(_harmless, text[:end])


class LastLine:
    """Reports the newest line of a log as what its model is doing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, chunk: bytes) -> None:
        lines = chunk[-_LINE_BYTES:].decode("utf-8", "replace").split("\n")
        line = next((text.rpartition("\r")[2] or text.strip() for text in reversed(lines) if text.strip()), "")
        if line:
            report(Progress(self._name, detail=_COLOUR.sub("", line)))


def _harmless(match: re.Match[bytes]) -> bytes:
    return match[1] or match[0].decode().encode("unicode_escape")
