"""Exact rank tests of two samples, and the shift between them with its confidence interval. Pure Python.

Beyond `EXACT_WORK` and `EXACT_PAIRS` a normal approximation (corrected for ties and continuity) stands in for the exact
distribution; beyond `MOST_VALUES` the shift is computed from evenly spaced quantiles of the samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

#: Values in the smaller sample times values in both, up to which Mann-Whitney is exact: 50 against 50, 12 against 400.
EXACT_WORK = 5000
#: Pairs up to which Wilcoxon's test is exact.
EXACT_PAIRS = 200
#: Values of a sample beyond which its quantiles stand for it in the shift.
MOST_VALUES = 1000


class Shift(NamedTuple):
    """How far the new values are from the base values: the Hodges-Lehmann estimate and its confidence interval.

    The ends are None where the samples are too small for an interval of this confidence.
    """

    value: float
    low: float | None
    high: float | None


# --- unpaired ---


def mann_whitney(base: Sequence[float], new: Sequence[float]) -> float:
    """Return the two-sided p-value of the Mann-Whitney U test: twice the smaller tail, at most 1.

    Exact with ties too: the distribution is that of the midrank sum over all ways to split these values.
    """
    ranks = _doubled_midranks([*base, *new])
    statistic = sum(ranks[: len(base)] if len(base) <= len(new) else ranks[len(base) :])
    size = min(len(base), len(new))
    if size * len(ranks) > EXACT_WORK:
        return _normal_mann_whitney(ranks, size, statistic)
    step = 2 if all(rank % 2 == 0 for rank in ranks) else 1
    counts = _subset_sums(tuple(sorted(rank // step for rank in ranks)), size)
    return _two_sided(counts, statistic // step)


def least_p(base: int, new: int) -> float:
    """Return the smallest p-value that Mann-Whitney can reach with this many values."""
    return min(1.0, 2 / math.comb(base + new, base))


def shift(base: Sequence[float], new: Sequence[float], alpha: float = 0.05) -> Shift:
    """Return the median of all differences new - base, with the interval of confidence 1 - alpha."""
    differences = sorted(after - before for before in _thinned(base) for after in _thinned(new))
    return _shift(differences, len(base) * len(new), _mann_whitney_cut(len(base), len(new), alpha))


def _mann_whitney_cut(base: int, new: int, alpha: float) -> int | None:
    """How many differences lie outside of the interval at each end; None where it has no end."""
    size, total = min(base, new), base + new
    if size * total > EXACT_WORK:
        return _normal_cut(base * new / 2, math.sqrt(base * new * (total + 1) / 12), alpha)
    counts = _subset_sums(tuple(range(total)), size)
    return _cut(counts[size * (size - 1) // 2 :], alpha)


def _normal_mann_whitney(ranks: Sequence[int], size: int, statistic: int) -> float:
    total = len(ranks)
    ties = sum(count**3 - count for count in Counter(ranks).values())
    variance = size * (total - size) / 12 * (total + 1 - ties / (total * (total - 1)))
    return _normal_p(statistic / 2 - size * (total + 1) / 2, variance)


# --- paired ---


def signed_rank(base: Sequence[float], new: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test of pairs: twice the smaller tail, at most 1.

    Pairs without a difference don't count. Exact with ties too: the distribution is that over all signs of these ranks.
    """
    differences = [after - before for before, after in zip(base, new, strict=True) if after != before]
    ranks = _doubled_midranks([abs(difference) for difference in differences])
    statistic = sum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    if len(ranks) > EXACT_PAIRS:
        return _normal_p((statistic - sum(ranks) / 2) / 2, sum(rank * rank for rank in ranks) / 16)
    return _two_sided(_sign_sums(tuple(sorted(ranks))), statistic)


def least_p_of_pairs(pairs: int) -> float:
    """Return the smallest p-value that Wilcoxon's test can reach with this many pairs."""
    return min(1.0, 0.5 ** (pairs - 1))


