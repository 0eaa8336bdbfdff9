"""The campaign: whatever is killed, cut, filled or removed at any moment, nothing is lost, doubled, held or left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.campaign import MATRIX, Campaign, Round
from tests.faults.conftest import ROUNDS


def test_each_command_works_undisturbed(campaign: Campaign, tmp_path: Path) -> None:
    for command in ("build", "push", "pull", "run", "collect", "generate"):
        attempt = Round(campaign, 0, tmp_path / command)
        attempt.fault, attempt.command = "none", command
        attempt.prepare()
        began = time.monotonic()
        assert attempt.undisturbed() == 0, attempt.output
        campaign.seconds[command] = time.monotonic() - began
        assert attempt.violations(0, 0) == [], str(attempt)


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_round(campaign: Campaign, tmp_path: Path, number: int) -> None:
    attempt = Round(campaign, number, tmp_path)
    attempt.prepare()
    try:
        code = attempt.disturbed()
    finally:
        attempt.restore()
    next_code = attempt.undisturbed()
    found = attempt.violations(code, next_code)
    assert found == [], f"{attempt}\n{attempt.output}"


def test_every_command_meets_every_fault_that_it_can() -> None:
    assert {command for commands in MATRIX.values() for command in commands} == {
        "build", "push", "pull", "run", "collect", "run --host", "generate",
    }  # fmt: skip
