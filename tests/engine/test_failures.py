"""What goes wrong while a model runs: nothing stays behind, nothing is lost, and the row says why."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bed.components import Engine, Registry
from tests.conftest import StandIns
from tests.engine.trial import CHECKOUT, METRIC, Started, Trial, wait_for
from tests.engine.trial import trial as make_trial

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def trial(
    engine: Engine, base_image: str, registry: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trial:
    return make_trial(engine, base_image, registry, tmp_path, tmp_path_factory.getbasetemp())


# --- how a script ends ---


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("true", "0", 'no line "performance: <number> <metric>" in the log'),
        (f"{METRIC}; exit 3", "3", "exit code 3"),
        (f"{METRIC}; kill -KILL $$", "137", "exit code 137 (SIGKILL)"),
        (f"{METRIC}; kill -SEGV $$", "139", "exit code 139 (SIGSEGV)"),
        ("echo performance: many tokens", "0", "performance: 'many' is not a number"),
        ("echo performance: nan tokens", "0", "performance: 'nan' is not a number"),
        ("no-such-program", "127", "exit code 127"),
    ],
)
def test_a_script_that_fails_is_a_failure_whatever_it_printed(
    trial: Trial, script: str, code: str, reason: str
) -> None:
    done = trial.run(script)
    assert (done.code, done.reason, done.row["exit_code"], done.row["performance"]) == (3, reason, code, "")
    assert not trial.containers()


def test_a_script_that_uses_up_its_memory_is_out_of_memory(trial: Trial) -> None:
    script = "head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null; exit $((PIPESTATUS[1]))"
    done = trial.run(script, card={"additional_docker_run_options": "--memory=20m --memory-swap=20m"})
    assert done.reason == "out of memory: the kernel killed it"


def test_an_image_without_a_shell_is_a_failure_that_says_what_is_missing(trial: Trial) -> None:
    done = trial.run_manifest(trial.manifest("shless"))
    assert done.code == 3
    assert "no such file or directory" in done.reason.lower()
    assert not trial.containers()


def test_an_image_without_bash_runs_under_sh(trial: Trial) -> None:
    assert trial.run(METRIC, name="bashless").row["status"] == "SUCCESS"


def test_what_entry_sh_says_is_in_the_reason_and_in_the_log(trial: Trial) -> None:
    done = trial.run(METRIC, context={"docker_env_vars": {"MADENGINE_TIMEOUT": "soon"}})
    message = "entry.sh: MADENGINE_TIMEOUT: expected a number of seconds, got 'soon'"
    assert done.reason == f"the container ended before its script did (exit code 125): {message}"
    assert message in done.log.decode()


def test_a_container_that_somebody_else_kills_is_a_failure(trial: Trial) -> None:
    started = trial.start(f"{METRIC}; echo started; sleep 60")
    trial.engine("kill", started.container)
    done = started.end()
    assert done.code == 3
    assert done.reason == "the container ended before its script did (exit code 137 (SIGKILL))"


def test_a_container_that_somebody_else_removes_is_a_failure(trial: Trial) -> None:
    started = trial.start(f"{METRIC}; echo started; sleep 60")
    trial.engine("rm", "--force", started.container)
    # podman gives it time to end before it removes it.
    expected = {"docker": "the container was removed by another process", "podman": "exit code 143 (SIGTERM)"}
    assert started.end().reason == expected[trial.engine.name]


# --- the time limit ---


@pytest.mark.parametrize("source", ["card", "option"])
def test_a_model_that_takes_too_long_is_ended(trial: Trial, source: str) -> None:
    limits = {"card": 1} if source == "card" else {"card": 600}
    options = [] if source == "card" else ["--timeout", "1"]
    began = time.monotonic()
    done = trial.run(f"{METRIC}; sleep 60", *options, card={"timeout": limits["card"]})
    assert (done.code, done.reason) == (3, "timeout: the script ran longer than 1 s")
    assert time.monotonic() - began < 10
    assert done.row["exit_code"] == "124"
    assert not trial.containers()


def test_a_limit_of_zero_is_none(trial: Trial) -> None:
    assert trial.run(f"sleep 1.5; {METRIC}", "--timeout", "0", card={"timeout": 1}).row["status"] == "SUCCESS"


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # it takes 12 s
def test_a_script_that_ignores_term_is_ended_too(trial: Trial) -> None:
    done = trial.run("trap '' TERM; while :; do sleep 0.1; done", "--timeout", "1")
    assert done.reason == "timeout: the script ran longer than 1 s"
    assert float(done.row["run_duration"]) < 20
    assert not trial.containers()


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # it takes 27 s
def test_a_container_whose_entry_script_is_stopped_is_ended_from_outside(trial: Trial) -> None:
    """entry.sh keeps the limit, and the host where it can't: here every process in there is frozen."""
    others = "for one in /proc/[0-9]*; do case ${one#/proc/} in 1 | $$) ;; *) kill -STOP ${one#/proc/} ;; esac; done"
    script = f"echo started; sleep 0.3; {others} 2>/dev/null; sleep 600"
    started = trial.start(script, "--timeout=1", "--sys-env-details=false")
    done = started.end(60)
    assert done.reason == "timeout: the container did not end in time"
    assert not trial.containers()