def shift_of_pairs(base: Sequence[float], new: Sequence[float], alpha: float = 0.05) -> Shift:
    """Return the median of the means of every two differences new - base, with the interval of confidence 1 - alpha."""
    differences = _thinned([after - before for before, after in zip(base, new, strict=True)])
    means = sorted(one / 2 + other / 2 for number, one in enumerate(differences) for other in differences[number:])
    pairs = len(base)
    if pairs > EXACT_PAIRS:
        mean = pairs * (pairs + 1) / 4
        cut = _normal_cut(mean, math.sqrt(mean * (2 * pairs + 1) / 6), alpha)
    else:
        cut = _cut(_sign_sums(tuple(range(1, pairs + 1))), alpha)
    return _shift(means, pairs * (pairs + 1) // 2, cut)


# --- one sample ---


@lru_cache(maxsize=64)
def median_cut(count: int, alpha: float = 0.05) -> int | None:
    """Return how many of `count` sorted values lie outside of their median's interval at each end.

    None where they are too few for an interval of confidence 1 - alpha, which holds whatever their distribution is.
    """
    if count > EXACT_WORK:
        return _normal_cut(count / 2, math.sqrt(count) / 2, alpha)
    ways = below = 1
    for value in range(count + 1):
        if 2 * below / 2**count >= alpha:
            return value - 1 if value else None
        ways = ways * (count - value) // (value + 1)
        below += ways
    return None


# --- many tests ---


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm, in the order of their tests."""
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        largest = max(largest, min(1.0, ps[number] * (len(ps) - rank)))
        adjusted[number] = largest
    return adjusted


# --- distributions ---


def _doubled_midranks(values: Sequence[float]) -> list[int]:
    """The rank of each value from 1, twice, so that the mean rank of equal values is a whole number."""
    counts = Counter(values)
    ranks: dict[float, int] = {}
    below = 0
    for value in sorted(counts):
        ranks[value] = 2 * below + counts[value] + 1
        below += counts[value]
    return [ranks[value] for value in values]


@lru_cache(maxsize=64)
def _subset_sums(ranks: tuple[int, ...], size: int) -> list[int]:
    """For each sum from 0, how many subsets of this size have it; `size` is at most half of the ranks.

    A polynomial for each smaller size, its coefficients side by side in one integer: a rank costs a shift and an
    addition.
    """
    width = math.comb(len(ranks), size).bit_length() // 8 + 1
    packed = [1] + [0] * size
    for rank in ranks:
        for number in range(size, 0, -1):
            packed[number] += packed[number - 1] << (8 * width * rank)
    return _unpacked(packed[size], width)


@lru_cache(maxsize=64)
def _sign_sums(ranks: tuple[int, ...]) -> list[int]:
    """For each sum from 0, how many subsets of any size have it."""
    width = len(ranks) // 8 + 1
    packed = 1
    for rank in ranks:
        packed += packed << (8 * width * rank)
    return _unpacked(packed, width)


def _unpacked(packed: int, width: int) -> list[int]:
    content = packed.to_bytes((packed.bit_length() + 7) // 8, "little")
    return [int.from_bytes(content[at : at + width], "little") for at in range(0, len(content), width)]


def _two_sided(counts: Sequence[int], statistic: int) -> float:
    tail = min(sum(counts[: statistic + 1]), sum(counts[statistic:]))
    return min(1.0, 2 * tail / sum(counts))


def _cut(counts: Sequence[int], alpha: float) -> int | None:
    """The largest value at or below which the statistic is with a probability under alpha / 2, if there is one."""
    total, below = sum(counts), 0
    for value, count in enumerate(counts):
        below += count
        if 2 * below / total >= alpha:
            return value - 1 if value else None
    return None


def _normal_p(distance: float, variance: float) -> float:
    """The two-sided p-value of a distance from the mean that changes in steps of a half or more."""
    if not variance:
        return 1.0
    return min(1.0, math.erfc(max(0.0, abs(distance) - 0.5) / math.sqrt(2 * variance)))


def _normal_cut(mean: float, deviation: float, alpha: float) -> int | None:
    cut = math.floor(mean - NormalDist().inv_cdf(1 - alpha / 2) * deviation - 0.5)
    return cut if cut >= 0 else None


# --- order statistics ---


def _shift(values: Sequence[float], count: int, cut: int | None) -> Shift:
    """The median and the ends of sorted values that stand for `count` values, of which `cut` are beyond each end."""
    middle = values[(len(values) - 1) // 2] / 2 + values[len(values) // 2] / 2
    if cut is None:
        return Shift(middle, None, None)
    end = cut * len(values) // count
    return Shift(middle, values[end], values[-1 - end])


def _thinned(values: Iterable[float]) -> Sequence[float]:
    """The sorted values, or as many evenly spaced quantiles as are worth the time."""
    ordered = sorted(values)
    if len(ordered) <= MOST_VALUES:
        return ordered
    return [ordered[(2 * number + 1) * len(ordered) // (2 * MOST_VALUES)] for number in range(MOST_VALUES)]
