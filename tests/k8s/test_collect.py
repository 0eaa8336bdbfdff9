"""Collecting out of a namespace in which anyone may have written anything: real kubectl, a stand-in API server."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from plumbum import local

from madengine.config.manifest import load_manifest
from madengine.deploy.kubernetes import waiting
from madengine.deploy.kubernetes.delivery import LIMIT, Report, Stored, fit
from madengine.deploy.kubernetes.pod import describe_pod
from madengine.deploy.kubernetes.pod_outcome import pod_document, pod_result, pod_rows
from madengine.deploy.kubernetes.remains import Measurement, Remains, parse_entry
from madengine.distributed_cli import main
from madengine.records import Metric
from tests.k8s.api_server import ApiServer, now
from tests.k8s.conftest import PROGRAMS
from tests.k8s.test_files import generated, manifest
from tests.k8s.test_report import ENTRY, target

__all__ = ["target"]

NAMESPACE = "madengine"
JOB = "madengine-dummy-job"
MESSAGE = f"{ENTRY}\nperformance: 7 tokens\n\nend\n"
Said = pytest.CaptureFixture[str]


DONE = Remains(parse_entry(ENTRY), Measurement((Metric("5", "tokens"),)))
FAILED = Remains(parse_entry(ENTRY.replace("0,", "7,", 1)))


@dataclass
class Space:
    """A namespace with the objects of the generated files, and what a test adds to it."""

    server: ApiServer
    folder: Path
    jobs: dict[str, Any] = field(default_factory=dict)

    def apply(self, content: Mapping[str, Any], *words: str) -> None:
        self.folder.joinpath("files").mkdir(exist_ok=True)
        for one in generated(self.folder / "files", content, *words):
            if one["kind"] == "Job":
                one["spec"]["selector"] = {"matchLabels": {"a": "b"}}
                self.jobs[one["metadata"]["name"]] = one
            self.server.cluster.create(f"{one['kind'].lower()}s", NAMESPACE, one)

    def finish(self, job: str = JOB, kind: str = "Complete", **condition: str) -> None:
        status = {"startTime": now(), "conditions": [{"type": kind, "status": "True", **condition}]}
        self.server.cluster.set_status("jobs", NAMESPACE, job, status)

    def pod(
        self, name: str, status: Mapping[str, Any], job: str = JOB, node: str = "n1", index: int | None = None
    ) -> None:
        template = self.jobs[job]["spec"]["template"]
        notes = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
        labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": job}
        one = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "annotations": notes},
            "spec": {**template["spec"], "nodeName": node},
        }
        self.server.cluster.create("pods", NAMESPACE, one)
        self.server.cluster.set_status("pods", NAMESPACE, name, status)

    def event(self, name: str, kind: str, of: str, reason: str, message: str) -> None:
        one = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name},
            "involvedObject": {"kind": kind, "name": of},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "lastTimestamp": now(),
        }
        self.server.cluster.create("events", NAMESPACE, one)

    def store(self, data: Mapping[str, str], packed: Mapping[str, str] | None = None) -> None:
        patch = {"data": data, "binaryData": packed or {}}
        self.server.cluster.patch("configmaps", NAMESPACE, "madengine-results", patch)

    def report(
        self, name: str, job: str = JOB, node: str = "n1", index: int | None = None, remains: Remains = DONE
    ) -> Report:
        """What a sidecar of the pod has reported."""
        config = self.jobs[job]["metadata"]["annotations"]["madengine/config"]
        data = self.server.cluster.get("configmaps", NAMESPACE, config)["data"]
        (self.folder / "manifest.json").write_text(data["manifest.json"])
        run_id = self.jobs[job]["metadata"]["annotations"].get("madengine/run-id", "r")
        where = {"namespace": NAMESPACE, "name": name, "run_id": run_id, "node": node, "index": index}
        pod = describe_pod(load_manifest(self.folder / "manifest.json"), data["jobs.json"], job, **where)
        result = pod_result(pod, remains, started="2026-01-01T00:00:00Z")
        report = Report(pod_rows(pod, result), pod_document(pod, result, {}))
        self.store(fit(name, report, Stored(0), LIMIT).content["data"])
        return report

    def collect(self, *words: str) -> int:
        return main(["collect", "--kubernetes", *words])

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        """The rows of perf.csv by the pod or Job in their engine, without the channel."""
        with (self.folder / "perf.csv").open(newline="") as file:
            return {row["engine"].split("/")[1].split(" ")[0]: row for row in csv.DictReader(file)}


@pytest.fixture
def space(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    server.cluster.create("namespaces", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.1)
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    with local.env(KUBECONFIG=str(server.kubeconfig), HOME=str(folder), PATH=path):
        yield Space(server, folder)


def ended(message: str = MESSAGE, code: int = 0, reason: str = "Completed", **status: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message, "startedAt": now(), "finishedAt": now()}
    container = {"name": "model", "imageID": "", "state": {"terminated": terminated}, "ready": False, "restartCount": 0}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container], **status}


# --- names and paths that the cluster returns ---


@pytest.mark.parametrize("path", ["/evil.csv", "../../evil.csv", "a/../../../evil.csv"])
def test_no_path_of_a_configmap_is_written(space: Space, capsys: Said, path: str) -> None:
    space.apply(manifest({"multiple_results": "r.csv"}), "--results", "pull")
    [config] = [one for (kind, _, _), one in space.server.cluster.objects.items() if kind == "configmaps"]
    hostile = path.replace("/evil", f"{space.folder}/evil") if path.startswith("/") else path
    config["data"]["manifest.json"] = config["data"]["manifest.json"].replace("r.csv", hostile)
    space.pod("p", ended(f"{ENTRY}\nmodel,performance,metric\na,1,t\n\nend\n"))
    space.finish()
    space.collect()
    assert "Traceback" not in capsys.readouterr().err
    assert not list(space.folder.parent.rglob("evil*"))


UIDS = ("../../evil", "/evil", "a/b", "", "x" * 200, "a\nb")


def test_a_job_with_an_invalid_uid_costs_itself_alone(space: Space, capsys: Said) -> None:
    space.apply(manifest({}, *({"name": f"m{number}"} for number in range(len(UIDS)))))
    space.pod("p", ended())
    for number, uid in enumerate(UIDS):
        job = f"madengine-m{number}-job"
        space.pod(f"p{number}", ended(), job)
        space.finish(job)
        space.server.cluster.get("jobs", NAMESPACE, job)["metadata"]["uid"] = uid
    space.finish()
    assert space.collect() == 0
    assert capsys.readouterr().err.count(": invalid run id ") == len(UIDS)
    assert list(space.rows) == ["p"]
    assert not list(space.folder.parent.rglob("*evil*"))


# --- content that the pods wrote ---


def packed_of(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


HEADER = "model,performance,metric,status,reason,engine,run_id"
VALID = json.dumps(
    {
        "schema_version": 1,
        "run_id": "r",
        "environment": {"machine_name": "n1"},
        "results": [{"image": None}],
        "pod": {"job": JOB, "index": None, "nodes": 1},
    }
)


def changed(**fields: Any) -> str:
    return json.dumps({**json.loads(VALID), **fields})


BROKEN: Mapping[str, tuple[str, str]] = {
    "no json": ("{", "Expecting property name"),
    "a list": ("[]", "result: expected an object"),
    "deep": ("[" * 100_000, "nested more than"),
    "deep in a result": (
        VALID.replace("null", '{"a":' * 60 + "1" + "}" * 60),
        "nested more than",
    ),
    "not finite": (VALID.replace("null", "1e999"), "a number is not finite"),
    "nan": (VALID.replace("null", "NaN"), "NaN is not JSON"),
    "huge": (VALID.replace("null", "9" * 5000), "4300 digits"),
    "index": (changed(pod={"job": JOB, "index": {}}), "index: expected a number"),
    "no pod": (changed(pod=7), "pod: expected an object"),
    "job": (changed(pod={"job": "../x", "index": 0}), "invalid name of a Job '../x'"),
    "run id": (changed(run_id="../../x"), "invalid run id '../../x'"),
    "run id type": (changed(run_id=["r"]), "invalid run id"),
    "environment": (changed(environment=[]), "environment: expected an object"),
    "results": (changed(results={"a": 1}), "results: expected a list of objects"),
    "result": (changed(results=[7]), "results: expected a list of objects"),
    "omitted": (changed(rows_omitted=-1), "rows_omitted: expected a number"),
}


TABLES: Mapping[str, tuple[str, str]] = {
    "short row": (f"{HEADER}\na,1\n", "line 2: expected 7 cells, got 2"),
    "no column": ("model,performance\na,1\n", "no column metric"),
    "nan": (f"{HEADER}\na,NaN,t,SUCCESS,,e,r\n", "performance 'NaN' is not a number"),
    "status": (f"{HEADER}\na,1,t,GREAT,,e,r\n", "unknown status 'GREAT'"),
    "quote": (f'{HEADER}\n"a,1,t,SUCCESS,,e,r\n', "unexpected end of data"),
}
PACKED: Mapping[str, tuple[str, str]] = {
    "bomb": (packed_of(b"0" * 200_000_000), "perf.csv.gz: incomplete, or more than"),
    "not gzip": ("AAAA", "incorrect header check"),
    "not UTF-8": (packed_of(b"\xff\xfe"), "can't decode byte"),
    "cut off": (packed_of(f"{HEADER}\n".encode())[:-8], "perf.csv.gz: incomplete"),
}


@pytest.mark.parametrize("has_pods", [True, False])
def test_a_broken_report_costs_one_row_at_most(space: Space, capsys: Said, has_pods: bool) -> None:
    space.apply(manifest({}, {"name": "two"}), "--run-id", "r")
    space.report("madengine-two-job-x", "madengine-two-job")
    problems = {}
    for number, (text, problem) in enumerate(BROKEN.values()):
        problems[f"{JOB}-a{number}"] = problem
        space.store({f"{JOB}-a{number}.result.json": text, f"{JOB}-a{number}.perf.csv": f"{HEADER}\n"})
    for number, (text, problem) in enumerate(TABLES.values()):
        problems[f"{JOB}-b{number}"] = problem
        space.store({f"{JOB}-b{number}.result.json": VALID, f"{JOB}-b{number}.perf.csv": text})
    for number, (text, problem) in enumerate(PACKED.values()):
        problems[f"{JOB}-c{number}"] = problem
        space.store({f"{JOB}-c{number}.result.json": VALID}, {f"{JOB}-c{number}.perf.csv.gz": text})
    for name in problems if has_pods else ():
        space.pod(name, ended())
    for job in (JOB, "madengine-two-job"):
        space.finish(job)
    assert space.collect() == (0 if has_pods else 3)
    lines = capsys.readouterr().err.splitlines()
    assert space.rows.keys() == {"madengine-two-job-x", *problems}
    for name, problem in problems.items():
        [line] = [line for line in lines if line.startswith(f"{name}: invalid report in configmap madengine-results: ")]
        assert problem in line and len(line) < 600
        row = space.rows[name]
        assert (row["performance"], row["status"]) == (("7", "SUCCESS") if has_pods else ("", "FAILURE"))
        assert has_pods or row["reason"] == line.removeprefix(f"{name}: ")
    assert space.rows["madengine-two-job-x"]["performance"] == "5"


MESSAGES = {
    '{"exit_code": 1e999, "started": 0, "ended": 1}\nend': "invalid report of its end: a number is not finite",
    '{"exit_code": 0, "started": {}, "ended": 1}\nend': "invalid report of its end: started: expected a number",
    '{"exit_code": ' + "[" * 4000 + "\nend": "invalid report of its end: nested more than",
    '{"exit_code": 0, "started": 0, "ended": 1}\nperformance: 1': "its results are unknown: the termination",
    "": "the container ended before its script did (exit code 1)",
    "\x1b[31mred": "the container ended before its script did (exit code 1): [31mred",
}
CODES = (10**30, -(2**40), 1.5, "7", None)


def test_a_hostile_end_of_a_pod_costs_one_row(space: Space, capsys: Said) -> None:
    space.apply(manifest({}, {"name": "two"}), "--results", "pull", "--run-id", "r")
    space.pod("good", ended(), "madengine-two-job")
    for number, message in enumerate(MESSAGES):
        space.pod(f"m{number}", ended(message, code=1))
    for number, code in enumerate(CODES):
        status = ended()
        status["containerStatuses"][0]["state"]["terminated"]["exitCode"] = code
        space.pod(f"c{number}", ended())
        space.server.cluster.get("pods", NAMESPACE, f"c{number}")["status"] = status
    for job in (JOB, "madengine-two-job"):
        space.finish(job)
    assert space.collect() == 3
    err = capsys.readouterr().err
    assert "Traceback" not in err and "\x1b" not in err and err.count(": invalid exit code ") == len(CODES)
    assert space.rows.keys() == {"good", *(f"m{number}" for number in range(len(MESSAGES)))}
    for number, reason in enumerate(MESSAGES.values()):
        assert space.rows[f"m{number}"]["reason"].startswith(reason)
        assert space.rows[f"m{number}"]["status"] == "FAILURE" and "\n" not in space.rows[f"m{number}"]["reason"]
    assert space.rows["good"]["performance"] == "7"


FACTS = ("[]", "{", '{"JOB": 7}', '{"JOB": {"image": "IMAGE", "timeout": "x"}}', '{"JOB": {"image": "IMAGE"}}')


def test_a_broken_input_configmap_is_one_line(space: Space, capsys: Said) -> None:
    space.apply(manifest({}), "--results", "pull")
    [config] = [one for (kind, _, _), one in space.server.cluster.objects.items() if kind == "configmaps"]
    space.pod("p", ended())
    space.finish()
    for facts in FACTS:
        config["data"]["jobs.json"] = facts.replace("JOB", JOB).replace("IMAGE", "ci-m0_ubuntu_amd")
        assert space.collect() == 1
        err = capsys.readouterr().err
        assert f"p: the input ConfigMap doesn't describe Job {JOB}: " in err and "Traceback" not in err
