"""A manifest under a real Slurm: every model gets a row, whatever the scheduler does to its job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bed.components import outcome
from tests.bed.gpu_stand_ins import NvidiaNode, without_gpu_flags
from tests.fleet.conftest import CHECKOUT, Cluster, until

DEPLOY = ("deploy", "--target=slurm", "--manifest-file=build_manifest.json")


def outcomes(cluster: Cluster, *columns: str) -> list[tuple[str, ...]]:
    return sorted(tuple(row[column] for column in columns) for row in cluster.rows)


def set_in_manifest(cluster: Cluster, **keys: object) -> None:
    path = cluster.folder / "build_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def jobs(cluster: Cluster) -> str:
    return cluster.hosts.run(1, "squeue", "--noheader", "--format=%T")


def test_each_model_is_a_task_and_has_a_row(cluster: Cluster) -> None:
    done = cluster(*DEPLOY, "--run-id=r1", "--openmetrics=metrics.txt", check=False)
    assert done.code == 3, done.stderr
    text = (cluster.folder / "metrics.txt").read_text(encoding="utf-8")
    assert sorted(re.findall(r'^madengine_run_success{model="(\w+)".* ([01])\.0$', text, re.MULTILINE)) == [
        ("bad", "0"), ("quick", "1"), ("slow", "1"),
    ]  # fmt: skip
    assert outcomes(cluster, "model", "status", "performance", "reason", "deployment_type", "run_id") == [
        ("bad", "FAILURE", "", "exit code 3", "slurm", "r1"),
        ("quick", "SUCCESS", "12.5", "", "slurm", "r1"),
        ("slow", "SUCCESS", "3", "", "slurm", "r1"),
    ]
    hosts = {cluster.hosts.name(number) for number in (1, 2, 3)}
    assert {row["machine_name"] for row in cluster.rows} <= hosts
    again = cluster(*DEPLOY, "--run-id=r1", check=False)
    assert again.code == 4
    assert "results/r1: holds an earlier run; use another --run-id" in again.stderr
    [note] = (cluster.folder / "results/r1").glob("*-quick/*/runs/r1/quick/**/note.txt")
    assert note.read_text() == "kept\n"
    again = cluster("collect", "--output=perf.csv", "results/r1", check=False)
    assert "rows: 0 new" in again.stderr


def test_a_workspace_is_in_the_folder_of_submission_and_lasts(cluster: Cluster) -> None:
    context = {"encapsulate_script": "ls /myworkspace; touch /myworkspace/weights;"}
    by_option = ["--workspace=shared", "-c", json.dumps(context)]
    by_context = ["-c", json.dumps({**context, "workspace": "shared"})]
    for run_id, words in {"r1": by_option, "r2": by_context}.items():
        cluster(*DEPLOY, "--tags=quick", f"--run-id={run_id}", *words)
        (log,) = (cluster.folder / "results" / run_id).glob("*-quick/*/runs/*/quick/*.run.live.log")
        assert ("weights" in log.read_text().splitlines()) == (run_id == "r2")


def test_one_job_runs_all_models_on_one_node(cluster: Cluster) -> None:
    words = ("--one-job", "--tags", "quick", "bad", "--run-id=r1", "--time=00:10:00", "--partition=debug")
    done = cluster(*DEPLOY, *words, check=False)
    assert done.code == 3, done.stderr
    assert outcomes(cluster, "model", "status") == [("bad", "FAILURE"), ("quick", "SUCCESS")]
    assert len({row["machine_name"] for row in cluster.rows}) == 1
    [script] = (cluster.folder / "results/r1").glob("job-*.sh")
    assert {"#SBATCH --time=00:10:00", "#SBATCH --partition=debug"} <= {*script.read_text().splitlines()}


def test_a_manifest_that_asks_for_slurm_is_submitted_and_says_so(cluster: Cluster) -> None:
    set_in_manifest(cluster, deployment_config={"target": "slurm", "slurm": {"partition": "debug", "nodes": 1}})
    done = cluster("run", "--manifest-file=build_manifest.json", "--tags=quick")
    assert "target: slurm: the manifest has `slurm` and `deploy`; --target overrides it" in done.stderr
    assert outcomes(cluster, "model", "status", "deployment_type") == [("quick", "SUCCESS", "slurm")]
    here = cluster("run", "--manifest-file=build_manifest.json", "--tags=quick", "--target=local", "--output=here.csv")
    assert "target:" not in here.stderr
    assert (cluster.folder / "here.csv").read_text().splitlines()[-1].startswith("quick,")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"nodes": 0}, "context: slurm.nodes: expected a number of nodes, got 0"),
        ({"partition": "a b"}, "context: slurm.partition: 'a b': expected one word without quotes and blanks"),
        ({"shared_workspace": "/x"}, "context: slurm.shared_workspace: '/x' is unsupported: jobs work in output_dir"),
        ({"exclusive": "yes"}, "context: slurm.exclusive: expected true or false, got 'yes'"),
    ],
)
def test_what_slurm_cannot_be_asked_for_is_refused(cluster: Cluster, section: object, message: str) -> None:
    set_in_manifest(cluster, deployment_config={"slurm": section})
    refused = cluster("run", "--manifest-file=build_manifest.json", check=False)
    assert refused.code == 4
    assert message in refused.stderr
    assert not (cluster.folder / "results").exists()
    assert not jobs(cluster)


def test_a_token_of_the_context_is_in_no_script(cluster: Cluster) -> None:
    context = "{'docker_env_vars': {'TOKEN': 'correct-horse'}}"
    set_in_manifest(cluster, context={"docker_gpus": "0-3"})
    done = cluster(*DEPLOY, "--tags=quick", "--run-id=r1", "--additional-context", context)
    assert "docker_gpus 0-3 of the manifest ignored: Slurm chooses the GPUs" in done.stderr
    files = [path for path in (cluster.folder / "results").rglob("*") if path.is_file()]
    [file] = [path for path in files if b"correct-horse" in path.read_bytes()]
    assert (file.name, file.stat().st_mode & 0o777) == ("context.json", 0o600)
    assert outcomes(cluster, "model", "status") == [("quick", "SUCCESS")]


def test_what_sbatch_refuses_is_one_line(cluster: Cluster) -> None:
    refused = cluster(*DEPLOY, "--partition=nowhere", check=False)
    assert refused.code == 1
    assert "sbatch --parsable" in refused.stderr
    assert "invalid partition" in refused.stderr.lower()
    assert "Traceback" not in refused.stderr


def test_a_manifest_written_by_hand_runs_from_archives(cluster: Cluster, built: Path, bed: Mapping[str, str]) -> None:
    content = json.loads(built.read_text())
    image = next(image for key, image in content["built_images"].items() if "quick" in key)
    archives = cluster.folder / "archives"
    archives.mkdir()
    name = "org/quick:1"
    for words in (("tag", image["image_id"], name), ("save", f"--output={archives / 'org_quick_1.tar'}", name)):
        outcome(["docker", *words], {"DOCKER_HOST": bed["DOCKER_HOST"]})
    (cluster.folder / "scripts/q").mkdir(parents=True)
    (cluster.folder / "scripts/q/run.sh").write_text("echo 'performance: 8 by_hand'\n")
    (cluster.folder / "models.json").write_text("[]")
    by_hand = {
        "built_images": {"q": {"docker_image": name, "local_image": True, "registry_image": None, "dockerfile": "N/A"}},
        "built_models": {
            "q": {"name": "q", "scripts": "scripts/q", "dockerfile": "docker/q", "n_gpus": "0", "timeout": -1}
        },
        "deployment_config": {"target": "slurm", "slurm": {"nodelist": cluster.hosts.name(2)}},
    }
    (cluster.folder / "build_manifest.json").write_text(json.dumps(by_hand))
    cluster.hosts.sh(2, f"docker rmi --force {image['image_id']}")
    cluster.run_with({"MAD_DOCKER_BUILDS": "archives"}, "run", "--manifest-file=build_manifest.json", "--run-id=r1")
    [row] = cluster.rows
    assert (row["model"], row["performance"], row["image_digest"]) == ("q", "8", image["image_id"])
    cluster.hosts.sh(2, f"docker rmi {name} && docker load --quiet --input /shared/images.tar")


@contextmanager
def submitted(cluster: Cluster, output: Path, *words: str, count: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """A madengine that has submitted `slow`, or all models, and whose containers run."""
    with output.open("wb") as file:
        environment = {**os.environ, "FLEET_DIR": str(cluster.hosts.folder)}
        line = cluster.command(*DEPLOY, *(words or ("--tags=slow", "--run-id=r1")))
        # Signals go to the group: the program itself is in a host.
        process = subprocess.Popen(line, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            until(lambda: len(cluster.containers().split()) == count, 60, output.read_text)
            yield process
        finally:
            process.kill()
            process.wait()


def test_ctrl_c_cancels_the_job_and_leaves_a_row(cluster: Cluster, tmp_path: Path) -> None:
    with submitted(cluster, tmp_path / "output") as process:
        os.killpg(process.pid, signal.SIGINT)
        until((cluster.folder / "perf.csv").exists, 60, (tmp_path / "output").read_text)
        # The programs that lead into the host end by the signal themselves.
        assert process.wait(90) == -signal.SIGINT, (tmp_path / "output").read_text()
    until(lambda: not jobs(cluster), 60, lambda: jobs(cluster))
    assert outcomes(cluster, "model", "status", "reason") == [("slow", "FAILURE", "interrupted")]
    assert not cluster.containers()


def test_a_run_can_be_left_and_fetched_later(cluster: Cluster) -> None:
    cluster("generate", "slurm", "--manifest-file=build_manifest.json", "--tags=quick", "--run-id=r1")
    [script] = (cluster.folder / "results/r1").glob("job-*.sh")
    job = cluster.hosts.sh(1, f"cd {cluster.inside} && sbatch --parsable results/r1/{script.name}").strip()
    (cluster.folder / "results/r1/slurm.json").write_text(json.dumps({"jobs": {"0-quick": int(job)}}))
    done = cluster("fetch", "--target=slurm", "--run-id=r1")
    assert "quick" in done.stdout
    assert outcomes(cluster, "model", "status") == [("quick", "SUCCESS")]
    missing = cluster("fetch", "--target=slurm", "--run-id=r2", check=False)
    assert missing.code == 4
    assert "no run that was submitted to Slurm" in missing.stderr


def test_each_attempt_has_a_row_whatever_ends_it(cluster: Cluster, tmp_path: Path) -> None:
    """The node of one task fails; others are queued again, reach their time limit, are cancelled and are killed."""
    (cluster.folder / "flags").mkdir()
    copy_model(cluster, "quick", "m0", "m1", "m2", "m3", "m4")
    context = {
        "encapsulate_script": "[ -e /flags/again ] || sleep 90;",
        "docker_mounts": {"/flags": f"{cluster.inside}/flags"},
    }
    words = ["--requeue", "--run-id=r1", "-c", json.dumps(context)]
    with submitted(cluster, tmp_path / "output", *words, count=5) as process:
        running = tasks(cluster)
        nodes = [node for _, node in running]
        [failing] = [task for task in running if nodes.count(task[1]) == 1]
        limited, again, cancelled, killed = (task for task, _ in running if task != failing[0])
        cluster.hosts.run(1, "scontrol", "update", f"jobid={limited}", "timelimit=1")
        cluster.hosts.run(1, "scancel", cancelled)
        cluster.hosts.run(1, "scancel", "--signal=KILL", "--batch", killed)
        (cluster.folder / "flags/again").write_text("")
        cluster.hosts.run(1, "scontrol", "requeue", again)
        cluster.hosts.run(1, "scontrol", "update", f"nodename={failing[1]}", "state=down", "reason=test")
        until(lambda: not running_on(cluster, failing[1]), 30, lambda: jobs(cluster))
        cluster.hosts.run(1, "scontrol", "update", f"nodename={failing[1]}", "state=resume", check=False)
        assert process.wait(90) == 3, (tmp_path / "output").read_text()
    rows = sorted((f"m{row['model'][1]}", row["attempt"], row["reason"]) for row in cluster.rows)
    first, second = (f"m{task.partition('_')[2]}" for task in (again, failing[0]))
    assert [row for row in rows if row[0] in (first, second)] == sorted(
        (model, attempt, reason) for model in (first, second) for attempt, reason in (("1", "interrupted"), ("2", ""))
    )
    others = {row[0]: row[1:] for row in rows if row[0] not in (first, second)}
    by_task = {task: others[f"m{task.partition('_')[2]}"] for task in (limited, cancelled, killed)}
    assert by_task[limited] == by_task[cancelled] == ("1", "interrupted")
    assert re.match(r"Slurm job \d+_\d: (failed|cancelled)", by_task[killed][1])
    until(lambda: not cluster.containers(), 10, cluster.containers)


def copy_model(cluster: Cluster, model: str, *names: str) -> None:
    """Leave copies of one model in the manifest."""
    path = cluster.folder / "build_manifest.json"
    content = json.loads(path.read_text())
    (key,) = (key for key, entry in content["built_models"].items() if entry["name"] == model)
    for section in ("built_images", "built_models"):
        content[section] = {name: {**content[section][key], "name": name} for name in names}
    path.write_text(json.dumps(content))


def running_on(cluster: Cluster, node: str) -> list[str]:
    return [task for task, other in tasks(cluster) if other == node]


def tasks(cluster: Cluster) -> list[tuple[str, str]]:
    """The tasks that run, each with its node."""
    words = ("--noheader", "--array", "--states=running", "--format=%F_%K %N")
    lines = cluster.hosts.run(1, "squeue", *words).splitlines()
    return sorted((task, node) for task, node in map(str.split, lines))


def test_the_gpus_are_those_that_slurm_gave(cluster: Cluster) -> None:
    node = NvidiaNode(count=4)
    docker = cluster.hosts.sh(1, "command -v docker").strip()
    with cluster.stand_ins({"nvidia-smi": node.nvidia_smi(), "docker": without_gpu_flags(docker)}, 1):
        copy_model(cluster, "quick", "one", "two")
        for model in ("one", "two"):
            set_gpus(cluster, model, "2")
        # So long that both run at the same time.
        context = json.dumps({"encapsulate_script": "sleep 3;"})
        done = cluster(*DEPLOY, f"--nodelist={cluster.hosts.name(1)}", "-c", context, check=False)
    assert done.code == 0, done.stderr
    assert outcomes(cluster, "model", "status", "n_gpus") == [("one", "SUCCESS", "2"), ("two", "SUCCESS", "2")]
    gpus = [gpu for row in cluster.rows for gpu in row["gpus"].split(",")]
    assert len(gpus) == len(set(gpus)) == 4
    refused = cluster(*DEPLOY, "--additional-context", "{'docker_gpus': '0-3'}", check=False)
    assert refused.code == 4
    assert "docker_gpus: 0-3 is unsupported: Slurm chooses the GPUs; use --gpus-per-node" in refused.stderr


def set_gpus(cluster: Cluster, model: str, count: str) -> None:
    """Make a model of the manifest one for NVIDIA GPUs."""
    path = cluster.folder / "build_manifest.json"
    content = json.loads(path.read_text())
    for key, entry in content["built_models"].items():
        if entry["name"] == model:
            entry["n_gpus"] = count
            content["built_images"][key]["gpu_vendor"] = "NVIDIA"
    path.write_text(json.dumps(content))


SCRIPT = """#!/bin/bash
[ "$1 $2 $xP $yD $SIZE $DOCKER_IMAGE_NAME" = "-n 2 1 2 big local" ] || exit 7
mkdir -p out
srun --nodes=2 --ntasks=2 uname -n | sort -u | tr '\\n' ' ' >out/nodes
cat >out/perf-$SLURM_JOB_ID.csv <<ROWS
model,performance,metric,status
multi_1k,250.5,tokens_per_second,SUCCESS
multi_4k,,tokens_per_second,FAILURE
ROWS
"""


def test_a_script_that_starts_its_own_containers_has_its_nodes(cluster: Cluster) -> None:
    settings = {"nodes": 2, "gpus_per_node": 2, "results_dir": "out", "ntasks_per_node": 1}
    model = {
        "name": "multi",
        "dockerfile": "docker/m",
        "scripts": "scripts/m/run_xPyD_models.slurm",
        "args": "-n 2",
        "env_vars": {"DOCKER_IMAGE_NAME": "local", "SIZE": "big"},
        "distributed": {"launcher": "slurm_multi", "nnodes": 2, "sglang_disagg": {"decode_nodes": 2}},
        "slurm": settings,
    }
    (cluster.folder / "scripts/m").mkdir(parents=True)
    (cluster.folder / "scripts/m/run_xPyD_models.slurm").write_text(SCRIPT)
    (cluster.folder / "models.json").write_text("[]")
    by_hand = {
        "built_images": {"multi": {"docker_image": "local", "local_image": True}},
        "built_models": {"multi": model},
        "deployment_config": {"slurm": {"partition": "debug"}},
    }
    (cluster.folder / "build_manifest.json").write_text(json.dumps(by_hand))
    done = cluster("run", "--manifest-file=build_manifest.json", "--run-id=r1", check=False)
    assert done.code == 3, done.stderr
    columns = ("model", "performance", "status", "launcher", "nnodes", "n_gpus", "deployment_type")
    expected = [
        ("multi_1k", "250.5", "SUCCESS", "slurm_multi", "2", "4", "slurm"),
        ("multi_4k", "", "FAILURE", "slurm_multi", "2", "4", "slurm"),
    ]
    assert outcomes(cluster, *columns) == expected
    assert len((cluster.folder / "scripts/m/out/nodes").read_text().split()) == 2
    # The same inside of an allocation: at once.
    words = "salloc --nodes=2 --gpus-per-node=2 env PYTHONPATH={} {} run --manifest-file=build_manifest.json -o two.csv"
    program = f"{sys.executable} -m madengine.distributed_cli"
    inside = cluster.hosts.sh(1, f"cd {cluster.inside} && {words.format(CHECKOUT, program)} 2>&1", check=False)
    assert "its scripts use the nodes of Slurm job" in inside
    assert "multi_1k" in (cluster.folder / "two.csv").read_text()


def test_nodes_of_one_job_run_a_model_together(cluster: Cluster) -> None:
    copy_model(cluster, "quick", "both", "dying")
    path = cluster.folder / "build_manifest.json"
    content = json.loads(path.read_text())
    content["built_models"]["dying"]["env_vars"] = {"DIES": "1"}
    content["built_models"]["both"]["distributed"] = {"launcher": "sglang-disagg", "nproc_per_node": 4}
    path.write_text(json.dumps(content))
    context = {
        "slurm": {"nodes": 2},
        "encapsulate_script": 'env | grep -E "^(MASTER|NODE_RANK|NNODES|SGLANG)"; '
        '[ "$DIES" != "$NODE_RANK" ] || exit 9; [ -z "$DIES" ] || sleep 60;',
    }
    started = time.monotonic()
    done = cluster("run", "--manifest-file=build_manifest.json", "--run-id=r1", "-c", json.dumps(context), check=False)
    assert done.code == 3, done.stderr
    assert time.monotonic() - started < 45
    both, dying = sorted(cluster.rows, key=lambda row: row["model"])
    expected = {"performance": "12.5", "nnodes": "2", "aggregation": "equal", "status": "SUCCESS", "attempt": "1"}
    expected["launcher"] = "sglang-disagg"
    assert {name: both[name] for name in expected} == expected
    assert len(set(both["machine_name"].split(","))) == 2
    assert re.match(r"rank 1 \(.*\): exit code 9", dying["reason"])
    logs = [log.read_text() for log in (cluster.folder / "results/r1").glob("*-both/*/runs/r1/both/*.run.live.log")]
    assert sorted(re.findall(r"^NODE_RANK=(\d)", "".join(logs), re.MULTILINE)) == ["0", "1"]
    [first] = {*re.findall(r"MASTER_ADDR=(\S+)", "".join(logs))}
    assert sorted(re.findall(r"SGLANG_NODE_RANK=(\d)", "".join(logs))) == ["0", "1"]
    for split in ("PREFILL_NODES=1", "DECODE_NODES=1", "TOTAL_NODES=2"):
        assert "".join(logs).count(f"SGLANG_DISAGG_{split}\n") == 2
    output = "".join(log.read_text() for log in (cluster.folder / "results/r1").glob("slurm-*.log"))
    assert output.count("rows: the first node writes them; logs: runs/r1") == 2
    [addresses] = {*re.findall(r"SGLANG_NODE_IPS=(\S+)", "".join(logs))}
    assert len({first, *addresses.split(",")}) == 2
    assert not cluster.containers()


# Does what pyxis does with srun's options, in a root that enroot's stand-in has unpacked; the rest is Slurm's own.
SRUN_WITH_PYXIS = """
[ "$1" != --help ] || { echo "--container-image --container-env"; exit; }
options=() image='' mounts=''
while [[ $1 == -* ]]; do
  case $1 in
  --container-image=*) image=${1#*=} ;;
  --container-mounts=*) mounts=${1#*=} ;;
  --container-*|--no-container-*) ;;
  *) options+=("$1") ;;
  esac
  shift
