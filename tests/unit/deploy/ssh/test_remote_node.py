"""What the controller makes of what a node says, by a stand-in for ssh that says it."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from pathlib import Path

import pytest

from madengine.deploy.ssh import node
from madengine.deploy.ssh.options import NodeSettings
from madengine.deploy.ssh.remote_node import RemoteNode
from madengine.errors import RunError
from madengine.programs import ssh
from tests.conftest import StandIns


def archive(**files: str) -> bytes:
    """What a node prints of a run with these files."""
    entries = [json.dumps([name, len(text)]) + f"\n{text}" for name, text in files.items()]
    return node.ARCHIVE_MARK + gzip.compress(f"{''.join(entries)}[]\n".encode())


# Of which no part is like another: then every damage to the compressed bytes changes it.
LOG = hashlib.sha512(b"log").hexdigest()
WHOLE = archive(rows="1,2", log=LOG)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def remote(lines: list[str]) -> RemoteNode:
    return RemoteNode(ssh.Connection(ssh.host("h1"), ()), NodeSettings(patience=0), lines.append, threading.Event())


def says(stand_ins: StandIns, tmp_path: Path, followed: bytes, packed: bytes = WHOLE, code: int = 0) -> None:
    """Let the node print this when it is followed, and that when it is asked for the files alone."""
    (tmp_path / "followed").write_bytes(followed)
    (tmp_path / "packed").write_bytes(packed)
    orders = f"*'\"pack\"'*) cat {tmp_path}/packed ;; *) cat {tmp_path}/followed; exit {code} ;;"
    stand_ins.add("ssh", f"case $(cat) in {orders} esac")


def run(remote: RemoteNode, target: Path) -> bool:
    return remote.run("r1", {"words": ["run"]}, target)


def test_the_files_of_a_run_come_right_behind_its_log(
    remote: RemoteNode, lines: list[str], stand_ins: StandIns, tmp_path: Path
) -> None:
    says(stand_ins, tmp_path, b"Welcome!\n|one\n|two\n" + WHOLE)
    target = tmp_path / "results/h1"
    assert run(remote, target)
    assert lines == ["one", "two"]
    assert {path.name: path.read_text() for path in target.iterdir()} == {"rows": "1,2", "log": LOG}
    assert [path.name for path in target.parent.iterdir()] == ["h1"]
    assert len(stand_ins.calls()) == 1


@pytest.mark.parametrize("length", [0, 10, len(node.ARCHIVE_MARK), len(node.ARCHIVE_MARK) + 15, len(WHOLE) - 9])
def test_files_that_are_cut_off_are_fetched_once_more_and_nothing_of_them_stays(
    remote: RemoteNode, stand_ins: StandIns, tmp_path: Path, length: int
) -> None:
    says(stand_ins, tmp_path, b"|one\n" + WHOLE[:length])
    target = tmp_path / "h1"
    assert not run(remote, target)
    assert not target.exists()
    remote.fetch("r1", target)
    assert (target / "rows").read_text() == "1,2"


def test_a_changed_byte_is_noticed(remote: RemoteNode, stand_ins: StandIns, tmp_path: Path) -> None:
    for position in range(len(node.ARCHIVE_MARK) + 10, len(WHOLE)):
        damaged = bytearray(WHOLE)
        damaged[position] ^= 1
        says(stand_ins, tmp_path, b"|one\n" + bytes(damaged), packed=bytes(damaged))
        assert not run(remote, tmp_path / "h1"), position
        with pytest.raises(RunError, match="run r1 can't be fetched from madengine"):
            remote.fetch("r1", tmp_path / "h1")
    assert not (tmp_path / "h1").exists()


def test_a_node_that_fails_while_it_sends_has_run_all_the_same(
    remote: RemoteNode, stand_ins: StandIns, tmp_path: Path
) -> None:
    says(stand_ins, tmp_path, b"|one\n" + WHOLE[:40], code=4)
    assert not run(remote, tmp_path / "h1")


def test_a_run_that_could_not_start_is_told_from_one_whose_files_did_not_come(
    remote: RemoteNode, stand_ins: StandIns, tmp_path: Path
) -> None:
    stand_ins.add("ssh", "echo runs/r1/lock: Read-only file system >&2; exit 4")
    with pytest.raises(RunError, match="runs/r1/lock: Read-only file system"):
        run(remote, tmp_path / "h1")
