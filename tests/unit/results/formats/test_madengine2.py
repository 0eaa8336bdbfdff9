"""The files of madengine 2, as its readers take them."""

from __future__ import annotations

import csv
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madengine.errors import MadengineError
from madengine.records import Metric, RunResult
from madengine.results.formats import Results
from madengine.results.formats.madengine2 import COLUMNS_OF_2, update
from madengine.results.formats.model_configs import ModelConfigs, config_name, matching, read_config
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from tests.unit.results.formats.hostile import NOT_STARTED, hostile_rows
from tests.unit.results.samples import DONE, MODEL, V2_HEADER

SEVERAL = replace(
    DONE,
    model=replace(MODEL, multiple_results="perf.csv", args="--config configs/all.csv"),
    metrics=(
        Metric("1.5", "ms", "llama/8b", {"batch": "8", "benchmark": "latency", "empty": ""}),
        Metric("2.5", "ms", "bert", {"batch": "16", "benchmark": "latency"}),
    ),
)


def results_of(*results: RunResult, is_local: bool = True) -> Results:
    rows = [row for result in results for row in result_rows(result, {})]
    return Results(rows, rows, [{**results_json("r1", results, {}), "is_local": is_local}])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_single_result_is_an_object_with_its_configs(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("batch: 8\nday: 2026-01-02\n")
    result = replace(DONE, model=replace(MODEL, args="--config c.yaml"))
    update(results_of(result), ModelConfigs(tmp_path), tmp_path)
    entry = read(tmp_path / "perf_entry.json")
    assert list(entry) == [*V2_HEADER.strip().split(","), "configs"]
    assert (entry["model"], entry["performance"], entry["tags"]) == ("dummy", "007", "a,b")
    assert entry["configs"] == {"batch": 8, "day": "2026-01-02"}
    [row] = table(tmp_path / "perf_entry.csv")
    assert (row["performance"], json.loads(row["configs"])) == ("007", entry["configs"])
    [element] = read(tmp_path / "perf_super.json")
    assert element == {**entry, "multi_results": None}
    assert not (tmp_path / "common_info.json").exists()
    text = (tmp_path / "perf_super.json").read_text()
    assert text.startswith('[\n  {\n    "model": "dummy",')


def test_several_results_are_an_array_each_with_its_own_config(tmp_path: Path) -> None:
    (tmp_path / "scripts/dummy/configs").mkdir(parents=True)
    (tmp_path / "scripts/dummy/configs/all.csv").write_text(
        "model,benchmark,tp\nother,latency,1\nLLAMA-8B,throughput,2\nllama_8b,latency,4\n,,\nbert,,8\n"
    )
    update(results_of(SEVERAL), ModelConfigs(tmp_path), tmp_path)
    elements = read(tmp_path / "perf_entry_super.json")
    assert [element["model"] for element in elements] == ["dummy_llama/8b", "dummy_bert"]
    assert [element["multi_results"] for element in elements] == [
        {"batch": "8", "benchmark": "latency"}, {"batch": "16", "benchmark": "latency"},
    ]  # fmt: skip
    assert [element["configs"]["tp"] for element in elements] == [4, 8]
    assert [entry["performance"] for entry in read(tmp_path / "perf_entry.json")] == ["1.5", "2.5"]
    common = read(tmp_path / "common_info.json")
    assert set(common) == {*COLUMNS_OF_2} - {"model", "performance", "metric", "status"}
    rows = table(tmp_path / "perf_super.csv")
    assert json.loads(rows[0]["multi_results"]) == elements[0]["multi_results"]


def test_everything_is_appended_and_the_entry_is_of_the_last(tmp_path: Path) -> None:
    configs = ModelConfigs(tmp_path)
    update(results_of(SEVERAL), configs, tmp_path)
    update(results_of(DONE, NOT_STARTED), configs, tmp_path)
    assert [one["status"] for one in read(tmp_path / "perf_super.json")] == ["SUCCESS"] * 3 + ["FAILURE"]
    assert len(table(tmp_path / "perf_super.csv")) == 4
    assert len(read(tmp_path / "perf_entry_super.json")) == 2
    assert read(tmp_path / "perf_entry.json")["machine_name"] == "n2"
    update(Results(), configs, tmp_path)
    assert len(read(tmp_path / "perf_super.json")) == 4
    update(results_of(DONE), configs, tmp_path, with_entries=False)
    assert read(tmp_path / "perf_entry.json")["machine_name"] == "n2"


def test_a_row_without_results_json_has_its_columns(tmp_path: Path) -> None:
    update(Results(new_rows=hostile_rows()), ModelConfigs(tmp_path), tmp_path)
    elements = read(tmp_path / "perf_super.json")
    assert len(elements) == len(table(tmp_path / "perf_super.csv")) == len(hostile_rows())
    assert {element["configs"] for element in elements} == {None}


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=update, args=(results_of(DONE), ModelConfigs(tmp_path), tmp_path, False))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path / "perf_super.json")) == len(table(tmp_path / "perf_super.csv")) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["perf_super.csv", "perf_super.json"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", "[{", "[NaN]"])
def test_a_file_of_others_stays_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "perf_super.json").write_text(content)
    with pytest.raises(MadengineError, match="perf_super"):
        update(results_of(DONE), ModelConfigs(tmp_path), tmp_path)
    assert (tmp_path / "perf_super.json").read_text() == content


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ("--x 1 --config a.csv --config b.csv", "a.csv"),
        ("--config='a b.json'", "a b.json"),
        ("--config 'open", "'open"),
        ("--config", ""),
        ("--configs a", ""),
    ],
)
def test_the_first_config_of_the_arguments_counts(args: str, name: str) -> None:
    assert config_name(args) == name


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("scripts/dummy/c.json", "c.json"),
        ("scripts/c.json", "c.json"),
        ("c.json", "c.json"),
        ("scripts/MAD-private/x/c.json", "x/c.json"),
    ],
)
def test_a_config_is_where_madengine_2_looks_for_it(tmp_path: Path, place: str, name: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("[1]")
    assert ModelConfigs(tmp_path).of(replace(MODEL, args=f"--config {name}"), is_local=False) == [1]


def test_another_machines_model_names_no_file_of_this_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "secret.json").write_text('"token"')
    (tmp_path / "package").mkdir()
    configs = ModelConfigs(tmp_path / "package")
    for name in (str(tmp_path / "secret.json"), "../secret.json"):
        model = replace(MODEL, args=f"--config {name}")
        assert configs.of(model, is_local=False) is None
        assert configs.of(model, is_local=True) == "token"
    assert "ignored: outside of" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", "{"), ("a.yaml", "a: [b"), ("a.yml", "a: &a [*a]"), ("b.yaml", "? [1]\n: 2")]
)
def test_a_broken_config_is_null_with_a_warning(
    tmp_path: Path, name: str, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text(content)
    assert ModelConfigs(tmp_path).of(replace(MODEL, args=f"--config {name}"), is_local=True) is None
    assert ModelConfigs(tmp_path).of(replace(MODEL, args="--config none.json"), is_local=True) is None
    assert "dummy: configs: " in caplog.text
    (tmp_path / "c.toml").write_text("a = 1")
    assert read_config(tmp_path / "c.toml") is None


def test_without_a_match_the_first_row_counts_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"model": "a"}, {"model": "b"}]
    assert matching(rows, Metric("1", "ms", "c")) == {"model": "a"}
    assert "no row for c, the first is used" in caplog.text
    assert matching([{"model": "x"}], Metric("1", "ms", "c")) == {"model": "x"}
