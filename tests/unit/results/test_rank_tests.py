"""The rank tests against scipy and against every permutation; the intervals by inverting scipy's tests."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from madengine.results.rank_tests import (
    EXACT_PAIRS,
    EXACT_WORK,
    holm,
    least_p,
    least_p_of_pairs,
    mann_whitney,
    shift,
    shift_of_pairs,
    signed_rank,
)

VALUES = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=7)


def sample(source: random.Random, size: int, digits: int | None = None) -> list[float]:
    return [round(source.gauss(100, 3), digits) if digits is not None else source.gauss(100, 3) for _ in range(size)]


def midranks(values: Sequence[float]) -> list[float]:
    return [float(rank) for rank in stats.rankdata(values)]


def tail_p(null: Sequence[float], observed: float) -> float:
    """Twice the smaller tail of a null distribution that is given as a list."""
    low, high = sum(one <= observed for one in null), sum(one >= observed for one in null)
    return min(1.0, 2 * min(low, high) / len(null))


# --- unpaired ---


def test_without_ties_p_is_that_of_scipy() -> None:
    source = random.Random(1)
    for size, other in itertools.product((1, 2, 4, 5, 8, 12), repeat=2):
        bases, news = ([sample(source, one) for _ in range(50)] for one in (size, other))
        expected = stats.mannwhitneyu(bases, news, axis=1, method="exact").pvalue
        assert list(map(mann_whitney, bases, news)) == pytest.approx(list(expected), rel=1e-12)


def test_with_ties_p_is_that_of_every_split() -> None:
    source = random.Random(2)
    for _ in range(1000):
        base, new = sample(source, source.randint(1, 5), 0), sample(source, source.randint(1, 6), 0)
        ranks = midranks([*base, *new])
        null = [sum(split) for split in itertools.combinations(ranks, len(base))]
        assert mann_whitney(base, new) == pytest.approx(tail_p(null, sum(ranks[: len(base)])), rel=1e-12)


def test_with_ties_p_is_that_of_scipys_permutation_test() -> None:
    source = random.Random(3)

    def rank_sum(base: Sequence[float], new: Sequence[float]) -> float:
        return float(stats.rankdata([*base, *new])[: len(base)].sum())

    for _ in range(20):
        base, new = sample(source, 4, 0), sample(source, 5, 0)
        expected = stats.permutation_test((base, new), rank_sum, vectorized=False, n_resamples=math.inf).pvalue
        assert mann_whitney(base, new) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("base", "new", "digits"), [(60, 60, None), (60, 70, 0), (3, 2000, 1)])
def test_of_many_values_p_is_that_of_scipys_normal_approximation(base: int, new: int, digits: int | None) -> None:
    source = random.Random(4)
    assert min(base, new) * (base + new) > EXACT_WORK
    for _ in range(20):
        one, other = sample(source, base, digits), sample(source, new, digits)
        expected = stats.mannwhitneyu(one, other, method="asymptotic").pvalue
        assert mann_whitney(one, other) == pytest.approx(float(expected), rel=1e-9)


def test_exact_and_approximate_p_meet_where_one_takes_over_from_the_other() -> None:
    source = random.Random(5)
    for _ in range(5):
        base, new = sample(source, 50), [value + 1 for value in sample(source, 50)]
        approximate = float(stats.mannwhitneyu(base, new, method="asymptotic").pvalue)
        assert mann_whitney(base, new) == pytest.approx(approximate, abs=0.002)


def test_the_smallest_p_of_three_against_three_is_a_tenth() -> None:
    assert mann_whitney([1, 2, 3], [4, 5, 6]) == least_p(3, 3) == 0.1
    assert mann_whitney([1, 2, 3, 4], [5, 6, 7, 8]) == least_p(4, 4) == pytest.approx(1 / 35)
    assert least_p(5, 5) == pytest.approx(1 / 126)


@given(VALUES, VALUES)
def test_p_is_a_probability_that_does_not_depend_on_sides_order_or_scale(base: list[float], new: list[float]) -> None:
    p = mann_whitney(base, new)
    assert least_p(len(base), len(new)) <= p <= 1
    assert mann_whitney(new[::-1], base[::-1]) == p
    assert mann_whitney([-3 * value for value in base], [-3 * value for value in new]) == p


def test_equal_values_are_no_evidence() -> None:
    assert mann_whitney([5.0] * 9, [5.0] * 9) == 1
    assert mann_whitney([5.0] * 90, [5.0] * 90) == 1
    assert signed_rank([5.0] * 9, [5.0] * 9) == 1


# --- paired ---


def test_of_pairs_without_ties_p_is_that_of_scipy() -> None:
    source = random.Random(6)
    for size in range(1, 16):
        bases, news = ([sample(source, size) for _ in range(70)] for _ in range(2))
        expected = stats.wilcoxon(bases, news, axis=1, method="exact").pvalue
        assert list(map(signed_rank, bases, news)) == pytest.approx(list(expected), rel=1e-12)


def test_of_pairs_with_ties_p_is_that_of_every_sign() -> None:
    source = random.Random(7)
    for _ in range(500):
        size = source.randint(1, 8)
        base, new = sample(source, size, 0), sample(source, size, 0)
        differences = [after - before for before, after in zip(base, new, strict=True) if after != before]
        ranks = midranks([abs(one) for one in differences]) if differences else []
        signs = itertools.product((0, 1), repeat=len(ranks))
        null = [sum(rank for rank, sign in zip(ranks, one, strict=True) if sign) for one in signs]
        observed = sum(rank for rank, one in zip(ranks, differences, strict=True) if one > 0)
        assert signed_rank(base, new) == pytest.approx(tail_p(null, observed), rel=1e-12)


def test_of_pairs_with_ties_p_is_that_of_scipys_permutations() -> None:
    source = random.Random(8)
    for _ in range(4):
        base = sample(source, 9, 0)
        new = [value + source.choice((-3, -2, -1, 1, 2)) for value in base]
        expected = stats.wilcoxon(base, new, method=stats.PermutationMethod()).pvalue
        assert signed_rank(base, new) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("digits", [None, 1])
def test_of_many_pairs_p_is_that_of_scipys_normal_approximation(digits: int | None) -> None:
    source = random.Random(9)
    base, new = sample(source, EXACT_PAIRS + 50, digits), sample(source, EXACT_PAIRS + 50, digits)
    expected = stats.wilcoxon(base, new, method="asymptotic", correction=True).pvalue
    assert signed_rank(base, new) == pytest.approx(float(expected), rel=1e-9)


def test_the_smallest_p_of_five_pairs_is_more_than_a_twentieth() -> None:
    assert signed_rank([0.0] * 5, [1.0, 2, 3, 4, 5]) == least_p_of_pairs(5) == 0.0625
    assert signed_rank([0.0] * 6, [1.0, 2, 3, 4, 5, 6]) == least_p_of_pairs(6) == 0.03125


# --- shifts ---


def test_the_shift_is_the_median_of_all_differences() -> None:
    assert shift([1.0, 2.0, 4.0], [11.0, 13.0]).value == 9.5
    assert shift_of_pairs([0.0, 0.0, 0.0], [1.0, 2.0, 6.0]).value == 2.75


def test_the_interval_has_the_shifts_that_scipys_test_does_not_refuse() -> None:
    source = random.Random(10)
    for _ in range(60):
        base, new = sample(source, source.randint(4, 10)), sample(source, source.randint(4, 10))
        _, low, high = shift(base, new)
        assert low is not None
        assert high is not None
        for moved, is_inside in ((low + 1e-9, True), (high - 1e-9, True), (low - 1e-9, False), (high + 1e-9, False)):
            p = stats.mannwhitneyu(base, [value - moved for value in new], method="exact").pvalue
            assert (p >= 0.05) == is_inside


def test_the_interval_of_pairs_has_the_shifts_that_scipys_test_does_not_refuse() -> None:
    source = random.Random(11)
    for _ in range(60):
        size = source.randint(6, 14)
        base, new = sample(source, size), sample(source, size)
        _, low, high = shift_of_pairs(base, new)
        assert low is not None
        assert high is not None
        for moved, is_inside in ((low + 1e-9, True), (high - 1e-9, True), (low - 1e-9, False), (high + 1e-9, False)):
            p = stats.wilcoxon(base, [value - moved for value in new], method="exact").pvalue
            assert (p >= 0.05) == is_inside


@pytest.mark.parametrize("digits", [None, 0])
def test_the_interval_covers_the_true_shift(digits: int | None) -> None:
    """Rounded values, with ties, too: then it covers more often."""
    source = random.Random(12)
    covered = 0
    for _ in range(1000):
        _, low, high = shift(sample(source, 7, digits), [value + 5 for value in sample(source, 8, digits)])
        covered += low is not None and high is not None and low <= 5 <= high
    assert covered >= 950


def test_too_few_values_have_a_shift_but_no_interval() -> None:
    assert shift([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == (3, None, None)
    assert shift_of_pairs([1.0] * 5, [4.0] * 5) == (3, None, None)
    assert shift([1.0], [4.0]) == (3, None, None)


def test_the_shift_of_very_many_values_is_close_to_that_of_all() -> None:
    source = random.Random(13)
    base, new = sample(source, 3000), [value + 1 for value in sample(source, 2500)]
    value, low, high = shift(base, new)
    assert value == pytest.approx(1, abs=0.25)
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(2 * 1.96 * 3 * math.sqrt((1 / 3000 + 1 / 2500) * math.pi / 3), rel=0.1)
    value, low, high = shift_of_pairs(base[:2500], new)
    assert low is not None
    assert high is not None
    assert low < 1 < high
    assert high - low < 0.6


# --- many tests ---


def test_holm_is_that_of_its_definition() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= one <= min(1, p * len(ps)) for p, one in zip(ps, adjusted, strict=True))
    pairs = sorted(zip(ps, adjusted, strict=True))
    assert [one for _, one in pairs] == sorted(adjusted)
