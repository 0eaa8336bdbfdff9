"""A GPU is locked by one run at a time, between real processes."""

from __future__ import annotations

import json
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from madengine.errors import RunError
from madengine.machine import gpu_locks, lock_files
from madengine.machine.gpu_locks import locked_gpus
from madengine.records import Gpu

CHECKOUT = Path(__file__).parents[3]
GPUS = tuple(
    Gpu("AMD", index, uuid=f"GPU-{index:02d}", render_node=f"/dev/dri/renderD{128 + index}") for index in range(3)
)
NOBODY = 65534
USER = pwd.getpwuid(os.getuid()).pw_name
# Holds GPUs of those with the given indexes, says which, and lets go when its stdin closes.
HOLDER = """
import sys
from pathlib import Path
from madengine.machine import gpu_locks, lock_files
from madengine.errors import RunError
from madengine.records import Gpu
folder, indexes, count, wait = sys.argv[1:]
lock_files.FOLDERS = (Path(folder),)
gpus = [Gpu("AMD", i, uuid=f"GPU-{i:02d}", render_node=f"/dev/dri/renderD{128 + i}") for i in map(int, indexes)]
try:
    with gpu_locks.locked_gpus(gpus, int(count), "bert/large", float(wait)) as held:
        print(*(gpu.index for gpu in held), flush=True)
        sys.stdin.read()
except RunError as error:
    print(error, flush=True)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for locks that every user of this machine can write to; pytest's own folders are for one alone."""
    with tempfile.TemporaryDirectory(prefix="madengine-test-locks-") as name:
        shared = Path(name)
        shared.chmod(0o1777)
        monkeypatch.setattr(lock_files, "FOLDERS", (shared,))
        yield shared


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start a process that holds GPUs; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def process(indexes: str, count: int, wait: float = 0.0, words: Sequence[str] = ()) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [*words, sys.executable, "-c", HOLDER, str(folder), indexes, str(count), str(wait)],
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "USER": "someone-else", "LOGNAME": "someone-else"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield process
    for one in started:
        one.kill()
        one.wait()
        for pipe in (one.stdin, one.stdout):
            assert pipe is not None
            pipe.close()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def who_says_something(processes: Sequence[subprocess.Popen[str]], seconds: float) -> list[subprocess.Popen[str]]:
    pipes = {process.stdout.fileno(): process for process in processes if process.stdout is not None}
    ready, _, _ = select.select(list(pipes), [], [], seconds)
    return [pipes[number] for number in ready]


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait(10)


def taken(candidates: Sequence[Gpu], count: int, wait: float = 0.0) -> list[int]:
    with locked_gpus(candidates, count, "mine", wait) as gpus:
        return [gpu.index for gpu in gpus]


def lock_file(folder: Path, gpu: Gpu = GPUS[0]) -> Path:
    return folder / "madengine-gpus" / f"amd--dev-dri-{Path(gpu.render_node).name}.lock"


# --- who gets what ---


def test_a_second_run_fails_and_names_who_holds_the_gpu(start: Start) -> None:
    holder = start("1", 1)
    assert answer(holder) == "1"
    with pytest.raises(RunError) as caught:
        taken(GPUS[1:2], 1)
    assert str(caught.value) == (
        f"1 GPUs needed, 0 free: GPU 1 is in use by process {holder.pid} of {USER} (model 'bert/large'); "
        "--gpu-wait SECONDS waits for them"
    )


def test_a_run_that_waits_gets_the_gpu_when_the_first_lets_go(start: Start) -> None:
    holder = start("0", 1)
    assert answer(holder) == "0"
    waiting = start("0", 1, wait=20)
    time.sleep(0.5)
    let_go(holder)
    assert answer(waiting) == "0"


def test_a_run_that_waited_in_vain_says_how_long(start: Start) -> None:
    assert answer(start("0", 1)) == "0"
    began = time.monotonic()
    with pytest.raises(RunError, match=r"^1 GPUs needed, 0 free: GPU 0 is in use by .* after 0\.5 s$"):
        taken(GPUS[:1], 1, wait=0.5)
    assert 0.5 <= time.monotonic() - began < 3


