"""How many runs `madengine compare` needs: the tables of docs/comparing.md, by simulation with normal noise.

`python -m tests.bench.compare_power` prints them, in some minutes. Each number is the smallest number of runs of each
side with which at least 80 % of ROUNDS comparisons of one series end with the verdict.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from madengine.results.verdicts import POWER, SAME, WORSE, Samples, judge, least_runs, runs_for

NOISES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
EFFECTS = (3.0, 5.0, 10.0, 20.0)
MIN_EFFECT = 2.0
MOST = 100
ROUNDS = 1000


def rate(n: int, noise: float, change: float, verdict: str, is_paired: bool = False) -> float:
    """The share of comparisons that end with a verdict."""
    source = random.Random(f"{n} {noise} {change} {is_paired}")
    hits = 0
    for _ in range(ROUNDS):
        # What two runs of a pair have in common is not noise, so a pair's noise is that of two runs.
        base, new = (tuple(source.gauss(mean, noise) for _ in range(n)) for mean in (100, 100 - change))
        hits += judge([Samples(base, new, is_paired=is_paired)], MIN_EFFECT)[0].verdict == verdict
    return hits / ROUNDS


def runs(power: Callable[[int], float], guess: int, least: int) -> str:
    """The smallest number of runs that is enough, searched from a guess."""
    n = min(max(guess, least), MOST)
    while n > least and power(n - 1) >= POWER:
        n -= 1
    while n <= MOST and power(n) < POWER:
        n += 1
    return str(n) if n <= MOST else f"over {MOST}"


def line(noise: float, is_paired: bool) -> str:
    """A row of the table: the runs that find each change, and those that show that there is none."""
    least = least_runs(is_paired=is_paired)
    cells = [
        runs(lambda n: rate(n, noise, effect, WORSE, is_paired), runs_for(noise, effect) or MOST, least)  # noqa: B023
        for effect in EFFECTS
    ]
    cells.append(runs(lambda n: rate(n, noise, 0, SAME, is_paired), runs_for(noise, MIN_EFFECT) or MOST, least))
    return f"| {noise:g} % | {' | '.join(cells)} |"


if __name__ == "__main__":
    for paired in (False, True):
        print("| noise |", " | ".join(f"{effect:g} %" for effect in EFFECTS), f"| same (within {MIN_EFFECT:g} %) |")
        print("|---|" + "--:|" * (len(EFFECTS) + 1))
        for deviation in NOISES:
            print(line(deviation, paired), flush=True)
