"""Merging results: each row once, in any order, however often, from any copy; and what the tables say."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madengine import __version__
from madengine.config.manifest import Manifest
from madengine.distributed_cli import main
from madengine.errors import ConfigurationError
from madengine.files import write_json
from madengine.records import FAILURE, SKIPPED, SUCCESS, Gpu, GpuCost, Image, Metric, Model, RunResult
from madengine.results import perf_csv
from madengine.results.failed_hosts import failed_rows, note_failure
from madengine.results.merge import merge
from madengine.results.perf_csv import append_rows
from madengine.results.results_json import result_json, results_json
from madengine.results.rows import COLUMNS, result_rows
from madengine.results.statistics import lower_is_better, tables

CHECKOUT = Path(__file__).parents[3]
MODEL = Model(
    name="dummy", dockerfile="docker/dummy", scripts="scripts/dummy", n_gpus="1", args='--a "b,\nc"', tags=("x",)
)
IMAGE = Image(key="ci-dummy_ubuntu_amd", docker_image="ci-dummy_ubuntu_amd", registry_image="reg:5000/ci-dummy")
DONE = RunResult(
    run_id="r1",
    model=MODEL,
    image=IMAGE,
    status=SUCCESS,
    metrics=(Metric("100", "tokens/s"),),
    exit_code=0,
    run_duration=12.3456,
    started="2024-01-15T10:30:00Z",
    machine_name="gpu-node-01",
    gpus=(Gpu(vendor="AMD", index=3),),
    cost=GpuCost(peak_gpu_memory_mib=10.0, peak_gpu_memory_mib_per_gpu={3: 10.0}),
    environment_id="e1",
)
BROKEN = replace(DONE, status=FAILURE, reason="exit code 3", metrics=(), exit_code=3)


def leave(folder: Path, *results: RunResult, table: bool = True, document: bool = True) -> Path:
    """A node's folder as a run leaves it."""
    for run_id in {result.run_id for result in results}:
        mine = [result for result in results if result.run_id == run_id]
        machine = {"environment_id": "e1", "machine_name": mine[0].machine_name, "cpus": 8}
        if table:
            append_rows(folder / "perf.csv", [row for one in mine for row in result_rows(one, {})])
        if document:
            place = folder / "runs" / run_id / "results.json"
            write_json(place, results_json(run_id, mine, machine))
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def written(*results: RunResult) -> list[dict[str, str]]:
    """The rows as a perf.csv of these results has them."""
    with tempfile.TemporaryDirectory() as folder:
        append_rows(Path(folder, "perf.csv"), [row for one in results for row in result_rows(one, {})])
        return read(Path(folder, "perf.csv"))


def in_any_order(rows: Sequence[Mapping[str, str]]) -> list[list[tuple[str, str]]]:
    return sorted(sorted(row.items()) for row in rows)


def load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


# --- what is merged ---


def test_folders_of_hosts_become_one_table_and_one_document(tmp_path: Path) -> None:
    other = replace(DONE, machine_name="gpu-node-02", metrics=(Metric("110", "tokens/s"), Metric("9", "ms", "small")))
    leave(tmp_path / "in/r1/a", DONE)
    leave(tmp_path / "in/r1/b", other)
    merged = merge([tmp_path / "in"], tmp_path / "perf.csv", tmp_path / "results.json")
    assert (merged.added, merged.problems) == (3, ())
    assert in_any_order(read(tmp_path / "perf.csv")) == in_any_order(written(DONE, other))
    document = load(tmp_path / "results.json")
    assert document["schema_version"] == 1
    assert [(run["run_id"], run["environment"]["machine_name"], run["host"]) for run in document["runs"]] == [
        ("r1", "gpu-node-01", "a"),
        ("r1", "gpu-node-02", "b"),
    ]
    assert document["runs"][0]["results"] == [json.loads(json.dumps(result_json(DONE)))]


@pytest.mark.parametrize(("table", "document"), [(True, False), (False, True), (True, True)])
def test_a_table_without_its_document_and_a_document_without_its_table_are_enough(
    tmp_path: Path, table: bool, document: bool
) -> None:
    leave(tmp_path / "in", DONE, BROKEN, table=table, document=document)
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 2
    assert in_any_order(read(tmp_path / "perf.csv")) == in_any_order(written(DONE, BROKEN))


