"""What the node does with a run that was started over ssh."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from madengine.deploy.ssh import node
from madengine.deploy.ssh.archive import unpack
from madengine.process import own_process_id


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that has ended, below the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/r1"
    (folder / "model").mkdir(parents=True)
    for name in ("madengine.pyz", "lock", "pid", "credential.json", "perf.csv", "model/log", "results.json"):
        (folder / name).write_text(name, encoding="utf-8")
    (folder / node.LOG).write_bytes(b"one\ntwo\nthree\nfo\xff")
    (folder / node.EXIT_CODE).write_text("0\n")
    return folder


@pytest.mark.parametrize(
    ("seen", "said"), [("0", b"|one\n|two\n|three\n|fo\xff\n"), ("2", b"|three\n|fo\xff\n"), ("3", b"|fo\xff\n")]
)
def test_the_log_is_followed_from_the_line_that_was_seen_last(
    ended: Path, seen: str, said: bytes, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert node.main(["follow", "r1", seen]) == 0
    log, mark, packed = capfdbinary.readouterr().out.partition(node.ARCHIVE_MARK)
    assert (log, mark) == (said, node.ARCHIVE_MARK)
    assert gzip.decompress(packed)


def test_what_is_packed_has_the_results_and_neither_secrets_nor_the_bundle(
    ended: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (ended / "link").symlink_to("/etc/passwd")
    assert node.main(["pack", "r1"]) == 0
    packed = capfdbinary.readouterr().out
    assert packed.startswith(node.ARCHIVE_MARK)
    content = gzip.decompress(packed.removeprefix(node.ARCHIVE_MARK))
    target = ended.parent / "unpacked"
    target.mkdir()
    unpack(io.BytesIO(content), target)
    names = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert names == ["exit_code", "node.log", "perf.csv", "runs/r1/model/log", "runs/r1/results.json"]


def test_the_newest_run_is_the_one_that_started_last(ended: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, started in (("b", "2026-01-01"), ("a", "2026-01-02")):
        folder = ended.parent / name
        folder.mkdir()
        (folder / node.RECORD).write_text(json.dumps({"run_id": name, "started": started}))
    assert node.main(["newest"]) == 0
    assert capfd.readouterr().out == "a\n"


def test_a_run_without_a_living_holder_of_its_lock_has_ended(ended: Path) -> None:
    (ended / node.EXIT_CODE).unlink()
    assert node.main(["stop", "r1", "0"]) == 0


def test_what_was_shipped_is_put_where_it_belongs_also_over_a_link_to_itself(ended: Path) -> None:
    incoming = Path("incoming")
    incoming.mkdir()
    (incoming / "build_manifest.json").write_text("new")
    Path("madengine.pyz").write_text("same")
    (incoming / "madengine.pyz").hardlink_to("madengine.pyz")
    assert node.main(["accept", "incoming"]) == 0
    assert (Path("madengine.pyz").read_text(), Path("build_manifest.json").read_text()) == ("same", "new")
    assert not incoming.exists()


def test_an_unknown_run_is_a_line_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert node.main(["follow", "gone", "0"]) == 4
    assert capfd.readouterr().err == "runs/gone/node.log: No such file or directory\n"


# --- a file system without locks ---


@pytest.fixture
def running(ended: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run without an exit code, where the kernel has no locks."""

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (ended / node.EXIT_CODE).unlink()
    (ended / node.RECORD).write_text(json.dumps({"hostname": os.uname().nodename}))
    return ended


def test_a_run_without_a_lock_lasts_as_long_as_its_watcher(running: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    boot, namespace, _, _ = own_process_id().split(":")
    started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    (running / node.WATCHER).write_text(f"{boot}:{namespace}:{process.pid}:{started}")
    assert not node._has_ended(running)
    process.kill()
    process.wait()
    assert node._has_ended(running)


def test_a_run_without_a_lock_ends_with_its_machine(running: Path) -> None:
    (running / node.WATCHER).write_text("an-earlier-boot:1:1:1")
    assert node._has_ended(running)
    (running / node.RECORD).write_text(json.dumps({"hostname": "another"}))
    assert not node._has_ended(running)


def test_a_run_whose_watcher_is_just_starting_has_not_ended(running: Path) -> None:
    assert not node._has_ended(running)
    os.utime(running / node.RECORD, (1, 1))
    assert node._has_ended(running)


def test_a_run_is_claimed_once_where_files_can_have_no_second_name(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    (running / node.RECORD).unlink()
    assert [node._claim(running, "r1", {"tags": []}) for _ in range(2)] == [True, False]
    assert json.loads((running / node.RECORD).read_text())["run_id"] == "r1"
