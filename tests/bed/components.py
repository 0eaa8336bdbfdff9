"""What the test bed offers: engines, registries, and the outcome of a program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

ENGINES = {
    "docker": ("DOCKER_HOST",),
    "podman": (
        "CONTAINERS_CONF",
        "CONTAINERS_STORAGE_CONF",
        "CONTAINERS_REGISTRIES_CONF",
        "PODMAN_IGNORE_CGROUPSV1_WARNING",
    ),
}


class Outcome(NamedTuple):
    """What a program that has ended left: its exit code and its two streams."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Engine:
    """One container engine of the bed: the program of this name works as it is with this environment added."""

    name: str
    environment: Mapping[str, str] = field(repr=False)

    def __call__(self, *words: str, input: str | None = None, check: bool = True) -> Outcome:
        """Run the engine's program; with `check` an exit code other than 0 fails the test.

        Returns:
            Outcome: exit code, stdout and stderr.
        """
        return outcome([self.name, *words], self.environment, input=input, check=check)


@dataclass(frozen=True)
class Registry:
    """A registry of the bed; user and password are empty where it asks for none."""

    address: str
    user: str = ""
    password: str = ""


def outcome(
    words: list[str],
    environment: Mapping[str, str],
    cwd: str | os.PathLike[str] | None = None,
    input: str | None = None,
    check: bool = True,
) -> Outcome:
    """Run a program with `environment` added to ours, all other engine settings taken away.

    Raises:
        AssertionError: with `check`, where it did not exit 0; the message has all that it printed.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "CONTAINER"))}
    ended = subprocess.run(
        words,
        env={**inherited, **environment},
        cwd=cwd,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
    )
    said = f"{' '.join(words)} ended with {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert ended.returncode == 0 or not check, said
    return Outcome(ended.returncode, ended.stdout, ended.stderr)
