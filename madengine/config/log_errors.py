"""Lines of a log that make a run fail although its script succeeded; off unless the user configures patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from madengine.config.values import expected

LOG_ERROR_KEYS = ("log_error_pattern_scan", "log_error_patterns", "log_error_benign_patterns")
_LINE_LIMIT = 4096  # bytes of a line that are looked at
_SHOWN_CHARACTERS = 120

# What madengine 2 looked for in every log, and what it ignored.
PATTERNS = (
    "OutOfMemoryError", "HIP out of memory", "CUDA out of memory", "RuntimeError:", "AssertionError:", "ValueError:",
    "SystemExit", "failed (exitcode:", "Traceback (most recent call last)", "FAILED", "Exception:", "ImportError:",
    "ModuleNotFoundError:",
)  # fmt: skip
BENIGN = (
    "Failed to establish connection to the metrics exporter agent",
    "RpcError: Running out of retries to initialize the metrics agent", "Metrics will not be exported",
    "FutureWarning", "Opened result file:", "SQLite3 generation ::", "rocpd_op:", "rpd_tracer:", "[rocprofv3]",
)  # fmt: skip
# Each pattern has one of them.
_PARTS = (b"Error", b"out of memory", b"SystemExit", b"failed (exit", b"Traceback", b"FAILED", b"Exception:")
_LONGEST_PART = max(map(len, _PARTS))
_CHUNK = 1 << 20
_BENIGN_LINE = re.compile(rb"^(E\d{8}.*(generateRocpd|tool)\.cpp|W\d{8}.*(simple_timer|generateRocpd)\.cpp)")


@dataclass(frozen=True)
class LogErrors:
    """What to search a log for; without `patterns` none is searched."""

    #: texts that make a line an error
    patterns: tuple[str, ...] = ()
    #: texts that make it none
    benign: tuple[str, ...] = ()

    def first_in(self, log: IO[bytes]) -> str:
        """Return the first error of a log as a reason, or nothing."""
        error = self.first_line(log)
        return f"log_error_patterns: {error}" if error else ""

    def first_line(self, log: IO[bytes]) -> str:
        """Return the first error of a log, with its pattern, or nothing."""
        lines = iter(lambda: log.readline(_LINE_LIMIT), b"")
        return next(filter(None, map(self._error, lines)), "") if self.patterns else ""

    def _error(self, line: bytes) -> str:
        text = line.decode(errors="replace").strip()
        pattern = next((pattern for pattern in self.patterns if pattern in text), None)
        if pattern is None or any(one in text for one in self.benign) or _BENIGN_LINE.match(line):
            return ""
        return f"{pattern!r} is in the log: {text[:_SHOWN_CHARACTERS]}"


def log_errors(entry: Mapping[str, Any], context: Mapping[str, Any]) -> LogErrors:
    """Return what a model entry and the context configure; the context wins, but benign texts of both count.

    `log_error_pattern_scan` alone means madengine 2's own list.
    Raise ConfigurationError for a wrong value.
    """
    both = {**entry, **{key: context[key] for key in LOG_ERROR_KEYS if key in context}}
    patterns = _texts(both, "log_error_patterns")
    scan = both.get("log_error_pattern_scan")
    if isinstance(scan, str | int):
        scan = str(scan).strip().lower() in ("1", "true", "yes", "on")
    if scan is False or not (patterns or scan):
        return LogErrors()
    benign = [*_texts(entry, "log_error_benign_patterns"), *_texts(context, "log_error_benign_patterns")]
    return LogErrors(patterns or PATTERNS, (*benign, *(() if patterns else BENIGN)))


def unconfigured_errors(entry: Mapping[str, Any], context: Mapping[str, Any]) -> LogErrors:
    """Return what madengine 2 searches a log for that is searched here only on request; nothing where that is set."""
    if any(values.get(key) is not None for values in (entry, context) for key in LOG_ERROR_KEYS[:2]):
        return LogErrors()
    benign = [*_texts(entry, LOG_ERROR_KEYS[2]), *_texts(context, LOG_ERROR_KEYS[2])]
    return LogErrors(PATTERNS, (*benign, *BENIGN))


def may_have_errors(log: IO[bytes]) -> bool:
    """Return whether the rest of a log has a part of madengine 2's patterns; this is as fast as the file is read."""
    tail = b""
    while chunk := log.read(_CHUNK):
        window = tail + chunk
        if any(part in window for part in _PARTS):
            return True
        tail = chunk[-_LONGEST_PART:]
    return False


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = values.get(key) or ()
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
        raise expected(key, 'a list of strings such as ["CUDA out of memory"]', texts)
    return tuple(texts)
