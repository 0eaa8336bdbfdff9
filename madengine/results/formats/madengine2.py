"""The result files of madengine 2 in the current folder, which CI jobs of others read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from madengine.errors import MadengineError
from madengine.files import parse_json, read_text, write_whole
from madengine.files.locks import alone_with
from madengine.records import Metric, RunResult
from madengine.results.formats import Results
from madengine.results.formats.model_configs import ModelConfigs, matching
from madengine.results.origins import origins_of
from madengine.results.perf_csv import identity
from madengine.results.rows import COLUMNS, Row

#: The columns of madengine 2.
COLUMNS_OF_2 = COLUMNS[:29]
#: Of one of several results, not of all of them.
_OWN = ("model", "performance", "metric", "status")
_OUTCOMES = ("status", "test_duration")

Element = dict[str, Any]


class Explanation(NamedTuple):
    """What a row was made of, and its part of the configurations."""

    result: RunResult
    metric: Metric
    configs: Any

    @property
    def is_several(self) -> bool:
        return bool(self.result.model.multiple_results)


def update(results: Results, configs: ModelConfigs, folder: Path, with_entries: bool = True) -> None:
    """Add the new rows to perf_super.*; write perf_entry.*, perf_entry_super.* and common_info.json of them.

    Raises MadengineError where a file can't be written, or perf_super.json is none of madengine's; every file is then
    what it was, or what it should be.
    """
    if not results.new_rows:
        return
    origins = _explanations(results, configs)
    pairs = [(row, origins.get(identity(row))) for row in results.new_rows]
    elements = [_element(row, origin) for row, origin in pairs]
    if with_entries:
        _write_json(folder / "perf_entry_super.json", elements)
        _write_csv(folder / "perf_entry_super.csv", elements)
        _write_entry(folder, pairs)
    _append(folder, elements)


def _append(folder: Path, elements: Sequence[Element]) -> None:
    path = folder / "perf_super.json"
    with alone_with(path):
        everything = [*_elements_in(path), *elements]
        _write_json(path, everything)
        _write_csv(folder / "perf_super.csv", everything)


def _elements_in(path: Path) -> list[Element]:
    if not path.exists():
        return []
    try:
        value = parse_json(read_text(path, MadengineError))
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise MadengineError(f"{path}: not a perf_super.json of madengine, expected an array of objects; move it away")
    return value


def _write_entry(folder: Path, pairs: Sequence[tuple[Row, Explanation | None]]) -> None:
    """Write the newest result: an object, or of several results an array and what they have in common."""
    row, origin = pairs[-1]
    if origin is None or not origin.is_several:
        entry = {**_cells(row), "configs": origin.configs if origin else None}
        _write_json(folder / "perf_entry.json", entry)
        _write_csv(folder / "perf_entry.csv", [entry])
        return
    of_result = [_cells(other) for other, of in pairs if of and of.result is origin.result]
    _write_json(folder / "perf_entry.json", of_result)
    _write_csv(folder / "perf_entry.csv", of_result)
    common = {name: cell for name, cell in _cells(row).items() if name not in _OWN}
    _write_json(folder / "common_info.json", common)


def _explanations(results: Results, configs: ModelConfigs) -> dict[tuple[str, ...], Explanation]:
    """Return, by the identity of each row that results.json files explain, what it was made of."""
    run_ids = {row.get("run_id") for row in results.new_rows}
    runs = [(run, bool(run.get("is_local"))) for run in results.runs if run["run_id"] in run_ids]
    of_models: dict[tuple[str, str, bool], Any] = {}
    explanations = {}
    for key, origin in origins_of(runs):
        model = origin.result.model
        if (model.name, model.args, origin.place) not in of_models:
            of_models[model.name, model.args, origin.place] = configs.of(model, origin.place)
        content = of_models[model.name, model.args, origin.place]
        config = matching(content, origin.metric) if model.multiple_results else content
        explanations[key] = Explanation(origin.result, origin.metric, config)
    return explanations


def _element(row: Row, origin: Explanation | None) -> Element:
    several = None
    if origin and origin.is_several:
        several = {name: cell for name, cell in origin.metric.extra.items() if cell and name not in _OUTCOMES}
    return {**_cells(row), "configs": origin.configs if origin else None, "multi_results": several}


def _cells(row: Row) -> Element:
    return {name: row.get(name, "") for name in COLUMNS_OF_2}


# --- files ---


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, allow_nan=False)
    write_whole(path, f"{text}\n")


def _write_csv(path: Path, elements: Sequence[Element]) -> None:
    columns = list(dict.fromkeys(name for element in elements for name in element))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_text_of(element.get(name)) for name in columns] for element in elements)
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace").decode())


def _text_of(value: Any) -> str:
    """Return a value as a cell: empty for null, lists of words with commas, other values as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping | list):
        return json.dumps(value)
    return str(value)
