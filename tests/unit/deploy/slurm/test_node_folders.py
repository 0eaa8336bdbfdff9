"""Where nodes share nothing: what a script carries, what is refused, and what comes back over a step."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madengine.config.manifest import Manifest
from madengine.deploy.bundle import sources_bundle
from madengine.deploy.slurm import node_folders
from madengine.deploy.slurm.attachment import Attachment
from madengine.deploy.slurm.job import ArrayTask
from madengine.deploy.slurm.node_folders import NodeFolders
from madengine.deploy.slurm.options import SlurmOptions
from madengine.deploy.slurm.settings import JobShape
from madengine.deploy.ssh.archive import pack_to_bytes
from madengine.deploy.ssh.node import ARCHIVE_MARK
from madengine.distributed_cli import main
from madengine.programs import program
from madengine.programs.slurm import TaskState
from madengine.records import Image, Model
from tests.conftest import StandIns

# What comes after the options is run here.
SRUN = """
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
MODEL = {"name": "m", "dockerfile": "d", "scripts": "s", "n_gpus": "0"}


def manifest(**more: Any) -> dict[str, Any]:
    image = {"docker_image": "i", "image_id": f"sha256:{'1' * 64}", "self_contained": True}
    return {"built_images": {"k": image}, "built_models": {"k": MODEL}, **more}


