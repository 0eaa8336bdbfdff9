"""The `k8s` objects of model entries: what their Jobs ask for, below the context and the options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from madengine.deploy.kubernetes.generate import JOB, render_files
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.kubernetes.plan import Plan, PlanInput, load_plan
from madengine.distributed_cli import main
from madengine.errors import ConfigurationError
from tests.unit.deploy.ansible.test_generate import write_inputs


def plan(folder: Path, section: object, context: Mapping[str, Any] | None = None, **options: Any) -> Plan:
    """The plan of two models; `dummy` has a `k8s` object."""
    write_inputs(folder)
    path = folder / "build_manifest.json"
    content = json.loads(path.read_text())
    (key, model), *_ = content["built_models"].items()
    image = content["built_images"][key]
    content["built_models"] = {"a": {**model, "name": "own", "k8s": section}, "b": {**model, "name": "plain"}}
    content["built_images"] = {"a": image, "b": image}
    content["context"] = dict(context or {})
    path.write_text(json.dumps(content))
    return load_plan(PlanInput(manifest_file=path), Options(results="pull", **options))


def job_specs(of: Plan) -> dict[str, Any]:
    documents = yaml.safe_load_all(render_files(of)[JOB])
    return {one["metadata"]["annotations"]["madengine/model"]: one["spec"] for one in documents}


def test_a_job_asks_for_what_its_entry_says(tmp_path: Path) -> None:
    section = {
        "gpu_count": 4,
        "gpu_resource_name": "amd.com/gpu",
        "cpu": "16",
        "cpu_limit": 32,
        "memory": "64Gi",
        "node_selector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}],
        "host_ipc": True,
        "backoff_limit": 3,
        "ttl_seconds_after_finished": 90000,
        "secrets": {"strategy": "existing", "image_pull_secret_names": ["registry"]},
        "image_pull_policy": "Always",
        "_note": "a comment",
    }
    generated = plan(tmp_path, section)
    own, plain = (job_specs(generated)[name] for name in ("own", "plain"))
    pod, of_plain = own["template"]["spec"], plain["template"]["spec"]
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "16", "memory": "64Gi"},
        "limits": {"cpu": "32", "memory": "64Gi", "amd.com/gpu": "4"},
    }
    assert (own["backoffLimit"], own["ttlSecondsAfterFinished"], pod["hostIPC"]) == (3, 90000, True)
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "zone": "a"}
    assert {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"} in pod["tolerations"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert [task.gpus for task in generated.tasks] == [4, generated.tasks[1].gpus]
    assert of_plain["containers"][0]["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert of_plain["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert not {"hostIPC", "imagePullSecrets"} & of_plain.keys()
    assert "ttlSecondsAfterFinished" not in plain
    assert any(line.startswith("--host-ipc: forbidden by Pod Security baseline") for line in generated.warnings)
    assert generated.beyond_baseline == ["--host-ipc"]


def test_options_and_the_context_win_over_an_entry(tmp_path: Path) -> None:
    generated = plan(
        tmp_path, {"cpu": 4, "memory": "8Gi", "gpu_count": 8}, {"n_gpus": "2"}, cpu="6", gpu_resource="amd.com/gpu"
    )
    own = generated.tasks[0]
    assert (own.options.cpu, own.options.memory, own.gpus) == ("6", "8Gi", 2)


def test_generate_takes_the_object_of_the_manifest_and_options_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan(tmp_path, {"gpu_resource_name": "amd.com/gpu"})
    path = tmp_path / "build_manifest.json"
    content = json.loads(path.read_text())
    content["deployment_config"] = {"target": "k8s", "k8s": {"namespace": "ml", "memory": "8Gi", "cpu": 4}}
    path.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "execution_config.json").unlink()
    words = ["--results=pull", "--cpu=6", "--gpu-vendor=AMD", "--output=out"]
    assert main(["generate", "k8s", *words]) == 0
    jobs = list(yaml.safe_load_all((tmp_path / "out" / JOB).read_text()))
    assert {one["metadata"]["namespace"] for one in jobs} == {"ml"}
    [resources, _] = [one["spec"]["template"]["spec"]["containers"][0]["resources"] for one in jobs]
    assert resources["requests"] == {"cpu": "6", "memory": "8Gi"}
    assert "ignored" not in caplog.text
    content["deployment_config"]["k8s"]["data_pvc"] = "claim"
    path.write_text(json.dumps(content))
    assert main(["generate", "k8s", *words]) == 4


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"namespace": "mine"}, "own: k8s.namespace is one for all Jobs; set it in the context"),
        ({"service_account": "bot"}, "own: k8s.service_account is one for all Jobs; set it in the context"),
        ({"data_pvc": "claim"}, "own: k8s.data_pvc: 'claim' is unsupported; expected some of namespace"),
        ({"memory": "lots"}, "own: k8s: --memory: expected"),
        ({"host_ipc": "yes"}, "own: k8s.host_ipc: expected true or false"),
        ({"gpu_count": -1}, "own: k8s.gpu_count: expected a whole number"),
        (["cpu"], "own: k8s: expected an object"),
    ],
)
def test_what_a_job_cannot_have_is_refused_by_name(tmp_path: Path, section: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        plan(tmp_path, section)
    assert str(error.value).startswith(message)


def test_a_runner_names_what_it_ignores(tmp_path: Path) -> None:
    generated = plan(tmp_path, {"cpu": 4}, mode="runner", runner_image="reg.example.com/runner:1")
    assert "ignored: own: k8s: one pod runs all models" in generated.warnings
