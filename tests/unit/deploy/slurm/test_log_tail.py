"""A task's log is shown as it grows: every line once, after the model's name where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest

from madengine.deploy.slurm.log_tail import LogTail


def test_each_line_is_shown_once_when_it_has_come(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "slurm-7_0.log"
    tail = LogTail(path, "m")
    tail.show()
    path.write_text("one\ntw")
    tail.show()
    assert capfd.readouterr().err == "m | one\n"
    with path.open("a") as file:
        file.write("o\nend")
    tail.show()
    tail.show(is_last=True)
    tail.show(is_last=True)
    assert capfd.readouterr().err == "m | two\nm | end\n"


def test_a_link_is_not_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("hidden\n")
    (tmp_path / "log").symlink_to("secret")
    LogTail(tmp_path / "log").show(is_last=True)
    assert capfd.readouterr().err == ""