def test_a_document_adds_the_rows_that_the_table_beside_it_has_lost(tmp_path: Path) -> None:
    later = replace(DONE, started="2024-01-15T11:00:00Z")
    leave(tmp_path / "in", DONE, document=False)
    leave(tmp_path / "in", DONE, later, table=False)
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 2


def test_of_two_copies_the_row_of_a_table_counts_because_it_knows_its_environment(tmp_path: Path) -> None:
    leave(tmp_path / "in", DONE, table=False)
    append_rows(tmp_path / "in/perf.csv", result_rows(DONE, {"MAD_DEPLOYMENT_TYPE": "slurm", "BUILD_NUMBER": "7"}))
    merge([tmp_path / "in"], tmp_path / "perf.csv")
    (row,) = read(tmp_path / "perf.csv")
    assert (row["deployment_type"], row["build_number"]) == ("slurm", "7")


def test_the_same_run_in_two_places_is_one(tmp_path: Path) -> None:
    leave(tmp_path / "in/r1/a", DONE, BROKEN)
    shutil.copytree(tmp_path / "in/r1/a", tmp_path / "copy")
    merged = merge(
        [tmp_path / "copy", tmp_path / "in", tmp_path / "in/r1"], tmp_path / "perf.csv", tmp_path / "results.json"
    )
    assert merged.added == len(merged.rows) == len(read(tmp_path / "perf.csv")) == 2
    (run,) = load(tmp_path / "results.json")["runs"]
    assert len(run["results"]) == 2


def test_equal_rows_of_one_run_are_all_kept(tmp_path: Path) -> None:
    skipped = replace(DONE, status=SKIPPED, image=None, metrics=(), run_duration=0.0)
    leave(tmp_path / "in", skipped, skipped)
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 2
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 0


@pytest.mark.parametrize("dockerfile", ["docker/dummy.ubuntu.amd.Dockerfile", ""])
def test_a_model_that_was_not_built_is_collected_by_its_name(tmp_path: Path, dockerfile: str) -> None:
    model = Model(name="dummy", dockerfile=dockerfile, scripts="", n_gpus="")
    unbuilt = replace(BROKEN, model=model, image=None, reason="build: no such base image", exit_code=None)
    leave(tmp_path / "in", unbuilt, table=False)
    merged = merge([tmp_path / "in"], tmp_path / "perf.csv")
    assert merged.problems == ()
    assert read(tmp_path / "perf.csv") == written(unbuilt)


def test_nodes_of_one_name_do_not_hide_one_another(tmp_path: Path) -> None:
    leave(tmp_path / "in/r1/a", DONE)
    leave(tmp_path / "in/r1/b", replace(DONE, run_duration=12.347))
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 2


def test_rows_that_run_appended_itself_are_not_added_again(tmp_path: Path) -> None:
    leave(tmp_path, DONE, BROKEN)
    before = (tmp_path / "perf.csv").read_bytes()
    assert merge([tmp_path], tmp_path / "perf.csv", tmp_path / "results.json").added == 0
    assert (tmp_path / "perf.csv").read_bytes() == before
    assert len(load(tmp_path / "results.json")["runs"][0]["results"]) == 2


def test_a_name_that_is_no_utf_8_is_the_same_in_table_and_document(tmp_path: Path) -> None:
    odd = replace(DONE, model=replace(MODEL, args="\udcff \u2028 '\r\n\""))
    leave(tmp_path / "in", odd, replace(odd, machine_name="\udcff"))
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 2
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 0


def test_a_merged_document_can_be_merged_again_and_keeps_what_it_has(tmp_path: Path) -> None:
    leave(tmp_path / "one", DONE)
    leave(tmp_path / "two", replace(DONE, run_id="r2"))
    for name in ("one", "two"):
        merge([tmp_path / name], tmp_path / "perf.csv", tmp_path / "results.json")
    document = load(tmp_path / "results.json")
    assert [run["run_id"] for run in document["runs"]] == ["r1", "r2"]
    (tmp_path / "away").mkdir()
    shutil.move(tmp_path / "results.json", tmp_path / "away")
    assert merge([tmp_path / "away"], tmp_path / "new.csv", tmp_path / "results.json").added == 2
    assert load(tmp_path / "results.json") == document


