"""perf.csv: no row lost, none half written, no cell changed."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import madengine
from madengine.errors import ConfigurationError, MadengineError
from madengine.files.locks import locked
from madengine.records import FAILURE, SKIPPED, SUCCESS, Metric
from madengine.results.perf_csv import append_rows, check_perf_csv, succeeded_models
from madengine.results.rows import result_rows
from tests.unit.results.samples import C_HEADER, DONE, FAILED, HEADER, J_HEADER, MODEL, SEVERAL, V2_HEADER, one


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{(name or "").strip(): cell for name, cell in row.items()} for row in csv.DictReader(file, strict=True)]


def test_a_new_file_gets_the_header_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "new" / "perf.csv"
    append_rows(path, result_rows(DONE, {}))
    assert path.read_text().startswith(HEADER)
    assert read(path) == [one(DONE)]


def test_an_empty_file_gets_the_header_once(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.touch()
    append_rows(path, result_rows(DONE, {}))
    append_rows(path, result_rows(FAILED, {}) + result_rows(DONE, {}))
    assert path.read_text().count("model,n_gpus") == 1
    assert read(path) == [one(DONE), one(FAILED), one(DONE)]


VARIANT = replace(DONE, metrics=(Metric("1", "ms", "", {"batch": "8"}), Metric("2", "ms", "", {"batch": "16"})))
OTHER = replace(DONE, metrics=(Metric("3", "ms", "", {"batch": "8", 'a "b"': "x,y\n"}),))


def test_a_new_file_gets_the_further_columns_of_several_results(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    assert append_rows(path, result_rows(VARIANT, {}))
    assert path.read_text().startswith(HEADER[:-1] + ",batch\n")
    assert [(row["batch"], row["variant"]) for row in read(path)] == [("8", "batch=8"), ("16", "batch=16")]


def test_a_file_of_this_run_is_widened_and_another_is_not(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    assert append_rows(path, result_rows(FAILED, {}), may_widen=True)
    assert not append_rows(path, result_rows(VARIANT, {}))
    assert read(path)[0] == one(FAILED)
    assert not append_rows(path, result_rows(OTHER, {}), may_widen=True)
    assert read(path) == [
        {**row, "batch": row.get("batch", ""), 'a "b"': row.get('a "b"', "")}
        for row in (one(FAILED), *({**row, "batch": ""} for row in result_rows(VARIANT, {})), one(OTHER))
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["perf.csv"]


def test_a_file_that_ends_inside_a_cell_is_not_widened(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    append_rows(path, result_rows(DONE, {}))
    path.write_text(path.read_text() + 'cut,"off')
    append_rows(path, result_rows(VARIANT, {}), may_widen=True)
    assert [row["variant"] for row in read(path)[-2:]] == ["batch=8", "batch=16"]


def test_rows_of_others_that_wait_for_a_file_that_is_widened_are_in_it(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    append_rows(path, result_rows(DONE, {}))
    with ThreadPoolExecutor(8) as pool, locked(path):
        for number in range(8):
            result = replace(OTHER, run_id=f"o{number}") if number % 2 else replace(DONE, run_id=f"o{number}")
            pool.submit(append_rows, path, result_rows(result, {}), bool(number % 2))
        time.sleep(0.1)
    rows = read(path)
    assert sorted(row["run_id"] for row in rows) == ["o0", "o1", "o2", "o3", "o4", "o5", "o6", "o7", "r1"]
    assert all(row["batch"] == ("8" if row["metric"] == "ms" else "") for row in rows)


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    append_rows(tmp_path / "perf.csv", [])
    assert not (tmp_path / "perf.csv").exists()


@pytest.mark.parametrize("header", [C_HEADER, J_HEADER, V2_HEADER, HEADER])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_known_header_is_appended_to_by_column_name(tmp_path: Path, header: str, end: str, mark: str) -> None:
    path = tmp_path / "perf.csv"
    before = (mark + header[:-1] + end).encode()
    path.write_bytes(before)
    check_perf_csv(path)
    append_rows(path, result_rows(DONE, {}))
    assert path.read_bytes().startswith(before)
    with path.open(encoding="utf-8-sig", newline="") as file:
        names, cells = csv.reader(file)
    assert dict(zip(map(str.strip, names), cells, strict=True)) == {
        name: cell for name, cell in one(DONE).items() if name in map(str.strip, names)
    }


def test_columns_are_matched_by_name_in_any_order_and_foreign_ones_stay_empty(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_text('status,"note",metric,mine,performance,model\n')
    check_perf_csv(path)
    append_rows(path, result_rows(SEVERAL, {}))
    assert path.read_text().splitlines()[1:] == ["SUCCESS,n,ms,,1,dummy_small", "FAILURE,,ms,,,dummy_large"]


@pytest.mark.parametrize("row", ["a,1,x,SUCCESS", "a,1"])
def test_a_missing_last_newline_is_repaired(tmp_path: Path, row: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(f"model,performance,metric,status\n{row}")
    append_rows(path, result_rows(DONE, {}))
    assert path.read_text() == f"model,performance,metric,status\n{row}\ndummy,007,tokens/s,SUCCESS\n"


@given(data=st.data(), reason=st.text('"\n,x', max_size=6) | st.just('"' * 5000) | st.just("x\n" * 5000))
def test_a_row_after_one_that_was_cut_off_anywhere_is_seen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, reason: str
) -> None:
    path = tmp_path_factory.mktemp("cut") / "perf.csv"
    append_rows(path, result_rows(DONE, {}) + result_rows(replace(FAILED, reason=reason), {}))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(len(HEADER), len(content)))])
    append_rows(path, result_rows(SEVERAL, {}))
    rows = read(path)
    assert rows[-len(result_rows(SEVERAL, {})) :] == [
        {name: row.get(name, "") for name in rows[0]} for row in result_rows(SEVERAL, {})
    ]
    assert [row["run_id"] for row in rows].count(SEVERAL.run_id) >= len(result_rows(SEVERAL, {}))


@pytest.mark.parametrize(
    "content",
    [
        b"name,age\nx,1\n",
        b"model,performance,metric\na,1,x\n",
        b"Model,Performance,Metric,Status\n",
        b"model;performance;metric;status\n",
        b"model\tperformance\tmetric\tstatus\n",
        b"\n",
        b"\nmodel,performance,metric,status\n",
        b"model,performance,metric,status\ra,1,x,SUCCESS\r",
        b"\xff\xfem\x00o\x00d\x00e\x00l\x00",
        b"\x00" * 100,
        b"%PDF-1.4",
        b"model,performance,metric,status," + b"x" * 70_000 + b"\n",
        b'{"model": 1}\n',
    ],
)
def test_an_unknown_header_is_refused_and_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    for attempt in (check_perf_csv, append_done):
        with pytest.raises(ConfigurationError) as error:
            attempt(path)
        assert str(error.value).startswith(f"{path}: not a perf.csv")
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content


def append_done(path: Path) -> None:
    append_rows(path, result_rows(DONE, {}))


TRICKY = [
    "007", "1e5", "0x10", "8", "+1", "sha256:00e5", "TRUE", "nan", "-", " padded ", 'say "hi"', '"', "a,b", "a\nb",
    "a\r\nb", "a\rb", "größe ☃ 𝔘", "=1+1", "\t", "'", "\\", "", "\\n", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("header", [HEADER, J_HEADER])
def test_every_cell_is_kept_as_text_exactly(tmp_path: Path, header: str) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(header)
    for text in TRICKY:
        append_rows(path, result_rows(replace(DONE, model=replace(MODEL, args=text), git_commit=text), {}))
    assert [(row["args"], row["git_commit"]) for row in read(path)] == [(text, text) for text in TRICKY]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), min_size=1, max_size=4
    )
)
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "perf.csv"
    append_rows(path, [{"model": text, "args": text} for text in texts])
    assert [(row["model"], row["args"]) for row in read(path)] == [(text, text) for text in texts]


def test_a_name_that_utf8_cannot_hold_loses_no_row_and_breaks_no_file(tmp_path: Path) -> None:
    append_rows(tmp_path / "perf.csv", result_rows(replace(DONE, machine_name="a\ud83d", dataname="b\udcff"), {}))
    (row,) = read(tmp_path / "perf.csv")
    assert (row["machine_name"], row["dataname"]) == ("a\\ud83d", "b\\udcff")


def bytes_read() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


def test_a_million_rows_are_neither_read_nor_written_again(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_bytes(HEADER.encode() + b"dummy,1,1,1\n" * 1_000_000)
    size, inode, before = path.stat().st_size, path.stat().st_ino, bytes_read()
    check_perf_csv(path)
    append_rows(path, result_rows(DONE, {}))
    assert bytes_read() - before < 256 * 1024
    assert path.stat().st_ino == inode
    with path.open("rb") as file:
        file.seek(size)
        assert file.read().startswith(b"dummy,4,1,4,fp16,")


APPEND_FIFTY = """
import sys
from pathlib import Path
from madengine.results.perf_csv import append_rows as append
for number in range(50):
    append(Path(sys.argv[1]), [{"model": sys.argv[2], "args": "x" * 9000 + str(number), "status": "SUCCESS"}])
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(Path(madengine.__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_processes_that_append_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    writers = [python(APPEND_FIFTY, str(path), name) for name in ("a", "b", "c")]
    outputs = [writer.communicate(timeout=60) for writer in writers]
    assert [(writer.returncode, *text) for writer, text in zip(writers, outputs, strict=True)] == [(0, "", "")] * 3
    rows = read(path)
    assert len(rows) == 150
    assert {row["status"] for row in rows} == {"SUCCESS"}
    for name in ("a", "b", "c"):
        assert [row["args"].lstrip("x") for row in rows if row["model"] == name] == [str(n) for n in range(50)]


APPEND_ONE = """
import sys
from pathlib import Path
from madengine.results.perf_csv import append_rows as append
print("ready", flush=True)
append(Path(sys.argv[1]), [{"model": "late", "performance": "1", "metric": "x", "status": "SUCCESS"}])
"""


def test_a_writer_waits_for_the_one_that_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    with locked(path) as handle:
        writer = python(APPEND_ONE, str(path))
        assert writer.stdout and writer.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.write(handle, b"status,model,performance,metric\n")
    assert writer.communicate(timeout=60) == ("", "")
    assert path.read_text() == "status,model,performance,metric\nSUCCESS,late,1,x\n"


APPEND_BEYOND_THE_LIMIT = """
import resource, sys
from pathlib import Path
from madengine.errors import MadengineError
from madengine.results.perf_csv import append_rows as append
path, room = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    append(path, [{"model": "x" * 1000, "status": "SUCCESS"}] * 2)
except MadengineError as error:
    print(error)
"""


@pytest.mark.parametrize("before", ["", HEADER, HEADER + "a,1\n", HEADER + "a,1"])
@pytest.mark.parametrize("room", [0, 1, 500, 1500])
def test_where_the_space_ends_no_half_row_stays_behind(tmp_path: Path, before: str, room: int) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(before)
    writer = python(APPEND_BEYOND_THE_LIMIT, str(path), str(len(before) + room))
    output, complaint = writer.communicate(timeout=60)
    assert (writer.returncode, complaint) == (0, "")
    assert output == f"{path}: can't be written: File too large; free some space or name another file with --output\n"
    assert path.read_text() == before


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "perf.csv"
    with pytest.raises(ConfigurationError, match=re.escape(f"{path}: can't be written: ")):
        check_perf_csv(path)
    with pytest.raises(MadengineError, match=re.escape(f"{path}: can't be written: ")):
        append_rows(path, result_rows(DONE, {}))


def test_check_makes_a_missing_directory_and_no_file(tmp_path: Path) -> None:
    check_perf_csv(tmp_path / "a" / "b" / "perf.csv")
    assert list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "b"]
    assert not list((tmp_path / "a" / "b").iterdir())


def test_check_leaves_a_known_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    path.write_text(V2_HEADER + "a")
    check_perf_csv(path)
    assert path.read_text() == V2_HEADER + "a"


def test_check_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ConfigurationError, match=f"{re.escape(str(path))}: can't be written: it is not a regular"):
            check_perf_csv(path)


