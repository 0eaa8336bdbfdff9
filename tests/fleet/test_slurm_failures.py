"""What breaks under a real Slurm while a run goes on: a row for each model that says why, and nothing left behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fleet.conftest import NAMES, Cluster, until
from tests.fleet.test_slurm import DEPLOY, jobs, submitted

ENGINES = "/usr/local/bin/docker /usr/bin/docker /usr/bin/podman"
HIDE_ENGINES = f"for file in {ENGINES}; do [ ! -e $file ] || mv $file $file.hidden; done"
SHOW_ENGINES = f"for file in {ENGINES}; do [ ! -e $file.hidden ] || mv $file.hidden $file; done"
STOP_CONTROLLER = "kill $(cat /run/slurmctld.pid); while pgrep -x slurmctld; do sleep 0.05; done"
#: the new name of each, the model that it is a copy of, and what it asks Slurm for
Models = Mapping[str, tuple[str, Mapping[str, Any]]]


def set_models(cluster: Cluster, models: Models) -> None:
    """Leave copies of models in the manifest."""
    path = cluster.folder / "build_manifest.json"
    content = json.loads(path.read_text())
    keys = {entry["name"]: key for key, entry in content["built_models"].items()}
    images, entries = content["built_images"], content["built_models"]
    content["built_images"] = {name: images[keys[model]] for name, (model, _) in models.items()}
    content["built_models"] = {
        name: {**entries[keys[model]], "name": name, "slurm": slurm} for name, (model, slurm) in models.items()
    }
    path.write_text(json.dumps(content))


def nodes(cluster: Cluster) -> list[str]:
    return [cluster.hosts.name(number) for number in range(1, len(NAMES) + 1)]


def nothing_is_left(cluster: Cluster) -> bool:
    return not jobs(cluster) and not cluster.containers()


@contextmanager
def broken(cluster: Cluster, host: int, start: str, end: str) -> Iterator[None]:
    """A host on which something is wrong."""
    cluster.hosts.sh(host, start)
    try:
        yield
    finally:
        cluster.hosts.sh(host, end, check=False)


def test_what_keeps_a_node_from_running_is_named_with_the_node(cluster: Cluster) -> None:
    one, two, three = nodes(cluster)
    models: Models = {
        "whole": ("quick", {"nodelist": one}),
        "engine": ("quick", {"nodelist": two}),
        "share": ("quick", {"nodelist": three}),
        "both": ("quick", {"nodelist": f"{one},{three}", "nodes": 2}),
    }
    set_models(cluster, models)
    with (
        broken(cluster, 2, HIDE_ENGINES, SHOW_ENGINES),
        broken(cluster, 3, "mount -t tmpfs none /shared", "umount /shared"),
    ):
        done = cluster(*DEPLOY, "--run-id=r1", "--live-output", check=False)
        old = cluster(*DEPLOY, "--run-id=r2", "--tags=whole", "--remote-python=/opt/old/python3", check=False)
    assert (done.code, old.code) == (3, 3), done.stderr
    reasons = {(row["model"], row["run_id"]): row["reason"] for row in cluster.rows}
    assert reasons.pop(("whole", "r1")) == ""
    assert reasons[("engine", "r1")].startswith(f"{two}: no container engine answers: docker is not installed")
    assert reasons[("share", "r1")].endswith("it left no log: do all nodes share its folder, and has it room?")
    folder = f"{cluster.inside}/results/r1 is not there; name a folder that all nodes share with --output-dir"
    assert reasons[("both", "r1")].startswith(f"{three}: {folder}; Slurm job")
    assert reasons[("whole", "r2")].startswith(f"{one}: /opt/old/python3 is not there; install Python 3.10 or newer")
    assert {row["status"] for row in cluster.rows if row["reason"]} == {"FAILURE"}
    assert nothing_is_left(cluster)


def test_a_run_outlives_slurms_daemons_and_a_drained_node(cluster: Cluster, tmp_path: Path) -> None:
    one, two, three = nodes(cluster)
    models: Models = {
        "first": ("slow", {"nodelist": one}),
        "second": ("slow", {"nodelist": two}),
        "after": ("quick", {"nodelist": three}),
        "never": ("quick", {"nodelist": three}),
    }
    set_models(cluster, models)
    drain, resume = (f"scontrol update nodename={three} {how}" for how in ("state=drain reason=test", "state=resume"))
    output = tmp_path / "output"
    with (
        broken(cluster, 1, drain, resume),
        submitted(cluster, output, "--run-id=r1", "--live-output", count=2) as process,
    ):
        with broken(cluster, 1, STOP_CONTROLLER, "slurmctld"):
            cluster.hosts.sh(2, "kill -KILL $(cat /run/slurmd.pid); slurmd")
        # The only array of the run that has more than one task.
        queue = ("squeue", "--noheader", "--array", "--name=madengine-r1", "--format=%F_%K")
        *_, never = sorted(cluster.hosts.run(1, *queue).split())
        cluster.hosts.run(1, "scancel", never)
        cluster.hosts.sh(1, resume, check=False)  # which works, and complains, where the node hasn't registered again
        assert process.wait(90) == 3, output.read_text()
    reasons = {row["model"]: row["reason"] for row in cluster.rows}
    reason = reasons.pop("never")
    assert reason == f"Slurm job {never}: gone from the queue, so cancelled (last seen pending); it never ran"
    assert reasons == dict.fromkeys(("first", "second", "after"), "")
    assert nothing_is_left(cluster)


def test_a_full_folder_is_a_failure_whose_rows_come_once_there_is_room(cluster: Cluster, tmp_path: Path) -> None:
    """On h1, which submits and runs, the folder of the run and of perf.csv is a small disk."""
    sh, folder, output = cluster.hosts.sh, cluster.inside, tmp_path / "output"
    set_models(cluster, dict.fromkeys(("one", "two"), ("quick", {"nodelist": nodes(cluster)[0]})))
    mount = (
        f"cp {folder}/*.json /tmp && mount -t tmpfs -o size=8m none {folder} && mv /tmp/build_manifest.json {folder}"
    )
    hold, release = (f"scontrol update partition=debug state={state}" for state in ("down", "up"))
    with broken(cluster, 1, mount, f"umount --lazy {folder}"), broken(cluster, 1, hold, release):
        sh(1, f"head -c 4000000 /dev/zero >{folder}/large")
        refused = cluster(*DEPLOY, "--run-id=r0", check=False)
        assert refused.code == 1
        assert f"{folder}/results/r0/madengine.pyz: can't be written: No space left on device" in refused.stderr
        sh(1, f"rm -r {folder}/large {folder}/results")
        with submitted(cluster, output, "--run-id=r1", count=0) as process:
            until(lambda: output.read_text().count("PartitionDown") == 2, 30, output.read_text)
            sh(1, f"cat /dev/zero >{folder}/large", check=False)
            sh(1, release)
            assert process.wait(60) == 1, output.read_text()
        assert "No space left on device" in output.read_text()
        assert "then `madengine fetch --target=slurm --run-id=r1` adds the rows" in output.read_text()
        assert "SUCCESS" not in sh(1, f"cat {folder}/perf.csv {folder}/results/r1/*/*/perf.csv", check=False)
        sh(1, f"rm {folder}/large")
        assert cluster("fetch", "--target=slurm", "--run-id=r1", check=False).code == 3
        rows = list(csv.DictReader(sh(1, f"cat {folder}/perf.csv").splitlines()))
    assert [(row["model"], row["status"]) for row in rows] == [("one", "FAILURE"), ("two", "FAILURE")]
    assert all("has it room?" in row["reason"] for row in rows), [row["reason"] for row in rows]
    assert nothing_is_left(cluster)