def test_a_container_stops_when_its_madengine_is_killed(trial: Trial) -> None:
    # The runs of other tests, beside this one, would remove the leftover.
    strange = {"additional_docker_run_options": "--label madengine.owner=somebody"}
    started = trial.start("ls -A ..; trap 'echo trapped; sleep 30' TERM; echo started; sleep 60 & wait", card=strange)
    name = started.container
    [log] = (trial.folder / "runs").rglob("*.run.live.log")
    wait_for(lambda: "started" in log.read_text(), 10)
    started.process.kill()
    started.process.wait()
    inspect = ("container", "inspect", "--format={{.State.Status}} {{.State.ExitCode}}", name)
    assert trial.engine(*inspect).stdout.startswith("running")
    wait_for(lambda: trial.engine(*inspect).stdout.startswith("exited"), 10)
    lines = log.read_text().split()
    assert lines.count("trapped") == 1
    assert ".owner" not in lines
    assert json.loads(log.with_name("entry.json").read_text())["stopped"] is True
    trial.engine("rm", "--force", name)


# --- interruptions ---


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_container_and_the_row_says_so(trial: Trial, number: signal.Signals) -> None:
    started = trial.start(f"{METRIC}; touch ../left; echo started; sleep 60")
    began = time.monotonic()
    started.process.send_signal(number)
    done = started.end()
    assert time.monotonic() - began < 8
    assert (done.code, done.reason, done.row["performance"]) == (130, "interrupted", "")
    assert not trial.containers()
    assert done.results[0]["reason"] == "interrupted"
    assert done.summary["failed_runs"][0]["reason"] == "interrupted"
    assert (done.workspace / "left").exists()


def test_more_signals_while_it_stops_change_nothing(trial: Trial) -> None:
    started = trial.start("trap 'sleep 1; echo tidied; exit' TERM; echo started; while :; do sleep 0.1; done")
    for number in (signal.SIGINT, *SIGNALS, *SIGNALS):
        started.process.send_signal(number)
        time.sleep(0.1)
    done = started.end()
    assert (done.code, done.reason) == (130, "interrupted")
    assert b"tidied" in done.log
    assert "Traceback" not in done.stderr
    assert not trial.containers()


