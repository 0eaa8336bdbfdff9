"""A signal ends a command in one line, also while it is still importing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SCRIPT = "import sys\nfrom madengine.distributed_cli import main\nsys.exit(main())\n"  # as pip writes it
# In place of what the command line needs first.
SLOW = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(30)\n"


@contextmanager
def importing(folder: Path, words: Sequence[str], ignored: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A command that is still importing."""
    (folder / "first").mkdir()
    (folder / "first/argparse.py").write_text(SLOW)
    (folder / "madengine").write_text(SCRIPT)
    default = [] if ignored else ["env", "--default-signal=INT,TERM,HUP"]
    with subprocess.Popen(
        [*(["nohup"] if ignored else default), sys.executable, *words, "discover"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}/first:{CHECKOUT}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = time.monotonic() + 20
        while not (folder / "importing").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [["-m", "madengine"], ["-m", "madengine.distributed_cli"], ["madengine"]])
def test_a_signal_while_it_imports_is_one_line(tmp_path: Path, words: Sequence[str], number: signal.Signals) -> None:
    with importing(tmp_path, words) as process:
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "interrupted\n")
        assert process.returncode == 130


def test_a_lost_terminal_under_nohup_is_ignored(tmp_path: Path) -> None:
    with importing(tmp_path, ["-m", "madengine"], ignored=True) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130


def test_importing_it_changes_no_other_program(tmp_path: Path) -> None:
    code = "import signal, madengine.distributed_cli; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "True\n"