def test_a_file_that_a_later_version_added_to_is_still_read(tmp_path: Path) -> None:
    leave(tmp_path / "in", DONE, table=False)
    path = tmp_path / "in/runs/r1/results.json"
    document = load(path)
    document["weather"] = "fine"
    document["results"][0]["mood"] = document["results"][0]["image"]["mood"] = "good"
    path.write_text(json.dumps(document))
    assert merge([tmp_path / "in"], tmp_path / "perf.csv", tmp_path / "results.json").added == 1
    assert load(tmp_path / "results.json")["runs"][0]["weather"] == "fine"


# --- always the same ---

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["r1", "r2"]),
        st.sampled_from(["node", "other", "h,\n"]),
        st.sampled_from(["12", "13.5", ""]),
        st.sampled_from(["2024-01-15T10:30:00Z", "2024-01-15T10:31:00Z"]),
        st.integers(0, 2),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 99))
def test_the_order_of_folders_does_not_matter_and_a_second_time_changes_nothing(steps: Any, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = set()
        for number, (run_id, machine, value, started, folder, table) in enumerate(steps):
            metrics = (Metric(value, "tokens/s"),) if value else ()
            result = replace(
                DONE, run_id=run_id, machine_name=machine, started=started, metrics=metrics, run_duration=float(number)
            )
            folders.add(leave(place / str(folder) / str(number), result, table=table).parent)
            if number % 2:
                folders.add(leave(place / "copies" / str(number), result, table=not table).parent)
        there, back = sorted(folders), random.Random(seed).sample(sorted(folders), len(folders))
        first = merge(there, place / "a.csv", place / "a.json")
        second = merge(back, place / "b.csv", place / "b.json")
        assert first == second
        assert len(first.rows) == first.added == len(steps)
        for suffix in ("csv", "json") if steps else ():
            assert (place / f"a.{suffix}").read_bytes() == (place / f"b.{suffix}").read_bytes()
        states = [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(place.glob("a.*"))]
        again = merge(back, place / "a.csv", place / "a.json")
        assert (again.added, again.rows) == (0, first.rows)
        assert [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(place.glob("a.*"))] == states
        for folder in back:
            merge([folder], place / "c.csv", place / "c.json")
        assert in_any_order(read(place / "c.csv") if steps else []) == in_any_order(
            read(place / "a.csv") if steps else []
        )
        assert not steps or (place / "c.json").read_bytes() == (place / "a.json").read_bytes()


def test_collects_at_the_same_time_add_every_row_once(tmp_path: Path) -> None:
    for number in range(20):
        leave(tmp_path / "in" / str(number), replace(DONE, run_id=f"r{number}"))
    code = "import sys; from madengine.distributed_cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "collect", str(tmp_path / "in")]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    running = [
        subprocess.Popen(
            words, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    messages = [one.communicate()[1] for one in running]
    assert [one.returncode for one in running] == [0] * 4, messages
    assert sorted(line.split(" new")[0] for text in messages for line in text.splitlines()) == ["rows: 0"] * 3 + [
        "rows: 20"
    ]
    assert len(read(tmp_path / "perf.csv")) == 20
    assert len(load(tmp_path / "results.json")["runs"]) == 20
    assert {path.name for path in tmp_path.iterdir()} == {"in", "perf.csv", "results.json"}


def test_collects_into_one_document_keep_all_runs(tmp_path: Path) -> None:
    for number in range(6):
        leave(tmp_path / "in" / str(number), *[replace(DONE, run_id=f"r{number}")] * 40)
    code = "import sys; from madengine.distributed_cli import main; sys.exit(main(sys.argv[1:]))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, "collect", f"in/{number}", f"--output={number}.csv", "--results=all.json"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(6)
    ]
    messages = [one.communicate()[1] for one in running]
    assert [one.returncode for one in running] == [0] * 6, messages
    assert [run["run_id"] for run in load(tmp_path / "all.json")["runs"]] == [f"r{number}" for number in range(6)]
    assert not list(tmp_path.glob(".*"))


def test_rows_are_found_again_in_a_table_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_csv, "_BLOCK", 100)
    for number in range(30):
        leave(tmp_path / "in" / str(number), replace(DONE, run_id=f"r-{number}", metrics=(Metric("1", 'a "b"\n'),)))
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 30
    for number in range(30):
        assert merge([tmp_path / "in" / str(number)], tmp_path / "perf.csv").added == 0
    leave(tmp_path / "new", replace(DONE, run_id="new"))
    assert merge([tmp_path / "new"], tmp_path / "perf.csv").added == 1
    assert len(read(tmp_path / "perf.csv")) == 31


