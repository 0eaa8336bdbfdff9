"""What the rooms of the GPU tools have in common: asking a tool, and reading figures out of its answer."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.errors import CommandError

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# A driver that hangs must not hold up a run for long.
SECONDS = 20.0

_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)(?:\s*([^\s\d]+))?\s*")
_PCI = re.compile(r"([0-9a-f]+):([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
# The tools write MB and mean 2**20 bytes.
_UNITS = {"B": 2**-20, "KB": 2**-10, "KIB": 2**-10, "MB": 1.0, "MIB": 1.0, "GB": 2.0**10, "GIB": 2.0**10}


def command(name: str, *words: str) -> BaseCommand:
    """The tool as it is on PATH now, else where ROCm installs it."""
    rocm = Path(os.environ.get("ROCM_PATH", "/opt/rocm")) / "bin" / name
    return programs.program(shutil.which(name) or (str(rocm) if rocm.is_file() else name), *words)


def query(name: str, *words: str, seconds: float | None = None) -> tuple[str, str]:
    """What the tool printed, and the problem (one line) where it is missing, fails or hangs."""
    try:
        return programs.ask(command(name, *words), seconds=SECONDS if seconds is None else seconds), ""
    except CommandError as error:
        return "", str(error)


def unreadable(name: str, *words: str, said: str) -> str:
    """The problem of an answer that came with exit code 0 and isn't what was asked for."""
    last = said.strip().rsplit("\n", 1)[-1].strip()[:200]
    return f"{' '.join((name, *words))}: can't read its answer: {last or 'it printed nothing'}"


def first_json(text: str) -> Any:
    """The first object or list in the text that starts a line of its own; None where there is none.

    Warnings stand before it, and some releases print it twice. What is indented belongs to something that could not
    be read whole, so it isn't taken for the answer.
    """
    for start in re.finditer(r"^(?=[{\[])", text, re.MULTILINE):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            return value
    return None


def number(value: Any) -> float | None:
    """The figure in 45, "45.0", "45 C" or {"value": 45, "unit": "C"}; None in "N/A (reason)", "[N/A]" and the like."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def mib(value: Any) -> float | None:
    """The mebibytes in "64 GB" or {"value": 65520, "unit": "MB"}; None where there is no figure or no unit."""
    if isinstance(value, Mapping):
        unit = value.get("unit")
    else:
        match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
        unit = match[2] if match else None
    factor = _UNITS.get(str(unit).upper())
    figure = number(value)
    return None if factor is None or figure is None else figure * factor


def whole(value: float | None) -> int | None:
    """The figure rounded to an integer."""
    return None if value is None else round(value)


def text(value: Any) -> str:
    """A word or name; empty for what the tools write when they don't know: `N/A (reason)`, `[Not Found]`, `None`."""
    word = str(value).strip() if isinstance(value, str | int) else ""
    return "" if re.match(r"N/A|(\[.*\]|None|Unknown|Not Supported)$", word) else word


def pci(value: Any) -> str:
    """A PCI address as sysfs writes it (`0000:1e:00.0`), from any tool's way; empty where it is none."""
    match = _PCI.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"{int(match[1], 16):04x}:{match[2].lower()}" if match else ""


def unique(value: Any) -> str:
    """AMD's unique id (0x2150e7d042a1124, or a number) as ROCm's UUID `GPU-02150e7d042a1124`; empty for none or 0."""
    try:
        identity = int(value, 16) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return ""
    return f"GPU-{identity:016x}" if identity > 0 else ""
