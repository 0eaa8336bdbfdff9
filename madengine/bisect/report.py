"""The outcome of a bisection: for the terminal, or as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madengine.bisect.search import suspects
from madengine.bisect.state import BisectState, Step, Version
from madengine.results.comparison_table import cell
from madengine.results.series import short_digest
from madengine.results.table import text_table

_HEADERS = ("version", "title", "verdict", "pairs", "good", "this", "change %", "interval", "p")
_ALIGNMENT = ("left", "left", "left", "right", "right", "right", "right", "right", "right")
_NAME_CHARACTERS = 12


def as_table(state: BisectState) -> str:
    """Return the versions that were tried in their order, then the first bad one with its evidence."""
    lines = [_line(state.versions[number], step) for number, step in sorted(state.steps.items())]
    table = text_table(lines, _HEADERS, _ALIGNMENT)
    metric = cell(state.series.get("metric", ""))
    rule = f"bad: {metric} is worse than good by at least {state.threshold:.2f} %, half of what the last version is"
    return "\n\n".join([table, rule, _conclusion(state)])


def as_json(state: BisectState) -> dict[str, Any]:
    """Return all that is known."""
    names = [state.versions[number].name for number in suspects(state.verdicts)]
    return {
        "first_bad": names[0] if len(names) == 1 else None,
        "suspects": names,
        "last_good": state.versions[suspects(state.verdicts)[0] - 1].name,
        "series": dict(state.series),
        "threshold_percent": state.threshold,
        "steps": [
            {
                "version": state.versions[number].name,
                "title": state.versions[number].title,
                "verdict": step.verdict,
                "reason": step.reason,
                "evidence": dict(step.evidence) or None,
            }
            for number, step in sorted(state.steps.items())
        ],
    }


def is_decided(state: BisectState) -> bool:
    """Return whether one version is the first bad one."""
    return len(suspects(state.verdicts)) == 1


def _line(version: Version, step: Step) -> list[str]:
    evidence = step.evidence
    name = version.name[:_NAME_CHARACTERS] if version.title else version.name
    verdict = f"{step.verdict}: {step.reason}" if step.reason else step.verdict
    start = [cell(name), cell(version.title), cell(verdict)]
    if not evidence:
        return [*start, *[""] * (len(_HEADERS) - len(start))]
    low, high = (_percent(value) for value in evidence["interval_percent"])
    return [
        *start,
        str(evidence["n"][1]),
        *("" if value is None else f"{value:.6g}" for value in evidence["median"]),
        _percent(evidence["change_percent"]),
        f"{low} … {high}" if low and high else "",
        "" if evidence["p"] is None else f"{evidence['p']:.2g}",
    ]


def _conclusion(state: BisectState) -> str:
    numbers = suspects(state.verdicts)
    if len(numbers) > 1:
        names = "\n  ".join(_name(state.versions[number]) for number in numbers)
        return f"the first bad version is one of these, the others could not be tried:\n  {names}"
    lines = [f"first bad version: {_name(state.versions[numbers[0]])}"]
    lines.append(f"last good version: {_name(state.versions[numbers[0] - 1])}")
    evidence = state.steps[numbers[0]].evidence
    lines += [_difference(one) for one in evidence.get("differences", ())]
    return "\n  ".join(lines)


def _difference(one: Mapping[str, Any]) -> str:
    base, new = (", ".join(cell(short_digest(str(value))) or "none" for value in one[side]) for side in ("base", "new"))
    return f"{cell(str(one['column']))} {base} -> {new}"


def _name(version: Version) -> str:
    return " ".join(filter(None, (cell(version.name), cell(version.title))))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
