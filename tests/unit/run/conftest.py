"""Fixtures of the tests of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from madengine.machine import lock_files
from tests.conftest import StandIns
from tests.unit.run.stand_in_machine import Machine


@pytest.fixture
def machine(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.chdir(tmp_path)
    locks = tmp_path / "locks"
    locks.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setattr(lock_files, "FOLDERS", (locks,))
    return Machine(tmp_path, stand_ins)
