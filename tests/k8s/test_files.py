"""The generated files: strictly valid for every Kubernetes from 1.29 on, whatever the options and the names."""

from __future__ import annotations

import functools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes_validate import utils
from yamllint import linter
from yamllint.config import YamlLintConfig

from madengine import __version__
from madengine.deploy.kubernetes import names
from madengine.distributed_cli import main
from tests.k8s import jobset_schema
from tests.k8s.kubelet import expanded

Captured = pytest.CaptureFixture[str]
CHECKOUT = Path(__file__).parents[2]
DIGEST = f"sha256:{'a' * 64}"
VERSIONS = [version for version in utils.all_versions() if tuple(map(int, version.split(".")[:2])) >= (1, 29)]
BASELINE_FORBIDS = ("hostIPC", "hostNetwork", "hostPID", "privileged", "hostPath", "docker.sock", "Unconfined")

OPTIONS: Mapping[str, list[str]] = {
    "none": [],
    "namespace": ["--namespace", "madengine-prod", "--create-namespace"],
    "pull": ["--results", "pull"],
    "pull with an account": ["--results", "pull", "--service-account", "mine"],
    "runner": ["--mode", "runner", "--engine-host", "tcp://engine:2375", "--timeout", "100"],
    "runner that pulls": ["--mode", "runner", "--results", "pull"],
    "resources": ["--cpu", "8", "--memory", "64Gi", "--ephemeral-storage", "50Gi", "--gpus-per-node", "8"],
    "shared memory": ["--shm-size", "32Gi"],
    "a part of a GPU": ["--gpu-resource", "nvidia.com/mig-3g.20gb"],
    "placing": ["--node-selector", "amd.com/gpu.vram=192G", "zone=a", "--toleration", "gpu=yes:NoSchedule", "any"],
    "queue": ["--queue", "gpu-queue"],
    "secrets": ["--image-pull-secret", "registry", "other", "--env-secret", "tokens"],
    "account": ["--service-account", "somebody"],
    "repeats": ["--repeats", "5", "--parallel", "2"],
    "nodes": ["--nodes", "4", "--gpus-per-node", "8"],
    "nodes and repeats": ["--nodes", "2", "--repeats", "2"],
    "jobset": ["--nodes", "4", "--jobset", "--exclusive-topology", "example.com/rack", "--queue", "gpus"],
    "jobset and repeats": ["--nodes", "2", "--jobset", "--repeat", "2", "--may-share-nodes"],
    "claim": ["--artifacts-pvc", "results/nightly"],
    "artifacts": ["--artifacts-wait", "600", "--run-id", "r"],
    "shared nodes": ["--nodes", "2", "--may-share-nodes"],
    "cpu limit": ["--cpu-limit", "8"],
    "no memory": ["--memory", "none"],
    "restricted runner": ["--mode", "runner", "--drop-capabilities", "--run-as", "1000"],
    "restricted": ["--drop-capabilities", "--run-as", "1000:1000", "--create-namespace"],
    "runner limits": ["--mode", "runner", "--cpu-limit", "8", "--memory", "8Gi"],
    "GPU metrics": ["--gpu-metrics-from-node", "--gpu-metrics-url", "http://{node}:9400/$(X)"],
    "architecture": ["--architecture", "arm64"],
    "undisturbed": ["--priority-class", "benchmarks", "--do-not-disrupt"],
    "undisturbed runner": [
        "--mode",
        "runner",
        "--priority-class",
        "benchmarks",
        "--do-not-disrupt",
        "--memory",
        "none",
    ],
    "endings": ["--timeout", "60", "--slack", "10", "--retries", "0", "--ttl", "86400", "--run-id", "night_7."],
    "no limit": ["--timeout", "0"],
    "host ipc": ["--host-ipc", "--create-namespace"],
    "vendor": ["--gpu-vendor", "amd"],
    "tags": ["--tags", "dummy"],
    "registry": ["--registry", "other.example.com/sub"],
    "image": ["--runner-image", f"reg.example.com/madengine/runner@{DIGEST}"],
}


@functools.cache
def _validator(version: str, kind: str, api_version: str) -> Any:
    """The strict schema of a kind; each takes a second to load."""
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    name = f"{kind.lower()}-{api_version.replace('rbac.authorization.k8s.io', 'rbac').replace('/', '-')}"
    schema = utils.schema_contents(f"{folder}/{name}.json", version)
    resources = [schema, _definitions(version)]
    registry: Any = referencing.Registry()
    for contents in resources:
        registry = referencing.Resource.from_contents(contents) @ registry
    return jsonschema.validators.Draft202012Validator(schema, registry=registry)


