"""entry.json, which entry.sh leaves at its end; the model may have written it, or put something else in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from madengine.files import parse_json, read_untrusted
from madengine.results.table import printable

_BYTES_LIMIT = 64 * 2**10
_FLAGS = ("timed_out", "out_of_memory", "log_complete", "stopped")


def read_entry(workspace: Path) -> tuple[dict[str, Any], str]:
    """Return the known fields of a workspace's entry.json, empty if there is none; and what is wrong with it."""
    try:
        return parse_entry(read_untrusted(workspace, "entry.json", _BYTES_LIMIT).decode()), ""
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"entry.json: {error.strerror}"
    except ValueError as error:
        return {}, f"entry.json: {printable(str(error))}"


def parse_entry(text: str) -> dict[str, Any]:
    """Return the known fields of an entry.json. Raises ValueError for a field of another type or range."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {value!r:.40}")
    entry: dict[str, Any] = {"exit_code": _number(value, "exit_code", 255)}
    if not isinstance(entry["exit_code"], int):
        raise ValueError(f"exit_code: expected an integer, got {entry['exit_code']!r}")
    entry |= {name: _number(value, name, 10**12) for name in ("started", "ended")}
    entry |= {name: value[name] for name in _FLAGS if isinstance(value.get(name), bool)}
    if "failed_hook" in value:
        hook = value["failed_hook"]
        entry["failed_hook"] = " ".join(printable(str(hook)[:300]).split()) if hook else None
    if "log_bytes" in value:
        entry["log_bytes"] = _number(value, "log_bytes", 2**62)
    return entry


def _number(value: Mapping[str, Any], name: str, most: int) -> float:
    number = value.get(name)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
        raise ValueError(f"{name}: expected a number from 0 to {most}, got {number!r:.40}")
    return number