@pytest.fixture
def submit_folder(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit in; sbatch is there."""
    stand_ins.add("sbatch", "echo 7")
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_script_carries_all_but_what_is_private(submit_folder: Path) -> None:
    text = json.dumps(manifest(deployment_config={"env_file": "site.sh", "slurm": {"node_folder": "/scratch/"}}))
    (submit_folder / "build_manifest.json").write_text(text)
    (submit_folder / "site.sh").write_text("A=1\n")
    (submit_folder / "credential.json").write_text('{"x": {"password": "hunter2"}}')
    context = json.dumps({"docker_env_vars": {"TOKEN": "correct-horse"}})
    words = ["--manifest-file=build_manifest.json", "--run-id=r1", "--nodes=2", "--qos=high", "-c", context]
    assert main(["generate", "slurm", *words]) == 0
    [script] = (submit_folder / "results/r1").glob("job-*.sh")
    text, _, payload = script.read_text().partition("# payload\n")
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert str(submit_folder) not in text
    assert {"#SBATCH --output=/dev/null", "#SBATCH --chdir=/", "node_folder=/scratch", "private=yes"} <= {
        *text.splitlines()
    }
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(payload))) as archive:
        assert archive.getnames() == ["madengine.pyz", "0-m/manifest.json"]
    assert len(script.read_bytes()) < 2 << 20
    assert not [secret for secret in ("correct-horse", "hunter2") if secret in text]
    context_file = submit_folder / "results/r1/context.json"
    assert json.loads(context_file.read_text())["env_file"] == "../env_file.sh"
    assert context_file.stat().st_mode & 0o777 == 0o600
    folders = NodeFolders.of_run(submit_folder / "results/r1")
    assert folders
    assert (folders.node_folder, folders.place, folders.counts) == ("/scratch", ["--qos=high"], {0: 2})
    assert sorted(folders.private) == ["context.json", "credential.json", "env_file.sh"]


@pytest.mark.parametrize(
    ("words", "changes", "environ", "message"),
    [
        (["--node-folder=/var/tmp", "--workspace=w"], {}, {}, "--node-folder: --workspace "),
        (["--node-folder=/var/tmp"], {}, {"MAD_DOCKER_BUILDS": "/images"}, "--node-folder: MAD_DOCKER_BUILDS /images"),
        (["--node-folder=/var/tmp"], {"self_contained": False}, {}, "--node-folder: k: its image doesn't carry its"),
        (
            ["--node-folder=/var/tmp"], {"distributed": {"launcher": "slurm_multi"}}, {},
            "--node-folder: m: its script runs in the model package on the node",
        ),
        ([], {"slurm": {"node_folder": "/x"}}, {}, "m: slurm: 'node_folder' is one for all jobs"),
    ],
)  # fmt: skip
def test_what_needs_a_folder_of_this_machine_is_refused_before_anything_is_submitted(
    submit_folder: Path,
    stand_ins: StandIns,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    changes: dict[str, Any],
    environ: dict[str, str],
    message: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    content = manifest()
    of_image = changes.keys() & {"self_contained"}
    content["built_images" if of_image else "built_models"]["k"] = {
        **content["built_images" if of_image else "built_models"]["k"],
        **changes,
    }
    (submit_folder / "build_manifest.json").write_text(json.dumps(content))
    assert main(["deploy", "--target=slurm", "--manifest-file=build_manifest.json", *words]) == 4
    assert message in capsys.readouterr().err
    assert stand_ins.calls() == []
    assert not list(submit_folder.glob("results/*/*"))


@pytest.mark.parametrize("folder", ["var/tmp", "/var/../tmp", "/a b"])
def test_a_nodes_folder_is_an_absolute_path(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["deploy", "--target=slurm", f"--node-folder={folder}"])
    assert end.value.code == 4
    assert "expected " in capsys.readouterr().err


def test_the_lines_by_hand_let_fetch_follow(
    submit_folder: Path, stand_ins: StandIns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (submit_folder / "build_manifest.json").write_text(json.dumps(manifest()))
    words = ["--manifest-file=build_manifest.json", "--run-id=r1", "--node-folder=/nowhere"]
    assert main(["deploy", "--target=slurm", "--dry-run", *words]) == 0
    submit, fetch = capsys.readouterr().out.splitlines()
    script = submit_folder / "results/r1/job-0-gpus.sh"
    assert submit == f"sbatch --parsable {script} >{script}.job"
    assert fetch == "madengine fetch --target=slurm --run-id=r1"
    subprocess.run(submit, shell=True, check=True)
    stand_ins.add("squeue", "echo '7|0|FAILED|NonZeroExitCode|h1|8'")
    stand_ins.add("scontrol", "echo h1")
    stand_ins.add("srun", SRUN)
    assert main(fetch.split()[1:]) == 3
    assert "its files did not come back from h1 (" in (submit_folder / "perf.csv").read_text()
    [job] = [call for call in stand_ins.calls() if call.startswith("srun")]
    assert job.startswith("srun --nodelist=h1 --immediate=60 --time=30 --job-name=madengine-fetch --nodes=1 ")
    assert job.endswith(" attach /nowhere/madengine-r1-7_0 over")


# --- what comes back ---


def attached(tmp_path: Path, *words: str, rank: str = "") -> Attachment:
    (tmp_path / "private").write_text("secret")
    run, private = tmp_path / "run", {"context.json": tmp_path / "private"}
    step = Attachment(program(*words), private, run / "0-m", run / "slurm-7_0.log", rank)
    step._thread.join(20)
    assert step.is_over
    return step


def task_folder(tmp_path: Path) -> Path:
    """A task's folder as its script makes it on a node."""
    folder = tmp_path / "madengine-r1-7_0-attempt-2"
    (folder / "0-m").mkdir(parents=True)
    (folder / "madengine.pyz").write_bytes(sources_bundle())
    (folder / "python").write_text(sys.executable)
    (folder / "environment").write_text("declare -x PATH\n")
    (folder / "log").write_bytes(b"first\xff\nlast")
    return folder


def courier(*words: str) -> list[str]:
    code = "import sys; from madengine.deploy.slurm.courier import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, *words]


def test_results_come_back_and_the_folder_goes(tmp_path: Path) -> None:
    folder = task_folder(tmp_path)
    node = f"{os.uname().nodename}-attempt-2"
    results = folder / "0-m" / node
    (results / "runs/r1/m").mkdir(parents=True)
    (results / "runs/r1/m/big.log").write_bytes(bytes(range(256)) * 4096)
    (results / "perf.csv").write_text("rows")
    (results / "credential.json").symlink_to("../../credential.json")
    ended = subprocess.Popen(courier("end", str(folder), "3"))
    # As the step on the node: the newest attempt of the task that has a python.
    first = folder.with_name(folder.name.removesuffix("-attempt-2"))
    step = attached(tmp_path, *attach_words(first, ""), rank="0")
    assert (step.is_stored, step.problem, step.name) == (True, "", node)
    assert ended.wait(10) == 3
    assert not folder.exists()
    assert (tmp_path / "run/slurm-7_0.log").read_bytes() == b"first\xff\nlast"
    here = tmp_path / "run/0-m" / node
    assert (here / "perf.csv").read_text() == "rows"
    assert (here / "runs/r1/m/big.log").stat().st_size == 1 << 20
    assert not (here / "credential.json").exists()


def attach_words(folder: Path, over: str) -> tuple[str, ...]:
    """The words of the step on a node."""
    script = (Path(__file__).parents[4] / "templates/slurm/attach.sh").read_text()
    return ("/bin/bash", "-c", script, "attach", str(folder), over)


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("first\nmadengine: error: h1: no python\n", "madengine: error: h1: no python"),
        ("", "{}: incomplete: is its disk full?"),
        (None, "{}: no such folder: can this node's users write there?"),
    ],
)
def test_a_task_that_ended_without_python_says_why(tmp_path: Path, log: str | None, problem: str) -> None:
    folder = tmp_path / "madengine-r1-7_0"
    if log is not None:
        folder.mkdir()
        (folder / "log").write_text(log)
    step = attached(tmp_path, *attach_words(folder, "over"))
    assert step.problem == problem.format(folder)
    assert not folder.exists()


