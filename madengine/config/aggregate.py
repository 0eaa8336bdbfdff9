"""`aggregate` of a model entry: how the numbers that several nodes print for a metric become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madengine.config.values import expected

RULES = ("sum", "mean", "max", "min")


def rule_for(aggregate: Any, metric: str) -> str:
    """Return the rule for a metric: that of all metrics, or of its name; empty if there is none."""
    rule = aggregate.get(metric) if isinstance(aggregate, Mapping) else aggregate
    return rule if isinstance(rule, str) and rule in RULES else ""


def check_aggregate(value: Any, where: str) -> None:
    """Raise ConfigurationError for an `aggregate` that names an unknown rule."""
    rules = list(value.values()) if isinstance(value, Mapping) else [] if value is None else [value]
    for rule in rules:
        if rule not in RULES:
            raise expected(where, f"one of {', '.join(RULES)}, or an object of them by metric", rule)
