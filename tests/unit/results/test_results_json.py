"""results.json: everything known about a run."""

from __future__ import annotations

import json
from dataclasses import replace

import madengine
from madengine.records import FAILURE, SUCCESS, RunResult
from madengine.results.results_json import result_json, results_json
from tests.unit.results.samples import DONE, FAILED, IMAGE, MODEL, SEVERAL


def test_a_result_becomes_json_with_everything_in_it() -> None:
    document = json.loads(json.dumps(result_json(SEVERAL)))
    assert list(document) == list(RunResult.__dataclass_fields__)
    assert (document["model"]["name"], document["model"]["args"]) == ("dummy", MODEL.args)
    assert document["image"]["docker_sha"] == "sha256:1e5"
    assert document["metrics"] == [
        {"performance": "1", "metric": "ms", "model": "small", "extra": {"note": "n"}, "aggregation": ""},
        {"performance": "", "metric": "ms", "model": "large", "extra": {}, "aggregation": ""},
    ]
    assert (document["exit_code"], document["run_duration"]) == (0, 45.2)


def test_the_build_command_of_an_older_manifest_stays_out_of_json() -> None:
    image = replace(IMAGE, extra={"build_command": "docker build --build-arg TOKEN=hunter2"})
    assert "hunter2" not in json.dumps(result_json(replace(DONE, image=image)))


def test_a_run_without_an_image_becomes_json() -> None:
    assert result_json(replace(DONE, image=None, exit_code=None))["image"] is None


def test_results_json_is_versioned() -> None:
    document = results_json("r1", [DONE, FAILED], {"engine": "docker"})
    assert list(document) == ["schema_version", "madengine_version", "run_id", "environment", "results"]
    assert (document["schema_version"], document["madengine_version"]) == (1, madengine.__version__)
    assert document["environment"] == {"engine": "docker"}
    assert [result["status"] for result in document["results"]] == [SUCCESS, FAILURE]