def test_private_files_are_their_owners_and_a_lost_reader_ends_the_step(tmp_path: Path) -> None:
    folder = task_folder(tmp_path)
    with subprocess.Popen(
        courier("serve", str(folder)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as step:
        assert step.stdin
        (tmp_path / "c").write_text("secret")
        step.stdin.write(pack_to_bytes([("context.json", tmp_path / "c")]))
        step.stdin.flush()
        wait_for(lambda: (folder / "arrived").exists())
        assert (folder / "context.json").stat().st_mode & 0o777 == 0o600
        step.stdin.close()
        step.stdin = None
        assert step.wait(10) == 1
    assert folder.exists()


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


END = "srun: error: h1: task 0: Exited with exit code 4"


def part(kind: bytes, content: bytes) -> bytes:
    return b"%s%d\n%s" % (kind, len(content), content)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (part(b"N", b"../../x"), "the node calls its folder '../../x': refused"),
        (part(b"N", b"h1") + b"A9999999\n", "the node sends a part of 9999999 bytes: refused"),
        (part(b"N", b"h1") + b"hello\n", "the node sends b'hello\\n': refused"),
        (b"x" * 4096, "the node sends b'xxxxxxxxxxxxxxxx': refused"),
        (
            part(b"N", b"h1") + part(b"A", ARCHIVE_MARK + b"no gzip") + part(b"E", b""),
            "the archive of its files is broken",
        ),
        (part(b"N", b"h1") + part(b"L", b"a line\n") + b"L100\nshort", ""),
        (b"", ""),
    ],
)
def test_what_a_node_says_is_checked(tmp_path: Path, answer: bytes, problem: str) -> None:
    (tmp_path / "answer").write_bytes(answer)
    step = attached(tmp_path, "sh", "-c", f"cat {tmp_path}/answer; (echo why; echo {END}) >&2")
    assert not step.is_stored
    assert step.problem == (problem or "why")
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("answer", "private", "run")] == []
    assert not (tmp_path / "run/0-m/h1/perf.csv").exists()


def test_an_archive_with_other_names_is_refused(tmp_path: Path) -> None:
    header = json.dumps(["../../evil", 1]).encode()
    archive = ARCHIVE_MARK + gzip.compress(header + b"\nx[]\n")
    (tmp_path / "answer").write_bytes(part(b"N", b"h1") + part(b"A", archive) + part(b"E", b""))
    step = attached(tmp_path, "cat", str(tmp_path / "answer"))
    assert "refused: invalid name" in step.problem
    assert not list(tmp_path.rglob("evil"))


TASK = ArrayTask(0, "m", Manifest((Image("k", "i"),), {"k": Model("m", "d", "s")}), 0, JobShape(SlurmOptions()))


def test_a_task_that_no_step_has_seen_is_fetched_by_a_small_job(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run/0-m").mkdir(parents=True)
    folders = NodeFolders(tmp_path / "run", "/scratch", ["--partition=p"], {}, {0: 2})
    stand_ins.add("scontrol", "echo n1; echo n2")
    archive = ARCHIVE_MARK + gzip.compress(b"[]\n")
    (tmp_path / "n1").write_bytes(part(b"N", b"n1") + part(b"A", archive) + part(b"E", b""))
    stand_ins.add("srun", f'case "$1" in *n1) cat {tmp_path}/n1;; *) echo down >&2; exit 1;; esac')
    failed = TaskState(7, 0, "NODE_FAIL", node="n1", own_job=8)
    alone = NodeFolders(tmp_path / "run", "/scratch", [], {}, {0: 1})
    assert alone.missing(TASK, failed) == "its files did not come back from n1, which failed"
    assert alone.missing(TASK, TaskState(7, 0, "CANCELLED")) == ""
    running = TaskState(7, 0, "RUNNING", node="n[1-2]", own_job=8)
    ended = TaskState(7, 0, "COMPLETED", node="n[1-2]", own_job=8)
    folders.attach(TASK, ended)
    assert not [call for call in stand_ins.calls() if call.startswith("srun")]
    wait_for(lambda: folders.missing(TASK, ended) is not None)
    assert folders.missing(TASK, ended) == "its files did not come back from n2 (down)"
    # What is here is not asked for again, by another madengine either.
    later = NodeFolders(tmp_path / "run", "/scratch", [], {}, {0: 1}, is_later=True)
    assert later.missing(TASK, ended) == ""
    assert sum("--partition=p" in call for call in stand_ins.calls()) == 2
    (tmp_path / "run/0-m/.stored-0").unlink()
    stand_ins.add("srun", "sleep 30")
    folders = NodeFolders(tmp_path / "run", "/scratch", [], {}, {0: 1})
    folders.attach(TASK, running)
    wait_for(lambda: any("--jobid=8 --overlap --relative=0" in call for call in stand_ins.calls()))
    # It hangs, and its task ends.
    assert folders.missing(TASK, ended) is None
    monkeypatch.setattr(node_folders, "_REST_SECONDS", -1.0)
    stand_ins.add("srun", "echo busy >&2; exit 1")
    wait_for(lambda: folders.missing(TASK, ended) == "its files did not come back from n1 (busy)")
