"""Stand-ins for external programs, for tests that look at what would be called."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from plumbum import local

from madengine import programs
from madengine.machine.visible_gpus import VARIABLES
from madengine.programs import rocm

# In CI a change is judged by the same examples each time; by hand every run looks at new ones.
# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("by hand", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "by hand")

END = "\x1e"


class _Collecting(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def collect_messages() -> list[str]:
    """The messages that madengine logs from now on, as they come, until the test ends."""
    messages: list[str] = []
    logger = logging.getLogger("madengine")
    logger.addHandler(_Collecting(messages))
    logger.setLevel(logging.INFO)
    return messages


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Each test finds logging as the first one did."""
    logger = logging.getLogger("madengine")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test hides its own secrets only: another's password may be a word of this one's output."""
    monkeypatch.setattr(programs, "_secrets", set())


@pytest.fixture(autouse=True)
def all_gpus_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what a scheduler says of this machine's GPUs."""
    for name in {name for names in VARIABLES.values() for name in names}:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def rocm_searched_again() -> None:
    """Each test looks for ROCm itself: another's may be gone."""
    rocm.choose("")


class StandIns:
    """Programs made for one test, found before the real ones of the same name.

    Each notes how it was called; then it does what its script says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = folder / ".calls"

    def add(self, name: str, script: str = "") -> Path:
        """Make the program `name` from a POSIX shell script with the caller's words as "$@"; without one it succeeds.

        Returns:
            Path: the program.
        """
        program = self.folder / name
        note = f"printf '%s\\0' {shlex.quote(name)} \"$@\" '{END}' >> {shlex.quote(str(self._record))}"
        program.write_text(f"#!/bin/sh\n{note}\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        return program

    def calls(self) -> list[str]:
        """Every call so far, in order, each as a line that a shell would take."""
        if not self._record.exists():
            return []
        records = self._record.read_text(encoding="utf-8", errors="surrogateescape").split(f"{END}\0")
        return [shlex.join(record.split("\0")[:-1]) for record in records[:-1]]


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    """A folder of stand-ins that is first on PATH, for this process, for plumbum and for what they start."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    with local.env(PATH=path):  # plumbum has its own copy of the environment, made when it was imported
        yield StandIns(folder)
