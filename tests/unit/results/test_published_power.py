"""The tables of docs/comparing.md: what they promise is what the code that judges real runs does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from madengine.results.verdicts import POWER, SAME, WORSE, least_runs
from tests.bench.compare_power import EFFECTS, NOISES, rate

PAGE = (Path(__file__).parents[3] / "docs/comparing.md").read_text(encoding="utf-8")
#: Cells with more runs take too long for a unit test; `python -m tests.bench.compare_power` computes them all.
MOST = 11


def promised() -> list[tuple[bool, float, float, int]]:
    """Of every cell that is checked, whether it is one of pairs, the noise, the change and the runs."""
    rows = re.findall(r"^\| ([0-9.]+) % ((?:\| (?:\d+|over 100) ){5})\|$", PAGE, re.MULTILINE)
    assert [float(noise) for noise, _ in rows] == [*NOISES, *NOISES]
    cells = [
        (number >= len(NOISES), float(noise), change, text.strip())
        for number, (noise, texts) in enumerate(rows)
        for change, text in zip((*EFFECTS, 0.0), texts.split("|")[1:], strict=True)
    ]
    return [(*cell, int(text)) for *cell, text in cells if text.isdigit() and int(text) <= MOST]  # type: ignore[misc]


@pytest.mark.parametrize(("is_paired", "noise", "change", "runs"), promised())
def test_the_published_number_of_runs_is_enough_and_one_less_is_not(
    is_paired: bool, noise: float, change: float, runs: int
) -> None:
    verdict = WORSE if change else SAME
    assert rate(runs, noise, change, verdict, is_paired) >= POWER
    if runs > least_runs(is_paired=is_paired):
        assert rate(runs - 1, noise, change, verdict, is_paired) < POWER


@pytest.mark.parametrize(("pairs", "series"), [(6, 1), (7, 3), (8, 6), (10, 25)])
def test_the_published_pairs_are_the_fewest_for_so_many_series(pairs: int, series: int) -> None:
    assert least_runs(series, is_paired=True) == pairs
    assert least_runs(series + 1, is_paired=True) > pairs
    assert "At least 6 pairs are needed: 7 for two or three series, 8 for up to 6, 10 for up to 25." in PAGE
