"""How often a version compared with itself is called better or worse on a machine that drifts: the table of
docs/comparing.md. `python -m tests.bench.drift` prints it; a unit test holds it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from madengine.results.verdicts import BETTER, WORSE, Samples, judge

PAIRS = 10
NOISE = 0.02
ROUNDS = 1000


def speeds(kind: str, source: random.Random) -> list[float]:
    """The machine's speed at each of the runs."""
    count = 2 * PAIRS
    if kind == "steady":
        return [1.0] * count
    if kind == "10 % slower by the end":
        return [1 - 0.1 * step / (count - 1) for step in range(count)]
    if kind == "10 % slower from some moment on":
        moment = source.randrange(1, count)
        return [1.0] * moment + [0.9] * (count - moment)
    values = [1.0]
    for _ in range(count - 1):
        values.append(values[-1] * source.gauss(1, 0.03))
    return values


KINDS = ("steady", "10 % slower by the end", "10 % slower from some moment on", "up and down by 3 % a run")


def false_alarms(kind: str, rounds: int = ROUNDS) -> tuple[float, float]:
    """The share of comparisons with a verdict that is wrong: of AAA BBB, and of pairs in random order."""
    source = random.Random(kind)
    in_blocks = in_turn = 0
    for _ in range(rounds):
        values = [100 * speed * source.gauss(1, NOISE) for speed in speeds(kind, source)]
        in_blocks += _is_alarm(Samples(tuple(values[:PAIRS]), tuple(values[PAIRS:])))
        flips = [source.random() < 0.5 for _ in range(PAIRS)]
        base = tuple(values[2 * number + flip] for number, flip in enumerate(flips))
        new = tuple(values[2 * number + 1 - flip] for number, flip in enumerate(flips))
        in_turn += _is_alarm(Samples(base, new, is_paired=True))
    return in_blocks / rounds, in_turn / rounds


def _is_alarm(samples: Samples) -> bool:
    return judge([samples], 2.0)[0].verdict in (BETTER, WORSE)


def table(kinds: Sequence[str] = KINDS) -> str:
    """The lines of the table."""
    lines = ["| the machine | ten runs of one, then of the other (AAA BBB) | in turn (`--against`) |", "|---|--:|--:|"]
    for kind in kinds:
        blocks, turns = false_alarms(kind)
        lines.append(f"| {kind} | {100 * blocks:.1f} % | {100 * turns:.1f} % |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
