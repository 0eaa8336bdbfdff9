"""Messages on stderr: one handler, redacted, as lines for people or as JSON objects."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TextIO

from madengine.cli.terminal import mute
from madengine.errors import MadengineError, escaped, one_line

if TYPE_CHECKING:
    from madengine.cli.live_view import LiveView

logger = logging.getLogger(__name__)


class _RedactingFilter(logging.Filter):
    """Takes every known secret out of a record, and what would control the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        from madengine.programs import redact

        record.msg, record.args = escaped(redact(record.getMessage())), None
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
        #: draws on the terminal meanwhile
        self.view: LiveView | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.view is None or not self.view.print(self.format(record)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            mute(sys.stderr)
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


def log_above(view: LiveView | None) -> None:
    """Let messages appear above what a view draws; None is the end of that."""
    for handler in logging.getLogger("madengine").handlers:
        if isinstance(handler, _StderrHandler):
            handler.view = view


def log_error(error: MadengineError | OSError, verbosity: int) -> None:
    """Log an error in one line, and its traceback before it at verbosity 2."""
    if verbosity > 1:
        import traceback

        logger.error("".join(traceback.format_exception(error)))
    message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    logger.error(f"madengine: error: {one_line(message)}")