def test_rows_without_a_run_id_are_told_apart_by_all_that_they_say(tmp_path: Path) -> None:
    header = ",".join(COLUMNS[:29])
    old = dict.fromkeys(COLUMNS[:29], "") | {"model": "old", "status": "SUCCESS", "metric": "m"}
    lines = [",".join((old | {"performance": value}).values()) for value in ("1", "2", "2")]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/perf.csv").write_text("\n".join([header, *lines, ""]))
    leave(tmp_path / "in/new", DONE)
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 4
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").added == 0


# --- what can't be read ---


def test_what_is_broken_is_named_and_costs_itself_only(tmp_path: Path) -> None:
    folder = leave(tmp_path / "in/good", DONE).parent
    leave(folder / "later", replace(DONE, run_id="r2"), table=False)
    later = folder / "later/runs/r2/results.json"
    later.write_text(later.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    leave(folder / "half", replace(DONE, run_id="r3"), table=False)
    half = folder / "half/runs/r3/results.json"
    half.write_text(half.read_text()[:100])
    leave(folder / "part", BROKEN, replace(DONE, run_id="r4"), replace(DONE, run_id="r4", metrics=()), table=False)
    part = folder / "part/runs/r4/results.json"
    part.write_text(part.read_text().replace('"name": "dummy"', '"name": 3', 1))
    (folder / "foreign").mkdir()
    (folder / "foreign/perf.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    merged = merge([folder, tmp_path / "empty", tmp_path / "gone"], tmp_path / "perf.csv")
    assert merged.added == 3
    problems = "\n".join(sorted(merged.problems)).replace(str(tmp_path), "")
    assert problems.splitlines() == [
        "/empty: no results here: no results.json of a run and no perf.csv",
        "/gone: no such folder",
        "/in/foreign/perf.csv: not a perf.csv: it has no column metric, model, performance, status",
        "/in/half/runs/r3/results.json:6:5: not JSON: unterminated string starting at",
        "/in/later/runs/r2/results.json: unsupported schema_version 2: madengine "
        f"{__version__} reads 1; update madengine here",
        "/in/part/runs/r4/results.json: results.0 of run r4 is broken: model: name: expected a string, got 3",
    ]


def test_a_row_that_was_cut_off_is_not_believed(tmp_path: Path) -> None:
    leave(tmp_path / "in", BROKEN, DONE, document=False)
    path = tmp_path / "in/perf.csv"
    path.write_text(path.read_text()[: path.read_text().rindex("tokens/s") - 2])
    merged = merge([tmp_path / "in"], tmp_path / "perf.csv")
    assert [row["status"] for row in read(tmp_path / "perf.csv")] == [FAILURE]
    assert merged.problems == (f"{path}:5: ignored: expected {len(COLUMNS)} cells as in the header, got 18",)


@pytest.mark.parametrize("document", ["[]", '{"results": []}', '{"schema_version": "1.2", "results": {}}'])
def test_results_of_another_program_are_passed_over(tmp_path: Path, document: str) -> None:
    leave(tmp_path / "in", DONE)
    (tmp_path / "in/results.json").write_text(document)
    assert merge([tmp_path / "in"], tmp_path / "perf.csv").problems == ()


def test_what_models_leave_is_not_looked_at(tmp_path: Path) -> None:
    leave(tmp_path / "in", DONE)
    left = tmp_path / "in/runs/r1/dummy/run_directory"
    left.mkdir(parents=True)
    (left / "perf.csv").write_text("model,performance,metric\na,1,b\n")
    (left / "results.json").write_text("{")
    merged = merge([tmp_path / "in"], tmp_path / "perf.csv")
    assert (merged.added, merged.problems) == (1, ())


@pytest.mark.parametrize("results", [True, False])
def test_a_models_workspace_is_not_looked_at_if_its_run_was_killed(tmp_path: Path, results: bool) -> None:
    leave(tmp_path / "in", DONE, document=results)
    left = tmp_path / "in/runs/r1/dummy"
    left.mkdir(parents=True)
    (left / "dummy.run.live.log").touch()
    leave(left, replace(DONE, run_id="forged"))
    merged = merge([tmp_path / "in"], tmp_path / "perf.csv")
    assert [row["run_id"] for row in merged.rows] == ["r1"]
    assert merged.problems == ()


@pytest.mark.parametrize("name", ["perf.csv", "results.json"])
def test_a_pipe_among_the_results_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    leave(tmp_path / "in", DONE)
    (tmp_path / "in/other").mkdir()
    os.mkfifo(tmp_path / "in/other" / name)
    merged = merge([tmp_path / "in"], tmp_path / "perf.csv")
    assert (merged.added, merged.problems) == (1, (f"{tmp_path}/in/other/{name}: not a regular file",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("perf.csv", "a,b\n", "not a perf.csv: its first line has no column"),
        ("perf.csv", ",".join(COLUMNS[:29]) + "\n", "has no column run_id, so its results can't be identified"),
        ("perf.csv", ",".join(COLUMNS) + '\nr1,"', "not CSV from here on"),
        ("results.json", "{", "not JSON"),
        ("results.json", "[]", "not a collection of runs"),
        ("results.json", '{"schema_version": 2, "runs": []}', "update madengine here"),
        ("results.json", '{"schema_version": 1, "run_id": "r", "environment": {}, "results": []}', "not a collection"),
    ],
)
def test_an_output_that_cannot_be_added_to_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    leave(tmp_path / "in", DONE)
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        merge([tmp_path / "in"], tmp_path / "perf.csv", tmp_path / "results.json")
    assert (tmp_path / name).read_text() == text
    assert {path.name for path in tmp_path.iterdir()} == {"in", name}


# --- hosts on which nothing ran ---


def test_a_host_that_could_not_run_costs_a_row_of_each_model() -> None:
    second = replace(MODEL, name="other")
    images = (IMAGE, replace(IMAGE, key="nvidia", docker_image="nv"), replace(IMAGE, key="o", docker_image="o"))
    manifest = Manifest(images=images, models={IMAGE.key: MODEL, "nvidia": MODEL, "o": second})
    rows = failed_rows(manifest, "r1", "gpu-node-07", "ssh: connection refused")
    assert [
        tuple(
            row[name] for name in ("model", "docker_image", "status", "machine_name", "run_id", "reason", "performance")
        )
        for row in rows
    ] == [
        ("dummy", "", FAILURE, "gpu-node-07", "r1", "ssh: connection refused", ""),
        ("other", "reg:5000/ci-dummy", FAILURE, "gpu-node-07", "r1", "ssh: connection refused", ""),
    ]
    assert rows == failed_rows(manifest, "r1", "gpu-node-07", "ssh: connection refused")


def test_a_model_of_an_older_manifest_is_called_after_its_image() -> None:
    (row,) = failed_rows(Manifest(images=(IMAGE,), models={}), "r1", "h", "down")
    assert (row["model"], row["status"]) == ("ci-dummy_ubuntu_amd", FAILURE)


def test_a_failure_is_noted_for_the_models_that_have_no_row_and_once(tmp_path: Path) -> None:
    second = replace(MODEL, name="other")
    other = replace(IMAGE, key="o", docker_image="o")
    manifest = Manifest(images=(IMAGE, other), models={IMAGE.key: MODEL, "o": second})
    leave(tmp_path / "in/h", DONE, replace(DONE, run_id="r0", model=second, image=other))
    for _ in range(2):
        note_failure(tmp_path / "in/h", manifest, "r1", "h", "lost")
    rows = read(tmp_path / "in/h/perf.csv")
    assert [(row["model"], row["run_id"], row["status"], row["reason"]) for row in rows[2:]] == [
        ("other", "r1", FAILURE, "lost")
    ]


# --- tables ---


def values(*texts: str, **changes: Any) -> list[dict[str, str]]:
    return [
        row
        for number, text in enumerate(texts)
        for row in result_rows(replace(DONE, run_id=f"r{number}", metrics=(Metric(text, "tokens/s"),), **changes), {})
    ]


def test_the_table_says_n_median_spread_and_best_of_each_model_and_host() -> None:
    rows = values("100", "120.0", "110") + values("7", "8", machine_name="gpu-node-02")
    assert tables(rows) == (
        "tokens/s (higher is better)\n"
        "\n"
        "model    host           n    median    95 % interval    spread %    best\n"
        "-------  -----------  ---  --------  ---------------  ----------  ------\n"
        "dummy    gpu-node-01    3       110                         18.2   120.0\n"
        "dummy    gpu-node-02    2       7.5                         13.3       8"
    )


def test_a_single_value_has_no_spread_and_a_failed_one_no_figure() -> None:
    text = tables([*values("100"), *result_rows(BROKEN, {}), *result_rows(BROKEN, {})])
    assert text.splitlines()[4] == "dummy    gpu-node-01    1       100                                  100"
    assert text.splitlines()[6:] == [
        "failed host    model      n  reason",
        "-------------  -------  ---  -----------",
        "gpu-node-01    dummy      2  exit code 3",
    ]


def test_two_images_of_a_model_are_two_lines() -> None:
    text = tables(values("1") + values("2", image=replace(IMAGE, registry_image="reg:5000/ci-dummy_nv")))
    assert [line.split("  ")[0] for line in text.splitlines()[4:]] == [
        "dummy docker_image=reg:5000/ci-dummy",
        "dummy docker_image=reg:5000/ci-dummy_nv",
    ]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"image_digest": "sha256:" + 64 * "f"}, ["image_digest=", "image_digest=sha256:ffffffffffff…"]),
        ({"model": replace(MODEL, args="--batch 2")}, ["args=--batch 2", "args=--batch 4"]),
        ({"n_gpus": "2"}, ["n_gpus=2", "n_gpus=4"]),
    ],
)
def test_what_is_not_one_series_is_not_one_median(changes: dict[str, Any], names: list[str]) -> None:
    first = {"model": replace(MODEL, args="--batch 4"), "n_gpus": "4"}
    text = tables(values("1", "2", **first) + values("3", **{**first, **changes}))
    assert [line.split("  ")[0] for line in text.splitlines()[4:]] == [f"dummy {name}" for name in names]


