"""Repeated runs: which model runs in which round, which rows that leaves, and when it is enough."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import quantile_test

from madengine.config.manifest import Manifest, save_manifest
from madengine.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RUN_FAILED, ConfigurationError
from madengine.machine.gpu_locks import locked_gpus
from madengine.records import FAILURE, SUCCESS, Image, Metric, Model, RunResult
from madengine.results.rank_tests import EXACT_WORK, median_cut
from madengine.results.results_json import result_of
from madengine.results.rows import result_rows
from madengine.results.statistics import median_width
from madengine.run.node import LocalRun
from madengine.run.options import RunOptions
from madengine.run.rounds import RepeatedModel, Round, rounds
from tests.unit.run.stand_in_machine import GPUS, Machine, cells, table

CHECKOUT = Path(__file__).parents[3]


# --- rounds ---


def test_models_run_in_rounds_and_every_repeat_is_a_row(machine: Machine) -> None:
    machine.model("a", "90 10 11 12 13 14 15")
    machine.model("b", "900 100 110 120 130 140 150")
    run = machine.run(repeat=6, warmup=1)
    assert machine.order == "ab" * 7
    assert machine.code == EXIT_DONE
    assert cells("model", "performance", "repeat")[:4] == [
        ("a", "10", "1"),
        ("b", "100", "1"),
        ("a", "11", "2"),
        ("b", "110", "2"),
    ]
    assert len(table()) == 12
    shown = machine.tables[-1].splitlines()
    assert [line.split()[2:] for line in shown if line.startswith(("a ", "b "))] == [
        ["6", "12.5", "10", "…", "15", "40.0", "15"],
        ["6", "125", "100", "…", "150", "40.0", "150"],
    ]
    document = json.loads(Path("runs", run.run_id, "results.json").read_text())
    entries = [(entry["model"]["name"], entry["repeat"], entry["is_warmup"]) for entry in document["results"]]
    assert entries[:4] == [("a", 1, True), ("b", 1, True), ("a", 1, False), ("b", 1, False)]
    # A reader of results.json finds the same rows as in perf.csv.
    again = [row["performance"] for entry in document["results"] for row in result_rows(result_of(entry), {})]
    assert again == [row["performance"] for row in table()]
    summary = json.loads(Path("run_summary.json").read_text())
    assert len(summary["successful_runs"]) == 12


def test_without_repeats_nothing_is_numbered(machine: Machine) -> None:
    machine.model("a", "10")
    machine.run()
    assert cells("performance", "repeat", "side") == [("10", "", "")]
    assert "SUCCESS" in machine.tables[-1]


def test_a_model_that_failed_is_not_run_again_unless_asked_for(machine: Machine) -> None:
    machine.model("a", "10 fail 12")
    machine.model("b", "20 21 22")
    machine.run(repeat=3)
    assert machine.order == "ababb"
    assert machine.code == EXIT_RUN_FAILED
    assert cells("model", "repeat", "status") == [
        ("a", "1", SUCCESS), ("b", "1", SUCCESS), ("a", "2", FAILURE), ("b", "2", SUCCESS), ("b", "3", SUCCESS),
    ]  # fmt: skip


def test_keep_going_runs_a_model_that_failed_again(machine: Machine) -> None:
    machine.model("a", "10 fail 12")
    machine.run(repeat=3, keep_going=True)
    assert cells("repeat", "status") == [("1", SUCCESS), ("2", FAILURE), ("3", SUCCESS)]
    assert machine.code == EXIT_RUN_FAILED


def test_a_warm_up_that_fails_is_a_row_with_its_reason(machine: Machine) -> None:
    machine.model("a", "fail 10")
    machine.model("b", "99 20")
    machine.run(repeat=1, warmup=1)
    assert machine.code == EXIT_RUN_FAILED
    assert cells("model", "repeat", "status") == [("a", "", FAILURE), ("b", "1", SUCCESS)]
    assert table()[0]["reason"].startswith("warm-up 1: ")


def test_ctrl_c_keeps_what_was_measured(machine: Machine) -> None:
    machine.model("a", "10 11 hang", "0")
    machine.model("b", "20 21", "0")
    manifest = Manifest(
        images=tuple(image for _, image in machine.chosen if image),
        models={image.key: model for model, image in machine.chosen if image},
        context={"gpu_vendor": "NONE"},
    )
    save_manifest(manifest, Path("m.json"))
    words = ["-m", "madengine", "run", "--manifest-file=m.json", "--repeat=9", "--run-id=r", "--engine=docker"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "XDG_CACHE_HOME": str(machine.folder / "cache")}
    process = subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (machine.folder / "next-a_3").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED, messages
    expected = [("a", "1"), ("b", "1"), ("a", "2"), ("b", "2"), ("a", "3")]
    assert cells("model", "repeat") == expected
    assert [row["status"] for row in table()] == [SUCCESS] * 4 + [FAILURE]
    assert len(json.loads(Path("runs/r/results.json").read_text())["results"]) == 5


def test_all_runs_of_a_model_have_the_same_gpus(machine: Machine) -> None:
    machine.model("a", "10 11 12")
    with locked_gpus(GPUS[:1], 1, "another"):
        run = machine.run(repeat=1)
    first = run.results[0]
    assert first.gpus == GPUS[1:2]
    entry = RepeatedModel(first.model, first.image or Image("", ""), [first])
    again = machine.run(repeat=2)
    assert {result.gpus for result in again.results} == {GPUS[:1]}
    assert entry.gpus == GPUS[1:2]


def test_a_repeat_waits_for_the_gpus_of_the_first_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free GPUs beside them are not the same: the run fails rather than measure on others."""
    machine.model("a", "10 11")
    run_one = LocalRun.run_one

    def with_a_neighbour(self: LocalRun, runner: Any, entry: RepeatedModel, turn: Round) -> None:
        if turn.number == 1:
            run_one(self, runner, entry, turn)
            return
        with locked_gpus(GPUS[:1], 1, "another"):
            run_one(self, runner, entry, turn)

    monkeypatch.setattr(LocalRun, "run_one", with_a_neighbour)
    machine.run(repeat=2)
    assert cells("status") == [(SUCCESS,), (FAILURE,)]
    assert "GPU 0 is in use" in table()[1]["reason"]


