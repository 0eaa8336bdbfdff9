"""What a node says of itself before anything runs there, as checked values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from madengine.deploy.ssh.transfer import UnusableError
from madengine.errors import RunError
from madengine.files import parse_json

OLDEST_PYTHON = (3, 10)
# What a run writes beside its images, in bytes; with less it would fail half way.
LEAST_DISK = 64 << 20
_KINDS: Mapping[str, type] = {
    "python": str,
    "problem": str,
    "machine": str,
    "has": list,
    "free_bytes": int,
    "port_problem": str,
    "has_images": bool,
    "address": str,
    "free_port": int,
}


@dataclass(frozen=True)
class Examination:
    """The answer of programs/preflight.py."""

    #: version of the node's python3
    python: str
    #: what keeps a run from starting, empty if nothing does
    problem: str = ""
    #: tells this machine from others of its name
    machine: str = ""
    #: names of the upload's files that the node has
    has: tuple[str, ...] = ()
    #: for the files of a run
    free_bytes: int = 0
    #: why a registry's port can't be tunnelled there, empty if it can
    port_problem: str = ""
    #: whether the engine has all images of the run
    has_images: bool = False
    #: of this node, as ssh reached it; empty if unknown or not asked for
    address: str = ""
    #: one that nothing listens on; 0 if not asked for
    free_port: int = 0

    @property
    def version(self) -> tuple[int, ...]:
        """The version of python3, of which only digits count."""
        return tuple(int(part) for part in self.python.split(".")[:2] if part.isascii() and part.isdigit())

    def check(self, python: str, folder: str) -> None:
        """Raise RunError, with the reason, for a node that can't run models with this python in this folder."""
        if self.version < OLDEST_PYTHON:
            raise RunError(f"{python} is {self.python}; madengine needs 3.10 or newer: --remote-python names another")
        if self.problem:
            raise RunError(self.problem)
        if self.free_bytes < LEAST_DISK:
            raise RunError(f"{folder}: {self.free_bytes // 2**20} MiB free there; make room, or --remote-path")


def parse_examination(output: str) -> Examination | None:
    """Return the examination that a node printed, None if there is none; before it may be what a login prints.

    Raises UnusableError for one with a value of a wrong type.
    """
    for line in reversed(output.splitlines()):
        with suppress(ValueError):
            value = parse_json(line)
            if isinstance(value, dict) and "python" in value:
                return _checked(value)
    return None


def _checked(value: Mapping[str, Any]) -> Examination:
    values = {name: value[name] for name in _KINDS if name in value}
    for name, item in values.items():
        if type(item) is not _KINDS[name]:
            kind = _KINDS[name].__name__
            raise UnusableError(f"the host's answer is unusable: {name}: expected {kind}, got {str(item)[:60]!r}")
    if not all(isinstance(name, str) for name in values.get("has", [])):
        raise UnusableError("the host's answer is unusable: has: expected a list of strings")
    return Examination(**{**values, "has": tuple(values.get("has", []))})