def test_variants_of_a_result_are_lines_of_their_own() -> None:
    metrics = tuple(Metric(str(size), "tokens/s", "", {"batch": str(size)}) for size in (8, 16))
    text = tables(result_rows(replace(DONE, metrics=metrics), {}))
    assert [line.split("  ")[0] for line in text.splitlines()[4:]] == ["dummy batch=16", "dummy batch=8"]


def test_the_variants_of_results_json_come_before_a_table_without_that_column(tmp_path: Path) -> None:
    metrics = tuple(Metric(str(size), "tokens/s", "", {"batch": str(size)}) for size in (8, 16))
    result = replace(DONE, metrics=metrics)
    write_json(tmp_path / "results.json", results_json("r1", [result], {}))
    (tmp_path / "perf.csv").write_text(",".join(name for name in COLUMNS if name != "variant") + "\n")
    append_rows(tmp_path / "perf.csv", result_rows(result, {"pipeline": "x"}))
    output = tmp_path / "out" / "perf.csv"
    assert merge([tmp_path], output).added == 2
    with output.open(newline="") as file:
        assert [(row["variant"], row["batch"]) for row in csv.DictReader(file)] == [
            ("batch=16", "16"),
            ("batch=8", "8"),
        ]


def test_six_values_or_more_have_an_interval_of_their_median() -> None:
    line = tables(values("6", "5", "4.0", "3", "2", "1")).splitlines()[-1]
    assert line.split()[2:] == ["6", "3.5", "1", "…", "6", "142.9", "6"]
    assert "2 … 8 " in tables(values(*map(str, range(1, 10))))


