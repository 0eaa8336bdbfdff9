from __future__ import annotations

import time

import pytest

from madengine import programs
from madengine.run.background import Background


def test_a_call_gives_its_value_or_its_error() -> None:
    assert Background(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        Background(lambda: 1 // 0).result()


def test_the_programs_of_an_abandoned_call_are_ended() -> None:
    answers = []
    with Background(lambda: answers.append(programs.attempt(programs.program("sleep", "60")))) as call:
        time.sleep(0.2)
    call.result()
    assert [answer.code for answer in answers] == [-15]
