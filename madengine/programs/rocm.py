"""Where ROCm is installed on this machine: by packages, or by TheRock, which has no fixed place."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from madengine import programs
from madengine.errors import CommandError

DEFAULT = Path("/opt/rocm")

_PROGRAMS = ("rocminfo", "amd-smi", "rocm-smi", "hipconfig")
_MARKS = ("share/therock/therock_manifest.json", "share/therock/dist_info.json")
_VARIABLES = ("ROCM_PATH", "ROCM_HOME", "HIP_PATH")
# How many folders above what a variable names may be ROCm's.
_PARENTS = 4
_SECONDS = 20.0


@dataclass(frozen=True)
class Rocm:
    """An installation."""

    root: Path
    #: TheRock's build of it.
    is_therock: bool = False
    #: Such as 6.4.1; empty if unknown.
    version: str = ""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is not where packages put it."""
        return self.is_therock or self.root != DEFAULT


def choose(root: str) -> None:
    """Use this installation from here on, whatever else is on this machine; empty searches."""
    _chosen[:] = [root] if root else []
    installed.cache_clear()


@functools.cache
def installed() -> Rocm | None:
    """Return the installation that counts, searched in madengine 2's order; None without any."""
    root = next(filter(_is_root, _candidates()), None)
    if root is None:
        return None
    return Rocm(root, any((root / mark).is_file() for mark in _MARKS), _version(root))


def root() -> Path:
    """Return the folder of the installation; without one, where it would be."""
    rocm = installed()
    if rocm:
        return rocm.root
    return Path(os.environ.get("ROCM_PATH") or DEFAULT)


# What the context's MAD_ROCM_PATH names.
_chosen: list[str] = []


def _candidates() -> Iterator[Path]:
    yield from map(Path, _chosen)
    if os.environ.get("MAD_AUTO_ROCM_PATH", "").strip() != "0":
        yield DEFAULT
        yield from sorted(DEFAULT.parent.glob("rocm-*"), key=_by_version, reverse=True)
        yield from _of_sdk()
        for name in _VARIABLES:
            if value := os.environ.get(name):
                yield from (Path(value), *list(Path(value).parents)[:_PARENTS])
        yield Path("/usr/local/rocm")
        yield from (Path.home() / "rocm", Path.home() / "therock")
        for name in _PROGRAMS[:3]:
            if place := shutil.which(name):
                yield from (Path(path).parent.parent for path in (place, os.path.realpath(place)))
    yield Path(os.environ.get("ROCM_PATH") or DEFAULT)


def _of_sdk() -> Iterator[Path]:
    """Yield what TheRock's Python package names."""
    if shutil.which("rocm-sdk"):
        try:
            answer = programs.attempt(programs.program("rocm-sdk", "path", "--root"), seconds=_SECONDS)
        except CommandError:
            return
        if answer.code == 0 and answer.out.strip():
            yield Path(answer.out.strip().splitlines()[-1])


def _is_root(path: Path) -> bool:
    try:
        # A program of the system's own is in no installation of ROCm.
        is_own = path.is_absolute() and path not in (Path("/"), Path("/usr"), Path("/usr/local"))
        return is_own and any((path / name).is_file() for name in (*(f"bin/{name}" for name in _PROGRAMS), *_MARKS))
    except OSError:
        return False


def _by_version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]{1,9}", path.name)]


def _version(root: Path) -> str:
    try:
        text = (root / ".info/version").read_text(errors="replace")[:100]
    except OSError:
        return ""
    return text.strip().partition("-")[0]
