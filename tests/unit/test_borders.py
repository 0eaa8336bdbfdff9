"""What comes from a container, node, pod, engine or tool is a checked value, or an error of its kind; nothing else.

`just fuzz cases=100000` tries as many in all.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from madengine.config.manifest import Manifest
from madengine.deploy.kubernetes.api import ConfigMap, Refused
from madengine.deploy.kubernetes.objects import ConfigMapData, events_of, jobs_of, maps_of, pods_of
from madengine.deploy.kubernetes.pod import Pod, describe_pod
from madengine.deploy.kubernetes.remains import parse_report, read_workspace
from madengine.deploy.kubernetes.reports import read_reports
from madengine.deploy.names import checked_run_id
from madengine.deploy.returned_files import set_aside_broken_files
from madengine.deploy.ssh import node
from madengine.deploy.ssh.archive import pack_to_bytes
from madengine.deploy.ssh.examination import parse_examination
from madengine.deploy.ssh.host_result import (
    HostOutcome,
    failure_reason,
    host_exit_code,
    host_rows,
    host_summary,
    recorded_manifest,
)
from madengine.deploy.ssh.transfer import UnusableError, is_unpacked
from madengine.errors import ConfigurationError, MadengineError, RunError
from madengine.files import create_untrusted, inner_path, open_untrusted, parse_json
from madengine.programs import amd_smi, nvidia_smi, rocm_smi
from madengine.programs.engine_answers import container_state, image_records, labelled_containers
from madengine.programs.engine_errors import explain_engine_error
from madengine.records import Image, Model
from madengine.results.merge import merge
from madengine.results.metrics import MetricScan, read_multiple_results
from madengine.results.numbers import is_number
from madengine.results.perf_csv import Table, append_rows
from madengine.results.results_json import results_json
from madengine.results.rows import COLUMNS, result_rows
from madengine.results.table import printable
from madengine.run.entry_json import read_entry
from tests.strategies import JSON, TEXTS, altered, altered_bytes
from tests.unit.results.samples import DONE

SMI = Path(__file__).parents[1] / "data/smi"
BORDERS = 20
CASES = int(os.environ.get("fuzz_cases", "0"))  # noqa: SIM112 # as `just fuzz cases=N` hands it on
fuzzed = settings(
    max_examples=-(-CASES // BORDERS) if CASES else 150,
    deadline=None,
    derandomize=not CASES and os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ENTRY = {
    "exit_code": 0, "timed_out": False, "out_of_memory": False, "started": 1.5, "ended": 2.5, "log_complete": True,
    "failed_hook": None, "stopped": False, "log_bytes": 21,
}  # fmt: skip
MODEL = Model("m", "docker/m", "scripts/m", multiple_results="r.csv")
POD = Pod("space", "m-0", "m", "r1", Image("ci-m", "ci-m"), MODEL)
RUN = {**results_json("r1", [DONE], {"machine_name": "n1"}), "pod": {"job": "m", "index": 0, "nodes": 1}}


def table() -> bytes:
    with folder() as here:
        append_rows(here / "perf.csv", result_rows(DONE, {}))
        return (here / "perf.csv").read_bytes()


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def content(valid: Any) -> st.SearchStrategy[bytes]:
    """The valid content with other values, or other bytes, or anything."""
    return altered(valid).map(as_bytes) | altered_bytes(as_bytes(valid)) | st.binary(max_size=60)


def is_line(text: str) -> bool:
    return text == printable(text)


TABLE = table()
LOG = b"step 1\rperformance: 12.5 tokens/s\n{'train_samples_per_second': 3}\n"
PARTS = ["..", ".", "/", "a", "link", "out", "loop", "f", "\0", "x" * 300]
JOB = {"image": "ci-m", "timeout": 5, "nodes": 1, "gpus": 0, "dataname": "", "data_provider_type": ""}

# --- containers ---


@fuzzed
@given(text=content(ENTRY))
@example(text=b'{"exit_code": 0, "started": 1e999, "ended": 1}')
@example(text=b'{"exit_code": %s}' % (b"9" * 4000))
@example(text=b"[" * 60_000)
def test_entry_json(text: bytes) -> None:
    with folder() as here:
        (here / "entry.json").write_bytes(text)
        entry, problem = read_entry(here)
    assert is_line(problem)
    assert not (entry and problem)
    assert not entry or 0 <= entry["exit_code"] <= 255


@fuzzed
@given(text=altered_bytes(b'model,performance,metric,note\na,1.5,t/s,x\nb,2,t/s,"y\nz"\n') | st.binary(max_size=60))
def test_multiple_results(text: bytes) -> None:
    with folder() as here:
        (here / "r.csv").write_bytes(text)
        with suppress(RunError):
            for metric in read_multiple_results(here, "r.csv"):
                assert metric.performance == "" or is_number(metric.performance)


@fuzzed
@given(
    chunks=st.lists(altered_bytes(b"step 1\rperformance: 12.5 tokens/s\n{'train_samples_per_second': 3}\n"), max_size=3)
)
def test_a_log(chunks: list[bytes]) -> None:
    scan = MetricScan(b"mark")
    for chunk in (b"x mark\n", *chunks):
        scan.feed(chunk)
    scan.finish()
    assert scan.metric is None or is_number(scan.metric.performance)
    assert len(scan.problem) < 100


@fuzzed
@given(
    path=st.lists(
        st.sampled_from(["..", ".", "/", "a", "link", "out", "loop", "f", "\0", "x" * 300]) | TEXTS, max_size=4
    ),
)
@example(path=["link", "..", ".."])
def test_no_path_leads_out_of_a_workspace(path: list[str]) -> None:
    with folder() as here:
        home = here / "home"
        (home / "a").mkdir(parents=True)
        (here / "f").write_text("secret")
        for name, target in {"link": "a", "out": "..", "loop": "loop", "a/f": "../../f"}.items():
            (home / name).symlink_to(target)
        name = "/".join(path)
        with suppress(OSError):
            assert open_untrusted(home, name, 100).read() != b"secret"
        with suppress(OSError):
            assert not inner_path(home, name).is_absolute()
        with suppress(OSError, ValueError):
            create_untrusted(home, name).close()
        assert sorted(entry.name for entry in here.iterdir()) == ["f", "home"]
        assert (here / "f").read_text() == "secret"


# --- nodes ---


@fuzzed
@given(
    text=content({"python": "3.11.1", "problem": "", "machine": "x", "has": ["a"], "free_bytes": 9, "has_images": True})
)
def test_an_examination(text: bytes) -> None:
    with suppress(UnusableError, RunError):
        examination = parse_examination(text.decode(errors="replace"))
        if examination:
            examination.check("python3", "folder")


FILES: Mapping[str, bytes] = {
    "perf.csv": TABLE,
    "run_summary.json": as_bytes({"successful_runs": [{"model": "m"}], "failed_runs": [], "skipped_runs": []}),
    "node.json": as_bytes({"run_id": "r1", "tags": ["t"], "started": 1.0}),
    "build_manifest.json": as_bytes({"built_images": {"k": {"docker_image": "k"}}, "built_models": {}}),
    "runs/r1/results.json": as_bytes(RUN),
    "exit_code": b"0\n",
    "node.log": b"madengine: error: x\n",
}


@fuzzed
@given(data=st.data())
def test_the_files_of_a_host(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    text = data.draw(content(json.loads(FILES[name])) if name.endswith(".json") else altered_bytes(FILES[name]))
    with folder() as here:
        host = here / "results/r1/h1"
        for other, original in {**FILES, name: text}.items():
            (host / other).parent.mkdir(parents=True, exist_ok=True)
            (host / other).write_bytes(original)
        problems = set_aside_broken_files(host, "r1")
        assert all(map(is_line, problems))
        assert is_line(failure_reason(host, host_exit_code(host)))
        host_rows(host)
        host_summary([HostOutcome("h1", "done", 0, folder=str(host))])
        with suppress(ConfigurationError):
            recorded_manifest(host)
        merged = merge([host], here / "perf.csv", here / "results.json")
        json.loads((here / "results.json").read_text()) if (here / "results.json").exists() else None
        assert len(merged.rows) >= merged.added


@fuzzed
@given(data=st.data())
def test_an_archive(data: st.DataObject) -> None:
    with folder() as here:
        (here / "f").write_bytes(b"content\n" * 9)
        stream = pack_to_bytes([("perf.csv", here / "f"), ("runs/r1/x", here / "f")])
        unzipped = data.draw(altered_bytes(stream))
        packed = (
            gzip.compress(unzipped) if data.draw(st.booleans()) else data.draw(altered_bytes(gzip.compress(stream)))
        )
        place = here / "home"
        (place / "near").mkdir(parents=True)
        (place / "near/archive").write_bytes(data.draw(st.sampled_from([b"", b"hello\n"])) + node.ARCHIVE_MARK + packed)
        with suppress(UnusableError):
            is_unpacked(place / "near/archive", place / "target")
        assert {entry.name for entry in here.iterdir()} == {"f", "home"}
        assert {entry.name for entry in place.iterdir()} <= {"near", "target"}


@fuzzed
@given(text=TEXTS | st.text("./-_aZ9\n", max_size=140))
def test_a_run_id(text: str) -> None:
    with suppress(RunError):
        name = checked_run_id(text)
        assert PurePath(name).parts == (name,)
        assert name not in (".", "..")
        assert not name.startswith("-")


# --- pods ---

OBJECT: dict[str, Any] = {
    "metadata": {"name": "m-0", "namespace": "space", "uid": "u", "labels": {"job-name": "m"}, "annotations": {}},
    "spec": {"completions": 1, "nodeName": "n"},
    "data": {"a": "b"},
    "status": {
        "phase": "Failed",
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Failed", "status": "True", "reason": "x", "message": "y"}],
        "containerStatuses": [
            {"name": "model", "imageID": "a@sha256:1", "state": {"terminated": {"exitCode": 1, "message": "m"}}}
        ],
    },
}


@fuzzed
@given(item=altered(OBJECT))
def test_objects_of_a_cluster(item: Any) -> None:
    for typed in (jobs_of, pods_of, maps_of):
        typed([item, OBJECT])
    for pod in pods_of([item]):
        assert pod.ending is None or pod.ending.seconds >= 0
    events_of([item, {"involvedObject": OBJECT["metadata"], "reason": "x", "lastTimestamp": "2026-01-01T00:00:00Z"}])


@fuzzed
@given(document=content(RUN), rows=altered_bytes(TABLE) | st.none(), packed=st.binary(max_size=40) | st.none())
@example(document=as_bytes({**RUN, "pod": {"job": "m", "index": {}}}), rows=TABLE, packed=None)
def test_a_report_in_a_configmap(document: bytes, rows: bytes | None, packed: bytes | None) -> None:
    texts = {"m-0.result.json": document.decode(errors="replace")}
    if rows is not None:
        texts["m-0.perf.csv"] = rows.decode(errors="replace")
    binary = {} if packed is None else {"m-0.perf.csv.gz": packed.decode(errors="replace")}
    reports = read_reports(ConfigMapData("results", texts, binary), {}, {}, "")
    assert len(reports.attempts) + len(reports.problems) == 1
    for attempt in reports.attempts:
        assert is_line(attempt.summary)
        assert isinstance(attempt.machine, str)
        assert isinstance(attempt.started, str)
        with folder() as here:
            append_rows(here / "perf.csv", attempt.rows)
            (here / "results.json").write_text(json.dumps({**attempt.document, "runs": [attempt.document]}))
            merge([here], here / "all.csv", here / "all.json")
    assert all(map(is_line, reports.problems.values()))


class Answering(ConfigMap):
    """A ConfigMap behind a server that answers anything."""

    answer = b""

    def _request(self, method: str, body: bytes | None = None, kind: str = "", query: str = "") -> bytes:
        return self.answer


@fuzzed
@given(answer=content({"data": {"a.result.json": "{}"}, "binaryData": {"b": "eA=="}}))
@example(answer=b"[]")
@example(answer=b'{"data": {"a": 1}, "binaryData": [1]}')
def test_an_api_servers_answer(answer: bytes) -> None:
    configmap = Answering("https://server", "space", "results")
    with patch.object(Answering, "answer", answer), suppress(Refused):
        assert isinstance("".join(configmap.read().values()), str)


REPORT = json.dumps(ENTRY).encode() + b"\nmodel,performance,metric\na,1,t\n\nend\n"


@fuzzed
@given(text=altered_bytes(REPORT))
def test_a_termination_message(text: bytes) -> None:
    with suppress(ValueError):
        parse_report(text.decode(errors="replace"), POD)


@fuzzed
@given(data=st.data())
def test_a_pods_workspace(data: st.DataObject) -> None:
    files = {"entry.json": as_bytes(ENTRY), "r.csv": b"model,performance,metric\na,1,t\n", ".gpus": b"gpu: 0, x\n"}
    name = data.draw(st.sampled_from(sorted(files)))
    with folder() as here:
        for other, original in files.items():
            (here / other).write_bytes(data.draw(altered_bytes(original)) if other == name else original)
        remains = read_workspace(here, POD)
    assert is_line(remains.problem)
    assert is_line(remains.measurement.problem)


@fuzzed
@given(
    jobs=content(
        {"m": {"image": "ci-m", "timeout": 5, "nodes": 1, "gpus": 0, "dataname": "", "data_provider_type": ""}}
    )
)
def test_the_description_of_a_pod(jobs: bytes) -> None:
    manifest = Manifest((POD.image,), {"ci-m": MODEL})
    with suppress(MadengineError):
        pod = describe_pod(manifest, jobs.decode(errors="replace"), "m", namespace="s", name="m-0", run_id="r1")
        assert pod.nodes >= 1


# --- engines and tools ---

IMAGES = [{"Id": "sha256:1", "Size": 5, "RepoDigests": ["a@sha256:2"], "RepoTags": ["a:b"]}]
STATE = {"Status": "exited", "ExitCode": 0, "OOMKilled": False, "Error": ""}
CONTAINERS = [{"Name": "/c", "Config": {"Labels": {"madengine.run": "x"}}}]


@fuzzed
@given(images=content(IMAGES), state=content(STATE), containers=content(CONTAINERS), banner=TEXTS)
def test_an_engines_answer(images: bytes, state: bytes, containers: bytes, banner: str) -> None:
    with suppress(ValueError):
        for record in image_records(f"{banner}\n{images.decode(errors='replace')}"):
            assert isinstance(record["Id"], str)
    with suppress(ValueError):
        assert isinstance(container_state(state.decode(errors="replace")).get("ExitCode") or 0, int)
    with suppress(ValueError):
        for one in labelled_containers(containers.decode(errors="replace")):
            assert isinstance("".join([one.name, one.id, one.created, *one.labels.values(), *one.mounts]), str)
            assert one.size_bytes is None or one.size_bytes >= 0
    assert isinstance(explain_engine_error(images.decode(errors="replace")), str)


PARSERS: tuple[tuple[str, tuple[Callable[[str], object], ...]], ...] = (
    ("nvidia-smi_q_x.xml", (nvidia_smi.gpus_of_xml,)),
    ("nvidia-smi_q_x__mig.xml", (nvidia_smi.gpus_of_xml, nvidia_smi.instances_of_list)),
    ("nvidia-smi_query_gpu.csv", (nvidia_smi.gpus_of_csv,)),
    ("nvidia-smi_compute_apps.csv", (nvidia_smi.processes_of,)),
    ("nvidia-smi_help_query_gpu.txt", (nvidia_smi.known_fields,)),
    ("amd-smi_static.json", (amd_smi.gpus_of,)),
    ("amd-smi_metric.json", (amd_smi.samples_of,)),
    ("amd-smi_process.json", (amd_smi.processes_of,)),
    ("rocm-smi_describe.json", (rocm_smi.gpus_of,)),
    ("rocm-smi_sample.json", (rocm_smi.samples_of,)),
    ("rocm-smi_pids.json", (rocm_smi.processes_of,)),
)


@fuzzed
@given(data=st.data())
def test_a_gpu_tools_answer(data: st.DataObject) -> None:
    name, parsers = data.draw(st.sampled_from(PARSERS))
    text = data.draw(altered_bytes((SMI / name).read_bytes())).decode(errors="replace")
    for parse in parsers:
        parse(text)


@fuzzed
@given(line=altered_bytes((SMI / "nvidia-smi_watch.csv").read_bytes().splitlines()[-1]))
def test_a_line_of_a_gpu_tools_stream(line: bytes) -> None:
    known = nvidia_smi.known_fields((SMI / "nvidia-smi_help_query_gpu.txt").read_text())
    nvidia_smi.sample_of_line(known, line.decode(errors="replace"))


# --- tables and documents ---


@fuzzed
@given(text=altered_bytes(TABLE))
def test_a_row_after_any_table_is_seen_or_the_table_is_refused(text: bytes) -> None:
    with folder() as here:
        path = here / "perf.csv"
        path.write_bytes(text)
        with suppress(MadengineError):
            append_rows(path, [{**dict.fromkeys(COLUMNS, ""), "model": "appended", "status": "SUCCESS"}])
            with suppress(MadengineError), Table(path) as rows:
                assert any("appended" in cells for cells in rows) or "model" not in rows.columns


@fuzzed
@given(text=content(RUN), many=st.booleans())
def test_results_of_anyone(text: bytes, many: bool) -> None:
    with folder() as here:
        (here / "in").mkdir()
        (here / "in/results.json").write_bytes(b'{"schema_version": 1, "runs": [%s]}' % text if many else text)
        merge([here / "in"], here / "perf.csv", here / "results.json")


@fuzzed
@given(text=st.binary(max_size=60) | JSON.map(as_bytes))
def test_json(text: bytes) -> None:
    with suppress(ValueError):
        json.dumps(parse_json(text.decode(errors="replace")), allow_nan=False)


def test_there_are_as_many_borders_as_cases_are_shared_by() -> None:
    tests = [value for name, value in globals().items() if name.startswith("test_") and hasattr(value, "hypothesis")]
    assert len(tests) == BORDERS