def test_packed_models_run_in_rounds_too(machine: Machine) -> None:
    machine.model("a", "10 11", "2")
    machine.model("b", "20 21", "2")
    machine.run(repeat=2, pack=True)
    assert sorted(machine.order[:2]) == sorted(machine.order[2:]) == ["a", "b"]
    assert {row["packed"] for row in table()} == {"true"}


def test_a_dry_run_shows_every_round(machine: Machine) -> None:
    machine.model("a", "", "0")
    machine.model("b", "", "0")
    run = machine.local_run(machine.chosen, (), repeat=2, warmup=1, dry_run=True, run_id="r")
    assert run.show_lines() == EXIT_DONE
    runs = [name for line in machine.tables if " run " in line for name in re.findall(r"--name (\S+)", line)]
    assert runs == [f"madengine-r-{name}" for name in ("a", "b", "a_2", "b_2", "a_3", "b_3")]


def test_skip_model_run_pulls_once(machine: Machine) -> None:
    machine.model("a", "")
    run = machine.run(repeat=5, warmup=2, skip_model_run=True)
    assert len(run.results) == 1


# --- until stable ---


def test_a_model_runs_until_the_interval_of_its_median_is_narrow(machine: Machine) -> None:
    machine.model("a", "100 101 99 100 100 100 100 100 100 100")
    machine.model("b", "100 100 100 100 100 100 100 100")
    machine.run(until_stable=1.0)
    # Of six the interval is from the smallest to the largest; of nine it leaves one out at each end.
    assert [machine.order.count(name) for name in "ab"] == [9, 6]
    assert "not stable" not in "".join(machine.messages)


