"""A history as JSON."""

from __future__ import annotations

from typing import Any

from madengine.results.comparison_json import rounded
from madengine.results.history import Change, History, SeriesHistory
from madengine.results.rows import Row
from madengine.results.series import suspicions

_COLUMNS = (
    "started", "run_id", "machine_name", "git_commit", "image_digest", "docker_image", "environment_id", "repeat",
)  # fmt: skip


def as_json(history: History) -> dict[str, Any]:
    """Return all that is known; what is unknown is None."""
    return {
        "order": "commits" if history.options.commit_order else "started",
        "min_effect_percent": history.options.min_effect,
        "change_points_by": history.detector or None,
        "series": [_series(one) for one in history.series],
        "problems": list(history.problems),
    }


def _series(one: SeriesHistory) -> dict[str, Any]:
    return {
        **one.key,
        "better": "lower" if one.is_lower_better else "higher",
        "n": len(one.rows),
        "points": [_point(row) for row in one.rows],
        "change_points": [_change(change) for change in one.changes],
        "noise": [
            {
                "machine_name": noise.machine_name,
                "n": noise.n,
                "percent": rounded(noise.percent),
                "of": "repeats" if noise.is_of_repeats else "runs between changes",
            }
            for noise in one.noise
        ],
    }


def _point(row: Row) -> dict[str, Any]:
    return {
        **{column: row.get(column, "") for column in _COLUMNS},
        "performance": float(row["performance"]),
        "disturbed": suspicions(row),
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "index": change.point.index,
        "change_percent": rounded(change.point.change_percent),
        "verdict": change.verdict,
        "p": rounded(change.point.p),
        "median": [rounded(value, 12) for value in change.median],
        "n": list(change.n),
        "before": _point(change.before),
        "after": _point(change.after),
        "differences": [
            {"column": each.column, "base": list(each.base), "new": list(each.new)} for each in change.differences
        ],
    }
