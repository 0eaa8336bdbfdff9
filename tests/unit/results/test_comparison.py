"""`madengine compare`, whole commands: what is read, which rows are one series, what is printed, and the exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from madengine.files import write_json
from madengine.records import FAILURE, SKIPPED, SUCCESS, GpuCost, Image, Metric, Model, RunResult
from madengine.results.comparison_table import cell, code
from madengine.results.pairs import pairs_of
from madengine.results.perf_csv import append_rows
from madengine.results.results_json import results_json
from madengine.results.rows import COLUMNS, result_rows

MODEL = Model(name="bert", dockerfile="docker/bert", scripts="scripts/bert", n_gpus="8", args="--batch 8")
IMAGE = Image(key="ci-bert_ubuntu_amd", docker_image="ci-bert_ubuntu_amd", base_docker="rocm/pytorch:1")
RUN = RunResult(
    run_id="r",
    model=MODEL,
    image=IMAGE,
    status=SUCCESS,
    machine_name="node-1",
    gpu_architecture="gfx942",
    image_digest=f"sha256:{'a' * 64}",
    environment_id="e1",
    foreign_processes=0,
    cost=GpuCost(throttled_percent=0.0),
)
BASE = ("100", "101", "102", "103", "104")
SLOWER = ("90", "91", "92", "93", "94")
OTHER_DIGEST = f"sha256:{'b' * 64}"


def runs(values: Iterable[str], name: str = "b", metric: str = "tokens/s", **changes: Any) -> list[RunResult]:
    """A run for each value, in the order of their start."""
    return [
        replace(
            replace(RUN, **changes),
            run_id=f"{name}{number}",
            metrics=(Metric(value, metric),),
            started=f"2026-01-01T{number:02}:00:00Z",
        )
        for number, value in enumerate(values)
    ]


def table(path: str, *results: RunResult, **cells: str) -> str:
    """Append the rows of these results to a perf.csv, with other cells where they are named."""
    append_rows(Path(path), [{**row, **cells} for result in results for row in result_rows(result, {})])
    return path


def text_table(path: str, rows: Iterable[Mapping[str, str]]) -> str:
    append_rows(Path(path), rows)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def compare(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs `madengine compare` with these words: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            exit_code = main(["compare", *words])
        except SystemExit as ended:
            exit_code = int(ended.code or 0)
        output = capfd.readouterr()
        return exit_code, output.out, output.err

    return run


def verdicts(compare: Any, *words: str) -> list[str]:
    """The verdicts of `compare … --json`, in the order of the series."""
    _, output, _ = compare(*words, "--json")
    return [one["verdict"] for one in json.loads(output)["series"]]


# --- what is printed ---


@pytest.fixture
def mixed() -> tuple[str, str]:
    """A base and a new table with each verdict, other digests and hosts, a disturbed run and a failed one."""
    table("base.csv", *runs(BASE), *runs(("10.0", "10.1", "10.2", "10.1", "10.0"), metric="latency_ms"))
    table(
        "base.csv", *runs(BASE, model=replace(MODEL, name="gpt")), *runs(("5", "6"), model=replace(MODEL, name="old"))
    )
    new = {"image_digest": OTHER_DIGEST, "machine_name": "node-2"}
    table(
        "new.csv", *runs(SLOWER, "n", **new), *runs(("10.0", "10.1", "10.2", "10.1", "10.1"), "n", "latency_ms", **new)
    )
    table("new.csv", *runs(("90", "100", "110", "120", "95"), "n", model=replace(MODEL, name="gpt"), **new))
    table("new.csv", replace(runs(("5",), "n", model=replace(MODEL, name="old"), **new)[0], foreign_processes=2))
    table("new.csv", replace(RUN, model=replace(MODEL, name="old"), status=FAILURE, reason="exit code 3"))
    return "base.csv", "new.csv"


TABLE = """\
series    metric      better        n    base    new    change %    95 % interval       p  verdict
--------  ----------  --------  -----  ------  -----  ----------  ---------------  ------  -------------------------------
bert      latency_ms  lower     5 / 5    10.1   10.1       +0.00    -0.99 … +0.99  1.0000  same
bert      tokens/s    higher    5 / 5     102     92       -9.80   -12.75 … -6.86  0.0238  worse
gpt       tokens/s    higher    5 / 5     102    100       -1.96  -11.76 … +17.65  1.0000  unclear: about 428 more of each
old       tokens/s    higher    2 / 1     5.5      5       -9.09                   1.0000  not enough runs: 3 / 4 more

