"""What the terminal gets and sends: results, messages, errors, and the signals that end a command."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn, TextIO

from madengine.errors import MadengineError


def print_error(line: str) -> None:
    """Print one line on stderr before logging is configured: the command line itself is wrong."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        mute(sys.stderr)


#: Called before anything is written to stdout: what is drawn on the terminal ends first.
before_output: list[Callable[[], None]] = []
_STATUS = re.compile(r"\b(?:(SUCCESS)|(FAILURE)|(SKIPPED))\b")


def show(text: str) -> None:
    """A result, on stdout; on a terminal with a colour for each status, unless NO_COLOR is set.

    Raises MadengineError where it can't be written, but for a reader that has enough.
    """
    for end in before_output:
        end()
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in (None, "dumb"):
        text = _STATUS.sub(lambda match: f"\x1b[{(0, 32, 31, 33)[match.lastindex or 0]}m{match[0]}\x1b[0m", text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201
    except BrokenPipeError:
        # The reader (`| head`) has enough.
        mute(sys.stdout)
    except OSError as error:
        mute(sys.stdout)
        raise MadengineError(f"stdout: can't be written: {error.strerror}") from error


def show_bytes(text: bytes) -> None:
    """A part of a log, on stdout, as it is; nothing for a reader that has enough."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        mute(sys.stdout)
    except OSError as error:
        mute(sys.stdout)
        raise MadengineError(f"stdout: can't be written: {error.strerror}") from error


def mute(stream: TextIO) -> None:
    """Send a broken stream's output nowhere: the interpreter would complain when it flushes it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Ctrl-C, TERM and a lost terminal all end a command the same way; more of them don't stop the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupted)
    try:
        yield
    finally:
        stopped = signal.getsignal(signal.SIGINT) is _still_stopping
        for number, handler in before.items():
            # One more signal on the way out would turn our exit code into the signal's.
            signal.signal(number, signal.SIG_IGN if stopped else handler)


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    for again in _ENDING:
        signal.signal(again, _still_stopping)
    raise KeyboardInterrupt


def _still_stopping(number: int, frame: FrameType | None) -> None:
    # Not a log record: what this interrupts may hold the handler's lock.
    with suppress(OSError):
        os.write(2, b"already stopping; a container gets some seconds to end\n")