def test_a_model_that_never_gets_stable_ends_at_the_limit(machine: Machine) -> None:
    machine.model("a", "100 200 " * 4)
    machine.run(until_stable=1.0, max_repeats=7)
    assert machine.order == "a" * 7
    assert machine.code == EXIT_DONE
    assert any(
        "a: not stable after 7 repeats: the interval of its median is wider than 1 %" in one for one in machine.messages
    )


def test_every_metric_has_to_be_stable() -> None:
    model = Model(name="m", dockerfile="d", scripts="s")
    results = [
        RunResult("r", model, None, SUCCESS, metrics=(Metric("5", "ms"), Metric(str(value), "tokens/s")))
        for value in (1, 2, 3, 4, 5, 6)
    ]
    entry = RepeatedModel(model, Image("k", "i"), results)
    assert not entry.is_stable(50)
    assert entry.is_stable(143)
    assert not RepeatedModel(model, Image("k", "i"), [replace(one, is_warmup=True) for one in results]).is_stable(143)


def test_the_rounds_are_those_of_the_options() -> None:
    assert list(rounds(RunOptions())) == [Round()]
    assert list(rounds(RunOptions(repeat=1))) == [Round(1)]
    assert list(rounds(RunOptions(warmup=2))) == [Round(1, True), Round(2, True), Round(1)]
    assert len(list(rounds(RunOptions(until_stable=1.0)))) == 30
    assert len(list(rounds(RunOptions(until_stable=1.0, repeat=40)))) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_repeats": 9}, "--max-repeats: only with --until-stable"),
        ({"until_stable": 1.0, "max_repeats": 8, "repeat": 9}, "--max-repeats 8: less than --repeat 9"),
        ({"resume": Path("perf.csv"), "repeat": 2}, "--resume: can't be combined"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        RunOptions(**options)


# --- the interval of a median ---


@pytest.mark.parametrize("count", [*range(1, 60), 99, 100, 500, 999])
def test_the_interval_of_a_median_is_scipys(count: int) -> None:
    values = sorted(random.Random(count).gauss(10, 1) for _ in range(count))
    cut = median_cut(count)
    interval = quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    if cut is None:
        assert not (float("-inf") < interval.low and interval.high < float("inf"))
        assert count < 6
    else:
        assert (values[cut], values[-1 - cut]) == (interval.low, interval.high)


def test_of_very_many_values_the_interval_is_close_to_the_exact_one() -> None:
    exact, normal = median_cut(EXACT_WORK), median_cut(EXACT_WORK + 1)
    assert exact is not None and normal is not None
    assert abs(exact - normal) <= 1


def test_the_width_is_in_percent_of_the_median() -> None:
    assert median_width([1, 2, 3, 4, 5]) is None
    assert median_width([99, 100, 100, 100, 100, 102]) == 3
    assert median_width([-99, -100, -100, -100, -100, -102]) == 3
    assert median_width([0] * 6) == 0
    assert median_width([-1, -1, 0, 0, 1, 1]) is None


@pytest.mark.parametrize("kind", ["normal", "skewed", "bimodal"])
def test_stopping_when_it_is_narrow_does_not_make_the_interval_a_lie(kind: str) -> None:
    """Of the intervals at which --until-stable stops, at least 85 % hold the true median; of a fixed n, 95 %."""
    source = random.Random(kind)
    noises: dict[str, Callable[[], float]] = {
        "normal": lambda: source.gauss(100, 2),
        "skewed": lambda: 100 - 3 * statistics.NormalDist().inv_cdf(0.75) + source.expovariate(1 / 3),
        "bimodal": lambda: source.choice((98, 102)) + source.gauss(0, 1),
    }
    draw = noises[kind]
    truth = statistics.median(draw() for _ in range(100_001))
    hits = 0
    for _ in range(600):
        values = [draw() for _ in range(6)]
        while (median_width(values) or 0) > 3 and len(values) < 100:
            values.append(draw())
        cut = median_cut(len(values))
        ordered = sorted(values)
        assert cut is not None
        hits += ordered[cut] <= truth <= ordered[-1 - cut]
    assert hits / 600 >= 0.85, hits / 600
