from __future__ import annotations

from typing import Any

import pytest

from madengine.config.aggregate import check_aggregate
from madengine.errors import ConfigurationError
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, GpuCost, Image, Metric, Model, RunResult
from madengine.results.aggregation import aggregated, rule_of_name
from madengine.results.joint import joint_result
from madengine.results.results_json import result_json, result_of
from madengine.results.rows import result_rows
from tests.conftest import collect_messages

IMAGE = Image("ci-m", "ci-m")


def numbers(metric: str, *values: str, aggregate: Any = None) -> tuple[str, str]:
    """The number of a metric that each node printed, and how it came about; "" is a node that printed none."""
    of_nodes = [[Metric(value, metric)] if value else [] for value in values]
    [result] = aggregated(of_nodes, aggregate).metrics
    return result.performance, result.aggregation


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("tokens_per_second", ("10.5", "", ""), ("10.5", "rank 0")),
        ("tokens_per_second", ("", "7", ""), ("7", "rank 1")),
        ("tokens_per_second", ("10.5", "11.5"), ("22", "sum")),
        ("tokens_per_second", ("0.1", "0.2"), ("0.3", "sum")),
        ("samples/sec", ("1e2", "1"), ("101", "sum")),
        ("steps/s", ("1", "2"), ("3", "sum")),
        ("GB/s", ("1", "2"), ("3", "sum")),
        ("busbandwidth_gb", ("100", "200"), ("300", "sum")),
        ("latency_ms", ("1", "2"), ("1.5", "mean")),
        ("time_per_step", ("1", "2", "2"), ("1.66666666666667", "mean")),
        ("Final Loss", ("0.5", "0.25"), ("0.375", "mean")),
        ("peak_vram_mb", ("5", "70", "6"), ("70", "max")),
        ("tokens_per_second", ("200", "200.0"), ("200", "equal")),
        ("latency_ms", ("200", "", "200"), ("200", "equal")),
        ("odd", ("1", "2"), ("3", "sum")),
        ("tokens_per_second", ("x", "2"), ("2", "rank 1")),
        ("tokens_per_second", ("x", "y"), ("x", "")),
    ],
)
def test_one_number_comes_out_of_those_of_several_nodes(
    metric: str, values: tuple[str, ...], expected: tuple[str, str]
) -> None:
    assert numbers(metric, *values) == expected


def test_the_entry_says_how_else() -> None:
    assert numbers("tokens_per_second", "1", "2", aggregate="max") == ("2", "max")
    assert numbers("tokens_per_second", "1", "2", aggregate={"tokens_per_second": "min"}) == ("1", "min")
    assert numbers("tokens_per_second", "1", "2", aggregate={"other": "min"}) == ("3", "sum")
    # Who says `sum` has numbers that are each node's own, whether they differ or not.
    assert numbers("tokens_per_second", "2", "2", aggregate="sum") == ("4", "sum")
    assert aggregated([[Metric("1", "odd")], [Metric("2", "odd")]], "mean").unknown == ()


def test_the_rule_is_that_of_the_name_or_none() -> None:
    rules = [rule_of_name(name) for name in ("QPS", "requests_per_second", "F1", "ttft_ms", "memory_bytes", "epochs")]
    assert rules == ["sum", "sum", "mean", "mean", "max", ""]


def test_each_of_several_results_is_joined_with_its_own() -> None:
    first = [Metric("1", "qps", "a", {"note": "x"}), Metric("5", "latency", "b")]
    second = [Metric("7", "latency", "b"), Metric("2", "qps", "a", {"note": "y"}), Metric("9", "qps", "c")]
    joined = aggregated([first, second]).metrics
    assert [(each.model, each.performance, each.aggregation) for each in joined] == [
        ("a", "3", "sum"),
        ("b", "6", "mean"),
        ("c", "9", "rank 1"),
    ]
    assert joined[0].extra == {"note": "x"}


