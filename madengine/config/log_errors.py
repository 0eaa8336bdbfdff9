"""Lines of a log that count as an error although the script ended well: only where the user asks for that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from madengine.errors import ConfigurationError

KEYS = ("log_error_pattern_scan", "log_error_patterns", "log_error_benign_patterns")
_LINE_LIMIT = 4096  # bytes of a line that are looked at
_SHOWN_CHARACTERS = 120

# What madengine 2 looked for in every log, and what it passed over.
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
_BENIGN_LINE = re.compile(rb"^(E\d{8}.*(generateRocpd|tool)\.cpp|W\d{8}.*(simple_timer|generateRocpd)\.cpp)")


@dataclass(frozen=True)
class LogErrors:
    """Texts that make a line an error, and texts that make it none; without `patterns` no log is looked at."""

    patterns: tuple[str, ...] = ()
    benign: tuple[str, ...] = ()

    def found_in(self, log: IO[bytes]) -> str:
        """The first error of a log, as a reason; empty where there is none."""
        lines = iter(lambda: log.readline(_LINE_LIMIT), b"")
        return next(filter(None, map(self._reason, lines)), "") if self.patterns else ""

    def _reason(self, line: bytes) -> str:
        text = line.decode(errors="replace").strip()
        pattern = next((pattern for pattern in self.patterns if pattern in text), None)
        if pattern is None or any(one in text for one in self.benign) or _BENIGN_LINE.match(line):
            return ""
        return f"log_error_patterns: {pattern!r} is in the log: {text[:_SHOWN_CHARACTERS]}"


def log_errors(card: Mapping[str, Any], context: Mapping[str, Any]) -> LogErrors:
    """What a card and the context ask for; the context wins, of benign texts both count.

    `log_error_pattern_scan` alone asks for madengine 2's own list.
    Raises ConfigurationError for a wrong value.
    """
    both = {**card, **{key: context[key] for key in KEYS if key in context}}
    patterns = _texts(both, "log_error_patterns")
    scan = both.get("log_error_pattern_scan")
    if isinstance(scan, str | int):
        scan = str(scan).strip().lower() in ("1", "true", "yes", "on")
    if scan is False or not (patterns or scan):
        return LogErrors()
    benign = [*_texts(card, "log_error_benign_patterns"), *_texts(context, "log_error_benign_patterns")]
    return LogErrors(patterns or PATTERNS, (*benign, *(() if patterns else BENIGN)))


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found: Iterable[Any] = values.get(key) or ()
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) and one for one in found):
        raise ConfigurationError(f'{key} is wrong: it is a list of texts, like ["CUDA out of memory"]')
    return tuple(found)