done
[ -n "$image" ] || exec /usr/bin/srun "${options[@]}" "$@"
exec /usr/bin/srun "${options[@]}" /usr/bin/unshare --mount /bin/bash -c '
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$(cat "$1")
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
for one in ${2//,/ }; do
  IFS=: read -r outside inside flags <<<"$one"
  mkdir -p "$root$inside"
  mount --rbind "$outside" "$root$inside"
done
shift 2
exec chroot "$root" "$@"' bash "$image" "$mounts" "$@"
"""
ENROOT = """
case $1 in
version) echo 4.0.1 ;;
import)
  root=$(mktemp -d)
  id=$(docker create "$(grep -m1 . /shared/pyxis-image)")
  docker export "$id" | tar -x -C "$root"
  docker rm "$id" >/dev/null
  echo "$root" >"$3"
  ;;
esac
"""


def test_containers_of_pyxis_are_steps_of_the_job(cluster: Cluster, built: Path, tmp_path: Path) -> None:
    """One ends by itself; the job is told to end during the other, which ends too."""
    (cluster.folder / "build_manifest.json").write_text(built.read_text())
    copy_model(cluster, "quick", "m0", "m1")
    image = json.loads((cluster.folder / "build_manifest.json").read_text())["built_images"]["m0"]
    (cluster.hosts.folder / "shared/pyxis-image").write_text(f"{image['image_id']}\n")
    told = "trap 'echo it was told; exit 3' TERM; touch /flags/ready; sleep 60 & wait"
    script = f"env | grep ^SLURM; echo home $HOME; if [ -e /flags/again ]; then {told}; fi; touch /flags/again;"
    (cluster.folder / "flags").mkdir()
    context = {"encapsulate_script": script, "docker_mounts": {"/flags": f"{cluster.inside}/flags"}}
    words = (*DEPLOY, "--engine=pyxis", "--one-job", "--run-id=r1", f"--nodelist={cluster.hosts.name(1)}")
    command = cluster.command(*words, "-c", json.dumps(context))
    environment = {**os.environ, "FLEET_DIR": str(cluster.hosts.folder)}
    output = tmp_path / "output"
    with (
        cluster.stand_ins({"srun": SRUN_WITH_PYXIS, "enroot": ENROOT}, 1),
        output.open("wb") as file,
        subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process,
    ):
        until((cluster.folder / "flags/ready").exists, 60, output.read_text)
        [(task, _)] = tasks(cluster)
        cluster.hosts.run(1, "scancel", "--signal=TERM", "--batch", task)
        assert process.wait(60) == 3, output.read_text()
    results = [(row["model"], row["status"], row["reason"], row["engine"]) for row in cluster.rows]
    assert results == [
        ("m0", "SUCCESS", "", "pyxis 4.0.1"),
        ("m1", "FAILURE", "interrupted", "pyxis 4.0.1"),
    ]
    first, second = (log.read_text() for log in sorted(cluster.folder.glob("results/r1/*/*/runs/*/*/*.log")))
    assert "home /root\nperformance: 12.5" in first
    assert "home /root\nit was told\n" in second
    assert "SLURM" not in first + second
    assert not (cluster.hosts.run(1, "squeue", "--noheader", "--steps"))
