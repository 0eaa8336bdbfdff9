"""What a killed madengine leaves, the next command removes, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from madengine.process import own_prefix, own_process_id, private_folder, process_has_ended

CHECKOUT = Path(__file__).parents[2]
_CODE = """
import os, tempfile
from contextlib import ExitStack
from pathlib import Path
from madengine import files, process
from madengine.deploy.ssh.transfer import archive_for
from madengine.programs.secret_files import private_file
with ExitStack() as stack:
    paths = [
        Path(stack.enter_context(private_file("canary"))).parent,
        stack.enter_context(process.private_folder(Path("/tmp"))),
        stack.enter_context(archive_for(process.RESULTS / "r1" / "host")).parent,
        tempfile.mkstemp(prefix=process.own_prefix(".m.json."), dir=".")[1],
    ]
    print("\\n".join(map(str, paths)), flush=True)
    input()
"""


@contextmanager
def holder(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[Path]]]:
    """A process with a private file in TMPDIR, a folder in /tmp, half of a host's files and a draft of m.json."""
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, "-c", _CODE]
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process, [folder / process.stdout.readline().strip() for _ in range(4)]


def madengine(folder: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "madengine", *words],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(CHECKOUT)},
        check=False,
        capture_output=True,
    )


def test_the_next_command_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    others = [
        "tmp/madengine-private-mine/file",
        "tmp/madengine-private-other-boot_1_1_1.x/file",
        f"tmp/madengine-private-{'_'.join(own_process_id().split(':'))}.alive/file",
        "tmp/madengine-private-/file",
        "results/r0/host/perf.csv",
        ".m.json.mine",
    ]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with holder(tmp_path) as (process, paths):
        madengine(tmp_path, "collect", "results", "--output=m.csv", "--results=m.json")
        assert all(path.exists() for path in paths)  # it still runs
        process.kill()
    madengine(tmp_path, "collect", "results", "--output=m.csv", "--results=m.json")
    assert not any(path.exists() for path in paths[:3])
    assert all((tmp_path / name).exists() for name in others)


def test_a_draft_of_a_killed_process_goes_with_the_next_one(tmp_path: Path) -> None:
    from madengine.files import write_json

    (tmp_path / "tmp").mkdir()
    with holder(tmp_path) as (process, paths):
        write_json(tmp_path / "m.json", 1)
        assert paths[3].exists()
        process.kill()
    write_json(tmp_path / "m.json", 2)
    assert not paths[3].exists()
    assert not list(tmp_path.glob(".m.json.*"))


def test_a_private_folder_is_ours_alone_and_gone_afterwards(tmp_path: Path) -> None:
    with private_folder(tmp_path) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert len(str(folder.relative_to(tmp_path))) < 75  # the path of a socket in it has at most 107 bytes
    assert not folder.exists()


@pytest.mark.parametrize("label", ["", ":", ":::", "_", "a:b", "x" * 9999, f"{'0' * 8}:1:1:1", "\0"])
def test_a_label_that_is_none_is_not_that_of_a_process_that_has_ended(label: str) -> None:
    assert not process_has_ended(label)


def test_this_process_runs_and_one_of_another_start_has_ended() -> None:
    assert not process_has_ended(own_process_id())
    assert not process_has_ended(own_prefix("").rstrip(".").replace("_", ":"))
    assert process_has_ended(f"{own_process_id()}0")
