"""Repeated runs: all models run in rounds (ABC ABC), so that drift of the machine affects them alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from madengine.records import SUCCESS, Gpu, Image, Model, RunResult
from madengine.results.rows import has_failure, result_rows
from madengine.run.options import RunOptions

_SERIES = ("model", "variant", "metric")


class Round(NamedTuple):
    """One run of every model that still runs."""

    #: From 1; 0 where nothing is repeated.
    number: int = 0
    is_warmup: bool = False

    @property
    def name(self) -> str:
        """What it is called in messages; empty where nothing is repeated."""
        if not self.number:
            return ""
        return f"warm-up {self.number}" if self.is_warmup else f"repeat {self.number}"


#: The only run of a model.
ONCE = Round()


def rounds(options: RunOptions) -> Iterator[Round]:
    """Yield the rounds of a run, as many as there may be."""
    if not options.is_repeated or options.skip_model_run:
        yield ONCE
        return
    yield from (Round(number, is_warmup=True) for number in range(1, options.warmup + 1))
    yield from (Round(number) for number in range(1, options.most_repeats + 1))


@dataclass
class RepeatedModel:
    """A model with its image, and the results of its runs so far."""

    model: Model
    image: Image
    results: list[RunResult] = field(default_factory=list)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of its first run, which the others get too; none before it."""
        return next((result.gpus for result in self.results if result.gpus), ())

    def runs_in(self, turn: Round, options: RunOptions) -> bool:
        """Return whether it runs in the next round."""
        if not options.keep_going and any(map(has_failure, self.results)):
            return False
        if turn.is_warmup or turn.number <= options.least_repeats:
            return True
        return not self.is_stable(options.until_stable or 0.0)

    def is_stable(self, percent: float) -> bool:
        """Return whether the interval of every median is at most this wide."""
        from madengine.results.statistics import median_width

        series: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for result in self.results:
            for row in result_rows(result, {}):
                if row["status"] == SUCCESS and not result.is_warmup:
                    series[tuple(row.get(column, "") for column in _SERIES)].append(float(row["performance"]))
        widths = [median_width(values) for values in series.values()]
        return bool(widths) and all(width is not None and width <= percent for width in widths)