def test_a_holder_that_is_killed_lets_go_within_a_second(start: Start) -> None:
    holder = start("012", 3)
    assert answer(holder) == "0 1 2"
    holder.send_signal(signal.SIGKILL)
    assert taken(GPUS, 3, wait=1) == [0, 1, 2]


def test_what_a_holder_has_started_does_not_hold_on(start: Start, folder: Path) -> None:
    with locked_gpus(GPUS[:1], 1, "mine"):
        child = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        assert answer(start("0", 1)) == "0"
    finally:
        child.kill()
        child.wait()


def test_the_first_free_ones_are_taken_in_the_order_that_the_candidates_have(start: Start) -> None:
    assert answer(start("1", 1)) == "1"
    assert taken(GPUS, 2) == [0, 2]
    assert taken(GPUS[::-1], 1) == [2]
    assert taken(GPUS[::-1], 2) == [2, 0]


def test_two_runs_of_one_process_do_not_share_a_gpu() -> None:
    with locked_gpus(GPUS[:2], 1, "first") as first:
        assert taken(GPUS[:2], 1) == [1]
        with pytest.raises(RunError, match=f"GPU 0 is in use by process {os.getpid()} "):
            taken(first, 1)


def test_all_or_none_are_taken(start: Start) -> None:
    assert answer(start("2", 1)) == "2"
    with pytest.raises(RunError, match=r"3 GPUs needed, 2 free: GPU 2 is in use by "):
        taken(GPUS, 3)
    # What was free stays free.
    assert answer(start("01", 2)) == "0 1"


def test_two_runs_that_want_more_than_half_come_one_after_the_other(start: Start) -> None:
    one, other = start("012", 2, wait=30), start("210", 2, wait=30)
    first, second = (one, other) if one in who_says_something([one, other], 10) else (other, one)
    assert len(answer(first).split()) == 2
    assert who_says_something([second], 0.5) == []
    let_go(first)
    assert len(answer(second).split()) == 2


def test_none_needed_are_none_locked(start: Start, folder: Path) -> None:
    assert taken((), 0) == []
    assert taken(GPUS, 0) == []
    assert list(folder.iterdir()) == []


def test_an_error_in_the_run_lets_go() -> None:
    with pytest.raises(ZeroDivisionError), locked_gpus(GPUS, 3, "mine"):
        raise ZeroDivisionError
    assert taken(GPUS, 3) == [0, 1, 2]


# --- parts of GPUs ---


@pytest.mark.parametrize(
    "parts",
    [
        [Gpu("NVIDIA", i, uuid=f"MIG-{i}", parent="GPU-0", pci_bus_id="0000:05:00.0") for i in range(2)],
        [
            Gpu("AMD", i, uuid="GPU-0", render_node=f"/dev/dri/renderD{128 + i}", pci_bus_id="0000:05:00.0")
            for i in (0, 1)
        ],
    ],
    ids=["MIG", "CPX, whose parts share a UUID"],
)
def test_a_part_of_a_gpu_does_not_hold_its_siblings(parts: Sequence[Gpu]) -> None:
    with locked_gpus(parts, 1, "first") as first:
        assert [gpu.index for gpu in first] == [0]
        assert taken(parts, 1) == [1]
        with pytest.raises(RunError):
            taken(parts[:1], 1)


def test_gpus_without_any_name_are_told_by_vendor_and_number() -> None:
    bare = [Gpu("AMD", 0), Gpu("AMD", 1), Gpu("NVIDIA", 0)]
    with locked_gpus(bare, 3, "mine") as held:
        assert list(held) == bare


# --- what lies in a lock's place ---