@functools.cache
def _definitions(version: str) -> Any:
    return utils.schema_contents(f"kubernetes-json-schema/v{version}-local-strict/_definitions.json", version)


def manifest(*cards: Mapping[str, Any], registry: str = "reg.example.com", **context: Any) -> dict[str, Any]:
    """A manifest of pushed images, one for each card; a card may say the vendor of its image."""
    images, models = {}, {}
    for number, card in enumerate(cards):
        vendor = card.get("vendor", "AMD")
        key = f"ci-m{number}_ubuntu_{vendor.lower()}"
        images[key] = {
            "docker_image": key,
            "dockerfile": f"docker/x.ubuntu.{vendor.lower()}.Dockerfile",
            "gpu_vendor": vendor,
            "self_contained": True,
            "registry_image": f"{registry}/{key}",
            "registry_digest": DIGEST,
        }
        entry = {name: value for name, value in card.items() if name != "vendor"}
        models[key] = {"name": "dummy", "dockerfile": "docker/x", "scripts": "scripts/x", **entry}
    return {"built_images": images, "built_models": models, "registry": registry, "context": context}


def generated(folder: Path, content: Mapping[str, Any], *words: str) -> list[dict[str, Any]]:
    """The objects of both files that `generate k8s` writes for a manifest."""
    path = folder / "build_manifest.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    config = folder / "execution_config.json"
    config.write_text('{"context": {}}', encoding="utf-8")
    line = ["generate", "k8s", "--manifest-file", str(path), "--execution-config", str(config), "--output", str(folder)]
    assert main([*line, *words]) == 0
    return [one for name in ("configmap", "job") for one in objects(folder / f"k8s-madengine-{name}.yaml")]


def objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, and the Jobs that a JobSet's controller makes."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for one in yaml.load_all(path.read_text(encoding="utf-8"), loader):
        if one:
            yield one
            yield from jobset_schema.check(one) if one["kind"] == "JobSet" else ()


def of_kind(resources: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in resources if one["kind"] == kind]