def test_each_metric_has_a_table_and_a_lower_latency_is_better() -> None:
    rows = result_rows(replace(DONE, metrics=(Metric("5", "latency_ms"), Metric("5", "tokens/s"))), {})
    rows += result_rows(replace(DONE, run_id="r2", metrics=(Metric("4", "latency_ms"), Metric("4", "tokens/s"))), {})
    text = tables(rows)
    latency, rate = text.split("\n\n")[1], text.split("\n\n")[3]
    assert (text.count("lower is better"), text.count("higher is better")) == (1, 1)
    assert (latency.split()[-1], rate.split()[-1]) == ("4", "5")


def test_half_of_two_exact_numbers_is_exact() -> None:
    rows = values("0.1", "0.2")
    assert "0.15" in tables(rows).split()


def test_a_median_of_zero_has_no_spread() -> None:
    assert tables(values("-1", "0", "1")).splitlines()[4].split() == ["dummy", "gpu-node-01", "3", "0", "1"]


def test_a_table_stays_on_its_lines_and_does_not_steer_the_terminal() -> None:
    row = dict(values("1")[0], model="a\x1b[2J\nb")
    failed = dict(result_rows(BROKEN, {})[0], reason="x" * 500)
    text = tables([row, failed])
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize(
    "metric",
    ["latency", "step_time", "p99_latency_ms", "ms/token", "seconds", "eval_loss", "TTFT", "time_per_step", "s"],
)
def test_times_and_losses_are_better_when_lower(metric: str) -> None:
    assert lower_is_better(metric)


