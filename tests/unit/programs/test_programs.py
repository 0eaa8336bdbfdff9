"""Programs are started, asked, streamed, printed and ended in one place."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plumbum.commands.base import BaseCommand

from madengine import programs
from madengine.errors import CommandError
from madengine.programs import ask, attempt, background, hide, program, redact, shell_line, stream
from tests.conftest import StandIns

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.fixture(autouse=True)
def nothing_is_hidden_or_halted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(programs, "_secrets", set())
    yield
    programs.resume()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GRACE_SECONDS", 0.3)


def sh(script: str) -> BaseCommand:
    return program("sh", "-c", script)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def eventually_gone(pid: int) -> bool:
    limit = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)
    return not is_alive(pid)


def pid_in(path: Path) -> int:
    limit = time.monotonic() + 10
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < limit, f"{path} was never written"
        time.sleep(0.02)
    return int(path.read_text())


# --- asking ---


def test_an_answer_has_exit_code_and_both_streams() -> None:
    answer = attempt(sh("echo out; echo err >&2; exit 3"))
    assert (answer.code, answer.out, answer.err) == (3, "out\n", "err\n")


def test_stdin_goes_to_the_program_and_ends() -> None:
    assert ask(program("cat"), stdin="word") == "word"
    assert ask(program("cat")) == ""


def test_a_program_that_does_not_read_its_stdin_is_no_error() -> None:
    assert ask(sh("exec <&-; echo done"), stdin="x" * 1_000_000) == "done\n"


def test_output_that_is_not_utf8_is_kept_readable() -> None:
    answer = attempt(sh(r"printf 'a\377b'; printf '\377' >&2"))
    assert (answer.out, answer.err) == ("a�b", "�")


def test_a_failure_says_which_command_how_and_the_last_line() -> None:
    with pytest.raises(CommandError) as caught:
        ask(sh("echo result; echo first >&2; echo 'no such image' >&2; exit 5"))
    assert str(caught.value).endswith("exit code 5: no such image")
    assert str(caught.value).startswith("sh -c ")
    assert (caught.value.code, caught.value.output) == (5, "first\nno such image\n")


def test_a_failure_without_a_word_says_so() -> None:
    with pytest.raises(CommandError, match=r"^false: exit code 1: no output$"):
        ask(program("false"))


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match=r"^no-such-engine is not installed, or not on PATH$") as caught:
        attempt(program("no-such-engine", "version"))
    assert caught.value.code is None


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("#!/bin/sh\n", 0o644, "Permission denied"), ("\x7fELF", 0o755, "Exec format error")],
)
def test_a_program_that_cannot_be_started_is_one_line(tmp_path: Path, content: str, mode: int, message: str) -> None:
    path = tmp_path / "tool"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(CommandError) as caught:
        attempt(program(str(path)))
    assert str(caught.value) == f"{path}: can't be started: {message}"


@pytest.mark.parametrize(
    ("word", "message"), [("a\0b", "embedded null byte"), ("x" * 200_000, "Argument list too long")]
)
def test_words_that_no_program_can_take_are_one_line(word: str, message: str) -> None:
    with pytest.raises(CommandError, match=f"^true: can't be started: {message}$"):
        attempt(program("true", word))


def test_a_program_starts_in_the_folder_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask(program("pwd", "-P")) == f"{tmp_path.resolve()}\n"


def test_a_command_has_its_own_settings_beside_ours() -> None:
    command = program("sh", "-c", 'echo "$A $B ${PATH:+path}"', env={"A": "1", "B": "2"}).with_env(B="3")
    assert ask(command) == "1 3 path\n"


# --- time limits ---


def test_a_program_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    answer = attempt(sh(f"echo early; echo $$ >{tmp_path}/pid; exec sleep 60"), seconds=0.3)
    assert time.monotonic() - began < 4
    assert (answer.code, answer.out) == (None, "early\n")
    assert not is_alive(pid_in(tmp_path / "pid"))


def test_the_error_of_a_hanging_program_names_the_limit() -> None:
    with pytest.raises(CommandError, match=r"^sleep 60: no answer in 0\.2 s: no output$") as caught:
        ask(program("sleep", "60"), seconds=0.2)
    assert caught.value.code is None


def test_the_error_of_an_answer_that_never_came_names_the_usual_limit() -> None:
    error = programs.failure(program("docker", "inspect", "c"), programs.Answer(None, "", ""))
    assert str(error) == "docker inspect c: no answer in 60 s: no output"


def test_a_program_that_ignores_term_is_killed_after_the_grace(tmp_path: Path, short_grace: None) -> None:
    began = time.monotonic()
    script = f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.05; done"
    assert attempt(sh(script), seconds=0.5).code is None
    assert 0.75 < time.monotonic() - began < 5
    assert eventually_gone(pid_in(tmp_path / "pid"))


def test_what_a_hanging_program_started_ends_with_it(tmp_path: Path, short_grace: None) -> None:
    began = time.monotonic()
    assert attempt(sh(f"sleep 60 & echo $! >{tmp_path}/pid; wait"), seconds=0.5).code is None
    assert time.monotonic() - began < 5
    assert eventually_gone(pid_in(tmp_path / "pid"))


def test_a_child_that_keeps_the_pipes_does_not_hold_us_up(tmp_path: Path, short_grace: None) -> None:
    began = time.monotonic()
    answer = attempt(sh(f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 20' & echo out; exit 7"), seconds=0.5)
    pid = pid_in(tmp_path / "pid")
    try:
        assert time.monotonic() - began < 5
        assert (answer.code, answer.out) == (7, "out\n")
    finally:
        os.kill(pid, 9)


def test_no_pipe_stays_open() -> None:
    attempt(program("true"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        attempt(program("true"))
        attempt(program("sleep", "60"), seconds=0.05)
        stream(program("true"), lambda line: None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- streaming ---


def test_lines_come_as_they_are_printed() -> None:
    seen: list[tuple[str, float]] = []
    code = stream(
        sh("echo one; sleep 0.5; echo two >&2; printf three; exit 4"),
        lambda line: seen.append((line, time.monotonic())),
    )
    assert code == 4
    assert [line for line, _ in seen] == ["one\n", "two\n", "three"]
    assert seen[1][1] - seen[0][1] > 0.3


def test_a_line_without_an_end_comes_in_parts_and_whole() -> None:
    parts: list[str] = []
    assert stream(sh("head -c 3000000 /dev/zero | tr '\\0' x"), parts.append) == 0
    assert "".join(parts) == "x" * 3_000_000
    assert max(map(len, parts)) <= 1 << 20


def test_an_error_while_lines_come_ends_the_program(tmp_path: Path) -> None:
    def full(line: str) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        stream(sh(f"echo $$ >{tmp_path}/pid; echo line; exec sleep 60"), full)
    assert not is_alive(pid_in(tmp_path / "pid"))


def test_a_program_to_stream_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match="not installed"):
        stream(program("no-such-engine"), print)


# --- in the background ---


def test_a_background_program_ends_with_its_block(tmp_path: Path) -> None:
    with background(sh(f"echo $$ >{tmp_path}/pid; exec sleep 60")) as process:
        pid = pid_in(tmp_path / "pid")
        assert is_alive(pid)
        assert process.poll() is None
    assert not is_alive(pid)


def test_the_output_of_a_background_program_can_be_read() -> None:
    with background(sh("echo 0")) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"0\n"


@pytest.mark.parametrize("pidfd", ["there", "missing", "refused"])
def test_a_pause_ends_with_the_program(monkeypatch: pytest.MonkeyPatch, pidfd: str) -> None:
    if pidfd == "missing":  # as in a Python that was built for an older kernel
        monkeypatch.delattr(os, "pidfd_open")
    elif pidfd == "refused":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    with background(sh("sleep 0.2")) as process:
        began = time.monotonic()
        programs.pause(process, 0.05)
        assert process.poll() is None
        programs.pause(process, 30)
        assert time.monotonic() - began < 10
        assert process.poll() == 0


def refuse(pid: int) -> int:
    raise OSError(errno.ENOSYS, "Function not implemented")


# --- halting ---


def in_threads(*commands: BaseCommand) -> tuple[list[threading.Thread], list[int]]:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda command=command: codes.append(stream(command, lambda line: None)))
        for command in commands
    ]
    for thread in threads:
        thread.start()
    return threads, codes


def test_halt_ends_all_that_runs_and_lets_nothing_start_until_resume(tmp_path: Path) -> None:
    threads, codes = in_threads(*(sh(f"echo $$ >{tmp_path}/pid{number}; exec sleep 60") for number in range(3)))
    pids = [pid_in(tmp_path / f"pid{number}") for number in range(3)]
    programs.halt()
    for thread in threads:
        thread.join(5)
    assert codes == [-15, -15, -15]
    assert not any(map(is_alive, pids))
    with pytest.raises(CommandError, match=r"^true: not started: interrupted$"):
        attempt(program("true"))
    programs.resume()
    assert attempt(program("true")).code == 0


def test_several_stubborn_programs_share_one_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GRACE_SECONDS", 1.0)
    script = "trap '' TERM; echo $$ >{}; while :; do sleep 0.05; done"
    threads, codes = in_threads(*(sh(script.format(tmp_path / f"pid{number}")) for number in range(3)))
    pids = [pid_in(tmp_path / f"pid{number}") for number in range(3)]
    began = time.monotonic()
    programs.halt()
    assert time.monotonic() - began < 2.5
    for thread in threads:
        thread.join(5)
    assert codes == [-9, -9, -9]
    assert all(map(eventually_gone, pids))


def test_ctrl_c_of_the_terminal_does_not_reach_the_programs() -> None:
    assert int(ask(program("cut", "-d", " ", "-f", "5", "/proc/self/stat"))) != os.getpgrp()


# --- secrets ---


def test_hidden_values_are_taken_out_the_longest_first() -> None:
    hide(("hunter2", "hunter2-and-more", ""))
    assert redact("a hunter2-and-more b hunter2 c") == "a [redacted] b [redacted] c"
    assert redact("nothing") == "nothing"


def test_no_secret_is_in_an_error_or_a_streamed_line() -> None:
    hide(("hunter2",))
    with pytest.raises(CommandError) as caught:
        ask(program("sh", "-c", "echo hunter2; exit 1", "hunter2"))
    assert "hunter2" not in str(caught.value) + caught.value.output
    seen: list[str] = []
    stream(sh("echo token hunter2"), seen.append)
    assert seen == ["token [redacted]\n"]
    assert attempt(sh("echo hunter2 >&2")).err == "[redacted]\n"


# --- lines for a shell ---


@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS, min_size=1, max_size=4))
def test_a_shell_line_gives_the_shell_the_same_words(words: list[str]) -> None:
    line = shell_line(program("printf", "%s\\0", *words))
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


@settings(max_examples=30, deadline=None)
@given(value=WORDS)
def test_a_shell_line_gives_the_program_the_same_environment(value: str) -> None:
    line = shell_line(program("sh", "-c", 'printf %s "$VALUE"', env={"VALUE": value}))
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode() == value


def test_a_shell_line_has_every_setting_once() -> None:
    command = program("docker", "build", "a b", env={"DOCKER_CONFIG": "/x y", "B": "1"}).with_env(B="2")
    assert shell_line(command) == "DOCKER_CONFIG='/x y' B=2 docker build 'a b'"


def test_a_command_is_only_looked_for_when_it_runs(stand_ins: StandIns) -> None:
    command = program("made-later", "a")
    stand_ins.add("made-later", "echo yes")
    assert ask(command) == "yes\n"
    assert stand_ins.calls() == ["made-later a"]
