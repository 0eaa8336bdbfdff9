"""One number out of those that several nodes print for one metric."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, localcontext
from typing import Any

from madengine.config.aggregate import rule_for
from madengine.records import Metric
from madengine.results.numbers import is_number

# How one number comes about, as rows say it.
_ONE_NODE, _EQUAL = "rank {}", "equal"
_RULES: Mapping[str, Callable[[Sequence[Decimal]], Decimal]] = {
    "sum": lambda values: sum(values, Decimal()),
    "mean": lambda values: sum(values, Decimal()) / len(values),
    "max": max,
    "min": min,
}
# By what is in a metric's name, as madengine 2 decides; the first that fits counts.
_NAMES = {
    "sum": (
        "throughput", "samples_per_second", "tokens_per_second", "images_per_second", "requests_per_second", "qps",
        "bandwidth", "ops_per_second", "samples/sec", "tokens/sec",
    ),
    "mean": (
        "latency", "time", "duration", "milliseconds", "seconds", "ttft", "tpot", "response_time", "accuracy",
        "precision", "recall", "f1", "loss",
    ),
    "max": ("memory", "bytes", "ram", "vram", "gb", "mb"),
}  # fmt: skip
_DIGITS = 15


@dataclass(frozen=True)
class Aggregated:
    """The metrics of a run on several nodes."""

    #: each with how its number came about
    metrics: tuple[Metric, ...]
    #: names for which no rule is known, so that their values were added up
    unknown: tuple[str, ...] = ()


def aggregated(of_nodes: Sequence[Sequence[Metric]], aggregate: Any = None) -> Aggregated:
    """Return the metrics of several nodes, by rank, as those of one run.

    What one node alone prints is the result, and so is a number that all print alike. Other numbers are joined by
    `aggregate` of the model entry (a rule, or rules by metric), or by the metric's name.
    """
    values: dict[tuple[str, str], list[tuple[int, Metric]]] = defaultdict(list)
    for rank, metrics in enumerate(of_nodes):
        for metric in metrics:
            values[metric.model, metric.metric].append((rank, metric))
    results = [_joined(printed, aggregate) for printed in values.values()]
    return Aggregated(
        tuple(metric for metric, _ in results), tuple(metric.metric for metric, is_known in results if not is_known)
    )


def _joined(printed: Sequence[tuple[int, Metric]], aggregate: Any) -> tuple[Metric, bool]:
    """Return one metric, and whether the rule for that is known."""
    numbers = [(rank, metric) for rank, metric in printed if is_number(metric.performance)]
    if not numbers:
        return printed[0][1], True
    rank, metric = numbers[0]
    texts = [each.performance for _, each in numbers]
    rule = rule_for(aggregate, metric.metric)
    if len(numbers) == 1:
        return replace(metric, aggregation=_ONE_NODE.format(rank)), True
    if not rule and len({Decimal(text) for text in texts}) == 1:
        return replace(metric, aggregation=_EQUAL), True
    known = rule or rule_of_name(metric.metric)
    with localcontext(Context(prec=60)):
        value = _RULES[known or "sum"]([Decimal(text) for text in texts])
        return replace(metric, performance=_text(value), aggregation=known or "sum"), bool(known)


def rule_of_name(metric: str) -> str:
    """Return the rule for a metric by its name; empty if that says nothing."""
    name = metric.lower()
    by_part = next((rule for rule, parts in _NAMES.items() if any(part in name for part in parts)), "")
    # Any other amount in a unit of time: `tokens/s`, `steps_per_minute`.
    is_rate = bool(re.search(r"/(s|sec|second|min|minute|h|hour)$|(?<![a-z])per_", name))
    return "sum" if is_rate and by_part in ("", "max") else by_part


def _text(value: Decimal) -> str:
    """Return a number in plain digits, rounded to what a measurement can have."""
    with localcontext(Context(prec=_DIGITS)):
        rounded = +value
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