CHECK_AS_NOBODY = """
import os, sys
from pathlib import Path
from madengine.errors import ConfigurationError
from madengine.results.perf_csv import check_perf_csv as check
if os.getuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    try:
        check(Path(name))
    except ConfigurationError as error:
        print(error)
"""


def test_check_refuses_what_the_user_may_not_write() -> None:
    output, complaint = python(CHECK_AS_NOBODY, "/proc/perf.csv", "/proc/version", "/proc/no/perf.csv").communicate()
    assert complaint == ""
    assert [line.partition(": can't be written: ")[0] for line in output.splitlines()] == [
        "/proc/perf.csv",
        "/proc/version",
        "/proc/no/perf.csv",
    ]


def test_an_image_has_succeeded_where_every_row_of_one_of_its_runs_did(tmp_path: Path) -> None:
    runs = {
        "all": (SUCCESS, SUCCESS),
        "half": (SUCCESS, FAILURE),
        "skipped": (SKIPPED,),
        "": (SUCCESS,),
    }
    lines = [f"m,1,x,{status},r1,{digest}" for digest, statuses in runs.items() for status in statuses]
    lines += [f"m,1,x,{status},r{number},later" for number, status in enumerate((FAILURE, SUCCESS))]
    path = tmp_path / "perf.csv"
    path.write_text("\n".join(["model,performance,metric,status,run_id,image_digest", *lines, ""]))
    assert succeeded_models(path) == {"all", "later"}


def test_a_long_cell_does_not_keep_a_table_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "perf.csv"
    append_rows(path, [{"image_digest": "a", "run_id": "1", "status": SUCCESS, "args": "x" * 200_000}])
    csv.field_size_limit(131_072)  # as Python sets it
    assert succeeded_models(path) == {"a"}


def test_nothing_has_succeeded_by_a_table_that_is_not_there(tmp_path: Path) -> None:
    assert succeeded_models(tmp_path / "none.csv") == set()


def test_a_table_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}: can't be read as a perf.csv: "):
        succeeded_models(tmp_path)