failed in    model      n  reason
-----------  -------  ---  -----------
new          old        1  exit code 3

all series
  image_digest sha256:aaaaaaaaaaaa… -> sha256:bbbbbbbbbbbb…
  machine_name node-1 -> node-2

old tokens/s
  new: foreign processes in 1 of 1 runs: n0

p: exact Mann-Whitney U test, adjusted by Holm over 3 series
change, interval: Hodges-Lehmann shift in percent of the base median, with 95 % confidence
same: the interval is within ±2 %
"""  # noqa: E501

MARKDOWN = """\
| series   | metric       | better   |     n |   base |   new |   change % |   95 % interval |      p | verdict                         |
|:---------|:-------------|:---------|------:|-------:|------:|-----------:|----------------:|-------:|:--------------------------------|
| `bert`   | `latency_ms` | lower    | 5 / 5 |   10.1 |  10.1 |      +0.00 |   -0.99 … +0.99 | 1.0000 | same                            |
| `bert`   | `tokens/s`   | higher   | 5 / 5 |    102 |    92 |      -9.80 |  -12.75 … -6.86 | 0.0238 | worse                           |
| `gpt`    | `tokens/s`   | higher   | 5 / 5 |    102 |   100 |      -1.96 | -11.76 … +17.65 | 1.0000 | unclear: about 428 more of each |
| `old`    | `tokens/s`   | higher   | 2 / 1 |    5.5 |     5 |      -9.09 |                 | 1.0000 | not enough runs: 3 / 4 more     |

| failed in   | model   |   n | reason        |
|:------------|:--------|----:|:--------------|
| new         | `old`   |   1 | `exit code 3` |

all series

- image_digest `sha256:aaaaaaaaaaaa…` -> `sha256:bbbbbbbbbbbb…`
- machine_name `node-1` -> `node-2`

`old` `tokens/s`

- new: foreign processes in 1 of 1 runs: `n0`

