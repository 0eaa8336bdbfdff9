"""Documents in MongoDB, through pymongo and the wire protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from madengine.distributed_cli import main
from madengine.errors import MadengineError
from madengine.results.database.documents import documents_in, stored, unique_fields
from tests.unit.results.database.mongo_server import MongoServer, mongo_server
from tests.unit.results.database.results import row, write_table

WORDS = ("database", "--db=perf", "-c", "runs")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MongoServer]:
    with mongo_server() as one:
        monkeypatch.setenv("MONGO_HOST", "127.0.0.1")
        monkeypatch.setenv("MONGO_PORT", str(one.server_address[1]))
        monkeypatch.chdir(tmp_path)
        yield one


def test_each_run_keeps_its_rows_and_a_second_upload_changes_nothing(
    server: MongoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "perf.csv", [row("r1", "1.5"), row("r2", "2.5"), row("r2", "3")])
    for _ in range(2):
        assert main([*WORDS, "-f", "perf.csv", "--batch-size=2"]) == 0
        assert "stored 3 documents in perf.runs" in capsys.readouterr().out
    documents = server.collections["perf.runs"]
    assert [(one["run_id"], one["performance"]) for one in documents] == [("r1", 1.5), ("r2", 2.5), ("r2", 3)]
    assert documents[0]["started"] == "2026-11-28T10:00:00Z"
    assert documents[0]["reason"] is None
    assert isinstance(documents[0]["_meta_uploaded_at"], datetime)
    assert len(documents[0]["created_date"]) == 19
    assert server.batches == [2, 1, 2, 1]
    assert set(server.indexes) == {("model",), ("status",), ("pipeline",), ("run_id",), ("started",)}


def test_other_documents_are_told_apart_by_their_fields(server: MongoServer, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(
        json.dumps([{"model": "a", "timestamp": 1, "big": 2**70, "$x": {"y": [1]}}, {"model": "a", "timestamp": 2}])
    )
    assert main([*WORDS, "-f", "data"]) == 0
    assert [one["timestamp"] for one in server.collections["perf.runs"]] == [1, 2]
    assert server.collections["perf.runs"][0]["_x"] == {"y": [1]}
    assert server.collections["perf.runs"][0]["big"] == str(2**70)
    assert main([*WORDS, "-f", "data", "--no-upsert", "--no-index"]) == 0
    assert len(server.collections["perf.runs"]) == 4
    assert main([*WORDS, "-f", "data", "-k", "model,timestamp"]) == 0
    assert len(server.collections["perf.runs"]) == 4
    assert ("model", "timestamp") in server.indexes


def test_what_the_server_refuses_is_counted_and_named(
    server: MongoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "perf.csv", [row("r1"), row("r2", model="bad")])
    server.refused = "bad"
    assert main([*WORDS, "-f", "perf.csv"]) == 0
    assert capsys.readouterr().out.endswith("; 1 failed\n")
    write_table(tmp_path / "perf.csv", [row("r2", model="bad")])
    assert main([*WORDS, "-f", "perf.csv"]) == 1


def test_a_dry_run_connects_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_table(tmp_path / "perf.csv", [row("r1")])
    monkeypatch.setitem(sys.modules, "pymongo", None)
    assert main([*WORDS, "--csv-file", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out == "would store 1 documents in perf.runs, replacing those with the same _id\n"
    assert main([*WORDS, "-f", str(path)]) == 4
    assert "pip install 'madengine[database]'" in capsys.readouterr().err


def test_no_server_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_table(tmp_path / "perf.csv", [row("r1")])
    monkeypatch.setenv("MONGO_TIMEOUT_MS", "100")
    monkeypatch.setenv("MONGO_PORT", "1")
    assert main([*WORDS, "-f", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "refused" in line
    monkeypatch.setenv("MONGO_PORT", "many")
    assert main([*WORDS, "-f", str(path)]) == 4


@pytest.mark.parametrize(
    ("name", "text"), [("x.json", "{"), ("x.json", "[3]"), ("x.csv", ""), ("x.csv", "a,b\n"), ("x", "[" * 9999)]
)
def test_a_file_without_documents_is_an_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MadengineError):
        documents_in(tmp_path / name)


def test_cells_get_types(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(' a ,b,c,d,e,f\n1,1.5,"{""x"": [1]}",{broken,,nan\n')
    (document,) = documents_in(tmp_path / "x.csv")
    assert document == {"a": 1, "b": 1.5, "c": {"x": [1]}, "d": "{broken", "e": None, "f": "nan"}
    now = datetime(2026, 11, 28, 10, 0, tzinfo=timezone.utc)
    assert stored({"x": "\ud800"}, now) == {
        "x": "\\ud800",
        "created_date": "2026-11-28 10:00:00",
        "_meta_uploaded_at": now,
    }
    assert unique_fields([{"name": 1}, {"name": 2}]) == ("name",)
    assert unique_fields([{"name": 1}, {"name": 1}]) == ()
