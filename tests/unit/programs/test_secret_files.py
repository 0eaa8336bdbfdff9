"""Files that hold a secret for a moment, and the programs that answer for us."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from madengine.errors import ConfigurationError
from madengine.programs.secret_files import Answers, is_plain, private_file, unattended, variables


def ask(question: str, answers: Answers) -> tuple[int, str]:
    with unattended(answers) as environment:
        words = [environment["GIT_ASKPASS"], question]
        done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Username for 'https://git.example.com': ", "ann\n"),
        ("Password for 'https://ann@git.example.com': ", "hunter 2\n"),
        ("Password for 'https://ann@evil.git.example.com': ", ""),
        ("Password for 'https://ann@git.example.com.evil.org': ", ""),
        ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", ""),
    ],
)
def test_only_the_host_that_it_is_for_gets_the_password(question: str, answer: str) -> None:
    code, output = ask(question, Answers("ann", "hunter 2", prompt_end="git.example.com'"))
    assert (output, code == 0) == (answer, bool(answer))


def test_ssh_gets_the_password_whatever_host_it_names_and_nothing_where_there_is_none() -> None:
    assert ask("root@nas's password: ", Answers(password="hunter 2")) == (0, "hunter 2\n")
    assert ask("root@nas's password: ", Answers(username="ann"))[0] == 1


def test_a_private_file_is_ours_alone_and_gone_afterwards() -> None:
    with private_file("A=b\n") as name:
        path = Path(name)
        assert path.read_text() == "A=b\n"
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()


@pytest.mark.parametrize("value", ["", "a b", "a\nb", '"a"', "$a", "a#b", "a\\b", "`a`", "\u00e9", "'a'"])
def test_what_engines_read_differently_has_no_place_in_a_file_of_variables(value: str) -> None:
    assert not is_plain(value)
    assert variables({"A": value, "B": "x/y+z=="}) == "B=x/y+z==\n"


def test_a_folder_for_temporary_files_that_is_mounted_noexec_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.X_OK)  # as the kernel answers there
    refused = pytest.raises(ConfigurationError, match=r"mounted noexec.*; set TMPDIR to another folder")
    with refused, unattended(Answers()):
        raise AssertionError("started")
