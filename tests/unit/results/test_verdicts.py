"""Verdicts: what each takes, how often a false one is given, and that the recommended runs decide."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from madengine.results.verdicts import (
    ALPHA,
    BETTER,
    MOST_RUNS,
    NOT_ENOUGH,
    SAME,
    UNCLEAR,
    WORSE,
    Samples,
    judge,
    least_runs,
    runs_for,
)

Noise = Callable[[random.Random], float]

#: Distributions with a standard deviation of 4 around 0; the bimodal one is a machine in one of two states.
NOISES: dict[str, Noise] = {
    "normal": lambda source: source.gauss(0, 4),
    "skewed": lambda source: (source.lognormvariate(0, 0.8) - math.exp(0.32)) * 4 / 1.302,
    "bimodal": lambda source: source.choice((-3.87, 3.87)) + source.gauss(0, 1),
    "rounded": lambda source: float(round(source.gauss(0, 4) / 4) * 4),
}


def values(source: random.Random, noise: Noise, n: int, mean: float = 100) -> tuple[float, ...]:
    return tuple(mean + noise(source) for _ in range(n))


def verdict(base: tuple[float, ...], new: tuple[float, ...], min_effect: float = 2, **more: bool) -> str:
    (judgement,) = judge([Samples(base, new, **more)], min_effect)
    return judgement.verdict


# --- each verdict ---


@pytest.mark.parametrize(
    ("base", "new", "expected"),
    [
        ((100, 101, 102, 103), (110, 111, 112, 113), BETTER),
        ((100, 101, 102, 103), (90, 91, 92, 93), WORSE),
        ((100, 101, 100, 101), (100, 101, 101, 100), SAME),
        ((100, 100.1, 100.2, 100.3), (101, 101.1, 101.2, 101.3), SAME),  # it differs, but by less than 2 %
        ((100, 110, 90, 105), (100, 95, 111, 91), UNCLEAR),
        ((100, 101, 102), (110, 111, 112), NOT_ENOUGH),
        ((100,), (50,), NOT_ENOUGH),
        ((100, 101, 102, 103), (), NOT_ENOUGH),
        ((), (), NOT_ENOUGH),
        ((-100, -101, -102, -103), (-90, -91, -92, -93), BETTER),
    ],
)
def test_what_each_verdict_takes(base: tuple[float, ...], new: tuple[float, ...], expected: str) -> None:
    assert verdict(base, new) == expected
    if expected in (BETTER, WORSE):
        assert {verdict(base, new, is_lower_better=True), expected} == {BETTER, WORSE}
        assert {verdict(new, base), expected} == {BETTER, WORSE}


def test_a_change_that_is_shown_but_small_is_unclear_until_it_is_on_one_side_of_the_limit() -> None:
    base = tuple(100 + 0.4 * number for number in range(8))
    new = tuple(value + 1.9 for value in base)
    (judgement,) = judge([Samples(base, new)], 2)
    assert judgement.p is not None
    assert judgement.p < ALPHA
    assert judgement.verdict == UNCLEAR
    assert verdict(base, new, min_effect=1) == BETTER
    assert verdict(base, new, min_effect=4) == SAME


def test_many_runs_on_one_side_make_up_for_few_on_the_other() -> None:
    base = tuple(100 + number / 20 for number in range(12))
    assert verdict(base, (90, 91)) == WORSE
    assert verdict(base[:5], (90, 91)) == NOT_ENOUGH
    assert verdict(tuple(100 + number / 100 for number in range(40)), (90,)) == WORSE


def test_six_pairs_are_enough_and_drift_that_hits_both_does_not_hide_a_change() -> None:
    drift = (100.0, 104.0, 109.0, 113.0, 118.0, 122.0)
    slower = tuple(value * 0.97 for value in drift)
    assert verdict(drift, slower, is_paired=True) == WORSE
    assert verdict(drift, slower) == UNCLEAR
    assert verdict(drift[:5], slower[:5], is_paired=True) == NOT_ENOUGH


def test_percentages_are_of_the_base_median_and_signed_by_the_value() -> None:
    (judgement,) = judge([Samples((-100, -101, -99, -100), (-90, -91, -89, -90))], 2)
    assert judgement.median == (-100, -90)
    assert judgement.change_percent == 10
    assert judgement.interval_percent == (8, 12)


def test_a_base_of_zero_has_no_percentages_but_a_verdict() -> None:
    (judgement,) = judge([Samples((0, 0, 0, 0), (1, 1, 2, 3), is_lower_better=True)], 2)
    assert (judgement.verdict, judgement.change_percent) == (WORSE, None)
    assert verdict((0, 0, 0, 0), (0, 0, 0, 0)) == SAME
    assert verdict((0, 0, 0, 1), (0, 1, 0, 2)) == UNCLEAR


@pytest.mark.parametrize("size", [4, 5, 6, 9])
@pytest.mark.parametrize("is_paired", [False, True])
def test_numbers_at_the_edge_of_what_a_float_holds_break_nothing(size: int, is_paired: bool) -> None:
    source = random.Random(1)
    for _ in range(100):
        edge = [source.choice((1.7e308, -1.7e308, 5e-324, 0.0, 1.0, -1e300)) for _ in range(2 * size)]
        (judgement,) = judge([Samples(tuple(edge[:size]), tuple(edge[size:]), is_paired=is_paired)], 2)
        numbers = [*judgement.median, judgement.change_percent, *judgement.interval_percent, judgement.p]
        assert all(number is None or math.isfinite(number) for number in numbers)


# --- several series ---


def test_more_series_take_more_runs() -> None:
    clear = Samples((100, 101, 102, 103), (90, 91, 92, 93))
    two = judge([clear, clear], 2)
    assert [(one.verdict, one.runs_needed, one.more_runs) for one in two] == [(NOT_ENOUGH, 5, (1, 1))] * 2
    five = Samples((*clear.base, 104), (*clear.new, 94))
    assert [one.verdict for one in judge([five, five], 2)] == [WORSE, WORSE]


def test_a_series_that_has_not_enough_runs_does_not_count_against_the_others() -> None:
    clear = Samples((100, 101, 102, 103), (90, 91, 92, 93))
    few = Samples((1, 2, 3), (4, 5, 6))
    judgements = judge([few, clear, Samples((), (1,)), few], 2)
    assert [one.verdict for one in judgements] == [NOT_ENOUGH, WORSE, NOT_ENOUGH, NOT_ENOUGH]
    assert [one.p_holm for one in judgements] == [None, pytest.approx(1 / 35), None, None]


def test_least_runs() -> None:
    assert [least_runs(tests) for tests in (1, 2, 6, 7, 23, 24)] == [4, 5, 5, 6, 6, 7]
    assert [least_runs(tests, is_paired=True) for tests in (1, 2, 4)] == [6, 7, 8]


# --- false alarms and power ---


@pytest.mark.parametrize("noise", NOISES)
def test_false_alarms_are_at_most_one_in_twenty(noise: str) -> None:
    source = random.Random(7)
    verdicts = Counter(
        verdict(values(source, NOISES[noise], n), values(source, NOISES[noise], n), min_effect=0)
        for n in (5, 6, 10)
        for _ in range(500)
    )
    assert verdicts[WORSE] + verdicts[BETTER] <= 75


@pytest.mark.parametrize("noise", NOISES)
def test_false_alarms_of_pairs_are_at_most_one_in_twenty(noise: str) -> None:
    source = random.Random(8)
    verdicts = Counter(
        verdict(values(source, NOISES[noise], 9), values(source, NOISES[noise], 9), min_effect=0, is_paired=True)
        for _ in range(1000)
    )
    assert verdicts[WORSE] + verdicts[BETTER] <= 50


def test_false_alarms_in_a_comparison_of_ten_series_are_at_most_one_in_twenty_comparisons() -> None:
    source = random.Random(9)
    noises = list(NOISES.values())
    alarms = 0
    for _ in range(300):
        series = [Samples(values(source, noise, 8), values(source, noise, 8)) for noise in noises * 2 + noises[:2]]
        alarms += any(one.verdict in (WORSE, BETTER) for one in judge(series, 0))
    assert alarms <= 15


@pytest.mark.parametrize("noise", NOISES)
def test_a_false_same_is_rare(noise: str) -> None:
    """A true change of 3 % is called the same, within 2 %, in at most one of forty comparisons."""
    source = random.Random(10)

    def half(mean: float) -> tuple[float, ...]:
        return tuple(mean + NOISES[noise](source) / 2 for _ in range(12))

    verdicts = Counter(verdict(half(100), half(97)) for _ in range(200))
    assert verdicts[SAME] <= 200 / 40
    assert verdicts[BETTER] == 0


@pytest.mark.parametrize("noise", ["normal", "skewed", "bimodal"])
def test_power_grows_with_runs_and_with_the_change(noise: str) -> None:
    source = random.Random(11)

    def power(n: int, change: float) -> int:
        return sum(
            verdict(values(source, NOISES[noise], n), values(source, NOISES[noise], n, 100 - change)) == WORSE
            for _ in range(100)
        )

    by_runs = [power(n, 8) for n in (4, 6, 10, 20)]
    by_change = [power(8, change) for change in (3, 6, 9, 15)]
    assert all(more >= less for less, more in pairwise(by_runs))
    assert all(more >= less for less, more in pairwise(by_change))
    assert by_runs[0] < 80 < by_runs[-1]
    assert by_change[0] < 60 < 90 < by_change[-1]


# --- how many runs ---


@pytest.mark.parametrize(("spread", "effect"), [(4, 8), (4, 4), (2, 3)])
def test_the_recommended_runs_find_the_change_in_four_of_five_comparisons(spread: float, effect: float) -> None:
    source = random.Random(12)
    n = runs_for(spread, effect) or 0
    worse = sum(
        verdict(
            tuple(source.gauss(100, spread) for _ in range(n)),
            tuple(source.gauss(100 - effect, spread) for _ in range(n)),
        )
        == WORSE
        for _ in range(300)
    )
    assert 0.7 <= worse / 300 <= 0.9


def test_recommended_runs_are_never_fewer_than_the_least_and_never_absurd() -> None:
    assert runs_for(0.001, 10) == 4
    assert runs_for(0.001, 10, tests=7) == 6
    assert runs_for(100, 1) is None
    assert runs_for(1, 0) is runs_for(math.inf, 1) is None
    assert runs_for(4, 0.5) == 1000 or runs_for(4, 0.5) is None or (runs_for(4, 0.5) or 0) <= MOST_RUNS


def test_an_unclear_series_says_how_many_more_runs_would_decide_and_they_do() -> None:
    source = random.Random(13)
    decided = total = 0
    for change in (0, 4, 5, 7):
        for _ in range(40):
            base, new = values(source, NOISES["normal"], 6), values(source, NOISES["normal"], 6, 100 - change)
            (first,) = judge([Samples(base, new)], 2)
            if first.verdict != UNCLEAR or first.more_runs is None or first.more_runs[0] > 300:
                continue
            assert min(first.more_runs) > 0
            base += values(source, NOISES["normal"], first.more_runs[0])
            new += values(source, NOISES["normal"], first.more_runs[1], 100 - change)
            total += 1
            decided += verdict(base, new) in (WORSE, BETTER, SAME)
    assert total > 60
    assert decided / total > 0.7