@pytest.mark.parametrize(
    "metric",
    ["tokens/s", "samples_per_second", "tokens_per_ms", "items", "params", "accuracy", "lossless_ratio", "", "GB/sec"],
)
def test_rates_and_everything_else_are_better_when_higher(metric: str) -> None:
    assert not lower_is_better(metric)


# --- the command line ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_verb_merges_shows_tables_and_says_what_was_new(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(here / "a", DONE)
    leave(here / "b", replace(BROKEN, machine_name="gpu-node-02"))
    assert main(["collect", "a", "b"]) == 0
    output = capsys.readouterr()
    assert "tokens/s (higher is better)" in output.out
    assert "gpu-node-02" in output.out
    assert output.err == "rows: 2 new in perf.csv; 2 collected; runs: results.json\n"
    assert main(["collect", "a", "b"]) == 0
    assert capsys.readouterr().err == "rows: 0 new in perf.csv; 2 collected; runs: results.json\n"


def test_the_verb_takes_other_files_and_exits_1_where_something_was_not_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(here / "a", DONE)
    assert main(["collect", "a", "gone", "--output", "out/all.csv", "--results", "out/all.json"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "gone: no such folder"
    assert {path.name for path in (here / "out").iterdir()} == {"all.csv", "all.json"}


def test_the_verb_without_a_single_result_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "a").mkdir()
    assert main(["collect", "a"]) == 1
    assert capsys.readouterr() == ("", "a: no results here: no results.json of a run and no perf.csv\n")
    assert [path.name for path in here.iterdir()] == ["a"]


# --- the id of a run ---


@pytest.mark.parametrize("run_id", [".", "..", "a/b", "-a", "a b", "é", "a" * 101, "a\n"])
def test_a_run_id_that_is_no_plain_name_is_refused(here: Path, run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", f"--run-id={run_id}"])
    assert stopped.value.code == 4
    assert f"invalid run id {run_id[:60]!r}" in capsys.readouterr().err


def test_a_run_id_whose_results_are_there_is_refused_before_anything_is_built(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(here, DONE)
    assert main(["full", "--run-id", "r1"]) == 4
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("madengine: error: runs/r1: holds the results of an earlier run; use another --run-id")
    )
