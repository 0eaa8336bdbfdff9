"""What the modules of the GPU tools share: running a tool, and reading values out of its output."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madengine import programs
from madengine.errors import CommandError
from madengine.programs import rocm
from madengine.records import Gpu, GpuSample, Reading

if TYPE_CHECKING:
    from plumbum.commands.base import BaseCommand

# A driver that hangs must not hold up a run for long.
SECONDS = 20.0
# Starting a Python tool takes a good part of a second of a core: no more often than this.
SAMPLE_SECONDS = 10.0

_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)(?:\s*([^\s\d]+))?\s*")
_PCI = re.compile(r"([0-9a-f]+):([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
# The tools write MB and mean 2**20 bytes.
_UNITS = {"B": 2**-20, "KB": 2**-10, "KIB": 2**-10, "MB": 1.0, "MIB": 1.0, "GB": 2.0**10, "GIB": 2.0**10}
# Lines that explain no failure: indented ones, tables, JSON and XML, warnings, the head of a traceback.
_NO_EXPLANATION = re.compile(r"\s|[-+|=<>{}\]]|\[\s*([{\"]|$)|\W*warn|Traceback ", re.IGNORECASE)


@dataclass(frozen=True)
class SampleStream:
    """A tool that prints samples for as long as it runs."""

    command: BaseCommand
    #: Parses a line; None if it is no sample.
    parse: Callable[[str], GpuSample | None]
    #: Takes a sample at once, beside the running command.
    now: Callable[[], Reading[GpuSample]]


def command(name: str, *words: str) -> BaseCommand:
    """Return the tool on PATH, else where ROCm installs it."""
    on_path = shutil.which(name)
    in_rocm = None if on_path else rocm.root() / "bin" / name
    return programs.program(on_path or (str(in_rocm) if in_rocm and in_rocm.is_file() else name), *words)


def is_installed(name: str) -> bool:
    """Return whether the tool is on this machine, also if it can't be started."""
    return Path(command(name).formulate()[0]).is_file()


def no_gpus(name: str, problem: str, is_none: bool = False) -> Reading[Gpu]:
    """Return a reading without GPUs; `is_none` if the tool answers that there are none."""
    return Reading(problem=problem, fails=not is_none and is_installed(name))


def query(name: str, *words: str, seconds: float | None = None) -> tuple[str, str]:
    """Return the tool's output, and the problem (one line) if it is missing, fails or hangs."""
    seconds = SECONDS if seconds is None else seconds
    tool = command(name, *words)
    try:
        answer = programs.attempt(tool, seconds=seconds)
    except CommandError as error:
        return "", str(error)
    if answer.code == 0:
        return answer.out, ""
    reason = explanation([*answer.err.splitlines(), *answer.out.splitlines()])
    return "", str(programs.failure(tool, answer, seconds, reason))


def explanation(lines: Sequence[str]) -> str:
    """Return the line of a tool's output that explains a failure: the first sentence in it, else its last line."""
    sentence = next((line for line in lines if line.strip() and not _NO_EXPLANATION.match(line)), "")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return (sentence or last).strip()[:200] or programs.NO_OUTPUT


def no_stream(seconds: float) -> SampleStream | None:
    """Return None: the tool has to be polled."""
    return None


def unexpected(name: str, *words: str, output: str) -> str:
    """Return the problem of a tool that succeeds without the output that it should have."""
    return f"{' '.join((name, *words))}: unexpected output: {explanation(output.splitlines())}"


def first_json(text: str) -> Any:
    """Return the first object or list in the text that starts a line; None if there is none.

    Warnings may precede it, and some releases print it twice. Indented ones belong to something that is incomplete.
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
    """Return the number in 45, "45.0", "45 C" or {"value": 45, "unit": "C"}; None for "N/A (reason)", "[N/A]" etc."""
    if isinstance(value, Mapping):
        value = value.get("value")
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def mib(value: Any) -> float | None:
    """Return the mebibytes in "64 GB" or {"value": 65520, "unit": "MB"}; None without a number or unit."""
    if isinstance(value, Mapping):
        unit = value.get("unit")
    else:
        match = _NUMBER.fullmatch(value) if isinstance(value, str) else None
        unit = match[2] if match else None
    factor = _UNITS.get(str(unit).upper())
    size = number(value)
    return None if factor is None or size is None else size * factor


def whole(value: float | None) -> int | None:
    """Return the value rounded to an integer."""
    return None if value is None else round(value)


def text(value: Any) -> str:
    """Return a word or name; empty for what the tools write for unknown: `N/A (reason)`, `[Not Found]`, `None`."""
    word = str(value).strip() if isinstance(value, str | int) else ""
    return "" if re.match(r"N/A|(\[.*\]|None|Unknown|Not Supported)$", word) else word


def pci(value: Any) -> str:
    """Return a PCI address as sysfs writes it (`0000:1e:00.0`); empty for anything else."""
    match = _PCI.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"{int(match[1], 16):04x}:{match[2].lower()}" if match else ""


def unique(value: Any) -> str:
    """Return AMD's unique id (0x2150e7d042a1124, or a number) as ROCm's UUID `GPU-02150e7d042a1124`; empty for 0."""
    try:
        identity = int(value, 16) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return ""
    return f"GPU-{identity:016x}" if identity > 0 else ""
