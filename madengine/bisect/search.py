"""Which version is tried next, and which are left: numbers from 0, the good one, to the last, the bad one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

GOOD, BAD, SKIPPED = "good", "bad", "skipped"

Verdicts = Mapping[int, str]


def next_version(verdicts: Verdicts) -> int | None:
    """Return the version to try: the one nearest to the middle that has no verdict; None where none is left."""
    low, high = _limits(verdicts)
    open_versions = [number for number in range(low + 1, high) if number not in verdicts]
    return min(open_versions, key=lambda number: (abs(2 * number - low - high), number), default=None)


def suspects(verdicts: Verdicts) -> Sequence[int]:
    """Return the versions that may be the first bad one: those after the last good one, up to the first bad one."""
    low, high = _limits(verdicts)
    return range(low + 1, high + 1)


def steps_left(verdicts: Verdicts) -> int:
    """Return about how many versions are still to be tried."""
    return max(0, len(suspects(verdicts)) - 1).bit_length()


def _limits(verdicts: Verdicts) -> tuple[int, int]:
    """The first bad version, and the last good one before it."""
    high = min(number for number, verdict in verdicts.items() if verdict == BAD)
    return max(number for number, verdict in verdicts.items() if verdict == GOOD and number < high), high
