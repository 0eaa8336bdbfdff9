"""What the terminal gets and sends: results, messages, errors, and the signals that end a command."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from types import FrameType
from typing import NoReturn, TextIO

from madengine.errors import MadengineError

logger = logging.getLogger(__name__)


class _RedactingFilter(logging.Filter):
    """Takes every known secret out of a record, and keeps it on one line of its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        from madengine.programs import redact

        record.msg, record.args = redact(record.getMessage()), None
        return True


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (ISO 8601, UTC), `level`, `logger` and `message`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        return json.dumps(
            {"time": moment, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        )


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what stderr is now; a reader that has gone away does not end the work."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            _mute(sys.stderr)
        else:
            super().handleError(record)


def configure_logging(verbosity: int = 0, log_format: str = "text") -> None:
    """Send messages to stderr, redacted: lines for people, or JSON objects; with `verbosity` each command too."""
    handler = _StderrHandler()
    handler.addFilter(_RedactingFilter())
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    package = logging.getLogger("madengine")
    package.handlers[:] = [handler]
    package.setLevel(logging.DEBUG if verbosity else logging.INFO)


def print_error(line: str) -> None:
    """Print one line on stderr before logging is configured: the command line itself is wrong."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        _mute(sys.stderr)


def show(text: str) -> None:
    """A result, on stdout.

    Raises MadengineError where it can't be written, but for a reader that has enough.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough.
        _mute(sys.stdout)
    except OSError as error:
        _mute(sys.stdout)
        raise MadengineError(f"stdout: can't be written: {error.strerror}") from error


def _mute(stream: TextIO) -> None:
    """Send a broken stream's output nowhere: the interpreter would complain when it flushes it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(error: MadengineError | OSError, code: int, verbosity: int) -> int:
    """Say an error in one line, with its traceback where that is asked for; gives the code."""
    if verbosity > 1:
        import traceback

        logger.error("".join(traceback.format_exception(error)))
    told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    logger.error(f"madengine: error: {' '.join(told.splitlines())}")
    return code


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
