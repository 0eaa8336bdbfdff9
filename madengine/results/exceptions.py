"""What a process of several raised, by the log that all of them write."""

from __future__ import annotations

import os
import re
from typing import IO

from madengine.results.table import printable

# PyTorch marks the lines of a traceback that ends one of several processes with the process's rank.
_LINE = re.compile(rb"\[rank(\d{1,7})\]: (\S.*)")
_TRACEBACK = b"Traceback (most recent call last):"
_BETWEEN = (_TRACEBACK, b"During handling of the above", b"The above exception was")
_LINE_LIMIT = 4096
_SEARCHED_BYTES = 16 << 20  # of the log's end
_SHOWN_CHARACTERS = 200


def first_exception(log: IO[bytes]) -> str:
    """Return the exception of the rank that raised first, as `[rank3]: ValueError: …`; nothing without one.

    It is the cause where others only lost their connection to that rank.
    """
    log.seek(max(0, log.seek(0, os.SEEK_END) - _SEARCHED_BYTES))
    rank = line = b""
    is_next = False
    for text in iter(lambda: log.readline(_LINE_LIMIT), b""):
        match = _LINE.match(text)
        if not match or (rank and match[1] != rank):
            continue
        is_traceback = match[2].startswith(_TRACEBACK)
        if is_traceback:
            rank, is_next = match[1], True
        elif is_next and not match[2].startswith(_BETWEEN):
            line, is_next = match[0], False
    return printable(line.decode(errors="replace"))[:_SHOWN_CHARACTERS].strip()