@pytest.mark.parametrize("value", ["average", 1, {"qps": "median"}, ["sum"]])
def test_an_unknown_rule_is_named(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^entry: expected one of sum, mean, max, min, or an object"):
        check_aggregate(value, "entry")


# --- results ---


def part(rank: int, *metrics: Metric, **more: Any) -> RunResult:
    defaults: dict[str, Any] = {
        "status": SUCCESS,
        "exit_code": 0,
        "machine_name": f"n{rank}",
        "n_gpus": "2",
        "test_duration": 10.0 + rank,
        "gpus": (Gpu("AMD", rank), Gpu("AMD", rank + 1)),
        "launcher": "torchrun",
    }
    model = Model("m", "docker/m", "scripts/m")
    return RunResult("r1", model, IMAGE, **{**defaults, "metrics": metrics, "rank": rank, "nnodes": 2, **more})


def test_the_nodes_of_a_run_have_one_row() -> None:
    parts = [part(0, Metric("3", "qps")), part(1, reason="no line")]
    [row] = result_rows(joint_result(parts, "", 2), {})
    expected = {
        "machine_name": "n0,n1",
        "status": SUCCESS,
        "reason": "",
        "performance": "3",
        "aggregation": "rank 0",
        "nnodes": "2",
        "n_gpus": "4",
        "gpus_per_node": "2",
        "gpus": "0,1;1,2",
        "test_duration": "11.0",
        "launcher": "torchrun",
    }
    assert expected.items() <= row.items()
    assert result_rows(parts[1], {}) == []


def test_nodes_that_differ_are_counted_as_they_are() -> None:
    [row] = result_rows(joint_result([part(0, Metric("3", "qps")), part(1, n_gpus="6")], "", 2), {})
    assert (row["n_gpus"], row["gpus_per_node"]) == ("8", "2,6")


def test_a_failure_has_the_reason_and_no_number() -> None:
    parts = [part(0, Metric("3", "qps")), part(1, status=FAILURE, reason="exit code 7", exit_code=7)]
    [row] = result_rows(joint_result(parts, "rank 1 (n1): exit code 7", 2, 1), {})
    cells = [row[name] for name in ("status", "reason", "exit_code", "performance", "aggregation")]
    assert cells == [FAILURE, "rank 1 (n1): exit code 7", "7", "", ""]


def test_a_run_in_which_no_node_measures_is_a_failure() -> None:
    result = joint_result([part(0, reason="no line in the log"), part(1, reason="none")], "", 2)
    assert (result.status, result.reason) == (FAILURE, "no line in the log")


def test_what_all_nodes_skip_is_skipped() -> None:
    parts = [part(rank, status=SKIPPED, reason="--skip-model-run") for rank in (0, 1)]
    result = joint_result(parts, "rank 0 (n0): --skip-model-run", 2)
    assert (result.status, result.reason) == (SKIPPED, "--skip-model-run")


def test_the_gpus_of_all_nodes_cost_together() -> None:
    costs = [
        GpuCost(energy_j=1.0, mean_gpu_utilization=50.0, peak_temperature_c=60.0, peak_power_w=None),
        GpuCost(energy_j=2.0, mean_gpu_utilization=70.0, peak_temperature_c=50.0, peak_power_w=9.0),
    ]
    cost = joint_result([part(rank, Metric("3", "qps"), cost=costs[rank]) for rank in (0, 1)], "", 2).cost
    assert cost is not None
    assert (cost.energy_j, cost.mean_gpu_utilization, cost.peak_temperature_c, cost.peak_power_w) == (3, 60, 60, None)


def test_a_metric_of_no_known_rule_is_added_up_with_a_warning() -> None:
    messages = collect_messages()
    joint_result([part(0, Metric("3", "odd")), part(1, Metric("4", "odd"))], "", 2)
    assert messages == ["m: odd is printed by several nodes and added up; `aggregate` of the model entry says how else"]


def test_each_nodes_own_result_is_in_the_document_and_is_read_back() -> None:
    result = joint_result([part(0, Metric("3", "qps")), part(1, Metric("4", "qps"))], "", 2)
    document = result_json(result)
    assert [entry["metrics"][0]["performance"] for entry in document["parts"]] == ["3", "4"]
    assert result_rows(result_of(document), {}) == result_rows(result, {})
