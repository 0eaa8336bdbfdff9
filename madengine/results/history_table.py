"""A history as tables and notes for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from madengine.results.comparison_table import cell
from madengine.results.history import Change, History, SeriesHistory
from madengine.results.labels import labels
from madengine.results.noise import HostNoise
from madengine.results.rows import Row
from madengine.results.series import short_digest, suspicions
from madengine.results.table import text_table
from madengine.results.verdicts import runs_for

_HEADERS = ("started", "host", "commit", "image", "value", "change", "disturbed")
_ALIGNMENT = ("left", "left", "left", "left", "right", "left", "left")
# What is shown of both sides of a change, whether it differs or not.
_SIDES = ("run_id", "image_digest", "git_commit", "environment_id")
_COMMIT_CHARACTERS = 12
_SHOWN_EFFECT = 5.0  # percent


def as_table(history: History) -> str:
    """Return for each series its last runs, its change points with both sides, and the noise of its hosts."""
    names = labels([one.key for one in history.series])
    return "\n\n".join(_series(one, name, history) for one, name in zip(history.series, names, strict=True))


def _series(one: SeriesHistory, name: str, history: History) -> str:
    direction = "lower" if one.is_lower_better else "higher"
    title = f"{cell(name)}: {cell(one.key['metric']) or 'without a metric name'} ({direction} is better)"
    parts = [title, _runs(one, history.options.last)]
    if history.detector:
        parts.append("\n  ".join([_count(len(one.changes)), *(line for each in one.changes for line in _change(each))]))
    parts.append("\n  ".join(["noise", *map(_noise, one.noise)]))
    return "\n\n".join(parts)


def _count(changes: int) -> str:
    return f"{changes or 'no'} change point{'s' * (changes != 1)}"


def _runs(one: SeriesHistory, last: int) -> str:
    marks = {change.point.index: f"{_percent(change)} {change.verdict}" for change in one.changes}
    start = max(0, len(one.rows) - last) if last else 0
    lines = [_line(row, marks.get(place, "")) for place, row in enumerate(one.rows) if place >= start]
    earlier = f"{start} earlier runs are not shown; --last 0 shows all\n" if start else ""
    return earlier + text_table(lines, _HEADERS, _ALIGNMENT)


def _line(row: Row, mark: str) -> list[str]:
    return [
        cell(row.get("started", "")),
        cell(row.get("machine_name", "")),
        cell(row.get("git_commit", "")[:_COMMIT_CHARACTERS]),
        cell(short_digest(row.get("image_digest") or row.get("docker_image", ""))),
        cell(row["performance"]),
        mark,
        ", ".join(suspicions(row)),
    ]


def _change(change: Change) -> Iterator[str]:
    p = "" if change.point.p is None else f", p {change.point.p:.2g}"
    medians = " -> ".join(f"{value:.6g}" for value in change.median)
    moment = cell(change.after.get("started", "")) or "at an unknown time"
    runs = f"{change.n[0]} / {change.n[1]} runs{p}"
    yield f"{moment}: {_percent(change)} {change.verdict}: median {medians} ({runs})"
    for column in _SIDES:
        before, after = (_values([row.get(column, "")]) for row in (change.before, change.after))
        yield f"  {column} {before} -> {after}" if before != after else f"  {column} {before} on both sides"
    for each in change.differences:
        if each.column not in _SIDES:
            yield f"  {each.column} {_values(each.base)} -> {_values(each.new)}"


def _values(values: Sequence[str]) -> str:
    return ", ".join(cell(short_digest(value)) or "none" for value in values)


def _percent(change: Change) -> str:
    return "from zero" if change.point.change_percent is None else f"{change.point.change_percent:+.2f} %"


def _noise(one: HostNoise) -> str:
    host = cell(one.machine_name) or "unknown host"
    if one.percent is None:
        return f"{host}: unknown, of {one.n} runs too few are repeats"
    basis = "repeats" if one.is_of_repeats else "runs between changes"
    runs = runs_for(one.percent, _SHOWN_EFFECT)
    needed = f"{runs} runs of each side" if runs else "too many runs"
    return f"{host}: {one.percent:.2f} % ({basis}, {one.n} runs); a change of {_SHOWN_EFFECT:g} % takes {needed}"
