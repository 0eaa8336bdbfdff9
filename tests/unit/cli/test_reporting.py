"""Report files are written whatever becomes of the command, and have its rows only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

import pytest

from madengine.cli.reporting import new_rows
from madengine.distributed_cli import main
from madengine.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_FAILURE, EXIT_RUN_FAILED, RunError
from madengine.files import write_json
from madengine.results.perf_csv import append_rows
from madengine.results.results_json import results_json
from madengine.results.rows import result_rows
from tests.unit.results.samples import DONE, FAILED, V2_HEADER, one


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def case_names(path: str) -> list[str]:
    return [f"{case.get('classname')}" for case in parse(path).iter("testcase")]


def values(**more: Any) -> dict[str, Any]:
    return {"output": Path("perf.csv"), "run_id": "", "manifest_output": None, "junit": Path("j.xml"), **more}


def test_the_report_has_the_rows_of_this_run_only() -> None:
    append_rows(Path("perf.csv"), [one(DONE)])

    def run(run_values: Mapping[str, Any]) -> int:
        mine = replace(DONE, run_id=run_values["run_id"], model=replace(DONE.model, name="mine"))
        append_rows(Path("perf.csv"), [one(replace(DONE, run_id="of another process")), one(mine)])
        return EXIT_RUN_FAILED

    assert new_rows(run)(values()) == EXIT_RUN_FAILED
    assert case_names("j.xml") == ["mine"]


def test_a_run_of_unknown_id_has_all_rows_that_perf_csv_got_meanwhile() -> None:
    append_rows(Path("perf.csv"), [one(DONE)])

    def fetch(_: Mapping[str, Any]) -> int:
        append_rows(Path("perf.csv"), [one(replace(DONE, run_id="r2", model=replace(DONE.model, name="new")))])
        return EXIT_DONE

    fetch_values = values()
    del fetch_values["manifest_output"]
    assert new_rows(fetch)(fetch_values) == EXIT_DONE
    assert case_names("j.xml") == ["new"]


def test_a_table_of_an_older_madengine_has_rows_without_an_id() -> None:
    Path("perf.csv").write_text(V2_HEADER)

    def run(run_values: Mapping[str, Any]) -> int:
        run_id = run_values["run_id"]
        failure = replace(FAILED, run_id=run_id)
        append_rows(Path("perf.csv"), [one(failure)])
        if run_values["has_results"]:
            write_json(Path("runs", run_id, "results.json"), results_json(run_id, [failure], {"machine_name": "n"}))
        return EXIT_DONE

    assert new_rows(run)(values(has_results=False)) == EXIT_DONE
    assert parse("j.xml").findtext(".//failure") == "it failed; see its log"
    assert new_rows(run)(values(has_results=True)) == EXIT_DONE
    assert parse("j.xml").findtext(".//failure") == "the script ended with exit code 3"


def test_ansibles_rows_are_beside_its_playbook() -> None:
    def deploy(_: Mapping[str, Any]) -> int:
        append_rows(Path("plays/perf.csv"), [one(DONE)])
        return EXIT_DONE

    assert new_rows(deploy)(values(target="ansible", playbook=Path("plays/p.yml"))) == EXIT_DONE
    assert case_names("j.xml") == ["dummy"]


@pytest.mark.parametrize(
    ("problem", "text"), [(RunError("no engine"), "no engine"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_command_that_fails_has_a_report_too(problem: BaseException, text: str) -> None:
    def run(run_values: Mapping[str, Any]) -> int:
        append_rows(Path("perf.csv"), [one(replace(DONE, run_id=run_values["run_id"]))])
        raise problem

    with pytest.raises(type(problem)):
        new_rows(run)(values())
    assert case_names("j.xml") == ["dummy", "madengine"]
    assert parse("j.xml").findtext(".//error") == text


def test_a_dry_run_writes_nothing() -> None:
    assert new_rows(lambda _: EXIT_DONE)(values(dry_run=True)) == EXIT_DONE
    assert not Path("j.xml").exists()


def test_a_report_that_cant_be_written_stops_the_command_before_it_begins() -> None:
    Path("file").touch()
    assert main(["collect", ".", "--junit", "file/j.xml"]) == EXIT_CONFIGURATION
    assert not Path("perf.csv").exists()


def test_collect_reports_all_that_it_collected_also_the_second_time(capsys: pytest.CaptureFixture[str]) -> None:
    write_json(Path("runs/r1/results.json"), results_json("r1", [DONE, FAILED], {"machine_name": "gpu-node-01"}))
    for _ in range(2):
        assert main(["collect", "runs", "--junit", "j.xml", "--openmetrics=o.txt", "--markdown=m.md"]) == EXIT_DONE
        assert case_names("j.xml") == ["dummy", "dummy"]
    assert Path("o.txt").read_text().endswith("# EOF\n")
    assert "1 SUCCESS, 1 FAILURE" in Path("m.md").read_text()


def test_report_reads_tables_results_and_folders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append_rows(Path("a.csv"), result_rows(replace(DONE, run_id="a"), {}))
    write_json(Path("runs/r1/results.json"), results_json("r1", [FAILED], {"machine_name": "gpu-node-01"}))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert main(["report", "a.csv", "runs", "--gitlab-metrics", "g.txt"]) == EXIT_DONE
    assert "::error title=dummy on gpu-node-01 (model)::" in capsys.readouterr().err
    assert "1 SUCCESS, 1 FAILURE" in Path("summary.md").read_text()
    assert "madengine_performance{" in Path("g.txt").read_text()
    assert main(["report", "a.csv", "nowhere.csv", "--junit", "j.xml"]) == EXIT_FAILURE
    assert case_names("j.xml") == ["dummy"]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/nonexistent/summary.md")
    assert main(["report", "a.csv"]) == EXIT_FAILURE


def test_madengine_2s_files_are_of_new_rows_only() -> None:
    Path("c.json").write_text('{"batch": 8}')
    result = replace(DONE, model=replace(DONE.model, args="--config c.json"))
    write_json(Path("runs/r1/results.json"), results_json("r1", [result], {"machine_name": "gpu-node-01"}))
    for _ in range(2):
        assert main(["collect", "runs", "--madengine2-files"]) == EXIT_DONE
    [element] = json.loads(Path("perf_super.json").read_text())
    assert (element["model"], element["configs"]) == ("dummy", {"batch": 8})
    Path("perf_super.json").write_text("{}")
    write_json(Path("more/r2/results.json"), results_json("r2", [replace(result, run_id="r2")], {}))
    assert main(["collect", "more", "--madengine2-files"]) == EXIT_FAILURE
