"""A comparison as tables and notes: for the terminal, or as Markdown for a merge request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from madengine.results.comparison import ComparedSeries, Comparison, metric_of
from madengine.results.differences import Difference
from madengine.results.labels import labels
from madengine.results.rows import Row
from madengine.results.series import count_runs, disturbances, short_digest
from madengine.results.table import markdown_table, printable, text_table
from madengine.results.verdicts import ALPHA, MOST_RUNS, NOT_ENOUGH, UNCLEAR

_CELL_WIDTH = 60
_SHOWN_VALUES = 4
_CONFIDENCE = f"{100 * (1 - ALPHA):.0f} %"
_HEADERS = ("series", "metric", "better", "n", "base", "new", "change %", f"{_CONFIDENCE} interval", "p", "verdict")
_ALIGNMENT = ("left", "left", "left", "right", "right", "right", "right", "right", "right", "left")

Quote = Callable[[str], str]
# From lines of cells, headers and the alignment of each column.
Table = Callable[[Sequence[Sequence[str]], Sequence[str], Sequence[str]], str]


def render(comparison: Comparison) -> str:
    """Return the form that the options ask for."""
    if comparison.options.json:
        import json

        from madengine.results.comparison_json import as_json

        return json.dumps(as_json(comparison), indent=2, allow_nan=False)
    return as_markdown(comparison) if comparison.options.markdown else as_table(comparison)


def as_table(comparison: Comparison) -> str:
    """Return the verdicts as a table, then what failed, then what to know of each series."""
    notes = ["\n  ".join([title, *lines]) for title, lines in _notes(comparison, cell)]
    return "\n\n".join([*_tables(comparison, cell, text_table), *notes, "\n".join(_method(comparison))])


def as_markdown(comparison: Comparison) -> str:
    """Return the same for GitHub and GitLab; names are code, so that nothing in them is markup."""
    notes = ["\n- ".join([f"{title}\n", *lines]) for title, lines in _notes(comparison, code)]
    return "\n\n".join([*_tables(comparison, code, markdown_table), *notes, "; ".join(_method(comparison))])


# --- tables ---


def _tables(comparison: Comparison, quote: Quote, table: Table) -> Iterator[str]:
    lines = [_line(one, label, quote) for one, label in _labelled(comparison)]
    if lines:
        yield table(lines, _HEADERS, _ALIGNMENT)
    failures = [(one.side, quote(one.model), str(one.n), quote(one.reason)) for one in comparison.failures]
    if failures:
        headers, alignment = ("failed in", "model", "n", "reason"), ("left", "left", "right", "left")
        yield table(failures, headers, alignment)


def _line(one: ComparedSeries, label: str, quote: Quote) -> list[str]:
    judgement = one.judgement
    low, high = map(_percent, judgement.interval_percent)
    return [
        quote(label),
        quote(metric_of(one.series)),
        "lower" if one.is_lower_better else "higher",
        f"{judgement.n[0]} / {judgement.n[1]}",
        *("" if value is None else f"{value:.6g}" for value in judgement.median),
        _percent(judgement.change_percent),
        f"{low} … {high}" if low and high else "",
        _p(judgement.p if judgement.p_holm is None else judgement.p_holm),
        _verdict(one),
    ]


def _verdict(one: ComparedSeries) -> str:
    """The verdict, and how many more runs are needed where there is none."""
    verdict, more = one.judgement.verdict, one.judgement.more_runs
    if verdict not in (UNCLEAR, NOT_ENOUGH):
        return verdict
    if more is None:
        return f"{verdict}: more than {MOST_RUNS} runs needed"
    about = "about " if verdict == UNCLEAR else ""
    return (
        f"{verdict}: {about}{more[0]} more of each"
        if more[0] == more[1]
        else f"{verdict}: {about}{more[0]} / {more[1]} more"
    )


def _labelled(comparison: Comparison) -> list[tuple[ComparedSeries, str]]:
    return list(zip(comparison.series, labels([one.series.key for one in comparison.series]), strict=True))


# --- notes ---


def _notes(comparison: Comparison, quote: Quote) -> Iterator[tuple[str, list[str]]]:
    """Titles with their lines: what differs in all series, then what to know of each."""
    common = _common_differences(comparison)
    if common:
        yield "all series", [_difference(each, quote) for each in common]
    for one, label in _labelled(comparison):
        own = [_difference(each, quote) for each in one.differences if each not in common]
        if lines := [*_one_sided(one, quote), *_left_out(one), *_pooled(one), *_disturbed(one, quote), *own]:
            yield f"{quote(label)} {quote(metric_of(one.series))}", lines


def _common_differences(comparison: Comparison) -> list[Difference]:
    first, *others = [one.differences for one in comparison.series if one.is_on_both_sides] or [()]
    return [each for each in first if others and all(each in other for other in others)]


def _one_sided(one: ComparedSeries, quote: Quote) -> Iterator[str]:
    if one.nearest:
        there = "new" if one.series.base else "base"
        yield "; ".join([f"not in {there}", *(_difference(each, quote) for each in one.nearest)])


def _left_out(one: ComparedSeries) -> Iterator[str]:
    for reason, counts in (("disturbed", one.unclean), ("without a partner", one.unpaired)):
        if any(counts):
            yield f"left out: {counts[0]} / {counts[1]} runs {reason}"


def _pooled(one: ComparedSeries) -> Iterator[str]:
    for side, rows in (("base", one.series.base), ("new", one.series.new)):
        if count_runs(rows) < len(rows):
            yield f"{side}: {len(rows)} rows of {count_runs(rows)} runs: several results of one run are not repeats"


def _disturbed(one: ComparedSeries, quote: Quote) -> Iterator[str]:
    for side, rows in (("base", one.series.base), ("new", one.series.new)):
        for reason, disturbed in disturbances(rows).items():
            yield f"{side}: {reason} in {len(disturbed)} of {len(rows)} runs: {_values(_runs(disturbed), quote)}"


def _runs(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.get("run_id") or row.get("started") or "without a run id" for row in rows))


def _difference(one: Difference, quote: Quote) -> str:
    hosts = f" on {one.hosts} hosts" if one.hosts > 1 else ""
    return f"{one.column} {_values(one.base, quote)} -> {_values(one.new, quote)}{hosts}"


def _values(values: Sequence[str], quote: Quote) -> str:
    texts = [quote(short_digest(value)) or "none" for value in values]
    more = f", … ({len(texts)} values)" if len(texts) > _SHOWN_VALUES else ""
    return ", ".join(texts[:_SHOWN_VALUES]) + more


def _method(comparison: Comparison) -> tuple[str, ...]:
    """How the numbers came about, in lines."""
    test = "Wilcoxon signed-rank test of pairs" if comparison.options.paired else "Mann-Whitney U test"
    adjusted = f", adjusted by Holm over {comparison.tests} series" if comparison.tests > 1 else ""
    return (
        f"p: exact {test}{adjusted}",
        f"change, interval: Hodges-Lehmann shift in percent of the base median, with {_CONFIDENCE} confidence",
        f"same: the interval is within ±{comparison.options.min_effect:g} %",
    )


# --- cells ---


def cell(text: str, width: int = _CELL_WIDTH) -> str:
    """Return a text that stays on its line and can't steer a terminal."""
    return printable(text if len(text) <= width else f"{text[: width - 1]}…").strip()


def code(text: str, width: int = _CELL_WIDTH) -> str:
    """Return a text as code in Markdown, also within a table: no markup, link or mention comes out of it."""
    # Some renderers take a backslash before an escaped pipe for the one that escapes, and end the cell there.
    text = re.sub(r"\\*\|", r"\|", cell(text, width))
    if not text:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if "`" in (text[0], text[-1]) else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:+.2f}" if abs(value) < 1e5 else f"{value:+.3g}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
