"""`madengine history`, whole commands: the series, their change points and the noise of each host."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from madengine.records import RunResult
from madengine.results.noise import noise_of_hosts
from madengine.results.perf_csv import append_rows
from madengine.results.rows import result_rows
from tests.unit.results.test_comparison import MODEL, document, runs

BEFORE: dict[str, Any] = {"git_commit": "a" * 40, "image_digest": f"sha256:{'1' * 64}", "environment_id": "e1"}
AFTER: dict[str, Any] = {"git_commit": "b" * 40, "image_digest": f"sha256:{'2' * 64}", "environment_id": "e2"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def history(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs `madengine history` with these words: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            exit_code = main(["history", *words])
        except SystemExit as ended:
            exit_code = int(ended.code or 0)
        output = capfd.readouterr()
        return exit_code, output.out, output.err

    return run


def series(history: Any, *words: str) -> list[dict[str, Any]]:
    code, output, errors = history(*words, "--json")
    assert code == 0, errors
    result: list[dict[str, Any]] = json.loads(output)["series"]
    return result


def noisy(seed: int, median: float, count: int) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.gauss(median, 1):.2f}" for _ in range(count)]


def slower(metric: str = "tokens/s") -> list[RunResult]:
    """15 runs of one version, then 10 of one that is 8 % below it."""
    rows = runs([*noisy(1, 100, 15), *noisy(2, 92, 10)], metric=metric)
    return [replace(one, **(BEFORE if number < 15 else AFTER)) for number, one in enumerate(rows)]


def write(path: str, results: Sequence[RunResult]) -> str:
    append_rows(Path(path), [row for result in results for row in result_rows(result, {})])
    return path


def test_a_change_is_shown_with_what_was_on_both_sides_of_it(history: Any) -> None:
    rows = slower()
    document("a.json", *rows[:15], environment_id="e1", gpus=[{"driver": "550"}])
    document("b.json", *rows[15:], environment_id="e2", gpus=[{"driver": "560"}])
    (one,) = series(history, "a.json", "b.json")
    assert (one["model"], one["metric"], one["better"], one["n"]) == ("bert", "tokens/s", "higher", 25)
    (change,) = one["change_points"]
    assert (change["index"], change["verdict"], change["n"]) == (15, "worse", [15, 10])
    assert -9 < change["change_percent"] < -7
    assert change["p"] < 0.001
    assert {name: change["before"][name] for name in BEFORE} == BEFORE
    assert {name: change["after"][name] for name in AFTER} == AFTER
    assert (change["before"]["run_id"], change["after"]["run_id"]) == ("b14", "b15")
    assert {"column": "gpus.driver", "base": ["550"], "new": ["560"]} in change["differences"]
    code, output, errors = history("a.json", "b.json", "--last", "3")
    assert (code, errors) == (0, "")
    assert "\n1 change point\n  2026-01-01T15:00:00Z: -7." in output
    assert (
        f"\n    git_commit {'a' * 40} -> {'b' * 40}\n    environment_id e1 -> e2\n    gpus.driver 550 -> 560\n"
        in output
    )
    assert output.count("\n2026-01-01T") == 3


@pytest.mark.parametrize(("metric", "verdict"), [("latency_ms", "better"), ("tokens/s", "worse")])
def test_the_direction_is_that_of_compare(history: Any, metric: str, verdict: str) -> None:
    write("perf.csv", slower(metric))
    assert [change["verdict"] for change in series(history, "perf.csv")[0]["change_points"]] == [verdict]
    other = "--higher-is-better" if verdict == "better" else "--lower-is-better"
    assert series(history, "perf.csv", other, metric)[0]["change_points"][0]["verdict"] != verdict


def test_a_series_without_a_change_has_none_and_a_small_one_can_be_none(history: Any) -> None:
    write("even.csv", runs(noisy(3, 100, 30)))
    assert "\nno change points\n" in history("even.csv")[1]
    write("perf.csv", slower())
    assert series(history, "perf.csv", "--min-effect", "20")[0]["change_points"] == []


def test_alike_huge_and_few_values_are_no_error(history: Any) -> None:
    for number, values in enumerate((["5"] * 9, ["0"] * 9, ["1e308", "-1e308"] * 5, ["1"], ["1", "2"])):
        assert series(history, write(f"{number}.csv", runs(values)))[0]["change_points"] == []
    (change,) = series(history, write("zero.csv", runs([*["0"] * 9, *["5"] * 9])))[0]["change_points"]
    assert (change["index"], change["change_percent"], change["verdict"]) == (9, None, "better")
    assert "from zero better" in history("zero.csv")[1]


def test_series_models_hosts_and_disturbed_runs_are_told_apart(history: Any) -> None:
    write("perf.csv", runs(noisy(1, 100, 6)))
    write("perf.csv", runs(noisy(2, 50, 6), "x", machine_name="node-2"))
    write("perf.csv", [replace(one, contaminated=True) for one in runs(("1",), "y")])
    write("perf.csv", runs(("7",), "z", model=replace(MODEL, name="gpt")))
    assert [(one["model"], one["n"]) for one in series(history, "perf.csv")] == [("bert", 13), ("gpt", 1)]
    assert [one["n"] for one in series(history, "perf.csv", "--models", "bert", "--clean-only")] == [12]
    assert [
        (one["machine_name"], one["n"]) for one in series(history, "perf.csv", "--per-host", "--models", "bert")
    ] == [
        ("node-1", 7),
        ("node-2", 6),
    ]
    output = history("perf.csv", "--per-host")[1]
    assert "bert machine_name=node-2: tokens/s" in output
    assert "foreign processes" in output


def test_the_noise_of_a_host_is_that_of_its_repeats(history: Any) -> None:
    write("perf.csv", slower())
    (noise,) = series(history, "perf.csv")[0]["noise"]
    assert (noise["machine_name"], noise["n"], noise["of"]) == ("node-1", 25, "repeats")
    assert 0.5 < noise["percent"] < 1.5
    assert "node-1: " in history("perf.csv")[1].partition("noise\n")[2]


def test_without_repeats_the_noise_is_that_between_changes() -> None:
    rows = [
        {"performance": value, "image_digest": f"d{number}", "machine_name": "n"}
        for number, value in enumerate(("99", "101", "99", "101", "49.5", "50.5"))
    ]
    (noise,) = noise_of_hosts(rows, [0, 0, 0, 0, 1, 1])
    assert (noise.is_of_repeats, noise.n) == (False, 6)
    assert noise.percent == pytest.approx(100 * (6 * 0.01**2 / 4) ** 0.5)
    (unknown,) = noise_of_hosts(rows, None)
    assert unknown.percent is None


def test_the_order_of_a_repositorys_commits_counts_where_it_is_named(history: Any, here: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        return subprocess.run(
            ["git", "-C", "code", *identity, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    subprocess.run(["git", "init", "-q", "code"], check=True)
    commits = []
    for number in range(3):
        git("commit", "-q", "--allow-empty", "-m", str(number))
        commits.append(git("rev-parse", "HEAD"))
    latest_first = [
        replace(one, git_commit=commits[2 - number][:10] if number == 1 else commits[2 - number])
        for number, one in enumerate(runs(("3", "2", "1")))
    ]
    write("perf.csv", [*latest_first, *runs(("9",), "x", git_commit="f" * 40)])
    points = series(history, "perf.csv", "--commit-order", "code")[0]["points"]
    assert [point["performance"] for point in points] == [1, 2, 3]
    assert [point["performance"] for point in series(history, "perf.csv")[0]["points"]] == [3, 9, 2, 1]
    errors = history("perf.csv", "--commit-order", "code")[2]
    assert errors == "left out: 1 runs whose git_commit is not in code\n"
    (here / "empty").mkdir()
    code, _, errors = history("perf.csv", "--commit-order", "empty")
    assert (code, errors.count("\n"), "git" in errors) == (1, 1, True)


def test_without_otava_the_series_and_the_table_remain(history: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write("perf.csv", slower())
    monkeypatch.setitem(sys.modules, "otava", None)
    monkeypatch.setitem(sys.modules, "otava.analysis", None)
    code, output, errors = history("perf.csv", "--json")
    assert (code, json.loads(output)["change_points_by"]) == (0, None)
    assert errors.count("\n") == 1
    assert "Apache Otava is not installed" in errors
    assert "`pip install 'madengine[history]'`" in errors
    assert json.loads(output)["problems"] == [errors.strip()]
    code, output, _ = history("perf.csv")
    assert code == 0
    assert "change point" not in output
    assert "2026-01-01T15:00:00Z" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected a perf.csv, a results.json, a folder or a run id"),
        (("missing.csv",), "missing.csv: no such file, folder or run id"),
        (("perf.csv", "--models", "other"), "--models: no row of other"),
        (("perf.csv", "--commit-order", "nowhere"), "nowhere"),
        (("failed.csv",), "no successful row"),
    ],
)
def test_wrong_words_and_files_are_one_line(history: Any, words: tuple[str, ...], message: str) -> None:
    write("perf.csv", runs(("1",)))
    write("failed.csv", runs(("",)))
    code, output, errors = history(*words)
    assert (code, output, errors.count("\n")) == (4, "", 1)
    assert message in errors


def test_names_stay_in_their_lines(history: Any) -> None:
    hostile = "\x1b[2J\nx"
    write(
        "perf.csv", runs(noisy(1, 100, 4), machine_name=hostile, git_commit=hostile, model=replace(MODEL, name=hostile))
    )
    output = history("perf.csv")[1]
    assert "\x1b" not in output
