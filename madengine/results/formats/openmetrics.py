"""OpenMetrics text, as Prometheus's text file collector and scrapers read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from madengine.records import FAILURE, SKIPPED, SUCCESS
from madengine.results.formats import Results
from madengine.results.numbers import is_number
from madengine.results.rows import Row

_LABEL_CHARACTERS = 250
#: The labels of every sample, each with the column that it is of.
_LABELS = {
    "model": "model", "variant": "variant", "host": "machine_name", "gpu": "gpu_architecture", "n_gpus": "n_gpus",
    "digest": "image_digest",
}  # fmt: skip


class Family(NamedTuple):
    """One metric of the text."""

    name: str
    help: str
    #: a row's value, None if it has none
    value: Callable[[Row], float | None]
    unit: str = ""
    #: whether each metric of a model has a value of its own
    by_metric: bool = False


def text(report: Results) -> str:
    """Return the newest value of each model, metric and host, and what its run cost."""
    return render(report.rows, _LABELS)


def render(rows: Iterable[Row], labels: Mapping[str, str]) -> str:
    """Return the rows as OpenMetrics text; of rows with the same labels the newest counts."""
    ordered = sorted(rows, key=lambda row: row.get("started", ""))
    return "\n".join([*(line for family in _FAMILIES for line in _lines(family, ordered, labels)), "# EOF", ""])


def _lines(family: Family, rows: Iterable[Row], labels: Mapping[str, str]) -> Iterator[str]:
    columns = {**labels, "metric": "metric"} if family.by_metric else labels
    samples: dict[str, float] = {}
    for row in rows:
        value = family.value(row)
        if value is not None:
            samples[_labels({label: row.get(column, "") for label, column in columns.items()})] = value
    if samples:
        yield f"# TYPE {family.name} gauge"
        if family.unit:
            yield f"# UNIT {family.name} {family.unit}"
        yield f"# HELP {family.name} {family.help}"
        yield from (f"{family.name}{{{names}}} {value!r}" for names, value in samples.items())


def _labels(values: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items() if value)


def _escaped(value: str) -> str:
    value = value if len(value) <= _LABEL_CHARACTERS else f"{value[: _LABEL_CHARACTERS - 1]}…"
    # Lines end at more characters than \n for some readers.
    value = re.sub(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", value)
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(column: str, factor: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        cell = row.get(column, "")
        return float(cell) * factor if is_number(cell) else None

    return value


def _performance(row: Row) -> float | None:
    return _number("performance")(row) if row.get("status") == SUCCESS else None


def _success(row: Row) -> float | None:
    return {SUCCESS: 1.0, FAILURE: 0.0, SKIPPED: None}.get(row.get("status", ""))


_FAMILIES = (
    Family("madengine_performance", "What a model measured; its unit is part of the metric.", _performance, "", True),
    Family("madengine_run_success", "1 if the model's newest run was a success, 0 if it failed.", _success),
    Family("madengine_run_duration_seconds", "Time of the container.", _number("run_duration"), "seconds"),
    Family("madengine_test_duration_seconds", "Time of the model's script.", _number("test_duration"), "seconds"),
    Family(
        "madengine_peak_gpu_memory_bytes", "Peak of the memory of the run's GPUs together.",
        _number("peak_gpu_memory_mib", 2.0**20), "bytes",
    ),
    Family("madengine_energy_joules", "Energy of the run's GPUs.", _number("energy_j"), "joules"),
    Family(
        "madengine_gpu_utilization_ratio", "Mean utilization of the run's GPUs.",
        _number("mean_gpu_utilization", 0.01), "ratio",
    ),
)  # fmt: skip
