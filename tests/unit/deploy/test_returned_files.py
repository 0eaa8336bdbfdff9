"""The files of a run as a node sent them: what is broken is set aside, and the reason is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from madengine.deploy.returned_files import main, set_aside_broken_files

TABLE = "model,performance,metric,status\nm,1,x,SUCCESS\n"
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a good node has sent of the run r1."""
    (tmp_path / "runs/r1").mkdir(parents=True)
    (tmp_path / "perf.csv").write_text(TABLE)
    (tmp_path / "run_summary.json").write_text(json.dumps({"successful_runs": [{"model_name": "m"}]}))
    (tmp_path / "node.json").write_text(json.dumps({"run_id": "r1", "tags": ["m"]}))
    results = {"schema_version": 1, "run_id": "r1", "environment": {}, "results": [{"model": "m"}]}
    (tmp_path / "runs/r1/results.json").write_text(json.dumps(results))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_good_files_stay(folder: Path) -> None:
    before = names(folder)
    assert set_aside_broken_files(folder, "r1") == []
    assert names(folder) == before


def test_files_that_did_not_come_are_no_problem(tmp_path: Path) -> None:
    assert set_aside_broken_files(tmp_path, "r1") == []


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("perf.csv", b"model,status\n\xff,x\n", "perf.csv: byte 13 is not UTF-8"),
        ("perf.csv", b"model,performance,metric\nm,1,x\n", "perf.csv: not a perf.csv: it has no column status"),
        ("perf.csv", TABLE.encode() + b"a\0b,1,x,SUCCESS\n", "perf.csv: a NUL byte is in it"),
        ("run_summary.json", b"[1, 2]", "run_summary.json: expected an object, got '[1, 2]'"),
        (
            "run_summary.json",
            b'{"failed_runs": {}}',
            "run_summary.json: failed_runs: expected a list of dict, got '{}'",
        ),
        (
            "run_summary.json",
            b'{"failed_runs": [7]}',
            "run_summary.json: failed_runs: expected a list of dict, got '[7]'",
        ),
        ("run_summary.json", DEEP.encode(), "run_summary.json: nested more than "),
        ("run_summary.json", b'{"x": NaN}', "run_summary.json: NaN is not JSON"),
        ("run_summary.json", b"\xff", "run_summary.json: byte 0 is not UTF-8"),
        ("node.json", b'{"tags": "m"}', "node.json: tags: expected a list of str, got 'm'"),
        ("node.json", b'{"tags": [1]}', "node.json: tags: expected a list of str, got '[1]'"),
        ("node.json", b"\x1b[2J", "node.json: Expecting value: line 1 column 1 (char 0)"),
        (
            "runs/r1/results.json",
            b'{"results": [3]}',
            "runs/r1/results.json: results: expected a list of dict, got '[3]'",
        ),
        ("runs/r1/results.json", b'{"results": [{}]}', "runs/r1/results.json: not the results of a run"),
        ("runs/r1/results.json", b'{"results": [1e999]}', "runs/r1/results.json: a number is not finite"),
    ],
)
def test_what_can_not_be_used_is_set_aside_with_a_reason_in_one_line(
    folder: Path, name: str, content: bytes, problem: str
) -> None:
    (folder / name).write_bytes(content)
    (line,) = set_aside_broken_files(folder, "r1")
    assert line.startswith(problem)
    assert line.isprintable() and len(line) <= 300
    assert not (folder / name).exists()
    assert (folder / f"{name}.broken").read_bytes() == content


def test_without_a_table_the_results_do_not_count_either(folder: Path) -> None:
    (folder / "perf.csv").write_text("x\n")
    assert len(set_aside_broken_files(folder, "r1")) == 1
    assert {"perf.csv.broken", "runs/r1/results.json.broken"} <= names(folder)


def test_a_link_is_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.csv"
    elsewhere.write_text(TABLE)
    (folder / "perf.csv").unlink()
    (folder / "perf.csv").symlink_to(elsewhere)
    assert set_aside_broken_files(folder, "r1") == ["perf.csv: a symbolic link, expected a file"]


def test_the_playbook_gets_the_problems_as_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "perf.csv").write_text("x\n")
    (folder / "node.json").write_text("1")
    main(str(folder), "r1")
    assert capsys.readouterr().out == (
        "perf.csv: not a perf.csv: it has no column metric, model, performance, status; "
        "node.json: expected an object, got '1'\n"
    )
