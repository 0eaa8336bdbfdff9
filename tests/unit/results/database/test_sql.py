"""Results in an SQL database; the same is tried on PostgreSQL and MariaDB in tests/databases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from madengine.distributed_cli import main
from tests.unit.results.database.results import row, write_run, write_table

CHECKOUT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_DIR", raising=False)


def ask(query: str) -> list[Any]:
    connection = sqlite3.connect("results.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def upload(*words: str) -> int:
    return main(["upload", *words, "--to=sqlite:///results.db"])


def test_a_run_arrives_with_its_rows_environment_and_samples_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, "r1")
    write_table(tmp_path / "perf.csv", [row("r1", batch="8"), row("r2", "", status="FAILURE", reason="no metric")])
    assert upload("runs", "perf.csv") == 0
    assert capsys.readouterr().out == "2 runs, 2 rows (2 new), 3 GPU samples\n"
    assert upload("runs", "perf.csv") == 0
    assert capsys.readouterr().out == "2 runs, 2 rows (0 new), 3 GPU samples\n"
    assert ask("SELECT run_id, madengine_version FROM madengine_runs ORDER BY 1") == [("r1", "0.2.0"), ("r2", "")]
    assert ask("SELECT value, performance, run_duration, extra FROM madengine_results WHERE run_id = 'r1'") == [
        (10.5, "10.5", 12.5, '{"batch": "8"}')
    ]
    assert ask("SELECT os, gpu, driver, gpus, memory_mib FROM madengine_environments") == [
        ("Debian 12", "H100", "550", 2, 524288)
    ]
    assert ask("SELECT run_id, machine_name, environment_id FROM madengine_machines") == [("r1", "node-1", "env1")]
    assert ask("SELECT s.model, gpu, time, power_w, throttled FROM madengine_samples JOIN madengine_series s "
               "ON s.id = series_id ORDER BY time") == [
        ("bert", 0, 1000.0, 300.0, 0), ("bert", 0, 1000.5, 310.0, 1), ("bert", 1, 1001.0, 50.0, None)
    ]  # fmt: skip


def test_the_views_answer_the_usual_questions(tmp_path: Path) -> None:
    rows = [
        row("r1", "10"),
        row("r2", "14", started="2026-11-28T12:00:00Z"),
        row("r3", "", status="FAILURE", reason="x"),
    ]
    write_table(tmp_path / "perf.csv", rows)
    assert upload("perf.csv") == 0
    assert ask("SELECT started, value FROM madengine_history ORDER BY 1, 2")[-1] == ("2026-11-28T12:00:00Z", 14.0)
    assert ask("SELECT run_id, value FROM madengine_latest") == [("r2", 14.0)]
    assert ask("SELECT run_id, reason FROM madengine_failures") == [("r3", "x")]
    assert ask("SELECT day, n, lowest, mean, highest FROM madengine_daily") == [("2026-11-28", 2, 10.0, 12.0, 14.0)]
    assert ask("SELECT machine_name, n FROM madengine_hosts") == [("node-1", 2)]


def test_rows_that_agree_in_all_that_identifies_them_are_all_there_and_foreign_ones_too(tmp_path: Path) -> None:
    older = {"model": "old", "performance": "3", "metric": "s", "status": "SUCCESS"}
    write_table(tmp_path / "perf.csv", [row("r1", "1"), row("r1", "2"), older])
    assert upload("perf.csv") == upload("perf.csv") == 0
    assert ask("SELECT run_id, value FROM madengine_results ORDER BY value") == [("r1", 1.0), ("r1", 2.0), ("", 3.0)]


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "a\0b", "\ud800", "'; DROP TABLE madengine_results; --", "模型 🤖", "%s :x"]
)
def test_hostile_cells_are_stored_as_text(tmp_path: Path, text: str) -> None:
    from madengine.results.database.connection import connected
    from madengine.results.database.upload import upload
    from madengine.results.scan import ScanResult

    scan = ScanResult()
    scan.take_runs([row("r1", "inf", model=text, reason=text, args=text, run_duration="1e999")], [])
    with connected("sqlite:///results.db", {}, tmp_path) as engine:
        assert upload(scan, engine).new_rows == 1
        assert upload(scan, engine).new_rows == 0
    ((model, args, value, duration),) = ask("SELECT model, args, value, run_duration FROM madengine_results")
    stored = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "backslashreplace").decode()
    assert (model, args, value, duration) == (stored[:255], stored, None, None)


def test_a_database_of_an_older_madengine_gets_the_missing_columns_and_views(tmp_path: Path) -> None:
    write_table(tmp_path / "perf.csv", [row("r1")])
    assert upload("perf.csv") == 0
    ask("DROP VIEW madengine_latest")
    for name in ("madengine_history", "madengine_daily", "madengine_hosts", "madengine_failures"):
        ask(f"DROP VIEW {name}")
    ask("ALTER TABLE madengine_results DROP COLUMN variant")
    ask("ALTER TABLE madengine_results DROP COLUMN sample_hz")
    write_table(tmp_path / "perf.csv", [row("r2", variant="large", sample_hz="10.0")])
    assert upload("perf.csv") == 0
    assert ask("SELECT run_id, variant, sample_hz FROM madengine_latest ORDER BY 1") == [
        ("r1", "", None),
        ("r2", "large", 10.0),
    ]


def test_a_database_of_a_later_madengine_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(tmp_path / "perf.csv", [row("r1")])
    assert upload("perf.csv") == 0
    connection = sqlite3.connect("results.db")
    connection.execute("UPDATE madengine_schema SET version = 99")
    connection.commit()
    connection.close()
    assert upload("perf.csv") == 4
    assert "update madengine here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to=postgresql://me:canary-1@host/db"], "put it into the entry DATABASE of credential.json"),
        (["--to=mysql://me@host/db?password=canary-1"], "put it into the entry DATABASE of credential.json"),
        (["--to=oracle://me:canary-1@host/db"], "expected a URL: postgresql://"),
        (["--to=postgresql://host:port/db"], "not a database's URL"),
        (["--to=postgresql://me@host"], "names no database"),
        (["--to=sqlite://"], "names no file"),
        ([], "--to URL"),
    ],
)
def test_a_wrong_url_is_refused_and_no_password_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write_table(tmp_path / "perf.csv", [row("r1")])
    assert main(["upload", "perf.csv", *words]) == 4
    errors = capsys.readouterr().err
    assert message in errors
    assert "canary-1" not in errors


def test_an_unreachable_server_is_one_line_without_the_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "perf.csv", [row("r1")])
    monkeypatch.setenv("DATABASE_PASSWORD", "canary-2")
    assert main(["upload", "perf.csv", "--to=postgresql://me@127.0.0.1:1/db"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("madengine: error: postgresql+psycopg://me:***@127.0.0.1:1/db: ")
    assert "refused" in line
    assert "canary-2" not in line


def test_without_the_library_the_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "perf.csv", [row("r1")])
    monkeypatch.setitem(sys.modules, "sqlalchemy.exc", None)
    assert upload("perf.csv") == 4
    assert "pip install 'madengine[database]'" in capsys.readouterr().err


def test_two_uploaders_at_once_and_one_that_was_killed_leave_each_row_once(tmp_path: Path) -> None:
    rows = [row(f"r{number % 7}", str(number), started=f"2026-01-01T00:00:{number % 60:02}Z") for number in range(1500)]
    write_table(tmp_path / "perf.csv", rows)
    words = [sys.executable, "-m", "madengine", "upload", "perf.csv", "--to=sqlite:///results.db"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    killed = subprocess.Popen(words, env=environment)
    while not Path("results.db").exists() and killed.poll() is None:
        pass
    killed.kill()
    killed.wait()
    both = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    for process in both:
        assert process.stdout
        process.stdout.close()
    assert ask("SELECT COUNT(*), COUNT(DISTINCT value) FROM madengine_results") == [(1500, 1500)]


def test_compare_reads_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run_id, base in (("old", 100), ("new", 80)):
        rows = [row(run_id, str(base + number), started=f"2026-01-01T00:00:0{number}Z") for number in range(6)]
        write_table(tmp_path / f"{run_id}.csv", rows)
    assert upload("old.csv", "new.csv") == 0
    capsys.readouterr()
    assert main(["compare", "old.csv", "new.csv", "--json"]) == 5
    of_files, url = capsys.readouterr().out, "sqlite:///results.db"
    assert main(["compare", f"{url}#old", f"{url}#new", "--json"]) == 5
    expected = of_files.replace('"old.csv"', f'"{url}#old"').replace('"new.csv"', f'"{url}#new"')
    assert capsys.readouterr().out == expected
    assert main(["compare", "--by=run_id", url, "--values", "old", "new"]) == 5
    capsys.readouterr()
    assert main(["history", url]) == 0
    assert "tokens_per_second" in capsys.readouterr().out
    assert main(["compare", f"{url}#none", "new.csv"]) == 4
    assert main(["compare", "sqlite:///missing.db", "new.csv"]) == 4
    assert "no such database file" in capsys.readouterr().err
    assert not Path("missing.db").exists()
