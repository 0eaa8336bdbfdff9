"""Locks that two processes and a rename can't get around: the kernel's, and lock files where a file system has none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from madengine.files import locks
from madengine.files.locks import locked, try_lock

WITHOUT_LOCKS = """
import errno, fcntl, os
def flock(handle, how):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
"""
HOLD = """
import sys, time
from pathlib import Path
from madengine.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
Hold = Callable[[Path], "subprocess.Popen[str]"]


def without_locks(*_: int) -> None:
    """Stand in for the system's call on Lustre without `-o flock`."""
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@pytest.fixture(params=["kernel", "lock file"])
def hold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Start another process that holds a lock until its stdin ends; with the kernel's locks, and without."""
    if request.param == "lock file":
        monkeypatch.setattr(fcntl, "flock", without_locks)

    def holder(path: Path) -> subprocess.Popen[str]:
        text = HOLD if request.param == "kernel" else WITHOUT_LOCKS + HOLD
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-c", text, str(path)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    return holder


def closed(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode is not None


def took_the_lock(path: Path) -> tuple[threading.Thread, list[float]]:
    """A thread that waits for the lock, and when it had it."""
    times: list[float] = []

    def take() -> None:
        with locked(path) as handle:
            times.append(time.monotonic())
            os.write(handle, b"mine\n")

    thread = threading.Thread(target=take)
    thread.start()
    return thread, times


def test_a_lock_waits_for_its_holder(tmp_path: Path, hold: Hold) -> None:
    path = tmp_path / "perf.csv"
    process = hold(path)
    thread, times = took_the_lock(path)
    time.sleep(0.2)
    assert times == []
    closed(process)
    thread.join(10)
    assert len(times) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["perf.csv"]


def test_a_lock_ends_with_its_holder(tmp_path: Path, hold: Hold) -> None:
    process = hold(tmp_path / "perf.csv")
    process.kill()
    closed(process)
    thread, times = took_the_lock(tmp_path / "perf.csv")
    thread.join(10)
    assert len(times) == 1


@pytest.mark.parametrize("replaced", [True, False], ids=["renamed over", "removed"])
def test_who_waited_writes_to_the_file_that_is_there_now(tmp_path: Path, hold: Hold, replaced: bool) -> None:
    path = tmp_path / "perf.csv"
    path.write_text("old\n")
    process = hold(path)
    thread, times = took_the_lock(path)
    time.sleep(0.2)
    if replaced:
        (tmp_path / "new").write_text("new\n")
        (tmp_path / "new").rename(path)
    else:
        path.unlink()
    closed(process)
    thread.join(10)
    assert len(times) == 1
    assert path.read_text() == ("new\nmine\n" if replaced else "mine\n")


def test_the_descriptor_is_closed_with_the_lock_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "perf.csv") as handle:
        raise RuntimeError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


# --- lock files ---


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file on a file system without locks."""
    monkeypatch.setattr(fcntl, "flock", without_locks)
    (tmp_path / "perf.csv").touch()
    return tmp_path / "perf.csv"


def lock_file(path: Path, age: float, owner: str = "another-boot:1:1:1 x other-machine\n") -> Path:
    """Leave a lock file of another machine, refreshed so many seconds ago."""
    lock = path.with_name(".perf.csv.lock")
    lock.write_text(owner)
    os.utime(lock, (time.time() - age,) * 2)
    return lock


def is_free(path: Path) -> bool:
    handle = os.open(path, os.O_RDWR)
    try:
        release = try_lock(handle, path)
        if release:
            release()
        return release is not None
    finally:
        os.close(handle)


def test_another_machines_lock_counts_until_it_is_no_longer_refreshed(path: Path) -> None:
    lock = lock_file(path, locks.STALE_SECONDS - 30)
    assert not is_free(path)
    lock_file(path, locks.STALE_SECONDS + 30)
    assert is_free(path)
    assert not lock.exists()


def test_a_clock_of_ours_that_is_fast_breaks_no_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock_file(path, 0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert not is_free(path)


def test_a_lock_that_is_held_is_refreshed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "REFRESH_SECONDS", 0.05)
    with locked(path):
        lock = path.with_name(".perf.csv.lock")
        os.utime(lock, (1, 1))
        time.sleep(0.5)
        assert time.time() - lock.stat().st_mtime < 10
    assert not lock.exists()


def test_of_many_that_find_an_abandoned_lock_one_at_a_time_gets_it(path: Path) -> None:
    lock_file(path, locks.STALE_SECONDS + 30)
    threads = [took_the_lock(path)[0] for _ in range(8)]
    for thread in threads:
        thread.join(20)
    assert path.read_text() == "mine\n" * 8
    assert [one.name for one in path.parent.iterdir()] == ["perf.csv"]


def test_a_lock_that_another_has_taken_over_is_left_to_it(path: Path) -> None:
    with locked(path):
        lock = lock_file(path, 0)
    assert lock.exists()


def test_a_folder_for_neither_kind_of_lock_is_an_error(path: Path) -> None:
    path.with_name(".perf.csv.lock").symlink_to("nowhere")
    with pytest.raises(OSError, match="symbolic link"), locked(path):
        raise AssertionError("locked")
