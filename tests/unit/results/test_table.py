"""The table of results for the terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

import pytest

from madengine.records import Metric
from madengine.results.table import results_table, text_table
from tests.unit.results.samples import DONE, FAILED


def test_the_table_shows_every_value_as_text_and_numbers_to_the_right() -> None:
    fast = replace(DONE, metrics=(Metric("1e5", "x"),), run_duration=1.04)
    assert results_table([DONE, fast, FAILED]).splitlines() == [
        "model    image                status      performance  metric      seconds  reason",
        "-------  -------------------  --------  -------------  --------  ---------  ---------------------------------",
        "dummy    ci-dummy_ubuntu_amd  SUCCESS             007  tokens/s       45.2",
        "dummy    ci-dummy_ubuntu_amd  SUCCESS             1e5  x               1.0",
        "dummy    ci-dummy_ubuntu_amd  FAILURE                                 45.2  the script ended with exit code 3",
    ]


def test_the_table_shortens_a_long_reason_and_lets_nothing_steer_the_terminal() -> None:
    loud = replace(FAILED, reason="r" * 200, metrics=(Metric("", "\x1b[2J\nx"),))
    last = results_table([loud]).splitlines()[-1]
    assert last.endswith(" " + "r" * 59 + "…")
    assert "\x1b" not in last
    assert len(results_table([loud]).splitlines()) == 3


def test_variants_are_told_apart() -> None:
    metrics = (Metric("1", "x", "", {"dtype": "bf16"}), Metric("2", "x", "", {"dtype": "fp8"}))
    lines = results_table([replace(DONE, metrics=metrics)]).splitlines()[2:]
    assert [line.split("  ")[0] for line in lines] == ["dummy dtype=bf16", "dummy dtype=fp8"]


def test_the_table_of_no_results_is_its_header() -> None:
    assert results_table([]).split()[:3] == ["model", "image", "status"]


@contextmanager
def terminal(columns: int) -> Iterator[None]:
    """Make stdout a terminal of as many columns while the block runs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as stdout, redirect_stdout(stdout):
        yield
    os.close(ours)


def test_a_narrow_terminal_gets_the_cells_one_below_the_other() -> None:
    with terminal(40):
        results, narrow, empty = (
            results_table([DONE, FAILED]),
            text_table([["a", "b"]], ["x", "y"]),
            text_table([], ["x" * 30, "y" * 30]),
        )
    assert results.splitlines() == [
        "model        dummy",
        "image        ci-dummy_ubuntu_amd",
        "status       SUCCESS",
        "performance  007",
        "metric       tokens/s",
        "seconds      45.2",
        "",
        "model        dummy",
        "image        ci-dummy_ubuntu_amd",
        "status       FAILURE",
        "seconds      45.2",
        "reason       the script ended with exit",
        "             code 3",
    ]
    assert narrow.splitlines() == ["x    y", "---  ---", "a    b"]
    assert len(empty.splitlines()) == 2


@pytest.mark.parametrize("columns", [80, 0])
def test_a_terminal_of_usual_or_unknown_width_gets_a_table(columns: int) -> None:
    with terminal(columns):
        lines = results_table([DONE, FAILED]).splitlines()
    assert lines[0].split()[:3] == ["model", "image", "status"]
    assert len(lines) == 4
