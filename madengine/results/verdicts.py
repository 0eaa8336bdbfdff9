"""From two samples of every series to a verdict on each: better, worse, same, unclear, or not enough runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, median

from madengine.results.rank_tests import (
    holm,
    least_p,
    least_p_of_pairs,
    mann_whitney,
    shift,
    shift_of_pairs,
    signed_rank,
)

BETTER, WORSE, SAME, UNCLEAR = "better", "worse", "same", "unclear"
NOT_ENOUGH = "not enough runs"

ALPHA = 0.05
#: The probability with which the number of runs that is recommended leads to a verdict.
POWER = 0.8
#: Runs of a side beyond which none are recommended.
MOST_RUNS = 1000
# How many more values a rank test needs than a t-test of normal ones.
_RANK_FACTOR = math.pi / 3


@dataclass(frozen=True)
class Samples:
    """The values of one series on both sides; where they are pairs, value by value."""

    base: tuple[float, ...]
    new: tuple[float, ...]
    is_lower_better: bool = False
    is_paired: bool = False


@dataclass(frozen=True)
class Judgement:
    """What the values of one series say; what can't be computed is None."""

    verdict: str
    n: tuple[int, int]
    median: tuple[float | None, float | None]
    #: The Hodges-Lehmann shift in percent of the base median, positive where the new values are larger.
    change_percent: float | None = None
    #: Its confidence interval, for this series alone.
    interval_percent: tuple[float | None, float | None] = (None, None)
    p: float | None = None
    #: Adjusted by Holm over the series that have enough runs; None where this one has not.
    p_holm: float | None = None
    #: Runs of each side (or pairs) with which a verdict is likely; None where there is one, or none is in sight.
    runs_needed: int | None = None
    #: Whether the new values are larger; for a change that is no percentage of a median of zero.
    is_larger: bool = False

    @property
    def more_runs(self) -> tuple[int, int] | None:
        """How many more runs of each side are needed; None where `runs_needed` is."""
        if self.runs_needed is None:
            return None
        return max(0, self.runs_needed - self.n[0]), max(0, self.runs_needed - self.n[1])


def judge(series: Sequence[Samples], min_effect: float) -> list[Judgement]:
    """Judge all series of one comparison together; changes below `min_effect` percent count as none."""
    ps = [_p(samples) for samples in series]
    tests = sum(p is not None for p in ps)
    least = [_least_p(samples) for samples in series]
    testable = [number for number, p in enumerate(least) if p < ALPHA]
    adjusted = dict(zip(testable, holm([ps[number] or 0.0 for number in testable]), strict=True))
    # What no values of this number could reach is no finding, whatever the values are.
    reachable = dict(zip(testable, holm([least[number] for number in testable]), strict=True))
    return [
        _judgement(samples, ps[number], adjusted.get(number), reachable.get(number, 1.0) < ALPHA, min_effect, tests)
        for number, samples in enumerate(series)
    ]


def runs_for(spread: float, effect: float, tests: int = 1) -> int | None:
    """Return how many runs of each side show an effect among values with this standard deviation, with POWER.

    None where they are more than MOST_RUNS.
    """
    if effect <= 0 or not spread / effect < MOST_RUNS:
        return None
    normal = NormalDist()
    certain = normal.inv_cdf(1 - ALPHA / (2 * tests))
    runs = 2 * _RANK_FACTOR * ((certain + normal.inv_cdf(POWER)) * spread / effect) ** 2
    # Few runs don't tell their spread well (Guenther's correction).
    runs = max(math.ceil(runs + certain**2 / 4), least_runs(tests))
    return runs if runs <= MOST_RUNS else None


def least_runs(tests: int = 1, is_paired: bool = False) -> int:
    """Return the runs of each side, or pairs, below which no verdict but `same` can be reached."""
    return next(
        runs
        for runs in range(1, MOST_RUNS)
        if (least_p_of_pairs(runs) if is_paired else least_p(runs, runs)) * tests < ALPHA
    )


def _judgement(
    samples: Samples, p: float | None, p_holm: float | None, is_reachable: bool, min_effect: float, tests: int
) -> Judgement:
    judgement = _estimate(samples, p, p_holm)
    verdict = _verdict(judgement, samples.is_lower_better, is_reachable, min_effect)
    runs = None
    if verdict == NOT_ENOUGH:
        runs = least_runs(max(tests, 1), samples.is_paired)
    elif verdict == UNCLEAR:
        runs = _deciding_runs(samples, judgement, min_effect, tests)
    return replace(judgement, verdict=verdict, runs_needed=runs)


def _estimate(samples: Samples, p: float | None, p_holm: float | None) -> Judgement:
    n, medians = (len(samples.base), len(samples.new)), (_median(samples.base), _median(samples.new))
    if p is None:
        return Judgement(NOT_ENOUGH, n, medians)
    estimate = (shift_of_pairs if samples.is_paired else shift)(samples.base, samples.new, ALPHA)
    change, low, high = (_percent(value, medians[0]) for value in estimate)
    return Judgement(UNCLEAR, n, medians, change, (low, high), p, p_holm, is_larger=estimate.value > 0)


def _verdict(judgement: Judgement, is_lower_better: bool, is_reachable: bool, min_effect: float) -> str:
    low, high = judgement.interval_percent
    if low is not None and high is not None and -min_effect <= low and high <= min_effect:
        return SAME
    if not is_reachable:
        return NOT_ENOUGH
    change = judgement.change_percent
    is_large = change is None or (change != 0 and abs(change) >= min_effect)
    if is_large and judgement.p_holm is not None and judgement.p_holm < ALPHA:
        return WORSE if judgement.is_larger == is_lower_better else BETTER
    return UNCLEAR


def _deciding_runs(samples: Samples, judgement: Judgement, min_effect: float, tests: int) -> int | None:
    """The runs of each side with which these values, if they stay as they are, likely lead to a verdict."""
    spread = _percent(_spread(samples), judgement.median[0])
    if judgement.change_percent is None or spread is None:
        return None
    now, change = min(judgement.n), abs(judgement.change_percent)
    rest = min_effect - change
    runs = runs_for(spread, change, tests) if change >= rest else runs_for(spread, rest)
    if runs is not None and runs <= now and rest > 0:
        # It is a change, and the question is on which side of the limit.
        runs = runs_for(spread, rest)
    return None if runs is None else max(runs, now + 1)


def _spread(samples: Samples) -> float:
    """The standard deviation within the samples; of pairs, what their differences have of it."""
    if samples.is_paired:
        differences = [after - before for before, after in zip(samples.base, samples.new, strict=True)]
        return math.sqrt(_squares(differences) / (len(differences) - 1) / 2)
    return math.sqrt((_squares(samples.base) + _squares(samples.new)) / (len(samples.base) + len(samples.new) - 2))


def _squares(values: Sequence[float]) -> float:
    """The sum of the squared distances from the mean; infinite rather than an error."""
    mean = sum(values) / len(values)
    return sum((value - mean) * (value - mean) for value in values)


def _p(samples: Samples) -> float | None:
    if not samples.base or not samples.new:
        return None
    return (signed_rank if samples.is_paired else mann_whitney)(samples.base, samples.new)


def _least_p(samples: Samples) -> float:
    if samples.is_paired:
        return least_p_of_pairs(len(samples.base))
    return least_p(len(samples.base), len(samples.new))


def _median(values: Sequence[float]) -> float | None:
    return _finite(median(values)) if values else None


def _percent(value: float | None, base: float | None) -> float | None:
    if value is None or base is None:
        return None
    if not base:
        return None if value else 0.0
    return _finite(value / abs(base) * 100)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
