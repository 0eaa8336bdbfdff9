"""The stand-ins of tests/conftest.py: what the tests of command lines take for granted."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from plumbum import local

if TYPE_CHECKING:
    from tests.conftest import StandIns


def test_a_stand_in_is_called_by_plumbum_and_by_subprocess(stand_ins: StandIns) -> None:
    stand_ins.add("docker", 'echo "stand-in $1"')
    assert local["docker"]("info") == "stand-in info\n"
    assert subprocess.run(["docker", "ps"], capture_output=True, check=True).stdout == b"stand-in ps\n"
    assert stand_ins.calls() == ["docker info", "docker ps"]


def test_calls_keep_words_with_spaces_newlines_and_nothing_in_them(stand_ins: StandIns) -> None:
    stand_ins.add("docker")
    local["docker"]("run", "two words", "a\nb", "", "it's")
    assert stand_ins.calls() == ["docker run 'two words' 'a\nb' '' 'it'\"'\"'s'"]


def test_no_calls_are_an_empty_list(stand_ins: StandIns) -> None:
    assert stand_ins.calls() == []
