"""Collecting out of a namespace in which anyone may have written anything: real kubectl, a stand-in API server."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plumbum import local

from madengine.config.manifest import load_manifest
from madengine.deploy.kubernetes import waiting
from madengine.deploy.kubernetes.api import ConfigMap
from madengine.deploy.kubernetes.collect import collect_results, prune
from madengine.deploy.kubernetes.delivery import LIMIT, Report, deliver, deliver_log, fit
from madengine.deploy.kubernetes.pod import describe_pod
from madengine.deploy.kubernetes.pod_outcome import pod_document, pod_result, pod_rows
from madengine.deploy.kubernetes.remains import Measurement, Remains
from madengine.distributed_cli import main
from madengine.programs.kubectl import Kubectl
from madengine.records import GpuCost, Metric
from madengine.run.entry_json import parse_entry
from tests.k8s.api_server import ApiServer, now
from tests.k8s.conftest import PROGRAMS
from tests.k8s.test_files import generated, manifest
from tests.k8s.test_report import ENTRY, target

__all__ = ["target"]

NAMESPACE = "madengine"
JOB = "madengine-dummy-job"
MESSAGE = f"{ENTRY}\nperformance: 7 tokens\n\nend\n"
Captured = pytest.CaptureFixture[str]


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
        self.server.cluster.create("configmaps", NAMESPACE, self.config_map("madengine-results", {}))

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

    @property
    def input(self) -> dict[str, Any]:
        maps = [one for (kind, _, _), one in self.server.cluster.objects.items() if kind == "configmaps"]
        return next(one for one in maps if one.get("immutable"))

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

    def config_map(self, name: str, data: Mapping[str, str]) -> dict[str, Any]:
        meta = {"name": name, "labels": {"app.kubernetes.io/name": "madengine"}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}

    def store(self, data: Mapping[str, str], packed: Mapping[str, str] | None = None) -> None:
        patch = {"data": data, "binaryData": packed or {}}
        self.server.cluster.patch("configmaps", NAMESPACE, "madengine-results", patch)

    def report(
        self,
        name: str,
        job: str = JOB,
        node: str = "n1",
        index: int | None = None,
        remains: Remains = DONE,
        run_id: str = "",
        cost: GpuCost | None = None,
    ) -> Report:
        """What a sidecar of the pod has reported."""
        config = self.jobs[job]["metadata"]["annotations"]["madengine/config"]
        data = self.server.cluster.get("configmaps", NAMESPACE, config)["data"]
        (self.folder / "manifest.json").write_text(data["manifest.json"])
        run_id = run_id or self.jobs[job]["metadata"]["annotations"]["madengine/run-id"]
        where = {"namespace": NAMESPACE, "name": name, "run_id": run_id, "node": node, "index": index}
        pod = describe_pod(load_manifest(self.folder / "manifest.json"), data["jobs.json"], job, **where)
        result = pod_result(pod, remains, started="2026-01-01T00:00:00Z", cost=cost)
        report = Report(pod_rows(pod, result), pod_document(pod, result, {}))
        self.store(fit(name, report, 0, LIMIT).content["data"])
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
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    with local.env(KUBECONFIG=str(server.kubeconfig), HOME=str(folder), PATH=path):
        yield Space(server, folder)


def ended(message: str = MESSAGE, code: int = 0, reason: str = "Completed") -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message, "startedAt": now(), "finishedAt": now()}
    state = {**container("model"), "state": {"terminated": terminated}}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [state]}


def container(name: str) -> dict[str, Any]:
    return {"name": name, "image": "", "imageID": "", "ready": False, "restartCount": 0}


# --- names and paths that the cluster returns ---


@pytest.mark.parametrize("path", ["/evil.csv", "../../evil.csv", "a/../../../evil.csv"])
def test_no_path_of_a_configmap_is_written(space: Space, capsys: Captured, path: str) -> None:
    space.apply(manifest({"multiple_results": "r.csv"}), "--results", "pull")
    config = space.input
    hostile = path.replace("/evil", f"{space.folder}/evil") if path.startswith("/") else path
    config["data"]["manifest.json"] = config["data"]["manifest.json"].replace("r.csv", hostile)
    space.pod("p", ended(f"{ENTRY}\nmodel,performance,metric\na,1,t\n\nend\n"))
    space.finish()
    space.collect()
    assert "Traceback" not in capsys.readouterr().err
    assert not list(space.folder.parent.rglob("evil*"))


UIDS = ("../../evil", "/evil", "a/b", "", "x" * 200, "a\nb")


def test_a_job_with_an_invalid_uid_costs_itself_alone(space: Space, capsys: Captured) -> None:
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
    "not finite": (VALID.replace("null", "1e999"), "a number is too large for a float"),
    "nan": (VALID.replace("null", "NaN"), "invalid number NaN"),
    "huge": (VALID.replace("null", "9" * 5000), "digits"),
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
def test_a_broken_report_costs_one_row_at_most(space: Space, capsys: Captured, has_pods: bool) -> None:
    space.apply(manifest({}, {"name": "two"}), "--run-id", "r", "--repeats", "50")
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
    '{"exit_code": 1e999, "started": 0, "ended": 1}\nend': "invalid report of its end: a number is too large",
    '{"exit_code": 0, "started": {}, "ended": 1}\nend': "invalid report of its end: started: expected a number",
    '{"exit_code": ' + "[" * 4000 + "\nend": "invalid report of its end: nested more than",
    '{"exit_code": 0, "started": 0, "ended": 1}\nperformance: 1': "its results are unknown: the termination",
    "": "the container ended before its script did (exit code 1)",
    "\x1b[31mred": "the container ended before its script did (exit code 1): [31mred",
}
CODES = (10**30, -(2**40), 1.5, "7", None)


def test_a_hostile_end_of_a_pod_costs_one_row(space: Space, capsys: Captured) -> None:
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


def test_a_broken_input_configmap_is_one_line(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}), "--results", "pull")
    config = space.input
    space.pod("p", ended())
    space.finish()
    for facts in FACTS:
        config["data"]["jobs.json"] = facts.replace("JOB", JOB).replace("IMAGE", "ci-m0_ubuntu_amd")
        assert space.collect() == 1
        err = capsys.readouterr().err
        assert f"p: the input ConfigMap doesn't describe Job {JOB}: " in err and "Traceback" not in err


def test_a_broken_report_of_an_earlier_run_costs_the_next_run_nothing(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}), "--run-id", "r")
    space.store({f"{JOB}-old.result.json": "{"})
    space.report(f"{JOB}-new")
    space.finish()
    assert space.collect("--run-id", "r") == 0
    assert list(space.rows) == [f"{JOB}-new"]
    assert f"{JOB}-old: invalid report in configmap" in capsys.readouterr().err


def test_an_earlier_run_of_the_same_job_hides_and_changes_nothing(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "new", "--nodes", "2")
    space.report("p0", node="a", index=0, run_id="old")
    space.finish(kind="Failed", reason="BackoffLimitExceeded", message="limit")
    assert space.collect() == 3
    assert {name: (row["run_id"], row["status"]) for name, row in space.rows.items()} == {
        "p0": ("old", "SUCCESS"),
        JOB: ("new", "FAILURE"),
    }


# --- a full ConfigMap ---


def test_rows_that_did_not_fit_are_taken_from_the_pod(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}, {"name": "two"}), "--run-id", "r")
    for name, job in (("p", JOB), ("q", "madengine-two-job")):
        report = space.report(name, job)
        patch = fit(name, report, LIMIT, LIMIT)
        assert patch.omitted == 1
        space.store({f"{name}.perf.csv": "", **patch.content["data"]}, patch.content["binaryData"])
        space.finish(job)
    space.store({"other.log": "x" * 900 * 1024})
    space.pod("p", ended(f"{ENTRY.replace('0,', '7,', 1)}\n\nend\n", code=7))
    assert space.collect() == 3
    err = capsys.readouterr().err
    assert (space.rows["p"]["reason"], space.rows["p"]["exit_code"]) == ("exit code 7", "7")
    assert space.rows["p"]["engine"].endswith("(termination message)")
    assert "q: 1 rows are lost: they didn't fit into configmap madengine-results" in err
    assert "configmap madengine-results is full: " in err
    assert "done; another pod of its run measures" not in err, "it has measured, and the rows are lost"
    assert "`madengine collect --kubernetes --prune`" in err


def test_logs_have_a_configmap_of_their_own_where_the_oldest_make_room(server: ApiServer, target: ConfigMap) -> None:
    logs = replace(target, name="madengine-logs")
    for day in (3, 1, 2):
        report = Report((), {}, "x" * 306_000, 306_000)
        assert deliver_log(logs, f"p{day}", report, f"2026010{day}T000000Z") == ""
    rows = [{"model": os.urandom(300).hex(), "performance": "1"} for _ in range(500)]
    assert deliver(target, "p4", Report(rows, {"results": []}), LIMIT) == ""
    assert deliver_log(logs, "p4", Report((), {}, "y" * 16_000, 16_000), "20260104T000000Z") == ""
    stored = {
        name: server.cluster.get("configmaps", NAMESPACE, f"madengine-{name}")["data"] for name in ("logs", "results")
    }
    assert [key.split(".")[1] for key in sorted(stored["logs"])] == ["p2", "p3", "p4"]
    assert not [key for key in stored["results"] if key.endswith(".log")]


def test_what_was_collected_can_be_removed_and_nothing_else(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}, {"name": "two"}), "--run-id", "r")
    space.report("p")
    space.store({"p.log": "log", "other.log": "log", "foreign.result.json": "{", "q.perf.csv": ""})
    logs = {"2026.p.log": "log", "2026.other.log": "log"}
    space.server.cluster.create("configmaps", NAMESPACE, space.config_map("madengine-logs", logs))
    space.finish()
    old = {"app.kubernetes.io/name": "madengine", "app.kubernetes.io/component": "input"}
    for name, created in (("madengine-config-old", "2026-01-01T00:00:00Z"), ("madengine-config-new", now())):
        space.server.cluster.create(
            "configmaps", NAMESPACE, {**space.config_map(name, {}), "metadata": {"name": name, "labels": old}}
        )
        space.server.cluster.get("configmaps", NAMESPACE, name)["metadata"]["creationTimestamp"] = created
    used = space.jobs[JOB]["metadata"]["annotations"]["madengine/config"]
    space.server.cluster.get("configmaps", NAMESPACE, used)["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    kubectl = Kubectl(NAMESPACE)
    collected = collect_results(kubectl, Path("perf.csv"), Path("results.json"), "", False)
    assert prune(kubectl, collected) == [
        "configmap madengine-results: removed the reports of 1 pods",
        "removed configmap madengine-config-old",
    ]
    results = space.server.cluster.get("configmaps", NAMESPACE, "madengine-results")
    assert sorted(results["data"]) == ["foreign.result.json", "other.log", "q.perf.csv"]
    maps = {name for kind, _, name in space.server.cluster.objects if kind == "configmaps"}
    assert maps == {"madengine-results", "madengine-logs", "madengine-config-new", used}
    assert list(space.server.cluster.get("configmaps", NAMESPACE, "madengine-logs")["data"]) == ["2026.other.log"]
    assert list(space.rows) == ["p"]
    again = collect_results(kubectl, Path("perf.csv"), Path("results.json"), "", False)
    assert (again.attempts, again.merged.added, prune(kubectl, again)) == (0, 0, [])


def test_the_input_of_a_run_is_removed_once_all_of_it_is_collected(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}, {"name": "two"}), "--run-id", "r", "--results", "pull")
    used = space.jobs[JOB]["metadata"]["annotations"]["madengine/config"]
    for name, job in (("p", JOB), ("q", "madengine-two-job")):
        space.pod(name, ended(), job)
        assert ("configmaps", NAMESPACE, used) in space.server.cluster.objects
        space.finish(job)
        assert space.collect("--prune") == (1 if name == "p" else 0), "the other Job has not ended"
    assert ("configmaps", NAMESPACE, used) not in space.server.cluster.objects
    assert space.rows.keys() == {"p", "q"}
    capsys.readouterr()
    assert space.collect() == 1
    err = capsys.readouterr().err
    assert "is gone" not in err and "no results in namespace" in err


# --- what the cluster did to a pod ---

STOPPED = Remains(parse_entry(ENTRY.replace("0,", "143,", 1)), stopped=True)
EVICTED = {"reason": "Evicted", "message": "The node was low on resource: memory."}
PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"}


@pytest.mark.parametrize("channel", ["configmap", "pull"])
@pytest.mark.parametrize(
    ("status", "condition", "reason"),
    [
        (EVICTED, {"reason": "BackoffLimitExceeded"}, "stopped: Evicted: The node was low on resource: memory."),
        ({"conditions": [PREEMPTED]}, {}, "stopped: PreemptionByScheduler: preempted"),
        ({}, {"reason": "DeadlineExceeded", "message": "too long"}, "stopped: DeadlineExceeded: too long"),
    ],
)
def test_a_stopped_pods_row_says_who_stopped_it(
    space: Space, channel: str, status: dict[str, Any], condition: dict[str, str], reason: str
) -> None:
    space.apply(manifest({}), "--run-id", "r", "--results", channel)
    if channel == "configmap":
        space.report("p", remains=STOPPED)
    message = f"{ENTRY.replace('0,', '143,', 1)}\nperformance: 7 tokens\n\nend\n"
    space.pod("p", {**ended(message, code=143, reason="Error"), **status})
    space.finish(kind="Failed", **condition)
    assert space.collect() == 3
    assert (space.rows["p"]["reason"], space.rows["p"]["exit_code"]) == (reason, "143")
    assert space.rows["p"]["performance"] == ""


def test_a_script_that_was_told_to_stop_and_ended_well_is_a_failure_without_a_sidecar_too(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r", "--results", "pull")
    space.pod("p", {**ended(MESSAGE.replace("}", ', "stopped": true}', 1)), **EVICTED})
    space.finish()
    assert space.collect() == 3
    assert space.rows["p"]["reason"] == "stopped: Evicted: The node was low on resource: memory."


def test_a_pod_that_failed_before_its_container_started_has_the_kubelets_reason(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r", "--results", "pull")
    space.pod("p", {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no GPU is left"})
    space.finish(kind="Failed")
    assert space.collect() == 3
    assert space.rows["p"]["reason"] == "UnexpectedAdmissionError: no GPU is left"


def test_a_sidecar_that_could_not_report_says_why(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}), "--run-id", "r")
    terminated = {"exitCode": 1, "message": "not reported: PATCH madengine-results: 403: forbidden"}
    sidecar = {**container("report"), "state": {"terminated": terminated}}
    space.pod("p", {**ended(), "initContainerStatuses": [sidecar]})
    space.finish()
    assert space.collect() == 0
    assert "p: not reported: PATCH madengine-results: 403: forbidden" in capsys.readouterr().err


# --- pods that don't start ---


def waiting_for(reason: str, message: str, name: str = "model") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    kind = "containerStatuses" if name == "model" else "initContainerStatuses"
    return {"phase": "Pending", kind: [{**container(name), "state": state}]}


NO_GPU = "Unschedulable: 0/2 nodes: 2 Insufficient amd.com/gpu"
NOT_SCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": NO_GPU.partition(": ")[2],
}
UNSCHEDULABLE = {"phase": "Pending", "conditions": [NOT_SCHEDULED]}


def test_while_waiting_it_says_once_why_pods_do_not_start_and_the_row_says_it_too(
    space: Space, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    space.apply(manifest({}, {"name": "two"}, {"name": "three"}), "--run-id", "r")
    space.pod("p", UNSCHEDULABLE)
    for number in (1, 2):
        message = f'Error creating: pods "madengine-two-job-{number}" is forbidden: exceeded quota: gpus'
        space.event(f"e{number}", "Job", "madengine-two-job", "FailedCreate", message)
    denied = "FailedCreate: Error creating: pods is forbidden: exceeded quota: gpus"
    space.pod("t", waiting_for("ErrImagePull", "not found"), "madengine-three-job")
    polls = 0

    def advance() -> None:
        nonlocal polls
        polls += 1
        if polls == 3:
            space.server.cluster.set_status("pods", NAMESPACE, "t", waiting_for("ImagePullBackOff", "Back-off pulling"))
        if polls == 5:
            for job in space.jobs:
                space.finish(job, "Failed", reason="DeadlineExceeded", message="was active too long")
            for name in ("p", "t"):
                space.server.cluster.delete("pods", NAMESPACE, name)

    monkeypatch.setattr(
        waiting, "time", SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=lambda seconds: advance())
    )
    assert space.collect("--wait", "--run-id", "r") == 3
    err = capsys.readouterr().err
    for line in (
        f"p: {NO_GPU}",
        f"madengine-two-job: {denied}",
        "t: container model: ErrImagePull: not found",
        "t: container model: ImagePullBackOff: Back-off pulling",
    ):
        assert err.splitlines().count(line) == 1, line
    over = "DeadlineExceeded: was active too long"
    assert {name: row["reason"] for name, row in space.rows.items()} == {
        JOB: f"never started: {NO_GPU}; {over}",
        "madengine-two-job": f"never started: {denied}; {over}",
        "madengine-three-job": f"never started: container model: ImagePullBackOff: Back-off pulling; {over}",
    }


def test_without_waiting_the_last_warning_of_the_cluster_is_the_reason(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r")
    space.event("e1", "Pod", f"{JOB}-abcde", "FailedScheduling", "0/1 nodes: 1 Insufficient memory")
    space.event("e2", "Pod", "madengine-dummy-jobber", "Failed", "of another")
    space.finish(kind="Failed", reason="DeadlineExceeded", message="over")
    assert space.collect() == 3
    assert space.rows[JOB]["reason"] == (
        "never started: FailedScheduling: 0/1 nodes: 1 Insufficient memory; DeadlineExceeded: over"
    )


QUOTA = "exceeded quota: gpus, requested: limits.cpu=8"
POLICY = 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
RANGE = "maximum memory usage per Container is 8Gi, but limit is 64Gi"
PULL = 'failed to resolve reference "reg/x": not found'


#: What a pod of a Job shows (None: there is no pod), what an event of the Job or its pod says, and the reason.
OBSTACLES: Mapping[str, tuple[dict[str, Any] | None, tuple[str, str], str]] = {
    "image": (waiting_for("ImagePullBackOff", PULL), ("", ""), f"container model: ImagePullBackOff: {PULL}"),
    "sidecar": (waiting_for("ErrImagePull", PULL, "report"), ("", ""), f"container report: ErrImagePull: {PULL}"),
    "resource": (UNSCHEDULABLE, ("", ""), NO_GPU),
    "quota": (None, ("FailedCreate", f'pods "x-y" is forbidden: {QUOTA}'), f"pods is forbidden: {QUOTA}"),
    "policy": (None, ("FailedCreate", f'pods "x-y" is forbidden: {POLICY}'), f"pods is forbidden: {POLICY}"),
    "range": (None, ("FailedCreate", f'pods "x-y" is forbidden: {RANGE}'), f"pods is forbidden: {RANGE}"),
    "volume": ({"phase": "Pending"}, ("FailedMount", "no such claim"), "FailedMount: no such claim"),
}


def test_why_a_pod_does_not_start_is_in_its_row(space: Space, capsys: Captured) -> None:
    space.apply(manifest(*({"name": name} for name in OBSTACLES)), "--run-id", "r")
    jobs = {name: f"madengine-{name}-job" for name in OBSTACLES}
    for name, (status, (reason, message), _) in OBSTACLES.items():
        if status:
            space.pod(f"{jobs[name]}-p", status, jobs[name])
        if reason:
            of = ("Pod", f"{jobs[name]}-p") if status else ("Job", jobs[name])
            space.event(name, *of, reason, message)
    assert space.collect() == 1
    err = capsys.readouterr().err
    for name, (status, (reason, _), text) in OBSTACLES.items():
        assert text in err, name
        space.finish(jobs[name], "Failed", reason="DeadlineExceeded", message="was active too long")
        if status:
            space.server.cluster.delete("pods", NAMESPACE, f"{jobs[name]}-p")
        if not reason:
            space.event(f"{name}-last", "Pod", f"{jobs[name]}-p", "Failed", text)
    assert space.collect() == 3
    for name, (_, _, text) in OBSTACLES.items():
        reason = space.rows[jobs[name]]["reason"]
        assert reason.startswith("never started: ") and text in reason
        assert reason.endswith("; DeadlineExceeded: was active too long")


def test_a_job_whose_node_never_returns_is_over_at_its_deadline(space: Space, capsys: Captured) -> None:
    space.apply(manifest({}), "--run-id", "r")
    space.pod("p", {"phase": "Running"}, node="n7")
    space.server.cluster.get("pods", NAMESPACE, "p")["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert space.collect() == 1
    line = "p: node n7 does not end its pod: it is down or cut off; `kubectl delete node` if it never returns"
    assert line in capsys.readouterr().err.splitlines()
    space.finish(kind="FailureTarget", reason="DeadlineExceeded", message="was active too long")
    assert space.collect("--wait", "--run-id", "r") == 3
    [row] = space.rows.values()
    assert row["reason"] == (
        "lost: node n7 does not end its pod: it is down or cut off; DeadlineExceeded: was active too long"
    )


# --- several nodes ---


def test_the_nodes_of_a_run_are_in_its_one_row(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r", "--nodes", "2")
    space.report("p0", node="a", index=0, cost=GpuCost(peak_gpu_memory_mib=10, telemetry_source="sysfs"))
    assert space.collect() == 1 and not Path("perf.csv").exists(), "another rank may still fail"
    space.report("p1", node="b", index=1, cost=GpuCost(peak_gpu_memory_mib=5, telemetry_source="sysfs"))
    space.finish()
    assert space.collect() == 0
    assert [(row["machine_name"], row["nnodes"]) for row in space.rows.values()] == [("a,b", "2")]
    figures = [(row["peak_gpu_memory_mib"], row["energy_j"], row["telemetry_source"]) for row in space.rows.values()]
    assert figures == [("15.0", "", "sysfs")]
    assert space.collect() == 0
    assert len(space.rows) == 1
    [run] = json.loads(Path("results.json").read_text())["runs"]
    assert (run["environment"]["machine_name"], run["results"][0]["machine_name"]) == ("a,b", "a,b")


def test_a_rank_that_fails_after_the_first_has_ended_makes_the_run_a_failure(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r", "--nodes", "2")
    space.report("p0", node="a", index=0, cost=GpuCost(peak_gpu_memory_mib=10, telemetry_source="sysfs"))
    space.report("p1", node="b", index=1, remains=FAILED)
    space.finish(kind="Failed", reason="BackoffLimitExceeded")
    assert space.collect() == 3
    [row] = space.rows.values()
    assert (row["status"], row["performance"], row["reason"]) == ("FAILURE", "", "rank 1 (p1): exit code 7")
    assert row["peak_gpu_memory_mib"] == "", "of one node it would pass for that of both"
    [run] = json.loads(Path("results.json").read_text())["runs"]
    assert [result["status"] for result in run["results"]] == ["FAILURE"]


def test_a_rank_that_left_nothing_makes_the_run_a_failure(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r", "--nodes", "2")
    space.report("p0", node="a", index=0)
    space.finish(kind="Failed", reason="BackoffLimitExceeded", message="limit")
    assert space.collect() == 3
    [row] = space.rows.values()
    assert (row["status"], row["reason"]) == ("FAILURE", "the Job failed: BackoffLimitExceeded: limit")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("5", "7", ("12", "sum", "SUCCESS", "")),
        ("5", "5", ("5", "equal", "SUCCESS", "")),
        ("5", "", ("5", "rank 0", "SUCCESS", "")),
        ("", "7", ("7", "rank 1", "SUCCESS", "")),
        ("", "", ("", "", "FAILURE", "no line")),
    ],
)
def test_one_number_comes_out_of_those_of_all_ranks(
    space: Space, first: str, second: str, expected: tuple[str, ...]
) -> None:
    space.apply(manifest({}), "--run-id", "r", "--nodes", "2")
    for index, value in enumerate((first, second)):
        measurement = Measurement((Metric(value, "tokens/s"),)) if value else Measurement(problem="no line")
        space.report(f"p{index}", node="ab"[index], index=index, remains=replace(DONE, measurement=measurement))
    space.finish()
    assert space.collect() == (3 if expected[3] else 0)
    [row] = space.rows.values()
    assert tuple(row[column] for column in ("performance", "aggregation", "status", "reason")) == expected
    assert (row["machine_name"], row["nnodes"], row["deployment_type"]) == ("a,b", "2", "kubernetes")
    [run] = json.loads(Path("results.json").read_text())["runs"]
    assert [len(part["metrics"]) for part in run["results"][0]["parts"]] == [bool(first), bool(second)]


def test_a_first_rank_that_fails_is_named_too(space: Space) -> None:
    space.apply(manifest({}), "--run-id", "r", "--nodes", "2")
    space.report("p0", node="a", index=0, remains=FAILED)
    space.report("p1", node="b", index=1)
    space.finish(kind="Failed", reason="BackoffLimitExceeded")
    assert space.collect() == 3
    [row] = space.rows.values()
    assert (row["status"], row["performance"], row["reason"]) == ("FAILURE", "", "rank 0 (p0): exit code 7")


# --- a log that the kubelet rotated ---


def logged(space: Space, text: str) -> None:
    path = space.folder / "pod.log"
    path.write_text(text)
    pod = space.server.cluster.get("pods", NAMESPACE, "p")
    pod["metadata"]["annotations"] = {"log/model": str(path)}


@pytest.mark.parametrize(
    ("size", "log", "reason"),
    [
        (30, "FATAL: no\nperformance: 7 tokens\n", "log_error_patterns: 'FATAL' is in the log: FATAL: no"),
        (
            10_000,
            "performance: 7 tokens\n",
            "log_error_patterns: not checked, the log has 22 of 10000 bytes, the kubelet",
        ),
        (22, "performance: 7 tokens\n", ""),
        (None, "performance: 7 tokens\n", ""),
        (10_000, None, "log_error_patterns: not checked, its log is gone"),
    ],
)
def test_error_patterns_are_looked_for_in_the_whole_log_or_the_row_says_that_they_were_not(
    space: Space, size: int | None, log: str | None, reason: str
) -> None:
    space.apply(manifest({"log_error_patterns": ["FATAL"]}), "--run-id", "r", "--results", "pull")
    entry = ENTRY if size is None else f'{ENTRY[:-1]}, "log_bytes": {size}}}'
    report = f"{entry}\nperformance: 7 tokens\n\nend\n"
    space.pod("p", ended(report))
    if log is not None:
        logged(space, log + "".join(f":::MADENGINE {line}\n" for line in report.splitlines()))
    space.finish()
    assert space.collect() == (3 if reason else 0)
    assert space.rows["p"]["reason"].startswith(reason) and bool(space.rows["p"]["reason"]) == bool(reason)


def test_results_that_are_cut_off_in_message_and_log_are_not_said_to_be_missing(space: Space) -> None:
    space.apply(manifest({"multiple_results": "r.csv"}), "--run-id", "r", "--results", "pull")
    space.pod("p", ended(f"{ENTRY}\nmodel,performance,metric\na,1,t\nb,2"))
    logged(space, ":::MADENGINE b,2,t\n:::MADENGINE end\n")
    space.finish()
    assert space.collect() == 3
    assert space.rows["p"]["reason"] == (
        "its results are unknown: the termination message is cut off, and the log has no complete report"
    )
