"""What a manifest, a card or the context asks for: in the files that a cluster gets, or in a warning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from madengine.config.hooks import SCRIPT_MARK
from madengine.config.package import template, template_names
from madengine.deploy.kubernetes import names
from madengine.distributed_cli import main
from tests.k8s.kubelet import expanded
from tests.k8s.test_files import VERSIONS, _validator, generated, manifest, model_container, objects, of_kind
from tests.k8s.test_report import ENTRY, report_of

HOOKS: dict[str, Any] = {
    "tools": [{"name": "rocprof"}, {"name": "rccl_trace", "env_vars": {"NCCL_DEBUG": "TRACE $(HOME)"}}],
    "pre_scripts": [{"path": "scripts/common/warm.sh", "args": "a 'b c' ü"}],
    "post_scripts": ["/opt/site/after.sh"],
}
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No package is in the way of the manifest's own tools."""
    monkeypatch.chdir(tmp_path)


def variables(job: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a Job's model as the kubelet makes them, in a pod of index 1."""
    known: dict[str, str] = {"NODE_RANK": "1"}
    for one in model_container(job)["env"]:
        if "value" in one:
            known[one["name"]] = expanded(one["value"], known)
    return known


def mounted(resources: list[dict[str, Any]], name: str) -> dict[str, str]:
    """The files that a volume of the first Job has, by their path."""
    pod = of_kind(resources, "Job")[0]["spec"]["template"]["spec"]
    [source] = [volume["configMap"] for volume in pod["volumes"] if volume["name"] == name]
    [config] = [one for one in of_kind(resources, "ConfigMap") if one["metadata"]["name"] == source["name"]]
    assert config["immutable"]
    return {item["path"]: config["data"][item["key"]] for item in source["items"]}


def test_hooks_and_tools_are_files_of_the_input_and_the_job_has_time_for_them(tmp_path: Path) -> None:
    resources = generated(
        tmp_path, manifest({"n_gpus": "1", "timeout": 100}, **HOOKS), "--retries", "0", "--slack", "10"
    )
    files = mounted(resources, "hooks")
    wrapper = template("tools/common/tools/rocprof_wrapper.sh")
    assert files["workspace/scripts/common/tools/rocprof_wrapper.sh"] == wrapper
    assert f"script_mark='{SCRIPT_MARK}'" in files["hooks.sh"]
    assert " scripts/common/warm.sh a 'b c' 'ü'\n" in files["hooks.sh"]
    shipped = {f"workspace/scripts/common/{name}" for name in template_names("tools/common")}
    assert files.keys() == {"hooks.sh", *shipped}
    [job] = of_kind(resources, "Job")
    mounts = [one for one in model_container(job)["volumeMounts"] if one["name"] == "hooks"]
    assert mounts == [{"name": "hooks", "mountPath": variables(job)["MADENGINE_HOOKS"], "readOnly": True}]
    assert variables(job)["NCCL_DEBUG"] == "TRACE $(HOME)"
    assert job["spec"]["activeDeadlineSeconds"] == 100 + 3 * 600 + 10
    for one in resources:
        assert not list(_validator(VERSIONS[-1], one["kind"], one["apiVersion"]).iter_errors(one))


def test_without_hooks_nothing_is_mounted_for_them(tmp_path: Path) -> None:
    [job] = of_kind(generated(tmp_path, manifest({})), "Job")
    assert "hooks" not in json.dumps(job).lower()


def test_other_hooks_are_another_configmap(tmp_path: Path) -> None:
    named = []
    for args in ("1", "2"):
        resources = generated(tmp_path, manifest({}, pre_scripts=[{"path": "scripts/common/x.sh", "args": args}]))
        named += [one["metadata"]["name"] for one in of_kind(resources, "ConfigMap") if one.get("immutable")]
    assert len(set(named)) == 2


def test_a_script_that_no_image_has_is_taken_from_here_or_named(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: dict[str, Any] = {"pre_scripts": ["scripts/site/built.sh"], "encapsulate_script": "nice"}
    config = {"context": {"pre_scripts": ["scripts/site/built.sh", "scripts/site/new.sh", "scripts/common/there.sh"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["--execution-config", str(tmp_path / "config.json")]
    generated(tmp_path, manifest({}, **built), *words)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "hooks " in line]
    assert "hooks scripts/site/new.sh: not in the images, which contain" in line
    (tmp_path / "models.json").write_text("[]")
    (tmp_path / "scripts/site").mkdir(parents=True)
    (tmp_path / "scripts/site/new.sh").write_text("echo new\n\techo more")
    files = mounted(generated(tmp_path, manifest({}, **built), *words), "hooks")
    assert files["workspace/scripts/site/new.sh"] == "echo new\n\techo more"
    assert "not in the images" not in capsys.readouterr().err
    generated(tmp_path, manifest({}, **built), *words, "--mode", "runner")
    assert "hooks scripts/site/new.sh: not in the images" in capsys.readouterr().err


def test_an_unknown_tool_is_refused_and_one_of_the_manifest_is_known(tmp_path: Path, capsys: Captured) -> None:
    content = {**manifest({}, tools=["mine"]), "tools": {"mine": {"cmd": "mine --all"}}}
    assert "wrapper='mine --all'" in mounted(generated(tmp_path, content), "hooks")["hooks.sh"]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(manifest({}, tools=["mine"])))
    assert main(["generate", "k8s", "--manifest-file", str(path), "--output", str(tmp_path / "none")]) == 4
    assert "context: tools: unknown tool 'mine'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_runner_is_told_the_whole_context(tmp_path: Path, capsys: Captured) -> None:
    content = {**manifest({}, **HOOKS, model_args="--x"), "tools": {"mine": {"cmd": "mine"}}}
    resources = generated(tmp_path, content, "--mode", "runner", "--timeout", "100", "--slack", "10")
    config = next(one for one in of_kind(resources, "ConfigMap") if one.get("immutable"))
    inside = json.loads(config["data"]["manifest.json"])
    generated(tmp_path, manifest({"artifacts": ["a"]}), "--mode", "runner")
    assert "artifacts a: not collected, a pod's files are deleted with it; mount a volume" in capsys.readouterr().err
    assert (inside["context"], inside["tools"]) == ({**HOOKS, "model_args": "--x"}, {"mine": {"cmd": "mine"}})
    assert of_kind(resources, "Job")[0]["spec"]["activeDeadlineSeconds"] == 100 + 3 * 600 + 10


@pytest.mark.parametrize(
    ("card", "context", "warning"),
    [
        ({"cred": "AMD_GITHUB"}, {}, "dummy: cred AMD_GITHUB: its script expects AMD_GITHUB_<KEY>, such as"),
        (
            {"cred": "G", "url": "https://x/y"},
            {},
            "unless they are only for its url, whose code is in the image; name a Secret",
        ),
        ({"artifacts": ["a/**", "*.json"]}, {"artifacts": ["b"]}, "artifacts a/**, *.json, b: not collected"),
        ({}, {"tools": ["rocprof"]}, "artifacts rocprof_output: not collected"),
        ({"skip_gpu_arch": "A100"}, {}, "ignored: dummy: skip_gpu_arch 'A100': a pod's GPU is unknown until it runs"),
        (
            {"additional_docker_run_options": "--ipc=host"},
            {},
            "ignored: dummy: additional_docker_run_options '--ipc=host'",
        ),
        ({}, {"docker_gpus": "0,1", "slurm": {"x": 1}}, "ignored in pods: context: docker_gpus, slurm"),
        ({}, {"gen_sys_env_details": True}, "ignored in pods: context: gen_sys_env_details"),
        (
            {"env_vars": {"A": "${A}"}},
            {"env_vars": {"B": "/x/${B}", "C": "$C"}},
            "env_vars B, A: pods get ${NAME} as it is",
        ),
        ({}, {"tools": ["gpu_info_vram_profiler"]}, "ignored in pods: tools gpu_info_vram_profiler: "),
        ({}, {"workspace": "/data"}, "ignored in pods: context: workspace"),
        ({"caches": ["/root/.cache"]}, {}, "caches /root/.cache: a pod's folders are deleted with it"),
        (
            {},
            {"multi_node_args": {"MASTER_ADDR": "n0"}},
            "ignored: multi_node_args.MASTER_ADDR: pods have their own addresses",
        ),
        ({}, {"multi_node_args": {"NNODES": 2, "RUNNER": "mpirun"}}, "pods have no sshd by default"),
    ],
)
def test_what_a_pod_does_not_get_is_one_line(
    tmp_path: Path, capsys: Captured, card: dict[str, Any], context: dict[str, Any], warning: str
) -> None:
    generated(tmp_path, manifest(card, card, **context))
    lines = [line for line in capsys.readouterr().err.splitlines() if warning in line]
    assert len(lines) == 1, lines


def test_what_is_delivered_is_not_warned_of(tmp_path: Path, capsys: Captured) -> None:
    card = {"cred": "G", "log_error_patterns": ["bad"], "url": "https://x/y"}
    context: dict[str, Any] = {"gen_sys_env_details": False, "SHM_SIZE": "8g", "pre_scripts": ["scripts/common/x.sh"]}
    resources = generated(tmp_path, manifest(card, **context), "--env-secret", "tokens", "--runner-image", "r@sha256:0")
    assert capsys.readouterr().err.startswith("to run them: ")
    [job] = of_kind(resources, "Job")
    assert model_container(job)["envFrom"] == [{"secretRef": {"name": "tokens"}}]
    volumes = {one["name"]: one for one in job["spec"]["template"]["spec"]["volumes"]}
    assert volumes["shared-memory"]["emptyDir"]["sizeLimit"] == "8Gi"


@pytest.mark.parametrize(("size", "quantity"), [("16g", "16Gi"), ("512M", "512Mi"), ("1024", "1024"), ("9b", "9")])
def test_a_size_of_an_engine_is_a_quantity(size: str, quantity: str) -> None:
    assert names.of_docker(size) == quantity
    assert names.in_bytes(quantity) > 0


def test_a_wrong_size_is_named(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(manifest({}, SHM_SIZE="much")))
    assert main(["generate", "k8s", "--manifest-file", str(path)]) == 4
    assert "context: SHM_SIZE: expected a size such as '16g', got 'much'" in capsys.readouterr().err


def test_one_pod_has_the_runner_of_a_host(tmp_path: Path) -> None:
    args = {"NCCL_SOCKET_IFNAME": "ib0", "MASTER_PORT": 7000, "HOST_LIST": "$(x)"}
    [job] = of_kind(generated(tmp_path, manifest({"n_gpus": "4"}, multi_node_args=args)), "Job")
    assert variables(job)["MAD_MULTI_NODE_RUNNER"] == (
        "env NCCL_SOCKET_IFNAME=ib0 torchrun --nproc_per_node 4 --nnodes 1 --node_rank 0 "
        "--master_addr localhost --master_port 7000"
    )


@pytest.mark.parametrize(
    ("args", "words", "nodes", "runner", "launcher"),
    [
        (
            {"NNODES": 3, "NODE_RANK": 2, "MASTER_ADDR": "n0", "GLOO_SOCKET_IFNAME": "$(NO)"},
            [],
            3,
            "env 'GLOO_SOCKET_IFNAME=$(NO)' torchrun --nproc_per_node 4 --nnodes 3 --node_rank 1 "
            "--master_addr madengine-dummy-job-0.madengine-dummy --master_port 6006",
            "torchrun",
        ),
        (
            {"NNODES": 3, "RUNNER": "mpirun"},
            ["--nodes", "2"],
            2,
            "mpirun -np 8 --host madengine-dummy-job-0.madengine-dummy:4,madengine-dummy-job-1.madengine-dummy:4",
            "mpirun",
        ),
    ],
)
def test_several_pods_have_the_runner_of_several_hosts(
    tmp_path: Path, args: dict[str, Any], words: list[str], nodes: int, runner: str, launcher: str
) -> None:
    resources = generated(tmp_path, manifest({"n_gpus": "4"}, multi_node_args=args), *words)
    [job] = of_kind(resources, "Job")
    assert job["spec"]["completions"] == nodes
    known = variables(job)
    assert known["MAD_MULTI_NODE_RUNNER"] == runner
    assert (known["NNODES"], known["MASTER_PORT"], known["NPROC_PER_NODE"]) == (str(nodes), "6006", "4")
    config = next(one for one in of_kind(resources, "ConfigMap") if one.get("immutable"))
    [facts] = json.loads(config["data"]["jobs.json"]).values()
    assert (facts["nodes"], facts["launcher"]) == (nodes, launcher)


LOG = "performance: 1 warm\nentry.sh: script\nOutOfMemoryError: no\nperformance: 7 tokens\n"


@pytest.mark.parametrize(
    ("card", "context", "entry", "reason", "performance"),
    [
        ({}, HOOKS, ENTRY[:-1] + ', "failed_hook": null}', "", "7"),
        (
            {},
            HOOKS,
            ENTRY.replace("0,", "3,", 1)[:-1] + ', "failed_hook": "pre-script scripts/common/warm.sh"}',
            "pre-script scripts/common/warm.sh: exit code 3",
            "",
        ),
        ({}, HOOKS, ENTRY, "the image's entry.sh is of an older madengine, which ran no hooks", ""),
        (
            {"log_error_patterns": ["OutOfMemory"]},
            {"log_error_benign_patterns": ["fine"]},
            ENTRY,
            "log_error_patterns: 'OutOfMemory' is in the log: OutOfMemoryError: no",
            "",
        ),
        ({"log_error_patterns": ["OutOfMemory"]}, {"log_error_benign_patterns": ["no"]}, ENTRY, "", "1"),
    ],
)
def test_a_sidecar_knows_of_hooks_and_of_error_patterns(
    tmp_path: Path, card: dict[str, Any], context: dict[str, Any], entry: str, reason: str, performance: str
) -> None:
    [row] = report_of(tmp_path, manifest(card, **context), _gpus="", entry_json=entry, model_run_live_log=LOG).rows
    assert row["reason"].startswith(reason) and bool(row["reason"]) == bool(reason)
    assert (row["performance"], row["status"]) == (performance, "FAILURE" if reason else "SUCCESS")


def test_the_exception_of_a_process_is_in_the_reason(tmp_path: Path) -> None:
    log = "[rank1]: Traceback (most recent call last):\n[rank1]: ValueError: no\n"
    failure = ENTRY.replace("0,", "1,", 1)
    [row] = report_of(tmp_path, manifest({}), _gpus="", entry_json=failure, model_run_live_log=log).rows
    assert row["reason"] == "exit code 1; [rank1]: ValueError: no"


def test_the_commit_of_a_models_own_code_is_in_its_row(tmp_path: Path) -> None:
    content = manifest({"url": "https://x/y"})
    [image] = content["built_images"].values()
    image["git_commit"] = "1" * 40
    [row] = report_of(tmp_path, content, _gpus="", entry_json=ENTRY, model_run_live_log=LOG).rows
    assert row["git_commit"] == "1" * 40


def test_texts_of_the_files_are_read_back_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("[]")
    (tmp_path / "scripts").mkdir()
    texts = {"a.sh": " x\n", "b.sh": "x\n\n", "c.sh": "x", "d.sh": "\n\nx\n", "e.sh": "x \n\n y\n", "f.sh": "x\n\ny\n"}
    texts |= {"g.sh": "", "h.sh": "{\n", "i.sh": "x\x0cy\u2028\n"}
    for name, text in texts.items():
        (tmp_path / "scripts" / name).write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"context": {"pre_scripts": [f"scripts/{n}" for n in texts]}}))
    generated(tmp_path, manifest({}), "--execution-config", str(tmp_path / "config.json"))
    resources = [one for name in ("configmap", "job") for one in objects(tmp_path / f"k8s-madengine-{name}.yaml")]
    files = mounted(resources, "hooks")
    assert {name: files[f"workspace/scripts/{name}"] for name in texts} == texts
