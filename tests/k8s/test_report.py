"""The sidecar's way to the ConfigMap, on a server that refuses, breaks off and runs full; and what it says of a pod."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from madengine.deploy.kubernetes.api import ConfigMap
from madengine.deploy.kubernetes.delivery import Report, deliver, deliver_log
from madengine.deploy.kubernetes.masking import hidden_values
from madengine.deploy.kubernetes.report import build_report, hidden
from madengine.results.rows import COLUMNS
from tests.k8s.api_server import ApiServer
from tests.k8s.test_files import generated, manifest, of_kind

POD = "madengine-dummy-job-abcde"
DOCUMENT = {"run_id": "r", "environment": {}, "results": [{"metrics": []}]}


@pytest.fixture
def target(server: ApiServer, tmp_path: Path) -> ConfigMap:
    """The ConfigMap of the generated files, with a pod's rights."""
    cluster = server.cluster
    cluster.create("namespaces", "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "madengine"}})
    for one in generated(tmp_path, manifest({})):
        if one["kind"] != "Job":
            cluster.create(f"{one['kind'].lower()}s", "madengine", one)
    server.cluster.requests.clear()
    return ConfigMap(f"https://127.0.0.1:{server.port}", "madengine", "madengine-results", server.account("madengine"))


def rows(count: int = 1, **cells: str) -> list[dict[str, str]]:
    return [{"model": f"m{number}", "performance": str(number), **cells} for number in range(count)]


def stored(server: ApiServer) -> dict[str, Any]:
    return server.cluster.get("configmaps", "madengine", "madengine-results")


def table(server: ApiServer) -> list[dict[str, str]]:
    configmap = stored(server)
    text = configmap.get("data", {}).get(f"{POD}.perf.csv")
    if text is None:
        text = gzip.decompress(base64.b64decode(configmap["binaryData"][f"{POD}.perf.csv.gz"])).decode()
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("failures", [[], [409], [500, 503], ["reset"], [429, "reset", 409], [403, 403]])
def test_it_arrives_in_spite_of(
    server: ApiServer, target: ConfigMap, failures: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.cluster.failures = [*failures]
    assert deliver(target, POD, Report(rows(2), DOCUMENT, "the log\n", 8), 100_000) == ""
    assert [row["model"] for row in table(server)] == ["m0", "m1"]
    assert list(table(server)[0]) == list(COLUMNS)
    assert json.loads(stored(server)["data"][f"{POD}.result.json"]) == DOCUMENT
    assert server.cluster.failures == []


def test_what_others_have_reported_stays(server: ApiServer, target: ConfigMap) -> None:
    for pod in ("a", "b"):
        assert deliver(target, pod, Report(rows(), DOCUMENT), 100_000) == ""
    assert {key.partition(".")[0] for key in stored(server)["data"]} == {"a", "b"}


@pytest.mark.parametrize(
    ("failures", "complaint", "requests"),
    [([403] * 9, "403", 5), ([401] * 9, "401", 5), ([404] * 12, "404", 10)],
)
def test_a_right_that_stays_missing_is_said_and_not_asked_for_for_ever(
    server: ApiServer,
    target: ConfigMap,
    failures: list[int | str],
    complaint: str,
    requests: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.cluster.failures = [*failures]
    assert complaint in deliver(target, POD, Report(rows(), DOCUMENT), 100_000)
    assert len(server.cluster.requests) == requests


def test_a_server_that_is_away_is_given_up_in_time(server: ApiServer, target: ConfigMap) -> None:
    server.cluster.failures = ["reset"] * 50
    problem = deliver(target, POD, Report(rows(), DOCUMENT), 100_000, patience=0.1)
    assert problem.startswith("GET madengine-results: ")


def test_a_pod_may_do_nothing_else(server: ApiServer, target: ConfigMap) -> None:
    token = server.cluster.token("madengine", "madengine")
    allowed = {
        (verb, plural, name)
        for verb in ("get", "list", "create", "patch", "delete")
        for plural in ("configmaps", "secrets", "pods")
        for name in ("madengine-results", "madengine-logs", "other", "")
        if server.cluster.allows(token, verb, "", plural, "madengine", name)
    }
    assert allowed == {
        (verb, "configmaps", name)
        for verb in ("get", "create", "patch")
        for name in ("madengine-results", "madengine-logs")
    }


def test_many_rows_are_packed_and_none_is_lost(server: ApiServer, target: ConfigMap) -> None:
    assert deliver(target, POD, Report(rows(500, reason="x" * 100), DOCUMENT, "log" * 9000, 27000), 40_000) == ""
    assert len(table(server)) == 500
    used = sum(map(len, [*stored(server)["data"].values(), *stored(server)["binaryData"].values()]))
    assert used <= 40_000


def test_rows_that_do_not_fit_at_all_are_counted(server: ApiServer, target: ConfigMap) -> None:
    noise = [{"model": os.urandom(60).hex(), "performance": "1"} for _ in range(500)]
    problem = deliver(target, POD, Report(noise, DOCUMENT, "log", 3), 20_000)
    stored_rows = len(table(server))
    assert 50 < stored_rows < 500
    document = json.loads(stored(server)["data"][f"{POD}.result.json"])
    assert document["truncated"] == f"{500 - stored_rows} of 500 rows are left out"
    assert document["rows_omitted"] == 500 - stored_rows
    assert problem.startswith(
        f"{500 - stored_rows} of 500 rows don't fit into configmap madengine-results: other pods use 0 of"
    )


def test_a_long_log_is_cut_and_says_so(server: ApiServer, target: ConfigMap) -> None:
    logs = replace(target, name="madengine-logs")
    assert deliver_log(logs, POD, Report((), {}, "x" * 16384, 40_000), "20260101T000000Z") == ""
    text = server.cluster.get("configmaps", "madengine", "madengine-logs")["data"][f"20260101T000000Z.{POD}.log"]
    assert text == f"[{40_000 - 16384} bytes before this are left out; `kubectl logs` has more]\n{'x' * 16384}"


def test_what_the_model_knows_of_secrets_is_not_reported(tmp_path: Path) -> None:
    secret, link = tmp_path / "hidden/1/..2026", tmp_path / "hidden/1/..data"
    secret.mkdir(parents=True)
    link.symlink_to(secret.name)
    for name, value in (("HUB_PASSWORD", "s3cret!x\n"), ("HUB_USERNAME", "ann"), ("SHORT", "7")):
        (secret / name).write_text(value)
        (tmp_path / "hidden/1" / name).symlink_to(f"..data/{name}")
    secrets = hidden_values(tmp_path / "hidden")
    log = f"ann has s3cret!x, {base64.b64encode(b's3cret!x').decode()}, s3cret%21x\nperformance: 7 s3cret!x\n"
    built = report_of(tmp_path, _gpus="", entry_json=ENTRY, model_run_live_log=log)
    safe = hidden(built, secrets)
    assert safe.log == "ann has [redacted], [redacted], [redacted]\nperformance: 7 [redacted]\n"
    [row] = safe.rows
    assert (row["performance"], row["metric"]) == ("7", "[redacted]")
    assert "s3cr" in json.dumps(built.document) and "s3cr" not in json.dumps(safe.document)
    assert hidden(built, ()) == built


@pytest.mark.parametrize("code", [413, 422])
def test_what_the_server_finds_too_large_gets_smaller(server: ApiServer, target: ConfigMap, code: int) -> None:
    class Small(ConfigMap):
        def merge(self, patch: Mapping[str, Any]) -> None:
            if len(json.dumps(patch)) > 9000:
                server.cluster.failures.append(code)
            super().merge(patch)

    small = Small(target.server, target.namespace, target.name, target.account)
    noise = [{"model": os.urandom(60).hex(), "performance": "1"} for _ in range(200)]
    assert "of 200 rows don't fit into configmap madengine-results" in deliver(
        small, POD, Report(noise, DOCUMENT), 100_000
    )
    assert 0 < len(table(server)) < 200


def test_a_configmap_that_is_full_keeps_what_it_has(server: ApiServer, target: ConfigMap) -> None:
    target.create()
    server.cluster.patch("configmaps", "madengine", "madengine-results", {"data": {"old": "x" * 890 * 1024}})
    assert deliver(target, POD, Report(rows(3), DOCUMENT, "log", 3), 900 * 1024) == ""
    assert len(table(server)) == 3
    assert len(stored(server)["data"]["old"]) == 890 * 1024


def report_of(folder: Path, content: Mapping[str, Any] | None = None, **files: str) -> Report:
    """What a sidecar says of a workspace with these files."""
    made = generated(folder, content or manifest({}))
    config = next(one for one in of_kind(made, "ConfigMap") if one.get("immutable"))
    workspace = folder / "workspace"
    workspace.mkdir()
    for name, text in {**config["data"]}.items():
        (folder / name).write_text(text)
    for name, text in files.items():
        (workspace / name.replace("_", ".")).write_text(text)
    environ = {
        "MADENGINE_JOB": "madengine-dummy-job",
        "POD_NAMESPACE": "madengine",
        "POD_NAME": POD,
        "NODE_NAME": "n",
        "MADENGINE_RUN_ID": "r",
    }
    return build_report(environ, workspace, folder, datetime.now(timezone.utc))


ENTRY = '{"exit_code": 0, "timed_out": false, "out_of_memory": false, "started": 1, "ended": 3, "log_complete": true}'


def entry(code: int, flag: str) -> str:
    return ENTRY.replace("0,", f"{code},", 1).replace(f'"{flag}": false', f'"{flag}": true')


@pytest.mark.parametrize(
    ("files", "status", "reason"),
    [
        ({}, "FAILURE", "the image's entry.sh never started"),
        ({"_gpus": ""}, "FAILURE", "killed before its script ended, without a warning: usually out of memory"),
        ({"_gpus": "", "_stopped": ""}, "FAILURE", "stopped before its script ended: evicted, deleted, or past"),
        ({"_failed": "entry.sh: run.sh: not in the payload\n"}, "FAILURE", "entry.sh: run.sh: not in the payload"),
        ({"_gpus": "", "entry_json": ENTRY}, "FAILURE", 'no line "performance: <number> <metric>" in the log'),
        (
            {
                "_gpus": "",
                "entry_json": ENTRY.replace("0,", "1,", 1).replace('"out_of_memory": false', '"out_of_memory": true'),
            },
            "FAILURE",
            "out of memory: the kernel killed it",
        ),
        (
            {
                "_gpus": "",
                "entry_json": ENTRY.replace("0,", "124,", 1).replace('"timed_out": false', '"timed_out": true'),
            },
            "FAILURE",
            "timeout: the script ran longer than 7200 s",
        ),
        ({"_gpus": "", "entry_json": ENTRY, "model_run_live_log": "performance: 7 tokens\n"}, "SUCCESS", ""),
    ],
)
def test_what_a_sidecar_says_of_a_pod(tmp_path: Path, files: dict[str, str], status: str, reason: str) -> None:
    [row] = report_of(tmp_path, None, **files).rows
    assert row["status"] == status
    assert row["reason"].startswith(reason) and bool(row["reason"]) == bool(reason)
    assert (row["performance"] == "7") == (status == "SUCCESS")
    assert (row["run_id"], row["machine_name"], row["model"]) == ("r", "n", "dummy")


def test_a_runner_reports_the_table_that_madengine_left(tmp_path: Path) -> None:
    words = ("--mode", "runner", "--results", "configmap")
    maps = of_kind(generated(tmp_path, manifest({}), *words), "ConfigMap")
    config = next(one for one in maps if one.get("immutable"))
    (tmp_path / "jobs.json").write_text(config["data"]["jobs.json"])
    environ = {"MADENGINE_JOB": "madengine-runner-job", "POD_NAMESPACE": "madengine", "POD_NAME": POD}
    workspace = tmp_path / "workspace"
    (workspace / "runs/r").mkdir(parents=True)
    silent = build_report(environ, workspace, tmp_path, datetime.now(timezone.utc))
    assert (silent.rows, silent.document["problem"]) == ([], "madengine left no perf.csv; see the pod's log")
    (workspace / "perf.csv").write_text("model,performance,metric,status\ndummy,3,tokens,SUCCESS\n")
    (workspace / "runs/r/results.json").write_text(json.dumps(DOCUMENT))
    built = build_report(environ, workspace, tmp_path, datetime.now(timezone.utc))
    assert built.rows == [{"model": "dummy", "performance": "3", "metric": "tokens", "status": "SUCCESS"}]
    assert (built.document["run_id"], built.document["pod"]["job"]) == ("r", "madengine-runner-job")


def test_the_gpus_of_a_pod_are_those_that_it_saw(tmp_path: Path) -> None:
    noted = "gpu: 0, GPU-1b2c, 00000000:18:00.0, 550.54, 81559, NVIDIA H100 80GB HBM3\n"
    built = report_of(tmp_path, _gpus=noted, entry_json=ENTRY, model_run_live_log="performance: 7 tokens\n")
    [row] = built.rows
    assert (row["gpus"], row["gpu_architecture"]) == ("0", "H100")
    [result] = built.document["results"]
    assert result["gpus"][0]["uuid"] == "GPU-1b2c"
