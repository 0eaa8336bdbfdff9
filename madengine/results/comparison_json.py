"""A comparison as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from madengine.results.comparison import ComparedSeries, Comparison
from madengine.results.rows import Row
from madengine.results.series import count_runs, disturbances
from madengine.results.verdicts import ALPHA


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return what the table says, complete; what is unknown is None."""
    return {
        "base": comparison.sides.names[0],
        "new": comparison.sides.names[1],
        "test": "wilcoxon" if comparison.options.paired else "mann-whitney",
        "min_effect_percent": comparison.options.min_effect,
        "confidence_percent": round(100 * (1 - ALPHA)),
        "holm_tests": comparison.tests,
        "series": [series_json(one) for one in comparison.series],
        "failures": [
            {"side": one.side, "model": one.model, "reason": one.reason, "n": one.n} for one in comparison.failures
        ],
    }


def series_json(one: ComparedSeries) -> dict[str, Any]:
    judgement = one.judgement
    return {
        **dict.fromkeys(("model", "variant", "metric"), ""),
        **one.series.key,
        "better": "lower" if one.is_lower_better else "higher",
        "n": list(judgement.n),
        "runs": [count_runs(one.series.base), count_runs(one.series.new)],
        "median": [rounded(value, 12) for value in judgement.median],
        "change_percent": rounded(judgement.change_percent),
        "interval_percent": [rounded(value) for value in judgement.interval_percent],
        "p": rounded(judgement.p),
        "p_holm": rounded(judgement.p_holm),
        "verdict": judgement.verdict,
        "more_runs": None if judgement.more_runs is None else list(judgement.more_runs),
        "differences": [
            {"column": each.column, "base": list(each.base), "new": list(each.new)} for each in one.differences
        ],
        "disturbed": {"base": _disturbed(one.series.base), "new": _disturbed(one.series.new)},
        "left_out": [unclean + unpaired for unclean, unpaired in zip(one.unclean, one.unpaired, strict=True)],
    }


def _disturbed(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The run ids of the runs that something may have disturbed, by what it was."""
    return {reason: [row.get("run_id", "") for row in runs] for reason, runs in disturbances(rows).items()}


def rounded(value: float | None, digits: int = 6) -> float | None:
    """Return a number with so many digits; None where it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
