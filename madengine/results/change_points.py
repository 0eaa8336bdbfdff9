"""Where a series changes: by Apache Otava, an optional dependency, which finds it by the E-divisive means algorithm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: What makes change points possible.
INSTALL = "pip install 'madengine[history]'"


@dataclass(frozen=True)
class ChangePoint:
    """A change between two values of a series that are next to each other."""

    #: Of the first value after the change.
    index: int
    #: By the means up to the next change points; None where the mean before is zero.
    change_percent: float | None
    p: float | None


#: Values and the least change in percent -> the change points in their order.
Detector = Callable[[Sequence[float], float], list[ChangePoint]]


class OtavaDetector:
    """Finds change points; raises ImportError when it is made without Otava."""

    def __init__(self) -> None:
        from importlib.metadata import version

        from otava.analysis import compute_change_points  # first: it may be missing

        self._compute = compute_change_points
        self.name = f"apache-otava {version('apache-otava')}"

    def __call__(self, values: Sequence[float], min_effect: float) -> list[ChangePoint]:
        """Return the change points; changes below `min_effect` percent are none."""
        with warnings.catch_warnings():
            # Of values that are all alike, or too large to be squared.
            warnings.simplefilter("ignore")
            points, _ = self._compute(list(values), min_magnitude=min_effect / 100)
            return [
                ChangePoint(
                    int(point.index),
                    _percent(float(point.stats.mean_1), float(point.stats.mean_2)),
                    _finite(float(point.stats.pvalue)),
                )
                for point in points
            ]


def _percent(before: float, after: float) -> float | None:
    return _finite((after - before) / abs(before) * 100) if before else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