@pytest.mark.parametrize(
    "note", [b"", b"garbage", b"\xff\x00", b"[1]", b"{}", b'{"pid": "7; rm"}', b"null", b"1" * 10_000, b"{" * 9000]
)
def test_garbage_in_a_lock_file_hinders_nobody(folder: Path, note: bytes) -> None:
    taken(GPUS[:1], 1)
    lock_file(folder).write_bytes(note)
    assert taken(GPUS[:1], 1) == [0]
    with locked_gpus(GPUS[:1], 1, "mine"):
        lock_file(folder).write_bytes(note)
        with pytest.raises(RunError, match="GPU 0 is in use by another madengine;"):
            taken(GPUS[:1], 1)


def test_the_note_is_of_the_holder_alone(folder: Path) -> None:
    with locked_gpus(GPUS[:1], 1, "a much longer name of a model"):
        pass
    with locked_gpus(GPUS[:1], 1, "m"):
        note = json.loads(lock_file(folder).read_text())
    assert note == {"pid": os.getpid(), "user": USER, "model": "m"}


def test_a_link_in_a_locks_place_is_refused_and_what_it_names_stays_whole(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    taken(GPUS[:1], 1)
    lock_file(folder).unlink()
    lock_file(folder).symlink_to(precious)
    with pytest.raises(RunError, match=r"renderD128\.lock: can't open the GPU lock: "):
        taken(GPUS[:1], 1)
    assert precious.read_text() == "mine"


def test_a_folder_in_a_locks_place_is_named(folder: Path) -> None:
    lock_file(folder).mkdir(parents=True)
    with pytest.raises(RunError, match=r"renderD128\.lock: can't open the GPU lock: Is a directory"):
        taken(GPUS[:1], 1)


# --- several users ---


def test_the_locks_are_for_all_users(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        taken(GPUS[:1], 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "madengine-gpus").stat().st_mode) == 0o1777
    assert stat.S_IMODE(lock_file(folder).stat().st_mode) == 0o666


def test_all_users_look_in_one_place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only root can write to is no such place, also for root."""
    (tmp_path / "roots").mkdir(mode=0o755)
    monkeypatch.setattr(lock_files, "FOLDERS", (tmp_path / "none", tmp_path / "roots", folder))
    taken(GPUS[:1], 1)
    assert lock_file(folder).exists()


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_files, "FOLDERS", (tmp_path / "none",))
    with pytest.raises(RunError) as caught:
        taken(GPUS[:1], 1)
    assert str(caught.value) == (
        f"{tmp_path}/none/madengine-gpus: the locks of the GPUs can't be kept there: No such file or directory"
    )


as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can start a process of another user"
)


ANOTHER_USER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@as_root
def test_another_users_lock_is_one(start: Start, folder: Path) -> None:
    holder = start("0", 1, words=ANOTHER_USER)
    assert answer(holder) == "0"
    assert lock_file(folder).stat().st_uid == NOBODY
    with pytest.raises(RunError, match=f"GPU 0 is in use by process {holder.pid} of nobody "):
        taken(GPUS[:1], 1)
    let_go(holder)
    assert taken(GPUS[:1], 1) == [0]


@as_root
def test_the_lock_files_that_root_has_left_are_of_use_to_others(start: Start) -> None:
    assert taken(GPUS, 3) == [0, 1, 2]
    assert answer(start("012", 3, words=ANOTHER_USER)) == "0 1 2"
    with pytest.raises(RunError, match="3 GPUs needed, 0 free"):
        taken(GPUS, 3)


def test_a_gpu_that_is_known_by_more_names_has_one_lock() -> None:
    """AMD's tools and the kernel agree on the render node, not on everything."""
    with locked_gpus(GPUS[:1], 1, "mine"), pytest.raises(RunError):
        taken([replace(GPUS[0], uuid="", source="amd-smi")], 1)


@pytest.mark.parametrize(
    "text", ["[" * 4096, '{"pid": %s}' % ("9" * 4000), '{"pid": 1, "user": ["\\u001b[2J"]}', "\0", "NaN"]
)
def test_what_another_user_wrote_into_a_lock_is_only_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    with path.open() as file:
        holder = gpu_locks._note(file.fileno()).text
    assert len(holder) < 200
