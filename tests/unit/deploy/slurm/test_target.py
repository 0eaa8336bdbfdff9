"""What a run under Slurm writes for its nodes."""

from __future__ import annotations

import csv
import json
import os
import pty
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from madengine.deploy.slurm import target, task_results
from madengine.distributed_cli import main
from tests.conftest import StandIns

MANIFEST = {
    "built_images": {"k": {"docker_image": "i", "image_id": f"sha256:{'1' * 64}", "self_contained": True}},
    "built_models": {"k": {"name": "m", "dockerfile": "d", "scripts": "s"}},
    "deployment_config": {"target": "slurm", "slurm": {}, "env_file": "site.sh"},
}


def test_nodes_source_the_file_of_variables_where_it_is(
    tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.add("sbatch", "echo 7")
    (tmp_path / "build_manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "site.sh").write_text("A=1\n")
    assert main(["generate", "slurm", "--manifest-file=build_manifest.json", "--run-id=r1"]) == 0
    [script] = (tmp_path / "results/r1").glob("job-*.sh")
    assert f"--additional-context-file={tmp_path}/results/r1/context.json" in script.read_text()
    assert json.loads((tmp_path / "results/r1/context.json").read_text()) == {"env_file": str(tmp_path / "site.sh")}


@pytest.fixture
def slurm(tmp_path: Path, stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """A Slurm whose job 7 fails at once, and nothing waits for its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task_results, "_LATE_SECONDS", 0.0)
    monkeypatch.setattr(target, "_POLL_SECONDS", (0.0, 0.0))
    stand_ins.add("sbatch", "echo 7")
    stand_ins.add("squeue", "echo '7|0|FAILED|NonZeroExitCode|h1|8'")
    return stand_ins


SCRIPT = {
    "name": "multi",
    "dockerfile": "docker/m",
    "scripts": "scripts/m/run.slurm",
    "n_gpus": "0",
    "env_vars": {"DOCKER_IMAGE_NAME": "org/i:1"},
    "distributed": {"launcher": "slurm_multi"},
    "slurm": {"nodes": 2},
}


@pytest.mark.parametrize("words", [["run", "--tags=multi"], ["deploy", "--target=slurm"]])
def test_a_script_that_is_built_first_is_submitted_too(
    tmp_path: Path, slurm: StandIns, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.json").write_text(json.dumps([SCRIPT]))
    (tmp_path / "scripts/m").mkdir(parents=True)
    (tmp_path / "scripts/m/run.slurm").write_text("exit 1\n")
    slurm.add("docker", 'case $1 in version) echo \'{"Server": {"Version": "27.0.0", "ApiVersion": "1.47"}}\';; esac')
    assert main(words) == 3
    assert any(call.startswith("sbatch --parsable ") for call in slurm.calls())
    line = "target: slurm: all model entries have `slurm` and a launcher that runs on the host; --target overrides it"
    assert (line in capsys.readouterr().err) == (words[0] == "run")


def test_images_that_come_as_archives_need_no_registry(
    tmp_path: Path, slurm: StandIns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.json").write_text("[]")
    assert main(["deploy", "--target=slurm"]) == 4
    assert "deploy: the images are pulled from a registry; name it with --registry" in capsys.readouterr().err
    monkeypatch.setenv("MAD_DOCKER_BUILDS", str(tmp_path / "images"))
    assert main(["deploy", "--target=slurm"]) == 1
    assert "the package lists no models" in capsys.readouterr().err


def test_a_controller_that_is_silent_is_one_line(
    tmp_path: Path, slurm: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    count = f"echo >>{tmp_path}/polls; polls=$(wc -l <{tmp_path}/polls)"
    slurm.add("squeue", f"{count}; [ $polls -gt 5 ] || {{ [ $polls -gt 3 ] && echo later || echo no; exit 1; }} >&2\n"
              "echo '7|0|FAILED|None|h1|8'")  # fmt: skip
    (tmp_path / "build_manifest.json").write_text(json.dumps(MANIFEST))
    assert main(["run", "--manifest-file=build_manifest.json"]) == 4
    assert f"env_file site.sh: no such file: {tmp_path}/site.sh" in capsys.readouterr().err
    (tmp_path / "site.sh").write_text("")
    assert main(["run", "--manifest-file=build_manifest.json"]) == 3
    messages = capsys.readouterr().err.splitlines()
    ends = [message.split("exit code 1: ")[-1] for message in messages if "until there is an answer" in message]
    assert ends == ["no; asking again until there is an answer", "later; asking again until there is an answer"]
    assert messages.count("Slurm answers again") == 1


TWO_JOBS = {
    "built_images": {name: {"docker_image": name, "image_id": f"sha256:{'1' * 64}"} for name in ("a", "b")},
    "built_models": {
        name: {"name": name, "dockerfile": "d", "scripts": "s", "slurm": {"qos": name}} for name in ("a", "b")
    },
}
REFUSED = 'case $2 in *-2.sh) echo "no such qos" >&2; exit 1 ;; esac; echo 7'


def deploy_two(tmp_path: Path, slurm: StandIns, scancel: str = "", words: Sequence[str] = ()) -> int:
    """Deploy two models, whose second job is refused."""
    for name, script in {"sbatch": REFUSED, "squeue": "echo '7|0|CANCELLED|None|'", "scancel": scancel}.items():
        slurm.add(name, script)
    (tmp_path / "build_manifest.json").write_text(json.dumps(TWO_JOBS))
    options = ["--target=slurm", "--manifest-file=build_manifest.json", "--run-id=r1", "--output-dir=out"]
    return main(["deploy", *options, *words])


def test_all_jobs_are_submitted_or_none(tmp_path: Path, slurm: StandIns, capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy_two(tmp_path, slurm) == 1
    assert "scancel 7" in slurm.calls()
    errors = capsys.readouterr().err
    assert "not all jobs could be submitted: cancelling Slurm job 7" in errors
    assert "no such qos" in errors.splitlines()[-1]
    with (tmp_path / "perf.csv").open(newline="") as file:
        rows = [(row["model"], row["status"], row["reason"]) for row in csv.DictReader(file)]
    assert rows == [("a", "FAILURE", "Slurm job 7_0: cancelled; it never ran")]


def test_jobs_that_can_not_be_cancelled_are_named_with_what_ends_them(
    tmp_path: Path, slurm: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy_two(tmp_path, slurm, scancel="echo Unable to contact >&2; exit 1") == 1
    later = "`madengine fetch --target=slurm --run-id=r1 --output-dir=out` collects"
    assert f"Unable to contact; the jobs go on: `scancel 7` ends them, {later}" in capsys.readouterr().err


def test_jobs_are_left_alone_where_the_context_says_so(
    tmp_path: Path, slurm: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build_manifest.json").write_text(json.dumps({**MANIFEST, "deployment_config": {"target": "slurm"}}))
    words = ["run", "--manifest-file=build_manifest.json", "--run-id=r1", "-c", '{"monitor": false, "colour": 1}']
    assert main(words) == 0
    messages = capsys.readouterr().err
    assert "the jobs go on; `madengine fetch --target=slurm --run-id=r1` collects them" in messages
    assert "context: unknown key 'colour' ignored" in messages
    assert "monitor ignored" not in messages
    assert not [call for call in slurm.calls() if call.startswith("squeue")]
    assert main(["fetch", "--target=slurm", "--run-id=r1"]) == 3


def test_jobs_of_a_run_that_was_not_submitted_as_a_whole_may_be_left(
    tmp_path: Path, slurm: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy_two(tmp_path, slurm, words=("-c", '{"cleanup_on_failure": false}')) == 1
    assert not [call for call in slurm.calls() if call.startswith("scancel")]
    assert "the jobs go on; `madengine fetch --target=slurm --run-id=r1 --output-dir=out`" in capsys.readouterr().err


def test_switches_for_one_machine_are_ignored_with_a_line(
    tmp_path: Path, slurm: StandIns, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build_manifest.json").write_text(json.dumps({**MANIFEST, "deployment_config": {"target": "slurm"}}))
    switches = ["--keep-alive", "--keep-model-dir", "--skip-model-run"]
    assert main(["run", "--dry-run", "--manifest-file=build_manifest.json", *switches]) == 0
    assert f"{', '.join(switches)} ignored: not for a run on a cluster" in capsys.readouterr().err
    [script] = (tmp_path / "results").glob("*/job-*.sh")
    assert not [switch for switch in switches if switch in script.read_text()]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"n\n", "the jobs go on; `madengine fetch --target=slurm --run-id=r1`"),
        (b"\x03", "interrupted: cancel"),
    ],
)
def test_on_a_terminal_ctrl_c_asks_and_once_more_is_a_yes(
    tmp_path: Path, slurm: StandIns, answer: bytes, outcome: str
) -> None:
    cancelled = tmp_path / "cancelled"
    slurm.add("squeue", f"[ -e {cancelled} ] && echo '7|0|CANCELLED|None|' || echo '7|0|RUNNING|None|h1'")
    slurm.add("scancel", f"touch {cancelled}")
    (tmp_path / "build_manifest.json").write_text(json.dumps({**MANIFEST, "deployment_config": {"target": "slurm"}}))
    words = [sys.executable, "-m", "madengine.distributed_cli", "run", "--manifest-file=build_manifest.json"]
    process, terminal = pty.fork()
    if process == 0:
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[4])
        os.execv(sys.executable, [*words, "--run-id=r1"])
    printed = b""
    limit = threading.Timer(30, os.kill, (process, signal.SIGKILL))
    limit.start()
    for expected, keys in ((b"running h1", b"\x03"), (b"[Y/n]", answer)):
        while expected not in printed:
            printed += os.read(terminal, 4096)
        os.write(terminal, keys)
    with suppress(OSError):  # the end of a terminal
        while part := os.read(terminal, 4096):
            printed += part
    os.close(terminal)
    limit.cancel()
    assert outcome in printed.decode()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    assert cancelled.exists() == (answer != b"n\n")
