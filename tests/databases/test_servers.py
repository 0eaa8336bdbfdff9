"""Uploads to real servers: what tests/unit/results/database/test_sql.py tries with SQLite."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from tests.databases.conftest import PASSWORD, Server
from tests.unit.results.database.results import row, write_run, write_table

CHECKOUT = Path(__file__).parents[2]
DRIVERS = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}


def environment(password: str = PASSWORD) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "DATABASE_PASSWORD": password}


def madengine(folder: Path, *words: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "madengine", *words]
    return subprocess.run(command, cwd=folder, env=environment(password), capture_output=True, text=True)


def ask(server: Server, query: str) -> list[tuple[Any, ...]]:
    engine = create_engine(make_url(server.url).set(drivername=DRIVERS[server.name], password=PASSWORD))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(query))
            return [tuple(one) for one in result] if result.returns_rows else []
    finally:
        engine.dispose()


@pytest.fixture(autouse=True)
def empty(server: Server) -> None:
    """Leave nothing of the test before."""
    for kind, names in (
        ("VIEW", ("history", "latest", "failures", "daily", "hosts")),
        ("TABLE", ("schema", "runs", "environments", "machines", "results", "series", "samples")),
    ):
        for name in names:
            ask(server, f"DROP {kind} IF EXISTS madengine_{name}")


def test_results_arrive_once_and_are_compared_and_an_older_schema_is_extended(server: Server, tmp_path: Path) -> None:
    write_run(tmp_path, "r1")
    hostile = row("r2", "8", model="m" * 300, reason="x" * 100_000, args="模型 🤖 \0 '; DROP TABLE madengine_runs; --")
    write_table(tmp_path / "perf.csv", [hostile, row("r3", "", status="FAILURE", reason="none")])
    for new in (3, 0):
        done = madengine(tmp_path, "upload", "runs", "perf.csv", f"--to={server.url}")
        assert done.stdout == f"3 runs, 3 rows ({new} new), 3 GPU samples\n", done.stderr
    assert ask(server, "SELECT run_id, value FROM madengine_latest WHERE value IS NOT NULL ORDER BY 1") == [
        ("r1", 10.5),
        ("r2", 8.0),
    ]
    assert ask(server, "SELECT n, mean FROM madengine_daily ORDER BY mean") == [(1, 8.0), (1, 10.5)]
    assert ask(server, "SELECT LENGTH(reason), args FROM madengine_results WHERE run_id = 'r2'") == [
        (100_000, "模型 🤖 \N{REPLACEMENT CHARACTER} '; DROP TABLE madengine_runs; --")
    ]
    assert ask(server, "SELECT gpu, power_w FROM madengine_samples ORDER BY time")[1] == (0, 310.0)
    for view in ("latest", "history", "daily", "hosts", "failures"):
        ask(server, f"DROP VIEW madengine_{view}")
    ask(server, "ALTER TABLE madengine_results DROP COLUMN sample_hz")
    write_table(tmp_path / "perf.csv", [row("r4", "9", sample_hz="10.0"), row("r5", "9", machine_name="node-2")])
    assert madengine(tmp_path, "upload", "perf.csv", f"--to={server.url}").returncode == 0
    assert ask(server, "SELECT sample_hz FROM madengine_latest WHERE run_id = 'r4'") == [(10.0,)]
    compared = madengine(tmp_path, "compare", f"{server.url}#r4", f"{server.url}#r5")
    assert (compared.returncode, "tokens_per_second" in compared.stdout) == (0, True), compared.stderr


def test_two_uploaders_and_a_killed_one_leave_each_row_once(server: Server, tmp_path: Path) -> None:
    rows = [row(f"r{number % 5}", str(number), started=f"2026-01-01T00:00:{number % 60:02}Z") for number in range(6000)]
    write_table(tmp_path / "perf.csv", rows)
    words = [sys.executable, "-m", "madengine", "upload", "perf.csv", f"--to={server.url}"]
    killed = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not _has_rows(server) and killed.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    # What is there of a killed upload are whole runs.
    assert all(count == 1200 for _, count in ask(server, "SELECT run_id, COUNT(*) FROM madengine_results GROUP BY 1"))
    both = [subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert ask(server, "SELECT COUNT(*), COUNT(DISTINCT value) FROM madengine_results") == [(6000, 6000)]


def _has_rows(server: Server) -> bool:
    try:
        return bool(ask(server, "SELECT run_id FROM madengine_results LIMIT 1"))
    except Exception:  # the table is not there yet
        return False


def test_a_wrong_password_is_one_line_without_it(server: Server, tmp_path: Path) -> None:
    write_table(tmp_path / "perf.csv", [row("r1")])
    began = time.monotonic()
    done = madengine(tmp_path, "upload", "perf.csv", f"--to={server.url}", password="canary-wrong")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "canary" not in done.stderr
    assert time.monotonic() - began < 15
