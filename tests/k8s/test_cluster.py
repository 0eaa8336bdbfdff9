"""From a manifest to perf.csv over a cluster: real kubectl, real containers, a stand-in API server and kubelet."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from madengine.results.rows import COLUMNS
from tests.bed.gpu_stand_ins import NvidiaNode
from tests.k8s.conftest import NAMESPACE, Cluster


def with_script(cluster: Cluster, script: str, **context: Any) -> None:
    config = {"context": {"docker_env_vars": {"SCRIPT": script}, **context}}
    (cluster.folder / "execution_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_each_pods_rows_are_in_the_configmap_and_come_back_once(cluster: Cluster) -> None:
    cluster.generate("--tags", "good", "bad", "several")
    cluster.apply()
    outcomes = sorted((row["model"], row["status"], row["performance"], row["reason"]) for row in cluster.reported)
    assert outcomes == [
        ("bad", "FAILURE", "", "exit code 7"),
        ("good", "SUCCESS", "12.5", ""),
        ("several_m1", "SUCCESS", "1.5", ""),
        ("several_m2", "SUCCESS", "2.5", ""),
        ("several_m3", "SUCCESS", "3.5", ""),
    ]
    assert all(set(row) == set(COLUMNS) for row in cluster.reported)
    good = next(row for row in cluster.reported if row["model"] == "good")
    images = json.loads((cluster.folder / "build_manifest.json").read_text())["built_images"]
    [entry] = [image for key, image in images.items() if key.startswith("ci-good")]
    assert good["image_digest"] == entry["registry_digest"]
    assert (good["machine_name"], good["deployment_type"], good["launcher"]) == ("node-1", "kubernetes", "native")
    assert float(good["test_duration"]) < 60 and good["started"] and good["environment_id"]

    log = cluster.kubectl("logs", "-n", NAMESPACE, "job/madengine-good-job").stdout
    assert log.startswith("hello\nperformance: 12.5 tokens_per_second\n")

    for name in ("configmap", "job"):
        lines = cluster.kubectl("apply", "-f", f"k8s-madengine-{name}.yaml").stdout.splitlines()
        assert lines and all(line.endswith(" unchanged") for line in lines), lines
    cluster.kubectl("delete", "-f", "k8s-madengine-configmap.yaml")
    cluster.kubectl("apply", "-f", "k8s-madengine-configmap.yaml")
    assert len(cluster.reported) == 5, "no results are in a file"

    assert cluster.collect("--markdown=comment.md", check=False).code == 3
    assert "4 SUCCESS, 1 FAILURE on 1 host." in (cluster.folder / "comment.md").read_text(encoding="utf-8")
    assert len(cluster.rows) == 5
    assert all(row["engine"].endswith(" (configmap)") for row in cluster.rows)
    errors = cluster.collect(check=False).stderr
    assert "0 new in perf.csv" in errors
    assert len(cluster.rows) == 5


def test_without_sidecar_the_pods_are_asked(cluster: Cluster) -> None:
    # An image of an older madengine gets its scripts from the package here.
    content = json.loads((cluster.folder / "build_manifest.json").read_text())
    next(image for key, image in content["built_images"].items() if key.startswith("ci-good"))["self_contained"] = False
    (cluster.folder / "build_manifest.json").write_text(json.dumps(content))
    for name in ("scripts", "models.json"):
        subprocess.run(["cp", "-r", str(cluster.built.folder / name), str(cluster.folder)], check=True)
    for script in (cluster.folder / "scripts").rglob("*.sh"):
        script.write_text(f"echo from here\n{script.read_text()}")
    cluster.generate("--tags", "good", "bad", "several", "--results", "pull")
    cluster.apply()
    assert ("configmaps", NAMESPACE, "madengine-results") not in cluster.server.cluster.objects
    assert not [key for key in cluster.server.cluster.objects if key[0] in ("roles", "rolebindings", "serviceaccounts")]
    assert cluster.collect(check=False).code == 3
    outcomes = sorted((row["model"], row["status"], row["performance"], row["reason"]) for row in cluster.rows)
    assert outcomes == [
        ("bad", "FAILURE", "", "exit code 7"),
        ("good", "SUCCESS", "12.5", ""),
        ("several_m1", "SUCCESS", "1.5", ""),
        ("several_m2", "SUCCESS", "2.5", ""),
        ("several_m3", "SUCCESS", "3.5", ""),
    ]
    assert all(row["engine"].endswith(" (termination message)") for row in cluster.rows)
    log = cluster.kubectl("logs", "-n", NAMESPACE, "job/madengine-good-job").stdout
    assert log.startswith("from here\nhello\n")
    cluster.collect(check=False)
    assert len(cluster.rows) == 5


def test_what_is_too_long_for_a_termination_message_is_in_the_log(cluster: Cluster) -> None:
    manifest = json.loads((cluster.folder / "build_manifest.json").read_text())
    [key] = [key for key in manifest["built_models"] if key.startswith("ci-scripted")]
    manifest["built_models"][key]["multiple_results"] = "r.csv"
    (cluster.folder / "build_manifest.json").write_text(json.dumps(manifest))
    with_script(
        cluster,
        "echo model,performance,metric >r.csv\n"
        "i=0; while [ $i -lt 400 ]; do echo model-$i,$i,tokens; i=$((i+1)); done >>r.csv",
    )
    cluster.generate("--tags", "scripted", "--results", "pull")
    cluster.apply()
    cluster.collect()
    assert sorted(int(row["performance"]) for row in cluster.rows) == list(range(400))
    assert all(row["engine"].endswith(" (log)") for row in cluster.rows)


def test_a_pod_killed_for_memory_has_a_row_with_the_reason(cluster: Cluster) -> None:
    with_script(cluster, "echo started; sleep 60")
    cluster.generate("--tags", "scripted")
    cluster.kubelet.mishaps.append("kill")
    cluster.apply()
    [row] = cluster.reported
    assert (row["status"], row["performance"]) == ("FAILURE", "")
    assert row["reason"] == "killed before its script ended, without a warning: usually out of memory"
    assert cluster.collect(check=False).code == 3
    [row] = cluster.rows
    assert (row["reason"], row["exit_code"]) == ("out of memory: the kernel killed it", "137")


def test_a_pod_killed_for_memory_is_known_without_a_sidecar_too(cluster: Cluster) -> None:
    with_script(cluster, "echo started; sleep 60")
    cluster.generate("--tags", "scripted", "--results", "pull")
    cluster.kubelet.mishaps.append("kill")
    cluster.apply()
    assert cluster.collect(check=False).code == 3
    [row] = cluster.rows
    assert (row["reason"], row["exit_code"]) == ("out of memory: the kernel killed it", "137")


def test_a_script_that_the_kernel_kills_at_the_memory_limit_is_out_of_memory(cluster: Cluster) -> None:
    with_script(cluster, "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo performance: 1 tokens")
    cluster.generate("--tags", "scripted", "--memory", "48Mi")
    cluster.apply()
    [row] = cluster.reported
    assert (row["status"], row["reason"]) == ("FAILURE", "out of memory: the kernel killed it")


def test_a_pod_that_is_gone_leaves_its_row(cluster: Cluster) -> None:
    """After it has waited in a queue, whose webhook suspends Jobs and whose controller starts them elsewhere."""
    cluster.generate("--tags", "good", "--queue", "gpus")
    cluster.kubelet.mishaps.append("delete")
    cluster.apply()
    waiting = cluster.collect(check=False)
    assert waiting.code == 1 and "madengine-good-job: waits in queue gpus for capacity" in waiting.stderr
    cluster.kubelet.admit()
    cluster.kubelet.join()
    assert "unchanged" in cluster.kubectl("apply", "-f", "k8s-madengine-job.yaml").stdout
    assert (
        cluster.server.cluster.get("jobs", NAMESPACE, "madengine-good-job")["spec"]["template"]["spec"]["nodeSelector"][
            "flavor"
        ]
        == "gpu"
    )
    cluster.collect()
    assert [row["status"] for row in cluster.rows] == ["SUCCESS"]


def test_a_job_without_any_pod_has_a_failure_with_its_own_reason(cluster: Cluster) -> None:
    cluster.generate("--tags", "bad", "--results", "pull")
    cluster.kubelet.mishaps.append("delete")
    cluster.apply()
    assert cluster.collect(check=False).code == 3
    [row] = cluster.rows
    assert row["reason"].startswith("none of its pods is left: PodFailurePolicy: exit code")
    assert row["engine"].endswith("/madengine-bad-job (job)")


def test_repeats_are_rows_of_their_own(cluster: Cluster) -> None:
    cluster.generate("--tags", "good", "--repeats", "2", "--run-id", "night-7")
    cluster.apply()
    cluster.collect("--run-id", "night-7", "--wait")
    rows = sorted((row["run_id"], row["performance"], row["repeat"]) for row in cluster.rows)
    assert rows == [("night-7", "12.5", "1"), ("night-7", "12.5", "2")]
    other = cluster.collect("--run-id", "another", check=False)
    assert other.code == 1 and "no results of run another in namespace" in other.stderr


def test_of_several_nodes_the_first_measures(cluster: Cluster) -> None:
    """As a JobSet, which waits in a queue before it starts."""
    with_script(cluster, 'echo "$NODE_RANK of $NNODES: $MAD_MULTI_NODE_RUNNER"; echo "performance: 5 tokens"')
    cluster.generate("--tags", "scripted", "--nodes", "2", "--jobset", "--queue", "gpus")
    cluster.apply()
    assert not [key for key in cluster.server.cluster.objects if key[0] in ("jobs", "pods")], (
        "Kueue has not admitted it"
    )
    cluster.kubelet.admit()
    cluster.kubelet.join()
    cluster.collect("--wait")
    [row] = cluster.rows
    assert (row["nnodes"], row["launcher"], row["performance"]) == ("2", "torchrun", "5")
    assert [text.splitlines()[0] for _, text in sorted(cluster.logs.items())] == [
        f"{rank} of 2: torchrun --nproc_per_node 1 --nnodes 2 "
        f"--node_rank {rank} --master_addr madengine-scripted-job-0-0.madengine-scripted --master_port 6006"
        for rank in (0, 1)
    ]


def test_a_rank_that_fails_after_the_first_has_ended_fails_the_run(cluster: Cluster) -> None:
    with_script(cluster, '[ "$NODE_RANK" = 0 ] || exit 7; echo "performance: 5 tokens"')
    cluster.generate("--tags", "scripted", "--nodes", "2")
    cluster.apply()
    assert cluster.collect(check=False).code == 3
    [row] = cluster.rows
    assert (row["status"], row["performance"], row["nnodes"]) == ("FAILURE", "", "2")
    assert row["reason"].startswith("rank 1 (madengine-scripted-job-1-") and row["reason"].endswith("): exit code 7")


def test_a_script_that_handles_the_eviction_and_exits_well_has_not_succeeded(cluster: Cluster) -> None:
    with_script(cluster, "trap 'exit 0' TERM; echo performance: 3 tokens; echo started as $(id -u); sleep 2 & wait")
    cluster.generate("--tags", "scripted", "--run-as", "1000:1000", "--drop-capabilities", "--retries", "0")
    cluster.kubelet.mishaps.append("evict")
    cluster.apply()
    assert cluster.collect().code == 0, "the eviction is retried, and does not count as a retry"
    [stopped, repeated] = cluster.rows
    assert (stopped["status"], stopped["performance"], stopped["exit_code"]) == ("FAILURE", "", "143")
    assert stopped["reason"] == "stopped: Evicted: The node was low on resource: memory."
    assert (repeated["status"], repeated["performance"]) == ("SUCCESS", "3")
    assert all("started as 1000" in text for text in cluster.logs.values())


def test_a_full_configmap_costs_no_row_and_is_named(cluster: Cluster) -> None:
    cluster.generate("--tags", "good", "bad")
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("apply", "-f", "k8s-madengine-configmap.yaml")
    meta = {"name": "madengine-results", "labels": {"app.kubernetes.io/name": "madengine"}}
    full = {"other.result.json": "x" * 1024 * 1023}
    one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": full}
    cluster.server.cluster.create("configmaps", NAMESPACE, one)
    cluster.kubectl("apply", "-f", "k8s-madengine-job.yaml")
    cluster.kubelet.join()
    collected = cluster.collect(check=False)
    assert collected.code == 3
    outcomes = sorted((row["model"], row["status"], row["performance"], row["exit_code"]) for row in cluster.rows)
    assert outcomes == [("bad", "FAILURE", "", "7"), ("good", "SUCCESS", "12.5", "0")]
    assert "not reported: " in collected.stderr
    assert "configmap madengine-results is full: " in collected.stderr


def test_a_role_that_is_missing_costs_the_configmap_and_not_the_row(cluster: Cluster) -> None:
    cluster.generate("--tags", "good")
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("apply", "-f", "k8s-madengine-configmap.yaml")
    cluster.server.cluster.delete("roles", NAMESPACE, "madengine-results")
    cluster.kubectl("apply", "-f", "k8s-madengine-job.yaml")
    cluster.kubelet.join()
    assert ("configmaps", NAMESPACE, "madengine-results") not in cluster.server.cluster.objects
    cluster.collect()
    [row] = cluster.rows
    assert (row["status"], row["performance"]) == ("SUCCESS", "12.5")
    assert row["engine"].endswith(" (termination message)")


def with_scripts(cluster: Cluster, **texts: str) -> list[str]:
    """A package here with scripts that no image has; gives their paths."""
    (cluster.folder / "models.json").write_text("[]")
    (cluster.folder / "scripts/site").mkdir(parents=True)
    for name, text in texts.items():
        (cluster.folder / f"scripts/site/{name}.sh").write_text(text)
    return [f"scripts/site/{name}.sh" for name in texts]


@pytest.mark.parametrize("channel", ["configmap", "pull"])
def test_hooks_run_around_the_script_and_a_warm_up_is_no_metric(cluster: Cluster, channel: str) -> None:
    before, after = with_scripts(cluster, before="echo performance: 1 warm\n", after='echo "after $1"\n')
    with_script(
        cluster,
        'echo "wrapped $WRAPPED"; echo performance: 7 tokens',
        pre_scripts=[before],
        post_scripts=[{"path": after, "args": "'a b'"}],
        tools=[{"name": "test_tools_A"}],
        encapsulate_script="env WRAPPED=yes",
    )
    cluster.generate("--tags", "scripted", "--results", channel)
    cluster.apply()
    log = cluster.kubectl("logs", "-n", NAMESPACE, "job/madengine-scripted-job").stdout
    assert [log.index(word) for word in ("1 warm", "wrapped yes", "after a b")] == sorted(
        log.index(word) for word in ("1 warm", "wrapped yes", "after a b")
    )
    cluster.collect()
    [row] = cluster.rows
    assert (row["status"], row["performance"], row["metric"], row["reason"]) == ("SUCCESS", "7", "tokens", "")


def test_a_hook_that_fails_is_the_reason_of_the_row(cluster: Cluster) -> None:
    [before] = with_scripts(cluster, before="exit 3\n")
    with_script(cluster, "echo performance: 7 tokens", pre_scripts=[before, "scripts/site/none.sh"])
    cluster.generate("--tags", "scripted")
    cluster.apply()
    assert cluster.collect(check=False).code == 3
    [row] = cluster.rows
    assert (row["status"], row["performance"]) == ("FAILURE", "")
    assert row["reason"] == f"pre-script {before}: exit code 3"


def test_an_error_pattern_in_the_log_is_found_without_a_sidecar_too(cluster: Cluster) -> None:
    with_script(cluster, "echo performance: 7 tokens; echo all NaN", log_error_patterns=["NaN"])
    cluster.generate("--tags", "scripted", "--results", "pull")
    cluster.apply()
    assert cluster.collect(check=False).code == 3
    [row] = cluster.rows
    assert (row["performance"], row["reason"]) == ("", "log_error_patterns: 'NaN' is in the log: all NaN")


def test_the_sidecar_measures_the_pods_gpus_and_no_others(cluster: Cluster, tmp_path: Path) -> None:
    node = NvidiaNode(2)
    listed = f"0, {node.uuids[1]}, 00000000:23:00.0, 580.65, 81559, NVIDIA H100 80GB HBM3"
    script = node.nvidia_smi().replace("date '+%Y/%m/%d %H:%M:%S.%3N'", "echo '[N/A]'")  # busybox has no milliseconds
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncase $* in *--query-gpu=index,uuid*) echo '{listed}'; exit ;; esac\n{script}\n")
    tool.chmod(0o755)
    cluster.kubelet.nvidia_smi = tool
    manifest = json.loads((cluster.folder / "build_manifest.json").read_text())
    [key] = [key for key in manifest["built_models"] if key.startswith("ci-scripted")]
    manifest["built_models"][key]["n_gpus"] = "1"
    (cluster.folder / "build_manifest.json").write_text(json.dumps(manifest))
    series = "cat ../gpu_series.csv 2>/dev/null | wc -l"
    with_script(cluster, f"while [ $({series}) -lt 8 ]; do sleep 0.2; done; echo performance: 7 tokens")
    words = ("--gpu-vendor", "nvidia", "--gpu-metrics-from-node", "--gpu-metrics-url", "http://{node}:1/metrics")
    cluster.generate("--tags", "scripted", *words)
    cluster.apply()
    lines = cluster.kubectl("apply", "-f", "k8s-madengine-job.yaml").stdout.splitlines()
    assert lines and all(line.endswith(" unchanged") for line in lines), "amounts of GPUs are texts, as on a server"
    cluster.collect()
    log = cluster.kubectl("logs", "-n", NAMESPACE, "job/madengine-scripted-job", "-c", "report").stdout
    assert "GPU telemetry incomplete" not in log, log
    [row] = cluster.rows
    figures = {name: row[name] for name in ("peak_gpu_memory_mib", "peak_temperature_c", "telemetry_source", "gpus")}
    assert figures == {
        "peak_gpu_memory_mib": "268.0", "peak_temperature_c": "70.0", "telemetry_source": "nvidia-smi", "gpus": "0",
    }  # fmt: skip
    assert row["gpu_architecture"] == "H100" and float(row["energy_j"]) > 300


FILES = """mkdir -p out/deep; echo one >out/a.json; echo two >out/deep/b.json; chmod 600 out/a.json
ln -s /var/run/secrets/kubernetes.io out/token; ln -s /etc/passwd out/passwd; mkfifo out/pipe
ln -s /var/run/secrets ../artifacts; echo performance: 7 tokens"""


@pytest.mark.parametrize("place", ["claim", "wait"])
def test_artifacts_come_back_and_nothing_that_links_lead_to(cluster: Cluster, place: str) -> None:
    script = FILES if place == "claim" else FILES.replace("ln -s /var/run/secrets ../artifacts; ", "")
    with_script(cluster, script, artifacts=["out/**"])
    words = {"claim": ("--artifacts-pvc", "shared"), "wait": ("--artifacts-wait", "60")}[place]
    cluster.generate("--tags", "scripted", "--run-id", "r", *words)
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.kubectl("apply", "-f", "k8s-madengine-configmap.yaml")
    cluster.kubectl("apply", "-f", "k8s-madengine-job.yaml")
    if place == "claim":
        cluster.kubelet.join()
    cluster.collect("--wait")
    [pod] = cluster.logs
    home = cluster.folder / "runs/r" / pod if place == "wait" else cluster.kubelet.folder / "claim-shared/r" / pod
    files = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}
    assert files == {"artifacts/out/a.json": "one\n", "artifacts/out/deep/b.json": "two\n"}
    [run] = json.loads((cluster.folder / "results.json").read_text())["runs"]
    assert {one["path"]: one["size_bytes"] for one in run["results"][0]["artifacts"]} == dict.fromkeys(files, 4)
    assert [row["performance"] for row in cluster.rows] == ["7"]
