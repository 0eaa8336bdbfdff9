"""A namespace of a cluster as a target, with a stand-in for kubectl."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from madengine.deploy.kubernetes import waiting
from madengine.deploy.kubernetes.collect import Collected, collect_results
from madengine.deploy.kubernetes.options import Options
from madengine.deploy.kubernetes.plan import PlanInput
from madengine.deploy.kubernetes.target import KubernetesRun, KubernetesTarget
from madengine.deploy.kubernetes.waiting import Watch
from madengine.deploy.target import run_on
from madengine.errors import ConfigurationError, MadengineError
from madengine.programs.kubectl import Kubectl
from tests.conftest import StandIns
from tests.unit.deploy.ansible.test_generate import write_inputs

JOB = "madengine-dummy-job"
# An answer for each question: what a file's Jobs do, and the namespace's Jobs, pods and ConfigMaps.
KUBECTL = r"""
case "$*" in
  *'get --filename'*) cat {folder}/active ;;
  *'get namespace'*) test -e {folder}/namespace || {{ echo 'Error (NotFound): not there' >&2; exit 1; }} ;;
  *'get jobs'*) cat {folder}/jobs ;;
  *'get '*) echo '{{"items": []}}' ;;
  *) echo done ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which kubectl's answers are, and the current folder with a manifest."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "active").write_text("")
    (folder / "jobs").write_text(json.dumps({"items": []}))
    (folder / "namespace").write_text("")
    stand_ins.add("kubectl", KUBECTL.format(folder=folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_inputs(Path())
    return folder


def target(run_id: str = "r1", context: str = "") -> KubernetesTarget:
    options = Options(namespace="bench", run_id=run_id, results="pull")
    return KubernetesTarget(PlanInput(), options, KubernetesRun(kube_context=context), print)


def job(**status: object) -> str:
    meta = {"name": JOB, "annotations": {"madengine/run-id": "r1"}, "uid": "1"}
    return json.dumps({"items": [{"metadata": meta, "status": status}]})


def changes(stand_ins: StandIns) -> list[str]:
    """The calls that change something."""
    return [call for call in stand_ins.calls() if " get " not in call]


def test_the_files_are_applied_after_what_has_ended_is_deleted(cluster: Path, stand_ins: StandIns) -> None:
    (cluster / "namespace").unlink()
    assert run_on(target()) == 1  # the stand-in has no Jobs, so there are no results
    assert changes(stand_ins) == [
        "kubectl --namespace bench create namespace bench",
        "kubectl --namespace bench apply --filename k8s-madengine-configmap.yaml",
        "kubectl --namespace bench delete --filename k8s-madengine-job.yaml --ignore-not-found",
        "kubectl --namespace bench apply --filename k8s-madengine-job.yaml",
    ]


def test_the_context_goes_with_every_call(cluster: Path, stand_ins: StandIns) -> None:
    run_on(target(context="far"))
    assert all(call.startswith("kubectl --context far --namespace bench ") for call in stand_ins.calls())


@pytest.mark.parametrize(
    "state",
    ["1 <none> false", "<none> 1 <none>", "<none> 0,1 false", "0 <none> true"],
    ids=["Job", "set", "part", "queue"],
)
def test_a_job_that_still_runs_or_waits_is_left_alone(cluster: Path, stand_ins: StandIns, state: str) -> None:
    (cluster / "active").write_text(f"{JOB}   {state}\nmadengine-other-job   <none>   <none>   false\n")
    refusal = rf"^{JOB}: still running or queued in bench; wait, or `kubectl delete` them$"
    with pytest.raises(MadengineError, match=refusal):
        run_on(target())
    assert changes(stand_ins) == []


def test_ctrl_c_deletes_the_jobs_and_collects_what_there_is(
    cluster: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster / "jobs").write_text(job(active=1))

    def interrupted(kubectl: Kubectl, output: Path, results: Path, run_id: str, wait: bool) -> Collected:
        if wait:
            raise KeyboardInterrupt
        return collect_results(kubectl, output, results, run_id, wait)

    monkeypatch.setattr("madengine.deploy.kubernetes.target.collect_results", interrupted)
    assert run_on(target()) == 130
    assert changes(stand_ins)[-1] == (
        "kubectl --namespace bench delete --filename k8s-madengine-job.yaml --ignore-not-found "
        "--cascade=foreground --timeout=120s"
    )
    assert " get " in stand_ins.calls()[-1]


def test_the_run_gets_an_id_that_the_files_have(cluster: Path) -> None:
    made = target(run_id="")
    run_on(made)
    assert f'madengine/run-id: "{made.options.run_id}"' in Path("k8s-madengine-job.yaml").read_text()


def test_the_printed_lines_do_the_same_by_hand(cluster: Path) -> None:
    assert target().prepare().lines == (
        "kubectl --namespace bench get namespace bench || kubectl --namespace bench create namespace bench",
        "kubectl --namespace bench apply --filename k8s-madengine-configmap.yaml",
        "kubectl --namespace bench delete --filename k8s-madengine-job.yaml --ignore-not-found",
        "kubectl --namespace bench apply --filename k8s-madengine-job.yaml",
        "madengine collect --kubernetes --namespace=bench --wait --output=perf.csv --run-id=r1",
    )


def test_a_large_file_is_applied_by_the_server(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("#" * 200_001)
    words = Kubectl("bench").apply(tmp_path / "large.yaml").formulate()
    assert words[3:-1] == ["apply", "--server-side", "--force-conflicts", "--filename"]


def test_kubectl_has_to_be_installed(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/nowhere/python3")
    with pytest.raises(ConfigurationError, match="kubectl is not installed"):
        run_on(target())


SET = {
    "spec": {"replicatedJobs": [{"template": {"metadata": {"annotations": {"madengine/run-id": "r1"}}}}]},
    "status": {},
}


@pytest.mark.parametrize(
    ("sets", "run_id", "looks"),
    [
        ([SET], "r1", 2),
        ([SET], "", 2),
        ([SET], "other", 1),
        ([{**SET, "status": {"terminalState": "Completed"}}], "r1", 1),
        (None, "r1", 1),
    ],
)
def test_a_jobset_whose_jobs_are_not_made_yet_is_waited_for(
    cluster: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, sets: object, run_id: str, looks: int
) -> None:
    answer = "echo 'no such resource' >&2; exit 1" if sets is None else f"cat {cluster}/sets"
    stand_ins.add("kubectl", f'case "$*" in *jobsets*) {answer} ;; *) cat {cluster}/jobs ;; esac')
    (cluster / "sets").write_text(json.dumps({"items": sets}))
    made = job(conditions=[{"type": "Complete", "status": "True"}])
    made = made.replace('"name"', '"namespace": "bench", "name"').replace('"r1"', json.dumps(run_id or "r1"))
    clock = SimpleNamespace(
        monotonic=time.monotonic, time=time.time, sleep=lambda seconds: (cluster / "jobs").write_text(made)
    )
    monkeypatch.setattr(waiting, "time", clock)
    assert len(Watch(Kubectl("bench"), run_id).wait()) == looks - 1
    assert sum(" get jobs " in call for call in stand_ins.calls()) == looks