def model_container(job: Mapping[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = job["spec"]["template"]["spec"]["containers"][0]
    return container


DUMMY = ({"n_gpus": "-1"}, {"n_gpus": "-1", "vendor": "NVIDIA"}, {"name": "two", "n_gpus": "0", "vendor": "NONE"})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What every set of options makes of the same manifest."""
    return {
        name: generated(tmp_path_factory.mktemp("files"), manifest(*DUMMY), *words) for name, words in OPTIONS.items()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_output_of_every_option_is_strictly_valid(
    written: Mapping[str, list[dict[str, Any]]], version: str
) -> None:
    checked = 0
    for name, resources in written.items():
        for one in (one for one in resources if one["kind"] != "JobSet"):
            problems = list(_validator(version, one["kind"], one["apiVersion"]).iter_errors(one))
            assert not problems, (name, one["kind"], problems[0].message, list(problems[0].path))
            checked += 1
    assert checked > 4 * len(OPTIONS)


def test_the_check_itself_finds_a_field_that_no_schema_knows(written: Mapping[str, list[dict[str, Any]]]) -> None:
    [job, *_] = of_kind(written["none"], "Job")
    broken = {**job, "spec": {**job["spec"], "backofLimit": 1}}
    assert list(_validator(VERSIONS[-1], "Job", "batch/v1").iter_errors(broken))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def restricted_violations(pod: Mapping[str, Any]) -> list[str]:
    """What Pod Security *restricted* says of a pod."""
    problems = []
    if pod["securityContext"].get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problems.append("seccompProfile")
    for one in (*pod.get("initContainers", ()), *pod["containers"]):
        security = one["securityContext"]
        expected = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
        problems += [f"{one['name']}: {key}" for key, value in expected.items() if security.get(key) != value]
    kinds = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
    return problems + [volume["name"] for volume in pod["volumes"] if not kinds & volume.keys()]


@pytest.mark.parametrize(
    ("name", "violations"),
    [("restricted", []), ("restricted runner", []), ("none", ["model: runAsNonRoot", "model: capabilities"])],
)
def test_pods_pass_restricted_where_the_image_allows_it(
    written: Mapping[str, list[dict[str, Any]]], name: str, violations: list[str]
) -> None:
    for job in of_kind(written[name], "Job"):
        assert restricted_violations(job["spec"]["template"]["spec"]) == violations


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("host ipc",)])
def test_nothing_goes_beyond_baseline_by_itself(written: Mapping[str, list[dict[str, Any]]], name: str) -> None:
    text = json.dumps(written[name])
    assert not [word for word in BASELINE_FORBIDS if word in text]


def test_what_goes_beyond_baseline_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], written: Mapping[str, list[dict[str, Any]]]
) -> None:
    [space] = of_kind(written["host ipc"], "Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    [space] = of_kind(written["namespace"], "Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"
    resources = generated(tmp_path, manifest({}, docker_mounts={"/data": "/srv/data"}), "--host-path", "--host-ipc")
    assert "--host-ipc, --host-path: forbidden by Pod Security baseline" in capsys.readouterr().err
    [job] = of_kind(resources, "Job")
    assert {"name": "mount-0", "hostPath": {"path": "/srv/data"}} in job["spec"]["template"]["spec"]["volumes"]
    assert job["spec"]["template"]["spec"]["hostIPC"] is True


def test_a_models_image_runs_by_digest_with_its_gpus_and_limits(written: Mapping[str, list[dict[str, Any]]]) -> None:
    jobs = {one["metadata"]["name"]: one for one in of_kind(written["resources"], "Job")}
    assert list(jobs) == ["madengine-dummy-job", "madengine-m1-ubuntu-nvidia-job", "madengine-two-job"]
    model = model_container(jobs["madengine-dummy-job"])
    assert model["image"] == f"reg.example.com/ci-m0_ubuntu_amd@{DIGEST}"
    assert model["command"] == ["/opt/madengine/entry.sh"]
    assert model["resources"]["limits"] == {"memory": "64Gi", "ephemeral-storage": "50Gi", "amd.com/gpu": "8"}
    assert model_container(jobs["madengine-m1-ubuntu-nvidia-job"])["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert "gpu" not in json.dumps(model_container(jobs["madengine-two-job"])["resources"])
    spec = jobs["madengine-dummy-job"]["spec"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "32Gi"}} in spec["template"]["spec"][
        "volumes"
    ]
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["activeDeadlineSeconds"] == (7200 + 3600) * 2
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "FailJob"]


def test_only_the_sidecar_has_a_token_and_it_may_touch_one_configmap(
    written: Mapping[str, list[dict[str, Any]]],
) -> None:
    [role] = of_kind(written["none"], "Role")
    [rule] = role["rules"]
    assert (rule["resources"], rule["resourceNames"]) == (["configmaps"], ["madengine-results", "madengine-logs"])
    assert rule["verbs"] == ["create", "get", "patch"]
    assert not [one for one in of_kind(written["none"], "ConfigMap") if not one.get("immutable")]
    pod = of_kind(written["none"], "Job")[0]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "api-token" not in json.dumps(pod["containers"])
    [sidecar] = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] and sidecar["securityContext"]["runAsNonRoot"]
    pulling = json.dumps(written["pull"])
    assert not [kind for kind in ("Role", "RoleBinding", "ServiceAccount") if of_kind(written["pull"], kind)]
    assert "initContainers" not in pulling and "api-token" not in pulling


def test_the_sidecar_is_shown_gpus_and_their_exporter_where_that_is_asked_for(
    written: Mapping[str, list[dict[str, Any]]],
) -> None:
    def environment(name: str) -> dict[str, Any]:
        [sidecar] = of_kind(written[name], "Job")[0]["spec"]["template"]["spec"]["initContainers"]
        return {one["name"]: one.get("value") or one["valueFrom"] for one in sidecar["env"]}

    known = environment("GPU metrics")
    assert expanded(known["MADENGINE_GPU_METRICS_URL"], {"HOST_IP": "10.0.0.7"}) == "http://10.0.0.7:9400/$(X)"
    assert known["HOST_IP"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    assert (known["NVIDIA_VISIBLE_DEVICES"], known["NVIDIA_DRIVER_CAPABILITIES"]) == ("all", "utility")
    assert not {"MADENGINE_GPU_METRICS_URL", "HOST_IP", "NVIDIA_VISIBLE_DEVICES"} & environment("none").keys()


def test_the_runner_runs_the_documents_command(written: Mapping[str, list[dict[str, Any]]]) -> None:
    [job] = of_kind(written["runner"], "Job")
    words = model_container(job)["command"]
    assert words[:4] == ["python3", "-m", "madengine.distributed_cli", "run"]
    assert words[4:6] == ["--target=local", "--manifest-file=/config/manifest.json"]
    config = next(one for one in of_kind(written["runner"], "ConfigMap") if one.get("immutable"))
    assert len(json.loads(config["data"]["manifest.json"])["built_images"]) == 3


def test_nodes_find_each_other_by_a_headless_service(written: Mapping[str, list[dict[str, Any]]]) -> None:
    service, job = of_kind(written["nodes"], "Service")[0], of_kind(written["nodes"], "Job")[0]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (4, 4, 0)
    known = {one["name"]: one.get("value") for one in model_container(job)["env"]}
    assert known["MASTER_ADDR"] == "madengine-dummy-job-0.madengine-dummy"
    assert (known["NNODES"], known["NPROC_PER_NODE"], known["MASTER_PORT"]) == ("4", "8", "6006")
    assert len({one["metadata"]["name"] for one in of_kind(written["nodes and repeats"], "Job")}) == 6


def test_repeats_are_numbered(written: Mapping[str, list[dict[str, Any]]]) -> None:
    def numbers(name: str) -> list[int | None]:
        config = next(one for one in of_kind(written[name], "ConfigMap") if one.get("immutable"))
        return [facts.get("repeat") for facts in json.loads(config["data"]["jobs.json"]).values()]

    assert numbers("none") == [None, None, None]
    assert numbers("repeats") == [1, 1, 1]  # the pods of a Job count on
    assert numbers("nodes and repeats") == [1, 2] * 3


@pytest.mark.parametrize("words", [["--warmup=1"], ["--until-stable=2"], ["--keep-going"]])
def test_what_needs_one_node_for_all_repeats_is_refused_in_pods_and_runs_in_a_runner(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("build_manifest.json").write_text(json.dumps(manifest({"n_gpus": "1"})))
    command = ["generate", "k8s", "--runner-image=reg/runner@sha256:" + 64 * "0", "--repeat=3"]
    assert main([*command, *words]) == 4
    assert f"{words[0].partition('=')[0]}: not supported in pods" in capsys.readouterr().err
    assert main([*command, *words, "--mode=runner"]) == 0
    text = Path("k8s-madengine-job.yaml").read_text()
    assert "--repeat=3" in text and words[0].partition("=")[0] in text


def test_a_jobset_is_the_same_job_under_the_name_that_its_controller_gives_it(
    written: Mapping[str, list[dict[str, Any]]],
) -> None:
    [jobset, *_] = of_kind(written["jobset"], "JobSet")
    assert (jobset["metadata"]["name"], of_kind(written["jobset"], "Service")) == ("madengine-dummy", [])
    assert jobset["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert jobset["metadata"]["annotations"] == {"alpha.jobset.sigs.k8s.io/exclusive-topology": "example.com/rack"}
    job, plain = of_kind(written["jobset"], "Job")[0], of_kind(written["nodes"], "Job")[0]
    assert job["metadata"]["name"] == "madengine-dummy-job-0"
    assert "kueue" not in json.dumps(job), "the queue admits the whole"
    known = {one["name"]: one.get("value") for one in model_container(job)["env"]}
    # The controller's hostnames are SET-MEMBER-NUMBER-INDEX.
    assert known["MASTER_ADDR"] == "madengine-dummy-job-0-0.madengine-dummy"
    config = next(one for one in of_kind(written["jobset"], "ConfigMap") if one.get("immutable"))
    assert "madengine-dummy-job-0" in json.loads(config["data"]["jobs.json"])
    renamed = json.loads(json.dumps(job["spec"]).replace("madengine-dummy-job-0", "madengine-dummy-job"))
    for spec in (renamed, plain["spec"]):
        spec["template"] = {**spec["template"], "metadata": {}}
        spec["template"]["spec"] = {**spec["template"]["spec"], "volumes": [], "initContainers": []}
    assert {**renamed, "template": 0} == {**plain["spec"], "template": 0}
    assert renamed["template"]["spec"]["affinity"] == plain["spec"]["template"]["spec"]["affinity"]
    assert len({one["metadata"]["name"] for one in of_kind(written["jobset and repeats"], "JobSet")}) == 6


def test_files_go_to_a_claim_or_wait_in_the_pod(written: Mapping[str, list[dict[str, Any]]]) -> None:
    pod = of_kind(written["claim"], "Job")[0]["spec"]["template"]["spec"]
    [sidecar] = pod["initContainers"]
    assert {"name": "artifacts", "mountPath": "/artifacts", "subPath": "nightly"} in sidecar["volumeMounts"]
    assert {"name": "artifacts", "persistentVolumeClaim": {"claimName": "results"}} in pod["volumes"]
    assert "artifacts" not in json.dumps(pod["containers"]), "the model can't change those of others"
    assert pod["securityContext"]["fsGroup"] == sidecar["securityContext"]["runAsUser"]
    assert pod["terminationGracePeriodSeconds"] > 120
    job = of_kind(written["artifacts"], "Job")[0]
    assert job["metadata"]["annotations"]["madengine/artifacts-wait"] == "600"
    assert job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 720
    none = of_kind(written["none"], "Job")[0]["spec"]
    assert job["spec"]["activeDeadlineSeconds"] == none["activeDeadlineSeconds"] + 2 * 600
    plain = none["template"]["spec"]
    assert plain["terminationGracePeriodSeconds"] == 120 and "fsGroup" not in plain["securityContext"]


def test_each_pod_of_a_run_has_a_node_of_its_own_unless_it_may_share(
    written: Mapping[str, list[dict[str, Any]]],
) -> None:
    for job in of_kind(written["nodes"], "Job"):
        [term] = job["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"].values()
        labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        assert term == [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}]
    for name in ("shared nodes", "repeats", "none"):
        assert "affinity" not in json.dumps(written[name])


def test_what_a_site_may_require_of_pods_is_an_option(written: Mapping[str, list[dict[str, Any]]]) -> None:
    job = of_kind(written["restricted"], "Job")[0]
    assert model_container(job)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "runAsGroup": 1000,
    }
    for name in ("cpu limit", "runner limits"):
        pod = of_kind(written[name], "Job")[0]["spec"]["template"]["spec"]
        assert all("cpu" in one["resources"]["limits"] for one in (*pod["initContainers"], *pod["containers"]))
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "8", "memory": "8Gi"}
    pod = of_kind(written["architecture"], "Job")[0]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    for resources in written.values():
        for one in resources:
            names_and_versions = {"app.kubernetes.io/managed-by": "madengine", "app.kubernetes.io/version": __version__}
            assert one["kind"] == "Namespace" or names_and_versions.items() <= one["metadata"]["labels"].items()
    assert "memory" not in model_container(of_kind(written["no memory"], "Job")[0])["resources"]["requests"]
    for name in ("undisturbed", "undisturbed runner"):
        template = of_kind(written[name], "Job")[0]["spec"]["template"]
        assert template["spec"]["priorityClassName"] == "benchmarks"
        assert template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_the_input_of_many_models_is_split_into_what_kubectl_apply_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"owner": "someone@example.com", "args": "--batch 64", "tags": ["<pyt>", "train"]}
    content = manifest(*({"name": f"pyt_model_{number}", **more} for number in range(250)))
    resources = generated(tmp_path, content)
    configs = {one["metadata"]["name"]: one for one in of_kind(resources, "ConfigMap") if one.get("immutable")}
    assert len(configs) > 1
    for one in configs.values():
        applied = json.dumps(one).replace("<", "\\u003c").replace(">", "\\u003e")
        assert len(applied) < 262_144
    jobs = of_kind(resources, "Job")
    assert len(jobs) == 250
    for job in jobs:
        config = configs[job["metadata"]["annotations"]["madengine/config"]]
        facts = json.loads(config["data"]["jobs.json"])[job["metadata"]["name"]]
        assert facts["image"] in json.loads(config["data"]["manifest.json"])["built_images"]
        volumes = job["spec"]["template"]["spec"]["volumes"]
        assert {"name": "config", "configMap": {"name": config["metadata"]["name"]}} in volumes
    assert f"the input is in {len(configs)} ConfigMaps, so that `kubectl apply` accepts" in capsys.readouterr().err
    assert "server-side" not in (tmp_path / "k8s-madengine-configmap.yaml").read_text()
    content = manifest(*({"name": f"pyt_model_{number}", **more} for number in range(500)))
    generated(tmp_path, content, "--mode", "runner")
    assert (
        "larger than `kubectl apply` accepts (262,144 bytes); use `kubectl apply --server-side`"
        in capsys.readouterr().err
    )
    assert "kubectl apply --server-side -f k8s" in (tmp_path / "k8s-madengine-configmap.yaml").read_text()


def test_the_same_input_makes_the_same_files(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        generated(tmp_path / name, manifest(*DUMMY))
        texts.append([path.read_text() for path in sorted((tmp_path / name).glob("k8s-*.yaml"))])
    assert texts[0] == texts[1]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
ODD = (
    "no", "On", "NULL", "y", "a:b", "a: b", "a:", "e1", "1e3", "~", "$(MAD_MODEL_NAME)", "$$(x", "$", "it's: {odd}",
    "{{ x }}", "[[ x ]]", "#% x", "line\nline",
)  # fmt: skip
HOSTILE = TEXT | st.sampled_from(ODD)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=HOSTILE.filter(str.strip),
    values=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), HOSTILE, max_size=4),
    words=st.lists(HOSTILE, max_size=4),
)
def test_hostile_names_arguments_and_variables_arrive_as_they_are(
    tmp_path: Path, name: str, values: dict[str, str], words: list[str]
) -> None:
    ours = {"MADENGINE_LOG", "MADENGINE_REPORT", "MADENGINE_TIMEOUT"}
    values = {key: value for key, value in values.items() if key not in ours}
    content = manifest({"name": name}, docker_env_vars=values)
    config = tmp_path / "args.json"
    config.write_text(json.dumps({"context": {"model_args": shlex.join(words), "docker_env_vars": values}}))
    resources = generated(tmp_path, content, "--execution-config", str(config))
    [job] = of_kind(resources, "Job")
    container = model_container(job)
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    known: dict[str, str] = {}
    for key, value in env.items():
        known[key] = expanded(value, known)
    assert {key: known[key] for key in values} == values
    assert known["MAD_MODEL_NAME"] == values.get("MAD_MODEL_NAME", name)
    assert [expanded(word, known) for word in container["args"]] == ["--", *words]
    assert job["metadata"]["annotations"]["madengine/model"] == name
    problems = list(_validator(VERSIONS[-1], "Job", "batch/v1").iter_errors(job))
    assert not problems, problems[0].message
    config_map = next(one for one in of_kind(resources, "ConfigMap") if one.get("immutable"))
    [card] = json.loads(config_map["data"]["manifest.json"])["built_models"].values()
    assert card["name"] == name


@settings(max_examples=200, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=6, unique=True))
def test_jobs_of_any_names_have_valid_and_different_names(texts: list[str]) -> None:
    made: list[str] = []
    for text in texts:
        made.append(names.job_name(text, made))
    assert len(set(made)) == len(made)
    for name in made:
        assert len(name) <= names.JOB_NAME_LIMIT
        names.check_namespace(name)
    for text in texts:
        names.check_label("label", names.label(text))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--namespace", "Bad_Name"],
            "--namespace: expected up to 63 lower-case letters, digits and '-', got 'Bad_Name'",
        ),
        (["--memory", "12Q"], "--memory: expected an amount of memory or storage such as 512Mi or 64Gi, got '12Q'"),
        (
            ["--architecture", "x 86"],
            "--architecture: expected a label's value (letters, digits, '-', '_', '.'), got 'x 86'",
        ),
        (
            ["--gpu-metrics-url", "node:9400"],
            "--gpu-metrics-url: expected http:// or https://, got 'node:9400'; {node} in",
        ),
        (["--exclusive-topology", "rack"], "--exclusive-topology: requires --jobset"),
        (["--artifacts-pvc", "A"], "--artifacts-pvc: expected an object's name"),
        (["--artifacts-pvc", "a/../b"], "--artifacts-pvc: expected a path without .., got 'a/../b'"),
        (
            ["--artifacts-wait", "9", "--results", "pull"],
            "--artifacts-pvc, --artifacts-wait: the sidecar of a model's Job",
        ),
        (["--memory", "0"], "--memory: expected an amount of memory or storage such as 512Mi or 64Gi, got '0'"),
        (["--cpu", "many"], "--cpu: expected a number of CPUs such as 8 or 500m, got 'many'"),
        (["--gpu-resource", "a b"], "--gpu-resource: expected a name such as amd.com/gpu, got 'a b'"),
        (["--node-selector", "zone"], "--node-selector: expected KEY=VALUE, got 'zone'"),
        (
            ["--toleration", "a:Never"],
            "--toleration: expected the effect NoSchedule, PreferNoSchedule or NoExecute, got 'Never' in 'a:Never'",
        ),
        (["--queue", "A"], "--queue: expected an object's name (lower-case letters, digits, '-', '.'), got 'A'"),
        (["--run-as", "root"], "--run-as: expected UID or UID:GID in numbers, got 'root'"),
        (["--cpu-limit", "x"], "--cpu-limit: expected a number of CPUs such as 8 or 500m, got 'x'"),
        (["--nodes", "20000"], "--nodes: expected up to 10000, got 20000"),
        (["--ttl", "60"], "--ttl: expected 86400 or more, got 60; a Job's pods and logs are deleted with it"),
        (["--tags", "nothing"], "no model named or tagged 'nothing'"),
        (
            ["--data-volume", "x"],
            "--data-volume: expected NAME=pvc:CLAIM[/PATH], NAME=nfs:SERVER:/PATH or NAME=hostpath:/PATH, got 'x'",
        ),
        (["--engine-host", "tcp://x"], "--engine-host: requires --mode runner"),
        (["--gpu-vendor", "nvidia"], "no image for gpu_vendor NVIDIA"),
        (["--template-dir", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_wrong_option_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(manifest({})))
    assert main(["generate", "k8s", "--manifest-file", str(path), "--output", str(tmp_path), *words]) == 4
    errors = capsys.readouterr().err.strip()
    assert complaint in errors and "\n" not in errors
    assert [one.name for one in tmp_path.iterdir()] == ["m.json"]


@pytest.mark.parametrize(
    ("image", "card", "words", "complaint"),
    [
        ({"registry_digest": ""}, {}, (), "ci-m0_ubuntu_amd: not in a registry, which a cluster pulls from"),
        ({"self_contained": False}, {}, (), "ci-m0_ubuntu_amd: an image without its scripts, of an older madengine"),
        (
            {"self_contained": False},
            {"url": "https://git.example.com/m"},
            ("package",),
            "ci-m0_ubuntu_amd: an image without the code of https://git.example.com/m, of an older madengine",
        ),
        ({"self_contained": False}, {}, ("package", "--mode", "runner"), "an image without its scripts, of an older"),
    ],
)
def test_an_image_that_no_pod_could_run_is_refused(
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    image: dict[str, Any],
    card: dict[str, Any],
    words: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "package" in words:
        (tmp_path / "models.json").write_text("[]")
    content = manifest(card)
    content["built_images"]["ci-m0_ubuntu_amd"] |= image
    path = tmp_path / "m.json"
    path.write_text(json.dumps(content))
    assert main(["generate", "k8s", "--manifest-file", str(path), *words[1:]]) == 4
    assert complaint in capsys.readouterr().err


def test_the_scripts_of_an_image_that_has_none_come_with_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    card = {"name": "dummy", "dockerfile": "docker/x", "scripts": "scripts/x", "n_gpus": "2"}
    (tmp_path / "models.json").write_text(json.dumps([card]))
    (tmp_path / "scripts/x/inner").mkdir(parents=True)
    (tmp_path / "scripts/x/run.sh").write_text("echo performance: 1 t\n")
    (tmp_path / "scripts/x/inner/table.bin").write_bytes(b"\xff\0")
    content = manifest({"vendor": "", "n_gpus": "2"}, gpu_vendor="AMD")
    content["built_images"]["ci-dummy_ubuntu"] = content["built_images"].pop("ci-m0_ubuntu_") | {
        "self_contained": False
    }
    del content["built_models"]
    resources = generated(tmp_path, content)
    [job] = of_kind(resources, "Job")
    assert model_container(job)["resources"]["limits"] == {"amd.com/gpu": "2"}, "the manifest's vendor"
    config = next(one for one in of_kind(resources, "ConfigMap") if one.get("immutable"))
    [source] = [one["configMap"] for one in job["spec"]["template"]["spec"]["volumes"] if one["name"] == "payload"]
    assert (source["name"], source["defaultMode"]) == (config["metadata"]["name"], 0o555)
    files = {item["path"]: item["key"] for item in source["items"]}
    assert config["data"][files["scripts/run.sh"]] == "echo performance: 1 t\n"
    assert config["binaryData"] == {files["scripts/inner/table.bin"]: "/wA="}
    assert {"entry.sh", "model.sh", "environment.sh"} <= files.keys()
    assert {"name": "payload", "mountPath": "/opt/madengine", "readOnly": True} in model_container(job)["volumeMounts"]
    for one in resources:
        assert not list(_validator(VERSIONS[-1], one["kind"], one["apiVersion"]).iter_errors(one))


def test_data_is_mounted_from_claims_exports_and_folders(tmp_path: Path) -> None:
    sources = {
        "a": {"pvc": {"claim": "datasets", "path": "a/b"}},
        "b": {"nfs": {"server": "nas1", "path": "/export/b"}},
        "c": {"local": {"path": "/srv/c", "readwrite": "true"}},
    }
    (tmp_path / "data.json").write_text(json.dumps(sources))
    words = ("--data-config-file-name", str(tmp_path / "data.json"), "--host-path")
    [job] = of_kind(generated(tmp_path, manifest({"data": "a,b,c"}), *words), "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["volumes"][-3:] == [
        {"name": "data-0", "persistentVolumeClaim": {"claimName": "datasets", "readOnly": True}},
        {"name": "data-1", "nfs": {"server": "nas1", "path": "/export/b", "readOnly": True}},
        {"name": "data-2", "hostPath": {"path": "/srv/c", "type": "Directory"}},
    ]
    assert pod["containers"][0]["volumeMounts"][-3:] == [
        {"name": "data-0", "mountPath": "/data_dlm_0", "subPath": "a/b", "readOnly": True},
        {"name": "data-1", "mountPath": "/data_dlm_1", "readOnly": True},
        {"name": "data-2", "mountPath": "/data_dlm_2", "readOnly": False},
    ]
    assert {"name": "MAD_DATAHOME", "value": "/data_dlm_0,/data_dlm_1,/data_dlm_2"} in pod["containers"][0]["env"]
    [job] = of_kind(generated(tmp_path, manifest({"data": "a"}), *words, "--data-volume", "a=pvc:mine"), "Job")
    assert job["spec"]["template"]["spec"]["volumes"][-1]["persistentVolumeClaim"]["claimName"] == "mine"


def test_a_folder_of_the_node_needs_the_option_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"c": {"local": {"path": "/srv/c"}}}))
    for content in (manifest({"data": "c"}), manifest({}, docker_mounts={"/x": "/srv/x"})):
        (tmp_path / "m.json").write_text(json.dumps(content))
        data = ["--data-config-file-name", str(tmp_path / "data.json")]
        assert main(["generate", "k8s", "--manifest-file", str(tmp_path / "m.json"), *data]) == 4
        assert "which Pod Security baseline forbids; use --data-volume" in capsys.readouterr().err


def test_a_sites_own_template_comes_first_and_a_kustomization_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine/k8s").mkdir(parents=True)
    (tmp_path / "mine/k8s/job.yaml").write_text("kind: Mine\nname: [[ namespace ]]\n")
    resources = generated(tmp_path, manifest({}), "--template-dir", str(tmp_path / "mine"), "--kustomize")
    assert resources[-1] == {"kind": "Mine", "name": "madengine"}
    [kustomization] = objects(tmp_path / "kustomization.yaml")
    assert kustomization["resources"] == ["base"]
    [base] = objects(tmp_path / "base/kustomization.yaml")
    assert base["resources"] == ["k8s-madengine-configmap.yaml", "k8s-madengine-job.yaml"]
    assert (tmp_path / "base/k8s-madengine-job.yaml").read_text() == (tmp_path / "k8s-madengine-job.yaml").read_text()


def test_what_a_user_patches_stays_when_the_files_are_generated_again(tmp_path: Path, capsys: Captured) -> None:
    generated(tmp_path, manifest({}), "--kustomize")
    patch = "\npatches:\n  - target: {kind: Job}\n    patch: |-\n      - {op: add, path: /spec/suspend, value: true}\n"
    with (tmp_path / "kustomization.yaml").open("a", encoding="utf-8") as file:
        file.write(patch)
    text = (tmp_path / "kustomization.yaml").read_text()
    (tmp_path / "base/kustomization.yaml").write_text("resources: []\n")
    capsys.readouterr()
    generated(tmp_path, manifest(*DUMMY), "--kustomize")
    assert (tmp_path / "kustomization.yaml").read_text() == text
    assert "kustomization.yaml: unchanged, it is yours; " in capsys.readouterr().err
    line = [str(Path(sys.executable).parent / "kubectl"), "kustomize", str(tmp_path)]
    made = subprocess.run(line, capture_output=True, text=True, check=True, env={"HOME": str(tmp_path)}).stdout
    jobs = of_kind(list(yaml.safe_load_all(made)), "Job")
    assert [job["spec"]["suspend"] for job in jobs] == [True] * 3


@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_files_are_laid_out_as_yamllint_wants(tmp_path: Path, name: str) -> None:
    generated(tmp_path, manifest(*DUMMY), *OPTIONS[name], "--kustomize")
    settings = YamlLintConfig((CHECKOUT / ".yamllint.yaml").read_text().partition("ignore:")[0])
    for path in tmp_path.glob("k*.yaml"):
        text = path.read_text(encoding="utf-8")
        # How long a value is, is not ours to choose.
        problems = [one for one in linter.run(text, settings) if one.rule != "line-length"]
        assert not [f"{path.name}:{one.line}: {one.desc}" for one in problems]


def test_without_a_manifest_the_package_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "k8s", "--tags", "dummy"]) == 4
    assert "build_manifest.json: no such manifest, and no models.json here; build first" in capsys.readouterr().err
    assert main(["init", "package"]) == 0
    monkeypatch.chdir(tmp_path / "package")
    assert main(["generate", "k8s", "--tags", "dummy"]) == 4
    assert "name the images' registry with --registry" in capsys.readouterr().err
    assert main(["generate", "k8s", "--tags", "dummy", "--registry", "reg.example.com"]) == 0
    jobs = list(objects(Path("k8s-madengine-job.yaml")))
    assert next(one["metadata"]["name"] for one in jobs) == "madengine-dummy-job"
    assert model_container(jobs[0])["image"] == "reg.example.com/ci-dummy_ubuntu_amd"
    assert model_container(jobs[0])["imagePullPolicy"] == "Always"
    assert "no manifest, so digests are unknown" in capsys.readouterr().err
