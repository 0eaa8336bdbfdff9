"""The table on a terminal: a real pseudo-terminal, and nothing of it anywhere else."""

from __future__ import annotations

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from fcntl import ioctl
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from madengine.cli.live_view import LiveView
from madengine.config.progress import WAITING, Progress, is_shown, listening, report

CHECKOUT = Path(__file__).parents[3]
SCRIPT = """
import logging, os, sys, time
from madengine.cli import live_view, terminal
from madengine.cli.logs import configure_logging
from madengine.config.progress import WAITING, Progress, report
from madengine import distributed_cli
live_view._QUIET_SECONDS = 0.05

class Options:
    verbosity, log_format = 0, "text"

configure_logging()
logger = logging.getLogger("madengine.test")
try:
    with terminal.signals_interrupt(), distributed_cli._live_view({}, Options):
        for name in ("alpha", "beta\\x1b[2J", "gamma"):
            report(Progress(name, WAITING))
        report(Progress("alpha", "running", "epoch 3", log="/tmp/a b.log", limit=60))
        report(Progress("beta\\x1b[2J", "FAILURE", "exit code 3", ended=True))
        time.sleep(0.8)
        logger.info("a message meanwhile")
        time.sleep(float(os.environ.get("SECONDS_MORE", "0.3")))
        terminal.show("the result SUCCESS")
except KeyboardInterrupt:
    print("interrupted")
"""


def on_terminal(
    width: int = 100, interrupt_after: float = 0.0, environ: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """What the script writes to a terminal of this width, and its exit code."""
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 20, width, 0, 0))
    base = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")}
    environment = {**base, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm-256color", **(environ or {})}
    words = [sys.executable, "-c", SCRIPT]
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child, env=environment, close_fds=True)
    os.close(child)
    output, began, is_interrupted = b"", time.monotonic(), False
    while True:
        if (
            interrupt_after
            and not is_interrupted
            and b"running" in output
            and time.monotonic() - began > interrupt_after
        ):
            process.send_signal(signal.SIGINT)
            is_interrupted = True
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    os.close(parent)
    return output.decode(), process.wait(20)


def plain(text: str) -> str:
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|\]8;[^\x1b]*\x1b\\)", "", text)


def test_a_terminal_shows_what_runs_and_is_left_as_it_was() -> None:
    output, code = on_terminal()
    assert code == 0
    text = plain(output)
    assert re.search(r"alpha +running +0:0\d / 1:00 +epoch 3", text), text
    assert re.search(r"gamma +waiting", text)
    assert "\x1b[31m" in output or "\x1b[1;31m" in output
    assert "file:///tmp/a%20b.log" in output
    assert "beta\x1b[2J" not in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    # the table is gone before the result, and the messages stay
    end = output[output.rindex("\x1b[?25h") :]
    assert "the result \x1b[32mSUCCESS\x1b[0m" in end
    assert "alpha" not in end
    assert "a message meanwhile" in text


def test_a_narrow_terminal_gets_short_lines_and_no_colour_none() -> None:
    output, code = on_terminal(40, environ={"NO_COLOR": "1"})
    assert code == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", output)
    rows = [line for line in re.split(r"[\r\n]+", plain(output)) if "running" in line]
    assert rows
    assert all(len(line.rstrip()) <= 37 for line in rows)
    assert "epoch" not in plain(output)


def test_a_wide_row_leaves_room_for_what_the_terminal_echoes() -> None:
    view = LiveView()
    view.stop()
    view.take(Progress("a", "running", "x" * 500))
    console = Console(width=80, file=StringIO())
    console.print(view._table(console))
    assert max(map(len, console.file.getvalue().splitlines())) <= 77  # type: ignore[attr-defined]


def test_ctrl_c_leaves_a_clean_terminal() -> None:
    output, code = on_terminal(interrupt_after=0.4, environ={"SECONDS_MORE": "30"})
    assert code == 0
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert output.rstrip().endswith("interrupted")


@pytest.mark.parametrize("environ", [{"CI": "true"}, {"TERM": "dumb"}])
def test_ci_and_simple_terminals_get_plain_lines(environ: dict[str, str]) -> None:
    output, code = on_terminal(environ=environ)
    assert code == 0
    assert output.splitlines()[0] == "a message meanwhile"
    assert "alpha" not in output
    assert "\x1b[?25l" not in output


def test_without_rich_there_are_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'rich' else f(n, *a)\n"
    )
    output, code = on_terminal(environ={"PYTHONPATH": f"{tmp_path}:{CHECKOUT}"})
    assert (code, output.splitlines()) == (0, ["a message meanwhile", "the result \x1b[32mSUCCESS\x1b[0m"])


def test_nothing_is_imported_where_there_is_no_terminal(tmp_path: Path) -> None:
    code = (
        "import sys; from madengine.distributed_cli import main; main(['discover', '--format=names']);"
        "print(sorted(name for name in sys.modules if name == 'rich' or name.endswith('live_view')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_progress_without_a_listener_goes_nowhere() -> None:
    report(Progress("a", "running"))
    assert not is_shown()
    seen: list[Progress] = []
    with listening(seen.append):
        assert is_shown()
        report(Progress("a", WAITING))
    assert seen == [Progress("a", WAITING)]


def test_a_view_knows_only_what_it_was_told_last() -> None:
    view = LiveView()
    view.stop()
    for progress in (
        Progress("a", WAITING),
        Progress("a", "pulling", "1 of 3 layers", limit=9),
        Progress("a", detail="2 of 3 layers"),
        Progress("a", "running", log="x.log", limit=60),
        Progress("a", detail="epoch 1"),
    ):
        view.take(progress)
    line = view._lines["a"]
    assert line.progress == Progress("a", "running", "epoch 1", "x.log", 60)
    assert line.began is not None
    view.take(Progress("a", "SUCCESS", "12 tokens", ended=True))
    assert view._lines["a"].ended is not None
    view.take(Progress("a", "running"))  # its next repeat
    assert view._lines["a"].ended is None
