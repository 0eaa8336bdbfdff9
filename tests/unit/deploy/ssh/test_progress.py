"""What many hosts do, as lines and as a table."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from madengine.deploy.ssh.progress import Board
from tests.conftest import collect_messages

_SCRIPT = """
from madengine.deploy.ssh.progress import Board
board = Board(["h1", "host2"])
board.tell("h1", "start\\x1b[2Jing")
board.tell("host2", "done")
"""


def test_without_a_terminal_each_event_is_a_line_with_the_hosts_name() -> None:
    lines = collect_messages()
    board = Board(["h1", "h2"])
    board.tell("h2", "connecting")
    assert lines == ["h2: connecting"]


def test_on_a_terminal_every_host_keeps_its_line_and_nothing_steers_the_terminal() -> None:
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    checkout = str(Path(__file__).parents[4])
    subprocess.run(
        [sys.executable, "-c", _SCRIPT], stderr=far, check=True, env={**os.environ, "PYTHONPATH": checkout}, timeout=30
    )
    os.close(far)
    drawn = os.read(near, 4096).decode().replace("\r\n", "\n")
    os.close(near)
    first = "\x1b[2Kh1     start [2Jing\n\x1b[2Khost2  waiting\n"
    assert drawn == f"{first}\x1b[2F\x1b[2Kh1     start [2Jing\n\x1b[2Khost2  done\n"