p: exact Mann-Whitney U test, adjusted by Holm over 3 series; change, interval: Hodges-Lehmann shift in percent of the base median, with 95 % confidence; same: the interval is within ±2 %
"""  # noqa: E501


def test_the_table(compare: Any, mixed: tuple[str, str]) -> None:
    assert compare(*mixed) == (5, TABLE, "")


def test_the_markdown(compare: Any, mixed: tuple[str, str]) -> None:
    assert compare(*mixed, "--markdown") == (5, MARKDOWN, "")


def test_the_json(compare: Any, mixed: tuple[str, str]) -> None:
    exit_code, output, errors = compare(*mixed, "--json")
    assert (exit_code, errors) == (5, "")
    document = json.loads(output)
    assert {key: value for key, value in document.items() if key != "series"} == {
        "base": "base.csv",
        "new": "new.csv",
        "test": "mann-whitney",
        "min_effect_percent": 2,
        "confidence_percent": 95,
        "holm_tests": 3,
        "failures": [{"side": "new", "model": "old", "reason": "exit code 3", "n": 1}],
    }
    assert document["series"][1] == {
        "model": "bert",
        "variant": "",
        "metric": "tokens/s",
        "args": "--batch 8",
        "training_precision": "",
        "n_gpus": "8",
        "nnodes": "1",
        "gpu_architecture": "gfx942",
        "launcher": "docker",
        "better": "higher",
        "n": [5, 5],
        "runs": [5, 5],
        "median": [102, 92],
        "change_percent": -9.80392,
        "interval_percent": [-12.7451, -6.86275],
        "p": 0.00793651,
        "p_holm": 0.0238095,
        "verdict": "worse",
        "more_runs": None,
        "differences": [
            {"column": "image_digest", "base": [f"sha256:{'a' * 64}"], "new": [OTHER_DIGEST]},
            {"column": "machine_name", "base": ["node-1"], "new": ["node-2"]},
        ],
        "disturbed": {"base": {}, "new": {}},
        "left_out": [0, 0],
    }
    last = document["series"][-1]
    assert (last["n"], last["interval_percent"], last["p_holm"], last["more_runs"]) == (
        [2, 1],
        [None, None],
        None,
        [3, 4],
    )
    assert last["disturbed"] == {"base": {}, "new": {"foreign processes": ["n0"]}}


# --- where the results come from ---


def document(path: str, *results: RunResult, **environment: Any) -> str:
    write_json(Path(path), results_json(results[0].run_id, results, {"environment_id": "e1", **environment}))
    return path


def test_a_file_of_any_name_a_document_a_folder_and_a_run_id_are_the_same_results(compare: Any) -> None:
    table("base.csv", *runs(BASE))
    table("any.name", *runs(SLOWER, "n"))
    table("folder/deep/perf.csv", *runs(SLOWER, "n"))
    document("new.json", *runs(SLOWER, "n"))
    document("runs/r7/results.json", *runs(SLOWER, "n"))
    table("results/r8/node-1/perf.csv", *runs(SLOWER, "n"))
    outputs = [compare("base.csv", name) for name in ("any.name", "folder", "new.json", "r7", "runs/r7", "r8")]
    assert len(set(outputs)) == 1
    assert outputs[0][0] == 5


def test_a_run_that_is_in_a_table_and_in_a_document_counts_once(compare: Any) -> None:
    table("base.csv", *runs(BASE))
    table("new/perf.csv", *runs(SLOWER, "n"))
    document("new/runs/n/results.json", *runs(SLOWER, "n"))
    _, output, _ = compare("base.csv", "new", "--json")
    assert json.loads(output)["series"][0]["n"] == [5, 5]


def test_two_values_of_a_column_of_one_table(compare: Any) -> None:
    table("perf.csv", *runs(BASE), *runs(SLOWER, "n", image_digest=OTHER_DIGEST))
    exit_code, output, _ = compare("perf.csv", "--by", "image_digest")
    assert exit_code == 5
    assert "image_digest" not in output  # it is what is compared
    _, output, _ = compare("perf.csv", "--by", "image_digest", "--json")
    assert [json.loads(output)[side] for side in ("base", "new")] == [RUN.image_digest, OTHER_DIGEST]


def test_a_column_that_would_make_two_series_can_be_compared(compare: Any) -> None:
    table("a.csv", *runs(BASE))
    table("b.csv", *runs(SLOWER, "n", model=replace(MODEL, args="--batch 16")))
    assert verdicts(compare, "a.csv", "b.csv") == ["not enough runs"] * 2
    assert verdicts(compare, "a.csv", "b.csv", "--by", "args") == ["worse"]


@pytest.mark.parametrize("column", ["model", "metric"])
def test_even_models_and_metrics_can_be_compared(compare: Any, column: str) -> None:
    table("a.csv", *runs(BASE))
    table(
        "a.csv", *(runs(SLOWER, "n", model=replace(MODEL, name="x")) if column == "model" else runs(SLOWER, "n", "x"))
    )
    assert compare("a.csv", "--by", column)[0] == 5


def test_of_more_than_two_values_two_are_named_by_how_they_begin(compare: Any) -> None:
    table("perf.csv", *runs(BASE), *runs(SLOWER, "n", image_digest=OTHER_DIGEST))
    table("perf.csv", *runs(BASE, "x", image_digest=f"sha256:{'bc' * 32}"))
    by = ("perf.csv", "--by", "image_digest")
    assert compare(*by)[::2] == (
        4,
        "madengine: error: --by image_digest: expected two values, got sha256:aaaaaaaaaaaa…, sha256:bbbbbbbbbbbb…, "
        "sha256:bcbcbcbcbcbc…; choose two with --values\n",
    )
    assert compare(*by, "--values", "sha256:bb", "sha256:aa")[0] == 0
    assert compare(*by, "--values", "sha256:aa", "sha256:bb")[0] == 5
    assert (
        "got sha256:bbbbbbbbbbbb…, sha256:bcbcbcbcbcbc…; it has" in compare(*by, "--values", "sha256:a", "sha256:b")[2]
    )
    assert "x: expected one value of image_digest, got none; it has" in compare(*by, "--values", "sha256:a", "x")[2]


def test_rows_that_are_on_both_sides_are_reported(compare: Any) -> None:
    table("a.csv", *runs(BASE))
    exit_code, _, errors = compare("a.csv", "a.csv")
    assert (exit_code, errors) == (1, "5 rows are in both a.csv and a.csv: they say nothing about a change\n")


def test_the_table_of_an_older_version_with_blanks_after_its_commas_is_read(compare: Any) -> None:
    names = [name for name in COLUMNS[:29] if name != "launcher"]
    for path, values in (("a.csv", BASE), ("b.csv", SLOWER)):
        cells = {"model": "bert", "metric": "tokens/s", "status": SUCCESS}
        lines = [[{**cells, "performance": value}.get(name, "") for name in names] for value in values]
        Path(path).write_text("\ufeff" + "\n".join(map(", ".join, [names, *lines])), encoding="utf-8")
    assert verdicts(compare, "a.csv", "b.csv") == ["worse"]


# --- which rows are one series ---


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("model", "gpt"),
        ("args", "--batch 16"),
        ("training_precision", "fp16"),
        ("n_gpus", "4"),
        ("nnodes", "2"),
        ("gpu_architecture", "gfx90a"),
        ("launcher", "torchrun"),
        ("metric", "samples/s"),
    ],
)
def test_rows_that_measured_something_else_are_another_series(compare: Any, column: str, value: str) -> None:
    table("a.csv", *runs(BASE))
    table("b.csv", *runs(SLOWER, "n"), **{column: value})
    exit_code, output, errors = compare("a.csv", "b.csv")
    assert (exit_code, errors) == (1, "compare: no series has results on both sides\n")
    assert "5 / 0" in output
    assert "0 / 5" in output
    if column not in ("model", "metric"):
        before = result_rows(runs(BASE)[0], {})[0][column]
        assert f"not in new; {column} {before or 'none'} -> {value}" in output
        assert f"bert {column}={value}" in output


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_digest", "sha256:1"), ("base_docker", "rocm:2"), ("docker_sha", "sha256:2"), ("git_commit", "c"),
        ("environment_id", "e2"), ("machine_name", "node-2"), ("engine", "podman 5"), ("gpus", "1"), ("dataname", "d"),
    ],
)  # fmt: skip
def test_what_else_differs_is_reported_beside_the_verdict(compare: Any, column: str, value: str) -> None:
    table("a.csv", *runs(BASE))
    table("b.csv", *runs(SLOWER, "n"), **{column: value})
    exit_code, output, _ = compare("a.csv", "b.csv")
    assert exit_code == 5
    assert re.search(rf"\n  {column} \S+ -> {value}\n", output)


def test_a_side_with_several_values_names_all_of_them(compare: Any) -> None:
    table("a.csv", *(replace(one, machine_name=f"n{number % 2}") for number, one in enumerate(runs(BASE))))
    table("b.csv", *(replace(one, machine_name=f"m{number}") for number, one in enumerate(runs(SLOWER, "n"))))
    assert "machine_name n0, n1 -> m0, m1, m2, m3, … (5 values)" in compare("a.csv", "b.csv")[1]


def test_a_variant_is_another_series(compare: Any) -> None:
    for path, values in (("a.csv", BASE), ("b.csv", SLOWER)):
        table(path, *runs(values, path), variant="dtype=bf16")
        table(path, *runs(("100",) * 5, f"{path}-"), variant="dtype=fp8")
    _, output, _ = compare("a.csv", "b.csv", "--json")
    assert [(one["variant"], one["verdict"]) for one in json.loads(output)["series"]] == [
        ("dtype=bf16", "worse"),
        ("dtype=fp8", "same"),
    ]
    assert "\nbert dtype=bf16  tokens/s" in compare("a.csv", "b.csv")[1]


def test_what_results_json_knows_of_the_machines_is_compared_too(compare: Any) -> None:
    def machine(driver: str) -> dict[str, Any]:
        return {"cpu": "x", "engine": "docker 29", "gpus": [{"name": "H100", "driver": driver}] * 2}

    document("a.json", *runs(BASE), **machine("550.54"))
    document("b.json", *runs(SLOWER, "n", environment_id="e2"), **{**machine("560.1"), "environment_id": "e2"})
    output = compare("a.json", "b.json")[1]
    assert "\n  environment_id e1 -> e2\n  gpus.driver 550.54 -> 560.1\n" in output
    slower = enumerate(runs(SLOWER, "n", environment_id="e2"))
    hosts = [replace(result, machine_name=f"h{number % 3}") for number, result in slower]
    document("d.json", *hosts, **{**machine("560.1"), "environment_id": "e2"})
    assert "\n  gpus.driver 550.54 -> 560.1 on 3 hosts\n" in compare("a.json", "d.json")[1]
    listed = {"environment_id_fields": ["cpu", "gpus.clock_mhz"]}
    document("c.json", *runs(SLOWER, "n", environment_id="e4"), **listed, environment_id="e4", cpu="y", os="b")
    output = compare("a.json", "c.json")[1]
    assert "\n  cpu x -> y\n" in output
    assert "os " not in output
    table("b.csv", *runs(SLOWER, "n", environment_id="e3"))
    assert "driver" not in compare("a.json", "b.csv")[1]


# --- what counts ---


def test_only_successes_with_a_number_count_and_failures_are_named(compare: Any) -> None:
    table("a.csv", *runs(BASE), replace(RUN, status=SKIPPED, reason="not for this node"))
    table("b.csv", *runs(SLOWER, "n"))
    for text in ("nan", "inf", "1e999", "12 s", ""):
        table("b.csv", *runs(BASE[:1], "n"), performance=text)
    table(
        "b.csv", replace(RUN, status=FAILURE, reason="exit code 3"), replace(RUN, status=FAILURE, reason="exit code 3")
    )
    _, output, _ = compare("a.csv", "b.csv", "--json")
    report = json.loads(output)
    assert report["series"][0]["n"] == [5, 5]
    assert [(one["side"], one["reason"], one["n"]) for one in report["failures"]] == [
        ("new", "exit code 3", 2),
        *(("new", f"performance is not a number: {text}", 1) for text in ("12 s", "1e999", "empty", "inf", "nan")),
    ]


DISTURBED = [
    ("foreign processes", {"foreign_processes": "1"}),
    ("foreign processes", {"contaminated": "true"}),
    ("throttled", {"throttled_percent": "0.5"}),
    ("packed", {"packed": "true"}),
]


@pytest.mark.parametrize(("reason", "cells"), DISTURBED)
def test_disturbed_runs_are_named_and_can_be_left_out(compare: Any, reason: str, cells: dict[str, str]) -> None:
    table("a.csv", *runs(BASE))
    table("b.csv", *runs(BASE, "n"))
    table("b.csv", *runs(("1", "2", "3"), "x"), **cells)
    _, output, _ = compare("a.csv", "b.csv")
    assert f"  new: {reason} in 3 of 8 runs: x0, x1, x2\n" in output
    _, output, _ = compare("a.csv", "b.csv", "--clean-only")
    assert "5 / 5" in output
    assert "left out: 0 / 3 runs disturbed" in output
    _, output, _ = compare("a.csv", "b.csv", "--clean-only", "--json")
    assert json.loads(output)["series"][0]["left_out"] == [0, 3]


def test_several_results_of_one_run_are_reported_because_they_are_no_repeats(compare: Any) -> None:
    for path in ("a.csv", "b.csv"):
        table(path, *(replace(one, run_id=f"{path}{number // 3}", started="") for number, one in enumerate(runs(BASE))))
    output = compare("a.csv", "b.csv")[1]
    assert "  base: 5 rows of 2 runs: several results of one run are not repeats\n" in output
    assert json.loads(compare("a.csv", "b.csv", "--json")[1])["series"][0]["runs"] == [2, 2]


# --- which direction is better ---


@pytest.mark.parametrize(
    ("metric", "verdict"),
    [
        ("latency_ms", "better"),
        ("eval_ppl", "better"),
        ("word_error_rate", "better"),
        ("tokens/s", "worse"),
        ("", "worse"),
    ],
)
def test_the_name_of_the_metric_says_which_direction_is_better(compare: Any, metric: str, verdict: str) -> None:
    table("a.csv", *runs(BASE, metric=metric))
    table("b.csv", *runs(SLOWER, "n", metric=metric))
    assert verdicts(compare, "a.csv", "b.csv") == [verdict]


def test_the_command_line_overrides_it(compare: Any) -> None:
    table("a.csv", *runs(BASE, metric="latency_ms"), *runs(BASE))
    table("b.csv", *runs(SLOWER, "n", metric="latency_ms"), *runs(SLOWER, "n"))
    words = ("a.csv", "b.csv", "--higher-is-better", "latency_ms", "--lower-is-better", "tokens/s", "typo")
    assert verdicts(compare, *words) == ["worse", "better"]
    assert compare(*words)[2] == "typo: ignored: no series has this metric\n"


def test_the_model_entry_overrides_the_name_of_the_metric_and_not_the_command_line(compare: Any) -> None:
    model = replace(MODEL, extra={"better": "lower"})
    results = [
        [
            replace(one, metrics=(*one.metrics, Metric(value, "img/s", "small")))
            for one, value in zip(made, values, strict=True)
        ]
        for values, name in ((BASE, "b"), (SLOWER, "n"))
        for made in [runs(values, name, model=model)]
    ]
    document("a.json", *results[0])
    document("b.json", *results[1])
    assert verdicts(compare, "a.json", "b.json") == ["better", "better"]
    assert verdicts(compare, "a.json", "b.json", "--higher-is-better", "tokens/s") == ["worse", "better"]


def test_a_model_entry_that_says_neither_is_ignored_and_two_that_differ_are_refused(compare: Any) -> None:
    document("a.json", *runs(BASE, model=replace(MODEL, extra={"better": "faster"})))
    document("b.json", *runs(SLOWER, "n", model=replace(MODEL, extra={"better": ["x"]})))
    exit_code, _, errors = compare("a.json", "b.json")
    assert exit_code == 5
    assert errors.splitlines() == [
        "bert: ignored: better: expected 'lower' or 'higher', got 'faster'",
        "bert: ignored: better: expected 'lower' or 'higher', got ['x']",
    ]
    document("c.json", *runs(BASE, model=replace(MODEL, extra={"better": "lower"})))
    document("d.json", *runs(SLOWER, "n", model=replace(MODEL, extra={"better": "higher"})))
    exit_code, _, errors = compare("c.json", "d.json")
    assert exit_code == 4
    assert "name tokens/s with --lower-is-better or --higher-is-better" in errors
    assert compare("c.json", "d.json", "--lower-is-better", "tokens/s")[0] == 0


# --- pairs ---

DRIFT = ("100", "104", "109", "113", "118", "122")
DRIFT_SLOWER = ("97", "101", "106", "110", "114", "118")


def test_pairs_show_what_drift_hides(compare: Any) -> None:
    table("a.csv", *runs(DRIFT))
    table("b.csv", *runs(DRIFT_SLOWER, "n"))
    assert verdicts(compare, "a.csv", "b.csv") == ["unclear"]
    exit_code, output, _ = compare("a.csv", "b.csv", "--paired")
    assert exit_code == 5
    assert "p: exact Wilcoxon signed-rank test of pairs\n" in output


def test_runs_without_a_partner_are_left_out_and_counted(compare: Any) -> None:
    table("a.csv", *runs(DRIFT))
    table("b.csv", *runs((*DRIFT_SLOWER, "1", "2"), "n"))
    _, output, _ = compare("a.csv", "b.csv", "--paired")
    assert "6 / 6" in output
    assert "left out: 0 / 2 runs without a partner" in output


@pytest.mark.parametrize("column", ["pair", "repeat"])
def test_rows_of_one_repeat_are_a_pair_in_whatever_order_they_ran(column: str) -> None:
    base = [{column: str(number), "performance": f"b{number}"} for number in (1, 2, 3)]
    new = [{column: str(number), "performance": f"n{number}"} for number in (3, 1, 4)]
    assert [(one["performance"], other["performance"]) for one, other in pairs_of(base, new)] == [
        ("b1", "n1"),
        ("b3", "n3"),
    ]


def test_repeats_count_per_host_where_both_sides_have_the_same_hosts() -> None:
    def side(name: str, hosts: Sequence[str]) -> list[dict[str, str]]:
        return [
            {"repeat": repeat, "machine_name": host, "performance": f"{name}{repeat}{host}"}
            for host in hosts
            for repeat in ("1", "2")
        ]

    pairs = pairs_of(side("b", ("x", "y")), side("n", ("y", "x")))
    assert {(one["performance"], other["performance"]) for one, other in pairs} == {
        (f"b{repeat}{host}", f"n{repeat}{host}") for repeat in "12" for host in "xy"
    }
    assert len(pairs_of(side("b", ("x",)), side("n", ("z",)))) == 2


def test_without_such_a_column_the_order_makes_the_pairs() -> None:
    base, new = [{"performance": text} for text in "abc"], [{"performance": text} for text in "xy"]
    assert [(one["performance"], other["performance"]) for one, other in pairs_of(base, new)] == [
        ("a", "x"),
        ("b", "y"),
    ]


# --- the exit code ---


@pytest.mark.parametrize(
    ("new", "codes"),
    [
        (SLOWER, (5, 5, 0)),
        (("90", "100", "110", "120", "95"), (0, 5, 0)),
        (("102", "102", "102", "102", "102"), (0, 0, 0)),
        (("110", "111", "112", "113", "114"), (0, 0, 0)),
        (("1", "2"), (5, 5, 0)),
        (("1",), (0, 5, 0)),
    ],
)
def test_the_exit_code_is_5_where_something_got_worse_or_is_open(
    compare: Any, new: Sequence[str], codes: tuple[int, int, int]
) -> None:
    table("a.csv", *runs((*BASE, *BASE)))
    table("b.csv", *runs(new, "n"))
    assert tuple(compare("a.csv", "b.csv", "--fail-on", name)[0] for name in ("worse", "unclear", "never")) == codes


def test_a_series_that_is_only_new_is_not_open_and_one_that_is_gone_is(compare: Any) -> None:
    table("a.csv", *runs(("100",) * 5))
    table("b.csv", *runs(("100",) * 5, "n"), *runs(("100",), "n", model=replace(MODEL, name="added")))
    assert compare("a.csv", "b.csv", "--fail-on", "unclear")[0] == 0
    assert compare("b.csv", "a.csv", "--fail-on", "unclear")[0] == 5


def test_the_smallest_effect_that_counts_can_be_chosen(compare: Any) -> None:
    table("a.csv", *runs(BASE))
    table("b.csv", *runs(SLOWER, "n"))
    assert verdicts(compare, "a.csv", "b.csv", "--min-effect", "13") == ["same"]
    assert verdicts(compare, "a.csv", "b.csv", "--min-effect", "11") == ["unclear"]


def test_a_file_in_a_folder_that_cannot_be_read_costs_itself_and_the_exit_code(compare: Any) -> None:
    table("a/perf.csv", *runs(("100",) * 5))
    table("b/perf.csv", *runs(("100",) * 5, "n"))
    Path("b/c").mkdir()
    Path("b/c/results.json").write_text("{")
    exit_code, output, errors = compare("a", "b")
    assert exit_code == 1
    assert " same\n" in output
    assert errors.startswith("b/c/results.json:1:2: not JSON")


# --- hostile input ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "compare: expected BASE and NEW, got 0 names; name two, or compare two values of a column with --by"),
        (("a.csv",), "compare: expected BASE and NEW, got 1 names; "),
        (("a.csv", "a.csv", "a.csv"), "compare: expected BASE and NEW, got 3 names; "),
        (("--by", "args"), "compare --by: expected a perf.csv, a results.json, a folder or a run id"),
        (("a.csv", "gone"), "gone: no such file, folder or run id (in runs/ and results/); expected a perf.csv, "),
        (("a.csv", "\x1b[2J" + "x" * 10_000), " [2Jxxxx"),
        (("a.csv", "x\0y"), "x y: no such file"),
        (("a.csv", "empty.csv"), "empty.csv: no rows of results in it"),
        (("a.csv", "empty"), "empty: no results here: no results.json of a run and no perf.csv"),
        (("a.csv", "other.csv"), "other.csv: not a perf.csv: it has no column metric, performance, status"),
        (("a.csv", "binary.csv"), "binary.csv: not a perf.csv: "),
        (("a.csv", "other.json"), "other.json: no rows of results in it"),
        (("a.csv", "broken.json"), "broken.json:1:2: not JSON: "),
        (("a.csv", "--by", "nothing"), "--by nothing: no successful row has a value in this column"),
        (("a.csv", "--by", "model"), "--by model: expected two values, got bert; choose two with --values"),
        (("a.csv", "a.csv", "--values", "x", "y"), "--values: expected two values of the column that --by names"),
        (("a.csv", "--by", "args", "--values", "x"), "--values: expected two values of the column that --by names"),
        (("a.csv", "a.csv", "--json", "--markdown"), "--json: can't be combined with --markdown"),
        (
            ("a.csv", "a.csv", "--lower-is-better", "x", "--higher-is-better", "x"),
            "x: named by both --lower-is-better and --higher-is-better; choose one",
        ),
        (("a.csv", "a.csv", "--min-effect", "nan"), "expected a number of percent from 0 to 1000, got 'nan'"),
    ],
)
def test_wrong_words_and_files_are_one_line(compare: Any, words: Sequence[str], message: str) -> None:
    table("a.csv", *runs(BASE))
    Path("empty").mkdir()
    Path("empty.csv").write_text("")
    Path("other.csv").write_text("model,value\nbert,1\n")
    Path("binary.csv").write_bytes(bytes(range(256)))
    Path("other.json").write_text('{"a": 1}')
    Path("broken.json").write_text("{,")
    exit_code, output, errors = compare(*words)
    assert (exit_code, output) == (4, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert len(errors) < 400
    assert errors.rstrip("\n").isprintable()


@pytest.mark.parametrize("form", [(), ("--markdown",), ("--json",)])
def test_names_of_any_kind_stay_in_their_cells(compare: Any, form: Sequence[str]) -> None:
    model = replace(MODEL, name="a|b`\x1b[2J\n\u202e<b>@all \\| " + "x" * 10_000, args="\x1b]0;x\x07" * 1000)
    table("a.csv", *runs(BASE, model=model, metric="to|kens\r/s`"))
    table("b.csv", *runs(SLOWER, "n", model=model, metric="to|kens\r/s`", machine_name="\x1b[31m|`" * 50))
    table("b.csv", replace(RUN, model=model, status=FAILURE, reason="| \x1b[2J" * 500))
    exit_code, output, _ = compare("a.csv", "b.csv", *form)
    assert exit_code == 5
    assert all(line.isprintable() for line in output.splitlines())
    if form == ("--json",):
        assert json.loads(output)["series"][0]["model"] == model.name
        return
    assert max(map(len, output.splitlines())) < 400
    if form:
        rows = [line for line in output.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {11, 5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bert", "`bert`"),
        ("a|b", r"`a\|b`"),
        (r"a\|b\\|c", r"`a\|b\|c`"),
        ("a`b", "``a`b``"),
        ("`a``", "``` `a`` ```"),
        ("<img>@all", "`<img>@all`"),
        ("", ""),
        ("\n", ""),
    ],
)
def test_a_name_in_markdown_is_code(text: str, expected: str) -> None:
    assert code(text) == expected


def test_a_long_cell_is_cut() -> None:
    assert cell("x" * 100) == "x" * 59 + "…"


def test_numbers_at_the_edge_are_null_in_json_never_nan(compare: Any) -> None:
    table("a.csv", *runs(("1e308", "-1e308", "1e308", "-1e308", "1.7e308")))
    table("b.csv", *runs(("-1e308", "1.7e308", "1e308", "-1.7e308", "0"), "n"))
    table("a.csv", *runs(("0",) * 5, metric="x"))
    table("b.csv", *runs(("-1", "-2", "-3", "-4", "-5"), "n", metric="x"))
    _, output, _ = compare("a.csv", "b.csv", "--json")
    assert "NaN" not in output
    assert "Infinity" not in output
    second = json.loads(output)["series"][1]
    assert (second["change_percent"], second["interval_percent"], second["verdict"]) == (None, [None, None], "worse")
    assert compare("a.csv", "b.csv")[0] == 5


def test_rows_that_are_cut_are_reported_and_the_others_count(compare: Any) -> None:
    table("a.csv", *runs(BASE))
    table("b.csv", *runs(SLOWER, "n"))
    with Path("b.csv").open("a") as file:
        file.write("bert,8\n")
    exit_code, output, errors = compare("a.csv", "b.csv")
    assert exit_code == 5
    assert "5 / 5" in output
    assert re.fullmatch(rf"b\.csv:7: ignored: expected {len(COLUMNS)} cells as in the header, got 2\n", errors)


def test_a_result_that_is_broken_costs_itself(compare: Any) -> None:
    table("a.csv", *runs(BASE))
    path = Path(document("b.json", *runs(SLOWER, "n")))
    broken = json.loads(path.read_text())
    broken["results"] += [3, {"model": {"name": 3, "better": "lower"}, "metrics": 7}, {"model": None}]
    path.write_text(json.dumps(broken))
    exit_code, output, errors = compare("a.csv", "b.json")
    assert exit_code == 5
    assert "5 / 5" in output
    assert errors.count("is broken") == 3
