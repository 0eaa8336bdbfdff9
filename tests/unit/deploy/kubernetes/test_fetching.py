"""The files that a pod holds: what its sidecar sends, and what `collect` takes."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from madengine.deploy.kubernetes import sender
from madengine.deploy.kubernetes.fetching import Fetcher
from madengine.deploy.kubernetes.objects import JobStatus, PodStatus
from madengine.deploy.kubernetes.pod_files import FETCHED, READY, wait_until_fetched
from madengine.deploy.ssh.archive import pack, unpack
from madengine.programs.kubectl import Kubectl
from tests.conftest import StandIns

JOB = JobStatus("job", "bench", "r", "config")
POD = PodStatus("pod", "job", holds_files=True)


def archive(folder: Path, **files: bytes) -> Path:
    """What a sidecar sends of these files."""
    path = folder / "sent"
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with path.open("wb") as stream:
        pack([(f"artifacts/{name}", folder / name) for name in files], stream)
    return path


def fetched(tmp_path: Path, stand_ins: StandIns, answer: str, *pods: PodStatus) -> Fetcher:
    stand_ins.add("kubectl", f'case "$*" in *fetched) ;; *) {answer} ;; esac')
    fetcher = Fetcher(Kubectl("bench"), tmp_path / "here")
    for _ in range(2):
        fetcher.fetch([JOB], pods or [POD])
    return fetcher


def test_the_files_of_a_pod_are_fetched_once_and_its_waiting_ends(tmp_path: Path, stand_ins: StandIns) -> None:
    fetcher = fetched(tmp_path, stand_ins, f"cat {archive(tmp_path, a=b'1', b=b'')}")
    home = tmp_path / "here/runs/r/pod/artifacts"
    assert {path.name: path.read_bytes() for path in home.iterdir()} == {"a": b"1", "b": b""}
    words = "kubectl --namespace bench exec pod --container report -- python3 -m madengine.deploy.kubernetes.sender"
    assert stand_ins.calls() == [words, f"{words} fetched", f"{words} fetched"]
    assert fetcher.problems == {}
    assert [path.name for path in (tmp_path / "here/runs").iterdir()] == ["r"]


def test_only_pods_that_hold_files_are_asked(tmp_path: Path, stand_ins: StandIns) -> None:
    fetched(tmp_path, stand_ins, "exit 1", PodStatus("pod", "job"), PodStatus("other", "other", holds_files=True))
    assert stand_ins.calls() == []


def test_a_pod_that_is_not_ready_is_asked_again(tmp_path: Path, stand_ins: StandIns) -> None:
    fetcher = fetched(tmp_path, stand_ins, f"exit {sender.NOT_READY}")
    assert (len(stand_ins.calls()), fetcher.problems) == (2, {})


@pytest.mark.parametrize(
    ("content", "problem", "calls"),
    [
        (b'["../evil", 1]\nx[]\n', "its files are refused: invalid name '../evil'", 2),
        (b'["/evil", 1]\nx[]\n', "its files are refused: invalid name '/evil'", 2),
        (b'["a", 1]\nx["a", 1]\nx[]\n', "its files are refused: 'a' comes twice", 2),
        (b'["a", 99999999999999]\n', "its files are refused: more than 100000 files or", 2),
        (b'["a", 9]\nx', "its files are not whole: ends early", 1),
        (b"Traceback\n", "its files are not whole: not a stream of files", 1),
        (b"", "its files can't be fetched: `kubectl exec` ended with 0", 1),
    ],
)
def test_what_no_sidecar_sends_is_refused(
    tmp_path: Path, stand_ins: StandIns, content: bytes, problem: str, calls: int
) -> None:
    (tmp_path / "sent").write_bytes(content)
    fetcher = fetched(tmp_path, stand_ins, f"cat {tmp_path / 'sent'}")
    assert fetcher.problems["pod"].startswith(problem)
    assert len(stand_ins.calls()) == calls
    assert not list(tmp_path.rglob("evil")) and not (tmp_path / "here/runs/r/pod").exists()


def test_a_user_who_may_not_exec_is_told_once(tmp_path: Path, stand_ins: StandIns) -> None:
    fetcher = fetched(tmp_path, stand_ins, "exit 1")
    assert fetcher.problems == {
        "pod": "its files can't be fetched: `kubectl exec` ended with 1; pods/exec may be forbidden"
    }
    assert len(stand_ins.calls()) == 1


def test_a_sidecar_sends_regular_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, secret = tmp_path / "workspace", tmp_path / "secret"
    (workspace / "artifacts/deep").mkdir(parents=True)
    secret.mkdir()
    (secret / "token").write_text("secret")
    (workspace / "artifacts/deep/a").write_text("one")
    (workspace / "artifacts/link").symlink_to(secret / "token")
    (workspace / "artifacts/folder").symlink_to(secret)
    os.mkfifo(workspace / "artifacts/pipe")
    assert sender.main([], workspace) == sender.NOT_READY
    (workspace / READY).touch()
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream))
    assert sender.main([], workspace) == 0
    unpack(io.BytesIO(stream.getvalue()), tmp_path / "home")
    assert {str(path.relative_to(tmp_path / "home")) for path in (tmp_path / "home").rglob("*") if path.is_file()} == {
        "artifacts/deep/a"
    }


def test_a_sidecar_waits_until_its_files_are_fetched_or_its_time_is_over(tmp_path: Path) -> None:
    (tmp_path / FETCHED).touch()  # by the model
    assert not wait_until_fetched(tmp_path, 0)
    threading.Timer(0.1, lambda: sender.main(["fetched"], tmp_path)).start()
    began = time.monotonic()
    assert wait_until_fetched(tmp_path, 30)
    (tmp_path / ".stopped").touch()
    assert not wait_until_fetched(tmp_path, 30)
    assert time.monotonic() - began < 5