def test_a_lost_terminal_does_not_lose_the_row(trial: Trial) -> None:
    """With HUP, nobody reads what we print any more."""
    words = trial.words("echo started; sleep 60")
    process = subprocess.Popen(
        words, env=trial.whole(), cwd=trial.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    started = Started(trial, process)
    wait_for(lambda: started.has_started)
    assert process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.wait(30)
    done = trial.done(process.returncode, "", "")
    assert done.reason == "interrupted"
    assert not trial.containers()


def test_an_interrupted_pull_leaves_a_row(trial: Trial, stand_ins: StandIns) -> None:
    program = shutil.which(trial.engine.name, path=os.environ["PATH"].partition(os.pathsep)[2])
    stand_ins.add(
        trial.engine.name,
        f'case "$*" in *pull*) touch {trial.folder}/pulling; exec sleep 60;; esac; exec {program} "$@"',
    )
    words = trial.words(METRIC, image={"registry_digest": "sha256:" + "0" * 64})
    process = subprocess.Popen(words, env=trial.whole(), cwd=trial.folder, stderr=subprocess.PIPE)
    wait_for((trial.folder / "pulling").exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert trial.done(130, "", "").reason == "interrupted"


# --- what a killed madengine leaves ---


def test_the_next_run_removes_the_leftover_of_a_killed_one_and_only_that(trial: Trial) -> None:
    killed = trial.start("echo started; sleep 600")
    leftover = killed.container
    killed.process.kill()
    killed.process.wait()
    (trial.folder / "runs").rename(trial.folder / "old-runs")
    alive = trial.start("echo started; sleep 600")
    others = [f"foreign-{number}-{os.getpid()}-{trial.engine.name}" for number in range(2)]
    image = trial.built["built_images"]["ci-any_ubuntu_cpu"]["image_id"]
    elsewhere = "--label=madengine.owner=another-boot:1:1:1"
    for name, label in zip(others, ("--label=madengine.run=x", elsewhere), strict=True):
        trial.engine("run", "--detach", f"--name={name}", label, "--entrypoint=/bin/sleep", image, "600")
    (trial.folder / "next").mkdir()
    done = Trial(trial.engine, trial.folder / "next", trial.built).run(METRIC)
    assert done.code == 0, done.stderr
    listed = trial.engine("ps", "--all", "--format={{.Names}}").stdout.split()
    assert leftover not in listed
    assert {alive.container, *others} <= set(listed)
    trial.engine("kill", *others)
    trial.engine("rm", "--force", *others)
    alive.process.terminate()
    alive.end()


# --- logs ---


def test_a_large_log_takes_little_memory_and_the_metric_at_its_end_is_found(trial: Trial) -> None:
    megabytes = 300
    line = "x" * 99
    script = f"yes {line} | head -c {megabytes}000000; {METRIC}"
    words = trial.words(script)
    process = subprocess.Popen(words, env=trial.whole(), cwd=trial.folder, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert used.ru_maxrss < 100 * 1024  # KiB, of madengine alone: the log is written inside the container
    done = trial.done(0, "", "")
    assert done.row["performance"] == "1"
    (log,) = done.workspace.glob("*.log")
    assert log.stat().st_size == megabytes * 1000000 + len("performance: 1 tokens_per_second\n")


def test_a_log_without_a_newline_still_has_its_metric(trial: Trial) -> None:
    done = trial.run("head -c 50000000 /dev/zero | tr '\\0' x; echo; printf 'performance: 4 tokens'")
    assert (done.code, done.row["performance"], done.row["metric"]) == (0, "4", "tokens")
    assert len(done.stderr) < 100_000


def test_a_log_that_is_one_line_without_an_end_is_no_metric(trial: Trial) -> None:
    done = trial.run("head -c 50000000 /dev/zero | tr '\\0' x")
    assert done.reason == 'no line "performance: <number> <metric>" in the log'
    assert len(done.stderr) < 100_000


def test_a_log_of_binary_and_broken_text_is_kept_byte_for_byte(trial: Trial) -> None:
    mess = r"\000\001\377\376\200 \303 \033[31m \r\n"
    done = trial.run(f"printf '{mess}'; {METRIC}; printf '{mess}'; exit 1", "--live-output")
    raw = b"\x00\x01\xff\xfe\x80 \xc3 \x1b[31m \r\n"
    assert done.log == raw + b"performance: 1 tokens_per_second\n" + raw
    assert (done.code, done.reason) == (3, "exit code 1")


def test_a_script_that_removes_its_log_does_no_harm_to_this_machine(trial: Trial, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched\n")
    script = f"rm ../*.log; ln -s {victim} ../any_any.ubuntu.cpu.run.live.log; echo said > /proc/1/fd/1; {METRIC}"
    done = trial.run(script)
    assert "Traceback" not in done.stderr
    assert victim.read_text() == "untouched\n"
    assert done.row["status"] == "SUCCESS"


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # it takes 11 s
def test_a_process_left_behind_does_not_hold_up_the_run(trial: Trial) -> None:
    began = time.monotonic()
    done = trial.run(f"sleep 300 & {METRIC}")
    assert (done.code, done.row["status"]) == (0, "SUCCESS")
    assert time.monotonic() - began < 20


# --- disks and files ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "none", str(folder)], check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_the_reason_and_nothing_hangs(trial: Trial, small_disk: Path) -> None:
    on_it = Trial(trial.engine, small_disk, trial.built)
    done = on_it.run(f"{METRIC}; yes; sleep 1")
    assert done.code == 3
    assert "Traceback" not in done.stderr
    assert "is full" in done.stderr
    assert not on_it.containers()
    assert '"status": "FAILURE"' in done.stderr or done.row["status"] == "FAILURE"


def test_a_perf_csv_with_other_columns_is_refused_before_anything_starts(trial: Trial) -> None:
    other = trial.folder / "perf.csv"
    other.write_text("when,what\n1,2\n")
    done = trial.run("touch ../ran")
    assert done.code == 4
    assert "perf.csv: not a perf.csv" in done.stderr
    assert other.read_text() == "when,what\n1,2\n"
    assert not (trial.folder / "runs").exists()


def test_a_row_that_perf_csv_no_longer_takes_is_kept_elsewhere_and_said(trial: Trial) -> None:
    started = trial.start(f"echo started; sleep 1; {METRIC}")
    (trial.folder / "perf.csv").mkdir()
    done = started.end()
    assert done.code == 1
    table = next((trial.folder / "runs").iterdir()) / "perf.csv"
    assert f"the row is in {table.relative_to(trial.folder)}" in done.stderr
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["model"], row["status"], row["performance"]) == ("any", "SUCCESS", "1")


def test_a_runs_folder_that_can_not_be_made_is_a_failure_with_a_row(trial: Trial) -> None:
    (trial.folder / "runs").write_text("a file\n")
    done = trial.run(METRIC)
    assert done.code == 3
    assert "runs" in done.reason
    assert "Traceback" not in done.stderr


def test_a_manifest_that_can_not_be_read_is_said_in_one_line(trial: Trial) -> None:
    done = trial.run_manifest(Path("build_manifest.json/no-such"))
    assert done.code in (1, 4)
    assert "Traceback" not in done.stderr


# --- the engine itself ---


@pytest.fixture
def own_docker(tmp_path: Path, base_image: str, bed: dict[str, str]) -> Iterator[tuple[Engine, list[int]]]:
    """A dockerd of this test's own, and the ids of its processes, to be killed."""
    if shutil.which("dockerd") is None:
        pytest.skip("docker.io is not installed")
    run = Path("/tmp") / f"own-{os.getpid()}"
    data = tmp_path / "docker"
    runtime = CHECKOUT / "tests/bed/runc-lenient"
    script = f"""
        set -euo pipefail
        source {shlex.quote(str(CHECKOUT / "bin/environment"))}
        start_dockerd {data} {run} --bridge none --add-runtime lenient={runtime} --default-runtime lenient
        echo "$dockerd_pid $(cat {run}/exec/containerd/containerd.pid)"
        """
    started = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert started.returncode == 0, started.stderr
    pids = [int(pid) for pid in started.stdout.split()]
    yield Engine("docker", {"DOCKER_HOST": f"unix://{run}/docker.sock", "DOCKER_CONFIG": str(tmp_path)}), pids
    stop = f"source {CHECKOUT}/bin/environment; stop_dockerd {data} {run}; rm -rf {run}"
    subprocess.run(["bash", "-c", stop], check=True)
    _end_containers(run.name)


def _end_containers(namespace: str) -> None:
    """End what outlives a dockerd that was killed: its containers, and the shim that watches each."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"-namespace\0{namespace}\0" in (entry / "cmdline").read_text(errors="replace"):
                watched = (entry / "task" / entry.name / "children").read_text().split()
                for pid in map(int, (*watched, entry.name)):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_an_engine_that_stops_answering_is_the_reason(trial: Trial, own_docker: tuple[Engine, list[int]]) -> None:
    engine, pids = own_docker
    image = trial.built["built_images"]["ci-any_ubuntu_cpu"]
    archive = trial.folder / "image.tar"
    trial.engine("save", "--output", str(archive), image["image_id"])
    engine("load", "--input", str(archive))
    own = Trial(engine, trial.folder, trial.built)
    started = own.start(f"{METRIC}; echo started; sleep 600", image={"registry_image": None, "registry_digest": None})
    time.sleep(1)  # until madengine, too, knows that it has started
    began = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    done = started.end(90)
    assert time.monotonic() - began < 60
    assert done.code == 3
    assert done.reason.startswith("docker stopped answering: ")
    assert "Cannot connect to the Docker daemon" in done.reason
    assert json.dumps(done.results[0]["metrics"]) == "[]"
    assert "may still be there" in done.stderr
